import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.linalg import qr
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut

from revdist_sklearn import _ridge_path
from revdist_sklearn._ridge_path import (
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
        assert np.isnan(values[:, part.prefixes, part.alphas]).all(), "a candidate twice"
        values[:, part.prefixes, part.alphas] = part.values
        well[part.alphas] &= part.well_conditioned
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
    assert well.all()


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


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_ill_conditioned_matrices_fall_back(n, k, form):
    """Columns of scales 1e6 to 1e-6 with small alphas: squared, beyond float64."""
    X, y, X_test, *_ = data(n, k)
    Q = qr(np.random.default_rng(1).normal(size=(k, k)))[0]
    scales = np.geomspace(1e6, 1e-2, k)
    X, X_test = (X * scales) @ Q, (X_test * scales) @ Q
    alphas = np.array([1e-4, 1e8])
    prefixes = np.array([1, k // 2, k])
    split = centred_split(X, y, X_test)
    values, well = gathered(ridge_path(split, prefixes, alphas, form), 7, prefixes, alphas, 1)
    assert well.tolist() == [False, True]
    assert np.isfinite(values).all()
    if form == "primal" or n < k:
        expected = witness(X, y, X_test, prefixes, alphas, None, True)
        assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_null_columns_change_nothing():
    X, y, X_test, *_ = data(30, 8)
    X, X_test = (np.hstack([part, np.zeros((len(part), 3)), part[:, :1]]) for part in (X, X_test))
    prefixes = np.arange(1, 13)
    split = centred_split(X, y, X_test)
    values, well = gathered(
        ridge_path(split, prefixes, np.array([1e-6]), "primal"), 7, prefixes, [1e-6], 1
    )
    assert np.all(values[:, 8:11] == values[:, 7:8])
    assert_allclose(values[:, 11], values[:, 7], atol=1e-6)
    assert well.all()


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
    assert choose_form(500, 500, prefixes, 1, leave_one_out=True) < 500
