import os
import stat
import time

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from revdist_sklearn.base import _files
from revdist_sklearn.base._files import replace_file


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def write(temporary):
        assert path.read_text() == "old" and temporary.parent == tmp_path
        temporary.write_text("new")

    with path.open() as reader:
        replace_file(path, write)
        assert reader.read() == "old"  # who reads meanwhile reads one file to its end
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("fault", [SafetensorError("full"), OSError("full"), KeyboardInterrupt()])
def test_a_fault_leaves_the_old_file_and_no_half(tmp_path, fault):
    path = tmp_path / "a"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise fault

    expected = OSError if isinstance(fault, SafetensorError) else type(fault)
    with pytest.raises(expected):
        replace_file(path, write)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
@pytest.mark.parametrize("exists", [False, True])
def test_the_mode_is_that_of_the_umask(tmp_path, umask, mode, exists):
    path, before = tmp_path / "a", os.umask(umask)
    try:
        if exists:
            path.touch(mode=0o600)
        replace_file(path, lambda temporary: save_file({"a": np.ones(2)}, temporary))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, calls = tmp_path / "a", []

    def sync(descriptor):
        of = os.readlink(f"/proc/self/fd/{descriptor}")
        calls.append(("folder" if os.path.isdir(of) else "file", path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    replace_file(path, lambda temporary: temporary.write_text("new"))
    assert calls == [("file", False), ("folder", True)]


def test_a_folder_that_cannot_be_synced_is_no_fault(tmp_path, monkeypatch):
    sync = _files._sync

    def refuse(path, flags):
        if path.is_dir():
            raise OSError("not here")
        sync(path, flags)

    monkeypatch.setattr(_files, "_sync", refuse)
    replace_file(tmp_path / "a", lambda temporary: temporary.write_text("new"))
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("kind, number", [(PermissionError, 13), (OSError, 28)])
def test_what_cannot_be_written_names_the_path_and_the_way_out(tmp_path, kind, number):
    path = tmp_path / "a"
    path.write_text("old")

    def write(temporary):
        raise OSError(number, os.strerror(number))

    words = rf"^{path} cannot be written: {os.strerror(number)}\. What it held .* Make room"
    with pytest.raises(kind, match=words) as caught:
        replace_file(path, write)
    assert caught.value.errno == number and path.read_text() == "old"
    with pytest.raises(FileNotFoundError, match=r"none/a cannot be written: No such .*y\. Make"):
        replace_file(tmp_path / "none" / "a", write)


def test_what_a_killed_process_has_left_is_removed_after_a_day(tmp_path):
    path = tmp_path / "a[1]"
    names = [f".{path.name}.1.tmp", f".{path.name}.2.tmp", ".b.1.tmp"]
    for name, age in zip(names, (86500, 100, 86500), strict=True):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    replace_file(path, lambda temporary: temporary.write_text("new"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names[1:], path.name])
