"""The fast path of a GPU on a CPU: attention by a loop in place of the GPU's kernel."""

import inspect
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from conftest import save_esm
from torch.nn.functional import scaled_dot_product_attention

from revdist_sklearn.models import _device, _varlen
from revdist_sklearn.models._encoder import square_bytes
from revdist_sklearn.models._family import resolve_family
from revdist_sklearn.models._loading import load
from revdist_sklearn.models._residues import AMINO_ACIDS
from revdist_sklearn.models._varlen import VarlenPacked, has_varlen, pack

# In older versions attention may not be told of the proteins in a row.
NEW = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 20)
CPU = torch.device("cpu")
needs_new = pytest.mark.skipif(not NEW, reason="this transformers does not pass bounds on")


class Varlen:
    """One protein after another, as the kernel of a GPU; it remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None):
        assert query.dtype in (torch.float16, torch.bfloat16)
        assert cu_seq_q.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k)
        self.calls.append((cu_seq_q.tolist(), max_q, max_k, scale))
        outputs = []
        for start, stop in pairwise(cu_seq_q.tolist()):
            parts = [x[start:stop].transpose(0, 1)[None] for x in (query, key, value)]
            output = scaled_dot_product_attention(*parts, scale=scale)
            outputs.append(output[0].transpose(0, 1))
        return torch.cat(outputs)


@pytest.fixture
def varlen(monkeypatch):
    fake = Varlen()
    monkeypatch.setattr(_varlen, "varlen_attn", fake)
    monkeypatch.setattr(
        _varlen, "has_varlen", lambda model: model.dtype in (torch.float16, torch.bfloat16)
    )
    return fake


def plain_encoder(source, dtype):
    """Return an encoder without any fast path."""
    member = resolve_family(source)[-1]
    options = {"attn_implementation": "sdpa"}
    return load(member.folder(), member, dtype, -1, CPU, options)


def packed_encoder(source, dtype):
    encoder = plain_encoder(source, dtype)
    with torch.inference_mode():
        encoder._packed, encoder.packing = pack(
            encoder.model, encoder.tokenize, AMINO_ACIDS, encoder.pad
        )
    return encoder


@needs_new
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("source", ["esm2-nano:32", "esm2-nano"])
def test_packed_states_are_those_of_each_protein_alone(varlen, proteins, source, dtype):
    encoder, plain = packed_encoder(source, dtype), plain_encoder(source, dtype)
    assert isinstance(encoder._packed, VarlenPacked) and encoder.packed
    varlen.calls.clear()
    residues, first = encoder(proteins)
    lengths = [len(protein) + 2 for protein in proteins]
    bounds = np.cumsum([0, *lengths]).tolist()
    depth = len(encoder.model.encoder.layer)
    assert varlen.calls == [(bounds, max(lengths), max(lengths), 1.0)] * depth
    for i, protein in enumerate(proteins):
        [alone], first_alone = plain([protein])
        assert residues[i].dtype == torch.float32
        scale = alone.abs().max()
        tolerance = 8 * torch.finfo(getattr(torch, dtype)).eps * scale
        assert (residues[i] - alone).abs().max() <= tolerance
        assert (first[i] - first_alone[0]).abs().max() <= tolerance


@needs_new
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_attention_to_the_whole_row_is_found_and_taken_back(varlen, monkeypatch, dtype):
    def over_the_row(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None):
        whole = torch.tensor([0, len(query)], dtype=torch.int32)
        return varlen(query, key, value, whole, whole, len(query), len(query), scale=scale)

    monkeypatch.setattr(_varlen, "varlen_attn", over_the_row)
    encoder = packed_encoder("esm2-nano", dtype)
    assert not encoder.packed
    assert encoder.model.config._attn_implementation == "sdpa"
    assert torch.isfinite(encoder(["MKTAY", "GSH"])[0][0]).all()


def test_a_gpu_that_refuses_keeps_the_padded_path(varlen, monkeypatch, proteins):
    def refuse(*args, **kwargs):
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")

    monkeypatch.setattr(_varlen, "varlen_attn", refuse)
    encoder = packed_encoder("esm2-nano:32", "float16")
    assert not encoder.packed
    assert encoder.model.config._attn_implementation == "sdpa"


@needs_new
def test_positions_that_are_not_used_are_found(varlen, monkeypatch):
    call = VarlenPacked.at_positions
    monkeypatch.setattr(
        VarlenPacked,
        "at_positions",
        lambda self, rows, positions: call(self, rows, [np.arange(len(row)) for row in rows]),
    )
    assert not packed_encoder("esm2-nano:32", "float16").packed


@needs_new
def test_learned_positions_start_where_the_model_counts_from(varlen, tmp_path):
    folder = save_esm(
        tmp_path / "esm1b",
        layers=2,
        position_embedding_type="absolute",
        emb_layer_norm_before=True,
    )
    assert packed_encoder(folder, "float16")._packed.first_position == 2


def test_a_short_table_of_positions_is_not_tried(varlen, tmp_path):
    """Beyond its end a GPU does not raise but fails for good."""
    folder = save_esm(
        tmp_path / "short", position_embedding_type="absolute", max_position_embeddings=12
    )
    encoder = packed_encoder(folder, "float16")
    assert not encoder.packed and varlen.calls == [] and "positions" in encoder.packing
    assert len(encoder(["MKTAY"])[0][0]) == 5


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_gpu_takes_the_gelu_of_torch(tiny_model, dtype, proteins):
    encoder = packed_encoder(tiny_model, dtype)
    kinds = [type(module).__name__ for module in encoder.model.encoder.modules()]
    assert kinds.count("GELU") == 2 and "EsmIntermediate" not in kinds
    assert not encoder.packed and "varlen" in encoder.packing  # none here
    for ours, plain in zip(
        encoder(proteins)[0], plain_encoder(tiny_model, dtype)(proteins)[0], strict=True
    ):
        tolerance = 16 * torch.finfo(getattr(torch, dtype)).eps * float(plain.abs().max())
        torch.testing.assert_close(ours, plain, rtol=0, atol=tolerance)


def test_a_gelu_that_does_not_agree_is_taken_back(tiny_model, monkeypatch):
    monkeypatch.setattr(torch.nn.GELU, "forward", lambda self, x: torch.relu(x))
    kinds = [
        type(module).__name__
        for module in packed_encoder(tiny_model, "float32").model.encoder.modules()
    ]
    assert kinds.count("EsmIntermediate") == 2 and "GELU" not in kinds


def test_torch_without_such_attention_keeps_the_padded_path(monkeypatch):
    class OnGPU:
        dtype, device = torch.float16, torch.device("cuda:0")

    def with_scale(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None):
        raise AssertionError

    def without_scale(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
        raise AssertionError

    model = OnGPU()
    monkeypatch.setattr(_varlen, "varlen_attn", with_scale)
    assert has_varlen(model)
    model.dtype = torch.float32
    assert not has_varlen(model)
    model.dtype, model.device = torch.float16, CPU
    assert not has_varlen(model)
    model.device = torch.device("cuda:0")
    for missing in (None, without_scale):
        monkeypatch.setattr(_varlen, "varlen_attn", missing)
        assert not has_varlen(model)


def test_the_installed_attention_takes_what_it_is_given():
    """Where it is there: names and order of its arguments; it runs on GPUs alone."""
    if _varlen.varlen_attn is None:
        pytest.skip("this torch has none")
    names = list(inspect.signature(_varlen.varlen_attn).parameters)
    assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]


def test_loading_for_a_gpu_packs_on_the_gpu(tiny_model, monkeypatch):
    """On the device, which must hold the model, with float32 as it is."""
    happened = []
    monkeypatch.setattr(_device, "on", lambda device: nullcontext())
    residents = _device.Residents()
    monkeypatch.setattr(residents, "_bring", lambda encoder, device: happened.append(str(device)))
    monkeypatch.setattr("revdist_sklearn.models._encoder.RESIDENTS", residents)
    monkeypatch.setattr(
        _varlen,
        "pack",
        lambda model, *rest: happened.append(type(model).__name__) or ("packed", True),
    )
    member = resolve_family(tiny_model)[0]
    encoder = load(member.folder(), member, "float16", -1, torch.device("cuda:1"))
    assert happened == ["cuda:1", "EsmModel"] and encoder.packed and encoder.packing is True


def test_kinds_of_squares():
    """ProtT5 in half precision: 32 heads, sums of biases and masks, 17 GB in a large batch."""

    def of(dtype=torch.float16, device="cuda", **config):
        return square_bytes(SimpleNamespace(config=SimpleNamespace(**config), dtype=dtype), device)

    t5 = {"num_heads": 32, "relative_attention_num_buckets": 32}
    esm = {"num_attention_heads": 20, "_attn_implementation": "sdpa"}
    assert of(**esm) == 3  # a mask of one byte, and of the model's type
    assert of(torch.float32, **esm) == 5
    assert of(**t5, _attn_implementation="sdpa") == 3 + 32 * 4
    assert of(**t5, _attn_implementation="eager") == of(**t5) == 3 + 32 * 14
    assert of(**esm, device="mps") == 3 + 20 * 10
