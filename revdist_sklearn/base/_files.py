"""Files that are either whole or not there, and folders that last."""

import errno
import hashlib
import os
import platform
import re
import stat
import time
import uuid
from contextlib import suppress
from glob import escape
from pathlib import Path

from safetensors import SafetensorError

# Seconds after which what a killed process has left beside a file is taken for that, where
# nothing tells whether the process still runs.
LEFT_BEHIND = 86400.0
# What else than a file can bear a name.
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)
OWNER = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp")


def replace_file(path, write):
    """Write a file beside ``path`` and put it in its place in one step.

    The file is on the disk before it has its name, so that a process that is killed, or a
    machine that stops, leaves the old file or the new one. It has the mode that the umask
    gives, whatever ``write`` makes it with. A link stays one: the file that it leads to is
    replaced. The temporary file tells host and process, and is removed by who writes next,
    where its process has died.

    Parameters
    ----------
    path : path-like

    write : callable
        Takes the path of the temporary file, a ``Path``.

    Raises
    ------
    OSError
        If it cannot be written, and what stood at ``path`` is still there; or something else
        than a file bears the name.
    """
    path, target = Path(path), destination(path)
    mark = f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary = target.with_name(f".{target.name}.{mark}.tmp")
    try:
        _remove_left_behind(target)
        mode = _mode_of_new(temporary)
        write(temporary)
        _sync(temporary, os.O_RDWR)  # Windows syncs what it may write
        os.chmod(temporary, mode)
        os.replace(temporary, target)
        with suppress(OSError):  # some file systems, and Windows, do not let a folder be synced
            _sync(target.parent, os.O_RDONLY)
    except (OSError, SafetensorError) as error:  # the second: of a full disk
        kind = type(error) if isinstance(error, OSError) else OSError
        raise _refused(kind, path, target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def destination(path):
    """Return the file that a path leads to, which may be one that is not there yet.

    Parameters
    ----------
    path : path-like
        Links are followed, also to what does not exist.

    Returns
    -------
    path : Path

    Raises
    ------
    OSError
        If the name is none, or of something else than a file, which stays what it is.
    """
    if not os.fspath(path):
        raise FileNotFoundError("The name of a file to be written is empty; give one.")
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise OSError(f"{os.fspath(path)!r} is no name of a file: {error}.") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(f"{path} is a link that leads to itself; name another.") from error
        mode = stat.S_IFREG  # it is not there, or what is wrong shows when it is written
    if not stat.S_ISREG(mode):
        what = next((name for is_of, name in KINDS if is_of(mode)), "something else")
        kind, number = OSError, errno.EINVAL
        if stat.S_ISDIR(mode):
            kind, number = IsADirectoryError, errno.EISDIR
        refused = kind(f"{path} is {what}, and no file that could be replaced; name another.")
        refused.errno = number
        raise refused
    return Path(os.path.realpath(path))


def make_folder(path):
    """Make a folder with those above it, where they are missing, so that they last.

    Without a sync of the folder above, a new one and all in it may be gone after a power cut.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    OSError
        If it cannot be made, or is a file.
    """
    path = Path(path)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)  # another process may have made it meanwhile
        with suppress(OSError):
            _sync(folder.parent, os.O_RDONLY)
    path.mkdir(exist_ok=True)  # raises where it is a file


def _refused(kind, path, target, error):
    """Return the error that a file cannot be written, of the same kind and number."""
    name = f"{path}, a link to {target}," if path.is_symlink() else path
    cause = (getattr(error, "strerror", None) or str(error)).rstrip(".")
    kept = "What it held before is still there. " if path.is_file() else ""
    refused = kind(
        f"{name} cannot be written: {cause}. {kept}Make room on its disk, or name a place that "
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
            owner = OWNER.fullmatch(old.name.removeprefix(f".{path.name}"))
            is_dead = owner and owner[1] == _host() and not _runs(int(owner[2]))
            if is_dead or time.time() - old.stat().st_mtime > LEFT_BEHIND:
                old.unlink()


def _host():
    """Return a mark of where numbers of processes mean the same: a host since its start.

    A container may have the name of its host, and numbers of its own.
    """
    facts = [platform.node()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=4).hexdigest()


def _runs(pid):
    """Return whether a process runs; yes where that cannot be told."""
    if os.name != "posix":  # there the signal that only asks would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        pass
    return True
