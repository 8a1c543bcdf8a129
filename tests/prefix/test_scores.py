import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    get_scorer,
    make_scorer,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

from revdist_sklearn.prefix._scores import (
    GivenDecisions,
    GivenValues,
    accuracy,
    balanced_accuracy,
    decide,
    neg_mean_squared_error,
    r2,
    roc_auc,
)

rng = np.random.default_rng(0)


@pytest.mark.parametrize("n_targets", [1, 3])
def test_regression_scores_are_those_of_scikit_learn(n_targets):
    y, predictions = rng.normal(size=(9, n_targets)), rng.normal(size=(9, 5, n_targets))
    expected = [r2_score(y, predictions[:, i]) for i in range(5)]
    assert_allclose(r2(y, predictions), expected, atol=1e-14)
    expected = [-mean_squared_error(y, predictions[:, i]) for i in range(5)]
    assert_allclose(neg_mean_squared_error(y, predictions), expected, atol=1e-14)


def test_targets_of_one_dimension():
    y, predictions = rng.normal(size=9), rng.normal(size=(9, 2, 1))
    assert_allclose(r2(y, predictions), r2(y[:, None], predictions))
    assert_allclose(
        neg_mean_squared_error(y, predictions), neg_mean_squared_error(y[:, None], predictions)
    )


def test_r2_of_constant_targets():
    y = np.ones((4, 2))
    y[:, 1] = [0, 1, 2, 3]
    shifted = y + np.array([1, 0])
    expected = [r2_score(y, y), r2_score(y, shifted)]
    assert_array_equal(r2(y, np.stack([y, shifted], axis=1)), expected)


def test_r2_of_one_row_is_undefined():
    assert np.isnan(r2(np.ones((1, 1)), np.zeros((1, 2, 1)))).all()


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(accuracy, accuracy_score), (balanced_accuracy, balanced_accuracy_score)]
)
def test_classification_scores_are_those_of_scikit_learn(n_classes, ours, theirs):
    classes = np.array(list("abcd"))[:n_classes]
    y = rng.choice(classes, size=30)
    decisions = rng.normal(size=(30, 5, 1 if n_classes == 2 else n_classes))
    labels = decide(decisions, classes)
    expected = [theirs(y, labels[:, i]) for i in range(5)]
    assert_allclose(ours(y, decisions, classes), expected, atol=1e-14)


def test_balanced_accuracy_of_classes_that_are_not_in_the_test_rows():
    y, decisions = np.array([0, 0, 1]), np.eye(3)[[0, 2, 1]][:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "y_pred contains classes not in y_true"
        expected = balanced_accuracy_score(y, [0, 2, 1])
    assert balanced_accuracy(y, decisions, np.arange(3)) == [expected] == [0.75]


def test_roc_auc_is_that_of_scikit_learn_with_ties():
    y = rng.choice(["a", "b"], size=40)
    decisions = rng.integers(0, 4, size=(40, 3, 1)).astype(float)
    expected = [roc_auc_score(y, decisions[:, i, 0]) for i in range(3)]
    assert_allclose(roc_auc(y, decisions, np.array(["a", "b"])), expected, atol=1e-14)


def test_roc_auc_of_one_class_is_undefined():
    decisions = np.zeros((3, 2, 1))
    assert np.isnan(roc_auc(np.array([1, 1, 1]), decisions, np.array([0, 1]))).all()
    assert np.isnan(roc_auc(np.array([0, 1, 1]), decisions, np.array([1]))).all()


def test_one_known_class_is_always_predicted():
    decisions = np.array([[[-1.0]], [[1.0]]])
    assert decide(decisions, np.array(["a"])).ravel().tolist() == ["a", "a"]


def test_a_scorer_sees_a_fitted_estimator():
    X, y = rng.normal(size=(6, 2)), np.arange(6.0)
    given = GivenValues(X, y)
    assert get_scorer("r2")(given, X, y) == 1
    labels = np.array(["a", "b"])[[0, 0, 0, 1, 1, 1]]
    given = GivenDecisions(X, y - 2.5, np.array(["a", "b"]))
    for name in ("f1_macro", "roc_auc", "matthews_corrcoef"):
        assert get_scorer(name)(given, X, labels) == 1
    given = GivenDecisions(X, np.eye(3)[[0, 1, 2, 0, 1, 2]], np.arange(3))
    assert make_scorer(accuracy_score)(given, X, [0, 1, 2, 0, 1, 1]) == 5 / 6


def test_a_scorer_that_predicts_other_rows_is_told_so():
    X = rng.normal(size=(6, 2))
    with pytest.raises(ValueError, match="other rows than the test rows"):
        GivenValues(X, X[:, 0]).predict(X[:3])
