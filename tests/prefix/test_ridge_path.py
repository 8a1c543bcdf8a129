import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.linalg import qr
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneOut

from revdist_sklearn.prefix import _ridge_path
from revdist_sklearn.prefix._ridge_path import (
    centred_split,
    choose_form,
    leave_one_out_path,
    ridge_path,
)

ALPHAS = np.array([1e-3, 0.1, 10.0])


def data(n, k, m=7, n_targets=1, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + m, k)) * np.geomspace(3, 0.3, k) + rng.normal(size=k)
    y = X[:, : min(k, 3)] @ rng.normal(size=(min(k, 3), n_targets))
    y += rng.normal(size=y.shape) + 5
    return X[:n], y[:n], X[n:], y[n:], rng.integers(1, 4, size=n) * 0.5


def gathered(paths, m, prefixes, alphas, n_targets):
    values = np.full((m, len(prefixes), len(alphas), n_targets), np.nan)
    well = np.ones(len(alphas), dtype=bool)
    for part in paths:
        rows = slice(None) if part.rows is None else part.rows
        if part.rows is None:
            assert np.isnan(values[:, part.prefixes, part.alphas]).all(), "a candidate twice"
        values[rows, part.prefixes, part.alphas] = part.values
        well[part.alphas] &= part.least >= _ridge_path.LEAST_EIGENVALUE
    return values, well


def witness(X, y, X_test, prefixes, alphas, w, fit_intercept):
    """Ridge by a singular value decomposition, a fit a candidate."""
    values = np.empty((len(X_test), len(prefixes), len(alphas), y.shape[1]))
    for i, d in enumerate(prefixes):
        for j, alpha in enumerate(alphas):
            ridge = Ridge(alpha=alpha, fit_intercept=fit_intercept, solver="svd")
            ridge.fit(X[:, :d], y, sample_weight=w)
            values[:, i, j] = ridge.predict(X_test[:, :d]).reshape(len(X_test), -1)
    return values


SHAPES = [(40, 12), (12, 40), (20, 20)]


@pytest.mark.parametrize("form", ["primal", "dual", None])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("n_targets", [1, 3])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_predictions_are_those_of_ridge(n, k, n_targets, fit_intercept, weighted, form):
    X, y, X_test, _, w = data(n, k, n_targets=n_targets)
    w = w if weighted else None
    prefixes = np.array([1, 2, k // 2, k - 1, k])
    split = centred_split(X, y, X_test, w, fit_intercept)
    paths = ridge_path(split, prefixes, ALPHAS, form)
    values, well = gathered(paths, len(X_test), prefixes, ALPHAS, n_targets)
    expected = witness(X, y, X_test, prefixes, ALPHAS, w, fit_intercept)
    # The form that is not the cheaper one has null directions, of eigenvalue alpha.
    assert_allclose(values, expected, rtol=0, atol=1e-10 if form is None else 1e-9)
    assert form is not None or well.all()


@pytest.mark.parametrize("form", ["primal", "dual", None])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_leave_one_out_is_that_of_n_fits(n, k, fit_intercept, weighted, form):
    X, y, *_, w = data(n, k, n_targets=2)
    w = w if weighted else None
    prefixes = np.array([1, k // 2, k])
    paths = leave_one_out_path(X, y, prefixes, ALPHAS, w, fit_intercept, form)
    values, _ = gathered(paths, n, prefixes, ALPHAS, 2)
    for train, test in LeaveOneOut().split(X):
        weights = None if w is None else w[train]
        expected = witness(X[train], y[train], X[test], prefixes, ALPHAS, weights, fit_intercept)
        # 1 - H is as small as alpha where the fit interpolates; the primal form rounds it.
        atol = 1e-7 if form == "primal" else 1e-9
        assert_allclose(values[test], expected, rtol=0, atol=atol)


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_leave_one_out_predicts_rows_of_weight_zero_too(form):
    X, y, *_, w = data(15, 10)
    w[[2, 7]] = 0
    prefixes = np.array([4, 10])
    values, _ = gathered(
        leave_one_out_path(X, y, prefixes, ALPHAS, w, form=form), 15, prefixes, ALPHAS, 1
    )
    for train, test in LeaveOneOut().split(X):
        expected = witness(X[train], y[train], X[test], prefixes, ALPHAS, w[train], True)
        assert_allclose(values[test], expected, rtol=0, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 20), k=st.integers(1, 20), seed=st.integers(0, 99), data_=st.data())
def test_both_forms_agree(n, k, seed, data_):
    X, y, X_test, _, w = data(n, k, m=3, seed=seed)
    prefixes = np.unique(data_.draw(st.lists(st.integers(1, k), min_size=1)))
    split = centred_split(X, y, X_test, w)
    primal, dual = (
        gathered(ridge_path(split, prefixes, ALPHAS, form), 3, prefixes, ALPHAS, 1)[0]
        for form in ("primal", "dual")
    )
    assert_allclose(primal, dual, rtol=0, atol=1e-8)


def test_many_prefixes_come_in_chunks(monkeypatch):
    X, y, X_test, *_ = data(60, 30)
    prefixes = np.arange(1, 31)
    split = centred_split(X, y, X_test)
    whole, _ = gathered(ridge_path(split, prefixes, ALPHAS, "primal"), 7, prefixes, ALPHAS, 1)
    monkeypatch.setattr(_ridge_path, "CHUNK", 7)
    parts = list(ridge_path(split, prefixes, ALPHAS, "primal"))
    assert len(parts) == 5 * len(ALPHAS)
    chunked, _ = gathered(parts, 7, prefixes, ALPHAS, 1)
    assert_allclose(chunked, whole, rtol=0, atol=1e-12)


def test_many_alphas_take_an_eigendecomposition(monkeypatch):
    X, y, X_test, *_ = data(12, 40)
    alphas = np.logspace(-3, 3, _ridge_path.EIGH)
    split = centred_split(X, y, X_test)
    monkeypatch.setattr(_ridge_path, "cholesky", None)  # not called
    values, well = gathered(
        ridge_path(split, np.array([20, 40]), alphas, "dual"), 7, [20, 40], alphas, 1
    )
    expected = witness(X, y, X_test, [20, 40], alphas, None, True)
    assert_allclose(values, expected, rtol=0, atol=1e-10)
    assert well.all()


@pytest.mark.parametrize("n_alphas", [2, 20])
@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_ill_conditioned_matrices_fall_back(n, k, form, n_alphas):
    """Directions of scales 1e6 to 1e-2, the targets in the smallest: squared, beyond float64."""
    rng = np.random.default_rng(0)
    rank = min(n, k) // 2
    Z = rng.normal(size=(n + 7, rank))
    X = (Z * np.geomspace(1e6, 1e-2, rank)) @ qr(rng.normal(size=(k, k)))[0][:rank]
    X, X_test, y = X[:n], X[n:], Z[:n, -1:] + 5
    alphas = np.geomspace(1e-6, 1e10, n_alphas)
    prefixes = np.array([k - 1, k])
    split = centred_split(X, y, X_test)
    values, well = gathered(ridge_path(split, prefixes, alphas, form), 7, prefixes, alphas, 1)
    assert not well[0] and well[-1]
    expected = witness(X, y, X_test, prefixes, alphas, None, True)
    assert np.ptp(expected[:, 1, 0]) > 1  # the small direction is found
    # 1e-16 times the condition number of the rows, 1e8.
    assert_allclose(values, expected, rtol=0, atol=2e-7)


def alpha_of_condition(least, least_with):
    """Return the alpha with which a Gram matrix has this least eigenvalue, by bisection."""
    low, high = 1e-20, 1e20
    while high > 1.01 * low:
        alpha = np.sqrt(low * high)
        low, high = (low, alpha) if least_with(alpha) > least else (alpha, high)
    return high


@pytest.mark.parametrize("n_alphas", [1, _ridge_path.EIGH])
@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("side", [0.5, 2.0])
def test_scores_are_good_on_both_sides_of_the_threshold(side, form, n_alphas):
    """Targets of noise, and in the weakest direction, which the penalty shrinks."""
    n, k = (40, 20) if form == "primal" else (20, 40)
    rank, prefixes = min(n - 1, k), np.array([k])
    for seed in range(8):
        rng = np.random.default_rng(seed)
        Z = rng.normal(size=(n + 9, rank))
        X = (Z * np.geomspace(1e5, 1, rank)) @ qr(rng.normal(size=(k, k)))[0][:rank]
        for y in (Z[:, -1:], rng.normal(size=(n + 9, 1))):
            split = centred_split(X[:n], y[:n], X[n:])

            def first(alpha, split=split):
                return next(ridge_path(split, prefixes, np.full(n_alphas, alpha), form))

            alpha = alpha_of_condition(
                side * _ridge_path.LEAST_EIGENVALUE, lambda alpha: first(alpha).least[0]
            )
            part = first(alpha)
            assert (part.least < _ridge_path.LEAST_EIGENVALUE).all() == (side < 1)
            expected = witness(X[:n], y[:n], X[n:], prefixes, [alpha], None, True)
            scores = [r2_score(y[n:], values[:, 0, 0]) for values in (part.values, expected)]
            assert_allclose(scores[0], scores[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n_alphas", [2, 20])
@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("unit", [1e-5, 1e5])
def test_what_is_well_conditioned_does_not_depend_on_the_unit(unit, form, n_alphas):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(32, 10))
    X = (Z * np.geomspace(1e4, 1e-3, 10)) @ qr(rng.normal(size=(30, 30)))[0][:10]
    X, X_test, y = X[:25], X[25:], Z[:25, -1:] + 5
    alphas, prefixes = np.geomspace(1e-8, 1e8, n_alphas), np.array([30])
    paths = (
        ridge_path(centred_split(u * X, y, u * X_test), prefixes, u**2 * alphas, form)
        for u in (1, unit)
    )
    one, other = (gathered(path, 7, prefixes, alphas, 1) for path in paths)
    assert not one[1][0] and one[1][-1]
    assert (one[1] == other[1]).all()
    assert_allclose(other[0], one[0], rtol=0, atol=2e-7)
    expected = witness(X, y, X_test, prefixes, alphas, None, True)
    assert_allclose(other[0], expected, rtol=0, atol=2e-7)


def test_conditioning_is_judged_by_the_whole_factor():
    """Its diagonal may be harmless: here 1 beside -1 below, as in the textbook example."""
    k = 25
    L = np.eye(k) - np.tri(k, k=-1)
    U, s, Vt = np.linalg.svd(L.T)
    # The targets follow the weakest direction; the penalty halves it.
    X, y, alphas = L.T, U[:, -1:], np.array([s[-1] ** 2])
    X_test = np.random.default_rng(0).normal(size=(7, k)) @ X
    split = centred_split(X, y, X_test, fit_intercept=False)
    prefixes = np.array([k])
    values, well = gathered(ridge_path(split, prefixes, alphas, "primal"), 7, prefixes, alphas, 1)
    assert s[0] / s[-1] > 1e7 and not well[0]
    expected = X_test @ Vt[-1] / s[-1] / 2
    assert np.ptp(expected) > 0.5
    assert_allclose(values.ravel(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["primal", "dual", None])
def test_leave_one_out_predicts_each_candidate_once(form):
    X, y, *_ = data(30, 8)
    prefixes, times = np.array([2, 5, 8]), np.zeros((30, 3, 3), dtype=int)
    for part in leave_one_out_path(X, y, prefixes, ALPHAS, form=form):
        shape = times[part.rows, part.prefixes, part.alphas].shape
        assert part.values.shape == (*shape, 1)
        times[part.rows, part.prefixes, part.alphas] += 1
    assert (times == 1).all()


def test_columns_of_zeros_and_of_other_scales_are_no_harm():
    X, y, X_test, *_ = data(200, 20)
    scales = np.where(np.arange(20) % 2, 0, np.geomspace(1e5, 1e-2, 20))
    alphas = np.array([1e-6])
    split = centred_split(X * scales, y, X_test * scales)
    values, well = gathered(ridge_path(split, np.array([20]), alphas), 7, [20], alphas, 1)
    assert well.all()
    expected = witness(X * scales, y, X_test * scales, [20], alphas, None, True)
    assert_allclose(values, expected, rtol=0, atol=1e-9)


def test_many_rows_take_no_matrix_of_rows_by_rows():
    X, y, X_test, *_ = data(4000, 3, m=500)
    split = centred_split(X, y, X_test)
    tracemalloc.start()
    for _ in ridge_path(split, np.array([1, 3]), ALPHAS):
        pass
    for _ in leave_one_out_path(X, y, np.array([1, 3]), ALPHAS):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6  # 4,000 x 4,000 would be 128 MB


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e6 + 0.1, -7.3, 1e-300, 1e150])
def test_centred_constants_are_zero(constant, weighted):
    for n in range(2, 60):
        X, y, X_test, _, w = data(n, 3, n_targets=2)
        w = w / 3 if weighted else None
        X[:, 1] = X_test[:, 1] = y[:, 0] = constant
        split = centred_split(X, y, X_test, w)
        assert not split.X[:, 1].any() and not split.X_test[:, 1].any() and not split.y[:, 0].any()
        assert split.y_mean[0] == constant
        assert_allclose(split.y_mean[1], np.average(y[:, 1], weights=w), rtol=1e-14)


@pytest.mark.parametrize("outlier", [0, 3])
def test_means_are_exact_beside_outliers_and_offsets(outlier):
    X, y, X_test, _, w = data(50, 3)
    X += 1e6
    X[outlier] = 1e9
    w[outlier] = 1e-9
    split = centred_split(X, y, X_test, w)
    # In long double the sums round 2,000 times less.
    precise = [np.asarray(part, dtype=np.longdouble) for part in (X, w[:, None])]
    mean = (precise[0] * precise[1]).sum(axis=0) / precise[1].sum()
    expected = (X - mean) * np.sqrt(precise[1])
    assert_allclose(split.X, expected.astype(float), rtol=0, atol=1e-9)


def test_overwriting_gives_the_same_split():
    X, y, X_test, _, w = data(20, 5)
    expected = centred_split(X, y, X_test, w)
    fresh = [np.asfortranarray(part) for part in (X, X_test)]
    split = centred_split(fresh[0], y, fresh[1], w, overwrite=True)
    assert split.X is fresh[0] and split.X_test is fresh[1]
    assert split.gram is expected.gram is None
    for name in vars(split).keys() - {"gram"}:
        assert_allclose(getattr(split, name), getattr(expected, name))
    assert_allclose((X, y, X_test)[1], data(20, 5)[1])


def leave_one_out_errors(X, y, prefixes, alphas, w=None, form=None):
    n = len(X)
    paths = leave_one_out_path(X, y, prefixes, alphas, w, form=form)
    values, _ = gathered(paths, n, prefixes, alphas, 1)
    expected = np.empty_like(values)
    for train, test in LeaveOneOut().split(X):
        weights = None if w is None else w[train]
        expected[test] = witness(X[train], y[train], X[test], prefixes, alphas, weights, True)
    return np.abs(values - expected).max()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [12, 40])
def test_leave_one_out_of_weak_directions_fits_nothing_again(k, weighted, monkeypatch):
    """Gram matrices that are conditioned too badly are decomposed by their rows."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(20, 15 if k > 15 else 12))
    X = (Z * np.geomspace(1e4, 1e-1, Z.shape[1])) @ qr(rng.normal(size=(k, k)))[0][: Z.shape[1]]
    w = rng.uniform(0.5, 2, size=20) if weighted else None
    monkeypatch.setattr(_ridge_path, "ridge_path", None)  # not called
    prefixes = np.array([k - 1, k])
    for alpha in (1e-3, 1.0, 100.0):
        for y in (Z[:, -1:] + 5, rng.normal(size=(20, 1))):
            errors = leave_one_out_errors(X, y, prefixes, np.array([alpha]), w, form="dual")
            assert errors < 1e-9


def test_leave_one_out_where_the_fit_interpolates():
    rng = np.random.default_rng(0)
    n = 20
    X, y = 1e4 * rng.normal(size=(n, n - 1)), rng.normal(size=(n, 1)) + 3
    prefixes = np.array([n - 2, n - 1])
    assert leave_one_out_errors(X, y, prefixes, np.array([1e-6])) < 1e-6


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_leave_one_out_of_a_row_that_alone_has_a_column(form):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(25, 5)), rng.normal(size=(25, 1))
    X[:, 4] = 0
    X[3, 4] = 1e5
    assert leave_one_out_errors(X, y, np.array([3, 5]), np.array([1e-4, 1.0]), form=form) < 1e-8


def test_leave_one_out_of_weight_zero_in_few_directions():
    rng = np.random.default_rng(0)
    X = 1e3 * rng.normal(size=(20, 6)) @ rng.normal(size=(6, 40))
    y, w = rng.normal(size=(20, 1)) + 3, np.ones(20)
    w[[3, 4]] = 0
    assert leave_one_out_errors(X, y, np.array([40]), np.array([1e-6, 1.0]), w) < 1e-6


def test_leave_one_out_with_columns_of_large_variance():
    # The mean's own direction would swamp 1 - H, by 1e-16 times variance over alpha.
    X, y, *_ = data(12, 40)
    for alpha in (1e-5, 1e-3):
        assert leave_one_out_errors(300 * X, y, np.array([40]), np.array([alpha])) < 1e-8


def test_null_columns_change_nothing():
    X, y, X_test, *_ = data(30, 8)
    X, X_test = (np.hstack([part, np.zeros((len(part), 3)), part[:, :1]]) for part in (X, X_test))
    prefixes = np.arange(1, 13)
    split = centred_split(X, y, X_test)
    values, well = gathered(
        ridge_path(split, prefixes, np.array([1e-6]), "primal"), 7, prefixes, [1e-6], 1
    )
    assert_allclose(values[:, 8:11], np.repeat(values[:, 7:8], 3, axis=1), rtol=1e-14)
    assert_allclose(values[:, 11], values[:, 7], atol=1e-6)
    assert not well.any()  # a column comes twice


@pytest.mark.parametrize(
    ("n", "m", "prefixes", "n_alphas", "expected"),
    [
        (4000, 1000, [16, 160, 320], 7, 3),  # many rows: all primal
        (400, 100, [2560, 5120], 7, 0),  # few rows: all dual
        (400, 100, [20, 40, 5120], 7, 2),  # prefix by prefix
    ],
)
def test_the_cheaper_form_is_chosen(n, m, prefixes, n_alphas, expected):
    assert choose_form(n, m, np.array(prefixes), n_alphas) == expected


def test_leave_one_out_takes_the_primal_form_below_the_rows_alone():
    # A thousand prefixes in the dual form would cost far more, but 1 - H would be rounded.
    prefixes = np.arange(1, 1001)
    assert choose_form(500, 500, prefixes, 1, interpolates=499) <= 498


class Operations:
    """Counts the operations that BLAS and LAPACK are asked for."""

    def __init__(self, monkeypatch):
        self.count = 0
        costs = {
            "dsyrk": lambda a, X, **how: X.size * X.shape[1 if how.get("trans") else 0],
            "dgemm": lambda a, A, B, **how: 2 * A.size * B.shape[0 if how.get("trans_b") else 1],
            "cholesky": lambda A, **how: len(A) ** 3 / 3,
            "solve_triangular": lambda L, B, **how: len(L) * B.size,
            "cho_solve": lambda L, B, **how: 2 * len(B) * B.size,
            "eigh": lambda A, **how: _ridge_path.EIGH * len(A) ** 3 / 3,
        }
        for name, cost in costs.items():
            counted = self.counted(getattr(_ridge_path, name), cost)
            monkeypatch.setattr(_ridge_path, name, counted)

    def counted(self, function, cost):
        def counting(*parts, **how):
            self.count += cost(*parts, **how)
            return function(*parts, **how)

        return counting


def operations(n_primal, n, m, prefixes, n_alphas):
    """Operations of a path whose first prefixes take the primal form; m None leaves one out."""
    X, y, X_test, *_ = data(n, prefixes[-1], m=m or 1)
    X_test, alphas = X_test[:m], np.geomspace(0.1, 10, n_alphas)
    split = centred_split(X, y, X_test)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ridge_path, "choose_form", lambda *args, **how: n_primal)
        counter = Operations(patch)
        if m is None:
            list(leave_one_out_path(X, y, prefixes, alphas))
        else:
            list(ridge_path(split, prefixes, alphas))
    return counter.count


@pytest.mark.parametrize(
    ("n", "m", "prefixes", "n_alphas"),
    [  # each turns on another term of the costs
        (25, 120, [2, 6, 7, 9, 17, 22, 24], 15),
        (46, 0, [31, 51, 62, 65, 70, 77], 2),
        (20, 15, [3, 11, 15, 21, 22, 24, 45], 8),
        (40, 0, [3, 38], 9),
        (26, 41, [4, 11, 28, 32, 34, 42, 46, 49], 9),
        (11, 1, [4, 11], 16),
        (39, None, [4, 6, 8, 10, 11, 13, 24, 28], 38),
        (43, None, [29, 42, 48], 2),
    ],
)
def test_no_other_choice_of_forms_takes_fewer_operations(n, m, prefixes, n_alphas):
    prefixes = np.array(prefixes)
    interpolates = n - 1 if m is None else None
    allowed = len(prefixes) if m is not None else int(np.sum(prefixes < n - 1))
    counts = [operations(i, n, m, prefixes, n_alphas) for i in range(allowed + 1)]
    chosen = choose_form(n, n if m is None else m, prefixes, n_alphas, interpolates=interpolates)
    assert chosen <= allowed
    # What leave-one-out takes is told less exactly.
    assert counts[chosen] <= (1.03 if m is not None else 1.2) * min(counts)
