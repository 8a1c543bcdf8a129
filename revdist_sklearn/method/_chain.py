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
from ..base._values import same

# Singular values of the base below this share of the largest count as zero (columns scaled
# to unit variance): the null direction that a final LayerNorm leaves must not be inverted.
# Products in float32 leave variances of 1e-8 of the largest in such a direction.
RANK_TOLERANCE = {"float64": 1e-6, "float32": 1e-4}
# A column whose spread is within this share of its mean is constant.
CONSTANT_TOLERANCE = {
    "float64": 16 * float(np.finfo(np.float64).eps),
    "float32": float(np.finfo(np.float32).eps),
}
# Residual directions with less than this share of the residual's variance are arbitrary.
RESIDUAL_TOLERANCE = 1e-12
# A residual direction below this share of what the larger model's own columns vary by along
# it is rounding. Judged along the direction: a few outlier columns would otherwise lift the
# limit above real directions of the others.
ROUNDING_TOLERANCE = {"float64": 1e-14, "float32": 1e-6}


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
    """

    blocks: Blocks
    stages: tuple
    rotated: bool
    mean: np.ndarray
    cross_covariance: np.ndarray | None
    precision: str = "float64"

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
    )


def principal_directions(covariance):
    """Return variances (descending) and orthonormal directions (columns) of a covariance.

    The entry of largest magnitude in each direction is positive, so that the result does not
    depend on the sign that the eigensolver happens to return.
    """
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = np.maximum(variances[::-1], 0.0), directions[:, ::-1]
    largest = np.argmax(np.abs(directions), axis=0)
    signs = np.sign(directions[largest, np.arange(directions.shape[1])])
    return variances, directions * signs


def johnstone_count(e, n, n_rows, rank_tolerance=RANK_TOLERANCE["float64"]):
    """Return how many principal components the authors' rule for ``pcr`` keeps.

    Parameters
    ----------
    e : ndarray of shape (k,)
        Eigenvalues of the covariance of z_{i-1}, descending.

    n : float
        Number of rows (sum of their weights).

    n_rows : int
        Rows of positive weight. Rows determine no more eigenvalues than there are, which is
        how many an SVD of them returns; weights below 1 do not make them fewer.

    rank_tolerance : float
        No component below this share of the largest singular value is kept.
    """
    if e[0] == 0.0:
        return 0
    t = (1.0 + np.sqrt(len(e) / n)) ** 2
    e = e[: max(n_rows, int(n))]
    noise = e[e / e.mean() < t]
    sigma2 = np.median(noise if len(noise) else e[-max(1, len(e) // 4) :])
    kept = int(np.sum(e > sigma2 * t))  # Johnstone's bulk edge
    if kept == 0:
        kept = int(np.searchsorted(np.cumsum(e) / e.sum(), 0.95)) + 1
    # Never a direction without variance, however small the noise.
    return min(kept, int(np.sum(e > rank_tolerance**2 * e[0])))


def unit_scale(variances, means, precision="float64"):
    """Return 1 / standard deviation of each column, and 0 for a constant column."""
    spread = np.sqrt(np.maximum(variances, 0.0))
    constant = spread <= CONSTANT_TOLERANCE[precision] * np.abs(means)
    return np.divide(1.0, spread, out=np.zeros_like(spread), where=~constant & (spread > 0))


def regress(S, G, H, z_mean, *, regressor, alpha, n, n_rows, precision="float64"):
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

    z_mean : ndarray of shape (k,)
        Mean of z.

    regressor : {"ols", "ridge", "pcr"}

    alpha : float
        Penalty of ``ridge``, on sums over n centred rows as in scikit-learn's Ridge.

    n : float
        Number of rows (sum of their weights).

    n_rows : int
        Rows of positive weight.

    precision : {"float64", "float32"}
        Precision of the products behind the covariances.

    Returns
    -------
    W : ndarray of shape (k, l)
        Coefficients: hhat - mean(h) = (z - mean(z)) W.

    R : ndarray of shape (l, l)
        Covariance of the residual h - hhat.

    n_kept : int
        Directions of z in use.
    """
    penalty = alpha / n if regressor == "ridge" else 0.0
    # Rank is judged on columns of unit variance: a few outlier columns would otherwise push
    # real directions under the cut. A penalty and principal components are not scale-free.
    scaled = penalty == 0.0 and regressor != "pcr"
    scale = unit_scale(np.diag(S), z_mean, precision) if scaled else np.ones(len(S))
    e, Q = principal_directions(scale[:, None] * S * scale)
    rank = int(np.sum(e > RANK_TOLERANCE[precision] ** 2 * e[0]))
    if regressor == "pcr":
        kept = np.arange(len(e)) < johnstone_count(e, n, n_rows, RANK_TOLERANCE[precision])
    elif penalty > 0.0:
        kept = e > 0.0
    else:
        kept = np.arange(len(e)) < rank
    f = np.zeros_like(e)
    f[kept] = 1.0 / (e[kept] + penalty)
    g = Q.T @ (scale[:, None] * G)
    W = scale[:, None] * (Q @ (f[:, None] * g))
    B = np.sqrt(2 * f - e * f**2)[:, None] * g
    R = H - B.T @ B
    return W, R, min(rank, int(kept.sum()))


@dataclass
class Joint:
    """Covariances of x and of the prefix z built so far, at one level.

    C is cov(x); the first ``width`` columns of K are cov(x, z), of S cov(z).
    """

    C: np.ndarray
    K: np.ndarray
    S: np.ndarray
    width: int = 0

    @classmethod
    def empty(cls, C, n_columns):
        """Return the state before the base, with room for ``n_columns`` of z."""
        return cls(C, np.zeros((len(C), n_columns)), np.zeros((n_columns, n_columns)))

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
    precision="float64",
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

    residual_sizes : tuple of int
        Residual columns of stages 2 to m.

    n_components : int
        Columns of z; stages beyond it are not computed.

    n_rows : int
        Rows of positive weight.

    regressor, alpha, rotate_base
        As in ``ReverseDistiller``.

    C_directions : ndarray of shape (D, D) or None
        Covariance at the level that chooses the residual directions (``None``: C).

    precision : {"float64", "float32"}
        Precision of the products behind C.

    Returns
    -------
    chain : Chain

    Notes
    -----
    O(sum k_i^3 + D k_m^2) time, O(D k_m) memory beside C.
    """
    joint = Joint.empty(C, n_components)
    chosen_by = joint if C_directions is None else Joint.empty(C_directions, n_components)
    levels = [joint] if C_directions is None else [joint, chosen_by]
    first, *larger = blocks.slices

    # z_1 = h_1, or its principal axes.
    base = _base_stage(C[first, first], mean[first], n_components, blocks.labels[0], rotate_base)
    for level in levels:
        level.append(first, base.directions, base.coef)
    z_mean = np.zeros(n_components)
    if not rotate_base:
        z_mean[: base.n_added] = mean[: base.n_added]

    stages = [base]
    for label, h, size in zip(blocks.labels[1:], larger, residual_sizes, strict=True):
        width = joint.width
        if width == n_components:
            break
        S, G, H = joint.block(h)
        W, R, n_kept = regress(
            S,
            G,
            H,
            z_mean[:width],
            regressor=regressor,
            alpha=alpha,
            n=n,
            n_rows=n_rows,
            precision=precision,
        )

        # Leading principal directions of r_i.
        R_directions = R if chosen_by is joint else chosen_by.residual(h, W)
        variances, V = principal_directions(R_directions)
        along = np.diag(chosen_by.C[h, h]) @ V**2
        floor = np.maximum(
            RESIDUAL_TOLERANCE * variances.sum(), ROUNDING_TOLERANCE[precision] * along
        )
        V = np.where(variances <= floor, 0.0, V)[:, : min(size, n_components - width)]

        # z_i = [z_{i-1}, (h_i - mean) V_i - (z_{i-1} - mean) W V_i]
        coef = W @ V
        for level in levels:
            level.append(h, V, coef)
        variance_h, variance_r = np.trace(H), max(np.trace(R), 0.0)
        shares = np.sum(V * (R @ V), axis=0)
        stages.append(
            Stage(
                block=label,
                width=joint.width,
                n_added=V.shape[1],
                n_regression=n_kept,
                # Of a block without variance nothing is left to explain.
                explained_before=float(1 - variance_r / variance_h) if variance_h > 0 else 1.0,
                component_shares=shares / variance_h if variance_h > 0 else shares,
                residual_variances=variances,
                directions=V,
                coef=coef,
                mean=mean[h].copy(),
                prefix_mean=z_mean[:width].copy(),
            )
        )
    return Chain(blocks, tuple(stages), rotate_base, mean.copy(), joint.K, precision)


def _base_stage(H, mean, n_components, label, rotate_base):
    """Return z_1 = h_1, or its principal axes, from the covariance and mean of h_1."""
    n_base = min(len(H), n_components)
    variances, V = principal_directions(H)
    if rotate_base:
        V = np.where(variances <= RESIDUAL_TOLERANCE * variances.sum(), 0.0, V)[:, :n_base]
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
        mean=mean.copy(),
        prefix_mean=np.zeros(0),
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


def reconstruct(chain, Z):
    """Return the best affine reconstruction of x from a prefix of z, in the dtype of Z.

    Parameters
    ----------
    chain : Chain

    Z : ndarray of shape (n, d)
        Rows of the first d columns of z.

    Returns
    -------
    X : ndarray of shape (n, D)
    """
    d = Z.shape[1]
    K = chain.cross_covariance[:, :d]
    A = linear_map(chain)[:d]
    S = A @ K
    z_mean = chain.prefix_mean[:d]
    scale = unit_scale(np.diag(S), z_mean, chain.precision)
    e, Q = principal_directions(scale[:, None] * ((S + S.T) / 2) * scale)
    kept = e > RANK_TOLERANCE[chain.precision] ** 2 * e[0]
    Q = scale[:, None] * Q[:, kept]
    W = Q @ ((Q.T @ K.T) / e[kept, None])
    X = (Z - _like(z_mean, Z)) @ _like(W, Z) + _like(chain.mean, Z)
    # What the prefix holds of a base that is not turned, it holds exactly.
    if not chain.rotated:
        exact = min(d, chain.stages[0].n_added)
        X[:, :exact] = Z[:, :exact]
    return X
