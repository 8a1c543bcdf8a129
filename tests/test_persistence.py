"""What is fitted goes through joblib, pickle and skops, and predicts the same."""

import io
import pickle
from importlib import import_module

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from revdist_sklearn import (
    ESMFeaturizer,
    Moments,
    PrefixRidgeClassifierCV,
    PrefixRidgeCV,
    PrefixSelector,
    ReverseDistiller,
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


def test_what_skops_does_not_trust_by_itself_is_refused(X):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(ReverseDistiller((4, 8)).fit(X))
    with pytest.raises(Exception, match=r"ReverseDistiller") as caught:
        skops.loads(data)
    assert type(caught.value).__name__ == "UntrustedTypesFoundException"


def test_trusted_types_are_classes_that_exist():
    for name in TRUSTED_TYPES:
        module, _, owner = name.rpartition(".")
        assert isinstance(getattr(import_module(module), owner), type), name
