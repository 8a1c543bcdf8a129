import numpy as np
import pytest
from numpy.testing import assert_allclose

from revdist_sklearn import ESMFeaturizer, Moments, ReverseDistiller, corpus_moments, fit_on_corpus

PROTEINS = ["MKTAYIAKQR", "GSHMWWY", "MKTAYIAKQRQISFVKSHFSRQ", "ACDEFGHIKLMNPQRSTVWY", "MM"]


@pytest.fixture(scope="module")
def featurizer():
    return ESMFeaturizer("esm2-nano:64")


@pytest.fixture(scope="module")
def rows(featurizer):
    """All residues of the corpus at once, and their proteins."""
    rows, index = zip(*featurizer.iter_residues(PROTEINS), strict=True)
    return np.concatenate(rows), np.concatenate(index)


def test_moments_are_those_of_all_residues(featurizer, rows):
    X, protein = rows
    moments = corpus_moments(featurizer, PROTEINS, verbose=False)
    assert moments.block_sizes == (32, 64)
    assert moments.block_names == ("esm2_nano_032", "esm2_nano_064")
    assert (moments.n_rows, moments.n_proteins) == (sum(map(len, PROTEINS)), len(PROTEINS))
    expected = Moments((32, 64)).update(X, groups=protein)
    assert_allclose(moments.residue.covariance, np.cov(X.T.astype(float), bias=True), atol=1e-10)
    assert_allclose(moments.protein.scatter, expected.protein.scatter, atol=1e-10)


def test_residues_are_pooled_to_what_transform_gives(featurizer, rows):
    X, protein = rows
    pooled = np.array([X[protein == i].mean(axis=0) for i in range(len(PROTEINS))])
    assert_allclose(featurizer.transform(PROTEINS), pooled, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*too few:UserWarning")
def test_fit_on_corpus_is_fit_on_its_residues(featurizer, rows):
    X, _ = rows
    distiller = ReverseDistiller()
    assert fit_on_corpus(distiller, featurizer, PROTEINS, verbose=False) is distiller
    by_rows = ReverseDistiller((32, 64)).fit(X)
    assert_allclose(
        distiller.stages_[0].residual_variances, by_rows.stages_[0].residual_variances, atol=1e-8
    )
    assert distiller.get_feature_names_out()[-1] == "rd_esm2_nano_064__31"


@pytest.mark.filterwarnings("ignore:.*too few:UserWarning")
def test_pooled_embeddings_pass_as_the_featurizer_names_them(featurizer, recwarn):
    pytest.importorskip("pandas")
    distiller = fit_on_corpus(ReverseDistiller(), featurizer, PROTEINS, verbose=False)
    named = ESMFeaturizer("esm2-nano:64").set_output(transform="pandas").fit_transform(PROTEINS)
    recwarn.clear()
    assert_allclose(
        distiller.transform(named), distiller.transform(featurizer.transform(PROTEINS))
    )
    assert not recwarn.list
    with pytest.raises(ValueError, match="but ReverseDistiller was fitted on"):
        distiller.transform(named.iloc[:, ::-1])


@pytest.mark.parametrize("pooling", ["max", "cls"])
def test_refuses_other_pooling(pooling):
    featurizer = ESMFeaturizer("esm2-nano:32", pooling=pooling)
    with pytest.raises(ValueError, match=f"pooling='mean', not '{pooling}'"):
        fit_on_corpus(ReverseDistiller(), featurizer, PROTEINS)


def test_bad_sequences_are_named(featurizer):
    with pytest.raises(ValueError, match="Sequence 1"):
        corpus_moments(featurizer, ["MKT", "MK*"])


def test_progress_bar_counts_residues(featurizer, capsys):
    corpus_moments(featurizer, PROTEINS)
    assert "residue" in capsys.readouterr().err
    corpus_moments(featurizer, PROTEINS, verbose=False)
    assert not capsys.readouterr().err
