import json
from html.parser import HTMLParser

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score

from revdist_sklearn import Moments, ReverseDistiller, StageReport
from revdist_sklearn.method._chain import johnstone_count

SIZES = (3, 5, 8)
rng = np.random.default_rng(0)
TURN = rng.normal(size=(16, 16))


def rows(n=400, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return (shift + rng.normal(size=(n, 16))) @ TURN + 0.3 * rng.normal(size=(n, 16))


FIT, OTHER = rows(), rows(150, seed=1, shift=0.2)


def split(X):
    return np.split(X, np.cumsum(SIZES)[:-1], axis=1)


def regression_of(distiller):
    """Return the coefficients of scikit-learn's regression of h_i on z_{i-1}, on rows of the fit.

    ``pcr`` by an SVD of the rows, with as many components as the distiller says.
    """
    Z, parts, found = distiller.transform(FIT), split(FIT), []
    for stage, h in zip(distiller.stages_[1:], parts[1:], strict=False):
        z = Z[:, : stage.width - stage.n_added]
        if distiller.regressor == "pcr":
            axes = np.linalg.svd(z - z.mean(axis=0))[2][: stage.n_regression]
            scores = (z - z.mean(axis=0)) @ axes.T
            model = LinearRegression().fit(scores, h)
            mean = z.mean(axis=0)
            found.append(lambda z, m=model, a=axes, c=mean: m.predict((z - c) @ a.T))
        else:
            model = (
                Ridge(distiller.alpha) if distiller.regressor == "ridge" else LinearRegression()
            )
            found.append(model.fit(z, h).predict)
    return found


def rank_of(spectrum):
    p = spectrum / spectrum.sum()
    return np.exp(-np.sum(p * np.log(p)))


def agree(one, other, skip=()):
    for name in one.__dataclass_fields__:
        if name not in skip:
            for a, b in zip(
                np.atleast_1d(np.array(getattr(one, name), dtype=object)),
                np.atleast_1d(np.array(getattr(other, name), dtype=object)),
                strict=True,
            ):
                assert_allclose(
                    np.asarray(a, float), np.asarray(b, float), atol=1e-9, err_msg=name
                )


SETTINGS = [
    {},
    {"regressor": "ridge", "alpha": 300.0},
    {"regressor": "pcr"},
    {"rotate_base": True, "n_components": 7},
    {"n_components": 4},  # it ends before the last block
    {"residual_sizes": (1, 4)},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("X", [FIT, OTHER], ids=["fit", "other"])
def test_figures_are_those_of_the_rows(settings, X):
    distiller = ReverseDistiller(SIZES, **settings).fit(FIT)
    figures = StageReport.from_estimator(distiller, X).figures["rows"]
    Z, parts, Z_fit = distiller.transform(X), split(X), distiller.transform(FIT)
    assert figures.n_rows == len(X)
    assert figures.explained_before[0] == 0 and np.isnan(figures.correlations[0])
    stages = distiller.stages_
    assert len(stages) == len(figures.spectra)
    for i, predict in enumerate(regression_of(distiller), start=1):
        w, d, h = stages[i - 1].width, stages[i].width, parts[i]
        hhat = predict(Z[:, :w])
        r = h - hhat
        before = r2_score(h, hhat, multioutput="variance_weighted")
        # r2_score weights by variances: one minus the shares of all errors and variances.
        assert figures.explained_before[i] == pytest.approx(before, abs=1e-9)
        V = stages[i].directions
        after = hhat + r @ V @ V.T
        expected = r2_score(h, after, multioutput="variance_weighted")
        assert figures.explained_after[i] == pytest.approx(expected, abs=1e-9)
        spectrum = np.linalg.svd(r - r.mean(axis=0), compute_uv=False) ** 2 / len(r)
        assert_allclose(figures.spectra[i], spectrum, atol=1e-9 * spectrum[0])
        assert figures.effective_ranks[i] == pytest.approx(rank_of(spectrum), rel=1e-6)
        between = np.corrcoef(Z[:, :d].T)[:w, w:]
        assert figures.correlations[i] == pytest.approx(np.abs(between).max(), abs=1e-8)
        # Johnstone's edge, written out.
        t = (1 + np.sqrt(len(spectrum) / len(X))) ** 2
        bulk = spectrum[spectrum / spectrum.mean() < t]
        assert figures.edges[i] == pytest.approx(np.median(bulk) * t)
        assert figures.n_above[i] == np.sum(spectrum > np.median(bulk) * t)
    centred = X - X.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    largest = np.linalg.svd(centred[:, -8:], compute_uv=False) ** 2
    assert set(distiller.stage_dims_) <= set(figures.prefixes)
    for j, d in enumerate(figures.prefixes):
        left = X - distiller.inverse_transform(Z[:, :d])
        assert_allclose(figures.left_of_all[j], np.sum(left**2) / values.sum(), atol=1e-9)
        share = np.sum(left[:, -8:] ** 2) / largest.sum()
        assert_allclose(figures.left_of_largest[j], share, atol=1e-9)
        assert_allclose(figures.best_of_all[j], values[d:].sum() / values.sum(), atol=1e-9)
        assert_allclose(figures.best_of_largest[j], largest[d:].sum() / largest.sum(), atol=1e-9)
        # The prefix is the best affine predictor on the rows of the fit alone.
        A = np.column_stack([np.ones(len(FIT)), Z_fit[:, :d]])
        best = np.linalg.lstsq(A, FIT, rcond=None)[0]
        direct = X - np.column_stack([np.ones(len(X)), Z[:, :d]]) @ best
        assert_allclose(figures.left_of_all[j], np.sum(direct**2) / values.sum(), atol=1e-9)
        assert figures.left_of_all[j] >= figures.best_of_all[j] - 1e-12


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_the_distiller_holds_agrees_with_rows_and_moments_of_its_fit(settings):
    distiller = ReverseDistiller(SIZES, **settings).fit(FIT)
    report = StageReport.from_estimator(distiller, FIT, moments=Moments(SIZES).update(FIT))
    assert list(report.figures) == ["fit", "moments", "rows"]
    agree(report.figures["moments"], report.figures["rows"])
    best = {"best_of_all", "best_of_largest"}
    if len(distiller.stages_) < 3:  # a chain that stops early knows not all blocks
        best |= {"left_of_all", "left_of_largest"}
    agree(report.figures["fit"], report.figures["rows"], skip=best)
    assert all(np.isnan(getattr(report.figures["fit"], name)).all() for name in best)
    stages = distiller.stages_
    fit = report.figures["fit"]
    assert fit.explained_before.tolist() == [stage.explained_before for stage in stages]
    assert fit.explained_after.tolist() == [stage.explained_after for stage in stages]


def test_residuals_of_least_squares_alone_are_orthogonal_to_the_base():
    of = {
        regressor: StageReport.from_estimator(
            ReverseDistiller(SIZES, regressor=regressor).fit(FIT)
        )
        for regressor in ("ols", "pcr")
    }
    assert of["ols"].figures["fit"].correlations[1:].max() < 1e-8
    assert of["pcr"].figures["fit"].correlations[1:].max() > 0.05


def test_one_block_is_told_by_itself():
    with pytest.warns(UserWarning, match="one block"):
        distiller = ReverseDistiller((16,)).fit(FIT)
    figures = StageReport.from_estimator(distiller, OTHER, prefixes=[4]).figures["rows"]
    assert (figures.explained_before.tolist(), figures.n_rows) == ([0.0], 150)
    assert figures.prefixes.tolist() == [4, 16]
    assert_allclose(figures.left_of_all, figures.left_of_largest)
    assert figures.left_of_all[1] == 0 and figures.left_of_all[0] > figures.best_of_all[0]


def test_a_second_block_that_is_a_linear_function_leaves_nothing():
    first = FIT[:, :3]
    X = np.hstack([first, 2 + first @ rng.normal(size=(3, 5))])
    with pytest.warns(UserWarning, match="adds no column"):
        distiller = ReverseDistiller((3, 5)).fit(X)
    report = StageReport.from_estimator(distiller, X[:100], prefixes=[1])
    for figures in report.figures.values():
        assert figures.explained_before[1] == pytest.approx(1)
        assert figures.explained_after[1] == pytest.approx(1)
        assert not figures.spectra[1].any() and figures.edges[1] == 0
        assert (figures.effective_ranks[1], figures.n_above[1]) == (0, 0)
        assert figures.correlations[1] < 1e-6
        at = figures.prefixes.tolist().index(3)
        assert_allclose(figures.left_of_all[at:], 0, atol=1e-9)
    assert "?" not in str(report).split("rows of X")[1].replace("1 of 5", "")


def test_with_all_residual_directions_nothing_is_lost():
    distiller = ReverseDistiller(SIZES, residual_sizes=(5, 8)).fit(FIT)
    figures = StageReport.from_estimator(distiller, OTHER).figures["rows"]
    assert_allclose(figures.explained_after, 1, atol=1e-9)
    assert_allclose([figures.left_of_all[-1], figures.left_of_largest[-1]], 0, atol=1e-9)


@pytest.mark.parametrize("regressor", ["ols", "ridge", "pcr"])
def test_a_base_without_full_rank(regressor):
    """As a LayerNorm leaves it: one direction of each block does not vary."""
    X = np.hstack([part - part.mean(axis=1, keepdims=True) for part in split(FIT)])
    distiller = ReverseDistiller(SIZES, regressor=regressor).fit(X)
    report = StageReport.from_estimator(distiller, X)
    fit, seen = report.figures["fit"], report.figures["rows"]
    agree(fit, seen, skip={"best_of_all", "best_of_largest"})
    assert (seen.spectra[2] > 0).sum() == 7
    Z = distiller.transform(X)
    for j, d in enumerate(seen.prefixes):
        left = X - distiller.inverse_transform(Z[:, :d])
        expected = np.sum(left**2) / np.sum((X - X.mean(axis=0)) ** 2)
        assert seen.left_of_all[j] == pytest.approx(expected, abs=1e-9)


def test_a_block_without_variance_has_all_of_it_explained():
    X = np.hstack([FIT[:, :3], np.ones((400, 5))])
    with pytest.warns(UserWarning, match="adds no column"):
        distiller = ReverseDistiller((3, 5)).fit(X)
    for figures in StageReport.from_estimator(distiller, X).figures.values():
        assert figures.explained_before[1] == figures.explained_after[1] == 1
        assert figures.left_of_largest.tolist() == [0] * len(figures.prefixes)
    json.dumps(StageReport.from_estimator(distiller, X).to_dict(), allow_nan=False)


def test_weights_and_precision_come_with_moments():
    distiller = ReverseDistiller(SIZES).fit(FIT)
    weights = rng.integers(0, 3, len(OTHER))
    moments = Moments(SIZES).update(OTHER, sample_weight=weights)
    weighted = StageReport.from_estimator(distiller, moments=moments).figures["moments"]
    again = StageReport.from_estimator(distiller, np.repeat(OTHER, weights, axis=0))
    agree(weighted, again.figures["rows"], skip={"n_rows"})
    single = Moments(SIZES, precision="float32").update(OTHER.astype(np.float32))
    rough = StageReport.from_estimator(distiller, moments=single).figures["moments"]
    fine = StageReport.from_estimator(distiller, OTHER).figures["rows"]
    assert_allclose(rough.explained_after, fine.explained_after, atol=1e-3)


def test_after_reading_cutting_and_partial_fits(tmp_path):
    distiller = ReverseDistiller(SIZES, regressor="pcr").fit(FIT)
    whole = StageReport.from_estimator(distiller, OTHER)
    distiller.save_pretrained(tmp_path / "d")
    read = StageReport.from_estimator(ReverseDistiller.from_pretrained(tmp_path / "d"), OTHER)
    agree(whole.figures["rows"], read.figures["rows"])
    agree(whole.figures["fit"], read.figures["fit"])
    cut = StageReport.from_estimator(distiller.truncate(5), OTHER[:, :8])
    assert cut.names == ("1", "2") and cut.stage_dims == (3, 5)
    assert_allclose(
        cut.figures["rows"].explained_before, whole.figures["rows"].explained_before[:2]
    )
    parts = clone(distiller).partial_fit(FIT[:200]).partial_fit(FIT[200:])
    agree(whole.figures["rows"], StageReport.from_estimator(parts, OTHER).figures["rows"])


def test_directions_chosen_by_proteins_leave_the_edge_of_the_fit_unknown():
    proteins = np.repeat(np.arange(50), 8)
    distiller = ReverseDistiller(SIZES, residual_level="protein").fit(FIT, proteins=proteins)
    report = StageReport.from_estimator(distiller, OTHER)
    assert np.isnan(report.figures["fit"].edges).all() and " ? of 5" in str(report)
    assert np.isfinite(report.figures["rows"].edges).all()
    assert report.to_dict()["figures"]["fit"]["edges"] == [None] * 3


def test_the_edge_is_that_of_the_authors_rule():
    """Noise alone has nothing above it; a signal is, as many times as ``pcr`` would keep."""
    X = np.random.default_rng(0).normal(size=(2000, 16))
    X[:, 8:] += X[:, :8]
    X[:, 9] += 4 * np.random.default_rng(1).normal(size=2000)
    figures = StageReport.from_estimator(ReverseDistiller((8, 8), residual_sizes=(2,)).fit(X))
    fit = figures.figures["fit"]
    assert fit.n_above[1] == 1 == johnstone_count(fit.spectra[1], 2000, 2000)


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not {"src", "href", "onclick"} & dict(attrs).keys()

    def handle_data(self, data):
        self.text.append(data)


def test_names_of_blocks_obey_neither_terminals_nor_pages():
    evil = "<script>alert(1)</script>\x1b[2J"
    moments = Moments(SIZES, block_names=["small", evil, "large"]).update(FIT)
    report = StageReport.from_estimator(ReverseDistiller().fit_moments(moments), OTHER)
    assert "\x1b" not in str(report) + repr(report) and "\\x1b" in str(report)
    cells = Cells()
    cells.feed(report._repr_html_())
    assert "script" not in cells.tags and cells.tags.count("table") == 2
    assert "<script>alert(1)</script>\\x1b[2J" in cells.text
    assert len(report._repr_html_()) < 10_000


def test_the_table_and_the_numbers_are_the_figures():
    report = StageReport.from_estimator(ReverseDistiller(SIZES).fit(FIT), OTHER)
    figures = report.figures["rows"]
    of_rows = str(report).split("rows of X (150)")[1].splitlines()
    cells = of_rows[5].split()
    at = figures.prefixes.tolist().index(8)
    assert cells == [
        *("3", "8", f"{figures.explained_before[2]:.1%}", f"{figures.explained_after[2]:.1%}"),
        *(f"{figures.effective_ranks[2]:.1f}", f"{figures.n_above[2]:.0f}", "of", "8"),
        *(f"{figures.correlations[2]:.1e}", f"{figures.left_of_all[at]:.1%}"),
        *(f"{figures.best_of_all[at]:.1%}", f"{figures.left_of_largest[at]:.1%}"),
        f"{figures.best_of_largest[at]:.1%}",
    ]
    assert max(map(len, str(report).splitlines())) <= 100
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["names"] == ["1", "2", "3"] and values["stage_dims"] == [3, 5, 8]
    assert values["figures"]["rows"]["spectra"][2] == figures.spectra[2].tolist()
    assert values["figures"]["fit"]["best_of_all"][0] is None
    assert repr(report) == "StageReport(names=['1', '2', '3'], figures of fit, rows)"


def test_a_chain_without_covariance_tells_what_it_has():
    distiller = ReverseDistiller(SIZES).fit(FIT)
    from dataclasses import replace

    distiller._chain = replace(distiller._chain, cross_covariance=None)
    report = StageReport.from_estimator(distiller)
    assert np.isnan(report.figures["fit"].left_of_all).all()
    assert np.isfinite(report.figures["fit"].effective_ranks).all()
    with pytest.raises(ValueError, match="without the covariance that a report on rows needs"):
        StageReport.from_estimator(distiller, OTHER)


def test_what_no_report_can_be_made_of():
    make = StageReport.from_estimator
    with pytest.raises(NotFittedError):
        make(ReverseDistiller(SIZES))
    distiller = ReverseDistiller(SIZES).fit(FIT)
    with pytest.raises(ValueError, match="15 features"):
        make(distiller, OTHER[:, :15])
    with pytest.raises(ValueError, match=r"X has 1 row\(s\), which have no variance"):
        make(distiller, OTHER[:1])
    with pytest.raises(ValueError, match=r"of 1 row\(s\)"):
        make(distiller, moments=Moments(SIZES).update(OTHER[:1]))
    with pytest.raises(ValueError, match=r"the moments have the blocks \(3, 13\), but the dist"):
        make(distiller, moments=Moments((3, 13)).update(OTHER))
    with pytest.raises(TypeError, match="moments are of type ndarray; gather Moments"):
        make(distiller, moments=OTHER)
    with pytest.raises(ValueError, match=r"prefixes\[1\]=9 is no prefix of the 8 columns"):
        make(distiller, prefixes=[1, 9])
    report = make(distiller)
    with pytest.raises(ValueError, match="2 names, 3 stage_dims and 3 stages of 'fit'"):
        StageReport(
            names="ab", stage_dims=report.stage_dims, regressor="ols", figures=report.figures
        )
