import bz2
import gzip
import io
import lzma
import os
import pickle
import random
import tarfile
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revdist_sklearn import FastaReader
from revdist_sklearn.base import _unpack
from revdist_sklearn.library._fasta import Record

TWO = [("a", "MKTAY"), ("b", "giv")]


def file_of(folder, text, name="x.fasta"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def line_by_line(data):
    """Return records by another way: Python's own lines, one after the other."""
    records = []
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig")
    for number, line in enumerate(text, start=1):
        line = line.strip(" \t\n\x0b\x0c")
        if line.startswith(">"):
            words = line[1:].split()
            records.append([words[0] if words else f"line_{number}", "", number])
        elif line:
            records[-1][1] += "".join(line.split())
    return [(name, text[:-1] if text[-1:] == "*" else text, n) for name, text, n in records]


@pytest.mark.parametrize(
    "text",
    [
        ">a one\nMKT\nAY\n>b\ngiv\n",
        ">a one\r\nMKT\r\nAY\r\n>b\r\ngiv\r\n",
        ">a one\rMKT\rAY\r>b\rgiv\r",
        "\n \n>a one\n\nMKT\n  AY \n\n>b\ngiv",
        "\ufeff>a one\nMKTAY\n>b\ngiv\n",
        "\ufeff\r\n>a\nMKTAY\n\ufeff>b\ngiv\n",
        ">a\nMKT AY\n\t>b\ng i v\n",
        "> a\nMKTAY*\n>b>c -> d\ngiv\n",
        gzip.compress(b">a one\nMKT", mtime=0) + gzip.compress(b"AY\n>b\ngiv\n", mtime=0),
        bz2.compress(b">a one\nMKTAY\n>b\ngiv\n"),
        lzma.compress(b">a one\nMKTAY\n>b\ngiv\n"),
    ],
    ids=[
        *("plain", "CRLF", "CR", "blank lines", "byte-order mark", "marks within", "white space"),
        *("a stop", "gzip of two members", "bzip2", "xz"),
    ],
)
def test_any_kind_of_lines(tmp_path, text):
    found = list(FastaReader(file_of(tmp_path, text)))
    assert [name.partition(">")[0] for name, _ in found] == ["a", "b"]
    assert [sequence for _, sequence in found] == ["MKTAY", "giv"]


LINES = st.lists(
    st.sampled_from(["MKT", "g iv*", "", " ", ">", "> ", ">é\t\x01 x", "  >c >d", ">x\x0by", "*"]),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.integers(1, 40))
def test_records_are_those_of_a_reader_by_lines(tmp_path_factory, lines, end, mark, size):
    data = ("\ufeff" * mark + end.join([">first", *lines])).encode()
    path = file_of(tmp_path_factory.mktemp("fasta"), data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_unpack, "CHUNK", size)
        patch.setattr(_unpack, "START", 3)  # a mark of byte order is not taken apart
        reader = FastaReader(path)
        found = [(r.name, r.sequence, r.line) for r in reader.records()]
    assert found == line_by_line(data)
    assert list(FastaReader(path)) == [record[:2] for record in found]


def test_against_biopython(tmp_path):
    SimpleFastaParser = pytest.importorskip("Bio.SeqIO.FastaIO").SimpleFastaParser
    text = "".join(f">p{i} x\n{'MKTAYIAKQR' * (i % 50 + 1)}\n" for i in range(9000))
    path = file_of(tmp_path, text)  # of several megabytes
    with open(path) as file:
        expected = [(title.split()[0], sequence) for title, sequence in SimpleFastaParser(file)]
    assert list(FastaReader(path)) == expected


def test_stops_are_counted_and_nothing_else_is_taken_off(tmp_path):
    reader = FastaReader(file_of(tmp_path, ">a\nMKT*\n>b\nMKT**\n>c\n*MK\n>d\n*\n>e\nMK-\n"))
    expected = [("a", "MKT"), ("b", "MKT*"), ("c", "*MK"), ("d", ""), ("e", "MK-")]
    for _ in range(2):
        assert list(reader) == expected and reader.n_stripped == 3


def test_records_say_where_they_stand(tmp_path):
    one, two = file_of(tmp_path, "\n>a\nMKT\n>\nGIV\n", "one"), file_of(tmp_path, ">a\nM\n", "two")
    labels = [record.label for record in FastaReader(one).records()]
    assert labels == ["a (line 2)", "line_4 (line 4)"]
    records = list(FastaReader([one, str(two)]).records())
    assert records[2] == Record("a", "M", str(two), 1, True)
    assert records[2].label == f"a ({two}, line 1)"


def test_identifiers_of_terminals_are_written_out_in_labels_alone(tmp_path):
    names = ["\x1b]0;evil\x07", "a\u202eb", "..", "../x", "\x9bm", "x" * 200]
    records = list(FastaReader(file_of(tmp_path, "".join(f">{n}\nMK\n" for n in names))).records())
    assert [record.name for record in records] == names
    assert records[0].label == r"\x1b]0;evil\x07 (line 1)"
    assert records[1].label == r"a\u202eb (line 3)"
    assert records[2].label == ".. (line 5)"
    assert records[-1].label == "x" * 97 + "... (line 11)"


def tar(text):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("x.fasta")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    return file.getvalue()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no FASTA record.* it is empty"),
        ("\n \r\n", "holds no FASTA record"),
        (gzip.compress(b"", mtime=0), "holds no FASTA record"),
        ("M\x1b[2Jé" + "é" * 400, r"text before the first header in line 1 \(M\\x1b\[2Jé"),
        (b"\x80\x81\x82 MKT", "something binary"),
        ("\nMKT\n>a\nMKT\n", r"has text before the first header in line 2 \(MKT\)"),
        (";x\n>a\nMKT\n", r"has text before the first header in line 1 \(;x\)"),
        ("@r1 x\nACGT\n+\nIIII\n", "is no FASTA but FASTQ.* line 1.*translate"),
        ("\n@r1\r\nACGT\r\n+r1\r\nIIII\r\n", "is no FASTA but FASTQ.* line 2"),
        ("LOCUS       NP_1\n", "is no FASTA but a GenBank file"),
        ("ID   001R_FRG3G  Reviewed;\n", "a flat file of UniProt"),
        ("CLUSTAL W\n\na  MKT\n", "an alignment.*without gaps"),
        ("<!DOCTYPE html>\n<html>", "a page of HTML.*Fetch it again"),
        ("@HD\tVN:1.6\n", "an alignment of reads"),
        (b"PK\3\4\x14\0\0\0", "an archive.*Unpack"),
        (tar(b">a\nMKT\n"), "an archive.*Unpack"),
        (gzip.compress(tar(b">a\nMKT\n"), mtime=0), "an archive.*Unpack"),
        (gzip.compress(gzip.compress(b">a\nMKT\n", mtime=0), mtime=0), "packed twice"),
        (b"\x7fELF\x02\x01\0\0\0", "is no text in UTF-8 but something binary"),
        (bytes(2000), "is no text in UTF-8|binary"),
        (">a\nMKT\n".encode("utf-16"), "in UTF-16.*Save it as UTF-8"),
        (">a\nMKTAY\n".encode("utf-16-be"), "in UTF-16.*Save it as UTF-8"),
        (">a\nMKTAY\n".encode("utf-32"), "in UTF-16 or UTF-32.*Save it as UTF-8"),
        (b">ok\nM\n>\xe9\nMKT\n", "no text in UTF-8 in line 3 .*0xe9"),
        (b">a\nMKT\nM\xffK\n", "no text in UTF-8 in line 3 .*0xff"),
        (b">\n\xff\n", "no text in UTF-8 in line 2 .*0xff"),
        (b">a\nMKT\n>b x\nM\nK\0\n", r"a NUL byte in line 5 \(of b\)"),
        (
            gzip.compress(b">a\nMKT\n" * 999, mtime=0)[:-9],
            r"damaged gzip file: .* line 199\d \(of a\)",
        ),
    ],
)
def test_what_is_no_fasta_is_named_as_what_it_is(tmp_path, text, message):
    path = file_of(tmp_path, text)
    with pytest.raises(ValueError, match=f"^--fasta {path} .*{message}") as caught:
        list(FastaReader(path, option="--fasta"))
    assert str(caught.value).isprintable()


def test_a_title_need_not_be_utf8(tmp_path):
    assert list(FastaReader(file_of(tmp_path, b">a M\xfcller\nMKT\n"))) == [("a", "MKT")]


def test_records_before_a_cut_are_given(tmp_path):
    packed = bz2.compress(b"".join(b">a%d\nMKT\n" % i for i in range(60_000)), compresslevel=1)
    records = FastaReader(file_of(tmp_path, packed[:-20])).records()
    with pytest.raises(ValueError, match="damaged bzip2"):
        for n, record in enumerate(records):
            assert record[:2] == (f"a{n}", "MKT")
    assert n > 30_000


def test_paths_are_looked_at_first(tmp_path):
    path = file_of(tmp_path, ">a\nMKT\n")
    with pytest.raises(TypeError, match=r"Expected the path of a FASTA file.* got 3"):
        FastaReader([path, 3])
    with pytest.raises(TypeError, match="bytes"):
        FastaReader(b"x.fasta")
    with pytest.raises(ValueError, match="empty; name at least one"):
        FastaReader([])
    with pytest.raises(ValueError, match="stands there twice"):
        FastaReader([path, str(path)])
    with pytest.raises(FileNotFoundError, match="none: there is no such file"):
        next(iter(FastaReader([path, tmp_path / "none"])))  # before the first record
    with pytest.raises(IsADirectoryError, match="is a folder"):
        list(FastaReader(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no\\x1bne: there is"):
        list(FastaReader(tmp_path / "no\x1bne"))


def test_an_empty_file_among_others_is_told(tmp_path):
    reader = FastaReader([file_of(tmp_path, ">a\nM\n", "one"), file_of(tmp_path, "", "two")])
    with pytest.raises(ValueError, match="two holds no FASTA record"):
        list(reader)


def test_files_are_read_again_and_standard_input_once(tmp_path, monkeypatch):
    path = file_of(tmp_path, ">a\nMKTAY\n>b\ngiv\n")
    reader = pickle.loads(pickle.dumps(FastaReader(path)))
    assert reader.rereadable and list(reader) == list(reader) == TWO
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    reader = FastaReader("-")
    assert not reader.rereadable
    assert list(reader) == TWO
    with pytest.raises(ValueError, match=r"^standard input: .* was read before"):
        list(reader)
    with pytest.raises(ValueError, match=r"^--fasta - holds no .* or was read before"):
        list(FastaReader("-", option="--fasta"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(b">a\nMKTAY\n>b\ngiv\n"))
    writer.start()
    reader = FastaReader(path)
    assert list(reader) == TWO
    writer.join()
    with pytest.raises(ValueError, match="was read before"):
        list(reader)


def test_a_file_is_never_held_whole(tmp_path):
    letters = random.Random(0).choices("ACDEFGHIKLMNPQRSTVWY", k=10_000)
    proteins = ["".join(letters[i : i + 350]) for i in range(9000)]
    member = gzip.compress(
        "".join(f">p x\n{protein}\n" for protein in proteins).encode(), 1, mtime=0
    )
    reader = FastaReader(file_of(tmp_path, 4 * member))  # 13 MB
    tracemalloc.start()
    n = sum(1 for _ in reader)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 36_000 and peak < 6e6


def test_a_file_that_is_left_early_is_closed(tmp_path, recwarn):
    records = FastaReader(file_of(tmp_path, ">a\nMKT\n" * 10**6)).records()
    next(records)
    records.close()
    assert not [w for w in recwarn if w.category is ResourceWarning]


def test_a_record_of_many_chunks_takes_linear_time(tmp_path, monkeypatch):
    monkeypatch.setattr(_unpack, "CHUNK", 1000)
    path = file_of(tmp_path, b">titin\n" + b"MKTAYIAKQ\n" * 200_000)  # 2,000 chunks
    [(_, sequence)] = FastaReader(path)
    assert sequence == "MKTAYIAKQ" * 200_000
