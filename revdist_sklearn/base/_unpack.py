"""Bytes of a file or of standard input, unpacked by what they are and not by a name."""

import bz2
import importlib
import io
import lzma
import os
import stat
import sys
import zlib
from itertools import chain

from ._text import visible

# Bytes that are read at a time.
CHUNK = 1 << 20
# Of these, the packed ones that are unpacked at a time: text may unpack to a hundred times.
PACKED = 1 << 14
# The longest beginning that tells a format, unpacked too: a tar archive has its mark at 257.
START = 512

STANDARD_INPUT = "-"


class CutShortError(ValueError):
    """A packed file is damaged or ends early: what came before could be read."""


def _of_gzip():
    return zlib.decompressobj(wbits=31), zlib.error


def _of_bz2():
    return bz2.BZ2Decompressor(), OSError


def _of_xz():
    return lzma.LZMADecompressor(), lzma.LZMAError


def _of_zstd():
    try:
        module = importlib.import_module("compression.zstd")  # of Python 3.14
        return module.ZstdDecompressor(), module.ZstdError
    except ImportError:
        module = importlib.import_module("zstandard")
        return module.ZstdDecompressor().decompressobj(), module.ZstdError


# First bytes, name, and what makes an unpacker of one member with the error that it raises.
FORMATS = (
    ((b"\x1f\x8b",), "gzip", _of_gzip),
    ((b"BZh",), "bzip2", _of_bz2),
    ((b"\xfd7zXZ\0",), "xz", _of_xz),
    # The second sort is skipped: parallel packers begin with it.
    (
        (b"\x28\xb5\x2f\xfd", *(bytes([k]) + b"*M\x18" for k in range(0x50, 0x60))),
        "zstd",
        _of_zstd,
    ),
)


def unpacked(path, name):
    """Yield the bytes of a file in chunks: gzip, bzip2, xz and zstd are unpacked, all members.

    Parameters
    ----------
    path : path-like
        ``"-"`` is standard input, which is left open.

    name : str
        What messages call it.

    Yields
    ------
    chunk : bytes
        None of them empty, of a megabyte or what that unpacks to; the first has 512 bytes at
        least, where there are so many.

    Raises
    ------
    OSError
        If it cannot be read: there is no such file, it is a folder, or reading fails.

    CutShortError
        A ValueError, if a packed file is damaged or ends early.

    ImportError
        If it is zstd and nothing is installed that reads it.
    """
    raw = _with_start(_chunks(path, name))
    start = next(raw, b"")
    chunks = chain([start], raw) if start else raw
    for magics, packing, make in FORMATS:
        if start.startswith(magics):
            chunks = _with_start(_members(chunks, name, packing, make))
    yield from chunks


def is_rereadable(path):
    """Return whether a path can be read twice, as standard input and pipes cannot."""
    if os.fspath(path) == STANDARD_INPUT:
        return False
    try:
        mode = os.stat(path).st_mode
    except OSError:  # reading it tells
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _with_start(chunks):
    """Yield the same chunks, the first of which is long enough to tell a format."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= START:
            break
    if start:
        yield start
    yield from chunks


def _chunks(path, name):
    """Yield the bytes as they are."""
    try:
        if os.fspath(path) == STANDARD_INPUT:
            stream = getattr(sys.stdin, "buffer", None)
            if stream is None or sys.stdin.closed:
                raise ValueError(
                    f"{name}: there is nothing on standard input, or it was read before."
                )
            while chunk := getattr(stream, "read1", stream.read)(CHUNK):
                yield chunk
            return
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: there is no such file.") from error
    except IsADirectoryError as error:
        raise IsADirectoryError(f"{name} is a folder; name a file.") from error
    except OSError as error:
        raise OSError(f"{name} cannot be read: {error.strerror or error}.") from error


def _members(raw, name, packing, make):
    """Yield what the members of a packed file hold, one after the other."""
    try:
        unpacker, fault = make()
    except ImportError as error:
        raise ImportError(
            f"{name} is packed by zstd, which this Python does not read. Install a package that "
            f"does (pip install zstandard), or unpack it first: zstd -d."
        ) from error
    for data in (chunk[i : i + PACKED] for chunk in raw for i in range(0, len(chunk), PACKED)):
        while data:
            if unpacker.eof:
                data = data.lstrip(b"\0")  # padding, as tapes have it
                if not data:
                    break
                unpacker, _ = make()
            try:
                out = unpacker.decompress(data)
            except fault as error:
                raise CutShortError(f"{name} is a damaged {packing} file: {error}.") from error
            if out:
                yield out
            data = unpacker.unused_data if unpacker.eof else b""
    if not unpacker.eof:
        raise CutShortError(
            f"{name} is a damaged {packing} file: it ends in the middle. Fetch or pack it again."
        )


class UnpackedFile(io.RawIOBase):
    """The bytes of :func:`unpacked` as a file, for readers that want one."""

    def __init__(self, path, name):
        self._chunks = unpacked(path, name)
        self._rest = memoryview(b"")

    def readable(self):
        """Return True."""
        return True

    def readinto(self, buffer):
        """Read what is at hand, up to the size of a buffer; 0 at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n

    def close(self):
        """Close the file that is read."""
        self._chunks.close()
        super().close()


def file_name(path, option=""):
    """Return what messages call a file: the option that named it, and its path."""
    path = os.fspath(path)
    plain = "standard input" if path == STANDARD_INPUT and not option else path
    return visible(f"{option} {plain}".strip())
