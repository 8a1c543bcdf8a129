"""Files that the first format left behind (tests/data/format_1) load, and give the same numbers.

They were written by commit af046fd, before anything was renamed.
"""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from revdist_sklearn import (
    Blocks,
    ESMFeaturizer,
    FormatError,
    Moments,
    ReverseDistiller,
    corpus_moments,
)
from revdist_sklearn.base import _formats
from revdist_sklearn.datasets import load_uniprot_sample
from revdist_sklearn.embedding._cache import EmbeddingCache, cache_info
from revdist_sklearn.models._encoder import Encoder

DATA = Path(__file__).parent / "data" / "format_1"


@pytest.fixture(scope="module")
def answers():
    with np.load(DATA / "answers.npz") as file:
        return dict(file)


def test_a_distiller_with_all_parameters(answers):
    distiller = ReverseDistiller.from_pretrained(DATA / "distiller_all_parameters")
    assert distiller.get_params() == {
        "block_sizes": (3, 5, 8),
        "n_components": 11,
        "regressor": "ridge",
        "alpha": 0.5,
        "residual_sizes": (4, 5),
        "rotate_base": True,
        "residual_level": "protein",
        "order": "stage",
    }
    X = answers["X"]
    assert_array_equal(distiller.transform(X), answers["all_parameters"])
    Z = answers["all_parameters"]
    assert_array_equal(distiller.inverse_transform(Z), answers["all_parameters_inverse"])
    again = ReverseDistiller(**distiller.get_params()).fit(X, proteins=answers["groups"])
    assert_allclose(again.transform(X), answers["all_parameters"], atol=1e-10)
    assert distiller.n_samples_seen_ == 120
    assert_array_equal(distiller.truncate(2).transform(X[:, :3]), answers["all_parameters"][:, :2])


@pytest.mark.parametrize("name", ["distiller_all_parameters", "distiller_frame"])
def test_the_stages_are_those_of_a_new_fit(answers, name):
    """The base, which that format did not describe, follows from what it kept."""
    old = ReverseDistiller.from_pretrained(DATA / name)
    X, proteins = answers["X"], answers["groups"]
    new = ReverseDistiller(old.block_sizes_, **_without_sizes(old)).fit(X, proteins=proteins)
    assert len(old.stages_) == len(new.stages_) == 3
    for one, other in zip(old.stages_, new.stages_, strict=True):
        assert (one.width, one.n_added, one.n_regression) == (
            other.width,
            other.n_added,
            other.n_regression,
        )
        assert one.n_added_nonzero == other.n_added_nonzero
        assert_allclose(one.explained_after, other.explained_after, rtol=1e-10)
        assert_allclose(one.residual_variances, other.residual_variances, rtol=1e-8)
        assert_allclose(one.directions, other.directions, atol=1e-10)
    assert_array_equal(old.stage_dims_, new.stage_dims_)
    assert_allclose(old.components_, new.components_, atol=1e-10)


def _without_sizes(distiller):
    return {k: v for k, v in distiller.get_params().items() if k != "block_sizes"}


def test_a_distiller_of_a_frame(answers):
    pd = pytest.importorskip("pandas")
    distiller = ReverseDistiller.from_pretrained(DATA / "distiller_frame")
    assert distiller.blocks_ == Blocks([3, 5, 8], ["a", "b", "c"])
    X = pd.DataFrame(answers["X"], columns=distiller.blocks_.columns())
    assert_array_equal(distiller.transform(X), answers["frame"])
    assert distiller.get_feature_names_out()[-1] == "rd_c__2"


def test_it_is_written_anew_in_todays_format(answers, tmp_path):
    old = ReverseDistiller.from_pretrained(DATA / "distiller_all_parameters")
    old.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["format"] == _formats.ROUNDED_SINCE - 1
    new = ReverseDistiller.from_pretrained(tmp_path)
    assert new.stages_ == old.stages_
    assert_array_equal(new.transform(answers["X"]), answers["all_parameters"])


def test_moments(answers):
    moments = Moments.load(DATA / "moments.safetensors")
    assert moments.blocks == Blocks([3, 5, 8], ["a", "b", "c"])
    assert (moments.n_rows, moments.n_proteins) == (120, 20)
    assert (moments.precision, moments.product_precision) == ("float32", "float32")
    assert moments.row_precision == "float16"
    assert_array_equal(moments.scatter, answers["scatter"])
    assert_array_equal(moments.protein.scatter, answers["protein_scatter"])
    assert_array_equal(moments.mean, answers["mean"])


@pytest.fixture
def no_models(monkeypatch):
    def refuse(*args):
        raise AssertionError("a model ran")

    monkeypatch.setattr(Encoder, "__call__", refuse)


CORPUS = {"layer": 1, "max_length": 90, "too_long": "window"}


def test_a_checkpoint_goes_on(no_models):
    """It was of a finished pass, so that no model has to run."""
    sequences = load_uniprot_sample().sequences[:4]
    moments = corpus_moments(
        ESMFeaturizer("esm2-nano:32", **CORPUS),
        sequences,
        weighting="protein",
        checkpoint=DATA / "checkpoint.safetensors",
    )
    assert moments.n_rows == sum(map(len, sequences)) and moments.n == pytest.approx(4)


@pytest.mark.parametrize(
    "changed", [{"layer": -1}, {"dtype": "float16"}, {"max_length": 80}, {"too_long": "truncate"}]
)
@pytest.mark.filterwarnings("ignore:.*were cut to their first")
def test_a_checkpoint_of_other_settings_does_not(changed, no_models):
    emb = ESMFeaturizer("esm2-nano:32", **{**CORPUS, **changed})
    with pytest.raises(ValueError, match="belongs to another corpus"):
        corpus_moments(
            emb,
            load_uniprot_sample().sequences[:4],
            weighting="protein",
            checkpoint=DATA / "checkpoint.safetensors",
        )


@pytest.fixture
def cache(tmp_path):
    return Path(shutil.copytree(DATA / "cache", tmp_path / "cache"))


def cached_sequences():
    sequences = load_uniprot_sample().sequences[:3]
    return [sequences[0][:40], sequences[1][:40], sequences[2][:70]]


def test_a_cache_is_read(cache, no_models):
    emb = ESMFeaturizer("esm2-nano:32", cache_dir=cache, max_length=50, too_long="window")
    assert_array_equal(emb.transform(cached_sequences()), np.load(DATA / "cached_rows.npy"))
    emb.set_params(layer=np.int64(-1), max_length=np.int64(50))
    assert_array_equal(emb.transform(cached_sequences()), np.load(DATA / "cached_rows.npy"))
    spaces, _ = cache_info(cache)
    assert [space["n_sequences"] for space in spaces] == [2, 1]


def test_a_cache_is_written_to_in_its_format(cache, monkeypatch):
    emb = ESMFeaturizer("esm2-nano:32", cache_dir=cache)
    rows = emb.transform(["MKTAYIAKQR"])
    monkeypatch.setattr(Encoder, "__call__", None)
    assert_array_equal(emb.transform(["MKTAYIAKQR"]), rows)
    spaces, _ = cache_info(cache)
    assert [space["n_sequences"] for space in spaces] == [3, 1]


# What a later version has written


def test_a_newer_distiller_is_a_typed_error(tmp_path, monkeypatch):
    with monkeypatch.context() as later:
        later.setattr("revdist_sklearn.method._distiller_file.ROUNDED_SINCE", 6)
        ReverseDistiller((3, 5, 8)).fit(
            np.random.default_rng(0).normal(size=(99, 16))
        ).save_pretrained(tmp_path, dtype="float32")
    with pytest.raises(FormatError, match=r"format 6.*reads up to 5\. Update it: pip"):
        ReverseDistiller.from_pretrained(tmp_path)


def test_newer_moments_and_checkpoints_are_typed_errors(tmp_path, monkeypatch):
    emb, path = ESMFeaturizer("esm2-nano:32"), tmp_path / "m.safetensors"
    with monkeypatch.context() as later:
        later.setattr("revdist_sklearn.method._moments_file.LEVELS_SINCE", 6)
        Moments([2]).update(np.eye(2)).save(path)
    with pytest.raises(FormatError, match=r"format 5.*reads up to 4"):
        Moments.load(path)
    with monkeypatch.context() as later:
        later.setattr("revdist_sklearn._checkpoint.CHECKPOINT", 4)
        later.setattr("revdist_sklearn._checkpoint.ANY_PIECES_SINCE", 5)
        later.setattr("revdist_sklearn._checkpoint.FINGERPRINTS", {4: lambda *facts: "later"})
        corpus_moments(emb, ["MKTAYIAKQR"], checkpoint=tmp_path / "c")
    with pytest.raises(FormatError, match=r"The checkpoint .*reads up to 3"):
        corpus_moments(emb, ["MKTAYIAKQR"], checkpoint=tmp_path / "c")


def test_a_newer_cache_is_left_alone(tmp_path):
    EmbeddingCache(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "embeddings.sqlite3")) as connection:
        connection.execute("PRAGMA user_version = 4")
    with pytest.warns(UserWarning, match=r"format 4, by another version.*reads up to 3") as caught:
        ESMFeaturizer("esm2-nano:32", cache_dir=tmp_path).transform(["MKTAYIAKQR"])
    assert "Name another `cache_dir`" in str(caught[0].message)
    assert "cache clear" not in str(caught[0].message)
    with pytest.raises(FormatError, match="pip install -U") as refused:
        cache_info(tmp_path)
    assert isinstance(refused.value, OSError) and "clear" not in str(refused.value)
