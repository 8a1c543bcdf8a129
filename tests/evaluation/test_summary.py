"""Summary over data sets, and the verdict of one."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import binomtest

from revdist_sklearn import ESMFeaturizer
from revdist_sklearn.base._aliases import BUNDLED
from revdist_sklearn.evaluation._summary import (
    LEAST_PROTEINS,
    comparisons,
    described,
    few_tested,
    paired_difference,
    summarise,
)
from revdist_sklearn.evaluation._verdict import code, preferred_split, verdict

COSTS = [
    {"name": "small", "parameters": 10, "seconds": 1.0},
    {"name": "large", "parameters": 100, "seconds": 9.0},
]


def row(name, kind, width, scores, *, split="position", members=(0,), **other):
    facts = {"row": name, "kind": kind, "width": width, "split": split, "n_train": None}
    known = [score for score in scores if score is not None]
    mean = {"Spearman": float(np.mean(known)) if known else None}
    of_row = {"in_table": True, "members": list(members), "mean": mean, "n_distinct": 9, **other}
    return {**facts, **of_row, "scores": {"Spearman": scores}}


def data_set(protein, gain, **other):
    rows = [
        row("raw small", "raw", 2, [0.1, 0.2]),
        row("raw large", "raw", 4, [0.2, 0.4], members=(1,)),
        row("rd 2", "distilled", 2, [0.1, 0.2]),
        row("rd 4", "distilled", 4, [0.2 + gain, 0.4], members=(0, 1)),
        row("cp 2", "concatenation_pca", 2, [0.0, 0.1], members=(0, 1)),
        row("cp 4", "concatenation_pca", 4, [0.2, 0.4], members=(0, 1)),
        row("table", "mutation", 3, [0.3, 0.3], members=()),
    ]
    return {"protein": protein, "wild_type": None, "rows": rows, **other}


def test_what_is_compared():
    pairs = {(claim, text) for claim, text, _, _ in comparisons(data_set("p", 0.1)["rows"])}
    texts = {text for _, text in pairs}
    assert texts == {
        "rd 4 over rd 2",
        "raw large over raw small",
        "rd 2 over cp 2",
        "rd 4 over cp 4",
        "rd 4 over raw large",
        "rd 4 over table",
    }  # of the smallest both are the raw model, and nothing is compared with itself


def test_shares_intervals_and_the_sign_test():
    gains = np.array([0.2, 0.1, -0.1, 0.1, 0.3, 0.0, 0.1, -0.2])
    sets = {str(i): data_set(f"p{i}", gain) for i, gain in enumerate(gains)}
    found = {each["rows"]: each for each in summarise(sets, "Spearman")}["rd 4 over cp 4"]
    assert (found["wins"], found["losses"], found["ties"]) == (5, 2, 1)
    assert_allclose(found["difference"], gains.mean() / 2)
    assert found["p_sign"] == binomtest(5, 7).pvalue
    low, high = found["difference_interval"]
    resampled = np.random.default_rng(1).choice(gains / 2, size=(20_000, 8)).mean(axis=1)
    assert_allclose([low, high], np.quantile(resampled, [0.025, 0.975]), atol=5e-3)
    assert 0 < found["share_interval"][0] < 5 / 8 < found["share_interval"][1] <= 1
    assert "sign test" in described(found) and "5 of 8, 1 ties" in described(found)


def test_scans_of_one_protein_are_resampled_together():
    gains = np.tile([0.2, -0.2], 7)
    alone = {str(i): data_set(f"p{i}", g + 1e-3 * i) for i, g in enumerate(gains)}
    pairs = {
        str(i): data_set(f"p{i % 2 + 2 * (i // 4)}", g + 1e-3 * i) for i, g in enumerate(gains)
    }

    def width(sets):
        [found] = [e for e in summarise(sets, "Spearman") if e["rows"] == "rd 4 over rd 2"]
        low, high = found["difference_interval"]
        return found["n_proteins"], high - low

    (n_alone, narrow), (n_pairs, wide) = width(alone), width(pairs)
    assert n_alone == 14 and n_pairs < 14 and wide > 1.2 * narrow


def test_data_sets_of_one_wild_type_are_one_protein_whoever_names_it():
    whole = "MTYKLILNGKTLKGETTTEAVDAATAEK"
    sets = {name: data_set(None, 0.1) for name in "abc"}
    sets["a"] |= {"wild_type": whole}
    sets["b"] |= {"wild_type": whole[2:]}
    sets["c"] |= {"wild_type": whole[2:], "protein": "GB1"}
    assert {each["n_proteins"] for each in summarise(sets, "Spearman")} == {1}
    sets["b"] |= {"wild_type": whole[:15]}  # a short piece may be one by chance
    assert {each["n_proteins"] for each in summarise(sets, "Spearman")} == {2}


def test_folds_that_test_few_rows_do_not_count():
    sets = {name: data_set(name, 0.1) for name in "ab"}
    for each in sets["b"]["rows"]:
        each["n_distinct"] = 4
    more = [{**each, "split": "random", "n_distinct": 9} for each in sets["b"]["rows"]]
    sets["b"]["rows"] += more + [{**each, "split": "n_mutations"} for each in sets["b"]["rows"]]
    found = summarise(sets, "Spearman")
    by_position = [each for each in found if each["split"] == "position"]
    assert {each["n_proteins"] for each in by_position} == {1} and by_position[0]["wins"] == 1
    # Also where they are few of all data sets; other kinds test what they are asked to.
    for some in (sets, {"b": sets["b"]}):
        [told] = few_tested(some)
        assert told == "position folds test few rows of b, which are left out there."
        assert {each["split"] for each in summarise(some, "Spearman")} >= {"random", "n_mutations"}


def test_what_is_compared_at_the_first_stage_alone_may_be_itself():
    between = row("rd 1", "distilled", 1, [0.0, 0.0], in_table=False)
    texts = {text for _, text, _, _ in comparisons([between, *data_set("p", 0.0)["rows"]])}
    assert "rd 2 over raw small" not in texts and "rd 4 over cp 4" in texts  # which are a tie


def test_few_proteins_are_no_claim():
    sets = {str(i): data_set(f"p{i}", 0.1) for i in range(LEAST_PROTEINS - 1)}
    for each in summarise(sets, "Spearman"):
        assert each["difference_interval"] is None and "no claim" in described(each)
    [each, *_] = summarise({"a": data_set("p", 0.1)}, "Spearman")
    assert "one protein, too few" in described(each)


def test_folds_without_a_score_are_left_out_of_both():
    one, other = row("a", "raw", 1, [0.5, None, 0.3]), row("b", "raw", 2, [0.1, 0.2, 0.2])
    assert_allclose(paired_difference(one, other, "Spearman"), (0.4 + 0.1) / 2)
    nothing = row("c", "raw", 3, [None, None, None])
    assert np.isnan(paired_difference(one, nothing, "Spearman"))


def test_the_verdict_is_the_cheapest_within_one_standard_error():
    rows = data_set("p", 0.02)["rows"]
    lines, choice = verdict(rows, "Spearman", COSTS)
    # The best is rd 4, 0.31 with an error of 0.09; raw small is 0.15, raw large 0.3.
    assert choice["row"] == "raw large" and len(lines) == 3
    assert "raw large, 4 columns: Spearman 0.300 in folds by position" in lines[0]
    assert (
        "within one standard error (0.090) of the best row with a language model, rd 4 with"
        in lines[0]
    )
    assert "It runs large: 100 parameters, 9 s" in lines[1]
    assert "may help, by no more than chance: +0.010 ± 0.090 (standard error over" in lines[2]
    assert "0.310 of rd 4 against 0.300 of table" in lines[2]
    assert "best of 6 rows" in lines[2]


def test_the_verdict_says_so_where_the_best_row_is_none_of_its_own():
    rows = [*data_set("p", 0.0)["rows"], row("both", "one_hot_and_embedding", 9, [0.9, 0.9])]
    lines, choice = verdict(rows, "Spearman", COSTS)
    assert "by more than its standard error (0.000) short of the best row with a" in lines[0]
    assert choice["kind"] in ("distilled", "raw")


def test_the_verdict_without_a_model_that_helps():
    rows = [
        row("table", "mutation", 3, [0.6, 0.6], members=()),
        row("rd", "distilled", 2, [0.1, 0.2]),
    ]
    assert "does not help: -0.450 ± 0.050" in verdict(rows, "Spearman", COSTS)[0][2]
    assert "Nothing without" in verdict(rows[1:], "Spearman", COSTS)[0][2]


def test_one_fold_has_no_standard_error():
    rows = [
        row("table", "mutation", 3, [0.6, None], members=()),
        row("rd", "distilled", 2, [0.7, None]),
    ]
    lines, _ = verdict(rows, "Spearman", COSTS)
    assert "0.700 in folds by position, the best row with a language model; one fold" in lines[0]
    assert "may help, by no more than chance: +0.100 (one fold alone has both" in lines[2]
    assert "±" not in "".join(lines)


def test_a_rival_that_cannot_tell_them_apart_is_told():
    rows = [
        row("table", "mutation", 3, [0.0, 0.0], members=()),
        row("rd", "distilled", 2, [0.5, 0.6]),
    ]
    told = verdict(rows, "Spearman", COSTS)[0][2]
    assert told.endswith(
        "of table, which cannot tell these variants apart, for the best of 1 rows."
    )


def test_folds_by_position_are_asked_first():
    rows = [row("a", "raw", 1, [0.1], split=kind) for kind in ("random", "modulo", "position")]
    assert preferred_split(rows) == "position" and preferred_split(rows[:2]) == "random"


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("kind", ["raw", "distilled"])
def test_the_code_has_ten_lines_and_runs(kind, task, tmp_path, monkeypatch, capsys):
    from revdist_sklearn.datasets import load_gb1_stability

    data, path = load_gb1_stability(), tmp_path / "it's.csv"
    values = data.target[::8]
    if task == "classification":
        values = np.where(values > np.median(values), "up", "down")
    rows = zip(data.sequences[::8], values, strict=True)
    messy = ["MKT;", ";1.0", "M*T;", "MKT*;", f"MKTA*;{values[0]}", f"MKTA;{values[0]}"]
    messy += ["MKT;>100", "MK*A;7"] if task == "regression" else ["MK*A;up"]
    lines = [f"{s.lower()};{v}" for s, v in rows]
    path.write_text("\n".join(["seq;y", *lines, *messy]))
    text = code(
        row("x", kind, 64, [0.1], members=(1,)),
        path=path,
        sequence="seq",
        target="y",
        models="esm2-nano",
        sources=[m.source for m in ESMFeaturizer("esm2-nano").embedding_plan().members],
        distiller="esm2-nano",
        task=task,
        has_limits=task == "regression",
    )
    assert len(text.splitlines()) <= 11 and str(BUNDLED) not in text
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(compile(text, "code", "exec"), scope)
    # Each sequence once, without its stop; those with a stop inside and without a value are left.
    more = {"MKTA", "MKT"} if task == "regression" else {"MKTA"}
    assert set(scope["y"].index) == {*data.sequences[::8], *more}
    assert task != "regression" or scope["y"]["MKT"] == 100
    assert (tmp_path / "model.joblib").exists() and capsys.readouterr().out.startswith("[")


def test_the_verdict_compares_with_the_best_of_what_needs_no_model():
    rows = [
        row("table", "mutation", 3, [0.1, 0.2], members=()),
        row("one-hot", "one_hot", 9, [0.6, 0.7], members=()),
        row("rd 2", "distilled", 2, [0.3, 0.4]),
        row("rd 1", "distilled", 1, [0.9, 0.9], in_table=False),
    ]
    lines, choice = verdict(rows, "Spearman", COSTS)
    assert "does not help" in lines[2] and "against 0.650 of one-hot" in lines[2]
    assert choice["row"] == "rd 2" and "the best row" in lines[0]


def test_folds_by_position_that_test_few_rows_are_not_asked():
    rows = [
        row("a", "raw", 1, [0.1], split=s, n_distinct=n)
        for s, n in (("position", 4), ("random", 9))
    ]
    assert preferred_split(rows) == "random"
