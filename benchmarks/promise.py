"""The promise, put to the test: kills, power cuts, flipped bits, writers without locks.

The tests do a part of it; here is all::

    python benchmarks/promise.py

Writers are killed at each system call that changes a file (with strace), and the same call is
repeated; power is cut under a file system of our own (as root); each bit of a small file is
flipped; and four processes write to one cache where locks do nothing. The table is printed and
the counts are written as JSON (``--output``). Linux only; what is not possible is left out, with
the reason.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

import power
import rows
import syscalls
import test_every_byte
from nursery import Nursery

PARTS = ("kills", "cuts", "bits", "locks")


def kills(nursery, folder, step):
    """Yield each writer with what came of kills at its system calls."""
    if syscalls.why_not():
        yield f"kill -9 at system calls: {syscalls.why_not()}", Counter()
        return
    inputs = folder / "inputs"
    inputs.mkdir()
    end = nursery.run("write_inputs", inputs)
    assert end.code == 0, end.text
    for i, (name, writer) in enumerate(syscalls.WRITERS.items()):
        place = folder / f"writer{i}"
        yield (
            f"kill -9 at each call that changes a file: {name}",
            syscalls.kill_at_each(nursery, writer, inputs, place, step),
        )


def cuts(nursery, folder, step):
    """Yield each writer with what came of power cuts."""
    if power.why_not():
        yield f"power cut: {power.why_not()}", Counter()
        return
    for i, name in enumerate(power.WRITES):
        outcomes: Counter = Counter()
        for n in range(max(5 // step, 1)):
            place = folder / f"cut{i}-{n}"
            place.mkdir()
            outcomes += power.cuts(place, name)
        yield f"power cut before and after the rename, and after the call: {name}", outcomes


def bits(nursery, folder, step):
    """Yield each kind of file with what came of a flip of each of its bits."""
    for name in ("distiller", "moments", "checkpoint", "cache"):
        place = folder / name
        place.mkdir()
        # A pass over a corpus comes to its checkpoint slowly: one bit of each byte.
        variants = "every_byte" if name == "checkpoint" or step > 1 else "every_bit"
        of = getattr(test_every_byte, name)
        found = Counter(of(place, getattr(test_every_byte, variants)))
        yield f"{variants.replace('_', ' ')} flipped: {name}", found


def locks(nursery, folder, step):
    """Yield what writers without locks found."""
    children = [
        nursery.start("use_cache_without_locks", folder / "c", 20, 1000 // step, seed)
        for seed in range(4)
    ]
    found: Counter = Counter()
    for child in children:
        end = child.wait(patience=600)
        assert end.code == 0, end.text
        found.update(json.loads(end.text.splitlines()[-1]))
    yield "four writers without locks", found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--step", type=int, default=1, help="leave out all but one of so many")
    parser.add_argument("--output", help="JSON file")
    arguments = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder, Nursery() as nursery:
        print("| what | outcomes | seconds |\n|---|---|---|")
        for part in arguments.parts:
            place = Path(folder) / part
            place.mkdir()
            began = time.monotonic()
            for name, outcomes in globals()[part](nursery, place, arguments.step):
                seconds, began = time.monotonic() - began, time.monotonic()
                said = ", ".join(f"{key}: {n:,}" for key, n in outcomes.most_common())
                print(f"| {name} | {said} | {seconds:.0f} |", flush=True)
                figures[name] = dict(outcomes)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(figures, indent=1) + "\n")
    # Of kills and cuts nothing else may come.
    bad = {
        key
        for name, found in figures.items()
        for key in found
        if name.startswith(("kill", "power")) and key not in rows.GOOD
    }
    wrong = sum(found.get("wrong", 0) for found in figures.values())
    sys.exit(f"broken: {wrong} wrong rows, {bad}" if bad or wrong else 0)


if __name__ == "__main__":
    main()
