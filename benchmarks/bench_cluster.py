"""What a corpus pass on a Dask cluster sends back, before and after spans: bytes and merging.

Two worker processes sum made-up rows of 2,700 columns, in a task a piece that returns its D x D
moments, as it was before, and in spans of pieces, four a worker at most::

    pip install distributed
    python benchmarks/bench_cluster.py

The rows cost nothing to make, so that seconds are those of sums and transport. Pieces are small
here; what one sends back does not depend on its residues. Below the measured figures stand
those of ten million proteins, by the bytes and seconds of one moments. Results are printed and
written as JSON (``--output``).
"""

import argparse
import importlib.metadata
import json
import os
import pickle
import platform
import time
from pathlib import Path
from statistics import median

import joblib
import numpy as np

from revdist_sklearn import Moments, _corpus
from revdist_sklearn.base._blocks import Blocks
from revdist_sklearn.datasets import load_uniprot_sample
from revdist_sklearn.embedding import _workers
from revdist_sklearn.embedding._sequences import runs

WIDTHS = 320, 480, 640, 1260
PROTEINS, WORKERS = 10_000_000, 64


class Plan:
    """What corpus_moments asks of a plan."""

    device, members, silent = "cpu", (), True

    def __init__(self, widths):
        self.blocks = Blocks(widths, [f"block_{i}" for i in range(len(widths))])

    def prepare(self, sequences):
        """Return the sequences."""
        return list(sequences)


class Stub:
    """A featurizer whose rows cost nothing."""

    pooling, device, verbose = "mean", "cpu", 0

    def __init__(self, widths):
        self.widths = widths

    def embedding_plan(self, level):
        """Return a plan without models."""
        return Plan(self.widths)

    def iter_residues(self, sequences):
        """Yield the same rows for all proteins."""
        lengths = [len(sequence) for sequence in sequences]
        rng = np.random.default_rng(len(sequences))
        rows = rng.standard_normal((sum(lengths), sum(self.widths)), dtype=np.float32)
        yield rows, np.repeat(np.arange(len(lengths)), lengths)


def pieces_in_order(featurizer, sequences, n_jobs):
    """Return the moments of a corpus as it was: a task a piece, in waves of two a worker."""
    plan = featurizer.embedding_plan("residue")
    moments = Moments(plan.blocks.sizes, block_names=plan.blocks.names)
    cuts = runs([len(sequence) for sequence in sequences], _corpus.PIECE_RESIDUES)
    tasks = ((featurizer, sequences[a:b], a, "residue", None) for a, b in cuts)
    wave, _workers.WAVE = _workers.WAVE, 2
    try:
        for piece in _workers.in_order(_corpus.piece_moments, tasks, n_jobs):
            moments.merge(piece)
    finally:
        _workers.WAVE = wave
    return moments


def in_spans(featurizer, sequences, n_jobs):
    """Return the same as it is."""
    return _corpus.corpus_moments(featurizer, sequences, n_jobs=n_jobs)


class Received:
    """Counts the bytes that the scheduler and the client read, both of this process."""

    def __init__(self):
        from distributed.comm import tcp

        self.n_bytes, self.from_frames = 0, tcp.from_frames
        tcp.from_frames = self

    def __call__(self, frames, *arguments, **options):
        """Count some frames, and return what they become."""
        self.n_bytes += sum(memoryview(frame).nbytes for frame in frames)
        return self.from_frames(frames, *arguments, **options)


def measure(gather, received, featurizer, sequences, n_jobs=None):
    """Return seconds, bytes, and how often and how long was merged, of one pass."""
    merge, merges = Moments.merge, []

    def timed(self, other):
        begun = time.perf_counter()
        merge(self, other)
        merges.append(time.perf_counter() - begun)
        return self

    before, begun = received.n_bytes, time.perf_counter()
    Moments.merge = timed
    try:
        with joblib.parallel_config(backend="dask"):
            moments = gather(featurizer, sequences, n_jobs)
    finally:
        Moments.merge = merge
    return moments, {
        "seconds": time.perf_counter() - begun,
        "bytes": received.n_bytes - before,
        "moments": len(merges),
        "merging": sum(merges),
        "one merge": median(merges),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pieces", type=int, default=24)
    parser.add_argument("--residues", type=int, default=2048, help="of a piece")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--output", type=Path, default=Path("bench_cluster.json"))
    args = parser.parse_args()
    import distributed

    _corpus.PIECE_RESIDUES = args.residues
    sequences = ["M" * 256] * (args.pieces * args.residues // 256)
    featurizer, columns, rows = Stub(tuple(args.widths)), sum(args.widths), {}
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        received = Received()
        few = sequences[: args.residues // 64]
        for gather in (pieces_in_order, in_spans):  # workers import
            measure(gather, received, featurizer, few)
        expected, rows["a task a piece"] = measure(
            pieces_in_order, received, featurizer, sequences
        )
        moments, rows["spans of pieces"] = measure(in_spans, received, featurizer, sequences)
    error = np.abs(moments.scatter - expected.scatter).max() / np.abs(expected.scatter).max()
    one = len(pickle.dumps(moments))
    mean_length = float(np.mean([len(s) for s in load_uniprot_sample().sequences]))
    n_pieces = int(PROTEINS * mean_length / 2**16)
    n_spans = _corpus.SPANS * WORKERS
    merge = rows["spans of pieces"]["one merge"]
    large = {
        name: {"moments": n, "bytes": n * one, "merging": n * merge}
        for name, n in {"a task a piece": n_pieces, "spans of pieces": n_spans}.items()
    }
    result = {
        "machine": {
            "threads": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "load before": os.getloadavg(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "distributed")},
        },
        "columns": columns,
        "pieces": args.pieces,
        "bytes of one moments": one,
        "largest relative difference": float(error),
        "measured": rows,
        "ten million proteins": large,
    }
    print(json.dumps(result["machine"], indent=1))
    print(
        f"\n{columns:,} columns, {args.pieces} pieces of {args.residues:,} residues, 2 workers\n"
    )
    print(
        "| | seconds | moments sent back | MB to the scheduler and on to us | seconds of merging |"
    )
    print("|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| {name} | {row['seconds']:.1f} | {row['moments']} | {row['bytes'] / 1e6:,.0f} | "
            f"{row['merging']:.2f} |"
        )
    print(f"\nLargest relative difference of the two scatters: {error:.0e}\n")
    print(
        f"Ten million proteins of {mean_length:.0f} residues, {WORKERS} workers, by {one / 1e6:.0f} "
        f"MB and {merge:.2f} s a moments\n"
    )
    print(
        "| | moments sent back | GB to the scheduler, and as many on to us | minutes of merging |\n|---|---|---|---|"
    )
    for name, row in large.items():
        print(
            f"| {name} | {row['moments']:,} | {row['bytes'] / 1e9:,.0f} | "
            f"{row['merging'] / 60:.1f} |"
        )
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
