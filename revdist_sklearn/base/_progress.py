"""A bar over residues, and none of tqdm's locks where it is not shown."""

import os
import threading

from tqdm.auto import tqdm


class NoBar:
    """A bar that shows nothing.

    One of tqdm's that is disabled waits for a lock of the process, which a forked process may
    have from a thread that it does not have.
    """

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, n):
        """Count nothing."""

    def set_description(self, text):
        """Show nothing."""


def progress_bar(total, shown):
    """Return a bar over residues.

    Parameters
    ----------
    total : int
        Residues.

    shown : int or bool
        Whether to show it.

    Returns
    -------
    bar : tqdm or NoBar
        With ``update`` and ``set_description``, and a context.
    """
    if not shown:
        return NoBar()
    return tqdm(total=total, unit="residue", unit_scale=True)


def _free_lock():
    """Take a lock of our own for bars in a forked process, where a thread has held theirs."""
    lock = tqdm.get_lock()
    for part in getattr(lock, "locks", [lock]):
        if not part.acquire(False):
            tqdm.set_lock(threading.RLock())
            return
        part.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_free_lock)
