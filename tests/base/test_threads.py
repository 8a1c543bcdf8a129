import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

import revdist_sklearn
from revdist_sklearn import ESMFeaturizer, PrefixRidgeCV, ReverseDistiller, corpus_moments
from revdist_sklearn.base._threads import SMALL, one_thread_of_blas, one_thread_of_torch
from revdist_sklearn.method._moments import Moments
from revdist_sklearn.models._encoder import Encoder


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture
def before(monkeypatch):
    """Have two threads whatever the environment, and what there was afterwards."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(2, "blas"):
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        yield torch.get_num_threads(), blas_threads()
        torch.set_num_threads(threads)


def now():
    return torch.get_num_threads(), blas_threads()


def test_what_is_small_has_one_thread_and_afterwards_all_is_as_before(before):
    with one_thread_of_torch(SMALL):
        assert now() == (1, before[1])
    with pytest.raises(KeyError), one_thread_of_torch(1), one_thread_of_blas(SMALL):
        assert now() == (1, [1] * len(before[1]))
        raise KeyError
    assert now() == before
    with one_thread_of_torch(SMALL + 1), one_thread_of_blas(SMALL + 1):
        assert now() == before


def test_threads_that_overlap_restore_what_was_there(before):
    """The first to begin ends first."""
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def other():
        with one_thread_of_torch(1), one_thread_of_blas(1):
            inside.set()
            leave.wait(10)
            seen.append(now())
        seen.append(now())

    with one_thread_of_blas(1), one_thread_of_torch(1):
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(10)
    assert now() == before
    leave.set()
    thread.join(10)
    assert seen == [(1, before[1]), before]
    assert now() == before
    with one_thread_of_blas(1):  # and the next block is one again
        assert now() == (2, [1] * len(before[1]))


def test_models_and_products_run_in_one_thread(before, monkeypatch):
    seen = {}

    def watch(owner, name):
        method = getattr(owner, name)

        def watched(self, *args, **kwargs):
            seen[name] = now()
            return method(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    watch(Encoder, "_padded")
    watch(Moments, "update")
    watch(PrefixRidgeCV, "_folds")
    emb = ESMFeaturizer("esm2-nano:64", model_kwargs={"attn_implementation": "eager"})
    moments = corpus_moments(emb, ["MKTAYIAKQR", "GSHMLEDPVD"])
    ReverseDistiller().fit_moments(moments)
    X = np.random.default_rng(0).normal(size=(40, 6))
    PrefixRidgeCV().fit(X, X[:, 0])
    assert seen["_padded"][0] == 1
    assert seen["update"][1] == seen["_folds"][1] == [1] * len(before[1])
    assert now() == before


@pytest.mark.parametrize("asked", ["1", "2"])
def test_the_environment_is_respected(asked):
    script = (
        "import torch; from threadpoolctl import threadpool_info as info\n"
        "from revdist_sklearn.base._threads import *\n"
        "def now(): return torch.get_num_threads(), *(p['num_threads'] for p in info())\n"
        "a = now()\n"
        "with one_thread_of_torch(1), one_thread_of_blas(1): b = now()\n"
        "with one_thread_of_torch(1e9), one_thread_of_blas(1e9): c = now()\n"
        f"assert set(b) == {{1}} and a == c == now() and max(a) <= {asked}, (a, b, c)"
    )
    variables = {"OMP_NUM_THREADS": asked, "OPENBLAS_NUM_THREADS": asked}
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **variables}, check=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_that_waits_for_imports_heeds_locks_that_come_meanwhile():
    """A module that is imported while a fork waits has a lock that it waits for, too."""
    script = """
import os, threading, time
from revdist_sklearn.base._imports import IMPORTS, at_fork
late, importing, go_on = threading.Lock(), threading.Event(), threading.Event()
def imports():
    with IMPORTS:
        importing.set()
        go_on.wait()
        late.acquire()
        at_fork(late.acquire, late.release, late.release)
    time.sleep(0.2)  # works under its lock
    late.release()
thread = threading.Thread(target=imports)
thread.start()
importing.wait()
threading.Timer(0.2, go_on.set).start()
pid = os.fork()
if not pid:
    os._exit(int(late.locked() or not IMPORTS.acquire(blocking=False)))
thread.join()
assert os.waitpid(pid, 0)[1] == 0
assert not late.locked() and IMPORTS.acquire(blocking=False)
IMPORTS.release()
pid = os.fork()  # and once more
os._exit(int(late.locked())) if not pid else None
assert os.waitpid(pid, 0)[1] == 0 and not late.locked()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(revdist_sklearn.__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0 and not run.stderr, run.stderr
