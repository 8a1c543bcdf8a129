"""The reverse distillation chain from second moments alone.

Notation of Catrina et al. (ICLR 2026, arXiv:2603.07710), one residue a row::

    x   = [h_1, .., h_m]           the embeddings of all models, D columns
    z_1 = h_1                      the smallest model, k_1 columns
    hhat_i = affine regression of h_i on z_{i-1},    r_i = h_i - hhat_i
    V_i    = leading principal directions of r_i
    z_i = [z_{i-1}, r_i V_i]

Every step depends on the rows through the mean and the covariance C of x alone.  With
K = cov(x, z) and S = cov(z) of the prefix z built so far, a stage needs the small matrices
S, G = cov(z, h_i) (rows of K) and cov(h_i) (a diagonal block of C): nothing of the size of
the corpus, and nothing of D x D beside C itself.

These functions work on arrays; validation and bookkeeping are the estimator's.
"""

from dataclasses import dataclass, field, replace

import numpy as np

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
# it is rounding.  Judged along the direction: a few outlier columns would otherwise lift the
# limit above real directions of the others.
ROUNDING_TOLERANCE = {"float64": 1e-14, "float32": 1e-6}


@dataclass(frozen=True)
class Stage:
    """What one stage of the chain found.

    Attributes
    ----------
    block : str
        Name of the larger model's block; its number (from 1) where blocks have no names.
    width : int
        Columns of the prefix after this stage.
    n_components : int
        Residual columns that this stage adds.
    n_components_nonzero : int
        How many of them carry variance; the rest are zero, which keeps the width.
    n_regression : int
        Directions of the smaller prefix that the regression uses: its rank (``ols``,
        ``ridge``) or the principal components kept (``pcr``).
    explained_before : float
        Share of the larger model's variance that the regression on the smaller prefix
        explains.
    explained_after : float
        The same with the residual columns of this stage added to the prediction. For
        ``"ols"`` this is the share that the new prefix explains; after the other regressors
        least squares on it can explain a little more.
    component_shares : ndarray of shape (n_components,)
        Share of the larger model's variance that each residual column adds.
    residual_variances : ndarray of shape (k_i,)
        Variances of the residual along its principal directions, descending: the residual
        spectrum, at the level that chose the directions.
    directions : ndarray of shape (k_i, n_components)
        V_i, orthonormal residual directions (zero columns where there is no variance).
    coef : ndarray of shape (k_{i-1}, n_components)
        The regression's coefficients seen through V_i: the stage's columns are
        ``(h_i - mean) @ directions - (z - prefix_mean) @ coef``.
    mean : ndarray of shape (k_i,)
        Mean of h_i.
    prefix_mean : ndarray of shape (k_{i-1},)
        Mean of z_{i-1}.
    """

    block: str
    width: int
    n_components: int
    n_components_nonzero: int
    n_regression: int
    explained_before: float
    component_shares: np.ndarray = field(repr=False)
    residual_variances: np.ndarray = field(repr=False)
    directions: np.ndarray = field(repr=False)
    coef: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    prefix_mean: np.ndarray = field(repr=False)

    @property
    def explained_after(self):
        return self.explained_before + float(self.component_shares.sum())


@dataclass(frozen=True)
class Chain:
    """A solved chain: the affine map from x to z, and cov(x, z) for the way back.

    Attributes
    ----------
    block_sizes : tuple of int
        Widths of the blocks of x.
    base : ndarray of shape (k_1, n_base) or None
        Principal axes of h_1, or None where the base is h_1 itself.
    n_base : int
        Columns of z_1.
    stages : tuple of Stage
    mean : ndarray of shape (D,)
        Mean of x.
    cross_covariance : ndarray of shape (D, k) or None
        cov(x, z), or None for a chain that came without it.
    precision : {"float64", "float32"}
        Precision of the products behind the covariances.
    """

    block_sizes: tuple
    base: np.ndarray | None
    n_base: int
    stages: tuple
    mean: np.ndarray
    cross_covariance: np.ndarray | None
    precision: str = "float64"

    @property
    def width(self):
        """Columns of z."""
        return self.stages[-1].width if self.stages else self.n_base


def truncate_chain(chain, d):
    """Return the chain of the first d columns of z, on the blocks of x that they need."""
    n_base = min(d, chain.n_base)
    base = None if chain.base is None else chain.base[:, :n_base]
    stages = []
    for stage in chain.stages:
        n_components = d - (stage.width - stage.n_components)
        if n_components <= 0:
            break
        if n_components < stage.n_components:
            V = stage.directions[:, :n_components]
            stage = replace(
                stage,
                width=d,
                n_components=n_components,
                n_components_nonzero=int(np.any(V, axis=0).sum()),
                component_shares=stage.component_shares[:n_components],
                directions=V,
                coef=stage.coef[:, :n_components],
            )
        stages.append(stage)
    block_sizes = chain.block_sizes[: len(stages) + 1]
    D = sum(block_sizes)
    K = None if chain.cross_covariance is None else chain.cross_covariance[:D, :d].copy()
    mean = chain.mean[:D].copy()
    return Chain(block_sizes, base, n_base, tuple(stages), mean, K, chain.precision)


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
    # real directions under the cut.  A penalty and principal components are not scale-free.
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
    block_sizes,
    residual_sizes,
    n_components,
    *,
    block_names,
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
    block_sizes : tuple of int
        k_1, .., k_m.
    residual_sizes : tuple of int
        Residual columns of stages 2 to m.
    n_components : int
        Columns of z; stages beyond it are not computed.
    block_names : sequence of str
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
    edges = np.concatenate([[0], np.cumsum(block_sizes)])
    joint = Joint.empty(C, n_components)
    chosen_by = joint if C_directions is None else Joint.empty(C_directions, n_components)
    levels = [joint] if C_directions is None else [joint, chosen_by]

    # z_1 = h_1, or its principal axes.
    first = slice(0, block_sizes[0])
    n_base = min(block_sizes[0], n_components)
    base = None
    if rotate_base:
        variances, axes = principal_directions(C[first, first])
        zero = variances <= RESIDUAL_TOLERANCE * variances.sum()
        base = np.where(zero, 0.0, axes)[:, :n_base]
    for level in levels:
        start = np.eye(block_sizes[0], n_base) if base is None else base
        level.append(first, start, np.zeros((0, n_base)))
    z_mean = np.zeros(n_components)
    z_mean[:n_base] = mean[:n_base] if base is None else 0.0

    stages = []
    for i, size in enumerate(residual_sizes, start=1):
        width = joint.width
        if width == n_components:
            break
        h = slice(edges[i], edges[i + 1])
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
                block=block_names[i],
                width=joint.width,
                n_components=V.shape[1],
                n_components_nonzero=int(np.any(V, axis=0).sum()),
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
    return Chain(tuple(block_sizes), base, n_base, tuple(stages), mean.copy(), joint.K, precision)


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
    k1 = chain.block_sizes[0]
    if chain.base is None:
        Z[:, : chain.n_base] = X[:, : chain.n_base]
    else:
        Z[:, : chain.n_base] = (X[:, :k1] - _like(chain.mean[:k1], X)) @ _like(chain.base, X)
    left = k1
    for stage, size in zip(chain.stages, chain.block_sizes[1:], strict=False):
        prefix = stage.width - stage.n_components
        h = X[:, left : left + size] - _like(stage.mean, X)
        z = Z[:, :prefix] - _like(stage.prefix_mean, X)
        Z[:, prefix : stage.width] = h @ _like(stage.directions, X) - z @ _like(stage.coef, X)
        left += size
    return Z


def _like(array, X):
    return array.astype(X.dtype, copy=False)


def linear_map(chain):
    """Return the matrix A of z = A x + b, of shape (k, D)."""
    k1 = chain.block_sizes[0]
    A = np.zeros((chain.width, sum(chain.block_sizes)))
    A[: chain.n_base, :k1] = np.eye(k1, chain.n_base).T if chain.base is None else chain.base.T
    left = k1
    for stage, size in zip(chain.stages, chain.block_sizes[1:], strict=False):
        prefix = stage.width - stage.n_components
        A[prefix : stage.width] = -stage.coef.T @ A[:prefix]
        A[prefix : stage.width, left : left + size] += stage.directions.T
        left += size
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
    z_mean = prefix_mean(chain)[:d]
    scale = unit_scale(np.diag(S), z_mean, chain.precision)
    e, Q = principal_directions(scale[:, None] * ((S + S.T) / 2) * scale)
    kept = e > RANK_TOLERANCE[chain.precision] ** 2 * e[0]
    Q = scale[:, None] * Q[:, kept]
    W = Q @ ((Q.T @ K.T) / e[kept, None])
    X = (Z - _like(z_mean, Z)) @ _like(W, Z) + _like(chain.mean, Z)
    # What the prefix holds of an unrotated base, it holds exactly.
    if chain.base is None:
        exact = min(d, chain.n_base)
        X[:, :exact] = Z[:, :exact]
    return X


def prefix_mean(chain):
    """Return the mean of z, of shape (k,)."""
    z_mean = np.zeros(chain.width)
    if chain.base is None:
        z_mean[: chain.n_base] = chain.mean[: chain.n_base]
    return z_mean
