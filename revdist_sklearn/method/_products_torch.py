"""Sums and products of rows that are torch tensors, on their own device."""

import sys

import numpy as np

from ..base._torch import free_memory, full_float32, is_out_of_memory
from ._level import Level
from ._products_numpy import check_range, chunk_rows, chunks


def is_tensor(rows):
    """Return whether rows are a torch tensor; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(rows, torch.Tensor)


def has_float64(device):
    """Return whether a device has numbers of float64: Apple's GPUs have none."""
    return device.type != "mps"


def add_rows(level, rows, weights=None, dtype=np.float64):
    """Add rows to a level, as for arrays: products and sums on their device, one copy off it.

    On the host where the device has no room for them.
    """
    level.merge(_or_on_host(_level_of, rows, weights, dtype))


def protein_sums(rows, weights, protein, n_proteins):
    """Return the weighted sum of each protein's rows, of shape (n_proteins, D), float64."""
    return _or_on_host(_protein_sums, rows, weights, protein, n_proteins)


def _or_on_host(function, rows, *others):
    """Return what a function makes of rows, on the host where their device is full."""
    if rows.device.type == "cpu":
        return function(rows, *others)
    try:
        return function(rows, *others)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the handler, whose traceback holds on to tensors.
    free_memory(rows.device)
    return function(rows.cpu(), *others)


def _level_of(rows, weights, dtype):
    """Return the level of a tensor's rows."""
    import torch

    so_far, total = Level.of(0.0, np.zeros(rows.shape[1]), None), None
    for chunk, w, n, unit in chunks(rows, weights):
        if dtype == np.float64 and not has_float64(chunk.device):
            chunk = chunk.cpu()
        mean, centred = _centre(chunk, w, n, dtype)
        n *= unit
        step = so_far.step(n, mean) / np.sqrt(unit)
        centred[-1] = torch.from_numpy(step.astype(dtype)).to(centred.device)
        with full_float32():
            product = _widened(centred.T @ centred) * unit
        total = product if total is None else total.add_(product)
        so_far.move(n, mean)
    if total is None:
        return so_far
    scatter = total.cpu().numpy()
    check_range(scatter.diagonal(), dtype)
    return Level.of(so_far.n, so_far.mean, scatter)


def _centre(chunk, w, n, dtype):
    """Return the mean of the rows, and them centred and weighted.

    As for arrays there is one more row of room.
    """
    import torch

    kind = torch.float64 if dtype == np.float64 else torch.float32
    room = torch.empty((len(chunk) + 1, chunk.shape[1]), dtype=kind, device=chunk.device)
    centred = room[:-1].copy_(chunk)
    if w is not None:
        w = torch.from_numpy(w.astype(dtype)).to(chunk.device)[:, None]
    # The second pass takes up what the first has left, by rounding or, on a device without
    # float64, in its sum; the mean is the sum of what was taken off.
    wide = torch.float64 if has_float64(chunk.device) else torch.float32
    mean = np.zeros(chunk.shape[1])
    for _ in range(2):
        rest = ((centred if w is None else centred * w).sum(0, dtype=wide) / n).to(kind)
        centred -= rest
        mean += _widened(rest).cpu().numpy()
    if w is not None:
        centred *= w.sqrt()
    return mean, room


def _widened(x):
    """Return numbers in float64, on the host where their device has none."""
    return x.double() if has_float64(x.device) else x.cpu().double()


def _protein_sums(rows, weights, protein, n_proteins):
    import torch

    if not has_float64(rows.device):
        rows = rows.cpu()
    index = torch.as_tensor(protein, device=rows.device)
    sums = torch.zeros((n_proteins, rows.shape[1]), dtype=torch.float64, device=rows.device)
    # Some at a time: rows in float64 would be twice what is there.
    size = chunk_rows(rows.shape[1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        wide = rows[part].double()
        if weights is not None:
            wide = wide * torch.from_numpy(weights[part]).to(rows.device)[:, None]
        sums.index_add_(0, index[part], wide)
    return sums.cpu().numpy()
