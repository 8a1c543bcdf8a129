import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from revdist_sklearn import ESMFeaturizer, ReverseDistiller, fit_on_corpus
from revdist_sklearn.cli._main import COMMANDS, _parser, main
from revdist_sklearn.cli._options import featurizer_of
from revdist_sklearn.cli._readers import read_fasta, read_measurements
from revdist_sklearn.datasets import load_amyloid_nucleation, load_uniprot_sample
from revdist_sklearn.embedding._cache import FILE


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
    sequences = [s for _, s in read_fasta(corpus)]
    Z = ESMFeaturizer("esm2-nano:32").transform(sequences)[:, :20]
    if suffix == "npz":
        with np.load(out) as file:
            assert file["names"].tolist() == [f"p{i}" for i in range(8)]
            np.testing.assert_allclose(file["embedding"], Z, atol=1e-6)
    else:
        rows = list(csv.DictReader(out.open()))
        assert rows[3]["name"] == "p3" and float(rows[3]["rd_esm2_nano_032__00"]) == Z[3, 0]


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
    n_long = sum(len(s) > 100 for _, s in read_fasta(corpus))
    assert len(of_windows) == 2 and f": {n_long} sequences, 0.0 MB" in of_windows[0]
    assert main(["cache", "clear", str(cache)]) == 0
    assert capsys.readouterr().out.startswith("Freed: 0.")
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
    assert capsys.readouterr().out == "Freed: 0.0 MB\n" and not list(tmp_path.iterdir())


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
    scores = json.loads((tmp_path / "s.json").read_text())["scores"]["mine"]
    assert {row["kind"] for row in scores} >= {"mutation", "raw", "distilled"}


def test_distiller_of_other_models_is_an_error(corpus, distiller, tmp_path, capsys):
    arguments = ["embed", "--models", "esm2-nano:32", "--fasta", str(corpus), "--distiller"]
    assert main([*arguments, str(distiller), "--output", str(tmp_path / "z.npz")]) == 2
    assert "the distiller was fitted on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no FASTA record"),
        ("MKT\n>a\nMKT\n", "text before the first header in line 1"),
        (">a\n>b\nMKT\n", "'a' has no sequence"),
    ],
)
def test_bad_fasta(tmp_path, text, message):
    path = tmp_path / "x.fasta"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_fasta(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n", "no column 'mutated_sequence'; it has a, b"),
        ("mutated_sequence,DMS_score\nMK,1\nMK,x\n", "row 2 after the header: DMS_score is 'x'"),
        ("mutated_sequence,DMS_score\nMK,nan\n", "row 1 after the header"),
        ("mutated_sequence,DMS_score\n", "has no rows"),
    ],
)
def test_bad_table(tmp_path, text, message):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_measurements(path, "mutated_sequence", "DMS_score")


def test_missing_file_is_a_message_not_a_traceback(capsys):
    assert main(["fit", "--fasta", "no_such.fasta", "--output", "x"]) == 2
    assert "no_such.fasta" in capsys.readouterr().err


def test_module_runs():
    run = subprocess.run(
        [sys.executable, "-m", "revdist_sklearn", "--version"], capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stdout.strip()


def test_import_does_not_import_torch():
    code = "import sys, revdist_sklearn; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# Options


@pytest.mark.parametrize("regressor", ["ols", "ridge", "pcr"])
def test_fit_takes_the_regressor(corpus, tmp_path, regressor):
    arguments = ["fit", "--models", "esm2-nano:64", "--fasta", str(corpus)]
    assert main([*arguments, "--regressor", regressor, "--output", str(tmp_path / "d")]) == 0
    distiller = ReverseDistiller.from_pretrained(tmp_path / "d")
    expected = fit_on_corpus(
        ReverseDistiller(regressor=regressor),
        ESMFeaturizer("esm2-nano:64"),
        [s for _, s in read_fasta(corpus)],
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
    sequences = [s for _, s in read_fasta(corpus)]
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
