"""What ``Embeddings`` asks of a file or folder, whatever its format.

Rows of all proteins lie one after the other: at protein level row i is protein i; at residue
level its rows are those from ``offsets[i]`` up to ``offsets[i + 1]``. A format says how names,
counts and a stretch of rows are read; here what is read is checked, and damage is one error.
"""

import zipfile
import zlib
from functools import cached_property

import numpy as np

from ..base._damage import FAULTS, DamagedFileError, damage_is_told

# What libraries raise of files whose bytes are not those that were written.
_FAULTS = (*FAULTS, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)
_WAY_OUT = "what wrote it writes it anew."


class Store:
    """Embeddings that can be read in parts.

    Parameters
    ----------
    path : Path

    facts : dict or None
        What the file tells of itself; None for one of another program.

    level, dtype : str

    columns : list of str
    """

    def __init__(self, path, facts, level, dtype, columns):
        self.path, self.facts, self.level = path, facts, level
        self.dtype, self.columns = np.dtype(dtype), columns

    # What a format has to say. Whatever these raise is damage.

    def _count(self):
        """Return the number of proteins, where no facts tell it."""
        return len(self.names)

    def _names(self):
        """Return the list of names."""
        raise NotImplementedError

    def _counts(self):
        """Return how many rows each protein has, at residue level."""
        raise NotImplementedError

    def _lengths(self):
        """Return the residues of each protein as it was given, or None."""
        return None

    def _rows(self, start, stop):
        """Return a stretch of rows."""
        raise NotImplementedError

    def close(self):
        """Give the file back."""

    # What is asked of it.

    @cached_property
    def n_proteins(self):
        """Number of proteins."""
        if self.facts:
            return self.facts["n_proteins"]
        with told(self.path):
            return self._count()

    @cached_property
    def n_rows(self):
        """Number of rows."""
        if self.level == "protein":
            return self.n_proteins
        return self.facts["n_rows"] if self.facts else int(self.offsets[-1])

    @cached_property
    def names(self):
        """Names of all proteins."""
        with told(self.path):
            return self._whole(self._names(), "names")

    @cached_property
    def offsets(self):
        """First row of each protein and one past the last of all; None at protein level."""
        if self.level == "protein":
            return None
        with told(self.path):
            counts = self._whole(np.asarray(self._counts(), dtype=np.int64), "counts")
            offsets = np.concatenate([[0], np.cumsum(counts)])
            if (counts < 0).any() or (self.facts and offsets[-1] != self.facts["n_rows"]):
                raise ValueError("its counts of rows are not those that it tells of")
            return offsets

    @cached_property
    def lengths(self):
        """Residues of each protein as it was given; None where they are not told."""
        with told(self.path):
            lengths = self._lengths()
            if lengths is None:
                return None
            return self._whole(np.asarray(lengths, dtype=np.int64), "lengths")

    @cached_property
    def _index(self):
        index: dict[str, int] = {}
        twice = set()
        for i, name in enumerate(self.names):
            if index.setdefault(name, i) != i:
                twice.add(name)
        return index, twice

    def rows(self, start, stop):
        """Return rows from one number up to another.

        Returns
        -------
        rows : ndarray of shape (stop - start, n_columns)
        """
        with told(self.path):
            rows = self._rows(start, stop)
            if rows.shape != (stop - start, len(self.columns)) or rows.dtype != self.dtype:
                raise ValueError(
                    f"rows {start} to {stop} have shape {rows.shape} and dtype {rows.dtype}"
                )
            return rows

    def whole(self):
        """Return all rows."""
        return self.rows(0, self.n_rows)

    def span(self, start, stop):
        """Return the first row of one protein and of another."""
        if self.level == "protein":
            return start, stop
        return int(self.offsets[start]), int(self.offsets[stop])

    def has(self, name):
        """Return whether there is a protein of a name."""
        return name in self._index[0]

    def of(self, name):
        """Return the rows of a protein that is there, by its name.

        Raises
        ------
        KeyError
            If there are several.
        """
        index, twice = self._index
        if name in twice:
            raise KeyError(f"{name!r} stands for several proteins of {self.path}; go by position.")
        return self.rows(*self.span(index[name], index[name] + 1))

    def _whole(self, values, what):
        """Return one value a protein, if that is how many there are."""
        if len(values) != self.n_proteins:
            raise ValueError(f"it has {len(values)} {what} for {self.n_proteins} proteins")
        return values


def told(path):
    """Turn whatever reading raises into one error."""
    return damage_is_told(f"{path} is damaged, or no file of embeddings", _WAY_OUT, _FAULTS)


def foreign(path, why):
    """Return the error of a file of another program that holds something else."""
    return DamagedFileError(f"{path} holds no embeddings: {why}.")


def numbers_of(dtype, path):
    """Return the type of numbers, if it is one that embeddings have."""
    dtype = np.dtype(dtype)
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise foreign(path, f"its numbers are {dtype}, and not float16, float32 or float64")
    return dtype


def numbered(n):
    """Return names of columns that have none."""
    return [str(i) for i in range(n)]


class RunsOfNames:
    """Names and counts of proteins from a table of their residues, read piece by piece.

    A row begins another protein where the name changes or its position does not grow.
    """

    def __init__(self):
        self.names, self._starts, self._n, self._last = [], [], 0, None

    def add(self, names, positions):
        """Take the next rows.

        Parameters
        ----------
        names : list of str

        positions : ndarray of shape (len(names),)
        """
        if not len(names):
            return
        given, positions = np.array(names, dtype=object), np.asarray(positions)
        begins = np.ones(len(given), dtype=bool)
        begins[1:] = (given[1:] != given[:-1]) | (positions[1:] <= positions[:-1])
        if self._last is not None:
            begins[0] = given[0] != self._last[0] or positions[0] <= self._last[1]
        self.names += given[begins].tolist()
        self._starts.append(self._n + np.flatnonzero(begins))
        self._n, self._last = self._n + len(given), (given[-1], positions[-1])

    def counts(self):
        """Return the number of rows of each protein."""
        starts = np.concatenate([*self._starts, [self._n]]) if self._starts else np.zeros(1)
        return np.diff(starts).astype(np.int64)
