"""Threads of the numerical libraries: one for what is small.

Threads that share a product wait for each other by spinning. On cores that other work uses too
each wait may last a time slice of the scheduler, several milliseconds, and a small model has
hundreds of products of less than one in every batch: beside two busy loops they took ten and
more times as long on two threads as on one. And torch, NumPy and SciPy have threads each,
which spin on for a while after their work and so keep a core from those of the next library.
That is worth what a second thread gains on quiet cores: 1.4 times with models of 32 to 96
columns, nothing with ridge on as many.

Nothing is raised here: libraries that the environment (``OMP_NUM_THREADS`` and others), joblib
or threadpoolctl allow one thread keep it, and what is large keeps what it is allowed.
"""

import os
import sys
import threading
from contextlib import contextmanager
from functools import cache

import scipy.linalg  # noqa: F401 (its BLAS must be there when the libraries are looked up)
from threadpoolctl import ThreadpoolController

# Multiplications of the largest product up to which one thread works on it: milliseconds.
SMALL = 10**8


@contextmanager
def one_thread_of_torch(operations):
    """Have torch work in this thread alone, where operations are few, until the block ends.

    Other threads keep theirs: the number is the calling thread's in OpenMP, and of
    ``torch.set_num_threads``, which is for the process, no use is made. (Where a program has
    called that itself, MKL keeps to it; layers on oneDNN do not.)

    Parameters
    ----------
    operations : float
        Multiplications of the largest product in the block.
    """
    if operations > SMALL:
        yield
        return
    import torch

    # At its first use in a thread torch sets the number itself.
    torch.get_num_threads()
    with _libraries("openmp", True).limit(limits=1):
        yield


# In a BLAS the number is that of the process. So one thread at a time sets it, and restores it
# itself: two would put back what the other had set, if they end in another order than they
# began, and newer versions of threadpoolctl let nobody else restore it.
_BLAS = threading.RLock()


def _renew_lock():
    """Give a forked process a lock that no thread holds which is not there."""
    global _BLAS
    _BLAS = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def one_thread_of_blas(operations):
    """Have BLAS work in one thread, where operations are few, until the block ends.

    While another thread is in such a block this one changes nothing, and may go on with more
    threads when the other is done.

    Parameters
    ----------
    operations : float
        Multiplications of the largest product in the block.
    """
    if operations > SMALL or not _BLAS.acquire(blocking=False):
        yield
        return
    try:
        with _libraries("blas", "torch" in sys.modules).limit(limits=1):
            yield
    finally:
        _BLAS.release()


def threads_of_blas():
    """Return how many threads BLAS may use here, as the environment or others have limited it."""
    found = _libraries("blas", "torch" in sys.modules).lib_controllers
    return max((library.num_threads for library in found), default=1)


@cache
def _libraries(user_api, with_torch):
    """Return the libraries of a kind; looked up once (8 ms), and again when torch has come."""
    return ThreadpoolController().select(user_api=user_api)
