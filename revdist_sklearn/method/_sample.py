"""Some rows of float64, kept beside their moments: they tell what products cannot.

Products square the condition number: a direction that varies by 1e-8 of the others is rounding
in them, as the null direction of a LayerNorm is, and plain in rows of float64. The fit itself
needs no row; a few say whether it has lost anything.
"""

import numpy as np

# Rows kept: this many to twice as many, evenly spread over all that came.
ROWS = 128
# Share of the rows to which directions may be fitted.
FITTED = 4


class Sample:
    """Every so many of the rows that came; the split of the rows does not matter."""

    def __init__(self):
        self.rows, self.weights = [], []
        self._stride, self._seen = 1, 0

    def __len__(self):
        return len(self.weights)

    def copy(self):
        """Return one of the same rows, that goes on by itself."""
        other = Sample()
        other.rows, other.weights = self.rows.copy(), self.weights.copy()
        other._stride, other._seen = self._stride, self._seen
        return other

    def add(self, rows, weights=None):
        """Take some of the rows, of shape (n, D), an array or a tensor on any device."""
        at = np.arange(len(rows)) if weights is None else np.flatnonzero(weights)
        while self._seen + len(at) > 2 * ROWS * self._stride:
            self._thin()
        take = at[-self._seen % self._stride :: self._stride]
        self._seen += len(at)
        chosen = rows[take.tolist()]
        chosen = chosen.cpu().numpy() if hasattr(chosen, "cpu") else chosen
        self.rows += list(np.asarray(chosen, dtype=np.float64))
        self.weights += [1.0] * len(take) if weights is None else weights[take].tolist()

    @property
    def is_float32(self):
        """Whether all are values of float32, in arrays of float64."""
        rows = np.asarray(self.rows)
        with np.errstate(over="ignore"):
            return np.array_equal(rows.astype(np.float32), rows)

    def merge(self, other):
        """Take those of another sample, which is left as it is."""
        while self._stride < other._stride:
            self._thin()
        every = self._stride // other._stride
        self.rows += other.rows[::every]
        self.weights += other.weights[::every]
        self._seen = len(self.rows) * self._stride
        while len(self.rows) > 2 * ROWS:
            self._thin()

    def _thin(self):
        self._stride *= 2
        self.rows, self.weights = self.rows[::2], self.weights[::2]


class Witness:
    """Centred rows of x and z; the squares of a column add up to its variance.

    Parameters
    ----------
    sample : Sample

    mean : ndarray of shape (D,)
    """

    def __init__(self, sample, mean):
        w = np.asarray(sample.weights)
        w = w / w.max()
        x = np.asarray(sample.rows) - mean
        x -= w @ x / w.sum()  # what rounding of the mean has left
        self.x = x * np.sqrt(w / w.sum())[:, None]
        self.z = np.zeros((len(x), 0))

    def append(self, columns, V, coef):
        """Append u = h V - z coef to the rows of z."""
        self.z = np.hstack([self.z, self.x[:, columns] @ V - self.z @ coef])


def told(rows, error, rounded, known, errors):
    """Return the variances of some directions that are no rounding, descending.

    Parameters
    ----------
    rows : ndarray of shape (m, j)
        Centred rows along the directions.

    error : float
        Error that products leave in variances along them.

    rounded : ndarray of shape (j,)
        Variance that rounding of the rows leaves.

    known : ndarray of shape (m, r)
        Centred rows along the directions that products tell. Those above are off by a share
        of these.

    errors : ndarray of shape (r,)
        Error of their variances, as a share of each.

    Returns
    -------
    variances : ndarray of shape (at most min(m, j),)
    """
    if not rows.size:
        return np.zeros(0)
    # What the rows follow of the least known ones is taken out of them.
    rest, least = np.split(np.argsort(errors), [max(0, len(errors) - len(rows) // FITTED)])
    basis = np.linalg.qr(known[:, least])[0]
    variances = np.linalg.svd(rows - basis @ (basis.T @ rows), compute_uv=False) ** 2
    return variances[variances > error * errors[rest].sum() + rounded.max()]
