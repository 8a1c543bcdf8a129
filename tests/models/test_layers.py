"""Several hidden states from one pass: memory, devices, and what is told of them."""

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import save_esm

from revdist_sklearn.models import _device
from revdist_sklearn.models._family import resolve_family
from revdist_sklearn.models._layers import as_model, with_layers
from revdist_sklearn.models._loading import load

CPU = torch.device("cpu")


@pytest.fixture
def member(tmp_path):
    return resolve_family(save_esm(tmp_path / "m", layers=3))[0]


def test_a_pass_that_fails_keeps_no_states(member):
    encoder = load(member.folder(), member, "float32", (1, 3), CPU)
    first, _, last = encoder.model.encoder.layer
    kept = []
    first.register_forward_hook(lambda module, args, output: kept.append(weakref.ref(output)))

    def full(*args, **kwargs):
        raise MemoryError

    whole, last.forward = last.forward, full
    with pytest.raises(MemoryError):
        encoder(["MKT"])
    gc.collect()
    assert kept and kept[0]() is None
    last.forward = whole
    residues, _ = encoder(["MKT"])
    assert residues[0].shape == (3, 16)
    gc.collect()
    assert kept[-1]() is None


def test_states_that_nobody_asked_for_are_not_kept(member):
    encoder = load(member.folder(), member, "float32", (3, 0), CPU)
    kept, alive = [], []
    layers = encoder.model.encoder.layer
    layers[0].register_forward_hook(lambda module, args, out: kept.append(weakref.ref(out)))
    layers[2].register_forward_hook(lambda *args: alive.append(kept[-1]() is not None))
    encoder(["MKTAYIAK"])
    assert alive == [False]


def test_batches_are_as_small_as_more_states_ask(fake_cuda):
    facts = {"width": 10, "itemsize": 2, "packed": False, "square_bytes": 0}
    fake_cuda.free[0] = 10**7

    def tokens(n_layers):
        place = {"device": torch.device("cuda:0"), "n_layers": n_layers}
        return _device.tokens_that_fit(SimpleNamespace(**facts, **place))

    # In float32, in the model's type as they come, and in that side by side.
    assert tokens(1) == 10**7 // 2 // (10 * 44)
    assert tokens(3) == 10**7 // 2 // (10 * (40 + 3 * 4 + 2 * 3 * 2))


def test_weights_of_another_depth_than_the_configuration_tells(member):
    lying = replace(member, depth=4)
    with pytest.raises(ValueError, match=r"has 3 layers, and its configuration tells of 4"):
        load(member.folder(), lying, "float32", (0, -1), CPU)
    load(member.folder(), lying, "float32", -1, CPU)  # named by no number


def test_a_configuration_that_does_not_tell_its_layers(member):
    silent = replace(member, depth=None)
    assert with_layers((silent,), -1) == (silent,)
    with pytest.raises(ValueError, match="does not tell the number of its layers"):
        with_layers((silent,), [-1])


def test_a_model_is_found_again_by_its_layer(member):
    # Its own name may look like one of a layer.
    named = replace(member, block="m_layer_2")
    expanded = with_layers((member, named), [-1, 0])
    assert [one.block for one in expanded] == [
        *("m_layer_3", "m_layer_0", "m_layer_2_layer_3", "m_layer_2_layer_0"),
    ]
    assert [as_model(one) for one in expanded] == [member, member, named, named]
    assert [one.layer for one in expanded] == [-1, 0, -1, 0]
