"""Residual sizes that are shares of the residual's variance: scikit-learn's PCA is the witness."""

import json
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from revdist_sklearn import ESMFeaturizer, Moments, ReverseDistiller
from revdist_sklearn.method._chain import directions_for

SIZES = (6, 6, 6)


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 6)) * [3, 2, 1, 1, 0.5, 0.1]
    blocks = [rows]
    for _ in range(2):
        own = rng.normal(size=(500, 6)) * [2, 1, 0.5, 0.3, 0.2, 0.1]
        blocks.append(
            rows @ rng.normal(size=(6, 6)) + own @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
        )
    return np.hstack(blocks) + 3


def fit(X, share, **settings):
    return ReverseDistiller(SIZES, residual_sizes=share, **settings).fit(X)


def sizes_by_pca(X, shares):
    """Return how many directions PCA takes of each residual, stage by stage."""
    Z, sizes = X[:, :6], []
    for block, share in zip((X[:, 6:12], X[:, 12:]), shares, strict=True):
        residual = block - LinearRegression().fit(Z, block).predict(Z)
        pca = PCA(share, svd_solver="full").fit(residual)
        sizes.append(pca.n_components_)
        Z = np.hstack([Z, pca.transform(residual)])
    return sizes


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.75, 0.9, 0.99, 0.99999])
def test_as_many_directions_as_pca_takes(X, share):
    distiller = fit(X, share)
    assert np.diff(distiller.stage_dims_).tolist() == sizes_by_pca(X, [share] * 2)
    for stage in distiller.stages_[1:]:
        kept = stage.residual_variances[: stage.n_added].sum() / stage.residual_variances.sum()
        assert kept > share


def test_shares_and_counts_may_be_mixed(X):
    distiller = fit(X, (0.6, 4))
    (first, _) = sizes_by_pca(X, [0.6, 0.5])
    assert distiller.stage_dims_.tolist() == [6, 6 + first, 10 + first]
    same = fit(X, (first, 4))
    np.testing.assert_array_equal(distiller.transform(X), same.transform(X))
    np.testing.assert_array_equal(
        distiller.inverse_transform(Z := same.transform(X)), same.inverse_transform(Z)
    )
    assert distiller.get_feature_names_out().tolist() == same.get_feature_names_out().tolist()


@pytest.mark.parametrize(
    "settings", [{"regressor": "ridge"}, {"regressor": "pcr"}, {"rotate_base": True}]
)
def test_every_setting_gives_what_the_counts_give(X, settings):
    distiller = fit(X, 0.8, **settings)
    counts = tuple(np.diff(distiller.stage_dims_).tolist())
    assert counts != (6, 6)
    np.testing.assert_array_equal(distiller.transform(X), fit(X, counts, **settings).transform(X))


def test_at_the_level_of_proteins_the_share_is_of_their_variance(X):
    proteins = np.repeat(np.arange(50), 10)
    X = X + np.random.default_rng(1).normal(size=(50, 18))[proteins] * (
        [0] * 6 + [3, 0, 0, 0, 0, 0] * 2
    )
    by_residue = ReverseDistiller(SIZES, residual_sizes=0.7).fit(X)
    by_protein = ReverseDistiller(SIZES, residual_sizes=0.7, residual_level="protein").fit(
        X, proteins=proteins
    )
    for stage in by_protein.stages_[1:]:
        shares = np.cumsum(stage.residual_variances) / stage.residual_variances.sum()
        assert stage.n_added == np.searchsorted(shares, 0.7, side="right") + 1
    assert by_protein.n_components_ < by_residue.n_components_


def test_any_path_of_the_rows_comes_to_the_same(X):
    whole = fit(X, 0.8)
    parts = ReverseDistiller(SIZES, residual_sizes=0.8)
    for part in np.array_split(X, 3):
        parts.partial_fit(part)
    assert not hasattr(clone(parts), "n_components_")
    assert parts.n_components_ == whole.n_components_
    names = parts.partial_fit(X[:2]).get_feature_names_out()
    assert len(names) == parts.n_components_
    moments = Moments(SIZES).update(X)
    of_moments = ReverseDistiller(residual_sizes=0.8).fit_moments(moments)
    np.testing.assert_allclose(of_moments.transform(X), whole.transform(X), atol=1e-9)


def test_after_partial_fit_widths_are_those_of_the_rows_so_far(X):
    parts = ReverseDistiller(SIZES, residual_sizes=0.8).partial_fit(X[:100])
    assert parts.stage_dims_.tolist() == fit(X[:100], 0.8).stage_dims_.tolist()
    parts.partial_fit(X[100:])
    assert parts.stage_dims_.tolist() == fit(X, 0.8).stage_dims_.tolist()
    assert parts.transform(X).shape[1] == parts.n_components_ == len(parts.components_)


def test_files_have_the_numbers_and_the_parameter_as_it_was_given(X, tmp_path):
    for share in (0.8, (0.8, 2), [3, 0.5]):
        distiller = fit(X, share)
        distiller.save_pretrained(tmp_path / "d")
        again = ReverseDistiller.from_pretrained(tmp_path / "d")
        assert again.residual_sizes == (tuple(share) if isinstance(share, list) else share)
        np.testing.assert_array_equal(again.transform(X), distiller.transform(X))
        assert again.get_feature_names_out().tolist() == distiller.get_feature_names_out().tolist()
        np.testing.assert_array_equal(clone(again).fit(X).transform(X), distiller.transform(X))
        travelled = pickle.loads(pickle.dumps(distiller))
        np.testing.assert_array_equal(travelled.transform(X), distiller.transform(X))


def test_older_versions_find_a_tuple_in_files(X, tmp_path):
    fit(X, 0.8).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["parameters"]["residual_sizes"] == [0.8, 0.8]
    assert written["residual_share"] == 0.8 and written["format"] == 3
    fit(X, (0.8, 0.8)).save_pretrained(tmp_path)
    assert "residual_share" not in json.loads((tmp_path / "config.json").read_text())
    assert ReverseDistiller.from_pretrained(tmp_path).residual_sizes == (0.8, 0.8)


def test_a_prefix_of_it_is_cut_and_fitted_again(X):
    distiller = fit(X, 0.8)
    cut = distiller.truncate(7)
    assert cut.residual_sizes == 0.8 and cut.n_features_in_ == 12
    np.testing.assert_allclose(cut.transform(X[:, :12]), distiller.transform(X)[:, :7], atol=1e-12)
    np.testing.assert_allclose(
        clone(cut).fit(X[:, :12]).transform(X[:, :12]), cut.transform(X[:, :12])
    )
    assert fit(X, (0.8, 0.5)).truncate(7).residual_sizes == (0.8,)


def test_fewer_columns_are_asked_for_as_a_number(X):
    whole = fit(X, 0.8)
    for d in (3, 7, whole.n_components_):
        narrow = fit(X, 0.8, n_components=d)
        np.testing.assert_allclose(narrow.transform(X), whole.transform(X)[:, :d], atol=1e-12)
        assert (
            narrow.get_feature_names_out().tolist() == whole.get_feature_names_out().tolist()[:d]
        )
    with pytest.warns(
        UserWarning, match=r"n_components=18 is more than the \d+ columns that resid"
    ):
        assert fit(X, 0.8, n_components=18).n_components_ == whole.n_components_
    with pytest.raises(ValueError, match="n_components=19 is larger than the 18 columns"):
        fit(X, 0.8, n_components=19)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_block_without_a_residual_keeps_one_column_of_zeros(X):
    X[:, 6:12] = X[:, :6]
    distiller = fit(X, 0.9)
    assert distiller.stage_dims_[1] == 7
    assert not distiller.transform(X)[:, 6].any()
    assert np.isfinite(distiller.transform(X)).all()


def test_directions_within_rounding_are_never_asked_for():
    assert directions_for(1 - 1e-17, np.array([5.0, 1e-3, 0.0, 0.0])) == 2
    assert directions_for(0.999999999, np.array([0.0, 5.0, 3.0, 0.0])) == 3
    assert directions_for(0.5, np.zeros(4)) == 1
    assert directions_for(0.5, np.array([1.0])) == 1
    assert directions_for(0.5, np.array([1.0, 1.0])) == 2  # more than the share, as PCA


@pytest.mark.parametrize("share", [1.0, 0.0, 1.5, -0.1, np.nan, True, 1, 0, "0.9"])
def test_one_number_that_is_no_share_is_an_error(X, share):
    with pytest.raises(
        ValueError, match=r"'residual_sizes' parameter .* in the range \(0\.0, 1\.0\)"
    ):
        fit(X, share)


@pytest.mark.parametrize("entry", [1.0, 0.0, 0, 1.5, -0.1, np.nan, True, np.True_, 7, "a", None])
def test_an_entry_that_is_neither_is_named(X, entry):
    with pytest.raises(ValueError, match=r"residual_sizes\[1\]=.* of block 3 .* \[1, 6\].* share"):
        fit(X, (0.5, entry))


def test_numpys_numbers_are_shares(X):
    expected = fit(X, (0.8, 0.5)).transform(X)
    np.testing.assert_array_equal(fit(X, np.array([0.8, 0.5])).transform(X), expected)
    assert fit(X, np.float32(0.8)).n_components_ == fit(X, 0.8).n_components_


def test_blocks_of_one_width_are_told_of_the_way_out(X):
    with pytest.raises(ValueError, match=r"block 2 has 6 .* such as residual_sizes=0\.9"):
        ReverseDistiller(SIZES).fit(X)


def test_a_single_block_has_no_stages_to_share(X):
    with pytest.warns(UserWarning, match="one block"):
        np.testing.assert_array_equal(
            ReverseDistiller((18,), residual_sizes=0.9).fit_transform(X), X
        )


def test_few_rows_are_warned_of_by_the_widths_that_were_found(X):
    with pytest.warns(UserWarning, match=r"13 rows are too few .* regression on 7 columns"):
        fit(X[:13], 0.3)


def test_layers_of_a_model_are_a_chain(proteins):
    emb = ESMFeaturizer("esm2-nano:32", layer=[-1, 1, 0]).set_output(transform="default")
    rows = np.vstack([rows for rows, _ in emb.iter_residues(proteins * 3)])
    distiller = ReverseDistiller(emb.block_sizes_, residual_sizes=0.9).fit(rows.astype(np.float64))
    Z = distiller.transform(rows)
    np.testing.assert_array_equal(Z[:, :32], rows[:, :32])
    assert 34 <= Z.shape[1] < 96
