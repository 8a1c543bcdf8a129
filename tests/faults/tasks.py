"""What the children of the nursery run, and the faults that are put in their way."""

import faulthandler
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from revdist_sklearn import (
    ESMFeaturizer,
    FastaReader,
    Moments,
    ReverseDistiller,
    _corpus,
    fit_on_corpus,
)
from revdist_sklearn.base._hub import quiet
from revdist_sklearn.cli import _demo
from revdist_sklearn.cli._main import main
from revdist_sklearn.datasets import load_gb1_stability, load_uniprot_sample
from revdist_sklearn.embedding._cache import EmbeddingCache
from revdist_sklearn.models._loading import REGISTRY

MODELS = "esm2-nano:64"
# A quarter of a second of embedding, in some batches.
PROTEINS = sorted(load_uniprot_sample().sequences, key=len)[300:348]
BLOCKS = (16, 64, 160)


def warm_up():
    """Import what tasks need, so that a fork has it; run no model and start no thread."""
    import torch
    import transformers

    for name in ("EsmModel", "AutoConfig"):
        getattr(transformers, name)
    torch.set_num_threads(1)


def arm(at, do, nth, limit):
    """Put a fault in the way of this process; see ``Nursery.start``."""
    if limit is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if at is None:
        return
    *names, last = at.split(".")
    owner, names = __import__(names[0]), names[1:]
    if owner.__name__ == "revdist_sklearn":
        import importlib

        depth = sum(not name[0].isupper() for name in names)
        owner = importlib.import_module(".".join([owner.__name__, *names[:depth]]))
        names = names[depth:]
    for name in names:
        owner = getattr(owner, name)
    function, calls = getattr(owner, last), []

    def faulty(*arguments, **options):
        calls.append(1)
        if len(calls) == nth:
            if isinstance(do, int):
                os.kill(os.getpid(), do)
            else:
                shutil.rmtree(do)
        return function(*arguments, **options)

    setattr(owner, last, faulty)


def rows_of(seed):
    """Return rows of three blocks that depend on one another."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(800, 4)) @ rng.normal(size=(4, sum(BLOCKS))) + rng.normal(
        size=(800, sum(BLOCKS))
    )


def fit_and_save(folder, seed=0):
    """Fit a distiller and write it."""
    ReverseDistiller(BLOCKS).fit(rows_of(seed)).save_pretrained(folder)


def load_and_save(source, folder):
    """Write a distiller, fitted before, in the place of another."""
    ReverseDistiller.from_pretrained(source).save_pretrained(folder)


def corpus_pass(checkpoint, output, n_jobs=1):
    """Fit on a corpus with a checkpoint after each of a dozen pieces."""
    _corpus.CHECKPOINT_SECONDS = 0.0
    corpus_pass_of_seconds(checkpoint, output, n_jobs)


def corpus_pass_of_seconds(checkpoint, output, n_jobs=1):
    """Fit on a corpus in a dozen pieces, with a checkpoint at the end, or where it is cut off."""
    _corpus.PIECE_RESIDUES = 600
    distiller = ReverseDistiller(n_components=40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the corpus is small
        fit_on_corpus(
            distiller, ESMFeaturizer(MODELS), PROTEINS, checkpoint=checkpoint, n_jobs=n_jobs
        )
    distiller.save_pretrained(output)


def rows_of_model(folder):
    """Print a digest of the rows that a model gives."""
    rows = ESMFeaturizer(str(folder)).transform(PROTEINS[:3])
    print(hashlib.sha256(rows.tobytes()).hexdigest())


def write_inputs(folder):
    """Write what the shell reads: proteins, measurements and a distiller."""
    folder = Path(folder)
    text = "".join(f">p{i}\n{sequence}\n" for i, sequence in enumerate(PROTEINS))
    (folder / "proteins.fasta").write_text(text)
    sequences, y = load_gb1_stability(return_X_y=True)
    lines = [f"{sequence},{value}" for sequence, value in zip(sequences[:60], y, strict=False)]
    text = "\n".join(["mutated_sequence,DMS_score", *lines]) + "\n"
    (folder / "measured.csv").write_text(text)
    corpus_pass(folder / "moments", folder / "distiller")
    (folder / "moments").unlink()


def embed(inputs, cache, output, n_jobs=1):
    """Run ``revdist embed``."""
    inputs = Path(inputs)
    options = {
        "--models": MODELS,
        "--fasta": inputs / "proteins.fasta",
        "--distiller": inputs / "distiller",
        "--cache-dir": cache,
        "--n-jobs": n_jobs,
        "--output": output,
    }
    return main(["embed", *(str(word) for option in options.items() for word in option)])


def transform(inputs, cache, output):
    """Embed as ``revdist embed`` does, in memory, and write the result."""
    inputs = Path(inputs)
    sequences = [sequence for _, sequence in FastaReader(inputs / "proteins.fasta")]
    distiller = ReverseDistiller.from_pretrained(inputs / "distiller")
    X = ESMFeaturizer(MODELS, cache_dir=cache).transform(sequences)
    np.savez(output, embedding=distiller.transform(X[:, : distiller.n_features_in_]))


def fit(inputs, folder):
    """Run ``revdist fit``."""
    fasta = str(Path(inputs) / "proteins.fasta")
    return main(["fit", "--models", MODELS, "--fasta", fasta, "--output", folder])


def fit_of_seconds(inputs, checkpoint, folder):
    """Run ``revdist fit`` in a dozen pieces, with a checkpoint where it is cut off."""
    _corpus.PIECE_RESIDUES = 600
    words = ["--fasta", str(Path(inputs) / "proteins.fasta"), "--checkpoint", checkpoint]
    return main(["fit", "--models", MODELS, *words, "--output", folder])


def evaluate(inputs, output):
    """Run ``revdist evaluate``, which searches."""
    inputs = Path(inputs)
    options = {
        "--models": MODELS,
        "--fasta": inputs / "proteins.fasta",
        "--distiller": inputs / "distiller",
        "--output": output,
    }
    words = (str(word) for option in options.items() for word in option)
    return main(["evaluate", str(inputs / "measured.csv"), *words])


def one_of_two_workers_dies(backend):
    """Embed on two workers, joblib's or Dask's, of which one is killed; and then again."""
    import joblib

    sequences = sorted(load_uniprot_sample().sequences, key=len)[300:400]
    alone = ESMFeaturizer(MODELS)
    expected = alone.transform(sequences)
    with _workers(backend) as numbers, joblib.parallel_config(backend=backend):
        featurizer = alone.set_params(n_jobs=2)
        featurizer.transform(sequences[:8])  # they are up
        strike = threading.Timer(0.2, os.kill, (numbers()[0], signal.SIGKILL))
        strike.start()
        try:
            rows = featurizer.transform(sequences)
            print("completed")
        except RuntimeError as error:
            print(f"typed error: {error}")
            rows = featurizer.transform(sequences)
        strike.join()
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5)


@contextmanager
def _workers(backend):
    """Yield a function that tells the process numbers of the workers."""
    if backend == "dask":
        import distributed

        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield lambda: list(client.run(os.getpid).values())
    else:
        from joblib.externals.loky import get_reusable_executor, reusable_executor

        yield lambda: list(reusable_executor._executor._processes)
        get_reusable_executor().shutdown(wait=True)


def fork_beside(what, n_children, n_threads):
    """Embed in a child, forked while a thread embeds, loads or downloads, or none does.

    Prints how many children ended, how many hang, and how many have other rows.
    """
    import torch

    torch.set_num_threads(n_threads)
    featurizer = ESMFeaturizer(MODELS)
    expected = featurizer.transform(PROTEINS[:3])
    stop = threading.Event()

    def work():
        while not stop.is_set():
            if what == "downloads":
                with quiet():
                    stop.wait()
            if what == "loads":
                REGISTRY.clear()
            featurizer.transform(PROTEINS[:3])

    worker = threading.Thread(target=work)
    if what != "rests":
        worker.start()
    ends = {"same": 0, "hangs": 0, "other": 0}
    for i in range(n_children):
        time.sleep(0.011 * (1 + i % 7))
        pid = os.fork()
        if not pid:
            # Of whatever happens no child may go on as its parent.
            try:
                if what == "downloads":  # what another thread has silenced is so for loads
                    REGISTRY.clear()
                rows = featurizer.transform(PROTEINS[:3])
                os._exit(int(np.abs(rows - expected).max() > 1e-5))
            finally:
                os._exit(1)
        end = time.monotonic() + 5
        while not (found := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.005)
        if not found[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        ends["hangs" if not found[0] else "other" if found[1] else "same"] += 1
    stop.set()
    if what != "rests":
        worker.join()
    print(json.dumps(ends))


def fork_cold(n_children):
    """Embed in children, forked while two threads import torch and load for the first time.

    Prints as ``fork_beside``. Of a process of its own, which has imported nothing yet.
    """
    assert "torch" not in sys.modules
    featurizer, rows = ESMFeaturizer(MODELS), {}
    threads = [
        threading.Thread(target=lambda i=i: rows.update({i: featurizer.transform(PROTEINS[:3])}))
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    children = {}
    for i in range(n_children):
        time.sleep(0.3)
        pid = os.fork()
        if not pid:
            code = 1
            faulthandler.dump_traceback_later(30)  # of one that hangs
            try:
                rows = featurizer.transform(PROTEINS[:3])
                code = 0 if rows.shape == (3, 96) and np.isfinite(rows).all() else 2
            finally:
                os._exit(code)
        children[pid] = i
    for thread in threads:
        thread.join()
    ends = {"same": 0, "hangs": 0, "other": 0}
    end = time.monotonic() + 40
    for pid in children:
        while not (found := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.01)
        if not found[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        ends["hangs" if not found[0] else "other" if found[1] else "same"] += 1
    print(json.dumps(ends))


def fork_in_a_bar():
    """Embed in a child, forked while another thread moves a bar of tqdm."""
    from tqdm.std import TqdmDefaultWriteLock

    held, leave = threading.Event(), threading.Event()

    def move():
        with TqdmDefaultWriteLock.th_lock:
            held.set()
            leave.wait(1)

    thread = threading.Thread(target=move)
    thread.start()
    held.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        ESMFeaturizer(MODELS, verbose=1).transform(PROTEINS[:1])
        os._exit(0)
    leave.set()
    thread.join()
    return int(os.waitpid(pid, 0)[1] != 0)


def many_calls(n_calls, cache=""):
    """Print open files and memory in kB before some calls on ever new sequences, and after."""
    featurizer = ESMFeaturizer(MODELS, cache_dir=cache or None)
    distiller = ReverseDistiller((32, 64)).fit(np.random.default_rng(0).normal(size=(300, 96)))
    warm, figures = 60, []  # libraries take their memory in the first calls
    for i in range(warm + n_calls + 1):
        of_call = PROTEINS[i % 40 : i % 40 + 3]
        # Residues that no call before had together: oneDNN keeps code for each number.
        n = 30 + 97 * i % 270
        cuts = [(i + place) % 50 + np.array([0, (n + place) // 3]) for place in range(3)]
        few = [sequence[a:b] for sequence, (a, b) in zip(of_call, cuts, strict=True)]
        distiller.transform(featurizer.transform(few))
        if i in (warm, warm + n_calls):
            status = Path("/proc/self/status").read_text()
            memory = int(status.split("VmRSS:")[1].split()[0])
            figures.append((len(os.listdir("/proc/self/fd")), memory))
    print(json.dumps(figures))


def on_full_disk(folder, task, *arguments):
    """Run a task on a disk of our own of 32 kB, at ``folder``, that others do not see."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, recursive_private = 0x00020000, 0x4000 | 0x40000
    Path(folder).mkdir(exist_ok=True)
    if (
        libc.unshare(new_namespace)
        or libc.mount(None, b"/", None, recursive_private, None)
        or libc.mount(b"none", folder.encode(), b"tmpfs", 0, b"size=32k")
    ):
        print("no disk of our own")
        return 77
    try:
        return globals()[task](*arguments)
    finally:
        print("left:", sorted(path.name for path in Path(folder).rglob("*")))


def read_only(folder, task, *arguments):
    """Run a task as a user who may not write to a folder."""
    os.chmod(folder, 0o555)
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    return globals()[task](*arguments)


def save_moments(path, seed):
    """Write moments, in the place of others."""
    Moments(BLOCKS).update(rows_of(seed)[:50]).save(path)


def _row_of(sequence):
    """Return the row that a protein has here, and no other has."""
    seed = int.from_bytes(hashlib.sha256(sequence.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=16).astype(np.float32)


def use_cache(folder, n_rows=20, n_rounds=1, seed=0):
    """Look rows up and keep what is missing, each round in a connection of its own.

    Prints how many were found, and how many of these are another protein's.
    """
    rng, found_rows, wrong, warned = np.random.default_rng(seed), 0, 0, 0
    space = {"model": "m", "layer": -1, "width": 16}
    for _ in range(n_rounds):
        texts = [f"A{'CDEFGHIKLM'[i % 10]}{'NPQRSTVWYM'[i // 10]}" for i in range(100)]
        texts = [texts[i] for i in rng.permutation(100)[:n_rows]] if n_rounds > 1 else texts
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with EmbeddingCache(folder, seconds=0) as cache:
                found, rows = cache.get(space, texts)
                wrong += sum(
                    row.tobytes() != _row_of(texts[i]).tobytes()
                    for i, row in zip(found, rows, strict=True)
                )
                missing = [text for i, text in enumerate(texts) if i not in set(found)]
                if missing:
                    cache.put(space, missing, np.stack([*map(_row_of, missing)]))
        found_rows, warned = found_rows + len(found), warned + len(caught)
    print(json.dumps({"found": found_rows, "wrong": wrong, "warnings": warned}))


def use_cache_without_locks(*arguments):
    """Do the same where locks do nothing, as on some network mounts."""
    connect = sqlite3.connect

    def without_locks(path, **options):
        return connect(f"file:{path}?vfs=unix-none", uri=True, **options)

    sqlite3.connect = without_locks
    use_cache(*arguments)


def demo(output):
    """Run ``revdist demo`` on a part of its data."""
    short = Bunch(sequences=PROTEINS)
    _demo.load_uniprot_sample = lambda: short
    for name in ("load_gb1_stability", "load_amyloid_nucleation"):
        load = getattr(_demo, name)

        def few(load=load, **options):
            bunch = load(**options)
            part = {key: bunch[key][:80] for key in ("sequences", "target", "mutations")}
            return Bunch(**part)

        setattr(_demo, name, few)
    return main(["demo", "--output", output])


def embed_while_a_worker_dies(inputs, folder):
    """Run ``revdist embed`` on two workers of joblib, of which one is killed."""
    from joblib.externals.loky import reusable_executor

    def work():
        while not (executor := reusable_executor._executor) or not executor._processes:
            time.sleep(0.02)
        time.sleep(0.5)
        os.kill(next(iter(executor._processes)), signal.SIGKILL)

    threading.Thread(target=work, daemon=True).start()
    return embed(inputs, Path(folder) / "cache", Path(folder) / "z.npz", n_jobs=2)


def on_ascii_terminal(task, *arguments):
    """Run a task where terminals have no other letters; Python escapes them on stderr alone."""
    sys.stdout.reconfigure(encoding="ascii", errors="strict")
    sys.stderr.reconfigure(encoding="ascii", errors="backslashreplace")
    return globals()[task](*arguments)
