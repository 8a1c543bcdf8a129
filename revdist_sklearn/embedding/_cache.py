"""Pooled embeddings on disk, by model and sequence: one SQLite file a folder.

SQLite comes with Python, is safe for several writers, and leaves nothing half-written when a
process is killed; ``benchmarks/bench_cache.py`` compares it with LMDB and zarr. Its rollback
journal is kept, as the faster write-ahead log does not work between the hosts of a cluster.

Rows wait in the process for some seconds, or megabytes, and then go into one transaction with
others, for writers take turns, and a transaction of four rows takes a quarter of the time of one
of 400. They are written when a cache is closed, also for an error, Ctrl-C or a signal that is
an exception: only a process that is killed loses them. ``benchmarks/bench_cache.py`` has eight
processes write.

The file system must support POSIX locks (``fcntl``), as local ones and NFS 4 do; where they do
nothing, as on NFS 3 without its lock daemon, or mounted with ``nolock`` or ``local_lock``, writers
damage each other's pages. What is read is safe there too: each row carries a checksum of its key
and its numbers, and the tables are compared with those of this package, so that what is damaged,
however it came to it, is computed again, with one warning. Files of formats 1 and 2 have no
checksums: they are read and written as they were, and only the length of their rows is checked,
and that they are finite; ``revdist cache clear`` begins a file with checksums. On NFS each
transaction also waits for the server's disk, and for locks that are asked for again and again:
some ten writers a file; for more, give each machine a folder on its own disk.

Sequences are not stored, only their digests: the file is smaller, and tells whether it holds a
sequence only to those who have the sequence already.
"""

import hashlib
import json
import operator
import os
import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from ..base._formats import CACHE, DIGEST_SINCE, FormatError, check_format
from ..base._identity import canonical_json
from ..base._warnings import warn
from . import _cache_place
from ._cache_place import SLICE, is_locked, place_of, wait_for_lock

FILE = "embeddings.sqlite3"
# Marks the file as ours ("rvds"): no other database is written to or removed.
APPLICATION = 0x72766473
# Keys of one look-up; SQLite takes 999 at least.
KEYS = 500
# Bytes of a sequence's BLAKE2b digest: a collision among 1e9 sequences has a chance of 1e-21.
DIGEST = 16

# Bytes of a row's BLAKE2b checksum: damage goes unseen with a chance of 1e-19.
CHECKSUM = 8

# Of format 3 and of those before it.
ROWS = """CREATE TABLE rows (
    space INTEGER NOT NULL, digest BLOB NOT NULL, embedding BLOB NOT NULL, checksum BLOB NOT NULL
)"""
ROWS_OF_FORMAT_1 = """CREATE TABLE rows (
    space INTEGER NOT NULL, digest BLOB NOT NULL, embedding BLOB NOT NULL
)"""
SPACES = "CREATE TABLE spaces (number INTEGER UNIQUE NOT NULL, description TEXT NOT NULL)"
INDEX = "CREATE UNIQUE INDEX of_sequence ON rows (space, digest)"


def _master(rows):
    """Return what ``sqlite_master`` holds of a file: these tables, and no view or trigger."""
    return {
        ("table", "spaces", SPACES),
        ("index", "sqlite_autoindex_spaces_1", None),
        ("table", "rows", rows),
        ("index", "of_sequence", INDEX),
    }


MASTERS = {1: _master(ROWS_OF_FORMAT_1), 2: _master(ROWS_OF_FORMAT_1), 3: _master(ROWS)}

# In one transaction, so that a killed process leaves all of it or an empty file.
SCHEMA = f"""
BEGIN IMMEDIATE;
{SPACES.replace("TABLE", "TABLE IF NOT EXISTS")};
{ROWS.replace("TABLE", "TABLE IF NOT EXISTS")};
{INDEX.replace("INDEX", "INDEX IF NOT EXISTS")};
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {CACHE};
COMMIT;
"""

# A blob is read only where it has the length of a row, for which SQLite does not read it.
WHOLE = "CASE WHEN typeof({0}) = 'blob' AND length({0}) = {1} THEN {0} END"


# What SQLite raises; the second where a name in its message is damaged.
ERRORS = (sqlite3.Error, UnicodeDecodeError)

# Keeps from the garbage collector, which would close them, connections of a parent process.
_INHERITED: list[sqlite3.Connection] = []


class ForeignDatabase(sqlite3.DatabaseError):
    """The file under our name is a database of another program."""


class DamagedCache(sqlite3.DatabaseError):
    """The file does not hold the tables that this package makes."""


class NewerCache(FormatError, OSError):
    """The cache was written by a newer version of this package."""


class EmbeddingCache:
    """The rows of a folder; what goes wrong with it is one warning, and never an error.

    Threads may share one, and a forked process may go on with it.

    Parameters
    ----------
    folder : path
        Made where it is missing; other files in it are left alone.

    seconds : float or None, default=None
        For which rows may wait in memory until they are written; 0 writes at once. None is 5.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from revdist_sklearn.embedding._cache import EmbeddingCache
    >>> space = {"model": "esm2_nano_032", "width": 2}
    >>> with tempfile.TemporaryDirectory() as folder, EmbeddingCache(folder) as cache:
    ...     cache.put(space, ["MKT"], np.array([[1, 2]], dtype=np.float32))
    ...     cache.get(space, ["GIV", "MKT"])
    ([1], array([[1., 2.]], dtype=float32))
    """

    def __init__(self, folder, *, seconds=None):
        self.folder = Path(os.path.expanduser(folder))
        self._seconds = _cache_place.BUFFER_SECONDS if seconds is None else seconds
        self._may_write = True
        self._connection: sqlite3.Connection | None = None
        self._format = CACHE
        self._n_damaged = 0
        self._open()

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        # Nobody who has pressed Ctrl-C waits a minute for another process.
        self.close(patience=None if fault[0] is None else _cache_place.HASTE)

    def close(self, patience=None):
        """Write what waits, let go of the file, and tell how many damaged rows there were."""
        try:
            self.flush(patience)
        finally:
            self._place.inherited.clear()
            self._let_go()
        n, self._n_damaged = self._n_damaged, 0
        if n:
            warn(
                f"{n} row(s) of the cache in {str(self.folder)!r} were damaged: their checksum or "
                "length is wrong, or they are not finite. They were computed again. If it goes "
                f"on, look after the disk, or empty the cache: revdist cache clear {self.folder}",
                UserWarning,
            )

    def _let_go(self):
        if self._connection is not None:
            if self._process == os.getpid():
                self._connection.close()
            else:
                _INHERITED.append(self._connection)
            self._connection = None

    def get(self, space, sequences):
        """Return the rows of the sequences that are there.

        Parameters
        ----------
        space : dict
            What the rows depend on beside the sequence, ``width`` among it; can be written as
            JSON. ``model`` is a name for :func:`cache_info` alone: rows are found under any.

        sequences : list of str

        Returns
        -------
        found : list of int
            Indices into ``sequences``, ascending.

        rows : ndarray of shape (len(found), width), float32
            As they were put, bit for bit: what is damaged is not found.
        """
        self._reopen_after_fork()
        width = space["width"]
        found: list[int] = []
        # Memory that is not written to is not taken up.
        rows = np.empty((len(sequences), width), dtype=np.float32)
        with self._lock:
            try:
                number = self._number(space)
                for start in range(0, len(sequences), KEYS):
                    if self._connection is None:
                        break
                    digests = [_digest(s) for s in sequences[start : start + KEYS]]
                    # Here first: what leaves here meanwhile is in the file.
                    here = self._place.find(self._format, number, digests)
                    known = self._select(
                        number, [digest for digest in digests if digest not in here], 4 * width
                    )
                    for i, digest in enumerate(digests, start=start):
                        if digest in here:
                            row = np.frombuffer(here[digest], dtype="<f4")
                        elif digest in known:
                            row = _row(number, digest, *known[digest])
                        else:
                            continue
                        if row is None:
                            self._n_damaged += 1
                            continue
                        rows[len(found)] = row
                        found.append(i)
            except ERRORS as error:
                self._give_up(error)
                found = []
        return found, rows[: len(found)]

    def put(self, space, sequences, rows):
        """Keep rows, which are written now or with later ones; those that are there stay.

        Parameters
        ----------
        space : dict
            As in :meth:`get`.

        sequences : list of str

        rows : ndarray of shape (len(sequences), width), float32

        Raises
        ------
        ValueError
            If ``rows`` has another shape or dtype, or is not finite.
        """
        expected = len(sequences), space["width"]
        if rows.shape != expected or rows.dtype != np.float32:
            raise ValueError(
                f"`rows` has shape {rows.shape} and dtype {rows.dtype}; it must have shape "
                f"{expected} and dtype float32."
            )
        if not np.isfinite(rows).all():
            raise ValueError("`rows` are not finite, and would not be found again.")
        self._reopen_after_fork()
        if not len(sequences):
            return
        blobs = [row.tobytes() for row in rows.astype("<f4", copy=False)]
        keys = [_digest(sequence) for sequence in sequences]
        with self._lock:
            if self._connection is None or not self._may_write:
                return
            number = self._number(space)
        self._place.add(self._format, number, canonical_json(space), keys, blobs)
        if self._place.is_due(self._seconds):
            self.flush()

    def flush(self, patience=None):
        """Write what waits, in one transaction.

        Parameters
        ----------
        patience : float or None, default=None
            Seconds to wait for other processes at most; None is a minute.

        Returns
        -------
        written : bool
            Whether all that was put is in the file; else a warning has said why not.
        """
        self._reopen_after_fork()
        with self._place.writing, self._lock:
            if self._connection is None or not self._may_write:
                return False
            spaces, descriptions = self._place.waiting(self._format)
            if spaces:
                try:
                    with self._place.timed():
                        self._write(spaces, descriptions, patience)
                except ERRORS as error:
                    self._place.forget(self._format, spaces)
                    self._give_up(error, reading=True)
                    return False
                # Not before: what an interrupt has undone is written with the next rows.
                self._place.forget(self._format, spaces)
        return True

    def _write(self, spaces, descriptions, patience):
        """Write rows, by space and digest, in one transaction."""
        missing = {}
        for number, rows in spaces.items():
            there: set[bytes] = set()
            digests = list(rows)
            for start in range(0, len(digests), KEYS):
                part = digests[start : start + KEYS]
                found = self._select(number, part, len(rows[part[0]]), patience)
                there.update(key for key in found if _row(number, key, *found[key]) is not None)
            if of_space := {key: blob for key, blob in rows.items() if key not in there}:
                missing[number] = of_space
        if not missing:  # whoever only reads does not take turns
            return
        connection = self._connection
        assert connection is not None
        wait = self._place.wait
        try:
            wait(lambda: connection.execute("BEGIN IMMEDIATE"), patience, writes=True)
            connection.executemany(
                "INSERT OR IGNORE INTO spaces VALUES (?, ?)",
                [(number, descriptions[number]) for number in missing],
            )
            for number, rows in missing.items():
                self._insert(number, rows.keys(), rows.values())
            wait(connection.commit, patience)
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise

    def _open(self):
        self._process = os.getpid()
        self._place = place_of(self.folder)
        # A thread would else end, or undo, the transaction of another.
        self._lock = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            connect = partial(_connect, self.folder / FILE, make=True)
            self._connection, self._format = self._place.wait(connect)
        except (OSError, *ERRORS) as error:
            self._give_up(error)

    def _number(self, space):
        return NUMBERS[self._format](space)

    def _select(self, number, digests, n_bytes, patience=None):
        """Return, by digest, embedding and checksum, each None where it is of no such length."""
        connection = self._connection
        assert connection is not None
        columns = ["digest", WHOLE.format("embedding", int(n_bytes))]
        if self._format >= DIGEST_SINCE:
            columns.append(WHOLE.format("checksum", CHECKSUM))
        marks = ",".join("?" * len(digests))
        query = f"SELECT {', '.join(columns)} FROM rows WHERE space = ? AND digest IN ({marks})"
        found = self._place.wait(
            lambda: connection.execute(query, [number, *digests]).fetchall(), patience
        )
        return {digest: rest for digest, *rest in found}

    def _insert(self, number, keys, blobs):
        """Insert rows; what is there stays, unless it is damaged."""
        assert self._connection is not None
        columns = ["space", "digest", "embedding"]
        present = ["space", "digest", WHOLE.format("embedding", "length(excluded.embedding)")]
        records: list[tuple] = [(number, key, blob) for key, blob in zip(keys, blobs, strict=True)]
        if self._format >= DIGEST_SINCE:
            columns.append("checksum")
            present.append(WHOLE.format("checksum", CHECKSUM))
            records = [(*record, _checksum(*record)) for record in records]
        updates = ", ".join(f"{name} = excluded.{name}" for name in columns[2:])
        self._connection.executemany(
            f"INSERT INTO rows ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
            f"ON CONFLICT (space, digest) DO UPDATE SET {updates} "
            f"WHERE is_damaged({', '.join(present)})",
            records,
        )

    def _reopen_after_fork(self):
        """Take a connection of our own: a parent's may be neither used nor closed."""
        if self._connection is not None and self._process != os.getpid():
            self._let_go()
            self._open()
            # Nobody may close it here, where the process ends as soon as its task does.
            self._seconds = 0.0

    def _give_up(self, error, reading=False):
        """Warn, the first time, and go on without the cache, or without writing to it."""
        is_first, self._may_write = self._may_write, False
        if not reading:
            self._let_go()
        if not is_first:
            return
        left = "nothing more is written to it" if reading else "it is not used"
        way_out = "Name another `cache_dir`."
        if not isinstance(error, ForeignDatabase) and not _is_newer(error):
            way_out = (
                "Make room, name another `cache_dir`, or empty it: revdist cache clear "
                f"{self.folder}"
            )
        warn(
            f"The cache in {str(self.folder)!r} does not work, so that {left} in this call and "
            f"everything missing is computed: {error}. {way_out}",
            UserWarning,
        )


def _connect(path, make=False):
    """Return a connection to a cache, whose tables are made where there are none, and its format.

    It waits for other processes for a moment only: go by :func:`wait_for_lock`.
    """
    connection = sqlite3.connect(
        path, timeout=SLICE, isolation_level=None, check_same_thread=False
    )
    try:
        # The tables first: who has just made them has marked the file in the same transaction.
        master = _read_master(connection)
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if master and application != APPLICATION:
            raise ForeignDatabase(f"{path.name} is a database of another program")
        if make and not master:
            connection.executescript(SCHEMA)
            # Another process may have made it meanwhile.
            master = _read_master(connection)
            [version] = connection.execute("PRAGMA user_version").fetchone()
        if master:
            _check_version(version, path)
            # A view or a trigger in place of a table would give rows of its own.
            if master != MASTERS[version]:
                raise DamagedCache(f"{path.name} has other tables than format {version}")
        connection.create_function("is_damaged", -1, lambda *facts: _row(*facts) is None)
    except BaseException:
        connection.close()
        raise
    return connection, version


def _read_master(connection):
    return set(connection.execute("SELECT type, name, sql FROM sqlite_master"))


def _is_newer(error):
    return isinstance(error.__cause__, FormatError)


def _check_version(version, path):
    try:
        check_format(version, CACHE, path.name)
    except ValueError as error:
        raise sqlite3.DatabaseError(str(error).rstrip(".")) from error


def _number(space):
    """Return the number of a space: eight bytes of a digest.

    The file gives out none, as another space could have it after an undone transaction or a
    clear, while someone still holds on to it.
    """
    return _as_number(hashlib.sha256(canonical_json(_without_name(space)).encode()).digest())


def _number_of_format_1(space):
    """Return the same as format 1 has it, whose text and hash were others.

    Its text of a reference and of ``model_kwargs`` was another too: rows of such spaces are
    not found, and kept anew.
    """
    text = json.dumps(_without_name(space), sort_keys=True, default=operator.index)  # of NumPy
    return _as_number(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _without_name(space):
    return {name: value for name, value in space.items() if name != "model"}


def _as_number(digest):
    return int.from_bytes(digest[:8], "big", signed=True)


NUMBERS = {1: _number_of_format_1, 2: _number, 3: _number}


def _row(number, digest, blob, *checksum):
    """Return a row as it was put, None where it is damaged; before format 3 it has no checksum."""
    if blob is None or checksum not in ((), (_checksum(number, digest, blob),)):
        return None
    row = np.frombuffer(blob, dtype="<f4")
    return row if np.isfinite(row).all() else None


def _checksum(number, digest, blob):
    """Return what tells whether a row is of its space and sequence, and whole."""
    key = number.to_bytes(8, "big", signed=True)
    return hashlib.blake2b(blob, key=key + digest, digest_size=CHECKSUM).digest()


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
        What the rows depend on, with ``n_sequences`` and ``n_bytes`` beside it, in the order
        in which they came. Of one whose description is damaged there is ``damaged`` instead,
        what is wrong with it, and ``n_bytes`` is None.

    size : int
        Bytes on disk; 0 where there is no cache.

    Raises
    ------
    OSError
        If there is no such folder, or its cache cannot be read.
    """
    path = _existing(folder)
    if not _size(path):
        return [], 0
    try:
        rows, version = wait_for_lock(partial(_spaces_in, path), _cache_place.PATIENCE)
        spaces = [_space_of(text, number, version, n) for number, text, n in rows]
    except ForeignDatabase as error:
        raise OSError(f"No cache in {folder}: {error}.") from error
    except (sqlite3.Error, ValueError) as error:
        if _is_newer(error):
            raise NewerCache(str(error)) from error
        if not _size(path):  # what a process had begun that was killed has been taken back
            return [], 0
        raise OSError(
            f"The cache {path} cannot be read: {error}. Empty it: revdist cache clear {folder}"
        ) from error
    return spaces, _size(path)


def _space_of(text, number, version, n):
    """Return what :func:`cache_info` tells of a space of n rows."""
    try:
        space = _described(text, number, version)
    except ValueError as error:
        return {"damaged": str(error), "n_sequences": n, "n_bytes": None}
    return {**space, "n_sequences": n, "n_bytes": 4 * n * space["width"]}


def _spaces_in(path):
    """Return number, description and rows of each space of a file, and the file's format."""
    connection, version = _connect(path)
    with closing(connection):
        # Of the index alone: the rows are many times its size.
        of_space = "SELECT space, count(*) AS n FROM rows GROUP BY space"
        rows = connection.execute(
            # As bytes: what is no text is one damaged description, and no end of all.
            f"SELECT space, CAST(description AS BLOB), n FROM ({of_space}) "
            "LEFT JOIN spaces ON space = number ORDER BY spaces.rowid"
        ).fetchall()
    return rows, version


def _described(text, number, version):
    """Return a space by its description, which must be that of its number."""
    try:
        space = json.loads(text)
        if isinstance(space["width"], int) and NUMBERS[version](space) == number:
            return space
    except (ValueError, TypeError, LookupError, RecursionError):
        pass  # whatever it is, it is none
    raise ValueError(f"the description of space {number} is damaged")


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
        If there is no such folder, another process keeps on writing, the file is a database of
        another program, or cannot be removed.
    """
    path = _existing(folder)
    if path.exists():
        try:
            wait_for_lock(partial(_lock_once, path), _cache_place.PATIENCE)
        except ForeignDatabase as error:
            raise OSError(f"No cache in {folder}: {error}. It is left alone.") from error
        except ERRORS as error:
            # Whatever else it is, a damaged file or one of another version, is there to go.
            if is_locked(error):
                raise OSError(
                    f"The cache {path} is in use by another process; wait for it, or end it."
                ) from error
    size = _size(path)
    for file in _files(path):
        file.unlink(missing_ok=True)
    return size


def _lock_once(path):
    """Have a file for a moment alone.

    A transaction of another process would go on in the file of the same name that is made next.
    Between two of them it notices that its file is gone.
    """
    with closing(_connect(path)[0]) as connection:
        connection.execute("BEGIN EXCLUSIVE")


def _existing(folder):
    path = Path(os.path.expanduser(folder))
    if not path.is_dir():
        raise OSError(f"{os.fspath(path)!r} is no folder; name the `cache_dir` of a featurizer.")
    return path / FILE


def _files(path):
    return [path, *(path.with_name(path.name + end) for end in ("-journal", "-wal", "-shm"))]


def _size(path):
    return sum(file.stat().st_size for file in _files(path) if file.exists())
