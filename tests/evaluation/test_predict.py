"""From measured variants to a ranking: what is chosen, said and written."""

import csv
import json
import signal

import joblib
import numpy as np
import pytest
from conftest import save_esm, save_t5
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from revdist_sklearn import ESMFeaturizer, LandscapeDisplay, ReverseDistiller
from revdist_sklearn.cli import _predict as _predict_command
from revdist_sklearn.cli._main import main
from revdist_sklearn.datasets import load_amyloid_nucleation, load_uniprot_sample
from revdist_sklearn.evaluation import _predict, _rows
from revdist_sklearn.evaluation._data_set import TABLE, Family
from revdist_sklearn.evaluation._files import write_json
from revdist_sklearn.evaluation._predict import (
    TotalScaler,
    _folds,
    _said,
    cheapest_of_the_best,
    choose,
    next_to_measure,
)
from revdist_sklearn.evaluation._table import read_table, variants_of
from revdist_sklearn.variants import _landscape, _scorer

MODELS = ["--models", "esm2-nano:64"]


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    data = load_amyloid_nucleation(mutations="single")
    path = tmp_path_factory.mktemp("scan") / "scan.csv"
    keep = slice(None, None, 4)
    rows = zip(data.mutations[keep], data.sequences[keep], data.target[keep], strict=True)
    path.write_text(
        "\n".join(["mutant,mutated_sequence,DMS_score", *(",".join(map(str, r)) for r in rows)])
    )
    return path


@pytest.fixture(scope="module")
def ranked(scan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranked") / "r"
    assert main(["predict", str(scan), *MODELS, "--output", str(folder)]) == 0
    return folder


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_all_substitutions_are_ranked_by_the_model_that_is_written(ranked, scan):
    rows = table(ranked / "ranked.csv")
    assert len(rows) == 42 * 19
    predicted = np.array([float(row["predicted"]) for row in rows])
    assert (np.diff(predicted) <= 0).all()
    model = joblib.load(ranked / "model.joblib")
    some = rows[::100]
    mean, std = model.predict([row["sequence"] for row in some], return_std=True)
    assert_allclose(mean, [float(row["predicted"]) for row in some], rtol=1e-4, atol=1e-5)
    assert_allclose(std, [float(row["deviation"]) for row in some], rtol=1e-4)
    measured = {row["mutated_sequence"]: row for row in table(scan)}
    for row in rows:
        known = measured.get(row["sequence"])
        assert (known is None) == (row["measured"] == "")
        if known:
            assert known["mutant"] == row["mutant"]
            assert float(known["DMS_score"]) == float(row["measured"])


def test_what_is_next_is_new_and_at_distinct_positions_first(ranked, scan):
    rows = table(ranked / "next.csv")
    measured = {row["mutated_sequence"] for row in table(scan)}
    assert len(rows) == 96 and not measured & {row["sequence"] for row in rows}
    positions = [row["mutant"][1:-1] for row in rows]
    assert len(set(positions[:42])) == 42 and len(set(positions[42:84])) == 42


def test_the_choice_is_told(ranked):
    facts = json.loads((ranked / "choice.json").read_text())
    assert facts["split"] == "position" and "embedding" in facts["chosen"]
    means = {name: np.mean(scores) for name, scores in facts["scores"].items()}
    assert means["embedding"] > means[TABLE]
    assert any(line.startswith("The language model helps: +") for line in facts["said"])
    pytest.importorskip("matplotlib")
    assert (ranked / "landscape.png").stat().st_size > 10_000


def test_lower_may_be_better_and_candidates_given(scan, tmp_path, capsys):
    rows = table(scan)
    fasta = tmp_path / "c.fasta"
    fasta.write_text(
        "".join(f">v{i}\n{row['mutated_sequence']}\n" for i, row in enumerate(rows[:9]))
    )
    out = tmp_path / "r"
    given = ["predict", str(scan), *MODELS, "--no-scores", "--output", str(out)]
    assert main([*given, "--candidates", str(fasta), "--lower-is-better"]) == 0
    found = table(out / "ranked.csv")
    assert {row["mutant"] for row in found} == {f"v{i}" for i in range(9)}
    predicted = [float(row["predicted"]) for row in found]
    assert predicted == sorted(predicted)
    assert table(out / "next.csv") == []  # all are measured
    fasta.write_text(">x\nMKT\n")
    assert main([*given, "--candidates", str(fasta)]) == 2
    assert "x (line 1) has 3 residues, the wild type 42" in capsys.readouterr().err


@pytest.fixture
def choose_nothing(monkeypatch):
    """Everything but the search, which takes seconds."""
    monkeypatch.setattr(_predict, "CANDIDATES", ((TABLE,), ("embedding",)))


def test_candidates_are_taken_once_and_told(scan, tmp_path, capsys, choose_nothing):
    wild = load_amyloid_nucleation(mutations="single").wild_type
    known = table(scan)[0]["mutated_sequence"]
    new, other = "W" + wild[1:], wild[:-1] + "W"
    fasta, out = tmp_path / "c.fasta", tmp_path / "r"
    records = {"wt": wild, "a": new, "again": new.lower(), "known": known, "b": other}
    fasta.write_text("".join(f">{name}\n{text}\n" for name, text in records.items()))
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    given = ["predict", str(scan), *MODELS, "--candidates", str(fasta), "--no-scores"]
    assert main([*given, "--output", str(out)]) == 0
    told = capsys.readouterr()
    assert "1 of 5 records repeat an earlier sequence" in told.err and "again (line 5)" in told.err
    assert "Of 4 candidates 2 are measured or the wild type, so that 2 and not 96" in told.out
    assert sorted(row["mutant"] for row in table(out / "ranked.csv")) == ["a", "b", "known", "wt"]
    assert sorted(row["mutant"] for row in table(out / "next.csv")) == ["a", "b"]
    assert (out / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda wild: "X" + wild[1:], "a (line 1) has 'X' where the wild type has 'D', at pos"),
        (lambda wild: wild + "A", "a (line 1) has 43 residues, the wild type 42"),
        (lambda wild: "1" + wild[1:], "a (line 1) has '1'"),
        (lambda wild: "", "1 of 1 records have no sequence"),
    ],
)
def test_candidates_that_cannot_be_ranked(scan, tmp_path, capsys, make, message):
    wild = load_amyloid_nucleation(mutations="single").wild_type
    fasta = tmp_path / "c.fasta"
    fasta.write_text(f">a\n{make(wild)}\n")
    given = ["predict", str(scan), *MODELS, "--candidates", str(fasta)]
    # What is longer is told, and not cut to the length of the wild type.
    for more in ([], ["--max-length", "42", "--too-long", "truncate"]):
        assert main([*given, *more, "--output", str(tmp_path / "r")]) == 2
        told = capsys.readouterr().err
        assert message in told and "--candidates" in told and not (tmp_path / "r").exists()


def test_an_interrupt_leaves_no_half_of_the_files(scan, tmp_path, monkeypatch, choose_nothing):
    out = tmp_path / "r"

    def interrupted(path, figures):
        signal.raise_signal(signal.SIGINT)
        write_json(path, figures)

    monkeypatch.setattr(_predict_command, "write_json", interrupted)
    assert main(["predict", str(scan), *MODELS, "--no-scores", "--output", str(out)]) == 130
    assert {path.name for path in out.iterdir()} == {*_predict_command.FILES}


def test_a_letter_without_a_score_costs_one_row(scan, tmp_path, capsys, choose_nothing):
    rows = table(scan)
    wild = load_amyloid_nucleation(mutations="single").wild_type
    odd = {"mutant": "D1X", "mutated_sequence": "X" + wild[1:], "DMS_score": 1.0}
    path, out = of_a_scan(tmp_path / "x.csv", [*rows, odd]), tmp_path / "r"
    assert main(["predict", str(path), *MODELS, "--output", str(out)]) == 0
    told = capsys.readouterr().out
    assert "1 of 118 variants have another letter" in told and "D1X" in told
    assert "hardly told from chance" not in told
    assert "No scores of the models" not in told


def test_inputs_and_folders_are_not_overwritten(scan, tmp_path, capsys):
    out = tmp_path / "r"
    out.mkdir()
    (out / "ranked.csv").write_text(scan.read_text())
    assert main(["predict", str(out / "ranked.csv"), *MODELS, "--output", str(out)]) == 2
    assert "is the input itself" in capsys.readouterr().err
    (out / "ranked.csv").unlink()
    (out / "choice.json").mkdir()
    assert main(["predict", str(scan), *MODELS, "--output", str(out)]) == 2
    assert "choice.json is a folder" in capsys.readouterr().err


def test_folds_without_a_score_are_null(scan, tmp_path, choose_nothing):
    rows = table(scan)
    path, out = tmp_path / "x.csv", tmp_path / "r"
    folds = _folds(read_table(scan), 0)[1]
    flat = np.concatenate([fold.test for fold in folds[:2]])
    for i in flat:
        rows[i]["DMS_score"] = 1.0
    of_a_scan(path, rows)
    assert main(["predict", str(path), *MODELS, "--no-scores", "--output", str(out)]) == 0

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    facts = json.loads((out / "choice.json").read_text(), parse_constant=refuse)
    for scores in facts["scores"].values():
        assert [score is None for score in scores][:2] == [True, True]
        assert not any(score is None for score in scores[2:])


def test_measurements_at_five_positions_are_ranked(tmp_path, capsys, choose_nothing):
    data = load_amyloid_nucleation(mutations="single")
    of_all = zip(data.mutations, data.sequences, data.target, strict=True)
    rows = [
        {"mutant": m, "mutated_sequence": s, "DMS_score": y}
        for m, s, y in of_all
        if 10 < int(m[1:-1]) <= 15
    ]
    path, out = of_a_scan(tmp_path / "x.csv", rows), tmp_path / "r"
    assert main(["predict", str(path), *MODELS, "--output", str(out)]) == 0
    assert len(table(out / "next.csv")) == 96 and len(table(out / "ranked.csv")) == 42 * 19


def test_names_of_mutations_are_enough_with_the_wild_type(ranked, scan, tmp_path, capsys):
    names, wild, out = tmp_path / "x.csv", tmp_path / "w.fasta", tmp_path / "r"
    rows = [f"{row['mutant']},{row['DMS_score']}" for row in table(scan)]
    names.write_text("\n".join(["mutant,DMS_score", *rows]))
    facts = json.loads((ranked / "choice.json").read_text())
    wild.write_text(f">w\n{facts['wild_type']}\n")
    given = ["predict", str(names), *MODELS, "--output", str(out)]
    assert main([*given, "--wild-type", str(wild)]) == 0
    assert (out / "ranked.csv").read_text() == (ranked / "ranked.csv").read_text()
    assert f"the sequences of {len(rows)} rows are made" in capsys.readouterr().err
    assert main(given) == 2
    assert "the sequence of the wild type with --wild-type" in capsys.readouterr().err


def test_the_scale_of_parts_is_that_of_training_rows(scan, monkeypatch):
    seen = []

    def fit_rows(rows, target, classes, fold, inside, metric):
        seen.append((rows, fold))
        return np.zeros((len(fold.test), 1, 1)), None

    monkeypatch.setattr(_predict, "fit_rows", fit_rows)
    monkeypatch.setattr(_predict, "_fitted", lambda *args: None)
    featurizer = ESMFeaturizer("esm2-nano:64")
    distiller = ReverseDistiller.from_pretrained("esm2-nano").truncate(64)
    choose(read_table(scan), Family(featurizer, distiller, None))
    together = [(rows, fold) for rows, fold in seen if rows.in_fold is not None]
    assert len(together) == 4 / len(_predict.CANDIDATES) * len(seen)
    for rows, fold in together:
        q, X = rows.n_unpenalized, rows.features[fold.train]
        Z = clone(rows.in_fold, safe=False).fit(X).transform(X)
        assert_allclose(Z[:, q:].var(axis=0).sum(), 2)
        assert_array_equal(Z[:, :q], X[:, :q])


@pytest.mark.parametrize(
    ("save", "why"),
    [
        (lambda folder: save_t5(folder, spelling="▁{}"), "has no masked-language-model head"),
        (lambda folder: save_esm(folder, lm_head=False), "no weights of a language-model head"),
    ],
)
def test_models_without_a_head_are_ranked_without_scores(scan, tmp_path, capsys, save, why):
    out, fasta = tmp_path / "r", tmp_path / "c.fasta"
    sequences = load_uniprot_sample().sequences[:9]
    fasta.write_text("".join(f">{i}\n{s[:60]}\n" for i, s in enumerate(sequences)))
    given = ["--models", save(tmp_path / "m"), "--fasta", str(fasta), "--output", str(out)]
    assert main(["predict", str(scan), *given]) == 0
    facts = json.loads((out / "choice.json").read_text())
    assert why in capsys.readouterr().out and why in facts["said"][0]
    assert not any("scores" in name for name in facts["scores"])


def test_one_hot_residues_of_too_many_columns_are_left_out(scan, monkeypatch):
    monkeypatch.setattr(_rows, "MOST_OPERATIONS", 1e5)
    featurizer = ESMFeaturizer("esm2-nano:32")
    distiller = ReverseDistiller.from_pretrained("esm2-nano").truncate(32)
    choice = choose(read_table(scan), Family(featurizer, distiller, None, scores=False))
    assert "No one-hot residues: 117 rows of" in choice.lines[0]
    assert "the limit is 1e+05" in choice.lines[0]
    assert "embedding" in choice.scores and not any("one-hot" in name for name in choice.scores)


def test_what_is_said():
    table, embedding = (TABLE,), ("embedding",)
    scores = {table: [0.1, -0.1, 0.0], embedding: [0.5, 0.6, 0.4]}
    chosen, helps = _said(scores, embedding, "position")
    assert chosen == "Chosen: embedding, Spearman 0.500 in folds by position, the best."
    assert helps.startswith("The language model helps: +0.500 ± 0.100 (standard error over folds)")
    assert helps.endswith(f"0.500 of embedding against 0.000 of {TABLE}.")
    scores = {table: [0.1, None, -0.1], embedding: [-0.1, None, -0.2]}
    _, helps, chance = _said(scores, table, "random")
    assert "does not help: -0.150" in helps and "random folds" in helps
    assert "little better than chance" in chance
    scores = {table: [0.1, -0.1, 0.0], embedding: [0.3, -0.2, 0.1]}
    assert "may help, by no more than chance" in _said(scores, table, "random")[1]


def test_what_is_said_where_the_choice_and_the_difference_point_different_ways():
    # Ahead in every fold, by less than the folds differ.
    table, embedding = (TABLE,), ("embedding",)
    scores = {table: [0.1, 0.5, 0.9], embedding: [0.2, 0.6, 1.0]}
    assert cheapest_of_the_best(scores) == table
    chosen, helps = _said(scores, table, "position")
    assert "the cheapest to run within one standard error (0.231) of the best, embedding" in chosen
    assert helps.startswith("The language model helps: +0.100 ± 0.000")
    assert helps.endswith(f"; yet {TABLE} is within one standard error of the best and is chosen.")
    # The best by more than its own spread, in folds that do not agree.
    scores = {table: [0.1, 0.6, 0.1], embedding: [0.4, 0.4, 0.4]}
    assert cheapest_of_the_best(scores) == embedding
    helps = _said(scores, embedding, "position")[1]
    assert helps.startswith("The language model may help, by no more than chance: +0.133")
    assert "yet it is chosen, as what needs none is not within one standard error" in helps


def of_a_scan(path, rows, offset=0):
    """Write rows as a table whose positions count from elsewhere."""
    lines = [
        f"{m[0]}{int(m[1:-1]) + offset}{m[-1]},{r['mutated_sequence']},{r['DMS_score']}"
        for r in rows
        for m in [r["mutant"]]
    ]
    path.write_text("\n".join(["mutant,mutated_sequence,DMS_score", *lines]))
    return path


def test_names_and_the_picture_count_as_the_file_does(scan, ranked, tmp_path, capsys, monkeypatch):
    path, out = of_a_scan(tmp_path / "x.csv", table(scan), 670), tmp_path / "r"
    drawn = []
    plot = LandscapeDisplay.plot

    def keep(display, *args, **how):
        drawn.append(display)
        return plot(display, *args, **how)

    monkeypatch.setattr(LandscapeDisplay, "plot", keep)
    pandas_is_not_needed(monkeypatch)
    assert main(["predict", str(path), *MODELS, "--output", str(out)]) == 0
    assert "the wild type is number 671." in " ".join(capsys.readouterr().out.split())
    plain = {r["sequence"]: r["mutant"] for r in table(ranked / "ranked.csv")}
    for name in ("ranked.csv", "next.csv"):
        for found in table(out / name):
            assert int(found["mutant"][1:-1]) == int(plain[found["sequence"]][1:-1]) + 670
    assert {r["mutant"] for r in table(path)} <= {r["mutant"] for r in table(out / "ranked.csv")}
    assert json.loads((out / "choice.json").read_text())["first_position"] == 671
    assert drawn[0].ax_.get_xlim() == (670.5, 712.5)


def pandas_is_not_needed(monkeypatch):
    def refuse(name):
        raise ImportError(f"{name} needs pandas")

    for module in (_landscape, _scorer):
        monkeypatch.setattr(module, "check_pandas_support", refuse)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, y: (s, "a" if float(y) > 0 else "b"), "has classes"),
        (lambda s, y: (s + "A", y), "--wild-type"),
    ],
)
def test_what_cannot_be_ranked_is_told_before_the_work(scan, tmp_path, capsys, change, message):
    path = tmp_path / "x.csv"
    rows = [change(row["mutated_sequence"], row["DMS_score"]) for row in table(scan)]
    path.write_text("\n".join(["mutated_sequence,DMS_score", *(f"{s},{y}" for s, y in rows)]))
    assert main(["predict", str(path), *MODELS, "--output", str(tmp_path / "r")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "r").exists()


def test_the_cheapest_within_one_standard_error():
    scores = {("a",): [0.1, 0.2], ("b",): [0.4, 0.6], ("c",): [0.5, 0.7]}
    assert cheapest_of_the_best(scores) == ("b",)  # 0.5 is within 0.1 of 0.6
    assert cheapest_of_the_best({("a",): [0.1, 0.1], ("b",): [0.2, 0.2]}) == ("b",)


def test_next_to_measure_takes_positions_in_turn():
    bound = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert next_to_measure(["x", "x", "x", "y", "y"], bound, 9).tolist() == [0, 3, 1, 4, 2]


def test_total_scaler_keeps_ratios():
    X = np.random.default_rng(0).normal(size=(50, 3)) * [1, 10, 100]
    Z = TotalScaler().fit_transform(X)
    assert_allclose(Z.var(axis=0).sum(), 1)
    assert_allclose(Z / Z[0, 0], X / X[0, 0])
    assert TotalScaler().fit_transform(np.ones((3, 2))).tolist() == np.ones((3, 2)).tolist()


def test_tables_of_several_mutations_take_random_folds(tmp_path, capsys):
    data = load_amyloid_nucleation()
    several = [i for i, m in enumerate(data.mutations) if ":" in m][:60]
    rows = [f"{data.mutations[i]},{data.sequences[i]},{data.target[i]}" for i in several]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["mutant,mutated_sequence,DMS_score", *rows]))
    out = tmp_path / "r"
    assert main(["predict", str(path), *MODELS, "--no-scores", "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert "No folds by position: " in said
    assert json.loads((out / "choice.json").read_text())["split"] == "random"


def test_folds_by_position_that_test_few_rows_give_way():
    data = load_amyloid_nucleation()
    singles = [i for i, m in enumerate(data.mutations) if ":" not in m][::20]
    doubles = [i for i, m in enumerate(data.mutations) if ":" in m][:100]

    def folds_of(rows):
        columns = ([column[i] for i in rows] for column in (data.sequences, data.target))
        variants = variants_of("x", *columns, [data.mutations[i] for i in rows])
        return _folds(variants, 0)

    kind, folds, note = folds_of([*singles, *doubles])
    assert kind == folds[0].kind == "random" and "they test" in note
    kind, folds, note = folds_of(singles)
    assert kind == folds[0].kind == "position" and note is None
