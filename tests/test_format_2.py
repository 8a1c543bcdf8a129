"""Files that the second format left behind (tests/data/format_2) load, and give the same numbers.

They were written by commit da98ff8. They have no digests, and a distiller is two files.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from revdist_sklearn import (
    Blocks,
    DamagedFileError,
    ESMFeaturizer,
    Moments,
    ReverseDistiller,
    corpus_moments,
)
from revdist_sklearn.datasets import load_uniprot_sample
from revdist_sklearn.embedding._cache import cache_info
from revdist_sklearn.models._encoder import Encoder

DATA = Path(__file__).parent / "data" / "format_2"


@pytest.fixture(scope="module")
def answers():
    with np.load(DATA / "answers.npz") as file:
        return dict(file)


@pytest.fixture
def no_models(monkeypatch):
    def refuse(*args):
        raise AssertionError("a model ran")

    monkeypatch.setattr(Encoder, "__call__", refuse)


def test_distillers(answers, tmp_path):
    old = ReverseDistiller.from_pretrained(DATA / "distiller_all_parameters")
    assert old.get_params() == {
        "block_sizes": (3, 5, 8),
        "n_components": 11,
        "regressor": "ridge",
        "alpha": 0.5,
        "residual_sizes": (4, 5),
        "rotate_base": True,
        "residual_level": "protein",
        "order": "stage",
    }
    old.save_pretrained(tmp_path)
    for distiller in (old, ReverseDistiller.from_pretrained(tmp_path)):
        assert distiller.provenance_ is None
        assert_array_equal(distiller.transform(answers["X"]), answers["all_parameters"])
        back = distiller.inverse_transform(answers["all_parameters"])
        assert_array_equal(back, answers["all_parameters_inverse"])


def test_a_distiller_of_a_frame(answers):
    pd = pytest.importorskip("pandas")
    distiller = ReverseDistiller.from_pretrained(DATA / "distiller_frame")
    assert distiller.blocks_ == Blocks([3, 5, 8], ["a", "b", "c"])
    X = pd.DataFrame(answers["X"], columns=distiller.blocks_.columns())
    assert_array_equal(distiller.transform(X), answers["frame"])


def test_files_of_two_distillers_are_told_apart(tmp_path):
    shutil.copytree(DATA / "distiller_frame", tmp_path / "a")
    shutil.copy(DATA / "distiller_all_parameters" / "config.json", tmp_path / "a")
    with pytest.raises(DamagedFileError, match="different distillers"):
        ReverseDistiller.from_pretrained(tmp_path / "a")
    (tmp_path / "a" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        ReverseDistiller.from_pretrained(tmp_path / "a")


def test_moments(answers):
    moments = Moments.load(DATA / "moments.safetensors")
    assert moments.blocks == Blocks([3, 5, 8], ["a", "b", "c"])
    assert (moments.n_rows, moments.n_proteins, moments.provenance) == (120, 20, None)
    assert_array_equal(moments.scatter, answers["scatter"])
    assert_array_equal(moments.protein.scatter, answers["protein_scatter"])


def test_a_checkpoint_goes_on(no_models):
    sequences = load_uniprot_sample().sequences[:4]
    emb = ESMFeaturizer("esm2-nano:32", layer=1, max_length=90, too_long="window")
    path = DATA / "checkpoint.safetensors"
    moments = corpus_moments(emb, sequences, weighting="protein", checkpoint=path)
    assert moments.n_rows == sum(map(len, sequences)) and moments.n == pytest.approx(4)


def test_a_cache_is_read_and_written_to_in_its_format(answers, tmp_path, monkeypatch):
    folder = shutil.copytree(DATA / "cache", tmp_path / "cache")
    emb = ESMFeaturizer("esm2-nano:32", cache_dir=folder, max_length=50, too_long="window")
    new = emb.transform(["MKTAYIAKQR"])
    monkeypatch.setattr(Encoder, "__call__", None)
    sequences = load_uniprot_sample().sequences
    cached = [sequences[0][:40], sequences[1][:40], sequences[2][:70]]
    assert_array_equal(emb.transform(cached), answers["cached_rows"])
    assert_array_equal(emb.transform(["MKTAYIAKQR"]), new)
    spaces, _ = cache_info(folder)
    assert [space["n_sequences"] for space in spaces] == [3, 1]
