"""Embeddings opened again: the same numbers of every format, in parts, and no others' files."""

import io
import json
import os
import pickle
import re
import tracemalloc
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from shard_folders import NAMES, make_folder

from revdist_sklearn import DamagedFileError, Embeddings, FormatError, load_embeddings
from revdist_sklearn.library import _load, _open_tables, _store
from revdist_sklearn.library._facts import side_file
from revdist_sklearn.library._formats import ENDINGS, assemble, written_from
from revdist_sklearn.library._open_tables import record_offsets
from revdist_sklearn.library._shards import read_head

LEVELS = ["protein", "residue"]
# .hdf5 is .h5 by another name.
PLACES = [("", None)] + [
    (ending, layout)
    for ending, form in ENDINGS.items()
    if ending != ".hdf5"
    for layout in form.write
]
LIBRARIES = {".parquet": "pyarrow", ".h5": "h5py", ".hdf5": "h5py", ".h5ad": "h5py"}
each_place = pytest.mark.parametrize("ending, layout", PLACES)
each_level = pytest.mark.parametrize("level", LEVELS)


def written(tmp_path, ending, layout=None, **settings):
    """Return the path of a folder or file, and rows, counts and lengths of its proteins."""
    if library := LIBRARIES.get(ending):
        pytest.importorskip(library)
    folder, rows, counts, lengths = make_folder(tmp_path / "folder", **settings)
    if not ending:
        return folder.path, rows, counts, lengths
    if folder.level not in ENDINGS[ending].levels:
        pytest.skip("proteins only")
    path = tmp_path / f"x{ending}"
    assemble(folder, path, layout=layout)
    return path, rows, counts, lengths


def by_protein(rows, counts, level):
    return [r if level == "residue" else r[0] for r in np.split(rows, np.cumsum(counts)[:-1])]


def assert_same(found, expected, level):
    if level == "residue":
        assert isinstance(found, list) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_array_equal(one, other)
    else:
        assert isinstance(found, np.ndarray) and found.ndim == 2
        assert_array_equal(found, np.reshape(expected, (-1, found.shape[1])))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@each_level
@each_place
def test_all_that_was_written_is_found_again(tmp_path, ending, layout, level, dtype):
    path, rows, counts, lengths = written(tmp_path, ending, layout, level=level, dtype=dtype)
    expected = by_protein(rows, counts, level)
    with load_embeddings(path) as emb:
        assert isinstance(emb, Embeddings)
        assert (len(emb), emb.shape, emb.level) == (len(NAMES), rows.shape, level)
        assert emb.dtype == rows.dtype
        assert emb.columns == [f"revdist_{j}" for j in range(5)]
        assert emb.facts["stages"] == [["first", 2], ["second", 5]]
        assert emb.facts["n_residues"] == lengths.sum()
        for i, name in reversed(list(enumerate(NAMES))):  # before all names are read
            assert name in emb
            assert_array_equal(emb[name], expected[i])
            assert emb[name].dtype == rows.dtype
        assert emb.names == list(emb) == NAMES
        assert_array_equal(emb.n_rows, counts)
        if emb.lengths is not None:
            assert_array_equal(emb.lengths, lengths)
        for i in (0, 5, np.int64(7), -1, -len(NAMES)):
            assert_array_equal(emb[i], expected[i])
        for part in (slice(2, 9), slice(None), slice(5, 5), slice(9, 2), slice(-3, None)):
            assert_same(emb[part], expected[part], level)
        for part in (slice(None, None, -1), slice(1, 20, 3)):
            assert_same(emb[part], expected[part], level)
        for some in ([3, 3, 1, -1, 8, 2], [20, 7], np.array([4, 5]), ()):
            assert_same(emb[some], [expected[i] for i in some], level)
        assert_same(emb[[NAMES[4], NAMES[0]]], [expected[4], expected[0]], level)
        assert_array_equal(emb.to_numpy(), rows)
        assert emb.to_numpy().dtype == rows.dtype
        assert emb.to_numpy("float32").dtype == np.asarray(emb, dtype="float32").dtype == "float32"


@each_level
@each_place
def test_blocks_are_all_of_it_in_order(tmp_path, ending, layout, level, monkeypatch):
    path, rows, *_ = written(tmp_path, ending, layout, level=level)
    monkeypatch.setattr(_load, "BLOCK", 8 * 5 * 4)  # eight rows
    with load_embeddings(path) as emb:
        names, found = zip(*emb.blocks(), strict=True)
    assert [name for some in names for name in some] == NAMES
    assert len(names) >= 3
    assert_array_equal(np.concatenate([np.vstack(block) for block in found]), rows)
    assert max(len(np.vstack(block)) for block in found) <= 8


@each_level
@each_place
def test_frames_have_identifiers_and_positions(tmp_path, ending, layout, level):
    pd = pytest.importorskip("pandas")
    path, rows, counts, _ = written(tmp_path, ending, layout, level=level)
    with load_embeddings(path) as emb:
        frame = emb.to_frame()
    assert_array_equal(frame.to_numpy(), rows)
    assert frame.columns.tolist() == [f"revdist_{j}" for j in range(5)]
    if level == "residue":
        positions = np.concatenate([np.arange(1, n + 1) for n in counts])
        index = pd.MultiIndex.from_arrays([np.repeat(NAMES, counts), positions])
        assert frame.index.tolist() == index.tolist()
        assert frame.index.names == ["name", "position"]
    else:
        assert frame.index.tolist() == NAMES


@each_place
def test_what_is_asked_wrongly_is_told(tmp_path, ending, layout):
    path, *_ = written(tmp_path, ending, layout)
    emb = load_embeddings(path)
    assert "P1" not in emb and "folder/x" not in emb and 3 not in emb and "\0" not in emb
    with pytest.raises(KeyError, match=r"has no 'p1'; near it are 'sp\|P1\|A/B'"):
        emb["p1"]
    with pytest.raises(KeyError, match="has no 'with;comma'; near it are 'with,comma'"):
        emb["with;comma"]
    with pytest.raises(KeyError, match=r"has no 'quite another thing'\."):
        emb[["a.b", "quite another thing"]]
    with pytest.raises(IndexError, match=f"no protein {len(NAMES)} among {len(NAMES)}"):
        emb[len(NAMES)]
    with pytest.raises(IndexError, match="no protein -99"):
        emb[[0, -99]]
    for wrong in (1.0, None, b"a.b", [0, "a.b"]):
        with pytest.raises(TypeError, match="is no identifier and no position"):
            emb[wrong]
    with pytest.raises(TypeError, match="Booleans are no positions"):
        emb[np.ones(len(NAMES), dtype=bool)]
    assert "25 proteins" in repr(emb) or f"{len(NAMES)} proteins" in repr(emb)
    emb.close()
    emb.close()
    for use in (len, list, lambda e: e[0], lambda e: e["a.b"], lambda e: e.to_numpy()):
        with pytest.raises(ValueError, match="is closed"):
            use(emb)
    assert "closed" in repr(emb)


def test_hdf5_is_h5_by_another_name(tmp_path):
    path, rows, *_ = written(tmp_path, ".hdf5", "matrix")
    with load_embeddings(path) as emb:
        assert_array_equal(emb.to_numpy(), rows)


def test_paths_that_hold_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.h5 does not exist"):
        load_embeddings(tmp_path / "none.h5")
    with pytest.raises(FileNotFoundError, match=r"has no embeddings\.json"):
        load_embeddings(tmp_path)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match=r"ends in '\.txt'.*\.parquet"):
        load_embeddings(tmp_path / "x.txt")


@pytest.mark.parametrize("ending", [".h5", ".parquet", ".h5ad"])
def test_a_missing_library_names_its_extra(tmp_path, ending, monkeypatch):
    path, *_ = written(tmp_path, ending)
    monkeypatch.setitem(__import__("sys").modules, LIBRARIES[ending], None)
    with pytest.raises(ImportError, match=r"pip install \"revdist_sklearn\["):
        load_embeddings(path)


def test_an_unfinished_folder_says_that_the_same_call_goes_on(tmp_path):
    folder, *_ = make_folder(tmp_path / "folder")
    folder.entries = None
    folder.save()
    with pytest.raises(DamagedFileError, match=r"is not complete.*goes on from what is there"):
        load_embeddings(folder.path)


def test_a_newer_format_is_told(tmp_path):
    path, *_ = written(tmp_path, ".npz")
    with np.load(path) as file:
        arrays = dict(file)
    facts = json.loads(arrays["facts"].item()) | {"format": 99}
    np.savez(path, **{**arrays, "facts": json.dumps(facts)})
    with pytest.raises(FormatError, match="format 99"):
        load_embeddings(path)
    assert written_from(path) is None


# Damage


@each_level
@each_place
def test_cut_and_foreign_files_are_one_error(tmp_path, ending, layout, level):
    path, *_ = written(tmp_path, ending, layout, level=level)
    file = path if ending else next(path.glob("shard-*"))
    content = file.read_bytes()
    variants = [content[:n] for n in (0, 1, 8, 100, len(content) // 2, len(content) - 1)]
    for variant in [*variants, b"\x89HDF\r\n\x1a\n", b"PAR1", b"PK\5\6" + bytes(18), b"[" * 10**5]:
        file.write_bytes(variant)
        with pytest.raises(DamagedFileError, match=re.escape(file.name)):
            with load_embeddings(path) as emb:
                emb.names, emb.n_rows, emb.to_numpy()


@pytest.mark.parametrize(
    "ending, layout", [("", None), (".h5", "matrix"), (".h5ad", None), (".parquet", None)]
)
def test_a_changed_bit_is_an_error_wherever_it_is_read(tmp_path, ending, layout):
    path, rows, *_ = written(tmp_path, ending, layout)
    file = path if ending else min(path.glob("shard-*"))
    content = file.read_bytes()
    at = content.index(rows[0].tobytes()) if ending != ".parquet" else None
    if at is None:  # there numbers of a column follow each other
        at = content.index(rows[:3, 2].tobytes())
    changed = bytearray(content)
    changed[at + 2] ^= 4
    file.write_bytes(changed)
    with load_embeddings(path) as emb:
        for read in (lambda: emb[0], lambda: emb["sp|P1|A/B"], lambda: emb[:2], emb.to_numpy):
            with pytest.raises(DamagedFileError, match=re.escape(file.name)):
                read()


def test_a_changed_bit_of_npz_is_found_by_whoever_reads_all(tmp_path):
    path, rows, *_ = written(tmp_path, ".npz")
    changed = bytearray(path.read_bytes())
    changed[changed.index(rows[3].tobytes())] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DamagedFileError, match="CRC"):
        with load_embeddings(path) as emb:
            emb.to_numpy()


def test_names_of_a_shard_are_checked_without_its_rows(tmp_path, monkeypatch):
    folder, *_ = make_folder(tmp_path / "folder")
    file = folder.path / folder.entries[0]["name"]
    content = file.read_bytes()
    file.write_bytes(content.replace(b"with,comma", b"with;comma"))
    with pytest.raises(DamagedFileError, match="names or lengths are not those"):
        read_head(file)
    with load_embeddings(folder.path) as emb, pytest.raises(DamagedFileError, match=file.name):
        emb.names  # noqa: B018
    file.write_bytes(content)
    monkeypatch.setattr("revdist_sklearn.library._shards.read_shard", None)
    with load_embeddings(folder.path) as emb:
        assert emb.names == NAMES
        assert emb.lengths.sum() == folder.n_residues


# Memory


@pytest.mark.slow
@each_place
def test_opening_and_taking_one_reads_little(tmp_path, ending, layout):
    """Bytes that the process reads, by /proc: of 6 MB, some hundred thousand."""
    if not Path("/proc/self/io").exists():
        pytest.skip("needs /proc")
    names = [f"P{i}" for i in range(1_000)]
    path, rows, *_ = written(
        tmp_path,
        ending,
        layout,
        names=names,
        n_columns=1_500 if ending != ".csv" else 500,
        size=20,
    )

    def read():
        return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])

    total = path.stat().st_size if ending else rows.nbytes
    tracemalloc.start()
    try:
        before = read()
        with load_embeddings(path) as emb:
            opened = read() - before
            assert emb.shape == rows.shape
            if ending not in (".csv", ".parquet"):
                assert_array_equal(emb[777], rows[777])
                peak = tracemalloc.get_traced_memory()[1]
                assert peak < 4e6
        taken = read() - before
    finally:
        tracemalloc.stop()
    assert total > 4e6
    assert opened < 1e6
    if ending not in (".csv", ".parquet"):
        assert taken < 1e6


# Files of other programs


def test_uniprots_files_are_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    proteins = {name: rng.standard_normal(8).astype(np.float16) for name in ("Q1", "A0A009", "P9")}
    residues = {
        name: rng.standard_normal((n, 8)).astype(np.float16) for n, name in ((3, "Q1"), (5, "P9"))
    }
    for file, entries in (("per-protein.h5", proteins), ("per-residue.h5", residues)):
        with h5py.File(tmp_path / file, "w") as made:
            for name, rows in entries.items():
                made.create_dataset(name, data=rows, compression="gzip")
    with load_embeddings(tmp_path / "per-protein.h5") as emb:
        assert (emb.level, emb.shape, emb.dtype, emb.facts) == (
            "protein",
            (3, 8),
            np.float16,
            None,
        )
        assert emb.names == sorted(proteins)
        assert emb.columns == list("01234567")
        assert emb.lengths is None
        for name, rows in proteins.items():
            assert_array_equal(emb[name], rows)
        assert_array_equal(emb[:2], [proteins["A0A009"], proteins["P9"]])
    with load_embeddings(tmp_path / "per-residue.h5") as emb:
        assert (emb.level, emb.shape, emb.names) == ("residue", (8, 8), ["P9", "Q1"])
        assert_array_equal(emb["Q1"], residues["Q1"])
        assert_array_equal(emb[1], residues["Q1"])
        assert_array_equal(emb._store.rows(3, 7), np.vstack([residues["P9"], residues["Q1"]])[3:7])


def test_biotrainers_files_are_read_by_original_id(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for i, name in enumerate(["sp|P1|A/B", "other"]):
            file.create_dataset(str(i), data=np.full(4, i, np.float32))
            file[str(i)].attrs["original_id"] = name
    with load_embeddings(tmp_path / "x.h5") as emb:
        assert emb.names == ["sp|P1|A/B", "other"]
        assert "0" not in emb
        assert_array_equal(emb["other"], np.ones(4))


def test_files_of_anndata_are_read(tmp_path):
    anndata, pd = pytest.importorskip("anndata"), pytest.importorskip("pandas")
    X = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    frames = [pd.DataFrame(index=np.array(v, dtype=object)) for v in (["a", "b", "c"], ["x", "y"])]
    made = anndata.AnnData(X, obs=frames[0], var=frames[1])
    try:
        made.write_h5ad(tmp_path / "x.h5ad", compression="gzip")
    except Exception as error:
        pytest.skip(f"anndata cannot write it with this pandas: {type(error).__name__}")
    with load_embeddings(tmp_path / "x.h5ad") as emb:
        assert (emb.names, emb.columns, emb.facts) == (["a", "b", "c"], ["x", "y"], None)
        assert_array_equal(emb.to_numpy(), X)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_numpy_are_read(tmp_path, save):
    Z = np.random.default_rng(0).standard_normal((5, 3))
    save(tmp_path / "x.npz", names=np.array(list("abcde")), embedding=Z, columns=list("xyz"))
    with load_embeddings(tmp_path / "x.npz") as emb:
        assert (emb.names, emb.columns, emb.dtype) == (list("abcde"), list("xyz"), np.float64)
        for part in (slice(1, 3), slice(0, 1), slice(4, 5)):
            assert_array_equal(emb[part], Z[part])
        assert_array_equal(emb.to_numpy(), Z)


def test_tables_of_pandas_are_read(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"name": ["a", "b,c", "d\ne"], "x": [1.5, 2, 3], "y": [0.1, -1e-9, 4]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    paths = [tmp_path / "x.csv"]
    if pytest.importorskip("pyarrow"):
        frame.to_parquet(tmp_path / "x.parquet")
        paths.append(tmp_path / "x.parquet")
    for path in paths:
        with load_embeddings(path) as emb:
            assert (emb.names, emb.columns, emb.facts) == (["a", "b,c", "d\ne"], ["x", "y"], None)
            assert_array_equal(emb.to_numpy(), frame[["x", "y"]].to_numpy())
            assert_array_equal(emb["b,c"], [2, -1e-9])


def test_identifiers_that_stand_for_several_are_no_keys(tmp_path):
    np.savez(tmp_path / "x.npz", names=["a", "b", "a"], embedding=np.eye(3))
    with load_embeddings(tmp_path / "x.npz") as emb:
        assert_array_equal(emb["b"], [0, 1, 0])
        with pytest.raises(KeyError, match="'a' stands for several proteins"):
            emb["a"]
        assert_array_equal(emb[2], [0, 0, 1])


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"embedding": np.eye(2)}, "it has no names"),
        ({"arr_0": np.eye(2)}, "it has no embedding and no names"),
        (
            {"names": np.array(["a", "b"]), "embedding": np.eye(3)},
            "2 names for|3 proteins|damaged",
        ),
        ({"names": np.array(["a", "b"]), "embedding": np.ones(2)}, r"shape \(2,\)"),
        ({"names": np.array([1, 2]), "embedding": np.eye(2)}, "no names"),
        ({"names": np.array(["a", "b"]), "embedding": np.eye(2, dtype=int)}, "numbers are int64"),
        (
            {"names": np.array(["a", "b"]), "embedding": np.asfortranarray(np.ones((2, 3)))},
            "by columns",
        ),
        (
            {"names": np.array(["a"]), "embedding": np.ones((1, 2)), "columns": ["x"]},
            "1 columns of 2",
        ),
    ],
)
def test_archives_of_something_else_are_told(tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DamagedFileError, match=words):
        with load_embeddings(tmp_path / "x.npz") as emb:
            emb.names, emb.to_numpy()


@pytest.mark.parametrize(
    "text, words",
    [
        ("id,x\na,1\n", "first column is not 'name'"),
        ("", "first column is not 'name'"),
        ("name\na\n", "no columns of numbers"),
        ("name,x\na,b\n", "could not convert"),
        ("name,x,y\na,1\n", "damaged"),
        ('name,x\n"a,1\n', "a quote is not closed"),
    ],
)
def test_tables_of_something_else_are_told(tmp_path, text, words):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DamagedFileError, match=words):
        load_embeddings(tmp_path / "x.csv").to_numpy()


def test_parquet_of_something_else_is_told(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for columns, words in (
        ({"x": [1.0]}, "no column 'name'"),
        ({"name": ["a"], "x": [1]}, "column 'x' is int64"),
        ({"name": ["a"]}, "no columns of numbers"),
        ({"name": [None, "b"], "x": [1.0, 2.0]}, "names are missing"),
    ):
        parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
        with pytest.raises(DamagedFileError, match=words):
            load_embeddings(tmp_path / "x.parquet").names  # noqa: B018


# Hostile files


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DamagedFileError):
        load_embeddings("x.npz")
    bomb = np.array([Bomb(), Bomb()], dtype=object)
    for arrays in (
        {"names": bomb, "embedding": np.eye(2)},
        {"names": np.array(["a", "b"]), "embedding": np.eye(2), "facts": bomb},
        {"names": np.array(["a", "b"]), "embedding": bomb.reshape(2, 1)},
    ):
        np.savez("x.npz", **arrays)
        with pytest.raises(DamagedFileError, match="Python objects, which are not read"):
            load_embeddings("x.npz")
    assert not Path("exploded").exists()


def links(h5py, other):
    """Ways in which a file of HDF5 can lead to another, by name; each adds a dataset ``name``."""

    def external_storage(file, name):
        file.create_dataset(name, shape=(4,), dtype="f4", external=[(other, 0, 16)])

    def virtual(file, name):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(other, "secret", shape=(4,))
        file.create_virtual_dataset(name, layout)

    def external_link(file, name):
        file[name] = h5py.ExternalLink(other, "/secret")

    def soft_link(file, name):
        file.create_group("/z").create_dataset("secret", data=np.ones(4, np.float32))
        file[name] = h5py.SoftLink("/z/secret")

    return external_storage, virtual, external_link, soft_link


@pytest.mark.parametrize("way", range(4))
def test_links_and_numbers_of_other_files_are_not_followed(tmp_path, way):
    h5py = pytest.importorskip("h5py")
    other = str(tmp_path / "other.h5")
    with h5py.File(other, "w") as file:
        file["secret"] = np.full(4, 42, np.float32)
    link = links(h5py, other)[way]
    words = "not followed|not read"
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = np.zeros(4, np.float32)
        link(file, "b")
    with load_embeddings(tmp_path / "x.h5") as emb:
        assert_array_equal(emb["a"], np.zeros(4))
        for read in (lambda: emb["b"], lambda: emb[1], lambda: emb.to_numpy()):
            with pytest.raises(DamagedFileError, match=words):
                read()
    with h5py.File(tmp_path / "y.h5", "w") as file:
        link(file, "a")
    with pytest.raises(DamagedFileError, match=words):
        load_embeddings(tmp_path / "y.h5")
    for ending, names, layout in (
        (".h5", ("embedding", "names", "columns", "lengths"), "matrix"),
        (".h5ad", ("X", "obs", "var", "uns", "obs/_index", "obs/length"), None),
    ):
        for name in names:
            if name == "uns" and way < 2:
                continue  # a dataset in its place is not looked at
            (tmp_path / name.replace("/", "_")).mkdir()
            path, *_ = written(tmp_path / name.replace("/", "_"), ending, layout)
            with h5py.File(path, "r+") as file:
                del file[name]
                link(file, name)
            with pytest.raises(DamagedFileError):
                with load_embeddings(path) as emb:
                    emb.names, emb.lengths, emb.to_numpy()


def declared(h5py, path, shape, **settings):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", shape=shape, dtype="f4", **settings)


@pytest.mark.parametrize(
    "shape, settings",
    [
        ((10**12,), {}),
        ((10**12,), {"chunks": (1024,)}),
        ((10**9, 10**6), {"chunks": (16, 16), "compression": "gzip"}),
        ((2**40, 2**20), {"chunks": (16, 16), "fletcher32": True}),
    ],
)
def test_shapes_that_are_told_and_not_there_are_damage(tmp_path, shape, settings):
    h5py = pytest.importorskip("h5py")
    declared(h5py, tmp_path / "x.h5", shape, **settings)
    with pytest.raises(DamagedFileError, match="is to have shape"):
        with load_embeddings(tmp_path / "x.h5") as emb:
            emb[0]


def test_archives_whose_headers_tell_of_more_are_damage(tmp_path):
    for name in ("names", "embedding"):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            for member, array in (("names", np.array(["a"])), ("embedding", np.ones((1, 2)))):
                data = io.BytesIO()
                header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
                if member == name:
                    header["shape"] = (10**13, *array.shape[1:])
                np.lib.format.write_array_header_1_0(data, header)
                archive.writestr(f"{member}.npy", data.getvalue() + array.tobytes())
        with pytest.raises(DamagedFileError, match=f"{name}.npy is to have"):
            load_embeddings(tmp_path / "x.npz")


def test_a_folder_that_tells_of_more_rows_is_damage(tmp_path):
    folder, *_ = make_folder(tmp_path / "folder")
    for entry in folder.entries:
        entry["n_proteins"] = entry["n_rows"] = 10**12
    folder.save()
    with load_embeddings(folder.path) as emb:
        with pytest.raises(DamagedFileError, match="no room for its 1000000000000 rows"):
            emb.to_numpy()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "shard-1.safetensors"])
def test_a_folder_that_names_other_files_is_damage(tmp_path, name):
    folder, *_ = make_folder(tmp_path / "folder")
    folder.entries[0]["name"] = name
    folder.save()
    with pytest.raises(DamagedFileError, match="names a shard"):
        load_embeddings(folder.path)


# Parts of readers


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 2**24])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_records_of_csv_begin_where_no_quote_is_open(tmp_path, piece, end, monkeypatch):
    monkeypatch.setattr(_open_tables, "_PIECE", piece)
    records = ["name,x", "a,1", '"b\n""c""",2', '"",3', '"\r\n",4']
    for last in (end, ""):
        content = (end.join(records) + last).encode()
        (tmp_path / "x.csv").write_bytes(content)
        begins = record_offsets(tmp_path / "x.csv")
        found = [content[a:b].decode().rstrip() for a, b in pairwise(begins)]
        assert found == [record.rstrip() for record in records[1:]]
        assert begins[-1] == len(content)
        with load_embeddings(tmp_path / "x.csv") as emb:
            assert emb.names == ["a", 'b\n"c"', "", "\r\n"]
            assert_array_equal(emb.to_numpy(), [[1], [2], [3], [4]])


def test_runs_of_names_begin_where_the_name_changes_or_positions_begin_anew():
    names, positions = list("aaabbcccc"), [1, 2, 3, 1, 2, 5, 6, 1, 2]
    for cut in range(10):
        runs = _store.RunsOfNames()
        runs.add(names[:cut], np.array(positions[:cut]))
        runs.add(names[cut:], np.array(positions[cut:]))
        assert runs.names == list("abcc")
        assert runs.counts().tolist() == [3, 2, 2, 2]


def test_the_side_file_gives_the_type(tmp_path):
    path, rows, *_ = written(tmp_path, ".csv", dtype="float16")
    with load_embeddings(path) as emb:
        assert emb.dtype == np.float16
    side_file(path).unlink()
    with load_embeddings(path) as emb:
        assert (emb.dtype, emb.facts) == (np.float64, None)
        assert_array_equal(emb.to_numpy("float16"), rows)


def test_what_does_not_fit_into_memory_is_told(tmp_path):
    path, *_ = written(tmp_path, ".npz")
    with load_embeddings(path) as emb:
        emb._store.whole = lambda: (_ for _ in ()).throw(MemoryError())
        with pytest.raises(MemoryError, match=r"GB of numbers.*blocks"):
            emb.to_numpy()
