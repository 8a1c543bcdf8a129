"""Pooled embeddings on disk, by model and sequence: one SQLite file a folder.

SQLite comes with Python, is safe for several writers, and leaves nothing half-written when a
process is killed; ``benchmarks/bench_cache.py`` compares it with LMDB and zarr.  Its rollback
journal is kept, as the faster write-ahead log does not work between the hosts of a cluster.
"""

import hashlib
import json
import os
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np

FILE = "embeddings.sqlite3"
# Goes up when a file of before cannot be read any more.
VERSION = 1
# Seconds to wait for another process that writes.
PATIENCE = 60.0
# Keys of one look-up; SQLite takes 999 at least.
KEYS = 500
# Bytes of a sequence's digest: a collision among 1e9 sequences has a chance of 1e-21.
DIGEST = 16

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS spaces (id INTEGER PRIMARY KEY, description TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    space INTEGER NOT NULL REFERENCES spaces, digest BLOB NOT NULL, embedding BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS of_sequence ON rows (space, digest);
PRAGMA user_version = {VERSION};
"""


class EmbeddingCache:
    """The rows of a folder; what goes wrong with it is one warning, and never an error.

    Parameters
    ----------
    folder : path
        Made where it is missing; other files in it are left alone.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from revdist_sklearn._cache import EmbeddingCache
    >>> space = {"model": "esm2_nano_032", "width": 2}
    >>> with tempfile.TemporaryDirectory() as folder, EmbeddingCache(folder) as cache:
    ...     cache.put(space, ["MKT"], np.array([[1, 2]], dtype=np.float32))
    ...     cache.get(space, ["GIV", "MKT"])
    ([1], array([[1., 2.]], dtype=float32))
    """

    def __init__(self, folder):
        self.folder = Path(folder).expanduser()
        self._spaces = {}
        self._connection: sqlite3.Connection | None = None
        self._may_write = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._connection = _connect(self.folder / FILE)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.close()

    def close(self):
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, space, sequences):
        """Return the rows of the sequences that are there.

        Parameters
        ----------
        space : dict
            What the rows depend on beside the sequence, ``width`` among it; can be written as
            JSON.
        sequences : list of str

        Returns
        -------
        found : list of int
            Indices into `sequences`, ascending.
        rows : ndarray of shape (len(found), width), float32
            As they were put, bit for bit.
        """
        width = space["width"]
        found: list[int] = []
        rows: list[np.ndarray] = []
        try:
            number = self._number(space)
            for start in range(0, len(sequences), KEYS):
                if self._connection is None or number is None:
                    break
                digests = [_digest(s) for s in sequences[start : start + KEYS]]
                marks = ",".join("?" * len(digests))
                select = "SELECT digest, embedding FROM rows WHERE space = ? AND digest IN"
                known = dict(self._connection.execute(f"{select} ({marks})", [number, *digests]))
                for i, digest in enumerate(digests, start=start):
                    # Of another length only if the file was damaged: as if it were not there.
                    if len(known.get(digest, b"")) == 4 * width:
                        found.append(i)
                        rows.append(np.frombuffer(known[digest], dtype="<f4"))
        except sqlite3.Error as error:
            self._give_up(error)
            found, rows = [], []
        return found, np.array(rows, dtype=np.float32).reshape(len(found), width)

    def put(self, space, sequences, rows):
        """Keep rows, in one transaction; those that are there already stay.

        Parameters
        ----------
        space : dict
            As in :meth:`get`.
        sequences : list of str
        rows : ndarray of shape (len(sequences), width), float32
        """
        if self._connection is None or not self._may_write or not len(sequences):
            return
        blobs = [row.tobytes() for row in np.ascontiguousarray(rows, dtype="<f4")]
        try:
            with self._connection:
                number = self._number(space, make=True)
                self._connection.executemany(
                    # What was damaged is replaced.
                    "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET "
                    "embedding = excluded.embedding "
                    "WHERE length(embedding) != length(excluded.embedding)",
                    [(number, _digest(s), b) for s, b in zip(sequences, blobs, strict=True)],
                )
        except sqlite3.Error as error:
            self._spaces.clear()
            self._give_up(error, reading=True)

    def _number(self, space, make=False):
        """Return the number of a space in the file, None where it has none."""
        if self._connection is None:
            return None
        text = json.dumps(space, sort_keys=True)
        if text not in self._spaces:
            if make:
                self._connection.execute(
                    "INSERT OR IGNORE INTO spaces (description) VALUES (?)", [text]
                )
            row = self._connection.execute(
                "SELECT id FROM spaces WHERE description = ?", [text]
            ).fetchone()
            if row is None:
                return None
            [self._spaces[text]] = row
        return self._spaces[text]

    def _give_up(self, error, reading=False):
        """Warn, and go on without the cache, or without writing to it."""
        self._may_write = False
        if not reading:
            self.close()
        left = "nothing more is written to it" if reading else "it is not used"
        warnings.warn(
            f"The cache in {str(self.folder)!r} does not work, so that {left} in this call and "
            f"everything missing is computed: {error}. Make room, name another `cache_dir`, or "
            f"empty it: revdist cache clear {self.folder}",
            UserWarning,
            stacklevel=2,
        )


def _connect(path):
    connection = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
    try:
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise sqlite3.DatabaseError(
                f"{path.name} was written by a newer version of revdist_sklearn"
            )
        # A power cut may cost the last batches, a killed process none.
        connection.execute("PRAGMA synchronous = NORMAL")
        if version < VERSION:
            connection.executescript(SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _digest(sequence):
    return hashlib.blake2b(sequence.encode("ascii"), digest_size=DIGEST).digest()


def cache_info(folder):
    """Return what a folder's cache holds.

    Parameters
    ----------
    folder : path

    Returns
    -------
    spaces : list of dict
        What the rows depend on, with ``n_sequences`` and ``n_bytes`` beside it.
    size : int
        Bytes on disk; 0 where there is no cache.

    Raises
    ------
    OSError
        If there is no such folder, or its cache cannot be read.
    """
    path = _existing(folder)
    if not path.exists():
        return [], 0
    try:
        with closing(_connect(path)) as connection:
            rows = connection.execute(
                "SELECT description, count(embedding), coalesce(sum(length(embedding)), 0) "
                "FROM spaces LEFT JOIN rows ON space = id GROUP BY id ORDER BY id"
            ).fetchall()
    except sqlite3.Error as error:
        raise OSError(
            f"The cache {path} cannot be read: {error}. Empty it: revdist cache clear {folder}"
        ) from error
    spaces = [
        {**json.loads(text), "n_sequences": count, "n_bytes": size} for text, count, size in rows
    ]
    return spaces, _size(path)


def clear_cache(folder):
    """Remove the cache of a folder, and nothing else in it.

    Parameters
    ----------
    folder : path

    Returns
    -------
    size : int
        Bytes that were freed.

    Raises
    ------
    OSError
        If there is no such folder, or the file cannot be removed.
    """
    path = _existing(folder)
    size = _size(path)
    for file in _files(path):
        file.unlink(missing_ok=True)
    return size


def _existing(folder):
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise OSError(f"{os.fspath(folder)!r} is no folder; name the `cache_dir` of a featurizer.")
    return folder / FILE


def _files(path):
    return [path, *(path.with_name(path.name + end) for end in ("-journal", "-wal", "-shm"))]


def _size(path):
    return sum(file.stat().st_size for file in _files(path) if file.exists())
