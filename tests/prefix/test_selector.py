import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.utils.estimator_checks import parametrize_with_checks

from revdist_sklearn import PrefixSelector


@parametrize_with_checks([PrefixSelector(), PrefixSelector(1)])
def test_common_checks(estimator, check):
    check(estimator)


def test_keeps_the_first_columns():
    X = np.arange(12.0).reshape(3, 4)
    selector = PrefixSelector(2).fit(X)
    assert_array_equal(selector.transform(X), X[:, :2])
    assert selector.n_components_ == 2
    assert_array_equal(selector.inverse_transform(X[:, :2])[:, 2:], 0)


def test_none_keeps_all():
    X = np.arange(12.0).reshape(3, 4)
    assert_array_equal(PrefixSelector().fit_transform(X), X)


def test_names_and_set_output():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(np.arange(8.0).reshape(2, 4), columns=["a__0", "a__1", "b__0", "b__1"])
    out = PrefixSelector(3).set_output(transform="pandas").fit_transform(X)
    assert list(out.columns) == ["a__0", "a__1", "b__0"]


def test_too_many_components():
    with pytest.raises(ValueError, match=r"n_components=5 is larger than the 4 columns"):
        PrefixSelector(5).fit(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="n_components"):
        PrefixSelector(0).fit(np.zeros((2, 4)))
