from itertools import islice

import numpy as np
import pytest
import torch
from conftest import out_of_memory_errors

from revdist_sklearn import ESMFeaturizer
from revdist_sklearn.embedding import _member_run
from revdist_sklearn.embedding._member_run import (
    MemberRun,
    average_windows,
    on_one_device,
    or_on_host,
    pooled_rows,
)
from revdist_sklearn.embedding._pooling import Pooling
from revdist_sklearn.models import _device
from revdist_sklearn.models._device import ModelTooLarge
from revdist_sklearn.models._family import resolve_family
from revdist_sklearn.models._loading import Encoder


def run_of(folder, **settings):
    return MemberRun(resolve_family(folder)[0], Pooling("mean"), **settings)


@pytest.fixture
def small_memory(monkeypatch):
    """Make every batch of more than `tokens` tokens run out of memory."""
    seen = []
    forward = Encoder.__call__

    def limit(tokens, error):
        def call(self, sequences):
            n = sum(len(s) + self.n_specials for s in sequences)
            seen.append(n)
            if n > tokens:
                raise error
            return forward(self, sequences)

        monkeypatch.setattr(Encoder, "__call__", call)
        return seen

    return limit


def test_a_row_that_no_batch_has_is_an_error_and_not_what_memory_held(tiny_model, monkeypatch):
    texts = ["MKTAYIAK", "GIV"]
    pooled = MemberRun.pooled
    monkeypatch.setattr(MemberRun, "pooled", lambda *given: islice(pooled(*given), 1))
    message = r"1 of 2 proteins have got no embedding by .*please report"
    with pytest.raises(RuntimeError, match=message):
        ESMFeaturizer(tiny_model, token_budget=8).transform(texts)
    with pytest.raises(RuntimeError, match=message):  # as workers do
        pooled_rows(run_of(tiny_model, token_budget=8), texts, [0, 1], None)


@pytest.mark.parametrize("error", out_of_memory_errors(), ids=lambda error: type(error).__name__)
def test_batches_that_do_not_fit_are_halved_and_nothing_is_lost(tiny_model, small_memory, error):
    texts = ["ACDEFGHIKL"[i:] + "MNPQRSTVWY"[:i] for i in range(10)] + ["ACD"]
    expected = dict(_rows(run_of(tiny_model, token_budget=120), texts))
    seen = small_memory(40, error)
    found = dict(_rows(run_of(tiny_model, token_budget=120), texts))
    assert seen[:3] == [120, 60, 24]  # 10, 5 and 2 proteins of 12 tokens
    assert max(seen[2:]) <= 40
    assert found.keys() == expected.keys() == set(range(11))
    for i in range(11):
        np.testing.assert_allclose(found[i], expected[i], atol=1e-6)


def _rows(run, texts):
    for indices, rows in run.pooled(texts):
        yield from zip(indices, rows, strict=True)


@pytest.mark.parametrize("error", out_of_memory_errors(), ids=lambda error: type(error).__name__)
def test_one_protein_that_does_not_fit_is_named(tiny_model, small_memory, error):
    small_memory(8, error)
    with pytest.raises(MemoryError, match=r"Sequence 31: 10 residues .* too_long='window'"):
        list(run_of(tiny_model).pooled(["ACD", "ACDEFGHIKL"], [30, 31]))


def test_other_errors_are_left_alone(tiny_model, small_memory):
    small_memory(1, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        list(run_of(tiny_model).pooled(["ACD"]))


def test_windows_have_equal_weight():
    def part(start, *states):
        return start, torch.tensor([[s] for s in states]), torch.tensor([float(start)])

    residues, first = average_windows([part(0, 1.0, 2.0), part(1, 4.0, 8.0)], 3)
    assert residues.tolist() == [[1.0], [3.0], [8.0]] and first.tolist() == [0.5]


def test_a_run_is_small_and_travels(tiny_model):
    import pickle

    run = run_of(tiny_model)
    run.encoder()
    assert len(pickle.dumps(run)) < 1000
    assert pickle.loads(pickle.dumps(run)) == run


def test_letters_without_a_token_name_the_sequence(tiny_model, monkeypatch):
    monkeypatch.setattr(run_of(tiny_model).encoder(), "residues", "ACDEFGHIKLMNPQRSTVWY")
    with pytest.raises(ValueError, match=r"Sequence 31 has 'U', for which .* has no token"):
        list(run_of(tiny_model).pooled(["ACD", "ACU"], [30, 31]))


@pytest.fixture
def on_gpu(tiny_model, fake_cuda, monkeypatch):
    """Return a function that gives a run of a model that believes to be on a fake GPU."""

    def run(gpu="cuda:0", n_bytes=0, **settings):
        run = run_of(tiny_model, device="cpu", **settings)
        encoder = run.encoder()
        monkeypatch.setattr(encoder, "device", torch.device(gpu))
        monkeypatch.setattr(
            type(encoder.model), "to", lambda self, device: fake_cuda.note(f"to {device}")
        )
        monkeypatch.setattr(_member_run, "RESIDENTS", residents)
        monkeypatch.setattr("revdist_sklearn.models._encoder.RESIDENTS", residents)
        return run

    residents = _device.Residents()
    return run


def test_free_memory_is_measured_beside_the_model(on_gpu, fake_cuda):
    fake_cuda.free[0] = 0
    next(on_gpu().batches_of_states(["ACD"]))
    assert fake_cuda.happened[:2] == [(0, "to cuda:0"), (0, "measured")]


def test_forward_passes_of_a_second_gpu_run_with_it_current(on_gpu, fake_cuda):
    run = on_gpu("cuda:1")
    run.encoder().model.register_forward_pre_hook(lambda *args: fake_cuda.note("forward"))
    list(run.pooled(["ACD", "ACDEF"]))
    assert (1, "forward") in fake_cuda.happened and (1, "to cuda:1") in fake_cuda.happened
    assert {gpu for gpu, _ in fake_cuda.happened} == {1}


def test_products_of_float32_are_in_float32(tiny_model):
    torch.set_float32_matmul_precision("high")
    seen = []
    try:
        run = run_of(tiny_model)
        run.encoder().model.register_forward_pre_hook(
            lambda *args: seen.append(torch.get_float32_matmul_precision())
        )
        list(run.pooled(["ACD"]))
        assert seen == ["highest"] and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_squares_of_lengths_count_in_a_batch(on_gpu, fake_cuda, monkeypatch):
    """As the masks and biases of T5 do: 1,000 residues, 32 heads."""
    sizes = []
    forward = Encoder.__call__

    def call(self, sequences):
        sizes.append(len(sequences))
        return forward(self, sequences)

    monkeypatch.setattr(Encoder, "__call__", call)
    run = on_gpu()
    encoder = run.encoder()
    monkeypatch.setattr(encoder, "_packed", None)
    texts = ["ACDEFGHIKLMNPQRSTVWY" * 5] * 40  # 102 tokens each
    monkeypatch.setattr(_member_run, "tokens_that_fit", lambda encoder: 102 * 40)
    monkeypatch.setattr(encoder, "square_bytes", 0)
    list(run.pooled(texts))
    assert sizes == [40]
    sizes.clear()
    # A square takes as much as its tokens: half as many proteins fit.
    monkeypatch.setattr(encoder, "square_bytes", encoder.width * (20 * 4 + 4) / 102)
    list(run.pooled(texts))
    assert sizes == [20, 20]
    # Whoever says how many tokens gets as many.
    sizes.clear()
    list(on_gpu(token_budget=102 * 40).pooled(texts))
    assert sizes == [40]


def test_other_models_make_room_before_batches_get_smaller(tiny_model, small_memory, monkeypatch):
    residents, asked = _member_run.RESIDENTS, []
    monkeypatch.setattr(
        type(residents), "alone", lambda self, encoder: asked.append(1) or len(asked) == 1
    )
    texts = ["ACDEFGHIKL"[i:] + "MNPQRSTVWY"[:i] for i in range(10)]
    seen = small_memory(60, torch.cuda.OutOfMemoryError("CUDA out of memory."))
    rows = dict(_rows(run_of(tiny_model, token_budget=120), texts))
    assert seen[:3] == [120, 120, 60] and len(rows) == 10


def test_a_model_that_fits_nowhere_is_no_matter_of_the_batch(tiny_model, monkeypatch):
    calls = []

    def call(self, sequences):
        calls.append(len(sequences))
        raise ModelTooLarge("Model 'x' does not fit into the memory of cuda:0. Use ...")

    monkeypatch.setattr(Encoder, "__call__", call)
    with pytest.raises(ModelTooLarge, match="does not fit"):
        list(run_of(tiny_model).pooled(["ACD"] * 3))
    assert calls == [3]


class Full:
    """States on a GPU that has no room for anything more; copies on the host are fine."""

    def __init__(self, host):
        self.host, self.device, self.shape = host, torch.device("cuda:1"), host.shape

    def cpu(self):
        return self.host

    def full(self, *args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    mean = amax = new_zeros = __sub__ = __getitem__ = __radd__ = __add__ = full


@pytest.mark.parametrize("error", out_of_memory_errors(), ids=lambda error: type(error).__name__)
def test_what_a_gpu_has_no_room_to_pool_is_pooled_on_the_host(
    tiny_model, fake_cuda, monkeypatch, error
):
    texts = ["ACD", "ACDEF"]
    run = run_of(tiny_model, device="cpu")
    expected = dict(_rows(run, texts))
    full = MemberRun.batches_of_states

    def on_full_gpu(self, texts, index=None):
        for batch in full(self, texts, index):
            yield [(i, Full(residues), Full(first)) for i, residues, first in batch]

    def raise_it(*args, **kwargs):
        raise error

    monkeypatch.setattr(Full, "mean", raise_it)
    monkeypatch.setattr(MemberRun, "batches_of_states", on_full_gpu)
    found = dict(_rows(run, texts))
    for i in range(2):
        np.testing.assert_array_equal(found[i], expected[i])
    assert (1, "emptied") in fake_cuda.happened


def test_windows_that_a_gpu_has_no_room_to_average_are_averaged_on_the_host(fake_cuda):
    parts = [(0, torch.ones(2, 1), torch.zeros(1)), (1, torch.full((2, 1), 3.0), torch.ones(1))]
    full = [(start, Full(states), Full(first)) for start, states, first in parts]
    residues, first = or_on_host(average_windows, full, 3)
    assert residues.tolist() == [[1.0], [2.0], [3.0]] and first.tolist() == [0.5]


def test_states_of_a_batch_are_on_one_device():
    """A protein of windows that were averaged on the host may come with others."""
    there = [(0, Full(torch.ones(2, 1)), Full(torch.zeros(1)))]
    here = [(1, torch.ones(3, 1), torch.zeros(1))]
    assert on_one_device(there) is there and on_one_device(here) is here
    assert all(type(x) is torch.Tensor for _, *pair in on_one_device(there + here) for x in pair)


def test_other_errors_of_pooling_are_left_alone(fake_cuda):
    def broken(states):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        or_on_host(broken, [(0, Full(torch.ones(1)))])
