"""The distiller of esm2-nano that the package ships."""

import socket
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from revdist_sklearn import (
    ESMFeaturizer,
    ModelNotFoundError,
    ReverseDistiller,
    compact,
    fit_on_corpus,
)
from revdist_sklearn._provenance import members_of
from revdist_sklearn.base._aliases import BUNDLED
from revdist_sklearn.datasets import load_gb1_stability, load_uniprot_sample
from revdist_sklearn.method._rounding import drawn_rows

LIMIT = 200_000  # bytes


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def test_it_is_small_and_at_hand():
    sizes = [path.stat().st_size for path in (BUNDLED / "esm2_nano_distiller").iterdir()]
    assert len(sizes) == 2 and sum(sizes) < LIMIT
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        ReverseDistiller.from_pretrained("esm2-nano")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5  # about 5 ms


def test_it_knows_models_and_corpus():
    distiller = ReverseDistiller.from_pretrained("esm2-nano")
    assert distiller.get_params() == ReverseDistiller().get_params()
    provenance = distiller.provenance_
    plan = ESMFeaturizer("esm2-nano").embedding_plan("residue")
    assert provenance["members"] == members_of(plan)
    sequences = load_uniprot_sample().sequences
    [corpus] = provenance["corpora"]
    assert corpus["n_proteins"] == len(sequences)
    assert corpus["n_residues"] == distiller.n_samples_seen_ == sum(map(len, sequences))
    assert distiller.rounding_["dtype"] == "float32"
    # Below what float32 rows leave of a transform.
    assert distiller.rounding_["largest"] < 1e-5 and distiller.rounding_["explained"] < 1e-9


@pytest.mark.parametrize(
    ("alias", "width", "n"), [("esm2-nano:64", 64, 2), ("ESM2-nano:32", 32, 1)]
)
def test_an_alias_with_a_size_is_its_prefix(alias, width, n):
    sequences = load_gb1_stability().sequences[:3]
    whole = ReverseDistiller.from_pretrained("esm2-nano")
    cut = ReverseDistiller.from_pretrained(alias)
    assert len(cut.blocks_) == n and cut.n_components_ == width
    X = ESMFeaturizer("esm2-nano").transform(sequences)
    Z = cut.transform(ESMFeaturizer(alias.lower()).transform(sequences))
    assert_allclose(Z, whole.transform(X)[:, :width], rtol=0, atol=1e-5)
    same = ReverseDistiller.from_pretrained("esm2-nano:96")
    assert_array_equal(same.transform(X), whole.transform(X))


def test_pipelines_know_it():
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    from revdist_sklearn import PrefixSelector

    sequences = load_gb1_stability().sequences[:8]
    frozen = FrozenEstimator(ReverseDistiller.from_pretrained("esm2-nano"))
    model = make_pipeline(ESMFeaturizer("esm2-nano"), frozen, PrefixSelector(40), Ridge())
    model.fit(sequences, np.arange(8.0))
    small = compact(model)
    assert small[0].get_params()["models"] == "esm2-nano:64"
    assert_allclose(small.predict(sequences), model.predict(sequences), atol=1e-4)


@pytest.mark.parametrize("name", ["nano", "esm2", "esm2:650M", "./nowhere"])
def test_other_names_give_the_list(name):
    with pytest.raises(ModelNotFoundError, match=r"part of this package: 'esm2-nano' \(esm2-n"):
        ReverseDistiller.from_pretrained(name)


def test_other_sizes_give_the_list():
    with pytest.raises(ValueError, match=r"Unknown size '65' .*esm2-nano:64"):
        ReverseDistiller.from_pretrained("esm2-nano:65")
    with pytest.raises(ValueError, match="revision='v1' has no effect on 'esm2-nano'"):
        ReverseDistiller.from_pretrained("esm2-nano", revision="v1")


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).normal(size=(50, 5))
    distiller = ReverseDistiller((2, 3)).fit(X)
    distiller.save_pretrained("esm2-nano")
    assert_array_equal(
        ReverseDistiller.from_pretrained("esm2-nano").transform(X), distiller.transform(X)
    )


@pytest.mark.slow  # embeds 336,215 residues with three models
def test_a_fit_on_the_same_corpus_gives_it():
    shipped = ReverseDistiller.from_pretrained("esm2-nano")
    sequences = load_uniprot_sample().sequences
    again = fit_on_corpus(ReverseDistiller(), ESMFeaturizer("esm2-nano"), sequences)
    assert again.provenance_ == shipped.provenance_
    for one, other in zip(again.stages_, shipped.stages_, strict=True):
        assert one.n_regression == other.n_regression and one.n_added == other.n_added
        # float32 embeddings of another machine or torch differ by up to 1e-5.
        assert_allclose(one.explained_after, other.explained_after, rtol=0, atol=1e-5)
        assert_allclose(one.residual_variances, other.residual_variances, rtol=1e-3, atol=1e-9)
    X = drawn_rows(again._chain)
    Z = again.transform(X)
    differences = np.abs(shipped.transform(X) - Z) / Z.std(axis=0)
    assert differences[:, :32].max() == 0
    # Rows that are off by 1e-5 turn directions of near variances by 3e-4; the rounding is 1e-6.
    assert differences.max() < 1e-3
