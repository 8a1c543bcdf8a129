import io
import re
import shlex
import subprocess
import sys
from copy import copy

import numpy as np
import pytest

from revdist_sklearn import ESMFeaturizer, ReverseDistiller, embed_to, load_embeddings
from revdist_sklearn.cli._main import COMMANDS, main
from revdist_sklearn.datasets import load_amyloid_nucleation, load_uniprot_sample
from revdist_sklearn.library import _block, _embed_to, _job

SAMPLE = load_uniprot_sample()
PROTEINS = [(f"p{i}", sequence[:90]) for i, sequence in enumerate(SAMPLE.sequences[:8])]


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "proteins.fasta"
    path.write_text("".join(f">{name} text\n{sequence}\n" for name, sequence in PROTEINS))
    return path


def in_memory():
    X = ESMFeaturizer("esm2-nano").transform([sequence for _, sequence in PROTEINS])
    return ReverseDistiller.from_pretrained("esm2-nano").transform(X)


@pytest.mark.parametrize("ending", ["", ".h5", ".parquet", ".h5ad", ".npz", ".csv"])
def test_embed_writes_what_is_read_back(fasta, tmp_path, ending, capsys):
    output = tmp_path / f"z{ending}"
    assert main(["embed", "--fasta", str(fasta), "--output", str(output)]) == 0
    with load_embeddings(output) as found:
        np.testing.assert_allclose(
            np.stack([found[name] for name, _ in PROTEINS]), in_memory(), atol=1e-5
        )
    said = capsys.readouterr()
    assert said.out == f"8 proteins, 96 columns: {output}\n"
    assert "8 proteins, 702 residues, the longest of 90" in said.err
    assert "esm2_nano_032, esm2_nano_064, esm2_nano_096" in said.err
    assert "no length limit" in said.err and "8 x 96 float32, about" in said.err
    assert not list(tmp_path.glob("*.shards"))


def test_a_prefix_in_half_precision_of_residues(fasta, tmp_path, capsys):
    output = tmp_path / "z.h5"
    options = ["--n-components", "40", "--output-dtype", "float16", "--level", "residue"]
    assert main(["embed", "--fasta", str(fasta), "--output", str(output), *options]) == 0
    assert "2 of 3, for 40 columns" in capsys.readouterr().err
    with load_embeddings(output) as found:
        assert found["p3"].shape == (90, 40) and found.dtype == np.float16
        np.testing.assert_allclose(
            found["p3"].astype(np.float32).mean(axis=0), in_memory()[3, :40], atol=2e-3
        )


def test_models_side_by_side(fasta, tmp_path):
    arguments = ["embed", "--models", "esm2-nano:64", "--distiller", "none"]
    assert main([*arguments, "--fasta", str(fasta), "--output", str(tmp_path / "z.npz")]) == 0
    with np.load(tmp_path / "z.npz") as file:
        assert file["embedding"].shape == (8, 96)


def test_standard_input_and_several_files(fasta, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other.fasta"
    other.write_text(">q\nMKTAY*\n")
    output = ["--output", str(tmp_path / "z")]
    assert main(["embed", "--fasta", str(fasta), str(other), *output]) == 0
    said = capsys.readouterr()
    assert (
        said.out.startswith("9 proteins")
        and "A * at the end of a sequence was left out, 1 time." in said.err
    )
    text = io.TextIOWrapper(io.BytesIO(fasta.read_bytes() + other.read_bytes()))
    monkeypatch.setattr(sys, "stdin", text)
    monkeypatch.setattr(_block, "write_shard", None)  # all is there
    assert main(["embed", "--fasta", "-", *output]) == 0
    assert "checked as they are read" in capsys.readouterr().err


def test_bad_records_are_an_error_or_left_out(fasta, tmp_path, capsys):
    with open(fasta, "a") as file:
        file.write(">evil\x1b]0;t\x07\nMKT1\n>p1\nMKT\n>empty\n\n")
    arguments = ["embed", "--fasta", str(fasta), "--output", str(tmp_path / "z.csv")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "\x1b" not in said
    for words in ("(line 17) has '1'", "p1 (line 19) has the identifier", "empty (line 21)"):
        assert words in said
    assert [path.name for path in tmp_path.iterdir()] == ["proteins.fasta"]
    assert main([*arguments, "--skip-bad"]) == 0
    assert "3 records were left out" in capsys.readouterr().err
    text = (tmp_path / "z.csv.skipped.tsv").read_text()
    assert len(text.splitlines()) == 4 and "\x1b" not in text


def test_an_interrupted_run_says_how_to_go_on(fasta, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_job, "BLOCK_RESIDUES", 200)
    write, calls = _embed_to.write_block, []

    def interrupted(*task):
        calls.append(task)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*task)

    monkeypatch.setattr(_embed_to, "write_block", interrupted)
    output = tmp_path / "z.npz"
    output.write_bytes(b"old")
    arguments = ["embed", "--fasta", str(fasta), "--output", str(output)]
    assert main(arguments) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"revdist embed: Interrupted. 2 whole shards are in {output}.shards; the same call goes "
        "on from there."
    )
    assert output.read_bytes() == b"old"
    monkeypatch.setattr(_embed_to, "write_block", write)
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "About" in said  # how long the rest takes
    assert "revdist: 2 shards are there already" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_each_help_runs(command, fasta, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    words = shlex.split(COMMANDS[command].EXAMPLE)
    assert text.endswith(f"Example: {' '.join(words)}") and words[:2] == ["revdist", command]
    monkeypatch.chdir(tmp_path)
    if command == "demo":  # which has a test of its own
        monkeypatch.setattr(COMMANDS[command], "run_demo", lambda *_, **__: None)
    fasta.rename("corpus.fasta" if command == "fit" else "proteins.fasta")
    if command in ("evaluate", "predict"):
        data = load_amyloid_nucleation(mutations="single")
        columns = [column[::9] for column in (data.mutations, data.sequences, data.target)]
        rows = [f"{m},{s},{y}" for m, s, y in zip(*columns, strict=True)]
        (tmp_path / "scan.csv").write_text("\n".join(["mutant,mutated_sequence,DMS_score", *rows]))
    if command == "info":
        ReverseDistiller.from_pretrained("esm2-nano").save_pretrained("distiller")
    if command == "cache":
        ESMFeaturizer("esm2-nano:32", cache_dir="embeddings").transform(["MKTAY"])
    assert main(words[1:]) == 0


# info


def told(capsys, *path):
    assert main(["info", *map(str, path)]) == 0
    return capsys.readouterr().out


def test_info_tells_what_things_are(fasta, tmp_path, capsys):
    emb = ESMFeaturizer("esm2-nano:64", cache_dir=tmp_path / "c", max_length=50, too_long="window")
    said = told(capsys, "esm2-nano:64")
    assert said.startswith("A distiller, ols") and "1,000 proteins, 336,215 residues" in said
    assert "Model: esm2_nano_064, tensors " in said
    embed_to(tmp_path / "z", emb, PROTEINS)
    said = told(capsys, tmp_path / "z")
    assert said.startswith("Embeddings of 8 proteins, 702 residues.") and "1 shard, " in said
    assert "Up to column 96: esm2_nano_064" in said and "above 50 residues: in windows" in said
    assert "Models side by side" in said
    assert "2 of 2" not in said and "esm2" in told(capsys, tmp_path / "c")
    embed_to(tmp_path / "z.h5", emb, PROTEINS)
    assert "8 x 96 float32" in told(capsys, tmp_path / "z.h5")
    (tmp_path / "f.csv").write_text("name,a\nP,1\n")
    assert "not known (written by another program)" in told(capsys, tmp_path / "f.csv")
    arguments = ["fit", "--models", "esm2-nano:32", "--fasta", str(fasta)]
    moments = tmp_path / "m.safetensors"
    assert main([*arguments, "--checkpoint", str(moments), "--output", str(tmp_path / "d")]) == 0
    capsys.readouterr()
    assert told(capsys, moments).startswith("A checkpoint of a pass over a corpus")
    assert told(capsys, tmp_path / "d").startswith("A distiller")
    # What was embedded by a distiller tells which one.
    embed_to(
        tmp_path / "nested.npz",
        emb,
        PROTEINS,
        distiller=ReverseDistiller.from_pretrained("esm2-nano:64"),
    )
    [mark] = re.findall(
        "Nested, by (distiller [0-9a-f]{16})", told(capsys, tmp_path / "nested.npz")
    )
    assert mark in told(capsys, "esm2-nano:64") and mark not in told(capsys, "esm2-nano")


def test_info_names_the_models_that_prefixes_by_variance_need(tmp_path, capsys):
    """Where the first column is the largest model's, no prefix is the smaller one's alone."""
    emb = ESMFeaturizer("esm2-nano:64")
    distiller = ReverseDistiller.from_pretrained("esm2-nano:64")
    turned = copy(distiller)._with_chain(
        distiller._chain,
        blocks=distiller.blocks_,
        stage_sizes=distiller._stage_sizes,
        n_samples_seen=1000,
        provenance=distiller.provenance_,
        order=np.arange(64)[::-1],
    )
    embed_to(tmp_path / "z.npz", emb, PROTEINS, distiller=turned)
    with load_embeddings(tmp_path / "z.npz") as found:
        assert found.facts["stages"] == [["esm2_nano_032", 0], ["esm2_nano_064", 64]]
    said = told(capsys, tmp_path / "z.npz")
    assert "Up to column 64: esm2_nano_064" in said and "column 0" not in said


@pytest.mark.parametrize("name", ["nope.h5", "nope.npz", "nope.safetensors"])
def test_a_file_that_is_not_there_is_no_distiller(name, capsys):
    assert main(["info", name]) == 2
    assert capsys.readouterr().err == f"revdist info: {name} does not exist.\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_there_is_not_is_told_with_the_usage_of_the_command(command, capsys):
    ranked = ["x.csv", "--output", "z"]
    given = {"evaluate": ["x.csv"], "predict": ranked, "info": ["x"], "cache": ["info", "x"]}
    needed = {"embed": ["--fasta", "x", "--output", "y"], "fit": ["--output", "y"]}
    with pytest.raises(SystemExit) as end:
        main([command, *given.get(command, []), *needed.get(command, []), "--ncomp", "3"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: revdist {command} ") and "arguments: --ncomp 3" in said


def test_info_of_a_run_that_was_ended(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_embed_to.ShardFolder, "entry", None)
    with pytest.raises(TypeError):
        embed_to(tmp_path / "z", ESMFeaturizer("esm2-nano:32"), PROTEINS)
    monkeypatch.undo()
    assert told(capsys, tmp_path / "z").startswith("Embeddings, not complete: 1 shard (")


def test_info_of_nothing(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("of three years")
    assert main(["info", str(tmp_path)]) == 2
    assert main(["info", str(tmp_path / "thesis.txt")]) == 2
    assert main(["info", "no/such/thing"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "nothing that this package writes" in said[0]


@pytest.mark.slow
def test_sigterm_leaves_whole_shards(fasta, tmp_path):
    import signal
    import time

    with open(fasta, "a") as file:
        for i, sequence in enumerate(SAMPLE.sequences):
            file.write(f">more{i}\n{sequence}\n")
    arguments = ["embed", "--fasta", str(fasta), "--output", str(tmp_path / "z")]
    small = "import sys; from revdist_sklearn.library import _job; _job.BLOCK_RESIDUES = 999"
    then = "from revdist_sklearn.cli._main import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.Popen(
        [sys.executable, "-c", f"{small}; {then}", *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 120
    while not list(tmp_path.glob("z/shard-*")) and time.monotonic() < end:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 143
    assert re.match(
        r"revdist embed: Terminated. \d+ whole shards? (is|are) in", said.splitlines()[-1]
    )
    assert not list(tmp_path.glob("z/.*.tmp"))
