import os
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from revdist_sklearn import Moments, ReverseDistiller
from revdist_sklearn.base import _files
from revdist_sklearn.base._files import make_folder, replace_file


def another(code):
    """Start a process with the module, and without the package, which takes longer."""
    start = (
        "import os; from importlib.util import module_from_spec, spec_from_file_location as at; "
        f"spec = at('files', {_files.__file__!r}); files = module_from_spec(spec); "
        "spec.loader.exec_module(files)\n"
    )
    return subprocess.Popen([sys.executable, "-c", start + code])


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


def test_what_was_left_is_removed_after_a_day(tmp_path):
    path = tmp_path / "a[1]"
    names = [f".{path.name}.1.tmp", f".{path.name}.2.tmp", ".b.1.tmp"]
    for name, age in zip(names, (86500, 100, 86500), strict=True):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    replace_file(path, lambda temporary: temporary.write_text("new"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names[1:], path.name])


@pytest.mark.skipif(os.name != "posix", reason="processes are not asked for elsewhere")
def test_what_a_killed_process_has_left_is_removed_by_the_next_writer(tmp_path):
    """That of one that runs, or of another host, stays; its name may be that of a pattern."""
    path = tmp_path / "a[1]"
    dies = "lambda temporary: os.kill(os.getpid(), 9)"
    with another(f"files.replace_file({str(path)!r}, {dies})") as process:
        assert process.wait() == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    host, pid, _ = left.name.split(".")[2].split("-")
    runs = [tmp_path / left.name.replace(f"-{pid}-", f"-{n}-") for n in (os.getpid(), 1)]
    others = [*runs, tmp_path / left.name.replace(host, "0123abcd")]
    for other in others:
        other.touch()
    replace_file(path, lambda temporary: temporary.write_text("new"))
    assert sorted(tmp_path.iterdir()) == sorted([*others, path])


def test_another_boot_or_container_is_another_host(monkeypatch):
    here = _files._host()
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[1]")
    assert _files._host() != here and len(here) == 8


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_stays_one(tmp_path, there, relative):
    """Also one to what is not there yet, and one by way of another."""
    (tmp_path / "store").mkdir()
    target = tmp_path / "store" / "a"
    if there:
        target.write_text("old")
    first, second = tmp_path / "first", tmp_path / "second"
    first.symlink_to("store/a" if relative else target)
    second.symlink_to(first)
    replace_file(second, lambda temporary: temporary.write_text("new"))
    assert first.is_symlink() and second.is_symlink() and target.read_text() == "new"
    assert not target.is_symlink() and len(list(tmp_path.rglob("*"))) == 4


def test_links_that_lead_nowhere_are_told(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        replace_file(tmp_path / "loop", lambda temporary: temporary.write_text("new"))
    (tmp_path / "link").symlink_to("gone/a")
    with pytest.raises(FileNotFoundError, match=r"link, a link to .*gone/a, cannot be written"):
        replace_file(tmp_path / "link", lambda temporary: temporary.write_text("new"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "loop"]


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket may not be long
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs names of what is no file")
@pytest.mark.parametrize("by_link", [False, True])
@pytest.mark.parametrize(
    "make, what",
    [
        (os.mkdir, "a folder"),
        (os.mkfifo, "a named pipe"),
        (make_socket, "a socket"),
        (lambda path: os.mknod(path, stat.S_IFCHR, os.makedev(1, 3)), "a character device"),
    ],
)
def test_what_is_no_file_stays(tmp_path, make, what, by_link):
    path = link = tmp_path / "a"
    try:
        make(path)
    except PermissionError:
        pytest.skip("only root makes devices")
    if by_link:
        link = tmp_path / "link"
        link.symlink_to(path)
    before = path.lstat()
    with pytest.raises(OSError, match=f"{link} is {what}, and no file that could be replaced"):
        replace_file(link, lambda temporary: temporary.write_text("new"))
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert {p.name for p in tmp_path.iterdir()} == {"a", link.name}


@pytest.mark.parametrize(
    "name, words",
    [("", "is empty; give one"), (".", "is a folder"), ("/", "is a folder"), ("a\0b", "null")],
)
def test_a_name_of_no_file_is_told(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=words):
        replace_file(name, lambda temporary: temporary.write_text("new"))
    with pytest.raises(OSError, match=words):
        Moments([2]).save(name)
    assert not list(tmp_path.iterdir())


def test_threads_and_processes_on_one_path_do_not_meet(tmp_path):
    """Whoever reads finds one of the files that were written, whole."""
    path, wholes = tmp_path / "a", {letter * 100_000 for letter in "abcdefgh"}
    path.write_text("a" * 100_000)

    def work(text):
        for _ in range(25):
            replace_file(path, lambda temporary: temporary.write_text(text))
            assert path.read_text() in wholes

    write = "lambda temporary: temporary.write_text('h' * 100_000)"
    code = f"for _ in range(50): files.replace_file({str(path)!r}, {write})"
    with another(code) as process, ThreadPoolExecutor(7) as pool:
        for done in [pool.submit(work, letter * 100_000) for letter in "abcdefg"]:
            done.result()
        assert process.wait() == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_longest_name_there_is(tmp_path):
    path = tmp_path / ("n" * 220)
    replace_file(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_new_folders_are_on_the_disk(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def noted(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b")
    folders = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert synced == [str(folder) for folder in folders] and (tmp_path / "a/b/c").is_dir()
    rows = np.random.default_rng(0).normal(size=(40, 4))
    ReverseDistiller([2, 2], residual_sizes=[1]).fit(rows).save_pretrained(tmp_path / "d" / "e")
    assert {str(tmp_path), str(tmp_path / "d")} <= set(synced[3:])


def test_a_folder_in_place_of_a_file_is_not_made(tmp_path):
    (tmp_path / "a").touch()
    for name in ("a", "a/b"):
        with pytest.raises(OSError):
            make_folder(tmp_path / name)
