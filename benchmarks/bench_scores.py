"""Scores of variants: look-ups in a table, and passes beside a plain loop and fair-esm.

A fitted scorer holds a table; a million single mutants of protein G B1 are scored from their
sequences, and from positions and letters. Then the table itself, one masked pass a residue,
beside a loop over transformers' own class, and, where it is installed, fair-esm on the same
weights, with the largest difference between their log probabilities::

    pip install fair-esm
    python benchmarks/bench_scores.py

Results are printed and written as JSON (``--output``).
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer

import revdist_sklearn
from revdist_sklearn import ESMVariantScorer, single_substitutions
from revdist_sklearn.datasets import load_gb1_stability
from revdist_sklearn.models._residues import AMINO_ACIDS
from revdist_sklearn.variants._substitutions import codes_of, log_ratios

ROUNDS = 5
SINGLES = 1_000_000
NANO = Path(revdist_sklearn.__file__).parent / "weights" / "esm2_nano_096"


def seconds_of(*functions):
    """Return the median seconds of each of some functions, which take turns."""
    taken = [[] for _ in functions]
    for _ in range(ROUNDS):
        for of_function, function in zip(taken, functions, strict=True):
            start = time.perf_counter()
            function()
            of_function.append(time.perf_counter() - start)
    return [statistics.median(of_function) for of_function in taken]


def look_ups(wild_type):
    """Return the single mutants a second of a fitted scorer, by sequences and by letters."""
    frame = single_substitutions(wild_type)
    scorer = ESMVariantScorer(str(NANO), reference=wild_type).fit([wild_type])
    which = np.random.default_rng(0).integers(0, len(frame), SINGLES)
    sequences = frame["sequence"].to_numpy()[which].tolist()
    sites = frame["position"].to_numpy()[which] - 1
    codes = codes_of("".join(frame["residue"]))[which]
    table, reference = scorer.log_probabilities_, codes_of(wild_type)
    by_text, by_letter = seconds_of(
        lambda: scorer.transform(sequences), lambda: log_ratios(table, reference, sites, codes)
    )
    return {"sequences": SINGLES / by_text, "positions and letters": SINGLES / by_letter}


def save_large(folder):
    """Save a random model of the shape of ESM-2 35M: 12 layers of 480 columns."""
    config = EsmConfig.from_pretrained(NANO)
    config.update({"hidden_size": 480, "intermediate_size": 1920, "num_hidden_layers": 12})
    config.update({"num_attention_heads": 20})
    torch.manual_seed(0)
    EsmForMaskedLM(config).save_pretrained(folder)
    EsmTokenizer.from_pretrained(NANO).save_pretrained(folder)
    return folder


def by_transformers(folder, wild_type):
    """Return a function that makes the table with transformers alone, a batch of copies a pass."""
    model = EsmForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = EsmTokenizer.from_pretrained(folder)
    columns = tokenizer.convert_tokens_to_ids(list(AMINO_ACIDS))

    def table(batch=16):
        ids = tokenizer(wild_type, return_tensors="pt")["input_ids"].repeat(len(wild_type), 1)
        sites = torch.arange(len(wild_type))
        ids[sites, sites + 1] = tokenizer.mask_token_id
        rows = []
        with torch.inference_mode():
            for at in sites.split(batch):
                logits = model(ids[at]).logits[torch.arange(len(at)), at + 1]
                rows.append(logits[:, columns].log_softmax(-1))
        return torch.cat(rows).numpy()

    return table


def by_fair_esm(folder, wild_type):
    """Return the same with fair-esm on the same weights."""
    from esm import ESM2, Alphabet

    config = EsmConfig.from_pretrained(folder)
    alphabet = Alphabet.from_architecture("ESM-1b")
    model = ESM2(
        num_layers=config.num_hidden_layers,
        embed_dim=config.hidden_size,
        attention_heads=config.num_attention_heads,
        alphabet=alphabet,
    ).eval()
    theirs = model.state_dict()
    ours = EsmForMaskedLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    parts = {
        "self_attn.q_proj": "attention.self.query",
        "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value",
        "self_attn.out_proj": "attention.output.dense",
        "self_attn_layer_norm": "attention.LayerNorm",
        "final_layer_norm": "LayerNorm",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
    }
    for name in theirs:
        if name.startswith("layers."):
            _, layer, rest = name.split(".", 2)
            part, _, kind = rest.rpartition(".")
            if part in parts:
                theirs[name] = ours[f"esm.encoder.layer.{layer}.{parts[part]}.{kind}"]
        elif name.startswith("emb_layer_norm_after"):
            theirs[name] = ours[f"esm.encoder.{name}"]
        elif name in ("embed_tokens.weight", "lm_head.weight"):
            theirs[name] = ours["esm.embeddings.word_embeddings.weight"]
        elif name.startswith("lm_head."):
            theirs[name] = ours[name]
    model.load_state_dict(theirs)
    columns = [alphabet.get_idx(letter) for letter in AMINO_ACIDS]
    _, _, ids = alphabet.get_batch_converter()([("", wild_type)])

    def table(batch=16):
        sites = torch.arange(len(wild_type))
        copies = ids.repeat(len(wild_type), 1)
        copies[sites, sites + 1] = alphabet.mask_idx
        rows = []
        with torch.inference_mode():
            for at in sites.split(batch):
                logits = model(copies[at])["logits"][torch.arange(len(at)), at + 1]
                rows.append(logits[:, columns].log_softmax(-1))
        return torch.cat(rows).numpy()

    return table


def tables(folder, wild_type):
    """Return, by who makes it, seconds of a table and its largest difference from ours."""
    scorer = ESMVariantScorer(str(folder))

    def ours():
        return scorer.site_log_probabilities(wild_type).to_numpy()

    makers = {"revdist_sklearn": ours, "transformers": by_transformers(folder, wild_type)}
    if importlib.util.find_spec("esm") is not None:
        makers["fair-esm"] = by_fair_esm(folder, wild_type)
    expected = ours()  # loads the model
    off = {name: float(np.abs(make() - expected).max()) for name, make in makers.items()}
    seconds = seconds_of(*makers.values())
    return {
        name: {"seconds": s, "off": off[name]} for name, s in zip(makers, seconds, strict=True)
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("bench_scores.json"))
    args = parser.parse_args()
    wild_type = load_gb1_stability().wild_type
    result = {"threads": torch.get_num_threads(), "single mutants a second": look_ups(wild_type)}
    print(f"{SINGLES:,} single mutants of {len(wild_type)} residues from a table, one model")
    for name, rate in result["single mutants a second"].items():
        print(f"| {name} | {rate:,.0f} a second |")
    with tempfile.TemporaryDirectory() as temporary:
        for name, folder in {
            "esm2_nano_096": NANO,
            "12 layers of 480": save_large(temporary),
        }.items():
            result[name] = tables(folder, wild_type)
            print(f"{name}: the table of {len(wild_type)} masked passes, {ROUNDS} rounds in turn")
            for maker, facts in result[name].items():
                print(f"| {maker} | {facts['seconds']:.3f} s | off by {facts['off']:.1e} |")
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
