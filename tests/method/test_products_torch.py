"""Tensors on devices that are not here: Apple's, without float64, and a GPU that is full."""

import numpy as np
import pytest
import torch
from conftest import out_of_memory_errors
from numpy.testing import assert_allclose
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from revdist_sklearn import Moments
from revdist_sklearn.method import _products_torch
from revdist_sklearn.method._products_numpy import CHUNK_ROWS

MPS = torch.device("mps:0")


class OnMps(torch.Tensor):
    """A tensor that says it is on Apple's GPU."""

    @property
    def device(self):
        return MPS


class Apple(TorchFunctionMode):
    """Have tensors on "mps", where anything of float64 raises as it does there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__":  # of an attribute, such as T or dtype
            return func(*args, **kwargs)
        tensors = []
        tree_map(lambda x: tensors.append(x) if isinstance(x, torch.Tensor) else x, (args, kwargs))
        is_on = [isinstance(x, OnMps) for x in tensors]
        there = any(is_on)
        if name in ("cpu", "numpy", "__array__", "item", "__bool__", "tolist"):
            assert name == "cpu" or not there or name in ("item", "__bool__"), name
            return func(*(self.plain(x) for x in args), **kwargs)
        where = kwargs.get("device") or next(
            (x for x in args if isinstance(x, (torch.device, str))), None
        )
        if where is not None:
            there = torch.device(where).type == "mps"
            if name == "to":
                result = self.plain(args[0])
            else:
                result = func(*args, **{**kwargs, "device": "cpu"})
        else:
            assert not there or all(is_on) or name == "copy_", f"{name}: two devices"
            args, kwargs = tree_map(self.plain, (args, kwargs))
            result = func(*args, **kwargs)
        return tree_map(self.put, result) if there else result

    @staticmethod
    def plain(x):
        return x.as_subclass(torch.Tensor) if isinstance(x, OnMps) else x

    @staticmethod
    def put(x):
        if not isinstance(x, torch.Tensor):
            return x
        if x.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return x.as_subclass(OnMps)


def rows_of(n=2 * CHUNK_ROWS + 50, d=6):
    """Return rows with a column far from zero, as ESM has them."""
    rng = np.random.default_rng(0)
    means = np.array([0, 1, 10, 100, -1000, 0.1])
    return (rng.normal(size=(n, d)) + means).astype(np.float32)


def test_apple_has_no_float64():
    """Or the tests below would show nothing."""
    with Apple():
        tensor = torch.zeros(3).to("mps")
        assert tensor.device == MPS and (tensor + tensor).device == MPS
        assert tensor.cpu().double().device.type == "cpu"
        for wide in (
            lambda: tensor.double(),
            lambda: tensor.sum(0, dtype=torch.float64),
            lambda: torch.zeros(3, dtype=torch.float64, device=MPS),
            lambda: torch.zeros(3, dtype=torch.float64).to(MPS),
        ):
            with pytest.raises(TypeError, match="float64"):
                wide()


@pytest.mark.parametrize("precision", [None, "float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_of_apples_gpu_are_as_exact(precision, weighted):
    rows = rows_of()
    w = np.random.default_rng(1).uniform(0, 2, len(rows)) if weighted else None
    proteins = np.repeat(np.arange(-(-len(rows) // 100)), 100)[: len(rows)]
    settings = {"sample_weight": w, "proteins": proteins}
    exact = Moments([6]).update(rows.astype(np.float64), **settings)
    with Apple():
        tensor = torch.from_numpy(rows).to("mps")
        moments = Moments([6], precision=precision).update(tensor, **settings)
    assert_allclose(moments.n, exact.n, rtol=1e-12)
    # Means are sums of what was taken off, in float64: to a ten-thousandth of float32's rounding
    # of a mean of 1000.
    assert_allclose(moments.mean, exact.mean, rtol=0, atol=1e-8)
    scale = np.sqrt(np.outer(*2 * [exact.scatter.diagonal()]))
    error = np.abs(moments.scatter - exact.scatter) / scale
    assert error.max() < (1e-12 if precision == "float64" else 1e-6)
    assert_allclose(moments.protein.mean, exact.protein.mean, rtol=1e-12)
    assert_allclose(moments.protein.scatter, exact.protein.scatter, rtol=1e-9, atol=1e-9)


def test_means_of_float32_tensors_are_those_of_float64():
    """They were off by the rounding of a mean to float32: 3e-5 of 1000."""
    rows = rows_of()
    exact = Moments([6]).update(rows.astype(np.float64))
    moments = Moments([6]).update(torch.from_numpy(rows))
    assert_allclose(moments.mean, exact.mean, rtol=0, atol=1e-8)


class OnFullGPU(torch.Tensor):
    """Rows on a GPU without room for their copies."""

    error = None

    @property
    def device(self):
        return torch.device("cuda:1")

    def isfinite(self):
        return self.cpu().isfinite()

    def __getitem__(self, item):
        raise self.error

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("error", out_of_memory_errors(), ids=lambda error: type(error).__name__)
def test_rows_that_a_gpu_has_no_room_to_multiply_are_multiplied_on_the_host(
    fake_cuda, monkeypatch, error
):
    rows = torch.from_numpy(rows_of(300))
    proteins = np.repeat(np.arange(30), 10)
    expected = Moments([6]).update(rows, proteins=proteins)
    monkeypatch.setattr(OnFullGPU, "error", error)
    as_tensor = torch.as_tensor

    def full(x, device):
        if device.type == "cuda":
            raise error
        return as_tensor(x, device=device)

    monkeypatch.setattr(torch, "as_tensor", full)
    moments = Moments([6]).update(rows.as_subclass(OnFullGPU), proteins=proteins)
    assert moments.residue == expected.residue and moments.protein == expected.protein
    assert fake_cuda.happened == 2 * [(1, "emptied")]


def test_other_errors_of_a_gpu_are_left_alone(fake_cuda, monkeypatch):
    monkeypatch.setattr(OnFullGPU, "error", RuntimeError("CUDA error: misaligned address"))
    rows = torch.from_numpy(rows_of(300)).as_subclass(OnFullGPU)
    moments = Moments([6])
    with pytest.raises(RuntimeError, match="misaligned"):
        moments.update(rows)
    assert moments.n_rows == 0


def test_products_of_float32_are_in_float32(monkeypatch):
    seen = []
    widened = _products_torch._widened

    def watch(x):
        if x.ndim == 2:
            seen.append(torch.get_float32_matmul_precision())
        return widened(x)

    monkeypatch.setattr(_products_torch, "_widened", watch)
    torch.set_float32_matmul_precision("high")
    try:
        Moments([6]).update(torch.from_numpy(rows_of(300)))
        assert set(seen) == {"highest"} and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_left_as_they_are(weighted):
    rows = torch.from_numpy(rows_of(300)).double()
    before = rows.clone()
    w = np.full(300, 0.5) if weighted else None
    Moments([6]).update(rows, sample_weight=w, proteins=np.arange(300))
    assert torch.equal(rows, before)
