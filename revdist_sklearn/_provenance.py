"""The models of a fit: recorded by what their files hold, and known again by that."""

from dataclasses import replace

from .base._blocks import Blocks
from .base._hub import ModelNotFoundError
from .models._family import blocks_of
from .models._fingerprint import fingerprint, tensors_digest, weights_digest


def members_of(plan):
    """Return what a record of the fit keeps of the models of an embedding plan.

    Parameters
    ----------
    plan : EmbeddingPlan

    Returns
    -------
    members : list of dict
        See ``base/_provenance.py``.
    """
    found = []
    for member in plan.members:
        folder = member.folder(plan.silent)
        mark = {"fingerprint": fingerprint(folder), "weights": weights_digest(folder)}
        tensors = tensors_digest(folder)
        mark |= {} if tensors is None else {"tensors": tensors}
        found.append({"block": member.block, **mark, "layer": plan.layer_of(member)})
    return found


def check_models(distiller, plan, whose, way_out, *, n=None):
    """Raise where the models of a plan are not those that a distiller was fitted on.

    They are known by the contents of their weights, whatever they are called; by their names
    where the fit, or this machine, does not know these.

    Parameters
    ----------
    distiller : ReverseDistiller
        Fitted.

    plan : EmbeddingPlan

    whose : str
        Who has the models, as the message begins: "<whose> the blocks ..".

    way_out : str
        What to do, for its end.

    n : int, default=None
        How many models of the plan count; None for all.

    Raises
    ------
    ValueError
        If they are others.
    """
    members = plan.members if n is None else plan.members[:n]
    given, blocks = blocks_of(members), distiller.blocks_
    mine = "the distiller was fitted on"
    Blocks(blocks.sizes).check(given, whose, mine, way_out)
    provenance = getattr(distiller, "provenance_", None)
    fitted = [None] * len(blocks) if provenance is None else provenance["members"]
    known = [_is(one, member) for one, member in zip(fitted, members, strict=True)]
    others = [m.source for m, same in zip(members, known, strict=True) if same is False]
    if others:
        raise ValueError(
            f"{whose} the blocks {given}, but the weights of {', '.join(others)} are not those "
            f"that the distiller was fitted on: {way_out}"
        )
    layers = [
        (one["layer"], plan.layer_of(member), member.depth)
        for one, member in zip(fitted, members, strict=True)
        if one is not None and "layer" in one
    ]
    if not all(_is_same_layer(*of_block) for of_block in layers):
        theirs, ours = (
            ", ".join(map(str, dict.fromkeys(of_block[k] for of_block in layers))) for k in (0, 1)
        )
        raise ValueError(
            f"{whose} layer {ours} of its models, and the distiller was fitted on layer "
            f"{theirs}: use the same layer."
        )
    if blocks.names is not None:
        # Those that are known may have any name.
        names = [
            name if same else other
            for same, name, other in zip(known, blocks.names, given.names, strict=True)
        ]
        blocks.check(Blocks(given.sizes, names), whose, mine, way_out)


def _is_same_layer(one, other, depth):
    """Return whether two numbers are of one hidden state, counted from either end."""
    return one == other or (depth is not None and (one - other) % (depth + 1) == 0)


def _is(fitted, member):
    """Return whether a model is the one of a fit, None where that cannot be known here."""
    if fitted is None:
        return None
    try:
        # No hub is asked for it: where the weights are not, nobody embeds with them either.
        folder = replace(member, local_files_only=True).folder()
        if fingerprint(folder) == fitted["fingerprint"]:
            return True
        if weights_digest(folder) == fitted["weights"]:
            return True
        # Saved anew, or in other parts; records of before know the files alone.
        return "tensors" in fitted and tensors_digest(folder) == fitted["tensors"]
    except ModelNotFoundError:
        return None
