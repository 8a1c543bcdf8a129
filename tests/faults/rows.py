"""The rows of the table of faults: each brings one about some times and counts what came of it.

An outcome is good where it is one of :data:`GOOD`; any other says what was found.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from nursery import ROOT

import revdist_sklearn
from revdist_sklearn import Moments, ReverseDistiller
from revdist_sklearn.embedding._cache import EmbeddingCache, cache_info

SAME = "same result"
WENT_ON = "same result, gone on from what was kept"
TYPED = "typed error, then the same result"
GOOD = {SAME, WENT_ON, TYPED}
ONE_LINE = "one line"
SIGNALS = [signal.SIGINT, signal.SIGTERM]

BUNDLED = Path(revdist_sklearn.__file__).parent / "weights" / "esm2_nano_032"
LOAD = "revdist_sklearn.models._loading.load"
BATCH = "revdist_sklearn.models._encoder.Encoder.__call__"
SEARCH = "revdist_sklearn.evaluation._run.fit_rows"
WRITE = "zipfile.ZipFile.open"
REPLACE = "os.replace"
# A phase: the command, and the call of which function it is struck at.
PHASES = {
    "load": ("embed", LOAD, 2),
    "embed": ("embed", BATCH, 3),
    "save": ("embed", WRITE, 2),
    "corpus": ("fit", BATCH, 3),
    "save distiller": ("fit", REPLACE, 1),
    "search": ("evaluate", SEARCH, 2),
}
OUTPUTS = {"embed": "z.npz", "fit": "d", "evaluate": "scores.json"}


def chain_of(folder):
    """Return the numbers of a distiller on disk, as bytes."""
    distiller = ReverseDistiller.from_pretrained(folder)
    parts = [distiller.components_, distiller.mean_]
    parts += [stage.residual_variances for stage in distiller.stages_]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def table_of(path):
    """Return the rows of an embedding on disk, as bytes."""
    with np.load(path) as file:
        return file["embedding"].tobytes()


def scores_of(path):
    """Return the scores of an evaluation on disk, without its seconds, as bytes."""
    figures = json.loads(Path(path).read_text())
    rows = [row for each in figures["data_sets"].values() for row in each["rows"]]
    return json.dumps([[row["row"], row["split"], row["scores"]] for row in rows]).encode()


def call(command, inputs, folder):
    """Return the words of a command of the shell, with its output (and cache) in a folder."""
    cache = [folder / "cache"] if command == "embed" else []
    return command, inputs, *cache, folder / OUTPUTS[command]


def result(command, folder):
    """Return what a command has written, as bytes."""
    read = {"embed": table_of, "fit": chain_of, "evaluate": scores_of}[command]
    return read(folder / OUTPUTS[command])


def undisturbed(nursery, inputs, folder):
    """Return what each command writes that nothing disturbs."""
    folder.mkdir(exist_ok=True)
    for command in OUTPUTS:
        end = nursery.run(*call(command, inputs, folder))
        assert end.code == 0, end.text
    return {command: result(command, folder) for command in OUTPUTS}


def struck_in(nursery, inputs, folder, number, phase):
    """Send a command of the shell a signal in a phase of it; return its ``End``."""
    command, at, nth = PHASES[phase]
    return nursery.run(*call(command, inputs, folder), at=at, do=int(number), nth=nth)


def signals(nursery, inputs, folder, n, expected):
    """Send SIGINT and SIGTERM in each phase of the shell, and repeat the command."""
    outcomes: Counter = Counter()
    for i in range(n):
        for number in SIGNALS:
            for phase, (command, *_) in PHASES.items():
                place = folder / f"{i} {number} {phase}"
                place.mkdir(parents=True)
                end = struck_in(nursery, inputs, place, number, phase)
                kept = phase == "embed" and cached_rows(place / "cache")
                good = end.code == 128 + number and "Traceback" not in end.text
                again = nursery.run(*call(command, inputs, place)).code
                if not good or again or result(command, place) != expected[command]:
                    outcomes[f"{phase}: {end.code}: {end.text[-300:]}"] += 1
                else:
                    outcomes[WENT_ON if kept else SAME] += 1
    return outcomes


def full_disks(nursery, inputs, folder, n, expected):
    """Let a file grow to some size alone: a cache, an output, a distiller and a checkpoint."""
    outcomes: Counter = Counter()
    for i in range(n):
        place = folder / str(i)
        place.mkdir(parents=True)
        words = call("embed", inputs, place)
        # Of the cache alone: shards and their distiller are larger.
        end = nursery.run("transform", *words[1:], limit=16_000)
        warned = end.code == 0 and end.text.count("does not work") == 1 and "Make room" in end.text
        warned = warned and result("embed", place) == expected["embed"]
        outcomes[SAME if warned else f"cache: {end.code}: {end.text[-300:]}"] += 1
        before = (place / "z.npz").read_bytes()
        end = nursery.run(*words, limit=6000)
        told = end.code == 2 and "Traceback" not in end.text
        told = told and (place / "z.npz").read_bytes() == before
        outcomes[TYPED if told else f"output: {end.code}: {end.text[-300:]}"] += 1
        for task in ("fit_and_save", "corpus_pass"):
            words = [task, *([place / "m"] if task == "corpus_pass" else []), place / task]
            end = nursery.run(*words, limit=9000)
            told = end.code == 1 and "OSError: " in end.text.splitlines()[-1]
            told = told and not left_over(place) and nursery.run(*words).code == 0
            outcomes[TYPED if told else f"{task}: {end.code}: {end.text[-300:]}"] += 1
    return outcomes


def read_only_folder(nursery, folder, n):
    """Write a distiller to a folder that one may not write to, and then may."""
    outcomes: Counter = Counter()
    for i in range(n):
        parent = folder / str(i)
        (parent / "d").mkdir(parents=True)
        end = nursery.run("read_only", parent, "fit_and_save", parent / "e")
        os.chmod(parent, 0o755)
        last = end.text.splitlines()[-1]
        told = end.code == 1 and "PermissionError" in last and str(parent) in last
        told = told and [path.name for path in parent.iterdir()] == ["d"]
        told = told and nursery.run("fit_and_save", parent / "e").code == 0
        outcomes[TYPED if told else f"{end.code}: {end.text[-300:]}"] += 1
    return outcomes


def folder_goes(nursery, inputs, folder, n, expected):
    """Remove the folder of a cache before a model loads, and while it runs."""
    outcomes: Counter = Counter()
    for i in range(n):
        for at, nth in ((LOAD, 1), (BATCH, 2)):
            place = folder / f"{i} {at}"
            place.mkdir(parents=True)
            words = call("embed", inputs, place)
            end = nursery.run(*words, at=at, do=str(place / "cache"), nth=nth)
            good = end.code == 0 and end.text.count("does not work") <= 1
            good = good and result("embed", place) == expected["embed"]
            (place / "z.npz").unlink(missing_ok=True)  # else there would be nothing to do
            good = good and nursery.run(*words).code == 0 and cached_rows(place / "cache") == 96
            good = good and result("embed", place) == expected["embed"]
            outcomes[SAME if good else f"{end.code}: {end.text[-300:]}"] += 1
    return outcomes


class Payload:
    """What a pickle can do: here it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled_weights(nursery, folder, n):
    """Put pickles in the place of weights, and beside them; and then the weights again."""
    outcomes: Counter = Counter()
    expected = nursery.run("rows_of_model", BUNDLED)
    assert expected.code == 0, expected.text
    for i in range(n):
        for name in ("model.safetensors", "pytorch_model.bin"):
            model, trace = folder / f"{i} {name}", folder / f"executed {i} {name}"
            shutil.copytree(BUNDLED, model)
            weights = (model / "model.safetensors").read_bytes()
            (model / "model.safetensors").unlink()
            for other in (name, "training_args.bin", "tokenizer.pkl"):
                (model / other).write_bytes(pickle.dumps(Payload(trace)))
            end = nursery.run("rows_of_model", model)
            told = end.code == 1 and "ValueError: The weights of " in end.text
            (model / "model.safetensors").write_bytes(weights)
            again = nursery.run("rows_of_model", model)
            told = told and not trace.exists() and again.text == expected.text
            outcomes[TYPED if told else f"{name}: {end.code}: {end.text[-300:]}"] += 1
    return outcomes


def _killed(nursery, folder, n, start, numbers, kept, seed=0):
    """Kill a call at random moments, repeat it, and compare with an undisturbed one.

    Parameters
    ----------
    nursery : Nursery

    folder : Path

    n : int
        How often.

    start : callable
        Takes a folder and returns the child.

    numbers : callable
        Takes a folder and returns the result, as bytes.

    kept : callable
        Takes a folder and returns what a killed call has left: one of ``GOOD``.

    Returns
    -------
    outcomes : Counter
    """
    outcomes: Counter = Counter()
    rng = np.random.default_rng(seed)
    (folder / "undisturbed").mkdir(parents=True)
    began = time.monotonic()
    end = start(folder / "undisturbed").wait()
    assert end.code == 0, end.text
    seconds = time.monotonic() - began
    expected = numbers(folder / "undisturbed")
    for i in range(n):
        place = folder / str(i)
        place.mkdir()
        # One that ends before it is struck is tried anew.
        while (child := _struck(start(place), rng.uniform(0, seconds))).code == 0:
            assert numbers(place) == expected
            for path in sorted(place.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        if child.code != -signal.SIGKILL:
            outcomes[f"before the kill: {child.text[-300:]}"] += 1
            continue
        left = kept(place)
        again = start(place).wait()
        if again.code != 0:
            outcomes[f"repeated: {again.code}: {again.text[-300:]}"] += 1
        elif numbers(place) != expected:
            outcomes[f"other numbers after: {left}"] += 1
        else:
            outcomes[left] += 1
    return outcomes


def _struck(child, seconds):
    time.sleep(seconds)
    child.kill()
    return child.wait()


def struck_at_start(inputs, folder, number, n, n_jobs=1, seed=0):
    """Send a signal to `revdist embed` and its workers at random moments of its start.

    Returns
    -------
    outcomes : Counter
        Of ``ONE_LINE``, or what it wrote instead.
    """
    outcomes: Counter = Counter()
    words = [sys.executable, "-m", "revdist_sklearn", "embed", "--n-jobs", str(n_jobs)]
    words += ["--fasta", str(inputs / "proteins.fasta"), "--output", str(folder / "z.npz")]
    for seconds in np.random.default_rng(seed).uniform(0.2, 2, size=n):
        child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
        time.sleep(seconds)  # at first, Python itself starts
        os.killpg(child.pid, number)
        text = child.communicate(timeout=60)[1]
        line = text.startswith("revdist embed: ") and len(text.splitlines()) == 1
        good = child.returncode == 128 + number and line
        outcomes[ONE_LINE if good else f"{child.returncode}: {text[-300:]}"] += 1
    return outcomes


def kill_fit(nursery, folder, n):
    """Kill -9 in fit and save_pretrained."""

    def kept(place):
        try:
            chain_of(place / "d")
        except (FileNotFoundError, ValueError) as error:
            assert str(place) in str(error), error
        return SAME

    return _killed(
        nursery,
        folder,
        n,
        lambda place: nursery.start("fit_and_save", place / "d"),
        lambda place: chain_of(place / "d"),
        kept,
    )


def kill_embed(nursery, folder, n, inputs):
    """Kill -9 in `revdist embed` with a cache."""
    return _killed(
        nursery,
        folder,
        n,
        lambda place: nursery.start("embed", inputs, place / "cache", place / "z.npz"),
        lambda place: table_of(place / "z.npz"),
        lambda place: WENT_ON if cached_rows(place / "cache") else SAME,
    )


def kill_corpus_pass(nursery, folder, n):
    """Kill -9 in a corpus pass with a checkpoint."""

    def kept(place):
        if not (place / "m").exists():
            return SAME
        assert Moments.load(place / "m").n_rows > 0
        return WENT_ON

    return _killed(
        nursery,
        folder,
        n,
        lambda place: nursery.start("corpus_pass", place / "m", place / "d"),
        lambda place: chain_of(place / "d"),
        kept,
    )


def kill_save(nursery, folder, n):
    """Kill -9 in save_pretrained in the place of another distiller."""
    sources = [folder / f"seed{seed}" for seed in (1, 2)]
    for seed, source in enumerate(sources, start=1):
        assert nursery.run("fit_and_save", source, seed).code == 0
    wholes = {chain_of(source) for source in sources}

    def start(place):
        if not (place / "d").exists():
            ReverseDistiller.from_pretrained(sources[0]).save_pretrained(place / "d")
        return nursery.start("load_and_save", sources[1], place / "d")

    def kept(place):
        try:
            return SAME if chain_of(place / "d") in wholes else "neither old nor new"
        except ValueError as error:
            return repr(error)

    return _killed(nursery, folder / "killed", n, start, lambda p: chain_of(p / "d"), kept)


def kill_one_of_two(nursery, folder, n, inputs):
    """Kill -9 of one of two processes on one cache."""
    others = []

    def start(place):
        name = f"other{len(others)}.npz"
        others.append((nursery.start("embed", inputs, place / "cache", place / name), place, name))
        return nursery.start("embed", inputs, place / "cache", place / "z.npz")

    def kept(place):
        return WENT_ON if cached_rows(place / "cache") else SAME

    def numbers(place):
        found = {table_of(place / "z.npz")}
        while others:
            child, where, name = others.pop()
            end = child.wait()
            assert end.code == 0 and "does not work" not in end.text, end.text
            found.add(table_of(where / name))
        return found

    return _killed(nursery, folder, n, start, numbers, kept)


def cached_rows(folder):
    """Return how many rows a cache holds; raises where it is not whole."""
    if not folder.exists():
        return 0
    # As the next call does, which also takes back what a killed one had begun.
    EmbeddingCache(folder).close()
    return sum(space["n_sequences"] for space in cache_info(folder)[0])


def many_on_one_cache(nursery, folder, n_processes, inputs, expected):
    """Embed in many processes at once, with one new cache."""
    folder.mkdir(exist_ok=True)
    children = [
        nursery.start("embed", inputs, folder / "cache", folder / f"{i}.npz")
        for i in range(n_processes)
    ]
    outcomes: Counter = Counter()
    for i, child in enumerate(children):
        end = child.wait()
        if end.code != 0 or "Warning" in end.text:
            outcomes[f"{end.code}: {end.text[-300:]}"] += 1
        else:
            rows = np.frombuffer(table_of(folder / f"{i}.npz"), dtype=np.float32)
            wrong = int((np.abs(rows - np.frombuffer(expected, dtype=np.float32)) > 1e-5).sum())
            outcomes[f"{wrong} wrong" if wrong else SAME] += 1
    return outcomes


def forks(nursery, n, n_threads):
    """Fork while a thread embeds, loads or downloads, and while none does."""
    outcomes: Counter = Counter()
    for what in ("rests", "embeds", "loads", "downloads"):
        end = nursery.run("fork_beside", what, n, n_threads)
        assert end.code == 0, (what, end.code, end.text)
        ends = json.loads(end.text.splitlines()[-1])
        outcomes[SAME] += ends.pop("same")
        outcomes.update({f"{key} when it {what}": v for key, v in ends.items() if v})
    return outcomes


def cold_forks(n):
    """Fork while threads embed for the first time, in a process that has imported nothing."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        "OMP_NUM_THREADS": "1",
    }
    command = f"import tasks; tasks.fork_cold({n})"
    run = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    ends = json.loads(run.stdout.splitlines()[-1])
    outcomes = Counter({SAME: ends.pop("same")})
    outcomes.update({f"{key} in the cold": v for key, v in ends.items() if v})
    if set(outcomes) != {SAME}:
        print(run.stderr)  # where each child was that hangs
    return outcomes


def worker_death(nursery, backend):
    """Kill a worker in transform with n_jobs=2."""
    end = nursery.start("one_of_two_workers_dies", backend).wait(patience=300)
    assert end.code == 0, end.text
    typed = "typed error: A worker died" in end.text
    return Counter([TYPED if typed else SAME if "completed" in end.text else end.text])


def left_over(folder):
    """Return the temporary files below a folder."""
    return [path for path in Path(folder).rglob("*") if ".tmp" in path.name]


def figures_of_many_calls(nursery, n, cache):
    """Return open files and memory in kB before some calls, and after."""
    end = nursery.run("many_calls", n, cache)
    assert end.code == 0, end.text
    return json.loads(end.text.splitlines()[-1])
