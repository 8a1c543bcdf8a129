"""Files that are either whole or not there."""

import os
import time
import uuid
from contextlib import suppress
from glob import escape

from safetensors import SafetensorError

# Seconds after which what a killed process has left beside a file is taken for that.
LEFT_BEHIND = 86400.0


def replace_file(path, write):
    """Write a file beside ``path`` and put it in its place in one step.

    The file is on the disk before it has its name, so that a process that is killed, or a
    machine that stops, leaves the old file or the new one. It has the mode that the umask
    gives, whatever ``write`` makes it with.

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
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _remove_left_behind(path)
        mode = _mode_of_new(temporary)
        write(temporary)
        _sync(temporary, os.O_RDWR)  # Windows syncs what it may write
        os.chmod(temporary, mode)
        os.replace(temporary, path)
        with suppress(OSError):  # some file systems, and Windows, do not let a folder be synced
            _sync(path.parent, os.O_RDONLY)
    except (OSError, SafetensorError) as error:  # the second: of a full disk
        kind = type(error) if isinstance(error, OSError) else OSError
        raise _refused(kind, path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _refused(kind, path, error):
    """Return the error that a file cannot be written, of the same kind and number."""
    cause = (getattr(error, "strerror", None) or str(error)).rstrip(".")
    kept = "What it held before is still there. " if path.is_file() else ""
    refused = kind(
        f"{path} cannot be written: {cause}. {kept}Make room on its disk, or name a place that "
        "you may write to."
    )
    refused.errno = getattr(error, "errno", None)
    return refused


def _mode_of_new(path):
    """Return the mode of new files, which only making one tells without a change of the umask."""
    with open(path, "xb") as file:
        return os.fstat(file.fileno()).st_mode & 0o777


def _sync(path, flags):
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_left_behind(path):
    """Remove what processes have left that were killed while they wrote the same file."""
    for old in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > LEFT_BEHIND:
                old.unlink()
