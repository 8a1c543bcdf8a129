"""The level of mutants that a pass over a corpus gathers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from revdist_sklearn import (
    ESMFeaturizer,
    Moments,
    ReverseDistiller,
    compact,
    corpus_moments,
    fit_on_corpus,
)
from revdist_sklearn._mutants import add_mutants, choose_mutants, mutants_of
from revdist_sklearn.datasets import load_uniprot_sample

CORPUS = [*sorted(load_uniprot_sample().sequences, key=len)[:6], "XXXX", "mktaYIAKQR"]


@pytest.fixture(scope="module")
def emb():
    return ESMFeaturizer("esm2-nano:64")


@pytest.fixture(scope="module")
def moments(emb):
    return corpus_moments(emb, CORPUS, mutants=5, mutant_proteins=3, verbose=False)


def test_mutants_are_single_substitutions_of_which_none_comes_twice():
    sequence = "MKTAYIAKQRXb"
    found = mutants_of(sequence, 60, seed=3)
    assert len(set(found)) == len(found) == 60 and sequence not in found
    for mutant in found:
        [site] = [i for i in range(len(sequence)) if mutant[i] != sequence[i]]
        assert site < 10 and mutant[site] in "ACDEFGHIKLMNPQRSTVWY"
    assert found == mutants_of(sequence, 60, seed=3) != mutants_of(sequence, 60, seed=4)
    assert len(mutants_of("MK", 100, seed=0)) == 38 and mutants_of("XX", 5, seed=0) == []
    # What is none of the twenty amino acids stays, wherever it is.
    assert {mutant[::2] for mutant in mutants_of("XMbK-", 38, seed=0)} == {"Xb-"}
    lower = mutants_of("mk", 100, seed=0)
    assert len({mutant.upper() for mutant in lower} - {"MK"}) == 38
    # All sites and letters come up.
    sites = [
        i for mutant in mutants_of("A" * 50, 400, seed=0) for i in range(50) if mutant[i] != "A"
    ]
    assert len(set(sites)) == 50


def test_the_choice_of_proteins_does_not_depend_on_their_order():
    first = choose_mutants(2, 3, CORPUS, 0)
    turned = choose_mutants(2, 3, CORPUS[::-1], 0)
    assert {CORPUS[i] for i in first.proteins} == {CORPUS[::-1][i] for i in turned.proteins}
    assert CORPUS.index("XXXX") not in choose_mutants(2, 100, CORPUS, 0).proteins
    assert len(choose_mutants(2, 100, CORPUS * 2, 0).proteins) == 7  # each once
    assert choose_mutants(2, 3, ["MK", "MA", "MK"], 0).proteins == {0, 1}
    assert choose_mutants(2, 3, CORPUS, 1) != first
    # Of all proteins the seed chooses the mutants alone.
    identities = [choose_mutants(2, None, CORPUS, seed).identity() for seed in (0, 1)]
    assert identities[0] != identities[1]
    with pytest.raises(ValueError, match="No protein of the corpus"):
        choose_mutants(2, None, ["XX", "BZ"], 0)


def test_the_level_is_that_of_pooled_mutants(emb, moments):
    chosen = choose_mutants(5, 3, CORPUS, 0)
    scatter, n = np.zeros((96, 96)), 0
    for i in chosen.proteins:
        wild_type, *mutants = emb.transform([CORPUS[i], *mutants_of(CORPUS[i], 5, 0)]).astype(
            float
        )
        rows = (np.array(mutants) - wild_type) * len(CORPUS[i])
        rows -= rows.mean(axis=0)
        scatter, n = scatter + rows.T @ rows, n + len(rows)
    level = moments.levels["mutant"]
    assert level.n == n == 15
    assert_allclose(level.scatter, scatter, atol=1e-4 * np.abs(scatter).max())
    # The other levels are as they are without.
    plain = corpus_moments(emb, CORPUS, verbose=False)
    assert plain.residue == moments.residue and "mutant" not in plain.levels


def test_all_proteins_and_workers(emb, moments, monkeypatch):
    monkeypatch.setattr("revdist_sklearn._corpus.PIECE_RESIDUES", 60)
    one = corpus_moments(emb, CORPUS, mutants=2, mutant_proteins=None, verbose=False)
    assert one.levels["mutant"].n == 2 * 7  # none of XXXX
    two = corpus_moments(emb, CORPUS, mutants=2, mutant_proteins=None, verbose=False, n_jobs=2)
    scatter = one.levels["mutant"].scatter
    assert_allclose(two.levels["mutant"].scatter, scatter, atol=1e-5 * np.abs(scatter).max())
    few = corpus_moments(emb, CORPUS, mutants=5, mutant_proteins=3, verbose=False)
    scatter = moments.levels["mutant"].scatter
    assert_allclose(few.levels["mutant"].scatter, scatter, atol=1e-5 * np.abs(scatter).max())


def test_a_checkpoint_is_of_its_mutants(emb, tmp_path, monkeypatch):
    path = tmp_path / "c"
    first = corpus_moments(
        emb, CORPUS, mutants=2, mutant_proteins=3, checkpoint=path, verbose=False
    )
    monkeypatch.setattr("revdist_sklearn._corpus.piece_moments", None)
    how = {"mutants": 2, "mutant_proteins": 3, "checkpoint": path, "verbose": False}
    again = corpus_moments(emb, CORPUS, **how)
    assert again.levels == first.levels
    for other in ({"mutants": 3}, {"mutants": None}, {"mutant_proteins": 2}, {"random_state": 1}):
        with pytest.raises(ValueError, match="belongs to another corpus"):
            corpus_moments(emb, CORPUS, **(how | other))


def test_what_they_cost_is_told_and_provenance_knows_them(emb, moments, tmp_path, capfd):
    [corpus] = moments.provenance["corpora"]
    assert corpus["mutants"] == {"n_per_protein": 5, "n_proteins": 3, "seed": 0}
    moments.save(tmp_path / "m")
    assert Moments.load(tmp_path / "m").provenance == moments.provenance
    corpus_moments(emb, CORPUS, mutants=5, mutant_proteins=3, verbose=True)
    chosen = choose_mutants(5, 3, CORPUS, 0)
    more = sum(6 * len(CORPUS[i]) for i in chosen.proteins)
    assert (
        f"Mutants: {more:,} residues beside the {sum(map(len, CORPUS)):,}"
        in capfd.readouterr().err
    )


def test_what_is_told_of_short_proteins_is_what_is_made(emb, capfd):
    """XX has no mutant, MK only 38, and K comes twice."""
    corpus = ["MKTAYIAKQR", "XX", "MK", "K", "K"]
    found = corpus_moments(emb, corpus, mutants=60, mutant_proteins=None, verbose=True)
    n = [60, 0, 38, 19, 19]
    assert found.levels["mutant"].n == sum(n)
    told = found.provenance["corpora"][0]["mutants"]
    assert told == {"n_per_protein": 60, "n_proteins": 4, "seed": 0}
    # The proteins themselves are embedded once more, beside their mutants.
    more = sum((k + 1) * len(s) for k, s in zip(n, corpus, strict=True) if k)
    assert f"Mutants: {more:,} residues beside the 16 of" in capfd.readouterr().err
    few = corpus_moments(emb, corpus, mutants=2, mutant_proteins=3, verbose=False)
    assert few.provenance["corpora"][0]["mutants"]["n_proteins"] == 3
    assert few.levels["mutant"].n == 6


def test_progress_is_that_of_all_residues_that_are_told(emb):
    chosen, done = choose_mutants(3, 2, CORPUS, 0), []
    families = chosen.of(CORPUS, 0)
    add_mutants(Moments((32, 64)), emb, families, {}, done.append)
    assert sum(done) == chosen.n_residues(CORPUS, 0) > 0


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16])
def test_numbers_of_numpy_are_numbers(emb, moments, tmp_path, kind):
    how = {"mutants": kind(5), "mutant_proteins": kind(3), "random_state": kind(0)}
    found = corpus_moments(emb, CORPUS, checkpoint=tmp_path / "c", verbose=False, **how)
    assert found.levels == moments.levels
    found.save(tmp_path / "m")
    assert Moments.load(tmp_path / "m").provenance == moments.provenance


@pytest.mark.parametrize(
    "wrong",
    [
        {"mutants": 0},
        {"mutants": 1.5},
        {"mutants": 2, "mutant_proteins": 0},
        {"mutants": 2, "random_state": -1},
        {"random_state": None},
    ],
)
def test_numbers_that_are_none(emb, wrong):
    with pytest.raises((ValueError, TypeError), match=next(reversed(wrong))):
        corpus_moments(emb, CORPUS, verbose=False, **wrong)


@pytest.mark.filterwarnings("ignore:A corpus of", "ignore:.*rows are too few", "ignore:.*adds no")
def test_fit_on_corpus_gathers_what_the_distiller_needs(emb, moments):
    distiller = ReverseDistiller(residual_level="mutant", order="variance")
    fitted = fit_on_corpus(distiller, emb, CORPUS, mutants=5, mutant_proteins=3, verbose=False)
    expected = ReverseDistiller(residual_level="mutant", order="variance").fit_moments(moments)
    assert_allclose(fitted.components_, expected.components_, atol=1e-8)
    by_default = fit_on_corpus(
        ReverseDistiller(rotate_base="mutant"), emb, CORPUS, mutant_proteins=2, verbose=False
    )
    assert by_default.provenance_["corpora"][0]["mutants"]["n_per_protein"] == 16
    with pytest.raises(ValueError, match="residual_level='homologs' is no level of a corpus"):
        fit_on_corpus(ReverseDistiller(residual_level="homologs"), emb, CORPUS, verbose=False)


@pytest.mark.filterwarnings("ignore:A corpus of", "ignore:.*rows are too few", "ignore:.*adds no")
def test_a_compact_pipeline_by_variance_runs_the_models_that_its_prefix_needs(emb, moments):
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    from revdist_sklearn import PrefixSelector

    distiller = ReverseDistiller(order="variance").fit_moments(moments)
    small = int(np.flatnonzero(distiller.n_models_ == 1)[-1]) + 1
    for d, n in ((small, 1), (small + 1, 2)):
        model = make_pipeline(emb, FrozenEstimator(distiller), PrefixSelector(d), Ridge())
        model.fit(CORPUS[:4], [0.0, 1.0, 2.0, 0.0])
        cut = compact(model)
        assert len(cut[0].embedding_plan().members) == n
        assert_allclose(cut.predict(CORPUS), model.predict(CORPUS), atol=1e-5)
