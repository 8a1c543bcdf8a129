import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.model_selection import GroupKFold

from revdist_sklearn import PrefixRidgeClassifierCV, PrefixRidgeCV
from revdist_sklearn.prefix._search import choose, resolve_prefixes

NAMES = [*(f"rd_a__{i}" for i in range(3)), *(f"rd_b__{i}" for i in range(4))]


def test_stage_widths_come_from_the_names():
    assert resolve_prefixes(None, 7, NAMES).tolist() == [3, 7]


@pytest.mark.parametrize("names", [None, ["pca__0"] * 7, ["x"] * 7])
def test_a_ladder_where_the_names_tell_nothing(names):
    assert resolve_prefixes(None, 7, names).tolist() == [1, 2, 4, 7]


def test_one_column():
    for prefixes in (None, "all", 1, [1]):
        assert resolve_prefixes(prefixes, 1).tolist() == [1]


def test_all_and_a_count():
    assert resolve_prefixes("all", 5).tolist() == [1, 2, 3, 4, 5]
    assert resolve_prefixes(20, 320).tolist() == list(range(16, 321, 16))


@given(st.data(), st.integers(1, 300))
def test_a_count_is_kept_and_ends_with_all_columns(data, k):
    count = data.draw(st.integers(1, k))
    prefixes = resolve_prefixes(count, k)
    assert len(np.unique(prefixes)) == count
    assert prefixes[0] >= 1 and prefixes[-1] == k
    assert np.ptp(np.diff(prefixes, prepend=0)) <= 1


def test_an_array_is_sorted_and_each_is_taken_once():
    assert_array_equal(resolve_prefixes([5, 2, 5], 7), [2, 5])


@pytest.mark.parametrize(
    ("prefixes", "match"),
    [
        (8, r"prefixes=8 is no number of prefixes.* 7 columns; use an integer in \[1, 7\]"),
        ([2, 8], r"prefixes has 8, but X has 7 columns"),
        ([0, 2], r"prefixes has 0, but"),
        ([2.0, 4.0], "no one-dimensional array of integers"),
        ([[2, 4]], "no one-dimensional array of integers"),
        ([], "no one-dimensional array of integers"),
    ],
)
def test_prefixes_that_cannot_be(prefixes, match):
    with pytest.raises(ValueError, match=match):
        resolve_prefixes(prefixes, 7)


def scores(*means):
    """Three splits around each mean, one of a prefix and alpha each."""
    return np.array(means, dtype=float)[..., None] + [-0.1, 0.0, 0.1]


def test_the_best_is_chosen():
    assert choose(scores([0.1, 0.2], [0.3, 0.9], [0.8, 0.1])) == (1, 1)


def test_ties_take_the_smaller_prefix_then_the_first_alpha():
    assert choose(scores([0.1, 0.2], [0.5, 0.5], [0.5, 0.4])) == (1, 0)
    # Rounding is no reason for a larger model.
    assert choose(scores([0.1], [0.5], [0.5 + 1e-13])) == (1, 0)
    assert choose(scores([0.1], [0.5], [0.5 + 1e-8])) == (2, 0)


def test_ties_are_judged_beside_the_scores():
    errors = -1e-12 * np.array([[[3.0, 3.0]], [[2.0, 2.0]], [[1.0, 1.0]]])
    assert choose(errors) == (2, 0)


def test_undefined_scores_are_the_worst():
    some = scores([0.1], [0.9], [0.5])
    some[1, 0, 2] = np.nan
    assert choose(some) == (2, 0)
    with pytest.raises(ValueError, match="None of the 3 mean scores over 3 splits is a number"):
        choose(some * np.nan)


def test_one_standard_error():
    # The spread of the three splits is 0.1, the standard error 0.1 / sqrt(3) = 0.0577.
    some = scores([0.5, 0.6], [0.74, 0.75], [0.72, 0.8])
    assert choose(some) == (2, 1)
    assert choose(some, one_standard_error=True) == (1, 1)
    some = scores([0.5, 0.6], [0.7, 0.74], [0.7, 0.8])
    assert choose(some, one_standard_error=True) == (2, 1)
    with pytest.raises(ValueError, match="needs two splits or more, but cv gives one"):
        choose(some[..., :1], one_standard_error=True)


@pytest.mark.parametrize("search", [PrefixRidgeCV, PrefixRidgeClassifierCV])
def test_a_splitter_that_wants_groups_says_how_to_give_them(search):
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    with pytest.raises(ValueError, match=r"give them with fit\(X, y, groups=\.\.\)"):
        search(cv=GroupKFold(3)).fit(X, y)
    search(cv=GroupKFold(3)).fit(X, y, groups=np.arange(20) // 2)
