import bz2
import gzip
import io
import lzma
import os
import sys
import threading

import pytest

from revdist_sklearn.base import _unpack
from revdist_sklearn.base._unpack import CutShortError, UnpackedFile, is_rereadable, unpacked

TEXT = bytes(range(33, 127)) * 60


def zstd(data):
    zstandard = pytest.importorskip("zstandard")
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd}
packings = pytest.mark.parametrize("packing", PACKERS)


def content(path):
    return b"".join(unpacked(path, "the file"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "of no ending"


@pytest.fixture(params=[1, 7, 1 << 20])
def chunks(request, monkeypatch):
    """Read by so many bytes."""
    monkeypatch.setattr(_unpack, "CHUNK", request.param)


@packings
def test_packed_files_are_told_by_content(path, packing, chunks):
    path.write_bytes(PACKERS[packing](TEXT))
    assert content(path) == TEXT


@packings
def test_members_follow_each_other(path, packing, chunks):
    pack = PACKERS[packing]
    path.write_bytes(pack(TEXT[:10]) + pack(b"") + pack(TEXT[10:]))
    assert content(path) == TEXT


@packings
def test_padding_is_passed_over(path, packing, chunks):
    path.write_bytes(PACKERS[packing](TEXT) + bytes(512))
    assert content(path) == TEXT


@packings
def test_a_file_cut_anywhere_is_damaged(path, packing):
    packed = PACKERS[packing](TEXT)
    for end in [*range(6, len(packed), 9), len(packed) - 1]:
        path.write_bytes(packed[:end])
        with pytest.raises(CutShortError, match=f"^the file is a damaged {packing} file: it ends"):
            content(path)


@packings
def test_damage_and_what_does_not_belong_there_are_told(path, packing):
    packed = PACKERS[packing](TEXT)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 255
    for damaged in (flipped, packed + b"more"):
        path.write_bytes(damaged)
        with pytest.raises(CutShortError, match=f"^the file is a damaged {packing} file"):
            content(path)


def test_a_zstd_file_may_begin_with_a_frame_that_is_skipped(path):
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd(TEXT))
    assert content(path) == TEXT


def test_without_a_reader_of_zstd_an_error_says_what_to_install(path, monkeypatch):
    def no_module(name):
        raise ImportError(name)

    monkeypatch.setattr(_unpack.importlib, "import_module", no_module)
    path.write_bytes(b"\x28\xb5\x2f\xfd" + TEXT)
    with pytest.raises(ImportError, match=r"the file is packed by zstd.*pip install zstandard"):
        content(path)


def test_the_zstd_of_newer_pythons_comes_first(path, monkeypatch):
    module = pytest.importorskip("backports.zstd")  # the same module for older ones
    monkeypatch.setitem(sys.modules, "compression", module)
    monkeypatch.setitem(sys.modules, "compression.zstd", module)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    packed = module.compress(TEXT)
    path.write_bytes(packed + packed)
    assert content(path) == 2 * TEXT
    path.write_bytes(packed[:-1])
    with pytest.raises(CutShortError, match="a damaged zstd file"):
        content(path)


def test_the_first_chunk_tells_a_format(path, chunks):
    path.write_bytes(TEXT)
    assert len(next(unpacked(path, ""))) >= 512
    path.write_bytes(gzip.compress(TEXT))
    assert len(next(unpacked(path, ""))) >= 512
    path.write_bytes(b"")
    assert list(unpacked(path, "")) == []


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^f: there is no such file"):
        next(unpacked(tmp_path / "none", "f"))
    with pytest.raises(IsADirectoryError, match=r"^f is a folder"):
        next(unpacked(tmp_path, "f"))


def test_standard_input_is_read_and_left_open(monkeypatch):
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(TEXT))))
    monkeypatch.setattr("sys.stdin", stdin)
    assert content("-") == TEXT
    assert not stdin.closed and content("-") == b""
    for gone in (None, io.StringIO("text")):
        monkeypatch.setattr("sys.stdin", gone)
        with pytest.raises(ValueError, match="nothing on standard input"):
            content("-")
    assert not is_rereadable("-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_read_as_it_comes(path):
    os.mkfifo(path)
    packed = gzip.compress(TEXT)

    def write():
        with open(path, "wb", buffering=0) as pipe:
            for byte in packed:
                pipe.write(bytes([byte]))

    writer = threading.Thread(target=write)
    writer.start()
    assert content(path) == TEXT
    writer.join()
    assert not is_rereadable(path)


def test_it_can_be_had_as_a_file(path, chunks):
    path.write_bytes(gzip.compress(TEXT.replace(b"A", b"\n")))
    with io.BufferedReader(UnpackedFile(path, "f"), 50) as file:
        assert file.readlines() == TEXT.replace(b"A", b"\n").splitlines(keepends=True)
