"""Held against the authors' own package; benchmarks/build_reference_answers.py wrote the data."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA

from revdist_sklearn import DamagedFileError, ReverseDistiller
from revdist_sklearn.cli._main import main
from revdist_sklearn.interop import (
    load_published_scalers,
    regression_inputs,
    regression_scores,
)

DATA = Path(__file__).parent / "data" / "reference"
SIZES, FLAT_SIZES = (8, 11, 16), (12, 15)
SETTINGS = [f"{r}-{pca}" for r in ("linear", "ridge", "pcr") for pca in ("incremental", "fbpca")]
NAIVE = ["None-incremental", "None-fbpca"]
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


def naive_files(setting):
    return [DATA / setting / f"naive-scaler-{p}-{setting}-1k.npz" for p in ("8M-35M", "35M-150M")]


@pytest.mark.parametrize("setting", NAIVE)
def test_naive_scalers_give_the_authors_inference(answers, setting, tmp_path):
    """A PCA of models side by side, and of what it gives and the next model."""
    expected = answers[f"inference__{setting}"]
    X = answers["graded"][: len(expected)]
    distiller = load_published_scalers(naive_files(setting)[::-1])
    assert_allclose(distiller.transform(X.astype(float)), expected, rtol=0, atol=1e-12)
    single = answers[f"inference_float32__{setting}"]
    assert single.dtype == X.dtype == np.float32
    assert_allclose(distiller.transform(X), single, rtol=0, atol=1e-5)
    same = load_published_scalers(DATA / setting, setting=f"{setting}-1k")
    assert_array_equal(same.transform(X), distiller.transform(X))
    # No prefix is a model: each needs the columns of all.
    cut = distiller.truncate(5)
    assert cut.n_features_in_ == 35 and distiller.n_components_ == 16
    assert_allclose(cut.transform(X), distiller.transform(X)[:, :5], rtol=0, atol=1e-5)
    distiller.save_pretrained(tmp_path)
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert_array_equal(again.transform(X), distiller.transform(X))
    files = [np.load(path) for path in naive_files(setting)]
    variances = distiller.stages_[0].residual_variances
    assert_array_equal(variances[:16], files[1]["pca__explained_variance_"])
    assert np.isnan(variances[16:]).all()


def test_the_first_of_naive_scalers_is_a_pca(answers):
    X = answers["graded"].astype(float)[:, :19]
    path = naive_files("None-incremental")[0]
    Z = load_published_scalers(path).transform(X)
    with np.load(path) as file:
        expected = (X - file["pca__mean_"]) @ file["pca__components_"].T
    assert_allclose(Z, expected, atol=1e-12)
    # What its script fits it on.
    assert_same_columns(Z, PCA(11).fit_transform(X), atol=1e-10)


def test_naive_scalers_that_do_not_go_together(tmp_path):
    [first, second] = naive_files("None-incremental")
    with pytest.raises(ValueError, match="no file ends there"):
        load_published_scalers([second])
    shutil.copy(first, tmp_path / first.name)
    shutil.copy(first, tmp_path / second.name)
    with pytest.raises(ValueError, match=r"of 19 columns to 11, .* go on from 11"):
        load_published_scalers(tmp_path)
    arrays = {"pca__components_": np.eye(5), "pca__mean_": np.zeros(5)}
    np.savez(tmp_path / first.name, **arrays)
    with pytest.raises(ValueError, match="of 5 columns to 5, which does not go on from one model"):
        load_published_scalers(tmp_path / first.name)
    arrays["pca__components_"] = np.ones((3, 5))
    np.savez(tmp_path / first.name, **arrays)
    with pytest.raises(DamagedFileError, match="axes repeat each other"):
        load_published_scalers(tmp_path / first.name)


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_regression_was_trained_on_is_told(answers, setting, tmp_path):
    """The scalers are trained on the smaller model's own rows, as the authors' script does it."""
    X = answers["graded"].astype(float)
    distiller = load_published_scalers(scaler_files(setting))
    told = "model" if setting.startswith("pcr") else "unknown"
    assert regression_inputs(distiller) == ["base", "prefix", told]
    distiller.save_pretrained(tmp_path, dtype="float32")
    again = ReverseDistiller.from_pretrained(tmp_path)
    assert regression_inputs(again) == ["base", "prefix", told]
    assert regression_inputs(distiller.truncate(12)) == ["base", "prefix", told]
    # On rows it shows: worse than the mean, where the same rows fitted in a chain are well above.
    base, second, third = regression_scores(distiller, X)
    assert np.isnan(base) and second > 0.5 and third < -0.3
    consistent = fit(X, SIZES, setting)
    assert regression_inputs(consistent) == ["base", "prefix", "prefix"]
    assert min(regression_scores(consistent, X)[1:]) > 0.5


def test_scores_of_regressions_are_those_of_rows(answers):
    X = answers["graded"].astype(float)
    distiller = load_published_scalers(scaler_files("pcr-incremental"))
    Z = distiller.transform(X)
    stage = distiller.stages_[2]
    target = X[:, 19:] @ stage.directions
    scores = 1 - np.sum(Z[:, 11:] ** 2) / np.sum((target - target.mean(axis=0)) ** 2)
    assert_allclose(regression_scores(distiller, X)[2], scores)
    # The prediction itself, by the arrays of the file.
    with np.load(scaler_files("pcr-incremental")[1]) as file:
        n = int(file["regressor__n_significant_pcs_"])
        axes = file["regressor__input_components_"][:, :n]
        h = (Z[:, :11] - file["regressor__input_mean_"]) @ axes @ file["regressor__coef_"].T
        h += file["regressor__intercept_"] + file["regressor__output_mean_"] + file["pca__mean_"]
        left = np.sum(((X[:, 19:] - h) @ file["pca__components_"].T) ** 2)
    assert_allclose(scores, 1 - left / np.sum((target - target.mean(axis=0)) ** 2))


def test_a_regression_on_the_prefix_is_told_from_the_mean(answers):
    """Arrays that say a chain was trained as the paper has it, in the form of files."""
    X = answers["graded"].astype(float)
    chain = ReverseDistiller(SIZES, regressor="pcr").fit(X)
    chain._chain = replace(chain._chain, cross_covariance=None)
    assert regression_inputs(chain) == ["base", "prefix", "prefix"]


@pytest.mark.parametrize("setting", [*SETTINGS, *NAIVE])
def test_info_tells_what_published_regressions_were_trained_on(setting, capsys):
    assert main(["info", str(DATA / setting)]) == 0
    told = capsys.readouterr().out
    if setting in NAIVE:  # which have none
        assert "trained on" not in told and "regression_scores" not in told
        return
    second = "own embedding" if setting.startswith("pcr") else "what the files do not tell"
    [line] = [line for line in told.splitlines() if line.startswith("Regressions trained on: ")]
    assert "the nested embedding, " in line and line.endswith(second)
    assert "regression_scores(distiller, rows) shows it" in told
