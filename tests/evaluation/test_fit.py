"""Ridge of rows on a split: the penalty is chosen inside, as GridSearchCV does."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsClassifier

from revdist_sklearn.evaluation import _fit
from revdist_sklearn.evaluation._fit import fit_rows
from revdist_sklearn.evaluation._metrics import METRICS, spearman
from revdist_sklearn.evaluation._rows import LeadingComponents, Rows
from revdist_sklearn.evaluation._run import scorer_of
from revdist_sklearn.evaluation._splits import Split
from revdist_sklearn.prefix._ridge_path import ridge_path
from revdist_sklearn.prefix._search import ALPHAS

SPEARMAN = scorer_of(METRICS["regression"][0], None)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 10)) * np.geomspace(3, 0.3, 10)
    return X, X[:, :4] @ rng.normal(size=4) + rng.normal(size=80)


def split_of(n, kind="x", seed=0):
    train, test = next(KFold(4, shuffle=True, random_state=seed).split(np.arange(n)))
    inner = [
        Split(kind, str(i), 0, train[a], train[b])
        for i, (a, b) in enumerate(KFold(5).split(train))
    ]
    return Split(kind, "0", 0, train, test), inner


def rows_of(X, widths=None, **how):
    widths = (X.shape[1],) if widths is None else widths
    return Rows("x", tuple(map(str, widths)), widths, ((0,),) * len(widths), X, **how)


def test_each_prefix_has_its_own_penalty_by_inner_folds(data):
    X, y = data
    split, inner = split_of(80)
    widths = (2, 5, 10)
    values, alphas = fit_rows(rows_of(X, widths), y, None, split, inner, SPEARMAN)
    scorer = make_scorer(lambda y, p: float(spearman(y, p[:, None])[0]))
    cv = KFold(5)
    for i, width in enumerate(widths):
        grid = GridSearchCV(Ridge(), {"alpha": ALPHAS}, scoring=scorer, cv=cv)
        grid.fit(X[split.train, :width], y[split.train])
        assert alphas[i] == grid.best_params_["alpha"]
        assert_allclose(values[:, i, 0], grid.predict(X[split.test, :width]), atol=1e-9)


def test_the_test_part_tells_nothing(data):
    X, y = data
    split, inner = split_of(80)
    values, alphas = fit_rows(rows_of(X), y, None, split, inner, SPEARMAN)
    other = y.copy()
    other[split.test] = 1e3
    again, same = fit_rows(rows_of(X), other, None, split, inner, SPEARMAN)
    assert_allclose(again, values)
    assert same == alphas


def test_classes_have_the_decisions_of_ridge(data):
    X, y = data
    split, inner = split_of(80)
    for names in (np.array(["b", "a"]), np.array(["u", "v", "w"])):
        target = names[np.digitize(y, np.quantile(y, np.arange(1, len(names)) / len(names)))]
        classes = np.unique(target)
        metric = scorer_of(METRICS["classification"][0], classes)
        values, [alpha] = fit_rows(rows_of(X), target, classes, split, inner, metric)
        model = RidgeClassifier(alpha).fit(X[split.train], target[split.train])
        expected = model.decision_function(X[split.test]).reshape(len(split.test), -1)
        assert_allclose(values[:, 0], expected, atol=1e-9)


def test_what_is_fitted_in_the_fold_sees_training_rows_alone(data):
    X, y = data
    split, inner = split_of(80)
    rows = rows_of(X, (2, 4), in_fold=LeadingComponents(4))
    values, _ = fit_rows(rows, y, None, split, inner, SPEARMAN)
    moved = X.copy()
    moved[split.test[1:]] += 100
    again, _ = fit_rows(
        rows_of(moved, (2, 4), in_fold=LeadingComponents(4)), y, None, split, inner, SPEARMAN
    )
    assert_allclose(again[0], values[0])


def test_of_choices_that_of_the_inner_folds_is_taken(data):
    X, y = data
    split, inner = split_of(80)
    noise = np.random.default_rng(1).normal(size=X.shape)
    rows = rows_of(noise, choices=(noise, X))
    values, _ = fit_rows(rows, y, None, split, inner, SPEARMAN)
    expected, _ = fit_rows(rows_of(X), y, None, split, inner, SPEARMAN)
    assert_allclose(values, expected)


def test_scores_are_predictions_as_they_are(data):
    X, y = data
    split, inner = split_of(80)
    values, alphas = fit_rows(rows_of(X[:, :1], is_score=True), y, None, split, inner, SPEARMAN)
    assert_allclose(values[:, 0, 0], X[split.test, 0])
    assert alphas is None


def test_unpenalised_columns_are_in_every_prefix(data):
    X, y = data
    split, inner = split_of(80)
    both = np.hstack([1e-6 * y[:, None], X])  # too small to matter but for least squares
    rows = rows_of(both, (1, 5), n_unpenalized=1)
    values, _ = fit_rows(rows, y, None, split, inner, SPEARMAN)
    assert_allclose(values[:, :, 0], np.repeat(y[split.test][:, None], 2, axis=1), atol=1e-6)


@pytest.mark.parametrize("head", [KNeighborsClassifier(3), LogisticRegression()])
def test_another_head_has_decisions_in_the_order_of_all_classes(data, head):
    X, y = data
    split, inner = split_of(80)
    target = np.array(["u", "v", "w"])[np.digitize(y, [-1, 1])]
    classes = np.array(["a", "u", "v", "w"])  # of which one is in no training part
    metric = scorer_of(METRICS["classification"][0], classes)
    values, _ = fit_rows(rows_of(X, (4, 10)), target, classes, split, inner, metric, head)
    for i, width in enumerate((4, 10)):
        model = head.fit(X[split.train, :width], target[split.train])
        expected = model.predict(X[split.test, :width])
        assert (classes[values[:, i].argmax(axis=1)] == expected).mean() > 0.9
        assert "a" not in classes[values[:, i].argmax(axis=1)]


def test_another_head_of_two_classes_has_one_column(data):
    X, y = data
    split, inner = split_of(80)
    target = np.where(y > 0, "yes", "no")
    classes = np.unique(target)
    metric = scorer_of(METRICS["classification"][0], classes)
    for head in (KNeighborsClassifier(3), LogisticRegression()):
        values, _ = fit_rows(rows_of(X), target, classes, split, inner, metric, head)
        assert values.shape == (len(split.test), 1, 1)
        assert metric(target[split.test], values)[0] > 0.7


@pytest.mark.parametrize("value", [0.3, 1.0])
def test_training_rows_of_one_value_predict_that_value(data, value):
    X, y = data
    split, inner = split_of(80)
    target = np.where(np.isin(np.arange(80), split.train), value, y)
    values, _ = fit_rows(rows_of(X), target, None, split, inner, SPEARMAN)
    assert_allclose(values, value)
    assert np.ptp(values) == 0


def test_predictions_that_differ_by_rounding_alone_are_equal(data, monkeypatch):
    _, y = data
    split, inner = split_of(80)
    rng = np.random.default_rng(0)

    def with_noise(*args):
        for part in ridge_path(*args):
            yield replace(part, values=part.values + 1e-14 * rng.normal(size=part.values.shape))

    monkeypatch.setattr(_fit, "ridge_path", with_noise)
    # Nothing varies, so that the mean of the training rows is all that can be predicted.
    values, _ = fit_rows(rows_of(np.zeros((80, 3))), y, None, split, inner, SPEARMAN)
    assert np.ptp(values) == 0 and SPEARMAN(y[split.test], values).tolist() == [0]
    assert_allclose(values, y[split.train].mean(), atol=1e-8)
