import os
import stat

import pytest
from safetensors import SafetensorError

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


def test_a_file_has_the_mode_of_the_umask_whatever_the_writer_gave_it(tmp_path):
    def write(temporary):
        temporary.write_text("new")
        temporary.chmod(0o600)

    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "a", write)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
