import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV
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
    assert display.ax_.get_ylabel() == "R²\n(mean ± spread over 5 splits)"
    assert "prefix" in display.ax_.get_xlabel()
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
    assert display.ax_.get_ylabel().startswith("negative mean squared error\n")


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
    assert display.ax_.get_ylabel().startswith("score\n")
    search = PrefixRidgeCV("all", cv="loo").fit(X, y)
    display = PrefixCurveDisplay.from_estimator(search)
    expected = "negative mean squared error\n(mean ± standard error over 40 splits)"
    assert display.ax_.get_ylabel() == expected
    assert PrefixCurveDisplay.from_estimator(search, spread=None).band_ is None
    width = np.ptp(display.band_.get_paths()[0].vertices[:, 1])
    PrefixCurveDisplay.from_estimator(search, spread="std", ax=display.ax_)
    assert width < np.ptp(display.ax_.collections[-1].get_paths()[0].vertices[:, 1])


def test_one_split_and_styles():
    display = PrefixCurveDisplay.from_scores([1, 2], [[0.1], [0.2]])
    assert display.band_ is None
    assert display.ax_.get_ylabel() == "score"
    display.plot(line_kw={"color": "red", "marker": "s"}, spread=None)
    assert display.line_.get_color() == "red" and display.line_.get_marker() == "s"
    display = PrefixCurveDisplay.from_scores(
        [1, 2], np.eye(2), band_kw={"alpha": 0.5}, spread="std"
    )
    assert display.band_.get_alpha() == 0.5


@pytest.mark.parametrize(
    ("given", "match"),
    [
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
