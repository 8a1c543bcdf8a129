"""Single files: each is read back by the library that it is made for, and tells what it is of."""

import csv
import json
import os
import re
import sys
import zipfile
from collections import Counter
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from shard_folders import NAMES, make_folder

from revdist_sklearn import DamagedFileError
from revdist_sklearn.library import _formats
from revdist_sklearn.library._facts import side_file
from revdist_sklearn.library._formats import (
    ENDINGS,
    assemble,
    check_ending,
    size_of,
    written_from,
)
from revdist_sklearn.library._patient_disk import PatientDisk
from revdist_sklearn.library._shards import Shard
from revdist_sklearn.library._write_hdf5 import dataset_name
from revdist_sklearn.library._write_tables import positions

DTYPES = ["float32", "float16"]
LEVELS = ["protein", "residue"]
# .hdf5 is .h5 by another name.
FILES = [
    (ending, layout)
    for ending, form in ENDINGS.items()
    if ending != ".hdf5"
    for layout in form.write
]
LIBRARIES = {".parquet": "pyarrow", ".h5": "h5py", ".hdf5": "h5py", ".h5ad": "h5py"}


@pytest.fixture(params=[(level, dtype) for level in LEVELS for dtype in DTYPES], ids="-".join)
def made(request, tmp_path):
    """Return a folder of awkward names, its rows, counts and lengths."""
    level, dtype = request.param
    return make_folder(tmp_path / "folder", level=level, dtype=dtype)


def assemble_or_skip(folder, path, layout=None):
    if library := LIBRARIES.get(path.suffix):
        pytest.importorskip(library)
    if folder.level not in ENDINGS[path.suffix].levels:
        pytest.skip("proteins only")
    assemble(folder, path, layout=layout)
    return path


def by_protein(rows, counts):
    return np.split(rows, np.cumsum(counts)[:-1])


def test_keyed_has_a_dataset_for_each_protein_in_their_order(made, tmp_path):
    folder, rows, counts, lengths = made
    h5py = pytest.importorskip("h5py")
    path = assemble_or_skip(folder, tmp_path / "x.h5")
    with h5py.File(path) as root:
        file = root["/"]  # older versions of h5py give the file's own in alphabetical order
        assert len(file) == len(NAMES)
        seen = [dataset.attrs.get("original_id", key) for key, dataset in file.items()]
        assert seen == NAMES
        for (key, dataset), part, length in zip(
            file.items(), by_protein(rows, counts), lengths, strict=True
        ):
            assert dataset.dtype == rows.dtype
            assert_array_equal(dataset[()], part if folder.level == "residue" else part[0])
            if folder.level == "residue":
                assert (dataset.attrs["length"], dataset.attrs["n_rows"]) == (length, len(part))
            else:
                assert set(dataset.attrs) <= {"original_id"}
            # UniProt's readers take a dataset by the identifier itself where they can.
            assert key in NAMES or key == "%" or "%2" in key
        assert json.loads(file.attrs["revdist"])["columns"] == folder.columns


def test_identifiers_are_encoded_only_where_needed_and_never_alike():
    plain = ["sp|P12345|ABC_HUMAN", "a.b", "...", "naïve", " ", "with,comma", "a\\b", "é" * 300]
    assert [dataset_name(name) for name in plain] == plain
    awkward = ["", ".", "..", "%", "%%", "/", "//", "%2F", "%2f", "%252F", "a/b", "a%2Fb", "%2E"]
    encoded = [dataset_name(name) for name in awkward]
    assert not any("/" in name or name in ("", ".", "..") for name in encoded)
    assert len(set(encoded)) == len(awkward)


def test_matrix_has_names_columns_and_offsets_beside_it(made, tmp_path):
    folder, rows, counts, lengths = made
    h5py = pytest.importorskip("h5py")
    path = assemble_or_skip(folder, tmp_path / "x.h5", "matrix")
    with h5py.File(path) as file:
        assert file["embedding"].dtype == rows.dtype
        assert file["embedding"].fletcher32
        assert_array_equal(file["embedding"][:], rows)
        assert file["names"].asstr()[:].tolist() == NAMES
        assert h5py.check_string_dtype(file["names"].dtype) == ("utf-8", None)
        assert file["columns"].asstr()[:].tolist() == folder.columns
        assert_array_equal(file["lengths"][:], lengths)
        assert ("offsets" in file) == (folder.level == "residue")
        if folder.level == "residue":
            assert_array_equal(file["offsets"][:], [0, *np.cumsum(counts)])


def test_h5ad_is_what_anndata_reads(made, tmp_path):
    folder, rows, _, lengths = made
    anndata = pytest.importorskip("anndata")
    path = assemble_or_skip(folder, tmp_path / "x.h5ad")
    read = anndata.read_h5ad(path)
    assert_array_equal(read.X, rows)
    assert read.X.dtype == rows.dtype
    assert read.obs_names.tolist() == NAMES
    assert read.obs["length"].tolist() == lengths.tolist()
    assert read.var_names.tolist() == folder.columns
    about = read.uns["revdist"]
    assert list(about["stage_names"]) == ["first", "second"]
    assert about["stage_widths"].tolist() == [2, 5]
    assert json.loads(about["settings"]) == folder.facts["settings"]
    backed = anndata.read_h5ad(path, backed="r")
    assert_array_equal(backed.X[3:5], rows[3:5])
    backed.file.close()


def test_parquet_is_read_by_pyarrow_and_pandas(made, tmp_path):
    folder, rows, counts, _ = made
    parquet = pytest.importorskip("pyarrow.parquet")
    path = assemble_or_skip(folder, tmp_path / "x.parquet")
    table = parquet.read_table(path)
    first = ["name", "position"] if folder.level == "residue" else ["name"]
    assert table.column_names == [*first, *folder.columns]
    assert table.column("name").to_pylist() == np.repeat(NAMES, counts).tolist()
    if folder.level == "residue":
        expected = np.concatenate([np.arange(1, count + 1) for count in counts])
        assert table.column("position").to_pylist() == expected.tolist()
    frame = pytest.importorskip("pandas").read_parquet(path).drop(columns=first)
    assert set(frame.dtypes) == {rows.dtype}
    assert_array_equal(frame.to_numpy(), rows)
    assert json.loads(table.schema.metadata[b"revdist"])["stages"] == folder.facts["stages"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_parquet_is_read_by_polars_and_duckdb(tmp_path, dtype):
    folder, rows, *_ = make_folder(tmp_path / "folder", dtype=dtype)
    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")
    path = assemble_or_skip(folder, tmp_path / "x.parquet")
    assert_array_equal(polars.read_parquet(path).drop("name").to_numpy(), rows)
    found = duckdb.sql(f"SELECT * FROM '{path}'").fetchall()
    assert [row[0] for row in found] == NAMES
    assert_array_equal(np.array([row[1:] for row in found], dtype=dtype), rows)


def test_groups_of_rows_hold_several_shards(tmp_path, monkeypatch):
    folder, rows, *_ = make_folder(tmp_path / "folder", size=2)
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("revdist_sklearn.library._write_tables.GROUP", rows[:5].nbytes)
    path = assemble_or_skip(folder, tmp_path / "x.parquet")
    told = parquet.read_metadata(path)
    assert [told.row_group(i).num_rows for i in range(3)] == [4, 4, 4]
    assert told.num_rows == len(rows)


def test_npz_is_opened_by_numpy_without_pickle(made, tmp_path):
    folder, rows, counts, lengths = made
    path = assemble_or_skip(folder, tmp_path / "x.npz")
    with np.load(path, allow_pickle=False) as file:
        assert file["names"].tolist() == NAMES
        assert file["columns"].tolist() == folder.columns
        assert file["embedding"].dtype == rows.dtype
        assert_array_equal(file["embedding"], rows)
        assert json.loads(file["facts"].item())["identity"] == folder.identity
        if folder.level == "residue":
            assert_array_equal(file["offsets"], [0, *np.cumsum(counts)])
            assert_array_equal(file["lengths"], lengths)
        else:
            assert {"offsets", "lengths"}.isdisjoint(file.files)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.getinfo("embedding.npy").compress_type == zipfile.ZIP_STORED


def test_csv_gives_the_same_numbers_and_names(made, tmp_path):
    folder, rows, counts, _ = made
    path = assemble_or_skip(folder, tmp_path / "x.csv")
    with open(path, encoding="utf-8", newline="") as text:
        header, *records = csv.reader(text, strict=True)
    first = 2 if folder.level == "residue" else 1
    assert header == ["name", "position"][:first] + folder.columns
    assert [record[0] for record in records] == np.repeat(NAMES, counts).tolist()
    texts = np.array([record[first:] for record in records])
    assert_array_equal(texts.astype(rows.dtype), rows)
    assert texts[0, 0] == str(rows[0, 0])  # the shortest of its type
    frame = pytest.importorskip("pandas").read_csv(
        path, keep_default_na=False, dtype={"name": str}
    )
    assert frame["name"].tolist() == np.repeat(NAMES, counts).tolist()
    assert_array_equal(frame[folder.columns].to_numpy(rows.dtype), rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_csv_is_exact_for_any_bits(tmp_path, dtype):
    kind = {"float32": np.uint32, "float16": np.uint16}[dtype]
    bits = np.random.default_rng(0).integers(0, np.iinfo(kind).max, 40_000, dtype=kind)
    rows = bits.view(dtype)
    texts = rows.astype(str)
    assert_array_equal(np.array([float(text) for text in texts]).astype(dtype), rows)


@pytest.mark.parametrize("ending, layout", FILES)
def test_a_file_tells_what_it_is_of(tmp_path, ending, layout):
    folder, *_ = make_folder(tmp_path / "folder")
    path = assemble_or_skip(folder, tmp_path / f"x{ending}", layout)
    assert written_from(path) == (folder.identity, folder.input)
    assert written_from(path, layout) == (folder.identity, folder.input)
    assert written_from(path, "another") is None
    assert written_from(tmp_path / f"none{ending}") is None
    path.write_bytes(path.read_bytes()[:50])
    assert written_from(path) is None


def test_csv_without_its_side_file_or_of_another_size_is_no_finished_one(tmp_path, monkeypatch):
    folder, *_ = make_folder(tmp_path / "folder")
    path = tmp_path / "x.csv"
    assemble(folder, path)
    content = path.read_bytes()
    path.write_bytes(content + b"more,1,2,3,4,5\r\n")
    assert written_from(path) is None
    path.write_bytes(content)
    assert written_from(path) is not None
    side_file(path).unlink()
    assert written_from(path) is None
    # Killed before the new one has its place: the old side file must not stand for it.
    assemble(folder, path)
    other, *_ = make_folder(tmp_path / "other", seed=1)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_formats, "replace_file", killed)
    with pytest.raises(KeyboardInterrupt):
        assemble(other, path)
    assert written_from(path) is None


@pytest.mark.parametrize(
    "path, level, layout, words",
    [
        ("x.xlsx", "protein", None, r"'x\.xlsx' ends in '\.xlsx'.*\.h5.*without an ending"),
        ("x.H5", "protein", None, r"'\.H5'"),
        ("x.csv", "protein", "matrix", r"layout='matrix': \.csv files have no such layout"),
        ("x.h5", "protein", "wide", r"layout='wide': \.h5 files have no such"),
        ("x", "protein", "keyed", r"layout='keyed': a folder of shards has no such"),
        ("x.h5ad", "residue", None, r"\.h5ad files hold one row for each protein.*\.parquet"),
    ],
)
def test_what_cannot_be_written_is_found_beforehand(path, level, layout, words):
    with pytest.raises(ValueError, match=words):
        check_ending(path, level, layout)


@pytest.mark.parametrize(
    "ending, library, extra",
    [
        (".h5", "h5py", "hdf5"),
        (".hdf5", "h5py", "hdf5"),
        (".parquet", "pyarrow", "parquet"),
        (".h5ad", "h5py", "anndata"),
    ],
)
def test_a_missing_library_names_its_extra(ending, library, extra, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    words = re.escape(f'{ending} files need {library}: pip install "revdist_sklearn[{extra}]"')
    with pytest.raises(ImportError, match=words):
        check_ending(f"x{ending}", "protein")


def test_endings_are_given_back():
    for ending in (".npz", ".csv", ""):
        assert check_ending(f"some.folder/x{ending}", "residue") == ending


@pytest.mark.parametrize("ending, layout", FILES)
def test_a_damaged_shard_leaves_the_old_file(tmp_path, ending, layout):
    folder, *_ = make_folder(tmp_path / "folder")
    path = assemble_or_skip(folder, tmp_path / f"x{ending}", layout)
    before = path.read_bytes()
    shard = folder.path / folder.entries[-1]["name"]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedFileError, match=re.escape(shard.name)):
        assemble(folder, path, layout=layout)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("ending, layout", FILES)
def test_an_identifier_with_nul_is_an_error_and_no_other_identifier(tmp_path, ending, layout):
    folder, *_ = make_folder(tmp_path / "folder", names=["a", "b\0"])
    with pytest.raises(ValueError, match=r"identifier 'b\\x00' holds a NUL.*Rename"):
        assemble_or_skip(folder, tmp_path / f"x{ending}", layout)
    assert not (tmp_path / f"x{ending}").exists()


def test_unfinished_and_empty_folders_are_errors(tmp_path):
    folder, *_ = make_folder(tmp_path / "folder")
    folder.entries = None
    with pytest.raises(ValueError, match="is not complete"):
        assemble(folder, tmp_path / "x.npz")
    folder.entries = []
    with pytest.raises(ValueError, match="holds no proteins"):
        assemble(folder, tmp_path / "x.npz")
    with pytest.raises(ValueError, match="no ending that names a format"):
        assemble(folder, tmp_path / "x")


@pytest.mark.slow
@pytest.mark.parametrize("ending, layout", FILES)
def test_ten_thousand_columns(tmp_path, ending, layout):
    folder, rows, *_ = make_folder(tmp_path / "folder", names=["P1", "P2"], n_columns=10_400)
    path = assemble_or_skip(folder, tmp_path / f"x{ending}", layout)
    from revdist_sklearn import load_embeddings

    with load_embeddings(path) as emb:
        assert emb.columns == folder.columns
        assert emb.facts["columns"] == folder.columns
        assert_array_equal(emb["P2"], rows[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("ending, layout", [*FILES, ("", None)])
def test_size_is_told_beforehand(tmp_path, ending, layout, level, dtype):
    names = [f"sp|P{i:05d}|ABCD_HUMAN" for i in range(500)]
    folder, rows, *_ = make_folder(
        tmp_path / "folder", level=level, dtype=dtype, names=names, n_columns=64, size=100
    )
    path = folder.path
    if ending:
        path = assemble_or_skip(folder, tmp_path / f"x{ending}", layout)
    told = size_of(len(names), len(rows), 64, dtype, ending, layout)
    size = path.stat().st_size if ending else sum(f.stat().st_size for f in path.iterdir())
    assert told == pytest.approx(size, rel=0.15)


def test_positions_are_those_of_residues_from_one():
    shard = Shard(["a", "b", "c"], None, np.array([2, 1, 3]), np.empty((6, 1)))
    assert positions(shard).tolist() == [1, 2, 1, 1, 2, 3]


@pytest.mark.parametrize("ending, layout", FILES)
def test_shards_are_held_one_at_a_time(tmp_path, ending, layout, monkeypatch):
    """Each shard is read once, and its rows are gone when the next but one comes."""
    import weakref

    from revdist_sklearn.library import _shards

    folder, rows, *_ = make_folder(tmp_path / "folder", names=[f"P{i}" for i in range(64)], size=8)
    monkeypatch.setattr("revdist_sklearn.library._write_tables.GROUP", rows[:8].nbytes)
    alive, reads, most, read = weakref.WeakSet(), Counter(), [0], _shards.read_shard

    class Rows(np.ndarray):
        __hash__ = object.__hash__

    def counted(path, *args):
        shard = read(path, *args)
        reads[path] += 1
        followed = shard.rows.view(Rows)
        alive.add(followed)
        most[0] = max(most[0], len(alive))
        return Shard(shard.names, shard.lengths, shard.counts, followed)

    monkeypatch.setattr(_shards, "read_shard", counted)
    assemble_or_skip(folder, tmp_path / f"x{ending}", layout)
    assert set(reads.values()) == {1}
    assert len(reads) == 8
    assert most[0] <= 3


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.7, 0.97])
@pytest.mark.parametrize("ending, layout", FILES)
def test_a_full_disk_is_an_oserror_and_leaves_the_old_file(tmp_path, ending, layout, share):
    resource = pytest.importorskip("resource")
    folder, *_ = make_folder(
        tmp_path / "folder", names=[f"P{i}" for i in range(200)], n_columns=64
    )
    path = assemble_or_skip(folder, tmp_path / f"x{ending}", layout)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(before)), hard))
        with pytest.raises(OSError, match=r"x\.\w+ cannot be written.*before is still there"):
            assemble(folder, path, layout=layout)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("layout", ["keyed", "matrix"])
@pytest.mark.parametrize("strike", [1, 3, 5])
def test_an_interrupt_in_a_write_of_hdf5_is_that_interrupt(tmp_path, layout, strike, monkeypatch):
    """HDF5 would take it for a failed write, and end the process when it closes the file."""
    pytest.importorskip("h5py")
    folder, *_ = make_folder(tmp_path / "folder")
    calls = Counter()

    class Struck(PatientDisk):
        def _put(self, data):
            calls["put"] += 1
            if calls["put"] == strike:
                raise KeyboardInterrupt
            super()._put(data)

    monkeypatch.setattr("revdist_sklearn.library._write_hdf5.PatientDisk", Struck)
    with pytest.raises(KeyboardInterrupt):
        assemble(folder, tmp_path / "x.h5", layout=layout)
    assert calls["put"] == strike
    assert not list(tmp_path.glob("*x.h5*"))


def test_what_the_disk_did_not_take_is_read_again(tmp_path, monkeypatch):
    with PatientDisk(tmp_path / "x") as disk:
        disk.write(b"abcdefgh")
        disk.check()
        monkeypatch.setattr(disk, "_put", Mock(side_effect=OSError(28, "No space left on device")))
        disk.seek(2)
        disk.write(b"CD")
        disk.seek(10)
        disk.write(b"KL")
        assert disk.seek(0, os.SEEK_END) == disk.tell() == 12
        disk.seek(1)
        found = bytearray(13)
        assert disk.readinto(found) == 13
        assert found == b"bCDefgh\0\0KL\0\0"
        with pytest.raises(OSError, match="No space left"):
            disk.check()
