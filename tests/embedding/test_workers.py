import os
import time

import joblib
import pytest

from revdist_sklearn.embedding._workers import in_order, is_worker_death


def slow_first(i):
    time.sleep(0.3 if i == 0 else 0)
    return i, os.getpid()


def die(i):
    os._exit(1)


@pytest.mark.parametrize("n_jobs", [None, 1, 2])
def test_results_come_in_order(n_jobs):
    results = list(in_order(slow_first, ((i,) for i in range(9)), n_jobs))
    assert [i for i, _ in results] == list(range(9))
    elsewhere = {pid for _, pid in results} != {os.getpid()}
    assert elsewhere == (n_jobs == 2)


def test_tasks_are_taken_as_results_are_asked_for():
    taken = []

    def tasks():
        for i in range(100):
            taken.append(i)
            yield (i,)

    results = in_order(slow_first, tasks(), 2)
    next(results)
    assert len(taken) <= 8
    results.close()


def test_a_dead_worker_is_told_from_other_errors():
    with pytest.raises(BaseException) as raised:
        list(in_order(die, ((i,) for i in range(2)), 2))
    assert is_worker_death(raised.value)
    assert not is_worker_death(ValueError("dead"))
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
