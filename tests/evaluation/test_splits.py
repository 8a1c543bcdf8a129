import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revdist_sklearn.evaluation._splits import draws, inner, never_tested, splits
from revdist_sklearn.evaluation._table import Residues, Variants

WILD_TYPE = "MKTAYIAKQRQISF"
OF_POSITIONS = ("position", "contiguous", "modulo")


def variants(mutations, folds=None):
    """Return a table of mutations; of those that are None there is another letter each."""
    sequences = []
    for i, row in enumerate(mutations):
        text = list(WILD_TYPE)
        for _, position, new in row or ():
            text[position - 1] = new
        sequences.append("".join(text) if row is not None else f"W{WILD_TYPE}{'W' * i}")
    n = len(sequences)
    y, counts = np.arange(float(n)), np.ones(n, dtype=int)
    return Variants(
        "assay",
        sequences,
        y,
        "regression",
        counts,
        sequences,
        folds or {},
        {},
        [],
        mutations,
        WILD_TYPE,
    )


def singles(positions, letters="CDEF"):
    return [((WILD_TYPE[p - 1], p, new),) for p in positions for new in letters]


def proteins(sequences, folds=None):
    n = len(sequences)
    target = [np.array(list(text)) for text in sequences]
    args = ("residues", np.ones(n, dtype=int), sequences, folds or {}, {}, [])
    return Residues("proteins", sequences, target, *args)


PLACES = st.lists(st.integers(1, len(WILD_TYPE)), max_size=3, unique=True)
ROWS = st.lists(
    st.one_of(st.none(), st.tuples(PLACES, st.sampled_from("CDEG"))),
    min_size=6,
    max_size=30,
)


def table_of(rows):
    """Return variants of distinct sequences, of a drawn list."""
    mutations = [
        None if row is None else tuple((WILD_TYPE[p - 1], p, row[1]) for p in sorted(row[0]))
        for row in rows
    ]
    known = dict.fromkeys(row for row in mutations if row is not None)
    return variants([*known, *(None for row in mutations if row is None)])


def positions(table, rows):
    return {p for i in rows for _, p, _ in table.mutations[i] or ()}


def try_splits(table, kind, **options):
    try:
        return splits(table, kind, **options)
    except ValueError as error:
        assert "that can be tested" in str(error)
        return []


def hash_of(seed, name):
    return int.from_bytes(hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:8], "big")


def test_random_folds_are_hashes_of_seed_and_sequence():
    table = variants(singles(range(1, 11)))
    found = splits(table, "random", seed=3, n_splits=4)
    for split in found:
        expected = [
            i for i, s in enumerate(table.sequences) if str(hash_of(3, s) % 4) == split.name
        ]
        assert split.test.tolist() == expected
        assert sorted([*split.train, *split.test]) == list(range(40))
        assert (split.kind, split.seed) == ("random", 3)
    assert not len(never_tested(table, found))
    other = splits(table, "random", seed=4, n_splits=4)
    assert [s.test.tolist() for s in found] != [s.test.tolist() for s in other]


@settings(max_examples=150, deadline=None)
@given(ROWS, st.sampled_from(OF_POSITIONS), st.integers(0, 3), st.integers(2, 5))
def test_no_position_is_on_both_sides_and_rows_are_tested_once(rows, kind, seed, n_splits):
    table = table_of(rows)
    found = try_splits(table, kind, seed=seed, n_splits=n_splits)
    tested = [i for split in found for i in split.test]
    assert len(tested) == len(set(tested))
    if found:
        assert set(never_tested(table, found)) == set(range(len(table))) - set(tested)
    unknown = {i for i, row in enumerate(table.mutations) if row is None}
    wild = {i for i, row in enumerate(table.mutations) if row == ()}
    for split in found:
        train, test = set(split.train), set(split.test)
        assert train and test and not train & test
        assert not positions(table, train) & positions(table, test)
        assert not (train | test) & unknown and wild <= train
        # Nothing is left out for another reason: what shares no position trains.
        at = positions(table, test)
        assert train == {
            i
            for i, row in enumerate(table.mutations)
            if row is not None and i not in test and not at & {p for _, p, _ in row}
        }


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(0, 3))
def test_folds_by_position_are_hashes_of_positions(rows, seed):
    """Witness: a loop over rows and positions."""
    table = table_of(rows)
    found = {split.name: split.test.tolist() for split in try_splits(table, "position", seed=seed)}
    for name, test in found.items():
        assert test == [
            i
            for i, row in enumerate(table.mutations)
            if row and {str(hash_of(seed, p) % 5) for _, p, _ in row} == {name}
        ]


@settings(max_examples=100, deadline=None)
@given(ROWS, st.sampled_from(["random", "position"]), st.data())
def test_a_row_that_is_added_moves_no_other(rows, kind, data):
    table = table_of(rows)
    at = data.draw(st.integers(0, len(WILD_TYPE) - 1))
    more = [*table.mutations, ((WILD_TYPE[at], at + 1, "Y"), (WILD_TYPE[at - 1], at or 14, "Y"))]

    def fold_of_sequence(table):
        found = try_splits(table, kind)
        return {table.sequences[i]: split.name for split in found for i in split.test}

    before, after = fold_of_sequence(table), fold_of_sequence(variants(more))
    assert all(after[s] == fold for s, fold in before.items() if s in after)
    if kind == "random" and before:
        assert set(before) <= set(after)


@pytest.mark.parametrize("kind", OF_POSITIONS)
def test_the_wild_type_alone_is_no_training(kind):
    """All rows share position 1: where one is tested, the others cannot train."""
    pairs = [(("M", 1, "C"), (WILD_TYPE[p], p + 1, "C")) for p in range(1, 14)]
    with pytest.raises(ValueError, match=r"14 rows give no folds .* Measure more positions"):
        splits(variants([*pairs, ()]), kind)


def proteingym_folds(places, n_splits, contiguous):
    """The folds of singles in the benchmark: sorted positions in runs, or one after the other."""
    places = sorted(set(places))
    if not contiguous:
        return {p: i % n_splits for i, p in enumerate(places)}
    size, more = divmod(len(places), n_splits)
    lengths = [size + (k < more) for k in range(n_splits)]
    return dict(zip(places, np.repeat(range(n_splits), lengths).tolist(), strict=True))


@pytest.mark.parametrize("n_splits", [2, 3, 5])
@pytest.mark.parametrize("kind", ["contiguous", "modulo"])
def test_folds_of_the_benchmark(kind, n_splits):
    places = [1, 2, 4, 5, 6, 9, 10, 11, 12, 14]
    table = variants([*singles(places, "DE"), ()])
    fold = proteingym_folds(places, n_splits, kind == "contiguous")
    found = splits(table, kind, n_splits=n_splits)
    assert len(found) == n_splits and {split.seed for split in found} == {None}
    for split in found:
        at = [
            i
            for i, row in enumerate(table.mutations)
            if row and fold[row[0][1]] == int(split.name)
        ]
        assert split.test.tolist() == at
        assert split.train.tolist() == sorted(set(range(len(table))) - set(at))


def test_rows_over_several_folds_are_never_tested():
    far, near = (("M", 1, "C"), ("F", 14, "C")), (("M", 1, "C"), ("K", 2, "C"))
    table = variants([*singles([1, 2, 13, 14], "DE"), far, near])
    found = splits(table, "contiguous", n_splits=2)
    assert never_tested(table, found).tolist() == [8]
    assert [split.test.tolist() for split in found] == [[0, 1, 2, 3, 9], [4, 5, 6, 7]]
    assert [split.train.tolist() for split in found] == [[4, 5, 6, 7], [0, 1, 2, 3, 9]]


def test_folds_of_a_column():
    folds = {"fold_x": np.array(["10", "2", "", "2", "10", "b"], dtype=object)}
    table = variants(singles([1, 2, 3], "DE"), folds)
    found = splits(table, "fold_x")
    assert [(s.name, s.train.tolist(), s.test.tolist()) for s in found] == [
        ("2", [0, 4, 5], [1, 3]),
        ("10", [1, 3, 5], [0, 4]),
        ("b", [0, 1, 3, 4], [5]),
    ]
    assert never_tested(table, found).tolist() == [2]
    assert {(s.kind, s.seed) for s in found} == {("fold_x", None)}
    [first, *_] = [inner(split, table) for split in found]
    assert [(s.kind, s.name, s.train.tolist(), s.test.tolist()) for s in first] == [
        ("fold_x", "10", [5], [0, 4]),
        ("fold_x", "b", [0, 4], [5]),
    ]


def test_numbers_of_mutations():
    two, three = (("M", 1, "C"), ("K", 2, "C")), (("M", 1, "C"), ("K", 2, "C"), ("T", 3, "C"))
    table = variants([*singles([1, 2], "D"), two, (), three, None])
    found = splits(table, "n_mutations")
    assert [(s.name, s.train.tolist(), s.test.tolist()) for s in found] == [
        ("2 mutations", [0, 1, 3], [2]),
        ("3 mutations", [0, 1, 3], [4]),
        ("all", [0, 1, 3], [2, 4]),
    ]
    assert [s.name for s in splits(variants(table.mutations[:3]), "n_mutations")] == [
        "2 mutations"
    ]
    with pytest.raises(ValueError, match="Rows of one mutation"):
        splits(variants(singles([1, 2])), "n_mutations")
    with pytest.raises(ValueError, match="Rows of one mutation"):
        splits(variants([two, three]), "n_mutations")


def test_proteins():
    table = proteins([f"MK{'A' * i}" for i in range(30)])
    found = splits(table, "protein", seed=1)
    for split in found:
        expected = [
            i for i, s in enumerate(table.sequences) if str(hash_of(1, s) % 5) == split.name
        ]
        assert split.test.tolist() == expected
    assert not len(never_tested(table, found))
    assert {s.kind for s in inner(found[0], table)} == {"protein"}
    assert all(len(s.train) == 7 and len(s.test) == 23 for s in draws(table, 7, "protein"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda t: splits(t, "family"),
            "cannot be split by 'family'; take one of random, position",
        ),
        (lambda t: splits(t, "protein"), "cannot be split by 'protein'"),
        (lambda t: splits(t, "fold_x"), "cannot be split by 'fold_x'"),
        (lambda t: splits(t, "random", n_splits=1), "n_splits=1 is too few"),
        (lambda t: splits(t, "position"), r"20 rows give no folds .* It has no mutations: read"),
        (lambda t: splits(t, "n_mutations"), "It has no mutations: read"),
        (lambda t: draws(t, 5, "position"), "leaves none for the test.* It has no mutations"),
        (lambda t: draws(t, 20, "random"), "n_train=20 of 20 rows leaves none for the test"),
        (lambda t: draws(t, 0, "random"), "n_train=0"),
        (lambda t: draws(t, 5, "modulo"), "cannot be drawn by 'modulo'; take random or position"),
    ],
)
def test_what_is_not_possible_says_why(call, message):
    with pytest.raises(ValueError, match=message):
        call(variants([None] * 20))


def test_one_position_is_too_few():
    with pytest.raises(ValueError, match=r"4 rows give no folds by 'position'.*split by 'random'"):
        splits(variants(singles([1])), "position")
    with pytest.raises(ValueError, match=r"2 are needed\. Give two values"):
        splits(variants(singles([1]), {"fold_x": np.array(["a"] * 4, dtype=object)}), "fold_x")
    with pytest.raises(ValueError, match="take one of protein, fold_y"):
        splits(proteins(["MK"], {"fold_y": np.array(["a"], dtype=object)}), "random")


@settings(max_examples=100, deadline=None)
@given(ROWS, st.sampled_from(["random", *OF_POSITIONS]), st.integers(0, 2))
def test_inner_splits_are_of_the_training_rows_and_of_the_same_kind(rows, kind, seed):
    table = table_of(rows)
    for split in try_splits(table, kind, seed=seed):
        try:
            inside = inner(split, table, n_splits=3)
        except ValueError as error:
            assert "random" in str(error) and len(split.train) < 12
            continue
        assert len(inside) >= 2
        for part in inside:
            assert part.kind in (kind, "random") and part.seed == split.seed
            assert set(part.train) | set(part.test) <= set(split.train)
            assert not set(part.train) & set(part.test)
            if part.kind in OF_POSITIONS:
                assert not positions(table, part.train) & positions(table, part.test)


def test_inner_splits_of_numbers_are_random():
    two = (("M", 1, "C"), ("K", 2, "C"))
    table = variants([*singles(range(1, 11)), two])
    [split] = splits(table, "n_mutations")
    inside = inner(split, table)
    assert {part.kind for part in inside} == {"random"}
    assert sorted(i for part in inside for i in part.test) == split.train.tolist()


def test_random_draws_are_the_smallest_hashes_and_hold_smaller_ones():
    table = variants(singles(range(1, 11)))
    few, many = draws(table, 5, "random", seed=2), draws(table, 12, "random", seed=2)
    assert len(few) == 20 and len({tuple(s.train) for s in few}) == 20
    for draw, (small, large) in enumerate(zip(few, many, strict=True)):
        order = sorted(
            range(40), key=lambda i, draw=draw: hash_of(f"2 draw {draw}", table.sequences[i])
        )
        assert small.train.tolist() == sorted(order[:5]) and len(small.test) == 35
        assert set(small.train) <= set(large.train)
        assert not set(large.train) & set(large.test)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(1, 12), st.integers(0, 2))
def test_draws_of_positions_test_rows_of_none_of_them(rows, n_train, seed):
    table = table_of(rows)
    try:
        found = draws(table, n_train, "position", n_draws=3, seed=seed)
    except ValueError as error:
        assert "leaves none for the test" in str(error)
        return
    known = [i for i, row in enumerate(table.mutations) if row is not None]
    for split in found:
        assert len(split.train) == n_train and set(split.train) <= set(known)
        assert not positions(table, split.train) & positions(table, split.test)
        assert all(table.mutations[i] for i in split.test)
    if n_train > 1:
        smaller = draws(table, n_train - 1, "position", n_draws=3, seed=seed)
        assert all(set(a.train) <= set(b.train) for a, b in zip(smaller, found, strict=True))


def test_draws_of_positions_take_whole_positions_first():
    table = variants([*singles(range(1, 11)), ()])
    for split in draws(table, 9, "position"):
        at = positions(table, split.train)
        assert 40 in split.train and len(at) == 2  # eight rows of two positions, the wild type
        assert len(split.test) == 32
    for split in draws(table, 10, "position"):
        assert len(positions(table, split.train)) == 3 and len(split.test) == 28
