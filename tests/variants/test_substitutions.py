import numpy as np
import pytest

from revdist_sklearn.models._residues import AMINO_ACIDS
from revdist_sklearn.variants import _substitutions
from revdist_sklearn.variants._substitutions import (
    all_single,
    codes_of,
    log_ratios,
    substitutions,
    sums_by_row,
    with_masks,
)


def test_substitutions_are_those_letter_by_letter(monkeypatch):
    rng = np.random.default_rng(0)
    reference = "".join(rng.choice(list(AMINO_ACIDS), 13))
    texts = [reference]
    for _ in range(40):
        letters = np.array(list(reference))
        at = rng.random(13) < 0.2
        letters[at] = rng.choice(list(AMINO_ACIDS), at.sum())
        texts.append("".join(letters))
    expected = [
        (i, p, AMINO_ACIDS.index(text[p]))
        for i, text in enumerate(texts)
        for p in range(13)
        if text[p] != reference[p]
    ]
    for block in (1, 100, 2**24):  # blocks of one sequence, of seven, and of all
        monkeypatch.setattr(_substitutions, "BLOCK", block)
        assert list(zip(*substitutions(texts, reference), strict=True)) == expected


@pytest.mark.parametrize("letter", "XBZUO")
def test_letters_without_a_score_have_codes_of_their_own(letter):
    assert codes_of(letter)[0] >= 20
    rows, sites, codes = substitutions([f"M{letter}T"], "MKT")
    assert rows.tolist() == [0] and sites.tolist() == [1] and codes[0] >= 20
    assert not len(substitutions([f"M{letter}T"], f"M{letter}T")[0])


def test_sums_of_log_ratios_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(2, 4, 20)).astype(np.float32)
    reference, texts = "MKTA", ["MKTA", "AKTA", "WWWW", "MKYA"]
    rows, sites, codes = substitutions(texts, reference)
    ratios = log_ratios(table, codes_of(reference), sites, codes)
    assert ratios.dtype == np.float64
    found = sums_by_row(ratios, rows, len(texts))
    for i, text in enumerate(texts):
        for member in range(2):
            expected = sum(
                float(table[member, p, AMINO_ACIDS.index(text[p])])
                - float(table[member, p, AMINO_ACIDS.index(reference[p])])
                for p in range(4)
                if text[p] != reference[p]
            )
            assert found[i, member] == pytest.approx(expected, abs=1e-12)


def test_masks_stand_where_they_are_put():
    assert with_masks("MKTAY", [0, 4]) == "?KTA?"
    assert with_masks("MKTAY", []) == "MKTAY"


def test_all_single_substitutions_are_named_from_their_first_position():
    reference = "MXKA"
    sites, codes, names, sequences = all_single(reference, first_position=-1)
    assert names[0] == "M-1A" and names[-1] == "A2Y" and len(set(names)) == 3 * 19
    for site, code, name, text in zip(sites, codes, names, sequences, strict=True):
        assert name == f"{reference[site]}{site - 1}{AMINO_ACIDS[code]}"
        assert [i for i in range(4) if text[i] != reference[i]] == [site]
        assert text[site] == AMINO_ACIDS[code]
