"""One HTML page of an evaluation: tables and pictures, without network, for screen and paper."""

from html import escape

from ._summary import described, few_tested
from ._verdict import preferred_split

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto;
  max-width: 64rem; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem } h3 { font-size: 1rem }
h1, h2, p, li, figcaption { overflow-wrap: anywhere }
.verdict { background: #f1f5f9; border-left: 4px solid #2563eb; padding: .5rem 1rem }
.verdict p { margin: .3rem 0 }
.wide { overflow-x: auto }
table { border-collapse: separate; border-spacing: 0; font-size: .85rem;
  font-variant-numeric: tabular-nums }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e2e8f0 }
th { vertical-align: bottom }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff }
.sortable th { cursor: pointer }
th[aria-sort=descending]::after { content: " \\25BC" }
th[aria-sort=ascending]::after { content: " \\25B2" }
figure { margin: 1rem 0; break-inside: avoid }
.panels { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; overflow-x: auto }
.panels svg { flex: none }
figcaption { font-size: .85rem; color: #475569 }
pre { background: #f8fafc; padding: .7rem; overflow-x: auto; font-size: .8rem }
@media screen and (max-width: 40rem) { body { padding: .5rem }
  td:first-child { white-space: normal; min-width: 6.5rem } th, td { padding: .2rem .4rem } }
@media print { body { max-width: none; font-size: 11px; padding: 0 }
  .wide, .panels, pre { overflow: visible } table { font-size: 8px }
  th, td { padding: .1rem .3rem } tr { break-inside: avoid }
  th:first-child, td:first-child { position: static } .panels svg { max-width: 100%; height: auto }
  .panels:has(svg + svg) svg { max-width: 45% }
  pre { white-space: pre-wrap } h2, h3 { break-after: avoid } }
"""
# Greater numbers first, names from A; once more turns the order. What is no number goes last.
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  table.classList.add("sortable");
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const sort = () => {
      const turned = head.ariaSort === (column ? "descending" : "ascending");
      const up = turned ? column > 0 : column === 0;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const text = row => row.cells[column].textContent;
      const order = (a, b) => {
        const x = parseFloat(text(a)), y = parseFloat(text(b));
        if (column && !isNaN(x - y)) return up ? x - y : y - x;
        if (column && isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
        const found = text(a).localeCompare(text(b), "en", {numeric: true});
        return up ? found : -found;
      };
      body.append(...[...body.rows].sort(order));
    };
    head.tabIndex = 0;
    head.onclick = sort;
    head.onkeydown = event => { if (event.key === "Enter") sort(); };
  });
}
"""


def page(figures, pictures=()):
    """Return the page.

    Parameters
    ----------
    figures : dict
        What the JSON file of an evaluation holds.

    pictures : sequence of (str, str, str), default=()
        Data set (or "" for all), caption, and the picture as SVG, as :func:`as_svg` gives it;
        several one after another stand side by side where there is room.

    Returns
    -------
    html : str
        With everything in it: styles, pictures, and a script that sorts tables, without which
        the page is as complete.
    """
    names = list(figures["data_sets"])
    parts = [
        f"<h1>{escape(_title(names))}</h1>",
        f"<p>Models: {escape(', '.join(figures['models']))}. Distiller: "
        f"{escape(figures['distiller'])}. Baselines from {escape(figures['corpus'])}. Mean ± "
        "standard deviation over folds and seeds.</p>",
    ]
    for name, message in figures["failed"].items():
        parts.append(f"<p><strong>{escape(name)} was not scored:</strong> {escape(message)}</p>")
    for name, data_set in figures["data_sets"].items():
        parts.append(f"<h2>{escape(name)}</h2>")
        parts.append(_verdict_html(data_set))
        parts += [_picture(*each) for each in pictures if each[0] == name]
        parts.append(_scores_html(data_set))
        parts.append(_curves_html(data_set))
        if data_set.get("code"):
            parts.append(f"<h3>In Python</h3><pre>{escape(data_set['code'])}</pre>")
    if figures["summary"]:
        parts.append("<h2>Over all data sets</h2>" + _summary_html(figures["summary"]))
        parts += [f"<p>{escape(told)}</p>" for told in few_tested(figures["data_sets"])]
    parts += [_picture(*each) for each in pictures if each[0] == ""]
    parts.append(f"<p><small>{escape(_made(figures))}</small></p>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(_title(names))}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def _title(names):
    return f"Evaluation of {names[0]}" if len(names) == 1 else f"{len(names)} data sets"


def _made(figures):
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    return f"{versions}; {figures['seconds']:.0f} s."


def _verdict_html(data_set):
    counts = ", ".join(f"{name} {n:,}" for name, n in data_set["counts"].items() if n)
    notes = "".join(f"<li>{escape(note)}</li>" for note in data_set["notes"])
    lines = "".join(f"<p>{escape(line)}</p>" for line in data_set["verdict"])
    listed = f"<ul>{notes}</ul>" if notes else ""
    return f'<div class="verdict">{lines}</div><p>Counts: {escape(counts)}.</p>{listed}'


def _scores_html(data_set):
    """Return the table of all rows, splits and metrics, the best in the first column first."""
    rows = [r for r in data_set["rows"] if r["n_train"] is None and r["in_table"]]
    if not rows:
        return ""
    first = preferred_split(data_set["rows"])
    rows.sort(key=lambda r: r["split"] != first)
    columns = list(dict.fromkeys((r["split"], m) for r in rows for m in r["scores"]))
    cells = {(r["row"], r["split"], m): r for r in rows for m in r["scores"]}
    best = {}
    for split, metric in columns:
        means = [r["mean"][metric] for r in rows if r["split"] == split]
        best[split, metric] = max((mean for mean in means if mean is not None), default=None)
    body = []
    for name in _by_first(cells, columns):
        found = [escape(name)]
        for column in columns:
            row = cells.get((name, *column))
            text = "-" if row is None else _spread_of(row, column[1])
            is_best = row is not None and row["mean"][column[1]] == best[column]
            found.append(f"<b>{text}</b>" if is_best else text)
        of_name = [r for r in rows if r["row"] == name]
        seconds = sum(r["seconds"] for r in of_name)
        body.append([*found, str(of_name[0]["width"]), f"{seconds:.1f}"])
    head = [f"{escape(s)}<br>{escape(m)}" for s, m in columns]
    return _table(["row", *head, "columns", "seconds"], body, by=1)


def _curves_html(data_set):
    """Return the table of learning curves, of the first metric."""
    rows = [r for r in data_set["rows"] if r["n_train"] is not None and r["in_table"]]
    if not rows:
        return ""
    metric = next(iter(rows[0]["scores"]))
    first = preferred_split(data_set["rows"])
    rows.sort(key=lambda r: (r["split"] != first, r["n_train"]))
    columns = list(dict.fromkeys((r["split"], r["n_train"]) for r in rows))
    cells = {(r["row"], r["split"], r["n_train"]): r for r in rows}
    body = []
    for name in _by_first(cells, columns, metric):
        found = [cells.get((name, *column)) for column in columns]
        texts = ["-" if r is None else _spread_of(r, metric) for r in found]
        body.append([escape(name), *texts])
    head = [f"{escape(s)}<br>{n} rows" for s, n in columns]
    title = f"<h3>With few measurements: {escape(metric)}</h3>"
    return title + _table(["row", *head], body, by=1)


def _by_first(cells, columns, metric=None):
    """Return the names of rows, greatest means of the first column first."""
    metric = columns[0][1] if metric is None else metric

    def mean(name):
        row = cells.get((name, *columns[0]))
        found = None if row is None else row["mean"][metric]
        return -float("inf") if found is None else found

    return sorted(dict.fromkeys(name for name, *_ in cells), key=mean, reverse=True)


def _spread_of(row, metric):
    return spread(row["mean"][metric], row["std"][metric])


def _table(head, body, by=None):
    """Return a table of HTML cells, whose rows are sorted by the column ``by``."""
    heads = "".join(
        f'<th scope="col"{" aria-sort=descending" if i == by else ""}>{text}</th>'
        for i, text in enumerate(head)
    )
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body)
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        "</div>"
    )


def spread(mean, std):
    """Return a mean and its spread as text."""
    return "-" if mean is None else f"{mean:.3f} ± {std:.3f}"


def _summary_html(summary):
    body = [
        [escape(each["rows"]), escape(each["split"]), escape(described(each))] for each in summary
    ]
    return _table(["rows", "split", escape(summary[0]["metric"])], body)


def _picture(_, caption, svg):
    return (
        f'<figure><div class="panels">{svg}</div><figcaption>{escape(caption)}</figcaption>'
        "</figure>"
    )
