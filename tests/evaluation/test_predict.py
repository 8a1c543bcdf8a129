"""From measured variants to a ranking: what is chosen, said and written."""

import csv
import json

import joblib
import numpy as np
import pytest
from conftest import save_esm, save_t5
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from revdist_sklearn import ESMFeaturizer, ReverseDistiller
from revdist_sklearn.cli._main import main
from revdist_sklearn.datasets import load_amyloid_nucleation, load_uniprot_sample
from revdist_sklearn.evaluation import _predict
from revdist_sklearn.evaluation._data_set import TABLE, Family
from revdist_sklearn.evaluation._predict import (
    TotalScaler,
    _folds,
    _said,
    cheapest_of_the_best,
    choose,
    next_to_measure,
)
from revdist_sklearn.evaluation._table import read_table, variants_of

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
    assert any(line.startswith("The language model helps") for line in facts["said"])
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
    assert why in capsys.readouterr().err and why in facts["notes"][-1]
    assert not any("scores" in name for name in facts["scores"])


def test_what_is_said():
    table, embedding = (TABLE,), ("embedding",)
    scores = {table: [0.1, -0.1, 0.0], embedding: [0.5, 0.6, 0.4]}
    chosen, helps = _said(scores, embedding, "position")
    assert chosen.startswith("Chosen: embedding, Spearman 0.500 in folds by position")
    assert helps.startswith(f"The language model helps: embedding 0.500, {TABLE} without it")
    assert "difference +0.500 ± 0.100" in helps
    scores[embedding] = [-0.1, 0.1, -0.1]
    _, helps, chance = _said(scores, table, "random")
    assert "does not help" in helps and "little better than chance" in chance
    scores[embedding] = [0.3, -0.2, 0.1]
    assert "may help, by no more than chance" in _said(scores, table, "random")[1]


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
