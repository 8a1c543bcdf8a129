"""The table of faults: how often each was brought about, and what came of it.

The rows of ``tests/faults``, which runs them a few times, here as often as asked for::

    python benchmarks/fault_table.py --times 30

Each call that a fault ended is repeated; its numbers are compared, bit for bit, with those of
an undisturbed call. The table is printed and the counts are written as JSON (``--output``).
Linux only.
"""

import argparse
import json
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
    end = nursery.run("embed", inputs, folder / "c", folder / "z.npz")
    assert end.code == 0, end.text
    expected = rows.table_of(folder / "z.npz")
    yield (
        "eight processes on one new cache",
        sum(
            (
                rows.many_on_one_cache(nursery, folder / f"many{i}", 8, inputs, expected)
                for i in range(max(times // 8, 1))
            ),
            Counter(),
        ),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=30, help="how often a row is run")
    parser.add_argument("--output", help="JSON file")
    arguments = parser.parse_args()
    found = {}
    columns = [rows.SAME, rows.WENT_ON, rows.TYPED]
    with tempfile.TemporaryDirectory() as folder, Nursery() as nursery:
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
