import numpy as np
import pytest
import torch
from conftest import out_of_memory_errors

from revdist_sklearn.embedding._member_run import MemberRun, average_windows
from revdist_sklearn.embedding._pooling import Pooling
from revdist_sklearn.models import _device
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


def test_free_memory_is_measured_beside_the_model(tiny_model, monkeypatch):
    run = run_of(tiny_model)
    monkeypatch.setattr(run.encoder(), "device", torch.device("cuda:0"))
    happened = []
    monkeypatch.setattr(
        type(run.encoder().model), "to", lambda self, device: happened.append(str(device))
    )

    def mem_get_info(device):
        happened.append("measured")
        return 0, 0

    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr("revdist_sklearn.embedding._member_run.RESIDENTS", _device.Residents())
    next(run.batches_of_states(["ACD"]))
    assert happened[:2] == ["cuda:0", "measured"]
