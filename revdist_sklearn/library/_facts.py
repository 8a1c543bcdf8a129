"""What every single file of embeddings tells of itself, and what goes into it."""

import json

import numpy as np

from ..base._damage import integer, one_of
from ..base._formats import EMBEDDINGS, check_format
from ._shards import DTYPES, LEVELS

# Under which formats that have names for such things keep the facts.
KEY = "revdist"


def facts_of(folder, layout=None):
    """Return the facts of a finished folder, with what tells whether a file was made of it.

    Parameters
    ----------
    folder : ShardFolder

    layout : str or None, default=None
        Of the file, where its format has several.

    Returns
    -------
    facts : dict
        Can be written as JSON.
    """
    return {
        "format": EMBEDDINGS,
        **folder.facts,
        **({} if layout is None else {"layout": layout}),
        "identity": folder.identity,
        "input": folder.input,
        "n_proteins": folder.n_proteins,
        "n_rows": folder.n_rows,
        "n_residues": folder.n_residues,
    }


def parsed_facts(text, path):
    """Return facts from their JSON.

    Parameters
    ----------
    text : str or bytes or None
        None stays None: the file is of another program.

    path : path-like
        For messages.

    Raises
    ------
    FormatError
        If a newer version has written them.

    ValueError, LookupError, TypeError
        If they are something else.
    """
    if text is None:
        return None
    facts = json.loads(text)
    check_format(facts["format"], EMBEDDINGS, str(path))
    one_of(facts, "level", LEVELS)
    one_of(facts, "dtype", DTYPES)
    for name in ("n_proteins", "n_rows", "n_residues"):
        integer(facts, name)
    columns = facts["columns"]
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise ValueError("its columns are no names")
    if not isinstance(facts["identity"], str) or not isinstance(facts["input"], str | None):
        raise ValueError("its digests are no texts")
    return facts


def side_file(path):
    """Return the path of what a .csv file cannot tell of itself."""
    return path.with_name(f"{path.name}.json")


def whole_shards(folder):
    """Yield the shards of a folder, if a single file can hold what they do.

    Raises
    ------
    ValueError
        If a name holds a NUL, which ends a text in most formats, or a protein has no row.
    """
    for shard in folder.shards():
        for name in shard.names:
            if "\0" in name:
                raise ValueError(
                    f"The identifier {name!r} holds a NUL, which ends a text in most formats, so "
                    "that it would come back as another. Rename it, or keep the folder of shards."
                )
        if len(shard) and np.min(shard.counts) < 1:
            name = shard.names[int(np.argmin(shard.counts))]
            raise ValueError(f"{name!r} has no rows; a single file has no place for it.")
        yield shard


def starts_of(shard):
    """Return the first row of each protein in a shard, and one past the last of all."""
    return np.concatenate([[0], np.cumsum(shard.counts)])
