"""One level of moments: weight, mean and scatter of rows, merged exactly."""

from functools import partial
from operator import methodcaller

import numpy as np
from scipy.linalg.blas import dsyrk

from ..base._values import same

# Rows and columns mirrored at a time.
TILE = 512
# Calls a function without arguments, in C.
_call = methodcaller("__call__")


class Level:
    """Weight, mean and scatter of rows: those of residues, or of the means of proteins.

    Two are equal if their numbers are.

    Parameters
    ----------
    n_columns : int
        D.

    Attributes
    ----------
    n : float
        Sum of the weights.

    mean : ndarray of shape (D,)
        Mean of the rows, float64.

    scatter : ndarray of shape (D, D)
        Sum over the rows of w (x - mean)(x - mean)^T, float64.

    covariance : ndarray of shape (D, D)
        ``scatter / n``.

    steps : float
        Changes so far, an integer; NaN within one, and where one was cut off.

    due : float
        What ``steps`` will be when the rows that are being added have all been.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import Moments
    >>> moments = Moments([2]).update(np.array([[1.0, 0.0], [3.0, 4.0]]))
    >>> level = moments.residue
    >>> level.n, level.mean.tolist(), level.covariance.tolist()
    (2.0, [2.0, 2.0], [[1.0, 2.0], [2.0, 4.0]])
    """

    def __init__(self, n_columns):
        self.n = 0.0
        self.mean = np.zeros(n_columns)
        # Products fill the lower triangle; the upper one is mirrored when it is asked for.
        self._scatter = np.zeros((n_columns, n_columns))
        self._mirrored = True
        self.steps = self.due = 0.0

    @classmethod
    def of(cls, n, mean, scatter):
        """Return a level of known moments."""
        level = cls.__new__(cls)
        level.n, level.mean, level._scatter, level._mirrored = float(n), mean, scatter, True
        level.steps = level.due = 0.0
        return level

    @property
    def scatter(self):
        """Sum over the rows of w (x - mean)(x - mean)^T, of shape (D, D)."""
        if not self._mirrored:
            S = self._scatter
            for i in range(0, len(S), TILE):
                S[i : i + TILE, i + TILE :] = S[i + TILE :, i : i + TILE].T
                tile = S[i : i + TILE, i : i + TILE]
                upper = np.triu_indices(len(tile), 1)
                tile[upper] = tile.T[upper]
            self._mirrored = True
        return self._scatter

    @property
    def covariance(self):
        """The covariance, scatter / n, of shape (D, D)."""
        return self.scatter / self.n

    def merge(self, other):
        """Add the rows of another level; ``other`` is left as it is."""
        if other.n == 0.0:
            return
        step = self.step(other.n, other.mean)
        self.due = self.steps + 1
        self.steps = np.nan
        self._add(other._scatter, step)
        self.move(other.n, other.mean)
        self._mirrored = self._mirrored and other._mirrored
        self.steps = self.due

    def add(self, n, mean, lower):
        """Add rows whose scatter, and the step to their mean, one product holds.

        Parameters
        ----------
        n : float
            Sum of their weights.

        mean : ndarray of shape (D,)

        lower : ndarray of shape (D, D)
            Their scatter about ``mean`` plus the square of ``step(n, mean)``; its lower
            triangle counts.
        """
        after, self.steps = self.steps + 1, np.nan
        self._add(lower)
        self.move(n, mean)
        self._mirrored = False
        self.steps = after

    def add_product(self, n, mean, centred, unit=1.0):
        """Add rows whose scatter, and the step to their mean, are still to be multiplied.

        Parameters
        ----------
        n : float
            Sum of their weights.

        mean : ndarray of shape (D,)

        centred : ndarray of shape (n_rows + 1, D), float64, in C order
            The rows less their mean, and as the last one ``step(n, mean)``, all divided by the
            square root of ``unit``.

        unit : float, default=1.0
        """
        moved, after = self._moved(n, mean), self.steps + 1
        # In place: BLAS's upper triangle in its column order is the lower one in ours.
        product = partial(dsyrk, unit, centred.T, 1.0, self._scatter.T, overwrite_c=True)
        done: list[np.ndarray] = []
        try:
            # Python looks for an interrupt between steps of its own: here are none between the
            # product and the note that it is there,
            done.extend(map(_call, (product,)))
        finally:
            # nor here, where nothing is called.
            if done:
                self._scatter, self._mirrored = done[0].T, False
                (self.n, self.mean), self.steps = moved, after

    @property
    def squares(self):
        """The scatter's diagonal, of shape (D,)."""
        return self._scatter.diagonal()

    def step(self, n, mean):
        """Return the row whose square is what n rows of another mean add beside their scatter.

        The pairwise update of Chan, Golub and LeVeque (1983).
        """
        # No product of two weights, which may be tiny.
        return np.sqrt(n) * np.sqrt(self.n / (self.n + n)) * (mean - self.mean)

    def _add(self, scatter, step=None):
        """Add to the scatter, row tile by row tile: no second D x D matrix of float64."""
        for i in range(0, len(scatter), TILE):
            # Where only the lower triangle is kept, the upper one is not worth a pass.
            stop = i + TILE if step is None else len(scatter)
            self._scatter[i : i + TILE, :stop] += scatter[i : i + TILE, :stop]
            if step is not None:
                self._scatter[i : i + TILE] += step[i : i + TILE, None] * step

    def move(self, n, mean):
        """Count n rows of another mean; their scatter is added elsewhere."""
        self.n, self.mean = self._moved(n, mean)

    def _moved(self, n, mean):
        total = self.n + n
        return total, self.mean + (mean - self.mean) * (n / total)

    def __getstate__(self):
        return {"n": self.n, "mean": self.mean, "_scatter": self.scatter, "_mirrored": True}

    def __setstate__(self, state):
        self.__dict__.update({**state, "steps": 0.0, "due": 0.0})

    def __eq__(self, other):
        if not isinstance(other, Level):
            return NotImplemented
        return all(same(getattr(self, f), getattr(other, f)) for f in ("n", "mean", "scatter"))

    def __repr__(self):
        return f"Level(n={self.n:g}, n_columns={len(self.mean)})"
