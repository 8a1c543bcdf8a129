"""Held against the authors' own package; benchmarks/build_reference_answers.py wrote the data."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from revdist_sklearn import ReverseDistiller
from revdist_sklearn.interop import load_published_scalers

DATA = Path(__file__).parent / "data" / "reference"
SIZES, FLAT_SIZES = (8, 11, 16), (12, 15)
SETTINGS = [f"{r}-{pca}" for r in ("linear", "ridge", "pcr") for pca in ("incremental", "fbpca")]
REGRESSORS = {"linear": "ols", "ridge": "ridge", "pcr": "pcr"}


@pytest.fixture(scope="module")
def answers():
    with np.load(DATA / "answers.npz") as file:
        return dict(file)


def scaler_files(setting):
    """The files of one setting, smallest model first, by the names that the authors give."""
    pairs = ("8M-35M", "35M-150M")
    return [DATA / setting / f"rd-scaler-{pair}-{setting}-1k.npz" for pair in pairs]


def fit(X, sizes, setting):
    return ReverseDistiller(sizes, regressor=REGRESSORS[setting.split("-")[0]]).fit(X)


def assert_same_columns(found, expected, atol):
    """A principal direction has no sign of its own: columns are compared up to theirs."""
    signs = np.sign(np.sum(found * expected, axis=0))
    assert_allclose(found * signs, expected, rtol=0, atol=atol)


def kept(distiller):
    return [stage.n_regression for stage in distiller.stages_[1:]]


# At these widths both of the authors' PCA types take an exact SVD, of residuals whose leading
# variances are well apart; what is left is rounding: theirs of rows, ours of moments.


@pytest.mark.parametrize("setting", SETTINGS)
def test_fit_on_two_models_is_the_authors(answers, setting):
    X = answers["graded"].astype(float)[:, :19]
    distiller = fit(X, SIZES[:2], setting)
    expected = answers[f"two_models__{setting}"]
    Z = distiller.transform(X[: len(expected)])
    assert_array_equal(Z[:, :8], X[: len(expected), :8])
    assert_same_columns(Z[:, 8:], expected, atol=1e-11)
    if setting.startswith("pcr"):
        assert kept(distiller) == answers[f"two_models_kept__{setting}"].tolist() == [4]


@pytest.mark.parametrize("setting", SETTINGS)
def test_fit_on_three_models_is_algorithm_3_with_the_authors_classes(answers, setting):
    X = answers["graded"].astype(float)
    distiller = fit(X, SIZES, setting)
    expected = answers[f"accumulated__{setting}"]
    Z = distiller.transform(X[: len(expected)])
    assert_same_columns(Z[:, 8:], expected, atol=1e-11)
    if setting.startswith("pcr"):
        assert kept(distiller) == answers[f"accumulated_kept__{setting}"].tolist()
        assert all(n < k for n, k in zip(kept(distiller), SIZES, strict=False))


def test_fit_where_no_component_is_above_the_edge(answers):
    X = answers["flat"].astype(float)
    distiller = fit(X, FLAT_SIZES, "pcr")
    expected = answers["flat__pcr-fbpca"]
    assert_same_columns(distiller.transform(X[: len(expected)])[:, 12:], expected, atol=1e-11)
    assert kept(distiller) == answers["flat_kept__pcr-fbpca"].tolist() == [10]


def rows_of(e, n):
    """n rows whose sample covariance is diagonal, with the variances e: cosines, scaled."""
    m = np.arange(1, min(n, len(e) + 1))
    cosines = np.sqrt(2 / n) * np.cos(np.pi / n * np.outer(np.arange(n) + 0.5, m))
    rows = np.zeros((n, len(e)))
    rows[:, : len(m)] = cosines * np.sqrt((n - 1) * e[: len(m)])
    return rows


@pytest.mark.filterwarnings("ignore:.*rows are too few to tell signal from noise")
def test_pcr_keeps_as_many_components_as_the_authors(answers):
    found = []
    for e, n in zip(answers["spectra"], answers["spectra_rows"], strict=True):
        rows = rows_of(e, int(n))
        X = np.hstack([rows, rows, rows[:, :1] ** 2])
        found += kept(ReverseDistiller((12, 13), regressor="pcr").fit(X))
    assert_array_equal(found, answers["spectra_kept"])
    # Few rows and many, nearly all components and one.
    assert {10, 400} <= set(answers["spectra_rows"]) and {1, 12} <= set(found)


@pytest.mark.parametrize("setting", SETTINGS)
def test_published_scalers_give_the_authors_inference(answers, setting):
    expected = answers[f"inference__{setting}"]
    X = answers["graded"][: len(expected)]
    distiller = load_published_scalers(scaler_files(setting))
    Z = distiller.transform(X.astype(float))
    assert_array_equal(Z[:, :8], X[:, :8])
    assert_allclose(Z[:, 8:], expected, rtol=0, atol=1e-12)
    # Their class for GPUs computes in float32.
    assert_allclose(Z[:, 8:], answers[f"inference_float32__{setting}"], rtol=0, atol=1e-5)
    assert_allclose(distiller.transform(X)[:, 8:], expected, rtol=0, atol=1e-5)
    cut = distiller.truncate(11).transform(X[:, :19].astype(float))
    assert_allclose(cut, Z[:, :11], rtol=0, atol=1e-12)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_authors_file_names_decide_the_order(answers, setting):
    X = answers["graded"].astype(float)
    Z = load_published_scalers(scaler_files(setting)).transform(X)
    reverse = load_published_scalers(scaler_files(setting)[::-1])
    folder = load_published_scalers(DATA / setting)
    assert_array_equal(reverse.transform(X), Z)
    assert_array_equal(folder.transform(X), Z)


def test_pcr_says_how_many_components_the_scalers_use():
    distiller = load_published_scalers(scaler_files("pcr-incremental"))
    files = [np.load(path) for path in scaler_files("pcr-incremental")]
    assert kept(distiller) == [int(file["regressor__n_significant_pcs_"]) for file in files]
    assert distiller.block_sizes_ == SIZES


def test_a_scaler_of_the_naive_kind_is_refused():
    # It is a PCA of both models side by side: no regression, and the prefix is not kept.
    path = DATA / "None-incremental" / "naive-scaler-8M-35M-None-incremental-1k.npz"
    with pytest.raises(ValueError, match=r"naive|no array"):
        load_published_scalers([path])
