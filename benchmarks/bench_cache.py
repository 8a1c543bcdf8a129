"""Stores for pooled embeddings, side by side: SQLite, LMDB and zarr.

Why the cache is SQLite. Rows of float32 under 16-byte keys are written in batches, as the
featurizer writes them, one transaction a batch, and read back in another order, each store
in processes of its own; two writers then share the work. Then look-ups in our cache as it
grows, and eight processes that write to it, whose rows wait for others or do not::

    pip install lmdb zarr
    python benchmarks/bench_cache.py

A store that is not installed is left out. A write is mostly the wait for the disk, once or more a
batch, so that ratios are those of one kind of disk. Results are printed and written as JSON
(``--output``).
"""

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH = 16
LOOK_UP = 500
TABLES = {640: 32_000, 5120: 4_000}  # rows by width
GROWTH = 10_000, 100_000, 1_000_000
# Of the table of many writers.
WRITERS, WRITERS_WIDTH, WRITERS_ROWS, BATCHES = 8, 1280, 2_000, (4, 16, 400)


def keys_of(start, stop):
    return [f"sequence {i:09d}" for i in range(start, stop)]


class SQLite:
    """The cache of this package."""

    package = "revdist_sklearn"

    def __init__(self, folder, width):
        from revdist_sklearn.embedding._cache import EmbeddingCache

        # One transaction a batch, as the others have it.
        self.cache, self.space = EmbeddingCache(folder, seconds=0), {"width": width}

    def put(self, keys, rows, start):
        """Write a batch in one transaction."""
        self.cache.put(self.space, keys, rows)

    def get(self, keys, places):
        """Return the rows of some keys."""
        return self.cache.get(self.space, keys)[1]


class WriteAhead(SQLite):
    """The same with SQLite's write-ahead log, which hosts cannot share."""

    def __init__(self, folder, width):
        super().__init__(folder, width)
        self.cache._connection.execute("PRAGMA journal_mode = WAL")


class LMDB:
    """A memory-mapped B-tree; its file has a size that must be chosen beforehand."""

    package = "lmdb"

    def __init__(self, folder, width):
        import lmdb

        Path(folder).mkdir(exist_ok=True)
        self.env, self.width = lmdb.open(str(folder), map_size=2**34), width

    def put(self, keys, rows, start):
        """Write a batch in one transaction."""
        with self.env.begin(write=True) as transaction:
            for key, row in zip(keys, rows, strict=True):
                transaction.put(key.encode(), row.tobytes())

    def get(self, keys, places):
        """Return the rows of some keys."""
        with self.env.begin() as transaction:
            blobs = [transaction.get(key.encode()) for key in keys]
        return np.array([np.frombuffer(blob, np.float32) for blob in blobs])


class Zarr:
    """A chunked array; which row is which sequence must be kept elsewhere, here nowhere."""

    package = "zarr"

    def __init__(self, folder, width):
        import zarr

        self.array = zarr.open_array(
            str(folder), mode="a", shape=(10**6, width), chunks=(BATCH, width), dtype="f4"
        )

    def put(self, keys, rows, start):
        """Write a batch, which is one chunk."""
        self.array[start : start + len(rows)] = rows

    def get(self, keys, places):
        """Return the rows of some places."""
        return self.array.oindex[np.array(places)]


STORES = {
    "SQLite, rollback journal (ours)": SQLite,
    "SQLite, write-ahead log": WriteAhead,
    "LMDB": LMDB,
    "zarr": Zarr,
}


def warm_up(name):
    """Import what a store needs, which is no part of its times."""
    with tempfile.TemporaryDirectory() as folder:
        STORES[name](Path(folder) / "none", 2)


def write(name, folder, width, start, stop):
    store = STORES[name](folder, width)
    rng = np.random.default_rng(start)
    rows = rng.standard_normal((BATCH, width), dtype=np.float32)
    begin = time.perf_counter()
    for i in range(start, stop, BATCH):
        store.put(keys_of(i, i + BATCH), rows, i)
    return begin, time.perf_counter()


def read(name, folder, width, n):
    store = STORES[name](folder, width)
    places = np.random.default_rng(0).permutation(n)
    begin = time.perf_counter()
    for i in range(0, n, LOOK_UP):
        chosen = places[i : i + LOOK_UP].tolist()
        rows = store.get([f"sequence {place:09d}" for place in chosen], chosen)
        assert rows.shape == (len(chosen), width)
    return time.perf_counter() - begin


def measure(name, width, n, pool):
    """Return seconds to write, read and write by two, and the bytes on disk for one byte."""
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "one"
        [(begin, end)] = pool.starmap(write, [(name, folder, width, 0, n)])
        writing = end - begin
        [reading] = pool.starmap(read, [(name, folder, width, n)])
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        both = Path(base) / "two"
        pool.starmap(write, [(name, both, width, 0, BATCH)])  # makes it
        half = n // 2 // BATCH * BATCH
        parts = [(name, both, width, 0, half), (name, both, width, half, 2 * half)]
        begins, ends = zip(*pool.starmap(write, parts, chunksize=1), strict=True)
        return {
            "write": writing,
            "read": reading,
            # One clock for all processes.
            "two writers": max(ends) - min(begins),
            "size": size / (n * width * 4),
        }


def measure_growth(width=32, n=100_000):
    """Return seconds of ``n`` look-ups in a growing cache, found and missing, and of its info."""
    from revdist_sklearn.embedding._cache import EmbeddingCache, cache_info

    space, results, start = {"width": width}, [], 0
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, EmbeddingCache(folder, seconds=0) as cache:
        for size in GROWTH:
            for i in range(start, size, 10_000):
                rows = rng.standard_normal((10_000, width), dtype=np.float32)
                cache.put(space, keys_of(i, i + 10_000), rows)
            start = size
            seconds = {}
            for kind, offset in (("found", 0), ("missing", 10**9)):
                keys = [f"sequence {i + offset:09d}" for i in rng.integers(size, size=n)]
                begin = time.perf_counter()
                found, _ = cache.get(space, keys)
                seconds[kind] = time.perf_counter() - begin
                assert len(found) == (n if kind == "found" else 0)
            begin = time.perf_counter()
            cache_info(folder)
            results.append({"rows": size, **seconds, "info": time.perf_counter() - begin})
    return results


def write_beside_others(folder, seconds, batch, n, place, barrier):
    """Write rows as one of many; return when it began and ended, and seconds of waiting."""
    from revdist_sklearn.embedding._cache import EmbeddingCache
    from revdist_sklearn.embedding._cache_place import place_of

    rng = np.random.default_rng(place)
    rows = rng.standard_normal((batch, WRITERS_WIDTH), dtype=np.float32)
    commits = []
    barrier.wait()
    begin = time.perf_counter()
    with EmbeddingCache(folder, seconds=seconds) as cache:
        cache._connection.set_trace_callback(
            lambda text: commits.append(text) if text == "COMMIT" else None
        )
        for i in range(0, n, batch):
            keys = keys_of(place * 10**6 + i, place * 10**6 + i + batch)
            cache.put({"width": WRITERS_WIDTH}, keys, rows)
    return begin, time.perf_counter(), place_of(folder).waited, len(commits)


def measure_writers(context, n):
    """Return what eight writers of one file take, by batch, with each batch on its own or not."""
    from revdist_sklearn.embedding._cache import cache_info

    results = []
    with context.Manager() as manager, context.Pool(WRITERS) as pool:
        for batch in BATCHES:
            for seconds in (0, None):
                with tempfile.TemporaryDirectory() as folder:
                    barrier = manager.Barrier(WRITERS)
                    tasks = [(folder, seconds, batch, n, i, barrier) for i in range(WRITERS)]
                    begins, ends, waits, commits = zip(
                        *pool.starmap(write_beside_others, tasks, chunksize=1), strict=True
                    )
                    [space] = cache_info(folder)[0]
                results.append(
                    {
                        "batch": batch,
                        "waits in memory": seconds is None,
                        "rows": space["n_sequences"],
                        "seconds": max(ends) - min(begins),
                        "waiting": float(np.mean(waits)),
                        "transactions": sum(commits),
                    }
                )
    return results


def version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, help=f"of both tables (default: {TABLES}, by width)")
    parser.add_argument("--output", type=Path, default=Path("bench_cache.json"))
    args = parser.parse_args()
    result = {
        "machine": {
            "threads": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "SQLite": sqlite3.sqlite_version,
            **{name: version_of(name) for name in ("numpy", "lmdb", "zarr")},
        },
        "tables": [],
    }
    print(json.dumps(result["machine"], indent=1))
    there = [name for name in STORES if importlib.util.find_spec(STORES[name].package)]
    for name in STORES.keys() - there:
        print(f"left out, not installed: {name}")
    context = multiprocessing.get_context("spawn")
    for width, n in TABLES.items():
        n = args.rows or n
        runs = {}
        for _ in range(args.rounds):
            for name in there:
                with context.Pool(2, initializer=warm_up, initargs=(name,)) as pool:
                    runs.setdefault(name, []).append(measure(name, width, n, pool))
        rows = [
            {"name": name, **{k: float(np.median([r[k] for r in of_store])) for k in of_store[0]}}
            for name, of_store in runs.items()
        ]
        result["tables"].append({"width": width, "n": n, "rows": rows})
        print(
            f"\n{n:,} rows of {width:,} float32, batches of {BATCH}, seconds, median of "
            f"{args.rounds} rounds\n"
        )
        print("| | write | read | two writers | bytes on disk for one |\n|---|---|---|---|---|")
        for row in rows:
            print(
                f"| {row['name']} | {row['write']:.2f} | {row['read']:.2f} | "
                f"{row['two writers']:.2f} | {row['size']:.2f} |"
            )
    result["growth"] = measure_growth()
    print(
        "\n100,000 look-ups, seconds\n\n| rows in the cache | found | missing | info |\n|---|---|---|---|"
    )
    for row in result["growth"]:
        print(
            f"| {row['rows']:,} | {row['found']:.2f} | {row['missing']:.2f} | {row['info']:.3f} |"
        )
    result["writers"] = measure_writers(context, args.rows or WRITERS_ROWS)
    print(
        f"\n{WRITERS} processes that write {args.rows or WRITERS_ROWS:,} rows of {WRITERS_WIDTH:,} "
        "each to one file\n\n| rows a batch | | transactions | rows a second | seconds | "
        "of these a process waits for others |\n|---|---|---|---|---|---|"
    )
    for row in result["writers"]:
        how = "with later ones" if row["waits in memory"] else "at once"
        print(
            f"| {row['batch']} | {how} | {row['transactions']:,} | "
            f"{row['rows'] / row['seconds']:,.0f} | {row['seconds']:.2f} | {row['waiting']:.2f} |"
        )
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
