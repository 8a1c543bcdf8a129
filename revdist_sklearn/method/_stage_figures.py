"""What each stage of a solved chain adds, from second moments of any rows.

With C and the mean of x on the rows that are asked about, and b their mean less that of the fit::

    K = C A^T,  S = A C A^T            the chain's z = A x + .. on these rows
    r_i = h_i - hhat_i                 by the regression W of the fit
    cov(r_i) = H - W^T G - G^T W + W^T S W,    mean(r_i) = b_i - W^T A b

so that rows of other proteins, or their means, take the same small matrices as the fit.
"""

from dataclasses import dataclass

import numpy as np

from ._chain import (
    EPSILON,
    NULL,
    johnstone_edge,
    linear_map,
    principal_directions,
    reconstruction,
    regress,
    unit_scale,
)

# Below this share of a model's variance, that of a stage's columns is rounding.
SMALL_SHARE = 1e-6


@dataclass(frozen=True, eq=False)
class StageFigures:
    """Figures of every stage of a chain on one set of rows; the base is the first stage.

    What is not known is NaN. Errors count the rows' own mean, as ``r2_score`` does, so that
    on other rows than those of the fit a share explained can be negative, and one left above 1.

    Attributes
    ----------
    n_rows : int
        Rows of positive weight.

    explained_before : ndarray of shape (n_stages,)
        Share of the model's variance that the smaller models explain, by the regression of the
        fit; 0 for the base.

    explained_after : ndarray of shape (n_stages,)
        The same with the columns that the stage adds.

    spectra : tuple of ndarray of shape (k_i,)
        Variances of what the regression leaves, along its principal directions, descending;
        zero where they cannot be told from rounding. Of the base those of its block.

    edges : ndarray of shape (n_stages,)
        Johnstone's bulk edge of each spectrum: pure noise of as many columns and rows has no
        variance above it.

    n_above : ndarray of shape (n_stages,)
        Directions above the edge.

    effective_ranks : ndarray of shape (n_stages,)
        exp of the entropy of the normalised spectrum: from 1, all variance in one direction, to
        k_i, evenly in all; 0 without variance.

    correlations : ndarray of shape (n_stages,)
        Largest absolute correlation of a column that the stage adds with a column before it; NaN
        for the base.

    prefixes : ndarray of shape (n_prefixes,)
        Widths d of the prefixes of the next four.

    left_of_all, left_of_largest : ndarray of shape (n_prefixes,)
        Share of the variance of all columns, and of the last block's, that the reconstruction
        from the prefix (``inverse_transform``) leaves.

    best_of_all, best_of_largest : ndarray of shape (n_prefixes,)
        The least that any d directions leave: the principal components of these rows.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import ReverseDistiller, StageReport
    >>> rows = np.random.default_rng(0).normal(size=(100, 5))
    >>> distiller = ReverseDistiller((2, 3)).fit(rows)
    >>> figures = StageReport.from_estimator(distiller).figures["fit"]
    >>> figures.n_rows, [len(spectrum) for spectrum in figures.spectra]
    (100, [2, 3])
    """

    n_rows: int
    explained_before: np.ndarray
    explained_after: np.ndarray
    spectra: tuple
    edges: np.ndarray
    n_above: np.ndarray
    effective_ranks: np.ndarray
    correlations: np.ndarray
    prefixes: np.ndarray
    left_of_all: np.ndarray
    left_of_largest: np.ndarray
    best_of_all: np.ndarray
    best_of_largest: np.ndarray


def effective_rank(e):
    """Return exp of the entropy of a spectrum (Roy and Vetterli 2007); 0 without variance.

    Parameters
    ----------
    e : ndarray of shape (k,)
        Variances, none negative.

    Returns
    -------
    rank : float

    References
    ----------
    O. Roy, M. Vetterli (2007). "The Effective Rank: A Measure of Effective Dimensionality".
    EUSIPCO, 606-610.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.method._stage_figures import effective_rank
    >>> round(effective_rank(np.array([2.0, 2.0, 0.0])), 6)
    2.0
    """
    total = e.sum()
    if not total > 0:
        return float(total)  # 0, or NaN
    p = e[e > 0] / total
    return float(np.exp(-np.sum(p * np.log(p))))


def best_left(C, prefixes):
    """Return the share of variance that the d best directions leave (Eckart and Young).

    Parameters
    ----------
    C : ndarray of shape (k, k)
        A covariance.

    prefixes : ndarray of int, shape (n_prefixes,)
        Values of d; more than k leave nothing.

    Returns
    -------
    left : ndarray of shape (n_prefixes,)
    """
    e = np.maximum(np.linalg.eigvalsh(C), 0.0)  # ascending
    below = np.concatenate([[0.0], np.cumsum(e)])
    return _share(below[np.maximum(len(e) - prefixes, 0)], below[-1])


def regressions(chain, *, regressor, alpha, n, n_rows):
    """Return the coefficients W of every stage after the base, from what a chain holds.

    A chain keeps them only as its columns see them, W V. The others are solved again from
    cov(x, z), as the fit did; ``n`` has a part in ``ridge`` and ``pcr`` alone.

    Parameters
    ----------
    chain : Chain
        With cov(x, z).

    regressor, alpha, n, n_rows
        As in :func:`solve_chain`.

    Returns
    -------
    W : list of ndarray of shape (k_{i-1}, k_i)
    """
    K, S, noise = chain.cross_covariance, _prefix_covariance(chain), _noise(chain)
    found = []
    for stage, h in zip(chain.stages[1:], chain.blocks.slices[1:], strict=False):
        w, V = len(stage.prefix_mean), stage.directions
        how = {"regressor": regressor, "alpha": alpha, "n": n, "n_rows": n_rows}
        none = np.zeros((len(V), len(V)))
        W = regress(S[:w, :w], K[h, :w].T, none, noise[:w], precision=chain.precision, **how).W
        found.append(W + (stage.coef - W @ V) @ V.T)
    return found


def figures_of_rows(chain, W, n, n_rows, mean, C, prefixes, precision="float64"):
    """Return the figures of a chain on rows of which the moments are known.

    Parameters
    ----------
    chain : Chain
        With cov(x, z).

    W : list of ndarray of shape (k_{i-1}, k_i)
        From :func:`regressions`.

    n, n_rows : float and int
        Sum of the weights of the rows, and how many have one.

    mean, C : ndarray of shape (D,) and (D, D)
        Of the rows.

    prefixes : ndarray of int, shape (n_prefixes,)

    precision : {"float64", "float32"}
        Precision of the products behind C.

    Returns
    -------
    figures : StageFigures

    Notes
    -----
    O(D^2 k + n_prefixes D k^2) time, and O(D^3) for the best directions.
    """
    A, noise = linear_map(chain), _noise(chain)
    b = mean - chain.mean
    K = C @ A.T
    S = A @ K
    z = A @ b
    stages = []
    for i, (stage, h) in enumerate(zip(chain.stages, chain.blocks.slices, strict=False)):
        w, V, H = len(stage.prefix_mean), stage.directions, C[h, h]
        R, offset = H, b[h]
        if i:
            Wi, G = W[i - 1], K[h, :w].T
            WG = Wi.T @ G
            R = H - WG - WG.T + Wi.T @ S[:w, :w] @ Wi
            offset = offset - z[:w] @ Wi
        # Errors, with those of the mean; what the added columns tell of r is V V^T r.
        total, left = np.trace(H), np.trace(R) + offset @ offset
        told = np.sum(V * (R @ V)) + np.sum((offset @ V) ** 2)
        spectrum = principal_directions((R + R.T) / 2)[0]
        stages.append(
            (
                _explained(left, total) if i else float(total <= 0),
                _explained(left - told, total),
                _without_rounding(spectrum, total, stage.condition, precision),
                _largest_correlation(S[: stage.width, : stage.width], noise, w),
            )
        )
    last = chain.blocks.slices[-1]
    left = np.array([_left(reconstruction(chain, slice(d)), C, K, S, b, z) for d in prefixes])
    variances = np.diag(C)
    return _figures(
        *(n, n_rows, stages, prefixes),
        _share(left.sum(axis=1), variances.sum()),
        _share(left[:, last].sum(axis=1), variances[last].sum()),
        best_left(C, prefixes),
        best_left(C[last, last], prefixes),
    )


def figures_of_fit(chain, n, n_rows, prefixes, *, same_level=True):
    """Return the figures of a chain on the rows of its fit, of what it holds of them.

    The best directions are not known of it, nor without cov(x, z) correlations and
    reconstructions.

    Parameters
    ----------
    chain : Chain

    n, n_rows : float and int
        Sum of the weights of the rows, and how many have one.

    prefixes : ndarray of int, shape (n_prefixes,)

    same_level : bool, default=True
        Whether residual directions were chosen by these rows; by others, whose number a chain
        does not hold, edges are not known.

    Returns
    -------
    figures : StageFigures
    """
    known = chain.cross_covariance is not None
    noise = _noise(chain)
    variances = np.full(len(chain.stages), np.nan)
    correlations = variances.copy()
    if known:
        S = _prefix_covariance(chain)
        variances = _block_variances(chain, S)
        for i, stage in enumerate(chain.stages):
            w, d = len(stage.prefix_mean), stage.width
            correlations[i] = _largest_correlation(S[:d, :d], noise, w)
    stages = []
    for stage, total, correlation in zip(chain.stages, variances, correlations, strict=True):
        spectrum = _without_rounding(
            stage.residual_variances, np.nan_to_num(total), stage.condition, chain.precision
        )
        stages.append((stage.explained_before, stage.explained_after, spectrum, correlation))
    left = np.full((2, len(prefixes)), np.nan)
    if known and len(chain.stages) == len(chain.blocks):
        # What least squares leaves of each column adds up to that of blocks.
        last, K = chain.blocks.slices[-1], chain.cross_covariance
        for j, d in enumerate(prefixes):
            told = np.sum(reconstruction(chain, slice(d)) * K[:, :d].T, axis=0)
            left[:, j] = sum(variances) - told.sum(), variances[-1] - told[last].sum()
        left[0], left[1] = _share(left[0], sum(variances)), _share(left[1], variances[-1])
    unknown = np.full(len(prefixes), np.nan)
    n = n if same_level else np.nan
    return _figures(n, n_rows, stages, prefixes, *left, unknown, unknown)


def _figures(n, n_rows, stages, prefixes, *shares):
    before, after, spectra, correlations = zip(*stages, strict=True)
    known = [np.isfinite(n) and bool(np.isfinite(e).all()) for e in spectra]
    edges = np.array(
        [
            johnstone_edge(e, n, n_rows) if k else np.nan
            for e, k in zip(spectra, known, strict=True)
        ]
    )
    above = [np.sum((e > edge) & (e > 0)) for e, edge in zip(spectra, edges, strict=True)]
    return StageFigures(
        int(n_rows),
        np.array(before),
        np.array(after),
        spectra,
        edges,
        np.where(known, above, np.nan),
        np.array([effective_rank(e) for e in spectra]),
        np.array(correlations),
        prefixes,
        *shares,
    )


def _noise(chain):
    return np.zeros(chain.width) if chain.noise is None else chain.noise


def _prefix_covariance(chain):
    """Return cov(z) on the rows of the fit."""
    S = linear_map(chain) @ chain.cross_covariance
    return (S + S.T) / 2


def _block_variances(chain, S):
    """Return the variance of each block that has a stage, on the rows of the fit.

    The shares of a stage's columns are of it; where there is next to nothing in these, the
    reconstruction tells it.
    """
    variances = []
    for stage, h in zip(chain.stages, chain.blocks.slices, strict=False):
        own = slice(stage.width - stage.n_added, stage.width)
        share = stage.component_shares.sum()
        if share > SMALL_SHARE:
            variances.append(float(np.diag(S)[own].sum() / share))
        else:
            K = chain.cross_covariance[h, : stage.width]
            told = np.sum(reconstruction(chain, slice(stage.width))[:, h] * K.T)
            variances.append(float(told / stage.explained_after if stage.explained_after else 0))
    return variances


def _left(W, C, K, S, b, z):
    """Return the mean squared error of each column of x, reconstructed from a prefix by W."""
    d = len(W)
    variance = (
        np.diag(C) - 2 * np.sum(W * K[:, :d].T, axis=0) + np.sum(W * (S[:d, :d] @ W), axis=0)
    )
    return np.maximum(variance, 0.0) + (b - z[:d] @ W) ** 2


def _largest_correlation(S, noise, w):
    """Return the largest absolute correlation between columns before and after the w-th."""
    if w == 0 or w == len(S):
        return np.nan
    scale = unit_scale(np.diag(S), noise[: len(S)])
    return float(min(np.abs(scale[:w, None] * S[:w, w:] * scale[w:]).max(), 1.0))


def _without_rounding(e, total, condition, precision):
    """Return a spectrum, zero where it is rounding of a block of this variance.

    What the regression takes away is known to the square of its condition number.
    """
    condition = condition if condition > 1 else 1.0  # NaN of old files
    return np.where(e <= NULL * EPSILON[precision] * condition**2 * total, 0.0, e)


def _explained(left, total):
    return float(1.0 - max(left, 0.0) / total) if total > 0 else 1.0


def _share(left, total):
    """Return shares of a variance; of none nothing is left."""
    left = np.asarray(left, dtype=np.float64)
    return np.maximum(left, 0.0) / total if total > 0 else np.zeros_like(left)
