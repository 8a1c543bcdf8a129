import bz2
import csv
import gzip
import io
import lzma
import tracemalloc
import zipfile
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revdist_sklearn.evaluation._table import COUNTS, Residues, Variants, read_table

TABLE = "mutant,mutated_sequence,DMS_score\nA1C,CKTW,0.5\nK2R,ARTW,1.5\nWT,AKTW,1\n"


@pytest.fixture
def read(tmp_path):
    def read(text, name="assay.csv", **options):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path, **options)

    return read


def rows(*lines, header="mutant,mutated_sequence,DMS_score"):
    return "\n".join([header, *lines])


def zstd(text):
    return pytest.importorskip("zstandard").ZstdCompressor().compress(text.encode())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (TABLE, "assay.csv"),
        ("\ufeff" + TABLE, "assay.csv"),
        (TABLE.replace("\n", "\r\n"), "assay.csv"),
        (TABLE.replace("\n", "\r"), "assay.csv"),
        ("\n\n" + TABLE.replace("\n", "\n\n,,\n"), "assay.csv"),
        (TABLE.replace(",", " , "), "assay.csv"),
        (TABLE.replace("CKTW", '"CKTW"').replace("mutant", '"mutant"'), "assay.csv"),
        (TABLE.replace(",", ";"), "assay.csv"),
        (TABLE.replace(",", "\t"), "assay.tsv"),
        (TABLE.replace(",", ";").replace("mutant", "mutant, of all, by name", 1), "assay.txt"),
        (gzip.compress(TABLE.encode(), mtime=0), "assay.csv.gz"),
        (bz2.compress(TABLE.encode()), "assay.csv.bz2"),
        (lzma.compress(TABLE.encode()), "assay.csv.xz"),
        (lzma.compress(TABLE.encode()), "assay"),
        (zstd(TABLE), "assay.csv.zst"),
    ],
)
def test_any_kind_of_file(read, text, name):
    column = "mutant, of all, by name" if b"of all" in bytes(str(text), "utf-8") else None
    found = read(text, name, mutation_column=column)
    assert isinstance(found, Variants) and len(found) == 3
    assert (found.name, found.task, found.wild_type) == ("assay", "regression", "AKTW")
    assert found.sequences == ["CKTW", "ARTW", "AKTW"]
    assert found.target.tolist() == [0.5, 1.5, 1]
    assert found.mutations == [(("A", 1, "C"),), (("K", 2, "R"),), ()]
    assert list(found.counts) == list(COUNTS)
    assert found.counts | {"rows": 3, "wild type": 1} == found.counts
    assert sum(found.counts.values()) == 4 and not found.notes and not found.folds
    assert [label.split(" (line")[0] for label in found.labels] == ["A1C", "K2R", "WT"]


def test_standard_input(monkeypatch):
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(TABLE.encode())))
    monkeypatch.setattr("sys.stdin", stdin)
    found = read_table("-")
    assert found.name == "standard input" and len(found) == 3


def workbook():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return file.getvalue()


@pytest.mark.parametrize("name", ["assay.xlsx", "assay.csv"])
@pytest.mark.parametrize(
    "content", [workbook(), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)], ids=["xlsx", "xls"]
)
def test_spreadsheets_are_told_from_text(read, content, name):
    with pytest.raises(ValueError, match=rf"{name} is a spreadsheet .* as CSV in UTF-8"):
        read(content, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("mutated_sequence,DMS_score\n", "has no rows but a header"),
        ("a,b\n1,2\n", r"no column 'mutated_sequence'; it has a, b\. .*--sequence-column"),
        ("mutated_sequence,dms_score\nM,2\n", r"no column 'DMS_score'.* Is it 'dms_score'\?"),
        ("mutated_sequence,DMS_score,DMS_score\nMK,1,2\n", "several columns 'DMS_score'"),
        (
            "mutated_sequence,DMS_score,fold_x,fold_x\nMK,1,2,3\n",
            r"columns fold_\* of one name; rename",
        ),
        ("mutated_sequence,DMS_score\nMK,1,5\nMK,2\nM\n", r"2 of 3 rows .*\(line 2 has 3\).*2, 4"),
        ('mutated_sequence,DMS_score\n"MK,1\nMK,2\n', "or a quote missing"),
        (
            "mutated_sequence,DMS_score\n,1\nMK,2\n",
            r"1 of 2 rows have no mutated_sequence: line 2",
        ),
        ("mutated_sequence,DMS_score\nMK,1\nMW,1.0\n", "1.0 everywhere, so that there is nothing"),
        ("mutated_sequence,DMS_score\nMK,a\nMW,a\n", "DMS_score is a everywhere"),
        ("mutated_sequence,DMS_score\nMK,NA\nMW,\n", "none of the 2 rows has a DMS_score"),
        (
            "mutated_sequence,DMS_score\nMK,1\nMW,x\n",
            r"1 of 2 rows have no number .*: 'x' in line",
        ),
        (
            "mutated_sequence,DMS_score\nMK,1\nMW,inf\nML,2\n",
            r"no finite number .*'inf' in line 3",
        ),
        ("mutated_sequence,DMS_score\nMK,1\nMW,1_0\nML,2\n", r"'1_0' in line 3"),
        (TABLE.encode("utf-16"), "no text in UTF-8"),
        (gzip.compress(TABLE.encode(), mtime=0)[:-9], "a damaged gzip file"),
        (TABLE + "T3G,AKTW,3\n", r"1 of 4 rows .*: T3G \(line 5\)\. .*--mutation-column"),
        (TABLE + "WT,AKTY,3\n", r"1 of 4 rows are named as the wild type.*: WT \(line 5\)"),
    ],
)
def test_bad_tables(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "ranking"}, "task='ranking' is none of regression"),
        ({"censored": "keep"}, "censored='keep' is none of limit, drop"),
        ({"wild_type": " "}, "wild_type is ' '"),
        ({"task": "residues", "wild_type": "AKTW"}, "have no wild_type"),
        ({"wild_type": "AKTWW"}, r"another sequence \(AKTWW\) than most.*\(AKTW\)"),
        ({"mutation_column": "m"}, "no column 'm'; .*--mutation-column"),
        (
            {"task": "regression", "target_column": "mutant"},
            "3 of 3 rows have no number as mutant",
        ),
    ],
)
def test_bad_options(read, options, message):
    with pytest.raises(ValueError, match=message):
        read(TABLE, **options)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.csv: there is no such file"):
        read_table(tmp_path / "no.csv")


@pytest.mark.parametrize("separator", [";", "\t", ","])
@pytest.mark.parametrize("task", [None, "regression"])
def test_decimal_commas(read, separator, task):
    cells = ["0,52", "-1,5e3", "<2,25", "1"]
    lines = [f'{"C" * i}{separator}"{cell}"' for i, cell in enumerate(cells, 1)]
    text = rows(*lines, header=f"mutated_sequence{separator}DMS_score")
    with pytest.raises(ValueError, match=r"3 of 4 rows have a decimal comma .*: '0,52' in line 2"):
        read(text, task=task)
    assert read(text, task="classification").target.tolist() == cells


def test_a_cell_may_be_long(read):
    before = csv.field_size_limit()
    assert before < 200_000
    found = read(rows("M" * 200_000 + ",1", "MK,2", header="mutated_sequence,DMS_score"))
    assert list(map(len, found.sequences)) == [200_000, 2] and csv.field_size_limit() == before


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "NaN", "nan", "-", "#N/A", "null", "None", "."])
def test_missing_measurements_are_left_out_and_told(read, cell):
    found = read(TABLE + f"T3G,AKGW,{cell}\n")
    assert len(found) == 3
    assert found.counts["missing"] == found.counts["left out"] == 1 and found.counts["rows"] == 4
    assert found.notes == [
        f"1 of 4 rows have no DMS_score and are left out: {cell!r} in T3G (line 5)."
    ]


def test_none_is_a_class_beside_classes(read):
    text = rows("A,none", "C,signal", "D,-", header="mutated_sequence,DMS_score")
    found = read(text)
    assert found.target.tolist() == ["none", "signal"] and found.counts["missing"] == 1


def test_limits(read):
    text = TABLE + "T3G,AKGW,>100\nW4A,AKTA,≤ 0.1\nW4C,AKTC,<=2\nW4D,AKTD,≥3e0\nW4E,AKTE,< 5\n"
    found = read(text)
    assert found.target.tolist() == [0.5, 1.5, 1, 100, 0.1, 2, 3, 5]
    assert found.counts["censored"] == 5 and found.counts["left out"] == 0
    assert "'>100' in T3G (line 5)" in found.notes[0] and "taken as the number" in found.notes[0]
    dropped = read(text, censored="drop")
    assert dropped.target.tolist() == [0.5, 1.5, 1]
    assert dropped.counts["censored"] == dropped.counts["left out"] == 5
    assert "are left out" in dropped.notes[0]


def test_replicates_are_averaged_in_either_case(read):
    found = read(TABLE + "A1C,cktw,1.0\n,CKTW,3.0\n")
    assert found.sequences == ["CKTW", "ARTW", "AKTW"]
    assert found.target.tolist() == [1.5, 1.5, 1] and found.n_replicates.tolist() == [3, 1, 1]
    assert found.counts["replicates"] == 2 and found.counts["left out"] == 0
    assert found.mutations[0] == (("A", 1, "C"),)
    assert found.labels[0] == "A1C (line 2)"
    assert any("2 of 5 rows repeat the sequence" in note for note in found.notes)


def test_replicates_of_what_is_constant_stay_constant(read):
    with pytest.raises(ValueError, match=r"DMS_score is 0\.1 everywhere"):
        read(rows("MK,0.1", "MW,0.1", "MW,0.1", "MW,0.1", header="mutated_sequence,DMS_score"))


def test_letters_that_become_residues_in_upper_case_are_left_to_the_check(read):
    found = read(rows("Maß,1", "M\u0131,2", "MAS,3", header="mutated_sequence,DMS_score"))
    assert found.sequences == ["Maß", "M\u0131", "MAS"]


@pytest.mark.parametrize(
    ("cells", "task", "expected", "target"),
    [
        (["1", "2", "3.5"], None, "regression", [1, 2, 3.5]),
        (["0", "1", "2"], None, "regression", [0, 1, 2]),
        (["0", "1", "0"], None, "classification", ["0", "1", "0"]),
        (["0.0", "1", "1.0"], None, "classification", ["0", "1", "1"]),
        (["0", "1", ">1"], None, "regression", [0, 1, 1]),
        (["0", "1", "0"], "regression", "regression", [0, 1, 0]),
        (["-1", "1", "1"], None, "regression", [-1, 1, 1]),
        (["1", "2", "3.5"], "classification", "classification", ["1", "2", "3.5"]),
        (["True", "False", "True"], None, "classification", ["True", "False", "True"]),
        (["a", "b", "a"], None, "classification", ["a", "b", "a"]),
        (["1", "3A", "1.0"], "classification", "classification", ["1", "3A", "1.0"]),
    ],
)
def test_the_task_is_told_by_the_targets(read, cells, task, expected, target):
    text = rows(*map("{},{}".format, "ACD", cells), header="mutated_sequence,DMS_score")
    found = read(text, task=task)
    assert found.task == expected and found.target.tolist() == target
    assert found.target.dtype == (np.float64 if expected == "regression" else object)
    two = any("two values alone" in note for note in found.notes)
    assert two == (cells == ["-1", "1", "1"] or cells[2] == ">1")


def test_the_class_of_most_rows_is_taken_and_ties_are_left_out(read):
    cells = [*"AAACCDDDD", "a"]
    classes = ["x", "y", "y", "x", "y", "x", "z", "z", "X", "y"]
    text = rows(*map("{},{}".format, cells, classes), header="mutated_sequence,DMS_score")
    found = read(text)
    assert found.sequences == ["A", "D"] and found.target.tolist() == ["y", "z"]
    assert found.n_replicates.tolist() == [4, 4] and found.labels == ["line 2", "line 7"]
    assert found.counts["left out"] == 2 and found.counts["replicates"] == 7
    assert any("no class has most rows" in n and "line 5, line 6" in n for n in found.notes)
    assert "Classes that differ by case alone are taken as several: X and x." in found.notes


def test_folds_of_the_table(read):
    header = "mutant,mutated_sequence,DMS_score,fold_random_5,fold_x,folder"
    lines = ["A1C,CKTW,0.5,0,a,q", "K2R,ARTW,1.5,4,,q", "A1C,cktw,2,0,a,r", "T3G,AKGW,,1,b,q"]
    assert read(rows(*lines[:1], "K2R,ARTW,2,4,NaN,q", header=header)).folds["fold_x"][1] == ""
    found = read(rows(*lines, header=header))
    assert {name: values.tolist() for name, values in found.folds.items()} == {
        "fold_random_5": ["0", "4"],
        "fold_x": ["a", ""],
    }
    assert any("1 of 4 rows have no fold_x" in note for note in found.notes)
    with pytest.raises(ValueError, match=r"1 of 3 rows have another fold_x .*'b' in A1C \(line 4"):
        read(rows(*lines[:2], "A1C,cktw,2,0,b,r", header=header))


def test_mutations_that_are_not_known_are_told_by_reason(read):
    more = ["A1*,MKTW,1", "p.Lys2del,ATWW,2", "T3fs,AKGG,3", ",AKTW,4", ",AKTY,5", "odd,AKTV,6"]
    found = read(TABLE + "\n".join(more))
    assert found.mutations[2:] == [(), None, None, None, None, None]
    assert found.n_replicates.tolist() == [1, 1, 2, 1, 1, 1, 1, 1]  # the empty name is wild type
    assert found.counts["unknown mutations"] == 5 and found.counts["wild type"] == 1
    told = [n for n in found.notes if "positions are not known" in n]
    assert len(told) == 4
    assert any("2 of 9 rows name an insertion" in note for note in told)
    assert any("1 of 9 rows name no mutation" in note and "line 9" in note for note in told)


def test_synonymous_mutations_are_the_wild_type_and_are_checked(read):
    found = read(TABLE + "p.Lys2=,aktw,2\nA1C:K2K,CKTW,1\n")
    assert found.mutations == [(("A", 1, "C"),), (("K", 2, "R"),), ()]
    assert found.n_replicates.tolist() == [2, 1, 2]
    alone = read(TABLE.replace("WT", "K2=")).mutations
    assert alone == found.mutations
    with pytest.raises(ValueError, match=r"A1C:T2T \(line 5\)"):
        read(TABLE + "A1C:T2T,CKTW,1\n")


def test_positions_counted_from_elsewhere_and_other_wild_types(read):
    text = TABLE.replace("A1C", "A11C").replace("K2R", "K12R") + "A11C:G13W,CKWW,2\n"
    found = read(text)
    assert found.mutations[3] == (("A", 11, "C"), ("G", 13, "W"))
    assert (found.offset, found.wild_type) == (10, "AKTW")
    assert found.counts["several mutations"] == 1
    assert "10 above those in the sequences" in found.notes[0]
    assert "1 of 4 rows are named after another wild type" in found.notes[1]


def test_mutations_by_comparison_with_a_wild_type(read):
    text = rows("CKTW,1", "ARGW,2", "aktw,3", "AKTWW,4", header="mutated_sequence,DMS_score")
    found = read(text, wild_type=" aktw")
    assert found.mutations == [(("A", 1, "C"),), (("K", 2, "R"), ("T", 3, "G")), (), None]
    assert found.wild_type == "AKTW" and found.offset == 0
    assert any("1 of 4 rows are not as long" in note for note in found.notes)
    with pytest.raises(ValueError, match="no sequence is as long as the wild type, 2 residues"):
        read(text, wild_type="AK")
    ids = rows(*(f"id{i},{line}" for i, line in enumerate(text.split("\n")[1:])))
    assert read(ids, wild_type="AKTW").mutations == found.mutations
    assert "4 of 4 rows name no known mutation" in read(ids, wild_type="AKTW").notes[0]
    without = read(text)
    assert without.mutations == [None] * 4 and without.wild_type is None
    assert "There is no column 'mutant' and no wild type is given" in without.notes[0]


def names_alone(*lines):
    return rows(*lines, header="mutant,DMS_score")


def test_sequences_are_made_of_the_wild_type_and_mutations(read):
    lines = ["A1C,1", "p.[Lys2Arg;Trp4Tyr],2", "WT,3", "p.Thr3=,4", "A1C,2", "T3G,NA"]
    more = ["A1*,5", "p.Lys2del,6", "p.Thr3_Trp4insGly,6", ",7", "odd,8"]
    found = read(names_alone(*lines, *more), wild_type="aktw")
    assert found.sequences == ["CKTW", "ARTY", "AKTW"] and found.target.tolist() == [1.5, 2, 3.5]
    assert found.mutations == [(("A", 1, "C"),), (("K", 2, "R"), ("W", 4, "Y")), ()]
    assert (found.offset, found.wild_type, found.is_made) == (0, "AKTW", True)
    assert (
        found.counts | {"rows": 11, "missing": 1, "replicates": 2, "left out": 6} == found.counts
    )
    assert found.counts["unknown mutations"] == 0
    told = "\n".join(found.notes)
    assert "the sequences of 5 rows are made of the wild type" in told
    for reason in ("1 of 11 rows name a stop codon, so that no sequence can be made", "2 of 11"):
        assert reason in told
    assert "line 11" in told and "line 12" in told
    whole = rows("A1C,CKTW,1", "WT,AKTW,3")
    assert not read(whole, wild_type="AKTW").is_made
    classes = read(names_alone("A1C,up", "WT,down", "A1del,up"), wild_type="AKTW")
    assert classes.target.tolist() == ["up", "down"] and classes.sequences == ["CKTW", "AKTW"]


def test_made_sequences_from_positions_of_another_start(read):
    lines = ["A11C,1", "K12R:W14Y,2", "WT,3"]
    found = read(names_alone(*lines), wild_type="AKTW")
    assert found.sequences == ["CKTW", "ARTY", "AKTW"] and found.offset == 10
    assert "10 above those in the sequences" in found.notes[1]
    assert read(names_alone(*lines), wild_type="MMAKTW").offset == 8
    with pytest.raises(ValueError, match=r"A11C \(line 2\)\. Its first residue is taken for"):
        read(names_alone(*lines, "T13G,5"), wild_type="GKTW")
    with pytest.raises(ValueError, match=r"1 of 4 rows name another residue .*: A10C \(line 5\)"):
        read(names_alone(*lines, "A10C,4"), wild_type="AKTW")
    with pytest.raises(
        ValueError, match=r"2 other starts: its first residue may be position 9, 11"
    ):
        read(names_alone("A11C,1", "WT,2"), wild_type="AKAW")


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["A1C,1", "WT,2"], {}, r"no column 'mutated_sequence'.*--wild-type .* are made\."),
        (
            ["A1C,1"],
            {"wild_type": "AKTW", "sequence_column": "s"},
            r"no column 's'.* \(sequence_column in Python\)\.$",
        ),
        (["A1del,1", "A1*,2"], {"wild_type": "AKTW"}, r"no row is left\..*name a stop codon"),
        (["K1C,1", "WT,2"], {"wild_type": "AATW"}, r"name another residue .*: K1C \(line 2\)"),
    ],
)
def test_sequences_that_cannot_be_made(read, lines, options, message):
    with pytest.raises(ValueError, match=message):
        read(names_alone(*lines), **options)
    header = "hgvs,DMS_score"
    if options == {"wild_type": "AKTW"}:
        with pytest.raises(ValueError, match=r"no column 'mutated_sequence'.*--mutation-column"):
            read(rows("A1C,1", "WT,2", header=header), **options)
        assert (
            len(read(rows("A1C,1", "WT,2", header=header), mutation_column="hgvs", **options)) == 2
        )


LINES = st.lists(
    st.tuples(
        st.text("ACac", min_size=1, max_size=2),
        st.sampled_from(["1", "2.5", "-3", "NA", "", ">4", "<0.5"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(LINES, st.sampled_from(["limit", "drop"]))
def test_no_row_is_lost(tmp_path_factory, lines, censored):
    """Witness: exact means by a loop over the lines."""
    path = tmp_path_factory.mktemp("x") / "x.csv"
    lines = [*lines, ("DD", "7"), ("EE", "8"), ("FF", "9")]
    path.write_text(rows(*map(",".join, lines), header="mutated_sequence,DMS_score"))
    found = read_table(path, censored=censored)
    values: dict[str, list] = {}
    for sequence, cell in lines:
        if cell not in ("NA", "") and not (censored == "drop" and cell[0] in "<>"):
            values.setdefault(sequence.upper(), []).append(Fraction(cell.lstrip("<>")))
    assert found.sequences == list(values)
    means = [float(sum(v) / len(v)) for v in values.values()]
    np.testing.assert_allclose(found.target, means, rtol=1e-14)
    assert found.n_replicates.tolist() == list(map(len, values.values()))
    counts = found.counts
    assert counts["rows"] == len(lines) == counts["left out"] + found.n_replicates.sum()
    assert counts["replicates"] == sum(map(len, values.values())) - len(values)


def residues(read, *lines, **options):
    text = rows(*lines, header="sequence;labels;fold_a")
    columns = {"sequence_column": "sequence", "target_column": "labels"}
    return read(text, task="residues", **columns, **options)


def test_labels_of_residues(read):
    found = residues(read, "MKT;HHE;a", "mk;E H;b", "WWW;a1,b,b;a", "MKT;HHE;a", "MM;NA;a")
    assert isinstance(found, Residues) and found.task == "residues"
    assert found.sequences == ["MKT", "MK", "WWW"]
    assert [labels.tolist() for labels in found.target] == [
        ["H", "H", "E"],
        ["E", "H"],
        ["a1", "b", "b"],
    ]
    assert found.n_replicates.tolist() == [2, 1, 1]
    assert found.folds["fold_a"].tolist() == ["a", "b", "a"]
    assert found.counts == {"rows": 5, "missing": 1, "replicates": 1, "left out": 1}


def test_labels_of_residues_are_told_where_they_are_taken_as_classes(read):
    header = "mutated_sequence,DMS_score"
    told = "Each DMS_score is as long as its sequence: --task residues"
    assert told in " ".join(read(rows("MKT,HHE", "MK,EH", header=header)).notes)
    assert told not in " ".join(read(rows("MKT,HHE", "MK,E", header=header)).notes)


def test_lines_are_counted_from_the_start_of_the_file(read):
    text = "\n\n" + TABLE.replace("K2R", '"K2R\n"') + "\nT3G,AKGW,NA\n"
    found = read(text)
    assert found.labels == ["A1C (line 4)", "K2R (line 6)", "WT (line 7)"]
    assert "T3G (line 9)" in found.notes[0]


def test_labels_of_residues_that_do_not_fit(read):
    with pytest.raises(ValueError, match=r"2 of 3 rows have not a label .*: line 2, line 4"):
        residues(read, "MKT;HH;a", "MK;HH;a", "MKT;H,E;a")
    with pytest.raises(ValueError, match="labels is H everywhere"):
        residues(read, "MKT;HHH;a", "MK;HH;a")
    found = residues(read, "MKT;HHE;a", "MKT;HHH;a", "MK;EH;a")
    assert found.sequences == ["MK"] and found.counts["left out"] == 2
    assert any("rows differ in labels" in note for note in found.notes)


def test_columns_that_are_not_asked_for_are_not_held(read, tmp_path):
    """Twenty columns of which two are wanted: memory is that of the two."""
    header = ",".join(["mutated_sequence", "DMS_score", *(f"c{i}" for i in range(18))])
    lines = [f"{'ACDE' * 5}{i},{i}," + ",".join(["x" * 200] * 18) for i in range(2000)]
    path = tmp_path / "wide.csv"
    path.write_text(rows(*lines, header=header))
    tracemalloc.start()
    found = read_table(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 2000 and path.stat().st_size > 7e6
    assert peak < 4e6 + 2000 * 600


def test_the_sample_counts_are_those_of_a_loop(read):
    """Witness: csv and Counter on a table of all sorts of rows."""
    text = TABLE + "A1C,cktw,NA\nA1C:T3G,CKGW,2\nA1D:T3G,DKGW,>2\nT3del,AKW,3\n"
    found = read(text)
    lines = list(csv.DictReader(io.StringIO(text)))
    kinds = Counter(len(line["mutant"].split(":")) for line in lines)
    assert found.counts["several mutations"] == kinds[2]
    assert found.counts == {
        "rows": len(lines),
        "missing": 1,
        "censored": 1,
        "replicates": 0,
        "wild type": 1,
        "several mutations": 2,
        "unknown mutations": 1,
        "left out": 1,
    }
