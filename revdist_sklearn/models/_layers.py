"""Hidden states of several layers of a model, from one pass: which they are, and how to get them.

Hidden state 0 is the embedding before any layer, hidden state i the output of layer i, the last
one after the final norm: as in ``hidden_states`` of transformers.
"""

from dataclasses import replace
from numbers import Integral

# What stands between the block of a model and the number of its hidden state.
MARK = "_layer_"


def hidden_state(layer, depth, source):
    """Return the number of a hidden state, from 0 (the embeddings) to ``depth``.

    Parameters
    ----------
    layer : int
        Counted from the end where it is negative.

    depth : int
        Layers of the model.

    source : str
        What messages call the model.

    Returns
    -------
    number : int

    Raises
    ------
    ValueError
        If the model has no such hidden state.

    Examples
    --------
    >>> from revdist_sklearn.models._layers import hidden_state
    >>> hidden_state(-1, 6, "m"), hidden_state(0, 6, "m")
    (6, 0)
    """
    if not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"`layer`={layer} does not exist in {source!r}, which has {depth} layers; "
            f"use an integer in [{-depth - 1}, {depth}] (0: the embeddings, -1 or {depth}: the "
            "last hidden state)."
        )
    return layer % (depth + 1)


def with_layers(members, layer):
    """Return one member for each block: as they are for one ``layer``, else for each of several.

    Parameters
    ----------
    members : tuple of Member

    layer : int, or list or tuple of int, or of one such list for each member
        As in :class:`ESMFeaturizer`.

    Returns
    -------
    members : tuple of Member
        Of several layers members first, and layers within them in the order that is given;
        their blocks tell the number of the hidden state.

    Raises
    ------
    ValueError, TypeError
        If there is no layer, one is no integer, does not exist or stands twice, or lists are not
        one for each member.
    """
    if not isinstance(layer, (list, tuple)):
        return members
    return tuple(
        replace(member, block=f"{member.block}{MARK}{number}", layer=asked)
        for member, of_model in zip(members, _of_each(layer, members), strict=True)
        for number, asked in _numbered(of_model, member).items()
    )


def as_model(member):
    """Return the model that a member of :func:`with_layers` is a layer of."""
    if member.layer is None:
        return member
    return replace(member, block=member.block.rpartition(MARK)[0], layer=None)


def _of_each(layer, members):
    """Return the layers of each member."""
    nested = [isinstance(item, (list, tuple)) for item in layer]
    if not any(nested):
        return [layer] * len(members)
    if not all(nested) or len(layer) != len(members):
        raise ValueError(
            f"`layer`={layer!r} is neither one list of layers for all models nor a list for each "
            f"of them, of which there are {len(members)}. Give integers, or {len(members)} lists "
            "of integers."
        )
    return layer


def _numbered(layers, member):
    """Return the layers of a member by the number of their hidden state."""
    if not len(layers):
        raise ValueError(
            f"`layer` names no hidden state of {member.source!r}; give one integer at least, such "
            "as [-1], the last one, or leave the model out."
        )
    if member.depth is None:
        raise ValueError(
            f"The configuration of {member.source!r} ({member.model_type!r}) does not tell the "
            "number of its layers, by which blocks of several are named. Give one `layer`, as an "
            "integer."
        )
    numbered: dict[int, int] = {}
    for asked in layers:
        if isinstance(asked, bool) or not isinstance(asked, Integral):
            raise TypeError(
                f"`layer` holds {asked!r} ({type(asked).__name__}); give integers: 0 for the "
                "embeddings, -1 for the last hidden state."
            )
        number = hidden_state(int(asked), member.depth, member.source)
        if number in numbered:
            names = f" (as {numbered[number]} and {asked})" if numbered[number] != asked else ""
            raise ValueError(
                f"`layer` names hidden state {number} of {member.source!r} twice{names}; each may "
                "stand once."
            )
        numbered[number] = int(asked)
    return numbered


def tap(model, layers, wanted):
    """Have a model give several hidden states side by side as its last one.

    Only these are kept during a pass; whatever runs the model, and compares what it gives,
    sees all of them.

    Parameters
    ----------
    model : torch.nn.Module
        That ends at the highest of the wanted hidden states; it is changed.

    layers : torch.nn.ModuleList
        Its layers.

    wanted : sequence of int
        Numbers of hidden states, in the order of their columns.
    """
    import torch

    top = len(layers)
    found: dict[int, torch.Tensor] = {}

    def before_the_first(module, args, kwargs):
        found[0] = args[0] if args else kwargs["hidden_states"]

    def after(number):
        def keep(module, args, output):
            found[number] = output[0] if isinstance(output, tuple) else output

        return keep

    def side_by_side(module, args, output):
        states, last = dict(found), getattr(output, "last_hidden_state", None)
        found.clear()
        if last is None:  # the pass has failed, most often for want of the memory they take
            return output
        states[top] = last
        # A map of devices has layers on several.
        parts = [states[number].to(last.device) for number in wanted]
        output.last_hidden_state = torch.cat(parts, dim=-1)
        return output

    for number in set(wanted) - {top}:
        if number == 0:
            layers[0].register_forward_pre_hook(before_the_first, with_kwargs=True)
        else:
            layers[number - 1].register_forward_hook(after(number))
    model.register_forward_hook(side_by_side, always_call=True)
