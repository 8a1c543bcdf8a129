"""What a process knows of a cache's folder: rows that wait to be written, and how long to wait.

A transaction takes milliseconds for itself, and many writers take turns at it. So rows of some
seconds, or some megabytes, go into one; until then they are found here.
"""

import os
import sqlite3
import threading
import time
from contextlib import contextmanager

# Seconds to wait for another process that writes.
PATIENCE = 60.0
# The same in a process that has waited so long in vain, or is about to end for a fault.
HASTE = 2.0
# SQLite waits in C, where Ctrl-C is not heard: so long at a time.
SLICE = 0.1
# Seconds and bytes for which rows wait.
BUFFER_SECONDS = 5.0
BUFFER_BYTES = 2**25
# Where a transaction takes long, for others write too, no more than this share of a process's
# time goes into them, but rows wait no longer than that.
SHARE, LONGEST = 0.05, 60.0


class Place:
    """The rows of a process that wait for one folder's cache; threads share it.

    Rows are kept under the number of the file's format, that of their space, and their digest.
    """

    def __init__(self):
        self.renew()
        self.rows: dict[tuple[int, int, bytes], bytes] = {}
        # Those of a parent process, which writes them itself.
        self.inherited: dict[tuple[int, int, bytes], bytes] = {}
        self.descriptions: dict[tuple[int, int], str] = {}
        self.n_bytes = 0
        self.pause = 0.0
        self.written_at = time.monotonic()
        self.is_stuck = False
        # Seconds of waiting for a turn to write, for the benchmark.
        self.waited = 0.0

    def renew(self):
        """Take locks of our own."""
        self._lock = threading.Lock()
        # One thread writes at a time; the others go on.
        self.writing = threading.RLock()

    def inherit(self):
        """Go on in a forked process: what waits is the parent's to write."""
        self.renew()
        self.inherited, self.rows, self.n_bytes = {**self.inherited, **self.rows}, {}, 0

    def add(self, version, number, description, keys, blobs):
        """Have rows of a space wait; of those that do already the first ones stay."""
        with self._lock:
            self.descriptions[version, number] = description
            for key, blob in zip(keys, blobs, strict=True):
                if self.rows.setdefault((version, number, key), blob) is blob:
                    self.n_bytes += len(blob)

    def find(self, version, number, keys):
        """Return the rows that wait, by digest."""
        with self._lock:
            places = [(version, number, key) for key in keys]
            return {
                place[2]: rows[place]
                for rows in (self.inherited, self.rows)
                for place in places
                if place in rows
            }

    def waiting(self, version):
        """Return the rows that wait, by space and digest, and the descriptions of spaces."""
        with self._lock:
            spaces: dict[int, dict[bytes, bytes]] = {}
            for (of, number, key), blob in self.rows.items():
                if of == version:
                    spaces.setdefault(number, {})[key] = blob
            return spaces, {number: self.descriptions[version, number] for number in spaces}

    def forget(self, version, spaces):
        """Take out rows that are written, or cannot be."""
        with self._lock:
            for number, rows in spaces.items():
                for key in rows:
                    blob = self.rows.pop((version, number, key), None)
                    self.n_bytes -= 0 if blob is None else len(blob)

    def is_due(self, seconds):
        """Return whether what waits is to be written now."""
        if not seconds or self.n_bytes >= BUFFER_BYTES:
            return True
        pause = min(max(seconds, self.pause), max(seconds, LONGEST))
        return time.monotonic() - self.written_at >= pause

    @contextmanager
    def timed(self):
        """Note when a transaction was, and how long it took."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.written_at = time.monotonic()
            self.pause = (self.written_at - begun) / SHARE

    def wait(self, function, patience=None, *, writes=False):
        """Return what a function does when no other process has the file locked.

        Parameters
        ----------
        function : callable
            Uses SQLite, and is called again while the file is locked.

        patience : float or None, default=None
            Seconds after which that is an error. None takes ``PATIENCE``, or ``HASTE`` where
            the process has waited in vain before.

        writes : bool, default=False
            Whether success shows that nobody is stuck.

        Raises
        ------
        sqlite3.Error
            If the file stays locked, or whatever else the function raises.
        """
        begun = time.monotonic()
        most = HASTE if self.is_stuck else PATIENCE
        try:
            result = wait_for_lock(function, most if patience is None else min(most, patience))
        except BaseException as error:
            waited = time.monotonic() - begun
            # Of a wait that Ctrl-C has ended, too.
            in_vain = is_locked(error) or not isinstance(error, sqlite3.Error)
            self.is_stuck = self.is_stuck or (in_vain and waited >= SLICE)
            self.waited += waited
            raise
        if writes:
            self.is_stuck = False
            self.waited += time.monotonic() - begun
        return result


def wait_for_lock(function, patience):
    """Return what a function does that uses SQLite, called again while the file is locked."""
    end = time.monotonic() + patience
    while True:
        try:
            return function()
        except sqlite3.OperationalError as error:
            if not is_locked(error) or time.monotonic() >= end:
                raise
            time.sleep(0.01)  # where SQLite does not wait, for fear of a deadlock


def is_locked(error):
    """Return whether an error says that another connection has the file locked."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


_PLACES: dict[str, Place] = {}


def place_of(folder):
    """Return what this process knows of a folder's cache."""
    return _PLACES.setdefault(os.path.realpath(folder), Place())


def _after_fork_in_child():
    for place in _PLACES.values():
        place.inherit()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
