"""Files that are not what their writer left: one error for all that can be wrong with them."""

import json
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ._formats import FormatError

# What reading raises of files whose bytes are not those that were written.
FAULTS = (
    *(SafetensorError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError, EOFError, NotImplementedError),
)


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
    """
    try:
        yield
    except (FormatError, DamagedFileError):
        raise
    except faults as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, LookupError):  # whose text is no more than the key
            reason = f"{reason} is missing"
        raise DamagedFileError(f"{what} ({reason}); {way_out}") from error


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
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds {type(values).__name__} and no object")
    return values


# What a header should hold is asked for by these: JSON has types of its own.


def integer(values, name, low=0):
    """Return an integer entry of a header, at least ``low``."""
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"its {name} is {_short(value)}, no integer of {low} or more")
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
