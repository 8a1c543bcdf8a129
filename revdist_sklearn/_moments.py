"""Moments of the rows: all that the fit of a chain needs, gathered in one pass."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_array

# Rows multiplied at a time: bounds the float64 copy of a batch.
CHUNK_ROWS = 4096


@dataclass
class Level:
    """Weight, mean and scatter of rows.

    Attributes
    ----------
    n : float
        Sum of the weights.
    mean : ndarray of shape (D,)
    scatter : ndarray of shape (D, D)
        Sum over the rows of w (x - mean)(x - mean)^T.
    """

    n: float
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, n_columns):
        """Return the level of no rows."""
        return cls(0.0, np.zeros(n_columns), np.zeros((n_columns, n_columns)))

    def update(self, rows, weights=None):
        """Add rows (Chan, Golub and LeVeque 1983).

        Rows are centred by their own mean before the product: outlier columns far from zero
        would otherwise drown the rest in rounding.
        """
        for start in range(0, len(rows), CHUNK_ROWS):
            chunk = np.array(rows[start : start + CHUNK_ROWS], dtype=np.float64)
            w = None if weights is None else weights[start : start + CHUNK_ROWS]
            n = float(len(chunk)) if w is None else float(w.sum())
            if n == 0.0:
                continue
            mean = np.average(chunk, axis=0, weights=w)
            chunk -= mean
            # The sum behind a mean rounds; a second pass keeps a constant column constant.
            rest = np.average(chunk, axis=0, weights=w)
            chunk -= rest
            mean += rest
            if w is not None:
                chunk *= np.sqrt(w)[:, None]
            self.merge(Level(n, mean, chunk.T @ chunk))

    def merge(self, other):
        """Add the rows of another level."""
        if other.n == 0.0:
            return
        n = self.n + other.n
        delta = other.mean - self.mean
        self.scatter += other.scatter
        if self.n > 0.0:
            step = np.sqrt(self.n * other.n / n) * delta
            self.scatter += np.outer(step, step)
        self.mean = self.mean + delta * (other.n / n)
        self.n = n

    @property
    def covariance(self):
        """The covariance, scatter / n, of shape (D, D)."""
        return self.scatter / self.n


def protein_means(rows, weights, groups):
    """Return the mean row of each protein, proteins in order of their label.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
    weights : ndarray of shape (n,) or None
        Proteins whose weights are all zero are left out.
    groups : ndarray of shape (n,)
        Label of the protein of each row.

    Returns
    -------
    means : ndarray of shape (n_proteins, D), float64
    """
    labels, protein = np.unique(groups, return_inverse=True)
    w = np.ones(len(rows)) if weights is None else weights
    membership = csr_array((w, (protein, np.arange(len(rows)))), shape=(len(labels), len(rows)))
    total = membership.sum(axis=1)
    sums = membership @ np.asarray(rows, dtype=np.float64)
    return sums[total > 0] / total[total > 0, None]


class Moments:
    """Weight, mean and scatter of rows, at residue level and at protein level.

    A chain can be fitted on them with any regressor, without another pass over the rows; the
    moments of parts of a corpus merge exactly, in any order.

    Parameters
    ----------
    block_sizes : sequence of int
        Widths of the blocks of columns, one block a model; D is their sum.

    block_names : sequence of str, default=None
        Names of the blocks.

    Attributes
    ----------
    block_sizes : tuple of int
        Widths of the blocks.

    block_names : tuple of str or None
        Names of the blocks.

    n_rows : int
        Rows of positive weight.

    residue : Level
        ``n`` (sum of the weights), ``mean`` of shape (D,) and ``scatter`` of shape (D, D),
        all float64, of the rows.

    protein : Level or None
        The same of the mean rows of proteins, each protein with weight 1; None unless every
        update named its ``groups``.

    Notes
    -----
    O(n D^2) time and O(D^2) memory: 865 MB a level for all of ESM-2 (10,400 columns),
    whatever the number of rows.

    References
    ----------
    T. F. Chan, G. H. Golub, R. J. LeVeque (1983). "Algorithms for Computing the Sample
    Variance: Analysis and Recommendations". The American Statistician 37(3), 242-247.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import Moments
    >>> rows = np.random.default_rng(0).normal(size=(100, 5))
    >>> first = Moments([2, 3]).update(rows[:60])
    >>> second = Moments([2, 3]).update(rows[60:])
    >>> both = first.merge(second)
    >>> both.n, bool(np.allclose(both.mean, rows.mean(axis=0)))
    (100.0, True)
    """

    def __init__(self, block_sizes, *, block_names=None):
        self.block_sizes = tuple(int(size) for size in block_sizes)
        self.block_names = None if block_names is None else tuple(block_names)
        if not self.block_sizes or min(self.block_sizes) < 1:
            raise ValueError(
                f"block_sizes={self.block_sizes} must hold at least one width, each 1 or more."
            )
        if self.block_names is not None and len(self.block_names) != len(self.block_sizes):
            raise ValueError(
                f"{len(self.block_names)} block_names were given for "
                f"{len(self.block_sizes)} blocks; give one name a block, or None."
            )
        self.n_rows = 0
        self.residue = Level.empty(self.n_columns)
        self.protein = None

    def __repr__(self):
        return (
            f"Moments(block_sizes={self.block_sizes}, n_rows={self.n_rows}, "
            f"n_proteins={self.n_proteins})"
        )

    @property
    def n_columns(self):
        """D, the number of columns of all blocks."""
        return sum(self.block_sizes)

    @property
    def n(self):
        """Sum of the weights of the rows."""
        return self.residue.n

    @property
    def mean(self):
        """Mean row, of shape (D,)."""
        return self.residue.mean

    @property
    def scatter(self):
        """Scatter of the rows, of shape (D, D)."""
        return self.residue.scatter

    @property
    def n_proteins(self):
        """Number of proteins at protein level; 0 where it is not kept."""
        return 0 if self.protein is None else int(self.protein.n)

    def update(self, rows, *, sample_weight=None, groups=None):
        """Add rows.

        Parameters
        ----------
        rows : array-like of shape (n, D)
            Rows to add, one residue each.

        sample_weight : array-like of shape (n,), default=None
            Weight of each row; None counts each once.

        groups : array-like of shape (n,), default=None
            The protein of each row; a protein's rows must come in one call. Protein-level
            moments are kept only where every call gives them.

        Returns
        -------
        self : Moments

        Raises
        ------
        ValueError
            If the width is not D, a value is not finite, or lengths differ. The moments are
            then as they were before the call.
        """
        rows = np.asarray(rows)
        if rows.ndim != 2 or rows.shape[1] != self.n_columns:
            raise ValueError(
                f"rows of shape {rows.shape} do not fit block_sizes={self.block_sizes}: give "
                f"an array of shape (n, {self.n_columns})."
            )
        check_finite(rows, "rows")
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        for name, values in (("sample_weight", weights), ("groups", groups)):
            if values is not None and len(values) != len(rows):
                raise ValueError(
                    f"{name} has {len(values)} entries for {len(rows)} rows; give one a row."
                )
        if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all()):
            worst = int(np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))[0])
            raise ValueError(
                f"sample_weight[{worst}] is {weights[worst]}; weights must be finite and not "
                "negative (0 leaves a row out)."
            )
        counted = len(rows) if weights is None else int(np.count_nonzero(weights))
        if groups is None:
            self.protein = None
        elif self.n_rows == 0 or self.protein is not None:
            if self.protein is None:
                self.protein = Level.empty(self.n_columns)
            self.protein.update(protein_means(rows, weights, np.asarray(groups)))
        self.residue.update(rows, weights)
        self.n_rows += counted
        return self

    def merge(self, other):
        """Add the rows that another ``Moments`` has seen; ``other`` is left as it is.

        Parameters
        ----------
        other : Moments
            Moments of the same blocks.

        Returns
        -------
        self : Moments
        """
        mine, theirs = self._blocks(), other._blocks()
        if mine != theirs:
            raise ValueError(
                f"moments of blocks {mine} cannot be merged with those of blocks {theirs}; "
                "both must come from the same models in the same order."
            )
        if other.n_rows == 0:
            return self
        if other.protein is None or (self.protein is None and self.n_rows > 0):
            self.protein = None
        else:
            if self.protein is None:
                self.protein = Level.empty(self.n_columns)
            self.protein.merge(other.protein)
        self.residue.merge(other.residue)
        self.n_rows += other.n_rows
        return self

    def _blocks(self):
        names = self.block_names or (None,) * len(self.block_sizes)
        return list(zip(names, self.block_sizes, strict=True))

    def save(self, path):
        """Write to a safetensors file; a file of that name is replaced in one step.

        Parameters
        ----------
        path : str or path-like
        """
        path = Path(path)
        header = {
            "block_sizes": self.block_sizes,
            "block_names": self.block_names,
            "n_rows": self.n_rows,
        }
        tensors = {}
        for name in ("residue", "protein"):
            level = getattr(self, name)
            if level is not None:
                tensors[f"{name}.n"] = np.array([level.n])
                tensors[f"{name}.mean"] = level.mean
                tensors[f"{name}.scatter"] = level.scatter
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            save_file(tensors, temporary, metadata={"moments": json.dumps(header)})
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path):
        """Read what ``save`` wrote.

        Parameters
        ----------
        path : str or path-like

        Returns
        -------
        moments : Moments

        Raises
        ------
        ValueError
            If the file is no complete file of moments.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})["moments"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, KeyError) as error:
            raise ValueError(
                f"{path} holds no moments, or is incomplete ({error}); write it with Moments.save."
            ) from error
        moments = cls(header["block_sizes"], block_names=header["block_names"])
        moments.n_rows = header["n_rows"]
        for name in ("residue", "protein"):
            if f"{name}.n" in tensors:
                level = Level(
                    float(tensors[f"{name}.n"][0]),
                    tensors[f"{name}.mean"],
                    tensors[f"{name}.scatter"],
                )
                setattr(moments, name, level)
        return moments


def check_finite(rows, name, columns=None):
    """Raise where a row holds NaN or infinity, naming the first place.

    Parameters
    ----------
    rows : ndarray of shape (n, D)
    name : str
        What the message calls the rows.
    columns : sequence of str or None
        Column names for the message.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # One sum tells for almost all input; half precision may overflow in it.
        if rows.dtype.kind != "f" or np.isfinite(rows.sum(dtype=np.float64)):
            return
    bad = np.argwhere(~np.isfinite(rows))
    if not len(bad):
        return
    row, column = (int(i) for i in bad[0])
    value = rows[row, column]
    what = "NaN" if np.isnan(value) else "infinity (inf)"
    label = f" ({columns[column]!r})" if columns is not None else ""
    raise ValueError(
        f"{name} contains {what}: the first of {len(bad)} such values is at row {row}, column "
        f"{column}{label}. Only finite values are allowed; leave out or impute those rows."
    )
