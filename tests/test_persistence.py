"""What is fitted goes through joblib, pickle and skops, and predicts the same."""

import io
import pickle
from copy import deepcopy
from importlib import import_module

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

from revdist_sklearn import (
    ESMFeaturizer,
    Moments,
    PrefixRidgeClassifierCV,
    PrefixRidgeCV,
    PrefixSelector,
    ReverseDistiller,
    compact,
    interop,
)
from revdist_sklearn.interop import TRUSTED_TYPES

PROTEINS = ["MKTAYIAKQR", "GSHMWWY", "MKTAYIAKQRQISFVK", "ACDEFGHIKLMNP", "MM", "WWGG"]


def through_joblib(model):
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_skops(model):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(model)
    untrusted = skops.get_untrusted_types(data=data)
    # Classes of this package and no others; each is told in TRUSTED_TYPES.
    assert set(untrusted) <= set(TRUSTED_TYPES)
    return skops.loads(data, trusted=TRUSTED_TYPES)


WAYS = [through_joblib, through_pickle, through_skops]


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 12)) @ rng.normal(size=(12, 12)) + 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fit", ["rows", "frame", "moments", "partial", "file", "truncated"])
def test_distillers(X, way, fit, tmp_path):
    if fit == "rows":
        distiller = ReverseDistiller((4, 8), rotate_base=True).fit(X)
    elif fit == "frame":
        pd = pytest.importorskip("pandas")
        names = [f"{b}__{j}" for b, k in (("a", 4), ("b", 8)) for j in range(k)]
        distiller = ReverseDistiller().fit(X := pd.DataFrame(X, columns=names))
    elif fit == "moments":
        distiller = ReverseDistiller().fit_moments(Moments((4, 8)).update(X))
    elif fit == "partial":
        distiller = ReverseDistiller((4, 8)).partial_fit(X[:30])
    elif fit == "file":
        ReverseDistiller((4, 8)).fit(X).save_pretrained(tmp_path, dtype="float16")
        distiller = ReverseDistiller.from_pretrained(tmp_path)
    else:
        distiller = ReverseDistiller((4, 8)).fit(X).truncate(6)
    again = way(distiller)
    Z = distiller.transform(X)
    assert_array_equal(again.transform(X), Z)
    assert_array_equal(again.inverse_transform(Z), distiller.inverse_transform(Z))
    assert again.stages_ == distiller.stages_ and again.blocks_ == distiller.blocks_
    assert again.rounding_ == distiller.rounding_
    assert again.get_params() == distiller.get_params()
    assert_array_equal(again.get_feature_names_out(), distiller.get_feature_names_out())
    again.save_pretrained(tmp_path / "again")
    if fit == "partial":
        for one in (again, distiller):
            one.partial_fit(X[30:])
        assert_array_equal(again.transform(X), distiller.transform(X))


@pytest.mark.filterwarnings("ignore:The chosen alpha")
@pytest.mark.parametrize("way", WAYS)
def test_searches_and_selectors(X, way):
    y = X @ np.arange(12.0)
    for model in (
        PrefixRidgeCV([2, 5, 12], cv=3).fit(X, y),
        PrefixRidgeClassifierCV([2, 5, 12], cv=3).fit(X, y > np.median(y)),
        make_pipeline(PrefixSelector(5), Ridge()).fit(X, y),
    ):
        again = way(model)
        assert_array_equal(again.predict(X), model.predict(X))
    search = PrefixRidgeCV("all", cv=3).fit(X, y)
    assert_array_equal(way(search).cv_scores_, search.cv_scores_)


@pytest.mark.parametrize("way", WAYS)
def test_a_pipeline_from_sequences(way):
    distiller = FrozenEstimator(ReverseDistiller.from_pretrained("esm2-nano"))
    model = make_pipeline(ESMFeaturizer("esm2-nano"), distiller, PrefixSelector(64), Ridge())
    model.fit(PROTEINS, np.arange(6.0))
    again = way(model)
    assert_array_equal(again.predict(PROTEINS), model.predict(PROTEINS))


def as_of_before(model, *names):
    """Return a model as an unpickled one of a version that did not have these attributes."""
    old = deepcopy(model)
    for step in old:
        for name in names:
            vars(step).pop(name, None)
    return through_pickle(old)


ADDED = "causal", "n_unpenalized", "_path_coef", "_path_intercept", "_leverage", "noise_variance_"


@pytest.mark.filterwarnings("ignore:The chosen alpha")
def test_models_of_versions_that_knew_fewer_parameters():
    distiller = ReverseDistiller.from_pretrained("esm2-nano")
    y = np.arange(6.0)
    model = make_pipeline(ESMFeaturizer("esm2-nano"), distiller, PrefixRidgeCV([8, 64], cv=3))
    model[-1].fit(model[:-1].transform(PROTEINS), y)
    classifier = PrefixRidgeClassifierCV([8, 64], cv=3)
    classifier.fit(model[:-1].transform(PROTEINS), y > 2)
    predictions = model.predict(PROTEINS)
    old = as_of_before(model, *ADDED)
    assert old[0].causal is False and old[-1].n_unpenalized == 0
    assert_array_equal(old.predict(PROTEINS), predictions)
    assert repr(old) == repr(model) and repr(clone(old)) == repr(clone(model))
    small = compact(old)
    assert_allclose(small.predict(PROTEINS), predictions, rtol=1e-5)
    assert old[0].with_n_models(1).models == "esm2-nano:32"
    narrow = old[-1].with_n_features(64)
    X = model[:-1].transform(PROTEINS)
    assert_array_equal(narrow.predict(X[:, :64]), predictions)
    for head in (old[-1], narrow):
        with pytest.raises(NotFittedError, match=r"older version.*return_std=True needs. Fit it"):
            head.predict(X[:, : head.n_features_in_], return_std=True)
        with pytest.raises(NotFittedError, match=r"older version.*predict_all_prefixes needs"):
            head.predict_all_prefixes(X[:, : head.n_features_in_])
    [again] = as_of_before(make_pipeline(classifier), *ADDED)
    assert again.get_params() == classifier.get_params()
    assert_array_equal(again.predict(X), classifier.predict(X))


@pytest.mark.filterwarnings("ignore:The chosen alpha")
@pytest.mark.parametrize("prefixes", [[4], [2, 4]])
@pytest.mark.parametrize("n_unpenalized", [0, 2, 4])
def test_a_search_that_was_pickled_has_the_same_hash(X, prefixes, n_unpenalized):
    y = X @ np.arange(12.0)
    prefixes = [max(d, n_unpenalized) for d in prefixes]
    settings = {"prefixes": prefixes, "cv": 3, "n_unpenalized": n_unpenalized}
    for model in (
        PrefixRidgeCV(**settings).fit(X, y),
        PrefixRidgeCV(**settings).fit(X, y[:, None]),
        PrefixRidgeClassifierCV(**settings).fit(X, y > np.median(y)),
    ):
        assert joblib.hash(through_pickle(model)) == joblib.hash(model)


def test_what_skops_does_not_trust_by_itself_is_refused(X):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(ReverseDistiller((4, 8)).fit(X))
    with pytest.raises(Exception, match=r"ReverseDistiller") as caught:
        skops.loads(data)
    assert type(caught.value).__name__ == "UntrustedTypesFoundException"


def test_the_splitter_of_a_search_is_trusted_by_its_own_name(X):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(PrefixRidgeCV([4], cv=GroupKFold(5)))
    [name] = set(skops.get_untrusted_types(data=data)) - set(TRUSTED_TYPES)
    assert name in interop.__doc__
    assert skops.loads(data, trusted=[*TRUSTED_TYPES, name]).cv.n_splits == 5


def test_trusted_types_are_classes_that_exist():
    for name in TRUSTED_TYPES:
        module, _, owner = name.rpartition(".")
        assert isinstance(getattr(import_module(module), owner), type), name
