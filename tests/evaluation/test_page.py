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
        "folds": list("01234"), "alphas": [1.0] * 5, "scores": {"Spearman": scores},
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
    assert "<script>" not in html and "<i>one</i>" not in html and "http" not in html
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
        draw_prefixes(data_set["rows"], "Spearman", [8, 16]),
        draw_scaling(data_set["rows"], "Spearman"),
        draw_wins(figures["data_sets"], "Spearman", "position"),
        draw_spectra(figures),
    ]
    svgs = [as_svg(figure) for figure in drawn]
    html = page(figures, [("two", "a caption", svg) for svg in svgs])
    assert html.count("<svg") == 4 and html.count("<figcaption>a caption") == 4
    # Namespaces are names; nothing is fetched.
    links = re.findall(r'(?:src|xlink:href)="(?!#)([^"]*)"', html)
    assert all(link.startswith("data:") for link in links)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [400, 1100])
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
