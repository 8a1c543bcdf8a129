import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from revdist_sklearn.embedding._sequences import (
    RESIDUES,
    apply_limit,
    batches,
    check_sequences,
    nucleotides,
    runs,
    window_starts,
)

GOOD = ["MKTAY", "GIVEQX"]


@pytest.mark.parametrize(
    "container",
    [list, tuple, np.array, lambda s: np.array(s, dtype=object), pd.Series, pd.Index],
    ids=["list", "tuple", "str array", "object array", "Series", "Index"],
)
def test_flat_containers_are_accepted_and_not_changed(container):
    given_in = container(GOOD)
    assert check_sequences(given_in) == GOOD
    assert list(given_in) == GOOD


def test_series_of_any_index_is_read_in_order():
    assert check_sequences(pd.Series(GOOD, index=[7, 3])) == GOOD


def test_lower_case_is_read_as_upper_case_and_all_known_letters_pass():
    assert check_sequences(["mKtx", RESIDUES.lower()]) == ["MKTX", RESIDUES]


# The last three (sharp s, dotless i, long s) turn into ASCII letters in upper case.
@pytest.mark.parametrize("character", [*"J*-. 1<\n\tj", "\xdf", "\u0131", "\u017f"])
def test_foreign_character_is_named_with_its_place(character):
    with pytest.raises(ValueError) as caught:
        check_sequences(["MKTAY", "GI" + character + "V"])
    message = str(caught.value)
    assert f"Sequence 1 has {character!r} at position 2" in message
    assert "ACDEFGHIKLMNPQRSTVWY and X, B, Z, U, O" in message


def test_letters_of_an_architecture_are_the_allowed_ones():
    assert check_sequences(["ACX"], residues="ACX") == ["ACX"]
    with pytest.raises(ValueError, match="Sequence 0 has 'B' at position 1"):
        check_sequences(["ABX"], residues="ACX")


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        (None, "None"),
        (3.5, r"3.5 \(float\)"),
        (np.nan, r"nan \(float\)"),
        (pd.NA, r"<NA> \(NAType\)"),
        (b"MKT", r"b'MKT' \(bytes\)"),
        (["MKT"], r"\['MKT'\] \(list\)"),
    ],
)
def test_item_that_is_no_string_is_named_with_its_index(item, shown):
    with pytest.raises(TypeError, match=f"Sequence 1 is {shown}, not a string"):
        check_sequences(["MKT", item])


def test_numeric_array_is_an_error_of_its_first_item():
    with pytest.raises(TypeError, match=r"Sequence 0 is .*1\.0.*not a string"):
        check_sequences(np.ones(3))


def test_empty_sequence_is_named_with_its_index():
    with pytest.raises(ValueError, match="Sequence 1 is empty"):
        check_sequences(["MKT", ""])


@pytest.mark.parametrize(
    "nothing", [[], (), np.array([], dtype=object), pd.Series([], dtype=object)]
)
def test_no_sequence_at_all(nothing):
    with pytest.raises(ValueError, match="at least one protein sequence"):
        check_sequences(nothing)


@pytest.mark.parametrize("one", ["MKTAY", b"MKTAY", np.str_("MKTAY")])
def test_bare_string_is_no_list_of_sequences(one):
    with pytest.raises(TypeError, match=r"length 5\. For a single protein .*\[sequence\]"):
        check_sequences(one)


@pytest.mark.parametrize(
    "container",
    [set(GOOD), frozenset(GOOD), dict.fromkeys(GOOD), iter(GOOD), (s for s in GOOD), None, 3],
    ids=["set", "frozenset", "dict", "iterator", "generator", "None", "number"],
)
def test_container_without_order_or_length_is_refused(container):
    with pytest.raises(TypeError, match="list, tuple, 1-d array or Series"):
        check_sequences(container)


@pytest.mark.parametrize(
    ("container", "words"),
    [
        (np.array([GOOD]), r"ndarray of shape \(1, 2\)"),
        (np.array("MKT"), r"ndarray of shape \(\)"),
        (pd.DataFrame({"protein": GOOD}), r"DataFrame of shape \(2, 1\).*frame\['protein'\]"),
        (sparse.csr_array(np.eye(2)), r"a sparse matrix of numbers"),
    ],
    ids=["2-d array", "0-d array", "frame", "sparse"],
)
def test_other_than_one_dimension_is_refused_with_a_way_out(container, words):
    with pytest.raises(ValueError, match=words):
        check_sequences(container)


def test_limit_is_the_longest_that_passes():
    assert apply_limit(GOOD, 6, "error") == GOOD
    with pytest.raises(ValueError, match="Sequence 1 has 6 residues, the limit is 5") as caught:
        apply_limit(GOOD, 5, "error")
    for way_out in ("max_length", "'window'", "'truncate'"):
        assert way_out in str(caught.value)


def test_truncation_warns_once_with_the_numbers():
    with pytest.warns(UserWarning) as caught:
        cut = apply_limit(["MKT", "MKTAY", "GIVEQX"], 4, "truncate")
    assert cut == ["MKT", "MKTA", "GIVE"]
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "2 of 3 sequences are longer than 4 residues" in message
    assert "sequence 1 with 5" in message
    assert "longest has 6, at index 2" in message


@pytest.mark.parametrize("too_long", ["error", "truncate", "window"])
def test_no_limit_leaves_everything_and_is_silent(too_long, recwarn):
    assert apply_limit(["A" * 5000], None, too_long) == ["A" * 5000]
    assert not recwarn.list


@given(length=st.integers(1, 200), size=st.integers(1, 60))
def test_windows_cover_every_residue_and_overlap_by_half(length, size):
    starts = window_starts(length, size)
    covered = np.zeros(length, dtype=int)
    for start in starts:
        assert 0 <= start and start + min(size, length) <= length
        covered[start : start + size] += 1
    assert covered.min() >= 1
    steps = np.diff(starts)
    assert np.all(steps[:-1] == max(1, size // 2))
    assert np.all(steps >= 1) and np.all(steps <= max(1, size // 2))


def test_windows_by_hand():
    assert window_starts(7, None) == [0]
    assert window_starts(7, 7) == [0]
    assert window_starts(8, 7) == [0, 1]
    assert window_starts(14, 6) == [0, 3, 6, 8]
    assert window_starts(3, 1) == [0, 1, 2]


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 80), min_size=1, max_size=40), budget=st.integers(1, 400))
def test_batches_partition_within_the_budget_with_little_padding(lengths, budget):
    plan = list(batches(lengths, budget))
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    longest = [max(lengths[i] for i in batch) for batch in plan]
    assert longest == sorted(longest, reverse=True)
    for batch, most in zip(plan, longest, strict=True):
        assert len(batch) == 1 or len(batch) * (most + 2) <= budget
        assert min(lengths[i] for i in batch) >= 0.9 * most


def test_sequences_of_one_length_fill_the_budget():
    assert [len(batch) for batch in batches([8] * 25, budget=100)] == [10, 10, 5]


@given(lengths=st.lists(st.integers(1, 50), max_size=30), most=st.integers(1, 90))
def test_runs_are_consecutive_and_bounded(lengths, most):
    plan = list(runs(lengths, most))
    assert [i for start, stop in plan for i in range(start, stop)] == list(range(len(lengths)))
    for start, stop in plan:
        assert stop - start == 1 or sum(lengths[start:stop]) <= most
        if stop < len(lengths):  # as many as fit
            assert sum(lengths[start : stop + 1]) > most


def test_squares_count_in_a_batch():
    """20 tokens and 0.1 x 400 are 60; two of them fill a budget of 120."""
    lengths = [18] * 5
    assert list(batches(lengths, 120, square=0.1)) == [[0, 1], [2, 3], [4]]
    assert list(batches(lengths, 100)) == [[0, 1, 2, 3, 4]]
    assert list(batches(lengths, 10, square=0.1)) == [[i] for i in range(5)]


def test_all_offenders_are_named_and_counted():
    with pytest.raises(ValueError, match=r"3 of 4; the others: Sequence 1, Sequence 3\)"):
        check_sequences(["MK*", "M.K", "MKT", "M-"])
    with pytest.raises(ValueError, match=r"^b \(line 3\) has '1' at position 1"):
        check_sequences(["MK", "M1"], labels=["a (line 1)", "b (line 3)"])
    with pytest.raises(ValueError, match=r"Sequence 0 is empty \(so are 2 of 3; .*Sequence 2\)"):
        check_sequences(["", "MKT", ""])
    with pytest.raises(TypeError, match="the others: " + ", ".join(f"b{i}" for i in range(1, 11))):
        check_sequences([None] * 30, labels=[f"b{i}" for i in range(30)])


def test_what_is_allowed_is_what_the_models_know():
    with pytest.raises(ValueError, match=r"ACDEFGHIKLMNPQRSTVWY and X, in .* write X for"):
        check_sequences(["MK*"], "ACDEFGHIKLMNPQRSTVWYX")
    with pytest.raises(
        ValueError,
        match=r"^Sequence 0 has 'X' .* Allowed are ACDEFGHIKLMNPQRSTVWY, in either case",
    ) as caught:
        check_sequences(["MKX"], "ACDEFGHIKLMNPQRSTVWY")
    assert "write one of these for an unknown residue, or drop" in str(caught.value)


def test_one_sequence_is_told_of_without_counting():
    with pytest.raises(ValueError, match=r"^`reference` has 5 residues, the limit is 4\. Raise"):
        apply_limit(["MKTAY"], 4, "error", ["`reference`"])
    with pytest.warns(
        UserWarning, match=r"^`reference` has 5 residues and was cut to its first 4"
    ):
        assert apply_limit(["MKTAY"], 4, "truncate", ["`reference`"]) == ["MKTA"]


def test_labels_name_the_long_ones():
    labels = ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"^b has 5 residues, .* are longer: b, c\)"):
        apply_limit(["MKT", "MKTAY", "GIVEQX"], 4, "error", labels)
    with pytest.warns(UserWarning, match=r"the first is b with 5 .* has 6, it is c\."):
        apply_limit(["MKT", "MKTAY", "GIVEQX"], 4, "truncate", labels)


@pytest.mark.parametrize(
    ("sequence", "is_one"),
    [
        ("ATGGCTAGCTAGGCTAACGT", True),
        ("auggcuagcuaggcuaacgu", True),
        ("ATGGCTAGNNNNNNCTAACGT", True),
        ("ATGGCTAGCTAGGCTAACG", False),  # 19 letters
        ("ATGGCTAGCTAGGCTAACGU", False),  # T and U
        ("GAGAGAGAGAGAGAGAGAGAGAGA", False),  # a repeat of glycine and alanine
        ("ATGGCTAGCTAGGCTAACGTM", False),
    ],
)
def test_nucleotides_are_told_by_their_letters(sequence, is_one):
    assert nucleotides(["MKT", sequence]) == ([1] if is_one else [])
