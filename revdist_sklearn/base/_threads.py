"""Threads of the numerical libraries: one for what is small.

Threads that share a product wait for each other by spinning. On cores that other work uses too
each wait may last a time slice of the scheduler, several milliseconds, and a small model has
hundreds of products of less than one in every batch: beside two busy loops they took ten and
more times as long on two threads as on one. And torch, NumPy and SciPy have threads each,
which spin on for a while after their work and so keep a core from those of the next library.
Alone on the machine, a second thread gains little with products that are small.

Nothing is raised here: libraries that the environment (``OMP_NUM_THREADS`` and others), joblib
or threadpoolctl allow one thread keep it, and what is large keeps what it is allowed.
"""

import sys
import threading
from contextlib import contextmanager
from functools import cache
from typing import Any

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


class _OneThreadOfBlas:
    """How many blocks of the process want one thread: the first sets it, the last restores.

    In a BLAS the number is that of the process. Each block on its own would put back what
    another one had set, if they end in another order than they began.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._blocks = 0
        self._limit: Any = None

    def __enter__(self):
        with self._lock:
            if self._blocks == 0:
                self._limit = _libraries("blas", "torch" in sys.modules).limit(limits=1)
            self._blocks += 1

    def __exit__(self, *_):
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                self._limit.restore_original_limits()


_ONE_THREAD_OF_BLAS = _OneThreadOfBlas()


@contextmanager
def one_thread_of_blas(operations):
    """Have BLAS work in one thread, where operations are few, until the block ends.

    Parameters
    ----------
    operations : float
        Multiplications of the largest product in the block.
    """
    if operations > SMALL:
        yield
        return
    with _ONE_THREAD_OF_BLAS:
        yield


@cache
def _libraries(user_api, with_torch):
    """Return the libraries of a kind; looked up once (8 ms), and again when torch has come."""
    return ThreadpoolController().select(user_api=user_api)
