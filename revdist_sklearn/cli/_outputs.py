"""Files that commands write: looked at before the work, and whole or not there after it."""

import os
import tempfile
from pathlib import Path

from ..base._files import destination, replace_file


def check_file(option, path, endings, or_else=""):
    """Return the ending of a file to be written, or say why it cannot be.

    Parameters
    ----------
    option : str
        The option that names it, for messages.

    path : str

    endings : sequence of str
        Allowed ones, such as ``".csv"``.

    or_else : str, default=""
        What else there is, for the message.

    Returns
    -------
    ending : str

    Raises
    ------
    ValueError
        If it has another ending.

    OSError
        If its folder does not exist or cannot be written to, or something else than a file
        bears the name.
    """
    ending = Path(path).suffix
    if ending not in endings:
        listed = " or ".join(endings)
        raise ValueError(f"{option} {path} must be a file that ends in {listed}{or_else}.")
    try:
        target = destination(path)
    except OSError as error:
        raise OSError(f"{option} {error}") from error
    if not target.parent.is_dir():
        raise OSError(f"{option} {path}: there is no folder {target.parent}; make it first.")
    _check_writable(option, path, target.parent)
    return ending


def check_folder(option, path, *, writable=True):
    """Raise unless a folder can be written to, or be made.

    Parameters
    ----------
    option, path : str

    writable : bool, default=True
        Whether that is needed; else it may be one that is there and can be read alone.

    Raises
    ------
    OSError
        If it, or what it would be made in, is a file or cannot be written to.
    """
    if path in ("", "-"):
        raise OSError(f"{option} {path!r} is no folder; name one.")
    target = Path(os.path.realpath(os.path.expanduser(path) if not writable else path))
    while not target.exists():
        target = target.parent
    if not target.is_dir():
        raise OSError(f"{option} {path} is no folder: {target} is a file. Name another.")
    if writable:
        _check_writable(option, path, target)


def check_no_input(option, path, given):
    """Raise where an output would take the place of the input.

    Raises
    ------
    OSError
    """
    if os.path.exists(path) and os.path.exists(given) and os.path.samefile(path, given):
        raise OSError(f"{option} {path} is the input itself; name another file.")


def _check_writable(option, path, folder):
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"{option} {path}: the folder {folder} cannot be written to ({error.strerror}); name "
            "another."
        ) from error


def write_file(path, write):
    """Write a file in one step: what stood there is replaced by the whole of it, or not at all.

    Parameters
    ----------
    path : path-like

    write : callable
        Takes an open binary file.

    Raises
    ------
    OSError
        As ``replace_file``.
    """

    def into(temporary):
        with open(temporary, "wb") as file:
            write(file)

    replace_file(path, into)
