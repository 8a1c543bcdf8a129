"""Check on a machine with a GPU, or several, what the tests fake where there is none.

    python benchmarks/check_gpu.py

prints PASS, FAIL or SKIP a line with figures, and ends with status 1 if anything failed. It takes
minutes, needs no network, and uses the bundled models and random ones of ESM-2's shapes, which it
makes in a temporary folder. Without a GPU it checks what a CPU can show. ``--quick`` leaves out
the larger shapes and the figures of speed.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers

import revdist_sklearn
from revdist_sklearn import ESMFeaturizer, Moments, corpus_moments
from revdist_sklearn.base._torch import is_out_of_memory
from revdist_sklearn.datasets import (
    load_amyloid_nucleation,
    load_gb1_stability,
    load_uniprot_sample,
)
from revdist_sklearn.embedding._workers import in_order
from revdist_sklearn.models import _loading
from revdist_sklearn.models._device import resolve_device
from revdist_sklearn.models._encoder import Encoder
from revdist_sklearn.models._varlen import VarlenPacked, varlen_attn

BUNDLED = Path(revdist_sklearn.__file__).parent / "weights" / "esm2_nano_096"
# Width, layers and heads, as ESM-2 has them.
SHAPES = {"8M": (320, 6, 20), "150M": (640, 30, 20), "650M": (1280, 33, 20)}
CHECKS = []


class Skip(Exception):
    """What cannot be checked here."""


def check(function):
    """Put a function among the checks: it returns figures, or raises what went wrong."""
    CHECKS.append(function)
    return function


class Machine:
    """What the checks need of this machine."""

    def __init__(self, folder, quick):
        self.folder, self.quick = Path(folder), quick
        self.gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        self.device = self.gpus[0] if self.gpus else "cpu"
        self.proteins = [s[:400] for s in load_uniprot_sample().sequences[: 30 if quick else 200]]
        self._made = {}

    def shape(self, name):
        """Return the folder of a random model of one of ESM-2's shapes."""
        if name not in self._made:
            width, layers, heads = SHAPES[name]
            config = transformers.EsmConfig.from_pretrained(
                BUNDLED,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
            )
            torch.manual_seed(0)
            model = transformers.EsmModel(config, add_pooling_layer=False).eval()
            folder = self.folder / name
            model.save_pretrained(folder)
            for path in BUNDLED.iterdir():
                if path.suffix != ".safetensors" and not (folder / path.name).exists():
                    shutil.copy(path, folder)
            self._made[name] = str(folder)
        return self._made[name]

    def need(self, n_gpus):
        """Skip a check that needs so many GPUs."""
        if len(self.gpus) < n_gpus:
            raise Skip(f"needs {n_gpus} GPU(s), there are {len(self.gpus)}")


def encoder_of(source, dtype, device, **options):
    """Return a loaded model, the last of its family."""
    member = ESMFeaturizer(source).embedding_plan().members[-1]
    where = resolve_device(device)
    return _loading.get_encoder(
        member, dtype=dtype, layer=-1, device=where, model_kwargs=options or None
    )


def off(X, Y):
    """Return the largest difference, in units of the spread of its column."""
    scale = Y.std(axis=0)
    return float((np.abs(X - Y) / np.maximum(scale, np.median(scale))).max())


def demand(condition, figures):
    if not condition:
        raise AssertionError(figures)
    return figures


@check
def rows_equal_those_of_the_cpu(machine):
    machine.need(1)
    models = ["esm2-nano"] if machine.quick else ["esm2-nano", machine.shape("8M")]
    worst = {}
    for model in models:
        expected = ESMFeaturizer(model, device="cpu").transform(machine.proteins)
        for gpu in machine.gpus:
            X = ESMFeaturizer(model, device=gpu).transform(machine.proteins)
            worst[gpu] = max(worst.get(gpu, 0), off(X, expected))
    figures = ", ".join(f"{gpu}: {x:.0e} spreads" for gpu, x in worst.items())
    return demand(max(worst.values()) < 1e-4, figures)


@check
def last_batches_arrive_from_a_second_gpu(machine):
    machine.need(2)
    expected = ESMFeaturizer("esm2-nano", device="cpu").transform(machine.proteins)
    worst = 0.0
    for _ in range(20):  # with one batch, all is the last one
        X = ESMFeaturizer("esm2-nano", device="cuda:1").transform(machine.proteins)
        worst = max(worst, off(X, expected))
    return demand(worst < 1e-4, f"20 calls, off by {worst:.0e} spreads at most")


@check
def cuda_is_the_current_gpu(machine):
    machine.need(1)
    first = ESMFeaturizer("esm2-nano:32", device="cuda:0").transform(["MKTAYIAKQR"])
    before = len(_loading.REGISTRY)
    second = ESMFeaturizer("esm2-nano:32", device="cuda").transform(["MKTAYIAKQR"])
    loaded = len(_loading.REGISTRY) - before
    return demand(loaded == 0 and np.array_equal(first, second), f"{loaded} models loaded again")


@check
def float32_is_float32(machine):
    emb = ESMFeaturizer("esm2-nano", device=machine.device)
    expected = emb.transform(machine.proteins)
    torch.manual_seed(0)
    a = torch.randn(512, 512, device=machine.device)
    exact = (a.double() @ a.double()).float()
    torch.set_float32_matmul_precision("high")
    try:
        worst = off(emb.transform(machine.proteins), expected)
        plain = float((a @ a - exact).abs().max())
    finally:
        torch.set_float32_matmul_precision("highest")
    figures = f"off by {worst:.0e} spreads with TF32 asked for; a product with it by {plain:.0e}"
    return demand(worst < 1e-5, figures)


@check
def batches_out_of_memory_are_halved(machine):
    machine.need(1)
    model, sequences = machine.shape("8M"), [(s * 20)[:1000] for s in machine.proteins[:100]]
    gpu = torch.device(machine.device)
    emb = ESMFeaturizer(model, device=machine.device)
    expected = emb.transform(sequences)
    retried, forward = [], Encoder.__call__

    def count(self, batch):
        try:
            return forward(self, batch)
        except (RuntimeError, MemoryError) as error:
            retried.append(is_out_of_memory(error))
            raise

    _, total = torch.cuda.mem_get_info(gpu)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.7 * 2**30 / total), gpu)
    Encoder.__call__ = count
    try:
        X = emb.set_params(token_budget=10**6).transform(sequences)
    finally:
        Encoder.__call__ = forward
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    figures = f"{len(retried)} batches were too large, off by {off(X, expected):.0e} spreads"
    return demand(all(retried) and retried and off(X, expected) < 1e-4, figures)


@check
def packed_rows_equal_padded_ones(machine):
    machine.need(1)
    if varlen_attn is None or torch.cuda.get_device_capability() < (8, 0):
        raise Skip("needs torch.nn.attention.varlen and a GPU of Ampere or newer")
    figures, fine = [], True
    for model in ["esm2-nano", machine.shape("8M")]:
        for dtype in ("float16", "bfloat16"):
            packed = encoder_of(model, dtype, machine.device)
            padded = encoder_of(model, dtype, machine.device, attn_implementation="sdpa")
            found = isinstance(packed._packed, VarlenPacked)
            ours, _ = packed(machine.proteins)
            theirs, _ = padded(machine.proteins)
            ours, theirs = (torch.cat(x).cpu().numpy() for x in (ours, theirs))
            rest = np.sqrt((((ours - theirs) / theirs.std(axis=0)) ** 2).mean())
            roundings = rest / torch.finfo(getattr(torch, dtype)).eps
            fine &= found and roundings < 8
            name = "nano" if model == "esm2-nano" else "8M"
            figures.append(
                f"{name} {dtype}: {roundings:.1f} roundings" + " not packed" * (not found)
            )
    return demand(fine, ", ".join(figures))


@check
def the_gelu_is_torchs(machine):
    encoder = encoder_of("esm2-nano", "float32", machine.device)
    kinds = [type(module).__name__ for module in encoder.model.modules()]
    if not machine.gpus and not encoder.packed:
        raise Skip("this transformers has no fast path on a CPU")
    n = kinds.count("GELU")
    return demand(n == 4 and "EsmIntermediate" not in kinds, f"in {n} of 4 layers")


@check
def speed_padded_and_packed(machine):
    if machine.quick:
        raise Skip("--quick")
    machine.need(1)
    lines, sequences = [], machine.proteins * 4
    residues = sum(map(len, sequences))
    for shape in ("150M", "650M"):
        for dtype in ("float32", "float16", "bfloat16"):
            rates = []
            for options in ({"attn_implementation": "sdpa"}, None):
                emb = ESMFeaturizer(
                    machine.shape(shape), dtype=dtype, device=machine.device, model_kwargs=options
                )
                seconds = []
                emb.transform(sequences)
                for _ in range(3):
                    start = time.perf_counter()
                    emb.transform(sequences)
                    seconds.append(time.perf_counter() - start)
                rates.append(residues / np.median(seconds))
            plain, ours = rates
            lines.append(f"{shape} {dtype}: {plain:,.0f} and {ours:,.0f} ({ours / plain:.2f}x)")
        _loading.REGISTRY.clear()
        torch.cuda.empty_cache()
    return "residues a second, transformers' layers padded and ours: " + "; ".join(lines)


@check
def moments_equal_those_of_the_host(machine):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 96)) + rng.normal(scale=100, size=96)
    rows, proteins = rows.astype(np.float32), np.repeat(np.arange(200), 100)
    exact = Moments([32, 64]).update(rows.astype(np.float64), proteins=proteins)
    scale = np.sqrt(np.outer(*2 * [exact.scatter.diagonal()]))
    figures, fine = [], True
    torch.set_float32_matmul_precision("high")
    try:
        for precision, most in (("float32", 1e-6), ("float64", 1e-12)):
            tensor = torch.from_numpy(rows).to(machine.device)
            moments = Moments([32, 64], precision=precision).update(tensor, proteins=proteins)
            error = np.abs((moments.scatter - exact.scatter) / scale).max()
            mean = np.abs(moments.mean - exact.mean).max()
            fine &= error < most and mean < 1e-7
            protein = np.abs(moments.protein.mean - exact.protein.mean).max()
            fine &= protein < 1e-9
            figures.append(f"{precision}: {error:.0e} of the variances, means {mean:.0e}")
    finally:
        torch.set_float32_matmul_precision("highest")
    return demand(fine, ", ".join(figures) + f" ({machine.device})")


def gpu_of_a_worker(i):
    """Return a worker and what "cuda" or None is there; what a worker runs."""
    time.sleep(0.5)
    return os.getpid(), str(resolve_device(None))


@check
def workers_have_a_gpu_each(machine):
    tasks = ((i,) for i in range(6))
    workers = dict(in_order(gpu_of_a_worker, tasks, 2))
    figures = ", ".join(workers.values())
    if len(machine.gpus) < 2:
        return demand(set(workers.values()) == {machine.device}, f"two workers: {figures}")
    return demand(len(set(workers.values())) == len(workers) == 2, f"two workers: {figures}")


@check
def workers_compute_the_same(machine):
    expected = ESMFeaturizer("esm2-nano").transform(machine.proteins)
    X = ESMFeaturizer("esm2-nano", n_jobs=2).transform(machine.proteins)
    return demand(off(X, expected) < 1e-4, f"off by {off(X, expected):.0e} spreads")


@contextmanager
def moves():
    """Count how often whole models are put somewhere."""
    seen, to = [], torch.nn.Module.to

    def count(self, *args, **kwargs):
        seen.append(str(args[0]) if args else "")
        return to(self, *args, **kwargs)

    torch.nn.Module.to = count
    try:
        yield seen
    finally:
        torch.nn.Module.to = to


@check
def models_stay_over_the_pieces_of_a_corpus(machine):
    corpus = machine.proteins
    while sum(map(len, corpus)) < (2**17 if machine.gpus else 2**13):
        corpus = corpus + corpus
    emb = ESMFeaturizer("esm2-nano", device=machine.device, token_budget=1024)
    _loading.REGISTRY.clear()
    with moves() as seen:
        corpus_moments(emb, corpus)
    figures = f"{len(seen)} moves of 3 models over {sum(map(len, corpus)):,} residues"
    return demand(len(seen) == (3 if machine.gpus else 0), figures)


@check
def half_precision(machine):
    n = 60 if machine.quick else None
    sets = {
        "diverse": [s[:300] for s in machine.proteins],
        "GB1": list(load_gb1_stability().sequences)[:n],
        "amyloid": list(load_amyloid_nucleation().sequences)[:n],
    }
    lines, fine = [], True
    for dtype, most in (("float16", 0.006), ("bfloat16", 0.05)):
        shares = []
        for name, sequences in sets.items():
            X = ESMFeaturizer("esm2-nano", device="cpu").transform(sequences)
            half = ESMFeaturizer("esm2-nano", device=machine.device, dtype=dtype)
            rest = np.linalg.norm(half.transform(sequences) - X)
            shares.append(rest / np.linalg.norm(X - X.mean(axis=0)))
            fine &= shares[-1] < most
            shares[-1] = f"{name} {100 * shares[-1]:.2f}%"
        lines.append(f"{dtype}: " + ", ".join(shares))
    return demand(fine, "error beside the spread of each set, " + "; ".join(lines))


def run(function, machine):
    """Return PASS, FAIL or SKIP, and the figures or the reason."""
    try:
        return "PASS", function(machine)
    except Skip as reason:
        return "SKIP", str(reason)
    except AssertionError as figures:
        return "FAIL", str(figures)
    except Exception as error:
        traceback.print_exc()
        return "FAIL", f"{type(error).__name__}: {error}"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small models, no figures of speed")
    quick = parser.parse_args(arguments).quick
    transformers.utils.logging.disable_progress_bar()
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {names or 'no GPU'}"
    )
    failed = 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        machine = Machine(folder, quick)
        for function in CHECKS:
            start = time.perf_counter()
            status, figures = run(function, machine)
            failed += status == "FAIL"
            seconds = time.perf_counter() - start
            print(f"{status} {function.__name__}: {figures} [{seconds:.1f} s]", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
