"""Embeddings that were written, opened without reading all of them."""

import difflib
import operator
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ._formats import ENDINGS, require
from ._open_shards import ShardStore

# Bytes of the rows of a block.
BLOCK = 2**26
# Names that are compared with one that is not there.
COMPARED = 10_000


def load_embeddings(path):
    """Open a file or folder of embeddings, without reading all of it.

    Parameters
    ----------
    path : path-like
        A folder of shards, or a file that ends in ``.h5``, ``.hdf5``, ``.parquet``, ``.h5ad``,
        ``.npz`` or ``.csv``. Files of other programs are read where they have identifiers and
        numbers in the same places, such as the .h5 files of embeddings that UniProt gives.

    Returns
    -------
    embeddings : Embeddings

    Raises
    ------
    FileNotFoundError
        If there is none, or it is a folder without shards.

    ValueError
        If its ending is unknown.

    ImportError
        If a library is missing; the message names the extra that installs it.

    DamagedFileError
        If it is damaged, not complete, or holds something else.

    FormatError
        If a newer version of this package has written it.

    OSError
        If it cannot be read.

    Notes
    -----
    No file that is read runs code, and none leads to others: objects of Python, and links of HDF5
    to other files, are refused. Shards, ``.parquet``, ``.h5ad`` and the matrix layout of ``.h5``
    carry checksums, so that a changed bit is an error wherever it is read; ``.npz`` has one for
    the whole, which :meth:`Embeddings.to_numpy` checks. The keyed layout and ``.csv`` have none.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from revdist_sklearn import load_embeddings
    >>> Z = np.arange(6, dtype=np.float32).reshape(3, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "embedding.npz"
    ...     np.savez(path, names=["P1", "P2", "P3"], embedding=Z)
    ...     with load_embeddings(path) as emb:
    ...         emb.shape, emb.names, emb["P2"], emb[1:].shape
    ((3, 2), ['P1', 'P2', 'P3'], array([2., 3.], dtype=float32), (2, 2))
    """
    path = Path(path)
    if path.is_dir():
        return Embeddings(ShardStore(path))
    ending = path.suffix
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if ending not in ENDINGS:
        raise ValueError(
            f"{os.fspath(path)!r} ends in {ending!r}, which is no format of embeddings. Known are "
            f"{', '.join(ENDINGS)}, and folders of shards."
        )
    require(ending)
    with open(path, "rb"):  # what may not be read is no damage
        pass
    return Embeddings(ENDINGS[ending].open(path))


class Embeddings:
    r"""Embeddings in a file or folder, of which parts are read as they are asked for.

    :func:`load_embeddings` returns it. Proteins are taken by identifier or by position:
    ``emb["P12345"]`` and ``emb[3]`` are one protein, ``emb[10:20]``, ``emb[[5, 2]]`` and
    ``emb[["P2", "P1"]]`` are several. At protein level one is an array of shape (n_columns,) and
    several are one of shape (n, n_columns); at residue level one is an array of shape
    (n_rows, n_columns), and several are a list of such arrays. ``in``, ``len`` and iteration are
    about identifiers.

    Numbers have the type that the file has, float16 too; :meth:`to_numpy` and :meth:`to_frame`
    take another as ``dtype``. A .csv has that of the file beside it, or float64 without one.

    Parameters
    ----------
    store : object
        What reads the format.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from revdist_sklearn import load_embeddings
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "embedding.csv"
    ...     written = path.write_text("name,a,b\nP1,0.5,1\nP2,2,3\n")
    ...     with load_embeddings(path) as emb:
    ...         for names, rows in emb.blocks():
    ...             print(names, rows.shape)
    ...         print("P2" in emb, emb.to_numpy("float32").dtype)
    ['P1', 'P2'] (2, 2)
    True float32
    """

    def __init__(self, store):
        self._store, self._closed = store, False

    @property
    def path(self):
        """Path of the file or folder."""
        return self._store.path

    @property
    def level(self):
        """``"protein"`` or ``"residue"``: what a row is of."""
        return self._store.level

    @property
    def dtype(self):
        """Type of the numbers."""
        return self._store.dtype

    @property
    def shape(self):
        """Rows and columns of all of it: rows are proteins, or residues at that level."""
        return self._open().n_rows, len(self._store.columns)

    @property
    def columns(self):
        """Names of the columns, as a list; numbers from 0 where the file has none."""
        return list(self._store.columns)

    @property
    def names(self):
        """Identifiers of the proteins in the order of the file, as a list.

        Read when first asked for; a file of ten million takes a gigabyte for them.
        """
        return self._open().names

    @property
    def lengths(self):
        """Residues of each protein as it was given, int64; None where the file does not tell."""
        return self._open().lengths

    @property
    def n_rows(self):
        """Rows of each protein, int64: 1, or at residue level as many as were embedded."""
        offsets = self._open().offsets
        return np.ones(len(self), dtype=np.int64) if offsets is None else np.diff(offsets)

    @property
    def facts(self):
        """What the file tells of itself, as a dict; None for one of another program.

        Among them ``stages`` (names of blocks and the longest prefix for which the models up to
        each suffice, 0 where they suffice for none), ``settings`` (of the run), ``identity``
        (their digest), ``input`` (digest of what was embedded), ``n_proteins``, ``n_rows``,
        ``n_residues`` and ``version``.
        """
        return self._store.facts

    def __len__(self):
        return self._open().n_proteins

    def __iter__(self):
        return iter(self.names)

    def __contains__(self, name):
        return isinstance(name, str) and self._open().has(name)

    def __getitem__(self, key):
        """Return one protein or several.

        Raises
        ------
        KeyError
            If an identifier is not there; names some that are near.

        IndexError
            If a position is out of range.

        TypeError
            If it is neither, nor a slice or list of such.
        """
        store = self._open()
        if isinstance(key, str):
            return self._one(self._named(key))
        if isinstance(key, slice):
            positions = range(len(self))[key]
            if positions.step == 1:
                return self._between(positions.start, max(positions.start, positions.stop))
            return self._several(list(positions))
        if isinstance(key, (Sequence, np.ndarray)) and not isinstance(key, bytes):
            keys = key.tolist() if isinstance(key, np.ndarray) else list(key)
            if keys and all(isinstance(name, str) for name in keys):
                rows = [self._named(name) for name in keys]
                return rows if self.level == "residue" else np.concatenate(rows)
            return self._several([self._position(i) for i in keys])
        i = self._position(key)
        return self._one(store.rows(*store.span(i, i + 1)))

    def _one(self, rows):
        return rows if self.level == "residue" else rows[0]

    def _named(self, name):
        if not self._open().has(name):
            raise KeyError(f"{self.path} has no {name!r}{_near(name, self.names)}")
        return self._store.of(name)

    def _position(self, i):
        if isinstance(i, (bool, np.bool_)):
            raise TypeError("Booleans are no positions; np.flatnonzero makes such of a mask.")
        try:
            i = operator.index(i)
        except TypeError:
            raise TypeError(
                f"{i!r} is no identifier and no position; a slice or a list of these is several."
            ) from None
        if not -len(self) <= i < len(self):
            raise IndexError(f"There is no protein {i} among {len(self)}.")
        return i % len(self)

    def _between(self, start, stop):
        first, last = self._store.span(start, stop)
        rows = self._store.rows(first, last)
        if self.level == "protein":
            return rows
        return (
            np.split(rows, self._store.offsets[start + 1 : stop] - first) if stop > start else []
        )

    def _several(self, positions):
        """Return proteins at positions; those that follow each other are read at once."""
        order = np.argsort(positions, kind="stable")
        ahead = np.asarray(positions, dtype=np.int64)[order]
        found: list = [None] * len(positions)
        for run in np.split(order, np.flatnonzero(np.diff(ahead) > 1) + 1):
            if len(run):
                low = positions[run[0]]
                rows = self._between(low, positions[run[-1]] + 1)
                for i in run:
                    found[i] = rows[positions[i] - low]
        if self.level == "residue":
            return found
        if not found:
            return np.empty((0, len(self._store.columns)), dtype=self.dtype)
        return np.stack(found)

    def blocks(self):
        """Yield names and rows of consecutive proteins, some 64 MB at a time.

        Yields
        ------
        names : list of str

        rows : ndarray of shape (len(names), n_columns), or list of such at residue level
        """
        store, start = self._open(), 0
        size = max(1, BLOCK // max(1, len(store.columns) * store.dtype.itemsize))
        while start < len(self):
            stop = start + size
            if self.level == "residue":
                last = store.offsets[start] + size
                stop = max(start + 1, int(np.searchsorted(store.offsets, last, "right")) - 1)
            stop = min(stop, len(self))
            yield self.names[start:stop], self._between(start, stop)
            start = stop

    def to_numpy(self, dtype=None):
        """Return all rows.

        Parameters
        ----------
        dtype : dtype, default=None
            Type of the numbers; None for that of the file.

        Returns
        -------
        rows : ndarray of shape ``shape``
        """
        store = self._open()
        try:
            rows = store.whole()
        except MemoryError as error:
            size = store.n_rows * len(store.columns) * store.dtype.itemsize
            raise MemoryError(
                f"{self.path} has {size / 1e9:.3g} GB of numbers, for which there is no room. "
                "blocks() gives them in parts."
            ) from error
        return rows if dtype is None else rows.astype(dtype, copy=False)

    def to_frame(self, dtype=None):
        """Return all rows as a DataFrame, under identifiers, and positions at residue level.

        Parameters
        ----------
        dtype : dtype, default=None
            Type of the numbers; None for that of the file.

        Returns
        -------
        frame : DataFrame of shape ``shape``

        Raises
        ------
        ImportError
            If pandas is missing.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame needs pandas: pip install pandas") from error
        index = pd.Index(self.names, name="name", dtype=object)
        if self.level == "residue":
            counts = self.n_rows
            positions = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + 1
            index = pd.MultiIndex.from_arrays(
                [index.repeat(counts), positions], names=["name", "position"]
            )
        return pd.DataFrame(self.to_numpy(dtype), index=index, columns=self.columns)

    def __array__(self, dtype=None, copy=None):
        return self.to_numpy(dtype)

    def __repr__(self):
        if self._closed:
            return f"<Embeddings {str(self.path)!r}, closed>"
        return (
            f"<Embeddings {str(self.path)!r}: {len(self)} proteins, level {self.level!r}, "
            f"{len(self._store.columns)} columns of {self.dtype}>"
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        """Give the file back; a second time does nothing."""
        self._closed = True
        self._store.close()

    def _open(self):
        if self._closed:
            raise ValueError(f"{self.path} is closed; load_embeddings opens it again.")
        return self._store


def _near(name, names):
    """Return the end of a message that says what is like a name that is not there."""
    inside = [other for other in names if name and name.lower() in other.lower()][:3]
    near = inside or difflib.get_close_matches(name, names[:COMPARED], 3)
    if not near:
        return "."
    return f"; near it are {', '.join(map(repr, near))}."
