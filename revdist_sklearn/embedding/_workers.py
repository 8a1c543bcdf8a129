"""Tasks on joblib's workers: in order, few at a time, with their share of a machine.

Each worker process has a GPU of its own where the machine has several (see
:func:`~..models._device.gpu_of_its_own`), and in a Dask worker torch has the threads that the
tasks of the machine leave it: Dask starts its workers with one, whatever the machine.
"""

import os
import signal
import socket
import sys
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


def in_order(function, tasks, n_jobs):
    """Yield ``function(*task)`` of each task, in order, with few results waiting.

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
    task = partial(in_worker, function, process(), tasks_of_machines(n_jobs))
    how = {}
    if _dask_client() is not None:
        # Dask takes what it is given: all threads of the cluster, whatever `n_jobs` is.
        how = {"pre_dispatch": most, "batch_size": 1}
    with Parallel(n_jobs=n_jobs, return_as="generator", **how) as workers:
        while wave := list(islice(tasks, 2 * most)):
            with _deaf_to_interrupts() if most > 1 else nullcontext():
                results = workers(delayed(task)(*arguments) for arguments in wave)
            yield from results


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
    with gpu_of_its_own(), _threads(_share(tasks_of_machines)):
        return function(*task)


def _share(tasks_of_machines):
    """Return the threads of a task on a Dask worker; None elsewhere, where joblib sets them."""
    distributed = sys.modules.get("distributed")
    if distributed is None or not tasks_of_machines:
        return None
    try:
        worker = distributed.get_worker()
    except ValueError:  # not inside of a task
        return None
    # Of a worker that has come since there is nothing but its own number.
    n_tasks = tasks_of_machines.get(machine(worker.address), worker.state.nthreads)
    return max(1, cpu_count() // n_tasks)


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
