"""Columns without penalty, against least squares over rows that carry the penalty."""

import pickle

import numpy as np
import pytest
from conftest import assert_same_search, prefix_grid_search
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, LeaveOneOut, StratifiedKFold
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.class_weight import compute_sample_weight

from revdist_sklearn import PrefixRidgeClassifierCV, PrefixRidgeCV
from revdist_sklearn.prefix import _ridge_path
from revdist_sklearn.prefix._ridge_path import centred_split, leave_one_out_path, ridge_path
from revdist_sklearn.prefix._search import resolve_prefixes

pytestmark = pytest.mark.filterwarnings("ignore:The chosen alpha")
ALPHAS = np.logspace(-3, 3, 4)
# Five folds: 80, 40 and 16 rows to fit.
SHAPES = [(100, 12), (50, 40), (20, 60)]


class AugmentedLeastSquares(RegressorMixin, BaseEstimator):
    """Least squares with a row of sqrt(alpha) for each penalised column."""

    def __init__(self, n_unpenalized=0, *, alpha=1.0, fit_intercept=True, solver=None):
        self.n_unpenalized = n_unpenalized
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.solver = solver

    def fit(self, X, y, sample_weight=None):
        w = np.ones(len(X)) if sample_weight is None else sample_weight
        Y, root = y.reshape(len(y), -1), np.sqrt(w)[:, None]
        mean, y_mean = np.zeros(X.shape[1]), np.zeros(Y.shape[1])
        if self.fit_intercept:
            mean, y_mean = (np.average(part, axis=0, weights=w) for part in (X, Y))
        penalty = np.sqrt(self.alpha) * np.eye(X.shape[1])[self.n_unpenalized :]
        rows = np.vstack([(X - mean) * root, penalty])
        targets = np.vstack([(Y - y_mean) * root, np.zeros((len(penalty), Y.shape[1]))])
        coef = np.linalg.lstsq(rows, targets, rcond=1e-13)[0]
        self.coef_, self.intercept_ = coef.T, y_mean - mean @ coef
        self.shape_ = y.shape[1:]
        return self

    def predict(self, X):
        return (X @ self.coef_.T + self.intercept_).reshape(len(X), *self.shape_)


class AugmentedClassifier(ClassifierMixin, BaseEstimator):
    """The same on targets of -1 and 1."""

    def __init__(
        self, n_unpenalized=0, *, alpha=1.0, fit_intercept=True, class_weight=None, solver=None
    ):
        self.n_unpenalized = n_unpenalized
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver

    def fit(self, X, y, sample_weight=None):
        w = np.ones(len(X)) if sample_weight is None else sample_weight
        w = w * compute_sample_weight(self.class_weight, y)
        binarizer = LabelBinarizer(neg_label=-1)
        targets = binarizer.fit_transform(y).astype(float)
        self.classes_ = binarizer.classes_
        self.inner_ = AugmentedLeastSquares(
            self.n_unpenalized, alpha=self.alpha, fit_intercept=self.fit_intercept
        ).fit(X, targets, w)
        return self

    def predict(self, X):
        decisions = self.inner_.predict(X)
        if decisions.shape[1] == 1:
            return self.classes_[(decisions[:, 0] > 0).astype(int)]
        return self.classes_[decisions.argmax(axis=1)]


def data(n, k, n_targets=None, seed=0, scores="free"):
    """Targets that follow three scores in units of their own, and some columns behind them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) * np.geomspace(2, 0.5, k) + rng.normal(size=k)
    X[:, :3] *= [100, 1, 0.01]
    if scores == "collinear":
        X[:, 1] = 3 - 0.02 * X[:, 0]
    if scores == "constant":
        X[:, 1] = 0.1
    if scores == "penalised too":
        X[:, 5] = 7 * X[:, 0] + X[:, 1]
    shape = (n,) if n_targets is None else (n, n_targets)
    y = X[:, :6] @ (
        rng.normal(size=(6, n_targets or 1)) / X[:, :6].std(axis=0).clip(0.01)[:, None]
    )
    return X, y.reshape(shape) + rng.normal(size=shape) + 3, rng.integers(1, 4, size=n) * 0.5


def grid_search(X, y, prefixes, q, alphas=ALPHAS, *, fit_intercept=True, **how):
    head = AugmentedLeastSquares(q, fit_intercept=fit_intercept)
    return prefix_grid_search(head, X, y, prefixes, alphas, **how)


SCORES = ["free", "collinear", "constant", "penalised too"]
# Every pair of two occurs.
FLAGS = [(False, False, False), (False, True, True), (True, False, True), (True, True, False)]


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize(("fit_intercept", "weighted", "scale"), FLAGS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_scores_and_choice_are_those_of_augmented_least_squares(
    n, k, fit_intercept, weighted, scale, scores
):
    X, y, w = data(n, k, scores=scores)
    w = w if weighted else None
    prefixes, alphas = [3, 4, k], ALPHAS[::2]
    how = {"cv": KFold(5, shuffle=True, random_state=0), "fit_intercept": fit_intercept}
    ours = PrefixRidgeCV(prefixes, alphas=alphas, scale=scale, n_unpenalized=3, **how)
    ours.fit(X, y, sample_weight=w)
    theirs, expected = grid_search(X, y, prefixes, 3, alphas, w=w, scale=scale, **how)
    assert_same_search(ours, theirs, expected)
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=0, atol=1e-8)


@pytest.mark.parametrize("q", [1, 14])
def test_up_to_two_fewer_than_the_rows(q):
    X, y, _ = data(20, 60)
    prefixes = [q, q + 1, 30, 60]
    ours = PrefixRidgeCV(prefixes, alphas=ALPHAS, n_unpenalized=q).fit(X, y)
    theirs, expected = grid_search(X, y, prefixes, q, cv=5)
    assert_same_search(ours, theirs, expected)


@pytest.mark.parametrize(("fit_intercept", "weighted"), [flags[:2] for flags in FLAGS])
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize(("n", "k"), [(40, 12), (12, 40), (20, 20)])
def test_all_forms(n, k, scores, fit_intercept, weighted):
    X, y, w = data(n + 7, k, n_targets=2, scores=scores)
    w = w[:n] if weighted else None
    widths = np.array([0, 1, k // 2, k - 3])
    split = centred_split(X[:n], y[:n], X[n:], w, fit_intercept, 3)
    expected = np.empty((7, len(widths), len(ALPHAS), 2))
    for i, d in enumerate(widths):
        for j, alpha in enumerate(ALPHAS):
            witness = AugmentedLeastSquares(3, alpha=alpha, fit_intercept=fit_intercept)
            witness.fit(X[:n, : 3 + d], y[:n], w)
            expected[:, i, j] = witness.predict(X[n:, : 3 + d])
    for form in ("primal", "dual", None):
        found = np.full_like(expected, np.nan)
        for part in ridge_path(split, widths, ALPHAS, form):
            assert np.isnan(found[:, part.prefixes, part.alphas]).all(), "a candidate twice"
            found[:, part.prefixes, part.alphas] = part.values
        atol = 1e-10 if form is None else 1e-8
        assert_allclose(found, expected, rtol=atol, atol=atol)


@pytest.mark.parametrize(("fit_intercept", "weighted"), [(False, True), (True, False)])
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize(("n", "k"), [(20, 10), (10, 20)])
def test_leave_one_out_is_that_of_n_fits(n, k, scores, fit_intercept, weighted):
    X, y, w = data(n, k, n_targets=2, scores=scores)
    w = w if weighted else None
    widths, alphas = np.array([0, 2, k - 3]), ALPHAS[::2]
    expected = np.empty((n, len(widths), len(alphas), 2))
    for train, test in LeaveOneOut().split(X):
        weights = None if w is None else w[train]
        for i, d in enumerate(widths):
            for j, alpha in enumerate(alphas):
                witness = AugmentedLeastSquares(3, alpha=alpha, fit_intercept=fit_intercept)
                witness.fit(X[train, : 3 + d], y[train], weights)
                expected[test, i, j] = witness.predict(X[test, : 3 + d])
    for form in ("primal", "dual", None):
        found = np.full_like(expected, np.nan)
        for part in leave_one_out_path(X, y, widths, alphas, w, fit_intercept, form, 3):
            found[part.rows, part.prefixes, part.alphas] = part.values
        atol = 1e-7 if form == "primal" else 1e-9
        assert_allclose(found, expected, rtol=atol, atol=atol)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize(("n", "k"), [(16, 9), (12, 18)])
def test_leave_one_out_scores(n, k, n_targets, weighted):
    X, y, w = data(n, k, n_targets)
    w[3] = 0
    w = w if weighted else None
    ours = PrefixRidgeCV([3, 4, k], alphas=ALPHAS, cv="loo", n_unpenalized=3)
    ours.fit(X, y, sample_weight=w)
    how = {"cv": LeaveOneOut(), "scoring": "neg_mean_squared_error"}
    theirs, expected = grid_search(X, y, [3, 4, k], 3, w=w, **how)
    assert_same_search(ours, theirs, expected, atol=1e-8)


def test_a_row_that_alone_has_an_unpenalised_column_is_left_out_by_a_fit_without_it():
    X, y, _ = data(14, 8)
    X[:, 1] = np.arange(14) == 5
    ours = PrefixRidgeCV([3, 8], alphas=ALPHAS, cv="loo", n_unpenalized=3).fit(X, y)
    how = {"cv": LeaveOneOut(), "scoring": "neg_mean_squared_error"}
    _, expected = grid_search(X, y, [3, 8], 3, **how)
    assert_allclose(ours.cv_scores_, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize(("n", "k"), [(60, 12), (24, 40)])
def test_classes(n, k, class_weight, fit_intercept, n_classes):
    X, y, w = data(n, k)
    y = np.array(["a", "b", "c"])[np.searchsorted(np.quantile(y, [0.4, 0.7][: n_classes - 1]), y)]
    how = {"cv": StratifiedKFold(4), "scoring": None}
    heads = {"fit_intercept": fit_intercept, "class_weight": class_weight}
    prefixes = [2, 3, k]
    ours = PrefixRidgeClassifierCV(prefixes, alphas=ALPHAS, n_unpenalized=2, **heads, **how)
    ours.fit(X, y, sample_weight=w)
    head = AugmentedClassifier(2, **heads)
    theirs, expected = prefix_grid_search(head, X, y, prefixes, ALPHAS, w=w, **how)
    assert_same_search(ours, theirs, expected)
    best = theirs.best_estimator_[-1].inner_
    n_rows = 1 if n_classes == 2 else 3
    assert ours.coef_.shape == (n_rows, ours.n_components_)
    assert_allclose(ours.coef_, best.coef_, rtol=1e-7, atol=1e-9)
    assert_allclose(ours.intercept_, best.intercept_, rtol=1e-7, atol=1e-7)
    assert_array_equal(ours.predict(X), theirs.predict(X))


def test_without_unpenalised_columns_nothing_is_projected(monkeypatch):
    monkeypatch.setattr(_ridge_path, "_projected", None)  # not called
    X, y, _ = data(30, 8)
    for cv in (5, "loo"):
        plain = PrefixRidgeCV("all", alphas=ALPHAS, cv=cv).fit(X, y)
        zero = PrefixRidgeCV("all", alphas=ALPHAS, cv=cv, n_unpenalized=0).fit(X, y)
        assert_array_equal(plain.cv_scores_, zero.cv_scores_)
        ridge = Ridge(plain.alpha_, solver="cholesky").fit(X[:, : plain.n_components_], y)
        assert_allclose(zero.coef_, ridge.coef_, rtol=1e-12)


@pytest.mark.parametrize("n_targets", [None, 1, 3])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_shapes_are_those_without(n_targets, fit_intercept):
    X, y, _ = data(30, 8, n_targets)
    how = {"alphas": 1.0, "fit_intercept": fit_intercept}
    for d in (3, 8):
        plain, ours = (PrefixRidgeCV([d], n_unpenalized=q, **how).fit(X, y) for q in (0, 3))
        for name in ("coef_", "intercept_"):
            assert np.shape(getattr(ours, name)) == np.shape(getattr(plain, name))
            assert type(getattr(ours, name)) is type(getattr(plain, name))
        assert ours.predict(X).shape == plain.predict(X).shape
    everything = PrefixRidgeCV([8], n_unpenalized=8, **how).fit(X, y)
    least_squares = LinearRegression(fit_intercept=fit_intercept).fit(X, y)
    expected = least_squares.predict(X).reshape(everything.predict(X).shape)
    assert_allclose(everything.predict(X), expected, atol=1e-9)


def test_a_prefix_of_unpenalised_columns_alone_needs_no_penalty(recwarn):
    X, y, _ = data(40, 8)
    X[:, 3:] = np.random.default_rng(1).normal(size=(40, 5))
    y = X[:, 0] + X[:, 1]
    search = PrefixRidgeCV([3, 8], alphas=ALPHAS, n_unpenalized=3).fit(X, y)
    assert search.n_components_ == 3 and search.alpha_ == ALPHAS[0]
    assert not [w for w in recwarn if "The chosen alpha" in str(w.message)]
    assert_allclose(search.cv_scores_[0], search.cv_scores_[0, :1].repeat(4, axis=0), rtol=0)
    assert search.best_score_ == pytest.approx(1, abs=1e-12)


def test_units_of_unpenalised_columns_do_not_matter():
    X, y, _ = data(30, 8)
    plain = PrefixRidgeCV("all", alphas=ALPHAS, n_unpenalized=3).fit(X, y)
    for unit in (1e-160, 1e-9, 1e9, 1e160):
        scaled = X * np.where(np.arange(8) < 3, unit, 1.0)
        ours = PrefixRidgeCV("all", alphas=ALPHAS, n_unpenalized=3).fit(scaled, y)
        assert_allclose(ours.cv_scores_, plain.cv_scores_, rtol=1e-9)
        assert_allclose(ours.predict(scaled), plain.predict(X), rtol=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6])
def test_constant_and_repeated_columns_change_nothing(constant):
    X, y, w = data(30, 8)
    idle = np.column_stack([np.full(30, constant), X[:, 0], -2 * X[:, 0] + 5, X[:, 2]])
    for cv in (5, "loo"):
        ours = PrefixRidgeCV([7, 12], alphas=ALPHAS, cv=cv, n_unpenalized=7)
        plain = PrefixRidgeCV([3, 8], alphas=ALPHAS, cv=cv, n_unpenalized=3)
        ours.fit(np.hstack([idle, X]), y, sample_weight=w)
        plain.fit(X, y, sample_weight=w)
        assert_allclose(ours.cv_scores_, plain.cv_scores_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit", [1.0, 1e9])
def test_what_is_left_of_a_penalised_copy_is_no_column(unit):
    """Rounding, which a small penalty beside a large unit would make a column of."""
    X, y, _ = data(30, 8)
    X[:, :3] *= unit
    copies = np.column_stack([X[:, 0], X[:, 0] - 3 * X[:, 1]])
    plain = PrefixRidgeCV([3], alphas=1e-6, n_unpenalized=3).fit(X, y)
    ours = PrefixRidgeCV([5], alphas=1e-6, n_unpenalized=3)
    ours.fit(np.hstack([X[:, :3], copies]), y)
    assert_allclose(ours.cv_scores_, plain.cv_scores_, rtol=1e-9)


def test_constants_but_for_rounding_are_constants():
    X, y, w = data(30, 8)
    idle = np.where(np.arange(30) % 3, 0.1 + 0.2, 0.3)[:, None]
    ours = PrefixRidgeCV([4, 9], alphas=ALPHAS, n_unpenalized=4)
    plain = PrefixRidgeCV([3, 8], alphas=ALPHAS, n_unpenalized=3)
    ours.fit(np.hstack([idle, X]), y, sample_weight=w)
    plain.fit(X, y, sample_weight=w)
    assert_allclose(ours.cv_scores_, plain.cv_scores_, rtol=1e-9)


@pytest.mark.parametrize("d", [2, 8])
@pytest.mark.parametrize("cv", [None, "loo"])
def test_constants_are_judged_by_rows_that_count(cv, d):
    X, y, w = data(30, 8)
    X[:, 1] = np.where(np.arange(30) % 3, 0.1 + 0.2, 0.3)
    X[0, 1] = 7.0
    w[0] = 0
    without = list(KFold(4).split(X[1:]))
    splits = [(np.append(train + 1, 0), test + 1) for train, test in without]
    ours = PrefixRidgeCV([d], alphas=1.0, cv=cv or splits, n_unpenalized=2)
    plain = PrefixRidgeCV([d], alphas=1.0, cv=cv or without, n_unpenalized=2)
    ours.fit(X, y, sample_weight=w)
    plain.fit(X[1:], y[1:], sample_weight=w[1:])
    assert_allclose(ours.coef_, plain.coef_, rtol=1e-9)
    assert_allclose(ours.cv_scores_[..., -plain.n_splits_ :], plain.cv_scores_, rtol=1e-9)
    assert_allclose(ours.noise_variance_, plain.noise_variance_, rtol=1e-9)


def test_what_is_left_of_a_column_nearly_in_the_span_is_orthogonal_to_it():
    X, y, w = data(30, 8)
    X[:, 5] = 7 * X[:, 0] + X[:, 1] + 1e-6 * X[:, 5]
    split = centred_split(X, y[:, None], X[:1], w, True, 3)
    assert split.N.shape == (30, 4)
    assert_allclose(split.N.T @ split.N, np.eye(4), atol=1e-14)
    directions = split.X / np.linalg.norm(split.X, axis=0)
    assert np.abs(split.N[:, 1:].T @ directions).max() < 1e-14


def test_leave_one_out_takes_the_primal_form_below_the_rows_left_alone(monkeypatch):
    asked, choose_form = [], _ridge_path.choose_form

    def spy(*args, **how):
        asked.append(how["interpolates"])
        return choose_form(*args, **how)

    monkeypatch.setattr(_ridge_path, "choose_form", spy)
    X, y, _ = data(30, 8, n_targets=1, scores="collinear")
    list(leave_one_out_path(X, y, np.array([5]), ALPHAS, n_unpenalized=3))
    assert asked == [30 - 1 - 2]  # the constant, and three columns of rank two


# Which prefixes


NAMES = [
    *("s__a__0", "s__b__0"),
    *(f"e__rd_a__{i}" for i in range(3)),
    *(f"e__rd_b__{i}" for i in range(4)),
]


@pytest.mark.parametrize(
    ("prefixes", "names", "q", "expected"),
    [
        (None, NAMES, 2, [2, 5, 9]),
        (None, NAMES, 1, [1, 2, 5, 9]),
        (None, NAMES, 3, [5, 9]),
        (None, None, 2, [2, 3, 4, 6, 9]),
        (None, None, 9, [9]),
        ("all", None, 7, [7, 8, 9]),
        ("all", None, 9, [9]),
        (2, None, 2, [6, 9]),
        (1, None, 9, [9]),
        ([4, 2], None, 2, [2, 4]),
    ],
)
def test_prefixes_begin_with_the_unpenalised_columns(prefixes, names, q, expected):
    assert resolve_prefixes(prefixes, 9, names, q).tolist() == expected


@pytest.mark.parametrize(
    ("prefixes", "q", "match"),
    [
        ([2, 9], 3, r"prefixes has 2, .*n_unpenalized=3 are in every prefix; .*\[3, 9\]"),
        (8, 3, r"has 6 columns beside the 3 that are not penalised; .* \[1, 6\]"),
        (None, 10, r"n_unpenalized=10 cannot be of X, which has 9 columns; .*\[0, 9\]"),
        (None, True, "n_unpenalized=True cannot be"),
        (None, -1, "n_unpenalized"),
        (None, 1.5, "n_unpenalized"),
        (None, "all", "n_unpenalized"),
    ],
)
def test_prefixes_that_cannot_be(prefixes, q, match):
    X, y, _ = data(20, 9)
    for search in (PrefixRidgeCV, PrefixRidgeClassifierCV):
        targets = y > 3 if search is PrefixRidgeClassifierCV else y
        with pytest.raises(ValueError, match=match):
            search(prefixes, n_unpenalized=q).fit(X, targets)


def test_copies_and_narrow_heads_go_on_as_before():
    pd = pytest.importorskip("pandas")
    X, y, _ = data(40, 9)
    names = [*("s__a__0", "s__b__0"), *(f"e__rd_a__{i}" for i in range(3))]
    names += [f"e__rd_b__{i}" for i in range(4)]
    frame = pd.DataFrame(X, columns=names)
    search = PrefixRidgeCV(alphas=ALPHAS, n_unpenalized=2).fit(frame, y)
    assert search.prefixes_.tolist() == [2, 5, 9]
    assert clone(search).n_unpenalized == 2
    for again in (pickle.loads(pickle.dumps(search)), clone(search).fit(frame, y)):
        assert_array_equal(again.predict(frame), search.predict(frame))
    narrow = search.with_n_features(search.n_components_)
    part = frame.iloc[:, : search.n_components_]
    assert_array_equal(narrow.predict(part), search.predict(frame))
