import gzip
import io

import pytest

from revdist_sklearn import ESMFeaturizer
from revdist_sklearn.cli._readers import read_fasta


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
