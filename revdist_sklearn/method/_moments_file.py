"""Levels of moments as one safetensors file: no pickle, nothing that runs code."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..base._files import replace_file
from ..base._formats import MOMENTS, FormatError, check_format
from ._level import Level

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

    levels : dict of str to (Level or None)
    """
    tensors = {}
    for name, level in levels.items():
        if level is not None:
            tensors[f"{name}.n"] = np.array([level.n])
            tensors[f"{name}.mean"] = level.mean
            tensors[f"{name}.scatter"] = level.scatter
    metadata = {"moments": json.dumps({"format": MOMENTS, **header})}
    replace_file(Path(path), lambda temporary: save_file(tensors, temporary, metadata))


def read_levels(path):
    """Return the header and the levels, "residue" and "protein", of a file.

    Raises
    ------
    FormatError
        If a newer version has written it.

    ValueError
        If it is no complete file of moments.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["moments"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        number = check_format(header.get("format", 1), MOMENTS, str(path))  # none in the first
        if number < 3:
            # The type of rows was kept of half precision alone, and products followed it.
            header["row_precision"] = header["half"] or header["product_precision"]
        missing = [name for name in (*HEADER, "extra") if name not in header]
        if missing:
            raise KeyError(f"its header lacks {', '.join(missing)}")
        levels = {"residue": _level(tensors, "residue"), "protein": None}
        if any(key.startswith("protein.") for key in tensors):
            levels["protein"] = _level(tensors, "protein")
    except FormatError:
        raise
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no moments, or is incomplete ({error}); write it with Moments.save."
        ) from error
    return header, levels


def _level(tensors, name):
    n, mean, scatter = (tensors[f"{name}.{part}"] for part in ("n", "mean", "scatter"))
    return Level.of(n[0], mean, scatter)
