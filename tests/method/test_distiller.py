import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from revdist_sklearn import Moments, PrefixSelector, ReverseDistiller
from revdist_sklearn.method import _products_numpy
from revdist_sklearn.method._chain import johnstone_count

SIZES = (4, 7, 12)


def family(n=500, sizes=SIZES, noise=0.3, seed=0):
    """Rows of a family whose larger members hold what the smaller have, and more."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, max(sizes))) * np.geomspace(3, 0.1, max(sizes))
    maps = np.random.default_rng(99)
    blocks = [
        latent[:, : k + 2] @ maps.normal(size=(min(k + 2, max(sizes)), k))
        + noise * rng.normal(size=(n, k))
        + 5 * maps.normal(size=k)
        for k in sizes
    ]
    return np.hstack(blocks)


def blocks_of_rows(X, sizes=SIZES):
    return np.split(X, np.cumsum(sizes)[:-1], axis=1)


def fit(X, **kwargs):
    return ReverseDistiller(kwargs.pop("block_sizes", SIZES), **kwargs).fit(X)


def direct_chain(X, predict, sizes=SIZES):
    """Return z by regression and SVD on the rows themselves."""
    blocks = blocks_of_rows(X, sizes)
    z, spectra, explained = blocks[0], [], []
    for h in blocks[1:]:
        r = h - predict(z, h)
        mean = r.mean(axis=0)
        _, s, Vt = np.linalg.svd(r - mean, full_matrices=False)
        q = h.shape[1] - z.shape[1]
        signs = np.sign(Vt[np.arange(len(Vt)), np.argmax(np.abs(Vt), axis=1)])
        z = np.hstack([z, (r - mean) @ (Vt * signs[:, None])[:q].T])
        spectra.append(s**2 / len(X))
        explained.append(1 - ((r - mean) ** 2).sum() / ((h - h.mean(axis=0)) ** 2).sum())
    return z, spectra, explained


def least_squares(z, h):
    return LinearRegression().fit(z, h).predict(z)


def ridge(z, h):
    return Ridge(alpha=3.0, solver="svd").fit(z, h).predict(z)


def principal_components(z, h):
    """The authors' rule, on the SVD of the rows."""
    centred = z - z.mean(axis=0)
    _, s, Vt = np.linalg.svd(centred, full_matrices=False)
    e = s**2 / (len(z) - 1)
    t = (1 + np.sqrt(z.shape[1] / len(z))) ** 2
    noise = e[e / e.mean() < t]
    sigma2 = np.median(noise) if len(noise) else np.median(e[-max(1, len(e) // 4) :])
    kept = np.sum(e > sigma2 * t)
    scores = centred @ Vt[:kept].T
    return LinearRegression().fit(scores, h).predict(scores)


WITNESSES = {
    "ols": ({}, least_squares),
    "ridge": ({"regressor": "ridge", "alpha": 3.0}, ridge),
    "pcr": ({"regressor": "pcr"}, principal_components),
}


class SplitDistiller(ReverseDistiller):
    """Splits unnamed columns into two blocks, so that the common checks meet a real chain."""

    def _new_moments(self, X):
        d = X.shape[1]
        if self.block_sizes is None and d >= 3:
            small = (d - 1) // 2
            return Moments((small, d - small))
        return super()._new_moments(X)


few_rows = pytest.mark.filterwarnings(
    "ignore:.*one block:UserWarning", "ignore:.*too few:UserWarning"
)
VARIANTS = [
    SplitDistiller(regressor=regressor, rotate_base=rotate)
    for regressor in WITNESSES
    for rotate in (False, True)
]


@parametrize_with_checks([ReverseDistiller(), SplitDistiller(regressor="pcr", rotate_base=True)])
@few_rows
def test_common_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(VARIANTS)
@few_rows
def test_common_checks_of_all_variants(estimator, check):
    check(estimator)


def test_the_split_subclass_runs_a_chain():
    assert len(SplitDistiller().fit(family(sizes=(10,))).stages_) == 2


# The method


@pytest.mark.parametrize("regressor", WITNESSES)
def test_equals_regression_and_svd_on_rows(regressor):
    X = family()
    parameters, predict = WITNESSES[regressor]
    z, spectra, explained = direct_chain(X, predict)
    distiller = fit(X, **parameters)
    assert_allclose(distiller.transform(X), z, rtol=0, atol=1e-10 * np.abs(z).max())
    for stage, spectrum, share in zip(distiller.stages_[1:], spectra, explained, strict=True):
        assert_allclose(stage.residual_variances, spectrum, rtol=1e-10, atol=1e-12)
        assert_allclose(stage.explained_before, share, rtol=1e-10)


def test_explained_after_is_that_of_the_new_prefix():
    X = family()
    distiller = fit(X)
    z, blocks = distiller.transform(X), blocks_of_rows(X)
    for stage, h in zip(distiller.stages_[1:], blocks[1:], strict=True):
        prefix = z[:, : stage.width]
        score = 1 - (h - least_squares(prefix, h)).var(axis=0).sum() / h.var(axis=0).sum()
        assert_allclose(stage.explained_after, score, rtol=1e-10)
        assert stage.explained_before < stage.explained_after < 1


def test_base_rotation_is_pca():
    X = family()
    Z = fit(X, rotate_base=True).transform(X)[:, : SIZES[0]]
    scores = PCA(svd_solver="full").fit_transform(X[:, : SIZES[0]])
    assert_allclose(np.abs(Z), np.abs(scores), atol=1e-10)


def test_one_block_is_the_identity():
    X = family()
    with pytest.warns(UserWarning, match="output equals the input"):
        distiller = ReverseDistiller().fit(X)
    assert_array_equal(distiller.transform(X), X)
    assert_array_equal(distiller.components_, np.eye(X.shape[1]))


def test_second_block_linear_in_the_first_leaves_no_residual():
    rng = np.random.default_rng(0)
    small = rng.normal(size=(200, 3))
    X = np.hstack([small, small @ rng.normal(size=(3, 6)) + 2.0])
    distiller = fit(X, block_sizes=(3, 6))
    assert distiller.stages_[1].n_added_nonzero == 0
    assert_array_equal(distiller.transform(X)[:, 3:], 0)
    assert_allclose(distiller.inverse_transform(small), X, atol=1e-10)


def test_enough_residual_columns_are_lossless():
    X = family()
    distiller = fit(X, residual_sizes=(7, 12))
    assert_allclose(distiller.inverse_transform(distiller.transform(X)), X, atol=1e-9)


@pytest.mark.parametrize("other", ["random", "pca of h", "pca of residual, rotated out"])
def test_theorem_1_no_other_completion_reconstructs_better(other):
    X = family(sizes=(4, 9))
    z, h = fit(X, block_sizes=(4, 9)).transform(X), X[:, 4:]

    def error(prefix):
        return ((h - least_squares(prefix, h)) ** 2).sum()

    rng = np.random.default_rng(0)
    completions = {
        "random": [h @ rng.normal(size=(9, 5)) for _ in range(20)],
        "pca of h": [PCA(5).fit_transform(h)],
        "pca of residual, rotated out": [
            z[:, 4:] + 0.1 * h @ rng.normal(size=(9, 5)) for _ in range(20)
        ],
    }
    for completion in completions[other]:
        assert error(z) < error(np.hstack([z[:, :4], completion]))


@settings(max_examples=20, deadline=None)
@given(
    d=st.integers(1, SIZES[-1]),
    regressor=st.sampled_from(sorted(WITNESSES)),
    rotate_base=st.booleans(),
)
def test_any_prefix_is_the_shorter_fit(d, regressor, rotate_base):
    X = family()
    parameters = {"regressor": regressor, "rotate_base": rotate_base}
    whole = fit(X, **parameters)
    z = whole.transform(X)[:, :d]
    assert_allclose(fit(X, n_components=d, **parameters).transform(X), z, atol=1e-12)
    cut = whole.truncate(d)
    assert_allclose(cut.transform(X[:, : cut.n_features_in_]), z, atol=1e-12)


@pytest.mark.parametrize("regressor", WITNESSES)
def test_prefix_at_a_stage_is_the_chain_cut_there(regressor):
    X = family()
    z = fit(X, regressor=regressor).transform(X)
    for i in (1, 2):
        sizes = SIZES[:i]
        shorter = fit(X[:, : sum(sizes)], block_sizes=sizes, regressor=regressor)
        shorter = shorter.transform(X[:, : sum(sizes)])
        assert_allclose(z[:, : SIZES[i - 1]], shorter, rtol=0, atol=1e-12)


@pytest.mark.parametrize("regressor", WITNESSES)
def test_pooling_commutes(regressor):
    X = family()
    distiller = fit(X, regressor=regressor)
    proteins = np.split(X, [30, 100, 260])
    pooled = np.array([protein.mean(axis=0) for protein in proteins])
    after = np.array([distiller.transform(protein).mean(axis=0) for protein in proteins])
    assert_allclose(distiller.transform(pooled), after, rtol=0, atol=1e-12)


def test_affine_map_is_what_transform_does():
    X = family()
    distiller = fit(X)
    z = (X - distiller.mean_) @ distiller.components_.T
    z[:, : SIZES[0]] += distiller.mean_[: SIZES[0]]
    assert_allclose(distiller.transform(X), z, atol=1e-11)


@pytest.mark.parametrize("regressor", WITNESSES)
@pytest.mark.parametrize("d", [2, 4, 6, 12])
def test_inverse_is_the_best_affine_reconstruction(regressor, d):
    X = family()
    distiller = fit(X, regressor=regressor)
    Z = distiller.transform(X)[:, :d]
    back = distiller.inverse_transform(Z)
    assert_allclose(back, least_squares(Z, X), atol=1e-8)
    exact = min(d, SIZES[0])
    assert_array_equal(back[:, :exact], X[:, :exact])


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 499), max_size=4, unique=True),
    regressor=st.sampled_from(sorted(WITNESSES)),
    weighted=st.booleans(),
)
def test_any_split_into_partial_fits_is_the_fit(cuts, regressor, weighted):
    X = family()
    w = np.random.default_rng(0).uniform(0.5, 2, len(X)) if weighted else np.ones(len(X))
    partial = ReverseDistiller(SIZES, regressor=regressor)
    for X_part, w_part in zip(np.split(X, sorted(cuts)), np.split(w, sorted(cuts)), strict=True):
        partial.partial_fit(X_part, sample_weight=w_part)
    whole = ReverseDistiller(SIZES, regressor=regressor).fit(X, sample_weight=w)
    assert_allclose(partial.transform(X), whole.transform(X), rtol=0, atol=1e-10)
    assert partial.n_samples_seen_ == len(X)


def test_partial_fit_solves_once_when_asked(monkeypatch):
    calls = []
    solve = ReverseDistiller._solve
    monkeypatch.setattr(
        ReverseDistiller, "_solve", lambda self, m: calls.append(1) or solve(self, m)
    )
    X = family()
    distiller = ReverseDistiller(SIZES)
    for part in np.array_split(X, 5):
        distiller.partial_fit(part)
    assert not calls
    distiller.transform(X), distiller.components_, distiller.stages_
    assert len(calls) == 1
    distiller.partial_fit(X)
    assert len(calls) == 1 and len(distiller.stages_) == 3  # asks for itself
    assert len(calls) == 2


def test_threads_that_ask_at_once_for_a_chain_get_one(monkeypatch):
    X, proteins = family(), np.arange(500) // 5
    lazy = ReverseDistiller(SIZES, residual_level="protein").partial_fit(X, proteins=proteins)
    expected = ReverseDistiller(SIZES, residual_level="protein").fit(X, proteins=proteins)
    add_rows = _products_numpy.add_rows

    def slowly(*args):
        time.sleep(0.1)  # in which the other threads arrive
        return add_rows(*args)

    monkeypatch.setattr(_products_numpy, "add_rows", slowly)
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda i: lazy.transform(X[:50]), range(8)))
    for Z in results:
        assert_array_equal(Z, expected.transform(X[:50]))


def test_what_partial_fit_tells_is_plain_or_solved_when_asked():
    X = family()
    distiller = ReverseDistiller(SIZES, n_components=9).partial_fit(X)
    whole = fit(X, n_components=9)
    told = vars(distiller)
    assert told["n_components_"] == whole.n_components_ == 9
    assert_array_equal(told["stage_dims_"], whole.stage_dims_)
    assert_allclose(told["mean_"], whole.mean_)
    assert "components_" not in told and "stages_" not in told
    assert_allclose(distiller.components_, whole.components_, atol=1e-12)
    assert "stages_" in vars(distiller)
    distiller.partial_fit(2 * X)
    assert not np.allclose(distiller.components_, whole.components_)


@pytest.mark.parametrize("how", ["fit", "partial_fit", "unfitted"])
def test_a_display_solves_nothing(how, monkeypatch):
    distiller = ReverseDistiller(SIZES)
    if how != "unfitted":
        getattr(distiller, how)(family())
    monkeypatch.setattr("revdist_sklearn.method._distiller.solve_chain", None)
    monkeypatch.setattr("revdist_sklearn.method._distiller.linear_map", None)
    assert "ReverseDistiller" in distiller._repr_html_() and "Reverse" in repr(distiller)
    assert not any(isinstance(value, property) for value in vars(ReverseDistiller).values())


def test_fitted_attributes_are_plain():
    told = vars(fit(family()))
    assert {"components_", "mean_", "n_components_", "stage_dims_", "stages_"} <= set(told)
    assert {"blocks_", "block_sizes_", "block_names_", "n_samples_seen_"} <= set(told)
    with pytest.raises(AttributeError, match="has no attribute 'stages_'"):
        ReverseDistiller().stages_  # noqa: B018


@pytest.mark.parametrize("rotate_base", [False, True])
def test_the_base_is_the_first_stage(rotate_base):
    X = family()
    stages = fit(X, rotate_base=rotate_base).stages_
    base, h = stages[0], X[:, : SIZES[0]]
    assert [stage.width for stage in stages] == list(SIZES)
    assert [stage.n_added for stage in stages] == [4, 3, 5]
    assert (base.block, base.n_regression, base.explained_before) == ("1", 0, 0.0)
    assert base.coef.shape == (0, 4) and base.prefix_mean.shape == (0,)
    assert_allclose(base.mean, h.mean(axis=0))
    spectrum = np.linalg.svd(h - h.mean(axis=0), compute_uv=False) ** 2 / len(h)
    assert_allclose(base.residual_variances, spectrum, rtol=1e-9)
    shares = spectrum if rotate_base else h.var(axis=0)
    assert_allclose(base.component_shares, shares / spectrum.sum(), rtol=1e-9)
    assert_allclose(base.explained_after, 1.0)
    assert base.n_added_nonzero == 4
    axes = PCA().fit(h).components_.T if rotate_base else np.eye(4)
    assert_allclose(np.abs(base.directions), np.abs(axes), atol=1e-9)
    short = fit(X, rotate_base=rotate_base, n_components=3).stages_
    assert len(short) == 1 and short[0].n_added == 3
    assert_allclose(short[0].component_shares, base.component_shares[:3])


def test_stages_are_equal_by_their_numbers():
    X = family()
    one, other = fit(X).stages_, fit(X).stages_
    assert one == other and one[1] == other[1] and one[1] != one[2]
    assert fit(X + 1).stages_[1] != one[1] and one[1] != "stage"
    with pytest.raises(TypeError, match="unhashable"):
        hash(one[1])


def test_partial_fit_after_fit_says_that_it_starts_anew():
    X = family()
    distiller = fit(X)
    with pytest.warns(UserWarning, match="starts anew"):
        distiller.partial_fit(X[:100])
    assert_allclose(distiller.transform(X), fit(X[:100]).transform(X))


@pytest.mark.parametrize("regressor", WITNESSES)
def test_weights_count_rows(regressor):
    X = family()
    w = np.random.default_rng(0).integers(0, 4, len(X))
    weighted = ReverseDistiller(SIZES, regressor=regressor).fit(X, sample_weight=w)
    repeated = fit(np.repeat(X, w, axis=0), regressor=regressor)
    assert_allclose(weighted.transform(X), repeated.transform(X), atol=1e-9)


def test_ridge_without_penalty_is_least_squares():
    X = family()
    assert_allclose(fit(X, regressor="ridge", alpha=0).transform(X), fit(X).transform(X))
    strong = fit(X, regressor="ridge", alpha=1e12)
    assert strong.stages_[1].explained_before < 1e-6


def test_signs_do_not_depend_on_the_order_of_rows():
    X = family()
    order = np.random.default_rng(0).permutation(len(X))
    assert_allclose(fit(X[order]).transform(X), fit(X).transform(X), atol=1e-10)
    for stage in fit(X).stages_[1:]:
        V = stage.directions
        assert (V[np.argmax(np.abs(V), axis=0), np.arange(V.shape[1])] > 0).all()


# Levels


def test_protein_level_chooses_directions_of_protein_means():
    X = family(600, sizes=(4, 9))
    groups = np.repeat(np.arange(60), 10)
    distiller = ReverseDistiller((4, 9), residual_level="protein").fit(X, proteins=groups)
    r = X[:, 4:] - least_squares(X[:, :4], X[:, 4:])
    means = np.array([r[groups == g].mean(axis=0) for g in range(60)])
    pca = PCA(5).fit(means)
    cosines = np.abs(np.sum(pca.components_.T * distiller.stages_[1].directions, axis=0))
    assert_allclose(cosines, 1, atol=1e-8)
    assert_allclose(
        distiller.stages_[1].residual_variances[:5], pca.explained_variance_ * 59 / 60, rtol=1e-8
    )
    # And the residue level chooses others on these rows.
    other = ReverseDistiller((4, 9)).fit(X)
    assert not np.allclose(other.transform(X), distiller.transform(X), atol=1e-3)


def test_protein_level_needs_groups():
    X = family()
    with pytest.raises(ValueError, match="needs moments of at least two proteins"):
        fit(X, residual_level="protein")
    with pytest.raises(ValueError, match="needs proteins"):
        ReverseDistiller(SIZES, residual_level="protein").partial_fit(X)
    with pytest.raises(ValueError, match="at least two proteins"):
        ReverseDistiller(SIZES, residual_level="protein").fit(X, proteins=np.zeros(len(X)))


def test_both_levels_from_one_set_of_moments():
    X, groups = family(), np.repeat(np.arange(50), 10)
    moments = Moments(SIZES).update(X, proteins=groups)
    for level in ("residue", "protein"):
        distiller = ReverseDistiller(residual_level=level).fit_moments(moments)
        direct = ReverseDistiller(SIZES, residual_level=level).fit(X, proteins=groups)
        assert_allclose(distiller.transform(X), direct.transform(X), atol=1e-12)


# Numerical traps


def layer_normed(n=4000, sizes=(16, 24), seed=0):
    """Rows that end in a LayerNorm: every block has a null direction."""
    X = family(n, sizes=sizes, seed=seed)
    out, rng = [], np.random.default_rng(5)
    for h in blocks_of_rows(X, sizes):
        h = (h - h.mean(axis=1, keepdims=True)) / h.std(axis=1, keepdims=True)
        out.append(h * rng.uniform(0.5, 2, h.shape[1]) + rng.normal(size=h.shape[1]))
    return np.hstack(out)


def score(distiller, X, width):
    """Share of the last block that regression on the first ``width`` columns explains."""
    h = X[:, width:]
    back = distiller.inverse_transform(np.asarray(X[:, :width], dtype=np.float64))[:, width:]
    return 1 - ((h - back) ** 2).sum() / ((h - h.mean(axis=0)) ** 2).sum()


def test_the_null_direction_of_a_layer_norm_survives_half_precision():
    X, new = layer_normed(), layer_normed(seed=1)
    distiller = fit(X, block_sizes=(16, 24))
    assert distiller.stages_[1].n_regression == 15
    exact = score(distiller, new, 16)
    assert exact > 0.5
    rounded = new.astype(np.float16).astype(np.float64)
    assert abs(score(distiller, rounded, 16) - exact) < 1e-3
    z = distiller.transform(new)[:, 16:]
    assert np.abs(distiller.transform(rounded)[:, 16:] - z).max() < 0.05


def test_outlier_columns_do_not_push_out_real_directions():
    X = family(2000, sizes=(16, 24))
    plain = fit(X, block_sizes=(16, 24))
    scale = np.ones(X.shape[1])
    scale[[1, 5, 9]] = 1000.0
    # Directions as small as a real model's: 1e-4 of the others.
    scale[[2, 3]] = 1e-4
    scaled = fit(X * scale, block_sizes=(16, 24))
    assert scaled.stages_[1].n_regression == plain.stages_[1].n_regression == 16
    assert_allclose(
        scaled.stages_[1].explained_before, plain.stages_[1].explained_before, atol=1e-8
    )
    assert_allclose(scaled.transform(X * scale)[:, 16:], plain.transform(X)[:, 16:], atol=1e-6)


def hard_columns(X, sizes):
    """Means of 10 and 1,000 spreads, outliers, a duplicate and a null direction."""
    reference = family(500, sizes=sizes, noise=1.0)
    mean, spread = reference.mean(axis=0), reference.std(axis=0)
    centred = X - mean
    yield "means of 10 spreads", centred + 10 * spread
    yield "means of 1000 spreads", centred + 1000 * spread
    outliers = centred.copy()
    outliers[:, [0, 3, sizes[0] + 1]] *= 1000
    yield "outliers", outliers
    duplicate = centred.copy()
    duplicate[:, 2] = duplicate[:, 1]
    yield "duplicate", duplicate
    yield "null direction", layer_normed(len(X), sizes)


HARD = ["means of 10 spreads", "means of 1000 spreads", "outliers", "duplicate", "null direction"]


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("regressor", WITNESSES)
def test_float32_products_keep_spectra_and_reconstructions(case, regressor):
    sizes = (16, 24)
    X = dict(hard_columns(family(6000, sizes=sizes, noise=1.0), sizes))[case].astype(np.float32)
    new = dict(hard_columns(family(2000, sizes=sizes, noise=1.0, seed=1), sizes))[case]
    exact = fit(X.astype(float), block_sizes=sizes, regressor=regressor)
    moments = Moments(sizes, precision="float32").update(X)
    single = ReverseDistiller(regressor=regressor).fit_moments(moments)
    one, other = single.stages_[1], exact.stages_[1]
    assert one.n_regression == other.n_regression
    spectra = one.residual_variances, other.residual_variances
    assert_allclose(*spectra, rtol=0, atol=1e-5 * spectra[1][0])
    scale = new.std(axis=0)
    for d in (16, 24):
        errors = [
            (((new - m.inverse_transform(m.transform(new)[:, :d])) / scale) ** 2).mean()
            for m in (single, exact)
        ]
        assert abs(errors[0] - errors[1]) < 1e-4


def test_outliers_of_the_larger_model_do_not_zero_real_directions_in_float32():
    sizes = (16, 24)
    X, new = (family(6000, sizes=sizes, noise=0.1, seed=seed) for seed in (0, 1))
    scale = np.ones(40)
    scale[[3, 7, 20]] = 1000.0
    exact = fit(X * scale, block_sizes=sizes)
    moments = Moments(sizes, precision="float32").update((X * scale).astype(np.float32))
    single = ReverseDistiller().fit_moments(moments)
    assert single.stages_[1].n_added_nonzero == exact.stages_[1].n_added_nonzero == 8
    errors = [
        (((m.inverse_transform(m.transform(new * scale)) / scale - new) / new.std(axis=0)) ** 2)
        for m in (single, exact)
    ]
    assert abs(errors[0].mean() - errors[1].mean()) < 1e-4


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_input(kind, recwarn):
    torch = pytest.importorskip("torch")
    sizes = (16, 24)
    centred = family(6000, sizes=sizes)
    centred = centred - centred.mean(axis=0)
    spread = centred.std(axis=0)
    for times, tolerance in [(0, 1e-3), (9, 1e-3)]:
        X = centred + times * spread
        rounded = torch.from_numpy(X).to(getattr(torch, kind))
        distiller = fit(rounded if kind == "bfloat16" else rounded.numpy(), block_sizes=sizes)
        assert distiller.transform(rounded).dtype == np.float32
        exact = fit(X, block_sizes=sizes)
        errors = [
            (((X - m.inverse_transform(m.transform(X))) / spread) ** 2).mean()
            for m in (distiller, exact)
        ]
        assert abs(errors[0] - errors[1]) < tolerance
    assert not recwarn.list
    for times in (11, 100):
        far = centred.copy()
        far[:, 17] += times * spread[17]
        with pytest.warns(UserWarning, match=f"1 of 40 columns.*{kind} rounds away.*: 2__01"):
            fit(torch.from_numpy(far).to(getattr(torch, kind)), block_sizes=sizes)


def test_duplicated_and_constant_columns():
    X = family(400, sizes=(6, 10))
    X[:, 1] = X[:, 0]
    X[:, 2] = 1 / 3
    distiller = fit(X, block_sizes=(6, 10))
    assert distiller.stages_[1].n_regression == 4
    z = distiller.transform(X)
    assert_allclose(z[:, 6:], direct_chain(X, least_squares, (6, 10))[0][:, 6:], atol=1e-9)
    # A column that was constant has no weight: it cannot blow up when it moves.
    X[:, 2] = 5.0
    assert_allclose(distiller.transform(X)[:, 6:], z[:, 6:], atol=1e-9)


@pytest.mark.parametrize("regressor", WITNESSES)
@pytest.mark.parametrize("n", [2, 4, 5, 8, 13])
def test_few_rows_warn_and_stay_finite(regressor, n):
    X = family(n)
    with pytest.warns(UserWarning, match=f"{n} rows are too few"):
        distiller = fit(X, regressor=regressor)
    again = fit_quietly(X, regressor=regressor)
    Z = distiller.transform(family(50, seed=3))
    assert np.isfinite(Z).all()
    assert_array_equal(Z, again.transform(family(50, seed=3)))


def fit_quietly(X, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(X, **kwargs)


def test_enough_rows_do_not_warn(recwarn):
    fit(family(100))
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    X = family().astype(dtype)
    distiller = fit(X)
    assert distiller.transform(X).dtype == dtype
    assert distiller.inverse_transform(distiller.transform(X)).dtype == dtype
    assert_allclose(distiller.transform(X), fit(X.astype(float)).transform(X), atol=1e-3)


# The estimator


def named(X, blocks=("a_1", "b", "c"), sizes=SIZES):
    pd = pytest.importorskip("pandas")
    columns = [f"{b}__{j:02d}" for b, k in zip(blocks, sizes, strict=True) for j in range(k)]
    return pd.DataFrame(X, columns=columns)


def test_blocks_come_from_column_names():
    X = family()
    distiller = ReverseDistiller().fit(named(X))
    assert distiller.block_sizes_ == SIZES and distiller.block_names_ == ("a_1", "b", "c")
    assert_allclose(distiller.transform(named(X)), fit(X).transform(X), atol=1e-10)
    assert list(distiller.get_feature_names_out()[[0, 4, 11]]) == [
        "rd_a_1__0",
        "rd_b__0",
        "rd_c__4",
    ]


def test_names_without_blocks_are_numbers():
    distiller = fit(family())
    assert list(distiller.get_feature_names_out()[[0, 4, 11]]) == ["rd_1__0", "rd_2__0", "rd_3__4"]


def test_truncated_names_are_a_prefix():
    X = family(sizes=(4, 30))
    distiller = fit(X, block_sizes=(4, 30))
    names = distiller.get_feature_names_out()
    assert_array_equal(distiller.truncate(9).get_feature_names_out(), names[:9])
    assert_array_equal(
        fit(X, block_sizes=(4, 30), n_components=9).get_feature_names_out(), names[:9]
    )


def test_set_output():
    X = named(family())
    out = ReverseDistiller().set_output(transform="pandas").fit_transform(X)
    assert out.columns[0] == "rd_a_1__0" and out.shape == (500, 12)


def test_fitted_on_moments_takes_arrays_and_frames_without_a_warning(recwarn):
    X = family()
    moments = Moments(SIZES, block_names=("a_1", "b", "c")).update(X)
    distiller = ReverseDistiller().fit_moments(moments)
    assert_array_equal(distiller.transform(named(X)), distiller.transform(X))
    assert not recwarn.list
    with pytest.raises(ValueError, match="but ReverseDistiller was fitted on"):
        distiller.transform(named(X, blocks=("b", "a_1", "c")))
    permuted = named(X).iloc[:, [1, 0, *range(2, 23)]]
    with pytest.raises(ValueError, match="its columns in another order"):
        distiller.transform(permuted)


def test_truncate_takes_only_the_blocks_it_needs():
    X = family()
    distiller = ReverseDistiller().fit(named(X))
    for d, n_columns in [(3, 4), (4, 4), (5, 11), (7, 11), (8, 23), (12, 23)]:
        cut = distiller.truncate(d)
        assert cut.n_features_in_ == n_columns and cut.n_components_ == d
        assert len(cut.feature_names_in_) == n_columns
        Z = cut.transform(named(X).iloc[:, :n_columns])
        assert_allclose(Z, distiller.transform(named(X))[:, :d], atol=1e-12)
        refit = clone(cut).fit(named(X).iloc[:, :n_columns])
        assert_allclose(refit.transform(named(X).iloc[:, :n_columns]), Z, atol=1e-10)
    assert distiller.n_components_ == 12  # the original is as it was
    assert distiller.truncate(6).stages_[1].explained_after < distiller.stages_[1].explained_after


def test_truncated_alias_is_that_of_the_members_it_needs():
    X = family(sizes=(32, 64, 96), n=400)
    distiller = fit(X, block_sizes="esm2-nano")
    cut = distiller.truncate(40)
    assert cut.block_sizes == "esm2-nano:64" and distiller.block_sizes == "esm2-nano"
    again = clone(cut).fit(X[:, :96])
    assert_array_equal(again.get_feature_names_out(), distiller.get_feature_names_out()[:40])


def test_truncated_inverse():
    X = family()
    cut = fit(X).truncate(7)
    Z = cut.transform(X[:, :11])
    assert_allclose(cut.inverse_transform(Z), least_squares(Z, X[:, :11]), atol=1e-8)


def test_pickle_and_clone():
    X = family()
    distiller = fit(X, regressor="ridge", alpha=2.0)
    again = pickle.loads(pickle.dumps(distiller))
    assert_array_equal(again.transform(X), distiller.transform(X))
    assert clone(distiller).get_params() == distiller.get_params()
    # The moments are not in the pickle: cov(x, z) and the chain are all it needs.
    assert distiller._moments is None


def test_grid_search_over_the_prefix_with_two_jobs():
    X = family(200)
    y = X[:, 0] + X[:, 15]
    model = make_pipeline(FrozenEstimator(fit(X)), PrefixSelector(), Ridge())
    search = GridSearchCV(model, {"prefixselector__n_components": [2, 4, 7, 12]}, n_jobs=2)
    assert search.fit(X, y).best_params_["prefixselector__n_components"] > 2


def test_parameters_act_at_partial_fit():
    X = family()
    distiller = ReverseDistiller(SIZES).partial_fit(X)
    distiller.set_params(n_components=4, regressor="pcr")
    assert_allclose(distiller.transform(X), fit(X).transform(X))
    with pytest.raises(ValueError, match="are not the blocks of the moments"):
        distiller.set_params(block_sizes=(11, 12)).partial_fit(X)


def test_a_fit_that_fails_leaves_nothing_half_written():
    X = family()
    distiller = fit(X)
    with pytest.raises(ValueError, match="sample_weight"):
        distiller.fit(X, sample_weight=-np.ones(len(X)))
    with pytest.raises(NotFittedError):
        distiller.transform(X)


def test_a_part_without_weight_adds_nothing():
    X = family()
    distiller = ReverseDistiller(SIZES).partial_fit(X)
    distiller.partial_fit(10 * X, sample_weight=np.zeros(len(X)))
    assert_allclose(distiller.transform(X), fit(X).transform(X))


def test_small_weights_do_not_cut_the_spectrum():
    e = np.array([10, 5, 4, 3, 0.1, 0.1, 0.1])
    # Worked by hand: no component stands above the edge, and 95% of the variance needs four;
    # of three rows there are three eigenvalues, of 500 rows that weigh three there are seven.
    assert johnstone_count(e, 3.0, 500) == 4
    assert johnstone_count(e, 3.0, 3) == 3
    X = family()
    whole = ReverseDistiller(SIZES, regressor="pcr").fit(X)
    kept = [stage.n_regression for stage in whole.stages_]
    half = ReverseDistiller(SIZES, regressor="pcr").fit(X, sample_weight=np.full(len(X), 0.5))
    assert [stage.n_regression for stage in half.stages_] == kept


def test_linear_second_block_leaves_no_residual_in_float32():
    rng = np.random.default_rng(0)
    small = rng.normal(size=(3000, 8)).astype(np.float32)
    large = small @ rng.normal(size=(8, 16)).astype(np.float32)
    stage = fit(np.hstack([small, large]), block_sizes=(8, 16)).stages_[1]
    assert stage.n_added_nonzero == 0 and stage.n_regression == 8
    assert stage.explained_before <= 1


def test_few_proteins_warn():
    X, groups = family(), np.repeat(np.arange(5), 100)
    with pytest.warns(UserWarning, match="5 proteins determine 4 residual directions"):
        ReverseDistiller(SIZES, residual_level="protein").fit(X, proteins=groups)


def test_an_alias_names_the_blocks_of_moments():
    X = np.random.default_rng(0).normal(size=(300, 96))
    unnamed = ReverseDistiller("esm2-nano:64").fit_moments(Moments((32, 64)).update(X))
    assert unnamed.get_feature_names_out()[0] == "rd_esm2_nano_032__00"
    other = Moments((32, 64), block_names=("x", "y")).update(X)
    with pytest.raises(ValueError, match="are not the blocks of the moments"):
        ReverseDistiller("esm2-nano:64").fit_moments(other)


def test_stage_dims_follow_residual_sizes():
    X = family(sizes=(6, 6, 6))
    distiller = fit(X, block_sizes=(6, 6, 6), residual_sizes=(2, 3))
    assert distiller.stage_dims_.tolist() == [6, 8, 11]
    assert distiller.transform(X).shape == (500, 11)


# Bad input


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"block_sizes": (4, 7)}, "add up to 11, but X has 23 columns"),
        ({"block_sizes": (4, 7, 12.0)}, "integers of 1 or more"),
        ({"block_sizes": (12, 7, 4)}, "block 2 has 7 columns and the block before it 12"),
        ({"n_components": 13}, "n_components=13 is larger than the 12 columns of the chain"),
        ({"residual_sizes": (3,)}, r"residual_sizes=\(3,\) has 1 entries for 3 blocks"),
        ({"residual_sizes": (3, 13)}, r"residual_sizes\[1\]=13 of block 3 .* \[1, 12\]"),
        ({"regressor": "lasso"}, "regressor"),
        ({"alpha": -1.0}, "alpha"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        fit(family(), **{"block_sizes": SIZES, **parameters})


@pytest.mark.parametrize("value, name", [(np.nan, "NaN"), (np.inf, "infinity")])
def test_values_that_are_not_finite_are_named(value, name):
    X = family()
    X[3, 5] = value
    with pytest.raises(ValueError, match=f"{name}.*row 3, column 5"):
        fit(X)
    with pytest.raises(ValueError, match=f"{name}.*row 3, column 5 \\('b__01'\\)"):
        ReverseDistiller().fit(named(X))


def test_fewer_than_two_rows():
    with pytest.raises(ValueError, match=r"1 sample.* minimum of 2 is required"):
        fit(family(1))
    one = ReverseDistiller(SIZES).partial_fit(family(1))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        one.transform(family(1))
    with pytest.raises(ValueError, match="No row has a weight"):
        ReverseDistiller().fit_moments(Moments(SIZES))


@pytest.mark.parametrize("d", [0, 13, 2.0, True, "2", None])
def test_truncate_out_of_range(d):
    with pytest.raises(ValueError, match="no prefix of the 12 columns"):
        fit(family()).truncate(d)


def test_inverse_of_too_many_columns():
    with pytest.raises(ValueError, match="Z has 13 columns and the chain 12"):
        fit(family()).inverse_transform(np.zeros((2, 13)))
    with pytest.raises(ValueError, match=r"Input Z contains NaN.*row 1, column 0"):
        fit(family()).inverse_transform(np.array([[0.0], [np.nan]]))


def test_fit_moments_of_rows():
    with pytest.raises(TypeError, match="takes Moments, not ndarray"):
        ReverseDistiller().fit_moments(family())


def test_values_beyond_the_range_of_their_squares():
    with pytest.raises(ValueError, match="squares of column 2 are beyond the range of float64"):
        X = family()
        X[:, 2] *= 1e200
        fit(X)


def test_moments_of_other_blocks():
    moments = Moments((11, 12)).update(family())
    with pytest.raises(ValueError, match="are not the blocks of the moments"):
        ReverseDistiller(SIZES).fit_moments(moments)


def test_block_sizes_that_name_a_hub_id_are_no_alias(monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    with pytest.raises(ValueError, match=r"'acme/x' is no alias of a family\. Known aliases"):
        ReverseDistiller("acme/x").fit(family())


@pytest.mark.parametrize("sizes", [(4, 7, True, 11), (4, 7.0, 12), (4, "7", 12), (0, 11, 12)])
def test_block_sizes_that_are_no_widths(sizes):
    with pytest.raises(ValueError, match=r"must hold the width of each block, integers of 1"):
        ReverseDistiller(sizes).fit(family())


def test_a_frame_of_another_family_is_told_by_both():
    pd = pytest.importorskip("pandas")
    moments = Moments((4, 7, 12), block_names="abc").update(family())
    distiller = ReverseDistiller().fit_moments(moments)
    other = pd.DataFrame(family(), columns=[f"x__{i}" for i in range(23)])
    words = r"X has the blocks x \(23\), but .* fitted on a \(4\), b \(7\), c \(12\): give"
    with pytest.raises(ValueError, match=words):
        distiller.transform(other)


def test_warnings_point_at_the_line_of_the_caller():
    X = family(10)
    for call in (
        lambda: ReverseDistiller(SIZES).fit(X),
        lambda: ReverseDistiller(SIZES).fit_transform(X),
        lambda: ReverseDistiller(SIZES).fit_moments(Moments(SIZES).update(X)),
        lambda: ReverseDistiller(SIZES).partial_fit(X).transform(X),
        lambda: ReverseDistiller(SIZES).partial_fit(X).truncate(3),
        lambda: ReverseDistiller(SIZES).partial_fit(X).stages_,
        lambda: ReverseDistiller().fit(X[:, :3]),
        lambda: ReverseDistiller().fit_moments(Moments([3]).update(X[:, :3])),
        lambda: fit(family()).partial_fit(X),
        lambda: make_pipeline(ReverseDistiller(SIZES), Ridge()).fit(X, X[:, 0]),
    ):
        with pytest.warns(UserWarning) as caught:
            call()
        assert {warning.filename for warning in caught} == {__file__}


def test_one_block_is_told_once_of_parts():
    X = family(sizes=(4,))
    distiller = ReverseDistiller()
    with pytest.warns(UserWarning, match="one block") as caught:
        distiller.partial_fit(X).partial_fit(X)
    assert len(caught) == 1


def test_rows_that_cannot_be_added_leave_the_rows_before_and_what_they_tell():
    X = family()
    distiller = ReverseDistiller(SIZES).partial_fit(X)
    whole = fit(X)
    bad = np.tile(X, (20, 1))
    bad[-1, 2] = 1e200  # beyond float64's squares, after good chunks
    with pytest.raises(ValueError, match="squares of column 2"):
        distiller.partial_fit(bad)
    distiller.set_params(n_components=5)
    with pytest.raises(ValueError, match="sample_weight"):
        distiller.partial_fit(X, sample_weight=[1.0])
    assert (distiller.n_components_, distiller.n_samples_seen_) == (12, 500)
    assert_array_equal(distiller.stage_dims_, whole.stage_dims_)
    assert_array_equal(distiller.transform(X), whole.transform(X))
    distiller.partial_fit(X)
    assert (distiller.n_components_, distiller.n_samples_seen_) == (5, 1000)
    assert distiller.transform(X).shape == (500, 5)


def test_too_few_rows_have_no_stages_yet():
    distiller = ReverseDistiller(SIZES).partial_fit(family(1))
    assert not hasattr(distiller, "stages_") and not hasattr(distiller, "components_")
    with pytest.raises(AttributeError, match="minimum of 2 is required"):
        distiller.stages_  # noqa: B018
    distiller.partial_fit(family())
    assert len(distiller.stages_) == 3


def test_a_truncated_distiller_with_residual_sizes_can_be_fitted_again():
    X = family(sizes=(6, 6, 6))
    cut = fit(X, block_sizes=(6, 6, 6), residual_sizes=(2, 3)).truncate(8)
    assert cut.residual_sizes == (2,)
    again = clone(cut).fit(X[:, :12])
    assert_allclose(again.transform(X[:, :12]), cut.transform(X[:, :12]), atol=1e-10)
