"""Sums and products of rows that are NumPy arrays."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from scipy.linalg import blas
from scipy.sparse import csr_array

from ..base._threads import threads_of_blas
from ._level import Level

# Rows multiplied at a time. The bound keeps the copy small, and with it the rounding of
# float32 products; four times D keeps the sums over chunks, O(D^2) each, cheap beside them.
CHUNK_ROWS = 4096
# Numbers of a chunk from which on it is centred in as many threads as BLAS has for the product:
# on two cores one thread would take a quarter of the whole time.
THREADS_PAY = 2**20


def chunk_rows(n_columns):
    """Return the number of rows that are multiplied at a time."""
    return max(256, min(CHUNK_ROWS, 4 * n_columns))


def chunks(rows, weights):
    """Yield rows, their weights, the sum of these and their unit, some rows at a time.

    Weights are given in a unit near the largest of them, a power of two: in float32 the
    squares of rows with weights of 1e-50 would be zero. Rows whose weights are all zero are
    left out.
    """
    size = chunk_rows(rows.shape[1])
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        if weights is None:
            yield chunk, None, float(len(chunk)), 1.0
            continue
        w = weights[start : start + size]
        if w.any():
            unit = float(2.0 ** np.floor(np.log2(w.max())))
            w = w / unit
            yield chunk, w, float(w.sum()), unit


def add_rows(level, rows, weights=None, dtype=np.float64):
    """Add rows to a level.

    Parameters
    ----------
    level : Level

    rows : ndarray of shape (n, D)

    weights : ndarray of shape (n,) or None, default=None

    dtype : {np.float64, np.float32}, default=np.float64
        Precision of the products of one chunk; the sums are float64 either way.

    Raises
    ------
    ValueError
        If the square of a value is beyond the range of ``dtype``; nothing is added then.
    """
    if dtype == np.float64 and weights is None and str(rows.dtype) in ("float32", "float16"):
        add_chunks(level, rows, weights, dtype)  # whose squares are far within the range
        return
    largest = max(abs(float(rows.max())), abs(float(rows.min())))
    bound, most = (2 * largest) * (2 * largest), float(np.finfo(dtype).max) / 2
    n = float(len(rows) if weights is None else weights.sum())
    before = float(level.squares.max(initial=0.0))
    if bound * len(rows) > most or bound * n + before > float(np.finfo(np.float64).max) / 2:
        # It may well overflow: what does so at a late chunk must not leave the others behind.
        level, whole = Level(rows.shape[1]), level
        add_chunks(level, rows, weights, dtype)
        if level.n > 0.0:
            step = whole.step(level.n, level.mean)
            check_range(whole.squares + level.squares + step**2, np.float64)
        whole.merge(level)
    else:
        add_chunks(level, rows, weights, dtype)


def add_chunks(level, rows, weights, dtype):
    """Add rows to a level, some at a time."""
    # One copy for all: the pages of a new one cost as much as what is written to them.
    size = min(len(rows), chunk_rows(rows.shape[1]))
    room = np.empty((size + 1, rows.shape[1]), dtype=dtype)
    parts = list(chunks(rows, weights))
    level.due = level.steps + len(parts)
    with _by_threads(room.size) as each:
        for chunk, w, n, unit in parts:
            # Centred rows, and below them the step between the means: one product gives the
            # pairwise update.
            mean, centred = _centre(chunk, w, n, room[: len(chunk) + 1], each)
            n *= unit
            centred[-1] = level.step(n, mean) / np.sqrt(unit)
            if dtype == np.float64:
                level.add_product(n, mean, centred, unit)
                check_range(level.squares, dtype)
                continue
            # BLAS fills the upper triangle in its column order: the lower one in ours.
            lower = blas.ssyrk(1.0, centred.T).T
            check_range(lower.diagonal(), dtype)
            if unit != 1.0:
                lower = np.multiply(lower, unit, dtype=np.float64)
            level.add(n, mean, lower)


@contextmanager
def _by_threads(size):
    """Yield a function that calls another with slices of some rows, in threads where that pays."""
    n_threads = threads_of_blas() if size >= THREADS_PAY else 1
    if n_threads == 1:
        yield lambda function, n_rows: function(slice(0, n_rows))
        return
    with ThreadPoolExecutor(n_threads) as pool:

        def each(function, n_rows):
            ends = np.linspace(0, n_rows, n_threads + 1, dtype=int)
            list(pool.map(function, map(slice, ends[:-1], ends[1:])))

        yield each


def _centre(chunk, w, n, room, each):
    """Return the mean of the rows, and them centred and weighted in ``room``, which has one more.

    Rows are centred by their own mean before the product: outlier columns far from zero would
    otherwise drown the rest in rounding.
    """
    dtype = room.dtype.type
    if dtype == np.float64:
        # What is left of a constant column without one of its rows is zero, its mean is no sum
        # that rounds; no row is further from the mean than the spread times sqrt(n).
        origin = chunk[0 if w is None else np.argmax(w)].astype(dtype)
        centred = room[:-1]
        each(lambda rows: np.subtract(chunk[rows], origin, out=centred[rows]), len(chunk))
        # By SciPy's BLAS, as the product is: threads of NumPy's would spin beside it.
        rest = blas.dgemv(1.0, centred.T, np.ones(len(chunk)) if w is None else w) / n
        mean = origin + rest
    else:
        mean = _mean(chunk, w, n)
        centred = np.subtract(chunk, mean.astype(dtype), out=room[:-1])
        rest = _mean(centred, w, n).astype(dtype)  # the mean rounds in float32
    each(lambda rows: np.subtract(centred[rows], rest, out=centred[rows]), len(chunk))
    if w is not None:
        centred *= np.sqrt(w).astype(dtype)[:, None]
    return mean, room


def _mean(chunk, w, n):
    if w is None:
        return chunk.mean(axis=0, dtype=np.float64)
    return np.einsum("i,ij->j", w, chunk, dtype=np.float64) / n


def check_range(squares, dtype):
    """Raise where the squares of a column have overflowed."""
    if not np.isfinite(squares).all():
        column = int(np.flatnonzero(~np.isfinite(squares))[0])
        raise ValueError(
            f"The squares of column {column} are beyond the range of {np.dtype(dtype).name}; "
            "scale the rows down"
            f"{', or use precision=' + repr('float64') if dtype == np.float32 else ''}."
        )


def membership(weights, protein, n_proteins):
    """Return the weights as a sparse matrix of shape (n_proteins, n), a row a protein."""
    rows = np.arange(len(protein))
    w = np.ones(len(protein)) if weights is None else weights
    return csr_array((w, (protein, rows)), shape=(n_proteins, len(protein)))


def protein_sums(rows, weights, protein, n_proteins):
    """Return the weighted sum of each protein's rows, of shape (n_proteins, D), float64."""
    return membership(weights, protein, n_proteins) @ np.asarray(rows, dtype=np.float64)
