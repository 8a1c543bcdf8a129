"""Files that are either whole or not there."""

import os
import stat

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
        # Some writers, safetensors among them, make files that their owner alone may read.
        with open(temporary, "wb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        write(temporary)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
