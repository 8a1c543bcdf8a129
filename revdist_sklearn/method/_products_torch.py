"""Sums and products of rows that are torch tensors, on their own device."""

import sys

import numpy as np

from ._level import Level
from ._products_numpy import check_range, chunks


def is_tensor(rows):
    """Return whether rows are a torch tensor; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(rows, torch.Tensor)


def add_rows(level, rows, weights=None, dtype=np.float64):
    """Add rows to a level, as for arrays: products and sums on their device, one copy off it."""
    level.merge(_level_of(rows, weights, dtype))


def _level_of(rows, weights, dtype):
    """Return the level of a tensor's rows."""
    so_far, total = Level.of(0.0, np.zeros(rows.shape[1]), None), None
    for chunk, w, n, unit in chunks(rows, weights):
        mean, centred, wide = _centre(chunk, w, n, dtype)
        n *= unit
        centred[-1] = centred.new_tensor(so_far.step(n, mean) / np.sqrt(unit))
        product = (centred.T @ centred).to(wide) * unit
        total = product if total is None else total.add_(product)
        so_far.move(n, mean)
    if total is None:
        return so_far
    scatter = total.cpu().double().numpy()
    check_range(scatter.diagonal(), dtype)
    return Level.of(so_far.n, so_far.mean, scatter)


def _centre(chunk, w, n, dtype):
    """Return the mean of the rows, them centred and weighted, and the type to sum in.

    As for arrays there is one more row of room.
    """
    import torch

    kind = torch.float64 if dtype == np.float64 else torch.float32
    # Devices without float64 (mps) sum in float32; the second pass makes up for it.
    wide = torch.float32 if chunk.device.type == "mps" else torch.float64
    room = torch.empty((len(chunk) + 1, chunk.shape[1]), dtype=kind, device=chunk.device)
    centred = room[:-1].copy_(chunk)
    if w is not None:
        w = torch.as_tensor(w, dtype=kind, device=chunk.device)[:, None]
    mean = torch.zeros(chunk.shape[1], dtype=wide, device=chunk.device)
    for _ in range(2):
        rest = (centred if w is None else centred * w).sum(0, dtype=wide) / n
        centred -= rest.to(kind)
        mean += rest
    if w is not None:
        centred *= w.sqrt()
    return mean.cpu().double().numpy(), room, wide


def protein_sums(rows, weights, protein, n_proteins):
    """Return the weighted sum of each protein's rows, of shape (n_proteins, D), float64."""
    import torch

    wide = rows.double()
    if weights is not None:
        wide = wide * torch.as_tensor(weights, dtype=torch.float64, device=rows.device)[:, None]
    index = torch.as_tensor(protein, device=rows.device)
    sums = wide.new_zeros(n_proteins, rows.shape[1]).index_add(0, index, wide)
    return sums.cpu().numpy()
