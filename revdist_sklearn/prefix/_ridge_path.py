"""Ridge predictions from every prefix of the columns, at the price of one factorisation.

For one split let X be the centred training rows, y the centred targets, and L the Cholesky
factor of the ridge Gram matrix:

    A = X^T X + alpha I = L L^T        L t = X^T y                           (1)

The factor of a leading block of A is the leading block of L, and the first d entries of t
depend on the first d columns alone. So the coefficients w_d of prefix d solve

    L^T w_d = t with zeros behind its first d entries                        (2)

where back substitution leaves zeros behind the first d entries of w_d too: one factor serves
all prefixes (primal form). Where there are fewer rows than columns, the Gram matrices of the
rows are smaller, and running sums over the columns (dual form):

    K_d = X_d X_d^T        (K_d + alpha I) a_d = y                           (3)
    predictions of prefix d = X_test,d X_d^T a_d                             (4)

Weighted rows are multiplied by the square roots of their weights. The ridge that leaves row i
out follows from the one fitted on all rows: with r its residuals and H_ii the share that y_i
has in its own prediction,

    y_i - prediction of the fit without row i = r_i / (1 - H_ii)             (5)
    H_ii = w_i x_i^T A^-1 x_i + w_i / sum(w)                                 (6)

the last term being what the mean takes.

Columns U without penalty are projected off, as centring projects the constant off. With Q an
orthonormal basis of U, centred and weighted, and u_i Q the coordinates of row i in it,

    X = P - Q Q^T P,  y less Q Q^T y, for the penalised columns P            (7)
    predictions are those of (1) to (4) for x_i - (u_i Q) Q^T P, plus (u_i Q) Q^T y
    H_ii gains |Q_i|^2, as it has w_i / sum(w) of the constant               (8)

Of a new row of weight 1 the prediction has, in units of the variance of the noise, the variance

    h = x^T A^-1 x + |u Q|^2 + 1 / sum(w)                                    (9)

and of a row that was left out, r_i^2 over 1 / w_i + h_i has the mean of that variance, where the
penalty is the prior of the coefficients: with (5) and (6) that is w_i r_i^2 / (1 - H_ii) of the
fit to all rows. Where there are fewer rows than columns, with X = U S V^T,

    x^T A^-1 x = sum_j (v_j x)^2 / (s_j^2 + alpha) + |x - V V^T x|^2 / alpha (10)

in which nothing cancels, as it does in the dual form. Nothing here depends on scikit-learn.

Products go through SciPy's BLAS, as the factorisations do: NumPy's wheels bring a BLAS of their
own, and the threads of two that take turns wait for each other (5 times slower on two cores).
It takes arrays in Fortran order as they are.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import (
    LinAlgError,
    cho_solve,
    cholesky,
    eigh,
    qr,
    qr_multiply,
    solve_triangular,
    svd,
)
from scipy.linalg.blas import dgemm, dsyrk
from scipy.linalg.lapack import dpocon

# Errors of Cholesky's factor, and of a Gram matrix itself, are some 1e-16 over the smallest
# eigenvalue of the matrix scaled to unit diagonal (Higham, Accuracy and Stability of Numerical
# Algorithms, theorem 10.6); columns of different scale, or of zeros, do no harm. Below this the
# rows themselves are factorised, which takes many times as long, so that scores are good to
# 1e-8: measured are 1.4e-16 over it for the columns, and up to 1e-15 over it for the rows.
LEAST_EIGENVALUE = 1e-7
# A residual over 1 - H_ii below this is taken from a fit without the row instead; in the dual
# form, below this share of the largest that there can be.
LEAST_SHARE = 1e-6
# An eigendecomposition costs as much as this many Cholesky factors (8 to 20 measured for 200 to
# 1,600 rows, OpenBLAS, one thread and two).
EIGH = 12
# Prefixes whose predictions are held at once.
CHUNK = 64
# Singular values of unpenalised columns, of length 1 each, below this share of the largest count
# as zero: what is collinear is taken once.
LEAST_SINGULAR_VALUE = 1e-6
# What the unpenalised columns leave of another one, as a share of it, is rounding below this;
# and so is what the mean leaves of an unpenalised one.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Split:
    """Training rows, centred and weighted, and what is to be predicted.

    Arrays are float64; both X are in Fortran order.

    Parameters
    ----------
    X : ndarray of shape (n, k)
        The penalised columns of centred rows times the square roots of their weights, less
        their projection onto the unpenalised ones (7).

    y : ndarray of shape (n, n_targets)
        The same of the targets.

    X_test : ndarray of shape (m, k)
        Rows to predict, centred by the training means, less the same.

    base : ndarray of shape (m, n_targets)
        What is added to predictions: what the constant and the unpenalised columns predict.

    N : ndarray of shape (n, p)
        Orthonormal directions in which that left nothing.

    N_test : ndarray of shape (m, p)
        Coordinates in them of the rows to predict, of weight 1.

    x_mean : ndarray of shape (q + k,)
        Training means of all columns, the q unpenalised ones first; zeros where nothing was
        centred.

    y_mean : ndarray of shape (n_targets,)

    basis : ndarray of shape (q, rank)
        Centred unpenalised columns times this are coordinates in their directions, which are
        the last of N.

    X_part : ndarray of shape (rank, k)
        Coordinates in these of the penalised columns.

    y_part : ndarray of shape (rank, n_targets)
        The same of the targets.

    gram : ndarray of shape (d, d), default=None
        X_d^T X_d, of which the lower half is valid, where it is known.
    """

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    base: np.ndarray
    N: np.ndarray
    N_test: np.ndarray
    x_mean: np.ndarray
    y_mean: np.ndarray
    basis: np.ndarray
    X_part: np.ndarray
    y_part: np.ndarray
    gram: np.ndarray | None = None


@dataclass(frozen=True)
class Predictions:
    """Predictions of some of the prefixes and alphas.

    Parameters
    ----------
    prefixes, alphas : slice
        Which of them.

    values : ndarray of shape (n_rows, n_prefixes, n_alphas, n_targets)

    least : ndarray of shape (n_alphas,)
        Smallest eigenvalue of the Gram matrix with this alpha, scaled to unit diagonal. Where
        it is below ``LEAST_EIGENVALUE`` the rows were factorised instead.

    rows : slice or ndarray of int, default=None
        Which of the rows to predict, for leave-one-out; None are all of them.

    share : ndarray of shape (n_rows, n_prefixes, n_alphas), default=None
        1 - H_ii of (6) and (8), for leave-one-out; NaN where it is lost in rounding.
    """

    prefixes: slice
    alphas: slice
    values: np.ndarray
    least: np.ndarray
    rows: slice | np.ndarray | None = None
    share: np.ndarray | None = None


def centred_split(
    X, y, X_test, sample_weight=None, fit_intercept=True, n_unpenalized=0, *, overwrite=False
):
    """Centre and weight a split as ridge regression does.

    Parameters
    ----------
    X : ndarray of shape (n, k)

    y : ndarray of shape (n, n_targets)

    X_test : ndarray of shape (m, k)

    sample_weight : ndarray of shape (n,), default=None
        Not negative, of positive sum.

    fit_intercept : bool, default=True
        Whether to centre by the (weighted) training means.

    n_unpenalized : int, default=0
        The first columns, which are projected off all others (7).

    overwrite : bool, default=False
        Work in X and X_test where they are float64 in Fortran order.

    Returns
    -------
    split : Split
    """
    turned = (np.asarray(part, dtype=np.float64, order="F") for part in (X, X_test))
    X, X_test = turned if overwrite else (np.copy(part, order="F") for part in turned)
    y = np.array(y, dtype=np.float64, order="F")
    m, q, n_targets = len(X_test), n_unpenalized, y.shape[1]
    x_mean, y_mean = np.zeros(X.shape[1]), np.zeros(n_targets)
    N, N_test = np.zeros((len(X), 0)), np.zeros((m, 0))
    if fit_intercept:
        w = np.full(len(X), 1.0) if sample_weight is None else sample_weight
        N = np.sqrt(w / w.sum())[:, None]
        N_test = np.full((m, 1), 1 / np.sqrt(w.sum()))
        x_mean = _centre(w, X, X_test)
        y_mean = _centre(w, y)
        # Constants but for their rounding, where rows count.
        constant = np.abs(X[w > 0, :q]).max(axis=0) <= ROUNDING * np.abs(x_mean[:q])
        X[:, :q][:, constant] = 0
    if sample_weight is not None:
        root = np.sqrt(sample_weight)[:, None]
        X *= root
        y *= root
    split = Split(
        X=X[:, q:] if q else X,
        y=y,
        X_test=X_test[:, q:] if q else X_test,
        base=np.broadcast_to(y_mean, (m, n_targets)),
        N=N,
        N_test=N_test,
        x_mean=x_mean,
        y_mean=y_mean,
        basis=np.zeros((q, 0)),
        X_part=np.zeros((0, X.shape[1] - q)),
        y_part=np.zeros((0, n_targets)),
    )
    return _projected(split, X[:, :q], X_test[:, :q]) if q else split


def with_gram(split, prefixes, n_alphas=1):
    """Return the split with the Gram matrix that the primal form takes for these prefixes.

    What is then asked of it for the same rows and alphas or others makes none of its own.

    Parameters
    ----------
    split : Split

    prefixes : ndarray of int, shape (n_prefixes,)
        As in :func:`ridge_path`.

    n_alphas : int, default=1

    Returns
    -------
    split : Split
        As it was where all prefixes take the dual form.
    """
    prefixes = prefixes[prefixes > 0]
    n_primal = choose_form(len(split.X), len(split.X_test), prefixes, n_alphas)
    return replace(split, gram=_gram(split, prefixes[n_primal - 1])) if n_primal else split


def _gram(split, d):
    """Return X_d^T X_d, of which the lower half is valid."""
    if split.gram is not None and len(split.gram) >= d:
        return split.gram[:d, :d]
    return dsyrk(1.0, split.X[:, :d], trans=1, lower=1)


def _centre(w, *parts):
    """Subtract the weighted column means of the first part from all parts; return the means.

    The heaviest row goes first, and then the mean of what is left: that is 0 where a column is
    constant, which a sum over all rows would round. The mean is no less exact for it, as this
    row is no further from it than the whole column is large.
    """
    origin = parts[0][w.argmax()].copy()
    for part in parts:
        part -= origin
    rest = _product(w[None], parts[0])[0] / w.sum()
    for part in parts:
        part -= rest
    return origin + rest


def _projected(split, U, U_test):
    """Return the split less its projection onto the unpenalised columns (7)."""
    Q, basis = _orthonormal(U)
    if not basis.shape[1]:
        return replace(split, basis=basis)
    Q_test = _product(U_test, basis)
    X, X_part = _less(split.X, Q)
    y, y_part = _less(split.y, Q)
    X_test = split.X_test
    if X.shape[1]:
        X_test = dgemm(-1.0, Q_test, X_part, beta=1.0, c=X_test, overwrite_c=1)
    return replace(
        split,
        X=X,
        y=y,
        X_test=X_test,
        base=split.base + _product(Q_test, y_part),
        N=np.hstack([split.N, Q]),
        N_test=np.hstack([split.N_test, Q_test]),
        basis=basis,
        X_part=X_part,
        y_part=y_part,
    )


def _orthonormal(U):
    """Return an orthonormal basis Q of the columns of U, and the matrix with Q = U times it.

    Columns are brought to length 1 first, so that their units do not matter; their directions
    that are collinear to within LEAST_SINGULAR_VALUE are left out.
    """
    size = np.abs(U).max(axis=0, initial=0)
    size[size == 0] = 1
    size *= np.maximum(np.linalg.norm(U / size, axis=0), 1)
    Q, S, Vt = svd(U / size, full_matrices=False, check_finite=False)
    kept = S > LEAST_SINGULAR_VALUE * S[0]
    return Q[:, kept], Vt[kept].T / S[kept] / size[:, None]


def _less(A, Q):
    """Return A less its projection onto Q, and its coordinates in Q; A is overwritten.

    Columns of which only rounding is left are zeros.
    """
    coordinates = np.zeros((Q.shape[1], A.shape[1]))
    if not A.shape[1]:
        return A, coordinates
    before = np.linalg.norm(A, axis=0)
    for _ in range(2):  # what is left of a column nearly in the span is not orthogonal at first
        part = _product(Q.T, A)
        A = dgemm(-1.0, Q, part, beta=1.0, c=A, overwrite_c=1)
        coordinates += part
    A[:, np.linalg.norm(A, axis=0) <= ROUNDING * before] = 0
    return A, coordinates


def ridge_path(split, prefixes, alphas, form=None):
    """Yield the predictions of ridge for every prefix and alpha.

    Parameters
    ----------
    split : Split

    prefixes : ndarray of int, shape (n_prefixes,)
        Numbers of penalised columns, ascending, from 0 to k.

    alphas : ndarray of shape (n_alphas,)
        Positive penalties.

    form : {"primal", "dual"}, default=None
        None takes for each prefix the one that costs less.

    Yields
    ------
    predictions : Predictions
        Of some prefixes and alphas; together they are all of them, each once.
    """
    if len(prefixes) and prefixes[0] == 0:
        yield _without_columns(split.base, len(alphas))
        for part in ridge_path(split, prefixes[1:], alphas, form):
            yield _shifted(part, 1)
        return
    base = split.base[:, None]
    n_primal = choose_form(len(split.X), len(split.X_test), prefixes, len(alphas), form=form)
    for j, L, t, least in _primal_factors(split, prefixes[:n_primal], alphas):
        for part, w in _prefix_coefficients(L, t, prefixes[:n_primal]):
            values = _product(split.X_test[:, : len(w)], w) + base
            yield Predictions(part, slice(j, j + 1), values[:, :, None], least)
    for i, K, K_test in _running_grams(split, prefixes, n_primal):
        a, least = _dual_coefficients(_without_null(K, split.N)[0], split.y, alphas)
        values = _product(K_test, a)
        ill = least < LEAST_EIGENVALUE
        if ill.any():
            X, X_test = (part[:, : prefixes[i]] for part in (split.X, split.X_test))
            values[:, ill] = _product(X_test, _coefficients_of_rows(X, split.y, alphas[ill]))
        values += base
        yield Predictions(slice(i, i + 1), slice(None), values[:, None], least)


def _without_columns(base, n_alphas, share=None):
    """Return the predictions of the prefix that has no penalised column, for all alphas alike."""
    values = np.broadcast_to(base[:, None, None], (len(base), 1, n_alphas, base.shape[1]))
    return Predictions(slice(0, 1), slice(None), values, np.ones(n_alphas), share=share)


def _shifted(part, by):
    """Return predictions of prefixes that stand so many places further back."""
    return replace(part, prefixes=slice(part.prefixes.start + by, part.prefixes.stop + by))


def leave_one_out_path(
    X, y, prefixes, alphas, sample_weight=None, fit_intercept=True, form=None, n_unpenalized=0
):
    """Yield the predictions of each row by the ridge that is fitted on all the others.

    Parameters
    ----------
    X : ndarray of shape (n, n_unpenalized + k)

    y : ndarray of shape (n, n_targets)

    prefixes, alphas, form
        As in :func:`ridge_path`.

    sample_weight : ndarray of shape (n,), default=None
        A row of weight 0 is predicted by the fit on all others, as any other row is.

    fit_intercept, n_unpenalized
        As in :func:`centred_split`.

    Yields
    ------
    predictions : Predictions
        Of some rows, prefixes and alphas; together they are all of them. Some come a second
        time, and then count: rows whose 1 - H_ii is lost in rounding, by a fit without them.
    """
    w = np.ones(len(X)) if sample_weight is None else sample_weight
    used, unused = np.flatnonzero(w > 0), np.flatnonzero(w == 0)
    how = fit_intercept, n_unpenalized
    again = np.zeros((len(X), len(prefixes)), dtype=bool)
    for part, doubtful in _leave_one_out(
        _split_of_all(X[used], y[used], w[used], *how), y[used], w[used], prefixes, alphas, form
    ):
        again[used, part.prefixes] |= doubtful
        yield replace(part, rows=used)
    if unused.size:
        split = centred_split(X[used], y[used], X[unused], w[used], *how)
        for part in ridge_path(split, prefixes, alphas):
            yield replace(part, rows=unused)
    for row in np.flatnonzero(again.any(axis=1)):
        first, last = np.flatnonzero(again[row])[[0, -1]]
        others = used[used != row]
        split = centred_split(X[others], y[others], X[[row]], w[others], *how)
        for part in ridge_path(split, prefixes[first : last + 1], alphas):
            yield replace(_shifted(part, first), rows=slice(row, row + 1))


def _split_of_all(X, y, w, fit_intercept, n_unpenalized):
    return centred_split(X, y, X, w, fit_intercept, n_unpenalized)


def _leave_one_out(split, y, w, prefixes, alphas, form=None):
    """Yield predictions of all rows, of positive weight, and which of them are doubtful.

    The latter are an array of shape (n, n_prefixes). Rows to fit and to predict are the same
    in the split; y are their targets as they come.
    """
    n = len(y)
    null = np.square(split.N).sum(axis=1)  # (8)
    if len(prefixes) and prefixes[0] == 0:
        share = 1 - null[:, None]
        doubtful = share < LEAST_SHARE
        values = y - (y - split.base) / np.where(doubtful, 1, share)
        share = np.repeat(np.where(doubtful, np.nan, share)[..., None], len(alphas), axis=2)
        yield _without_columns(values, len(alphas), share), doubtful
        for part, doubtful in _leave_one_out(split, y, w, prefixes[1:], alphas, form):
            yield _shifted(part, 1), doubtful
        return
    # The primal form would round 1 - H_ii of fits that interpolate.
    n_primal = choose_form(
        n, n, prefixes, len(alphas), form=form, interpolates=n - split.N.shape[1]
    )
    for j, L, t, least in _primal_factors(split, prefixes[:n_primal], alphas):
        B = solve_triangular(L, split.X_test[:, : len(L)].T, lower=True, check_finite=False)
        H = np.cumsum(np.square(B, out=B), axis=0)[prefixes[:n_primal] - 1].T
        share = 1 - (H * w[:, None] + null[:, None])  # (6)
        doubtful = share < LEAST_SHARE
        known = np.where(doubtful, np.nan, share)
        share[doubtful] = 1
        for part, coefficients in _prefix_coefficients(L, t, prefixes[:n_primal]):
            values = _product(split.X_test[:, : len(coefficients)], coefficients)
            values += split.base[:, None]
            values = y[:, None] - (y[:, None] - values) / share[:, part, None]  # (5)
            found = Predictions(
                part, slice(j, j + 1), values[:, :, None], least, share=known[:, part, None]
            )
            yield found, doubtful[:, part]
    split = replace(split, X_test=split.X_test[:0])
    for i, K, _ in _running_grams(split, prefixes, n_primal):
        K, c = _without_null(K, split.N)
        S, U = eigh(K, driver="evd", check_finite=False)
        least = _least_eigenvalues(S, alphas)
        if (least < LEAST_EIGENVALUE).any():
            S, U = _spectrum_of_rows(split.X[:, : prefixes[i]], split.N, c)
        Uy = _product(U.T, split.y)
        values = np.empty((n, 1, len(alphas), y.shape[1]))
        known = np.empty((n, 1, len(alphas)))
        doubtful = np.zeros((n, 1), dtype=bool)
        for j in range(len(alphas)):
            # alpha a are the residuals of (5), alpha share is 1 - H_ii.
            a = _product(U, Uy / (S + alphas[j])[:, None])
            share = (np.square(U) / (S + alphas[j])).sum(axis=1) - null / (c + alphas[j])
            lost = share * (S.min() + alphas[j]) < LEAST_SHARE
            doubtful[lost] = True
            known[:, 0, j] = np.where(lost, np.nan, alphas[j] * share)
            share[lost] = 1
            values[:, 0, j] = y - a / (np.sqrt(w) * share)[:, None]
        yield Predictions(slice(i, i + 1), slice(None), values, least, share=known), doubtful


def ridge_coefficients(split, prefixes, alpha):
    """Return the coefficients of ridge for every prefix at one alpha.

    Parameters
    ----------
    split : Split

    prefixes : ndarray of int, shape (n_prefixes,)
        As in :func:`ridge_path`.

    alpha : float

    Returns
    -------
    coefficients : ndarray of shape (n_prefixes, q + max(prefixes), n_targets)
        Of columns that are neither centred nor projected; zeros behind each prefix.

    intercepts : ndarray of shape (n_prefixes, n_targets)
    """
    alphas = np.array([alpha])
    w = np.zeros((len(prefixes), prefixes[-1], split.y.shape[1]))
    n_none = int(prefixes[0] == 0)
    widths = prefixes[n_none:]
    n_primal = choose_form(len(split.X), 0, widths, 1)
    for _, L, t, _ in _primal_factors(split, widths[:n_primal], alphas):
        for part, found in _prefix_coefficients(L, t, widths[:n_primal]):
            w[n_none:][part, : len(found)] = np.moveaxis(found, 1, 0)
    split_alone = replace(split, X_test=split.X_test[:0])
    for i, K, _ in _running_grams(split_alone, widths, n_primal):
        X = split.X[:, : widths[i]]
        found, least = _dual_coefficients(_without_null(K, split.N)[0], split.y, alphas)
        if least[0] >= LEAST_EIGENVALUE:
            found = _product(X.T, found)
        else:
            found = _coefficients_of_rows(X, split.y, alphas)
        w[n_none + i, : widths[i]] = found[:, 0]
    return _of_columns_as_they_come(split, w)


def _of_columns_as_they_come(split, w):
    """Return the coefficients of all columns and the intercepts that belong to those of X."""
    left = split.y_part - np.einsum("rk,pkt->prt", split.X_part[:, : w.shape[1]], w)
    coefficients = np.concatenate([np.einsum("qr,prt->pqt", split.basis, left), w], axis=1)
    means = split.x_mean[: coefficients.shape[1]]
    return coefficients, split.y_mean - np.einsum("k,pkt->pt", means, coefficients)


@dataclass(frozen=True)
class Leverage:
    """What ridge at one prefix and alpha adds to the variance of the noise: h of (9).

    Parameters
    ----------
    mean, scale : ndarray of shape (q + d,)
        Rows less the mean, over the scale, are what the following is about.

    constant : float
        1 / sum(w); 0 without intercept.

    basis : ndarray of shape (q, rank)
        As in :class:`Split`.

    X_part : ndarray of shape (rank, d)
        The same.

    directions : ndarray of shape (d, r)
        L^-T of (1), or V of (10) where there are fewer rows than columns.

    filters : ndarray of shape (r,)
        Ones, or 1 / (s_j^2 + alpha).

    rest : float
        0, or 1 / alpha: of what is outside of V.
    """

    mean: np.ndarray
    scale: np.ndarray
    constant: float
    basis: np.ndarray
    X_part: np.ndarray
    directions: np.ndarray
    filters: np.ndarray
    rest: float

    def of(self, X):
        """Return h of rows as they come, of shape (m, q + d), as an array of shape (m,)."""
        q = len(self.basis)
        X = (X - self.mean) / self.scale
        u = X[:, :q] @ self.basis
        return self.constant + np.square(u).sum(axis=1) + self.of_rest(X[:, q:] - u @ self.X_part)

    def of_rest(self, X):
        """Return the first term of (9) for centred and projected rows of shape (m, d)."""
        along = X @ self.directions
        h = np.square(along) @ self.filters
        if self.rest:
            h += self.rest * np.square(X - along @ self.directions.T).sum(axis=1)
        return h


def fit_with_leverage(split, d, alpha):
    """Return ridge's coefficients of the first d columns of X at one alpha, and their leverage.

    Parameters
    ----------
    split : Split
        Its X is overwritten.

    d : int
        From 0 to k.

    alpha : float

    Returns
    -------
    w : ndarray of shape (d, n_targets)
        For centred and projected columns.

    leverage : Leverage
    """
    X, q = split.X[:, :d], len(split.basis)
    w, directions, filters, rest = np.zeros((0, split.y.shape[1])), np.eye(0), np.ones(0), 0.0
    if 0 < d <= len(X):
        [(_, L, t, _)] = _primal_factors(split, np.array([d]), np.array([alpha]))
        directions = solve_triangular(L, np.eye(d), lower=True, check_finite=False).T
        w, filters = _product(directions, t), np.ones(d)
    elif d:
        U, S, Vt = svd(X, full_matrices=False, overwrite_a=True, check_finite=False)
        filters, directions, rest = 1 / (np.square(S) + alpha), Vt.T, 1 / alpha
        w = _product(directions, (S * filters)[:, None] * _product(U.T, split.y))
    leverage = Leverage(
        mean=split.x_mean[: q + d].copy(),
        scale=np.ones(q + d),
        constant=float(
            np.square(split.N_test[0, : split.N.shape[1] - split.basis.shape[1]]).sum()
        ),
        basis=split.basis,
        X_part=split.X_part[:, :d].copy(),
        directions=directions,
        filters=filters,
        rest=rest,
    )
    return w, leverage


def out_of_fold_noise(split, y_test, w_test, d, alpha):
    """Return an estimate of the variance of the noise from each row to predict, under (9).

    Parameters
    ----------
    split : Split

    y_test : ndarray of shape (m, n_targets)

    w_test : ndarray of shape (m,)
        The noise of a row of weight w has the variance of that of weight 1 over w.

    d, alpha
        As in :func:`fit_with_leverage`.

    Returns
    -------
    variances : ndarray of shape (m, n_targets)
        Zeros where the weight is zero.
    """
    w, leverage = fit_with_leverage(split, d, alpha)
    residuals = y_test - split.base
    if d:
        residuals -= _product(split.X_test[:, :d], w)
    h = np.square(split.N_test).sum(axis=1) + leverage.of_rest(split.X_test[:, :d])
    return np.square(residuals) * (w_test / (1 + w_test * h))[:, None]


def leave_one_out_noise(X, y, w, alpha, fit_intercept=True, n_unpenalized=0):
    """Return the same from each row by the fit without it, in closed form.

    Parameters
    ----------
    X : ndarray of shape (n, n_unpenalized + d)

    y : ndarray of shape (n, n_targets)

    w : ndarray of shape (n,)
        Positive weights.

    alpha : float

    fit_intercept, n_unpenalized
        As in :func:`centred_split`.

    Returns
    -------
    variances : ndarray of shape (n, n_targets)
    """
    how, d = (fit_intercept, n_unpenalized), X.shape[1] - n_unpenalized
    split = _split_of_all(X, y, w, *how)
    [(part, doubtful)] = _leave_one_out(split, y, w, np.array([d]), np.array([alpha]))
    variances = np.square(y - part.values[:, 0, 0]) * w[:, None] * part.share[:, 0]
    for row in np.flatnonzero(doubtful):
        others = np.flatnonzero(np.arange(len(X)) != row)
        split = centred_split(X[others], y[others], X[[row]], w[others], *how)
        variances[row] = out_of_fold_noise(split, y[[row]], w[[row]], d, alpha)
    return variances


def choose_form(n, m, prefixes, n_alphas, *, form=None, interpolates=None):
    """Return how many of the prefixes, from the smallest on, take the primal form.

    Parameters
    ----------
    n, m : int
        Rows to fit and to predict.

    prefixes : ndarray of int, shape (n_prefixes,)
        Ascending.

    n_alphas : int

    form : {"primal", "dual"}, default=None
        For all prefixes; None takes for each the one that costs less.

    interpolates : int, default=None
        For leave-one-out: the number of columns from which on the fit interpolates; the primal
        form is for fewer. None does not leave one out.

    Returns
    -------
    n_primal : int
        0 to ``n_prefixes``; the others take the dual form.
    """
    if form is not None:
        return len(prefixes) if form == "primal" else 0
    count = np.arange(len(prefixes) + 1)
    d = np.concatenate([[0], prefixes]).astype(float)
    # Operations. Primal, for the largest of its prefixes: one Gram matrix; for each alpha a
    # factor, the coefficients and the predictions of all prefixes.
    primal = n * d**2 + n_alphas * (d**3 / 3 + d**2 * count + 2 * m * d * count)
    # Dual: the running Gram matrices; for each prefix the factors or one decomposition. Rows
    # that are left out need no products of their own.
    m = m if interpolates is None else 0
    factors = min(n_alphas, EIGH) if interpolates is None else EIGH
    dual = (len(prefixes) - count) * (factors * n**3 / 3 + n_alphas * (2 * n**2 + 2 * n * m))
    dual[:-1] += n * (n + 2 * m) * d[-1]
    if interpolates is not None:
        primal += n_alphas * n * d**2  # H_ii
        primal[1:][prefixes >= interpolates] = np.inf
    return int(np.argmin(primal + dual))


def _primal_factors(split, prefixes, alphas):
    """Yield for each alpha its index, L and t of (1), and A's least eigenvalue when scaled."""
    if not len(prefixes):
        return
    X, y = split.X[:, : prefixes[-1]], split.y
    gram, moment = _gram(split, prefixes[-1]), _product(X.T, y)
    for j, alpha in enumerate(alphas):
        L, least = _cholesky(gram, alpha)
        if least >= LEAST_EIGENVALUE:
            t = solve_triangular(L, moment, lower=True, check_finite=False)
        else:
            L, t = _factor_of_rows(X, y, alpha)
        yield j, L, t, np.array([least])


def _factor_of_rows(X, y, alpha):
    """Return L and t of (1) by QR of X over sqrt(alpha) I, without the Gram matrix.

    It is slower, and does not square the condition number. Signs of L and t are those of QR;
    they cancel in (2).
    """
    k = X.shape[1]
    stacked = np.vstack([X, np.sqrt(alpha) * np.eye(k)])
    targets = np.vstack([y, np.zeros((k, y.shape[1]))])
    t, R = qr_multiply(stacked, targets.T, mode="right", overwrite_a=True)
    return R.T, t.T


def _coefficients_of_rows(X, y, alphas):
    """Return coefficients of ridge by a singular value decomposition, without the Gram matrix.

    They have shape (d, n_alphas, n_targets).
    """
    U, S, Vt = svd(X, full_matrices=False, check_finite=False)
    shrunk = (S[:, None] / (np.square(S)[:, None] + alphas))[:, :, None]
    return _product(Vt.T, shrunk * _product(U.T, y)[:, None])


def _spectrum_of_rows(X, N, c):
    """Return eigenvalues and vectors of :func:`_without_null`, without the Gram matrix."""
    n = len(X)
    null = np.sqrt(c) * N.T if N.shape[1] else np.zeros((1, n))
    R = qr(np.vstack([X.T, null]), mode="r", overwrite_a=True)[0][:n]
    U, roots, _ = svd(R.T, overwrite_a=True, check_finite=False)
    return np.pad(np.square(roots), (0, n - len(roots))), U


def _cholesky(gram, alpha):
    """Return the lower factor of ``gram + alpha I`` and its least eigenvalue when scaled.

    The factor is None where there is none, and the eigenvalue 0.
    """
    A = gram.copy(order="F")
    A.flat[:: len(A) + 1] += alpha
    scale = np.sqrt(np.diag(A))
    try:
        L = cholesky(A, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return None, 0.0
    # The reciprocal of the norm of the inverse of the matrix scaled to unit diagonal.
    least, _ = dpocon(L / scale[:, None], 1.0, uplo="L")
    return L, least


def _least_eigenvalues(S, alphas):
    """Return for each alpha the least of these eigenvalues with it, the largest being 1."""
    return (max(S.min(), 0) + alphas) / (S.max() + alphas)


def _prefix_coefficients(L, t, prefixes):
    """Yield slices of the prefixes and their coefficients w of (2).

    w has shape (d, n_prefixes, n_targets), d being the largest prefix of the slice.
    """
    for start in range(0, len(prefixes), CHUNK):
        part = slice(start, min(start + CHUNK, len(prefixes)))
        d = prefixes[part][-1]
        kept = np.arange(d)[:, None, None] < prefixes[part][:, None]
        first = np.where(kept, t[:d, None], 0)
        w = solve_triangular(
            L[:d, :d], first.reshape(d, -1), lower=True, trans="T", check_finite=False
        )
        yield part, w.reshape(first.shape)


def _running_grams(split, prefixes, first):
    """Yield index, K_d of (3) and X_test,d X_d^T of (4) of the prefixes from the first on.

    The same two arrays are added to from one prefix to the next; of K the lower half is valid.
    """
    if first == len(prefixes):
        return
    n, m = len(split.X), len(split.X_test)
    K, K_test = np.zeros((n, n), order="F"), np.zeros((m, n), order="F")
    edges = [0, *prefixes[first:]]
    for i, columns in enumerate(map(slice, edges[:-1], edges[1:]), start=first):
        X, X_test = split.X[:, columns], split.X_test[:, columns]
        K = dsyrk(1.0, X, beta=1.0, c=K, overwrite_c=1, lower=1)
        if m:
            K_test = dgemm(1.0, X_test, X, trans_b=1, beta=1.0, c=K_test, overwrite_c=1)
        yield i, K, K_test


def _without_null(K, N):
    """Return K with the directions N moved to the middle of its spectrum, their eigenvalue c.

    Centred and projected rows leave N the eigenvalue 0, and their targets have nothing in it,
    so that (3) has the same solution; but the condition is that of the other directions then,
    and N does not swamp what they say of H_ii. Of K the lower half is valid.
    """
    c = np.trace(K) / len(K)
    return (K + c * dsyrk(1.0, N, lower=1) if N.shape[1] else K), c


def _dual_coefficients(K, y, alphas):
    """Return a of (3) for all alphas, and of each its matrix's least eigenvalue when scaled.

    By a Cholesky factor an alpha, or where they are many by one eigendecomposition for all.
    The shape is (n, n_alphas, n_targets); coefficients that would not be exact are 0.
    """
    a = np.zeros((len(K), len(alphas), y.shape[1]))
    if len(alphas) >= EIGH:
        S, U = eigh(K, driver="evd", check_finite=False)
        least = _least_eigenvalues(S, alphas)
        Uy = _product(U.T, y)
        for i in np.flatnonzero(least >= LEAST_EIGENVALUE):
            a[:, i] = _product(U, Uy / (S + alphas[i])[:, None])
        return a, least
    least = np.zeros(len(alphas))
    for j, alpha in enumerate(alphas):
        L, least[j] = _cholesky(K, alpha)
        if least[j] >= LEAST_EIGENVALUE:
            a[:, j] = cho_solve((L, True), y, check_finite=False)
    return a, least


def _product(A, B):
    """Return A times B, summed over the last axis of A and the first of B."""
    right = np.asfortranarray(B.reshape(len(B), -1))
    if A.flags.c_contiguous:
        product = dgemm(1.0, A.T, right, trans_a=1)
    else:
        product = dgemm(1.0, A, right)
    return product.reshape(len(A), *B.shape[1:])
