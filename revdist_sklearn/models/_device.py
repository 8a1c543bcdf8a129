"""CPU and GPU: which one, what fits on it, which model is on it, and copies back from it."""

import threading
import weakref
from collections import defaultdict
from contextlib import contextmanager

# Tokens of a batch. On a CPU one protein fills the machine, and larger batches only leave
# its caches; a GPU wants as many as its memory holds.
CPU_TOKENS = 1024
GPU_TOKENS = (2048, 131072)
# Arrays of one token that live at a time in a layer, in units of the width: queries, keys,
# values, the output of attention, the two sides of the feed-forward part, and the sums.
LIVE_WIDTHS = 20


def resolve_device(device):
    """Return the torch device of that name; None is CUDA where there is one, else the CPU.

    Parameters
    ----------
    device : str or None
        Such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Returns
    -------
    device : torch.device

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
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"`device`={device!r} cannot be used here: {first} "
            "Use 'cpu', 'cuda' or 'cuda:<number>' on a machine that has one, or None for "
            "whichever is there."
        ) from error
    return resolved


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
    import torch

    if encoder.device.type == "cpu":
        return CPU_TOKENS
    least, most = GPU_TOKENS
    if encoder.device.type != "cuda":
        return 8 * least
    free, _ = torch.cuda.mem_get_info(encoder.device)
    # The last states are there once in the model's type and once in float32.
    bytes_a_token = encoder.width * (LIVE_WIDTHS * encoder.itemsize + 4)
    return min(max(free // 2 // bytes_a_token, least), most)


def is_out_of_memory(error):
    """Return whether an error says that memory ran out, on whatever device."""
    import torch

    # The CPU's allocator raises a plain RuntimeError.
    words = "out of memory", "can't allocate memory", "not enough memory"
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(
        text in str(error).lower() for text in words
    )


def free_memory(device):
    """Give back what torch keeps of a GPU's memory for later."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()


class Residents:
    """Which model is on each GPU: one at a time, the others wait in the host's memory."""

    def __init__(self):
        self._locks = defaultdict(threading.RLock)
        self._on = {}

    @contextmanager
    def room_for(self, encoder):
        """Have a model on its device, alone among ours, until the block ends.

        Parameters
        ----------
        encoder : Encoder
            One on the CPU, or spread over devices by a ``device_map``, stays where it is.
        """
        device = encoder.device
        if device.type == "cpu" or encoder.is_placed:
            yield
            return
        with self._locks[str(device)]:
            resident = self._on.get(str(device), lambda: None)()
            if resident is not encoder:
                if resident is not None:
                    resident.model.to("cpu")
                encoder.model.to(device)
                # A model that the registry drops leaves the device as well.
                self._on[str(device)] = weakref.ref(encoder)
            yield

    def locks(self):
        """Return the lock of each device that was used."""
        return list(self._locks.values())


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
    host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    host.copy_(rows, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event


def finish_copy(host, event):
    """Return the array of a copy that :func:`start_copy` began, once it is there."""
    if event is not None:
        event.synchronize()
    return host.numpy()
