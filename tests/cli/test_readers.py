import csv
import gzip
import io
import lzma
import re

import numpy as np
import pytest

from revdist_sklearn import ESMFeaturizer
from revdist_sklearn.cli._readers import read_fasta, read_measurements

TABLE = "mutant,mutated_sequence,DMS_score\nA1C,CKTW,0.5\nK2R,ARTW,1.5\n"


def measurements(tmp_path, text, **options):
    path = tmp_path / "x.csv"
    if isinstance(text, str):
        text = text.encode()
    path.write_bytes(text)
    return read_measurements(path, "mutated_sequence", "DMS_score", **options)


def records(tmp_path, text):
    path = tmp_path / "x.fasta"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_fasta(path)


# FASTA


@pytest.mark.parametrize(
    "text",
    [
        ">a one\nMKT\nAY\n>b\ngiv\n",
        ">a one\r\nMKT\r\nAY\r\n>b\r\ngiv\r\n",
        ">a one\rMKT\rAY\r>b\rgiv\r",
        "\n\n>a one\n\nMKT\n  AY \n\n>b\ngiv",
        "\ufeff>a one\nMKTAY\n>b\ngiv\n",
        gzip.compress(b">a one\nMKTAY\n>b\ngiv\n", mtime=0),
    ],
    ids=["plain", "CRLF", "CR", "blank lines", "byte-order mark", "gzip without .gz"],
)
def test_fasta_of_any_kind_of_lines(tmp_path, text):
    found = records(tmp_path, text)
    assert found.names == ["a", "b"] and found.sequences == ["MKTAY", "giv"]


def test_fasta_from_standard_input(monkeypatch):
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(b">a\nMKT\n")))
    monkeypatch.setattr("sys.stdin", stdin)
    assert read_fasta("-").sequences == ["MKT"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--fasta .* holds no FASTA record"),
        ("MKT\n>a\nMKT\n", "text before the first header in line 1"),
        (">a\n>b\nMKT\n>c\n", r"2 of 3 records have no sequence: a \(line 1\), c \(line 4\)"),
        (b">\xe9\nMKT\n", "no text in UTF-8 .*0xe9"),
        (gzip.compress(b">a\nMKT\n", mtime=0)[:-9], "a damaged gzip file"),
    ],
)
def test_bad_fasta(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        records(tmp_path, text)


def test_identifiers_that_occur_twice_are_told(tmp_path, capsys):
    records(tmp_path, ">a\nMKT\n>b\nMKT\n>a\nMKW\n")
    assert "1 identifiers occur more than once: a (lines 1, 5)" in capsys.readouterr().err


def test_stops_at_the_end_are_left_out_and_told(tmp_path, capsys):
    assert records(tmp_path, ">a\nMKT*\n>b\nMKW\n").sequences == ["MKT", "MKW"]
    assert "x.fasta: 1 of 2 sequences end in '*', left out." in capsys.readouterr().err


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(OSError, match=f"--fasta {tmp_path} is a folder"):
        read_fasta(tmp_path)


def test_records_that_are_no_proteins_are_named(tmp_path):
    emb = ESMFeaturizer("esm2-nano:32", max_length=30)
    found = records(tmp_path, ">sp|P1\nMK*T\n>ok\nMKT\n>x\nMK\nT-\n")
    with pytest.raises(ValueError, match=r"^sp\|P1 \(line 1\) has '\*'.*2 of 3.*: x \(line 5\)\)"):
        found.prepared(emb)
    dna = "ATGGCTAGCTAGGCTAACGT"
    with pytest.raises(ValueError, match=r"^1 of 2 records are DNA or RNA .*: d \(line 3\)\."):
        records(tmp_path, f">ok\nMKT\n>d\n{dna}\n").prepared(emb)
    with pytest.raises(ValueError, match=r"^long \(line 3\) has 31 residues, the limit is 30"):
        records(tmp_path, f">ok\nMKT\n>long\n{'M' * 31}\n").prepared(emb)


# Tables


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        "\ufeff" + TABLE,
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("\n", "\n\n,,\n"),
        TABLE.replace(",", " , "),
        TABLE.replace("CKTW", '"CKTW"').replace("mutant", '"mutant"'),
        gzip.compress(TABLE.encode(), mtime=0),
        lzma.compress(TABLE.encode()),
    ],
    ids=["plain", "byte-order mark", "CRLF", "empty lines", "spaces", "quotes", "gzip", "xz"],
)
def test_a_table_keeps_its_mutations(tmp_path, text):
    found = measurements(tmp_path, text)
    assert found.mutations == ["A1C", "K2R"] and found.sequences == ["CKTW", "ARTW"]
    np.testing.assert_array_equal(found.target, [0.5, 1.5])
    assert found.labels[0].startswith("A1C (line ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("a,b\n1,2\n", r"no column 'mutated_sequence'; it has a, b\. .*--sequence-column"),
        ("mutated_sequence;DMS_score\nMK;1\n", "separated by ';'; write it with commas"),
        ("mutated_sequence,DMS_score,DMS_score\nMK,1,2\n", "several columns 'DMS_score'"),
        ("mutated_sequence,DMS_score\nMK,1\nMK,x\nMK,\n", r"2 of 3 .*: 'x' \(line 3\), '' \(li"),
        ("mutated_sequence,DMS_score\nMK,nan\nMK,1\n", r"'nan' \(line 2\)"),
        ("mutated_sequence,DMS_score\n", "has no rows but a header"),
        ("mutated_sequence,DMS_score\nMK,1,5\nMK,2\n", r"1 of 2 rows .*\(line 2 has 3\)"),
        ("mutated_sequence,DMS_score\nMK\nMK,2\n", r"1 of 2 rows .*\(line 2 has 1\)"),
        ("mutated_sequence,DMS_score\n,1\nMK,2\n", r"1 of 2 .* no mutated_sequence: line 2"),
        ("mutated_sequence,DMS_score\nMK,1\nMW,1.0\n", "DMS_score is 1 in all 2 rows"),
        ('mutated_sequence,DMS_score\n"MK,1\nMK,2\n', "rows have not the 2 fields"),
        (TABLE.encode("utf-16"), "no text in UTF-8"),
        (gzip.compress(TABLE.encode(), mtime=0)[:-9], "a damaged gzip file"),
    ],
)
def test_bad_table(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        measurements(tmp_path, text)


def test_a_cell_may_be_long(tmp_path):
    """Longer than the csv module takes by itself, whose limit is as it was."""
    before = csv.field_size_limit()
    assert before < 200_000
    text = f"mutated_sequence,DMS_score\n{'M' * 200_000},1\nMK,2\n"
    assert list(map(len, measurements(tmp_path, text).sequences)) == [200_000, 2]
    open_quote = f'mutated_sequence,DMS_score\n"MK,1\n{"MK,2" * 100_000}\n'
    with pytest.raises(ValueError, match=r"1 of 1 rows .*line 3 has 1.*or a quote missing\?"):
        measurements(tmp_path, open_quote)
    assert csv.field_size_limit() == before


def test_a_missing_column_of_mutations_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no column 'm'; .*--mutation-column\. .* leave it out"):
        measurements(tmp_path, TABLE, mutation_column="m")


def test_mutations_that_their_sequence_does_not_have_are_errors(tmp_path):
    text = TABLE + "T3G,AKTW,3\nW4Y,AKTY,1\n"
    with pytest.raises(ValueError, match=r"1 of 4 rows .*: T3G \(line 4\)\. .*--mutation-column"):
        measurements(tmp_path, text)


@pytest.mark.parametrize("start", [0, 10])
def test_wild_types_that_the_other_rows_do_not_have_are_told(tmp_path, capsys, start):
    names = ["A1C", "K2R", "T3G", "A1D:K2R", "W4W", "odd"]
    sequences = ["CKTW", "aRTW", "AKGW", "DRTW", "AKTW", "YYYY"]

    def said_of(names):
        names = [re.sub(r"\d", lambda digit: str(int(digit[0]) + start), name) for name in names]
        pairs = enumerate(zip(names, sequences, strict=True))
        lines = [f"{name},{sequence},{i}" for i, (name, sequence) in pairs]
        text = "\n".join(["mutant,mutated_sequence,DMS_score", *lines])
        assert measurements(tmp_path, text).mutations == names
        return capsys.readouterr().err

    assert "wild type" not in said_of(names)
    assert "2 of 6 rows are named after another wild type" in (
        said := said_of(["A1C", "W2R", "T3G", "A1D:W2R", "W4W", "odd"])
    )
    assert f"W{2 + start}R (line 3), A{1 + start}D:W{2 + start}R (line 5)" in said
    # All of them.
    assert "5 of 6 rows" in said_of(["W1C", "W2R", "W3G", "W1D:K2R", "A4W", "odd"])


def test_wild_types_are_told_of_one_protein_alone(tmp_path, capsys):
    rows = ["A1C,CKTW,1", "G1D,DLLL,2", "K2M,AMTW,3", "L2N,GNLL,4", "P1S,SKTWY,5", "P1T,TKTWY,6"]
    measurements(tmp_path, "\n".join(["mutant,mutated_sequence,DMS_score", *rows]))
    assert not capsys.readouterr().err


def test_positions_that_are_counted_from_elsewhere_are_told(tmp_path, capsys):
    found = measurements(tmp_path, TABLE.replace("A1C", "A11C").replace("K2R", "K12R"))
    assert found.mutations == ["A11C", "K12R"]
    assert "10 above those in the sequences" in capsys.readouterr().err


def test_rows_of_one_sequence_are_told(tmp_path, capsys):
    measurements(tmp_path, TABLE + "A1C,cktw,0.7\n")
    said = capsys.readouterr().err
    assert "1 of 3 rows repeat" in said and "A1C (line 4) that of A1C (line 2)" in said
