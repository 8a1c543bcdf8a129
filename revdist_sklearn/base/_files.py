"""Files that are either whole or not there."""

import os

from safetensors import SafetensorError


def replace_file(path, write):
    """Write a file beside ``path`` and put it in its place in one step.

    Parameters
    ----------
    path : Path

    write : callable
        Takes the path of the temporary file.

    Raises
    ------
    OSError
        If it cannot be written; what stood at ``path`` is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
