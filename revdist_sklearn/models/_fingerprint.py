"""What a checkpoint's files hold, as one text: the same where the model is the same."""

import hashlib
import json
import os
import re
import time
from functools import lru_cache
from pathlib import Path

from ..base._damage import check_text_size, damage_is_told
from ._checkpoint import CONFIG_FILES, weight_files

# What a fingerprint covers beside weights: settings, vocabularies and code.
SMALL_FILES = (".json", ".txt", ".model", ".py")
# Nanoseconds: a file that changed within them may change once more in the same tick of its
# file system's clock, so that its times would not tell.
JUST_CHANGED = 2_000_000_000
# Times that a file is read anew because it changes meanwhile.
READINGS = 3
# Bytes read at a time.
BLOCK = 1 << 20


def fingerprint(folder):
    """Return a text that is the same for two folders only if they hold the same model.

    A snapshot in the hub's cache is named by its commit. Of other folders the contents of
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

    Raises
    ------
    OSError
        If a file keeps changing while it is read.

    DamagedFileError
        If a configuration or vocabulary is larger than any is, so that it is not read.
    """
    folder = Path(folder)
    small = [p for p in folder.iterdir() if p.suffix in SMALL_FILES and p.is_file()]
    for path in small:
        if any(path.match(pattern) for pattern in CONFIG_FILES):
            with damage_is_told(f"{path} is damaged", "save or fetch it again."):
                check_text_size(path.stat().st_size)
    files = sorted({*small, *weight_files(folder)})
    if _is_snapshot(folder, files):
        return f"{folder.parent.parent.name}@{folder.name}"
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {digest_of_file(path)}\n".encode())
    return digest.hexdigest()


def weights_digest(folder):
    """Return a text that is the same for two folders only if their files of weights are equal.

    Unlike :func:`fingerprint` it reads the weights of a snapshot of the hub as well, and is the
    same whatever lies beside them.

    Parameters
    ----------
    folder : path
        Folder of a model.

    Returns
    -------
    digest : str
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        digest.update(f"{path.name} {digest_of_file(path)}\n".encode())
    return digest.hexdigest()


def tensors_digest(folder):
    """Return a text that is the same for two folders only if they hold the same tensors.

    Names, types, shapes and bytes count, whatever the files are called, how many there are and
    in which order they hold them.

    Parameters
    ----------
    folder : path
        Folder of a model.

    Returns
    -------
    digest : str or None
        None of files other than safetensors, which are not read without running them, and of
        damaged ones.
    """
    files = weight_files(folder)
    if any(path.suffix != ".safetensors" for path in files):
        return None
    try:
        lines = sorted(line for path in files for line in _tensors(path, _stat(path)))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError):
        return None
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=1024)
def _tensors(path, stat):
    """Return a line for each tensor of a safetensors file; ``stat`` is part of the key."""
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        header.pop("__metadata__", None)
        lines = []
        for name, tensor in header.items():
            digest = hashlib.sha256()
            begin, end = tensor["data_offsets"]
            file.seek(start + begin)
            for at in range(begin, end, BLOCK):
                digest.update(file.read(min(BLOCK, end - at)))
            facts = [name, tensor["dtype"], tensor["shape"], digest.hexdigest()]
            lines.append(json.dumps(facts))
    return tuple(lines)


def marks(folder):
    """Return what tells whether files of weights are written over: their state and contents."""
    return {path: (_stat(path), digest_of_file(path)) for path in weight_files(folder)}


def written_over(of_files):
    """Return whether a file of some :func:`marks` was written over where it lies.

    A loaded model may be no more than a map of its file, and would change with it. A file that
    was replaced by another goes on under the map, and is none of them.
    """
    for path, (before, digest) in of_files.items():
        try:
            now = _stat(path)
            if now != before and now[-1] == before[-1] and digest_of_file(path) != digest:
                return True
        except FileNotFoundError:
            pass
    return False


def _is_snapshot(folder, files):
    """Return whether a folder is one of the hub's cache: links into the blobs of a repository.

    Another folder of such a name may hold anything, today this and tomorrow that.
    """
    if folder.parent.name != "snapshots" or not re.fullmatch("[0-9a-f]{40}", folder.name):
        return False
    blobs = (folder.parent.parent / "blobs").resolve()
    return all(path.is_symlink() and path.resolve().parent == blobs for path in files)


def digest_of_file(path):
    """Return the SHA-256 of a file as it is now, in hexadecimal."""
    for _ in range(READINGS):
        before = _stat(path)
        # Size, times and place are part of the key; the time of the last change of the inode
        # is no one's to set.
        just_changed = time.time_ns() - before[2] < JUST_CHANGED
        digest = (_digest.__wrapped__ if just_changed else _digest)(path, before)
        if _stat(path) == before:
            return digest
    raise OSError(f"{path} changes while it is read; wait until it is written, and try again.")


def _stat(path):
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@lru_cache(maxsize=1024)
def _digest(path, stat):
    """Return the hash of a file; what :func:`_stat` tells of it is part of the key."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
