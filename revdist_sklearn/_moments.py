"""Moments of the rows: all that the fit of a chain needs, gathered in one pass."""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.linalg import blas
from scipy.sparse import csr_array

from ._files import replace_file

# Means of proteins multiplied at a time.
PROTEINS_WAITING = 1024
# Rows and columns mirrored at a time.
TILE = 512
# Rows multiplied at a time.  The bound keeps the copy small, and with it the rounding of
# float32 products; four times D keeps the sums over chunks, O(D^2) each, cheap beside them.
CHUNK_ROWS = 4096


def chunk_rows(n_columns):
    """Return the number of rows that are multiplied at a time."""
    return max(256, min(CHUNK_ROWS, 4 * n_columns))


class Level:
    """Weight, mean and scatter of rows.

    Parameters
    ----------
    n_columns : int
        D.

    Attributes
    ----------
    n : float
        Sum of the weights.
    mean : ndarray of shape (D,)
    scatter : ndarray of shape (D, D)
        Sum over the rows of w (x - mean)(x - mean)^T.
    """

    def __init__(self, n_columns):
        self.n = 0.0
        self.mean = np.zeros(n_columns)
        # Products fill the lower triangle; the upper one is mirrored when it is asked for.
        self._scatter = np.zeros((n_columns, n_columns))
        self._mirrored = True

    @classmethod
    def of(cls, n, mean, scatter):
        """Return a level of known moments."""
        level = cls.__new__(cls)
        level.n, level.mean, level._scatter, level._mirrored = float(n), mean, scatter, True
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

    def update(self, rows, weights=None, dtype=np.float64):
        """Add rows.

        Parameters
        ----------
        rows : ndarray or torch.Tensor of shape (n, D)
            A tensor is multiplied and summed where it lies; the result is kept on the host.
        weights : ndarray of shape (n,) or None
        dtype : {np.float64, np.float32}
            Precision of the products of one chunk; the sums are float64 either way.
        """
        if _is_tensor(rows):
            self.merge(_level_of_tensor(rows, weights, dtype))
            return
        for chunk, w, n in _chunks(rows, weights):
            # Centred rows, and below them the step between the means: one product gives the
            # pairwise update of Chan, Golub and LeVeque (1983).
            mean, centred = _centre_array(chunk, w, n, dtype)
            centred[-1] = self._step(n, mean)
            # BLAS fills the upper triangle in its column order: the lower one in ours.
            syrk = blas.dsyrk if dtype == np.float64 else blas.ssyrk
            product = syrk(1.0, centred.T).T
            _check_range(product.diagonal(), dtype)
            self._add(product)
            self._move(n, mean)
            self._mirrored = False

    def merge(self, other):
        """Add the rows of another level, pairwise as ``update``."""
        if other.n == 0.0:
            return
        step = self._step(other.n, other.mean)
        self._add(other._scatter, step)
        self._move(other.n, other.mean)
        self._mirrored = self._mirrored and other._mirrored

    def _step(self, n, mean):
        return np.sqrt(self.n * n / (self.n + n)) * (mean - self.mean)

    def _add(self, scatter, step=None):
        """Add to the scatter, row tile by row tile: no second D x D matrix of float64."""
        for i in range(0, len(scatter), TILE):
            # Where only the lower triangle is kept, the upper one is not worth a pass.
            stop = i + TILE if step is None else len(scatter)
            self._scatter[i : i + TILE, :stop] += scatter[i : i + TILE, :stop]
            if step is not None:
                self._scatter[i : i + TILE] += step[i : i + TILE, None] * step

    def _move(self, n, mean):
        self.n += n
        self.mean = self.mean + (mean - self.mean) * (n / self.n)

    def __getstate__(self):
        return {"n": self.n, "mean": self.mean, "_scatter": self.scatter, "_mirrored": True}


def _chunks(rows, weights):
    """Yield rows, their weights and the sum of these, some rows at a time."""
    size = chunk_rows(rows.shape[1])
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        w = None if weights is None else weights[start : start + size]
        n = float(len(chunk)) if w is None else float(w.sum())
        if n > 0.0:
            yield chunk, w, n


def _centre_array(chunk, w, n, dtype):
    """Return the mean of the rows, and them centred and weighted with one more row of room.

    Rows are centred by their own mean before the product: outlier columns far from zero would
    otherwise drown the rest in rounding.
    """
    mean = _mean(chunk, w, n)
    room = np.empty((len(chunk) + 1, chunk.shape[1]), dtype=dtype)
    centred = np.subtract(chunk, mean.astype(dtype), out=room[:-1])
    if dtype == np.float64:
        # The sum behind a mean rounds; a second pass keeps a constant column constant.
        rest = _mean(centred, w, n)
        centred -= rest
        mean += rest
    if w is not None:
        centred *= np.sqrt(w).astype(dtype)[:, None]
    return mean, room


def _mean(chunk, w, n):
    if w is None:
        return chunk.mean(axis=0, dtype=np.float64)
    return np.einsum("i,ij->j", w, chunk, dtype=np.float64) / n


def _check_range(squares, dtype):
    if not np.isfinite(squares).all():
        column = int(np.flatnonzero(~np.isfinite(squares))[0])
        raise ValueError(
            f"The squares of column {column} are beyond the range of {np.dtype(dtype).name}; "
            "scale the rows down, or use precision='float64'."
        )


def _level_of_tensor(rows, weights, dtype):
    """Return the level of a tensor's rows: products and sums on its device, one copy off it."""
    level, total = Level.of(0.0, np.zeros(rows.shape[1]), None), None
    for chunk, w, n in _chunks(rows, weights):
        mean, centred, wide = _centre_tensor(chunk, w, n, dtype)
        centred[-1] = centred.new_tensor(level._step(n, mean))
        product = (centred.T @ centred).to(wide)
        total = product if total is None else total.add_(product)
        level._move(n, mean)
    if total is not None:
        level._scatter = total.cpu().double().numpy()
        _check_range(level._scatter.diagonal(), dtype)
    return level


def _centre_tensor(chunk, w, n, dtype):
    """Return the same of a torch tensor on its own device, and the type to sum in there."""
    import torch

    kind = torch.float64 if dtype == np.float64 else torch.float32
    # Devices without float64 (mps) sum in float32; the second pass makes up for it.
    wide = torch.float32 if chunk.device.type == "mps" else torch.float64
    room = torch.empty((len(chunk) + 1, chunk.shape[1]), dtype=kind, device=chunk.device)
    centred = room[:-1].copy_(chunk)
    if w is not None:
        w = torch.as_tensor(w, dtype=kind, device=chunk.device)[:, None]
    mean = torch.zeros(chunk.shape[1], dtype=wide, device=chunk.device)
    for _ in range(2):
        rest = (centred if w is None else centred * w).sum(0, dtype=wide) / n
        centred -= rest.to(kind)
        mean += rest
    if w is not None:
        centred *= w.sqrt()
    return mean.cpu().double().numpy(), room, wide


def _is_tensor(rows):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(rows, torch.Tensor)


def protein_means(rows, weights, groups):
    """Return the mean row of each protein, proteins in order of their label.

    Parameters
    ----------
    rows : ndarray or torch.Tensor of shape (n, D)
    weights : ndarray of shape (n,) or None
        Proteins whose weights are all zero are left out.
    groups : ndarray of shape (n,)
        Label of the protein of each row.

    Returns
    -------
    means : ndarray of shape (n_proteins, D), float64
    """
    try:
        labels, protein = np.unique(groups, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            "groups must be labels of one kind, numbers or strings, without None."
        ) from error
    w = np.ones(len(rows)) if weights is None else weights
    membership = csr_array((w, (protein, np.arange(len(rows)))), shape=(len(labels), len(rows)))
    total = membership.sum(axis=1)
    if _is_tensor(rows):
        import torch

        wide = rows.double() * torch.as_tensor(w, dtype=torch.float64, device=rows.device)[:, None]
        index = torch.as_tensor(protein, device=rows.device)
        sums = wide.new_zeros(len(labels), rows.shape[1]).index_add(0, index, wide).cpu().numpy()
    else:
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

    precision : {"float32", "float64"}, default=None
        Precision of the products inside a chunk of rows; sums over chunks are float64 in any
        case. None takes that of the rows: float64 for float64 rows, float32 for float32 and
        half precision. float32 is about twice as fast and leaves an error of about 1e-7 of
        the variances.

    Attributes
    ----------
    product_precision : {"float32", "float64"}
        The coarsest precision that any product had.

    half : str or None
        "float16" or "bfloat16" where rows of that type were seen.

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

    def __init__(self, block_sizes, *, block_names=None, precision=None):
        if precision not in (None, "float32", "float64"):
            raise ValueError(f"precision={precision!r} must be 'float32', 'float64' or None.")
        self.precision = precision
        self.product_precision = "float64"
        self.half = None
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
        self.residue = Level(self.n_columns)
        self._protein: Level | None = None
        # Means of proteins wait here: one product a thousand of them, not one a batch.
        self._waiting: list[np.ndarray] = []

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
    def protein(self):
        """Moments of the means of proteins, or None."""
        if self._waiting:
            assert self._protein is not None
            means, self._waiting = np.concatenate(self._waiting), []
            self._protein.update(means)
        return self._protein

    @property
    def n_proteins(self):
        """Number of proteins at protein level; 0 where it is not kept."""
        return 0 if self._protein is None else int(self._protein.n) + sum(map(len, self._waiting))

    def _drop_proteins(self):
        self._protein, self._waiting = None, []

    def update(self, rows, *, sample_weight=None, groups=None):
        """Add rows.

        Parameters
        ----------
        rows : array-like or torch.Tensor of shape (n, D)
            Rows to add, one residue each. A tensor is multiplied on its own device.

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
            If the width is not D, a value is not finite, or lengths differ; the moments are
            then as they were before the call. If the square of a finite value is beyond the
            range of the products (1e19 in float32); the moments are then of no use.
        """
        if not _is_tensor(rows):
            rows = np.asarray(rows)
            if rows.dtype.kind not in "fiub":
                raise ValueError(
                    f"rows of type {rows.dtype} are no numbers to average; give an array of "
                    "floats."
                )
        if rows.ndim != 2 or rows.shape[1] != self.n_columns:
            raise ValueError(
                f"rows of shape {tuple(rows.shape)} do not fit block_sizes={self.block_sizes}: "
                f"give an array of shape (n, {self.n_columns})."
            )
        check_finite(rows, "rows")
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        groups = None if groups is None else np.asarray(groups)
        for name, values in (("sample_weight", weights), ("groups", groups)):
            if values is not None and values.shape != (len(rows),):
                raise ValueError(
                    f"{name} has shape {values.shape} and rows {len(rows)} entries; give one a "
                    "row, in a flat list or 1D array."
                )
        if len(rows) == 0:
            return self
        if weights is not None and not (np.isfinite(weights).all() and (weights >= 0).all()):
            worst = int(np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))[0])
            raise ValueError(
                f"sample_weight[{worst}] is {weights[worst]}; weights must be finite and not "
                "negative (0 leaves a row out)."
            )
        counted = len(rows) if weights is None else int(np.count_nonzero(weights))
        kind = str(rows.dtype).removeprefix("torch.")
        precision = self.precision
        if precision is None:
            precision = "float32" if kind in ("float32", "float16", "bfloat16") else "float64"
        means = None if groups is None else protein_means(rows, weights, groups)
        self.residue.update(rows, weights, np.dtype(precision).type)
        if precision == "float32":
            self.product_precision = "float32"
        if means is None:
            self._drop_proteins()
        elif self.n_rows == 0 or self._protein is not None:
            if self._protein is None:
                self._protein = Level(self.n_columns)
            self._waiting.append(means)
            if sum(map(len, self._waiting)) >= PROTEINS_WAITING:
                self.protein  # noqa: B018 (adds them)
        if kind in ("float16", "bfloat16"):
            self.half = kind
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
            self._drop_proteins()
        else:
            if self._protein is None:
                self._protein = Level(self.n_columns)
            self._protein.merge(other.protein)
        self.residue.merge(other.residue)
        self.product_precision = min(self.product_precision, other.product_precision)
        self.half = self.half or other.half
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

        Raises
        ------
        OSError
            If it cannot be written; what stood there before is still there.
        """
        self._save(path, {})

    def _save(self, path, extra):
        path = Path(path)
        header = {
            "block_sizes": self.block_sizes,
            "block_names": self.block_names,
            "n_rows": self.n_rows,
            "precision": self.precision,
            "product_precision": self.product_precision,
            "half": self.half,
            "extra": extra,
        }
        tensors = {}
        for name in ("residue", "protein"):
            level = getattr(self, name)
            if level is not None:
                tensors[f"{name}.n"] = np.array([level.n])
                tensors[f"{name}.mean"] = level.mean
                tensors[f"{name}.scatter"] = level.scatter
        metadata = {"moments": json.dumps(header)}
        replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))

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
        return cls._load(path)[0]

    @classmethod
    def _load(cls, path):
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})["moments"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (SafetensorError, KeyError) as error:
            raise ValueError(
                f"{path} holds no moments, or is incomplete ({error}); write it with Moments.save."
            ) from error
        moments = cls(
            header["block_sizes"],
            block_names=header["block_names"],
            precision=header["precision"],
        )
        for name in ("n_rows", "product_precision", "half"):
            setattr(moments, name, header[name])
        for name in ("residue", "protein"):
            if f"{name}.n" in tensors:
                level = Level.of(
                    tensors[f"{name}.n"][0],
                    tensors[f"{name}.mean"],
                    tensors[f"{name}.scatter"],
                )
                setattr(moments, "residue" if name == "residue" else "_protein", level)
        return moments, header["extra"]


def check_finite(rows, name, columns=None):
    """Raise where a row holds NaN or infinity, naming the first place.

    Parameters
    ----------
    rows : ndarray or torch.Tensor of shape (n, D)
    name : str
        What the message calls the rows.
    columns : sequence of str or None
        Column names for the message.
    """
    if _is_tensor(rows):
        if bool(rows.isfinite().all()):
            return
        rows = rows.float().cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        # One sum tells for almost all input; where it overflows, each value is looked at.
        if rows.dtype.kind != "f" or np.isfinite(rows.sum()):
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
