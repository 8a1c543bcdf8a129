import csv
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from revdist_sklearn import ESMFeaturizer, FastaReader
from revdist_sklearn.base._text import visible
from revdist_sklearn.library import _records
from revdist_sklearn.library._records import RecordChecker, check_pass, records_of

DNA = "ATGGCTAGCTAGGCTAACGT"


def plan(**options):
    return ESMFeaturizer("esm2-nano:32", **options).embedding_plan("residue")


def fasta(folder, text, name="x.fasta"):
    path = folder / name
    path.write_text(text)
    return path


def check(*pairs, skip=False, **options):
    checker = RecordChecker(plan(**options), skip=skip)
    return checker.check(list(records_of(pairs))), checker


def test_good_ones_come_as_the_plan_prepares_them():
    pairs = [("a", "mktay"), ("b", "M" * 9), ("..", "GIVUX"), ("a/b\tc", "K")]
    for options in ({}, {"max_length": 6, "too_long": "truncate"}):
        good, checker = check(*pairs, **options)
        sequences = [sequence for _, sequence in pairs]
        if options:
            with pytest.warns(UserWarning, match="were cut"):
                expected = plan(**options).prepare(sequences)
        else:
            expected = plan().prepare(sequences)
        assert [name for name, _, _ in good] == [name for name, _ in pairs]
        assert [sequence for _, sequence, _ in good] == expected
        assert [length for _, _, length in good] == [5, 9, 5, 1]
        assert checker.n_residues == sum(map(len, expected))
        assert (checker.n_proteins, checker.longest, checker.n_skipped) == (4, 9, 0)
        assert (checker.n_truncated, checker.n_windowed) == (len(options) // 2, 0)


def test_windows_leave_sequences_whole():
    good, checker = check(("a", "M" * 35_000), ("b", "MK"), max_length=100, too_long="window")
    assert [len(sequence) for _, sequence, _ in good] == [35_000, 2]
    assert (checker.n_windowed, checker.n_truncated, checker.n_residues) == (1, 0, 35_002)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("x", "MK-T"), r"record 1 \(x\) has '-' at position 2 \(counted.*Allowed are ACDEF"),
        (("x", "MKß"), r"has 'ß' at position 2"),  # SS in upper case
        (("x", "MK\u0131"), "has '\u0131' at position 2"),  # I in upper case
        (("x", "MK\udce9"), r"has '\\udce9' at position 2"),
        (("x", "MK\x1b[31m"), r"has '\\x1b' at position 2"),
        (("x", "MK\u202eT"), r"has '\\u202e' at position 2"),
        (("x", "MKT*"), r"has '\*' at position 3"),
        (("x", ""), r"has no sequence\. Remove it"),
        (("x", "M" * 41), r"has 41 residues, the limit is 40\. Raise or drop `max_length`"),
        (("ok", "MKT"), r"has the identifier of an earlier record\. Rename"),
        (("x", DNA), r"record 1 \(x\) is DNA or RNA by its letters\. Translate"),
        (("x", DNA.replace("T", "u")), r"record 1 \(x\) is DNA or RNA by its letters"),
        (("", "MKT"), r"record 1 \(\) has an identifier that is empty"),
        ((7, "MKT"), r"record 1 \(7\) has int in place of an identifier"),
        ((None, "MKT"), r"record 1 \(None\) has NoneType in place of an identifier"),
        ((b"x", "MKT"), r"record 1 \(b'x'\) has bytes in place of an identifier"),
        (("x\ud800", "MKT"), r"record 1 \(x\\ud800\) has an identifier that cannot be written"),
        (("x\0", "MKT"), r"record 1 \(x\\x00\) has an identifier that cannot be written"),
        (("x" * 1001, "MKT"), r"\.\.\.\) has an identifier of 1,001 characters\..*line missing"),
        (("x", b"MKT"), r"has bytes in place of a sequence\. Give the residues as text"),
        (("x", None), r"has NoneType in place of a sequence"),
        (("x", float("nan")), r"has float in place of a sequence"),
    ],
)
def test_each_fault_has_its_reason(pair, reason):
    pairs = [("ok", "MKTAY"), pair, ("last", "GIV")]
    with pytest.raises(ValueError, match=reason) as caught:
        check(*pairs, max_length=40)
    assert "others" not in str(caught.value) and str(caught.value).isprintable()
    good, checker = check(*pairs, skip=True, max_length=40)
    assert [name for name, _, _ in good] == ["ok", "last"]
    assert checker.n_skipped == 1 and checker.n_residues == 8
    assert checker.skipped[0] in str(caught.value)


def test_an_error_names_the_first_and_lists_the_others():
    bad = [("x", "M-"), ("y", ""), ("ok", "GIV"), *((f"z{i}", "?") for i in range(20))]
    for run in (check, lambda *pairs: check_pass(records_of(pairs), RecordChecker(plan()))):
        with pytest.raises(ValueError, match=r"^record 1 \(x\) has '-' at position 1 ") as caught:
            run(("ok", "MKT"), *bad)
        said = str(caught.value)
        assert (
            "So 23 of 24 records are at fault; the others: record 2 (y) has no sequence; " in said
        )
        assert "; record 3 (ok) has the identifier of an earlier record; " in said
        assert said.endswith(
            "; record 11 (z7) has '?' at position 0 (counted from 0), which is no residue; ..."
        )


def test_a_name_that_was_left_out_may_come_again():
    good, checker = check(("a", "M-"), ("a", "MK"), ("a", "GIV"), skip=True)
    assert good == [("a", "MK", 2)] and checker.n_skipped == 2


def test_names_are_compared_over_blocks_and_files(tmp_path):
    one, two = fasta(tmp_path, ">a\nM\n>b\nM\n", "one"), fasta(tmp_path, ">c\nM\n>a\nK\n", "two")
    checker = RecordChecker(plan())
    records = list(FastaReader([one, two]).records())
    checker.check(records[:2])
    with pytest.raises(
        ValueError, match=rf"^a \({two}, line 3\) has the identifier of an earlier"
    ):
        checker.check(records[2:])


def test_a_block_of_nothing():
    assert check()[0] == []


# A whole pass


def test_a_pass_counts_and_tells_inputs_apart(tmp_path, monkeypatch):
    pairs = [(f"P{i}", "MKTAYIAKQR"[: i % 10 + 1]) for i in range(500)]
    path = fasta(tmp_path, "".join(f">{name} x\n{s.lower()}*\n" for name, s in pairs))
    checker = RecordChecker(plan())
    digest = check_pass(FastaReader(path).records(), checker)
    assert digest == checker.digest() and len(digest) == 64
    assert (checker.n_proteins, checker.n_residues, checker.longest) == (500, 2750, 10)
    for block in ((1, 4_000_000), (7, 30), (2000, 1)):
        monkeypatch.setattr(_records, "BLOCK", block)
        assert check_pass(records_of(pairs), RecordChecker(plan())) == digest
    # As check gives them block by block.
    checker = RecordChecker(plan())
    for record in records_of(pairs):
        checker.check([record])
    assert checker.digest() == digest
    name, sequence = pairs[3]
    for other in (
        [(f"P{i}", s) for i, (_, s) in enumerate(pairs[:-1])],
        [*pairs[:3], (name + sequence[:1], sequence[1:]), *pairs[4:]],
        [*pairs[:3], pairs[4], pairs[3], *pairs[5:]],
        [*pairs[:3], (name, sequence + "M"), *pairs[4:]],
    ):
        assert check_pass(records_of(other), RecordChecker(plan())) != digest


def test_what_is_left_out_is_no_part_of_the_digest():
    good = [("a", "MKT"), ("b", "GIV")]
    digest = check_pass(records_of(good), RecordChecker(plan()))
    bad = [good[0], ("x", "-"), good[1], (3, "M")]
    assert check_pass(records_of(bad), RecordChecker(plan(), skip=True)) == digest


def test_a_pass_sees_all_before_it_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(_records, "BLOCK", (2, 10**6))
    path = fasta(tmp_path, ">a\nMK\n>b\nM-\n>c\nMK\n>d\nM?\n>e\nMK\n>a\nMW\n")
    with pytest.raises(
        ValueError, match=r"^b \(line 3\) has '-'.* So 3 of 6 .*: d \(line 7\) .*; a "
    ):
        check_pass(FastaReader(path).records(), RecordChecker(plan()))


def test_a_file_of_dna_is_named_as_dna(tmp_path):
    dna = "".join(f">d{i}\n{DNA}\n" for i in range(95)) + ">p\nMKT\n"
    one, two = fasta(tmp_path, ">a\nMKT\n", "one"), fasta(tmp_path, dna, "two")
    expected = (
        rf"^{two} is DNA or RNA by its letters: 95 of 96 records are, the first d0 \({two}, "
    )
    with pytest.raises(ValueError, match=expected):
        check_pass(FastaReader([one, two]).records(), RecordChecker(plan()))
    with pytest.raises(ValueError, match=expected):
        RecordChecker(plan()).check(list(FastaReader([one, two]).records()))
    checker = RecordChecker(plan(), skip=True)
    check_pass(FastaReader([one, two]).records(), checker)
    assert (checker.n_proteins, checker.n_skipped) == (2, 95)


def test_an_input_without_a_protein_is_an_error():
    with pytest.raises(ValueError, match="no protein to embed: the input is empty"):
        check_pass(records_of([]), RecordChecker(plan()))
    pairs = [("a", "-"), ("b", "")]
    with pytest.raises(ValueError, match=r"^record 0 \(a\) has '-'.* So 2 of 2 records"):
        check_pass(records_of(pairs), RecordChecker(plan(), skip=True))


# The file of what was left out


def test_what_was_left_out_is_written_with_the_reason(tmp_path):
    path = fasta(tmp_path, ">a\nMK\n>\x1b[31mred\u202e\nM-\n>a\nMW\n>e\n\n", "in\tput")
    side = tmp_path / "skipped.tsv"
    with RecordChecker(plan(), skip=True, skipped_to=side) as checker:
        for record in FastaReader(path).records():
            checker.check([record])
        assert not side.exists()
    text = side.read_text()
    assert visible(text, keep="\t\n") == text
    rows = list(csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    shown = str(path).replace("\t", r"\t")
    assert rows == [
        ["file", "line", "identifier", "reason"],
        [
            shown,
            "3",
            r"\x1b[31mred\u202e",
            "has '-' at position 1 (counted from 0), which is no residue",
        ],
        [shown, "5", "a", "has the identifier of an earlier record"],
        [shown, "7", "e", "has no sequence"],
    ]
    assert sorted(os.listdir(tmp_path)) == ["in\tput", "skipped.tsv"]


def test_items_are_written_by_their_place(tmp_path):
    side = tmp_path / "skipped.tsv"
    with RecordChecker(plan(), skip=True, skipped_to=side) as checker:
        checker.check(list(records_of([("a", "M"), (b"b\t", "M"), ("x" * 5000, "M")])))
    rows = [line.split("\t") for line in side.read_text().splitlines()[1:]]
    assert [row[:2] for row in rows] == [["", "1"], ["", "2"]]
    assert rows[0][2] == r"b'b\t'" and rows[1][2] == "x" * 997 + "..."


def test_an_interrupted_run_has_it_too_and_nothing_left_out_is_said(tmp_path):
    side = tmp_path / "skipped.tsv"
    side.write_text("of an earlier run")
    with pytest.raises(KeyboardInterrupt):
        with RecordChecker(plan(), skip=True, skipped_to=side) as checker:
            checker.check(list(records_of([("a", "-")])))
            raise KeyboardInterrupt
    assert len(side.read_text().splitlines()) == 2
    with RecordChecker(plan(), skip=True, skipped_to=side) as checker:
        checker.check(list(records_of([("a", "M")])))
    assert side.read_text() == "file\tline\tidentifier\treason\n"
    checker.close()  # once more does nothing


@pytest.mark.slow  # for what a process imports
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no such signal")
def test_a_killed_run_leaves_nothing_beside_it(tmp_path):
    code = f"""
import os
from types import SimpleNamespace
from revdist_sklearn.library._records import RecordChecker, records_of
plan = SimpleNamespace(limit=None, too_long="error", letters="ACDEFGHIKLMNPQRSTVWYX")
checker = RecordChecker(plan, skip=True, skipped_to={str(tmp_path / "skipped.tsv")!r})
checker.check(list(records_of([("a", "-")] * 1000)))
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -signal.SIGKILL and os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match=r"none/s.tsv cannot be written: .* Name a file in a folder"):
        RecordChecker(plan(), skip=True, skipped_to=tmp_path / "none" / "s.tsv")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
def test_a_full_disk_is_told_with_the_name(tmp_path, monkeypatch):
    full = open("/dev/full", "wb")
    monkeypatch.setattr(_records.tempfile, "TemporaryFile", lambda dir: full)
    checker = RecordChecker(plan(), skip=True, skipped_to=tmp_path / "s.tsv")
    with pytest.raises(OSError, match=r"s\.tsv cannot be written: No space left"):
        for _ in range(100):
            checker.check(list(records_of([("a", "-")] * 10)))
    with pytest.raises(OSError):
        full.close()


# Items


def test_items_are_pairs():
    pairs = [["a", "MK"], ("b", "GIV")]
    for items in (pairs, tuple(pairs), iter(pairs), dict(pairs).items(), np.array(pairs)):
        assert [(r.name, r.sequence, r.path, r.line) for r in records_of(items)] == [
            ("a", "MK", "", 0),
            ("b", "GIV", "", 1),
        ]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("a", "MK"), "GI"], r"Item 1 is 'GI' \(str\), not a pair"),
        ([("a", "MK"), ("b", "GIV", 3)], r"Item 1 is \('b', 'GIV', 3\) \(tuple\), not a pair"),
        ([None], r"Item 0 is None \(NoneType\)"),
        ([{"a": 1, "b": 2}], r"Item 0 is .* \(dict\)"),
        ({"a": "MK"}, r"got dict\. Give its items"),
        ("MKT", r"got str\. Give pairs"),
        (3, r"got int"),
    ],
)
def test_what_is_no_pair_is_named_by_its_place(items, message):
    with pytest.raises(TypeError, match=message):
        list(records_of(items))


def test_columns_of_a_frame_are_no_items():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": ["a"], "se": ["MK"]})
    with pytest.raises(TypeError, match=r"Give two of its columns: zip"):
        list(records_of(frame))
    assert [r[:2] for r in records_of(zip(frame["id"], frame["se"], strict=True))] == [("a", "MK")]


def test_a_reader_gives_its_own_records(tmp_path):
    reader = FastaReader(fasta(tmp_path, "\n>a\nMK\n"))
    assert list(records_of(reader)) == list(reader.records())
