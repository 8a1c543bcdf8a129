import itertools
from fnmatch import fnmatch

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from revdist_sklearn import ModelNotFoundError
from revdist_sklearn.interop import load_published_scalers, load_reference_scalers

SIZES = (3, 5, 8)


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(100, 16)) @ rng.normal(size=(16, 16)) + 2


def published(folder, X, pcr):
    """Write one scaler a stage as the authors' package lays it out; return its inference."""
    blocks = np.split(X, np.cumsum(SIZES)[:-1], axis=1)
    z, paths = blocks[0], []
    for i, h in enumerate(blocks[1:]):
        state = {}
        if pcr:
            base = PCA().fit(z)
            kept = z.shape[1] - 1
            scores = (z - base.mean_) @ base.components_.T[:, :kept]
            y_mean = h.mean(axis=0)
            regressor = LinearRegression().fit(scores, h - y_mean)
            predicted = regressor.predict(scores) + y_mean
            state |= {
                "regressor__input_mean_": base.mean_,
                "regressor__output_mean_": y_mean,
                "regressor__input_components_": base.components_.T,
                "regressor__n_significant_pcs_": kept,
            }
        else:
            regressor = LinearRegression().fit(z, h)
            predicted = regressor.predict(z)
        pca = PCA(h.shape[1] - z.shape[1]).fit(h - predicted)
        state |= {
            "regressor__coef_": regressor.coef_,
            "regressor__intercept_": regressor.intercept_,
            "pca__components_": pca.components_,
            "pca__mean_": pca.mean_,
            "pca__explained_variance_": pca.explained_variance_,
        }
        paths.append(folder / f"{i}.npz")
        np.savez(paths[-1], **state)
        z = np.hstack([z, pca.transform(h - predicted)])
    return paths, z


@pytest.mark.parametrize("pcr", [False, True])
def test_gives_the_published_inference(tmp_path, X, pcr):
    paths, z = published(tmp_path, X, pcr)
    distiller = load_published_scalers(paths)
    assert_allclose(distiller.transform(X), z, atol=1e-10)
    assert distiller.stage_dims_.tolist() == list(SIZES)
    assert_allclose(distiller.truncate(4).transform(X[:, :8]), z[:, :4], atol=1e-10)
    with pytest.raises(ValueError, match="without the covariance"):
        distiller.inverse_transform(z)


def test_wrong_files(tmp_path, X):
    paths, _ = published(tmp_path, X, False)
    with pytest.raises(ValueError, match="smallest first"):
        load_published_scalers(paths[::-1])
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="no array 'pca__components_'"):
        load_published_scalers([tmp_path / "other.npz"])
    with pytest.raises(ValueError, match="paths is empty"):
        load_published_scalers([])


def named(folder, X, *, setting="linear-incremental-1k", sizes=("8M", "35M", "150M")):
    """Write the files of a family under the authors' names; return them, smallest first."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, _ = published(folder, X, setting.startswith("pcr"))
    pairs = itertools.pairwise(sizes)
    names = [f"rd-scaler-{small}-{large}-{setting}.npz" for small, large in pairs]
    return [path.rename(folder / name) for path, name in zip(paths, names, strict=True)]


def test_the_names_decide_the_order(tmp_path, X):
    paths = named(tmp_path, X)
    z = load_published_scalers(paths).transform(X)
    assert sorted(path.name for path in paths) != [path.name for path in paths]
    assert_array_equal(load_published_scalers(paths[::-1]).transform(X), z)
    assert_array_equal(load_published_scalers(tmp_path).transform(X), z)
    assert_array_equal(load_published_scalers(str(tmp_path)).transform(X), z)
    one = load_published_scalers(paths[0])
    assert_array_equal(one.transform(X[:, :8]), z[:, :5])


def test_one_of_several_settings_is_named(tmp_path, X):
    linear = load_published_scalers(named(tmp_path, X)).transform(X)
    pcr = named(tmp_path, X, setting="pcr-incremental-1k")
    with pytest.raises(ValueError, match=r"None names none of those.*linear-incremental-1k, pcr-"):
        load_published_scalers(tmp_path)
    with pytest.raises(ValueError, match="'ridge-fbpca-1k' is none of those"):
        load_published_scalers(tmp_path, setting="ridge-fbpca-1k")
    found = load_published_scalers(tmp_path, setting="linear-incremental-1k")
    assert_array_equal(found.transform(X), linear)
    mixed = [tmp_path / "rd-scaler-8M-35M-linear-incremental-1k.npz", *pcr]
    with pytest.raises(ValueError, match="None names none of those"):
        load_published_scalers(mixed)
    of_files = load_published_scalers(mixed, setting="pcr-incremental-1k")
    assert_array_equal(of_files.transform(X), load_published_scalers(pcr).transform(X))
    with pytest.raises(ValueError, match="'other' is none of those"):
        load_published_scalers(pcr[0], setting="other")
    naive = tmp_path / "naive-scaler-8M-35M-None-incremental-1k.npz"
    np.savez(naive, a=np.ones(2))  # may lie beside them
    found = load_published_scalers(tmp_path, setting="pcr-incremental-1k")
    assert_array_equal(found.transform(X), load_published_scalers(pcr).transform(X))


def test_a_missing_stage_is_named(tmp_path, X):
    paths = named(tmp_path, X)
    with pytest.raises(ValueError, match=r"35M-150M-.* size 35M, and no file ends there"):
        load_published_scalers(paths[1:])
    others = named(tmp_path / "c", X, sizes=("300M", "600M", "6B"))
    assert load_published_scalers(others[::-1]).stage_dims_.tolist() == list(SIZES)
    paths = named(tmp_path / "b", X, sizes=("8M", "35M", "3B"))
    assert load_published_scalers(paths[::-1]).stage_dims_.tolist() == list(SIZES)


def test_the_hub_is_asked_for_one_setting(tmp_path, X, monkeypatch):
    import huggingface_hub

    paths = named(tmp_path / "weights", X, setting="pcr-incremental-1k")
    asked = []

    def snapshot_download(repo_id, **options):
        asked.append((repo_id, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    z = load_published_scalers(paths).transform(X)
    monkeypatch.setenv("HF_TOKEN_LAB", "secret")
    with_token = load_published_scalers(revision="v1", token="HF_TOKEN_LAB")
    assert_array_equal(with_token.transform(X), z)
    assert asked[0][1]["token"] == "secret" and not asked[0][1]["local_files_only"]
    load_published_scalers("acme/offline", local_files_only=True)
    assert asked[1][1]["local_files_only"]
    with pytest.raises(ValueError, match="token='HF_TOKEN_LAB'"):
        load_published_scalers("acme/scalers", token="hf_" + "aB3" * 11)
    repo_id, options = asked[0]
    assert repo_id == "singhlab/plm_reverse_distillation" and options["revision"] == "v1"
    [pattern] = options["allow_patterns"]
    assert all(fnmatch(f"weights/{path.name}", pattern) for path in paths)
    assert not fnmatch("weights/rd-scaler-8M-35M-ridge-fbpca-1k.npz", pattern)
    with pytest.raises(ValueError, match="'ridge-fbpca-1k' is none"):
        load_published_scalers("acme/scalers", setting="ridge-fbpca-1k")
    with pytest.raises(ValueError, match="'None-fbpca-1k' is none"):
        load_published_scalers("acme/scalers", setting="None-fbpca-1k")
    [pattern] = asked[-1][1]["allow_patterns"]
    assert fnmatch("weights/naive-scaler-8M-35M-None-fbpca-1k.npz", pattern)
    assert not fnmatch("weights/rd-scaler-8M-35M-pcr-fbpca-1k.npz", pattern)


def test_folders_without_scalers(tmp_path):
    with pytest.raises(ValueError, match="holds no scalers of reverse distillation"):
        load_published_scalers(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"Scalers '.*nowhere' was not found: there"):
        load_published_scalers(tmp_path / "nowhere")


def test_the_base_and_the_spectra_of_files(tmp_path, X):
    base, *larger = load_published_scalers(named(tmp_path, X)).stages_
    assert (base.width, base.n_regression) == (3, 0) and base.n_added_nonzero == 3
    for stage, k in zip(larger, SIZES[1:], strict=True):
        known = stage.residual_variances[: stage.n_added]
        assert stage.residual_variances.shape == (k,) and (known > 0).all()
        assert np.isnan(stage.residual_variances[stage.n_added :]).all()


def test_the_old_name_warns(tmp_path, X):
    paths = named(tmp_path, X)
    with pytest.warns(FutureWarning, match="now called load_published_scalers"):
        old = load_reference_scalers(paths)
    assert_array_equal(old.transform(X), load_published_scalers(paths).transform(X))
