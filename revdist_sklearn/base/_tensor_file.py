"""Safetensors files with a header of JSON, and a digest of all that they hold.

They are written here, into the file that ``replace_file`` gives: safetensors would make one more
beside it, under a name of its own that nobody removes after a kill. NumPy has no bfloat16, and
safetensors none for NumPy without another library: arrays of it hold the bits, under a type of
their own.
"""

import hashlib
import json

import numpy as np
from safetensors import safe_open

from ._files import replace_file
from ._formats import DIGEST_SINCE, check_format

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
NAMES = {"<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "|u1": "U8", "|b1": "BOOL"}
NAMES[BFLOAT16.str] = "BF16"


def narrowed(array, kind):
    """Return an array in a type of fewer bits, rounded to nearest.

    Parameters
    ----------
    array : ndarray of float64

    kind : {"float64", "float32", "float16", "bfloat16"}

    Returns
    -------
    array : ndarray
        Of ``kind``, or of ``BFLOAT16``.

    Raises
    ------
    OverflowError
        If a number is beyond the largest of that type.
    """
    with np.errstate(over="ignore"):
        if kind == "bfloat16":
            bits = array.astype("<f4").view("<u4").astype(np.uint64)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # a tie goes to the even one
            narrow = bits.astype("<u2").view(BFLOAT16)
        else:
            narrow = array.astype(kind)
    if not np.isfinite(widened(narrow)).all():
        raise OverflowError(f"{np.abs(array).max():.3g} is beyond the largest number of {kind}")
    return narrow


def widened(array):
    """Return an array as float64, exactly."""
    if array.dtype == BFLOAT16:
        array = (array.view("<u2").astype("<u4") << 16).view("<f4")
    return array.astype(np.float64, copy=False)


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
        Among them may be some of ``BFLOAT16``.

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
        bits = _read_bfloat16(path)
        tensors = {
            name: bits[name] if name in bits else file.get_tensor(name) for name in file.keys()
        }
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


def checked(tensors, name, shape, *, allow_nan=False, kind="float64"):
    """Return a tensor that must be of a type, finite, and of a shape, as float64.

    Parameters
    ----------
    tensors : dict of str to ndarray

    name : str

    shape : tuple of int

    allow_nan : bool, default=False
        Whether NaN stands for what is not known.

    kind : {"float64", "float32", "float16", "bfloat16"}, default="float64"
        The type that it must have.

    Raises
    ------
    KeyError, ValueError
        If it is not there, or something else.
    """
    array = tensors[name]
    found = "bfloat16" if array.dtype == BFLOAT16 else str(array.dtype)
    if array.shape != shape or found != kind:
        raise ValueError(
            f"its {name} has shape {array.shape} and dtype {found}, not {shape} and {kind}"
        )
    array = widened(array)
    wrong = np.isinf(array) if allow_nan else ~np.isfinite(array)
    if wrong.any():
        raise ValueError(f"its {name} has {int(wrong.sum())} values that are not finite")
    return array


def save_file(tensors, path, metadata):
    """Write a safetensors file: the length of the header, the header, the arrays.

    Parameters
    ----------
    tensors : dict of str to ndarray
        Contiguous, of the types of ``NAMES``.

    path : Path

    metadata : dict of str to str
    """
    header, end = {"__metadata__": metadata}, 0
    # The widest type first, so that each array begins at a multiple of its width.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    for name in names:
        array, start = tensors[name], end
        end += array.nbytes
        kind, shape = NAMES[array.dtype.str], list(array.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(np.ravel(tensors[name]).data)


def _read_bfloat16(path):
    """Return the arrays of bfloat16 by name, of a file whose header safetensors has checked."""
    arrays = {}
    with open(path, "rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        for name, told in json.loads(file.read(n_bytes)).items():
            if name != "__metadata__" and told["dtype"] == "BF16":
                start, end = told["data_offsets"]
                file.seek(8 + n_bytes + start)
                bits = np.frombuffer(file.read(end - start), "<u2")
                arrays[name] = bits.view(BFLOAT16).reshape(told["shape"])
    return arrays


def _digest(text, tensors):
    digest = hashlib.blake2b(text.encode(), digest_size=32)
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ravel(array).data)
    return digest.hexdigest()
