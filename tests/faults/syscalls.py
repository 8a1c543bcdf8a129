"""Writers that are killed at each of their system calls, by strace.

A writer stops itself as it begins to write; strace takes hold of it and kills it at its n-th
call that changes a file, before the call does anything.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import rows

from revdist_sklearn import Moments

# Those that change what is on a disk; between two of them a kill finds the same.
CALLS = (
    "write,pwrite64,writev,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,"
    "link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,chmod,fchmod,fchmodat"
)
BEGINS = "revdist_sklearn.base._files.destination"


@dataclass(frozen=True)
class Writer:
    """One that is killed.

    Parameters
    ----------
    task : str
        Of :mod:`tasks`.

    arguments : callable
        Takes the folder of shared inputs and a folder of its own, and returns those of the task.

    numbers : callable
        Takes its folder and returns what it has written, as bytes; raises where that is no good.

    begins, nth : str, int, default=BEGINS, 1
        The call of which function is where it begins to write.

    output : str, default=None
        Of its folder what must be old or new; None where there may be less than that.

    n_calls : int, default=None
        Of one that does more than to write, the calls that it writes by.

    clears : str, default=None
        Of its folder what is there meanwhile, and is gone after it.
    """

    task: str
    arguments: object
    numbers: object
    begins: str = BEGINS
    nth: int = 1
    output: str | None = None
    n_calls: int | None = None
    clears: str | None = None


def moments_of(path):
    """Return the numbers of moments on disk, as bytes."""
    moments = Moments.load(path)
    return moments.residue.mean.tobytes() + moments.residue.scatter.tobytes()


WRITERS = {
    "Moments.save": Writer(
        "save_moments",
        lambda inputs, folder: (folder / "m", 2),
        lambda folder: moments_of(folder / "m"),
        output="m",
    ),
    "save_pretrained": Writer(
        "load_and_save",
        lambda inputs, folder: (inputs / "distiller", folder / "d"),
        lambda folder: rows.chain_of(folder / "d"),
        begins="revdist_sklearn.method._distiller_file.check_folder",
        output="d/chain.safetensors",
    ),
    "rows of a cache": Writer(
        "use_cache",
        lambda inputs, folder: (folder / "c",),
        lambda folder: str(rows.cached_rows(folder / "c")).encode(),
        begins="revdist_sklearn.embedding._cache.place_of",
    ),
    "the second checkpoint of a corpus pass": Writer(
        "corpus_pass",
        lambda inputs, folder: (folder / "m", folder / "d"),
        lambda folder: rows.chain_of(folder / "d"),
        nth=2,
        n_calls=8,
    ),
    "revdist embed": Writer(
        "embed",
        lambda inputs, folder: (inputs, folder / "c", folder / "z.npz"),
        lambda folder: rows.table_of(folder / "z.npz"),
        output="z.npz",
        clears="z.npz.shards",
    ),
    "revdist evaluate": Writer(
        "evaluate",
        lambda inputs, folder: (inputs, folder / "s.json"),
        lambda folder: rows.scores_of(folder / "s.json"),
        output="s.json",
    ),
    "revdist demo": Writer(
        "demo",
        lambda inputs, folder: (folder,),
        lambda folder: (folder / "revdist_demo.png").read_bytes(),
        output="revdist_demo.png",
    ),
}


@cache
def why_not():
    """Return why strace cannot be used here; None where it can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        ended = subprocess.run(
            [*_strace(sleeper.pid), "-o", os.devnull], capture_output=True, text=True, timeout=1
        )
        return f"strace may not trace here: {ended.stderr.strip()}" if ended.returncode else None
    except subprocess.TimeoutExpired:
        return None
    finally:
        sleeper.kill()
        sleeper.wait()


def _strace(pid):
    return ["strace", "-f", "-qq", "-e", f"trace={CALLS}", "-p", str(pid)]


@contextmanager
def _held(nursery, writer, inputs, folder, options):
    """Yield a writer that goes on from where it begins to write, in the hands of strace."""
    words = writer.arguments(inputs, folder)
    child = nursery.start(
        writer.task, *words, at=writer.begins, do=int(signal.SIGSTOP), nth=writer.nth
    )
    _until(lambda: _told(child.pid, "State:") in "TZ")
    with subprocess.Popen([*_strace(child.pid), *options]) as tracer:
        _until(lambda: _told(child.pid, "TracerPid:") != "0" or tracer.poll() is not None)
        os.kill(child.pid, signal.SIGCONT)
        yield child


def _told(pid, name):
    status = Path(f"/proc/{pid}/status").read_text()
    return status.split(name)[1].split()[0] if name in status else "Z"


def _until(true, patience=300):
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def calls_of(nursery, writer, inputs, folder):
    """Return the calls of a writer that nothing disturbs: name, and which of that name."""
    log = folder.with_suffix(".log")
    with _held(nursery, writer, inputs, folder, ["-o", str(log)]) as child:
        end = child.wait()
    assert end.code == 0, end.text
    names = re.findall(r"^(?:\d+ +)?(\w+)\(", log.read_text(), re.MULTILINE)
    return [(name, names[: i + 1].count(name)) for i, name in enumerate(names)]


def kill_at_each(nursery, writer, inputs, folder, step=1):
    """Kill a writer at each of its system calls, look, repeat the call, and compare.

    Parameters
    ----------
    step : int, default=1
        Of how many calls there is a kill at one; there is one at the last.

    Returns
    -------
    outcomes : Counter
        Of :data:`rows.GOOD`; anything else says what was found.
    """
    outcomes: Counter = Counter()
    undisturbed = folder / "undisturbed"
    undisturbed.mkdir(parents=True)
    calls = calls_of(nursery, writer, inputs, undisturbed)[: writer.n_calls]
    expected = writer.numbers(undisturbed)
    for call, nth in reversed(calls[::-step]):
        place = folder / f"{call}-{nth}"
        place.mkdir()
        if writer.output:  # what stands there before is another's
            (place / writer.output).parent.mkdir(exist_ok=True)
            (place / writer.output).write_bytes(b"old")
        inject = ["-e", f"inject={call}:signal=KILL:when={nth}", "-o", os.devnull]
        with _held(nursery, writer, inputs, place, inject) as child:
            end = child.wait()
        if end.code == -signal.SIGKILL:
            outcomes[_left(nursery, writer, inputs, place, expected)] += 1
        elif end.code:
            outcomes[f"before the kill: {end.code}: {end.text[-300:]}"] += 1
        else:  # what writes at a time of its own has fewer calls now and then
            outcomes[rows.SAME] += writer.numbers(place) == expected
        shutil.rmtree(place)
    return outcomes


def _left(nursery, writer, inputs, place, expected):
    """Return what came of one that was killed."""
    if writer.output and (place / writer.output).read_bytes() != b"old":
        try:
            if writer.numbers(place) != expected:
                return "neither old nor new"
        except Exception as error:
            return f"not whole: {error!r}"
    went_on = writer.output is None and any(place.iterdir())
    end = nursery.run(writer.task, *writer.arguments(inputs, place))
    if end.code != 0:
        return f"repeated: {end.code}: {end.text[-300:]}"
    if writer.numbers(place) != expected:
        return "other numbers"
    if rows.left_over(place) or (writer.clears and (place / writer.clears).exists()):
        return "a temporary file is left"
    return rows.WENT_ON if went_on else rows.SAME
