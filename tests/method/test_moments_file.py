import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from revdist_sklearn import DamagedFileError, FormatError, Moments, ReverseDistiller
from revdist_sklearn.base import _tensor_file
from revdist_sklearn.base._tensor_file import write_tensors

PROTEINS = np.repeat(np.arange(20), 10)


def rows(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 1).astype(dtype)


def told(moments):
    names = (
        "blocks",
        "precision",
        "product_precision",
        "row_precision",
        "n_rows",
        "n_proteins",
        "n",
    )
    return {name: getattr(moments, name) for name in names}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("precision", [None, "float32", "float64"])
@pytest.mark.parametrize("proteins", [None, PROTEINS])
def test_all_that_moments_tell_comes_back(path, dtype, precision, proteins):
    moments = Moments((2, 4), block_names=("a", "b"), precision=precision)
    moments.update(rows(dtype), proteins=proteins, sample_weight=np.arange(200) % 3)
    moments.save(path)
    loaded = Moments.load(path)
    assert told(loaded) == told(moments)
    assert loaded.residue == moments.residue and loaded.protein == moments.protein
    assert (loaded.block_sizes, loaded.block_names) == ((2, 4), ("a", "b"))


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_loaded_moments_go_on(path, dtype):
    whole = Moments((2, 4)).update(rows(dtype), proteins=PROTEINS)
    whole.save(path)
    loaded = Moments.load(path)
    for moments in (whole, loaded):
        moments.update(rows(np.float64, seed=1), proteins=PROTEINS)
        moments.merge(Moments((2, 4)).update(rows(np.float64, seed=2), proteins=PROTEINS))
    assert told(loaded) == told(whole)
    assert loaded.residue == whole.residue and loaded.protein == whole.protein


@pytest.mark.parametrize("precision, n_regression", [("float32", 1), ("float64", 2)])
def test_a_fit_on_loaded_moments_is_the_fit(path, precision, n_regression):
    """Also where the precision of the products decides: a column that is nearly another."""
    X = rows()
    X[:, 1] = X[:, 0] + 2e-5 * X[:, 1]
    # The last row has no weight to speak of; the precision of its product counts.
    last = Moments((2, 4), precision=precision).update(X[:1], sample_weight=[1e-12])
    moments = Moments((2, 4)).update(X).merge(last)
    moments.save(path)
    fit = ReverseDistiller().fit_moments(moments)
    again = ReverseDistiller().fit_moments(Moments.load(path))
    assert again.stages_ == fit.stages_
    assert fit.stages_[1].n_regression == n_regression
    assert_array_equal(again.inverse_transform(X[:, :2]), fit.inverse_transform(X[:, :2]))


def test_what_half_precision_rounds_away_is_told_of_loaded_moments_too(path):
    X = rows()
    X[:, 3] += 5000
    Moments((2, 4)).update(X.astype(np.float16)).save(path)
    with pytest.warns(UserWarning, match="float16 rounds away"):
        ReverseDistiller().fit_moments(Moments.load(path))


def test_metadata_are_returned_when_asked_for(path):
    Moments((2, 4)).update(rows()).save(path, metadata={"weighting": ["protein", 1, None]})
    moments, metadata = Moments.load(path, return_metadata=True)
    assert metadata == {"weighting": ["protein", 1, None]} and moments.n_rows == 200
    assert isinstance(Moments.load(path), Moments)
    Moments((2, 4)).save(path)
    assert Moments.load(path, return_metadata=True)[1] == {}


def test_moments_of_no_rows(path):
    Moments((2, 4), precision="float32").save(path)
    loaded = Moments.load(path)
    assert told(loaded) == told(Moments((2, 4), precision="float32"))
    expected = Moments((2, 4), precision="float32").update(rows())
    assert loaded.update(rows()).residue == expected.residue


def rewrite_format(path, number):
    """Give a file another number of its format, or none, and take its digest away."""

    def change(header, tensors):
        del header["format"]
        header |= {} if number is None else {"format": number}

    rewritten(path, change, digest=False)


def rewritten(path, change, digest=True):
    """Write the file at the path again, after a change of its header and tensors."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["moments"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    change(header, tensors)
    if digest:
        write_tensors(path, "moments", header, tensors)
    else:
        save_file(tensors, path, {"moments": json.dumps(header)})


def test_the_number_of_the_format(path):
    moments = Moments((2, 4)).update(rows())
    moments.save(path)
    rewrite_format(path, 5)
    with pytest.raises(FormatError, match=r"m\.safetensors was written in format 5"):
        Moments.load(path)
    rewrite_format(path, 3)
    with pytest.raises(DamagedFileError, match="its digest is missing"):
        Moments.load(path)
    rewrite_format(path, 0)
    with pytest.raises(ValueError, match="format 0"):
        Moments.load(path)
    for number in (2, 1, None):  # the first had none
        Moments((2, 4)).update(rows()).save(path)
        rewrite_format(path, number)
        assert Moments.load(path).residue == moments.residue


@pytest.mark.parametrize("metadata", [None, {"other": "{}"}])
def test_a_safetensors_file_of_something_else(path, metadata):
    save_file({"residue.n": np.ones(1)}, path, metadata)
    with pytest.raises(ValueError, match="holds no moments, or is incomplete"):
        Moments.load(path)


def test_what_cannot_be_written_leaves_the_old_file(path, monkeypatch):
    moments = Moments((2, 4)).update(rows())
    moments.save(path)

    def full(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise SafetensorError("no space left")

    monkeypatch.setattr(_tensor_file, "save_file", full)
    with pytest.raises(OSError, match=r"m\.safetensors cannot be written: no space left"):
        Moments((2, 4)).save(path)
    assert Moments.load(path).residue == moments.residue
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["residue.n", "residue.mean", "residue.scatter", "protein.mean"])
def test_a_level_that_lacks_a_part_is_damage(tmp_path, name):
    path = tmp_path / "m.safetensors"
    Moments([3]).update(np.eye(3), proteins=[0, 1, 1]).save(path)
    rewritten(path, lambda header, tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=rf"m\.safetensors holds no moments.*{name}"):
        Moments.load(path)


@pytest.mark.parametrize("name", ["row_precision", "n_rows", "block_sizes", "extra"])
def test_a_header_that_lacks_an_entry_is_damage(tmp_path, name):
    path = tmp_path / "m.safetensors"
    Moments([3]).update(np.eye(3)).save(path)
    rewritten(path, lambda header, tensors: header.pop(name))
    with pytest.raises(ValueError, match=rf"m\.safetensors holds no moments.*lacks {name}"):
        Moments.load(path)


def test_a_header_that_is_no_json_is_damage(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": np.eye(2)}, path, {"moments": "{"})
    with pytest.raises(ValueError, match=r"m\.safetensors holds no moments"):
        Moments.load(path)


def entry(**values):
    return lambda header, tensors: header.update(values)


def array(name, change):
    return lambda header, tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    "change",
    [
        entry(block_sizes=[10**12]),
        entry(block_sizes=[]),
        entry(block_sizes=[True, 2]),
        entry(block_sizes="3"),
        entry(block_names=["a", "b"]),
        entry(block_names=[3]),
        entry(n_rows=-1),
        entry(n_rows=3.0),
        entry(precision="float16"),
        entry(product_precision=None),
        entry(row_precision="half"),
        entry(extra=[]),
        entry(level_precisions=[]),
        entry(level_precisions={"x": ["float16", "float16"]}),
        entry(level_precisions={"x": ["float64", "half"]}),
        entry(provenance={"members": []}),
        array("residue.n", lambda a: -a),
        array("residue.n", lambda a: np.repeat(a, 2)),
        array("residue.n", lambda a: a.astype(np.int64)),
        array("residue.mean", lambda a: a[:2]),
        array("residue.mean", lambda a: a.astype(np.float32)),
        array("residue.scatter", lambda a: a[:, :2]),
        array("residue.scatter", lambda a: a * np.nan),
        array("residue.scatter", lambda a: a.astype(np.uint8)),
        array("protein.scatter", lambda a: a + np.inf),
        array("protein.mean", lambda a: a > 0),
    ],
)
def test_what_are_no_moments_is_one_typed_error(path, change):
    Moments([3]).update(np.eye(3), proteins=[0, 1, 1]).save(path)
    rewritten(path, change)
    with pytest.raises(DamagedFileError, match=r"m\.safetensors holds no moments, .*; write it"):
        Moments.load(path)


def test_what_is_no_file_is_no_damage(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="is no file"):
            Moments.load(path)


MEMBERS = [{"block": "a", "fingerprint": "1", "weights": "2"}]
CORPUS = {"digest": "3", "n_proteins": 2, "n_residues": 9}


def from_corpus(members=MEMBERS, digest="3"):
    moments = Moments([3], block_names=["a"]).update(np.eye(3))
    corpora = [{**CORPUS, "digest": digest}]
    moments.provenance = {"members": members, "corpora": corpora, "version": "0.1.0"}
    return moments


def test_provenance_comes_back_and_is_merged(path):
    moments = from_corpus()
    moments.save(path)
    loaded = Moments.load(path)
    assert loaded.provenance == moments.provenance
    both = loaded.merge(from_corpus(digest="4"))
    assert [corpus["digest"] for corpus in both.provenance["corpora"]] == ["3", "4"]
    assert moments.provenance["corpora"] == [CORPUS]
    assert Moments([3], block_names=["a"]).merge(moments).provenance == moments.provenance
    assert loaded.merge(Moments([3], block_names=["a"])).provenance == both.provenance


def test_rows_of_another_origin_end_it():
    others = [{**MEMBERS[0], "weights": "9"}]
    assert from_corpus().merge(from_corpus(others)).provenance is None
    assert (
        from_corpus().merge(Moments([3], block_names=["a"]).update(np.eye(3))).provenance is None
    )
    assert from_corpus().update(np.eye(3)).provenance is None
    assert from_corpus().update(np.empty((0, 3))).provenance is not None
