import json
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from operator import eq
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import T5_LETTERS, save_esm, save_generic, small
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EsmModel
from transformers.models.esm import modeling_esm

import revdist_sklearn
from revdist_sklearn.datasets import load_uniprot_sample
from revdist_sklearn.embedding._sequences import AMINO_ACIDS, RESIDUES
from revdist_sklearn.models import _loading, _packed
from revdist_sklearn.models._family import resolve_family
from revdist_sklearn.models._loading import load
from revdist_sklearn.models._packed import OneDNNLinear, Packed, filled, pack

# In older versions attention may not be told of the proteins in a row.
NEW = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 20)

has_one_dnn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)


@pytest.fixture
def one_dnn(monkeypatch):
    """Use it whatever the CPU."""
    monkeypatch.setattr(_packed, "one_dnn_pays", lambda: True)
    monkeypatch.setattr(_loading, "REGISTRY", _loading.Registry(1))


def encoder_of(folder, dtype="float32", layer=-1):
    (member,) = resolve_family(str(folder))
    return load(member.folder(), member, dtype, layer, torch.device("cpu"))


def packed_esm(folder, **options):
    encoder = encoder_of(folder, **options)
    expect(encoder.packed, encoder.packing)
    return encoder


def expect(packed, packing):
    """Fail where the path is missing, but for versions of transformers that do not have it."""
    if not packed and not NEW:
        pytest.skip(f"this version of transformers keeps the plain path: {packing}")
    assert packed, packing


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(RESIDUES, min_size=1, max_size=70), min_size=1, max_size=12))
def test_neighbours_in_a_row_change_nothing(tiny_model, sequences):
    encoder = packed_esm(tiny_model)
    model = EsmModel.from_pretrained(tiny_model, add_pooling_layer=False).eval()
    residues, first = encoder(sequences)
    for i, sequence in enumerate(sequences):
        ids = torch.from_numpy(encoder.tokenize(sequence))[None]
        with torch.no_grad():
            [plain] = model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(residues[i], plain[1:-1], rtol=0, atol=1e-5)
        torch.testing.assert_close(first[i], plain[0], rtol=0, atol=1e-5)


def test_the_place_in_a_row_changes_nothing():
    """On trained weights; with positions that run on, the last protein is off by 4e-4."""
    encoder = encoder_of(resolve_family("esm2-nano")[-1].folder())
    sequences = [*load_uniprot_sample().sequences[:3], "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"]
    together, _ = encoder(sequences)
    for sequence, states in zip(sequences, together, strict=True):
        torch.testing.assert_close(states, encoder([sequence])[0][0], rtol=0, atol=1e-5)


def test_a_thread_gets_its_own_proteins(tiny_model, proteins):
    encoder = packed_esm(tiny_model)
    expected = [encoder([protein])[0][0] for protein in proteins]
    with ThreadPoolExecutor(4) as pool:
        batches = [[i, (i + 1) % len(proteins)] for i in range(len(proteins))] * 4
        results = pool.map(lambda batch: encoder([proteins[i] for i in batch])[0], batches)
        for batch, states in zip(batches, results, strict=True):
            for i, of_protein in zip(batch, states, strict=True):
                torch.testing.assert_close(of_protein, expected[i], rtol=0, atol=1e-5)


def test_there_is_no_padding(tiny_model):
    encoder = packed_esm(tiny_model)
    shapes = []
    encoder.model.register_forward_pre_hook(
        lambda model, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    encoder(["MKTAY" * 4, "G" * 30, "ACDEFGHI"])
    assert shapes == [(1, 58 + 6)]


def test_rows_of_tokens_have_few_lengths_and_little_that_fills_them_up():
    """For each length oneDNN keeps a quarter of a MB a shape of a layer."""
    lengths = {filled(n) for n in range(1, 8193)}
    assert len(lengths) == 16 + 3 * 16
    for n in range(1, 8193):
        assert n <= filled(n) <= max(n + 63, n * 1.0625)


@pytest.mark.parametrize("learned", [True, False])
def test_what_fills_a_row_up_changes_nothing(learned, tmp_path, proteins, monkeypatch):
    """Also with positions up to the last that the model has."""
    longest = "ACDEFGHIKLMNPQRSTVWY" * 51
    encoder = packed_esm(save_esm1b(tmp_path) if learned else resolve_nano())
    assert len(longest) + 2 == 1022
    for sequences in (proteins, [longest], [longest, *proteins], ["M"]):
        residues, first = encoder(sequences)
        with monkeypatch.context() as bare:
            bare.setattr(_packed, "filled", lambda n: n)
            expected, expected_first = encoder(sequences)
        torch.testing.assert_close(residues, expected, rtol=0, atol=1e-6 if learned else 2e-6)
        torch.testing.assert_close(first, expected_first, rtol=0, atol=1e-6)
        assert [len(r) for r in residues] == [len(s) for s in sequences]


def resolve_nano():
    return resolve_family("esm2-nano")[-1].folder()


@has_one_dnn
def test_where_onednn_fails_its_layers_are_taken_back_and_the_batch_is_repeated(
    tiny_model, proteins, one_dnn, monkeypatch
):
    encoder = packed_esm(tiny_model)
    assert encoder.packing is True
    expected, _ = encoder(proteins)
    calls = []

    def failing(self, x):
        calls.append(1)
        if len(calls) > 3:  # and on and on, as of shapes that it has failed for
            raise RuntimeError("could not create a primitive")
        return forward(self, x)

    forward = OneDNNLinear.forward
    monkeypatch.setattr(OneDNNLinear, "forward", failing)
    for _ in range(2):
        residues, _ = encoder(proteins)
        torch.testing.assert_close(residues, expected, rtol=0, atol=1e-5)
    assert len(calls) == 4
    kinds = OneDNNLinear, torch.nn.GELU  # which torch has on oneDNN too
    assert not any(isinstance(module, kinds) for module in encoder.model.modules())
    assert encoder.packed and encoder.packing == (
        "in one row, but without linear layers on oneDNN (could not create a primitive); "
        "torch's GELU"
    )


def test_an_error_of_plain_layers_is_raised(tiny_model, one_dnn, monkeypatch):
    monkeypatch.setattr(_packed, "one_dnn_pays", lambda: False)
    encoder = packed_esm(tiny_model)

    def failing(self, rows):
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(Packed, "__call__", failing)
    with pytest.raises(RuntimeError, match="could not create a primitive"):
        encoder(["MKT"])


@has_one_dnn
def test_a_layer_on_onednn_is_the_layer_and_can_be_undone():
    torch.manual_seed(0)
    for bias in (True, False):
        linear = torch.nn.Linear(48, 20, bias=bias)
        x = torch.randn(1, 300, 48)
        with torch.inference_mode():
            faster = OneDNNLinear(linear)
            torch.testing.assert_close(faster(x), linear(x), rtol=0, atol=1e-5)
            again = faster.plain()
        assert torch.equal(again.weight, linear.weight)
        assert again.bias is None if not bias else torch.equal(again.bias, linear.bias)


@has_one_dnn
def test_layers_are_replaced_and_no_weight_is_there_twice(tiny_model, one_dnn):
    model = packed_esm(tiny_model).model
    kinds = [type(module).__name__ for module in model.encoder.modules()]
    assert "Linear" not in kinds and "EsmIntermediate" not in kinds
    assert kinds.count("OneDNNLinear") == 12 and kinds.count("GELU") == 2


def tokenizer_of(folder):
    return encoder_of(folder, "bfloat16").tokenize


@pytest.fixture
def esm(tmp_path):
    folder = save_esm(tmp_path / "esm", layers=2)
    model = EsmModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ids = torch.tensor([[0, 5, 6, 7, 2]])
    with torch.no_grad():
        before = model(input_ids=ids).last_hidden_state

    def unchanged():
        with torch.no_grad():
            after = model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
        return model.config._attn_implementation == "sdpa"

    return model, tokenizer_of(folder), unchanged


def test_a_wrong_attention_is_found_and_taken_back(esm, monkeypatch):
    """As in versions that do not pass lengths on to attention."""
    model, tokenize, unchanged = esm

    def over_neighbours(module, query, key, value, attention_mask, protein_lengths=None, **kwargs):
        return right(module, query, key, value, attention_mask, **kwargs)

    right = _packed.packed_attention
    monkeypatch.setattr(_packed, "packed_attention", over_neighbours)
    packed, why_not = pack(model, tokenize, AMINO_ACIDS, 1)
    assert packed is None and "attention" in why_not
    assert unchanged()


def test_wrong_positions_are_found(tmp_path, monkeypatch):
    """Learned ones; rotary positions are relative, and may run on through the row."""
    encoder = packed_esm(save_esm1b(tmp_path))
    call = Packed.__call__

    def running_on(self, rows):
        states = call(self, [np.concatenate(rows)])
        return states[0].split([len(row) for row in rows])

    monkeypatch.setattr(Packed, "__call__", running_on)
    model = encoder.model
    model.set_attn_implementation("sdpa")
    packed, why_not = pack(model, encoder.tokenize, AMINO_ACIDS, 1)
    assert packed is None and "attention" in why_not
    assert model.config._attn_implementation == "sdpa"


def test_positions_that_are_not_used_are_found(esm, monkeypatch):
    """As in versions that count rotary positions along the row: right, but for rounding."""
    model, tokenize, unchanged = esm
    if NEW:
        forward = modeling_esm.EsmRotaryEmbedding.forward

        def along_the_row(self, x, position_ids, *args):
            return forward(self, x, torch.arange(position_ids.shape[1])[None], *args)

        monkeypatch.setattr(modeling_esm.EsmRotaryEmbedding, "forward", along_the_row)
    packed, why_not = pack(model, tokenize, AMINO_ACIDS, 1)
    assert packed is None and "attention" in why_not
    assert unchanged()


@pytest.mark.filterwarnings("ignore:.torch.jit")  # old transformers, new torch
def test_local_attention_is_not_packed(tmp_path):
    """The proteins of the check are shorter than its window, and would agree."""
    config = transformers.ModernBertConfig(
        **{**small(4 + len(T5_LETTERS)), "max_position_embeddings": 512},
        local_attention=128,
        global_attn_every_n_layers=2,
        **{f"{name}_token_id": 0 for name in ("pad", "bos", "cls", "eos", "sep")},
    )
    folder = save_generic(tmp_path / "local", transformers.ModernBertForMaskedLM, config)
    encoder = encoder_of(folder)
    protein = AMINO_ACIDS * 8
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        [plain] = model(torch.from_numpy(encoder.tokenize(protein))[None]).last_hidden_state
    assert not encoder.packed
    [states], _ = encoder([protein])
    torch.testing.assert_close(states, plain[1:-1], rtol=0, atol=1e-5)


@has_one_dnn
def test_a_weight_goes_before_the_next_is_laid_out(esm, one_dnn, monkeypatch):
    model, tokenize, _ = esm
    weights = [
        weakref.ref(module.weight)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    alive = []
    init = OneDNNLinear.__init__

    def counting(self, linear):
        alive.append(sum(weight() is not None for weight in weights))
        init(self, linear)

    monkeypatch.setattr(OneDNNLinear, "__init__", counting)
    expect(*pack(model, tokenize, AMINO_ACIDS, 1))
    assert alive == [*range(len(weights), 0, -1)]


@has_one_dnn
def test_outlier_columns_hide_nothing(tmp_path, one_dnn, monkeypatch):
    """Layers in bfloat16, below columns ten thousand times the rest, as ESM has inside."""
    model = EsmModel.from_pretrained(save_esm1b(tmp_path), add_pooling_layer=False).eval()
    model.encoder.emb_layer_norm_after = torch.nn.Identity()
    with torch.no_grad():
        model.embeddings.layer_norm.bias[:2] += 1e4
    forward = OneDNNLinear.forward
    monkeypatch.setattr(
        OneDNNLinear, "forward", lambda self, x: forward(self, x.bfloat16().float())
    )
    expect(*pack(model, tokenizer_of(tmp_path / "esm1b"), AMINO_ACIDS, 1))
    assert not any(isinstance(module, OneDNNLinear) for module in model.modules())


@has_one_dnn
def test_everything_can_be_taken_back(esm, one_dnn, monkeypatch):
    model, tokenize, _ = esm
    monkeypatch.setattr(torch.nn.GELU, "forward", lambda self, x: torch.relu(x))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    expect(*pack(model, tokenize, AMINO_ACIDS, 1))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    kinds = [type(module).__name__ for module in model.encoder.modules()]
    assert kinds.count("EsmIntermediate") == 2 and "OneDNNLinear" not in kinds


def test_a_hidden_layer_is_packed(tiny_model, proteins):
    """Without the final norm."""
    encoder = packed_esm(tiny_model, layer=1)
    model = EsmModel.from_pretrained(tiny_model, add_pooling_layer=False).eval()
    residues, _ = encoder(proteins)
    for protein, states in zip(proteins, residues, strict=True):
        ids = torch.from_numpy(encoder.tokenize(protein))[None]
        with torch.no_grad():
            [plain] = model(input_ids=ids, output_hidden_states=True).hidden_states[1]
        torch.testing.assert_close(states, plain[1:-1], rtol=1e-5, atol=1e-5)


@has_one_dnn
def test_layers_that_do_not_agree_are_taken_back(esm, one_dnn, monkeypatch):
    model, tokenize, _ = esm
    forward = OneDNNLinear.forward
    monkeypatch.setattr(OneDNNLinear, "forward", lambda self, x: 1.001 * forward(self, x))
    expect(*pack(model, tokenize, AMINO_ACIDS, 1))
    kinds = [type(module).__name__ for module in model.encoder.modules()]
    assert "OneDNNLinear" not in kinds and kinds.count("Linear") == 12


def test_a_build_without_the_operators_keeps_its_layers(esm, one_dnn, monkeypatch):
    model, tokenize, _ = esm

    def missing(self, linear):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")

    monkeypatch.setattr(OneDNNLinear, "__init__", missing)
    packed, packing = pack(model, tokenize, AMINO_ACIDS, 1)
    expect(packed, packing)
    kinds = [type(module).__name__ for module in model.encoder.modules()]
    assert kinds.count("Linear") == 12 and kinds.count("GELU") == 2
    assert "oneDNN" in packing and "no attribute" in packing


@has_one_dnn
def test_states_on_onednn_are_those_of_transformers(tiny_model, proteins, one_dnn):
    encoder = packed_esm(tiny_model)
    kinds = [type(module).__name__ for module in encoder.model.encoder.modules()]
    assert kinds.count("OneDNNLinear") == 12
    model = EsmModel.from_pretrained(tiny_model, add_pooling_layer=False).eval()
    residues, _ = encoder(proteins)
    for protein, states in zip(proteins, residues, strict=True):
        with torch.no_grad():
            [plain] = model(input_ids=torch.from_numpy(encoder.tokenize(protein))[None])[0]
        torch.testing.assert_close(states, plain[1:-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512", "AVX512_AMX", "DEFAULT"])
def test_onednn_is_for_wide_vectors(monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    expected = "AVX512" in capability and torch.backends.mkldnn.is_available()
    assert _packed.one_dnn_pays() == expected


def test_half_precision_that_the_cpu_does_not_compute_in_keeps_the_plain_path(
    tiny_model, monkeypatch
):
    encoder = encoder_of(tiny_model, "float16")
    assert not encoder.packed and "float16" in encoder.packing
    for question in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, question, lambda: False, raising=False)
    encoder = encoder_of(tiny_model, "bfloat16")
    assert not encoder.packed and "bfloat16" in encoder.packing


@pytest.mark.parametrize("question", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_bfloat16_is_packed_on_a_cpu_that_computes_in_it(tiny_model, question, monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, partial(eq, name, question), raising=False)
    packed_esm(tiny_model, dtype="bfloat16")


@pytest.fixture
def bfloat16(monkeypatch):
    """Pack it whatever the CPU; without instructions torch makes do."""
    monkeypatch.setattr(_packed, "computes_in_bfloat16", lambda: True)


# Layers, width and heads of ESM-2's members; feed-forward layers are four times as wide.
SHAPES = {"8M": (6, 320, 20), "35M": (12, 480, 20), "150M": (30, 640, 20)}
LENGTHS = (40, 3, 17)
sizes_and_scales = pytest.mark.parametrize(
    ("size", "scale"),
    [
        *product(["8M", "35M"], [0.02, 0.1]),
        pytest.param("150M", 0.1, marks=pytest.mark.slow),
    ],
)


def esm2_shaped(folder, size, scale):
    layers, width, heads = SHAPES[size]
    return save_esm(
        folder,
        width=width,
        layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        initializer_range=scale,
    )


def errors_against(truth, *paths):
    """Return the root mean square of each path's error, by the scale of the columns."""
    truth = torch.cat(truth).double()
    scale = truth.abs().amax(dim=0)
    return [float(((torch.cat(p) - truth) / scale).square().mean().sqrt()) for p in paths]


def states_of(model, encoder, proteins):
    dtype = model.dtype
    with torch.no_grad():
        ids = [torch.from_numpy(encoder.tokenize(p))[None] for p in proteins]
        states = [model(input_ids=i).last_hidden_state[0, 1:-1] for i in ids]
    return [s.double() if dtype == torch.float64 else s.float() for s in states]


def plain_esm(folder, dtype):
    return EsmModel.from_pretrained(folder, add_pooling_layer=False, dtype=dtype).eval()


@has_one_dnn
@sizes_and_scales
def test_depth_is_no_reason_to_leave_the_path(tmp_path, one_dnn, size, scale):
    """Errors are of the size of those of transformers; float64 is the truth."""
    folder = esm2_shaped(tmp_path / size, size, scale)
    encoder = packed_esm(folder)
    assert encoder.packing is True
    kinds = [type(module).__name__ for module in encoder.model.encoder.modules()]
    assert kinds.count("OneDNNLinear") == 6 * SHAPES[size][0] and "Linear" not in kinds
    proteins = [AMINO_ACIDS * 2] + [AMINO_ACIDS[:n] for n in LENGTHS[1:]]
    truth = states_of(plain_esm(folder, torch.float64), encoder, proteins)
    plain = states_of(plain_esm(folder, torch.float32), encoder, proteins)
    ours, theirs = errors_against(truth, encoder(proteins)[0], plain)
    assert ours < 2.5 * theirs


@has_one_dnn
@sizes_and_scales
def test_bfloat16_is_as_good_as_that_of_transformers(tmp_path, one_dnn, bfloat16, size, scale):
    folder = esm2_shaped(tmp_path / size, size, scale)
    encoder = packed_esm(folder, dtype="bfloat16")
    assert encoder.packing is True
    proteins = [AMINO_ACIDS * 2] + [AMINO_ACIDS[:n] for n in LENGTHS[1:]]
    truth = states_of(plain_esm(folder, torch.bfloat16).float(), encoder, proteins)
    plain = states_of(plain_esm(folder, torch.bfloat16), encoder, proteins)
    states, first = encoder(proteins)
    assert states[0].dtype == first.dtype == torch.float32
    ours, theirs = errors_against(truth, states, plain)
    assert ours < 1.1 * theirs


def test_neighbours_in_a_row_change_nothing_in_bfloat16(tiny_model, proteins, bfloat16):
    encoder = packed_esm(tiny_model, dtype="bfloat16")
    together, _ = encoder(proteins)
    for states, protein in zip(together, proteins, strict=True):
        alone = encoder([protein])[0][0]
        assert (states - alone).abs().max() <= 0.05 * alone.abs().max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_to_neighbours_is_found_at_a_depth(tmp_path, dtype, bfloat16, monkeypatch):
    """Of small random weights, in whose states attention has little part."""
    right = _packed.packed_attention

    def over_neighbours(module, query, key, value, attention_mask, protein_lengths=None, **kwargs):
        return right(module, query, key, value, attention_mask, **kwargs)

    monkeypatch.setattr(_packed, "packed_attention", over_neighbours)
    encoder = encoder_of(esm2_shaped(tmp_path / "8M", "8M", 0.02), dtype)
    assert not encoder.packed
    if NEW:
        assert "states differ" in encoder.packing


@pytest.mark.parametrize("precise", [True, False])
def test_what_of_the_path_does_not_run_is_said(tiny_model, one_dnn, monkeypatch, precise):
    if not precise:
        forward = OneDNNLinear.forward
        monkeypatch.setattr(OneDNNLinear, "forward", lambda self, x: 1.001 * forward(self, x))
    else:
        monkeypatch.setattr(_packed, "one_dnn_pays", lambda: False)
    encoder = packed_esm(tiny_model)
    assert encoder.packing.startswith("in one row, but without linear layers on oneDNN")
    assert ("AVX-512" if precise else "states differ") in encoder.packing
    assert "GELU" not in encoder.packing


def test_a_short_table_of_positions_keeps_the_plain_path(tmp_path):
    folder = save_esm(
        tmp_path / "short", position_embedding_type="absolute", max_position_embeddings=12
    )
    encoder = encoder_of(folder)
    assert not encoder.packed
    assert len(encoder(["MKTAY"])[0][0]) == 5


def save_esm1b(folder):
    return save_esm(
        folder / "esm1b",
        layers=2,
        position_embedding_type="absolute",
        emb_layer_norm_before=True,
    )


def test_learned_positions_start_where_the_model_counts_from(tmp_path, proteins):
    encoder = packed_esm(save_esm1b(tmp_path))
    assert encoder._packed.first_position == 2
    together, _ = encoder(proteins)
    for protein, states in zip(proteins, together, strict=True):
        np.testing.assert_allclose(states, encoder([protein])[0][0], atol=1e-5)


SMALL_MEMORY = """
import json, resource, sys
from pathlib import Path
import numpy as np, torch
from revdist_sklearn import ESMFeaturizer

def limit(megabytes):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    now = pages * resource.getpagesize()
    most = -1 if megabytes is None else int(now + megabytes * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (most, -1))

torch.set_num_threads(1)
featurizer, rng = ESMFeaturizer("esm2-nano:32"), np.random.default_rng(0)
sequences = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), n)) for n in range(300, 320)]
featurizer.transform(sequences[:1])  # loaded, and of another length
found = []
for megabytes in (0.3, 3, None):
    limit(megabytes)
    try:
        found.append(featurizer.transform(sequences).tolist())
    except MemoryError:
        found.append(None)
    limit(None)
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_where_memory_has_run_out_the_next_call_has_the_same_rows():
    """oneDNN fails on with what it has failed with once, also when there is memory again."""
    root = str(Path(revdist_sklearn.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", SMALL_MEMORY],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found[-1] is not None
    for rows in found:
        if rows is not None:
            np.testing.assert_allclose(rows, found[-1], rtol=0, atol=1e-5)
