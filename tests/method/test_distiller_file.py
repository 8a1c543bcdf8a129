import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from revdist_sklearn import Moments, ReverseDistiller


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
    with pytest.raises(FileNotFoundError, match="hf download org/name"):
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
