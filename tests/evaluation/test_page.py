"""The page: whole, escaped, without network, and looked at in a browser."""

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from revdist_sklearn.evaluation._page import page

VOID = {"meta", "br"}
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Tags(HTMLParser):
    """Checks that tags are closed, and keeps what would ask the network."""

    def __init__(self):
        super().__init__()
        self.open, self.asks, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.asks += [v for k, v in attrs if k in ("src", "href") and not v.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def row(name, kind, width, split, n_train=None, members=(0,)):
    scores = np.random.default_rng(width).uniform(0, 1, 5).round(3).tolist()
    return {
        "row": name, "kind": kind, "width": width, "split": split, "n_train": n_train,
        "members": list(members), "in_table": True, "seconds": 0.5, "parameters": {},
        "n_tested": 9, "n_distinct": 9, "folds": list("01234"), "alphas": [1.0] * 5,
        "scores": {"Spearman": scores},
        "mean": {"Spearman": float(np.mean(scores))}, "std": {"Spearman": 0.1},
    }  # fmt: skip


@pytest.fixture
def figures():
    rows = [
        row(f"{kind} {width}", kind, width, split)
        for split in ("random", "position")
        for kind in ("raw", "distilled", "concatenation_pca")
        for width in (8, 16)
    ]
    rows += [row("table", "mutation", 5, s, members=()) for s in ("random", "position")]
    rows += [row("table", "mutation", 5, "random", 16)]
    rows[-1]["mean"]["Spearman"] = None
    data_set = {
        "task": "regression", "metric": "Spearman", "protein": "MKTAYIAKQR",
        "counts": {"rows": 9, "missing": 0}, "notes": ["<script>alert(1)</script>"],
        "costs": [], "verdict": ["a < b", "b", "c"], "choice": "x", "code": "print('<b>')",
        "rows": rows,
    }  # fmt: skip
    return {
        "models": ["small", "large"], "distiller": "d&d", "corpus": "c", "stage_dims": [8, 16],
        "stages": [
            {"block": "small", "width": 8},
            {"block": "large", "width": 16, "residual_variances": [2.0, 1.0, 0.0]},
        ],
        "data_sets": {"<i>one</i>": data_set, "two": data_set},
        "failed": {"bad.csv": "it has <no> rows"}, "summary": [],
        "versions": {"python": "3"}, "seconds": 3.0,
    }  # fmt: skip


def test_the_page_is_whole_escaped_and_asks_nobody(figures):
    html = page(figures)
    tags = Tags()
    tags.feed(html)
    assert not tags.open and not tags.asks
    assert html.count("<script>") == 1 and "<i>one</i>" not in html and "http" not in html
    text = "".join(tags.text)
    for expected in ("<script>alert(1)</script>", "it has <no> rows", "print('<b>')", "16 rows"):
        assert expected in text
    assert 'name="viewport"' in html and "@media print" in html


def test_pictures_stand_in_the_page(figures):
    pytest.importorskip("matplotlib")
    from revdist_sklearn.evaluation._pictures import (
        as_svg,
        draw_prefixes,
        draw_scaling,
        draw_spectra,
        draw_wins,
    )

    data_set = figures["data_sets"]["two"]
    drawn = [
        *draw_prefixes(data_set["rows"], "Spearman", [8, 16]),
        *draw_scaling(data_set["rows"], "Spearman"),
        draw_wins(figures["data_sets"], "Spearman", "position"),
        draw_spectra(figures),
    ]
    svgs = [as_svg(figure) for figure in drawn]
    html = page(figures, [("two", "a caption", svg) for svg in svgs])
    assert html.count("<svg") == 6 and html.count("<figcaption>a caption") == 6
    # Namespaces are names; nothing is fetched.
    links = re.findall(r'(?:src|xlink:href)="(?!#)([^"]*)"', html)
    assert all(link.startswith("data:") for link in links)


def names_of(html):
    """Return the names of the rows of the first table."""
    body = re.search(r"<tbody>(.*?)</tbody>", html, re.DOTALL)[1]
    return re.findall(r"<tr><td>([^<]*)</td>", body)


def test_rows_are_sorted_by_the_first_metric_in_folds_by_position(figures):
    html = page(figures)
    rows = figures["data_sets"]["two"]["rows"]
    means = {r["row"]: r["mean"]["Spearman"] for r in rows if r["split"] == "position"}
    assert names_of(html) == sorted(means, key=means.get, reverse=True)
    assert html.index("position<br>Spearman") < html.index("random<br>Spearman")
    assert '<th scope="col" aria-sort=descending>position' in html


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_click_sorts_a_table_and_another_turns_it(figures, tmp_path):
    rows = figures["data_sets"]["two"]["rows"]
    widths = {r["row"]: r["width"] for r in rows}
    names = sorted(widths, key=lambda name: re.sub(r"\d+", lambda n: n[0].zfill(3), name))
    html = page(figures)
    for clicks, column, expected in (
        (1, "row", names),
        (2, "row", names[::-1]),
        (1, "columns", sorted(widths.values(), reverse=True)),
        (2, "columns", sorted(widths.values())),
    ):
        click = f"""<script>
            const heads = [...document.querySelectorAll("th")];
            const head = heads.find(each => each.textContent == "{column}");
            for (let i = 0; i < {clicks}; i++) head.click();
        </script></body>"""
        (tmp_path / "m.html").write_text(html.replace("</body>", click))
        shown = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000",
             "--dump-dom", f"file://{tmp_path / 'm.html'}"],
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip
        found = names_of(shown)
        assert (found if column == "row" else [widths[name] for name in found]) == expected


def test_text_of_pictures_is_read_on_a_telephone(figures):
    pytest.importorskip("matplotlib")
    from revdist_sklearn.evaluation._pictures import as_svg, draw_prefixes, draw_scaling

    rows = figures["data_sets"]["two"]["rows"]
    for drawn in (draw_prefixes(rows, "Spearman", [8, 16]), draw_scaling(rows, "Spearman")):
        assert len(drawn) == 2 and drawn[0].axes[0].get_ylim() == drawn[1].axes[0].get_ylim()
        svg = as_svg(*drawn)
        widths = [float(w) * 96 / 72 for w in re.findall(r'<svg[^>]* width="([\d.]+)pt"', svg)]
        assert len(widths) == 2 and max(widths) <= 344  # 360 less the margins
        assert min(map(float, re.findall(r"font(?:-size)?: ([\d.]+)px", svg))) * 96 / 72 >= 9


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [360, 1100])
def test_a_browser_shows_it_without_the_page_being_wider_than_the_screen(figures, tmp_path, width):
    path = tmp_path / "page.html"
    path.write_text(page(figures))
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=2000",
    ]
    measure = "document.title = document.documentElement.scrollWidth + ' ' + window.innerWidth"
    (tmp_path / "m.html").write_text(
        path.read_text().replace("</body>", f"<script>{measure}</script></body>")
    )
    shown = subprocess.run(
        [*command, f"--window-size={width},2000", "--dump-dom", f"file://{tmp_path / 'm.html'}"],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    wide, screen = map(int, re.search(r"<title>(\d+) (\d+)</title>", shown).groups())
    assert wide <= screen
    kept = os.environ.get("REVDIST_SCREENSHOTS", str(tmp_path))
    picture = f"{kept}/page_{width}.png"
    subprocess.run(
        [*command, f"--window-size={width},3000", f"--screenshot={picture}", f"file://{path}"],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert os.path.getsize(picture) > 20_000
