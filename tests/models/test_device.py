import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import out_of_memory_errors

from revdist_sklearn.models import _device
from revdist_sklearn.models._device import (
    Residents,
    finish_copy,
    is_out_of_memory,
    start_copy,
    tokens_that_fit,
)


class Model:
    """Remembers where it was put."""

    def __init__(self):
        self.moves = []

    def to(self, device):
        self.moves.append(str(device))


class Encoder(SimpleNamespace):
    """What the device needs to know of an encoder."""


def encoder_on(device, is_placed=False, **facts):
    return Encoder(
        model=Model(),
        device=torch.device(device),
        is_placed=is_placed,
        width=10,
        itemsize=4,
        **facts,
    )


def test_tokens_follow_the_free_memory_of_a_gpu(monkeypatch):
    assert tokens_that_fit(encoder_on("cpu")) == _device.CPU_TOKENS
    free = {}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 80e9))
    encoder = encoder_on("cuda:1")
    a_token = 10 * (_device.LIVE_WIDTHS * 4 + 4)
    free[1] = 2 * 5000 * a_token
    assert tokens_that_fit(encoder) == 5000
    # Half the bytes of a layer's arrays; the last states are counted in float32 as well.
    encoder.itemsize = 2
    assert tokens_that_fit(encoder) == 5000 * 84 // 44
    for bytes_free, tokens in ((0, _device.GPU_TOKENS[0]), (80 * 10**12, _device.GPU_TOKENS[1])):
        free[1] = bytes_free
        assert tokens_that_fit(encoder) == tokens


def test_errors_that_say_memory():
    assert all(is_out_of_memory(error) for error in out_of_memory_errors())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_one_model_is_on_a_gpu_at_a_time():
    residents, first, second, other = (
        Residents(),
        encoder_on("cuda:0"),
        encoder_on("cuda:0"),
        encoder_on("cuda:1"),
    )
    for encoder in (first, first, second, other, first):
        with residents.room_for(encoder):
            assert encoder.model.moves[-1] == str(encoder.device)
    assert first.model.moves == ["cuda:0", "cpu", "cuda:0"]
    assert second.model.moves == ["cuda:0", "cpu"]
    assert other.model.moves == ["cuda:1"]


def test_models_on_the_cpu_or_placed_by_a_device_map_are_not_moved():
    residents = Residents()
    for encoder in (encoder_on("cpu"), encoder_on("cuda:0", is_placed=True)):
        with residents.room_for(encoder):
            assert encoder.model.moves == []


def test_residents_do_not_keep_a_model_alive():
    import gc
    import weakref

    residents, encoder = Residents(), encoder_on("cuda:0")
    with residents.room_for(encoder):
        pass
    gone = weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None
    with residents.room_for(encoder_on("cuda:0")) as room:
        assert room is None


def test_a_model_is_not_moved_away_while_it_runs():
    residents, first, second = Residents(), encoder_on("cuda:0"), encoder_on("cuda:0")
    moved = threading.Event()

    def run_second():
        with residents.room_for(second):
            moved.set()

    thread = threading.Thread(target=run_second)
    with residents.room_for(first):
        thread.start()
        assert not moved.wait(0.2)
    thread.join(5)
    assert moved.is_set() and first.model.moves == ["cuda:0", "cpu"]


def test_copies_from_the_cpu_are_there_at_once():
    rows = torch.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(finish_copy(*start_copy(rows)), rows.numpy())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_from_a_gpu_arrive():
    rows = torch.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(finish_copy(*start_copy(rows.cuda())), rows.numpy())
