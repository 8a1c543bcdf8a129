import csv
import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import revdist_sklearn
from revdist_sklearn import ESMFeaturizer, ReverseDistiller, fit_on_corpus
from revdist_sklearn._corpus import piece_moments
from revdist_sklearn.cli._main import COMMANDS, _parser, main
from revdist_sklearn.cli._messages import as_options
from revdist_sklearn.cli._options import featurizer_of
from revdist_sklearn.cli._readers import read_fasta
from revdist_sklearn.datasets import load_amyloid_nucleation, load_uniprot_sample
from revdist_sklearn.embedding._cache import FILE
from revdist_sklearn.library import _embed_to

WEIGHTS = Path(revdist_sklearn.__file__).parent / "weights"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.fasta"
    records = load_uniprot_sample().sequences[:8]
    path.write_text("".join(f">p{i} text\n{s[:60]}\n{s[60:]}\n" for i, s in enumerate(records)))
    return path


@pytest.fixture(scope="module")
def distiller(corpus):
    folder = corpus.parent / "distiller"
    arguments = ["fit", "--models", "esm2-nano:64", "--fasta", str(corpus)]
    assert main([*arguments, "--output", str(folder)]) == 0
    return folder


def test_fit_writes_a_distiller(distiller):
    assert ReverseDistiller.from_pretrained(distiller).stage_dims_.tolist() == [32, 64]


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_embed(corpus, distiller, tmp_path, suffix):
    out = tmp_path / f"z.{suffix}"
    arguments = ["embed", "--models", "esm2-nano:64", "--fasta", str(corpus)]
    arguments += ["--distiller", str(distiller), "--n-components", "20", "--output", str(out)]
    assert main(arguments) == 0
    sequences = read_fasta(corpus).sequences
    Z = ESMFeaturizer("esm2-nano:32").transform(sequences)[:, :20]
    if suffix == "npz":
        with np.load(out) as file:
            assert file["names"].tolist() == [f"p{i}" for i in range(8)]
            np.testing.assert_allclose(file["embedding"], Z, atol=1e-6)
    else:
        rows = list(csv.DictReader(out.open()))
        assert rows[3]["name"] == "p3" and np.float32(rows[3]["rd_esm2_nano_032__00"]) == Z[3, 0]


def test_embed_with_a_cache_then_info_and_clear(corpus, distiller, tmp_path, capsys):
    cache = tmp_path / "cache"
    arguments = ["embed", "--models", "esm2-nano:64", "--fasta", str(corpus)]
    arguments += ["--distiller", str(distiller), "--cache-dir", str(cache)]
    arguments += ["--max-length", "100", "--too-long", "window", "--device", "cpu"]
    for name in ("first.npz", "second.npz"):
        assert main([*arguments, "--output", str(tmp_path / name)]) == 0
    first, second = (np.load(tmp_path / name)["embedding"] for name in ("first.npz", "second.npz"))
    np.testing.assert_array_equal(first, second)
    capsys.readouterr()
    assert main(["cache", "info", str(cache)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5  # two models, whole proteins and windows, and the size
    of_windows = [line for line in lines if "window 100" in line]
    n_long = sum(len(s) > 100 for s in read_fasta(corpus).sequences)
    assert len(of_windows) == 2 and f": {n_long} sequences, {n_long * 128} bytes" in of_windows[0]
    assert main(["cache", "clear", str(cache)]) == 0
    assert re.match(r"Freed in .*: \d+\.\d kB", capsys.readouterr().out)
    assert main(["cache", "info", str(cache)]) == 0
    assert "No embeddings in" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["info", "clear"])
def test_cache_of_no_folder(tmp_path, action, capsys):
    assert main(["cache", action, str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_cache_info_of_a_damaged_file_names_the_command_that_helps(tmp_path, capsys):
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    assert main(["cache", "info", str(tmp_path)]) == 2
    assert f"revdist cache clear {tmp_path}" in capsys.readouterr().err
    assert main(["cache", "clear", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"Freed in {tmp_path}: 1.8 kB\n" and not list(
        tmp_path.iterdir()
    )


def test_evaluate(corpus, distiller, tmp_path, capsys):
    data = load_amyloid_nucleation(mutations="single")
    table = tmp_path / "mine.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["mutant", "mutated_sequence", "DMS_score"])
        keep = slice(None, None, 6)
        writer.writerows(
            zip(data.mutations[keep], data.sequences[keep], data.target[keep], strict=True)
        )
    arguments = ["evaluate", str(table), "--models", "esm2-nano:64", "--fasta", str(corpus)]
    arguments += ["--distiller", str(distiller), "--output", str(tmp_path / "s.json")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "reverse-distilled 64" in printed and "position folds" in printed
    scores = json.loads((tmp_path / "s.json").read_text())["data_sets"]["mine"]["rows"]
    assert {row["kind"] for row in scores} >= {"mutation", "raw", "distilled"}


def test_distiller_of_other_models_is_an_error(corpus, distiller, tmp_path, capsys):
    arguments = ["embed", "--models", "esm2-nano:32", "--fasta", str(corpus), "--distiller"]
    assert main([*arguments, str(distiller), "--output", str(tmp_path / "z.npz")]) == 2
    assert "the distiller was fitted on" in capsys.readouterr().err


def test_missing_file_is_a_message_not_a_traceback(capsys):
    assert main(["fit", "--fasta", "no_such.fasta", "--output", "x"]) == 2
    expected = "revdist fit: --fasta no_such.fasta: there is no such file.\n"
    assert capsys.readouterr().err == expected


def test_module_runs():
    run = subprocess.run(
        [sys.executable, "-m", "revdist_sklearn", "--version"], capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout.strip()


def test_import_does_not_import_torch():
    code = "import sys; from revdist_sklearn import *; "
    code += "print(ESMFeaturizer and {'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_the_package_brings_nothing_before_it_is_asked():
    """So that the shell can see to signals first."""
    code = (
        "import sys, revdist_sklearn.cli._start; print(len({'numpy', 'sklearn'} & {*sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "0\n"


# Options


@pytest.mark.parametrize("regressor", ["ols", "ridge", "pcr"])
def test_fit_takes_the_regressor(corpus, tmp_path, regressor):
    arguments = ["fit", "--models", "esm2-nano:64", "--fasta", str(corpus)]
    assert main([*arguments, "--regressor", regressor, "--output", str(tmp_path / "d")]) == 0
    distiller = ReverseDistiller.from_pretrained(tmp_path / "d")
    expected = fit_on_corpus(
        ReverseDistiller(regressor=regressor),
        ESMFeaturizer("esm2-nano:64"),
        read_fasta(corpus).sequences,
    )
    assert distiller.regressor == regressor
    np.testing.assert_allclose(distiller.components_, expected.components_, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "parameter", "value"),
    [
        (["--dtype", "bfloat16"], "dtype", "bfloat16"),
        (["--device", "cpu"], "device", "cpu"),
        (["--max-length", "90"], "max_length", 90),
        (["--too-long", "window"], "too_long", "window"),
        (["--cache-dir", "c"], "cache_dir", "c"),
        (["--n-jobs", "2"], "n_jobs", 2),
        (["--models", "esm2-nano:32"], "models", "esm2-nano:32"),
        (["--models", "a/b", "c/d"], "models", ["a/b", "c/d"]),
    ],
)
@pytest.mark.parametrize("command", ["fit", "embed", "evaluate"])
def test_options_are_parameters_of_the_featurizer(command, given, parameter, value):
    needed = {
        "fit": ["--output", "d"],
        "embed": ["--fasta", "f", "--output", "z.npz"],
        "evaluate": ["--target-column", "y"],
    }[command]
    # The table of `evaluate` comes first, as options with several values would take it.
    table = ["t.csv"] if command == "evaluate" else []
    arguments = _parser().parse_args([command, *table, *needed, *given])
    changed = featurizer_of(arguments).get_params()
    assert changed.pop(parameter) == value
    plain = featurizer_of(_parser().parse_args([command, *table, *needed])).get_params()
    assert plain.pop(parameter) != value and changed == plain


def test_embed_computes_in_the_dtype(corpus, distiller, tmp_path):
    arguments = ["embed", "--models", "esm2-nano:64", "--fasta", str(corpus)]
    arguments += ["--distiller", str(distiller), "--dtype", "bfloat16"]
    assert main([*arguments, "--output", str(tmp_path / "z.npz")]) == 0
    sequences = read_fasta(corpus).sequences
    rd = ReverseDistiller.from_pretrained(distiller)
    with np.load(tmp_path / "z.npz") as file:
        half = ESMFeaturizer("esm2-nano:64", dtype="bfloat16").transform(sequences)
        np.testing.assert_allclose(file["embedding"], rd.transform(half), atol=0.02)
        full = rd.transform(ESMFeaturizer("esm2-nano:64").transform(sequences))
        assert np.abs(file["embedding"] - full).max() > 1e-4


def test_a_bar_is_for_terminals(corpus, tmp_path, capsys):
    arguments = ["fit", "--models", "esm2-nano:32", "--fasta", str(corpus)]
    with pytest.warns(UserWarning, match="one block"):
        assert main([*arguments, "--output", str(tmp_path / "d")]) == 0
    assert not capsys.readouterr().err


def test_commands_are_those_that_the_help_lists(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in printed and command.HELP in " ".join(printed.split())


def test_models_beyond_the_prefix_need_not_be_those_of_the_fit(corpus, distiller, tmp_path):
    arguments = ["embed", "--models", "esm2-nano", "--fasta", str(corpus)]
    arguments += ["--distiller", str(distiller), "--output", str(tmp_path / "z.npz")]
    assert main(arguments) == 2
    assert main([*arguments, "--n-components", "20"]) == 0
    with np.load(tmp_path / "z.npz") as file:
        assert file["embedding"].shape == (8, 20)


# What is looked at before the work


class Worked(Exception):
    """A model ran, or a corpus was embedded."""


@pytest.fixture
def no_work(monkeypatch):
    def work(*args, **kwargs):
        raise Worked

    monkeypatch.setattr(ESMFeaturizer, "transform", work)
    monkeypatch.setattr(ESMFeaturizer, "iter_residues", work)
    monkeypatch.setattr(_embed_to, "write_block", work)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    data = load_amyloid_nucleation(mutations="single")
    path = tmp_path_factory.mktemp("table") / "mine.csv"
    columns = [column[::6] for column in (data.mutations, data.sequences, data.target)]
    rows = ["mutant,mutated_sequence,DMS_score"]
    rows += [f"{m},{s},{y}" for m, s, y in zip(*columns, strict=True)]
    path.write_text("\n".join(rows), encoding="utf-8-sig")
    return path


def commands(corpus, table, output):
    """Return each command that writes, with an output of some name in a folder."""
    models = ["--models", "esm2-nano:64"]
    return {
        "fit": ["fit", *models, "--fasta", str(corpus), "--output", str(output)],
        "embed": ["embed", *models, "--fasta", str(corpus), "--output", str(output) + ".npz"],
        "evaluate": ["evaluate", str(table), *models, "--output", str(output) + ".json"],
        "demo": ["demo", "--output", str(output)],
    }


@pytest.mark.parametrize("command", ["fit", "embed", "evaluate", "demo"])
def test_an_output_that_cannot_be_is_told_before_the_work(
    corpus, table, tmp_path, no_work, command, capsys
):
    (tmp_path / "file").write_text("")
    arguments = commands(corpus, table, tmp_path / "file" / "z")[command]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"revdist {command}: --output ") and len(said.splitlines()) == 1
    with pytest.raises(Worked):  # the same with another name does work
        arguments = commands(corpus, table, tmp_path / "z")[command]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REVDIST_TRACEBACK", "1")
            main(arguments)


def test_fit_does_not_overwrite_a_model(corpus, tiny_model, tmp_path, no_work, capsys):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["fit", "--fasta", str(corpus), "--output", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "something else than a distiller (config.json, model.safetensors" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_more_columns_than_there_are_is_told_before_a_fit(corpus, tmp_path, no_work, capsys):
    arguments = commands(corpus, None, tmp_path / "z")["embed"]
    assert main([*arguments, "--n-components", "65"]) == 2
    assert "--n-components 65 is no prefix of the 64 columns" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "embed"])
def test_records_are_named_and_options_are_those_of_the_shell(tmp_path, no_work, command, capsys):
    path = tmp_path / "x.fasta"
    path.write_text(">sp|P1\nMK*T\n>ok\nMKT\n>sp|P2\nMK1T\n")
    arguments = commands(path, None, tmp_path / "z")[command]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "sp|P1 (line 1) has '*'" in said and re.search(r"2 of 3.*: sp\|P2 \(line 5\)", said)
    path.write_text(">sp|P1\nMKTAY\n>ok\nMKT\n")
    assert main([*arguments, "--max-length", "4"]) == 2
    said = capsys.readouterr().err
    assert "sp|P1 (line 1) has 5 residues" in said
    assert "--too-long window" in said and "--max-length" in said and "too_long" not in said
    arguments[arguments.index("esm2-nano:64")] = "esm2_nano"
    assert main(arguments) == 2
    assert "`models`" not in (said := capsys.readouterr().err) and "esm2_nano" in said


# What is kept


def test_a_pass_over_a_corpus_is_made_once(corpus, table, tmp_path, capsys, monkeypatch):
    cache = ["--cache-dir", str(tmp_path / "c")]
    of = commands(corpus, table, tmp_path / "z")
    assert main([*of["fit"], *cache]) == 0
    assert "kept in" in capsys.readouterr().err
    first = ReverseDistiller.from_pretrained(tmp_path / "z")

    def again(*args, **kwargs):
        raise AssertionError("the corpus was embedded again")

    with monkeypatch.context() as patch:
        patch.setattr(ESMFeaturizer, "iter_residues", again)
        assert main([*of["fit"], *cache, "--regressor", "ridge", "--alpha", "9"]) == 0
        ridge = ReverseDistiller.from_pretrained(tmp_path / "z")
        assert (ridge.regressor, ridge.alpha) == ("ridge", 9.0)
        assert np.abs(ridge.components_ - first.components_).max() > 1e-3
        assert main([*of["evaluate"], *cache, "--fasta", str(corpus)]) == 0
        said = capsys.readouterr().err
        assert f"Distiller and baselines come from {corpus} (8 proteins" in said
        assert "found in" in said
        # Another corpus, or other models, is another pass.
        with pytest.raises(AssertionError, match="embedded again"):
            patch.setenv("REVDIST_TRACEBACK", "1")
            main([*of["evaluate"], *cache])

    [moments] = (tmp_path / "c").glob("moments-*")
    assert main(["cache", "info", str(tmp_path / "c")]) == 0
    assert re.search(r"Moments of corpora: 1, 1[45]\d\.\d kB", capsys.readouterr().out)
    moments.write_bytes(moments.read_bytes()[:1000])
    assert main([*of["fit"], *cache]) == 0
    assert "computed anew: it is damaged" in capsys.readouterr().err
    again_fitted = ReverseDistiller.from_pretrained(tmp_path / "z")
    np.testing.assert_allclose(again_fitted.components_, first.components_, atol=1e-6)
    assert main(["cache", "clear", str(tmp_path / "c")]) == 0
    assert not list((tmp_path / "c").iterdir())


def test_an_interrupted_fit_says_what_is_kept_and_goes_on(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("revdist_sklearn._corpus.PIECE_RESIDUES", 1000)
    pieces = []

    def piece(*args, interrupt=True, **kwargs):
        if interrupt and len(pieces) == 2:
            raise KeyboardInterrupt
        pieces.append(args[1])
        return piece_moments(*args, **kwargs)

    arguments = commands(corpus, None, tmp_path / "d")["fit"]
    arguments += ["--checkpoint", str(tmp_path / "kept")]
    monkeypatch.setattr("revdist_sklearn._corpus.piece_moments", piece)
    assert main(arguments) == 130
    said = capsys.readouterr().err
    assert said == (
        f"revdist fit: Interrupted. The pass so far is in {tmp_path / 'kept'}; the same command "
        "goes on from there.\n"
    )
    monkeypatch.setattr("revdist_sklearn._corpus.piece_moments", partial(piece, interrupt=False))
    assert main(arguments) == 0
    assert [s for part in pieces for s in part] == read_fasta(corpus).sequences
    assert main([*arguments, "--cache-dir", str(tmp_path)]) == 2
    assert "--checkpoint and --cache-dir keep the same" in capsys.readouterr().err


def test_embed_says_beforehand_that_it_fits_a_distiller(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ESMFeaturizer, "iter_residues", interrupted)
    arguments = commands(corpus, None, tmp_path / "z")["embed"]
    folders = [str(WEIGHTS / f"esm2_nano_{width}") for width in ("032", "064")]
    arguments[1:3] = ["--models", *folders]  # not the bundled family, but any
    assert main(arguments) == 130
    said = capsys.readouterr().err
    assert "one is fitted first, on the bundled UniProt sample (1,000 proteins, 336,215" in said
    assert f"revdist fit --models {' '.join(folders)} --output FOLDER" in said
    assert "--distiller FOLDER" in said and "--cache-dir FOLDER would keep" in said
    assert said.splitlines()[-1].startswith("revdist embed: Interrupted. Nothing is kept; with")
    assert not list(tmp_path.iterdir())


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def test_evaluate_with_a_distiller_says_where_its_baselines_come_from(
    corpus, distiller, table, tmp_path, capsys
):
    arguments = commands(corpus, table, tmp_path / "z")["evaluate"]
    assert main([*arguments, "--fasta", str(corpus), "--distiller", str(distiller)]) == 0
    printed = capsys.readouterr()
    assert f"The baselines come from {corpus} (8 proteins" in printed.err
    assert "position folds" in printed.out  # of a table that begins with a byte-order mark
    figures = json.loads((tmp_path / "z.json").read_text())
    assert figures["corpus"].startswith(str(corpus))


def test_evaluate_warns_of_few_proteins(corpus, distiller, table, tmp_path, monkeypatch):
    """Before the pass over them, and where their moments are found in a cache."""

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    arguments = commands(corpus, table, tmp_path / "z")["evaluate"]
    arguments += ["--fasta", str(corpus), "--distiller", str(distiller)]
    monkeypatch.setattr("revdist_sklearn.cli._evaluate.corpus_moments", stop)
    with pytest.warns(UserWarning, match="A corpus of 8 distinct proteins says little"):
        assert main(arguments) == 130


def test_evaluate_of_an_unknown_mutation_keeps_folds_by_position(
    corpus, distiller, table, tmp_path, capsys
):
    lines = table.read_text("utf-8-sig").splitlines()
    lines[2] = lines[2].replace(",", ":X40W,", 1)
    several = tmp_path / "several.csv"
    several.write_text("\n".join(lines))
    arguments = commands(corpus, several, tmp_path / "z")["evaluate"]
    code = main([*arguments, "--fasta", str(corpus), "--distiller", str(distiller)])
    said = capsys.readouterr()
    assert code == 2 and "(line 3)" in said.err  # no W at that place
    lines[2] = lines[2].replace(":X40W,", ":WT,", 1)
    several.write_text("\n".join(lines))
    assert main([*arguments, "--fasta", str(corpus), "--distiller", str(distiller)]) == 0
    said = capsys.readouterr()
    assert "position folds" in said.out and "takes 1 rows whose mutations" in said.err


# Faults


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(32, "Broken pipe"), 141),
        (MemoryError(), 2),
        (ImportError("no model of that kind"), 2),
        (KeyError("x"), 1),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_nothing_ends_in_a_traceback(monkeypatch, capsys, error, code):
    def run(arguments):
        raise error

    monkeypatch.setattr(COMMANDS["fit"], "run", run)
    assert main(["fit", "--output", "x"]) == code
    said = capsys.readouterr().err
    assert len(said.splitlines()) == (code != 141) and said.startswith(
        "revdist fit: "[: len(said)]
    )


def test_a_reader_that_goes_away(tmp_path):
    command = f'"{sys.executable}" -m revdist_sklearn cache info "{tmp_path}"'
    run = subprocess.run(
        ["bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    assert not run.stderr and run.stdout == "141\n"


def test_a_letter_that_the_terminal_lacks_loses_nothing(tmp_path, monkeypatch):
    (tmp_path / "\u00fc").mkdir()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["cache", "info", str(tmp_path / "\u00fc")]) == 0
    assert sys.stdout.buffer.getvalue().endswith(rb"\xfc." + b"\n")


def test_warnings_are_lines_without_a_place_in_the_code(corpus, tmp_path):
    arguments = commands(corpus, None, tmp_path / "z")["fit"]
    run = subprocess.run(
        [sys.executable, "-m", "revdist_sklearn", *arguments], capture_output=True, text=True
    )
    assert run.returncode == 0
    [line] = run.stderr.splitlines()
    assert line.startswith("revdist: warning: A corpus of 8 distinct proteins says little")


@pytest.mark.parametrize("folder", ["", "file"])
def test_a_cache_that_is_no_folder_is_told_before_the_work(
    corpus, tmp_path, no_work, capsys, monkeypatch, folder
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    arguments = commands(corpus, None, tmp_path / "z")["embed"]
    assert main([*arguments, "--cache-dir", folder]) == 2
    assert f"--cache-dir {folder or repr(folder)} is no folder" in capsys.readouterr().err


def test_a_penalty_without_ridge_is_told(corpus, tmp_path, no_work, capsys):
    arguments = commands(corpus, None, tmp_path / "z")["fit"]
    assert main([*arguments, "--alpha", "3"]) == 2
    assert "--alpha has no part in --regressor ols" in capsys.readouterr().err


OUT_OF_RANGE = [
    *[(c, "--max-length", v) for c in ("fit", "embed", "evaluate") for v in ("0", "-3")],
    *[(c, "--n-jobs", "0") for c in ("fit", "embed", "evaluate")],
    *[("embed", "--n-components", v) for v in ("0", "-2", "65")],
    *[("fit", "--alpha", v) for v in ("-1", "nan")],
    *[(c, "--device", "nowhere") for c in ("fit", "embed", "evaluate")],
    *[(c, "--models", "esm2-nano:7") for c in ("fit", "embed", "evaluate")],
    *[(c, "--cache-dir", "") for c in ("fit", "embed", "evaluate")],
    ("fit", "--checkpoint", ""),
    ("embed", "--distiller", "nowhere"),
    ("evaluate", "--mutation-column", "x"),
    ("evaluate", "--sequence-column", "x"),
]


@pytest.mark.parametrize(("command", "option", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_told_in_words_of_the_shell(
    corpus, distiller, table, tmp_path, capsys, command, option, value
):
    arguments = commands(corpus, table, tmp_path / "z")[command]
    arguments += ["--distiller", str(distiller)] if command == "evaluate" else []
    arguments += ["--regressor", "ridge"] if option == "--alpha" else []
    assert main([*arguments, option, value]) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith(f"revdist {command}: ")
    assert option in said or repr(value) in said or f"'{value.rpartition(':')[2]}'" in said
    name = option[2:].replace("-", "_")
    python = "parameter of|fit_on_corpus|load_uniprot|Moments|Parallel|ReverseDistiller|Featurizer"
    assert not re.search(rf"{python}|range \[|None|'{name}'|{name}=", said), said


def test_warnings_name_nothing_of_python(tmp_path):
    """Of few proteins, of few rows, and of a model that adds nothing."""
    (tmp_path / "p.fasta").write_text(">a\nMKTAYIAKQR\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(commands(tmp_path / "p.fasta", None, tmp_path / "z")["fit"]) == 0
    said = [as_options(one.message) for one in caught]
    assert len(said) == 3 and "what is taken without --fasta" in said[0]
    python = "fit_on_corpus|load_uniprot|Moments|ReverseDistiller"
    assert not re.search(python, " ".join(said))


def test_a_cache_is_cleared_of_what_is_its_own(tmp_path, capsys):
    own = tmp_path / f"moments-{'0a' * 16}.safetensors"
    others = [
        tmp_path / "moments-my650M.safetensors",
        tmp_path / f"moments-{'x' * 32}.safetensors",
    ]
    for path in (own, *others):
        path.write_text("hi")
    assert main(["cache", "clear", str(tmp_path)]) == 0
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_distiller_of_arrays_is_checked_by_its_widths(tmp_path, capsys):
    X = np.random.default_rng(0).normal(size=(500, 192))
    ReverseDistiller((64, 128)).fit(X).save_pretrained(tmp_path / "d")
    (tmp_path / "p.fasta").write_text(">a\nMKTAYIAKQR\n")
    words = ["embed", "--distiller", str(tmp_path / "d"), "--fasta", str(tmp_path / "p.fasta")]
    assert main([*words, "--output", str(tmp_path / "z.csv")]) == 2
    assert "--models gives the blocks" in capsys.readouterr().err
    assert not (tmp_path / "z.csv").exists()


def test_a_distiller_of_another_layer_is_refused(tmp_path, capsys):
    emb = ESMFeaturizer("esm2-nano:32", layer=1)
    sequences = load_uniprot_sample().sequences[:3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_on_corpus(ReverseDistiller(), emb, sequences).save_pretrained(tmp_path / "d")
    (tmp_path / "p.fasta").write_text(">a\nMKTAYIAKQR\n")
    words = ["embed", "--models", "esm2-nano:32", "--distiller", str(tmp_path / "d")]
    words += ["--fasta", str(tmp_path / "p.fasta"), "--output", str(tmp_path / "z.csv")]
    assert main(words) == 2
    assert "was fitted on layer 1: use the same layer" in capsys.readouterr().err


def test_an_output_that_is_the_input_is_refused(tmp_path, capsys):
    path = tmp_path / "w.csv"
    path.write_text(">a\nMKTAYIAKQR\n")
    assert main(["embed", "--fasta", str(path), "--output", str(path)]) == 2
    assert "is the input itself" in capsys.readouterr().err
    assert path.read_text() == ">a\nMKTAYIAKQR\n"


@pytest.mark.parametrize(
    "text",
    [
        "The cache in '/tmp/cache_dir' does not work",
        "--fasta n_jobs/bad.fasta has text",
        "--fasta d=3/missing.fasta: there is no such file",
        "revdist cache clear /tmp/rf/cache_dir",
        "--fasta dtype=float16/a.fasta has text",
    ],
)
def test_what_a_user_has_named_is_not_translated(text):
    assert as_options(text) == text


def test_columns_are_those_of_the_option():
    assert as_options("d=97 is no prefix of the 96 columns").startswith("--n-components 97 is no")


def test_evaluate_scores_layers_of_the_last_model(corpus, table, tmp_path, capsys):
    arguments = commands(corpus, table, tmp_path / "z")["evaluate"]
    arguments += ["--fasta", str(corpus), "--cache-dir", str(tmp_path / "c")]
    assert main([*arguments, "--layers"]) == 0
    printed = capsys.readouterr()
    assert "3 layers come from the same corpus, 192 columns" in printed.err
    rows = json.loads((tmp_path / "z.json").read_text())["data_sets"]["mine"]["rows"]
    found = {(row["row"], row["split"]): row for row in rows}
    of_layers = [row for row in rows if row["kind"] == "layers"]
    assert len(of_layers) == 8 and "layer chosen inside the folds" in printed.out
    for scheme in ("random", "position"):
        # The last layer is the model as it is.
        last, raw = found["last layer, 3", scheme], found["raw esm2_nano_064", scheme]
        for metric in ("Spearman", "NDCG@10%"):
            # None is the score of folds that are too small for one.
            both = (np.array(row["scores"][metric], dtype=float) for row in (last, raw))
            np.testing.assert_allclose(*both, atol=1e-3)
        assert 64 < found["chain of 3 layers", scheme]["width"] < 192
    assert main([*arguments, "--layers", "3", "0"]) == 0
    again = json.loads((tmp_path / "z.json").read_text())["data_sets"]["mine"]["rows"]
    assert {row["row"] for row in again} >= {"last layer, 3", "chain of 2 layers"}


@pytest.mark.parametrize("numbers", [["2"], ["-1", "2"], ["2", "2"], ["4", "1"]])
def test_evaluate_of_no_two_layers_is_an_error(corpus, table, tmp_path, no_work, numbers, capsys):
    arguments = commands(corpus, table, tmp_path / "z")["evaluate"]
    assert main([*arguments, "--layers", *numbers]) == 2
    message = capsys.readouterr().err
    assert "in [0, 3]" in message or "has 3 layers; use an integer" in message


def test_fit_by_mutants_keeps_its_moments(corpus, tmp_path, capsys):
    given = ["fit", "--models", "esm2-nano:64", "--fasta", str(corpus), "--cache-dir"]
    given += [str(tmp_path / "cache"), "--output"]
    by = ["--residual-level", "mutant", "--rotate-base", "mutant", "--mutants", "3"]
    assert main([*given, str(tmp_path / "a"), *by]) == 0
    first = ReverseDistiller.from_pretrained(tmp_path / "a")
    assert (first.residual_level, first.rotate_base, first.order) == ("mutant", "mutant", "stage")
    sequences = read_fasta(corpus).sequences
    expected = fit_on_corpus(
        ReverseDistiller(residual_level="mutant", rotate_base="mutant"),
        ESMFeaturizer("esm2-nano:64"),
        sequences,
        mutants=3,
    )
    np.testing.assert_allclose(first.components_, expected.components_, atol=1e-6)
    # Others of the same corpus have files of their own, and the same is found.
    assert main([*given, str(tmp_path / "b")]) == 0
    capsys.readouterr()
    assert main([*given, str(tmp_path / "c"), *by, "--order", "variance"]) == 0
    assert "found in" in capsys.readouterr().err
    assert ReverseDistiller.from_pretrained(tmp_path / "c").order == "variance"
    assert len([*(tmp_path / "cache").glob("moments-*.safetensors")]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mutants", "4"], "--mutants 4 has no part without --residual-level mutant"),
        (["--rotate-base", "mutant", "--mutants", "1"], "--mutants 1 tell nothing apart"),
    ],
)
def test_mutants_that_have_no_part(corpus, tmp_path, capsys, options, message):
    given = ["fit", "--fasta", str(corpus), *options, "--output", str(tmp_path / "d")]
    assert main(given) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "d").exists()
