"""Standard deviations of predictions, the variance of the noise, and all prefixes at once."""

import pickle
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import LinAlgWarning
from scipy.linalg.blas import dsyrk
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, WhiteKernel
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, LeaveOneOut, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from revdist_sklearn import PrefixRidgeClassifierCV, PrefixRidgeCV
from revdist_sklearn.prefix import _ridge_path

pytestmark = pytest.mark.filterwarnings("ignore:The chosen alpha")
ALPHAS = np.logspace(-3, 3, 4)
SHAPES = [(60, 10), (24, 40)]
# With intercept, weights, scale: every pair of two occurs.
FLAGS = [(False, False, False), (False, True, True), (True, False, True), (True, True, False)]


def data(n, k, n_targets=None, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) * np.geomspace(2, 0.5, k) + rng.normal(size=k)
    shape = (n,) if n_targets is None else (n, n_targets)
    y = (X[:, :3] @ rng.normal(size=(3, n_targets or 1))).reshape(shape)
    return X, y + rng.normal(size=shape) + 3, rng.integers(1, 4, size=n) * 0.5


def augmented(X, q, alpha, w, fit_intercept, scale):
    """Return what makes h of rows: the inverse of a Gram matrix that has a row for the constant.

    By the normal equations in long form: no centring, no projection, no factor.
    """
    ones = np.ones((len(X), int(fit_intercept)))
    scale = StandardScaler(with_mean=False).fit(X, sample_weight=w).scale_ if scale else 1.0
    rows = np.hstack([ones, X / scale])
    penalty = np.repeat([0, alpha], [fit_intercept + q, X.shape[1] - q])
    inverse = np.linalg.inv((rows.T * w) @ rows + np.diag(penalty))

    def h(new):
        new = np.hstack([np.ones((len(new), int(fit_intercept))), new / scale])
        return np.einsum("ij,jk,ik->i", new, inverse, new)

    return h


@pytest.mark.parametrize("q", [0, 2])
@pytest.mark.parametrize(("fit_intercept", "weighted", "scale"), FLAGS)
@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_deviations_are_those_of_the_normal_equations(
    n, k, n_targets, fit_intercept, weighted, scale, q
):
    X, y, w = data(n, k, n_targets)
    cv = KFold(4, shuffle=True, random_state=0)
    how = {"fit_intercept": fit_intercept, "scale": scale, "n_unpenalized": q}
    search = PrefixRidgeCV([k], alphas=0.5, cv=cv, **how)
    search.fit(X, y, sample_weight=w if weighted else None)
    w = w if weighted else np.ones(n)
    Y, total = y.reshape(n, -1), 0
    for train, test in cv.split(X):
        h = augmented(X[train], q, 0.5, w[train], fit_intercept, scale)(X[test])
        fold = PrefixRidgeCV([k], alphas=0.5, **how).fit(
            X[train], Y[train], sample_weight=w[train]
        )
        residuals = Y[test] - fold.predict(X[test]).reshape(len(test), -1)
        total = total + (residuals**2 / (1 / w[test] + h)[:, None]).sum(axis=0)
    assert_allclose(np.ravel(search.noise_variance_), total / n, rtol=1e-8)
    new = np.vstack([X[:3], 5 * X[3:6]])
    mean, std = search.predict(new, return_std=True)
    assert_array_equal(mean, search.predict(new))
    h = augmented(X, q, 0.5, w, fit_intercept, scale)(new)
    expected = np.sqrt((1 + h)[:, None] * total / n).reshape(mean.shape)
    assert std.shape == mean.shape
    assert_allclose(std, expected, rtol=1e-8)


@pytest.mark.parametrize("q", [0, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("n", "k"), [(20, 8), (12, 30)])
@pytest.mark.parametrize("alpha", [1e-6, 1.0])
def test_the_noise_by_leave_one_out_is_that_of_n_fits(n, k, fit_intercept, weighted, q, alpha):
    X, y, w = data(n, k, 2)
    how = {"alphas": alpha, "fit_intercept": fit_intercept, "n_unpenalized": q}
    closed, folds = (
        PrefixRidgeCV([k], cv=cv, scoring="neg_mean_squared_error", **how)
        for cv in ("loo", list(LeaveOneOut().split(X)))
    )
    w = w if weighted else None
    closed.fit(X, y, sample_weight=w)
    folds.fit(X, y, sample_weight=w)
    assert_allclose(closed.noise_variance_, folds.noise_variance_, rtol=1e-6)


def test_a_gaussian_process_of_a_linear_kernel_has_the_same_deviations():
    """Its prior of the constant is wide here, that of ridge without end."""
    X, y, _ = data(40, 6)
    search = PrefixRidgeCV([6], alphas=2.0).fit(X, y)
    noise = search.noise_variance_
    kernel = ConstantKernel(noise / 2.0) * DotProduct(1e-9) + ConstantKernel(1e7)
    process = GaussianProcessRegressor(kernel + WhiteKernel(noise), optimizer=None, alpha=0.0).fit(
        X, y
    )
    for one, other in zip(
        search.predict(3 * X[:9], return_std=True),
        process.predict(3 * X[:9], return_std=True),
        strict=True,
    ):
        assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("n", [15, 60])
@pytest.mark.parametrize("cv", [5, "loo"])
def test_the_variance_of_the_noise_is_found(n, cv):
    """Where the penalty is the prior of the coefficients; the plain mean counts twice."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n, 30))
        y = X @ rng.normal(size=30) + 2.0 * rng.normal(size=n) + 7
        found.append(PrefixRidgeCV([30], alphas=4.0, cv=cv).fit(X, y).noise_variance_)
    assert np.mean(found) == pytest.approx(4.0, rel=0.1)


def test_columns_beyond_all_rows_at_a_small_penalty():
    """Where a kernel matrix would cancel."""
    rng = np.random.default_rng(0)
    X = 1e3 * rng.normal(size=(8, 20))
    search = PrefixRidgeCV([20], alphas=1e-6, cv=4).fit(X, rng.normal(size=8))
    inside = np.vstack([X.mean(axis=0), X[:3]])
    _, std = search.predict(inside, return_std=True)
    # The training rows span the plane: x^T A^-1 x is the hat matrix, whose rows have length 1.
    H = np.vstack([np.full(8, 1 / 8), np.eye(8)[:3]])
    assert_allclose(std**2 / search.noise_variance_, 1 + (H**2).sum(axis=1), rtol=1e-6)


def test_new_measurements_lie_within_the_intervals():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 20))
    y = X @ rng.normal(size=20) + 3 * rng.normal(size=2000)
    search = PrefixRidgeCV("all", alphas=ALPHAS).fit(X[:60], y[:60])
    mean, std = search.predict(X[60:], return_std=True)
    within = np.abs(y[60:] - mean) < 1.96 * std
    assert 0.88 < within.mean() < 0.99


def test_rows_of_weight_zero_tell_nothing_of_the_noise():
    X, y, w = data(40, 6)
    w[::4] = 0
    kept = w > 0
    for cv in (ShuffleSplit(4, random_state=0), "loo"):
        if cv != "loo":
            cv = list(cv.split(X))
        wild = y + 100 * ~kept
        ours = PrefixRidgeCV([6], alphas=1.0, cv=cv).fit(X, wild, sample_weight=w)
        same = PrefixRidgeCV([6], alphas=1.0, cv=cv).fit(X, y, sample_weight=w)
        assert ours.noise_variance_ == pytest.approx(same.noise_variance_)
    split = [(np.flatnonzero(kept), np.flatnonzero(~kept))]
    none = PrefixRidgeCV([6], alphas=1.0, cv=split, scoring="neg_mean_squared_error")
    none.fit(X, y, sample_weight=w)
    assert np.isnan(none.noise_variance_)
    assert np.isnan(none.predict(X, return_std=True)[1]).all()


def test_a_row_of_weight_two_is_the_mean_of_two():
    X, y, _ = data(30, 4)
    how = {"alphas": 2.0, "cv": [(np.arange(20), np.arange(20, 30))]}
    ours = PrefixRidgeCV([4], **how).fit(X, y, sample_weight=np.full(30, 2.0))
    half = PrefixRidgeCV([4], **(how | {"alphas": 1.0})).fit(X, y)
    # The noise of a single measurement has twice the variance of that of the mean of two.
    assert ours.noise_variance_ == pytest.approx(2 * half.noise_variance_)


# All prefixes


@pytest.mark.parametrize("q", [0, 2])
@pytest.mark.parametrize(("fit_intercept", "weighted", "scale"), FLAGS)
@pytest.mark.parametrize("n_targets", [None, 1, 2])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_all_prefixes_are_those_of_ridge(n, k, n_targets, fit_intercept, weighted, scale, q):
    X, y, w = data(n, k, n_targets)
    w = w if weighted else None
    how = {"fit_intercept": fit_intercept, "scale": scale, "n_unpenalized": q}
    prefixes = [max(1, q), 3, k // 2, k]
    search = PrefixRidgeCV(prefixes, alphas=ALPHAS, cv=4, **how).fit(X, y, sample_weight=w)
    found = search.predict_all_prefixes(X)
    assert found.shape == (n, len(search.prefixes_), *y.shape[1:])
    scaled = StandardScaler(with_mean=False).fit(X, sample_weight=w).transform(X) if scale else X
    for i, d in enumerate(search.prefixes_):
        if q:
            alone = PrefixRidgeCV([d], alphas=search.alpha_, **how).fit(X, y, sample_weight=w)
            expected = alone.predict(X)
        else:
            ridge = Ridge(search.alpha_, fit_intercept=fit_intercept, solver="svd")
            ridge.fit(scaled[:, :d], y, sample_weight=w)
            expected = ridge.predict(scaled[:, :d])
        assert_allclose(found[:, i], expected.reshape(found[:, i].shape), rtol=0, atol=1e-10)
    chosen = found[:, search.prefixes_.tolist().index(search.n_components_)]
    assert_allclose(chosen, search.predict(X).reshape(chosen.shape), rtol=0, atol=1e-10)


def test_all_prefixes_at_small_penalties():
    """Gram matrices that lose the targets' direction: rows are factorised instead."""
    rng = np.random.default_rng(0)
    for n, k in ((60, 20), (20, 60)):
        Z = rng.normal(size=(n, 10))
        X = (Z * np.geomspace(1e6, 1e-2, 10)) @ np.linalg.qr(rng.normal(size=(k, k)))[0][:10]
        with pytest.warns(LinAlgWarning, match="Ill-conditioned"):
            search = PrefixRidgeCV([k - 1, k], alphas=1e-6, cv=3).fit(X, Z[:, -1])
        expected = Ridge(1e-6, solver="svd").fit(X, Z[:, -1]).predict(X)
        assert_allclose(search.predict_all_prefixes(X)[:, -1], expected, atol=1e-6)


# Around it


def test_narrow_heads_keep_deviations_and_cut_prefixes():
    X, y, _ = data(60, 20)
    search = PrefixRidgeCV([4, 9, 20], alphas=[0.1, 1.0, 10.0], cv=3).fit(X, y)
    before = pickle.dumps(search)
    for width in (search.n_components_, 19, 20):
        narrow = search.with_n_features(width)
        for one, other in zip(
            narrow.predict(X[:, :width], return_std=True),
            search.predict(X, return_std=True),
            strict=True,
        ):
            assert_array_equal(one, other)
        found = narrow.predict_all_prefixes(X[:, :width])
        n_left = int(np.sum(search.prefixes_ <= width))
        assert_allclose(found, search.predict_all_prefixes(X)[:, :n_left], atol=1e-12)
        assert_array_equal(
            narrow.with_n_features(search.n_components_).predict(X[:, : search.n_components_]),
            search.predict(X),
        )
    small = len(pickle.dumps(search.with_n_features(search.n_components_)))
    assert small <= len(before) and pickle.dumps(search) == before


def test_in_a_pipeline_on_frames_and_after_a_pickle():
    pd = pytest.importorskip("pandas")
    X, y, _ = data(40, 6)
    frame = pd.DataFrame(X, columns=list("abcdef"))
    model = make_pipeline(StandardScaler(), PrefixRidgeCV("all", alphas=ALPHAS))
    model.set_output(transform="pandas").fit(frame, y)
    _, std = model.predict(frame, return_std=True)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(frame, return_std=True)[1], std)
    search = clone(model[-1]).fit(X.astype(np.float32), y)
    narrow, wide = (search.predict(part, return_std=True) for part in (X.astype(np.float32), X))
    assert narrow[1].dtype == np.float64
    assert_allclose(narrow[1], wide[1], rtol=1e-5)


def test_classes_have_no_deviations():
    X, y, _ = data(30, 4)
    search = PrefixRidgeClassifierCV(alphas=ALPHAS).fit(X, y > 3)
    with pytest.raises(TypeError, match="return_std"):
        search.predict(X, return_std=True)
    assert not hasattr(search, "predict_all_prefixes")


def test_other_rows_are_an_error():
    X, y, _ = data(30, 4)
    search = PrefixRidgeCV(alphas=ALPHAS).fit(X, y)
    for wrong in (X[:, :3], np.full((2, 4), np.nan)):
        for call in (
            lambda X: search.predict(X, return_std=True),
            search.predict_all_prefixes,
        ):
            with pytest.raises(ValueError, match=r"features|NaN"):
                call(wrong)


def test_constant_targets_have_no_noise():
    X, y, _ = data(30, 4)
    y[:] = 0.1
    for cv in (5, "loo"):
        search = PrefixRidgeCV(alphas=ALPHAS, cv=cv).fit(X, y)
        mean, std = search.predict(X, return_std=True)
        assert search.noise_variance_ == 0 and not std.any()
        assert_allclose(mean, 0.1, rtol=1e-15)


def test_targets_that_follow_the_unpenalised_columns_have_no_noise():
    X, *_ = data(40, 6)
    y = LinearRegression().fit(X[:, :2], X[:, 2]).predict(X[:, :2])
    search = PrefixRidgeCV([2, 6], alphas=ALPHAS, n_unpenalized=2).fit(X, y)
    assert search.n_components_ == 2
    assert search.predict(X, return_std=True)[1].max() < 1e-12


def test_many_columns_take_no_matrix_of_columns_by_columns():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 3000)), rng.normal(size=20)
    search = PrefixRidgeCV([3000], alphas=1.0, cv=2)
    search.fit(X, y)
    tracemalloc.start()
    search.fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # 3,000 x 3,000 would be 72 MB
    assert len(pickle.dumps(search)) < 2e6


def test_rows_that_determine_their_own_prediction_are_left_out_by_a_fit_without_them():
    X, y, _ = data(20, 6)
    X[:, 2] = 0
    X[3, 2] = 1e5
    for q in (0, 3):
        how = {"alphas": 1e-4, "scoring": "neg_mean_squared_error", "n_unpenalized": q}
        closed = PrefixRidgeCV([6], cv="loo", **how).fit(X, y)
        folds = PrefixRidgeCV([6], cv=list(LeaveOneOut().split(X)), **how).fit(X, y)
        assert_allclose(closed.noise_variance_, folds.noise_variance_, rtol=1e-8)


@pytest.mark.parametrize(("n", "k", "n_grams"), [(200, 12, 6), (50, 12, 11), (200, 41, 11)])
@pytest.mark.parametrize("q", [0, 2])
def test_each_gram_matrix_is_made_once_where_all_of_them_are_small(monkeypatch, n, k, n_grams, q):
    # One a fold and one of all rows; where those of the folds take more than a copy of X, each
    # fold's is made again for the noise, of the chosen prefix.
    made = []

    def counted(alpha, a, **how):
        made.append(a.shape)
        return dsyrk(alpha, a, **how)

    X, y, _ = data(n, k)
    expected = PrefixRidgeCV([k // 2, k], alphas=[0.1, 1.0], n_unpenalized=q).fit(X, y)
    monkeypatch.setattr(_ridge_path, "dsyrk", counted)
    search = PrefixRidgeCV([k // 2, k], alphas=[0.1, 1.0], n_unpenalized=q).fit(X, y)
    assert len(made) == n_grams
    monkeypatch.setattr(PrefixRidgeCV, "_keeps_grams", False)
    without = PrefixRidgeCV([k // 2, k], alphas=[0.1, 1.0], n_unpenalized=q).fit(X, y)
    assert len(made) == n_grams + 11
    for other in (expected, without):
        assert_allclose(search.noise_variance_, other.noise_variance_, rtol=1e-12)
        assert_allclose(search.predict(X, return_std=True), other.predict(X, return_std=True))
    chosen = search.prefixes_.tolist().index(search.n_components_)
    assert_allclose(search.predict_all_prefixes(X)[:, chosen], search.predict(X), rtol=1e-12)
