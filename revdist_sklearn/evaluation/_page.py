"""One HTML page of an evaluation: tables and pictures, without network, for screen and paper."""

from html import escape

from ._summary import described

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto;
  max-width: 60rem; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem } h3 { font-size: 1rem }
.verdict { background: #f1f5f9; border-left: 4px solid #2563eb; padding: .5rem 1rem }
.verdict p { margin: .3rem 0 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e2e8f0 }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff }
tr.best td { font-weight: 600 }
figure { margin: 1rem 0; break-inside: avoid } figure svg { max-width: 100%; height: auto }
figcaption { font-size: .85rem; color: #475569 }
pre { background: #f8fafc; padding: .7rem; overflow-x: auto; font-size: .8rem }
@media screen and (max-width: 40rem) { body { padding: .5rem }
  figure { overflow-x: auto; margin: 0 }
  figure svg { max-width: none } td:first-child { white-space: normal; max-width: 8rem } }
@media print { body { max-width: none; font-size: 11px } .wide, pre { overflow: visible }
  pre { white-space: pre-wrap } h2 { break-after: avoid } }
"""


def page(figures, pictures=()):
    """Return the page.

    Parameters
    ----------
    figures : dict
        What the JSON file of an evaluation holds.

    pictures : sequence of (str, str, str), default=()
        Data set (or "" for all), caption, and the picture as SVG, as :func:`as_svg` gives it.

    Returns
    -------
    html : str
        With everything in it: styles and pictures, no scripts.
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
    parts += [_picture(*each) for each in pictures if each[0] == ""]
    parts.append(f"<p><small>{escape(_made(figures))}</small></p>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(_title(names))}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
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
    return f'<div class="verdict">{lines}</div><p>Rows: {escape(counts)}.</p>{listed}'


def _scores_html(data_set):
    """Return the table of all rows, splits and metrics."""
    rows = [r for r in data_set["rows"] if r["n_train"] is None and r["in_table"]]
    if not rows:
        return ""
    columns = list(dict.fromkeys((r["split"], m) for r in rows for m in r["scores"]))
    cells = {(r["row"], r["split"], m): r for r in rows for m in r["scores"]}
    best = {}
    for split, metric in columns:
        means = [r["mean"][metric] for r in rows if r["split"] == split]
        best[split, metric] = max((mean for mean in means if mean is not None), default=None)
    head = "".join(f"<th>{escape(s)}<br>{escape(m)}</th>" for s, m in columns)
    body = []
    for name in dict.fromkeys(r["row"] for r in rows):
        found = []
        for column in columns:
            row = cells.get((name, *column))
            if row is None:
                found.append("<td>-</td>")
                continue
            mean, std = row["mean"][column[1]], row["std"][column[1]]
            text = spread(mean, std)
            found.append(f"<td>{f'<b>{text}</b>' if mean == best[column] else text}</td>")
        seconds = sum(r["seconds"] for r in rows if r["row"] == name)
        width = next(r["width"] for r in rows if r["row"] == name)
        found.append(f"<td>{width}</td><td>{seconds:.1f}</td>")
        body.append(f"<tr><td>{escape(name)}</td>{''.join(found)}</tr>")
    return (
        f'<div class="wide"><table><tr><th></th>{head}<th>columns</th><th>seconds</th></tr>'
        f"{''.join(body)}</table></div>"
    )


def _curves_html(data_set):
    """Return the table of learning curves, of the first metric."""
    rows = [r for r in data_set["rows"] if r["n_train"] is not None and r["in_table"]]
    if not rows:
        return ""
    metric = next(iter(rows[0]["scores"]))
    columns = list(dict.fromkeys((r["split"], r["n_train"]) for r in rows))
    cells = {(r["row"], r["split"], r["n_train"]): r for r in rows}
    head = "".join(f"<th>{escape(s)}<br>{n} rows</th>" for s, n in columns)
    body = []
    for name in dict.fromkeys(r["row"] for r in rows):
        found = [cells.get((name, *column)) for column in columns]
        texts = ("-" if r is None else spread(r["mean"][metric], r["std"][metric]) for r in found)
        body.append(
            f"<tr><td>{escape(name)}</td>{''.join(f'<td>{text}</td>' for text in texts)}</tr>"
        )
    return (
        f"<h3>With few measurements: {escape(metric)}</h3>"
        f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(body)}</table></div>'
    )


def spread(mean, std):
    """Return a mean and its spread as text."""
    return "-" if mean is None else f"{mean:.3f} ± {std:.3f}"


def _summary_html(summary):
    body = "".join(
        f"<tr><td>{escape(each['rows'])}</td><td>{escape(each['split'])}</td>"
        f"<td>{escape(described(each))}</td></tr>"
        for each in summary
    )
    return (
        f'<div class="wide"><table><tr><th></th><th>split</th><th>{escape(summary[0]["metric"])}'
        f"</th></tr>{body}</table></div>"
    )


def _picture(_, caption, svg):
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
