import os
import stat

import pytest

from revdist_sklearn.cli._outputs import check_file, check_folder, write_file


def test_a_file_that_can_be_written_passes(tmp_path, monkeypatch):
    assert check_file("--output", str(tmp_path / "z.csv"), (".npz", ".csv")) == ".csv"
    (tmp_path / "old.csv").write_text("old")
    check_file("--output", str(tmp_path / "old.csv"), (".csv",))
    monkeypatch.chdir(tmp_path)
    check_file("--output", "z.csv", (".csv",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.csv"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("z.txt", r"--output \S*z.txt must be a file that ends in .npz or .csv"),
        ("missing/z.csv", "there is no folder .*missing; make it first"),
        ("file/z.csv", "there is no folder .*file"),
        ("folder.csv", "no file that could be replaced"),
        ("pipe.csv", "no file that could be replaced"),
        ("-", "must be a file"),
    ],
)
def test_a_file_that_cannot_be_written_is_told(tmp_path, name, message):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises((OSError, ValueError), match=message):
        check_file("--output", str(tmp_path / name), (".npz", ".csv"))


def test_a_folder_is_there_or_can_be_made(tmp_path):
    check_folder("--output", str(tmp_path))
    check_folder("--output", str(tmp_path / "a" / "b"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        with pytest.raises(OSError, match=r"--output .* is no folder: .*file is a file"):
            check_folder("--output", str(tmp_path / name))
    with pytest.raises(OSError, match="'-' is no folder"):
        check_folder("--output", "-")


def test_a_folder_that_nobody_may_write_to_is_told_beforehand(tmp_path):
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs a folder in which nobody can make a file, whoever runs this")
    with pytest.raises(OSError, match="folder /proc cannot be written to"):
        check_file("--output", "/proc/z.csv", (".csv",))
    with pytest.raises(OSError, match="folder /proc cannot be written to"):
        check_folder("--output", "/proc/z")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "z.csv"
    path.write_text("old")
    (tmp_path / "link.csv").symlink_to(path)

    def half(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"z\.csv, cannot be written: No space left"):
        write_file(tmp_path / "link.csv", half)
    assert path.read_text() == "old"
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "link.csv", lambda file: file.write(b"new"))
    finally:
        os.umask(before)
    assert path.read_text() == "new" and (tmp_path / "link.csv").is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.csv", "z.csv"]
