"""Where moments and distillers come from: the weights of each model, and the corpora.

A plain dictionary that JSON takes: ``members`` are the models, each with the name of its
``block``, its ``fingerprint`` (as caches know it), the digest of its files of ``weights`` alone,
that of the ``tensors`` in them (not in older files, nor of pickled weights), and the ``layer`` of
the states (not in files of the first such version);
``corpora`` are the corpora, each with ``digest``, ``n_proteins`` and ``n_residues``, and where
some proteins were mutated, with ``mutants``: ``n_per_protein``, ``n_proteins`` and ``seed``; and
``version`` is that of this package.
"""

from ._damage import integer


def merged(one, other):
    """Return the provenance of two parts together, None where their models are not the same."""
    if one is None or other is None or len(one["members"]) != len(other["members"]):
        return None
    for mine, others in zip(one["members"], other["members"], strict=True):
        # An older record may lack something.
        if any(mine[name] != others[name] for name in mine.keys() & others.keys()):
            return None
    return {**one, "corpora": [*one["corpora"], *other["corpora"]]}


def of_first(provenance, n):
    """Return the provenance of the first models alone."""
    return provenance and {**provenance, "members": provenance["members"][:n]}


def checked_provenance(values, n_members):
    """Return a provenance as it stands in a file, or raise where it is none.

    Parameters
    ----------
    values : dict or None

    n_members : int
        Models that it must tell of.

    Returns
    -------
    provenance : dict or None

    Raises
    ------
    ValueError, LookupError, TypeError
        If it is something else.
    """
    if values is None:
        return None
    members = [
        {
            **{name: _text(member, name) for name in ("block", "fingerprint", "weights")},
            **({"tensors": _text(member, "tensors")} if "tensors" in member else {}),
            **({"layer": _layer(member)} if "layer" in member else {}),
        }
        for member in values["members"]
    ]
    if len(members) != n_members:
        raise ValueError(f"its provenance tells of {len(members)} models and not {n_members}")
    corpora = [
        {
            "digest": _text(corpus, "digest"),
            **{name: integer(corpus, name) for name in ("n_proteins", "n_residues")},
            **({"mutants": _mutants(corpus["mutants"])} if "mutants" in corpus else {}),
        }
        for corpus in values["corpora"]
    ]
    return {"members": members, "corpora": corpora, "version": _text(values, "version")}


def _mutants(facts):
    return {name: integer(facts, name) for name in ("n_per_protein", "n_proteins", "seed")}


def _layer(member):
    layer = member["layer"]
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise ValueError(f"layer of its provenance is {layer!r} and no number")
    return layer


def _text(values, name):
    text = values[name]
    if not isinstance(text, str):
        raise ValueError(f"{name} of its provenance is {text!r} and no text")
    return text
