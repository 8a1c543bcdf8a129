"""The reverse distillation chain from second moments alone.

Notation of Catrina et al. (ICLR 2026, arXiv:2603.07710), one residue a row::

    x   = [h_1, .., h_m]           the embeddings of all models, D columns
    z_1 = h_1                      the smallest model, k_1 columns
    hhat_i = affine regression of h_i on z_{i-1},    r_i = h_i - hhat_i
    V_i    = leading principal directions of r_i
    z_i = [z_{i-1}, r_i V_i]

Every step depends on the rows through the mean and the covariance C of x alone. With
K = cov(x, z) and S = cov(z) of the prefix z built so far, a stage needs the small matrices
S, G = cov(z, h_i) (rows of K) and cov(h_i) (a diagonal block of C): nothing of the size of
the corpus, and nothing of D x D beside C itself.

These functions work on arrays; validation and bookkeeping are the estimator's.
"""

from dataclasses import dataclass, field, fields, replace

import numpy as np

from ..base._blocks import Blocks
from ..base._threads import one_thread_of_blas
from ..base._values import same
from ._sample import Witness, told

# What follows is in units of EPSILON, the relative spacing of floating-point numbers.
EPSILON = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}
# Products leave up to twice this share of the largest variance where there is none, so that
# a direction of this many times it is known to a part in 2,000. Below, none is inverted.
RANK = 4096
# Up to this share, a variance cannot be told from none (largest seen in products: 8).
NULL = 16
# Eigenvalues below this share of another are computed without it.
GRADE = 1e-8


@dataclass(frozen=True, eq=False)
class Stage:
    """What one stage of the chain found; two are equal if all their numbers are.

    The first stage is the base: the smallest model's block as it is, or turned to its
    principal axes. There is nothing before it, so that it has no regression.

    Attributes
    ----------
    block : str
        Name of the model's block; its number (from 1) where blocks have no names.

    width : int
        Columns of the prefix after this stage.

    n_added : int
        Columns that this stage adds.

    n_regression : int
        Directions of the smaller prefix that the regression uses: its rank (``ols``,
        ``ridge``) or the principal components kept (``pcr``). 0 for the base.

    condition : float
        Condition number of the regression: largest over smallest singular value of the smaller
        prefix's centred columns (at unit variance for ``ols``, with the penalty for ``ridge``,
        over the components in use for ``pcr``), directions without variance left out. 1 for the
        base; NaN in a chain of a file from before it was kept.

    n_lost : int
        Directions of the smaller prefix that vary, but by less than the products can tell well
        enough: they have no part in the regression. Where a few rows of float64 have told of
        them, ``condition`` is known to a tenth or so.

    explained_before : float
        Share of the model's variance that the regression on the smaller prefix explains: 0
        for the base; 1, for any stage, where there is no variance to explain.

    component_shares : ndarray of shape (n_added,)
        Share of the model's variance that each column adds.

    residual_variances : ndarray of shape (k_i,)
        Variances of the residual along its principal directions, descending: the residual
        spectrum, at the level that chose the directions. Of the base: those of its block.

    directions : ndarray of shape (k_i, n_added)
        V_i, orthonormal residual directions (zero columns where there is no variance). Of
        the base: the identity, or the principal axes.

    coef : ndarray of shape (k_{i-1}, n_added)
        The regression's coefficients seen through V_i: the stage's columns are
        ``(h_i - mean) @ directions - (z - prefix_mean) @ coef``; those of a base that is
        not turned are ``h_1 @ directions``.

    mean : ndarray of shape (k_i,)
        Mean of h_i.

    prefix_mean : ndarray of shape (k_{i-1},)
        Mean of z_{i-1}.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import ReverseDistiller
    >>> rows = np.random.default_rng(0).normal(size=(100, 5))
    >>> base, second = ReverseDistiller((2, 3)).fit(rows).stages_
    >>> second
    Stage(block='2', width=3, n_added=1, n_regression=2, explained_before=...)
    >>> second.directions.shape, second.explained_before < second.explained_after
    ((3, 1), True)
    """

    block: str
    width: int
    n_added: int
    n_regression: int
    explained_before: float
    component_shares: np.ndarray = field(repr=False)
    residual_variances: np.ndarray = field(repr=False)
    directions: np.ndarray = field(repr=False)
    coef: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    prefix_mean: np.ndarray = field(repr=False)
    condition: float = field(default=np.nan, repr=False)
    n_lost: int = field(default=0, repr=False)

    @property
    def n_added_nonzero(self):
        """How many of the columns carry variance; the rest are there to keep the width."""
        return int(np.sum(self.directions.any(axis=0) & (self.component_shares != 0)))

    @property
    def explained_after(self):
        """Share of the model's variance that regression and columns of this stage explain.

        For ``"ols"`` this is the share that the new prefix explains; after the other
        regressors least squares on it can explain a little more.
        """
        return self.explained_before + float(self.component_shares.sum())

    def __eq__(self, other):
        if not isinstance(other, Stage):
            return NotImplemented
        return all(same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


@dataclass(frozen=True)
class Chain:
    """A solved chain: the affine map from x to z, and cov(x, z) for the way back.

    Attributes
    ----------
    blocks : Blocks
        Those of x.

    stages : tuple of Stage
        The base and all after it.

    rotated : bool
        Whether the base is turned to its principal axes.

    mean : ndarray of shape (D,)
        Mean of x.

    cross_covariance : ndarray of shape (D, k) or None
        cov(x, z), or None for a chain that came without it.

    precision : {"float64", "float32"}
        Precision of the products behind the covariances.

    noise : ndarray of shape (k,) or None
        Variance that the rounding of the rows leaves in each column of z; None for none.

    sizes : tuple of int or None
        Columns of the base and residual columns of each stage that was computed, before they were
        cut to the wanted width; None for a chain that came without them. In no file.

    untold : dict of str to int
        By block, columns that are zero because products do not tell them from rounding, although
        rows do; in no file.
    """

    blocks: Blocks
    stages: tuple
    rotated: bool
    mean: np.ndarray
    cross_covariance: np.ndarray | None
    precision: str = "float64"
    noise: np.ndarray | None = None
    untold: dict = field(default_factory=dict)
    sizes: tuple | None = None

    @property
    def width(self):
        """Columns of z."""
        return self.stages[-1].width

    @property
    def prefix_mean(self):
        """Mean of z, of shape (k,)."""
        z_mean = np.zeros(self.width)
        if not self.rotated:
            n_base = self.stages[0].n_added
            z_mean[:n_base] = self.mean[:n_base]
        return z_mean


def truncate_chain(chain, d):
    """Return the chain of the first d columns of z, on the blocks of x that they need."""
    stages = []
    for stage in chain.stages:
        n_added = d - (stage.width - stage.n_added)
        if n_added <= 0:
            break
        if n_added < stage.n_added:
            stage = replace(
                stage,
                width=d,
                n_added=n_added,
                component_shares=stage.component_shares[:n_added],
                directions=stage.directions[:, :n_added],
                coef=stage.coef[:, :n_added],
            )
        stages.append(stage)
    blocks = chain.blocks.first(len(stages))
    D = blocks.n_columns
    K = None if chain.cross_covariance is None else chain.cross_covariance[:D, :d].copy()
    return replace(
        chain,
        blocks=blocks,
        stages=tuple(stages),
        mean=chain.mean[:D].copy(),
        cross_covariance=K,
        noise=None if chain.noise is None else chain.noise[:d].copy(),
    )


def _eigh(covariance):
    # Its threads wait for each other thousands of times, 30 times as long beside other work, and
    # gain little up to widths of 900.
    with one_thread_of_blas(len(covariance) ** 3 / 8):
        variances, directions = np.linalg.eigh(covariance)
    return variances[::-1].copy(), directions[:, ::-1].copy()


def principal_directions(covariance):
    """Return variances (descending) and orthonormal directions (columns) of a covariance.

    The first entry of largest magnitude in each direction is positive, so that the result does
    not depend on the sign that the eigensolver happens to return. Entries that differ by
    rounding alone, such as those of a column and its negative, count as equally large.
    """
    variances, directions = _eigh(covariance)
    # An eigenvalue's error is rounding of the largest: what lies far below, beside a column of
    # outliers, is found again within what the directions above leave.
    start, spread = 0, EPSILON["float64"] * np.diag(covariance)
    while variances[start] > spread @ directions[:, start] ** 2:
        far = int(np.sum(variances >= GRADE * variances[start]))
        if not start < far < len(variances):
            break
        start = far
        V = directions[:, start:]
        variances[start:], turn = _eigh(V.T @ covariance @ V)
        directions[:, start:] = V @ turn
    order = np.argsort(-variances, kind="stable")  # rounding has none
    variances, directions = np.maximum(variances[order], 0.0), directions[:, order]
    magnitudes = np.abs(directions)
    largest = np.argmax(magnitudes >= (1 - 1e-3) * magnitudes.max(axis=0), axis=0)
    signs = np.sign(directions[largest, np.arange(directions.shape[1])])
    return variances, directions * signs


def johnstone_edge(e, n, n_rows):
    """Return Johnstone's bulk edge of a spectrum, sigma^2 t, as the authors' rule takes it.

    Parameters
    ----------
    e : ndarray of shape (k,)
        Eigenvalues of a covariance, descending.

    n : float
        Number of rows (sum of their weights).

    n_rows : int
        Rows of positive weight. Rows determine no more eigenvalues than there are, which is
        how many an SVD of them returns; weights below 1 do not make them fewer.

    Returns
    -------
    edge : float
        Noise alone has no eigenvalue above it; 0 for a spectrum of zeros.
    """
    if e[0] == 0.0:
        return 0.0
    t = (1.0 + np.sqrt(len(e) / n)) ** 2
    e = e[: max(n_rows, int(n))]
    noise = e[e / e.mean() < t]
    sigma2 = np.median(noise if len(noise) else e[-max(1, len(e) // 4) :])
    return float(sigma2 * t)


def johnstone_count(e, n, n_rows):
    """Return how many principal components the authors' rule for ``pcr`` keeps.

    Parameters
    ----------
    e, n, n_rows
        As in :func:`johnstone_edge`: the eigenvalues are those of the covariance of z_{i-1}.
    """
    if e[0] == 0.0:
        return 0
    edge = johnstone_edge(e, n, n_rows)
    e = e[: max(n_rows, int(n))]
    kept = int(np.sum(e > edge))
    if kept == 0:
        kept = int(np.searchsorted(np.cumsum(e) / e.sum(), 0.95)) + 1
    return kept


def rounding_noise(variances, means, rows="float64"):
    """Return the variance that rounding of the rows can have left in each column.

    Parameters
    ----------
    variances, means : ndarray of shape (D,)

    rows : str
        Coarsest type of the rows, a key of ``EPSILON``.

    Returns
    -------
    noise : ndarray of shape (D,)
        Of a spread of one EPSILON of the column's root mean square: five times what rounding
        to nearest leaves. Means of many chunks of float64 rows differ by as much as 16.
    """
    epsilon = max(EPSILON[rows], NULL * EPSILON["float64"])
    return epsilon**2 * (np.maximum(variances, 0.0) + means**2)


def unit_scale(variances, noise):
    """Return 1 / standard deviation of each column, and 0 for a column of noise."""
    scale = np.zeros_like(variances)
    np.divide(1.0, np.sqrt(np.maximum(variances, 0.0)), out=scale, where=variances > noise)
    return scale


def spectrum(S, noise, scale, precision):
    """Return eigenvalues and eigenvectors of a covariance, and how well these are known.

    Parameters
    ----------
    S : ndarray of shape (k, k)
        cov(z).

    noise : ndarray of shape (k,)
        Variance in each column that is rounding of the rows.

    scale : ndarray of shape (k,)
        What the columns are multiplied by.

    precision : {"float64", "float32"}
        Precision of the products behind S.

    Returns
    -------
    e, Q : ndarray of shape (k,) and (k, k)
        Of the scaled covariance, descending.

    unit : ndarray of shape (k,)
        Error of products in each: RANK times that, an eigenvalue can be inverted; up to NULL
        times that, it cannot be told from zero.

    rounded : ndarray of shape (k,)
        What rounding of the rows can have left in each.
    """
    S = scale[:, None] * S * scale
    e, Q = principal_directions(S)
    unit = EPSILON[precision] * _product_error(S, e[0], Q)
    return e, Q, unit, (scale**2 * noise) @ Q**2


def _product_error(S, largest, Q):
    """Return the error that products leave in a covariance S along Q, in units of EPSILON.

    It is within the largest eigenvalue, and within what its entries, each rounded for itself,
    add up to: the smaller of the two where a few columns are outliers. Q has rounding too.
    """
    whole = largest * np.sum(Q**2, axis=0)
    return np.clip(len(S) * (np.diag(S) @ Q**2), EPSILON["float64"] * whole, whole)


@dataclass(frozen=True)
class Regression:
    """Regression of h on z; see ``regress``."""

    W: np.ndarray
    R: np.ndarray
    rank: int
    n_lost: int
    condition: float
    # Of z as the regression sees it: its covariance, the largest eigenvalue of that, its scale.
    S: np.ndarray
    largest: float
    scale: np.ndarray
    # Directions of z in use, and the errors of their variances, as a share of each.
    used: tuple

    def rounding(self, V):
        """Return the error that products leave in R along V, in units of EPSILON.

        That is the first-order effect on R = H - G^T W of the error in S; it grows with the
        square of the condition number along the directions that V draws on.
        """
        unscaled = np.divide(1.0, self.scale, out=np.zeros_like(self.scale), where=self.scale > 0)
        return _product_error(self.S, self.largest, unscaled[:, None] * (self.W @ V))


def regress(S, G, H, noise, *, regressor, alpha, n, n_rows, precision="float64", witness=None):
    """Regress h on z from their covariances.

    Each regressor is a filter f on the spectrum of S = Q diag(e) Q^T: with g = Q^T G the
    coefficients are Q f(e) g and the residual's covariance is H - g^T (2 f - e f^2) g, a
    difference of two terms only, so that it stays accurate where e is small.

    Parameters
    ----------
    S : ndarray of shape (k, k)
        cov(z).

    G : ndarray of shape (k, l)
        cov(z, h).

    H : ndarray of shape (l, l)
        cov(h).

    noise : ndarray of shape (k,)
        Variance in each column of z that is rounding of the rows.

    regressor : {"ols", "ridge", "pcr"}

    alpha : float
        Penalty of ``ridge``, on sums over n centred rows as in scikit-learn's Ridge.

    n : float
        Number of rows (sum of their weights).

    n_rows : int
        Rows of positive weight.

    precision : {"float64", "float32"}
        Precision of the products behind the covariances.

    witness : Witness or None
        Rows of z that tell of directions that products do not.

    Returns
    -------
    regression : Regression
        ``W`` of shape (k, l), the coefficients: hhat - mean(h) = (z - mean(z)) W. ``R`` of
        shape (l, l), the covariance of the residual h - hhat. ``rank``, the directions of z
        in use. ``n_lost``, those that vary and are not known well enough. ``condition``, the
        condition number of z over the directions with variance: of ``ridge`` with its penalty,
        of ``pcr`` over the components in use.
    """
    penalty = alpha / n if regressor == "ridge" else 0.0
    # Rank is judged on columns of unit variance: a few outlier columns would otherwise push
    # real directions under the cut. A penalty and principal components are not scale-free.
    scaled = penalty == 0.0 and regressor != "pcr"
    scale = unit_scale(np.diag(S), noise) if scaled else np.ones(len(S))
    e, Q, unit, rounded = spectrum(S, noise, scale, precision)
    smallest, null = np.maximum(RANK * unit, rounded), np.maximum(NULL * unit, rounded)
    known = e > smallest
    if regressor == "pcr":
        # Never a direction that is not known, however small the noise.
        kept = real = known & (np.arange(len(e)) < johnstone_count(e, n, n_rows))
    else:
        # A penalty keeps an inverse from growing where nothing is known.
        kept = (e > 0.0) & (e + penalty > smallest)
        real = e > null
    f = np.zeros_like(e)
    f[kept] = 1.0 / (e[kept] + penalty)
    g = Q.T @ (scale[:, None] * G)
    W = scale[:, None] * (Q @ (f[:, None] * g))
    B = np.sqrt(2 * f - e * f**2)[:, None] * g
    used = scale[:, None] * Q[:, kept], unit[kept] / e[kept]
    n_lost, weakest = int(np.sum(real & ~kept)), e[real].min() if real.any() else e[0]
    if witness is not None and regressor != "pcr":
        # What has no part, unless it varies by nothing beside the penalty.
        unknown = ~kept & (penalty <= smallest)
        rows = witness.z @ (scale[:, None] * Q)
        # A LayerNorm's mean and spread are rounded for all columns at once.
        seen = told(
            rows[:, unknown],
            NULL**2 * unit[unknown].max(initial=0.0),
            len(e) * rounded[unknown],
            rows[:, kept],
            unit[kept] / e[kept],
        )
        if len(seen) > n_lost:
            n_lost, weakest = len(seen), min(weakest, seen[-1])
    return Regression(
        W,
        H - B.T @ B,
        int(np.sum(known & kept)),
        n_lost,
        float(np.sqrt((e[0] + penalty) / (weakest + penalty))) if weakest + penalty > 0 else 1.0,
        scale[:, None] * S * scale,
        e[0],
        scale,
        used,
    )


@dataclass
class Joint:
    """Covariances of x and of the prefix z built so far, at one level.

    C is cov(x); the first ``width`` columns of K are cov(x, z), of S cov(z). ``noise`` is the
    variance in each column of x that is rounding of the rows, ``z_noise`` that of z, as if the
    rounding of two columns were independent.
    """

    C: np.ndarray
    noise: np.ndarray
    K: np.ndarray
    S: np.ndarray
    z_noise: np.ndarray
    width: int = 0

    @classmethod
    def empty(cls, C, noise, n_columns):
        """Return the state before the base, with room for ``n_columns`` of z."""
        k = n_columns
        return cls(C, noise, np.zeros((len(C), k)), np.zeros((k, k)), np.zeros(k))

    def block(self, columns):
        """Return S, G = cov(z, h) and H = cov(h) for a block of columns of x."""
        w = self.width
        return self.S[:w, :w], self.K[columns, :w].T, self.C[columns, columns]

    def residual(self, columns, W):
        """Return cov(h - z W) for any coefficients W."""
        S, G, H = self.block(columns)
        WG = W.T @ G
        return H - WG - WG.T + W.T @ S @ W

    def append(self, columns, V, coef):
        """Append u = h V - z coef to the prefix: cov(x, u), cov(z, u), cov(u)."""
        S, G, H = self.block(columns)
        w, new = self.width, self.width + V.shape[1]
        self.K[:, w:new] = self.C[:, columns] @ V - self.K[:, :w] @ coef
        zu = G @ V - S @ coef
        uu = V.T @ H @ V - coef.T @ zu - (G @ V).T @ coef
        self.S[:w, w:new], self.S[w:new, :w] = zu, zu.T
        self.S[w:new, w:new] = (uu + uu.T) / 2
        self.z_noise[w:new] = self.noise[columns] @ V**2 + self.z_noise[:w] @ coef**2
        self.width = new


def solve_chain(
    n,
    mean,
    C,
    blocks,
    residual_sizes,
    n_components,
    *,
    n_rows,
    regressor="ols",
    alpha=1.0,
    rotate_base=False,
    C_directions=None,
    C_base=None,
    precision="float64",
    rows="float64",
    sample=None,
    of_directions=None,
    of_base=None,
):
    """Solve the accumulated chain (Algorithm 3 of the paper) from moments.

    Parameters
    ----------
    n : float
        Number of rows (sum of their weights).

    mean, C : ndarray of shape (D,) and (D, D)
        Mean and covariance of x.

    blocks : Blocks
        Widths k_1, .., k_m.

    residual_sizes : tuple of int or float
        Residual columns of stages 2 to m. A float in (0, 1): as many residual directions as reach
        that share of the residual's variance.

    n_components : int
        Columns of z at most; stages beyond it are not computed.

    n_rows : int
        Rows of positive weight.

    regressor, alpha, rotate_base
        As in ``ReverseDistiller``.

    C_directions : ndarray of shape (D, D) or None
        Covariance at the level that chooses the residual directions (``None``: C).

    C_base : ndarray of shape (k_1, k_1) or None
        Covariance of the first block at the level that turns the base (``None``: that of C).

    precision : {"float64", "float32"}
        Precision of the products behind C.

    rows : {"float64", "float32", "float16", "bfloat16"}
        Coarsest type of the rows behind C.

    sample : Sample or None
        Some of these rows.

    of_directions, of_base : (str, str) or None
        Precision of the products, and coarsest type of the rows, behind C_directions and C_base
        (``None``: those behind C).

    Returns
    -------
    chain : Chain

    Notes
    -----
    O(sum k_i^3 + D k_m^2) time, O(D k_m) memory beside C.
    """
    if sample is not None and rows == "float64" and sample.is_float32:
        rows = "float32"  # in arrays of float64
    noise = rounding_noise(np.diag(C), mean, rows)
    joint = Joint.empty(C, noise, n_components)
    chosen_by, chosen = joint, precision
    if C_directions is not None:
        chosen, kind = of_directions or (precision, rows)
        # No level is finer than what its regression is fitted on.
        its_noise = np.maximum(noise, rounding_noise(np.diag(C), mean, kind))
        chosen_by = Joint.empty(C_directions, its_noise, n_components)
    levels = [joint] if C_directions is None else [joint, chosen_by]
    # Rows of float32 are no finer than products.
    fine = sample is not None and rows == "float64" and len(sample) > 1
    witness = Witness(sample, mean) if fine else None
    untold = {}
    first, *larger = blocks.slices

    # z_1 = h_1, or its principal axes.
    turning, kind = of_base or (precision, rows)
    level = None
    if C_base is not None:
        its_noise = np.maximum(noise, rounding_noise(np.diag(C), mean, kind))
        level = C_base, its_noise[first], turning
    base = _base_stage(
        joint, first, mean, n_components, blocks.labels[0], rotate_base, precision, level
    )
    if witness is not None:
        if rotate_base and C_base is None:
            untold[base.block] = _untold_axes(joint, witness, first, base, precision)
        witness.append(first, base.directions, base.coef)
    for level in levels:
        level.append(first, base.directions, base.coef)
    z_mean = np.zeros(n_components)
    if not rotate_base:
        z_mean[: base.n_added] = mean[: base.n_added]

    stages, sizes = [base], [len(base.mean)]
    for label, h, size in zip(blocks.labels[1:], larger, residual_sizes, strict=True):
        width = joint.width
        if width == n_components:
            break
        S, G, H = joint.block(h)
        fit = regress(
            S,
            G,
            H,
            joint.z_noise[:width],
            regressor=regressor,
            alpha=alpha,
            n=n,
            n_rows=n_rows,
            precision=precision,
            witness=witness,
        )
        W, R = fit.W, fit.R

        # Leading principal directions of r_i.
        R_directions = R if chosen_by is joint else chosen_by.residual(h, W)
        variances, V = principal_directions(R_directions)
        floor = _floor(chosen_by, h, V, chosen)
        floor += NULL * EPSILON[precision] * fit.rounding(V)
        if chosen_by is not joint:  # whose residual has errors of its own S
            S_chosen = chosen_by.S[:width, :width]
            largest = np.abs(S_chosen).sum(axis=0).max()
            floor += 4 * NULL * EPSILON[chosen] * _product_error(S_chosen, largest, W @ V)
        floor += chosen_by.z_noise[:width] @ (W @ V) ** 2
        zero = variances <= floor
        if chosen_by is not joint:
            # Rounding of rows adds up at another level, whose null directions are askew: what
            # varies among residues by less than can be inverted is none either.
            known = _floor(joint, h, V, precision, RANK)
            known += RANK * EPSILON[precision] * fit.rounding(V)
            known += joint.z_noise[:width] @ (W @ V) ** 2
            zero |= np.sum(V * (R @ V), axis=0) <= known
        if isinstance(size, float):
            size = directions_for(size, np.where(zero, 0.0, variances))
        sizes.append(size)
        q = min(size, n_components - width)
        if witness is not None and chosen_by is joint and zero[:q].any():
            rounded = joint.noise[h] @ V**2 + joint.z_noise[:width] @ (W @ V) ** 2
            error, known, errors = floor - rounded, witness.z @ fit.used[0], fit.used[1]
            rows = witness.x[:, h] @ V - witness.z @ (W @ V)
            seen = told(
                rows[:, zero],
                NULL * error[zero].max(),
                (width + len(H)) * rounded[zero],
                np.hstack([known, rows[:, ~zero]]),
                np.append(errors, error[~zero] / variances[~zero] / NULL),
            )
            untold[label] = min(len(seen), int(np.sum(zero[:q])))
        V = np.where(zero, 0.0, V)[:, :q]

        # z_i = [z_{i-1}, (h_i - mean) V_i - (z_{i-1} - mean) W V_i]
        coef = W @ V
        for level in levels:
            level.append(h, V, coef)
        if witness is not None:
            witness.append(h, V, coef)
        shares = np.maximum(np.sum(V * (R @ V), axis=0), 0.0)
        variance_h, variance_r = np.trace(H), max(np.trace(R), shares.sum(), 0.0)
        stages.append(
            Stage(
                block=label,
                width=joint.width,
                n_added=V.shape[1],
                n_regression=fit.rank,
                # Of a block without variance nothing is left to explain.
                explained_before=float(1 - variance_r / variance_h) if variance_h > 0 else 1.0,
                component_shares=shares / variance_h if variance_h > 0 else shares,
                residual_variances=variances,
                directions=V,
                coef=coef,
                mean=mean[h].copy(),
                prefix_mean=z_mean[:width].copy(),
                condition=fit.condition,
                n_lost=fit.n_lost,
            )
        )
    K, z_noise, k = joint.K, joint.z_noise, joint.width
    if k < n_components:  # of shares it is not known before how many columns there will be
        K, z_noise = K[:, :k].copy(), z_noise[:k].copy()
    return Chain(
        blocks,
        tuple(stages),
        rotate_base,
        mean.copy(),
        K,
        precision,
        z_noise,
        untold,
        tuple(sizes),
    )


def directions_for(share, variances):
    """Return how many principal directions explain more than a share of the variance.

    The rule of scikit-learn's PCA; one at least, also where nothing varies.

    Parameters
    ----------
    share : float
        In (0, 1).

    variances : ndarray of shape (k,)
        Descending.

    Returns
    -------
    n : int

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.method._chain import directions_for
    >>> directions_for(0.5, np.array([6.0, 3.0, 1.0])), directions_for(0.95, np.array([6.0, 3, 1]))
    (1, 3)
    """
    explained = np.cumsum(variances)
    if explained[-1] == 0.0:
        return 1
    # Rounding of the sum must not ask for directions without variance.
    most = int(np.flatnonzero(variances)[-1]) + 1
    return min(int(np.searchsorted(explained / explained[-1], share, side="right")) + 1, most)


def _floor(joint, columns, V, precision, times=NULL):
    """Return the variance of a block along V that cannot be told from none.

    Judged along the direction: a few outlier columns would otherwise lift the limit above real
    directions of the others.
    """
    return _floor_of(joint.C[columns, columns], joint.noise[columns], V, precision, times)


def _floor_of(H, noise, V, precision, times=NULL):
    """Return the same of the covariance of a block and the rounding of its rows."""
    along = np.diag(H) @ V**2
    # Errors of many entries add up in a wide block, to a part of its largest eigenvalue at most,
    # which no sum of magnitudes in a row falls short of.
    largest = np.abs(H).sum(axis=0).max() * np.sum(V**2, axis=0)
    error = np.maximum(times * along, np.minimum(times * largest, 2 * len(H) * along))
    return EPSILON[precision] * error + noise @ V**2


def _untold_axes(joint, witness, columns, base, precision):
    """Return how many axes of a turned base are zero although rows vary along them."""
    H, k = joint.C[columns, columns], base.n_added
    e, Q = principal_directions(H)
    zero = np.append(~base.directions.any(axis=0), np.ones(len(H) - k, dtype=bool))
    if not zero[:k].any():
        return 0
    unit = EPSILON[precision] * _product_error(H, e[0], Q)
    rows = witness.x[:, columns] @ Q
    seen = told(
        rows[:, zero],
        NULL**2 * unit[zero].max(),
        len(H) * (joint.noise[columns] @ Q[:, zero] ** 2),
        rows[:, ~zero],
        unit[~zero] / e[~zero],
    )
    return min(len(seen), int(np.sum(zero[:k])))


def _base_stage(joint, columns, mean, n_components, label, rotate_base, precision, level=None):
    """Return z_1 = h_1, or its principal axes.

    Those of a level, where its covariance, the rounding of its rows and the precision of its
    products are given.
    """
    H = joint.C[columns, columns]
    n_base = min(len(H), n_components)
    variances, V = principal_directions(H if level is None else level[0])
    if rotate_base:
        null = variances <= _floor(joint, columns, V, precision)
        if level is not None:  # as for residual directions of another level
            null = np.sum(V * (H @ V), axis=0) <= _floor(joint, columns, V, precision, RANK)
            H_level, noise, chosen = level
            null |= variances <= _floor_of(H_level, noise, V, chosen)
        V = np.where(null, 0.0, V)[:, :n_base]
    else:
        V = np.eye(len(H), n_base)
    total, shares = np.trace(H), np.sum(V * (H @ V), axis=0)
    return Stage(
        block=label,
        width=n_base,
        n_added=n_base,
        n_regression=0,
        explained_before=0.0 if total > 0 else 1.0,
        component_shares=shares / total if total > 0 else shares,
        residual_variances=variances,
        directions=V,
        coef=np.zeros((0, n_base)),
        mean=mean[columns].copy(),
        prefix_mean=np.zeros(0),
        condition=1.0,
    )


def apply_chain(chain, X):
    """Return z for rows x, in the dtype of X.

    Parameters
    ----------
    chain : Chain

    X : ndarray of shape (n, D), float32 or float64

    Returns
    -------
    Z : ndarray of shape (n, k)
    """
    Z = np.empty((len(X), chain.width), dtype=X.dtype)
    for stage, columns in zip(chain.stages, chain.blocks.slices, strict=False):
        prefix = stage.width - stage.n_added
        if prefix == 0 and not chain.rotated:
            Z[:, : stage.width] = X[:, : stage.width]
            continue
        h = X[:, columns] - _like(stage.mean, X)
        z = Z[:, :prefix] - _like(stage.prefix_mean, X)
        Z[:, prefix : stage.width] = h @ _like(stage.directions, X) - z @ _like(stage.coef, X)
    return Z


def _like(array, X):
    return array.astype(X.dtype, copy=False)


def linear_map(chain):
    """Return the matrix A of z = A x + b, of shape (k, D)."""
    A = np.zeros((chain.width, chain.blocks.n_columns))
    for stage, columns in zip(chain.stages, chain.blocks.slices, strict=False):
        prefix = stage.width - stage.n_added
        A[prefix : stage.width] = -stage.coef.T @ A[:prefix]
        A[prefix : stage.width, columns] += stage.directions.T
    return A


def importance_order(chain, C):
    """Return the columns of z by their variance at one level, descending.

    Parameters
    ----------
    chain : Chain

    C : ndarray of shape (D, D)
        cov(x) at that level; of the blocks of the chain its leading part.

    Returns
    -------
    order : ndarray of shape (k,), int64
    """
    A = linear_map(chain)
    D = A.shape[1]
    variances = np.einsum("ij,ji->i", A @ C[:D, :D], A.T)
    # What is equal stays in order: columns of the base that do not vary at this level, and those
    # that are zero, which larger models alone have beside it.
    return np.argsort(-variances, kind="stable")


def columns_of_stages(stages, order=None):
    """Return how many columns of an embedding are of each stage.

    Parameters
    ----------
    stages : sequence of Stage

    order : sequence of int or None, default=None
        The columns of z that it has; None for all of them.

    Returns
    -------
    n_columns : list of int
    """
    if order is None:
        return [stage.n_added for stage in stages]
    stage = np.searchsorted([stage.width for stage in stages], order, side="right")
    return np.bincount(stage, minlength=len(stages)).tolist()


def _known_spectrum(chain, columns):
    """Return eigenvalues and eigenvectors of cov(z) of some columns, of what is known of it.

    These are scaled by the third value, which is returned too.
    """
    S = linear_map(chain)[columns] @ chain.cross_covariance[:, columns]
    noise = np.zeros(len(S)) if chain.noise is None else chain.noise[columns]
    S = (S + S.T) / 2
    scale = unit_scale(np.diag(S), noise)
    e, Q, unit, rounded = spectrum(S, noise, scale, chain.precision)
    kept = e > np.maximum(RANK * unit, rounded)
    return e[kept], Q[:, kept], scale


def covariance_factor(chain):
    """Return M = cov(x, w), with which cov(x, z) is M L^T.

    The r columns of w are those of z, each without what those before it explain, at unit
    variance, so that L = A M = cov(z, w) is lower triangular. M is for files that round: its
    condition is the square root of that of cov(x, z), and what is not known of cov(z) stays
    out of it whatever rounding does.

    Parameters
    ----------
    chain : Chain
        With cov(x, z).

    Returns
    -------
    M : ndarray of shape (D, r)
    """
    e, Q, scale = _known_spectrum(chain, slice(None))
    unscaled = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    F = unscaled[:, None] * Q * np.sqrt(e)  # cov(z) = F F^T
    U, R = np.linalg.qr(F.T)  # = R^T R
    M = chain.cross_covariance @ (scale[:, None] * Q / np.sqrt(e)) @ U
    if not chain.rotated:  # the base's own rows of L, zero above the diagonal
        n_base = chain.stages[0].n_added
        M[:n_base] = R.T[:n_base]
    return M


def with_factor(chain, M):
    """Return the chain with the cov(x, z) that a factor of it gives."""
    return replace(chain, cross_covariance=M @ (linear_map(chain) @ M).T)


def reconstruct(chain, Z, columns=None):
    """Return the best affine reconstruction of x from columns of z, in the dtype of Z.

    Parameters
    ----------
    chain : Chain

    Z : ndarray of shape (n, d)
        Rows of columns of z.

    columns : ndarray of shape (d,) or None, default=None
        Which these are; None for the first ones.

    Returns
    -------
    X : ndarray of shape (n, D)
    """
    columns = slice(Z.shape[1]) if columns is None else columns
    W = reconstruction(chain, columns)
    X = (Z - _like(chain.prefix_mean[columns], Z)) @ _like(W, Z) + _like(chain.mean, Z)
    # Exactly, without the rounding of the means.
    own, exact = _of_base(chain, columns)
    X[:, own] = Z[:, exact]
    return X


def _of_base(chain, columns):
    """Return the columns of x that are columns of z themselves, and which of some these are."""
    columns = np.arange(chain.width)[columns]
    exact = np.flatnonzero(columns < (0 if chain.rotated else chain.stages[0].n_added))
    return columns[exact], exact


def reconstruction(chain, columns):
    """Return the coefficients of x on some columns of z, of shape (d, D).

    Those of least squares; columns of a base that is not turned are its own.

    Parameters
    ----------
    chain : Chain

    columns : slice or ndarray of shape (d,)
    """
    K = chain.cross_covariance[:, columns]
    e, Q, scale = _known_spectrum(chain, columns)
    Q = scale[:, None] * Q
    W = Q @ ((Q.T @ K.T) / e[:, None])
    own, exact = _of_base(chain, columns)
    W[:, own] = np.eye(len(W))[:, exact]
    return W
