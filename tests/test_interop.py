import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from revdist_sklearn.interop import load_published_scalers

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
