"""Tasks on joblib's workers: few at a time, with their share of a machine.

Each worker process has a GPU of its own where the machine has several (see
:func:`~..models._device.gpu_of_its_own`), and in a Dask worker torch has the threads that the
tasks of the machine leave it: Dask starts its workers with one, whatever the machine. Workers of
a process that was killed end by themselves.
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker

from joblib import cpu_count, effective_n_jobs
from joblib.externals.loky.backend import resource_tracker as of_loky
from joblib.parallel import get_active_backend
from sklearn.utils.parallel import Parallel, delayed

from ..models._device import gpu_of_its_own

# Results of a worker that may wait for one before them. At the end of a wave workers do.
WAVE = 8


def in_order(function, tasks, n_jobs):
    """Yield ``function(*task)`` of each task, in order, with few results waiting.

    Tasks go out in waves of eight a worker: how many wait is bounded, and workers idle for
    about a task at the end of each.

    Parameters
    ----------
    function : callable

    tasks : iterator of tuple

    n_jobs : int or None
        As in joblib; one worker runs in this process, task by task. See
        :func:`tasks_at_a_time` for a Dask cluster.

    Yields
    ------
    result : object
    """
    most = tasks_at_a_time(n_jobs)
    with _parallel(n_jobs, function, "generator") as call:
        while wave := list(islice(tasks, WAVE * most)):
            yield from call(wave)


def as_they_come(function, tasks, n_jobs):
    """Yield ``function(*task)`` of each task when it is done, in whatever order.

    For few and long tasks: each goes to a worker when it has none, and no result waits for
    another.

    Parameters
    ----------
    function, tasks, n_jobs
        As in :func:`in_order`.

    Yields
    ------
    result : object
    """
    with _parallel(n_jobs, function, "generator_unordered", one_by_one=True) as call:
        yield from call(tasks)


@contextmanager
def _parallel(n_jobs, function, return_as, one_by_one=False):
    """Yield what runs a function on tasks by joblib, and yields its results."""
    task = partial(in_worker, function, process(), tasks_of_machines(n_jobs))
    how, quiet = {}, nullcontext()
    if _dask_client() is not None or one_by_one:
        # Dask takes what it is given: all threads of the cluster, whatever `n_jobs` is.
        how = {"pre_dispatch": tasks_at_a_time(n_jobs), "batch_size": 1}
    if _dask_client() is not None:
        # Sequences are to travel with their task, which lives on when a worker dies.
        quiet = sys.modules["dask"].config.set(
            {"distributed.admin.large-graph-warning-threshold": "1GB"}
        )
    with quiet, Parallel(n_jobs=n_jobs, return_as=return_as, **how) as workers:

        def call(tasks):
            alone = tasks_at_a_time(n_jobs) == 1
            with nullcontext() if alone else _deaf_to_interrupts():
                return workers(delayed(task)(*arguments) for arguments in tasks)

        yield call


@contextmanager
def _deaf_to_interrupts():
    """Start processes that Ctrl-C does not reach: this one ends them, and they say nothing.

    It waits here until the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    if type(get_active_backend()[0]).__name__ == "LokyBackend":
        # Started with the first worker, they would let interrupts through again.
        resource_tracker.ensure_running()
        of_loky.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def tasks_at_a_time(n_jobs):
    """Return how many tasks run at a time.

    Parameters
    ----------
    n_jobs : int or None
        As in joblib. On a Dask cluster so many tasks, on whichever workers it has; None, unless
        :class:`joblib.parallel_config` says another number, and negative numbers are as many
        as its workers have threads.

    Returns
    -------
    n_tasks : int
    """
    most = effective_n_jobs(n_jobs)
    if _dask_client() is None:
        return most
    if n_jobs is None:
        n_jobs = get_active_backend()[1]
    return most if n_jobs is None or n_jobs < 0 else min(n_jobs, most)


def process():
    """Return what tells a process from all others, also on other machines."""
    return socket.gethostname(), os.getpid()


def tasks_of_machines(n_jobs):
    """Return how many tasks may run at a time on each machine of a Dask cluster, by address."""
    client = _dask_client()
    if client is None:
        return {}
    threads: Counter = Counter()
    for worker, n_threads in client.ncores().items():
        threads[machine(worker)] += n_threads
    most = tasks_at_a_time(n_jobs)
    return {address: min(most, n) for address, n in threads.items()}


def machine(worker):
    """Return the machine's part of a Dask worker's address, such as ``tcp://10.0.0.7:4711``."""
    return worker.rpartition(":")[0] or worker


def in_worker(function, parent, tasks_of_machines, *task):
    """Return ``function(*task)``, with a worker's share of its machine if this is one.

    Parameters
    ----------
    function : callable

    parent : tuple
        The :func:`process` that has sent the task.

    tasks_of_machines : dict of str to int
        As :func:`tasks_of_machines` returned it there.

    *task
        Arguments.

    Returns
    -------
    result : object
    """
    if process() == parent:
        return function(*task)
    if _dask_worker() is None:  # Dask looks after its own
        end_with(parent)
    with gpu_of_its_own(), _threads(_share(tasks_of_machines)):
        return function(*task)


def _share(tasks_of_machines):
    """Return the threads of a task on a Dask worker; None elsewhere, where joblib sets them."""
    worker = _dask_worker()
    if worker is None or not tasks_of_machines:
        return None
    # Of a worker that has come since there is nothing but its own number.
    n_tasks = tasks_of_machines.get(machine(worker.address), worker.state.nthreads)
    return max(1, cpu_count() // n_tasks)


def _dask_worker():
    """Return the Dask worker that runs this task, None where none does."""
    distributed = sys.modules.get("distributed")
    try:
        return None if distributed is None else distributed.get_worker()
    except ValueError:  # not inside of a task
        return None


# Seconds between two looks at the parent.
LOOK = 1.0
_watched: set[tuple] = set()


def end_with(parent):
    """End this worker soon after the process that it works for, however that ends.

    joblib's own workers would hold their models for five minutes more. The kernel's signal of a
    parent's death is no use: it comes when the thread that has started the worker ends.

    Parameters
    ----------
    parent : tuple
        Its :func:`process`.
    """
    key = (parent, os.getpid())  # a forked process has no thread that watches
    if os.name != "posix" or parent[0] != socket.gethostname() or key in _watched:
        return
    _watched.add(key)
    if os.getppid() == parent[1]:
        threading.Thread(target=_watch, args=(parent[1],), name="parent", daemon=True).start()
    elif "loky" in type(multiprocessing.current_process()).__module__:
        os._exit(1)  # which are children of nobody else: it has gone already


def _watch(parent):
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


@contextmanager
def _threads(n_threads):
    """Have torch use so many threads until the block ends; None leaves it as it is."""
    if n_threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _dask_client():
    """Return the client of the Dask cluster that joblib's tasks go to, or None."""
    return getattr(get_active_backend()[0], "client", None)


def is_worker_death(error):
    """Return whether an error says that a worker process died."""
    # joblib's own workers raise the first, dask.distributed the second.
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"
