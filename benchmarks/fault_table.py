"""The table of faults: how often each was brought about, and what came of it.

The rows of ``tests/faults``, which runs them a few times, here as often as asked for::

    python benchmarks/fault_table.py --times 30

Each call that a fault ended is repeated; its numbers are compared, bit for bit, with those of
an undisturbed call. The table is printed and the counts are written as JSON (``--output``).
Linux only.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

import rows
from nursery import Nursery

KILLED = {
    "fit and save_pretrained": "fit",
    "`revdist embed` with a cache": "embed",
    "corpus pass with a checkpoint": "corpus_pass",
    "save_pretrained over another distiller": "save",
    "one of two processes on one cache": "one_of_two",
}


def table(nursery, folder, times):
    """Yield the name of each row with its outcomes."""
    inputs = folder / "inputs"
    inputs.mkdir()
    end = nursery.run("write_inputs", inputs)
    assert end.code == 0, end.text
    for name, row in KILLED.items():
        needs = [inputs] if row in ("embed", "one_of_two") else []
        kill = getattr(rows, f"kill_{row}")
        yield f"kill -9: {name}", kill(nursery, folder / row, times, *needs)
    for backend in ("loky", "dask"):
        outcomes = sum((rows.worker_death(nursery, backend) for _ in range(3)), Counter())
        yield f"kill -9: a worker of two, {backend}", outcomes
    for n_threads in (1, 2):
        name = f"os.fork beside threads that load, embed or rest, torch with {n_threads}"
        yield name, rows.forks(nursery, times, n_threads)
    expected = rows.undisturbed(nursery, inputs, folder / "undisturbed")
    few = max(times // 10, 1)
    where = inputs, folder / "signals", few, expected
    yield f"SIGINT and SIGTERM in {len(rows.PHASES)} phases", rows.signals(nursery, *where)
    for n_jobs in (1, 2):
        outcomes = Counter()
        for number in rows.SIGNALS:
            outcomes += rows.struck_at_start(inputs, folder, number, few, n_jobs)
        yield f"SIGINT and SIGTERM in the first two seconds, n_jobs={n_jobs}", outcomes
    where = inputs, folder / "full", few, expected
    yield "full disk: cache, output, distiller, checkpoint", rows.full_disks(nursery, *where)
    yield "read-only folder", rows.read_only_folder(nursery, folder / "closed", few)
    where = inputs, folder / "gone", few, expected
    yield "folder of a cache removed while running", rows.folder_goes(nursery, *where)
    pickles = rows.pickled_weights(nursery, folder / "pickles", few)
    yield "pickles in a model folder, none of which runs", pickles
    outcomes = Counter()
    for i in range(few):
        place = folder / f"many{i}"
        outcomes += rows.many_on_one_cache(nursery, place, 8, inputs, expected["embed"])
    yield "eight processes on one new cache", outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=30, help="how often a row is run")
    parser.add_argument("--output", help="JSON file")
    arguments = parser.parse_args()
    found = {}
    columns = [rows.SAME, rows.WENT_ON, rows.TYPED, rows.ONE_LINE]
    with tempfile.TemporaryDirectory() as folder, Nursery() as nursery:
        os.chmod(folder, 0o755)  # nobody else is to write to a folder in it, but to enter
        print("|", " | ".join(["fault", *columns, "anything else"]), "|")
        print("|---" * (len(columns) + 2) + "|")
        for name, outcomes in table(nursery, Path(folder), arguments.times):
            other = sum(count for key, count in outcomes.items() if key not in columns)
            cells = [outcomes[column] for column in columns]
            print("|", " | ".join(map(str, [name, *cells, other])), "|", flush=True)
            found[name] = dict(outcomes)
        for cache in ("", Path(folder) / "flat"):
            (files, memory), (files_after, memory_after) = rows.figures_of_many_calls(
                nursery, 200, cache
            )
            name = f"200 calls of transform, {'with' if cache else 'without'} a cache"
            print(f"\n{name}: {files_after - files:+d} files, {memory_after - memory:+d} kB")
            found[name] = {"files": files_after - files, "kB": memory_after - memory}
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
