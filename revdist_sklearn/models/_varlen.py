"""The fast path on a GPU: proteins in one row without padding, and torch's GELU.

As in :mod:`._packed` the model's own forward pass runs, what is put under it is compared with
the plain model on its device when it is loaded, and left out where it does not agree:

- attention goes to ``torch.nn.attention.varlen`` (torch 2.10 or newer), which stays within each
  protein of a row. Its kernels are those of flash attention, for half precision alone;
- ESM's GELU, written out in four passes over memory, becomes torch's, in any precision.
"""

import inspect
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from ._batch import fill_up
from ._packed import PROBES, _allowed, _use_torch_gelu

varlen_attn: Any
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # an older torch
    varlen_attn = None

ATTENTION = "revdist_varlen"
# What states in half precision may differ by, root mean square over tokens and columns, of their
# column's scale and in roundings of the precision. Another order of sums came to 0.2 in the
# bundled models and to 1.2 in 33 layers of random weights, attention to the whole row to 29 at
# least (bfloat16; 230 in float16).
HALF_AGREEMENT = 8


def varlen_attention(
    module, query, key, value, attention_mask, scaling=None, bounds=None, longest=None, **kwargs
):
    """Attend within each protein of a row; transformers' attention interface.

    Parameters
    ----------
    module : torch.nn.Module
        Unused.

    query, key, value : Tensor of shape (1, n_heads, n_tokens, head_width)
        In half precision, on a GPU.

    attention_mask : Tensor or None
        Without ``bounds`` only.

    scaling : float or None
        Factor of the dot products.

    bounds : Tensor of shape (n_proteins + 1,), int32, or None
        Where each protein begins, and the last one ends. None: one sequence a row, as usual.

    longest : int
        Tokens of the longest protein.

    Returns
    -------
    output : Tensor of shape (1, n_tokens, n_heads, head_width)

    weights : None
    """
    if bounds is None:
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling
        )
        return output.transpose(1, 2), None
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    return varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling)[None], None


class VarlenPacked:
    """A model on a GPU that takes proteins of any lengths in one row.

    Parameters
    ----------
    model : torch.nn.Module
        With :func:`varlen_attention`.

    first_position : int
        Position of the first token of a protein.
    """

    def __init__(self, model, first_position):
        self.model = model
        self.first_position = first_position

    def __call__(self, rows):
        """Return the states of each protein.

        Parameters
        ----------
        rows : list of ndarray of shape (n_tokens,), int64
            Token ids, special tokens included.

        Returns
        -------
        states : tuple of Tensor of shape (n_tokens, width), float32
            On the model's device.
        """
        return self.at_positions(rows, [np.arange(len(row)) for row in rows])

    def at_positions(self, rows, positions):
        """Return the states of each protein, its tokens at positions that need not run.

        Parameters
        ----------
        rows : list of ndarray of shape (n_tokens,), int64

        positions : list of ndarray of shape (n_tokens,), int64
            Counted from 0.

        Returns
        -------
        states : tuple of Tensor of shape (n_tokens, width), float32
        """
        lengths, device = [len(row) for row in rows], self.model.device
        ids, where = np.concatenate(rows), np.concatenate(positions) + self.first_position
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        states = self.model(
            input_ids=torch.from_numpy(ids)[None].to(device),
            position_ids=torch.from_numpy(where)[None].to(device),
            bounds=bounds,
            longest=max(lengths),
        ).last_hidden_state[0]
        return states.float().split(lengths)


def has_varlen(model):
    """Return whether attention of torch is there for a model: its type, and this torch."""
    return (
        varlen_attn is not None
        # ESM scales its queries itself; the first versions took no other factor than theirs.
        and "scale" in inspect.signature(varlen_attn).parameters
        and model.dtype in (torch.float16, torch.bfloat16)
        and model.device.type == "cuda"
    )


def pack(model, tokenize, residues, pad_id):
    """Return the fast path of a model on its GPU, or None; the model is changed.

    Parameters
    ----------
    model : torch.nn.Module
        An encoder of transformers of an architecture that may pack, on its device.

    tokenize, residues, pad_id
        As in :func:`._packed.pack`.

    Returns
    -------
    packed : VarlenPacked or None
        None in float32, where torch has no such attention, and where states do not agree with
        those of the plain model, or do not depend on the positions they are given. The GELU
        is torch's all the same, where that agrees.

    packing : True or str
        True if proteins share a row; else why not.
    """
    texts = [(residues * 2)[start : start + n] for start, n in enumerate(PROBES)]
    rows = [tokenize(text) for text in texts]
    # An index beyond a table of positions is no error that a GPU recovers from.
    table = getattr(model.config, "max_position_embeddings", None)
    if isinstance(table, int) and table < len(rows[0]) + pad_id + 1:
        return None, "the model has fewer positions than the proteins it is tried on"
    plain = _padded(model, rows, pad_id)
    undo = _use_torch_gelu(model)
    if not _are_close(_padded(model, rows, pad_id), plain, model):
        undo()
    if not has_varlen(model):
        return None, (
            "proteins share a row on a GPU of NVIDIA in half precision alone, with a torch that "
            "has torch.nn.attention.varlen"
        )
    packed = _with_varlen(model, rows, plain, pad_id)
    return packed, "its attention does not agree with the plain one" if packed is None else True


def _with_varlen(model, rows, plain, pad_id):
    before = getattr(model.config, "_attn_implementation", None)
    try:
        AttentionInterface.register(ATTENTION, varlen_attention)
        model.set_attn_implementation(ATTENTION)
        for first_position in (0, pad_id + 1):
            packed = VarlenPacked(model, first_position)
            if _are_close(packed(rows), plain, model) and _uses_positions(packed, rows):
                return packed
    except Exception:  # whatever a model, or a GPU, raises that was not made for it
        pass
    if before is not None:
        model.set_attn_implementation(before)
    return None


def _uses_positions(packed, rows):
    """Return whether the states change when the first protein's positions are reversed.

    At all: what they change may be less than half precision lets agree.
    """
    [forward] = packed(rows[:1])
    [backwards] = packed.at_positions(rows[:1], [np.arange(len(rows[0]))[::-1]])
    return not torch.equal(backwards, forward)


def _padded(model, rows, pad_id):
    """Return the states of each protein by the model as it is, in one pass."""
    ids, mask = (x.to(model.device) for x in fill_up(rows, pad_id))
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    return [s[: len(row)] for s, row in zip(states, rows, strict=True)]


def _are_close(states, plain, model):
    """Return whether states agree as far as two orders of sums do in a precision."""
    states, plain = torch.cat(tuple(states)), torch.cat(tuple(plain))
    columns = plain.abs().amax(dim=0)
    scale = columns.clamp(min=columns.median())  # a column of zeros has none of its own
    off = (states - plain).abs()
    rest = torch.where(off == 0, 0, off / scale)
    if model.dtype == torch.float32:
        return bool((rest <= _allowed(model, 1)).all())
    return bool(rest.square().mean().sqrt() <= HALF_AGREEMENT * torch.finfo(model.dtype).eps)
