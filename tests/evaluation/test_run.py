"""Runs of whole data sets: rows in all splits, residues, files, and what is kept."""

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import save_esm
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from revdist_sklearn import ESMFeaturizer, ReverseDistiller, corpus_moments
from revdist_sklearn.datasets import load_amyloid_nucleation, load_uniprot_sample
from revdist_sklearn.evaluation import _data_set, _files, _rows
from revdist_sklearn.evaluation._data_set import (
    TABLE,
    Family,
    embedded_residues,
    evaluate_variants,
    rows_of,
    scored_alone,
)
from revdist_sklearn.evaluation._files import (
    evaluate_files,
    format_scores,
    scores_csv,
    tables_of,
)
from revdist_sklearn.evaluation._pictures import draw_landscape
from revdist_sklearn.evaluation._rows import Rows
from revdist_sklearn.evaluation._run import Plan, rows_for_head, score_rows
from revdist_sklearn.evaluation._summary import enough_is_tested
from revdist_sklearn.evaluation._table import read_table

pytestmark = pytest.mark.filterwarnings("ignore:A corpus of")
READING = {"sequence_column": "mutated_sequence", "target_column": "DMS_score"}


@pytest.fixture(scope="module")
def family():
    featurizer = ESMFeaturizer("esm2-nano:64")
    moments = corpus_moments(featurizer, load_uniprot_sample().sequences[:20], verbose=False)
    return Family(featurizer, ReverseDistiller().fit_moments(moments), moments)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    data = load_amyloid_nucleation(mutations="single")
    path = tmp_path_factory.mktemp("scan") / "scan.csv"
    rows = zip(data.mutations[::6], data.sequences[::6], data.target[::6], strict=True)
    lines = ["mutant,mutated_sequence,DMS_score", *(f"{m},{s},{y}" for m, s, y in rows)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def figures(family, scan):
    plan = Plan(None, n_seeds=2, n_train=(16, 1000), n_draws=3)
    return evaluate_variants(read_table(scan), family, plan)


def found(figures, **wanted):
    rows = [r for r in figures["rows"] if all(r[k] == v for k, v in wanted.items())]
    assert rows, wanted
    return rows


def test_all_rows_are_scored_in_all_splits(figures):
    names = {row["row"] for row in figures["rows"]}
    plain = {
        TABLE, "one-hot", "one-hot + embedding", "concatenation", "raw esm2_nano_032",
        "reverse-distilled 64", "without regression 64", "concatenation + PCA 64",
        "concatenation + PCA of the fold 32", "PCA of esm2_nano_064 32",
    }  # fmt: skip
    assert names >= plain | {f"{name} + score" for name in plain}
    assert names >= {"score of esm2_nano_064", "mean score of the family"}
    for split in ("random", "position"):
        for row in found(figures, split=split, n_train=None):
            assert len(row["scores"]["Spearman"]) == len(row["folds"]) == 10
            assert row["seconds"] >= 0 and np.isfinite(row["mean"]["NDCG@10%"])
    assert found(figures, split="random", row=TABLE, n_train=16)[0]["folds"][0].startswith(
        "seed 0"
    )
    assert "n_train=1000" in " ".join(figures["notes"])
    assert json.loads(json.dumps(figures)) == figures


def test_what_is_the_same_has_the_same_score(figures):
    for split in ("random", "position"):
        raw = found(figures, split=split, row="raw esm2_nano_032", n_train=None)[0]
        nested = found(figures, split=split, row="reverse-distilled 32", n_train=None)[0]
        assert raw["scores"] == nested["scores"]


def test_a_table_of_positions_knows_nothing_of_new_ones(figures):
    assert (
        found(figures, row=TABLE, split="random", n_train=None)[0]["mean"]["Spearman"]
        > found(figures, row=TABLE, split="position", n_train=None)[0]["mean"]["Spearman"]
    )


def test_costs_and_verdict(figures):
    small, large = figures["costs"]
    assert 0 < small["parameters"] < large["parameters"] and small["seconds"] > 0
    assert len(figures["verdict"]) == 3 and figures["choice"] in figures["verdict"][0]


def test_shuffled_measurements_score_nothing(family, scan):
    table = read_table(scan)
    rows = [
        rows
        for rows in rows_of(table, family.featurizer.transform(table.sequences), family, notes=[])
        if rows.kind in ("distilled", "mutation", "fold_pca")
    ]
    scores, y = [], table.target.copy()
    for seed in range(8):
        table.target[:] = np.random.default_rng(seed).permutation(y)
        scored = score_rows(table, rows, Plan(("random",)), notes=[])
        scores.append([row["mean"]["Spearman"] for row in scored])
    assert np.abs(np.mean(scores, axis=0)).max() < 0.15


def test_classes(family, scan, tmp_path):
    header, *lines = scan.read_text().splitlines()
    cut = np.median([float(line.split(",")[2]) for line in lines])
    rows = [line.split(",") for line in lines]
    path = tmp_path / "classes.csv"
    classes = (f"{m},{s},{'high' if float(y) > cut else 'low'}" for m, s, y in rows)
    path.write_text("\n".join([header, *classes]))
    figures = evaluate_variants(read_table(path), family, Plan(("random",)))
    assert figures["task"] == "classification" and figures["metric"] == "AUROC"
    best = max(row["mean"]["AUROC"] for row in figures["rows"])
    assert best > 0.65 and {"balanced accuracy", "AUPR"} <= set(figures["rows"][0]["scores"])


def test_residues(family, tmp_path):
    sequences = load_uniprot_sample().sequences[:18]
    path = tmp_path / "residues.csv"
    # Hydrophobic, charged, other: the letter alone tells.
    label = {**dict.fromkeys("AFILMVWY", "H"), **dict.fromkeys("DEKR", "C")}
    rows = [f"{s[:60]},{''.join(label.get(r, '-') for r in s[:60])}" for s in sequences]
    path.write_text("\n".join(["mutated_sequence,DMS_score", *rows]))
    table = read_table(path, task="residues")
    figures = evaluate_variants(table, family, Plan(None))
    assert figures["metric"] == "Q3" and {row["split"] for row in figures["rows"]} == {"protein"}
    assert found(figures, row="residue alone")[0]["mean"]["Q3"] == 1
    assert found(figures, row="reverse-distilled 64")[0]["mean"]["Q3"] > 0.8
    X = embedded_residues(family.featurizer, table.sequences)
    assert X.shape == (sum(map(len, table.sequences)), 96)
    first = np.concatenate(
        list(r for r, _ in family.featurizer.iter_residues(table.sequences[:1]))
    )
    np.testing.assert_allclose(X[: len(first)], first, atol=1e-5)


def test_scores_that_cannot_be_are_a_note(family, scan):
    table = read_table(scan)
    notes = []
    rows = rows_of(replace(table, wild_type=None), np.ones((len(table), 96)), family, notes=notes)
    assert "the wild type is not known" in notes[0]
    assert not any("score" in rows.kind for rows in rows)


def evaluated(files, family, folder, **how):
    return list(evaluate_files(files, family, Plan(("random",)), READING, folder=folder, **how))


def test_a_broken_file_does_not_stop_the_rest_and_what_is_done_is_kept(
    family, scan, tmp_path, monkeypatch
):
    broken = tmp_path / "broken.csv"
    broken.write_text("mutant,mutated_sequence\nA1C,MKT\n")
    kept = tmp_path / "kept"
    first, second = evaluated([str(broken), str(scan)], family, kept)
    assert first[1] is None and "DMS_score" in first[2] and second[1]["rows"]

    def again(*args, **kwargs):
        raise AssertionError("scored again")

    monkeypatch.setattr(_files, "evaluate_variants", again)
    [(_, figures, fault, was_kept)] = evaluated([str(scan)], family, kept)
    assert was_kept and fault is None and figures == second[1]
    # Other measurements, other settings and damaged files are scored again.
    with pytest.raises(AssertionError, match="scored again"):
        evaluated([str(scan)], family, kept, curve=(5,))
    (kept / "scan.json").write_text((kept / "scan.json").read_text()[:500])
    with pytest.raises(AssertionError, match="scored again"):
        evaluated([str(scan)], family, kept)


def test_figures_depend_on_the_fit(family):
    other = ReverseDistiller(regressor="pcr").fit_moments(family.moments)
    assert family.identity() != Family(family.featurizer, other, family.moments).identity()
    same = ReverseDistiller().fit_moments(family.moments)
    assert family.identity() == Family(family.featurizer, same, family.moments).identity()


def test_folders_and_names(tmp_path):
    for name in ("b.csv", "a.csv.gz", "notes.md"):
        (tmp_path / name).write_text("")
    assert [Path(f).name for f in tables_of([tmp_path])] == ["a.csv.gz", "b.csv"]
    with pytest.raises(ValueError, match="both the data set 'b'"):
        (tmp_path / "b.tsv").write_text("")
        tables_of([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no table"):
        tables_of([tmp_path / "empty"])


def test_all_scores_as_csv(figures):
    text = scores_csv({"a,b": figures})
    lines = text.splitlines()
    assert lines[0].startswith("data_set,row,kind,width,split,n_train,metric,fold,score")
    n = sum(len(scores) for row in figures["rows"] for scores in row["scores"].values())
    assert len(lines) == n + 1 and lines[1].startswith('"a,b",')


def test_dna_and_few_rows_are_told_before_models_run(family, tmp_path, monkeypatch):
    monkeypatch.setattr(_data_set, "ESMVariantScorer", None)
    path = tmp_path / "x.csv"
    rows = [f"{'ACGT' * 5}{'ACGT'[i % 4]},{i}" for i in range(4)]
    path.write_text("\n".join(["mutated_sequence,DMS_score", *rows]))
    with pytest.raises(ValueError, match="DNA or RNA by their letters"):
        _files.prepared_table(path, family.featurizer, READING)
    path.write_text("mutated_sequence,DMS_score\nMKW,1\nMKV,2\n")
    with pytest.raises(ValueError, match="2 distinct sequences are too few"):
        _files.prepared_table(path, family.featurizer, READING)


@pytest.mark.slow
def test_two_workers_score_two_files_as_one_does(family, scan, tmp_path):
    header, *lines = scan.read_text().splitlines()
    halves = []
    for name, part in (("a", lines[::2]), ("b", lines[1::2])):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([header, *part]))
        halves.append(str(path))

    def scores(n_jobs):
        found = evaluated(halves, family, None, n_jobs=n_jobs)
        assert all(fault is None for _, _, fault, _ in found)
        return {
            Path(file).name: [(row["row"], row["scores"]) for row in figures["rows"]]
            for file, figures, _, _ in found
        }

    assert scores(2) == scores(1)


def written(path, rows, columns="mutant,mutated_sequence,DMS_score"):
    path.write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]))
    return path


def rows_of_scan(scan):
    return [line.split(",") for line in scan.read_text().splitlines()[1:]]


def test_figures_depend_on_the_length_limit(family):
    featurizer = ESMFeaturizer("esm2-nano:64", max_length=900)
    assert family.identity() != Family(featurizer, family.distiller, family.moments).identity()


def test_stops_are_left_out_and_cut_sequences_refused(family, scan, tmp_path):
    rows = rows_of_scan(scan)
    with_stop = ["D1*", "*" + rows[0][1][1:], "0.5"]
    table = _files.prepared_table(
        written(tmp_path / "x.csv", [*rows, with_stop]), family.featurizer, READING
    )
    assert len(table) == len(rows) and table.counts["left out"] == 1
    assert "1 sequences with a stop" in table.notes[-1]
    short = ESMFeaturizer("esm2-nano:64", max_length=20, too_long="truncate")
    with pytest.raises(ValueError, match="what is cut off was measured too"):
        _files.prepared_table(scan, short, READING)


def test_what_is_equal_but_for_rounding_has_no_ranks(family, scan):
    """One-hot residues tell nothing of positions that training has not."""
    table = read_table(scan)
    X = family.featurizer.transform(table.sequences)
    rows = [r for r in rows_of(table, X, family, notes=[]) if r.kind == "one_hot"]
    # Positions that are mutated once alone, so that no column of a test row is in training.
    scored = score_rows(table, rows, Plan(("contiguous",)), notes=[])
    assert set(scored[0]["scores"]["Spearman"]) == {0.0}


def test_each_file_takes_the_wild_type_of_its_name():
    several = [("sp|P1|GB1_STRSG", "MA"), ("GB1", "MC"), ("TEM", "MD"), ("tem", "ME")]
    for file, expected in (("GB1.csv", "MC"), ("gb1_x.csv.gz", "MC"), ("GB1_STRSG_2.csv", "MA")):
        assert _files.wild_type_of(f"folder/{file}", several) == expected
    assert _files.wild_type_of("GB1.csv", "MK") == "MK" and _files.wild_type_of("a", None) is None
    with pytest.raises(ValueError, match=r"None of the 4 wild types are named .*'GB12'.* sp"):
        _files.wild_type_of("GB12.csv", several)
    with pytest.raises(ValueError, match=r"2 of the 4 wild types .*'TEM_x'.*: TEM, tem"):
        _files.wild_type_of("TEM_x.csv", several)


def test_the_protein_of_a_table_finds_its_wild_type(tmp_path):
    path = tmp_path / "scan7.csv"
    path.write_text("protein,mutant,DMS_score\nGb1,T2A,1\nGB1,K3R,2\nNA,K3A,3\n")
    several = [("scan7", "MAAA"), ("sp|P1|GB1", "MTK")]
    table = read_table(path, wild_type=partial(_files.wild_type_of, path, several))
    assert table.sequences == ["MAK", "MTR", "MTA"] and table.protein == "Gb1"
    with pytest.raises(ValueError, match=r"'scan8', as its protein 'B', or as it begins"):
        _files.wild_type_of("scan8.csv", several, "B")
    path.write_text("protein,mutant,DMS_score\nA,T2A,1\nB,K3R,2\n")
    with pytest.raises(ValueError, match=r"names 2 proteins \(A, B\), and a table has variants"):
        read_table(path, wild_type="MTK")
    # Proteins that are no variants are not of one.
    path.write_text("protein,mutated_sequence,DMS_score\nA,MAK,1\nB,MTRR,2\nC,MTA,3\n")
    assert read_table(path).protein is None


def test_letters_without_a_score_leave_out_their_rows_alone(family, scan):
    table = read_table(scan)
    k = next(i for i, row in enumerate(table.mutations) if len(row) == 1)
    [(wild, position, _)] = table.mutations[k]
    sequence = table.wild_type[: position - 1] + "X" + table.wild_type[position:]
    table.sequences[k], table.mutations[k] = sequence, ((wild, position, "X"),)
    some, note = scored_alone(table, family)
    assert len(some) == len(table) - 1 and table.labels[k] in note and "--no-scores" in note
    assert some.counts["left out"] == table.counts["left out"] + 1
    assert scored_alone(some, family) == (some, None)
    figures = evaluate_variants(table, family, Plan(("random",)), curve=())
    kinds = {row["kind"] for row in figures["rows"]}
    assert "score" in kinds and note in figures["notes"]
    assert {row["n_tested"] for row in figures["rows"]} == {len(some)}
    without = evaluate_variants(table, replace(family, scores=False), Plan(("random",)), curve=())
    assert {row["n_tested"] for row in without["rows"]} == {len(table)}
    # Where there are no scores anyway, or too few would be left, all rows stay.
    few = table.take([k, *range(k), *range(k + 1, 15)])
    assert len(few) == 15 and scored_alone(few, family) == (few, None)
    shorter = table.take(range(len(table)))
    shorter.sequences[k - 1] = shorter.sequences[k - 1][:-1]
    assert scored_alone(shorter, family) == (shorter, None)
    headless = SimpleNamespace(scores=True, without_head=lambda: "none")
    assert scored_alone(table, headless) == (table, None)


def test_repeats_over_seeds_are_of_the_same_rows(family, scan):
    table = read_table(scan)
    rows = [
        Rows("raw", ("a",), (2,), ((0,),), np.random.default_rng(0).normal(size=(len(table), 2)))
    ]
    scored = score_rows(table, rows, Plan(("random", "modulo"), n_seeds=3), notes=[])
    assert {row["split"]: row["n_distinct"] for row in scored} == {
        "random": len(table),
        "modulo": len(table),
    }
    assert all(enough_is_tested(scored, split) for split in ("random", "modulo"))


def test_small_folds_and_other_heads_are_told(family, scan):
    table = read_table(scan).take(range(20))
    source = {"path": scan, "sequence": "mutated_sequence", "target": "DMS_score"}
    figures = evaluate_variants(
        table, family, Plan(("random",), head=KNeighborsRegressor(2)), curve=(), source=source
    )
    notes = " ".join(figures["notes"])
    assert "Folds by 'random' test 4 rows each" in notes and "--head was given" in notes
    assert figures["code"] is None
    assert {score for row in figures["rows"] for score in row["scores"]["NDCG@10%"]} == {None}


def test_a_head_is_one_for_such_targets(family, scan):
    table = read_table(scan)
    for head, kind in ((KNeighborsClassifier(), "regressor"), (KMeans(), "regressor")):
        with pytest.raises(ValueError, match=f"has numbers, and --head .* is no {kind}"):
            score_rows(table, [], Plan(("random",), head=head), notes=[])
    classes = replace(table, task="classification", target=np.array(list("ab") * 39, dtype=object))
    with pytest.raises(ValueError, match="KNeighborsRegressor is no classifier"):
        score_rows(classes, [], Plan(("random",), head=KNeighborsRegressor()), notes=[])


def test_what_looks_like_labels_of_residues_is_asked_about(tmp_path):
    path, length = tmp_path / "x.csv", 20
    labels = ["0" * length, "1" * length, "01" * 10]
    rows = zip("ACD", labels, strict=True)
    lines = "\n".join(f"{letter * length},{label}" for letter, label in rows)
    path.write_text(f"mutated_sequence,DMS_score\n{lines}\n")
    with pytest.raises(ValueError, match=r"as many characters as its sequence.* --task residues"):
        read_table(path)
    table = read_table(path, task="residues")
    assert "Labels of residues: 0 (30), 1 (30)." in table.notes


def test_a_stop_at_the_end_is_left_out_alone(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("mutant,mutated_sequence,DMS_score\nT2A,MAK*,1\nK3R,MTR,2\nK3A,MTA*,3\n")
    table = read_table(path)
    assert table.sequences == ["MAK", "MTR", "MTA"] and table.wild_type == "MTK"
    assert "2 of 3 rows have a sequence that ends in '*'" in " ".join(table.notes)


@pytest.mark.parametrize("column", ["mutated_sequence", "DMS_score", "mutant"])
def test_a_column_of_another_use_names_no_protein(tmp_path, column):
    path = tmp_path / "x.csv"
    path.write_text("mutant,mutated_sequence,DMS_score\nT2A,MAK,1\nK3R,MTR,2\nK3A,MTA,3\n")
    path.write_text(path.read_text().replace(column, "protein", 1))
    options = {"mutated_sequence": "sequence_column", "DMS_score": "target_column"}
    how = {options.get(column, "mutation_column"): "protein"}
    assert read_table(path, **how).protein is None


def test_made_sequences_have_the_figures_of_given_ones(family, scan, tmp_path):
    names = [(f"{m[0]}{int(m[1:-1]) + 9}{m[-1]}", y) for m, _, y in rows_of_scan(scan)]
    path = written(tmp_path / "scan.csv", [*names, ("A1del", 1)], "mutant,DMS_score")
    reading = READING | {"wild_type": [("scan", read_table(scan).wild_type), ("other", "MK")]}
    source = {"sequence": "s", "target": "t", "models": "m", "sources": [], "distiller": "d"}
    [[_, made, fault, _]] = evaluate_files(
        [str(path)], family, Plan(("random",)), reading, source=source
    )
    [[_, given, _, _]] = evaluated([str(scan)], family, None)
    assert fault is None
    assert [row["scores"] for row in made["rows"]] == [row["scores"] for row in given["rows"]]
    assert made["counts"] == given["counts"] | {"rows": len(names) + 1, "left out": 1}
    assert made["code"] is None and "No lines of Python" in made["notes"][-1]


def test_the_scale_of_parts_is_that_of_training_rows(family, scan):
    table = read_table(scan)
    X = family.featurizer.transform(table.sequences)
    rows = [r for r in rows_of(table, X, family, notes=[]) if "one_hot_and" in r.kind]
    assert len(rows) == 2  # one of them behind a score
    train, far = np.arange(60), np.arange(60, len(table))
    for each in rows:
        X = each.features[:]
        moved = X.copy()
        moved[far] *= 100
        one, other = (
            clone(each.in_fold, safe=False).fit(F[train]).transform(F[:60]) for F in (X, moved)
        )
        assert_array_equal(one, other)
        k = one.shape[1] - 64
        assert_allclose(one[:, k:].var(axis=0).sum(), 1)
        assert_allclose(one[:, each.n_unpenalized : k].var(axis=0).sum(), 1)


def test_rows_that_a_head_cannot_take_are_told(family, scan, figures):
    assert figures["left_out"] == []
    plan = Plan(("random",), head=KNeighborsRegressor())
    of_head = evaluate_variants(read_table(scan), family, plan)
    scored = {row["row"] for row in of_head["rows"]}
    left_out = {row["row"] for row in of_head["left_out"]}
    assert scored | left_out == {row["row"] for row in figures["rows"]} and not scored & left_out
    assert left_out == {row for row in scored | left_out if row.endswith(" + score")}
    in_table = [row["row"] for row in of_head["left_out"] if row["in_table"]]
    [note] = [n for n in of_head["notes"] if n.startswith("With --head KNeighborsRegressor")]
    assert f"{len(in_table)} rows are left out, because their scores go unpenalised" in note
    assert all(row in note for row in in_table)
    text = format_scores({"scan": of_head})
    assert text.count("left out") == len(in_table) < len(left_out)
    lines = list(csv.DictReader(scores_csv({"scan": of_head}).splitlines()))
    told = {line["row"] for line in lines if line["left_out"]}
    assert told == left_out == {line["row"] for line in lines if not line["score"]}


def test_one_hot_residues_of_too_many_columns_are_left_out(family, scan, monkeypatch):
    monkeypatch.setattr(_rows, "MOST_OPERATIONS", 1e5)
    table, notes = read_table(scan), []
    found = rows_of(table, np.ones((len(table), 96)), family, notes=notes)
    assert any("No one-hot rows: 78 rows of" in note for note in notes)
    assert not any("one_hot" in rows.kind for rows in found)


def test_a_layer_that_ridge_chooses_is_left_out_by_a_head():
    rows = Rows("layers", ("chosen",), (2,), ((0,),), np.ones((3, 2)), choices=(np.ones((3, 2)),))
    notes = []
    taken, [left] = rows_for_head([rows], KNeighborsRegressor(), notes)
    assert taken == [] and left["row"] == "chosen" and "by ridge alone: chosen." in notes[0]
    assert rows_for_head([rows], None, notes) == ([rows], []) and len(notes) == 1


def test_a_checkpoint_without_the_weights_of_its_head_has_no_head(tmp_path):
    folders = [save_esm(tmp_path / "a"), save_esm(tmp_path / "b", lm_head=False, width=16)]
    of = [Family(ESMFeaturizer(folders[:n]), None, None).without_head() for n in (1, 2)]
    assert of[0] is None and "no weights of a language-model head" in of[1]


def test_no_lines_of_python_read_standard_input_again():
    notes, variants = [], SimpleNamespace(task="regression", is_made=False)
    assert _data_set._code({}, variants, {"path": "-"}, None, notes) is None
    assert notes == [
        "No lines of Python: they read sequences from a file, and standard input is read once."
    ]


def test_small_training_parts_are_a_note(family, scan):
    table, notes = read_table(scan), []
    X = family.featurizer.transform(table.sequences)
    rows = [r for r in rows_of(table, X, family, notes=[]) if r.kind == "distilled"]
    scored = score_rows(table, rows, Plan(("random",), n_train=(1, 16), n_draws=2), notes=notes)
    assert {row["n_train"] for row in scored} == {None, 16}
    assert notes and "learning curve of 1 rows" in notes[0]


def test_limits_far_from_all_else_are_told(scan, tmp_path):
    rows = rows_of_scan(scan)
    near = read_table(written(tmp_path / "near.csv", [[*rows[0][:2], ">3"], *rows[1:]]))
    far = read_table(written(tmp_path / "far.csv", [[*rows[0][:2], ">100"], *rows[1:]]))
    assert not any("far outside" in note for note in near.notes)
    assert any("far outside" in note and "--censored drop" in note for note in far.notes)


def test_what_is_no_number_is_null_in_json(tmp_path):
    path = tmp_path / "x.json"
    _files.write_json(path, {"a": [float("nan"), (1.5, np.float64("inf"))], "b": {"c": -np.inf}})

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {"a": [None, [1.5, None]], "b": {"c": None}}


def test_numbers_of_numpy_are_written_and_what_is_no_number_is_told(tmp_path):
    path = tmp_path / "x.json"
    figures = {
        "kinds": [np.float32("nan"), np.float32(0.5), np.float16("inf"), np.longdouble(2)],
        "others": (np.int64(3), np.uint8(4), np.bool_(True), True, None, np.str_("a")),
        "keys": {np.int64(3): 1, "b": 2},
    }
    _files.write_json(path, figures)
    found = json.loads(path.read_text())
    assert found["kinds"] == [None, 0.5, None, 2.0]
    assert found["others"] == [3, 4, True, True, None, "a"]
    assert found["keys"] == {"3": 1, "b": 2}
    before = path.read_bytes()
    for wrong, words in (
        ({"a": [1, np.ones(2)]}, r"figures\['a'\]\[1\] array.*ndarray.*tolist"),
        ({"a": {1, 2}}, r"figures\['a'\] \{1, 2\} \(set\)"),
        ({"a": 1j}, "complex"),
        ({"a": np.datetime64("2020-01-01")}, "datetime64"),
        ({"a": {(): 1}}, r"a key of figures\['a'\], \(\) \(tuple\)"),
    ):
        with pytest.raises(TypeError, match=words):
            _files.write_json(path, wrong)
    assert path.read_bytes() == before


def test_the_landscape_counts_as_the_table_does(family, scan, tmp_path):
    pytest.importorskip("matplotlib")
    shifted = [[f"{m[0]}{int(m[1:-1]) + 670}{m[-1]}", s, y] for m, s, y in rows_of_scan(scan)]
    table = read_table(written(tmp_path / "x.csv", shifted))
    figures = evaluate_variants(table, family, Plan(("random",)))
    assert figures["first_position"] == 671
    assert draw_landscape(figures, family).axes[0].get_xlim() == (670.5, 712.5)
