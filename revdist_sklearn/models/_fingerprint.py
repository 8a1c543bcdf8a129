"""What a checkpoint's files hold, as one text: the same where the model is the same."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from ._checkpoint import weight_files

# What a fingerprint covers beside weights: settings, vocabularies and code.
SMALL_FILES = (".json", ".txt", ".model", ".py")


def fingerprint(folder):
    """Return a text that is the same for two folders only if they hold the same model.

    A snapshot of the hub is named by its commit. Of other folders the contents of
    configuration, vocabulary and weights are hashed: a date tells nothing when files are
    copied, and a path nothing when a training run saves into it again. Hashing reads a
    folder once a process and change of its files, a fraction of the time to load it.

    Parameters
    ----------
    folder : path
        Folder of a model.

    Returns
    -------
    fingerprint : str
    """
    folder = Path(folder)
    if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name):
        return f"{folder.parent.parent.name}@{folder.name}"
    small = [p for p in folder.iterdir() if p.suffix in SMALL_FILES and p.is_file()]
    digest = hashlib.sha256()
    for path in sorted({*small, *weight_files(folder)}):
        stat = path.stat()
        digest.update(f"{path.name} {_digest(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _digest(path, size, changed):
    """Return the hash of a file; size and time of the last change are part of the key."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
