"""Embedding on a CPU, side by side: this package, the authors' loop, and plain transformers.

Models of ESM-2's shapes with random weights embed the lengths of real proteins, and
peptides; contestants alternate, and ratios are medians over the rounds. Two more tables show
what the cache and ``compact`` save::

    pip install -e ".[bench]"
    pip install --no-deps fair-esm
    python benchmarks/bench_featurizer.py

Without fair-esm, the loop that the authors of reverse distillation embed with, its rows are
left out. Results are printed and written as JSON (``--output``).
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import EsmConfig, EsmModel, EsmTokenizer

from revdist_sklearn import (
    ESMFeaturizer,
    PrefixSelector,
    ReverseDistiller,
    compact,
    corpus_moments,
)
from revdist_sklearn.datasets import load_uniprot_sample

# Width, layers and attention heads.
SHAPES = {"8M": (320, 6, 20), "35M": (480, 12, 20), "150M": (640, 30, 20)}
TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"


# ---------------------------------------------------------------------- models and data


def config_of(width, layers, heads):
    return EsmConfig(
        vocab_size=len(TOKENS),
        mask_token_id=TOKENS.index("<mask>"),
        pad_token_id=TOKENS.index("<pad>"),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=1026,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
    )


def save_model(folder, shape):
    config = config_of(*SHAPES[shape])
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    EsmModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(TOKENS))
    EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def proteins(n):
    """Return real proteins, spread over the lengths of the sample."""
    sequences = sorted(load_uniprot_sample().sequences, key=len)
    chosen = [sequences[i] for i in np.linspace(0, len(sequences) - 1, n).round().astype(int)]
    return [chosen[i] for i in np.random.default_rng(0).permutation(n)]


def peptides(n):
    rng = np.random.default_rng(1)
    return ["".join(rng.choice(list(AMINO_ACIDS), rng.integers(15, 51))) for _ in range(n)]


# -------------------------------------------------------------------------- contestants


class Plain:
    """Transformers' own model and scaled dot-product attention, as one writes the loop."""

    def __init__(self, folder):
        self.model = EsmModel.from_pretrained(folder, add_pooling_layer=False).eval()
        self.ids = {token: i for i, token in enumerate(TOKENS)}

    def tokens(self, sequence):
        return [0, *(self.ids[letter] for letter in sequence), 2]

    def one_at_a_time(self, sequences):
        out = []
        with torch.inference_mode():
            for sequence in sequences:
                ids = torch.tensor([self.tokens(sequence)])
                out.append(self.model(input_ids=ids).last_hidden_state[0, 1:-1].mean(0).numpy())
        return np.array(out)

    def padded(self, sequences, batches):
        out = np.empty((len(sequences), self.model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for batch in batches:
                rows = [torch.tensor(self.tokens(sequences[i])) for i in batch]
                ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
                states = self.model(input_ids=ids, attention_mask=(ids != 1).long())
                for i, row, s in zip(batch, rows, states.last_hidden_state, strict=True):
                    out[i] = s[1 : len(row) - 1].mean(0).numpy()
        return out

    def in_input_order(self, sequences, size=8):
        n = len(sequences)
        return self.padded(sequences, [range(i, min(i + size, n)) for i in range(0, n, size)])

    def sorted_by_length(self, sequences, budget=1024):
        batches, batch = [], []
        for i in sorted(range(len(sequences)), key=lambda i: -len(sequences[i])):
            if batch and (len(batch) + 1) * (len(sequences[batch[0]]) + 2) > budget:
                batches.append(batch)
                batch = []
            batch.append(i)
        return self.padded(sequences, [*batches, batch])


class FairESM:
    """The loop of fair-esm with its batches of 4,096 tokens; the same weights."""

    def __init__(self, folder, shape):
        import esm

        width, layers, heads = SHAPES[shape]
        self.layers = layers
        self.esm = esm
        self.alphabet = esm.Alphabet.from_architecture("ESM-1b")
        self.model = esm.ESM2(layers, width, heads, self.alphabet).eval()
        state = EsmModel.from_pretrained(folder, add_pooling_layer=False).state_dict()
        ours = self.model.state_dict()
        for name, weight in state.items():
            renamed = self.renamed(name)
            if renamed in ours:
                ours[renamed].copy_(weight)

    @staticmethod
    def renamed(name):
        for old, new in (
            ("embeddings.word_embeddings", "embed_tokens"),
            ("encoder.emb_layer_norm_after", "emb_layer_norm_after"),
            ("encoder.layer.", "layers."),
            ("attention.self.query", "self_attn.q_proj"),
            ("attention.self.key", "self_attn.k_proj"),
            ("attention.self.value", "self_attn.v_proj"),
            ("attention.output.dense", "self_attn.out_proj"),
            ("attention.LayerNorm", "self_attn_layer_norm"),
            ("intermediate.dense", "fc1"),
            ("output.dense", "fc2"),
            (".LayerNorm", ".final_layer_norm"),
        ):
            name = name.replace(old, new)
        return name

    def __call__(self, sequences):
        names = list(map(str, range(len(sequences))))
        data = self.esm.FastaBatchedDataset(names, sequences)
        convert = self.alphabet.get_batch_converter()
        out = np.empty((len(sequences), self.model.embed_dim), np.float32)
        with torch.no_grad():
            for batch in data.get_batch_indices(4096, extra_toks_per_seq=1):
                labels, texts, ids = convert([data[i] for i in batch])
                states = self.model(ids, repr_layers=[self.layers])["representations"]
                for label, text, s in zip(labels, texts, states[self.layers], strict=True):
                    out[int(label)] = s[1 : len(text) + 1].mean(0).numpy()
        return out


def contestants(folder, shape):
    plain = Plain(folder)
    found = {
        "transformers, one at a time": plain.one_at_a_time,
        "transformers, sorted, 1,024 tokens": plain.sorted_by_length,
        "transformers, batches of 8 in input order": plain.in_input_order,
        "ESMFeaturizer": ESMFeaturizer(folder).transform,
    }
    try:
        found["authors' loop (fair-esm, 4,096 tokens)"] = FairESM(folder, shape)
    except ImportError:
        print("fair-esm is not installed: the authors' loop is left out")
    return found


# ------------------------------------------------------------------------- measurements


def seconds_of(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def race(folder, shape, sequences, rounds):
    """Return, for each contestant, its rate and the ratio of its speed to one at a time."""
    runs = {}
    functions = contestants(folder, shape)
    first = {name: function(sequences) for name, function in functions.items()}  # warm-up
    for _ in range(rounds):
        for name, function in functions.items():
            runs.setdefault(name, []).append(seconds_of(function, sequences)[0])
    base = "transformers, one at a time"
    residues = sum(map(len, sequences))
    return [
        {
            "name": name,
            "residues_a_second": residues / float(np.median(times)),
            "ratio": float(np.median(np.array(runs[base]) / np.array(times))),
            "difference": float(np.abs(first[name] - first[base]).max()),
        }
        for name, times in runs.items()
    ]


def cache_saving(folder, sequences):
    with tempfile.TemporaryDirectory() as cache:
        emb = ESMFeaturizer(folder, cache_dir=cache)
        ESMFeaturizer(folder).transform(sequences[:2])  # loads the model
        plain = seconds_of(ESMFeaturizer(folder).transform, sequences)[0]
        first, X = seconds_of(emb.transform, sequences)
        again, Y = seconds_of(emb.transform, sequences)
    assert (X == Y).all()
    return {"sequences": len(sequences), "without": plain, "first": first, "again": again}


def compact_saving(folders, sequences, rounds):
    """Return what predictions from a prefix of 320 cost with all models and with one."""
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    emb = ESMFeaturizer(folders)
    rd = ReverseDistiller().fit_moments(corpus_moments(emb, sequences, verbose=False))
    model = make_pipeline(emb, FrozenEstimator(rd), PrefixSelector(320), Ridge())
    model.fit(sequences, np.arange(len(sequences), dtype=float))
    small = compact(model)
    times = []
    for _ in range(rounds):
        whole, expected = seconds_of(model.predict, sequences)
        part, found = seconds_of(small.predict, sequences)
        times.append((whole, part))
    whole, part = np.array(times).T
    return {
        "whole": float(np.median(whole)),
        "compact": float(np.median(part)),
        "ratio": float(np.median(whole / part)),
        "difference": float(np.abs(expected - found).max()),
    }


# ---------------------------------------------------------------------------- the script


def cpu():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else []
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    widest = next((flag for flag in ("avx512f", "avx2") if flag in flags), "unknown")
    return f"{platform.machine()}, {widest}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("bench_featurizer.json"))
    args = parser.parse_args()
    result = {
        "machine": {
            "threads": torch.get_num_threads(),
            "cpu": cpu(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "races": [],
    }
    print(json.dumps(result["machine"], indent=1))
    with tempfile.TemporaryDirectory() as base:
        folders = {shape: save_model(Path(base) / f"esm2_{shape}", shape) for shape in SHAPES}
        for shape, kind, sequences in (
            ("8M", "proteins", proteins(20)),
            ("8M", "peptides", peptides(200)),
            ("35M", "proteins", proteins(6)),
            ("35M", "peptides", peptides(60)),
        ):
            rows = race(folders[shape], shape, sequences, args.rounds)
            residues = sum(map(len, sequences))
            result["races"].append({"shape": shape, "kind": kind, "rows": rows})
            ours = next(row for row in rows if row["name"] == "ESMFeaturizer")
            print(f"\nESM-2 {shape}, {len(sequences)} {kind}, {residues:,} residues\n")
            print("| | residues a second | speed | ours is faster by | difference |")
            print("|---|---|---|---|---|")
            for row in rows:
                print(
                    f"| {row['name']} | {row['residues_a_second']:,.0f} | {row['ratio']:.2f} | "
                    f"{ours['ratio'] / row['ratio']:.2f} | {row['difference']:.0e} |"
                )
        result["cache"] = saving = cache_saving(folders["8M"], peptides(1000))
        print(f"\nCache, ESM-2 8M, {saving['sequences']:,} peptides, seconds\n")
        print("| without a cache | first call | second call |\n|---|---|---|")
        print(f"| {saving['without']:.1f} | {saving['first']:.1f} | {saving['again']:.2f} |")
        chain = [folders[shape] for shape in SHAPES]
        result["compact"] = saving = compact_saving(chain, peptides(60), args.rounds)
        print("\ncompact, ESM-2 8M, 35M and 150M, prefix 320, 60 peptides, seconds of predict\n")
        print("| all models | compact | times faster | difference |\n|---|---|---|---|")
        print(
            f"| {saving['whole']:.2f} | {saving['compact']:.2f} | {saving['ratio']:.1f} | "
            f"{saving['difference']:.0e} |"
        )
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
