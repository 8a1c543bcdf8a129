"""Train the esm2-nano family: ESM-2's architecture at 32 to 96 columns.

Each step is a subcommand; a training that was stopped goes on from its last checkpoint::

    python benchmarks/train_esm2_nano.py split --fasta DB.fasta.gz --work nano
    python benchmarks/train_esm2_nano.py train --work nano --width 32     # and 64, and 96
    python benchmarks/train_esm2_nano.py evaluate --work nano
    python benchmarks/train_esm2_nano.py scores --work nano

``evaluate`` and ``scores`` take the figures that stand in ``revdist_sklearn/weights/README.md``:
the held-out perplexity, and the demo's scores of the trained and of the untrained networks.

``DB.fasta.gz`` is the 20,000-entry UniProt sample in Debian's package
``mmseqs2-examples`` (UniProt content is CC BY 4.0); ``split`` needs Debian's ``mmseqs2``.

The recipe is ESM-2's masked language modelling (15% of the positions; of these 80%
masked, 10% replaced, 10% kept; token dropout; rotary positions) on crops of 126
residues. Weight matrices of the layers are trained by Muon, all else by AdamW.
"""

import argparse
import csv
import gzip
import json
import math
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer
from transformers import logging as transformers_logging

# The alphabet of ESM-2, in the order of its token ids.
ALPHABET = (
    "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>"
).split()
TOKEN = {token: i for i, token in enumerate(ALPHABET)}
CLS, PAD, EOS, MASK = (TOKEN[t] for t in ("<cls>", "<pad>", "<eos>", "<mask>"))
FIRST_AA, LAST_AA = TOKEN["L"], TOKEN["C"]  # the twenty amino acids are contiguous

LAYERS = {32: 2, 64: 3, 96: 4}
HEADS = {32: 2, 64: 4, 96: 4}
TOKENS = {32: 30_000_000, 64: 56_000_000, 96: 72_000_000}
CROP = 126  # residues; 128 tokens with <cls> and <eos>
BATCH = 48  # crops a step
HELD_OUT = 1_800  # sequences at least, whole clusters
SEED = 20261124


def read_fasta(path):
    """Yield ``(accession, sequence)``; a ``>`` inside a header is no new record."""
    opener = gzip.open if str(path).endswith(".gz") else open
    name, parts = None, []
    with opener(path, "rt") as lines:
        for line in lines:
            if line.startswith(">"):
                if name is not None:
                    yield name, "".join(parts)
                name, parts = line[1:].split()[0], []
            else:
                parts.append(line.strip())
    if name is not None:
        yield name, "".join(parts)


def split(args):
    """Cluster the distinct sequences at 30% identity, hold out whole clusters."""
    args.work.mkdir(parents=True, exist_ok=True)
    distinct = {}
    for name, sequence in read_fasta(args.fasta):
        if sequence:
            distinct.setdefault(sequence, name)
    fasta = args.work / "distinct.fasta"
    # Numbers for names: mmseqs shortens "tr|W0FSK4|W0FSK4_9FLAV", and accessions may repeat.
    fasta.write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(distinct)))
    # Connected components (cluster mode 1): no aligned pair is torn apart.
    command = ["mmseqs", "easy-cluster", fasta, args.work / "cluster", args.work / "tmp"]
    command += ["--min-seq-id", "0.3", "-c", "0.5", "--cov-mode", "0", "--cluster-mode", "1"]
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(args.work / "tmp")

    cluster_of = {}
    with open(args.work / "cluster_cluster.tsv") as rows:
        for representative, member in csv.reader(rows, delimiter="\t"):
            cluster_of[int(member)] = representative
    sizes = {}
    for representative in cluster_of.values():
        sizes[representative] = sizes.get(representative, 0) + 1
    # A component that holds a large share of all sequences stays in training.
    names = sorted(name for name, size in sizes.items() if size <= 100)
    held_out, count = set(), 0
    for i in np.random.default_rng(SEED).permutation(len(names)):
        if count >= HELD_OUT:
            break
        held_out.add(names[i])
        count += sizes[names[i]]
    with open(args.work / "split.tsv", "w") as out:
        for i, (sequence, name) in enumerate(distinct.items()):
            part = "held_out" if cluster_of[i] in held_out else "train"
            out.write(f"{name}\t{cluster_of[i]}\t{part}\t{sequence}\n")
    print(
        f"{len(distinct):,} sequences, {len(sizes):,} clusters (largest {max(sizes.values()):,}); "
        f"held out {count:,} sequences in {len(held_out):,} clusters"
    )


def read_split(work, part):
    """Return ``[(name, sequence)]`` of one part."""
    with open(work / "split.tsv") as rows:
        fields = (row.rstrip("\n").split("\t") for row in rows)
        return [(f[0], f[3]) for f in fields if f[2] == part]


def encode(sequence):
    return np.array([TOKEN.get(c, TOKEN["<unk>"]) for c in sequence], dtype=np.int8)


def crops(sequences, generator, size):
    """Return ``(size, CROP + 2)`` token ids of random crops, every residue equally likely."""
    lengths = np.array([len(s) for s in sequences])
    ids = np.full((size, CROP + 2), PAD, dtype=np.int64)
    chosen = generator.choice(len(sequences), size, p=lengths / lengths.sum())
    for row, i in zip(ids, chosen, strict=True):
        start = generator.integers(0, max(1, lengths[i] - CROP + 1))
        piece = sequences[i][start : start + CROP]
        row[0], row[1 : len(piece) + 1], row[len(piece) + 1] = CLS, piece, EOS
    return ids


def corrupt(ids, generator):
    """Return corrupted ids and the positions whose token must be predicted."""
    residue = (ids >= FIRST_AA) & (ids <= LAST_AA)
    target = residue & (generator.random(ids.shape) < 0.15)
    how = generator.random(ids.shape)
    corrupted = np.where(target & (how < 0.8), MASK, ids)
    swap = target & (how >= 0.9)
    corrupted[swap] = generator.integers(FIRST_AA, LAST_AA + 1, swap.sum())
    return corrupted, target


def new_model(width, seed=SEED):
    torch.manual_seed(seed)
    config = EsmConfig(
        vocab_size=len(ALPHABET),
        mask_token_id=MASK,
        pad_token_id=PAD,
        hidden_size=width,
        num_hidden_layers=LAYERS[width],
        num_attention_heads=HEADS[width],
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=1026,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
    )
    model = EsmForMaskedLM(config)
    # The backward pass of fused attention in bfloat16 takes half the step on a CPU:
    # plain attention trains 2.4 times faster at these widths.
    model.set_attn_implementation("eager")
    return model


def loss_of(model, ids, corrupted, target):
    hidden = model.esm(input_ids=corrupted, attention_mask=(ids != PAD).long())[0]
    logits = model.lm_head(hidden[target])  # the head is needed at the targets alone
    return torch.nn.functional.cross_entropy(logits.float(), ids[target])


def held_out_batches(work):
    """Return the fixed batches of evaluation: 2,560 crops, masked once with a fixed seed."""
    generator = np.random.default_rng(SEED + 1)
    sequences = [encode(s) for _, s in read_split(work, "held_out")]
    batches = []
    for _ in range(40):
        ids = crops(sequences, generator, 64)
        # Perplexity is taken at masked positions only: no replaced or kept tokens here.
        target = (ids >= FIRST_AA) & (ids <= LAST_AA) & (generator.random(ids.shape) < 0.15)
        batches.append((ids, np.where(target, MASK, ids), target))
    return [tuple(torch.from_numpy(a) for a in batch) for batch in batches]


@torch.no_grad()
def perplexity(model, batches):
    model.eval()
    total, count = 0.0, 0
    for ids, corrupted, target in batches:
        n = int(target.sum())
        total += n * float(loss_of(model, ids, corrupted, target))
        count += n
    model.train()
    return math.exp(total / count)


def folder_of(work, width):
    return work / f"esm2_nano_{width:03d}"


def optimizers(model, args):
    """Muon for the matrices of the layers, AdamW for embeddings, norms, biases and the head."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and ".layer." in name
        (matrices if inside else others).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=args.muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.01)
    return [(muon, args.muon_lr), (adam, args.adam_lr)]


def train(args):
    """Train one member; resumes from its last checkpoint."""
    torch.set_num_threads(args.threads)
    width = args.width
    tokens = args.tokens or TOKENS[width]
    steps = tokens // (BATCH * (CROP + 2))
    model = new_model(width)
    model.train()
    optims = optimizers(model, args)
    checkpoint = args.work / f"checkpoint_{width:03d}.pt"
    curve = args.work / f"curve_{width:03d}.csv"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for (optimizer, _), saved in zip(optims, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    else:
        curve.write_text("tokens,train_loss,held_out_perplexity,seconds\n")
    sequences = [encode(s) for _, s in read_split(args.work, "train")]
    batches = held_out_batches(args.work)

    start, running = time.perf_counter(), []
    for step in range(first, steps):
        # A generator of its own for each step, so that a resumed run sees the same batches.
        generator = np.random.default_rng([SEED, width, step])
        ids = crops(sequences, generator, BATCH)
        corrupted, target = corrupt(ids, generator)
        batch = [torch.from_numpy(a) for a in (ids, corrupted, target)]
        warm, left = min(1.0, (step + 1) / 200), (steps - step) / steps
        for optimizer, rate in optims:
            for group in optimizer.param_groups:
                # Flat, then linear to zero over the last 40%.
                group["lr"] = rate * warm * min(1.0, left / 0.4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optims:
            optimizer.step()
            optimizer.zero_grad()
        running.append(float(loss.detach()))
        last = step + 1 == steps
        if (step + 1) % args.every == 0 or last:
            ppl = perplexity(model, batches)
            seen = (step + 1) * BATCH * (CROP + 2)
            seconds = time.perf_counter() - start
            line = f"{seen},{np.mean(running):.4f},{ppl:.4f},{seconds:.0f}"
            print(f"{width}: {line}", flush=True)
            with open(curve, "a") as out:
                out.write(line + "\n")
            running = []
            temporary = checkpoint.with_suffix(".tmp")
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o, _ in optims],
                    "step": step + 1,
                },
                temporary,
            )
            os.replace(temporary, checkpoint)
    save(model, folder_of(args.work, width))


def save(model, folder):
    """Write weights as float16, configuration and tokenizer, as the hub's ESM-2 folders are."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().half().save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    # Rotary frequencies: one entry a layer, as ESM-2 on the hub has them (the placeholder name
    # that transformers 5.23 writes stops its own 5.0), and not rounded to float16.
    for name in [name for name in weights if name.endswith("rotary_embeddings.inv_freq")]:
        size = model.config.hidden_size // model.config.num_attention_heads
        frequencies = 10000.0 ** -(torch.arange(0, size, 2) / size)
        del weights[name]
        for layer in range(model.config.num_hidden_layers):
            prefix, _, rest = name.partition(".layer.")
            key = f"{prefix}.layer.{layer}.{rest.partition('.')[2]}"
            weights[key] = frequencies.clone()
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(ALPHABET))
    EsmTokenizer(str(vocabulary)).save_pretrained(folder)


def evaluate(args):
    """Held-out perplexity of every member as saved, untrained, and of frequencies alone."""
    batches = held_out_batches(args.work)
    counts = np.bincount(
        np.concatenate([encode(s) for _, s in read_split(args.work, "train")]),
        minlength=len(ALPHABET),
    )[FIRST_AA : LAST_AA + 1]
    log_frequency = np.log(counts / counts.sum())
    truth = torch.cat([ids[target] for ids, _, target in batches]).numpy() - FIRST_AA
    table = {
        "masked_positions": len(truth),
        "held_out_sequences": len(read_split(args.work, "held_out")),
        "amino_acid_frequencies": float(np.exp(-log_frequency[truth].mean())),
        "members": {},
    }
    for width in LAYERS:
        folder = folder_of(args.work, width)
        if not (folder / "model.safetensors").exists():
            continue
        model = EsmForMaskedLM.from_pretrained(folder, dtype=torch.float32)
        with open(args.work / f"curve_{width:03d}.csv") as rows:
            last = list(csv.DictReader(rows))[-1]
        table["members"][folder.name] = {
            "layers": LAYERS[width],
            "parameters": sum(p.numel() for p in model.parameters()),
            "tokens": int(last["tokens"]),
            "perplexity": perplexity(model, batches),
            "perplexity_untrained": perplexity(new_model(width), batches),
        }
    (args.work / "perplexity.json").write_text(json.dumps(table, indent=2) + "\n")
    print(json.dumps(table, indent=2))


def scores(args):
    """Demo scores of the trained family, and of the same networks untrained."""
    from revdist_sklearn.cli._demo import run_demo

    families = {"trained": args.work, "untrained": args.work / "untrained"}
    for width in LAYERS:
        save(new_model(width), folder_of(families["untrained"], width))
    for name, parent in families.items():
        print(name)
        folders = [str(folder_of(parent, width)) for width in LAYERS]
        run_demo(args.work / f"demo_{name}", models=folders)


def main():
    transformers_logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(required=True)
    for step in (split, train, evaluate, scores):
        sub = steps.add_parser(step.__name__, help=step.__doc__)
        sub.set_defaults(run=step)
        sub.add_argument("--work", type=Path, required=True, help="folder of all results")
        if step is split:
            sub.add_argument("--fasta", type=Path, required=True)
        if step is train:
            sub.add_argument("--width", type=int, choices=sorted(LAYERS), required=True)
            sub.add_argument("--tokens", type=int, help="default: by width, see TOKENS")
            sub.add_argument("--threads", type=int, default=1)
            sub.add_argument("--every", type=int, default=1000, help="steps between checkpoints")
            sub.add_argument("--muon-lr", type=float, default=8e-3)
            sub.add_argument("--adam-lr", type=float, default=5e-3)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
