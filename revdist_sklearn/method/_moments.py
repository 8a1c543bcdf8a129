"""Moments of the rows: all that the fit of a chain needs, gathered in one pass."""

import copy
import os
import threading
from weakref import WeakKeyDictionary

import numpy as np

from ..base._blocks import Blocks
from ..base._provenance import merged
from . import _products_numpy, _products_torch
from ._chain import EPSILON
from ._finite import check_finite
from ._level import Level
from ._moments_file import FIXED, HEADER, read_levels, write_levels
from ._products_torch import is_tensor
from ._sample import Sample

# Means of proteins multiplied at a time.
PROTEINS_WAITING = 1024
# A lock for each moments that are in use, beside them: moments are copied and pickled.
GUARD = threading.Lock()
LOCKS: WeakKeyDictionary = WeakKeyDictionary()


def _renew_locks():
    """Give a forked process locks of its own, which no thread holds that is not there."""
    global GUARD, LOCKS
    GUARD, LOCKS = threading.Lock(), WeakKeyDictionary()


def _lock_of(moments):
    """Return the lock of some moments."""
    with GUARD:
        return LOCKS.setdefault(moments, threading.RLock())


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew_locks)


class Moments:
    """Weight, mean and scatter of rows, at residue level, at protein level, and others by name.

    A chain can be fitted on them with any regressor, without another pass over the rows; the
    moments of parts of a corpus merge exactly, in any order.

    Parameters
    ----------
    block_sizes : sequence of int
        Widths of the blocks of columns, one block a model; D is their sum.

    block_names : sequence of str, default=None
        Names of the blocks.

    precision : {"float64", "float32"}, default=None
        Precision of the products inside a chunk of rows; sums over chunks are float64 in any
        case. None is float64, whatever the type of the rows. float32 takes about half the time
        and squares the condition number in single precision: for bases of conditions up to 40.

    Attributes
    ----------
    product_precision : {"float32", "float64"}
        The coarsest precision that any product of residues had.

    row_precision : {"float64", "float32", "float16", "bfloat16"}
        The coarsest type of the residues seen, whose rounding is no signal; see
        ``precisions_of`` for those of other levels.

    blocks : Blocks
        The blocks of columns.

    block_sizes : tuple of int
        Widths of the blocks.

    block_names : tuple of str or None
        Names of the blocks.

    n_rows : int
        Rows of positive weight.

    sample : Sample or None
        Some residues, 128 to 256, where all were float64: they tell of directions that products
        lose. None where others are among them, and of moments that were read from a file.

    provenance : dict or None
        Of moments that ``corpus_moments`` gathered: ``members``, the models with digests of
        their weights; ``corpora``, digest, proteins and residues of each corpus; and
        ``version``. None where other rows are among them, at any level.

    residue : Level
        ``n`` (sum of the weights), ``mean`` of shape (D,) and ``scatter`` of shape (D, D),
        all float64, of the rows.

    protein : Level or None
        The same of the mean rows of proteins, each protein with weight 1; None unless every
        update named its ``proteins``.

    levels : dict of str to Level
        All levels that there are: ``"residue"``, ``"protein"``, and those that ``update`` was
        given by name, such as the ``"mutant"`` of ``corpus_moments``.

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

    # Of the class, for those that were pickled before there was any.
    provenance: dict | None = None
    sample: Sample | None = None
    _gathered: dict[str, Level] = {}  # noqa: RUF012 (replaced, never changed)
    _kinds: dict[str, tuple[str, str]] = {}  # noqa: RUF012 (the same)

    def __init__(self, block_sizes, *, block_names=None, precision=None):
        if precision not in (None, "float32", "float64"):
            raise ValueError(f"precision={precision!r} must be 'float32', 'float64' or None.")
        self.precision = precision
        self.product_precision = self.row_precision = "float64"
        self.blocks = Blocks(block_sizes, block_names)
        self.block_sizes, self.block_names = self.blocks.sizes, self.blocks.names
        self.n_rows, self._whole = 0, True
        self.residue = Level(self.n_columns)
        self._protein: Level | None = None
        self._gathered, self._kinds = {}, {}
        # Some rows, as long as all are float64 and came here.
        self.sample = Sample()
        # Means of proteins wait here: one product a thousand of them, not one a batch.
        self._waiting: list[np.ndarray] = []
        self._largest = 0.0

    def __setstate__(self, state):
        if "row_precision" not in state:  # of a pickle of the version before
            state = {**state, "row_precision": state["half"] or state["product_precision"]}
        self.__dict__.update({"_whole": True, "_largest": np.inf, **state})

    def __repr__(self):
        others = f", levels={[*FIXED, *self._gathered]}" if self._gathered else ""
        return (
            f"Moments(block_sizes={self.block_sizes}, n_rows={self.n_rows}, "
            f"n_proteins={self.n_proteins}{others})"
        )

    @property
    def n_columns(self):
        """D, the number of columns of all blocks."""
        return self.blocks.n_columns

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
        with _lock_of(self):  # two threads may ask at once
            if self._waiting:
                self.check_whole()
                level = self._protein
                assert level is not None
                means, before = np.concatenate(self._waiting), level.steps
                self._whole, level.due = False, -1
                try:
                    _products_numpy.add_rows(level, means)
                finally:
                    # In one go, as in `update`.
                    if level.steps == before:
                        self._whole = True
                    elif level.steps == level.due:
                        self._waiting, self._largest, self._whole = [], 0.0, True
            return self._protein

    @property
    def n_proteins(self):
        """Number of proteins at protein level; 0 where it is not kept."""
        return 0 if self._protein is None else int(self._protein.n) + sum(map(len, self._waiting))

    @property
    def levels(self):
        """All levels that there are, by name."""
        protein = self.protein
        fixed = {"residue": self.residue} | ({} if protein is None else {"protein": protein})
        return fixed | self._gathered

    def precisions_of(self, level):
        """Return the coarsest precision of products, and type of rows, behind a level.

        No level is finer than the residues, whose regression is seen through it.

        Parameters
        ----------
        level : str

        Returns
        -------
        products, rows : str
            As ``product_precision`` and ``row_precision``, which are those of residues.

        Raises
        ------
        ValueError
            If there is no such level.
        """
        if level not in self.levels:
            raise ValueError(f"level={level!r} is none of {', '.join(map(repr, self.levels))}.")
        products, rows = self._kinds.get(level, ("float64", "float64"))
        return coarser(self.product_precision, products), coarser(self.row_precision, rows)

    def update(self, rows, *, sample_weight=None, proteins=None, level="residue"):
        """Add rows.

        Parameters
        ----------
        rows : array-like or torch.Tensor of shape (n, D)
            Rows to add, one residue each. A tensor is multiplied on its own device.

        sample_weight : array-like of shape (n,), default=None
            Weight of each row; None counts each once.

        proteins : array-like of shape (n,), default=None
            Label of the protein of each row; a protein's rows must come in one call.
            Protein-level moments are kept only where every call gives them. Rows of another
            level are centred by protein: what is gathered is the covariance within proteins.

        level : str, default="residue"
            Another name adds the rows to a level of that name alone, made where it is not
            there: rows of whatever kind is to choose directions (``residual_level`` of
            :class:`ReverseDistiller`). They are not among ``n_rows``, and level
            ``"protein"`` is no such name: it follows from the residues and ``proteins``.

        Returns
        -------
        self : Moments

        Raises
        ------
        ValueError
            If the width is not D, a value is not finite, or lengths differ; the moments are
            then as they were before the call. The same if the square of a finite value is
            beyond the range of the products (1e19 in float32), or if ``level`` is no name.
        """
        if level != "residue":
            check_level_name(level)
        products = _products_torch if is_tensor(rows) else _products_numpy
        if products is _products_numpy:
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
        proteins = None if proteins is None else _labels(proteins)
        for name, values in (("sample_weight", weights), ("proteins", proteins)):
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
        if weights is not None and not np.isfinite(weights.sum()):
            raise ValueError(
                "sample_weight adds up to more than float64 holds; divide all weights by a number."
            )
        with _lock_of(self):  # two threads may add at once
            return self._add(products, rows, weights, proteins, level)

    def _add(self, products, rows, weights, proteins, level):
        """Add rows that were checked."""
        self.check_whole()
        precision = self.precision or "float64"
        protein, waiting, largest = self._protein, self._waiting, self._largest
        sample, n_rows, gathered, kinds = self.sample, self.n_rows, self._gathered, self._kinds
        noted = self.product_precision, self.row_precision
        kind = str(rows.dtype).removeprefix("torch.")
        if level == "residue":
            target, noted = self.residue, _coarsest(noted, (precision, kind))
            n_rows += len(rows) if weights is None else int(np.count_nonzero(weights))
            means = None if proteins is None else protein_means(rows, weights, proteins)
            protein, waiting, largest = self._with_means(means)
            sample = sample if noted[1] == "float64" else None
            if sample is not None:
                sample = sample.copy()
                sample.add(rows, weights)
        else:
            target = gathered[level] if level in gathered else Level(self.n_columns)
            gathered = {**gathered, level: target}
            mine = kinds.get(level, ("float64", "float64"))
            kinds = {**kinds, level: _coarsest(mine, (precision, kind))}
            if proteins is not None:
                rows, weights = _within_proteins(rows, weights, proteins)
                products = _products_numpy
                if len(rows) == 0:
                    return self
        before = target.steps
        self._whole, target.due = False, -1
        try:
            products.add_rows(target, rows, weights, np.dtype(precision).type)
        finally:
            # Where an interrupt came after the last product, the rest is done all the same;
            # nothing is called here, so that no other one comes between.
            if target.steps == before and target.due != before:
                self._whole = True
            elif target.steps == target.due:
                self.product_precision, self.row_precision = noted
                self._protein, self._waiting, self._largest = protein, waiting, largest
                self.sample, self.provenance = sample, None
                self._gathered, self._kinds = gathered, kinds
                self.n_rows, self._whole = n_rows, True
        if sum(map(len, waiting)) >= PROTEINS_WAITING:
            self.protein  # noqa: B018 (adds them)
        return self

    def _with_means(self, means):
        """Return the level of proteins, the means that wait for it, and the largest magnitude.

        As they are after an update; nothing is changed.

        Raises
        ------
        ValueError
            If the square of a mean is beyond the range.
        """
        if means is None or (self._protein is None and self.n_rows > 0):
            return None, [], 0.0
        level = Level(self.n_columns) if self._protein is None else self._protein
        waiting = [*self._waiting, means]
        largest = max(self._largest, float(np.abs(means).max(initial=0.0)))
        bound = (2 * largest) * (2 * largest) * (level.n + sum(map(len, waiting)))
        if bound + float(level.squares.max(initial=0.0)) < np.finfo(np.float64).max / 2:
            return level, waiting, largest
        # They may well overflow: on a level of their own it is seen.
        level = copy.deepcopy(level)
        _products_numpy.add_rows(level, np.concatenate(waiting))
        return level, [], 0.0

    def check_whole(self):
        """Raise where an update or a merge was cut off, so that a part of its rows counts.

        Raises
        ------
        RuntimeError
        """
        with _lock_of(self):  # another thread may be about to be done
            whole = self._whole
        if not whole:
            raise RuntimeError(
                "An interrupt or fault came in the middle of an update of these moments, and "
                "some of its rows may count. Gather them anew, or go on from a file of "
                "Moments.save or a checkpoint."
            )

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
        way_out = "they cannot be merged; both must come from the same models in the same order."
        self.blocks.check(
            other.blocks, "the other moments have", "these have", way_out, strictly=True
        )
        # In one order, so that two that are merged into one another do not wait for ever.
        first, second = sorted((self, other), key=id)
        with _lock_of(first), _lock_of(second):
            return self._merge(other)

    def _merge(self, other):
        """Add the rows of others, whose blocks were checked."""
        other.check_whole()
        self.check_whole()
        if other.n_rows == 0 and not other._gathered:
            return self
        empty = self.n_rows == 0 and not self._gathered
        provenance = other.provenance if empty else merged(self.provenance, other.provenance)
        if other.n_rows == 0:
            self._whole = False
            self._merge_gathered(other)
            self.provenance, self._whole = provenance, True
            return self
        # What waits is added first: it may be beyond the range, and nothing is changed then.
        first, protein, theirs = self.n_rows == 0, self.protein, other.protein
        if theirs is None or (protein is None and not first):
            protein = theirs = None
        elif protein is None:
            protein = Level(self.n_columns)
        mine = self.product_precision, self.row_precision
        noted = _coarsest(mine, (other.product_precision, other.row_precision))
        sample = None if self.sample is None or other.sample is None else self.sample.copy()
        if sample is not None:
            sample.merge(other.sample)
        self._whole = False
        if protein is not None:
            protein.merge(theirs)
        self.residue.merge(other.residue)
        self._merge_gathered(other)
        self.product_precision, self.row_precision = noted
        self._protein, self._waiting, self._largest = protein, [], 0.0
        self.sample, self.provenance = sample, provenance
        self.n_rows, self._whole = self.n_rows + other.n_rows, True
        return self

    def _merge_gathered(self, other):
        """Add the levels that another has by name; one that it lacks stays as it is."""
        kinds = dict(self._kinds)
        for name in other._gathered:
            # Without an entry it comes from a version that told of all levels together.
            theirs = other._kinds.get(name, (other.product_precision, other.row_precision))
            kinds[name] = _coarsest(kinds.get(name, theirs), theirs)
        gathered = {
            name: self._gathered.get(name) or Level(self.n_columns)
            for name in {**self._gathered, **other._gathered}
        }
        for name, level in other._gathered.items():
            gathered[name].merge(level)
        self._gathered, self._kinds = gathered, kinds

    def save(self, path, *, metadata=None):
        """Write to a safetensors file; a file of that name is replaced in one step.

        Parameters
        ----------
        path : str or path-like
            A link stays one, and the file that it leads to is replaced.

        metadata : dict, default=None
            What else to keep in the file; can be written as JSON.

        Raises
        ------
        OSError
            If it cannot be written, or is a folder or a device; what stood there before is
            still there.
        """
        self.check_whole()
        header = {name: getattr(self, name) for name in (*HEADER, "provenance")}
        kinds = {"level_precisions": self._kinds} if self._kinds else {}
        write_levels(path, {**header, **kinds, "extra": metadata or {}}, self.levels)

    @classmethod
    def load(cls, path, *, return_metadata=False):
        """Read what ``save`` wrote.

        Parameters
        ----------
        path : str or path-like

        return_metadata : bool, default=False
            Return ``(moments, metadata)``.

        Returns
        -------
        moments : Moments

        metadata : dict, if ``return_metadata``

        Raises
        ------
        FormatError
            If a newer version has written the file.

        DamagedFileError
            If the file is no complete file of moments, to the last bit.

        FileNotFoundError
            If there is no such file.
        """
        header, levels = read_levels(path)
        moments = cls(
            header["block_sizes"],
            block_names=header["block_names"],
            precision=header["precision"],
        )
        for name in ("n_rows", "product_precision", "row_precision", "provenance"):
            setattr(moments, name, header[name])
        moments.sample = None  # in no file
        moments.residue, moments._protein = levels.pop("residue"), levels.pop("protein", None)
        moments._gathered, moments._kinds = levels, header["level_precisions"]
        return (moments, header["extra"]) if return_metadata else moments


def coarser(one, other):
    """Return the coarser of two types; what is not listed, such as integers, is exact."""
    return max(one, other, key=lambda kind: EPSILON.get(kind, 0.0))


def _coarsest(held, others):
    """Return the coarsest precision of products and type of rows of those held and others."""
    products, rows = (coarser(*pair) for pair in zip(held, others, strict=True))
    # Rows that are rounded for the products are no finer than these.
    return products, coarser(rows, products)


def _labels(proteins):
    """Return labels as an array, of which none is missing."""
    labels = np.asarray(proteins)
    if isinstance(proteins, (list, tuple)) and labels.ndim == 1 and labels.dtype.kind in "US":
        # Among strings, NaN would become one.
        held = np.empty(len(labels), dtype=object)
        held[:] = proteins
    else:
        held = labels
    missing = np.zeros(held.shape, dtype=bool)
    if held.dtype.kind in "fcmM":
        missing = held != held
    elif held.dtype.kind == "O":
        missing = np.array([_is_missing(label) for label in held.flat], dtype=bool)
    if missing.any():
        worst = int(np.argmax(missing))
        what = str(held.flat[worst]).replace("nan", "NaN")
        raise ValueError(
            f"proteins[{worst}] is {what}, no label of a protein; give every row one, "
            "or leave the row out."
        )
    return labels


def _is_missing(label):
    """Return whether a label is none: None, NaN, NaT or pandas' NA, which is not even itself."""
    try:
        return label is None or bool(label != label)
    except TypeError:  # of NA nothing is true
        return True
    except ValueError:  # a list of several
        return False


def protein_means(rows, weights, proteins):
    """Return the mean row of each protein of positive weight, in order of the labels.

    Parameters
    ----------
    rows : ndarray or Tensor of shape (n, D)

    weights : ndarray of shape (n,) or None

    proteins : ndarray of shape (n,)
        Label of the protein of each row.

    Returns
    -------
    means : ndarray of shape (n_proteins, D), float64
    """
    products = _products_torch if is_tensor(rows) else _products_numpy
    protein, total = _numbered(weights, proteins)
    sums = products.protein_sums(rows, weights, protein, len(total))
    return sums[total > 0] / total[total > 0, None]


def _numbered(weights, proteins):
    """Return the number of each row's protein, in order of the labels, and proteins' weights."""
    try:
        labels, protein = np.unique(proteins, return_inverse=True)
    except TypeError as error:
        raise ValueError("proteins must be labels of one kind, numbers or strings.") from error
    return protein, _products_numpy.membership(weights, protein, len(labels)).sum(axis=1)


def _within_proteins(rows, weights, proteins):
    """Return rows of positive weight less the mean of their protein, in float64, and weights."""
    rows = rows.cpu().double().numpy() if is_tensor(rows) else rows.astype(np.float64)
    if weights is not None:
        counts = weights > 0
        rows, weights, proteins = rows[counts], weights[counts], proteins[counts]
    protein, _ = _numbered(weights, proteins)
    return rows - protein_means(rows, weights, protein)[protein], weights


def check_level_name(name):
    """Raise unless rows can be gathered under the name of a level."""
    if not (isinstance(name, str) and name.isidentifier()) or name in FIXED:
        raise ValueError(
            f"level={name!r} is no name of a level; give a word such as level='mutant'. "
            "'residue' is the level of the rows themselves (leave level out), and 'protein' "
            "follows from them where proteins is given."
        )
