"""Files that are not what their writer left: one error for all that can be wrong with them."""

import json
import os
from contextlib import contextmanager

from safetensors import SafetensorError

from ._formats import FormatError

# What reading raises of files whose bytes are not those that were written.
FAULTS = (
    *(SafetensorError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError, EOFError, NotImplementedError),
)

# Bytes that a file of text may have: the largest that are read, tokenizers, have half of it.
TEXT_LIMIT = 2**26


class DamagedFileError(ValueError):
    """A file is damaged, incomplete, or something else than its name says.

    The message names the file, what is wrong with it, and the way out. Nothing of it is used,
    and nothing is changed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from revdist_sklearn import DamagedFileError, Moments
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "moments.safetensors"
    ...     Moments([2, 3]).save(path)
    ...     cut_short = path.write_bytes(path.read_bytes()[:-1])
    ...     try:
    ...         Moments.load(path)
    ...     except DamagedFileError as error:
    ...         print("holds no moments, or is incomplete" in str(error))
    True
    """


@contextmanager
def damage_is_told(what, way_out, faults=FAULTS):
    """Turn whatever reading a file raises into one error that says what to do.

    Parameters
    ----------
    what : str
        The file and what it does not hold, as the message begins.

    way_out : str
        Its end.

    faults : type or tuple of types, default=FAULTS
        Exceptions that stand for damage.

    Raises
    ------
    DamagedFileError
        For any of ``faults``. A :class:`FormatError` stays one.

    MemoryError
        Of the same text, where there is not the memory for what it says it holds.
    """
    try:
        yield
    except (FormatError, DamagedFileError):
        raise
    except faults as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, KeyError):  # whose text is no more than the key
            reason = f"{reason} is missing"
        raise DamagedFileError(f"{what} ({reason}); {way_out}") from error
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        raise MemoryError(
            f"{what}, or it is larger than the memory that there is{reason}; {way_out}"
        ) from error


def read_text(path, limit=TEXT_LIMIT):
    """Return the text of a file in UTF-8, which must not be larger than ones of its kind are.

    Parameters
    ----------
    path : path-like

    limit : int, default=TEXT_LIMIT
        Bytes.

    Raises
    ------
    ValueError
        If it is larger, or is no such text.

    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        # Asked for before it is read, which takes the memory of what it asks for. Devices tell
        # no size.
        size = os.fstat(file.fileno()).st_size
        check_text_size(size, limit)
        content = file.read((size or limit) + 1)
    check_text_size(len(content), limit)
    if size and len(content) > size:
        raise ValueError("it grew while it was read")
    return content.decode("utf-8")


def check_text_size(size, limit=TEXT_LIMIT):
    """Raise a ``ValueError`` where a file of text has more bytes than ones of its kind have."""
    if size > limit:
        raise ValueError(f"it has {size:,} bytes, and such files {limit:,} at most")


def read_json_object(path, way_out):
    """Return what a JSON file holds, which must be an object.

    Parameters
    ----------
    path : path-like

    way_out : str
        What to do where it is none, for the message.

    Raises
    ------
    DamagedFileError
        If it is no JSON, or no object.
    """
    with damage_is_told(f"{path} is damaged", way_out):
        values = json.loads(read_text(path))
        if not isinstance(values, dict):
            raise ValueError(f"it holds {type(values).__name__} and no object")
    return values


# What a header should hold is asked for by these: JSON has types of its own.


def integer(values, name, low=0, high=None):
    """Return an integer entry of a header, at least ``low`` and, where given, at most ``high``."""
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"its {name} is {_short(value)}, no integer of {low} or more")
    if high is not None and value > high:
        raise ValueError(f"its {name} is {_short(value)}, more than {high:,}")
    return value


def one_of(values, name, allowed):
    """Return an entry of a header that is one of some values."""
    value = values[name]
    if not any(type(value) is type(other) and value == other for other in allowed):
        raise ValueError(f"its {name} is {_short(value)}, none of {allowed}")
    return value


def integers(values, name, low=1):
    """Return an entry of a header that is a list of integers, as a tuple."""
    value = values[name]
    if not isinstance(value, list):
        raise ValueError(f"its {name} is {_short(value)}, no list of integers")
    return tuple(integer({f"{name}[{i}]": v}, f"{name}[{i}]", low) for i, v in enumerate(value))


def strings(values, name):
    """Return an entry of a header that is a list of texts, as a tuple; None stays None."""
    value = values[name]
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"its {name} is {_short(value)}, no list of texts")
    return tuple(value)


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}.."
