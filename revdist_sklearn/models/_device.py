"""CPU and GPU: which one, what fits on it, which models are on it, and copies back from it."""

import getpass
import os
import tempfile
import threading
import weakref
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from ..base._imports import IMPORTS
from ..base._torch import free_memory, full_float32, is_out_of_memory

# Tokens of a batch. On a CPU one protein fills the machine, and larger batches only leave
# its caches; a GPU wants as many as its memory holds.
CPU_TOKENS = 1024
GPU_TOKENS = (2048, 131072)
# Arrays of one token that live at a time in a layer, in units of the width: queries, keys,
# values, the output of attention, the two sides of the feed-forward part, and the sums.
LIVE_WIDTHS = 20
# Part of a GPU's memory that models leave to batches: while less would be free, the model that
# was not used for longest goes back to the host.
FREE_PART = 0.25


class ModelTooLarge(MemoryError):
    """A model does not fit into the memory of its device, alone and without any batch."""


def resolve_device(device):
    """Return the torch device of that name; None is CUDA where there is one, else the CPU.

    A device has one name: "cuda" is the current GPU, most often "cuda:0". In a task of several
    workers "cuda" and None are the GPU of the worker's process; see :func:`gpu_of_its_own`.

    Parameters
    ----------
    device : str or None
        Such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Returns
    -------
    device : torch.device
        With its number, but for the CPU.

    Raises
    ------
    ValueError
        If torch knows no such device, or cannot use it here.

    Examples
    --------
    >>> from revdist_sklearn.models._device import resolve_device
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    # Also what is done first with it: a fork in its midst would leave the child without an end.
    with IMPORTS:
        import torch

        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return _usable(device)


def _usable(device):
    """Return the torch device of a name, on which there is a tensor."""
    import torch

    try:
        resolved = torch.device(device)
        if resolved.type == "cuda" and resolved.index is None:
            own = _OWN_GPU.get()
            resolved = torch.device("cuda", torch.cuda.current_device() if own is None else own)
        return torch.empty(0, device=resolved).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"`device`={device!r} cannot be used here: {first} "
            "Use 'cpu', 'cuda' or 'cuda:<number>' on a machine that has one, or None for "
            "whichever is there."
        ) from error


# Number of the GPU of this process, inside of a task of several workers.
_OWN_GPU: ContextVar[int | None] = ContextVar("own_gpu", default=None)


class Claim:
    """The GPU that this process has taken among those it sees, for as long as it lives.

    Processes tell each other by locks on files, one file a GPU and round, in a folder of the
    machine and user: the first that is free is taken, so that each GPU has one process before
    any has two. A lock goes with its process, however that ends. GPUs are told by their
    hardware's name, not by their number, which differs between workers that were shown the
    GPUs in different orders.
    """

    def __init__(self, folder=None):
        self._folder = folder
        self._lock = threading.Lock()
        self._process = self._gpu = None
        # None is ever let go of: a forked process that did so would unlock its parent's.
        self._held = []

    def gpu(self):
        """Return the number of this process's GPU, None where it sees fewer than two."""
        with IMPORTS:
            import torch

        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if n < 2:
            return None
        with self._lock:
            if self._process != os.getpid():  # a forked one has none yet
                self._process, self._gpu = os.getpid(), self._take(n)
            return self._gpu

    def _take(self, n):
        try:
            folder = Path(self._folder or Path(tempfile.gettempdir()) / f"revdist-{_user()}")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for turn in count():
                for gpu in range(n):
                    lock = FileLock(folder / f"{_hardware(gpu)}.{turn}", thread_local=False)
                    try:
                        lock.acquire(timeout=0)
                    except Timeout:
                        continue
                    self._held.append(lock)
                    return gpu
        except (OSError, NotImplementedError):  # no folder, or one without locks
            pass
        return os.getpid() % n


def _user():
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # one without a name, as in a container
        return os.getuid() if hasattr(os, "getuid") else "user"


def _hardware(gpu):
    """Return a name of a GPU that is the same in all processes of a machine."""
    import torch

    uuid = getattr(torch.cuda.get_device_properties(gpu), "uuid", None)
    if uuid is not None:
        return str(uuid)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return visible[gpu].strip() if gpu < len(visible) and visible[gpu].strip() else str(gpu)


CLAIM = Claim()


@contextmanager
def gpu_of_its_own():
    """Have "cuda" and None mean the GPU of this worker process until the block ends.

    A process keeps its GPU from task to task, since its loaded models are there; a scheduler
    may hand any task to any worker.
    """
    token = _OWN_GPU.set(CLAIM.gpu())
    try:
        yield
    finally:
        _OWN_GPU.reset(token)


def on(device):
    """Return a context in which a GPU is the current one, as events and streams need it."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def available_memory(device):
    """Return the bytes of a GPU that can be had, and all that it has.

    What torch keeps of freed tensors can be had as well.
    """
    import torch

    free, total = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept, total


def tokens_that_fit(encoder):
    """Return the tokens of a batch that suit a model and its device.

    Parameters
    ----------
    encoder : Encoder

    Returns
    -------
    tokens : int
        On a GPU as many as half of its free memory holds.
    """
    if encoder.device.type == "cpu":
        return CPU_TOKENS
    least, most = GPU_TOKENS
    if encoder.device.type != "cuda":
        return 8 * least
    free, _ = available_memory(encoder.device)
    return min(max(free // 2 // _bytes_a_token(encoder), least), most)


def tokens_of_a_square(encoder):
    """Return how many tokens take the memory that grows with the square of a length.

    Attention masks, and the biases of relative positions, which T5 has for each head: a
    protein of n tokens takes as much as n + n^2 times this. 0 on a CPU, whose batches are
    small, and where there is no padding to mask.

    Parameters
    ----------
    encoder : Encoder

    Returns
    -------
    tokens : float
    """
    if encoder.device.type == "cpu" or encoder.packed:
        return 0.0
    return encoder.square_bytes / _bytes_a_token(encoder)


def _bytes_a_token(encoder):
    # The last states are there once in the model's type and once in float32; those of several
    # layers are kept as they come, and put side by side.
    of_layers = 0 if encoder.n_layers == 1 else 2 * encoder.n_layers * encoder.itemsize
    return encoder.width * (LIVE_WIDTHS * encoder.itemsize + 4 * encoder.n_layers + of_layers)


class Residents:
    """Which models are on each GPU: those that fit, the others wait in the host's memory."""

    def __init__(self):
        # ``setdefault`` is one step: two threads that come first get the same lock.
        self._locks: dict = {}
        # Least recently used first. A model that the registry drops leaves the device as well.
        self._on = defaultdict(list)

    def _lock_of(self, device):
        return self._locks.setdefault(str(device), threading.RLock())

    @contextmanager
    def room_for(self, encoder):
        """Have a model on its device, the only one of ours that runs, until the block ends.

        The device is the current one inside, and float32 is float32.

        Parameters
        ----------
        encoder : Encoder
            One on the CPU, or spread over devices by a ``device_map``, stays where it is.

        Raises
        ------
        ModelTooLarge
            If the model does not fit, with no other of ours beside it.
        """
        device = encoder.device
        if device.type == "cpu" or encoder.is_placed:
            with on(device), full_float32():
                yield
            return
        with self._lock_of(device), on(device), full_float32():
            self._bring(encoder, device)
            yield

    def locks(self):
        """Return the lock of each device that was used."""
        return list(self._locks.values())

    def alone(self, encoder):
        """Take the other models off a model's device; return whether there were any."""
        device = encoder.device
        if device.type == "cpu" or encoder.is_placed:
            return False
        with self._lock_of(device), on(device):
            others = [other for other in self._there(device) if other is not encoder]
            for other in others:
                self._remove(other, device)
            free_memory(device)
        return bool(others)

    def _there(self, device):
        """Return our models on a device, least recently used first."""
        return [encoder for place in self._on[str(device)] if (encoder := place()) is not None]

    def _bring(self, encoder, device):
        there = self._there(device)
        if not any(other is encoder for other in there):
            while there and not self._fits(encoder, device):
                self._remove(there.pop(0), device)
            try:
                self._move(encoder, device)
            except ModelTooLarge:
                if not self.alone(encoder):
                    raise
                self._move(encoder, device)
        there = [other for other in self._there(device) if other is not encoder]
        self._on[str(device)] = [weakref.ref(other) for other in [*there, encoder]]

    def _fits(self, encoder, device):
        """Return whether a model leaves enough to batches with what is on its device."""
        if device.type != "cuda":
            return False  # what is free is not known
        free, total = available_memory(device)
        return free - n_bytes(encoder.model) >= FREE_PART * total

    def _remove(self, encoder, device):
        encoder.model.to("cpu")
        self._on[str(device)] = [p for p in self._on[str(device)] if p() is not encoder]
        # For the next one: blocks that are kept for tensors of this one's sizes.
        free_memory(device)

    def _move(self, encoder, device):
        try:
            encoder.model.to(device)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, whose traceback holds on to tensors. Part of it has arrived.
        encoder.model.to("cpu")
        free_memory(device)
        raise ModelTooLarge(
            f"Model {encoder.source!r} of {n_bytes(encoder.model) / 2**30:.1f} GiB does not fit "
            f"into the memory of {device}, with no other model of this process on it. Use a half "
            "precision `dtype`, a smaller model, device='cpu', another GPU, or "
            "model_kwargs={'device_map': 'auto'} for several."
        )


def n_bytes(model):
    """Return the bytes of a model's weights and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


RESIDENTS = Residents()


def start_copy(rows):
    """Start the copy of rows to the host's memory.

    Parameters
    ----------
    rows : Tensor

    Returns
    -------
    host : Tensor
        To be read after :func:`finish_copy` only.

    event : torch.cuda.Event or None
        When the copy is done; None: it is.
    """
    import torch

    if rows.device.type != "cuda":
        return rows.cpu(), None
    # An event without a stream would be that of whichever GPU is current.
    with on(rows.device):
        host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        host.copy_(rows, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(rows.device))
    return host, event


def finish_copy(host, event):
    """Return the array of a copy that :func:`start_copy` began, once it is there."""
    if event is not None:
        event.synchronize()
    return host.numpy()
