"""Proteins to files: seconds beside ``transform`` in memory, and the memory of many proteins.

    python benchmarks/bench_embed_to.py [--proteins 20000] [--peptides 1000000] [--kinds .h5 .parquet]

Two tables. The first embeds UniProt-like proteins (the bundled sample, and shuffled copies of it)
with esm2-nano: ``transform`` on the list held in memory and the chain on its result, ``embed_to``
into each kind of file, and a plain loop over transformers' own models, one protein at a time, on a
part of them. Contestants alternate, each in a process of its own; the files must hold the same rows.
The second runs ``embed_to`` over short peptides that are made as they are read, with a stub in place
of the models, and gives the peak memory of the calling process, of which the arithmetic for ten
million follows. ``--peptides 0`` leaves it out. Results are printed and written as JSON (``--output``).
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FILES = {".h5": None, ".h5 matrix": "matrix", ".parquet": None, "folder": None}
# Of the plain loop, a share of the proteins: it is not the peer that we are timed by.
SHARE = 20


def proteins_of(n):
    """Return n proteins of the lengths and letters of the bundled sample."""
    from revdist_sklearn.datasets import load_uniprot_sample

    rng = np.random.default_rng(0)
    sequences = load_uniprot_sample().sequences
    found = []
    for i in range(n):
        sequence = sequences[i % len(sequences)]
        if i >= len(sequences):
            sequence = "".join(rng.permutation([*sequence]))
        found.append((f"P{i:07d}", sequence))
    return found


def peak():
    """Return the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parts():
    """Return featurizer and distiller, loaded."""
    from revdist_sklearn import ESMFeaturizer, ReverseDistiller

    featurizer = ESMFeaturizer("esm2-nano")
    featurizer.transform(["MKTAYIAKQR"])
    return featurizer, ReverseDistiller.from_pretrained("esm2-nano")


def in_memory(n, folder):
    """Embed a list that is held in memory."""
    proteins, (featurizer, distiller) = proteins_of(n), parts()
    before, start = peak(), time.perf_counter()
    Z = distiller.transform(featurizer.transform([sequence for _, sequence in proteins]))
    seconds = time.perf_counter() - start
    np.save(Path(folder) / "expected.npy", Z)
    return {"seconds": seconds, "MB": peak() - before, "bytes": Z.nbytes}


def to_file(n, folder, kind):
    """Embed to a file, and compare its rows with those in memory."""
    from revdist_sklearn import embed_to, load_embeddings

    proteins, (featurizer, distiller) = proteins_of(n), parts()
    output = Path(folder) / f"z{kind.split()[0] if kind != 'folder' else ''}"
    before, start = peak(), time.perf_counter()
    embed_to(output, featurizer, proteins, distiller=distiller, layout=FILES[kind])
    seconds = time.perf_counter() - start
    figures = {"seconds": seconds, "MB": peak() - before}
    paths = output.glob("*.safetensors") if output.is_dir() else [output]
    figures["bytes"] = sum(path.stat().st_size for path in paths)
    expected = np.load(Path(folder) / "expected.npy")
    with load_embeddings(output) as found:
        Z = found.to_numpy()
        order = {name: i for i, name in enumerate(found.names)}
    Z = Z[[order[name] for name, _ in proteins]]
    figures["difference"] = float(np.abs(Z - expected).max())
    return figures


def plain(n, folder):
    """Run transformers' own models, one protein at a time, on a part of the proteins."""
    import torch
    import transformers
    from transformers import EsmModel, EsmTokenizer

    import revdist_sklearn

    transformers.logging.set_verbosity_error()
    weights = Path(revdist_sklearn.__file__).parent / "weights"
    proteins = proteins_of(n)[:: max(1, SHARE)]
    models = []
    for name in ("esm2_nano_032", "esm2_nano_064", "esm2_nano_096"):
        tokenizer = EsmTokenizer.from_pretrained(weights / name)
        models.append((tokenizer, EsmModel.from_pretrained(weights / name).eval()))
    start = time.perf_counter()
    with torch.inference_mode():
        for _, sequence in proteins:
            for tokenizer, model in models:
                states = model(**tokenizer(sequence, return_tensors="pt")).last_hidden_state
                states[0, 1:-1].mean(dim=0)
    total, some = (sum(len(s) for _, s in part) for part in (proteins_of(n), proteins))
    return {"seconds": (time.perf_counter() - start) * total / some, "projected": True}


class Stub:
    """In place of the models: rows of a number a sequence, at once."""

    def __init__(self, plan, *_):
        self.plan = plan

    def of(self, sequences):
        """Return a row for each sequence."""
        lengths = np.array([len(sequence) for sequence in sequences], dtype=np.float32)
        return np.repeat(lengths[:, None], self.plan.blocks.n_columns, axis=1)


def peptides(n):
    """Yield n distinct short peptides as they are wanted."""
    letters = "ACDEFGHIKLMNPQRSTVWY"
    for i in range(n):
        digits, number = [], i
        for _ in range(12):
            number, digit = divmod(number, 20)
            digits.append(letters[digit])
        yield f"pep{i:09d}", "".join(digits)


def many(n, folder):
    """Run over peptides through the stub, and say what the calling process held."""
    from revdist_sklearn import ESMFeaturizer, embed_to
    from revdist_sklearn.library import _block

    _block.ProteinRows = Stub
    featurizer = ESMFeaturizer("esm2-nano")
    before, start = peak(), time.perf_counter()
    report = embed_to(Path(folder) / "many", featurizer, peptides(n))
    seconds = time.perf_counter() - start
    assert report.n_proteins == n
    return {"seconds": seconds, "MB before": before, "MB": peak(), "shards": report.n_shards}


def measured(what, *arguments):
    """Run a contestant in a process of its own, and return its figures."""
    command = [sys.executable, __file__, "--run", what, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proteins", type=int, default=20_000)
    parser.add_argument("--peptides", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=[*FILES], default=[*FILES])
    parser.add_argument("--output", default="bench_embed_to.json")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        what, n, *rest = arguments.run
        print(json.dumps(globals()[what](int(n), *rest)))
        return
    n, found = arguments.proteins, {}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            found.setdefault("transform in memory", []).append(measured("in_memory", n, folder))
            for kind in arguments.kinds:
                found.setdefault(f"embed_to, {kind}", []).append(
                    measured("to_file", n, folder, kind)
                )
            found.setdefault("transformers, one at a time (projected)", []).append(
                measured("plain", n, folder)
            )
    base = [run["seconds"] for run in found["transform in memory"]]
    print(f"\n{n:,} proteins, esm2-nano, {os.cpu_count()} cores, {arguments.rounds} round(s)\n")
    print("| | seconds | times transform | MB above the models | MB on disk | difference |")
    print("|---|---|---|---|---|---|")
    for name, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        ratio = statistics.median(s / b for s, b in zip(seconds, base, strict=True))
        last = runs[-1]
        memory = f"{last['MB']:.0f}" if "MB" in last else "-"
        size = f"{last['bytes'] / 1e6:.1f}" if "bytes" in last else "-"
        difference = f"{last['difference']:.0e}" if "difference" in last else "-"
        print(
            f"| {name} | {statistics.median(seconds):.1f} | {ratio:.2f} | {memory} | {size} | "
            f"{difference} |"
        )
    if not arguments.peptides:
        Path(arguments.output).write_text(json.dumps({"proteins": found}, indent=1))
        return
    some = []
    for k in (arguments.peptides // 10, arguments.peptides):
        with tempfile.TemporaryDirectory() as folder:
            some.append({"peptides": k, **measured("many", k, folder)})
    print("\nPeptides through a stub, 192 columns\n")
    print("| peptides | seconds | shards | MB before | peak MB |")
    print("|---|---|---|---|---|")
    for row in some:
        print(
            f"| {row['peptides']:,} | {row['seconds']:.1f} | {row['shards']} | "
            f"{row['MB before']:.0f} | {row['MB']:.0f} |"
        )
    slope = (some[1]["MB"] - some[0]["MB"]) / (some[1]["peptides"] - some[0]["peptides"])
    million = some[1]["MB"] + slope * (10_000_000 - some[1]["peptides"])
    print(f"\nAt 10 million, by the difference of the two: {million:.0f} MB")
    figures = {"proteins": found, "peptides": some, "MB at 10 million": million}
    Path(arguments.output).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
