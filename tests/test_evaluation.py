import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from threadpoolctl import threadpool_info, threadpool_limits

from revdist_sklearn import Moments, ReverseDistiller, _evaluation
from revdist_sklearn._evaluation import (
    ALPHAS,
    Layers,
    Representations,
    check_rows,
    evaluate,
    folds,
    format_table,
    ladder,
    mutation_encoder,
    not_single,
    position_offset,
    score_chosen,
    score_folds,
    spearman,
    split_mutations,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def representations(rng):
    X = rng.normal(size=(400, 15)) @ rng.normal(size=(15, 15)) + 3
    moments = Moments((3, 5, 7), block_names=("a", "b", "c")).update(X)
    return Representations(ReverseDistiller().fit_moments(moments), moments), X


def test_spearman_is_scipys(rng):
    y, p = rng.integers(0, 9, 50), rng.normal(size=(50, 3))
    assert_allclose(spearman(y, p), [spearmanr(y, p[:, j]).statistic for j in range(3)])
    assert spearman(y, np.ones((50, 1))).tolist() == [0.0]


def test_scores_are_those_of_grid_search(rng):
    X = rng.normal(size=(60, 5))
    y = X[:, 0] + rng.normal(size=60)
    splitter = KFold(5, shuffle=True, random_state=0)
    expected = []
    for train, test in splitter.split(X):
        scorer = make_scorer(lambda a, b: spearmanr(a, b).statistic)
        search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, cv=splitter, scoring=scorer)
        search.fit(X[train], y[train])
        expected.append(spearmanr(y[test], search.predict(X[test])).statistic)
    assert_allclose(score_folds(X, y, splitter, None), expected)


def test_position_folds_hold_out_whole_positions(rng):
    positions = rng.integers(0, 20, 100).astype(str)
    splitter, groups = folds(100, positions)["position"]
    for train, test in splitter.split(np.zeros(100), groups=groups):
        assert not set(positions[train]) & set(positions[test])
    assert "position" not in folds(100)


def test_mutation_baseline_learns_the_means_of_positions(rng):
    table = np.array([("A", str(p), "W") for p in range(10) for _ in range(10)], dtype=object)
    y = np.repeat(rng.normal(size=10), 10) + 0.01 * rng.normal(size=100)
    schemes = folds(100, table[:, 1])
    random = score_folds(table, y, *schemes["random"], encoder=mutation_encoder())
    position = score_folds(table, y, *schemes["position"], encoder=mutation_encoder())
    assert random.mean() > 0.9 and abs(position.mean()) < 0.5


def test_representations_are_what_they_say(representations):
    rep, X = representations
    A, B, C = X[:, :3], X[:, 3:8], X[:, 8:]
    assert_allclose(np.abs(rep.concatenation_pca(X)[:, :5]), np.abs(PCA(5).fit_transform(X)))
    expected = np.hstack([A, PCA(2).fit_transform(B), PCA(2).fit_transform(C)])
    assert_allclose(np.abs(rep.without_regression(X)), np.abs(expected))
    assert_allclose(rep.raw(1, X), B)
    assert_allclose(rep.distilled(X)[:, :3], A)


def test_evaluate_scores_every_row_in_every_kind_of_fold(representations, rng):
    rep, X = representations
    mutations = [f"A{i % 9}W" for i in range(60)]
    calls = []
    results = evaluate(
        rep, X[:60], rng.normal(size=60), mutations=mutations, curve=True, progress=calls.append
    )
    table = [r for r in results if r["in_table"]]
    # One baseline, three raw, three and two and three prefixes; twice for the folds.
    assert len(table) == 2 * (1 + 3 + 3 + 2 + 3)
    assert (
        len(results) == len(calls) == len(table) + 2 * 2 * len(set(ladder([3, 5, 7])) - {3, 5, 7})
    )
    for r in results:
        assert len(r["scores"]) == 5
        assert_allclose(r["mean"], np.mean(r["scores"]), atol=1e-6)
    # The base is the raw smallest member: the same numbers.
    by_row = {(r["row"], r["folds"]): r["scores"] for r in results}
    assert by_row["raw a", "random"] == by_row["reverse-distilled 3", "random"]
    text = format_table({"set": results})
    assert len(text.splitlines()) == 2 + 12
    assert f"{table[0]['mean']:.3f} ± {table[0]['std']:.3f}" in text


def test_without_mutations_there_are_random_folds_only(representations, rng):
    rep, X = representations
    results = evaluate(rep, X[:60], rng.normal(size=60))
    assert {r["folds"] for r in results} == {"random"}
    assert not any(r["kind"] == "mutation" for r in results)


def test_mutations_are_parsed():
    assert split_mutations(["T2A", "D10E"]).tolist() == [["T", "2", "A"], ["D", "10", "E"]]
    assert not_single(["T2A", "D1A:E3K", "WT"]) == [1, 2]
    with pytest.raises(ValueError, match="mutation 1 is 'D1A:E3K'"):
        split_mutations(["T2A", "D1A:E3K"])


@pytest.mark.parametrize("d", [2, 4, 6])
def test_a_distiller_that_was_cut_is_evaluated_as_far_as_it_goes(rng, d):
    X = rng.normal(size=(400, 15)) @ rng.normal(size=(15, 15)) + 3
    moments = Moments((3, 5, 7), block_names=("a", "b", "c")).update(X)
    rep = Representations(ReverseDistiller(n_components=d).fit_moments(moments), moments)
    results = evaluate(rep, X[:60], rng.normal(size=60))
    widths = {r["width"] for r in results if r["kind"] != "raw"}
    assert max(widths) == d
    assert rep.without_regression(X).shape == (400, d)


def test_replicates_do_not_tell_of_each_other(rng):
    """Measurements are noise, three of each sequence: whoever has seen one knows the others."""
    X = rng.normal(size=(400, 60))
    moments = Moments((10, 50), block_names=("a", "b")).update(X)
    rep = Representations(ReverseDistiller().fit_moments(moments), moments)
    places = rng.permutation(np.tile(np.arange(40), 3))
    y = rng.normal(size=40)[places] + 0.01 * rng.normal(size=120)
    results = evaluate(rep, X[places], y)
    wide = [r["mean"] for r in results if r["width"] == 50]
    # Beyond 0.85 where a sequence is on both sides.
    assert len(wide) == 4 and max(wide) < 0.5


def test_no_split_parts_rows_of_one_sequence_or_position(rng):
    same = rng.integers(0, 40, 120)
    positions = (same // 2).astype(str)
    positions[:2] = "7"  # sequences that join positions
    schemes = folds(120, positions, same)
    assert set(schemes) == {"random", "position"}
    for splitter, groups in schemes.values():
        splits = list(splitter.split(np.zeros(120), groups=groups))
        held = np.concatenate([test for _, test in splits])
        assert sorted(held) == list(range(120))
        for train, test in splits:
            assert not set(same[train]) & set(same[test])
    for train, test in schemes["position"][0].split(same, groups=schemes["position"][1]):
        assert not set(positions[train]) & set(positions[test])


def test_without_replicates_splits_are_those_of_scikit_learn(rng):
    distinct, positions = rng.permutation(60), rng.integers(0, 20, 60).astype(str)
    schemes = folds(60, positions, distinct)
    rows = np.zeros(60)
    known = {
        "random": KFold(5, shuffle=True, random_state=0).split(rows),
        "position": GroupKFold(5).split(rows, groups=positions),
    }
    for name, (splitter, groups) in schemes.items():
        for ours, theirs in zip(splitter.split(rows, groups=groups), known[name], strict=True):
            for mine, part in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(mine, part)


@pytest.mark.parametrize("n_positions", [4, 6])
def test_too_few_positions_give_no_folds_by_position(n_positions, rng):
    positions = np.arange(60) % n_positions
    assert set(folds(60, positions.astype(str), np.arange(60))) == {"random"}
    # All positions are one group where one sequence, as the wild type, bears all their names.
    same = np.r_[np.zeros(20), np.arange(1, 41)]
    assert set(folds(60, np.r_[np.arange(20), np.arange(20), np.arange(20)], same)) == {"random"}


def test_too_few_sequences_are_told_before_anything_is_embedded():
    check_rows([f"M{'A' * i}" for i in range(15)])
    with pytest.raises(ValueError, match="14 distinct sequences are too few for 5 folds"):
        check_rows([f"M{'A' * (i % 14)}" for i in range(99)])


@pytest.mark.parametrize(
    ("mutations", "sequences", "expected"),
    [
        (["T2A", "K3R"], ["MAK", "MTR"], (0, [])),
        (["t2a", "K3R"], ["mak", "mtr"], (0, [])),
        (["T1A", "K2R"], ["MAK", "MTR"], (-1, [])),  # counted from 0
        (["T12A:K13W", "K13R"], ["MAW", "MTR"], (10, [])),
        (["T2A", "WT", "", "K3*"], ["MAK", "MTK", "MTK", "MT"], (0, [])),
        (["T2A", "K3R", "K9R"], ["MAK", "MTK", "MTR"], (0, [1, 2])),
        (["T2A:K3W", "K3R"], ["MAK", "MTR"], (0, [0])),
    ],
)
def test_mutations_are_held_against_their_sequences(mutations, sequences, expected):
    assert position_offset(mutations, sequences) == expected


def test_small_ridges_have_one_thread(monkeypatch):
    """Beside other jobs two wait for each other."""
    threads, original = [], _evaluation.ridge_path

    def counted(*args):
        threads.extend(one["num_threads"] for one in threadpool_info() if is_blas(one))
        return original(*args)

    def is_blas(library):
        return library["user_api"] == "blas"

    monkeypatch.setattr(_evaluation, "ridge_path", counted)
    rng = np.random.default_rng(0)
    with threadpool_limits(limits=3, user_api="blas"):
        allowed = {one["num_threads"] for one in threadpool_info() if is_blas(one)}
        score_folds(
            rng.normal(size=(60, 4)),
            rng.normal(size=60),
            *folds(60)["random"],
        )
    if allowed == {1}:
        pytest.skip("this BLAS has one thread")
    assert set(threads) == {1}


@pytest.fixture
def layers(rng):
    """Four layers of which the second tells of the measurements, on a corpus and on variants."""
    corpus = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 20)) + rng.normal(size=(400, 20))
    moments = Moments((5, 5, 5, 5), block_names=("l4", "l3", "l2", "l1")).update(corpus)
    X = rng.normal(size=(80, 20))
    return Layers(moments, X, [4, 3, 2, 1]), X, X[:, 5:10].sum(axis=1) + rng.normal(size=80)


def test_rows_of_layers_are_those_of_their_columns(representations, layers):
    rep, rows = representations
    found, X, y = layers
    mutations = [f"A{i % 9}W" for i in range(80)]
    results = evaluate(rep, rows[:80], y, mutations=mutations, layers=found)
    by_row = {(r["row"], r["folds"]): r for r in results if r["kind"] == "layers"}
    positions = split_mutations(mutations)[:, 1]
    for scheme, (splitter, groups) in folds(80, positions, np.arange(80)).items():
        expected = {
            "last layer, 4": X[:, :5],
            "middle layer, 2": X[:, 10:15],
            "layer chosen inside the folds": X[:, 5:10],
            "chain of 4 layers": found.chain,
        }
        assert {row for row, folds_of in by_row if folds_of == scheme} == set(expected)
        for row, features in expected.items():
            scores = score_folds(features, y, splitter, groups)
            assert_allclose(by_row[row, scheme]["scores"], scores, atol=1e-6)
            assert by_row[row, scheme]["width"] == features.shape[1]
    assert len(by_row) == 8
    # The first of the chain is the first layer as it is, the residuals of the others follow.
    assert_allclose(found.chain[:, :5], X[:, :5])
    assert 8 <= found.chain.shape[1] < 20


def test_a_layer_is_chosen_by_the_training_rows_alone(rng):
    """Rows of the test tell of another layer than those of training, in each fold."""
    y = rng.normal(size=100)
    splitter = KFold(5)
    honest, cheat = rng.normal(size=(2, 100, 3))
    honest[:, 0] += y
    for train, test in splitter.split(y):
        wrong = cheat.copy()
        wrong[test, 0] = 100 * y[test]  # what a look at the test rows would take
        right, chosen = score_chosen([wrong, honest], y, _OneSplit(train, test), None)
        assert chosen == [1]
        assert_allclose(right, score_folds(honest, y, _OneSplit(train, test), None))


class _OneSplit:
    """A given split of all rows, and KFold of the training rows."""

    def __init__(self, train, test):
        self.outer = train, test

    def split(self, X, y=None, groups=None):
        if len(X) == sum(map(len, self.outer)):
            yield self.outer
        else:
            yield from KFold(4).split(X)


def test_of_equal_layers_the_first_is_chosen(rng):
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    scores, chosen = score_chosen([X, X.copy()], y, KFold(5), None)
    assert chosen == [0] * 5
    assert_allclose(scores, score_folds(X, y, KFold(5), None))
