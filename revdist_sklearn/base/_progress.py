"""A bar over residues, where it is shown; no bar of tqdm where it is not."""

import os

from tqdm.auto import tqdm
from tqdm.std import TqdmDefaultWriteLock


class NoBar:
    """A bar that shows nothing; one of tqdm's that is disabled takes its lock all the same."""

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


# The lock that all bars of a process share: a fork waits until no thread moves one.
_LOCK = getattr(TqdmDefaultWriteLock, "th_lock", None)
if hasattr(os, "register_at_fork") and _LOCK is not None:  # no fork on Windows
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release
    )
