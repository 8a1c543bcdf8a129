"""Rows of the table: features, and what they need."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.preprocessing import OneHotEncoder

from revdist_sklearn import Moments, ReverseDistiller
from revdist_sklearn.evaluation._rows import (
    LeadingComponents,
    PartScaler,
    Representations,
    SideBySide,
    family_rows,
    ladder,
    layer_rows,
    mutation_features,
    one_hot,
)

SIZES = (3, 5, 8)


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(400, 8))
    return hidden @ rng.normal(size=(8, 16)) + 0.1 * rng.normal(size=(400, 16)) + 1


@pytest.fixture(scope="module")
def moments(corpus):
    moments = Moments(SIZES)
    moments.update(corpus)
    return moments


@pytest.fixture(scope="module")
def rows(corpus, moments):
    distiller = ReverseDistiller(SIZES).fit_moments(moments)
    found = family_rows(Representations(distiller, moments), corpus[:50], curve=(2, 4))
    return {each.kind if each.kind != "raw" else each.names[0]: each for each in found}


def test_mutation_features_of_singles_are_the_indicators_of_three_columns():
    mutations = [(("M", 1, "A"),), (("M", 1, "C"),), (("K", 2, "A"),), (("T", 3, "W"),)]
    table = np.array([row[0] for row in mutations], dtype=object)
    expected = OneHotEncoder(sparse_output=False).fit_transform(table)
    found = mutation_features(mutations)
    assert found.shape == expected.shape
    # The same columns in another order.
    assert_array_equal(sorted(found.T.tolist()), sorted(expected.T.tolist()))


def test_mutation_features_add_up():
    one, two = (("M", 1, "A"),), (("K", 2, "A"),)
    first, second, both, wild = mutation_features([one, two, one + two, ()])
    assert_array_equal(both, first + second)
    assert not wild.any()


def test_one_hot_has_a_column_for_each_letter_of_a_site_that_varies():
    assert_array_equal(one_hot(["MKA", "MRA", "MKC"]), [[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]])
    with pytest.raises(ValueError, match="differ in length"):
        one_hot(["MK", "M"])


def test_rows_of_a_family_and_what_they_need(rows):
    assert rows["distilled"].widths == (2, 3, 4, 5, 8)
    assert rows["distilled"].between == ("reverse-distilled 2", "reverse-distilled 4")
    assert rows["distilled"].parameters == {"regressor": "ols", "block_sizes": list(SIZES)}
    assert rows["distilled"].members == ((0,), (0,), (0, 1), (0, 1), (0, 1, 2))
    assert [rows[f"raw {i}"].members for i in (1, 2, 3)] == [((0,),), ((1,),), ((2,),)]
    assert rows["without_regression"].widths == (5, 8)
    assert rows["concatenation"].widths == (16,)
    assert rows["largest_pca"].widths == (3, 5) and rows["largest_pca"].members[0] == (2,)
    assert {each.members[-1] for each in rows.values() if "pca" in each.kind} == {(0, 1, 2), (2,)}


def test_baselines_are_those_of_scikit_learn(corpus, rows):
    whole, largest = PCA().fit(corpus), PCA().fit(corpus[:, 8:])
    for kind, expected in (
        ("concatenation_pca", whole.transform(corpus[:50])[:, :8]),
        ("largest_pca", largest.transform(corpus[:50, 8:])),
    ):
        assert_allclose(np.abs(rows[kind].features), np.abs(expected), atol=1e-8)
    features = rows["without_regression"].features
    assert_array_equal(features[:, :3], corpus[:50, :3])
    middle = PCA().fit(corpus[:, 3:8]).transform(corpus[:50, 3:8])
    assert_allclose(np.abs(features[:, 3:5]), np.abs(middle[:, :2]), atol=1e-8)


def test_components_of_few_rows_are_filled_with_zeros():
    X = np.random.default_rng(0).normal(size=(4, 9))
    Z = LeadingComponents(6).fit(X).transform(X)
    assert Z.shape == (4, 6) and np.linalg.matrix_rank(Z) == 3 and not Z[:, 4:].any()


def test_scores_beside_go_first_and_are_not_penalised(rows):
    scores = np.arange(50.0)[:, None]
    beside = rows["distilled"].beside(scores, (1,))
    assert beside.n_unpenalized == 1 and beside.widths == (3, 4, 5, 6, 9)
    assert beside.members[0] == (0, 1) and beside.names[-1] == "reverse-distilled 8 + score"
    assert beside.between == ("reverse-distilled 2 + score", "reverse-distilled 4 + score")
    assert_array_equal(beside.features[:][:, :1], scores)
    of_fold = rows["fold_pca"].beside(scores, (0,))
    Z = of_fold.in_fold.fit(of_fold.features[:]).transform(of_fold.features[:])
    assert_array_equal(Z[:, :1], scores)
    plain = rows["fold_pca"].in_fold.fit(rows["fold_pca"].features)
    assert_allclose(Z[:, 1:], plain.transform(rows["fold_pca"].features), atol=1e-9)


def test_parts_are_brought_to_one_scale():
    X, constant = np.random.default_rng(0).normal(size=(30, 4)), np.ones((30, 2))
    parts = 100 * X, X[:, :1], constant
    both = PartScaler([4, 1, 2]).fit_transform(np.hstack(parts))
    assert_allclose(both[:, :4].var(axis=0).sum(), 1)
    assert_allclose(both[:, 4].var(), 1)
    assert np.isfinite(both).all()


def test_parts_are_put_side_by_side_for_the_rows_that_are_taken():
    letters, X = one_hot(["MKA", "MRA", "MKC"]), np.arange(6.0).reshape(3, 2)
    both, taken = SideBySide(letters, X), np.array([2, 0])
    assert letters.dtype == bool and both.shape == (3, 6)
    assert_array_equal(both[taken], np.hstack([letters, X])[taken])
    assert both[taken].dtype == np.float64
    assert SideBySide(X, both).parts[1] is both  # nothing is copied


def test_layers_of_a_model(corpus):
    X = np.hstack([corpus, corpus**2])
    moments = Moments((16, 16))
    moments.update(X)
    last, middle, chosen, chain = layer_rows(moments, X[:50], [4, 2], 1)
    assert last.names == ("last layer, 4",) and middle.names == ("middle layer, 2",)
    assert_array_equal(middle.features, X[:50, 16:])
    assert len(chosen.choices) == 2 and chain.widths[0] > 16
    assert {each.members for each in (last, middle, chosen, chain)} == {((1,),)}


def test_the_ladder_has_the_middle_before_each_stage():
    assert ladder([32, 64, 96]) == [16, 32, 48, 64, 80, 96]
    assert ladder([1]) == [1]


def test_columns_by_variance_are_compared_at_the_widths_of_the_stages():
    """Each prefix with the models that it needs, also where the base alone suffices for none."""
    X = np.random.default_rng(0).normal(size=(60, 10)) * [1, 1, 5, 5, 5, 9, 9, 9, 9, 9]
    moments = Moments([2, 3, 5]).update(X)
    distiller = ReverseDistiller(order="variance").fit_moments(moments)
    assert distiller.stage_dims_[0] == 0
    rows = family_rows(Representations(distiller, moments), X, others=[("x", distiller)])
    for kind in ("distilled", "other"):
        [found] = [each for each in rows if each.kind == kind]
        assert found.widths == (2, 3, 5)
        assert found.features.shape == (60, 5)
        needed = [distiller.n_models_[d - 1] for d in found.widths]
        assert [len(each) for each in found.members] == ([3, 3, 3] if kind == "other" else needed)
    assert needed[0] > 1
