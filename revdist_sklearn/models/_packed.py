"""The fast path on a CPU: proteins in one row without padding, linear layers on oneDNN.

The model's own forward pass runs. Three things are put under it, each compared with the
plain model when it is loaded and left out where it does not agree:

- attention, through transformers' attention interface, stays within each protein, so that
  proteins of any lengths share one row of tokens and nothing is spent on padding;
- linear layers run on oneDNN with weights that are laid out for it once, on CPUs with
  AVX-512, of which the MKL that torch uses makes little on some; with AVX2 it was no faster;
- ESM's GELU, written out in four passes over memory, becomes torch's, which takes one.

In float32, and in bfloat16 where the CPU computes in it: there the model's own forward pass
has a rounding after each of the four passes of its GELU, and this path has one.
"""

import math
from functools import partial
from itertools import groupby

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from ._batch import fill_up

ATTENTION = "revdist_packed"
ONE_DNN = "linear layers on oneDNN"
GELU = "torch's GELU"
# States may differ from the plain model's by this many roundings (the type's epsilon) of their
# column's scale, times the square root of the number of layers, as roundings add up at random.
# Of random weights at the shapes of ESM-2's 8M, 35M, 150M and 650M the most was 24 in float32,
# where both paths were off by 10 to 24 from float64 (sums of products round), and 1.8 in
# bfloat16, whose products are summed in float32 and rounded once. A layer in half precision
# is off by thousands, a wrong attention by more. By column, because a few of ESM's are a
# thousand times the rest: of the largest state, such a layer would be off by less.
ROUNDINGS = {torch.float32: 64, torch.bfloat16: 4}
# Of that, attention alone may take this share: measured 10, and none in bfloat16. Neighbours
# that attention is not kept from must not pass for rounding.
OF_ATTENTION = 1 / 4
# Residues of the proteins that are compared; the models meet them in one row. Few, because
# every pass reads all weights.
PROBES = (9, 1, 4)
# For how many rows oneDNN lays out the weights.
ROWS = 1024
# Rows of tokens are filled up to a multiple of so many, or of such a part of the next power of
# two. For each new length oneDNN writes code and keeps it, whatever its cache may hold: a quarter
# of a MB for each shape of a layer, so that ever new peptides would take hundreds.
STEP = 64
PART = 1 / 32


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


# Shapes and types of weights of which oneDNN has set up the way back: where it has no memory for
# a product, it would have none for that either, and fail at it from then on.
_WAYS_BACK: set[tuple] = set()


class OneDNNLinear(nn.Module):
    """A linear layer on oneDNN, its weight laid out beforehand; it holds no second copy.

    Parameters
    ----------
    linear : torch.nn.Linear
        In float32 or bfloat16, on the CPU.
    """

    def __init__(self, linear):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        kind = linear.weight.shape, linear.weight.dtype
        if kind not in _WAYS_BACK:
            self.weight.to_dense()
            _WAYS_BACK.add(kind)
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


class WrittenOutGELU(nn.Module):
    """GELU as ESM has it: torch's own runs on oneDNN."""

    def forward(self, x):
        """Return x times the normal distribution at it."""
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


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

    def without_one_dnn(self):
        """Take everything back from oneDNN; return whether there was anything."""
        kinds = OneDNNLinear, nn.GELU
        places = _places(self.model, lambda module: type(module) in kinds)
        _take_back_one_dnn(self.model)
        for parent, name in _places(self.model, lambda module: type(module) is nn.GELU):
            setattr(parent, name, WrittenOutGELU())
        return bool(places)

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
        n_tokens = sum(lengths)
        if missing := filled(n_tokens) - n_tokens:
            # A protein more, of tokens and positions that the model knows.
            rows = [*rows, np.resize(rows[0], missing)]
            positions = [*positions, np.resize(positions[0], missing)]
        states = self.model(
            input_ids=torch.from_numpy(np.concatenate(rows))[None],
            position_ids=torch.from_numpy(np.concatenate(positions) + self.first_position)[None],
            protein_lengths=[*lengths, missing] if missing else lengths,
        ).last_hidden_state[0]
        return states[:n_tokens].float().split(lengths)


def filled(n_tokens):
    """Return the tokens of a row that is filled up, so that rows have few lengths.

    Examples
    --------
    >>> from revdist_sklearn.models._packed import filled
    >>> [filled(n) for n in (1, 64, 1000, 1025, 5000)]
    [64, 64, 1024, 1088, 5120]
    """
    step = max(STEP, int(PART * 2 ** (n_tokens - 1).bit_length()))
    return -(-n_tokens // step) * step


def pack(model, tokenize, residues, pad_id):
    """Return the fast path of a model, where it has one, and what of it runs.

    The model is changed.

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
        None on a GPU, in a precision that the CPU does not compute in, and where the states
        do not agree with those of the plain model, or do not depend on the positions they
        are given. Older versions of transformers count the rotary positions of ESM along the
        whole row; attention sees their differences alone, but these round off: states of a
        trained model moved by 4e-4.

    packing : True or str
        True if all of it runs; else what does not, and why.
    """
    dtype = model.dtype
    if model.device.type != "cpu":
        return None, f"proteins share a row on a CPU alone, and the model is on {model.device}"
    if dtype not in ROUNDINGS:
        return None, f"{_name(dtype)} takes the plain path on a CPU"
    if dtype == torch.bfloat16 and not computes_in_bfloat16():
        return None, "this CPU has no instructions for bfloat16 (AVX512_BF16, AMX)"
    texts = [(residues * 2)[start : start + n] for start, n in enumerate(PROBES)]
    rows = [tokenize(text) for text in texts]
    with torch.inference_mode():
        try:
            plain = _padded(model, rows, pad_id)
        except IndexError:
            return None, "the model has fewer positions than the proteins it is tried on"
        packed, why_not = _with_packed_attention(model, rows, plain, pad_id)
        if packed is None:
            return None, why_not
        # All at once, then back step by step: where they agree one pass shows it.
        undo, left_out = [(GELU, _use_torch_gelu(model))], []
        if not one_dnn_pays():
            left_out.append(f"{ONE_DNN}, which take AVX-512 to pay")
        else:
            replaced, failed = _use_one_dnn(model)
            undo.append((ONE_DNN, replaced))
            if failed:
                left_out.append(f"{ONE_DNN} ({failed})")
        while undo and (why_not := _disagreement(packed, rows, plain)):
            name, take_back = undo.pop()
            take_back()
            left_out.append(f"{name} ({why_not})")
    return packed, but_without(left_out)


def but_without(parts, packing=True):
    """Return what is to be said of a packed path that some parts do not run of.

    Parameters
    ----------
    parts : list of str
        With the reason of each.

    packing : True or str, default=True
        What was said of it so far.

    Returns
    -------
    packing : True or str

    Examples
    --------
    >>> from revdist_sklearn.models._packed import but_without
    >>> but_without(["a (too slow)"], but_without(["b"]))
    'in one row, but without b; a (too slow)'
    """
    if not parts:
        return packing
    said = "in one row, but without " if packing is True else f"{packing}; "
    return said + "; ".join(parts)


def computes_in_bfloat16():
    """Return whether the CPU has instructions for bfloat16: without, float32 is faster.

    torch would do without as well, and says that it can. Versions that cannot be asked for
    the instructions are taken for a CPU without.
    """
    questions = "_is_avx512_bf16_supported", "_is_amx_tile_supported"
    return any(getattr(torch.cpu, question, bool)() for question in questions)


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
    return [s[: len(row)].float() for s, row in zip(states, rows, strict=True)]


def _with_packed_attention(model, rows, plain, pad_id):
    """Return the model with its attention within proteins, or None and why not."""
    before = getattr(model.config, "_attn_implementation", None)
    try:
        AttentionInterface.register(ATTENTION, packed_attention)
        model.set_attn_implementation(ATTENTION)
        for first_position in (0, pad_id + 1):
            packed = Packed(model, first_position)
            why_not = _disagreement(packed, rows, plain, OF_ATTENTION)
            if why_not is None:
                if _uses_positions(packed, rows, plain):
                    return packed, None
                why_not = "the model does not use the positions it is given"
    except Exception as error:  # whatever a model raises that was not made for it
        why_not = _told(error)
    if before is not None:
        model.set_attn_implementation(before)
    return None, f"attention within each protein of a row: {why_not}"


def _uses_positions(packed, rows, plain):
    """Return whether the states change when the first protein's positions are reversed."""
    row = rows[0]
    backwards = packed.at_positions([row], [np.arange(len(row))[::-1]])
    return _deviation(backwards, plain[:1]) > _allowed(packed.model, OF_ATTENTION)


def _use_one_dnn(model):
    """Put linear layers on oneDNN; return a function that takes them back, and what failed."""
    failed = None
    # Layers are looked up one after another, and no list of them is kept: so the old weight
    # goes as soon as the new one is there, and a model is never in memory twice.
    for parent, name in _places(model, lambda module: type(module) is nn.Linear):
        try:
            setattr(parent, name, OneDNNLinear(getattr(parent, name)))
        except Exception as error:  # a build of torch without these operators
            failed = _told(error)
            break
    return partial(_take_back_one_dnn, model), failed


def _take_back_one_dnn(model):
    """Make plain layers of those on oneDNN, one after another."""
    for parent, name in _places(model, lambda module: type(module) is OneDNNLinear):
        setattr(parent, name, getattr(parent, name).plain())


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


def _disagreement(packed, rows, plain, share=1):
    """Return in words how the states differ from the plain model's, None where they agree.

    ``share`` is that of the roundings which are allowed.
    """
    try:
        states = packed(rows)
    except Exception as error:
        return _told(error)
    found, allowed = _deviation(states, plain), _allowed(packed.model, share)
    if found <= allowed:
        return None
    return f"states differ from the plain model's by {found:.1e}, allowed is {allowed:.1e}"


def _allowed(model, share):
    """Return by how much of their column's scale states may differ."""
    # Of the model as it runs: layers above the wanted one have been dropped.
    layers = [len(m) for m in model.modules() if isinstance(m, nn.ModuleList)]
    dtype = model.dtype
    return share * ROUNDINGS[dtype] * math.sqrt(max(layers, default=1)) * torch.finfo(dtype).eps


def _deviation(states, plain):
    """Return the largest difference, as a part of its column's scale; infinite for NaN."""
    states, plain = torch.cat(states), torch.cat(plain)
    columns = plain.abs().amax(dim=0)
    scale = columns.clamp(min=columns.median())  # a column of zeros has none of its own
    off = (states - plain).abs()
    relative = torch.where(off == 0, 0, off / scale)
    return float(relative.nan_to_num(math.inf).max())


def _told(error):
    return f"{type(error).__name__}: {error}"


def _name(dtype):
    return str(dtype).removeprefix("torch.")
