import json
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file, save_file

from revdist_sklearn import DamagedFileError, FormatError, Moments, ReverseDistiller
from revdist_sklearn.base._tensor_file import read_tensors, write_tensors
from revdist_sklearn.method._chain import apply_chain
from revdist_sklearn.method._distiller_file import read_chain


def rows(n=200):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 12)) @ rng.normal(size=(12, 12)) + 1


@pytest.mark.parametrize("rotate_base", [False, True])
@pytest.mark.parametrize("names", [None, ("a", "b")])
def test_round_trip(tmp_path, rotate_base, names):
    X = rows()
    moments = Moments((4, 8), block_names=names).update(X)
    distiller = ReverseDistiller(rotate_base=rotate_base, regressor="pcr").fit_moments(moments)
    distiller.save_pretrained(tmp_path / "d")
    again = ReverseDistiller.from_pretrained(tmp_path / "d")
    assert_array_equal(again.transform(X), distiller.transform(X))
    Z = distiller.transform(X)[:, :6]
    assert_array_equal(again.inverse_transform(Z), distiller.inverse_transform(Z))
    assert again.get_params() == distiller.get_params()
    assert_array_equal(again.get_feature_names_out(), distiller.get_feature_names_out())
    assert again.stages_[1].explained_after == distiller.stages_[1].explained_after
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [
        "chain.safetensors",
        "config.json",
    ]


def test_truncated_and_named(tmp_path):
    pd = pytest.importorskip("pandas")
    columns = [f"a__{j}" for j in range(4)] + [f"b__{j}" for j in range(8)]
    X = pd.DataFrame(rows(), columns=columns)
    distiller = ReverseDistiller().fit(X).truncate(3)
    distiller.save_pretrained(tmp_path)
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert_array_equal(again.transform(X.iloc[:, :4]), distiller.transform(X.iloc[:, :4]))
    with pytest.raises(ValueError, match="feature names"):
        again.transform(X.iloc[:, 4:8])


def rewritten(folder, change):
    """Write a distiller again with its header and tensors changed, and the digest of that."""
    path = folder / "chain.safetensors"
    header, tensors, _ = read_tensors(path, "distiller", 4)
    changed = change(header, tensors)
    write_tensors(path, "distiller", header if changed is None else changed, tensors)


def test_damage_is_named(tmp_path):
    ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path)
    weights = tmp_path / "chain.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b'\\"alpha\\": 1.0', b'\\"alpha\\": 2.0'))
    with pytest.raises(DamagedFileError, match=r"holds no complete distiller .*save it again"):
        ReverseDistiller.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no chain\.safetensors"):
        ReverseDistiller.from_pretrained(tmp_path)


def test_a_newer_format_is_told_before_all_else(tmp_path):
    ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path)
    rewritten(
        tmp_path,
        lambda header, tensors: {"format": 6, "of another form": tensors.pop("mean").size},
    )
    with pytest.raises(FormatError, match=r"format 6.*reads up to 5"):
        ReverseDistiller.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", [None, "{", '{"format": 3}', '{"format": 99}', "other"])
def test_reading_does_not_depend_on_the_copy_of_the_header(tmp_path, config):
    distiller = ReverseDistiller((4, 8)).fit(rows())
    distiller.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["format"] == 3 and told["block_sizes"] == [4, 8] and told["provenance"] is None
    if config is None:
        (tmp_path / "config.json").unlink()
    elif config == "other":
        ReverseDistiller((4, 8), n_components=6).fit(rows()).save_pretrained(tmp_path / "b")
        (tmp_path / "b" / "config.json").replace(tmp_path / "config.json")
    else:
        (tmp_path / "config.json").write_text(config)
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert_array_equal(again.transform(rows()), distiller.transform(rows()))


def test_neither_folder_nor_hub(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        FileNotFoundError, match=r"(?s)^Distiller 'org/name'.*hf download org/name"
    ):
        ReverseDistiller.from_pretrained("org/name")


def test_numpy_parameters_are_written(tmp_path):
    sizes = np.array([4, 8])
    distiller = ReverseDistiller(sizes, n_components=np.int64(6)).fit(rows())
    distiller.save_pretrained(tmp_path)
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert_array_equal(again.transform(rows()), distiller.transform(rows()))


@pytest.mark.parametrize(
    "sizes, expected",
    [
        (range(1, 4), (1, 2, 3)),
        (np.arange(1, 4, dtype=np.int16), (1, 2, 3)),
        ([np.int64(1), 2, np.uint8(3)], (1, 2, 3)),
    ],
)
def test_whatever_stands_for_a_list_comes_back_as_a_tuple(tmp_path, sizes, expected):
    X = rows()[:, :6]
    distiller = ReverseDistiller(sizes, residual_sizes=range(1, 3), alpha=np.float32(0.5))
    distiller.set_params(rotate_base=np.bool_(True)).fit(X).save_pretrained(tmp_path)
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert again.block_sizes == expected and again.residual_sizes == (1, 2)
    assert again.alpha == 0.5 and again.rotate_base is True
    assert_array_equal(again.transform(X), distiller.transform(X))
    assert_array_equal(again.fit(X).transform(X), distiller.transform(X))


def test_a_parameter_that_json_does_not_take_leaves_the_old_distiller(tmp_path):
    old = ReverseDistiller((4, 8)).fit(rows())
    old.save_pretrained(tmp_path)
    new = ReverseDistiller((4, 8), n_components=6).fit(rows()).set_params(block_sizes=[object()])
    with pytest.raises(TypeError, match=r"block_sizes=\[<object .* cannot be written as JSON"):
        new.save_pretrained(tmp_path)
    new.set_params(block_sizes=(4, 8), regressor="lasso")
    with pytest.raises(ValueError, match="regressor"):
        new.save_pretrained(tmp_path)
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert_array_equal(again.transform(rows()), old.transform(rows()))


SETTINGS = [
    {},
    {"n_components": 3},
    {"n_components": 6, "regressor": "ridge", "alpha": 0.5},
    {"residual_sizes": (7,), "regressor": "pcr"},
    {"rotate_base": True, "residual_level": "protein"},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_all_that_a_distiller_tells_comes_back(tmp_path, settings, dtype):
    X = rows().astype(dtype)
    distiller = ReverseDistiller((4, 8), **settings).fit(X, proteins=np.arange(200) // 2)
    distiller.save_pretrained(tmp_path)
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert again.get_params() == distiller.get_params()
    assert again.stages_ == distiller.stages_
    assert again.blocks_ == distiller.blocks_
    assert again.n_samples_seen_ == distiller.n_samples_seen_ == 200
    for name in ("components_", "mean_", "stage_dims_"):
        assert_array_equal(getattr(again, name), getattr(distiller, name))
    assert_array_equal(again.transform(X), distiller.transform(X))
    cut, cut_again = distiller.truncate(2), again.truncate(2)
    assert_array_equal(cut_again.transform(X[:, :4]), cut.transform(X[:, :4]))
    again.save_pretrained(tmp_path / "again")
    assert ReverseDistiller.from_pretrained(tmp_path / "again").stages_ == distiller.stages_


@pytest.mark.parametrize("products, kind", [("float32", "float64"), ("float64", "float16")])
def test_the_precision_of_the_fit_comes_back(tmp_path, products, kind):
    """It says from which columns nothing can be told: here one that is nearly another."""
    X = rows()
    X[:, 1] = X[:, 0] + 2e-5 * X[:, 1]
    distillers = {}
    for name, rank in (("exact", 4), ("coarse", 3)):
        moments = Moments((4, 8)).update(X)
        if name == "coarse":  # of no weight to speak of
            part = Moments((4, 8), precision=products)
            moments.merge(part.update(X[:1].astype(kind), sample_weight=[1e-12]))
        distiller = distillers[name] = ReverseDistiller().fit_moments(moments)
        assert distiller.stages_[1].n_regression == rank
        distiller.save_pretrained(tmp_path / name)
        again = ReverseDistiller.from_pretrained(tmp_path / name)
        again.save_pretrained(tmp_path / f"{name}_again")
        twice = ReverseDistiller.from_pretrained(tmp_path / f"{name}_again")
        for read in (again, twice):
            assert read.stages_ == distiller.stages_
            back = read.inverse_transform(X[:, :4])
            assert_array_equal(back, distiller.inverse_transform(X[:, :4]))
            cut = read.truncate(3).inverse_transform(X[:, :3])
            assert_array_equal(cut, distiller.truncate(3).inverse_transform(X[:, :3]))
    moved = X[:, :4] + [[0, 1, 0, 0]]
    one, other = (distiller.inverse_transform(moved) for distiller in distillers.values())
    assert np.abs(one - other).max() > 100


def test_a_folder_is_made_and_what_stood_there_is_replaced(tmp_path):
    folder = tmp_path / "a" / "new" / "folder"
    ReverseDistiller((4, 8), n_components=3).fit(rows()).save_pretrained(folder)
    distiller = ReverseDistiller((4, 8)).fit(rows())
    distiller.save_pretrained(str(folder))
    assert_array_equal(
        ReverseDistiller.from_pretrained(str(folder)).transform(rows()),
        distiller.transform(rows()),
    )
    assert len(list(folder.iterdir())) == 2


def test_a_folder_without_the_file_holds_no_distiller(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no chain\.safetensors: it holds no"):
        ReverseDistiller.from_pretrained(tmp_path)


ENTRIES = ["parameters", "stages", "rotated", "precision", "block_sizes", "stage_sizes"]
ENTRIES += ["n_samples_seen", "feature_names_in", "chain_block_sizes", "chain_block_names"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_that_is_missing_is_damage(tmp_path, entry):
    ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path)
    rewritten(tmp_path, lambda header, _: {k: v for k, v in header.items() if k != entry})
    with pytest.raises(DamagedFileError, match=f"holds no complete distiller.*{entry}"):
        ReverseDistiller.from_pretrained(tmp_path)


def test_weights_cut_short_are_damage(tmp_path):
    ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path)
    weights = tmp_path / "chain.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="holds no complete distiller"):
        ReverseDistiller.from_pretrained(tmp_path)


def test_a_hub_repository_is_asked_for_the_two_files(tmp_path, monkeypatch):
    import huggingface_hub

    distiller = ReverseDistiller((4, 8)).fit(rows())
    distiller.save_pretrained(tmp_path)
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        # A download of this size shows its bar.
        assert not huggingface_hub.utils.are_progress_bars_disabled()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setenv("HF_TOKEN_LAB", "secret")
    again = ReverseDistiller.from_pretrained("lab/chain", revision="v1", token="HF_TOKEN_LAB")
    assert_array_equal(again.transform(rows()), distiller.transform(rows()))
    [(name, options)] = asked
    assert name == "lab/chain"
    assert sorted(options.pop("allow_patterns")) == ["chain.safetensors", "config.json"]
    assert options == {"revision": "v1", "local_files_only": False, "token": "secret"}


def test_a_chain_without_its_covariance_comes_back_without(tmp_path):
    distiller = ReverseDistiller((4, 8)).fit(rows())
    chain = distiller._chain
    distiller._chain = replace(chain, cross_covariance=None)
    distiller.save_pretrained(tmp_path)
    again, header = read_chain(tmp_path)
    assert again.cross_covariance is None and header["parameters"]["block_sizes"] == [4, 8]
    assert again.stages == chain.stages and again.blocks == chain.blocks


# The first format, whose stages began after the base; tests/data/format_1 has files of it.


def write_format_1(folder, distiller, *, keep_covariance=True, parameters=None):
    """Write a chain as the first format had it, from what it must be read as."""
    chain = distiller._chain
    tensors = {"mean": chain.mean}
    if keep_covariance:
        tensors["cross_covariance"] = chain.cross_covariance
    if chain.rotated:
        tensors["base"] = np.ascontiguousarray(chain.stages[0].directions)
    stages = []
    for i, stage in enumerate(chain.stages[1:]):
        values = {f.name: getattr(stage, f.name) for f in fields(stage)}
        for name in [name for name, value in values.items() if isinstance(value, np.ndarray)]:
            tensors[f"stage.{i}.{name}"] = np.ascontiguousarray(values.pop(name))
        values["n_components"] = values.pop("n_added")
        stages.append({**values, "n_components_nonzero": stage.n_added_nonzero})
    config = {
        "format": 1,
        "id": "1",
        "parameters": parameters or {"block_sizes": [4, 8]},
        "block_sizes_used": chain.blocks.sizes,
        "block_names": distiller.blocks_.names,
        "block_sizes": distiller.blocks_.sizes,
        "n_base": chain.stages[0].n_added,
        "stage_sizes": distiller._stage_sizes,
        "n_samples_seen": distiller.n_samples_seen_,
        "feature_names_in": [],
        "precision": chain.precision,
        "stages": stages,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "chain.safetensors", {"id": "1"})


@pytest.mark.parametrize("rotate_base", [False, True])
@pytest.mark.parametrize("names", [None, ("a", "b")])
@pytest.mark.parametrize("n_components", [None, 6, 4])
def test_the_base_of_format_1_is_told_from_its_covariance(
    tmp_path, rotate_base, names, n_components
):
    moments = Moments((4, 8), block_names=names).update(rows())
    settings = {"rotate_base": rotate_base, "n_components": n_components}
    distiller = ReverseDistiller(**settings).fit_moments(moments).truncate(n_components or 8)
    write_format_1(tmp_path, distiller)
    chain, _ = read_chain(tmp_path)
    expected = distiller._chain
    assert chain.blocks == expected.blocks and chain.rotated == rotate_base
    assert chain.stages[1:] == expected.stages[1:]
    base, told = chain.stages[0], expected.stages[0]
    for name in ("block", "width", "n_added", "n_regression", "explained_before"):
        assert getattr(base, name) == getattr(told, name)
    for name in ("component_shares", "residual_variances", "directions", "mean"):
        assert_allclose(getattr(base, name), getattr(told, name), atol=1e-12)
    assert base.coef.shape == told.coef.shape and base.prefix_mean.shape == (0,)


def test_names_of_an_older_format_are_replaced(tmp_path, monkeypatch):
    table = {1: {"sizes": "block_sizes", "gone": None}}
    monkeypatch.setattr("revdist_sklearn.method._distiller_file.PARAMETERS", table)
    distiller = ReverseDistiller((4, 8)).fit(rows())
    write_format_1(tmp_path, distiller, parameters={"sizes": [4, 8], "gone": 3, "alpha": 2.0})
    assert read_chain(tmp_path)[1]["parameters"] == {"block_sizes": [4, 8], "alpha": 2.0}


@pytest.mark.parametrize("rotate_base", [False, True])
@pytest.mark.parametrize("lost", ["covariance", "columns"])
def test_what_format_1_did_not_keep_of_a_base_is_nan(tmp_path, rotate_base, lost):
    distiller = ReverseDistiller((4, 8), rotate_base=rotate_base).fit(rows())
    distiller = distiller.truncate(3) if lost == "columns" else distiller
    write_format_1(tmp_path, distiller, keep_covariance=lost != "covariance")
    chain, _ = read_chain(tmp_path)
    base, told = chain.stages[0], distiller._chain.stages[0]
    assert np.isnan(base.residual_variances).all() and base.residual_variances.shape == (4,)
    assert np.isnan(base.component_shares).all()
    assert base.component_shares.shape == (base.width,) == (told.width,)
    assert_array_equal(base.directions, told.directions)
    X = rows()[:, : chain.blocks.n_columns]
    assert_array_equal(apply_chain(chain, X), distiller.transform(X))


def test_a_base_without_variance_of_format_1(tmp_path):
    X = rows()
    X[:, :4] = 1
    distiller = ReverseDistiller((4, 8)).fit(X)
    write_format_1(tmp_path, distiller)
    base = read_chain(tmp_path)[0].stages[0]
    assert_array_equal(base.component_shares, 0)
    assert_array_equal(base.residual_variances, 0)


# Headers and tensors that some other program might write, each with a digest of its own.


def stage(number, **values):
    return lambda header, tensors: header["stages"][number].update(values)


def entry(**values):
    return lambda header, tensors: header.update(values)


def array(name, change):
    return lambda header, tensors: tensors.update({name: change(tensors[name])})


CHANGES = [
    lambda header, tensors: [header],
    lambda header, tensors: header["stages"][1].clear(),
    lambda header, tensors: header["stages"].clear(),
    lambda header, tensors: tensors.update(mean=tensors.pop("stage.1.coef")),
    entry(stages=3),
    entry(stages=[]),
    entry(stages=[3, 4]),
    entry(format="1"),
    entry(format=True),
    entry(rotated=1),
    entry(rotated=True, stages=None),
    entry(precision="float16"),
    entry(block_sizes=[4, 9]),
    entry(block_sizes=[4, 8, 1]),
    entry(block_sizes=[4, True]),
    entry(block_sizes="48"),
    entry(block_names=["a"]),
    entry(block_names=[1, 2]),
    entry(chain_block_sizes=[10**12, 8]),
    entry(chain_block_sizes=[4.0, 8]),
    entry(chain_block_names="ab"),
    entry(stage_sizes=[4, 3]),
    entry(stage_sizes=[3, 4]),
    entry(stage_sizes=[4]),
    entry(n_samples_seen=-1),
    entry(n_samples_seen=1e3),
    entry(feature_names_in=["a"]),
    entry(feature_names_in=5),
    entry(parameters=[1]),
    entry(parameters={"no_such": 1}),
    entry(parameters={"regressor": "lasso"}),
    entry(parameters={"n_components": 0}),
    entry(provenance=[]),
    entry(provenance={"members": [], "corpora": [], "version": "1"}),
    entry(provenance={"members": [{}, {}], "corpora": [], "version": "1"}),
    stage(1, more=1),
    stage(1, n_added=3),
    stage(1, n_added="4"),
    stage(1, width=9),
    stage(1, width=8.0),
    stage(1, n_regression=None),
    stage(1, block=2),
    stage(1, explained_before="much"),
    stage(0, n_added=0),
    array("mean", lambda a: a[:1]),
    array("mean", lambda a: a.astype(np.float16)),
    array("mean", lambda a: a * np.nan),
    array("stage.0.directions", lambda a: a[::-1]),
    array("stage.1.directions", lambda a: a > 0),
    array("stage.1.directions", lambda a: a.astype(np.uint8)),
    array("stage.1.directions", lambda a: a / 0),
    array("stage.1.directions", lambda a: a.T),
    array("stage.1.coef", lambda a: a.astype(np.float32)),
    array("stage.1.coef", lambda a: a[None]),
    array("stage.1.mean", lambda a: a[:1]),
    array("stage.1.prefix_mean", lambda a: a[0]),
    array("stage.1.component_shares", lambda a: a + np.inf),
    array("stage.1.residual_variances", lambda a: a[1:]),
    array("cross_covariance", lambda a: a[:, :-1]),
    array("cross_covariance", lambda a: a * np.inf),
]


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_distiller_is_one_typed_error(tmp_path, change):
    ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path)
    rewritten(tmp_path, change)
    with pytest.raises(DamagedFileError, match=r"holds no complete distiller \(.*; save it again"):
        ReverseDistiller.from_pretrained(tmp_path)


def test_what_is_not_known_may_be_nan(tmp_path):
    distiller = ReverseDistiller((4, 8)).fit(rows())
    distiller.save_pretrained(tmp_path)
    for name in ("component_shares", "residual_variances"):
        rewritten(tmp_path, array(f"stage.1.{name}", lambda a: a * np.nan))
    rewritten(tmp_path, stage(1, explained_before=float("nan")))
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert_array_equal(again.transform(rows()), distiller.transform(rows()))


def test_a_header_or_digest_that_is_not_there_is_damage(tmp_path):
    ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path)
    path = tmp_path / "chain.safetensors"
    _, tensors, metadata = read_tensors(path, "distiller", 4)
    for name, words in (("digest", "digest is missing"), ("distiller", "lacks the header")):
        save_file(tensors, path, {k: v for k, v in metadata.items() if k != name})
        with pytest.raises(DamagedFileError, match=words):
            ReverseDistiller.from_pretrained(tmp_path)
    save_file(load_file(path), path)
    with pytest.raises(DamagedFileError, match="lacks the header"):
        ReverseDistiller.from_pretrained(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from revdist_sklearn import ReverseDistiller
from revdist_sklearn.base import _tensor_file

new = ReverseDistiller.from_pretrained(sys.argv[1])
moments = 0

def moment():
    global moments
    if moments == n:
        os.kill(os.getpid(), signal.SIGKILL)
    moments += 1

def stops(call):
    def wrapped(*args, **options):
        moment()
        result = call(*args, **options)
        moment()
        return result
    return wrapped

def half_written(tensors, path, metadata):
    path.write_bytes(b"half")
    moment()
    save_file(tensors, path, metadata)

# Before and after every call by which files change: at each the process is killed once.
save_file = _tensor_file.save_file
names = ("chmod", "fsync", "replace", "unlink", "mkdir", "open")
for n, folder in enumerate(sorted(Path(sys.argv[2]).iterdir())):
    child = os.fork()
    if not child:
        for name in names:
            setattr(os, name, stops(getattr(os, name)))
        _tensor_file.save_file = stops(half_written)
        new.save_pretrained(folder)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    print(folder)
"""


@pytest.mark.parametrize("before", ["today", "format 1"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_distiller(tmp_path, before):
    X = rows()
    old = ReverseDistiller((4, 8)).fit(X)
    new = ReverseDistiller((4, 8), n_components=6).fit(rows())
    new.save_pretrained(tmp_path / "new")
    for i in range(60):
        folder = tmp_path / "killed" / f"{i:02d}"
        folder.mkdir(parents=True)
        if before == "today":
            old.save_pretrained(folder)
        else:
            write_format_1(folder, old)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "new"), str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed = done.stdout.split()
    assert 10 < len(killed) < 60
    widths = [ReverseDistiller.from_pretrained(f).transform(X).shape[1] for f in killed]
    assert set(widths) == {8, 6} and widths == sorted(widths, reverse=True)


MODEL = '{"model_type": "esm", "hidden_size": 8}'


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": MODEL, "model.safetensors": "w"},
        {"config.json": MODEL, "chain.safetensors": "w"},
        {"notes.txt": "mine"},
    ],
)
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    distiller = ReverseDistiller((4, 8)).fit(rows())
    with pytest.raises(OSError, match=rf"something else .*\({', '.join(sorted(files))}\)"):
        distiller.save_pretrained(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_file_is_no_folder_for_a_distiller(tmp_path):
    (tmp_path / "d").write_text("mine")
    with pytest.raises(OSError, match="is a file; a distiller is a folder"):
        ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path / "d")


def test_a_distiller_is_replaced_also_a_damaged_one_and_hidden_files_do_not_count(tmp_path):
    (tmp_path / ".gitattributes").write_text("*.safetensors filter=lfs")
    for regressor in ("ols", "pcr"):
        ReverseDistiller((4, 8), regressor=regressor).fit(rows()).save_pretrained(tmp_path)
    assert ReverseDistiller.from_pretrained(tmp_path).regressor == "pcr"
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / "config.json").write_text("{")
    distiller = ReverseDistiller((4, 8)).fit(rows())
    distiller.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    distiller.save_pretrained(tmp_path)
    assert ReverseDistiller.from_pretrained(tmp_path).regressor == "ols"
