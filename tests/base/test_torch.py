import errno
import threading
from types import SimpleNamespace

import pytest
import torch
from conftest import out_of_memory_errors

from revdist_sklearn.base import _torch
from revdist_sklearn.base._torch import full_float32, is_out_of_memory

LIBRARIES = [
    RuntimeError("could not create a primitive"),  # oneDNN
    RuntimeError("unable to mmap 123 bytes from file </x>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, "Kein Speicher"),
    RuntimeError("std::bad_alloc"),
]
BY_OPERATOR = hasattr(torch.backends, "fp32_precision")


def test_errors_that_say_memory():
    assert all(is_out_of_memory(error) for error in out_of_memory_errors())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(OSError(errno.EIO, "Input/output error"))


@pytest.mark.parametrize("error", LIBRARIES, ids=str)
def test_errors_of_libraries_that_say_memory(error):
    assert is_out_of_memory(error)


def settings():
    """Return all that torch is told of float32, and what it cannot make sense of."""
    backends = torch.backends
    readers = {
        "matmul": torch.get_float32_matmul_precision,
        "cuda.matmul": lambda: backends.cuda.matmul.allow_tf32,
        "cudnn": lambda: backends.cudnn.allow_tf32,
    }
    if BY_OPERATOR:
        for operator in ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv"):
            backend, _, name = operator.partition(".")
            module = getattr(getattr(backends, backend), name)
            readers[f"{operator} by operator"] = lambda module=module: module.fp32_precision
    found = {}
    for name, read in readers.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "settings disagree"
    return found


def by_flag():
    torch.backends.cuda.matmul.allow_tf32 = True


def by_precision():
    torch.set_float32_matmul_precision("high")


def by_least_precision():
    torch.set_float32_matmul_precision("medium")


def by_operator():
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def by_cudnn():
    torch.backends.cudnn.allow_tf32 = False


def by_all_operators():
    torch.backends.fp32_precision = "tf32"


@pytest.fixture
def restored():
    if BY_OPERATOR:
        cudnn = torch.backends.cudnn
        modules = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, cudnn.conv, cudnn.rnn]
        before = [(module, module.fp32_precision) for module in modules]
    yield
    if BY_OPERATOR:
        torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    if BY_OPERATOR:
        for module, precision in before:
            module.fp32_precision = precision


@pytest.mark.parametrize(
    "tell",
    [by_flag, by_precision, by_least_precision, by_cudnn, by_operator, by_all_operators],
)
@pytest.mark.filterwarnings("ignore:Please use the new API")
def test_float32_is_float32_and_what_torch_was_told_comes_back(tell, restored):
    if tell in (by_operator, by_all_operators) and not BY_OPERATOR:
        pytest.skip("an older torch")
    tell()
    before = settings()
    with full_float32():
        inside = settings()
        # Both ways to ask must agree, or torch raises in the product.
        assert inside["matmul"] == "highest"
        assert inside["cuda.matmul"] is inside["cudnn"] is False
        assert not {"tf32", "bf16"} & {str(value) for value in inside.values()}
        with full_float32():
            assert settings() == inside
        assert settings() == inside
    assert settings() == before


def test_settings_come_back_after_an_error(restored):
    torch.set_float32_matmul_precision("high")
    with pytest.raises(ZeroDivisionError), full_float32():
        1 / 0  # noqa: B018
    assert torch.get_float32_matmul_precision() == "high"


def test_the_last_thread_puts_the_settings_back(restored):
    torch.set_float32_matmul_precision("high")
    inside, leave = threading.Event(), threading.Event()

    def other():
        with full_float32():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with full_float32():
        thread.start()
        assert inside.wait(10)
    assert torch.get_float32_matmul_precision() == "highest"
    leave.set()
    thread.join(10)
    assert torch.get_float32_matmul_precision() == "high"


def test_before_torch_2_9_the_older_settings_are_used():
    precision = ["medium"]
    cudnn = SimpleNamespace(allow_tf32=True)
    older = SimpleNamespace(
        get_float32_matmul_precision=lambda: precision[-1],
        set_float32_matmul_precision=precision.append,
        backends=SimpleNamespace(cudnn=cudnn),
    )
    undo = _torch._switch(older)
    assert precision[-1] == "highest" and cudnn.allow_tf32 is False
    undo()
    assert precision[-1] == "medium" and cudnn.allow_tf32 is True
