"""The fast path on a CPU: proteins in one row without padding, linear layers on oneDNN.

The model's own forward pass runs. Three things are put under it, each compared with the
plain model when it is loaded and left out where it does not agree:

- attention, through transformers' attention interface, stays within each protein, so that
  proteins of any lengths share one row of tokens and nothing is spent on padding;
- linear layers run on oneDNN with weights that are laid out for it once, on CPUs with
  AVX-512, of which the MKL that torch uses makes little on some; with AVX2 it was no faster;
- ESM's GELU, written out in four passes over memory, becomes torch's, which takes one.
"""

from itertools import groupby

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from ._batch import fill_up

ATTENTION = "revdist_packed"
# States may differ from the plain model's by this much of their column's scale: some float32
# roundings, as between any two batches; 33 layers of random weights came to half of it. By
# column, because a few of ESM's are a thousand times the rest: of the largest state, layers
# that compute in half precision would be off by less.
AGREEMENT = 1e-5
# Residues of the proteins that are compared; the models meet them in one row. Few, because
# every pass reads all weights.
PROBES = (9, 1, 4)
# For how many rows oneDNN lays out the weights.
ROWS = 1024


def packed_attention(
    module, query, key, value, attention_mask, scaling=None, protein_lengths=None, **kwargs
):
    """Attend within each protein of a row; transformers' attention interface.

    Parameters
    ----------
    module : torch.nn.Module
        Unused.

    query, key, value : Tensor of shape (1, n_heads, n_tokens, head_width)

    attention_mask : Tensor or None
        Without ``protein_lengths`` only.

    scaling : float or None
        Factor of the dot products.

    protein_lengths : list of int or None
        Tokens of each protein, in order. None: one sequence a row, as usual.

    Returns
    -------
    output : Tensor of shape (1, n_tokens, n_heads, head_width)

    weights : None
    """
    if protein_lengths is None:
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scaling
        )
        return output.transpose(1, 2), None
    outputs, start = [], 0
    # Neighbours of one length, as peptides have them, go together.
    for length, of_length in groupby(protein_lengths):
        count = sum(1 for _ in of_length)
        stop = start + count * length
        # (1, heads, count * length, width) to (count, heads, length, width), and back.
        parts = (
            x[0, :, start:stop].unflatten(1, (count, length)).transpose(0, 1)
            for x in (query, key, value)
        )
        of_run = scaled_dot_product_attention(*parts, scale=scaling)  # type: ignore[misc]
        outputs.append(of_run.transpose(1, 2).flatten(0, 1))
        start = stop
    return torch.cat(outputs)[None], None


class OneDNNLinear(nn.Module):
    """A linear layer on oneDNN, its weight laid out beforehand; it holds no second copy.

    Parameters
    ----------
    linear : torch.nn.Linear
        In float32, on the CPU.
    """

    def __init__(self, linear):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x):
        """Return ``x @ weight.T + bias``."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def plain(self):
        """Return it as a torch.nn.Linear again."""
        weight = self.weight.to_dense()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias, requires_grad=False)
        return linear


class Packed:
    """A model that takes proteins of any lengths in one row.

    Parameters
    ----------
    model : torch.nn.Module
        With :func:`packed_attention`.

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
        """
        return self.at_positions(rows, [np.arange(len(row)) for row in rows])

    def at_positions(self, rows, positions):
        """Return the states of each protein, its tokens at positions that need not run.

        Parameters
        ----------
        rows : list of ndarray of shape (n_tokens,), int64
            Token ids, special tokens included.

        positions : list of ndarray of shape (n_tokens,), int64
            Counted from 0.

        Returns
        -------
        states : tuple of Tensor of shape (n_tokens, width), float32
        """
        lengths = [len(row) for row in rows]
        states = self.model(
            input_ids=torch.from_numpy(np.concatenate(rows))[None],
            position_ids=torch.from_numpy(np.concatenate(positions) + self.first_position)[None],
            protein_lengths=lengths,
        ).last_hidden_state[0]
        return states.split(lengths)


def pack(model, tokenize, residues, pad_id):
    """Return the fast path of a model, or None where it has none; the model is changed.

    Parameters
    ----------
    model : torch.nn.Module
        An encoder of transformers, in evaluation mode, of an architecture that may pack: what
        differs for long proteins only, such as local attention, is not seen here.

    tokenize : callable
        From a sequence to its token ids.

    residues : str
        Letters to compare on.

    pad_id : int
        Id of the padding token; positions of ESM-1b are counted from the one after it.

    Returns
    -------
    packed : Packed or None
        None on a GPU, in half precision, and where the states do not agree with those of the
        plain model, or do not depend on the positions they are given. Older versions of
        transformers count the rotary positions of ESM along the whole row; attention sees
        their differences alone, but these round off: states of a trained model moved by 4e-4.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    texts = [(residues * 2)[start : start + n] for start, n in enumerate(PROBES)]
    rows = [tokenize(text) for text in texts]
    with torch.inference_mode():
        try:
            plain = _padded(model, rows, pad_id)
        except IndexError:  # a table of positions shorter than the probes
            return None
        packed = _with_packed_attention(model, rows, plain, pad_id)
        if packed is None:
            return None
        # All at once, then back step by step: where they agree one pass shows it.
        undo = [_use_torch_gelu(model)]
        if one_dnn_pays():
            undo.append(_use_one_dnn(model))
        while undo and not _agree(packed, rows, plain):
            undo.pop()()
    return packed


def one_dnn_pays():
    """Return whether linear layers are faster on oneDNN here; the same on each run."""
    return (
        torch.backends.mkldnn.is_available()
        and "AVX512" in torch.backends.cpu.get_cpu_capability().upper()
    )


def _padded(model, rows, pad_id):
    """Return the states of each protein by the model as it is, in one pass."""
    ids, mask = fill_up(rows, pad_id)
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return [s[: len(row)] for s, row in zip(states, rows, strict=True)]


def _with_packed_attention(model, rows, plain, pad_id):
    before = getattr(model.config, "_attn_implementation", None)
    try:
        AttentionInterface.register(ATTENTION, packed_attention)
        model.set_attn_implementation(ATTENTION)
        for first_position in (0, pad_id + 1):
            packed = Packed(model, first_position)
            if _agree(packed, rows, plain) and _uses_positions(packed, rows, plain):
                return packed
    except Exception:  # whatever a model raises that was not made for it
        pass
    if before is not None:
        model.set_attn_implementation(before)
    return None


def _uses_positions(packed, rows, plain):
    """Return whether the states change when the first protein's positions are reversed."""
    row = rows[0]
    backwards = packed.at_positions([row], [np.arange(len(row))[::-1]])
    return not _are_close(backwards, plain[:1])


def _use_one_dnn(model):
    """Put linear layers on oneDNN; return a function that takes them back."""
    replaced = []
    # Layers are looked up one after another, and no list of them is kept: so the old weight
    # goes as soon as the new one is there, and a model is never in memory twice.
    for parent, name in _places(model, lambda module: type(module) is nn.Linear):
        try:
            setattr(parent, name, OneDNNLinear(getattr(parent, name)))
        except Exception:  # a build of torch without these operators
            break
        replaced.append((parent, name))

    def undo():
        for parent, name in replaced:
            setattr(parent, name, getattr(parent, name).plain())

    return undo


def _use_torch_gelu(model):
    """Take torch's GELU instead of ESM's; return a function that takes it back."""
    places = _places(model, lambda module: type(module).__name__ == "EsmIntermediate")
    written_out = [(parent, name, getattr(parent, name)) for parent, name in places]
    for parent, name, layer in written_out:
        setattr(parent, name, nn.Sequential(layer.dense, nn.GELU()))
        del layer.dense  # or it would keep the weight when oneDNN takes its place

    def undo():
        for parent, name, layer in written_out:
            layer.dense = getattr(parent, name)[0]
            setattr(parent, name, layer)

    return undo


def _places(model, belongs):
    """Return the parent and name of each module that belongs."""
    return [
        (parent, name)
        for parent in model.modules()
        for name, module in parent.named_children()
        if belongs(module)
    ]


def _agree(packed, rows, plain):
    try:
        states = packed(rows)
    except Exception:
        return False
    return _are_close(states, plain)


def _are_close(states, plain):
    states, plain = torch.cat(states), torch.cat(plain)
    columns = plain.abs().amax(dim=0)
    scale = columns.clamp(min=columns.median())  # a column of zeros has none of its own
    return bool(((states - plain).abs() <= AGREEMENT * scale).all())
