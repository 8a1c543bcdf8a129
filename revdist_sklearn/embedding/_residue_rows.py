"""Rows of residues: all models of a plan over some whole proteins at a time."""

import numpy as np

from ..base._torch import free_memory, is_out_of_memory
from ..models._device import resolve_device
from ._sequences import runs

# Residue rows that are held at a time, in bytes: on a CPU some batches, on a GPU enough to be
# worth the change from one model to the next.
RUN_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}
RUN_TOKENS = {"cpu": 8192, "cuda": 2**20}


def residue_rows(plan, sequences, as_tensor=False):
    """Yield the rows of the residues of some consecutive proteins, and their proteins.

    Parameters
    ----------
    plan : EmbeddingPlan
        For residues.

    sequences : list of str
        As ``plan.prepare`` gives them.

    as_tensor : bool, default=False
        Whether to leave the rows on the device of the models, as torch tensors; on the host
        where it has no room for them.

    Yields
    ------
    rows : ndarray or Tensor of shape (n_residues, n_columns), float32

    sequence_index : ndarray of shape (n_residues,), int64
    """
    # On the CPU a tensor and its array are one memory.
    models_on = resolve_device(plan.device)
    device = models_on if as_tensor else "cpu"
    lengths = np.array([len(sequence) for sequence in sequences])
    width = plan.blocks.n_columns
    kind = "cpu" if models_on.type == "cpu" else "cuda"
    tokens = RUN_TOKENS[kind] if plan.token_budget is None else 8 * plan.token_budget
    most = min(tokens, RUN_BYTES[kind] // (4 * width))
    members = plan.runs()
    for start, stop in runs(lengths.tolist(), most):
        ends = np.cumsum(lengths[start:stop])
        rows = _room((int(ends[-1]), width), device)
        places: dict[str, list[slice]] = {}
        index: dict[str, int] = {}
        for i, end in zip(range(start, stop), ends, strict=True):
            sequence = sequences[i]
            index.setdefault(sequence, i)
            places.setdefault(sequence, []).append(slice(end - len(sequence), end))
        texts, names = list(places), list(index.values())
        for run, columns in members:
            for batch in run.batches_of_states(texts, names):
                for i, residues, _ in batch:
                    states = residues.to(rows.device)
                    for place in places[texts[i]]:
                        rows[place, columns] = states
        proteins = np.repeat(np.arange(start, stop), lengths[start:stop])
        yield (rows if as_tensor else rows.numpy()), proteins


def _room(shape, device):
    """Return an array of float32 on a device, on the host where the device is full."""
    import torch

    try:
        return torch.empty(shape, dtype=torch.float32, device=device)
    except (RuntimeError, MemoryError) as error:
        if str(device) == "cpu" or not is_out_of_memory(error):
            raise
    free_memory(device)
    return torch.empty(shape, dtype=torch.float32)
