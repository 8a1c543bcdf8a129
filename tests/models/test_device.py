import gc
import json
import multiprocessing
import subprocess
import sys
import threading
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from revdist_sklearn.models import _device
from revdist_sklearn.models._device import (
    Claim,
    ModelTooLarge,
    Residents,
    finish_copy,
    gpu_of_its_own,
    resolve_device,
    start_copy,
    tokens_of_a_square,
    tokens_that_fit,
)


class Model:
    """Remembers where it was put, and takes memory of a fake GPU there."""

    def __init__(self, cuda=None, n_bytes=0):
        self.moves, self.cuda, self.n_bytes = [], cuda, n_bytes
        self.place = torch.device("cpu")

    def to(self, device):
        device = torch.device(device)
        self.moves.append(str(device))
        if self.cuda is not None:
            self.cuda.note(f"to {device}")
            for place, sign in ((self.place, 1), (device, -1)):
                if place.type == "cuda":
                    self.cuda.free[place.index] += sign * self.n_bytes
        self.place = device
        if self.cuda is not None and device.type == "cuda" and self.cuda.free[device.index] < 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    def parameters(self):
        return [SimpleNamespace(numel=lambda: self.n_bytes, element_size=lambda: 1)]

    def buffers(self):
        return []


class Encoder(SimpleNamespace):
    """What the device needs to know of an encoder."""


def encoder_on(device, is_placed=False, cuda=None, n_bytes=0, **facts):
    settings = {"width": 10, "itemsize": 4, "packed": False, "square_bytes": 5, "n_layers": 1}
    return Encoder(
        model=Model(cuda, n_bytes),
        device=torch.device(device),
        is_placed=is_placed,
        source="a model",
        **{**settings, **facts},
    )


def test_tokens_follow_the_free_memory_of_a_gpu(fake_cuda):
    assert tokens_that_fit(encoder_on("cpu")) == _device.CPU_TOKENS
    encoder = encoder_on("cuda:1")
    a_token = 10 * (_device.LIVE_WIDTHS * 4 + 4)
    fake_cuda.free[1] = 2 * 5000 * a_token
    assert tokens_that_fit(encoder) == 5000
    # What torch keeps of freed tensors can be had as well.
    fake_cuda.kept[1] = 2 * 100 * a_token
    assert tokens_that_fit(encoder) == 5100
    fake_cuda.kept[1] = 0
    # Half the bytes of a layer's arrays; the last states are counted in float32 as well.
    encoder.itemsize = 2
    assert tokens_that_fit(encoder) == 5000 * 84 // 44
    for bytes_free, tokens in ((0, _device.GPU_TOKENS[0]), (80 * 10**12, _device.GPU_TOKENS[1])):
        fake_cuda.free[1] = bytes_free
        assert tokens_that_fit(encoder) == tokens


def test_squares_count_where_there_is_padding_on_a_gpu():
    encoder = encoder_on("cuda:0", square_bytes=1680)
    assert tokens_of_a_square(encoder) == 1680 / (10 * 84)
    encoder.packed = True
    assert tokens_of_a_square(encoder) == 0
    assert tokens_of_a_square(encoder_on("cpu", square_bytes=1680)) == 0


def test_models_stay_on_a_gpu_while_they_fit(fake_cuda):
    """A chain of three runs over each piece of a corpus: none is moved twice."""
    residents = Residents()
    chain = [encoder_on("cuda:0", cuda=fake_cuda, n_bytes=int(10e9)) for _ in range(3)]
    for encoder in 3 * chain:
        with residents.room_for(encoder):
            assert encoder.model.place == torch.device("cuda:0")
    assert [encoder.model.moves for encoder in chain] == 3 * [["cuda:0"]]


def test_the_least_recently_used_model_makes_room(fake_cuda):
    """A quarter of the memory is left to batches."""
    residents = Residents()
    a, b, c = (encoder_on("cuda:0", cuda=fake_cuda, n_bytes=int(25e9)) for _ in range(3))
    other = encoder_on("cuda:1", cuda=fake_cuda, n_bytes=int(25e9))
    for encoder in (a, b, other, a, c, a):
        with residents.room_for(encoder):
            assert encoder.model.moves[-1] == str(encoder.device)
    assert a.model.moves == ["cuda:0"] == c.model.moves
    assert b.model.moves == ["cuda:0", "cpu"]
    assert other.model.moves == ["cuda:1"]


def test_one_model_at_a_time_where_free_memory_is_not_known(monkeypatch):
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    residents, first, second = Residents(), encoder_on("mps:0"), encoder_on("mps:0")
    for encoder in (first, first, second, first):
        with residents.room_for(encoder):
            pass
    assert first.model.moves == ["mps:0", "cpu", "mps:0"]
    assert second.model.moves == ["mps:0", "cpu"]


def test_a_model_alone_takes_the_others_off(fake_cuda):
    residents = Residents()
    a, b = (encoder_on("cuda:0", cuda=fake_cuda, n_bytes=1) for _ in range(2))
    for encoder in (a, b):
        with residents.room_for(encoder):
            pass
    assert residents.alone(b) and a.model.moves == ["cuda:0", "cpu"]
    assert not residents.alone(b) and b.model.moves == ["cuda:0"]


def test_everything_of_a_device_happens_with_it_current(fake_cuda):
    residents = Residents()
    encoder = encoder_on("cuda:1", cuda=fake_cuda, n_bytes=1)
    with residents.room_for(encoder):
        fake_cuda.note("forward")
    with residents.room_for(encoder_on("cuda:1", is_placed=True)):
        fake_cuda.note("forward of a placed one")
    assert {gpu for gpu, _ in fake_cuda.happened} == {1}
    assert [what for _, what in fake_cuda.happened if what != "measured"] == [
        "to cuda:1",
        "forward",
        "forward of a placed one",
    ]
    assert fake_cuda.current == 0


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_float32_is_float32_on_a_device(fake_cuda, device):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with Residents().room_for(encoder_on(device, cuda=fake_cuda, n_bytes=1)):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_model_moves_where_others_have_made_room(fake_cuda):
    """Though it seemed to fit beside them."""
    residents = Residents()
    first = encoder_on("cuda:0", cuda=fake_cuda, n_bytes=int(10e9))
    second = encoder_on("cuda:0", cuda=fake_cuda, n_bytes=int(20e9))
    with residents.room_for(first):
        pass
    fake_cuda.kept[0], fake_cuda.free[0] = 60e9, 15e9  # in pieces, as it turns out
    with residents.room_for(second):
        pass
    assert first.model.moves == ["cuda:0", "cpu"]
    assert second.model.moves == ["cuda:0", "cpu", "cuda:0"]


def test_a_model_too_large_for_its_device_is_named(fake_cuda):
    residents = Residents()
    encoder = encoder_on("cuda:1", cuda=fake_cuda, n_bytes=3 * 2**35)
    with pytest.raises(
        ModelTooLarge, match=r"'a model' of 96\.0 GiB.*cuda:1.*`dtype`.*device_map"
    ):
        with residents.room_for(encoder):
            raise AssertionError("it is not there")
    assert encoder.model.moves == ["cuda:1", "cpu"]  # what had arrived of it
    other = encoder_on("cuda:1", cuda=fake_cuda, n_bytes=1)
    with residents.room_for(other):
        assert other.model.moves == ["cuda:1"]


def test_other_errors_of_a_move_are_left_alone(fake_cuda, monkeypatch):
    encoder = encoder_on("cuda:0")

    def broken(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(encoder.model, "to", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        with Residents().room_for(encoder):
            pass


def test_models_on_the_cpu_or_placed_by_a_device_map_are_not_moved(fake_cuda):
    residents = Residents()
    for encoder in (encoder_on("cpu"), encoder_on("cuda:0", is_placed=True)):
        with residents.room_for(encoder):
            assert encoder.model.moves == []
        assert not residents.alone(encoder)


def test_residents_do_not_keep_a_model_alive(fake_cuda):
    residents, encoder = Residents(), encoder_on("cuda:0")
    with residents.room_for(encoder):
        pass
    gone = weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None
    with residents.room_for(encoder_on("cuda:0")) as room:
        assert room is None


def test_a_model_is_not_moved_away_while_it_runs(monkeypatch, fake_cuda):
    monkeypatch.setattr(_device, "on", lambda device: nullcontext())
    fake_cuda.free[0] = 0
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


class Event:
    """Says when the copies of one stream are done."""

    def __init__(self, cuda):
        self.cuda, self.stream = cuda, None
        cuda.note("event")

    def record(self, stream=None):
        self.stream = self.cuda.current_stream() if stream is None else stream
        self.cuda.note(f"recorded on the {self.stream}")


def test_the_copy_of_a_second_gpu_is_waited_for_on_its_own_stream(fake_cuda, monkeypatch):
    class Host:
        def copy_(self, rows, non_blocking):
            fake_cuda.note(f"copy on the {fake_cuda.current_stream()}")

    monkeypatch.setattr(torch.cuda, "Event", lambda: Event(fake_cuda))
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: Host())
    rows = SimpleNamespace(device=torch.device("cuda:1"), shape=(2, 3), dtype=torch.float32)
    _, event = start_copy(rows)
    assert event.stream == "stream of 1"
    assert fake_cuda.happened == [
        (1, "copy on the stream of 1"),
        (1, "event"),
        (1, "recorded on the stream of 1"),
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_from_a_gpu_arrive():
    rows = torch.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(finish_copy(*start_copy(rows.cuda())), rows.numpy())


@pytest.fixture
def names_alone(monkeypatch):
    """Have torch put tensors of a fake GPU nowhere."""
    monkeypatch.setattr(
        torch, "empty", lambda *shape, device: SimpleNamespace(device=torch.device(device))
    )


def test_a_gpu_has_one_name(fake_cuda, names_alone):
    assert resolve_device("cuda") == resolve_device("cuda:0") == resolve_device(None)
    assert str(resolve_device("cuda")) == "cuda:0" and str(resolve_device("cuda:1")) == "cuda:1"
    with torch.cuda.device("cuda:1"):
        assert str(resolve_device("cuda")) == "cuda:1"


def test_in_a_worker_the_gpu_is_its_own(fake_cuda, names_alone, monkeypatch, tmp_path):
    holder, ours = Claim(tmp_path), Claim(tmp_path)
    assert holder.gpu() == 0
    monkeypatch.setattr(_device, "CLAIM", ours)
    with gpu_of_its_own():
        assert str(resolve_device("cuda")) == str(resolve_device(None)) == "cuda:1"
        assert str(resolve_device("cuda:0")) == "cuda:0"
        assert str(resolve_device("cpu")) == "cpu"
    assert str(resolve_device("cuda")) == "cuda:0"


def test_each_gpu_has_one_process_before_any_has_two(fake_cuda, tmp_path):
    fake_cuda.n = 3
    claims = [Claim(tmp_path) for _ in range(7)]
    assert [claim.gpu() for claim in claims] == [0, 1, 2, 0, 1, 2, 0]
    assert [claim.gpu() for claim in claims] == [0, 1, 2, 0, 1, 2, 0]  # from task to task


def test_gpus_are_told_by_their_hardware(fake_cuda, tmp_path, monkeypatch):
    """Dask-CUDA shows each worker all GPUs, its own one first."""
    assert Claim(tmp_path).gpu() == 0
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(uuid=f"GPU-{1 - gpu}")
    )
    assert Claim(tmp_path).gpu() == 0  # which is the other one
    # An older torch: by what the environment calls them.
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert Claim(tmp_path / "older").gpu() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert Claim(tmp_path / "older").gpu() == 0


def test_one_gpu_is_not_claimed(fake_cuda, tmp_path):
    fake_cuda.n = 1
    assert Claim(tmp_path).gpu() is None and list(tmp_path.iterdir()) == []


def test_without_a_folder_processes_share_by_their_numbers(fake_cuda, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    for pid in (10, 11):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        assert Claim(tmp_path / "file").gpu() == pid % 2


HOLD = """
import json, sys
from types import SimpleNamespace
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_properties = lambda gpu: SimpleNamespace(uuid=f"GPU-{gpu}")
from revdist_sklearn.models._device import Claim
claim = Claim(sys.argv[1])
print(json.dumps(claim.gpu()), flush=True)
sys.stdin.read()
"""


def test_a_gpu_is_free_again_when_its_process_is_gone(fake_cuda, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert json.loads(process.stdout.readline()) == 0
    assert Claim(tmp_path).gpu() == 1
    process.kill()
    process.communicate()
    assert Claim(tmp_path).gpu() == 0


def claim_anew(claim, queue):
    queue.put(claim.gpu())


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no processes by forking"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_claims_its_own_and_leaves_its_parents(fake_cuda, tmp_path):
    claim = Claim(tmp_path)
    assert claim.gpu() == 0
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=claim_anew, args=(claim, queue))
    child.start()
    assert queue.get(timeout=30) == 1
    child.join()
    assert Claim(tmp_path).gpu() == 1  # the child's is free again, the parent's is not
