import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from revdist_sklearn import Moments, ReverseDistiller, StageReport, StageReportDisplay

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 16)) @ rng.normal(size=(16, 16))
NAMES = ["esm2_nano_032", "esm2_nano_064", "esm2_nano_096"]
MOMENTS = Moments((3, 5, 8), block_names=NAMES).update(X[:200])
DISTILLER = ReverseDistiller().fit_moments(MOMENTS)
REPORT = StageReport.from_estimator(DISTILLER, X[200:])


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_panels_show_the_figures():
    display = StageReportDisplay.from_report(REPORT)
    spectra, explained, left = display.ax_
    figures = REPORT.figures["rows"]
    for i in (1, 2):
        line = lines(spectra)[NAMES[i]]
        assert_allclose(line.get_ydata(), figures.spectra[i])
        assert_allclose(line.get_xdata(), np.arange(len(figures.spectra[i])) + 1)
    edges = [line.get_ydata()[0] for line in spectra.get_lines() if line.get_linestyle() == "--"]
    assert_allclose(edges, figures.edges[1:])
    assert [text.get_text() for text in explained.get_yticklabels()] == NAMES[1:]
    bars = [patch for patch in explained.patches if hasattr(patch, "get_width")]
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    expected = np.concatenate(
        [
            shares[1:]
            for source in ("fit", "rows")
            for shares in (
                REPORT.figures[source].explained_before,
                REPORT.figures[source].explained_after,
            )
        ]
    )
    assert_allclose(ends, expected)
    for name, shares in {
        "all columns": figures.left_of_all,
        "all columns, PCA": figures.best_of_all,
        NAMES[-1]: figures.left_of_largest,
    }.items():
        assert_allclose(lines(left)[name].get_xdata(), figures.prefixes)
        drawn = lines(left)[name].get_ydata()
        assert_allclose(drawn, np.where(shares > 1e-6, shares, np.nan))
    assert [text.get_text() for text in left.texts] == NAMES
    assert display.figure_ is left.figure


def test_from_estimator_sources_and_a_panel_alone():
    _, ax = plt.subplots()
    display = StageReportDisplay.from_estimator(
        DISTILLER, X[200:], moments=MOMENTS, ax=ax, panels="left", source="moments"
    )
    assert display.ax_ is ax
    assert display.report.figures.keys() == {"fit", "moments", "rows"}
    drawn = lines(ax)["all columns"].get_ydata()
    assert_allclose(drawn, display.report.figures["moments"].left_of_all)
    display.plot(panels=["spectra"], source="fit")
    assert display.ax_.get_ylabel() == "variance (fit)"
    # What the distiller holds has no best directions to draw.
    StageReportDisplay.from_estimator(DISTILLER, panels="left").ax_.get_legend()
    assert "all columns, PCA" not in lines(plt.gca())


@pytest.mark.parametrize("panel", ["spectra", "explained", "left"])
@pytest.mark.parametrize("size", [(4, 3), (8, 6)])
def test_legends_cover_no_data_at_4_by_3_inches(panel, size):
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    StageReportDisplay.from_report(REPORT, ax=ax, panels=panel)
    figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    lowest = ax.transData.transform((0, ax.dataLim.y0))[1]
    assert lowest > box.y1 and box.width <= ax.bbox.width
    assert ax.bbox.width > 0.4 * figure.bbox.width


def test_limit_cases_are_drawn():
    with pytest.warns(UserWarning, match="one block"):
        one = ReverseDistiller((16,)).fit(X)
    spectra, explained, left = StageReportDisplay.from_estimator(one, X).ax_
    assert len(explained.get_yticklabels()) == 1 and len(lines(spectra)) >= 1
    assert next(iter(lines(left))) == "all columns"
    linear = np.hstack([X[:, :3], X[:, :3] @ rng.normal(size=(3, 5))])
    with pytest.warns(UserWarning, match="adds no column"):
        nothing = ReverseDistiller((3, 5)).fit(linear)
    StageReportDisplay.from_estimator(nothing, linear).figure_.canvas.draw()
    # A share explained below zero is to be seen.
    facts = replace(REPORT.figures["rows"], explained_before=np.array([0.0, -0.4, 0.5]))
    worse = StageReport(
        names=NAMES, stage_dims=REPORT.stage_dims, regressor="ols", figures={"rows": facts}
    )
    ax = StageReportDisplay.from_report(worse, panels="explained").ax_
    assert ax.get_xlim()[0] < -0.4


def test_what_cannot_be_drawn():
    display = StageReportDisplay(report=REPORT)
    with pytest.raises(ValueError, match=r"panels=\['left', 'right'\]; use some of 'spectra'"):
        display.plot(panels=["left", "right"])
    with pytest.raises(ValueError, match="source='moments'; the report has figures of 'fit', 'ro"):
        display.plot(source="moments")
    with pytest.raises(ValueError, match="ax has 1 axes for 3 panels"):
        display.plot(plt.figure().subplots())


def test_import_needs_no_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from revdist_sklearn import ReverseDistiller, StageReportDisplay\n"
        "import numpy as np\n"
        "rows = np.random.default_rng(0).normal(size=(50, 5))\n"
        "try: StageReportDisplay.from_estimator(ReverseDistiller((2, 3)).fit(rows))\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "revdist_sklearn[plot]"' in out.stdout
