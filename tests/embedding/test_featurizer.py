import io
import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
from contextlib import redirect_stderr

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from conftest import ESM_TOKENS, save_esm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import check_is_fitted
from transformers import EsmModel, EsmTokenizer

from revdist_sklearn import corpus_moments
from revdist_sklearn.base._hub import ModelNotFoundError
from revdist_sklearn.datasets import load_gb1_stability, load_uniprot_sample
from revdist_sklearn.embedding import _protein_rows, _residue_rows
from revdist_sklearn.embedding._cache import EmbeddingCache, cache_info
from revdist_sklearn.embedding._featurizer import ESMFeaturizer
from revdist_sklearn.embedding._member_run import pooled_rows
from revdist_sklearn.embedding._sequences import RESIDUES
from revdist_sklearn.models import _loading

TOLERANCE = 1e-5
SERIES_KEEPS_ITS_INDEX = parse_version(sklearn.__version__) >= parse_version("1.7")
TEXT = st.lists(st.text(RESIDUES, min_size=1, max_size=40), min_size=1, max_size=8)


def states_by_hand(folder, sequence, layer=-1):
    """Return all hidden states of one protein, special tokens included, the plain way."""
    model = EsmModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()
    tokens = EsmTokenizer.from_pretrained(folder)(sequence, return_tensors="pt")
    with torch.no_grad():
        return model(**tokens, output_hidden_states=True).hidden_states[layer][0].numpy()


def pooled_by_hand(folders, sequences, pool=lambda states: states[1:-1].mean(0)):
    blocks = [[pool(states_by_hand(f, s)) for s in sequences] for f in folders]
    return np.concatenate(blocks, axis=1)


@pytest.fixture
def emb(tiny_family):
    return ESMFeaturizer(tiny_family)


@pytest.fixture
def tokens_seen(monkeypatch):
    """Record the batches that any model gets, as lists of sequences."""
    batches = []
    forward = _loading.Encoder.__call__

    def spy(self, sequences):
        batches.append(list(sequences))
        return forward(self, sequences)

    monkeypatch.setattr(_loading.Encoder, "__call__", spy)
    return batches


@pytest.fixture
def no_workers_left():
    yield
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)


# What is computed


def test_mean_over_residues_of_each_model_side_by_side(emb, tiny_family, proteins):
    X = emb.transform(proteins)
    assert X.shape == (7, 8 + 12 + 16) and X.dtype == np.float32
    np.testing.assert_allclose(X, pooled_by_hand(tiny_family, proteins), atol=TOLERANCE)


def test_max_over_residues(tiny_family, proteins):
    X = ESMFeaturizer(tiny_family, pooling="max").transform(proteins)
    expected = pooled_by_hand(tiny_family, proteins, lambda states: states[1:-1].max(0))
    np.testing.assert_allclose(X, expected, atol=TOLERANCE)


def test_cls_is_the_state_of_the_start_token(tiny_family, proteins):
    X = ESMFeaturizer(tiny_family, pooling="cls").transform(proteins)
    expected = pooled_by_hand(tiny_family, proteins, lambda states: states[0])
    np.testing.assert_allclose(X, expected, atol=TOLERANCE)


def test_layer_reaches_every_model(tiny_family, proteins):
    X = ESMFeaturizer(tiny_family, layer=1).transform(proteins)
    expected = [states_by_hand(tiny_family[1], s, layer=1)[1:-1].mean(0) for s in proteins]
    np.testing.assert_allclose(X[:, 8:20], expected, atol=TOLERANCE)
    with pytest.raises(ValueError, match=r"`layer`=2 does not exist in '.*tiny_08'"):
        ESMFeaturizer(tiny_family, layer=2).transform(proteins)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_pooled_in_float32(tiny_model, dtype):
    sequence = "MKTAYIAKQRGG" * 20
    emb = ESMFeaturizer(tiny_model, dtype=dtype)
    X = emb.transform([sequence])
    ((rows, _),) = emb.iter_residues([sequence])
    assert X.dtype == rows.dtype == np.float32
    half = torch.from_numpy(rows).to(getattr(torch, dtype))
    assert torch.equal(half.float(), torch.from_numpy(rows))  # computed in half precision
    np.testing.assert_allclose(X[0], rows.mean(0, dtype=np.float64), atol=1e-6)
    exact = ESMFeaturizer(tiny_model).transform([sequence])
    assert 0 < np.abs(X - exact).max() < 0.1


def test_lower_case_is_the_same_protein(emb, proteins):
    lower = [s.lower() for s in proteins]
    np.testing.assert_array_equal(emb.transform(lower), emb.transform(proteins))


def test_widths_need_not_ascend(tiny_family, proteins):
    X = ESMFeaturizer(tiny_family[::-1]).transform(proteins)
    np.testing.assert_allclose(X, pooled_by_hand(tiny_family[::-1], proteins), atol=TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(sequences=TEXT, data=st.data())
def test_no_order_company_or_budget_changes_a_row(tiny_model, sequences, data):
    emb = ESMFeaturizer(tiny_model)
    X = emb.transform(sequences)
    order = data.draw(st.permutations(range(len(sequences))))
    np.testing.assert_allclose(
        emb.transform([sequences[i] for i in order]), X[order], atol=TOLERANCE
    )
    some = data.draw(st.lists(st.sampled_from(range(len(sequences))), min_size=1, max_size=4))
    company = data.draw(TEXT)
    np.testing.assert_allclose(
        emb.transform(company + [sequences[i] for i in some])[len(company) :],
        X[some],
        atol=TOLERANCE,
    )
    budget = data.draw(st.integers(1, 300))
    np.testing.assert_allclose(
        clone(emb).set_params(token_budget=budget).transform(sequences), X, atol=TOLERANCE
    )


def test_token_budget_bounds_the_batches(tiny_model, tokens_seen):
    sequences = ["ACDEFGHIKL"[i:] + "ACDEFGHIKL"[:i] for i in range(10)]
    ESMFeaturizer(tiny_model, token_budget=36).transform(sequences)
    assert [len(batch) for batch in tokens_seen] == [3, 3, 3, 1]
    tokens_seen.clear()
    ESMFeaturizer(tiny_model).transform(sequences)
    assert [len(batch) for batch in tokens_seen] == [10]


def test_a_sequence_is_embedded_once_a_call(emb, tokens_seen):
    X = emb.transform(["MKTAY", "GIV", "mktay", "MKTAY"])
    assert sorted(s for batch in tokens_seen for s in batch) == ["GIV"] * 3 + ["MKTAY"] * 3
    np.testing.assert_array_equal(X[[2, 3]], X[[0, 0]])
    assert np.abs(X[0] - X[1]).max() > 0.1


def test_models_run_one_after_another(emb, proteins, monkeypatch):
    widths = []
    forward = _loading.Encoder.__call__
    monkeypatch.setattr(
        _loading.Encoder,
        "__call__",
        lambda self, s: widths.append(self.model.config.hidden_size) or forward(self, s),
    )
    emb.set_params(token_budget=20).transform(proteins)
    assert widths == sorted(widths) and len(widths) > 3


# Residue rows


@pytest.mark.parametrize("token_budget", [None, 1, 9])
def test_residues_are_whole_proteins_in_order(tiny_family, proteins, token_budget):
    sequences = [*proteins, proteins[1], proteins[1].lower()]
    emb = ESMFeaturizer(tiny_family, token_budget=token_budget)
    parts = list(emb.iter_residues(sequences))
    if token_budget is None:
        assert len(parts) == 1
    for rows, index in parts:
        assert rows.dtype == np.float32 and index.dtype == np.int64
        assert len(rows) == len(index)
        for i in np.unique(index):
            assert np.sum(index == i) == len(sequences[i])
    index = np.concatenate([index for _, index in parts])
    np.testing.assert_array_equal(index, np.repeat(range(9), [len(s) for s in sequences]))
    rows = np.concatenate([rows for rows, _ in parts])
    expected = [
        np.concatenate([states_by_hand(f, s.upper())[1:-1] for f in tiny_family], axis=1)
        for s in sequences
    ]
    np.testing.assert_allclose(rows, np.concatenate(expected), atol=TOLERANCE)


def test_mean_of_residue_rows_is_the_pooled_row(emb, proteins):
    X = emb.transform(proteins)
    for rows, index in emb.iter_residues(proteins):
        for i in np.unique(index):
            np.testing.assert_allclose(rows[index == i].mean(0), X[i], atol=TOLERANCE)


def test_residue_rows_are_bounded_in_number_and_bytes(tiny_model, monkeypatch):
    sequences = ["ACDEFGHIKL"] * 100
    emb = ESMFeaturizer(tiny_model, token_budget=5)
    assert [len(rows) for rows, _ in emb.iter_residues(sequences)] == [40] * 25
    monkeypatch.setitem(_residue_rows.RUN_BYTES, "cpu", 20 * 12 * 4)
    assert [len(rows) for rows, _ in emb.iter_residues(sequences)] == [20] * 50


def test_residue_rows_come_as_they_are_asked_for(tiny_model, tokens_seen):
    emb = ESMFeaturizer(tiny_model, token_budget=1)
    parts = emb.iter_residues(["ACDEFGHIKL", "CDEFGHIKLA", "DEFGHIKLAC"])
    next(parts)
    assert tokens_seen == [["ACDEFGHIKL"]]


def test_iter_residues_complains_when_called(emb):
    with pytest.raises(ValueError, match="Sequence 1 is empty"):
        emb.iter_residues(["MKT", ""])
    with pytest.raises(ValueError, match="'pooling' parameter"):
        emb.set_params(pooling="median").iter_residues(["MKT"])


# Positions and a wild type


WILD = "MKTAYIAKQR"
VARIANTS = ["MKTAYIAKQR", "MKTWYIAKQR", "MKTWYIAKQW"]


def test_positions_are_averaged(tiny_family, proteins):
    long = [s for s in proteins if len(s) > 20]
    X = ESMFeaturizer(tiny_family, pooling=[20, 3]).transform(long)
    expected = pooled_by_hand(tiny_family, long, lambda states: states[[4, 21]].mean(0))
    np.testing.assert_allclose(X, expected, atol=TOLERANCE)
    with pytest.raises(ValueError, match=r"Sequence 1 has 1 residues.* position 20"):
        ESMFeaturizer(tiny_family, pooling=[20, 3]).fit([proteins[0], "M"])


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", [0, 3]])
@pytest.mark.parametrize("others", [["GIVEQCC"], ["GIVEQCC", WILD]])
def test_the_reference_is_subtracted(tiny_family, pooling, others):
    plain = ESMFeaturizer(tiny_family, pooling=pooling)
    X = clone(plain).set_params(reference=WILD.lower()).transform(others)
    expected = plain.transform(others) - plain.transform([WILD])
    np.testing.assert_allclose(X, expected, atol=TOLERANCE)
    if WILD in others:
        assert not X[1].any()


def test_mutated_is_the_difference_at_the_mutated_sites(tiny_family):
    X = ESMFeaturizer(tiny_family, pooling="mutated", reference=WILD).transform(VARIANTS)
    for x, variant in zip(X, VARIANTS, strict=True):
        sites = [i for i, (a, b) in enumerate(zip(variant, WILD, strict=True)) if a != b]
        states = [
            [states_by_hand(folder, s)[1:-1][sites].mean(0) for folder in tiny_family]
            if sites
            else [np.zeros(36)]
            for s in (variant, WILD)
        ]
        expected = np.concatenate(states[0]) - np.concatenate(states[1])
        np.testing.assert_allclose(x, expected, atol=TOLERANCE)


def test_mutated_wants_substitutions(emb):
    emb.set_params(pooling="mutated", reference=WILD)
    with pytest.raises(ValueError, match="Sequence 1 has 9 residues, `reference` has 10"):
        emb.transform([WILD, WILD[1:]])


@pytest.mark.parametrize("reference", ["", "MK*", "M" * 60])
def test_a_reference_that_is_no_sequence_is_told_from_the_sequences(emb, reference):
    with pytest.raises(ValueError, match=r"^`reference` (has|is empty)"):
        emb.set_params(reference=reference, max_length=56).transform(["MKT"])


def test_a_nested_embedding_of_differences_is_shifted_by_a_constant(emb, proteins):
    """As the docstring of `reference` says."""
    from revdist_sklearn import ReverseDistiller, fit_on_corpus

    rd = fit_on_corpus(ReverseDistiller(), emb, proteins * 3, verbose=False)
    difference = clone(emb).set_params(reference=WILD)
    shift = (
        rd.transform(difference.transform(VARIANTS))
        - rd.transform(emb.transform(VARIANTS))
        + rd.transform(emb.transform([WILD]))
    )
    np.testing.assert_allclose(shift, shift[[0]] * np.ones((3, 1)), atol=1e-4)


def test_cls_needs_a_start_token(emb, monkeypatch):
    from dataclasses import replace

    from revdist_sklearn.models import _family

    monkeypatch.setitem(
        _family.ARCHITECTURES, "esm", replace(_family.ARCHITECTURES["esm"], before=())
    )
    with pytest.raises(ValueError, match=r"'cls' needs a start token, which .*tiny_08"):
        emb.set_params(pooling="cls").fit(["MKT"])


@pytest.mark.parametrize("n_jobs", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_embeddings_that_are_not_finite_are_named_and_not_kept(tmp_path, n_jobs, no_workers_left):
    folder = save_esm(tmp_path / "overflows_on_w")
    model = EsmModel.from_pretrained(folder, add_pooling_layer=False)
    model.embeddings.word_embeddings.weight.data[ESM_TOKENS.index("W")] = float("inf")
    model.save_pretrained(folder)
    emb = ESMFeaturizer(folder, cache_dir=tmp_path / "cache", n_jobs=n_jobs)
    with pytest.raises(ValueError, match=r"embedding of sequence 2 .*not finite.*bfloat16"):
        emb.transform(["MKT", "GIV", "ACW", "DEF"])
    run = emb.embedding_plan().runs()[0][0]
    with EmbeddingCache(tmp_path / "cache") as cache:
        assert run.cached(["ACW"], cache)[0] == []
    assert np.isfinite(emb.transform(["MKT", "GIV", "DEF"])).all()


# The cache on disk


def count(tokens_seen):
    return sorted(sequence for batch in tokens_seen for sequence in batch)


def test_cache_embeds_each_sequence_once_and_changes_no_bit(
    tiny_family, proteins, tokens_seen, tmp_path
):
    emb = ESMFeaturizer(tiny_family, cache_dir=tmp_path / "new" / "folder")
    first = emb.transform(proteins[:4])
    assert count(tokens_seen) == sorted(proteins[:4] * 3)
    tokens_seen.clear()
    np.testing.assert_array_equal(emb.transform(proteins[3::-1]), first[::-1])
    assert not tokens_seen
    # Another featurizer, with some sequences that are new.
    X = ESMFeaturizer(tiny_family, cache_dir=tmp_path / "new" / "folder").transform(proteins)
    assert count(tokens_seen) == sorted(proteins[4:] * 3)
    np.testing.assert_allclose(X, ESMFeaturizer(tiny_family).transform(proteins), atol=TOLERANCE)


def test_cached_models_are_not_even_loaded(emb, proteins, tmp_path, monkeypatch):
    emb.set_params(cache_dir=tmp_path)
    X = emb.transform(proteins)
    monkeypatch.setattr("revdist_sklearn.embedding._member_run.get_encoder", None)
    np.testing.assert_array_equal(emb.transform(proteins), X)


def test_families_share_what_they_have_in_common(tiny_family, proteins, tokens_seen, tmp_path):
    ESMFeaturizer(tiny_family[:2], cache_dir=tmp_path).transform(proteins)
    tokens_seen.clear()
    ESMFeaturizer(tiny_family, cache_dir=tmp_path).transform(proteins)
    assert count(tokens_seen) == sorted(proteins)


@pytest.mark.parametrize(
    "settings",
    [
        {"layer": 0},
        {"dtype": "bfloat16"},
        {"pooling": "max"},
        {"pooling": [0]},
        {"pooling": [1]},
        {"pooling": "mutated", "reference": WILD},
        {"pooling": "mutated", "reference": WILD[::-1]},
        {"too_long": "window", "max_length": 4},
        {"too_long": "window", "max_length": 6},
        {"model_kwargs": {"attn_implementation": "eager"}},
    ],
    ids=str,
)
def test_what_changes_a_row_has_rows_of_its_own(tiny_model, tokens_seen, tmp_path, settings):
    for other in ({}, {"pooling": "cls"}, {"too_long": "window", "max_length": 5}):
        ESMFeaturizer(tiny_model, cache_dir=tmp_path, **other).transform(VARIANTS)
    tokens_seen.clear()
    X = ESMFeaturizer(tiny_model, cache_dir=tmp_path, **settings).transform(VARIANTS)
    assert tokens_seen
    plain = ESMFeaturizer(tiny_model, **settings).transform(VARIANTS)
    np.testing.assert_allclose(X, plain, atol=TOLERANCE)


@pytest.mark.parametrize(
    "settings",
    [
        {"token_budget": 20},
        {"device": "cpu"},
        {"n_jobs": 1},
        {"max_length": 10},
        {"too_long": "window", "max_length": 10},
        {"reference": WILD},
    ],
    ids=str,
)
def test_what_changes_no_row_finds_it(tiny_model, tokens_seen, tmp_path, settings):
    X = ESMFeaturizer(tiny_model, cache_dir=tmp_path).transform(VARIANTS)
    tokens_seen.clear()
    again = ESMFeaturizer(tiny_model, cache_dir=tmp_path, **settings).transform(VARIANTS)
    assert not tokens_seen
    np.testing.assert_array_equal(again, X - X[0] if "reference" in settings else X)


def test_cut_sequences_are_not_taken_for_whole_ones(tiny_model, tmp_path):
    cut = ESMFeaturizer(tiny_model, cache_dir=tmp_path, max_length=5, too_long="truncate")
    with pytest.warns(UserWarning, match="was cut"):
        X = cut.transform([WILD])
    whole = ESMFeaturizer(tiny_model, cache_dir=tmp_path)
    np.testing.assert_allclose(whole.transform([WILD[:5]]), X, atol=TOLERANCE)
    assert np.abs(whole.transform([WILD]) - X).max() > 0.01


def test_other_weights_in_the_same_folder_are_another_model(tmp_path, tokens_seen):
    folder = save_esm(tmp_path / "model", seed=1)
    emb = ESMFeaturizer(folder, cache_dir=tmp_path / "cache")
    X = emb.transform([WILD])
    save_esm(folder, seed=2)
    assert np.abs(emb.transform([WILD]) - X).max() > 0.01


@pytest.mark.parametrize("cached", [False, True])
def test_weights_that_are_written_over_in_use_are_told_and_no_row_is_kept(
    tmp_path, monkeypatch, cached
):
    """A loaded model is a map of its file, and changes with it."""
    folder, other = save_esm(tmp_path / "m", seed=1), save_esm(tmp_path / "other", seed=2)
    path = os.path.join(folder, "model.safetensors")
    cache = tmp_path / "cache" if cached else None
    emb = ESMFeaturizer(folder, cache_dir=cache, token_budget=12)
    monkeypatch.setattr(_loading, "REGISTRY", _loading.Registry(8))
    expected = emb.transform(["MKTAY"])
    forward = _loading.Encoder.__call__

    def overwrite(self, sequences):
        with open(os.path.join(other, "model.safetensors"), "rb") as source:
            new = source.read()
        with open(path, "r+b") as file:
            file.write(new)
        return forward(self, sequences)

    with monkeypatch.context() as later:
        later.setattr(_loading.Encoder, "__call__", overwrite)
        with pytest.raises(RuntimeError, match="have changed while it was in use, so that"):
            emb.transform(["GIVEQ", "FVNQH"])
    new = ESMFeaturizer(other, token_budget=12).transform(["MKTAY", "GIVEQ", "FVNQH"])
    np.testing.assert_array_equal(emb.transform(["MKTAY", "GIVEQ", "FVNQH"]), new)
    assert np.abs(new[0] - expected).max() > 0.01


def test_a_model_whose_file_was_written_over_is_not_taken_for_a_copy_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(_loading, "REGISTRY", _loading.Registry(8))
    folder = save_esm(tmp_path / "m", seed=1)
    copy = shutil.copytree(folder, tmp_path / "copy")
    expected = ESMFeaturizer(folder).transform(["MKTAY"])
    path = os.path.join(folder, "model.safetensors")
    with open(path, "r+b") as file:  # all zero, in the loaded model too
        file.seek(os.path.getsize(path) // 3)
        file.write(bytes(os.path.getsize(path) - file.tell()))
    np.testing.assert_array_equal(ESMFeaturizer(copy).transform(["MKTAY"]), expected)


def test_weights_that_are_replaced_in_use_go_on(tmp_path, monkeypatch):
    folder, other = save_esm(tmp_path / "m", seed=1), save_esm(tmp_path / "other", seed=2)
    copy = shutil.copytree(folder, tmp_path / "copy")
    forward = _loading.Encoder.__call__

    def replace(self, sequences):
        if os.path.exists(os.path.join(other, "model.safetensors")):
            os.replace(*(os.path.join(name, "model.safetensors") for name in (other, folder)))
        return forward(self, sequences)

    with monkeypatch.context() as later:
        later.setattr(_loading.Encoder, "__call__", replace)
        X = ESMFeaturizer(folder, token_budget=12).transform(["GIVEQ", "FVNQH"])
    same = ESMFeaturizer(copy, token_budget=12)
    np.testing.assert_array_equal(X, same.transform(["GIVEQ", "FVNQH"]))


def test_weights_that_change_after_the_look_up_are_not_filed_under_the_old(tmp_path, monkeypatch):
    folder = save_esm(tmp_path / "m", seed=1)
    emb = ESMFeaturizer(folder, cache_dir=tmp_path / "cache")
    get = EmbeddingCache.get

    def get_then_save(self, space, sequences):
        found = get(self, space, sequences)
        save_esm(folder, seed=2)
        return found

    with monkeypatch.context() as later:
        later.setattr(EmbeddingCache, "get", get_then_save)
        with pytest.raises(RuntimeError, match="have changed while it was in use"):
            emb.transform(["MKTAY"])
    expected = ESMFeaturizer(save_esm(tmp_path / "old", seed=1)).transform(["MKTAY"])
    save_esm(folder, seed=1)
    np.testing.assert_array_equal(emb.transform(["MKTAY"]), expected)


def test_the_same_weights_in_another_folder_are_the_same_model(tiny_model, tokens_seen, tmp_path):
    X = ESMFeaturizer(tiny_model, cache_dir=tmp_path / "cache").transform(VARIANTS)
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    tokens_seen.clear()
    again = ESMFeaturizer(copy, cache_dir=tmp_path / "cache").transform(VARIANTS)
    assert not tokens_seen
    np.testing.assert_array_equal(again, X)


def test_a_grid_search_over_prefixes_embeds_every_sequence_once(
    emb, proteins, tokens_seen, tmp_path
):
    from sklearn.frozen import FrozenEstimator

    from revdist_sklearn import PrefixSelector, ReverseDistiller, fit_on_corpus

    rd = FrozenEstimator(fit_on_corpus(ReverseDistiller(), emb, proteins * 3, verbose=False))
    sequences = [WILD[:i] + letter + WILD[i + 1 :] for i in range(8) for letter in "FW"]
    tokens_seen.clear()
    model = make_pipeline(emb.set_params(cache_dir=tmp_path), rd, PrefixSelector(), Ridge())
    grid = {"prefixselector__n_components": [2, 8, 16], "ridge__alpha": [0.1, 1.0]}
    GridSearchCV(model, grid, cv=3).fit(sequences, np.arange(16.0))
    assert count(tokens_seen) == sorted(sequences * 3)


def test_a_cache_that_cannot_be_written_to_is_a_warning(emb, proteins, tmp_path):
    (tmp_path / "file").write_text("in the way")
    plain = emb.transform(proteins)
    with pytest.warns(UserWarning, match="cache"):
        X = clone(emb).set_params(cache_dir=tmp_path / "file" / "cache").transform(proteins)
    np.testing.assert_array_equal(X, plain)


# Workers


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_workers_compute_the_same(emb, proteins, backend, tmp_path, no_workers_left):
    X = emb.transform([*proteins, proteins[0]])
    with joblib.parallel_config(backend=backend, n_jobs=2):
        shared = clone(emb).set_params(cache_dir=tmp_path)
        Y = shared.transform([*proteins, proteins[0]])
    np.testing.assert_allclose(Y, X, atol=TOLERANCE)
    np.testing.assert_array_equal(shared.transform(proteins), Y[:-1])


@pytest.mark.slow
def test_a_dask_cluster_computes_the_same(emb, proteins, tmp_path, dask_cluster):
    X = emb.transform(proteins)
    with joblib.parallel_config(backend="dask"):
        Y = clone(emb).set_params(cache_dir=tmp_path).transform(proteins)
    np.testing.assert_allclose(Y, X, atol=TOLERANCE)
    # What the cluster computed is in the cache here.
    np.testing.assert_array_equal(clone(emb).set_params(cache_dir=tmp_path).transform(proteins), Y)


def test_workers_share_out_few_sequences_too(emb, proteins):
    rows = _protein_rows.ProteinRows(emb.embedding_plan(), n_jobs=2)
    todo = rows._pieces(list(range(7)), proteins)
    assert sorted(i for piece in todo for i in piece) == list(range(7)) and len(todo) >= 4


@pytest.mark.slow
def test_workers_load_one_model_and_share_the_cores(tiny_family, monkeypatch, no_workers_left):
    """What a worker sees of torch's threads; joblib sets them at its start."""
    cores = joblib.cpu_count()
    with joblib.parallel_config(n_jobs=2):
        threads = joblib.Parallel()(joblib.delayed(threads_after)(tiny_family) for _ in range(4))
    assert max(threads) <= max(1, cores // 2)


def threads_after(folders):
    ESMFeaturizer(folders).transform(["MKTAY"])
    return torch.get_num_threads()


def dies_on_tryptophan(run, texts, names, cache_dir):
    if any("W" in text for text in texts):
        os._exit(1)
    return pooled_rows(run, texts, names, cache_dir)


@pytest.mark.parametrize("cached", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_dead_worker_leaves_the_cache_and_says_what_to_do(
    emb, tmp_path, cached, no_workers_left, tokens_seen, monkeypatch
):
    sequences = ["MKTAYI", "GIVEQC", "ACDEF", "ACW"]
    emb.set_params(n_jobs=2, cache_dir=tmp_path if cached else None)
    monkeypatch.setattr(_protein_rows, "pooled_rows", dies_on_tryptophan)
    words = "the same call goes on from there" if cached else "with `cache_dir` the same call"
    with pytest.raises(RuntimeError, match=rf"A worker died.*{words}"):
        emb.transform(sequences)
    X = emb.set_params(n_jobs=None).transform(sequences)
    embedded_here = count(tokens_seen)
    assert len(embedded_here) < 12 if cached else len(embedded_here) == 12
    plain = clone(emb).set_params(cache_dir=None).transform(sequences)
    np.testing.assert_allclose(X, plain, atol=TOLERANCE)


@pytest.mark.parametrize("cached", [False, True])
def test_an_interrupt_loses_at_most_the_last_batch(
    emb, tmp_path, cached, tokens_seen, monkeypatch
):
    sequences = ["MKTAYI", "GIVEQC", "ACDEF", "ACW"]
    emb.set_params(cache_dir=tmp_path if cached else None, token_budget=1)
    forward = _loading.Encoder.__call__

    def interrupt(self, batch):
        if batch == ["ACW"]:
            raise KeyboardInterrupt
        return forward(self, batch)

    monkeypatch.setattr(_loading.Encoder, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt) as raised:
        emb.transform(sequences)
    if hasattr(raised.value, "__notes__"):  # Python 3.11
        [note] = raised.value.__notes__
        words = "the same call goes on from there" if cached else "with `cache_dir`"
        assert words in note
    monkeypatch.setattr(_loading.Encoder, "__call__", forward)
    tokens_seen.clear()
    emb.transform(sequences)
    assert len(count(tokens_seen)) == (12 - 3 if cached else 12)


# Long sequences


LONG = "MQYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"  # 56 residues


def test_rotary_models_have_no_limit(tiny_model):
    sequence = "ACDEFGHIKLMNPQRSTVWY" * 60
    X = ESMFeaturizer(tiny_model).transform([sequence])
    np.testing.assert_allclose(X, pooled_by_hand([tiny_model], [sequence]), atol=TOLERANCE)


def test_error_names_sequence_length_and_limit(emb):
    emb.set_params(max_length=20)
    for method in (emb.fit, emb.transform, emb.iter_residues):
        with pytest.raises(ValueError, match="Sequence 1 has 56 residues, the limit is 20"):
            method(["MKT", LONG])
    assert emb.transform(["A" * 20]).shape == (1, 36)


def test_truncate_warns_once_a_call_and_cuts(emb):
    cut = clone(emb).set_params(max_length=20, too_long="truncate")
    with pytest.warns(UserWarning, match="2 of 3 sequences are longer than 20") as caught:
        X = cut.transform(["MKT", LONG, LONG])
    assert len(caught) == 1
    np.testing.assert_array_equal(X, emb.transform(["MKT", LONG[:20], LONG[:20]]))
    with pytest.warns(UserWarning, match="Sequence 0 has .* cut to its first 20"):
        parts = cut.iter_residues([LONG])
    assert sum(len(rows) for rows, _ in parts) == 20


def test_window_equals_the_whole_where_it_fits(emb, proteins):
    window = clone(emb).set_params(max_length=56, too_long="window")
    np.testing.assert_array_equal(window.transform(proteins), emb.transform(proteins))


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
@pytest.mark.parametrize("token_budget", [None, 1, 50])
def test_windows_are_averaged_where_they_overlap(tiny_model, pooling, token_budget):
    # 24 residues a window, a step of 12: windows start at 0, 12, 24 and, to end with the
    # protein, at 32.
    starts = [0, 12, 24, 32]
    windows = [states_by_hand(tiny_model, LONG[s : s + 24]) for s in starts]
    total, count = np.zeros((56, 12)), np.zeros((56, 1))
    for start, states in zip(starts, windows, strict=True):
        total[start : start + 24] += states[1:-1]
        count[start : start + 24] += 1
    assert {int(c) for c in count.ravel()} == {1, 2, 3}
    residues = total / count
    expected = {
        "mean": residues.mean(0),
        "max": residues.max(0),
        "cls": np.mean([states[0] for states in windows], axis=0),
    }
    emb = ESMFeaturizer(
        tiny_model,
        pooling=pooling,
        max_length=24,
        too_long="window",
        token_budget=token_budget,
    )
    other = LONG[::-1]
    X = emb.transform(["MKTAY", LONG, other])
    np.testing.assert_allclose(X[1], expected[pooling], atol=TOLERANCE)
    rows = np.concatenate([rows for rows, _ in emb.iter_residues(["MKTAY", LONG, other])])
    np.testing.assert_allclose(rows[5:61], residues, atol=TOLERANCE)


def test_learned_positions_set_the_limit(tmp_path):
    # 20 rows of positions: two are the padding token's and before, two special tokens'.
    folder = save_esm(
        tmp_path / "m", position_embedding_type="absolute", max_position_embeddings=20
    )
    emb = ESMFeaturizer(folder)
    longest = LONG[:16]
    X = emb.transform([longest])
    np.testing.assert_allclose(X, pooled_by_hand([folder], [longest]), atol=TOLERANCE)
    with pytest.raises(ValueError, match="Sequence 0 has 17 residues, the limit is 16"):
        emb.transform([LONG[:17]])
    with pytest.raises(ValueError, match=r"`max_length`=17 is more than the 16 residues"):
        ESMFeaturizer(folder, max_length=17).fit([longest])
    assert ESMFeaturizer(folder, too_long="window").transform([LONG]).shape == (1, 8)
    with pytest.raises(ValueError, match="the limit is 9"):
        ESMFeaturizer(folder, max_length=9).transform([longest])


def test_the_shortest_limit_of_a_family_counts(tmp_path, tiny_family):
    learned = {"position_embedding_type": "absolute"}
    short = save_esm(tmp_path / "short", max_position_embeddings=20, **learned)
    long = save_esm(tmp_path / "long", max_position_embeddings=30, **learned)
    for models in ([short, long, tiny_family[1]], [tiny_family[1], long, short]):
        with pytest.raises(ValueError, match="the limit is 16"):
            ESMFeaturizer(models).fit([LONG])


# Names, prefixes, tags


def test_names_and_sizes_are_known_before_anything_is_loaded(tiny_family, monkeypatch):
    monkeypatch.setattr(_loading, "load", None)
    emb = ESMFeaturizer(tiny_family)
    assert emb.block_sizes_ == (8, 12, 16)
    names = emb.get_feature_names_out()
    assert names.dtype == object and len(names) == 36
    assert names[[0, 8, 19, 35]].tolist() == [
        "tiny_08__0",
        "tiny_12__00",
        "tiny_12__11",
        "tiny_16__15",
    ]
    np.testing.assert_array_equal(names, emb.get_feature_names_out(["x0"]))
    assert ESMFeaturizer("esm2:650M").block_sizes_ == (320, 480, 640, 1280)


@pytest.mark.parametrize(("d", "n"), [(1, 1), (8, 1), (9, 2), (12, 2), (13, 3), (16, 3)])
def test_truncate_runs_the_models_that_the_prefix_needs(emb, proteins, d, n):
    short = emb.set_params(pooling="max").for_prefix(d)
    assert short is not emb and short.pooling == "max"
    assert short.models == emb.models[:n]
    names = emb.get_feature_names_out()[: len(short.get_feature_names_out())]
    np.testing.assert_array_equal(short.get_feature_names_out(), names)
    np.testing.assert_array_equal(
        short.transform(proteins), emb.transform(proteins)[:, : len(names)]
    )
    assert emb.block_sizes_ == (8, 12, 16)


def test_truncate_keeps_aliases_single_models_and_revisions(tiny_model):
    assert ESMFeaturizer("esm2-nano").for_prefix(33).models == "esm2-nano:64"
    assert ESMFeaturizer(tiny_model).for_prefix(12).models == tiny_model
    emb = ESMFeaturizer("esm2:150M", revision=("a", "b", "c")).for_prefix(480)
    assert (emb.models, emb.revision) == ("esm2:35M", ("a", "b"))
    assert ESMFeaturizer("esm2:150M", revision="main").for_prefix(480).revision == "main"


@pytest.mark.parametrize("d", [0, -1, 17, 2.0, True, None])
def test_truncate_out_of_range(emb, d):
    with pytest.raises(ValueError, match=rf"`d`={d} is no prefix.*\[1, 16\]"):
        emb.for_prefix(d)


def test_truncate_cannot_tell_where_widths_do_not_ascend(tiny_family):
    with pytest.raises(ValueError, match="residual_sizes"):
        ESMFeaturizer(tiny_family[::-1]).for_prefix(4)


def test_tags_say_text_and_stateless():
    tags = get_tags(ESMFeaturizer())
    assert tags.input_tags.string and tags.input_tags.one_d_array
    assert not tags.input_tags.two_d_array
    assert not tags.requires_fit
    check_is_fitted(ESMFeaturizer())


# Parameters and input


@pytest.mark.parametrize("parameter", ["revision", "local_files_only", "token"])
def test_hub_parameters_reach_the_hub(parameter, monkeypatch):
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, options))
        raise FileNotFoundError("none here")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setenv("LAB_TOKEN", "hf_secret")
    value = {"revision": "v7", "local_files_only": True, "token": "LAB_TOKEN"}[parameter]
    with pytest.raises(ModelNotFoundError, match="hf download acme/asked-by-parameter"):
        ESMFeaturizer("acme/asked-by-parameter", **{parameter: value}).fit(["MKT"])
    told = {"revision": None, "local_files_only": False, parameter: value}
    if parameter == "token":
        told["token"] = "hf_secret"
    assert asked == [("acme/asked-by-parameter", told)]


def test_device_reaches_the_model(tiny_model):
    with pytest.raises(ValueError, match="`device`='cuda:99' cannot be used here"):
        ESMFeaturizer(tiny_model, device="cuda:99").transform(["MKT"])
    assert ESMFeaturizer(tiny_model, device="cpu").transform(["MKT"]).shape == (1, 12)
    # Without data or weights: what is asked for is where the model is put.
    seen = []
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(_loading, "REGISTRY", _loading.Registry(1))
        patch.setattr(_loading, "load", lambda *args: seen.append(args[4]) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ESMFeaturizer(tiny_model, device="meta").transform(["MKT"])
    assert seen == [torch.device("meta")]


def test_verbose_shows_a_bar_in_residues_and_silence_is_the_default(tiny_family, monkeypatch):
    def run(verbose):
        monkeypatch.setattr(_loading, "REGISTRY", _loading.Registry(8))
        with redirect_stderr(io.StringIO()) as err:
            ESMFeaturizer(tiny_family, verbose=verbose).transform(["MKTAY", "GIV", "GIV"])
        return err.getvalue()

    assert run(0) == ""
    shown = run(1)
    assert "tiny_16: 100%" in shown and "24.0/24.0" in shown and "residue/s" in shown


BAD_INPUT = [
    ("MKTAY", TypeError, r"\[sequence\]"),
    ([], ValueError, "at least one"),
    (["MKT", ""], ValueError, "Sequence 1 is empty"),
    (["MKT", None], TypeError, "Sequence 1 is None"),
    (["MKT", 3], TypeError, r"Sequence 1 is 3 \(int\)"),
    (["MKT", "GJ"], ValueError, "Sequence 1 has 'J' at position 1"),
    ([["MKT"]], TypeError, "Sequence 0 is"),
    (np.array([["MKT"], ["GIV"]]), ValueError, "shape"),
    (pd.DataFrame({"protein": ["MKT"]}), ValueError, "protein"),
]


@pytest.mark.parametrize("method", ["fit", "transform", "fit_transform", "iter_residues"])
@pytest.mark.parametrize(("X", "error", "words"), BAD_INPUT)
def test_bad_input_is_named_by_every_method(emb, method, X, error, words):
    with pytest.raises(error, match=words):
        getattr(emb, method)(X)


def test_bad_parameters_are_named_by_transform_without_fit(emb):
    with pytest.raises(ValueError, match="'token_budget' parameter"):
        emb.set_params(token_budget=0).transform(["MKT"])


def test_unknown_alias_is_named_by_every_method():
    emb = ESMFeaturizer("esm9")
    for call in (
        lambda: emb.fit(["MKT"]),
        lambda: emb.transform(["MKT"]),
        emb.get_feature_names_out,
        lambda: emb.block_sizes_,
        lambda: emb.for_prefix(3),
    ):
        with pytest.raises(ValueError, match="Unknown model 'esm9'"):
            call()


@pytest.mark.parametrize("models", ["esm9", "acme/never-asked", "./nowhere", []])
def test_an_estimator_is_shown_whatever_its_models(models, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    emb = ESMFeaturizer(models)
    assert repr(models) in repr(emb)
    assert "ESMFeaturizer" in emb._repr_html_()
    assert "transform" in dir(emb)
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        emb.predict  # noqa: B018


# scikit-learn: the common checks that do not feed numbers, by name


CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_param_validation",
    "check_estimator_sparse_tag",
]


@pytest.mark.parametrize("check", CHECKS)
def test_common_check(check):
    run = getattr(estimator_checks, check, None)
    if run is None:
        pytest.skip("not in this scikit-learn")
    run("ESMFeaturizer", ESMFeaturizer())


# scikit-learn: what the other checks ask, asked with proteins


def test_fit_returns_self_and_changes_nothing(emb, proteins):
    before = dict(vars(emb))
    parameters = joblib.hash(emb.get_params())
    assert emb.fit(proteins) is emb
    assert emb.fit(proteins, y=np.arange(7)) is emb
    assert vars(emb) == before
    emb.transform(proteins)
    list(emb.iter_residues(proteins))
    emb.get_feature_names_out()
    assert vars(emb) == before
    assert joblib.hash(emb.get_params()) == parameters


def test_fitted_or_not_and_fitted_twice_give_the_same(emb, proteins):
    X = emb.transform(proteins)
    np.testing.assert_array_equal(emb.fit(proteins).transform(proteins), X)
    np.testing.assert_array_equal(emb.fit(proteins[:1]).fit(proteins[1:]).transform(proteins), X)
    np.testing.assert_array_equal(emb.fit_transform(proteins), X)
    np.testing.assert_array_equal(emb.fit_transform(proteins, y=range(7)), X)


def test_one_by_one_and_all_at_once_give_the_same(emb, proteins):
    alone = np.concatenate([emb.transform([protein]) for protein in proteins])
    np.testing.assert_allclose(alone, emb.transform(proteins), atol=TOLERANCE)


@pytest.mark.parametrize(
    "container", [tuple, np.array, lambda s: np.array(s, dtype=object), pd.Series]
)
def test_containers_give_the_same_and_are_not_changed(emb, proteins, container):
    X = container(proteins)
    np.testing.assert_array_equal(emb.transform(X), emb.transform(proteins))
    assert list(X) == proteins


def test_readonly_memory_is_enough(emb, proteins, tmp_path):
    joblib.dump(np.array(proteins), tmp_path / "proteins")
    mapped = joblib.load(tmp_path / "proteins", mmap_mode="r")
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(emb.fit(mapped).transform(mapped), emb.transform(proteins))


def test_output_may_be_written_to(emb, proteins):
    X = emb.transform([*proteins, proteins[0]])
    X[0] = 0
    assert np.abs(X[-1]).max() > 0
    for rows, _ in emb.iter_residues(proteins):
        rows[:] = 0


def test_pickle_after_use_is_small_and_works(tmp_path):
    folder = save_esm(tmp_path / "m", width=64, layers=3)
    emb = ESMFeaturizer(folder)
    X = emb.fit_transform(["MKTAY"])
    weights = (tmp_path / "m" / "model.safetensors").stat().st_size
    assert len(pickle.dumps(emb)) < 2000 < 100_000 < weights
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(emb)).transform(["MKTAY"]), X)
    assert joblib.hash(emb) == joblib.hash(clone(emb).fit(["GIV"]))


def test_clone_and_pickle_find_the_loaded_model(tiny_model, monkeypatch):
    monkeypatch.setattr(_loading, "REGISTRY", _loading.Registry(8))
    emb = ESMFeaturizer(tiny_model)
    X = emb.transform(["MKTAY"])
    monkeypatch.setattr(_loading, "load", None)
    for other in (clone(emb), pickle.loads(pickle.dumps(emb)), ESMFeaturizer([tiny_model])):
        np.testing.assert_array_equal(other.transform(["MKTAY"]), X)


def test_results_do_not_depend_on_what_the_registry_has_to_drop(
    tiny_family, proteins, monkeypatch
):
    X = ESMFeaturizer(tiny_family).transform(proteins)
    monkeypatch.setattr(_loading, "REGISTRY", _loading.Registry(1))
    emb = ESMFeaturizer(tiny_family)
    for _ in range(2):
        np.testing.assert_array_equal(emb.transform(proteins), X)
    assert len(_loading.REGISTRY) == 1


def test_threads_may_share_a_featurizer(emb, proteins, monkeypatch):
    X = emb.transform(proteins)
    monkeypatch.setattr(_loading, "REGISTRY", _loading.Registry(2))
    results = [None] * 4

    def work(i):
        results[i] = emb.transform(proteins)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for result in results:
        np.testing.assert_allclose(result, X, atol=TOLERANCE)


def test_pandas_output_keeps_names_and_the_index_of_a_series(emb, proteins):
    X = emb.transform(proteins)
    series = pd.Series(proteins, index=list("abcdefg"), name="protein")
    for frame in (
        emb.set_output(transform="pandas").transform(series),
        emb.fit_transform(series),
        clone(emb).transform(series),
    ):
        assert isinstance(frame, pd.DataFrame)
        if SERIES_KEEPS_ITS_INDEX:
            assert frame.index.tolist() == list("abcdefg")
        np.testing.assert_array_equal(frame.columns, emb.get_feature_names_out())
        assert (frame.dtypes == np.float32).all()
        np.testing.assert_array_equal(frame, X)
    assert emb.transform(proteins).index.tolist() == list(range(7))
    assert emb.for_prefix(8).transform(series).shape == (7, 8)
    assert isinstance(emb.set_output(transform="default").transform(series), np.ndarray)


def test_column_transformer_takes_the_column_by_name(emb, proteins):
    frame = pd.DataFrame({"protein": proteins, "ph": np.arange(7.0)})
    columns = ColumnTransformer([("emb", emb, "protein"), ("rest", "passthrough", ["ph"])])
    X = columns.set_output(transform="pandas").fit_transform(frame)
    np.testing.assert_array_equal(
        X.iloc[:, :-1], emb.set_output(transform="default").transform(proteins)
    )
    assert X.columns[0] == "emb__tiny_08__0"
    wrong = ColumnTransformer([("emb", emb, ["protein"])])
    with pytest.raises(ValueError, match="as a string, not in a list"):
        wrong.fit(frame)


def test_pipeline_and_its_head(emb, proteins):
    model = make_pipeline(emb, Ridge())
    with pytest.raises(NotFittedError):
        model.predict(proteins)
    y = np.arange(7.0)
    model.fit(proteins, y)
    expected = Ridge().fit(emb.transform(proteins), y).predict(emb.transform(proteins))
    np.testing.assert_allclose(model.predict(proteins), expected, atol=1e-4)
    np.testing.assert_array_equal(model[:-1].get_feature_names_out(), emb.get_feature_names_out())


@pytest.mark.slow
def test_grid_search_over_two_workers(tiny_family, proteins):
    sequences = [p[i:] + p[:i] for p in proteins if len(p) > 20 for i in (0, 3, 9)]
    y = np.array([s.count("A") + s.count("K") for s in sequences], dtype=float)
    grid = {
        "esmfeaturizer__models": [tiny_family[:1], tiny_family],
        "esmfeaturizer__pooling": ["mean", "max"],
    }
    scores = [
        GridSearchCV(make_pipeline(ESMFeaturizer(), Ridge()), grid, cv=3, n_jobs=n_jobs)
        .fit(sequences, y)
        .cv_results_["mean_test_score"]
        for n_jobs in (None, 2)
    ]
    assert np.ptp(scores[0]) > 0.01
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)


def test_importing_the_package_does_not_import_torch():
    code = (
        "import sys, revdist_sklearn as r; r.ESMFeaturizer().fit(['MKT']).get_feature_names_out();"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("models", ["esm2-nano:32"])
def test_the_bundled_family_embeds_without_network(models, no_network, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr(_loading, "REGISTRY", _loading.Registry(8))
    X = ESMFeaturizer(models).transform(["MKTAYIAKQR", "GSHM"])
    assert X.shape == (2, 32) and np.isfinite(X).all()


@pytest.mark.parametrize("pooling", ["mean", "mutated"])
def test_bfloat16_of_variants_is_warned_of(tiny_model, pooling):
    settings = {"pooling": pooling, "reference": "MKTAY"}
    emb = ESMFeaturizer(tiny_model, dtype="bfloat16", **settings)
    with pytest.warns(UserWarning, match=r"bfloat16.*variants.*'float16'.*'float32'") as told:
        emb.transform(["MKTAW", "MKTAF"])
    assert len(told) == 1 and told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ESMFeaturizer(tiny_model, dtype="bfloat16").transform(["MKTAW"])
        ESMFeaturizer(tiny_model, dtype="float16", **settings).transform(["MKTAW"])
        emb.fit(["MKTAW"])


@pytest.mark.parametrize("dtype, most", [("float16", 0.006), ("bfloat16", 0.05)])
def test_half_precision_beside_the_spread_of_variants(dtype, most):
    """As the documentation has it: an eighth in float16; more than beside diverse proteins."""
    scan = load_gb1_stability()
    variants, diverse = scan.sequences[:100], load_uniprot_sample().sequences[:40]
    diverse = [sequence[:200] for sequence in diverse]
    plain, half = ESMFeaturizer("esm2-nano"), ESMFeaturizer("esm2-nano", dtype=dtype)

    def error(sequences):
        X = plain.transform(sequences)
        return np.linalg.norm(half.transform(sequences) - X) / np.linalg.norm(X - X.mean(0))

    assert 3 * error(diverse) < error(variants) < most


def test_residues_are_on_the_host_where_a_gpu_has_no_room_for_them(
    tiny_model, proteins, fake_cuda, monkeypatch
):
    plan = ESMFeaturizer(tiny_model, device="cpu").embedding_plan("residue")
    [(expected, _)] = _residue_rows.residue_rows(plan, proteins, True)
    empty = torch.empty

    def full(*shape, device="cpu", **options):
        if torch.device(device).type == "cuda":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return empty(*shape, device=device, **options)

    monkeypatch.setattr(torch, "empty", full)
    monkeypatch.setattr(_residue_rows, "resolve_device", lambda device: torch.device("cuda:1"))
    [(rows, _)] = _residue_rows.residue_rows(plan, proteins, True)
    assert rows.device.type == "cpu" and torch.equal(rows, expected)
    assert fake_cuda.happened == [(1, "emptied")]


DNA = "ATGGCTAGCTAGGCTAACGTACGATCGATCGATCAGCTAGC"


def test_dna_is_told_once_with_its_index(tiny_model):
    emb = ESMFeaturizer(tiny_model)
    with pytest.warns(UserWarning, match="1 of 2 sequences are DNA or RNA .*Sequence 1") as caught:
        corpus_moments(emb, ["MKTAYIAKQR", DNA], verbose=False)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="Sequence 0"):
        emb.transform([DNA])


def test_a_relative_cache_is_the_folder_of_the_first_use(tiny_model, tmp_path, monkeypatch):
    def moved(name):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)

    moved("first")
    used, sent, fitted = (ESMFeaturizer(tiny_model, cache_dir="c") for _ in range(3))
    used.transform(["MKTAY"])
    sent = pickle.dumps(sent)
    fitted.fit(["MKTAY"])
    moved("second")
    used.transform(["GIVEQ"])
    clone(used).transform(["CCTSI"])
    pickle.loads(sent).transform(["NYCN"])
    fitted.transform(["MKTAW"])
    assert not (tmp_path / "second" / "c").exists()
    [(_, space)] = enumerate(cache_info(tmp_path / "first" / "c")[0])
    assert space["n_sequences"] == 5
    # Parameters stay as they were given; another one is another folder.
    assert clone(used).get_params()["cache_dir"] == used.cache_dir == "c"
    used.set_params(cache_dir="d").transform(["MKTAY"])
    assert (tmp_path / "second" / "d").exists()


def test_the_packed_path_is_told_once(tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(_loading, "REGISTRY", _loading.Registry(2))
    ESMFeaturizer(tiny_model).transform(["MKT"])
    assert "path" not in capsys.readouterr().err
    for options, path in (
        ({}, "pack"),
        ({"model_kwargs": {"attn_implementation": "eager"}}, "plain path: "),
    ):
        emb = ESMFeaturizer(tiny_model, verbose=1, **options)
        emb.transform(["MKT"])
        emb.transform(["MKTA"])
        told = [line for line in capsys.readouterr().err.splitlines() if " path" in line]
        [(block, packing)] = emb.packed_.items()
        assert block in told[0] and len(told) == 1
        if path == "pack":
            assert (packing is True) == ("packed path: proteins share" in told[0])
        else:
            assert path + packing in told[0] and "attention" in packing


def test_what_does_not_pack_says_why(tiny_model):
    [why_not] = ESMFeaturizer(tiny_model, dtype="float16").packed_.values()
    assert "float16" in why_not
