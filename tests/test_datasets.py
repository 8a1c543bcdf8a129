import gzip
import re
import struct
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest
from sklearn.utils import Bunch

from revdist_sklearn.datasets import (
    load_amyloid_nucleation,
    load_gb1_stability,
    load_uniprot_sample,
)

AMINO_ACIDS = set("ACDEFGHIKLMNPQRSTVWY")
LOADERS = [load_gb1_stability, load_amyloid_nucleation, load_uniprot_sample]
MEASURED = [load_gb1_stability, load_amyloid_nucleation]


def mutate(wild_type, mutations):
    residues = list(wild_type)
    for name in mutations.split(":"):
        old, position, new = re.fullmatch(r"([A-Z])(\d+)([A-Z])", name).groups()
        assert residues[int(position) - 1] == old, f"{name} of {mutations}"
        assert old != new
        residues[int(position) - 1] = new
    return "".join(residues)


@pytest.mark.parametrize("load", MEASURED)
def test_mutations_turn_the_wild_type_into_each_sequence(load):
    data = load()
    assert [mutate(data.wild_type, names) for names in data.mutations] == data.sequences


@pytest.mark.parametrize("load", MEASURED)
def test_targets_are_finite_and_as_many_as_the_sequences(load):
    data = load()
    assert isinstance(data, Bunch)
    assert data.target.dtype == np.float64
    assert data.target.shape == (len(data.sequences),) == (len(data.mutations),)
    assert np.isfinite(data.target).all()
    assert len(np.unique(data.target)) > 0.9 * len(data.target)


@pytest.mark.parametrize("load", LOADERS)
def test_sequences_are_distinct_strings_of_amino_acids(load):
    sequences = load().sequences
    assert isinstance(sequences, list)
    assert all(type(sequence) is str for sequence in sequences)
    assert set("".join(sequences)) <= AMINO_ACIDS
    assert len(set(sequences)) == len(sequences)


@pytest.mark.parametrize("load", MEASURED)
def test_return_x_y_gives_what_the_bunch_holds(load):
    data = load()
    sequences, target = load(return_X_y=True)
    assert sequences == data.sequences
    np.testing.assert_array_equal(target, data.target)


@pytest.mark.parametrize("load", LOADERS)
def test_a_caller_may_change_what_it_gets(load):
    first = load()
    first.sequences.clear()
    if "target" in first:
        first.target[:] = 0
    assert len(load().sequences) > 800
    if "target" in first:
        assert load().target.any()


@pytest.mark.parametrize(
    ("load", "source", "licence", "doi"),
    [
        (load_gb1_stability, "mavenn 1.1.4", "MIT", "10.1073/pnas.1903888116"),
        (load_amyloid_nucleation, "mavenn 1.1.4", "MIT", "10.7554/eLife.63364"),
        (load_uniprot_sample, "UniProt", "CC BY 4.0", "https://www.uniprot.org/help/license"),
    ],
)
def test_description_and_docstring_name_source_and_licence(load, source, licence, doi):
    for text in (load().DESCR, load.__doc__):
        for word in (source, licence, doi):
            assert word in text


def test_gb1_counts():
    data = load_gb1_stability()
    assert len(data.sequences) == 812
    assert {len(sequence) for sequence in data.sequences} == {56}
    assert data.wild_type == "MTYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"
    assert data.wild_type not in data.sequences
    # The methionine that was put back is no position of the scan.
    assert all(sequence[0] == "M" for sequence in data.sequences)
    positions = [int(names[1:-1]) for names in data.mutations]
    assert positions == sorted(positions)
    assert set(positions) == set(range(2, 57)) - {43}
    assert Counter(positions)[26] == 2
    assert not {names[-1] for names in data.mutations} & {"C", "W"}


def test_gb1_leaves_out_the_ambiguous_row_and_keeps_the_lettered_ones():
    data = load_gb1_stability()
    value = dict(zip(data.mutations, data.target, strict=True))
    assert "T2Q" not in value
    assert value["L7I"] == -0.9735
    assert value["V39I"] == -0.9096


def test_gb1_sign_core_mutants_are_less_stable():
    # Leu 5 and Phe 30 are in the hydrophobic core, Lys 10 on the surface.
    data = load_gb1_stability()
    value = dict(zip(data.mutations, data.target, strict=True))
    assert value["F30A"] > 2 and value["L5A"] > 2
    assert abs(value["K10G"]) < 1


def test_amyloid_counts():
    data = load_amyloid_nucleation()
    assert {len(sequence) for sequence in data.sequences} == {42}
    assert data.wild_type == "DAEFRHDSGYEVHHQKLVFFAEDVGSNKGAIIGLMVGGVVIA"
    assert data.wild_type not in data.sequences
    numbers = [names.count(":") + 1 for names in data.mutations]
    assert numbers == [1] * 468 + [2] * 1000
    positions = [int(names[1:-1]) for names in data.mutations[:468]]
    assert positions == sorted(positions)
    assert set(positions) == set(range(1, 43))


def test_amyloid_single_mutants_are_the_first_rows_of_all():
    every, single = load_amyloid_nucleation(), load_amyloid_nucleation(mutations="single")
    assert single.mutations == every.mutations[:468]
    assert single.sequences == every.sequences[:468]
    np.testing.assert_array_equal(single.target, every.target[:468])
    sequences, target = load_amyloid_nucleation(mutations="single", return_X_y=True)
    assert sequences == single.sequences
    assert target.shape == (468,)


@pytest.mark.parametrize("wrong", ["double", None, "Single"])
def test_amyloid_refuses_other_choices(wrong):
    with pytest.raises(ValueError, match=rf"mutations={wrong!r} .*'all' .*'single'"):
        load_amyloid_nucleation(mutations=wrong)


def test_amyloid_sign_familial_mutations_nucleate_more():
    # Dominant mutations of familial Alzheimer's disease, which the paper reports as raised.
    data = load_amyloid_nucleation(mutations="single")
    value = dict(zip(data.mutations, data.target, strict=True))
    familial = [value[name] for name in ("H6R", "D7N", "E22G", "E22K", "E22Q", "D23N")]
    assert min(familial) > 0 > np.median(data.target)


def test_uniprot_sample():
    data = load_uniprot_sample()
    lengths = [len(sequence) for sequence in data.sequences]
    assert len(lengths) == len(set(data.accessions)) == 1000
    assert min(lengths) >= 30
    assert max(lengths) <= 1022
    # UniProt's own pattern of an accession.
    pattern = r"[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2}"
    assert all(re.fullmatch(pattern, accession) for accession in data.accessions)
    assert set(data) == {"sequences", "accessions", "DESCR"}


def test_corpus_holds_no_relative_of_a_measured_protein():
    corpus = "|".join(load_uniprot_sample().sequences)
    for load in MEASURED:
        wild_type = load().wild_type
        runs = [wild_type[i : i + 8] for i in range(len(wild_type) - 7)]
        assert not [run for run in runs if run in corpus]


def test_files_are_small_and_carry_no_time_and_no_name():
    folder = files("revdist_sklearn.datasets").joinpath("data")
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(contents) == {
        "amyloid_nucleation.csv.gz",
        "gb1_stability.csv.gz",
        "uniprot_sample.csv.gz",
    }
    assert sum(map(len, contents.values())) < 400_000
    for content in contents.values():
        magic, _, flags, time = struct.unpack("<HBBI", content[:8])
        assert (magic, flags, time) == (0x8B1F, 0, 0)
        gzip.decompress(content).decode("ascii")
