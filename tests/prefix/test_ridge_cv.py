import pickle
import warnings

import numpy as np
import pytest
from conftest import assert_alike, assert_same_search, prefix_grid_search
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import LinAlgWarning
from scipy.stats import spearmanr
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import make_scorer, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    ShuffleSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from revdist_sklearn import PrefixRidgeCV
from revdist_sklearn.prefix import _ridge_cv, _search

pytestmark = pytest.mark.filterwarnings("ignore:The chosen alpha")
ALPHAS = np.logspace(-3, 3, 4)
rank_correlation = make_scorer(lambda y, p: spearmanr(y, p).statistic)


@parametrize_with_checks([PrefixRidgeCV()])
def test_common_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [
        PrefixRidgeCV("all", cv="loo"),
        PrefixRidgeCV(scale=True, one_standard_error=True, fit_intercept=False),
        PrefixRidgeCV(n_unpenalized=1),
        PrefixRidgeCV(n_unpenalized=1, cv="loo"),
    ]
)
def test_common_checks_of_other_parameters(estimator, check):
    check(estimator)


def data(n, k, n_targets=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) * np.geomspace(2, 0.5, k) + rng.normal(size=k)
    shape = (n,) if n_targets is None else (n, n_targets)
    y = (X[:, :3] @ rng.normal(size=(3, n_targets or 1))).reshape(shape)
    return X, y + rng.normal(size=shape) + 3, rng.integers(1, 4, size=n) * 0.5


def grid_search(X, y, prefixes, alphas=ALPHAS, *, fit_intercept=True, **how):
    return prefix_grid_search(Ridge(fit_intercept=fit_intercept), X, y, prefixes, alphas, **how)


def assert_same(ours, theirs, scores, X, atol=1e-10):
    assert_same_search(ours, theirs, scores, atol=atol)
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=0, atol=100 * atol)


# Five folds: 80, 40 and 16 rows to fit.
SHAPES = [(100, 12), (50, 40), (20, 60)]


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_scores_and_choice_are_those_of_grid_search(n, k, fit_intercept, weighted, scale):
    X, y, w = data(n, k)
    w = w if weighted else None
    prefixes = [1, 3, k // 2, k]
    parameters = {"cv": KFold(5, shuffle=True, random_state=0), "fit_intercept": fit_intercept}
    ours = PrefixRidgeCV(prefixes, alphas=ALPHAS, scale=scale, **parameters)
    ours.fit(X, y, sample_weight=w)
    assert_same(ours, *grid_search(X, y, prefixes, w=w, scale=scale, **parameters), X)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_float32_is_as_close_as_scikit_learn_is(n, k):
    X, y, _ = data(n, k)
    X = X.astype(np.float32)
    prefixes, alphas = [1, 3, k // 2, k], ALPHAS[1:]
    ours = PrefixRidgeCV(prefixes, alphas=alphas, cv=4).fit(X, y)
    _, theirs = grid_search(X, y, prefixes, alphas, cv=4)
    assert_allclose(ours.cv_scores_, theirs, rtol=0, atol=1e-5)
    in_float64 = PrefixRidgeCV(prefixes, alphas=alphas, cv=4).fit(X.astype(np.float64), y)
    assert_array_equal(ours.cv_scores_, in_float64.cv_scores_)
    assert_array_equal(ours.coef_, in_float64.coef_)


@pytest.mark.parametrize(
    "scoring", [None, "r2", "neg_mean_squared_error", "neg_mean_absolute_error", rank_correlation]
)
@pytest.mark.parametrize("n_targets", [None, 1, 3])
def test_any_scorer_and_several_targets(scoring, n_targets):
    if scoring is rank_correlation and n_targets == 3:
        pytest.skip("the rank correlation of one target")
    X, y, _ = data(40, 12, n_targets)
    ours = PrefixRidgeCV("all", alphas=ALPHAS, cv=3, scoring=scoring).fit(X, y)
    assert_same(ours, *grid_search(X, y, range(1, 13), cv=3, scoring=scoring), X)
    theirs = Ridge(alpha=ours.alpha_).fit(X[:, : ours.n_components_], y)
    assert_allclose(ours.coef_, theirs.coef_)
    assert_allclose(ours.intercept_, theirs.intercept_)
    expected = r2_score(y, ours.predict(X))
    assert (ours.score(X, y) == pytest.approx(expected)) == (scoring in (None, "r2"))


def test_any_splitter_and_groups():
    X, y, _ = data(40, 12)
    groups = np.arange(40) // 4
    splitters = [GroupKFold(4), ShuffleSplit(3, test_size=9, random_state=0)]
    splitters += [list(KFold(3).split(X)), [(np.arange(40) < 30, np.arange(40) >= 30)]]
    for cv in splitters:
        given = {"groups": groups} if isinstance(cv, GroupKFold) else {}
        ours = PrefixRidgeCV([2, 12], alphas=ALPHAS, cv=cv).fit(X, y, **given)
        assert_same(ours, *grid_search(X, y, [2, 12], cv=cv, **given), X)
        assert ours.n_splits_ == ours.cv_scores_.shape[2]
    with pytest.raises(ValueError, match="groups"):
        PrefixRidgeCV(cv=GroupKFold(4)).fit(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        PrefixRidgeCV(cv=GroupKFold(4)).fit(X, y, groups=groups[:-1])


@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("n", "k"), [(14, 8), (10, 16)])
def test_leave_one_out(n, k, fit_intercept, weighted, n_targets):
    X, y, w = data(n, k, n_targets)
    if weighted:
        w[3] = 0
    w = w if weighted else None
    prefixes = [1, k // 2, k]
    parameters = {"fit_intercept": fit_intercept}
    ours = PrefixRidgeCV(prefixes, alphas=ALPHAS, cv="loo", **parameters)
    ours.fit(X, y, sample_weight=w)
    parameters |= {"cv": LeaveOneOut(), "scoring": "neg_mean_squared_error"}
    theirs, scores = grid_search(X, y, prefixes, w=w, **parameters)
    assert_same(ours, theirs, scores, X, atol=1e-8)
    assert ours.n_splits_ == n
    assert ours.score(X, y) == r2_score(y, ours.predict(X))


def test_leave_one_out_has_its_limits():
    X, y, _ = data(20, 5)
    with pytest.raises(ValueError, match="cannot be used with cv='loo', whose splits have one"):
        PrefixRidgeCV(cv="loo", scoring="r2").fit(X, y)
    with pytest.raises(ValueError, match="scale=True has no closed form for cv='loo'"):
        PrefixRidgeCV(cv="loo", scale=True).fit(X, y)
    with pytest.raises(ValueError, match="None of the 16 mean scores"):
        PrefixRidgeCV(alphas=ALPHAS, cv=LeaveOneOut(), scoring="r2").fit(X, y)


def test_leave_one_out_of_scikit_learn_is_loo_where_it_has_a_closed_form(monkeypatch):
    X, y, _ = data(20, 5)
    asked = []
    path = _search.leave_one_out_path
    monkeypatch.setattr(
        _search, "leave_one_out_path", lambda *args: asked.append(1) or path(*args)
    )
    by_name = PrefixRidgeCV("all", alphas=ALPHAS, cv="loo").fit(X, y)
    by_class = PrefixRidgeCV("all", alphas=ALPHAS, cv=LeaveOneOut()).fit(X, y)
    assert_array_equal(by_class.cv_scores_, by_name.cv_scores_)
    assert len(asked) == 2
    scaled = {"scale": True, "scoring": "neg_mean_squared_error"}
    folds = PrefixRidgeCV("all", alphas=ALPHAS, cv=LeaveOneOut(), **scaled).fit(X, y)
    assert_same(folds, *grid_search(X, y, range(1, 6), cv=LeaveOneOut(), **scaled), X)
    assert len(asked) == 2


def test_a_column_that_is_constant_in_training():
    X, y, _ = data(30, 6)
    X[:, 2] = 0
    X[25:, 2] = 1
    ours = PrefixRidgeCV("all", alphas=[1.0], cv=KFold(5), scale=True).fit(X, y)
    _, scores = grid_search(X, y, range(1, 7), [1.0], cv=KFold(5), scale=True)
    assert_allclose(ours.cv_scores_, scores, rtol=0, atol=1e-10)


def test_zero_columns_are_not_taken():
    """Directions that a distiller found empty give equal scores: the smaller prefix wins."""
    X, y, _ = data(60, 4)
    X = np.hstack([X, np.zeros((60, 3))])
    search = PrefixRidgeCV([4, 5, 7], alphas=[0.1, 1.0, 10.0]).fit(X, y)
    assert search.n_components_ == 4


def test_one_standard_error_takes_a_smaller_prefix():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 30))
    y = X @ np.geomspace(3, 0.1, 30) + rng.normal(size=60)
    best = PrefixRidgeCV("all", alphas=ALPHAS).fit(X, y)
    small = clone(best).set_params(one_standard_error=True).fit(X, y)
    assert_array_equal(best.cv_scores_, small.cv_scores_)
    p, a = (int(i[0]) for i in np.nonzero(best.cv_scores_.mean(axis=2) == best.best_score_))
    error = best.cv_scores_[p, a].std(ddof=1) / np.sqrt(5)
    assert small.n_components_ < best.n_components_
    assert best.best_score_ - error <= small.best_score_ < best.best_score_
    smaller = best.cv_scores_.mean(axis=2)[: small.n_components_ - 1]
    assert (smaller < best.best_score_ - error).all()


@pytest.mark.parametrize(
    ("alphas", "word"), [([1e3, 1e4, 1e5], "smallest"), ([1e-5, 1e-4, 1e-3], "largest")]
)
def test_an_alpha_at_the_edge_warns(alphas, word):
    X, y, _ = data(60, 30)
    with pytest.warns(UserWarning, match=f"is the {word} of the grid"):
        PrefixRidgeCV([30], alphas=alphas).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PrefixRidgeCV([30], alphas=alphas[0]).fit(X, y)
        PrefixRidgeCV([30], alphas=[1e-3, 10.0, 1e5]).fit(X, y)


def test_ill_conditioned_columns_warn_once_and_are_finite():
    rng = np.random.default_rng(0)
    X, y, _ = data(40, 8)
    X = (X * np.geomspace(1e7, 1e-3, 8)) @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    with pytest.warns(LinAlgWarning, match=r"Ill-cond.* alphas 1e-06, 0\.0001: ") as caught:
        search = PrefixRidgeCV("all", alphas=[1e-6, 1e-4, 1e8]).fit(X, y)
    assert len([w for w in caught if w.category is LinAlgWarning]) == 1
    _, scores = grid_search(X, y, range(1, 9), search.alphas_, cv=5)
    assert_allclose(search.cv_scores_, scores, rtol=0, atol=1e-5)
    assert np.isfinite(search.coef_).all()


@pytest.mark.parametrize(
    ("alphas", "match"),
    [
        ([0.1, 0.0], "alphas has 0; penalties are finite and above 0"),
        ([0.1, np.nan], "alphas has nan"),
        ([], "no one-dimensional array of numbers"),
        ([[1.0]], "no one-dimensional array of numbers"),
        (-1.0, "alphas"),
    ],
)
def test_alphas_that_cannot_be(alphas, match):
    X, y, _ = data(20, 5)
    with pytest.raises(ValueError, match=match):
        PrefixRidgeCV(alphas=alphas).fit(X, y)


def test_weights_that_cannot_be():
    X, y, w = data(20, 5)
    w[:] = 1
    w[4:] = 0
    with pytest.raises(
        ValueError, match="Split 0 has 0 training rows of positive weight; it needs 1"
    ):
        PrefixRidgeCV().fit(X, y, sample_weight=w)
    with pytest.raises(ValueError, match="weight"):
        PrefixRidgeCV().fit(X, y, sample_weight=0 * w)
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        PrefixRidgeCV().fit(X, y, sample_weight=w - 1)


@pytest.mark.parametrize("alphas", [[1e-6], np.geomspace(1e-6, 1e-5, 20)])
def test_the_final_fit_is_as_exact_as_the_scores(alphas):
    """Targets in a direction that the Gram matrix loses."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(60, 10))
    X = (Z * np.geomspace(1e6, 1e-2, 10)) @ np.linalg.qr(rng.normal(size=(100, 100)))[0][:10]
    with pytest.warns(LinAlgWarning):
        search = PrefixRidgeCV([100], alphas=alphas).fit(X, Z[:, -1] + 5)
    assert search.best_score_ > 0.999 and search.score(X, Z[:, -1] + 5) > 0.999


def test_weights_for_leave_one_out():
    X, y, _ = data(20, 5)
    with pytest.raises(ValueError, match=r"cv='loo' has 1 training rows .* it needs 2 or more"):
        PrefixRidgeCV(cv="loo").fit(X, y, sample_weight=np.eye(20)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_targets_of_lower_precision(dtype):
    X, y, _ = data(60, 6)
    y = (y + 100).astype(dtype)
    ours = PrefixRidgeCV("all", alphas=ALPHAS).fit(X, y)
    _, scores = grid_search(X, y.astype(np.float64), range(1, 7))
    assert_allclose(ours.cv_scores_, scores, rtol=0, atol=1e-10)


def test_splits_that_cannot_be():
    X, y, _ = data(20, 5)
    rows = np.arange(20)
    with pytest.raises(ValueError, match=r"cv=\[\] gives no splits"):
        PrefixRidgeCV(cv=[]).fit(X, y)
    with pytest.raises(ValueError, match="Split 1 of cv has no test rows"):
        PrefixRidgeCV(cv=[(rows[:9], rows[9:]), (rows, rows[:0])]).fit(X, y)
    with pytest.raises(ValueError, match="Split 0 of cv has no training rows"):
        PrefixRidgeCV(cv=[(rows[:0], rows)]).fit(X, y)


def test_undefined_scores_warn_and_rank_last():
    X, y, _ = data(30, 4)
    calls = iter(range(100))

    def undefined_once(model, X, y):
        return np.nan if next(calls) == 0 else r2_score(y, model.predict(X))

    with pytest.warns(UserWarning, match="1 candidates have a score of NaN"):
        search = PrefixRidgeCV([1, 4], alphas=1.0, cv=3, scoring=undefined_once).fit(X, y)
    assert np.isnan(search.cv_scores_[0, 0, 0]) and search.n_components_ == 4


def test_splitters_and_scorers_get_frames():
    pd = pytest.importorskip("pandas")
    X, y, _ = data(30, 4)
    frame = pd.DataFrame(X, columns=list("abcd"))

    class ByColumn(KFold):
        def split(self, X, y=None, groups=None):
            return super().split(X["a"])

    def scorer(model, X, y):
        return r2_score(y, model.predict(X)) + len(X["b"])

    search = PrefixRidgeCV("all", alphas=1.0, cv=ByColumn(3), scoring=scorer).fit(frame, y)
    plain = PrefixRidgeCV("all", alphas=1.0, cv=3).fit(X, y)
    assert_allclose(search.cv_scores_, plain.cv_scores_ + 10)
    assert search.score(frame, y) == pytest.approx(plain.score(X, y) + 30)


def test_a_scorer_may_use_the_estimators_own_score():
    X, y, _ = data(30, 4)
    search = PrefixRidgeCV("all", alphas=1.0, scoring=lambda model, X, y: model.score(X, y))
    plain = PrefixRidgeCV("all", alphas=1.0).fit(X, y)
    assert_allclose(search.fit(X, y).cv_scores_, plain.cv_scores_)
    assert search.score(X, y) == plain.score(X, y)


def test_unknown_scoring():
    X, y, _ = data(20, 5)
    with pytest.raises(ValueError, match="'scoring' parameter"):
        PrefixRidgeCV(scoring="spearman").fit(X, y)
    for scoring in (["r2"], {"r2": "r2"}, 3):
        with pytest.raises(ValueError, match="'scoring' parameter of PrefixRidgeCV must be a str"):
            PrefixRidgeCV(scoring=scoring).fit(X, y)
    for cv in (None, "loo"):
        search = PrefixRidgeCV(scoring=r2_score, cv=cv)
        with pytest.raises(ValueError, match="looks like it is a metric function"):
            search.fit(X, y)
    search = PrefixRidgeCV(alphas=ALPHAS).fit(X, y).set_params(scoring=r2_score)
    with pytest.raises(ValueError, match="looks like it is a metric function"):
        search.score(X, y)


@pytest.mark.parametrize(
    "value", [0.5, np.array(0.5), np.array([0.5]), np.float32(0.5), np.int64(2), 3, True]
)
def test_numbers_of_any_kind_are_scores(value):
    X, y, _ = data(20, 5)
    how = {"cv": 2, "scoring": lambda model, X, y: value}
    search = PrefixRidgeCV([2, 5], alphas=ALPHAS, **how).fit(X, y)
    _, scores = grid_search(X, y, [2, 5], **how)
    assert_array_equal(search.cv_scores_, scores)


@pytest.mark.parametrize("value", ["high", None, np.array([0.5, 0.6]), [0.5]])
def test_what_is_no_number_is_no_score(value):
    X, y, _ = data(20, 5)
    messages = []
    how = {"cv": 2, "scoring": Scorer(lambda model, X, y: value)}
    for fit in (
        PrefixRidgeCV([2], alphas=ALPHAS, **how).fit,
        lambda *xy: grid_search(*xy, [2], **how),
    ):
        with pytest.raises(ValueError, match="scoring must return a number, got") as caught:
            fit(X, y)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with pytest.raises(ValueError, match=r"must return a number, got {'a': 1} \(<class 'dict'>\)"):
        PrefixRidgeCV(scoring=lambda model, X, y: {"a": 1}).fit(X, y)


class Scorer:
    """A scorer that is always printed alike."""

    def __init__(self, function):
        self.function = function

    def __call__(self, model, X, y):
        return self.function(model, X, y)

    def __repr__(self):
        return "Scorer()"


@pytest.mark.filterwarnings("ignore:.*candidates have a score of NaN")
@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_a_scorer_that_fails_for_some_candidates_gives_nan():
    """As in GridSearchCV: it warns, and such candidates rank last."""
    X, y, _ = data(30, 6)

    def scorer(model, X, y):
        error = np.abs(y - model.predict(X)).max()
        if error < 2.5:
            raise RuntimeError("too good to be true")
        return -error

    how = {"cv": 3, "scoring": scorer}
    with pytest.warns(UserWarning, match="Scoring failed.*set to nan") as caught:
        search = PrefixRidgeCV("all", alphas=ALPHAS, **how).fit(X, y)
    assert any("RuntimeError: too good to be true" in str(w.message) for w in caught)
    with pytest.warns(UserWarning, match="Scoring failed.*set to nan"):
        theirs, scores = grid_search(X, y, range(1, 7), **how)
    assert 0 < np.isnan(scores).any(axis=2).sum() < 24
    assert_allclose(search.cv_scores_, scores, rtol=0, atol=1e-10)
    assert search.n_components_ == theirs.best_params_["prefix__n_components"]
    assert search.alpha_ == theirs.best_params_["ridge__alpha"]


def test_a_scorer_that_fails_for_all_candidates_is_an_error():
    X, y, _ = data(20, 5)
    search = PrefixRidgeCV(
        [2, 5], alphas=1.0, cv=3, scoring=lambda model, X, y: model.predict(X[:2]).sum()
    )
    with (
        pytest.warns(UserWarning, match="Scoring failed"),
        pytest.raises(
            ValueError,
            match=r"failed for all 2 candidates.* 3 splits.*ValueError\(.*other rows than",
        ) as caught,
    ):
        search.fit(X, y)
    assert isinstance(caught.value.__cause__, ValueError)
    assert not hasattr(search, "coef_")


class Recording(KFold):
    """A splitter that keeps what it is given; the scorer beside it does the same."""

    def __init__(self, n_splits=3):
        super().__init__(n_splits)
        self.seen = []

    def split(self, X, y=None, groups=None):
        self.seen.append((X, y))
        return super().split(X, y, groups)

    def score(self, model, X, y):
        self.seen.append((X, y, model.predict(X)))
        return -float(np.abs(np.ravel(y) - np.ravel(model.predict(X))).max())


def as_given(kind, X, y):
    if kind == "lists":
        return X.tolist(), y.tolist()
    if kind == "integers":
        return np.rint(10 * X).astype(int), np.rint(y).astype(np.int32)
    if kind == "column":
        return X.astype(np.float32), y[:, None]
    pd = pytest.importorskip("pandas")
    index = np.arange(100, 100 + len(y))
    frame = pd.DataFrame(X, index=index, columns=list("abcd"))
    if kind == "frames":
        return frame, pd.DataFrame({"u": y, "v": -y}, index=index)
    return frame, pd.Series(y, index=index, name="target")


@pytest.mark.parametrize("kind", ["lists", "integers", "column", "series", "frames"])
def test_splitters_and_scorers_get_what_was_given(kind):
    X, y, _ = data(12, 4)
    X, y = as_given(kind, X, y)
    ours, theirs = Recording(), Recording()
    PrefixRidgeCV([4], alphas=[1.0], cv=ours, scoring=ours.score).fit(X, y)
    grid_search(X, y, [4], [1.0], cv=theirs, scoring=theirs.score)
    assert len(ours.seen) == len(theirs.seen) == 4
    for one, other in zip(ours.seen, theirs.seen, strict=True):
        for part, its in zip(one[:2], other[:2], strict=True):
            assert_alike(part, its)
        assert np.shape(one[2:]) == np.shape(other[2:])


def test_targets_of_another_length_are_an_error():
    X, y, _ = data(20, 5, n_targets=2)
    search = PrefixRidgeCV(alphas=ALPHAS).fit(X, y)
    for scoring in ("r2", lambda model, X, y: float(np.mean(model.predict(X) - y))):
        search.set_params(scoring=scoring)
        for wrong in (y.T.ravel(), y.ravel().tolist(), y[:1], np.vstack([y, y])):
            with pytest.raises(ValueError, match="inconsistent numbers of samples"):
                search.score(X, wrong)
            with pytest.raises(ValueError, match="inconsistent numbers of samples"):
                search.fit(X, wrong)
    search.set_params(scoring="r2").fit(X, y)
    with pytest.raises(ValueError, match=r"output|targets"):
        search.score(X, y[:, 0])


def test_stage_widths_come_from_a_frame():
    pd = pytest.importorskip("pandas")
    X, y, _ = data(30, 6)
    names = ["rd_a__0", "rd_a__1", "rd_b__0", "rd_b__1", "rd_b__2", "rd_c__0"]
    frame = pd.DataFrame(X, columns=names)
    search = PrefixRidgeCV(alphas=ALPHAS).fit(frame, y)
    assert search.prefixes_.tolist() == [2, 5, 6]
    narrow = search.with_n_features(search.n_components_)
    assert list(narrow.feature_names_in_) == names[: search.n_components_]
    part = frame.iloc[:, : search.n_components_]
    assert_array_equal(narrow.predict(part), search.predict(frame))


def test_with_n_features():
    X, y, _ = data(60, 20)
    search = PrefixRidgeCV([4, 9], alphas=[0.1, 1.0, 10.0]).fit(X, y)
    d = search.n_components_
    before = pickle.dumps(search)
    for width in (d, 20):
        narrow = search.with_n_features(width)
        assert narrow.n_features_in_ == width
        assert_array_equal(narrow.predict(X[:, :width]), search.predict(X))
    for width in (d - 1, 21, d + 0.5):
        with pytest.raises(ValueError, match=rf"n_features={width} cannot be; use an"):
            search.with_n_features(width)
    assert pickle.dumps(search) == before


def test_a_generic_scorer_is_called_once_a_candidate():
    X, y, _ = data(30, 6)
    calls = []

    def scorer(model, X, y):
        calls.append(len(X))
        return -np.abs(model.predict(X) - y).max()

    search = PrefixRidgeCV("all", alphas=[0.1, 1.0], cv=3, scoring=scorer).fit(X, y)
    assert calls == [10] * 36
    _, scores = grid_search(X, y, range(1, 7), [0.1, 1.0], cv=3, scoring=scorer)
    assert_allclose(search.cv_scores_, scores, rtol=0, atol=1e-10)


def test_known_scores_need_no_calls(monkeypatch):
    monkeypatch.setattr(_ridge_cv, "GivenValues", None)
    X, y, _ = data(30, 6)
    for scoring in (None, "r2", "neg_mean_squared_error"):
        PrefixRidgeCV("all", alphas=1.0, scoring=scoring).fit(X, y)


def test_in_a_pipeline_and_nested():
    X, y, w = data(60, 12)
    model = make_pipeline(StandardScaler(), PrefixRidgeCV("all", alphas=ALPHAS))
    scores = cross_val_score(model, X, y, cv=3)
    assert scores.shape == (3,) and (scores > 0.3).all()
    groups = np.arange(60) // 6
    nested = cross_val_score(
        PrefixRidgeCV("all", alphas=ALPHAS, cv=GroupKFold(4)),
        X,
        y,
        cv=GroupKFold(5),
        groups=groups,
        params={"groups": groups, "sample_weight": w},
    )
    assert np.isfinite(nested).all()
    outer = GridSearchCV(PrefixRidgeCV("all", alphas=ALPHAS), {"scale": [False, True]}, cv=3)
    assert outer.fit(X, y).best_estimator_.n_components_ >= 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 + 0.1, -7.3])
@pytest.mark.parametrize(("n", "k"), [(20, 6), (30, 6), (77, 6), (103, 20), (30, 60)])
def test_constant_targets_are_predicted_exactly(n, k, constant, weighted):
    """GridSearchCV has 1 where the sum of the targets does not round, as for 16 rows of 0.1."""
    X, y, w = data(n, k)
    y[:] = constant
    w = w / 3 if weighted else None
    for cv, best in ((5, 1.0), ("loo", 0.0)):
        search = PrefixRidgeCV([2, k // 2, k], alphas=ALPHAS, cv=cv).fit(X, y, sample_weight=w)
        assert (search.cv_scores_ == best).all()


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 + 0.1, -7.3])
def test_constant_targets_score_as_in_grid_search(constant):
    X, *_ = data(20, 6)
    y = np.full(20, constant)
    ours = PrefixRidgeCV([2, 6], alphas=ALPHAS).fit(X, y)
    _, scores = grid_search(X, y, [2, 6])
    assert_array_equal(ours.cv_scores_, scores)


def test_integer_targets_and_lists():
    X, y, _ = data(30, 6)
    search = PrefixRidgeCV([2, 6], alphas=1.0).fit(X.tolist(), np.rint(y).astype(int).tolist())
    assert search.predict(X).dtype == np.float64


# Metadata routing


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


def test_groups_find_the_splitter_by_routing(routing):
    """As for RidgeCV: the splitter asks for groups, nobody has to be told."""
    X, y, _ = data(60, 12)
    groups = np.arange(60) // 6
    nested = cross_val_score(
        PrefixRidgeCV("all", alphas=ALPHAS, cv=GroupKFold(4)),
        X,
        y,
        cv=GroupKFold(5),
        params={"groups": groups},
    )
    expected = []
    for train, test in GroupKFold(5).split(X, y, groups):
        inner = list(GroupKFold(4).split(X[train], y[train], groups[train]))
        search = PrefixRidgeCV("all", alphas=ALPHAS, cv=inner).fit(X[train], y[train])
        expected.append(search.score(X[test], y[test]))
    assert_allclose(nested, expected)
    theirs = cross_val_score(
        RidgeCV(ALPHAS, cv=GroupKFold(4)), X, y, cv=GroupKFold(5), params={"groups": groups}
    )
    assert theirs.shape == nested.shape


def test_groups_reach_the_end_of_a_pipeline(routing):
    X, y, _ = data(60, 12)
    groups = np.arange(60) // 6
    model = make_pipeline(StandardScaler(), PrefixRidgeCV("all", alphas=ALPHAS, cv=GroupKFold(4)))
    search = model.fit(X, y, groups=groups)[-1]
    inner = list(GroupKFold(4).split(X, y, groups))
    plain = PrefixRidgeCV("all", alphas=ALPHAS, cv=inner).fit(StandardScaler().fit_transform(X), y)
    assert_array_equal(search.cv_scores_, plain.cv_scores_)


def test_weights_go_to_whom_they_are_requested_for(routing):
    X, y, w = data(60, 6)
    weighted = make_scorer(r2_score).set_score_request(sample_weight=True)
    search = PrefixRidgeCV("all", alphas=[1.0, 10.0], cv=3, scoring=weighted)
    search.set_fit_request(sample_weight=True).fit(X, y, sample_weight=w)
    plain = PrefixRidgeCV("all", alphas=[1.0, 10.0], cv=3).set_fit_request(sample_weight=True)
    plain.fit(X, y, sample_weight=w)
    for i, (train, test) in enumerate(KFold(3).split(X)):
        ridge = Ridge(1.0).fit(X[train], y[train], sample_weight=w[train])
        predicted = ridge.predict(X[test])
        assert np.isclose(
            search.cv_scores_[-1, 0, i], r2_score(y[test], predicted, sample_weight=w[test])
        )
        assert np.isclose(plain.cv_scores_[-1, 0, i], r2_score(y[test], predicted))


def test_metadata_that_nobody_asks_for_is_an_error(routing):
    X, y, _ = data(30, 6)
    with pytest.raises(TypeError, match="groups"):
        PrefixRidgeCV(cv=3).fit(X, y, groups=np.arange(30))


def test_other_metadata_needs_routing():
    X, y, _ = data(30, 6)
    with pytest.raises(ValueError, match="enable_metadata_routing=True"):
        PrefixRidgeCV(cv=3).fit(X, y, price=np.arange(30))
    with pytest.raises(ValueError, match="prefixes=True is no number of prefixes"):
        PrefixRidgeCV(True).fit(X, y)


def test_a_search_that_fails_leaves_nothing_of_an_earlier_one():
    X, y, _ = data(30, 6)
    search = PrefixRidgeCV([2, 6], alphas=[1.0, 2.0]).fit(X, y)
    with pytest.raises(ValueError, match="prefixes has 9"):
        search.set_params(prefixes=[9]).fit(X[:, :5], y)
    for call in (lambda: search.predict(X[:, :5]), lambda: search.with_n_features(2)):
        with pytest.raises(NotFittedError):
            call()
    assert not hasattr(search, "n_components_")


def test_a_splitter_made_of_leave_one_out_keeps_its_own_splits():
    class FirstFive(LeaveOneOut):
        def _iter_test_indices(self, X, y=None, groups=None):
            return range(5)

        def get_n_splits(self, X=None, y=None, groups=None):
            return 5

    X, y, _ = data(20, 5)
    cv = FirstFive()
    how = {"alphas": ALPHAS, "scoring": "neg_mean_squared_error"}
    search = PrefixRidgeCV("all", cv=cv, **how).fit(X, y)
    assert search.n_splits_ == 5
    assert_array_equal(
        search.cv_scores_, PrefixRidgeCV("all", cv=list(cv.split(X)), **how).fit(X, y).cv_scores_
    )
