"""Ridge predictions from every prefix of the columns, at the price of one factorisation.

For one split let X be the centred training rows, y the centred targets, and L the Cholesky
factor of the ridge Gram matrix:

    A = X^T X + alpha I = L L^T        L t = X^T y                           (1)

The factor of a leading block of A is the leading block of L, and the first d entries of t
depend on the first d columns alone.  So the coefficients w_d of prefix d solve

    L^T w_d = t with zeros behind its first d entries                        (2)

where back substitution leaves zeros behind the first d entries of w_d too: one factor serves
all prefixes (primal form).  Where there are fewer rows than columns, the Gram matrices of the
rows are smaller, and running sums over the columns (dual form):

    K_d = X_d X_d^T        (K_d + alpha I) a_d = y                           (3)
    predictions of prefix d = X_test,d X_d^T a_d                             (4)

Weighted rows are multiplied by the square roots of their weights.  The ridge that leaves row i
out follows from the one fitted on all rows: with r its residuals and H_ii the share that y_i
has in its own prediction,

    y_i - prediction of the fit without row i = r_i / (1 - H_ii)             (5)
    H_ii = w_i x_i^T A^-1 x_i + w_i / sum(w)                                 (6)

the last term being what the mean takes.  Nothing here depends on scikit-learn.

Products go through SciPy's BLAS, as the factorisations do: NumPy's wheels bring a BLAS of their
own, and the threads of two that take turns wait for each other (5 times slower on two cores).
It takes arrays in Fortran order as they are.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky, eigh, qr_multiply, solve_triangular
from scipy.linalg.blas import dgemm, dsyrk

# Rounding changes a Gram matrix by some 1e-16 of its largest eigenvalue. Squared pivots bound
# the smallest one: beyond this ratio of pivots it would change by more than 1e-4 of itself.
LEAST_PIVOT = 1e-6
# An eigendecomposition costs as much as this many Cholesky factors (13 to 20 measured for 200
# to 1,600 rows, OpenBLAS on two cores).
EIGH = 15
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
    """

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_mean: np.ndarray


@dataclass(frozen=True)
class Predictions:
    """Predictions of some of the prefixes and alphas.

    Parameters
    ----------
    prefixes, alphas : slice
        Which of them.
    values : ndarray of shape (m, n_prefixes, n_alphas, n_targets)
    well_conditioned : list of bool
        Of each alpha, whether its matrix was fit for a Cholesky factor.
    """

    prefixes: slice
    alphas: slice
    values: np.ndarray
    well_conditioned: list


def centred_split(X, y, X_test, sample_weight=None, fit_intercept=True):
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

    Returns
    -------
    split : Split
    """
    X, y, X_test = (np.asarray(part, dtype=np.float64, order="F") for part in (X, y, X_test))
    y_mean = np.zeros(y.shape[1])
    if fit_intercept:
        mean, y_mean = (np.average(part, axis=0, weights=sample_weight) for part in (X, y))
        X, y, X_test = X - mean, y - y_mean, X_test - mean
    if sample_weight is not None:
        root = np.sqrt(sample_weight)[:, None]
        X, y = X * root, y * root
    return Split(X, y, X_test, y_mean)


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
    n_primal = {"primal": len(prefixes), "dual": 0}.get(form)
    if n_primal is None:
        n_primal = choose_form(len(split.X), len(split.X_test), prefixes, len(alphas))
    for j, L, t, well_conditioned in _primal_factors(split, prefixes[:n_primal], alphas):
        for part, w in _prefix_coefficients(L, t, prefixes[:n_primal]):
            values = _product(split.X_test[:, : len(w)], w) + split.y_mean
            yield Predictions(part, slice(j, j + 1), values[:, :, None], [well_conditioned])
    for i, K, K_test in _running_grams(split, prefixes, n_primal):
        a, well_conditioned = _dual_coefficients(K, split.y, alphas)
        values = _product(K_test, a) + split.y_mean
        yield Predictions(slice(i, i + 1), slice(None), values[:, None], well_conditioned)


def leave_one_out_path(X, y, prefixes, alphas, sample_weight=None, fit_intercept=True, form=None):
    """Yield the predictions of each row by the ridge that is fitted on all the others.

    Parameters
    ----------
    X : ndarray of shape (n, k)
    y : ndarray of shape (n, n_targets)
    prefixes, alphas, form
        As in :func:`ridge_path`; of itself the primal form, which rounds 1 - H_ii where it is
        small, is taken for fewer columns than rows alone.
    sample_weight : ndarray of shape (n,), default=None
        A row of weight 0 is predicted by the fit on all others, as any other row is.
    fit_intercept : bool, default=True

    Yields
    ------
    predictions : Predictions
        ``values`` has shape (n, n_prefixes, n_alphas, n_targets).
    """
    w = np.ones(len(X)) if sample_weight is None else sample_weight
    used = w > 0
    n = int(used.sum())
    split = centred_split(X[used], y[used], X, w[used], fit_intercept)
    of_mean = w / w.sum() if fit_intercept else np.zeros(len(X))
    n_primal = {"primal": len(prefixes), "dual": 0}.get(form)
    if n_primal is None:
        n_primal = choose_form(n, n, prefixes, len(alphas), leave_one_out=True)
    for j, L, t, well_conditioned in _primal_factors(split, prefixes[:n_primal], alphas):
        B = solve_triangular(L, split.X_test[:, : len(L)].T, lower=True, check_finite=False)
        H = np.cumsum(np.square(B, out=B), axis=0)[prefixes[:n_primal] - 1].T
        H = H * w[:, None] + of_mean[:, None]  # (6)
        for part, coefficients in _prefix_coefficients(L, t, prefixes[:n_primal]):
            values = _product(split.X_test[:, : len(coefficients)], coefficients) + split.y_mean
            residuals = (y[:, None] - values) / (1 - H[:, part, None])  # (5)
            values = y[:, None] - residuals
            yield Predictions(part, slice(j, j + 1), values[:, :, None], [well_conditioned])
    split = Split(split.X, split.y, split.X_test[~used], split.y_mean)
    s = np.sqrt(of_mean[used])
    for i, K, K_test in _running_grams(split, prefixes, n_primal):
        values = np.empty((len(X), 1, len(alphas), y.shape[1]))
        # In this basis the mean is a direction of its own, s, of eigenvalue 0. Moved into the
        # middle of the spectrum it does not swamp what the other directions say of H_ii.
        c = np.trace(K) / n if fit_intercept else 0.0
        S, U = _spectrum(K + c * np.outer(s, s))
        Uy = _product(U.T, split.y)
        for j, alpha in enumerate(alphas):
            a = _product(U, Uy / (S + alpha)[:, None])
            # alpha a are the residuals (5), alpha share is 1 - H_ii.
            share = (np.square(U) / (S + alpha)).sum(axis=1) - s**2 / (c + alpha)
            values[used, 0, j] = y[used] - a / (np.sqrt(w[used]) * share)[:, None]
            values[~used, 0, j] = _product(K_test, a) + split.y_mean
        yield Predictions(slice(i, i + 1), slice(None), values, [True] * len(alphas))


def choose_form(n, m, prefixes, n_alphas, *, leave_one_out=False):
    """Return how many of the prefixes, from the smallest on, cost less in the primal form.

    Parameters
    ----------
    n, m : int
        Rows to fit and to predict.
    prefixes : ndarray of int, shape (n_prefixes,)
        Ascending.
    n_alphas : int
    leave_one_out : bool, default=False
        Whether the shares H_ii are computed too.

    Returns
    -------
    n_primal : int
        0 to ``n_prefixes``; the others take the dual form.
    """
    count = np.arange(len(prefixes) + 1)
    d = np.concatenate([[0], prefixes]).astype(float)
    # Operations. Primal, for the largest of its prefixes: one Gram matrix; for each alpha a
    # factor, the coefficients and the predictions of all prefixes.
    primal = n * d**2 + n_alphas * (d**3 / 3 + d**2 * count + 2 * m * d * count)
    # Dual: the running Gram matrices; for each prefix the factors or one decomposition.
    factors = EIGH if leave_one_out else min(n_alphas, EIGH)
    dual = (len(prefixes) - count) * (factors * n**3 / 3 + n_alphas * (2 * n**2 + 2 * n * m))
    dual[:-1] += n * (n + 2 * m) * d[-1]
    if leave_one_out:
        primal += n_alphas * n * d**2
        primal[d >= n] = np.inf
    return int(np.argmin(primal + dual))


def _primal_factors(split, prefixes, alphas):
    """Yield for each alpha its index, L and t of (1), and whether A was well conditioned."""
    if not len(prefixes):
        return
    X, y = split.X[:, : prefixes[-1]], split.y
    gram, moment = dsyrk(1.0, X, trans=1, lower=1), _product(X.T, y)
    for j, alpha in enumerate(alphas):
        L = _cholesky(gram, alpha)
        if L is not None:
            yield j, L, solve_triangular(L, moment, lower=True, check_finite=False), True
        else:
            yield j, *_factor_of_rows(X, y, alpha), False


def _factor_of_rows(X, y, alpha):
    """Return L and t of (1) by QR of X over sqrt(alpha) I, without the Gram matrix.

    It is slower, and does not square the condition number.  Signs of L and t are those of QR;
    they cancel in (2).
    """
    k = X.shape[1]
    stacked = np.vstack([X, np.sqrt(alpha) * np.eye(k)])
    targets = np.vstack([y, np.zeros((k, y.shape[1]))])
    t, R = qr_multiply(stacked, targets.T, mode="right", overwrite_a=True)
    return R.T, t.T


def _cholesky(gram, alpha):
    """Return the lower factor of ``gram + alpha I``, None where rounding ate the pivots."""
    A = gram.copy()
    A.flat[:: len(A) + 1] += alpha
    try:
        L = cholesky(A, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return None
    pivots = np.diag(L)
    return L if pivots.min() > LEAST_PIVOT * pivots.max() else None


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
    n, m = len(split.X), len(split.X_test)
    K, K_test, start = np.zeros((n, n), order="F"), np.zeros((m, n), order="F"), 0
    for i in range(first, len(prefixes)):
        X, X_test = (part[:, start : prefixes[i]] for part in (split.X, split.X_test))
        K = dsyrk(1.0, X, beta=1.0, c=K, overwrite_c=1, lower=1)
        if m:
            K_test = dgemm(1.0, X_test, X, trans_b=1, beta=1.0, c=K_test, overwrite_c=1)
        start = prefixes[i]
        yield i, K, K_test


def _dual_coefficients(K, y, alphas):
    """Return a of (3) for all alphas, and of each whether its matrix was well conditioned.

    By a Cholesky factor an alpha; where they are many or ill-conditioned, by one
    eigendecomposition for all.  The shape is (n, n_alphas, n_targets).
    """
    solved, well_conditioned = [], [True] * len(alphas)
    if len(alphas) < EIGH:
        for j, alpha in enumerate(alphas):
            L = _cholesky(K, alpha)
            if L is None:
                well_conditioned[j] = False
            else:
                solved.append(cho_solve((L, True), y, check_finite=False))
    if len(solved) < len(alphas):
        S, U = _spectrum(K)
        # Null directions are orthogonal to all rows: they have no part in predictions.
        Uy = np.where(S[:, None] > 0, _product(U.T, y), 0)
        solved = [_product(U, Uy / (S + alpha)[:, None]) for alpha in alphas]
    return np.stack(solved, axis=1), well_conditioned


def _spectrum(K):
    """Return eigenvalues, those that rounding may have made being 0, and eigenvectors."""
    S, U = eigh(K, driver="evd", check_finite=False)
    return np.where(S > len(K) * np.finfo(S.dtype).eps * S[-1], S, 0), U


def _product(A, B):
    """Return A times B, summed over the last axis of A and the first of B."""
    right = np.asfortranarray(B.reshape(len(B), -1))
    if A.flags.c_contiguous:
        product = dgemm(1.0, A.T, right, trans_a=1)
    else:
        product = dgemm(1.0, A, right)
    return product.reshape(len(A), *B.shape[1:])
