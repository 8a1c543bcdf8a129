"""One process a folder: a lock that goes with the process that holds it."""

from contextlib import contextmanager

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextmanager
def only_one(folder):
    """Keep other processes from writing to a folder meanwhile.

    Where the file system has no locks (and on Windows) nothing is kept from anything: shards
    are whole all the same, as two processes write the same ones.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    OSError
        If another process writes to it.
    """
    if fcntl is None:
        yield
        return
    with open(folder / LOCK, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                error.errno,
                f"Another process is writing to {folder}. Wait for it, or end it, or name another "
                "output.",
            ) from error
        except OSError:  # no locks here
            pass
        yield
