"""The fast path on a CPU: proteins in one row without padding, linear layers on oneDNN.

The model's own forward pass runs.  Three things are put under it, each compared with the
plain model when it is loaded and left out where it does not agree:

- attention, through transformers' attention interface, goes protein by protein, so that
  proteins of any lengths share one row of tokens and nothing is spent on padding;
- linear layers run on oneDNN with weights that are laid out for it once, on CPUs with
  AVX-512, of which the MKL that torch uses makes little on some; with AVX2 it was no faster;
- ESM's GELU, written out in four passes over memory, becomes torch's, which takes one.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "revdist_packed"
# States may differ from the plain model's by this much of the largest of them: some float32
# roundings a layer, where a wrong mask or position changes the first digits.
AGREEMENT = 1e-5
# Residues of the proteins that are compared; the models meet them in one row.
PROBES = (7, 1, 30, 2)
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
        Without `protein_lengths` only.
    scaling : float or None
        Factor of the dot products.
    protein_lengths : list of int or None
        Tokens of each protein, in order.  None: one sequence a row, as usual.

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
    parts = zip(*(x.split(protein_lengths, dim=2) for x in (query, key, value)), strict=True)
    outputs = [scaled_dot_product_attention(q, k, v, scale=scaling) for q, k, v in parts]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


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
        lengths = [len(row) for row in rows]
        positions = np.concatenate([np.arange(n) for n in lengths]) + self.first_position
        states = self.model(
            input_ids=torch.from_numpy(np.concatenate(rows))[None],
            position_ids=torch.from_numpy(positions)[None],
            protein_lengths=lengths,
        ).last_hidden_state[0]
        return states.split(lengths)


def pack(model, tokenize, residues, pad_id):
    """Return the fast path of a model, or None where it has none; the model is changed.

    Parameters
    ----------
    model : torch.nn.Module
        Any encoder of transformers, in evaluation mode.
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
        plain model: a model whose attention knows of positions that cannot be given to it
        (T5), or a version of transformers that does not pass them on.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    texts = [(residues * 2)[start : start + n] for start, n in enumerate(PROBES)]
    rows = [tokenize(text) for text in texts]
    with torch.inference_mode():
        try:
            plain = [
                model(input_ids=torch.from_numpy(row)[None]).last_hidden_state[0] for row in rows
            ]
        except IndexError:  # a table of positions shorter than the probes
            return None
        packed = _with_packed_attention(model, rows, plain, pad_id)
        if packed is not None:
            if one_dnn_pays():
                _use_one_dnn(packed, rows, plain)
            _use_torch_gelu(packed, rows, plain)
    return packed


def one_dnn_pays():
    """Return whether linear layers are faster on oneDNN here; the same on each run."""
    return (
        torch.backends.mkldnn.is_available()
        and "AVX512" in torch.backends.cpu.get_cpu_capability().upper()
    )


def _with_packed_attention(model, rows, plain, pad_id):
    before = getattr(model.config, "_attn_implementation", None)
    try:
        AttentionInterface.register(ATTENTION, packed_attention)
        model.set_attn_implementation(ATTENTION)
        for first_position in (0, pad_id + 1):
            packed = Packed(model, first_position)
            if _agree(packed, rows, plain):
                return packed
    except Exception:  # whatever a model raises that was not made for it
        pass
    if before is not None:
        model.set_attn_implementation(before)
    return None


def _use_one_dnn(packed, rows, plain):
    """Put linear layers on oneDNN, if the states agree."""
    model = packed.model
    for parent, name, layer in _layers(model, nn.Linear):
        # One after another: no weight is there twice for longer than its layer takes.
        faster = _one_dnn(layer)
        if faster is None:
            break
        setattr(parent, name, faster)
    if not _agree(packed, rows, plain):
        for parent, name, layer in _layers(model, OneDNNLinear):
            setattr(parent, name, layer.plain())


def _use_torch_gelu(packed, rows, plain):
    """Take torch's GELU instead of ESM's, if the states agree."""
    written_out = [
        (parent, name, layer)
        for parent, name, layer in _layers(packed.model, nn.Module)
        if type(layer).__name__ == "EsmIntermediate"
    ]
    for parent, name, layer in written_out:
        setattr(parent, name, nn.Sequential(layer.dense, nn.GELU()))
    if not _agree(packed, rows, plain):
        for parent, name, layer in written_out:
            setattr(parent, name, layer)


def _layers(model, kind):
    """Return the parent, name and module of each module of a class."""
    return [
        (parent, name, module)
        for parent in model.modules()
        for name, module in parent.named_children()
        if isinstance(module, kind)
    ]


def _one_dnn(linear):
    try:
        faster = OneDNNLinear(linear)
        faster(torch.zeros(1, linear.in_features))
    except Exception:  # a build of torch without these operators
        return None
    return faster


def _agree(packed, rows, plain):
    try:
        states = packed(rows)
    except Exception:
        return False
    scale = max(float(of_protein.abs().max()) for of_protein in plain)
    return all(
        float((a - b).abs().max()) <= AGREEMENT * scale for a, b in zip(states, plain, strict=True)
    )
