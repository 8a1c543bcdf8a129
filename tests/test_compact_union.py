"""compact of pipelines whose distiller stands in a FeatureUnion beside other columns."""

import pickle
import warnings
from copy import deepcopy

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from revdist_sklearn import (
    PrefixRidgeClassifierCV,
    PrefixRidgeCV,
    PrefixSelector,
    compact,
)

SEQUENCES = ["MKTAYIAKQR", "GIVEQCCTSI", "FVNQHLCGSH", "ACDEFGHIKL", "MNPQRSTVWY", "GSHMWGSHMW"]
SEQUENCES += [sequence[::-1] for sequence in SEQUENCES]
y = np.random.default_rng(0).normal(size=12)
OTHERS = ["MKTW", "GGSGGS"]
pytestmark = pytest.mark.filterwarnings("ignore:The chosen alpha")


class Scores(TransformerMixin, BaseEstimator):
    """Two columns a sequence, named as those of scores of models are."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.array([[len(set(x)), x.count("G") - x.count("M")] for x in X], dtype=float)

    def get_feature_names_out(self, input_features=None):
        return np.array(["tiny_08__masked", "tiny_12__masked"], dtype=object)

    def __sklearn_is_fitted__(self):
        return True


def lengths(X):
    return np.array([[len(x)] for x in X], dtype=float)


def model_of(emb, rd, head, *, scores=None, behind=(), freeze=FrozenEstimator, **how):
    embedding = make_pipeline(clone(emb), freeze(deepcopy(rd)))
    branches = [("scores", scores or Scores()), ("emb", embedding), *behind]
    return Pipeline([("union", FeatureUnion(branches, **how)), ("head", head)])


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize(
    ("d", "needed"), [(2, set()), (3, {8}), (10, {8}), (11, {8, 12}), (18, {8, 12, 16})]
)
def test_the_distiller_of_a_union_is_cut(emb, rd, ran, d, needed, frame):
    head = PrefixRidgeCV([d], alphas=1.0, cv=2, n_unpenalized=2)
    model = model_of(emb, rd, head, transformer_weights={"emb": 2.0})
    model.set_output(transform="pandas" if frame else "default").fit(SEQUENCES, y)
    expected = model.predict(OTHERS, return_std=True)
    before = pickle.dumps(model)
    ran.clear()
    small = compact(model)
    for ours, theirs in zip(small.predict(OTHERS, return_std=True), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert ran == needed and pickle.dumps(model) == before
    assert small[-1].n_features_in_ == d
    names = list(model[:-1].get_feature_names_out())
    assert list(small[:-1].get_feature_names_out()) == names[:d]
    for again in (compact(small), pickle.loads(pickle.dumps(small))) if d > 2 else ():
        np.testing.assert_allclose(again.predict(OTHERS), expected[0], atol=1e-5)
    again = clone(small).fit(SEQUENCES, y).predict(OTHERS)
    np.testing.assert_allclose(again, expected[0], atol=1e-5)


def test_stages_are_read_from_the_names_of_a_union(emb, rd):
    head = PrefixRidgeCV(alphas=1.0, cv=2, n_unpenalized=2)
    model = model_of(emb, rd, head).set_output(transform="pandas").fit(SEQUENCES, y)
    assert model[-1].prefixes_.tolist() == [2, 10, 14, 18]
    names = model[-1].feature_names_in_
    assert names[:3].tolist() == ["scores__tiny_08__masked", "scores__tiny_12__masked", names[2]]
    assert names[2].startswith("emb__rd_") and names[2].endswith("tiny_08__0")


def test_a_picture_names_the_stages_of_a_union(emb, rd):
    pytest.importorskip("matplotlib").use("Agg")
    from revdist_sklearn import PrefixCurveDisplay

    head = PrefixRidgeCV(alphas=1.0, cv=2, n_unpenalized=2)
    model = model_of(emb, rd, head).set_output(transform="pandas").fit(SEQUENCES, y)
    display = PrefixCurveDisplay.from_estimator(model)
    assert list(display.stage_dims) == [2, 10, 14, 18]
    assert display.stage_names == ["tiny_12", "tiny_08", "tiny_12", "tiny_16"]


@pytest.mark.parametrize("freeze", [FrozenEstimator, lambda rd: rd])
def test_columns_that_have_no_names_are_counted_by_the_head(emb, rd, ran, freeze):
    head = PrefixRidgeCV([5], alphas=1.0, cv=2, n_unpenalized=1)
    model = model_of(emb, rd, head, scores=FunctionTransformer(lengths), freeze=freeze)
    if freeze is not FrozenEstimator:
        model.named_steps["union"].transformer_list[1][1].steps[-1][1].set_params(
            block_sizes=(8, 12, 16)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few rows for a fit
        model.fit(SEQUENCES, y)
    expected = model.predict(OTHERS)
    ran.clear()
    np.testing.assert_allclose(compact(model).predict(OTHERS), expected, atol=1e-5)
    assert ran == {8}


@pytest.mark.parametrize("d", [4, 19, 20])
def test_columns_behind_the_distiller_are_dropped_or_whole(emb, rd, ran, d):
    """A prefix that ends in columns which cannot be cut takes all of them."""
    head = PrefixRidgeCV([d], alphas=1.0, cv=2)
    model = model_of(emb, rd, head, behind=[("more", Scores())]).fit(SEQUENCES, y)
    expected = model.predict(OTHERS)
    ran.clear()
    small = compact(model)
    np.testing.assert_allclose(small.predict(OTHERS), expected, atol=1e-5)
    assert small[-1].n_features_in_ == (4 if d == 4 else 20)
    assert ran == ({8} if d == 4 else {8, 12, 16})
    assert (small["union"].transformer_list[2][1] == "drop") == (d == 4)


def test_selectors_searches_and_classes(emb, rd, ran):
    heads = [
        make_pipeline(PrefixSelector(6), Ridge()),
        GridSearchCV(
            make_pipeline(PrefixSelector(), Ridge()), {"prefixselector__n_components": [6]}, cv=2
        ),
        PrefixRidgeClassifierCV([6], alphas=1.0, cv=2, n_unpenalized=2),
    ]
    for head in heads:
        targets = y > 0 if isinstance(head, PrefixRidgeClassifierCV) else y
        model = model_of(emb, rd, head).fit(SEQUENCES, targets)
        expected = model.predict(OTHERS)
        for whole in (model, FrozenEstimator(model)):
            ran.clear()
            np.testing.assert_allclose(compact(whole).predict(OTHERS), expected, atol=1e-5)
            assert ran == {8}
    search = GridSearchCV(
        model_of(emb, rd, PrefixRidgeCV([6], alphas=1.0, cv=2)),
        {"head__n_unpenalized": [0, 2]},
        cv=2,
    ).fit(SEQUENCES, y)
    expected = search.predict(OTHERS)
    ran.clear()
    np.testing.assert_allclose(compact(search).predict(OTHERS), expected, atol=1e-5)
    assert ran == {8}


def test_unions_that_cannot_be_told(emb, rd):
    embedding = make_pipeline(clone(emb), FrozenEstimator(rd))
    unnamed = [("a", FunctionTransformer(lengths)), ("b", FunctionTransformer(lengths))]
    model = Pipeline([("u", FeatureUnion([*unnamed, ("emb", embedding)])), ("head", Ridge())])
    with pytest.raises(ValueError, match="how many columns 'a', 'b' of the FeatureUnion"):
        compact(model.fit(SEQUENCES, y))
    twice = FeatureUnion([("a", embedding), ("b", embedding)])
    none = FeatureUnion([("a", Scores())])
    for union in (twice, none):
        with pytest.raises(ValueError, match="Supported is make_pipeline"):
            compact(make_pipeline(union, Ridge()).fit(SEQUENCES, y))
