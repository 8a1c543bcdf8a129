import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_score,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from revdist_sklearn import (
    PrefixCurveDisplay,
    PrefixRidgeClassifierCV,
    PrefixRidgeCV,
    PrefixSelector,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

pytestmark = pytest.mark.filterwarnings("ignore:The chosen alpha")
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 6))
y = X @ [2.0, 1.0, 1.0, 1.0, 0.0, 0.0] + rng.normal(size=40)
NAMES = ["rd_nano_2__0", "rd_nano_2__1", *(f"rd_nano_6__{i}" for i in range(4))]


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def stage_marks(ax):
    return {text.get_position()[0]: text.get_text() for text in ax.texts if text.get_gid()}


def test_a_prefix_search_is_drawn_as_it_scored():
    search = PrefixRidgeCV("all", alphas=[0.1, 1.0, 100.0]).fit(X, y)
    display = PrefixCurveDisplay.from_estimator(search)
    means = search.cv_scores_.mean(axis=2)
    assert_allclose(display.line_.get_xdata(), search.prefixes_)
    assert_allclose(display.line_.get_ydata(), means.max(axis=1))
    [[d], [score]] = display.chosen_.get_data()
    assert (d, score) == (search.n_components_, pytest.approx(search.best_score_))
    band = display.band_.get_paths()[0].vertices
    best = search.cv_scores_[np.arange(6), means.argmax(axis=1)]
    for d, at, spread in zip(search.prefixes_, best.mean(axis=1), best.std(axis=1), strict=True):
        there = band[band[:, 0] == d, 1]
        assert_allclose([there.min(), there.max()], [at - spread, at + spread])
    assert display.ax_.get_ylabel() == "R²"
    expected = "prefix (columns)\nmean ± standard deviation over 5 splits"
    assert display.ax_.get_xlabel() == expected
    assert display.figure_ is display.ax_.figure
    assert not stage_marks(display.ax_) and display.ax_.get_legend() is None


def test_stages_are_read_from_the_names_of_columns():
    pd = pytest.importorskip("pandas")
    search = PrefixRidgeCV("all", alphas=1.0).fit(pd.DataFrame(X, columns=NAMES), y)
    display = PrefixCurveDisplay.from_estimator(search)
    assert stage_marks(display.ax_) == {2: "nano_2", 6: "nano_6"}
    lines = [line.get_xdata()[0] for line in display.ax_.lines if line.get_linestyle() == "--"]
    assert lines == [2, 6]


def test_curves_share_axes_and_marks():
    marks = {"stage_dims": [2, 6], "stage_names": ["small", "large"]}
    first = PrefixCurveDisplay.from_scores([2, 4, 6], np.eye(3), name="one", **marks)
    color = first.line_.get_color()
    marks = {"stage_dims": np.array([2, 4]), "stage_names": ["small", "middle"]}
    second = PrefixCurveDisplay.from_scores([2, 6], np.eye(2), name="two", ax=first.ax_, **marks)
    second.plot(first.ax_, name="three")
    assert stage_marks(first.ax_) == {2: "small", 4: "middle", 6: "large"}
    assert color != second.line_.get_color()
    names = [text.get_text() for text in first.ax_.get_legend().get_texts()]
    assert names == ["one", "two", "three"]
    other = {"stage_dims": [2], "stage_names": ["another"]}
    PrefixCurveDisplay.from_scores([2, 6], np.eye(2), ax=first.ax_, **other)
    assert stage_marks(first.ax_)[2] == "small, another"


def test_widths_alone_are_marked_without_names():
    display = PrefixCurveDisplay.from_scores([2, 6], np.eye(2), stage_dims=[2, 6])
    assert stage_marks(display.ax_) == {2: "", 6: ""}


@pytest.mark.parametrize("prefixes", [[1, 2, 4, 8, 16, 32], [*range(1, 40), 320]])
def test_uneven_prefixes_take_a_logarithmic_axis(prefixes):
    display = PrefixCurveDisplay.from_scores(prefixes, np.ones((len(prefixes), 2)))
    assert display.ax_.get_xscale() == "log"
    display.figure_.canvas.draw()
    low, high = display.ax_.get_xlim()  # some versions label ticks beyond it too
    ticks = zip(display.ax_.get_xticks(), display.ax_.get_xticklabels(), strict=True)
    labels = [label.get_text() for d, label in ticks if low <= d <= high and label.get_text()]
    assert labels == [str(d) for d in prefixes] or len(labels) <= 12
    assert "16" in labels
    # A second curve does not turn the axis of the first.
    even = PrefixCurveDisplay.from_scores([10, 20, 30], np.ones((3, 2)))
    PrefixCurveDisplay.from_scores(prefixes, np.ones((len(prefixes), 2)), ax=even.ax_)
    assert even.ax_.get_xscale() == "linear"


def test_grid_search_over_a_selector():
    grid = {"prefixselector__n_components": [6, 2, 4], "ridge__alpha": [1.0, 100.0]}
    model = make_pipeline(StandardScaler(), PrefixSelector(), Ridge())
    search = GridSearchCV(model, grid, cv=4, scoring="neg_mean_squared_error").fit(X, y)
    display = PrefixCurveDisplay.from_estimator(search)
    results = search.cv_results_
    for d, score in zip(display.prefixes, display.mean, strict=True):
        of_d = results["mean_test_score"][results["param_prefixselector__n_components"] == d]
        assert score == pytest.approx(of_d.max())
    assert display.prefixes.tolist() == [2, 4, 6] and display.scores.shape == (3, 4)
    assert display.n_components == search.best_params_["prefixselector__n_components"]
    assert display.ax_.get_ylabel() == "negative mean squared error"


def test_other_searches_and_several_metrics():
    labels = (y > 0).astype(int)
    model = make_pipeline(PrefixSelector(), KNeighborsClassifier())
    grid = {"prefixselector__n_components": [2, 6]}
    search = GridSearchCV(model, grid, scoring=["accuracy", "roc_auc"], refit="roc_auc")
    display = PrefixCurveDisplay.from_estimator(search.fit(X, labels))
    assert_allclose(display.mean, search.cv_results_["mean_test_roc_auc"])
    assert display.ax_.get_ylabel().startswith("ROC AUC")
    search = RandomizedSearchCV(model, grid, n_iter=2, random_state=0).fit(X, labels)
    assert PrefixCurveDisplay.from_estimator(search).ax_.get_ylabel().startswith("accuracy")


def test_searches_that_leave_open_what_to_draw():
    model = make_pipeline(PrefixSelector(), Ridge())
    several = {"scoring": ["r2", "neg_mean_squared_error"]}
    for refit in (False, lambda results: 0):
        search = GridSearchCV(
            model, {"prefixselector__n_components": [2, 6]}, refit=refit, **several
        )
        with pytest.raises(ValueError, match="metrics r2, neg_mean_squared_error, and refit="):
            PrefixCurveDisplay.from_estimator(search.fit(X, y))
    search = GridSearchCV(model, {"prefixselector__n_components": [2, None]}).fit(X, y)
    with pytest.raises(ValueError, match="prefixselector__n_components has None"):
        PrefixCurveDisplay.from_estimator(search)
    halving = HalvingGridSearchCV(model, {"prefixselector__n_components": [2, 6]}, random_state=0)
    with pytest.raises(TypeError, match="on different numbers of rows"):
        PrefixCurveDisplay.from_estimator(halving.fit(X, y))


def test_one_metric_without_a_refit_or_with_a_rule_of_its_own():
    model = make_pipeline(PrefixSelector(), Ridge())
    grid = {"prefixselector__n_components": [2, 6]}
    search = GridSearchCV(model, grid, refit=False).fit(X, y)
    display = PrefixCurveDisplay.from_estimator(search)
    assert display.n_components == search.best_params_["prefixselector__n_components"]
    search = GridSearchCV(model, grid, refit=lambda results: 0).fit(X, y)
    assert PrefixCurveDisplay.from_estimator(search).n_components == 2


def test_stages_of_a_grid_search_are_those_of_what_the_selector_gets():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=NAMES)
    grid = {"prefixselector__n_components": [2, 3, 6]}
    search = GridSearchCV(make_pipeline(PrefixSelector(), Ridge()), grid).fit(frame, y)
    display = PrefixCurveDisplay.from_estimator(search, stage_names=["small", "large"])
    assert stage_marks(display.ax_) == {2: "small", 6: "large"}
    turned = make_pipeline(PCA(), PrefixSelector(), Ridge())
    display = PrefixCurveDisplay.from_estimator(GridSearchCV(turned, grid).fit(frame, y))
    assert display.stage_dims is None


def test_pipelines_classifiers_and_leave_one_out():
    labels = np.array(["a", "b"])[(y > 0).astype(int)]
    model = make_pipeline(
        StandardScaler(),
        PrefixRidgeClassifierCV(alphas=1.0, scoring=lambda model, X, y: model.score(X, y)),
    )
    display = PrefixCurveDisplay.from_estimator(model.fit(X, labels))
    assert display.ax_.get_ylabel() == "score"
    search = PrefixRidgeCV("all", cv="loo").fit(X, y)
    display = PrefixCurveDisplay.from_estimator(search)
    assert display.ax_.get_ylabel() == "negative mean squared error"
    assert display.ax_.get_xlabel().endswith("\nmean ± standard error over 40 splits")
    assert PrefixCurveDisplay.from_estimator(search, spread=None).band_ is None
    width = np.ptp(display.band_.get_paths()[0].vertices[:, 1])
    PrefixCurveDisplay.from_estimator(search, spread="std", ax=display.ax_)
    assert width < np.ptp(display.ax_.collections[-1].get_paths()[0].vertices[:, 1])


def test_one_split_and_styles():
    display = PrefixCurveDisplay.from_scores([1, 2], [[0.1], [0.2]])
    assert display.band_ is None
    assert (display.ax_.get_ylabel(), display.ax_.get_xlabel()) == ("score", "prefix (columns)")
    display.plot(line_kw={"color": "red", "marker": "s"}, spread=None)
    assert display.line_.get_color() == "red" and display.line_.get_marker() == "s"
    display = PrefixCurveDisplay.from_scores(
        [1, 2], np.eye(2), band_kw={"alpha": 0.5}, spread="std"
    )
    assert display.band_.get_alpha() == 0.5


def test_curves_of_several_spreads_each_say_which():
    first = PrefixCurveDisplay.from_scores([1, 2], np.eye(2), name="one")
    ax = first.ax_
    first.plot(ax, name="again")
    PrefixCurveDisplay.from_scores([1, 2], np.eye(2), ax=ax, spread=None)
    PrefixCurveDisplay.from_scores([1, 2], np.ones((2, 9)), ax=ax, spread="standard_error")
    assert ax.get_xlabel().split("\n")[1:] == [
        "mean ± standard deviation over 2 splits",
        "mean over 2 splits",
        "mean ± standard error over 9 splits",
    ]


@pytest.mark.parametrize("spread", ["std", "standard_error", None])
def test_nested_scores_and_baselines_beside_the_chosen_prefix(spread):
    nested, table = np.array([0.1, 0.3, 0.2]), np.array([0.5, 0.7])
    display = PrefixCurveDisplay.from_scores(
        [1, 2, 4],
        [[0.1, 0.2], [0.4, 0.6], [0.3, 0.3]],
        n_components=2,
        nested_scores=nested,
        baselines={"table": table, "known": 0.25},
        spread=spread,
    )
    line, caps, bars = display.nested_.lines
    assert line.get_xdata().tolist() == [2] and line.get_ydata() == pytest.approx(0.2)
    width = {"std": nested.std(), "standard_error": nested.std(ddof=1) / np.sqrt(3)}.get(spread)
    assert bool(caps) is (width is not None)
    if width is not None:
        [[(_, low), (_, high)]] = bars[0].get_segments()
        assert_allclose([low, high], [0.2 - width, 0.2 + width])
    assert [line.get_ydata()[0] for line in display.baselines_] == pytest.approx([0.6, 0.25])
    spans = [patch for patch in display.ax_.patches if patch.get_alpha() == 0.08]
    assert len(spans) == (width is not None)  # one score has no spread
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    expected = "nested: 0.200" + ("" if width is None else f" ± {width:.3f}")
    assert sorted(texts) == sorted([expected, "table", "known"])


def test_nested_scores_of_a_search():
    search = PrefixRidgeCV("all", alphas=[0.1, 100.0])
    nested = cross_val_score(search, X, y)
    display = PrefixCurveDisplay.from_estimator(
        search.fit(X, y), nested_scores=nested, baselines={"mean": 0.0}
    )
    [[d], [score]] = display.nested_.lines[0].get_data()
    assert (d, score) == (search.n_components_, pytest.approx(nested.mean()))
    assert display.baselines_[0].get_label() == "mean"


@pytest.mark.parametrize("size", [(4, 3), (6.4, 4.8)])
@pytest.mark.parametrize("layout", ["constrained", None])
def test_pictures_can_be_read_at_4_by_3_inches(size, layout):
    """The legend is below all that is drawn, and labels of ticks do not run into each other."""
    prefixes = [20, 40, 80, 160, 320, 400, 480, 560, 640, 960, 1280]
    scores = 0.5 + 0.1 * np.random.default_rng(1).normal(size=(11, 5))
    scores[prefixes.index(400)] = 0.9  # the choice is the best
    figure, ax = plt.subplots(figsize=size, layout=layout)
    for name, shift in [("reverse-distilled", 0.0), ("concatenation + PCA", 0.1)]:
        display = PrefixCurveDisplay.from_scores(
            prefixes,
            scores - shift,
            n_components=400,
            stage_dims=[320, 480, 640, 1280],
            stage_names=["esm2_8M", "esm2_35M", "esm2_150M", "esm2_650M"],
            nested_scores=[0.4, 0.5],
            baselines={"no language model": 0.6},
            name=name,
            ax=ax,
        )
    figure.canvas.draw()
    top = ax.get_legend().get_window_extent().y1
    lows = [line.get_ydata().min() for line in ax.lines if line.get_transform() == ax.transData]
    lows += [band.get_datalim(ax.transData).y0 for band in ax.collections]
    assert min(ax.transData.transform([(0, low) for low in lows])[:, 1]) > top
    assert ax.get_legend().get_window_extent().width <= ax.bbox.width
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert ax.get_xticklabels()[-1].get_text() == "1280"
    # The annotation of the choice is inside, and no tick is below the data.
    inside = [text.get_window_extent() for text in ax.texts if not text.get_gid()]
    assert max(box.y1 for box in inside) < ax.bbox.y1
    assert min(ax.get_yticks()) >= min(lows) - 0.1
    assert display.ax_ is ax


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"nested_scores": [0.1]}, "nested_scores are drawn at the chosen prefix, and none is"),
        ({"nested_scores": [], "n_components": 1}, r"nested_scores has shape \(0,\)"),
        ({"baselines": {"a": [[1.0]]}}, r"baselines\['a'\] has shape \(1, 1\)"),
        ({"prefixes": [1, 2, 3]}, r"scores has shape \(2, 2\), prefixes \(3,\)"),
        ({"scores": [0.1, 0.2]}, r"scores has shape \(2,\)"),
        ({"prefixes": [], "scores": np.empty((0, 2))}, r"scores has shape \(0, 2\)"),
        ({"prefixes": [2, 1]}, r"prefixes=\[2, 1\] do not ascend"),
        ({"stage_names": ["a"]}, "stage_names has 1 names, stage_dims 0 widths"),
        ({"stage_dims": [1, 2], "stage_names": ["a"]}, "1 names, stage_dims 2 widths"),
        ({"n_components": 3}, "n_components=3 is none of the prefixes"),
        ({"spread": "iqr"}, "spread='iqr'"),
    ],
)
def test_what_cannot_be_drawn(given, match):
    with pytest.raises(ValueError, match=match):
        PrefixCurveDisplay.from_scores(**{"prefixes": [1, 2], "scores": np.eye(2)} | given)


def test_what_is_no_search():
    with pytest.raises(TypeError, match="Ridge is no search over prefixes"):
        PrefixCurveDisplay.from_estimator(Ridge().fit(X, y))
    search = GridSearchCV(make_pipeline(PrefixSelector(), Ridge()), {"ridge__alpha": [1.0]})
    with pytest.raises(NotFittedError):
        PrefixCurveDisplay.from_estimator(search)
    with pytest.raises(ValueError, match="has 0 of prefixselector__n_components"):
        PrefixCurveDisplay.from_estimator(search.fit(X, y))
    with pytest.raises(NotFittedError):
        PrefixCurveDisplay.from_estimator(PrefixRidgeCV())


def test_import_needs_no_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from revdist_sklearn import PrefixCurveDisplay\n"
        "try: PrefixCurveDisplay.from_scores([1, 2], [[0.1], [0.2]])\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "revdist_sklearn[plot]"' in out.stdout
