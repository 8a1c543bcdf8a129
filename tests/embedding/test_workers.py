import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import joblib
import pytest

import revdist_sklearn
from revdist_sklearn.embedding import _workers
from revdist_sklearn.embedding._workers import (
    WAVE,
    as_they_come,
    in_order,
    in_worker,
    is_worker_death,
    tasks_at_a_time,
)
from revdist_sklearn.models import _device

ROOT = Path(revdist_sklearn.__file__).parents[1]


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
    assert len(taken) <= 2 * WAVE
    results.close()


def first_waits_for_others(i, path):
    if i:
        path.touch()
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.5)
    time.sleep(0 if i else 1.0)
    return i


def test_results_come_as_they_are_done(tmp_path):
    tasks = ((i, tmp_path / "another runs") for i in range(9))
    results = list(as_they_come(first_waits_for_others, tasks, 2))
    assert sorted(results) == list(range(9)) and results[0] != 0
    assert list(as_they_come(pow, iter([(2, 3), (2, 4)]), 1)) == [8, 16]


def test_a_dead_worker_is_told_from_other_errors():
    with pytest.raises(BaseException) as raised:
        list(in_order(die, ((i,) for i in range(2)), 2))
    assert is_worker_death(raised.value)
    assert not is_worker_death(ValueError("dead"))
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)


def on_dask(function, tasks, n_jobs):
    with joblib.parallel_config(backend="dask"):
        return list(in_order(function, iter(tasks), n_jobs))


@pytest.fixture
def one_dask_worker():
    """Run a Dask worker of four threads in this process."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=4, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        yield cluster


@pytest.mark.parametrize("n_jobs, most", [(1, 1), (2, 2), (None, 4), (-1, 4), (100, 4)])
def test_a_dask_cluster_runs_as_many_tasks_as_asked_for(one_dask_worker, n_jobs, most):
    lock, running, seen = threading.Lock(), [], []

    def count(i):
        with lock:
            running.append(i)
            seen.append(len(running))
        time.sleep(0.1)
        with lock:
            running.remove(i)
        return i

    # Dask would pickle what it cannot find: a function of this process by reference.
    COUNTED[0] = count
    assert on_dask(counted, ((i,) for i in range(10)), n_jobs) == list(range(10))
    assert max(seen) == most


COUNTED = [None]


def counted(i):
    return COUNTED[0](i)


def test_the_context_says_how_many_tasks_run_on_dask(one_dask_worker):
    with joblib.parallel_config(backend="dask", n_jobs=3):
        assert tasks_at_a_time(None) == 3 and tasks_at_a_time(2) == 2
    assert tasks_at_a_time(2) == 2 and tasks_at_a_time(None) == 1


def threads(i):
    import torch

    time.sleep(0.1)
    return torch.get_num_threads(), os.getpid()


def test_torch_has_a_dask_workers_share_of_the_machine(dask_cluster, monkeypatch):
    """Two workers of one thread each; Dask tells torch to use one, whatever the machine."""
    shares = {n for n, _ in on_dask(threads, ((i,) for i in range(4)), None)}
    assert shares == {max(1, joblib.cpu_count() // 2)}
    # One task at a time has the machine for itself.
    alone = {n for n, _ in on_dask(threads, ((i,) for i in range(4)), 1)}
    assert alone == {joblib.cpu_count()}


def test_shares_of_machines(monkeypatch):
    class Worker:
        address, state = "tcp://10.0.0.7:4711", SimpleNamespace(nthreads=8)

    fake = SimpleNamespace(get_worker=Worker)
    monkeypatch.setitem(sys.modules, "distributed", fake)
    monkeypatch.setattr(_workers, "cpu_count", lambda: 64)
    assert _workers._share({}) is None
    assert _workers._share({"tcp://10.0.0.7": 4, "tcp://10.0.0.8": 1}) == 16
    assert _workers._share({"tcp://10.0.0.7": 100}) == 1
    assert _workers._share({"tcp://10.0.0.9": 4}) == 8  # it has come since


def test_threads_are_given_back():
    import torch

    before = torch.get_num_threads()
    with _workers._threads(before + 3):
        assert torch.get_num_threads() == before + 3
    assert torch.get_num_threads() == before


def own_gpu(folder):
    """Have torch see two GPUs in a worker, and return which is its own."""
    import torch

    from revdist_sklearn.models import _device

    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 2
    torch.cuda.get_device_properties = lambda gpu: SimpleNamespace(uuid=f"GPU-{gpu}")
    torch.cuda.current_device = lambda: 0
    torch.empty = lambda n, device: SimpleNamespace(device=torch.device(device))
    if _device.CLAIM._folder is None:
        _device.CLAIM = _device.Claim(folder)
    return in_worker(names_of_gpus, ("another machine", 0), {})


def names_of_gpus():
    time.sleep(0.2)
    names = (None, "cuda", "cuda:1")
    return os.getpid(), [str(_device.resolve_device(name)) for name in names]


@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_each_worker_has_a_gpu_of_its_own(backend, tmp_path, request):
    if backend == "dask":
        request.getfixturevalue("dask_cluster")
    with joblib.parallel_config(backend=backend, n_jobs=2):
        found = list(in_order(own_gpu, ((tmp_path,) for _ in range(8)), None))
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    processes = {pid: names[0] for pid, names in found}
    assert sorted(processes.values()) == ["cuda:0", "cuda:1"]
    for pid, names in found:  # it keeps it from task to task
        assert names == [processes[pid], processes[pid], "cuda:1"]


def test_a_task_in_this_process_claims_no_gpu(fake_cuda, monkeypatch):
    monkeypatch.setattr(_device, "CLAIM", None)
    assert list(in_order(pow, iter([(2, 3)]), 1)) == [8]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_workers_do_not_hear_ctrl_c():
    """In a process of its own: trackers of resources that are there already would hide it."""
    code = (
        "import signal; from revdist_sklearn.embedding._workers import in_order\n"
        "def blocked(i):\n"
        "    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "if __name__ == '__main__':\n"
        "    print([*in_order(blocked, iter([(0,), (1,)]), 2)], blocked(0))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "[True, True] False\n", run.stderr


PARENT = """
import os, sys, time
from revdist_sklearn.embedding._workers import in_order
from test_workers import tell_and_wait
list(in_order(tell_and_wait, ((sys.argv[1], i, float(sys.argv[2])) for i in range(2)), 2))
time.sleep(60)
"""


def tell_and_wait(folder, i, seconds):
    """Note who works, and work on."""
    (Path(folder) / f"{os.getpid()}.pid").touch()
    while len(list(Path(folder).iterdir())) < 2:  # one each
        time.sleep(0.05)
    time.sleep(seconds)


def runs(number):
    """Return whether a process is there, and no zombie."""
    try:
        status = Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.parametrize("working", [0, 60], ids=["idle", "working"])
def test_workers_of_a_killed_parent_end(working, tmp_path):
    """They would keep their models for five minutes."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), str(working)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert until(lambda: len(list(tmp_path.iterdir())) == 2, 90)
    workers = [int(path.stem) for path in tmp_path.iterdir()]
    time.sleep(1)
    assert all(map(runs, workers)) and parent.poll() is None
    parent.kill()
    parent.wait(10)
    try:
        assert until(lambda: not any(map(runs, workers)), 15)
    finally:
        for number in filter(runs, workers):
            os.kill(number, 9)


def test_only_workers_of_processes_on_this_machine_watch_and_once(monkeypatch):
    started = []
    fake = SimpleNamespace(Thread=lambda **how: SimpleNamespace(start=lambda: started.append(how)))
    monkeypatch.setattr(_workers, "threading", fake)
    monkeypatch.setattr(_workers, "_watched", set())
    host = _workers.socket.gethostname()
    _workers.end_with((f"{host}-b", os.getppid()))
    _workers.end_with((host, os.getppid() + 1))  # as of a server of forks
    assert started == []
    for _ in range(2):
        _workers.end_with((host, os.getppid()))
    assert [how["args"] for how in started] == [(os.getppid(),)] and started[0]["daemon"]
