"""A folder of shards, read in parts."""

import numpy as np

from ..base._damage import DamagedFileError
from ._facts import facts_of
from ._shards import ShardFolder
from ._store import Store


class ShardStore(Store):
    """A finished folder of shards; one shard is held at a time, checked to the last bit."""

    def __init__(self, path):
        folder = ShardFolder.load(path)
        if folder.entries is None:
            raise DamagedFileError(
                f"{path} is not complete: its run was ended before it was done. The same call, or "
                "command, goes on from what is there."
            )
        super().__init__(path, facts_of(folder), folder.level, folder.dtype, folder.columns)
        self._folder, self._held = folder, (None, None)
        self._ends = np.cumsum([entry["n_rows"] for entry in folder.entries], dtype=np.int64)

    def _names(self):
        return [name for names, _, _ in self._folder.heads() for name in names]

    def _counts(self):
        return np.concatenate([counts for _, _, counts in self._folder.heads()] or [[]])

    def _lengths(self):
        return np.concatenate([lengths for _, lengths, _ in self._folder.heads()] or [[]])

    def _rows(self, start, stop):
        first, last = np.searchsorted(self._ends, (start, stop - 1), side="right")
        for entry in self._folder.entries[first : last + 1]:
            size = (self.path / entry["name"]).stat().st_size
            if entry["n_rows"] * len(self.columns) * self.dtype.itemsize > size:
                raise ValueError(f"{entry['name']} has no room for its {entry['n_rows']} rows")
        return from_parts(self._ends, start, stop, self._part, len(self.columns), self.dtype)

    def _part(self, i):
        if self._held[0] != i:
            self._held = (None, None)  # not two of them
            self._held = (i, self._folder.shard(i).rows)
        return self._held[1]

    def close(self):
        """Forget the shard that is held."""
        self._held = (None, None)


def from_parts(ends, start, stop, part, n_columns, dtype):
    """Return a stretch of rows that lie in parts.

    Parameters
    ----------
    ends : ndarray of shape (n_parts,)
        One past the last row of each.

    start, stop : int

    part : callable
        Takes the number of a part and returns its rows.

    n_columns : int

    dtype : dtype
    """
    rows = np.empty((stop - start, n_columns), dtype=dtype)
    i, done = int(np.searchsorted(ends, start, side="right")), start
    while done < stop:
        before = int(ends[i - 1]) if i else 0
        some = part(i)[done - before : stop - before]
        rows[done - start : done - start + len(some)] = some
        if before + len(part(i)) != ends[i]:
            raise ValueError(f"part {i} has {len(part(i))} rows, and {ends[i] - before} are told")
        done, i = done + len(some), i + 1
    return rows
