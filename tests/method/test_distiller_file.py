import json
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors import safe_open
from safetensors.numpy import save_file

from revdist_sklearn import Moments, ReverseDistiller
from revdist_sklearn.method._chain import apply_chain
from revdist_sklearn.method._distiller_file import read_chain, write_chain


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


def test_damage_is_named(tmp_path):
    ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ValueError, match="written in format 99"):
        ReverseDistiller.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="holds no complete distiller"):
        ReverseDistiller.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        ReverseDistiller.from_pretrained(tmp_path)


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


def test_files_of_two_distillers_are_told_apart(tmp_path):
    for name, n in (("a", None), ("b", 6)):
        ReverseDistiller((4, 8), n_components=n).fit(rows()).save_pretrained(tmp_path / name)
    (tmp_path / "b" / "config.json").replace(tmp_path / "a" / "config.json")
    with pytest.raises(ValueError, match="different distillers"):
        ReverseDistiller.from_pretrained(tmp_path / "a")


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


def test_the_precision_of_the_fit_comes_back(tmp_path):
    """It says from which columns nothing can be told: here one that is nearly another."""
    X = rows()
    X[:, 1] = X[:, 0] + 2e-5 * X[:, 1]
    distillers = {}
    for precision, expected in (("float32", 3), ("float64", 4)):
        # The last row has no weight to speak of; its precision counts.
        moments = Moments((4, 8)).update(X)
        moments.update(X[:1].astype(precision), sample_weight=[1e-12])
        distiller = distillers[precision] = ReverseDistiller().fit_moments(moments)
        assert distiller.stages_[1].n_regression == expected
        distiller.save_pretrained(tmp_path / precision)
        again = ReverseDistiller.from_pretrained(tmp_path / precision)
        again.save_pretrained(tmp_path / f"{precision}_again")
        twice = ReverseDistiller.from_pretrained(tmp_path / f"{precision}_again")
        for read in (again, twice):
            back = read.inverse_transform(X[:, :4])
            assert_array_equal(back, distiller.inverse_transform(X[:, :4]))
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


def test_each_save_has_an_id_of_its_own_in_both_files(tmp_path):
    distiller, ids = ReverseDistiller((4, 8)).fit(rows()), []
    for name in "ab":
        distiller.save_pretrained(tmp_path / name)
        ids.append(json.loads((tmp_path / name / "config.json").read_text())["id"])
        with safe_open(tmp_path / name / "chain.safetensors", framework="numpy") as file:
            assert file.metadata()["id"] == ids[-1]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("name", ["config.json", "chain.safetensors"])
def test_either_file_is_missed_by_its_name(tmp_path, name):
    ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        ReverseDistiller.from_pretrained(tmp_path)


@pytest.mark.parametrize("entry", ["format", "id", "parameters", "stages", "rotated", "precision"])
def test_an_entry_that_is_missing_is_damage(tmp_path, entry):
    ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config[entry]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"holds no complete distiller.*{entry}"):
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
    chain = ReverseDistiller((4, 8)).fit(rows())._chain
    write_chain(tmp_path, replace(chain, cross_covariance=None), {"parameters": {}})
    again, header = read_chain(tmp_path)
    assert again.cross_covariance is None and header["parameters"] == {}
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


@pytest.mark.parametrize(
    "change",
    [
        *(lambda config, name=name: config.pop(name) for name in ("block_sizes", "stage_sizes")),
        *(lambda config, name=name: config.pop(name) for name in ("n_samples_seen", "parameters")),
        lambda config: config["stages"][1].pop("n_added"),
        lambda config: config["stages"][1].update(more=1),
        lambda config: config.update(stages=3),
        lambda config: config.update(format="1"),
    ],
)
def test_a_configuration_that_is_not_whole_is_damage(tmp_path, change):
    ReverseDistiller((4, 8)).fit(rows()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds no complete distiller"):
        ReverseDistiller.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([config]))
    with pytest.raises(ValueError, match="holds no complete distiller"):
        ReverseDistiller.from_pretrained(tmp_path)


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
