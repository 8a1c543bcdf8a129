"""What the models of ESM-2 weigh, and how long they take on a CPU.

Parameters are counted on models without memory ("meta"), made from the sizes of the published
configurations; bytes follow from them, and those of moments from the widths. Seconds per 1,000
residues are measured, for the models that ``--measure`` names, with random weights, which take as
long as trained ones, on real proteins, and with as many threads as the environment allows: those of
the processor, which other work on the machine moves little, and those of the clock::

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/bench_models.py

Each model embeds the proteins once to warm up, and then ``--rounds`` times; models take turns. What
was not measured has a dash. Prints a table and writes JSON (``--output``).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from bench_featurizer import TOKENS, config_of, cpu, proteins
from transformers import EsmForMaskedLM, EsmModel, EsmTokenizer

from revdist_sklearn import ESMFeaturizer

# Width, layers and attention heads.
SHAPES = {
    "8M": (320, 6, 20),
    "35M": (480, 12, 20),
    "150M": (640, 30, 20),
    "650M": (1280, 33, 20),
    "3B": (2560, 36, 40),
    "15B": (5120, 48, 40),
}


def n_parameters(shape, head=False):
    """Return the parameters of the encoder that is run, or of the model with its head."""
    with torch.device("meta"):
        if head:
            model = EsmForMaskedLM(config_of(*SHAPES[shape]))
        else:
            model = EsmModel(config_of(*SHAPES[shape]), add_pooling_layer=False)
    return sum(p.numel() for p in model.parameters())


def save_model(folder, shape):
    torch.manual_seed(0)
    EsmModel(config_of(*SHAPES[shape]), add_pooling_layer=False).eval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(TOKENS))
    EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def seconds_per_1000(shapes, sequences, rounds, dtype):
    """Return, for each model, the seconds of each round (processor, clock), and its path."""
    scale = 1000 / sum(map(len, sequences))
    found = {shape: [] for shape in shapes}
    with tempfile.TemporaryDirectory() as base:
        featurizers = {
            shape: ESMFeaturizer(save_model(Path(base) / f"esm2_{shape}", shape), dtype=dtype)
            for shape in shapes
        }
        paths = {shape: next(iter(emb.packed_.values())) for shape, emb in featurizers.items()}
        for emb in featurizers.values():
            emb.transform(sequences)
        for _ in range(rounds):
            for shape, emb in featurizers.items():
                cpu_start, start = time.process_time(), time.perf_counter()
                emb.transform(sequences)
                spent = time.process_time() - cpu_start, time.perf_counter() - start
                found[shape].append([scale * t for t in spent])
    return found, paths


def size(n_bytes):
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if n_bytes >= unit:
            value = n_bytes / unit
            return f"{value:.0f} {name}" if value >= 100 else f"{value:.1f} {name}"
    return f"{n_bytes / 1e3:.0f} kB"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs="*", choices=SHAPES, default=["8M", "35M", "150M"])
    parser.add_argument("--proteins", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--output", type=Path, default=Path("bench_models.json"))
    args = parser.parse_args()
    sequences = proteins(args.proteins)
    seconds, paths = seconds_per_1000(args.measure, sequences, args.rounds, args.dtype)
    rows, columns, total = [], 0, 0
    for shape, (width, layers, _) in SHAPES.items():
        columns += width
        total += (n := n_parameters(shape))
        times = seconds.get(shape)
        rows.append(
            {
                "model": shape,
                "width": width,
                "layers": layers,
                "parameters": n,
                "parameters_with_head": n_parameters(shape, head=True),
                "bytes_float32": 4 * n,
                "bytes_float16": 2 * n,
                "chain_parameters": total,
                "chain_columns": columns,
                # Two levels, each columns x columns numbers of eight bytes.
                "bytes_moments": 2 * 8 * columns**2,
                "processor_and_clock": times and np.median(times, axis=0).tolist(),
                "rounds": times,
                "packed": paths.get(shape),
            }
        )
    result = {
        "threads": torch.get_num_threads(),
        "cpu": cpu(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "proteins": len(sequences),
        "residues": sum(map(len, sequences)),
        "dtype": args.dtype,
        "models": rows,
    }
    print(
        f"{result['threads']} thread(s) of {result['cpu']}; {args.dtype}; {len(sequences)} proteins, "
        f"{result['residues']:,} residues, the longest {max(map(len, sequences)):,}; median of "
        f"{args.rounds} rounds. Measured: {', '.join(args.measure) or 'nothing'}.\n"
    )
    print(
        "| model | parameters | columns | weights, float32 | float16 | columns of the chain to here "
        "| its moments | seconds per 1,000 residues | by the clock |\n|---|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        times = row["processor_and_clock"]
        shown = "- | -" if times is None else " | ".join(f"{t:.2f}" for t in times)
        print(
            f"| {row['model']} | {row['parameters'] / 1e6:,.1f} million | {row['width']:,} | "
            f"{size(row['bytes_float32'])} | {size(row['bytes_float16'])} | "
            f"{row['chain_columns']:,} | {size(row['bytes_moments'])} | "
            f"{shown} |"
        )
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
