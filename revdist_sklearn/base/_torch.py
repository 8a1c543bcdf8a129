"""What the rooms share of torch: memory that runs out, and float32 that is float32."""

import errno
import os
import threading
from collections.abc import Callable
from contextlib import contextmanager

# How many threads are inside of `full_float32`, and what puts the settings back after the last.
_lock = threading.Lock()
_inside: list[Callable] = []


def _after_fork_in_child():
    """Forget threads that are not there: none will put the settings back."""
    global _lock
    _lock = threading.Lock()
    if _inside:
        _inside[-1]()
        _inside.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)


# What libraries raise as plain errors: the CPU's allocator, maps of files, C++, Windows.
NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "paging file is too small",
)
# oneDNN says no more of it, and goes on to say so of the same shapes.
ONE_DNN_FAILED = "could not create a primitive", "could not create a memory"


def is_out_of_memory(error):
    """Return whether an error says that memory ran out, on whatever device."""
    import torch

    return (
        isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(text in str(error).lower() for text in NO_MEMORY)
        or is_of_one_dnn(error)
    )


def is_of_one_dnn(error):
    """Return whether an error is oneDNN's that it cannot set up an operation."""
    return isinstance(error, RuntimeError) and any(t in str(error) for t in ONE_DNN_FAILED)


def free_memory(device):
    """Give back what torch keeps of a GPU's memory for later."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@contextmanager
def full_float32():
    """Have products of float32 computed in float32, whatever torch was told of TF32.

    TF32, of which NVIDIA's GPUs make use if told to, keeps 10 bits of 23; oneDNN may take
    bfloat16 on a CPU. The settings are those of the process: the first thread that comes
    changes them, the last that leaves puts them back.

    Examples
    --------
    >>> import torch
    >>> from revdist_sklearn.base._torch import full_float32
    >>> torch.set_float32_matmul_precision("high")
    >>> with full_float32():
    ...     print(torch.get_float32_matmul_precision())
    highest
    >>> torch.get_float32_matmul_precision()
    'high'
    >>> torch.set_float32_matmul_precision("highest")
    """
    import torch

    with _lock:
        # Each kind of product has a precision of its own from torch 2.9 on.
        by_operator = hasattr(torch.backends, "fp32_precision")
        switch = _switch_by_operator if by_operator else _switch
        _inside.append(_inside[-1] if _inside else switch(torch))
    try:
        yield
    finally:
        with _lock:
            undo = _inside.pop()
            if not _inside:
                undo()


def _switch(torch):
    """Switch TF32 off as before torch 2.9; return a function that puts it back."""
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False

    def undo():
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn

    return undo


def _switch_by_operator(torch):
    """Switch TF32 off from torch 2.9 on; return a function that puts it back.

    Both ways to set the precision of products are still there, and torch raises in a product
    for which they disagree: who has used the older one gets it set by the older one.
    """
    backends = torch.backends
    operators = [
        (backends.cuda.matmul, backends.cudnn),
        (backends.mkldnn.matmul, backends.mkldnn),
        (backends.mkldnn.conv, backends.mkldnn),
        (backends.cudnn.conv, backends.cudnn),
        (backends.cudnn.rnn, backends.cudnn),
    ]
    before = [
        # One that has none of its own, and follows its backend, is to do so afterwards.
        (operator, "none" if own == backend.fp32_precision else own)
        for operator, backend in operators
        for own in [operator.fp32_precision]
    ]
    # False where the older one was not used, or the newer one was and they disagree.
    matmul = _or_false(torch.get_float32_matmul_precision)
    cudnn = _or_false(lambda: backends.cudnn.allow_tf32)
    if matmul not in (False, "highest"):
        torch.set_float32_matmul_precision("highest")
    if cudnn:
        backends.cudnn.allow_tf32 = False
    for operator, _ in before:
        operator.fp32_precision = "ieee"

    def undo():
        if matmul not in (False, "highest"):
            torch.set_float32_matmul_precision(matmul)
        if cudnn:
            backends.cudnn.allow_tf32 = True
        for operator, precision in before:
            operator.fp32_precision = precision

    return undo


def _or_false(read):
    """Return a setting, False where torch finds that the two ways to set it disagree."""
    try:
        return read()
    except RuntimeError:
        return False
