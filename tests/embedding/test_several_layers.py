"""Several hidden states of each model: blocks of their own, from one pass, cached one by one."""

import pickle

import joblib
import numpy as np
import pytest
from conftest import save_esm, save_iglm
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from revdist_sklearn import (
    ESMFeaturizer,
    PrefixSelector,
    ReverseDistiller,
    compact,
    corpus_moments,
    embed_to,
    fit_on_corpus,
    load_embeddings,
)
from revdist_sklearn._provenance import check_models
from revdist_sklearn.models._encoder import Encoder


@pytest.fixture
def passes(monkeypatch):
    """Note the hidden states and sequences of each forward pass."""
    noted, forward = [], Encoder.__call__

    def call(self, sequences):
        noted.append((self.source, self.n_layers, sorted(sequences)))
        return forward(self, sequences)

    monkeypatch.setattr(Encoder, "__call__", call)
    return noted


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Two models of three and two layers."""
    base = tmp_path_factory.mktemp("layers")
    return [
        save_esm(base / "deep_08", width=8, layers=3, seed=1),
        save_esm(base / "flat_12", width=12, layers=2, seed=2),
    ]


def single(folder, layer, proteins, **settings):
    return ESMFeaturizer(folder, layer=layer, **settings).transform(proteins)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", [0], "mutated"])
def test_each_block_is_what_the_layer_gives_alone(family, proteins, pooling):
    reference = proteins[0] if pooling == "mutated" else None
    texts = [proteins[0], "W" + proteins[0][1:]] if reference else proteins
    settings = {"pooling": pooling, "reference": reference}
    X = ESMFeaturizer(family, layer=[-1, 0, 1], **settings).transform(texts)
    expected = [single(f, layer, texts, **settings) for f in family for layer in (-1, 0, 1)]
    np.testing.assert_allclose(X, np.hstack(expected), rtol=1e-5, atol=1e-6)


def test_blocks_are_named_by_the_number_from_the_embeddings(family):
    emb = ESMFeaturizer(family, layer=(-1, 1))
    assert emb.embedding_plan().blocks.names == (
        *("deep_08_layer_3", "deep_08_layer_1", "flat_12_layer_2", "flat_12_layer_1"),
    )
    assert emb.block_sizes_ == (8, 8, 12, 12)
    names = emb.get_feature_names_out()
    assert names[[0, 8, -1]].tolist() == [
        *("deep_08_layer_3__0", "deep_08_layer_1__0", "flat_12_layer_1__11"),
    ]
    assert set(emb.packed_) == set(emb.embedding_plan().blocks.names)


def test_aliases_know_their_layers_without_disk_or_network(no_network):
    emb = ESMFeaturizer("esm2:35M", layer=[-1, 3])
    assert emb.embedding_plan().blocks.names == (
        *("esm2_t6_8M_UR50D_layer_6", "esm2_t6_8M_UR50D_layer_3"),
        *("esm2_t12_35M_UR50D_layer_12", "esm2_t12_35M_UR50D_layer_3"),
    )


def test_a_list_of_one_gives_the_very_columns_of_the_layer(family, proteins):
    np.testing.assert_array_equal(
        ESMFeaturizer(family, layer=[-1]).transform(proteins),
        ESMFeaturizer(family).transform(proteins),
    )


def test_models_may_have_layers_of_their_own(family, proteins):
    X = ESMFeaturizer(family, layer=[[2], (0, -1)]).transform(proteins)
    expected = [single(f, n, proteins) for f, n in [(0, 2), (1, 0), (1, -1)] for f in [family[f]]]
    np.testing.assert_allclose(X, np.hstack(expected), rtol=1e-5, atol=1e-6)


def test_all_layers_of_a_model_come_from_one_pass(family, proteins, passes):
    emb = ESMFeaturizer(family, layer=[0, 1, -1])
    emb.transform(proteins)
    seen = [(source, text) for source, _, texts in passes for text in texts]
    assert len(seen) == len(set(seen)) == 2 * len(proteins)
    assert {n for _, n, _ in passes} == {3}
    passes.clear()
    for _ in emb.iter_residues(proteins):
        pass
    assert sum(len(texts) for _, _, texts in passes) == 2 * len(proteins)


def test_layers_above_the_highest_are_not_run(family):
    [(run, _)] = ESMFeaturizer(family[0], layer=[0, 2]).embedding_plan().runs()
    assert len(run.encoder().model.encoder.layer) == 2


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_a_cache_lacks_is_run_and_no_more(family, proteins, passes, tmp_path, n_jobs):
    with joblib.parallel_config(backend="threading", n_jobs=n_jobs):
        check_partial_hits(family, proteins, passes, tmp_path)


def check_partial_hits(family, proteins, passes, folder):
    settings = {"cache_dir": folder}
    ESMFeaturizer(family, **settings).transform(proteins)
    passes.clear()
    both = ESMFeaturizer(family, layer=[-1, 1], **settings)
    X = both.transform(proteins)
    assert {n for _, n, _ in passes} == {1}
    assert sum(len(texts) for _, _, texts in passes) == 2 * len(proteins)
    passes.clear()
    np.testing.assert_array_equal(both.transform(proteins), X)
    np.testing.assert_allclose(
        X, ESMFeaturizer(family, layer=[-1, 1]).transform(proteins), atol=1e-6
    )
    np.testing.assert_array_equal(
        ESMFeaturizer(family, layer=1, **settings).transform(proteins),
        X[:, [*range(8, 16), *range(28, 40)]],
    )
    assert {n for _, n, _ in passes} == {2}  # of the one without a cache alone


def test_sequences_that_lack_other_layers_are_run_for_these(family, proteins, passes, tmp_path):
    folder = family[0]
    ESMFeaturizer(folder, cache_dir=tmp_path).transform(proteins[:2])
    ESMFeaturizer(folder, layer=1, cache_dir=tmp_path).transform(proteins[1:3])
    passes.clear()
    emb = ESMFeaturizer(folder, layer=[-1, 1], cache_dir=tmp_path)
    X = emb.transform(proteins[:4])
    seen = sorted((n, text) for _, n, texts in passes for text in texts)
    assert seen == sorted([(1, proteins[0]), (1, proteins[2]), (2, proteins[3])])
    np.testing.assert_allclose(
        X, emb.set_params(cache_dir=None).transform(proteins[:4]), rtol=1e-5, atol=1e-6
    )


def test_references_windows_and_repeats_are_as_of_one_layer(family, proteins, tmp_path):
    settings = {
        "reference": proteins[0],
        "max_length": 9,
        "too_long": "window",
        "cache_dir": tmp_path,
    }
    texts = [*proteins, proteins[1].lower()]
    for _ in range(2):  # computed, and found
        X = ESMFeaturizer(family[0], layer=[2, 0], **settings).transform(texts)
        expected = [single(family[0], n, texts, **settings) for n in (2, 0)]
        np.testing.assert_allclose(X, np.hstack(expected), rtol=1e-5, atol=1e-6)


def test_residues_and_corpora_have_all_layers(family, proteins):
    emb = ESMFeaturizer(family, layer=[-1, 0])
    rows = np.vstack([rows for rows, _ in emb.iter_residues(proteins)])
    expected = [
        np.vstack([r for r, _ in ESMFeaturizer(f, layer=n).iter_residues(proteins)])
        for f in family
        for n in (-1, 0)
    ]
    np.testing.assert_allclose(rows, np.hstack(expected), rtol=1e-5, atol=1e-6)
    moments = corpus_moments(emb, proteins, verbose=False)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    assert [m["layer"] for m in moments.provenance["members"]] == [-1, 0, -1, 0]
    with joblib.parallel_config(backend="threading", n_jobs=2):
        two = corpus_moments(emb, proteins, verbose=False)
    np.testing.assert_allclose(two.scatter, moments.scatter, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:A corpus of:UserWarning")
@pytest.mark.parametrize(
    ("d", "layer", "n_models"),
    [(5, [-1], 1), (10, [-1, 1], 1), (17, [[-1, 1], [-1]], 2), (25, [-1, 1], 2)],
)
def test_a_prefix_keeps_the_layers_that_it_needs(family, proteins, passes, d, layer, n_models):
    emb = ESMFeaturizer(family, layer=[-1, 1])
    distiller = fit_on_corpus(
        ReverseDistiller(residual_sizes=(4, 6, 12)), emb, proteins * 2, verbose=False
    )
    model = make_pipeline(emb, FrozenEstimator(distiller), PrefixSelector(d), Ridge())
    model.fit(proteins, range(len(proteins)))
    small = compact(model)
    assert small[0].layer == layer and len(small[0].models) == n_models
    assert emb.layer == [-1, 1]
    np.testing.assert_allclose(
        small.predict(proteins), model.predict(proteins), rtol=1e-4, atol=1e-4
    )


def test_a_prefix_of_several_layers_is_cut_by_blocks(family):
    emb = ESMFeaturizer(family, layer=[-1, 1])
    assert emb.with_n_models(3).block_sizes_ == (8, 8, 12)
    assert emb.with_n_models(4).layer == [-1, 1]
    with pytest.raises(ValueError, match="do not ascend"):
        emb.for_prefix(4)
    assert ESMFeaturizer(family, layer=[-1]).for_prefix(9).block_sizes_ == (8, 12)
    own = ESMFeaturizer(family, layer=[[0], [1, 2]])
    assert own.with_n_models(2).layer == [[0], [1]]
    assert own.with_n_models(1).layer == [0]


@pytest.mark.filterwarnings("ignore:A corpus of:UserWarning")
def test_layers_are_known_again_from_either_end_and_not_in_another_order(family, proteins):
    distiller = fit_on_corpus(
        ReverseDistiller(residual_sizes=0.9),
        ESMFeaturizer(family, layer=[-1, 1]),
        proteins * 2,
        verbose=False,
    )

    def check(layer, models=family):
        plan = ESMFeaturizer(models, layer=layer).embedding_plan("residue")
        check_models(distiller, plan, "given are", "no way out")

    check([-1, 1])
    check([[3, 1], [2, -2]])
    for layer in ([1, -1], [-1, 0]):
        with pytest.raises(ValueError, match="use the same layer"):
            check(layer)
    with pytest.raises(ValueError, match="the blocks"):
        check(-1)


def test_embeddings_of_layers_go_to_files(family, proteins, tmp_path):
    emb = ESMFeaturizer(family, layer=[-1, 0])
    names = [f"p{i}" for i in range(len(proteins))]
    embed_to(tmp_path / "e.npz", emb, zip(names, proteins, strict=True))
    with load_embeddings(tmp_path / "e.npz") as found:
        np.testing.assert_allclose(found[names], emb.transform(proteins), rtol=1e-5, atol=1e-6)
        assert found.facts["columns"] == emb.get_feature_names_out().tolist()


def test_identity_of_a_layer_is_that_of_the_layer_alone(family):
    def members(layer):
        return ESMFeaturizer(family[0], layer=layer).embedding_plan().identity()["members"]

    assert members([-1, 1]) == members(-1) + members(1)
    assert members([1, -1]) == members(1) + members(-1)


def test_it_travels_and_is_cloned(family, proteins):
    emb = ESMFeaturizer(family, layer=[-1, 0])
    expected = emb.transform(proteins)
    for other in (clone(emb), pickle.loads(pickle.dumps(emb))):
        assert other.get_params()["layer"] == [-1, 0]
        np.testing.assert_array_equal(other.transform(proteins), expected)


def test_frames_carry_the_blocks_to_a_distiller(family, proteins):
    pytest.importorskip("pandas")
    emb = ESMFeaturizer(family, layer=[-1, 0]).set_output(transform="pandas")
    frame = emb.transform(proteins * 6)
    noise = np.random.default_rng(0).normal(size=frame.shape)
    distiller = ReverseDistiller(residual_sizes=0.5).fit(frame + noise)
    assert distiller.block_names_ == emb.embedding_plan().blocks.names
    names = distiller.get_feature_names_out()
    assert names[0] == "rd_deep_08_layer_3__0" and names[-1].startswith("rd_flat_12_layer_0__")


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ([], ValueError, r"names no hidden state of .*deep_08"),
        ([[-1], []], ValueError, r"names no hidden state of .*flat_12"),
        ([-1, 3], ValueError, r"hidden state 3 of .*deep_08.* twice \(as -1 and 3\)"),
        ([-1, -1], ValueError, r"hidden state 3 of .*deep_08.* twice; each may stand once"),
        ([0, 3], ValueError, r"`layer`=3 does not exist in .*flat_12.* has 2 layers"),
        ([-4, -5], ValueError, r"`layer`=-5 does not exist in .*deep_08.* \[-4, 3\]"),
        ([True], TypeError, r"holds True \(bool\)"),
        ([1.0], TypeError, r"holds 1\.0 \(float\); give integers"),
        (["a"], TypeError, r"holds 'a'"),
        ([1, [0]], ValueError, "neither one list .* of which there are 2"),
        ([[1], [0], [1]], ValueError, "Give integers, or 2 lists of integers"),
        (1.5, ValueError, "'layer' parameter"),
        ("all", ValueError, "'layer' parameter"),
    ],
)
def test_layers_that_mean_nothing_are_told(family, layer, error, message):
    with pytest.raises(error, match=message):
        ESMFeaturizer(family, layer=layer).fit(["MKT"])


def test_integers_of_numpy_are_layers(family, proteins):
    found = ESMFeaturizer(family, layer=[np.int64(-1), np.int32(0)]).transform(proteins)
    expected = ESMFeaturizer(family, layer=[-1, 0]).transform(proteins)
    np.testing.assert_array_equal(found, expected)


def test_models_that_look_back_have_layers_too(tmp_path, proteins):
    folder = save_iglm(tmp_path / "iglm")
    texts = [protein for protein in proteins if not set(protein) & set("XBZUO")]
    emb = ESMFeaturizer(folder, layer=[-1, 1], causal=True)
    expected = [single(folder, n, texts, causal=True) for n in (-1, 1)]
    np.testing.assert_allclose(emb.transform(texts), np.hstack(expected), rtol=1e-5, atol=1e-6)


def test_a_part_of_a_run_is_of_the_weights_that_the_cache_was_asked_for(tmp_path):
    folder = save_esm(tmp_path / "m", layers=2, seed=1)
    [(run, _)] = ESMFeaturizer(folder, layer=[0, -1]).embedding_plan().runs()
    run.identity()
    save_esm(folder, layers=2, seed=2)
    with pytest.raises(RuntimeError, match="have changed"):
        run.of_layers((0,)).encoder()
