"""Faults that the shell meets: each ends in one line and an exit code."""

import gzip
import os

import pytest
import rows
from nursery import Nursery

from revdist_sklearn.cli._main import main

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as processes:
        yield processes


@pytest.fixture(scope="module")
def inputs(nursery, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    end = nursery.run("write_inputs", folder)
    assert end.code == 0, end.text
    return folder


@pytest.mark.parametrize("cut", [-1, -9, 20])
@pytest.mark.parametrize("command", ["embed", "fit", "evaluate"])
def test_a_cut_gz_is_one_line_before_the_work(command, cut, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("revdist_sklearn.models._loading.load", None)
    name, text = ("t.csv.gz", b"mutated_sequence,DMS_score\nMKT,1\nMKV,2\n")
    if command != "evaluate":
        name, text = "p.fasta.gz", b">a\nMKT\n>b\nMKV\n"
    path, output = (
        tmp_path / name,
        tmp_path / {"embed": "z.npz", "fit": "d"}.get(command, "s.json"),
    )
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
    *_, last = end.text.splitlines()
    assert end.code == 2 and last.startswith("revdist embed: A worker died"), end.text
    assert "Traceback" not in end.text and not (tmp_path / "z.npz").exists()


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
