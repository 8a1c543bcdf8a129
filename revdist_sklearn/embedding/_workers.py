"""Tasks on joblib's workers: in order, few at a time, and what it means when one dies."""

from concurrent.futures import BrokenExecutor
from itertools import islice

from joblib import effective_n_jobs
from sklearn.utils.parallel import Parallel, delayed


def in_order(function, tasks, n_jobs):
    """Yield ``function(*task)`` of each task, in order, with few results waiting.

    Parameters
    ----------
    function : callable

    tasks : iterator of tuple

    n_jobs : int or None
        As in joblib; one worker runs in this process, task by task.

    Yields
    ------
    result : object
    """
    wave_size = 2 * effective_n_jobs(n_jobs)
    with Parallel(n_jobs=n_jobs, return_as="generator") as workers:
        while wave := list(islice(tasks, wave_size)):
            yield from workers(delayed(function)(*task) for task in wave)


def is_worker_death(error):
    """Return whether an error says that a worker process died."""
    # joblib's own workers raise the first, dask.distributed the second.
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"
