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

the last term being what the mean takes. Nothing here depends on scikit-learn.

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


@dataclass(frozen=True)
class Split:
    """Training rows, centred and weighted, and what is to be predicted.

    Arrays are float64; both X are in Fortran order.

    Parameters
    ----------
    X : ndarray of shape (n, k)
        Centred rows times the square roots of their weights.

    y : ndarray of shape (n, n_targets)
        The same of the targets.

    X_test : ndarray of shape (m, k)
        Rows to predict, centred by the training means.

    y_mean : ndarray of shape (n_targets,)
        What is added to predictions.

    s : ndarray of shape (n,)
        The direction of length 1 in which centring left nothing; zeros where nothing was
        centred.
    """

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_mean: np.ndarray
    s: np.ndarray


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
    """

    prefixes: slice
    alphas: slice
    values: np.ndarray
    least: np.ndarray
    rows: slice | np.ndarray | None = None


def centred_split(X, y, X_test, sample_weight=None, fit_intercept=True, *, overwrite=False):
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

    overwrite : bool, default=False
        Work in X and X_test where they are float64 in Fortran order.

    Returns
    -------
    split : Split
    """
    turned = (np.asarray(part, dtype=np.float64, order="F") for part in (X, X_test))
    X, X_test = turned if overwrite else (np.copy(part, order="F") for part in turned)
    y = np.array(y, dtype=np.float64, order="F")
    y_mean, s = np.zeros(y.shape[1]), np.zeros(len(X))
    if fit_intercept:
        w = np.full(len(X), 1.0) if sample_weight is None else sample_weight
        s = np.sqrt(w / w.sum())
        _centre(w, X, X_test)
        y_mean = _centre(w, y)
    if sample_weight is not None:
        root = np.sqrt(sample_weight)[:, None]
        X *= root
        y *= root
    return Split(X, y, X_test, y_mean, s)


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


def ridge_path(split, prefixes, alphas, form=None):
    """Yield the predictions of ridge for every prefix and alpha.

    Parameters
    ----------
    split : Split

    prefixes : ndarray of int, shape (n_prefixes,)
        Ascending, from 1 to k.

    alphas : ndarray of shape (n_alphas,)
        Positive penalties.

    form : {"primal", "dual"}, default=None
        None takes for each prefix the one that costs less.

    Yields
    ------
    predictions : Predictions
        Of some prefixes and alphas; together they are all of them, each once.
    """
    n_primal = choose_form(len(split.X), len(split.X_test), prefixes, len(alphas), form=form)
    for j, L, t, least in _primal_factors(split, prefixes[:n_primal], alphas):
        for part, w in _prefix_coefficients(L, t, prefixes[:n_primal]):
            values = _product(split.X_test[:, : len(w)], w) + split.y_mean
            yield Predictions(part, slice(j, j + 1), values[:, :, None], least)
    for i, K, K_test in _running_grams(split, prefixes, n_primal):
        a, least = _dual_coefficients(_without_null(K, split.s)[0], split.y, alphas)
        values = _product(K_test, a)
        ill = least < LEAST_EIGENVALUE
        if ill.any():
            X, X_test = (part[:, : prefixes[i]] for part in (split.X, split.X_test))
            values[:, ill] = _product(X_test, _coefficients_of_rows(X, split.y, alphas[ill]))
        values += split.y_mean
        yield Predictions(slice(i, i + 1), slice(None), values[:, None], least)


def leave_one_out_path(X, y, prefixes, alphas, sample_weight=None, fit_intercept=True, form=None):
    """Yield the predictions of each row by the ridge that is fitted on all the others.

    Parameters
    ----------
    X : ndarray of shape (n, k)

    y : ndarray of shape (n, n_targets)

    prefixes, alphas, form
        As in :func:`ridge_path`.

    sample_weight : ndarray of shape (n,), default=None
        A row of weight 0 is predicted by the fit on all others, as any other row is.

    fit_intercept : bool, default=True

    Yields
    ------
    predictions : Predictions
        Of some rows, prefixes and alphas; together they are all of them. Some come a second
        time, and then count: rows whose 1 - H_ii is lost in rounding, by a fit without them.
    """
    w = np.ones(len(X)) if sample_weight is None else sample_weight
    used, unused = np.flatnonzero(w > 0), np.flatnonzero(w == 0)
    again = np.zeros((len(X), len(prefixes)), dtype=bool)
    for part, doubtful in _leave_one_out(
        X[used], y[used], prefixes, alphas, w[used], fit_intercept, form
    ):
        again[used, part.prefixes] |= doubtful
        yield replace(part, rows=used)
    if unused.size:
        split = centred_split(X[used], y[used], X[unused], w[used], fit_intercept)
        for part in ridge_path(split, prefixes, alphas):
            yield replace(part, rows=unused)
    for row in np.flatnonzero(again.any(axis=1)):
        first, last = np.flatnonzero(again[row])[[0, -1]]
        others = used[used != row]
        split = centred_split(X[others], y[others], X[[row]], w[others], fit_intercept)
        for part in ridge_path(split, prefixes[first : last + 1], alphas):
            shifted = slice(part.prefixes.start + first, part.prefixes.stop + first)
            yield replace(part, prefixes=shifted, rows=slice(row, row + 1))


def _leave_one_out(X, y, prefixes, alphas, w, fit_intercept, form):
    """Yield predictions of all rows, of positive weight, and which of them are doubtful.

    The latter are an array of shape (n, n_prefixes).
    """
    n = len(X)
    split = centred_split(X, y, X, w, fit_intercept)
    # The primal form would round 1 - H_ii of fits that interpolate.
    n_primal = choose_form(n, n, prefixes, len(alphas), form=form, interpolates=n - fit_intercept)
    for j, L, t, least in _primal_factors(split, prefixes[:n_primal], alphas):
        B = solve_triangular(L, split.X_test[:, : len(L)].T, lower=True, check_finite=False)
        H = np.cumsum(np.square(B, out=B), axis=0)[prefixes[:n_primal] - 1].T
        share = 1 - (H * w[:, None] + split.s[:, None] ** 2)  # (6)
        doubtful = share < LEAST_SHARE
        share[doubtful] = 1
        for part, coefficients in _prefix_coefficients(L, t, prefixes[:n_primal]):
            values = _product(split.X_test[:, : len(coefficients)], coefficients) + split.y_mean
            values = y[:, None] - (y[:, None] - values) / share[:, part, None]  # (5)
            yield Predictions(part, slice(j, j + 1), values[:, :, None], least), doubtful[:, part]
    split = replace(split, X_test=split.X_test[:0])
    for i, K, _ in _running_grams(split, prefixes, n_primal):
        K, c = _without_null(K, split.s)
        S, U = eigh(K, driver="evd", check_finite=False)
        least = _least_eigenvalues(S, alphas)
        if (least < LEAST_EIGENVALUE).any():
            S, U = _spectrum_of_rows(split.X[:, : prefixes[i]], split.s, c)
        Uy = _product(U.T, split.y)
        values = np.empty((n, 1, len(alphas), y.shape[1]))
        doubtful = np.zeros((n, 1), dtype=bool)
        for j in range(len(alphas)):
            # alpha a are the residuals of (5), alpha share is 1 - H_ii.
            a = _product(U, Uy / (S + alphas[j])[:, None])
            share = (np.square(U) / (S + alphas[j])).sum(axis=1) - split.s**2 / (c + alphas[j])
            lost = share * (S.min() + alphas[j]) < LEAST_SHARE
            doubtful[lost] = True
            share[lost] = 1
            values[:, 0, j] = y - a / (np.sqrt(w) * share)[:, None]
        yield Predictions(slice(i, i + 1), slice(None), values, least), doubtful


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
    gram, moment = dsyrk(1.0, X, trans=1, lower=1), _product(X.T, y)
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


def _spectrum_of_rows(X, s, c):
    """Return eigenvalues and vectors of :func:`_without_null`, without the Gram matrix."""
    n = len(X)
    R = qr(np.vstack([X.T, np.sqrt(c) * s]), mode="r", overwrite_a=True)[0][:n]
    U, roots, _ = svd(R.T, overwrite_a=True, check_finite=False)
    return np.pad(np.square(roots), (0, n - len(roots))), U


def _cholesky(gram, alpha):
    """Return the lower factor of ``gram + alpha I`` and its least eigenvalue when scaled.

    The factor is None where there is none, and the eigenvalue 0.
    """
    A = gram.copy()
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


def _without_null(K, s):
    """Return K with the direction s moved to the middle of its spectrum, and its eigenvalue c.

    Centred rows leave s the eigenvalue 0, and centred targets have nothing in it, so that (3)
    has the same solution; but the condition is that of the other directions then, and s does
    not swamp what they say of H_ii.
    """
    c = np.trace(K) / len(K)
    return K + c * np.outer(s, s), c


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
