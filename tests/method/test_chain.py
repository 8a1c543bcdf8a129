"""The kernels of the chain, on covariances made by hand and on those of rows."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from revdist_sklearn import Blocks, ReverseDistiller
from revdist_sklearn.method._chain import (
    apply_chain,
    johnstone_count,
    linear_map,
    principal_directions,
    reconstruct,
    regress,
    rounding_noise,
    solve_chain,
    truncate_chain,
    unit_scale,
)

SIZES = (3, 5, 8)


def rows(n=300, d=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def covariance(X):
    return np.cov(X.T, bias=True)


def solve(C, sizes=SIZES, mean=None, n=1000, n_components=None, residual=None, **how):
    """Solve the chain of a covariance as the estimator does at its defaults."""
    n_components = n_components or sizes[-1]
    residual_sizes = tuple(np.diff(sizes)) if residual is None else (residual,)
    mean = np.zeros(len(C)) if mean is None else mean
    return solve_chain(n, mean, C, Blocks(sizes), residual_sizes, n_components, n_rows=n, **how)


def solve_rows(X, sizes=SIZES, **how):
    return solve(covariance(X), sizes, X.mean(axis=0), len(X), **how)


def fitted(X, y):
    """Least squares with an intercept, on the rows themselves."""
    A = np.column_stack([np.ones(len(X)), X])
    return A @ np.linalg.lstsq(A, y, rcond=None)[0]


# Against the rows


@pytest.mark.parametrize("rotate_base", [False, True])
def test_what_a_chain_tells_of_z_is_what_the_rows_of_z_say(rotate_base):
    X = rows()
    chain = solve_rows(X, rotate_base=rotate_base)
    Z = apply_chain(chain, X)
    joint = covariance(np.hstack([X, Z]))
    assert_allclose(chain.cross_covariance, joint[: X.shape[1], X.shape[1] :], atol=1e-10)
    assert_allclose(chain.prefix_mean, Z.mean(axis=0), atol=1e-12)
    assert_allclose(linear_map(chain) @ (X - X.mean(axis=0)).T, (Z - Z.mean(axis=0)).T, atol=1e-10)
    for stage, block in zip(chain.stages, chain.blocks.slices, strict=True):
        h, added = X[:, block], Z[:, stage.width - stage.n_added : stage.width]
        total = h.var(axis=0).sum()
        if stage.coef.size:
            z = Z[:, : stage.width - stage.n_added]
            residual = h - fitted(z, h)
            assert_allclose(stage.prefix_mean, z.mean(axis=0), atol=1e-12)
            assert_allclose(stage.explained_before, 1 - residual.var(axis=0).sum() / total)
            spectrum = np.linalg.svd(residual - residual.mean(axis=0), compute_uv=False) ** 2
            assert_allclose(stage.residual_variances, spectrum / len(X), atol=1e-12)
        assert_allclose(stage.component_shares, added.var(axis=0) / total)
        assert_allclose(stage.mean, h.mean(axis=0))


@pytest.mark.parametrize("rotate_base", [False, True])
@pytest.mark.parametrize("d", range(1, 9))
def test_a_cut_chain_is_the_chain_solved_that_far(d, rotate_base):
    X = rows()
    cut = truncate_chain(solve_rows(X, rotate_base=rotate_base), d)
    n_blocks = 1 + sum(d > size for size in SIZES[:-1])
    n_columns = sum(SIZES[:n_blocks])
    direct = solve_rows(
        X[:, :n_columns], SIZES[:n_blocks], n_components=d, rotate_base=rotate_base
    )
    assert cut.blocks == direct.blocks and cut.width == d and len(cut.stages) == n_blocks
    assert_allclose(cut.mean, direct.mean)
    assert_allclose(cut.cross_covariance, direct.cross_covariance, atol=1e-10)
    for one, other in zip(cut.stages, direct.stages, strict=True):
        assert (one.width, one.n_added) == (other.width, other.n_added)
        assert (one.block, one.n_regression) == (other.block, other.n_regression)
        for name in ("directions", "coef", "component_shares", "residual_variances"):
            assert_allclose(getattr(one, name), getattr(other, name), atol=1e-10)
    Z = apply_chain(direct, X[:, :n_columns])
    assert_allclose(apply_chain(cut, X[:, :n_columns]), Z, atol=1e-10)
    assert_allclose(reconstruct(cut, Z), reconstruct(direct, Z), atol=1e-8)


def test_a_cut_chain_holds_on_to_no_array_of_the_whole():
    chain = solve_rows(rows())
    cut = truncate_chain(chain, 4)
    assert not np.shares_memory(cut.cross_covariance, chain.cross_covariance)
    assert not np.shares_memory(cut.mean, chain.mean)
    assert truncate_chain(replace(chain, cross_covariance=None), 4).cross_covariance is None


def test_a_chain_has_arrays_of_its_own():
    X = rows()
    C, mean = covariance(X), X.mean(axis=0)
    chain = solve(C, mean=mean)
    expected = apply_chain(chain, X), reconstruct(chain, apply_chain(chain, X))
    C[:], mean[:] = np.nan, np.nan
    assert_array_equal(apply_chain(chain, X), expected[0])
    assert_array_equal(reconstruct(chain, expected[0]), expected[1])
    for stage, block in zip(chain.stages, chain.blocks.slices, strict=True):
        assert_allclose(stage.mean, X[:, block].mean(axis=0))


@pytest.mark.parametrize("rotate_base", [False, True])
@pytest.mark.parametrize("regressor", ["ols", "pcr"])
@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_of_the_rows_is_the_unit_of_the_columns(unit, regressor, rotate_base):
    X, how = rows(), {"regressor": regressor, "rotate_base": rotate_base}
    one, other = solve_rows(X, **how), solve_rows(unit * X, **how)
    Z = apply_chain(one, X)
    assert_allclose(apply_chain(other, unit * X), unit * Z, atol=1e-9 * unit)
    assert_allclose(reconstruct(other, unit * Z[:, :4]), unit * reconstruct(one, Z[:, :4]))
    for a, b in zip(one.stages, other.stages, strict=True):
        assert a.n_regression == b.n_regression and a.n_added_nonzero == b.n_added_nonzero
        assert_allclose(b.explained_before, a.explained_before)
        assert_allclose(b.component_shares, a.component_shares)
        assert_allclose(b.residual_variances, unit**2 * a.residual_variances)


def test_directions_may_be_chosen_by_other_rows():
    X, others = rows(), rows(seed=1)
    chain = solve_rows(X, C_directions=covariance(others))
    Z, stage = apply_chain(chain, X), chain.stages[1]
    # The coefficients are those of X, the residual whose directions count is that of the others.
    coef = np.linalg.lstsq(X[:, :3] - X[:, :3].mean(axis=0), X[:, 3:8], rcond=None)[0]
    residual = others[:, 3:8] - others[:, :3] @ coef
    _, s, Vt = np.linalg.svd(residual - residual.mean(axis=0))
    assert_allclose(np.abs(stage.directions), np.abs(Vt[:2].T), atol=1e-10)
    assert_allclose(stage.residual_variances, s**2 / len(others))
    added = Z[:, 3:5].var(axis=0) / X[:, 3:8].var(axis=0).sum()
    assert_allclose(stage.component_shares, added)


# Limits, from both sides


LIMITS = pytest.mark.parametrize("precision, limit", [("float64", 2.0**-20), ("float32", 2**-5.5)])


def nearly_equal_columns(share):
    """cov of two columns of unit variance whose second singular value is that share."""
    r = (1 - share**2) / (1 + share**2)
    return np.array([[1.0, r], [r, 1.0]])


@LIMITS
@pytest.mark.parametrize("regressor", ["ols", "ridge"])
@pytest.mark.parametrize("outlier", [1.0, 1e3])
def test_rank_counts_directions_above_the_limit(precision, limit, regressor, outlier):
    """Whatever the scale of a column: a few in ESM are 1,000 times the rest."""
    scale = np.array([outlier, 1.0])
    how = {"regressor": regressor, "alpha": 0.0, "n": 100.0, "n_rows": 100}
    for share, expected in ((limit / 2, 1), (2 * limit, 2)):
        S = scale[:, None] * nearly_equal_columns(share) * scale
        # h is the difference of the two columns: the weak direction itself.
        G = S @ np.array([[1 / outlier], [-1.0]])
        H = np.array([[1 / outlier, -1.0]]) @ G
        fit = regress(S, G, H, np.zeros(2), precision=precision, **how)
        assert (fit.rank, fit.n_lost) == (expected, 2 - expected)
        # Known or not, the second direction is there.
        assert_allclose(fit.condition, 1 / share, rtol=1e-3)
        found, R = fit.W * scale[:, None], fit.R
        if expected == 2:
            assert_allclose(found, [[1], [-1]], rtol=1e-3)
            assert abs(R[0, 0]) < 1e-3 * H[0, 0]
        else:
            assert_allclose(found, 0, atol=1e-3)
            assert_allclose(R, H, rtol=1e-3)


@LIMITS
def test_pcr_keeps_no_component_below_the_rank_limit(precision, limit):
    how = {"regressor": "pcr", "alpha": 0.0, "n": 100.0, "n_rows": 100}
    how |= {"precision": precision}
    for share, expected in ((limit / 2, 2), (2 * limit, 3)):
        # Three of five components are above the edge of the noise, 1e-30, that the rest are.
        e = np.array([1.0, 1.0, share**2, 1e-30, 1e-30])
        Q = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
        fit = regress(Q * e @ Q.T, Q @ np.ones((5, 1)), np.eye(1), np.zeros(5), **how)
        assert fit.rank == expected
        assert_allclose((Q.T @ fit.W)[:2, 0], 1, rtol=1e-3)
        assert fit.n_lost == 0
        assert_allclose(fit.condition, 1.0 if expected == 2 else 1 / share, rtol=1e-5)


@LIMITS
def test_ridge_uses_all_directions_and_tells_the_rank(precision, limit):
    S = nearly_equal_columns(limit / 2)
    how = {"regressor": "ridge", "alpha": 5.0, "n": 100.0, "n_rows": 100, "precision": precision}
    G = np.array([[0.3], [0.1]])
    fit = regress(S, G, np.eye(1), np.zeros(2), **how)
    expected = np.linalg.solve(S + 0.05 * np.eye(2), G)
    assert fit.rank == 1
    assert_allclose(fit.condition, np.sqrt(2.05 / 0.05), rtol=1e-2)
    assert_allclose(fit.W, expected)
    assert_allclose(fit.R, 1 - 2 * expected.T @ G + expected.T @ S @ expected)


@LIMITS
def test_reconstruction_uses_directions_above_the_limit(precision, limit):
    """x are two nearly equal columns and their difference, predicted from the two."""
    for share in (limit / 3, 3 * limit):
        S, T = nearly_equal_columns(share), np.array([[1.0, 0, 1], [0, 1, -1]])
        chain = replace(solve(T.T @ S @ T, (2, 1), n_components=2), precision=precision)
        difference = reconstruct(chain, np.array([[2.0, -1.0]]))[0, 2]
        assert_allclose(difference, 3.0 if share > limit else 0.0, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "rows, limit",
    [
        ("float64", 16 * 2.0**-52),
        ("float32", 2.0**-23),
        ("float16", 2.0**-10),
        ("bfloat16", 2.0**-7),
    ],
)
def test_a_column_is_constant_where_its_spread_is_rounding_of_its_mean(rows, limit):
    spread = np.array([limit / 2, 2 * limit, 2 * limit, 1e-150, 0.0])
    mean = np.array([1.0, 1.0, -1.0, 0.0, 0.0])
    variances, means = 1e10 * spread**2, 1e5 * mean
    scale = unit_scale(variances, rounding_noise(variances, means, rows))
    assert_allclose(scale[1:4] * 1e5 * spread[1:4], 1)
    assert scale[0] == scale[4] == 0
    assert_array_equal(unit_scale(np.array([-1e-17]), np.zeros(1)), 0)


@pytest.mark.parametrize("rows, rank", [("float64", 2), ("float32", 1)])
@pytest.mark.parametrize("regressor", ["ols", "pcr"])
def test_a_direction_within_the_rounding_of_the_rows_has_no_part(rows, rank, regressor):
    """Two columns of mean 1,000 whose difference varies by 1e-4: an ulp of float32 is 6e-5."""
    C = np.ones((3, 3))
    C[1, 1] += 1e-8
    C[1, 2] = C[2, 1] = C[1, 1]  # h follows the second
    C[2, 2] += 1e-8
    how = {"n_rows": 99, "regressor": regressor, "rows": rows}
    chain = solve_chain(99, np.full(3, 1e3), C, Blocks([2, 1]), (1,), 3, **how)
    stage = chain.stages[1]
    if regressor == "ols":
        assert stage.n_regression == rank
        assert stage.condition == 1.0 if rank == 1 else stage.condition > 1e4
    assert stage.n_added_nonzero == 0 or (regressor == "pcr" and rank == 2)
    # What is left, or is taken to be rounding, adds nothing.
    assert_allclose(stage.explained_before, 1, atol=1e-8)


def test_the_rounding_of_a_residual_grows_with_the_condition_of_what_it_draws_on():
    """C in float64 knows h to 1e-16; along [1, -1] / 1e-4 of the prefix, to 1e-8 alone."""
    for own, kept in ((1e-6, 1), (1e-9, 0)):
        S = nearly_equal_columns(1e-4)
        draws = np.array([1.0, -1.0]) / np.sqrt(2) / 1e-4
        C = np.empty((3, 3))
        C[:2, :2] = S
        C[:2, 2] = C[2, :2] = S @ draws
        C[2, 2] = draws @ S @ draws + own
        assert solve(C, (2, 1), n_components=3, residual=1).stages[1].n_added_nonzero == kept


def test_a_column_that_rounds_to_two_neighbours_is_constant():
    X = rows(400, 10)
    X[:, 1] = np.where(np.arange(400) % 2, 1 / 3, np.nextafter(1 / 3, 1))
    X[:, 2] = 1000 + 1e-8 * X[:, 2]
    distiller = ReverseDistiller((4, 6)).fit(X)
    assert distiller.stages_[1].n_regression == 3
    moved = X.copy()
    moved[:, 1] = 5.0
    assert_array_equal(distiller.transform(moved)[:, 4:], distiller.transform(X)[:, 4:])


@pytest.mark.parametrize("rows, used", [("float64", True), ("float32", False)])
def test_nothing_is_reconstructed_from_a_constant_column(rows, used):
    # A column of mean 1 and spread 1e-8, which is rounding in float32, and 1e8 times the same.
    C = np.array([[1e-16, 1e-8], [1e-8, 1.0]])
    chain = solve(C, (1, 1), np.ones(2), n_components=1, residual=1, rows=rows)
    x = reconstruct(chain, np.array([[1 + 3e-8]]))
    assert_allclose(x, [[1, 4.0 if used else 1.0]], rtol=1e-6)


@pytest.mark.parametrize("share", [1e-13, 1e-30])
def test_a_column_of_a_tiny_share_is_a_direction_of_its_own(share):
    C = np.diag([1.0, 1.0, share])
    stage = solve(C, (1, 2), n_components=3, residual=2).stages[1]
    assert stage.n_added == stage.n_added_nonzero == 2
    assert_array_equal(np.abs(stage.directions), np.eye(2))
    turned = solve(C[::-1, ::-1], (3,), rotate_base=True).stages[0]
    assert turned.n_added == turned.n_added_nonzero == 3


@pytest.mark.parametrize("own, kept", [(1e-14, True), (1e-15, False)])
def test_what_two_columns_differ_by_within_rounding_is_a_zero_column(own, kept):
    C = np.ones((3, 3))
    C[0] = C[:, 0] = [1, 0, 0]
    C[2, 2] += own
    stage = solve(C, (1, 2), n_components=3, residual=2).stages[1]
    assert stage.n_added == 2 and stage.n_added_nonzero == 1 + kept
    turned = solve(C[::-1, ::-1], (3,), rotate_base=True).stages[0]
    assert turned.n_added == 3 and turned.n_added_nonzero == 2 + kept


@pytest.mark.parametrize(
    "precision, variance, kept",
    [
        ("float64", 3e-14, True),
        ("float64", 3e-15, False),
        ("float32", 1e-5, True),
        ("float32", 1e-7, False),
    ],
)
def test_a_residual_within_rounding_of_what_it_is_left_of_is_zero(precision, variance, kept):
    # The second model is the first, and one column of it has that much of its own.
    C = np.ones((4, 4))
    C[3, 3] += variance
    chain = solve_chain(9, np.zeros(4), C, Blocks([2, 2]), (1,), 3, n_rows=9, precision=precision)
    assert chain.precision == precision
    assert chain.stages[1].n_added_nonzero == kept


# Without variance


def test_a_larger_model_without_variance_leaves_nothing_to_explain():
    C = np.zeros((5, 5))
    C[:2, :2] = [[2.0, 1.0], [1.0, 2.0]]
    stage = solve(C, (2, 3)).stages[1]
    assert stage.explained_before == stage.explained_after == 1.0
    assert stage.n_added == 1 and stage.n_added_nonzero == 0
    assert_array_equal(stage.component_shares, 0)


@pytest.mark.parametrize("rotate_base", [False, True])
@pytest.mark.parametrize("regressor", ["ols", "ridge", "pcr"])
def test_a_base_without_variance_explains_nothing(regressor, rotate_base):
    C = np.zeros((5, 5))
    C[2:, 2:] = np.diag([1.0, 2.0, 3.0])
    chain = solve(C, (2, 3), np.arange(5.0), regressor=regressor, rotate_base=rotate_base)
    base, stage = chain.stages
    assert base.explained_before == base.explained_after == 1.0 and base.n_added_nonzero == 0
    assert_array_equal(base.component_shares, 0)
    assert (stage.explained_before, stage.n_regression) == (0.0, 0)
    assert_allclose(stage.component_shares, [0.5])
    assert_array_equal(stage.coef, 0)


def test_a_turned_base_has_zero_columns_where_it_has_no_variance():
    C = np.diag([1.0, 0.0, 4.0, 5.0])
    base = solve(C, (3, 1), n_components=3, rotate_base=True).stages[0]
    assert_array_equal(base.directions, [[0, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert_allclose(base.component_shares, [0.8, 0.2, 0])
    assert base.n_added == 3 and base.n_added_nonzero == 2


# Small parts


def test_principal_directions_are_ordered_and_have_a_sign():
    Q = np.array([[0.8, -0.6], [0.6, 0.8]])
    e, V = principal_directions(Q @ np.diag([1.0, 9.0]) @ Q.T)
    assert_allclose(e, [9, 1])
    assert_allclose(V, [[-0.6, 0.8], [0.8, 0.6]])
    assert_array_equal(principal_directions(np.diag([1.0, -1e-20]))[0], [1, 0])


@pytest.mark.parametrize("seed", range(10))
def test_signs_do_not_depend_on_rounding(seed):
    """A column and its negative are equally large in a direction, whatever rounding says."""
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(200, 3))
    X = np.hstack([half, -half])
    _, V = principal_directions(covariance(X))
    for order in (rng.permutation(200), rng.permutation(200)):
        assert_allclose(principal_directions(covariance(X[order]))[1][:, :3], V[:, :3], atol=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_rounding_alone_has_an_end_and_an_order(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, 4)) @ rng.normal(size=(4, 30)) * 10.0 ** rng.integers(-9, 3, size=30)
    variances, V = principal_directions(covariance(X))
    assert (np.diff(variances) <= 0).all() and (variances >= 0).all()
    assert_allclose(V.T @ V, np.eye(30), atol=1e-12)


def test_an_outlier_column_does_not_zero_the_axes_of_the_others():
    """One column of 1e6 times the spread of eight others, which are not equal either."""
    X = rows(500, 9, seed=3) @ np.diag(np.r_[1e6, np.geomspace(1, 0.1, 8)])
    base = solve_rows(X, (9,), rotate_base=True).stages[0]
    assert base.n_added_nonzero == 9
    exact = np.linalg.svd(X - X.mean(axis=0), compute_uv=False) ** 2 / len(X)
    assert_allclose(base.residual_variances, exact, rtol=1e-2)


@pytest.mark.parametrize(
    "e, n, n_rows, expected",
    [
        # t = (1 + sqrt(4 / 400))^2 = 1.21; noise .1, .1, .1: the edge is .121.
        ([10, 0.1, 0.1, 0.1], 400, 400, 1),
        ([10, 5, 0.1, 0.1], 400, 400, 2),
        ([10, 0.122, 0.1, 0.1], 400, 400, 2),
        ([10, 0.120, 0.1, 0.1], 400, 400, 1),
        # The median of .1, 4, 4.2 is 4, their mean 2.77: the edge is 4.84 and not 3.35.
        ([10, 4.2, 4, 0.1], 400, 400, 1),
        # Nothing above the edge of 1.21: 95% of the variance takes four of four.
        ([1.01, 1, 1, 0.99], 400, 400, 4),
        ([0, 0, 0, 0], 400, 400, 0),
        # t = 4 at as many rows as columns: the edge is 18, and three explain just 95%.
        ([10, 5, 4, 1], 4, 4, 3),
    ],
)
def test_johnstones_rule_worked_by_hand(e, n, n_rows, expected):
    assert johnstone_count(np.array(e, dtype=float), n, n_rows) == expected


def test_a_stage_is_shown_without_its_arrays():
    base, second, _ = solve_rows(rows()).stages
    assert repr(base) == (
        "Stage(block='1', width=3, n_added=3, n_regression=0, explained_before=0.0)"
    )
    assert "\n" not in repr(second) and "array" not in repr(second)


def test_a_stage_is_equal_to_no_other_thing():
    stage = solve_rows(rows()).stages[1]
    assert stage == replace(stage, coef=stage.coef.copy())
    assert stage != replace(stage, coef=stage.coef + 1e-15) and stage != replace(stage, width=6)
    assert (stage == "stage") is False and (stage != 3) is True


@pytest.mark.parametrize("residual_sizes", [(2,), (2, 3, 1)])
def test_residual_sizes_are_one_a_larger_model(residual_sizes):
    with pytest.raises(ValueError, match=r"zip\(\)"):
        C = covariance(rows())
        solve_chain(9, np.zeros(16), C, Blocks(SIZES), residual_sizes, 8, n_rows=9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rotate_base", [False, True])
def test_rows_keep_their_dtype_there_and_back(dtype, rotate_base):
    X = rows()
    chain = solve_rows(X, rotate_base=rotate_base)
    Z = apply_chain(chain, X.astype(dtype))
    back = reconstruct(chain, Z)
    assert Z.dtype == back.dtype == dtype
    assert_allclose(Z, apply_chain(chain, X), atol=1e-4)
    assert_allclose(back, fitted(apply_chain(chain, X), X), atol=1e-3)
