"""Levels of moments as one safetensors file: no pickle, nothing that runs code."""

from pathlib import Path

import numpy as np

from ..base._blocks import Blocks
from ..base._damage import damage_is_told, integer, integers, one_of, strings
from ..base._formats import LEVELS_SINCE, MOMENTS
from ..base._provenance import checked_provenance
from ..base._tensor_file import checked, read_tensors, write_tensors
from ._chain import EPSILON
from ._level import Level

# Levels that have a meaning of their own; rows are gathered at others by name.
FIXED = ("residue", "protein")
# What a file keeps beside the levels, of the moments themselves.
HEADER = (
    "block_sizes",
    "block_names",
    "n_rows",
    "precision",
    "product_precision",
    "row_precision",
)


def write_levels(path, header, levels):
    """Write levels and a JSON-ready header to a file, in one step.

    Parameters
    ----------
    path : path-like

    header : dict

    levels : dict of str to Level

    Raises
    ------
    OSError
        As ``replace_file``.
    """
    tensors = {}
    for name, level in levels.items():
        tensors[f"{name}.n"] = np.array([level.n])
        tensors[f"{name}.mean"] = level.mean
        tensors[f"{name}.scatter"] = level.scatter
    # Without levels of other names, as older versions read it.
    number = MOMENTS if set(levels) - set(FIXED) else LEVELS_SINCE - 1
    write_tensors(path, "moments", {"format": number, **header}, tensors)


def read_levels(path):
    """Return the header and the levels of a file, by name.

    Raises
    ------
    FormatError
        If a newer version has written it.

    DamagedFileError
        If it is no complete file of moments.

    FileNotFoundError
        If there is no such file.
    """
    way_out = "write it with Moments.save."
    with damage_is_told(f"{path} holds no moments, or is incomplete", way_out):
        header, tensors, _ = read_tensors(Path(path), "moments", MOMENTS)
        if header is None:
            raise KeyError("moments")
        if header.get("format", 1) < 3 and "half" in header:
            # The type of rows was kept of half precision alone, and products followed it.
            header["row_precision"] = header["half"] or header["product_precision"]
        missing = [name for name in (*HEADER, "extra") if name not in header]
        if missing:
            raise ValueError(f"its header lacks {', '.join(missing)}")
        blocks = Blocks(integers(header, "block_sizes"), strings(header, "block_names"))
        integer(header, "n_rows")
        one_of(header, "precision", (None, "float32", "float64"))
        one_of(header, "product_precision", ("float32", "float64"))
        one_of(header, "row_precision", tuple(EPSILON))
        header["level_precisions"] = _precisions(header.get("level_precisions", {}))
        if not isinstance(header["extra"], dict):
            raise ValueError("its extra is no object")
        header["provenance"] = checked_provenance(header.get("provenance"), len(blocks))
        names = {"residue": None, **dict.fromkeys(key.partition(".")[0] for key in tensors)}
        levels = {name: _level(tensors, name, blocks.n_columns) for name in names}
    return header, levels


def _precisions(values):
    """Return the coarsest precision of products, and type of rows, of levels by name."""
    found = {}
    for name, (products, rows) in values.items():
        told = {f"precision of {name}": products, f"rows of {name}": rows}
        one_of(told, f"precision of {name}", ("float32", "float64"))
        one_of(told, f"rows of {name}", tuple(EPSILON))
        found[name] = products, rows
    return found


def _level(tensors, name, n_columns):
    [n] = checked(tensors, f"{name}.n", (1,))
    if n < 0:
        raise ValueError(f"its {name}.n is {n}, less than 0")
    mean = checked(tensors, f"{name}.mean", (n_columns,))
    return Level.of(n, mean, checked(tensors, f"{name}.scatter", (n_columns, n_columns)))
