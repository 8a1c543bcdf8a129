"""What a fit tells, beside least squares and SVD on the rows, whatever the condition number."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

from revdist_sklearn import Moments, ReverseDistiller

K, L = 24, 32


def ill_conditioned(condition, n=6000, k=K, l=L, seed=0, mean=0.0):  # noqa: E741
    """Rows of a base of a condition number, and of a larger model that draws on all of it.

    The larger model follows the base's weakest directions as much as its strongest, so that an
    error in either is one of what is explained.
    """
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(k, k)))[0]
    # A mixture: spectra of Gaussian rows alone are kind to sums.
    latent = rng.normal(size=(n, k)) + 2 * rng.integers(0, 2, size=(n, 1))
    latent = (latent - latent.mean(axis=0)) / latent.std(axis=0)
    base = (latent * np.geomspace(1, 1 / condition, k)) @ Q.T
    own = rng.normal(size=(n, l)) * np.geomspace(0.5, 0.05, l)
    return np.hstack([base + mean, latent @ rng.normal(size=(k, l)) / np.sqrt(k) + own])


def direct(X, k=K):
    """Return condition of the base at unit variance, 1 - R2 and residual spectrum by SVD."""
    X = X.astype(np.float64)
    z, h = (block - block.mean(axis=0) for block in (X[:, :k], X[:, k:]))
    z, h = (block - block.mean(axis=0) for block in (z, h))
    z /= z.std(axis=0)
    s = np.linalg.svd(z, compute_uv=False)
    residual = h - z @ np.linalg.lstsq(z, h, rcond=1e-12)[0]
    spectrum = np.linalg.svd(residual, compute_uv=False) ** 2 / len(X)
    return s[0] / s[-1], (residual**2).sum() / (h**2).sum(), spectrum


def in_parts(X):
    distiller = ReverseDistiller((K, L))
    for part in np.array_split(X, 7):
        distiller.partial_fit(part)
    return distiller


def merged(X):
    moments = Moments((K, L))
    for part in np.array_split(X, 5):
        moments.merge(Moments((K, L)).update(part))
    return ReverseDistiller().fit_moments(moments)


def as_tensor(X):
    torch = pytest.importorskip("torch")
    return ReverseDistiller().fit_moments(Moments((K, L)).update(torch.from_numpy(X)))


WAYS = {
    "fit": lambda X: ReverseDistiller((K, L)).fit(X),
    "partial_fit": in_parts,
    "merged": merged,
    "tensor": as_tensor,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "condition, tolerance", [(10, 1e-4), (100, 1e-4), (1_000, 1e-3), (10_000, 1e-3)]
)
def test_a_fit_is_as_good_as_an_svd_of_the_rows(condition, tolerance, way, dtype):
    X = ill_conditioned(condition).astype(dtype)
    found, unexplained, spectrum = direct(X)
    assert found > condition / 10  # at unit variance
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage = WAYS[way](X).stages_[1]
    assert stage.n_regression == K
    assert_allclose(stage.condition, found, rtol=1e-3)
    assert_allclose(1 - stage.explained_before, unexplained, rtol=tolerance)
    assert_allclose(stage.residual_variances, spectrum, rtol=tolerance)
    assert stage.explained_before < stage.explained_after <= 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("condition, tolerance", [(100, 1e-4), (10_000, 1e-3)])
def test_a_fit_on_100_000_rows_is_as_good_as_an_svd(condition, tolerance, dtype):
    X = ill_conditioned(condition, n=100_000).astype(dtype)
    _, unexplained, spectrum = direct(X)
    stage = WAYS["fit"](X).stages_[1]
    assert_allclose(1 - stage.explained_before, unexplained, rtol=tolerance)
    assert_allclose(stage.residual_variances, spectrum, rtol=tolerance)


def test_the_error_is_of_shares_and_not_relative_to_a_small_one():
    """The larger model's own part is 1e-5 of its spread: 1 - R2 is known to 1e-10, no better."""
    X = ill_conditioned(100).astype(np.float64)
    z = X[:, :K] - X[:, :K].mean(axis=0)
    rng = np.random.default_rng(1)
    h = (z / z.std(axis=0)) @ rng.normal(size=(K, L))
    X[:, K:] = h + 1e-5 * h.std() * rng.normal(size=h.shape)
    for dtype, atol in ((np.float32, 1e-13), (np.float64, 1e-14)):
        _, unexplained, _ = direct(X.astype(dtype))
        stage = WAYS["fit"](X.astype(dtype)).stages_[1]
        assert 5e-11 < unexplained < 5e-10
        assert_allclose(1 - stage.explained_before, unexplained, atol=2e-16 * stage.condition**2)
        assert_allclose(1 - stage.explained_before, unexplained, atol=atol, rtol=0)


@pytest.mark.parametrize("condition", [1, 30, 500, 1e4, 3e5])
def test_the_error_is_within_what_the_docstring_states(condition):
    """To 2e-16 times the squared condition: 1e-10 up to 500."""
    X = ill_conditioned(condition, n=2000)
    found, unexplained, _ = direct(X)
    stage = ReverseDistiller((K, L)).fit(X).stages_[1]
    assert abs(1 - stage.explained_before - unexplained) < 2e-16 * max(found, 10) ** 2
    if found <= 500:
        assert_allclose(1 - stage.explained_before, unexplained, atol=1e-10)


@pytest.mark.parametrize("precision, condition", [("float64", 1e7), ("float32", 1e3)])
def test_what_products_cannot_tell_is_warned_of(precision, condition):
    X = ill_conditioned(condition)
    moments = Moments((K, L), precision=precision).update(X)
    with pytest.warns(UserWarning, match=rf"before '2' have a condition.*{precision} products"):
        distiller = ReverseDistiller().fit_moments(moments)
    stage = distiller.stages_[1]
    # What is beyond has no part; what is told of the rest is right.
    assert stage.n_regression < K and 0 < stage.explained_before < stage.explained_after <= 1
    z = X[:, :K] - X[:, :K].mean(axis=0)
    h = X[:, K:] - X[:, K:].mean(axis=0)
    U, _, _ = np.linalg.svd(z / z.std(axis=0), full_matrices=False)
    U = U[:, : stage.n_regression]
    unexplained = 1 - ((U.T @ h) ** 2).sum() / (h**2).sum()
    assert_allclose(1 - stage.explained_before, unexplained, rtol=5e-2)


def test_nearly_equal_columns():
    """[a, a + e b]: the figure of a trial, where a residual came out 340 times too large."""
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 5000))
    for e in (1e-2, 1e-4):
        X = np.column_stack([a, a + e * b, b + 1e-2 * c, a])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            stage = ReverseDistiller((2, 2), residual_sizes=(2,)).fit(X).stages_[1]
        z, h = (block - block.mean(axis=0) for block in (X[:, :2], X[:, 2:]))
        residual = h - z @ np.linalg.lstsq(z, h, rcond=1e-12)[0]
        largest = np.linalg.svd(residual, compute_uv=False)[0] ** 2 / len(X)
        assert_allclose(stage.residual_variances[0], largest, atol=2e-16 * stage.condition**2)
        assert stage.n_added_nonzero == 1
    # Of a residual of 1e-4, beside rounding of up to 1e-3, nothing can be said.
    X[:, 1] = a + 3e-6 * b
    with pytest.warns(UserWarning, match="1 of the 2 columns of '2' are zero although its rows"):
        ReverseDistiller((2, 2), residual_sizes=(2,)).fit(X)
    # Nor of the one beside a residual that is plain.
    with pytest.warns(UserWarning, match="1 of the 3 columns of '2' are zero although its rows"):
        stage = nearly_equal(3e-6, [b + 1e-4 * c, rng.normal(size=5000), a]).stages_[1]
    assert stage.n_added_nonzero == 1
    # Where nothing of it varies, nothing is lost.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nearly_equal(3e-6, [b + 0.3 * c, b, a]).stages_[1].n_added_nonzero == 1


def nearly_equal(e, larger, how=WAYS["fit"], **parameters):
    """Fit on [a, a + e b] and columns of a larger model that may depend on b."""
    a, b = np.random.default_rng(0).normal(size=(3, 5000))[:2]
    X = np.column_stack([a, a + e * b, *larger])
    sizes = (2, len(larger))
    if how is WAYS["fit"]:
        return ReverseDistiller(sizes, residual_sizes=sizes[1:], **parameters).fit(X)
    moments = Moments(sizes)
    for part in np.array_split(X, 4):
        moments = how(moments, part)
    distiller = ReverseDistiller(residual_sizes=sizes[1:], **parameters)
    return distiller.fit_moments(moments)


ADDED = {
    "fit": WAYS["fit"],
    "update": lambda moments, part: moments.update(part),
    "weighted": lambda moments, part: moments.update(
        np.repeat(part, 2, axis=0), sample_weight=np.tile([3e-20, 0.0], len(part))
    ),
    "merge": lambda moments, part: moments.merge(Moments((2, 3)).update(part)),
    "tensor": lambda moments, part: moments.update(
        pytest.importorskip("torch").from_numpy(part.copy())
    ),
}


@pytest.mark.parametrize("way", ADDED)
@pytest.mark.parametrize("e", [1e-7, 1e-9])
def test_a_direction_that_rows_tell_and_products_do_not_is_warned_of(e, way):
    """[a, a + e b] again: b has no part, so that most of a model that follows it is residual."""
    a, b, c = np.random.default_rng(0).normal(size=(3, 5000))
    larger = [b + 0.3 * c, b, a]
    with pytest.warns(
        UserWarning, match=r"of \de\+\d\d; float64 products.*and 1 weaker ones have"
    ):
        stage = nearly_equal(e, larger, ADDED[way]).stages_[1]
    assert (stage.n_regression, stage.n_lost) == (1, 1)
    z = np.column_stack([a, a + e * b])
    z -= z.mean(axis=0)
    s = np.linalg.svd(z / z.std(axis=0), compute_uv=False)
    assert_allclose(stage.condition, s[0] / s[1], rtol=0.2)
    if e < 1e-8:  # from there on an axis has no variance in products
        with pytest.warns(UserWarning, match="1 of the 2 columns of '1' are zero although"):
            nearly_equal(e, larger, ADDED[way], rotate_base=True)


def layer_norm(rng, n, k, dtype, own_precision=True):
    """Rows of a LayerNorm's output, whose sum divided by its weights is constant."""
    h = rng.normal(size=(n, k)) @ rng.normal(size=(k, k)) * rng.choice([1.0, 30.0], size=k)
    h = h.astype(dtype if own_precision else np.float64)
    h = (h - h.mean(axis=1, keepdims=True)) / h.std(axis=1, keepdims=True)
    h = h * rng.uniform(0.5, 2, k).astype(h.dtype) + (10 * rng.normal(size=k)).astype(h.dtype)
    return h.astype(dtype)


@pytest.mark.parametrize("rotate_base", [False, True])
@pytest.mark.parametrize("kind", ["float32", "float32 in float64", "float64"])
def test_what_is_null_in_the_rows_too_is_no_alarm(kind, rotate_base):
    dtype = np.dtype(kind[:7])
    for seed in range(30):
        rng = np.random.default_rng(seed)
        h = layer_norm(rng, 1500, 16, dtype, own_precision=seed % 2)
        larger = [*layer_norm(rng, 1500, 6, dtype).T, h[:, 2], h[:, 5] - 2 * h[:, 6], h[:, 0] * 0]
        X = np.column_stack([h, h[:, :2], np.full(1500, 1 / 3), *larger]).astype(dtype)
        how = {"residual_sizes": (9,), "rotate_base": rotate_base}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            X = X.astype(np.float64) if kind.endswith("64") else X
            stage = ReverseDistiller((19, 9), **how).fit(X).stages_[1]
        assert (stage.n_regression, stage.n_lost) == (15, 0)
        assert stage.n_added_nonzero >= 5


@pytest.mark.parametrize("spreads", [1e3, 1e5])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_means_of_many_spreads(spreads, precision):
    X = ill_conditioned(3, mean=spreads).astype(np.float32)
    _, unexplained, _ = direct(X)
    moments = Moments((K, L), precision=precision).update(X)
    stage = ReverseDistiller().fit_moments(moments).stages_[1]
    assert_allclose(1 - stage.explained_before, unexplained, rtol=2e-5)
    exact = X.astype(np.float64)
    exact -= exact.mean(axis=0)
    assert_allclose(moments.residue.covariance, exact.T @ exact / len(X), atol=3e-6)


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("unit", [1e-50, 1e-170, 1e-300, 1e50, 1e150])
def test_the_unit_of_the_weights_does_not_matter(unit, precision, tensors):
    X = ill_conditioned(3, n=500)
    w = np.random.default_rng(1).uniform(0.5, 2, size=500)
    rows = pytest.importorskip("torch").from_numpy(X) if tensors else X
    expected = Moments((K, L), precision=precision).update(X[:200], sample_weight=w[:200])
    moments = Moments((K, L), precision=precision).update(rows[:200], sample_weight=unit * w[:200])
    expected.update(X[200:], sample_weight=w[200:])
    moments.update(rows[200:], sample_weight=unit * w[200:])
    tolerance = {"rtol": 1e-12, "atol": 1e-12 if precision == "float64" else 1e-5}
    assert_allclose(moments.n, unit * expected.n, rtol=1e-12)
    assert_allclose(moments.mean, expected.mean, **tolerance)
    assert_allclose(moments.residue.covariance, expected.residue.covariance, **tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_turned_base_has_no_axis_for_the_null_direction_of_a_layer_norm(dtype):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        h = rng.normal(size=(2000, 16)) @ rng.normal(size=(16, 16))
        h = (h - h.mean(axis=1, keepdims=True)) / h.std(axis=1, keepdims=True)
        h = h * rng.uniform(0.5, 2, 16) + 10 * rng.normal(size=16)
        X = np.hstack([h, rng.normal(size=(2000, 4))]).astype(dtype)
        distiller = ReverseDistiller((16, 4), residual_sizes=(4,), rotate_base=True).fit(X)
        assert distiller.stages_[0].n_added_nonzero == 15
        assert distiller.stages_[1].n_regression == 15


def test_a_stage_that_keeps_no_column_is_warned_of():
    rng = np.random.default_rng(0)
    small = rng.normal(size=(500, 3))
    X = np.hstack([small, small @ rng.normal(size=(3, 5))])
    with pytest.warns(UserWarning, match="'2' adds no column.*beside what the smaller models"):
        ReverseDistiller((3, 5)).fit(X)
    X[:, 3:] = 7.0
    with pytest.warns(UserWarning, match="'2' adds no column"):
        ReverseDistiller((3, 5)).fit(X)


@pytest.mark.parametrize("level", ["residue", "protein"])
@pytest.mark.parametrize("width", [200, 1200])
def test_a_wide_block_of_low_rank_has_no_columns_of_rounding(width, level):
    rng = np.random.default_rng(0)
    z, own = rng.normal(size=(2000, 10)), rng.normal(size=(2000, 2))
    h = z @ rng.normal(size=(10, width)) + own @ rng.normal(size=(2, width))
    how = {"residual_sizes": (width,), "residual_level": level}
    distiller = ReverseDistiller((10, width), **how)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*proteins determine")
        distiller.fit(np.hstack([z, h]), proteins=np.arange(2000) // 4)
    assert distiller.stages_[1].n_added_nonzero == 2


def test_residuals_of_proteins_that_are_rounding_are_zero():
    """The base's variance at protein level is far above that of residues."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        proteins = np.r_[np.repeat(np.arange(40), 250), 40 + np.arange(40)]
        z = rng.normal(size=(len(proteins), 10)) * np.geomspace(1, 1e-3, 10)
        z[-40:] *= 30
        h = (z / np.geomspace(1, 1e-3, 10)) @ rng.normal(size=(10, 30))
        how = {"residual_sizes": (30,), "residual_level": "protein"}
        with pytest.warns(UserWarning, match="'2' adds no column"):
            ReverseDistiller((10, 30), **how).fit(np.hstack([z, h]), proteins=proteins)


def test_ridge_and_outlier_columns_are_warned_of_where_something_is_lost_alone():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2000, 8)) * np.r_[1e8, np.ones(7)]
    X = np.hstack([z, z / np.r_[1e8, np.ones(7)] + 0.1 * rng.normal(size=(2000, 8))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for how in ({"regressor": "ridge", "alpha": 1.0}, {"regressor": "ols"}):
            stage = ReverseDistiller((8, 8), residual_sizes=(8,), **how).fit(X).stages_[1]
            assert (stage.n_regression, stage.n_lost) == (8, 0)


def test_pcr_inverts_nothing_that_is_not_known():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        outliers = 1e8 * rng.normal(size=(3000, 2)) @ rng.normal(size=(2, 3))
        z = np.hstack([outliers, rng.normal(size=(3000, 9))])
        X = np.hstack([z, z[:, 3:] @ rng.normal(size=(9, 14)) + rng.normal(size=(3000, 14))])
        stage = ReverseDistiller((12, 14), regressor="pcr").fit(X).stages_[1]
        assert np.abs(stage.coef).max() < 20
