import pickle
from copy import deepcopy

import numpy as np
import pytest
from conftest import save_esm
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from revdist_sklearn import (
    ESMFeaturizer,
    PrefixRidgeClassifierCV,
    PrefixRidgeCV,
    PrefixSelector,
    ReverseDistiller,
    compact,
    fit_on_corpus,
)
from revdist_sklearn.models import _loading

SEQUENCES = ["MKTAYIAKQR", "GIVEQCCTSI", "FVNQHLCGSH", "ACDEFGHIKL", "MNPQRSTVWY", "GSHMWGSHMW"]
y = np.arange(6.0)
OTHERS = ["MKTW", "GGSGGS"]


def model_of(emb, rd, d, *head):
    head = head or (Ridge(),)
    return make_pipeline(clone(emb), FrozenEstimator(rd), PrefixSelector(d), *head)


def loaded():
    return {encoder.width for encoder in _loading.REGISTRY._models.values()}


@pytest.mark.parametrize(
    ("d", "needed"), [(1, {8}), (8, {8}), (9, {8, 12}), (12, {8, 12}), (16, {8, 12, 16})]
)
def test_only_the_models_that_the_prefix_needs_are_loaded_and_run(emb, rd, ran, d, needed):
    model = model_of(emb, rd, d).fit(SEQUENCES, y)
    expected = model.predict(OTHERS)
    assert loaded() == {8, 12, 16}
    _loading.REGISTRY.clear()
    ran.clear()
    small = compact(model)
    np.testing.assert_allclose(small.predict(OTHERS), expected, atol=1e-5)
    assert ran == loaded() == needed
    assert small.score(SEQUENCES, y) == pytest.approx(model.score(SEQUENCES, y), abs=1e-5)


def test_the_input_is_left_as_it_is(emb, rd):
    model = model_of(emb, deepcopy(rd), 8).set_output(transform="pandas").fit(SEQUENCES, y)
    before = pickle.dumps(model)
    small = compact(model)
    small.set_params(ridge__alpha=7.0).set_output(transform="default").fit(SEQUENCES[::-1], y)
    small.set_params(prefixselector__n_components=3)
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("frozen", [False, True])
def test_a_search_stands_for_its_best_pipeline(emb, rd, ran, frozen):
    grid = {"prefixselector__n_components": [4], "ridge__alpha": [0.1, 1.0]}
    search = GridSearchCV(model_of(emb, rd, None), grid, cv=2).fit(SEQUENCES, y)
    expected = search.predict(OTHERS)
    ran.clear()
    small = compact(FrozenEstimator(search) if frozen else search)
    np.testing.assert_allclose(small.predict(OTHERS), expected, atol=1e-5)
    assert ran == {8} and type(small) is Pipeline


def test_a_search_as_the_last_step(emb, rd, ran):
    head = GridSearchCV(
        make_pipeline(PrefixSelector(), Ridge()), {"prefixselector__n_components": [3, 6]}, cv=2
    )
    model = make_pipeline(emb, FrozenEstimator(rd), head).fit(SEQUENCES, y)
    expected = model.predict(OTHERS)
    ran.clear()
    small = compact(model)
    np.testing.assert_allclose(small.predict(OTHERS), expected, atol=1e-5)
    assert ran == {8} and list(small.named_steps) == list(model.named_steps)


@pytest.mark.parametrize("selector", [[], [PrefixSelector(7)]])
def test_a_last_search_for_something_else_goes_on_as_it_is(emb, ran, proteins, selector):
    rd = fit_on_corpus(ReverseDistiller(n_components=8), emb, proteins * 3, verbose=False)
    head = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2, scoring="neg_mean_absolute_error")
    model = make_pipeline(emb, FrozenEstimator(rd), *selector, head).fit(SEQUENCES, y)
    expected = model.score(SEQUENCES, y)
    ran.clear()
    small = compact(model)
    assert small.score(SEQUENCES, y) == pytest.approx(expected, abs=1e-5)
    assert ran == {8} and isinstance(small[-1], GridSearchCV) and small[-1] is not head


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("searched", [False, True])
def test_a_last_step_with_a_prefix_of_its_own(emb, rd, ran, searched, frame):
    head = PrefixRidgeCV([5], alphas=1.0, cv=2, scoring="neg_mean_squared_error")
    head = GridSearchCV(head, {"scale": [False, True]}, cv=2) if searched else head
    model = make_pipeline(clone(emb), FrozenEstimator(deepcopy(rd)), head)
    model.set_output(transform="pandas" if frame else "default").fit(SEQUENCES, y)
    expected = model.predict(OTHERS)
    ran.clear()
    small = compact(model)
    np.testing.assert_allclose(small.predict(OTHERS), expected, atol=1e-5)
    assert ran == {8}
    fitted = model[-1].best_estimator_ if searched else model[-1]
    assert small[-1].n_features_in_ == 5 and fitted.n_features_in_ == 16
    assert small[-1].coef_ is not fitted.coef_


def test_a_classifier_with_a_prefix_of_its_own(emb, rd, ran):
    head = PrefixRidgeClassifierCV([9], alphas=1.0, cv=2)
    model = make_pipeline(emb, FrozenEstimator(rd), head).fit(SEQUENCES, list("ababab"))
    expected = model.decision_function(OTHERS)
    ran.clear()
    small = compact(model)
    np.testing.assert_allclose(small.decision_function(OTHERS), expected, atol=1e-5)
    assert ran == {8, 12} and small.classes_.tolist() == ["a", "b"]


@pytest.mark.parametrize("freeze", [FrozenEstimator, lambda rd: rd])
def test_without_a_selector_the_distiller_has_the_prefix(emb, ran, proteins, freeze):
    rd = fit_on_corpus(ReverseDistiller(n_components=7), emb, proteins * 3, verbose=False)
    model = make_pipeline(emb, freeze(rd), Ridge())
    model[-1].fit(rd.transform(emb.transform(SEQUENCES)), y)
    expected = model.predict(OTHERS)
    ran.clear()
    np.testing.assert_allclose(compact(model).predict(OTHERS), expected, atol=1e-5)
    assert ran == {8}


def test_a_distiller_fitted_in_the_pipeline_or_with_n_components(emb, ran, proteins):
    distiller = ReverseDistiller((8, 12, 16), n_components=10)
    model = make_pipeline(emb, distiller, PrefixSelector(6), Ridge())
    with pytest.warns(UserWarning):  # few rows for a fit
        model.fit(proteins, np.arange(7.0))
    expected = model.predict(OTHERS)
    ran.clear()
    np.testing.assert_allclose(compact(model).predict(OTHERS), expected, atol=1e-4)
    assert ran == {8}


def test_a_distiller_of_other_blocks_is_told(emb, proteins):
    model = make_pipeline(emb, ReverseDistiller(), PrefixSelector(6), Ridge())
    with pytest.warns(UserWarning, match="one block"):
        model.fit(proteins, np.arange(7.0))
    with pytest.raises(ValueError, match=r"fitted on \(36,\).*block_sizes="):
        compact(model)


def test_turned_bases_and_residual_sizes(tiny_family, proteins, ran):
    emb = ESMFeaturizer([tiny_family[2], tiny_family[0], tiny_family[1]])
    distiller = ReverseDistiller(residual_sizes=(4, 4), rotate_base=True)
    rd = fit_on_corpus(distiller, emb, proteins * 3, verbose=False)
    for d, needed in ((10, {16}), (20, {16, 8}), (22, {16, 8, 12})):
        model = model_of(emb, rd, d).fit(SEQUENCES, y)
        expected = model.predict(OTHERS)
        ran.clear()
        np.testing.assert_allclose(compact(model).predict(OTHERS), expected, atol=1e-5)
        assert ran == needed


@pytest.mark.parametrize("max_length", [None, 7])
def test_long_proteins_are_cut_as_all_models_cut_them(tiny_family, tmp_path, ran, max_length):
    # The table of positions of the model that is left out ends at 10 residues.
    short = {"position_embedding_type": "absolute", "max_position_embeddings": 14}
    limited = save_esm(tmp_path / "limited", width=16, token_dropout=False, **short)
    emb = ESMFeaturizer([tiny_family[0], limited], too_long="window", max_length=max_length)
    rd = fit_on_corpus(ReverseDistiller(), emb, SEQUENCES * 3, verbose=False)
    model = model_of(emb, rd, 5).fit(SEQUENCES, y)
    long = ["MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"]
    expected = model.predict(long)
    whole = ESMFeaturizer(tiny_family[0])
    unlike = Pipeline([("e", whole), *compact(model).steps[1:]]).predict(long)
    assert np.abs(unlike - expected).max() > 1e-3
    ran.clear()
    np.testing.assert_allclose(compact(model).predict(long), expected, atol=1e-5)
    assert ran == {8}


def test_parameters_of_pipeline_and_featurizer_are_kept(emb, rd, tmp_path):
    featurizer = clone(emb).set_params(
        max_length=50, too_long="truncate", cache_dir=str(tmp_path / "rows"), token_budget=64
    )
    model = make_pipeline(
        featurizer, FrozenEstimator(rd), PrefixSelector(9), Ridge(), memory=str(tmp_path / "steps")
    ).fit(SEQUENCES, y)
    small = compact(model)
    assert small.get_params(deep=False)["memory"] == model.memory
    params = {**featurizer.get_params(), "models": featurizer.models[:2]}
    assert small[0].get_params() == params
    np.testing.assert_allclose(small.predict(OTHERS), model.predict(OTHERS), atol=1e-5)
    again = clone(small).fit(SEQUENCES, y).predict(OTHERS)
    np.testing.assert_allclose(again, model.predict(OTHERS), atol=1e-5)


def test_steps_behind_the_selector_are_kept_and_copied(emb, rd):
    labels = ["a", "b", "a", "b", "a", "b"]
    model = model_of(emb, rd, 12, StandardScaler(), LogisticRegression()).fit(SEQUENCES, labels)
    small = compact(model)
    for method in ("predict_proba", "decision_function", "predict"):
        ours, theirs = (getattr(m, method)(OTHERS) for m in (small, model))
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        else:
            assert (ours == theirs).all()
    assert list(small.classes_) == ["a", "b"]
    assert small.named_steps["standardscaler"] is not model.named_steps["standardscaler"]


@pytest.mark.parametrize("d", [5, 12])
def test_column_names_stay_the_same(emb, rd, d):
    model = model_of(emb, deepcopy(rd), d).set_output(transform="pandas")
    model.fit(SEQUENCES, y)
    small = compact(model)
    np.testing.assert_allclose(small.predict(OTHERS), model.predict(OTHERS), atol=1e-5)
    frame = small[:-1].transform(OTHERS)
    assert list(frame.columns) == list(model[:-1].transform(OTHERS).columns)
    assert list(small[:-1].get_feature_names_out()) == list(frame.columns)


def test_compact_twice_clone_pickle_and_fit_again(emb, rd):
    model = model_of(emb, rd, 9).set_params(memory=None, verbose=False).fit(SEQUENCES, y)
    small = compact(model)
    expected = small.predict(OTHERS)
    for again in (
        compact(small),
        pickle.loads(pickle.dumps(small)),
        clone(small).fit(SEQUENCES, y),
        compact(FrozenEstimator(small)),
    ):
        np.testing.assert_allclose(again.predict(OTHERS), expected, atol=1e-5)
    assert list(small.named_steps) == list(model.named_steps)
    assert small.named_steps["prefixselector"].n_features_in_ == 9


def test_passthrough_steps_are_passed_through(emb, rd, ran):
    steps = [("e", emb), ("rd", FrozenEstimator(rd)), ("none", "passthrough")]
    model = Pipeline([*steps, ("p", PrefixSelector(3)), ("head", Ridge())]).fit(SEQUENCES, y)
    expected = model.predict(OTHERS)
    ran.clear()
    np.testing.assert_allclose(compact(model).predict(OTHERS), expected, atol=1e-5)
    assert ran == {8}


# What cannot be made smaller


@pytest.mark.parametrize(
    "rest", [[PrefixSelector(5), Ridge()], [PrefixRidgeCV([5], alphas=1.0, cv=2)]]
)
def test_a_step_that_was_fitted_on_all_columns_is_named(emb, rd, rest):
    model = make_pipeline(emb, FrozenEstimator(rd), StandardScaler(), *rest).fit(SEQUENCES, y)
    with pytest.raises(ValueError, match=r"'standardscaler' .*Put it behind the PrefixSelector"):
        compact(model)


def test_pipelines_of_another_kind_are_named(emb, rd):
    X = emb.transform(SEQUENCES)
    on_arrays = make_pipeline(FrozenEstimator(rd), PrefixSelector(5), Ridge()).fit(X, y)
    raw = make_pipeline(emb, Ridge()).fit(SEQUENCES, y)
    columns = make_pipeline(ColumnTransformer([("protein", emb, 0)]), FrozenEstimator(rd), Ridge())
    import pandas as pd

    columns.fit(pd.DataFrame({0: SEQUENCES}), y)
    for model in (on_arrays, raw, columns):
        with pytest.raises(ValueError, match="Supported is make_pipeline"):
            compact(model)


def test_not_fitted(emb, rd):
    model = model_of(emb, rd, 5)
    with pytest.raises(NotFittedError):
        compact(model)
    search = GridSearchCV(model, {"ridge__alpha": [1.0]}, cv=2, refit=False)
    with pytest.raises(ValueError, match="refit=False"):
        compact(search.fit(SEQUENCES, y))
    with pytest.raises(NotFittedError, match="GridSearchCV is not fitted"):
        compact(search.set_params(refit=True))
    # Fitted at its end only: the pipeline looks fitted.
    model = make_pipeline(emb, ReverseDistiller(), Ridge().fit(np.eye(2), [0, 1]))
    with pytest.raises(NotFittedError, match="ReverseDistiller"):
        compact(model)
    with pytest.raises(TypeError, match="not Ridge"):
        compact(Ridge())
