"""Safetensors files with a header of JSON, and a digest of all that they hold."""

import hashlib
import json

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from ._files import replace_file
from ._formats import DIGEST_SINCE, check_format


def write_tensors(path, key, header, tensors):
    """Write a header and tensors to one file, in one step.

    Parameters
    ----------
    path : path-like

    key : str
        Name of the header among the metadata of the file.

    header : dict
        Can be written as JSON; ``format`` is its number.

    tensors : dict of str to ndarray

    Raises
    ------
    OSError
        If it cannot be written; what stood there is still there.
    """
    text = json.dumps(header)
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    metadata = {key: text, "digest": _digest(text, tensors)}
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))


def read_tensors(path, key, known):
    """Return what ``write_tensors`` wrote, if it is that to the last bit.

    Parameters
    ----------
    path : Path

    key : str
        Name of the header.

    known : int
        The newest format that can be read.

    Returns
    -------
    header : dict or None
        None where the file has none under that name.

    tensors : dict of str to ndarray

    metadata : dict of str to str

    Raises
    ------
    FormatError
        If a newer version has written it.

    ValueError, SafetensorError, KeyError, TypeError, RecursionError
        If it is damaged.

    MemoryError
        If there is not the memory for what it holds.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        _check_memory(path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    text = metadata.get(key)
    if text is None:
        return None, tensors, metadata
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError(f"its header is {type(header).__name__} and no object")
    number = check_format(header.get("format", 1), known, str(path))  # some had no number
    if "digest" not in metadata:
        if number >= DIGEST_SINCE:
            raise ValueError("its digest is missing")
    elif metadata["digest"] != _digest(text, tensors):
        raise ValueError("its digest does not match what it holds: bits of it have changed")
    return header, tensors, metadata


def _check_memory(path):
    """Raise where there is no room for a file, whose size its header has said to be right."""
    size = path.stat().st_size
    try:
        np.empty(size, dtype=np.uint8)  # safetensors itself would panic
    except (MemoryError, ValueError) as error:
        raise MemoryError(f"it has {size:,} bytes") from error


def checked(tensors, name, shape, *, allow_nan=False):
    """Return a tensor that must be float64, finite, and of a shape.

    Parameters
    ----------
    tensors : dict of str to ndarray

    name : str

    shape : tuple of int

    allow_nan : bool, default=False
        Whether NaN stands for what is not known.

    Raises
    ------
    KeyError, ValueError
        If it is not there, or something else.
    """
    array = tensors[name]
    if array.shape != shape or array.dtype != np.float64:
        raise ValueError(
            f"its {name} has shape {array.shape} and dtype {array.dtype}, not {shape} and float64"
        )
    wrong = np.isinf(array) if allow_nan else ~np.isfinite(array)
    if wrong.any():
        raise ValueError(f"its {name} has {int(wrong.sum())} values that are not finite")
    return array


def _digest(text, tensors):
    digest = hashlib.blake2b(text.encode(), digest_size=32)
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ravel(array).data)
    return digest.hexdigest()
