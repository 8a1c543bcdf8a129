import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revdist_sklearn.evaluation._mutations import (
    ALLELES,
    EMPTY,
    INDEL,
    STOP,
    THREE_LETTERS,
    TWICE,
    UNKNOWN,
    compared,
    infer_wild_type,
    parse_mutations,
    position_offset,
    undone,
    without_synonymous,
)

BOTH = (("A", 24, "G"), ("T", 30, "S"))


@pytest.mark.parametrize(
    "cell",
    [
        "A24G:T30S",
        "A24G,T30S",
        "A24G;T30S",
        "A24G/T30S",
        "A24G+T30S",
        "A24G T30S",
        " a24g : t30s ",
        "A024G, T30S",
        "p.[Ala24Gly;Thr30Ser]",
        "p.[(Ala24Gly;Thr30Ser)]",
        "p.[(Ala24Gly);(Thr30Ser)]",
        "p.Ala24Gly:p.Thr30Ser",
        "NP_000537.3:p.[Ala24Gly;Thr30Ser]",
        "ala24gly THR30SER",
    ],
)
def test_several_mutations_in_all_ways_to_write_them(cell):
    assert parse_mutations(cell) == (BOTH, "")


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("A24G", ("A", 24, "G")),
        ("p.Ala24Gly", ("A", 24, "G")),
        ("p.(Ala24Gly)", ("A", 24, "G")),
        ("ENSP00000269305.4:p.(Arg175His)", ("R", 175, "H")),
        ("p.Ala24=", ("A", 24, "A")),
        ("p.(Ala24=)", ("A", 24, "A")),
        ("A24A", ("A", 24, "A")),
        ("p.Sec24Cys", ("U", 24, "C")),
    ],
)
def test_a_single_mutation(cell, found):
    assert parse_mutations(cell) == ((found,), "")
    assert without_synonymous((found,)) == (() if found[0] == found[2] else (found,))


@pytest.mark.parametrize(
    "reference", ["NM_000546", "P53_HUMAN", "INS_HUMAN", "P04637", "A0A024R161", "Q9Y6K9-2"]
)
def test_the_name_of_the_sequence_is_no_mutation(reference):
    assert parse_mutations(f"{reference}:p.Thr30Ser") == ((("T", 30, "S"),), "")


@pytest.mark.parametrize("first", ["A24del", "p.Ala24del", "p.Ala24_Gly26del", "A24fs", "A24*"])
def test_a_mutation_before_others_is_not_taken_for_such_a_name(first):
    assert parse_mutations(f"{first}:p.Thr30Ser")[1] == (STOP if "*" in first else INDEL)


@pytest.mark.parametrize(
    "cell",
    ["WT", "wt", "_wt", "wild type", "Wild-Type", "wildtype", "_sy", "p.=", "p.(=)", "=", "N:p.="],
)
def test_names_of_the_wild_type(cell):
    assert parse_mutations(cell) == ((), "")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("", EMPTY),
        ("  ", EMPTY),
        ("p.Ala24Ter", STOP),
        ("A24*", STOP),
        ("T30S:A24*", STOP),
        ("*24A", STOP),
        ("p.Ala24del", INDEL),
        ("p.Ala24_Gly26del", INDEL),
        ("p.Ala24_Gly25insSer", INDEL),
        ("p.Ala24Glyfs*5", INDEL),
        ("A24fs", INDEL),
        ("p.Ala24dup", INDEL),
        ("p.Met1ext-5", INDEL),
        ("p.[Ala24Gly];[Thr30Ser]", ALLELES),
        ("A24G:A24T", TWICE),
        ("p.?", UNKNOWN),
        ("24", UNKNOWN),
        ("AA24G", UNKNOWN),
        ("A24", UNKNOWN),
        ("A٢G", UNKNOWN),
        ("\u212a24G", UNKNOWN),  # the sign of Kelvin
        ("A99999999999G", UNKNOWN),
        ("[]", UNKNOWN),
        ("mutant 7", UNKNOWN),
    ],
)
def test_what_is_no_substitution_has_a_reason(cell, reason):
    assert parse_mutations(cell) == (None, reason)


def test_names_of_three_letters_are_those_of_the_field():
    """Of Biopython's table, as IUPAC has it, in its order of letters."""
    names = "Ala Asx Cys Asp Glu Phe Gly His Ile Lys Leu Met Asn Pyl Pro Gln Arg Ser Thr Sec Val"
    letters = dict(zip("ABCDEFGHIKLMNOPQRSTUV", names.upper().split(), strict=True))
    letters |= {"W": "TRP", "X": "XAA", "Y": "TYR", "Z": "GLX", "*": "TER"}
    assert {name: letter for letter, name in letters.items()} == THREE_LETTERS


SEQUENCES = st.text("ACDEFGHIKLMNPQRSTVWY", min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, st.data())
def test_comparison_tells_what_was_written_and_undoes(wild_type, data):
    """Witness: a loop over letters; names written from mutations are read as the same."""
    n = len(wild_type)
    mutant = data.draw(st.text("ACDEFGHIKLMNPQRSTVWY", min_size=n, max_size=n))
    found = compared(wild_type, mutant)
    assert found == tuple(
        (a, i, b) for i, (a, b) in enumerate(zip(wild_type, mutant, strict=True), 1) if a != b
    )
    assert undone(mutant, found) == wild_type
    if found:
        assert parse_mutations(":".join(f"{a}{i}{b}" for a, i, b in found)) == (found, "")
    assert compared(wild_type, mutant + "A") is None


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, st.integers(-20, 20), st.data())
def test_offsets_are_those_of_names(wild_type, offset, data):
    """Witness: the function that read names of single mutations."""
    n = len(wild_type)
    mutations, sequences = [], []
    for at in data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=6)):
        new = data.draw(st.sampled_from("ACDE"))
        if at + 1 + offset >= 0:  # names have no minus
            mutations.append(((wild_type[at], at + 1 + offset, new),))
            sequences.append(wild_type[:at] + new + wild_type[at + 1 :])
    found, wrong = position_offset(mutations, sequences)
    assert not wrong and abs(found) <= abs(offset)
    for ((_, position, new),), sequence in zip(mutations, sequences, strict=True):
        assert sequence[position - found - 1] == new


def test_rows_that_contradict_their_sequence_are_told_by_the_offset_of_most():
    mutations = [(("M", 11, "A"),), (("T", 12, "A"),), (("K", 13, "R"),), (("K", 13, "W"),), None]
    assert position_offset(mutations, ["ATK", "MAK", "MTR", "MTR", "QQQ"]) == (10, [3])
    assert position_offset([(("M", 9, "W"),)], ["ATK"]) == (0, [0])
    # Its second mutation tells the start, which does not fit the other row.
    two = (("M", 11, "A"), ("T", 12, "C"))
    assert position_offset([two, (("K", 1, "W"),)], ["AAC", "GGG"]) == (9, [1])
    assert position_offset([None, ()], ["ATK", "MTK"]) == (0, [])


def test_the_wild_type_is_that_of_most_rows():
    mutations = [(("M", 1, "A"),), (("T", 2, "A"),), (("W", 3, "R"),), None]
    sequences = ["ATK", "MAK", "MTR", "WWWW"]
    assert infer_wild_type(mutations, sequences) == "MTK"
    assert infer_wild_type(mutations[1:], sequences[1:]) is None  # one says MTK, one MTW
    assert infer_wild_type([None], ["ATK"]) is None
    assert infer_wild_type([()], ["ATK"]) == "ATK"
