"""Cuts of the power under a file system: ext4 on a loop device, shut down without its log.

What the kernel held in memory and has not been told to put on the disk is gone after it, as when
the plug is pulled.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import rows
from syscalls import moments_of

from revdist_sklearn import Moments, ReverseDistiller
from revdist_sklearn.cli._outputs import write_file
from revdist_sklearn.embedding._cache import EmbeddingCache

# From include/uapi/linux/fs.h and fs/ext4/ext4.h of Linux.
SHUTDOWN, WITHOUT_LOG = 0x8004587D, 2
SIZE = 24 * 2**20
SPACE = {"model": "m", "layer": -1, "width": 8}
TEXTS = ["MKT", "GSH", "AAC"]


class Disk:
    """A disk of our own in a folder, whose power can be cut."""

    def __init__(self, folder):
        self.image, self.place = folder / "image", folder / "disk"
        self.place.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(SIZE)
        _run("mkfs.ext4", "-q", "-F", self.image)
        self.is_on = False

    def on(self):
        """Mount it."""
        _run("mount", "-o", "loop", self.image, self.place)
        self.is_on = True

    def cut(self):
        """Cut the power; what is open can be read and written no more."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
        finally:
            os.close(descriptor)

    def off(self):
        """Unmount it."""
        if self.is_on:
            _run("umount", self.place)
            self.is_on = False


def _run(*command):
    subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=60)


@contextmanager
def disk(folder):
    """Yield a disk that is on, and take it away at the end."""
    one = Disk(folder)
    try:
        one.on()
        yield one
    finally:
        one.off()


@cache
def why_not():
    """Return why there is no such disk here; None where there is."""
    import tempfile

    if not hasattr(os, "getuid") or os.getuid():
        return "only root can mount"
    for name in ("mkfs.ext4", "mount", "umount"):
        if not shutil.which(name):
            return f"{name} is not installed"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with disk(Path(folder)) as one:
                one.cut()
        except (OSError, subprocess.SubprocessError) as error:
            return f"there is no disk of our own here: {error}"
    return None


def _moments(place, seed):
    Moments((4, 8)).update(_rows(seed)).save(place / "new" / "m")


def _distiller(place, seed):
    ReverseDistiller((4, 8)).fit(_rows(seed)).save_pretrained(place / "new" / "folder" / "d")


def _output(place, seed):
    write_file(place / "new" / "z.csv", lambda file: file.write(bytes(_rows(seed))))


def _cache(place, seed):
    with EmbeddingCache(place / "new" / "cache") as store:
        missing = [text for i, text in enumerate(TEXTS) if i not in store.get(SPACE, TEXTS)[0]]
        if missing:
            store.put(SPACE, missing, np.ones((len(missing), 8), np.float32))


def _rows(seed):
    return np.random.default_rng(seed).normal(size=(60, 12))


def _of_cache(place):
    with EmbeddingCache(place / "new" / "cache") as store:
        return store.get(SPACE, TEXTS)[1].tobytes()


# What is written, and how it is read, as bytes.
WRITES = {
    "Moments.save": (_moments, lambda place: moments_of(place / "new" / "m")),
    "save_pretrained": (_distiller, lambda place: rows.chain_of(place / "new" / "folder" / "d")),
    "an output of the shell": (_output, lambda place: (place / "new" / "z.csv").read_bytes()),
    "rows of a cache": (_cache, _of_cache),
}


def cuts(folder, name, moments=("after", "at the rename", "after the rename")):
    """Cut the power after a write, and while one takes the place of another.

    Returns
    -------
    outcomes : Counter
    """
    write, read = WRITES[name]
    outcomes: Counter = Counter()
    for moment in moments:
        place = folder / moment.replace(" ", "-")
        place.mkdir()
        with disk(place) as one:
            (one.place / "new").mkdir()
            os.sync()
            write(one.place, 1)
            wholes = {read(one.place)}
            if write is _cache:
                # SQLite does not sync the folder after the last of its steps: rows that were
                # just written may be gone, and are computed again.
                wholes.add(b"")
            if moment == "after":
                one.cut()
            else:
                write(_elsewhere(place), 2)
                wholes.add(read(place / "elsewhere"))
                _cut_at_rename(one, write, moment)
            one.off()
            one.on()
            try:
                found = read(one.place)
            except Exception as error:
                outcomes[f"{moment}: {error!r}"] += 1
            else:
                outcomes[rows.SAME if found in wholes else f"{moment}: other numbers"] += 1
            write(one.place, 1)  # the same call again
            assert read(one.place) in wholes
    return outcomes


def _elsewhere(place):
    (place / "elsewhere" / "new").mkdir(parents=True)
    return place / "elsewhere"


def _cut_at_rename(one, write, moment):
    replace = os.replace

    def cut(*paths):
        if moment == "at the rename":
            one.cut()
        replace(*paths)
        if moment == "after the rename":
            one.cut()

    with patch.object(os, "replace", cut):
        try:
            write(one.place, 2)
        except OSError:
            return
    if write is _cache:  # which renames nothing
        one.cut()
