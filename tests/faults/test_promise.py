"""The promise: kill it or cut the power, and each file is the old one or the new one.

And faults that the shell meets: each ends in one line and an exit code.

``benchmarks/promise.py`` brings about more of each, and prints a table.
"""

import gzip
import json
import os

import power
import pytest
import rows
import syscalls

from revdist_sklearn.cli._main import main

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
# Of those that take seconds to come to what they write, calls in between are left out.
SLOW = {
    "Moments.save": 1,
    "save_pretrained": 4,
    "rows of a cache": 7,
    "the second checkpoint of a corpus pass": 7,
    "revdist embed": 45,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_kill_at_system_calls_of_each_writer(name, nursery, inputs, tmp_path):
    if syscalls.why_not():
        pytest.skip(syscalls.why_not())
    writer = syscalls.WRITERS[name]
    outcomes = syscalls.kill_at_each(nursery, writer, inputs, tmp_path / "killed", SLOW[name])
    assert set(outcomes) <= rows.GOOD and outcomes.total() >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", power.WRITES)
def test_a_power_cut(name, tmp_path):
    if power.why_not():
        pytest.skip(power.why_not())
    assert set(power.cuts(tmp_path, name)) == {rows.SAME}


def test_a_disk_forgets_what_is_not_synced(tmp_path, monkeypatch):
    """Else the tests of power cuts would prove nothing."""
    if power.why_not():
        pytest.skip(power.why_not())
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    assert rows.SAME not in power.cuts(tmp_path, "Moments.save", ["after"])


@pytest.mark.slow
def test_writers_without_locks_find_no_wrong_row(nursery, tmp_path):
    children = [
        nursery.start("use_cache_without_locks", tmp_path, 20, 200, seed) for seed in range(4)
    ]
    ends = [child.wait() for child in children]
    assert all(end.code == 0 for end in ends), [end.text for end in ends]
    told = [json.loads(end.text.splitlines()[-1]) for end in ends]
    assert sum(one["wrong"] for one in told) == 0 and sum(one["found"] for one in told) > 0


# The shell


@pytest.mark.parametrize("cut", [-1, -9, 20])
@pytest.mark.parametrize("command", ["embed", "fit", "evaluate"])
def test_a_cut_gz_is_one_line_before_the_work(command, cut, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("revdist_sklearn.models._loading.load", None)
    name, text = ("t.csv.gz", b"mutated_sequence,DMS_score\nMKT,1\nMKV,2\n")
    if command != "evaluate":
        name, text = "p.fasta.gz", b">a\nMKT\n>b\nMKV\n"
    path = tmp_path / name
    output = tmp_path / {"embed": "z.npz", "fit": "d", "evaluate": "s.json"}[command]
    path.write_bytes(gzip.compress(text)[:cut])
    given = [str(path)] if command == "evaluate" else ["--fasta", str(path)]
    models = ["--models", "esm2-nano:32", "--output", str(output)]
    assert main([command, *given, *models]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"revdist {command}: ")
    assert f"{path} is a damaged gzip file: " in said[0] and not output.exists()


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line(nursery, inputs, tmp_path):
    end = nursery.start("embed_while_a_worker_dies", inputs, tmp_path).wait(patience=120)
    assert end.code == 2 and end.last.startswith("revdist embed: A worker died"), end.text
    assert "Traceback" not in end.text and not (tmp_path / "z.npz").exists()


@pytest.mark.slow
def test_terminals_of_ascii_lose_nothing(nursery, inputs, tmp_path):
    """Neither the file that was written nor the message of what was not."""
    folder = tmp_path / "Größe"
    folder.mkdir()
    for name in ("proteins.fasta", "distiller"):
        (folder / name).symlink_to(inputs / name)
    words = "on_ascii_terminal", "embed", folder, folder / "cache", folder / "z.npz"
    end = nursery.run(*words)
    assert end.code == 0 and end.text.isascii(), end.text
    assert rows.table_of(folder / "z.npz")
    (folder / "proteins.fasta").unlink()
    end = nursery.run(*words)
    assert end.code == 2 and end.text.isascii(), end.text
    assert end.text.splitlines()[-1].startswith("revdist embed: --fasta ")
    assert r"Gr\xf6\xdfe/proteins.fasta: there is no such file" in end.text
