import pickle

import numpy as np
import pytest
from conftest import assert_alike, assert_same_search, prefix_grid_search
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneOut,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.utils.estimator_checks import parametrize_with_checks

from revdist_sklearn import PrefixRidgeClassifierCV
from revdist_sklearn.prefix import _ridge_classifier_cv

pytestmark = pytest.mark.filterwarnings("ignore:The chosen alpha")
ALPHAS = np.logspace(-2, 3, 4)


@parametrize_with_checks([PrefixRidgeClassifierCV()])
def test_common_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [
        PrefixRidgeClassifierCV("all", cv="loo"),
        PrefixRidgeClassifierCV(scale=True, one_standard_error=True, scoring="balanced_accuracy"),
        PrefixRidgeClassifierCV(n_unpenalized=1),
    ]
)
def test_common_checks_of_other_parameters(estimator, check):
    check(estimator)


def data(n, k, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) * np.geomspace(2, 0.5, k) + rng.normal(size=k)
    latent = X[:, :3].sum(axis=1) + rng.normal(size=n)
    edges = np.quantile(latent, np.linspace(0, 1, n_classes + 1)[1:-1] * 0.8)
    y = np.array(["low", "middle", "high"])[-n_classes:][np.searchsorted(edges, latent)]
    return X, y, rng.integers(1, 4, size=n) * 0.5


def grid_search(X, y, prefixes, alphas=ALPHAS, *, fit_intercept=True, class_weight=None, **how):
    head = RidgeClassifier(fit_intercept=fit_intercept, class_weight=class_weight)
    return prefix_grid_search(head, X, y, prefixes, alphas, **how)


SHAPES = [(100, 12), (50, 40), (20, 60)]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"fit_intercept": False},
        {"class_weight": "balanced"},
        {"class_weight": {"high": 3.0}, "scale": True},
        {"scoring": "balanced_accuracy"},
        {"scoring": "f1_macro"},
    ],
)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_scores_and_choice_are_those_of_grid_search(n, k, parameters, n_classes):
    X, y, w = data(n, k, n_classes)
    w = w if "class_weight" in parameters else None
    cv = StratifiedKFold(4, shuffle=True, random_state=0)
    prefixes = [1, 3, k // 2, k]
    ours = PrefixRidgeClassifierCV(prefixes, alphas=ALPHAS, cv=cv, **parameters)
    ours.fit(X, y, sample_weight=w)
    theirs, scores = grid_search(X, y, prefixes, w=w, cv=cv, **parameters)
    assert_same_search(ours, theirs, scores)
    assert ours.classes_.tolist() == sorted(set(y))

    assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-8)
    assert_array_equal(ours.predict(X), theirs.predict(X))
    d = ours.n_components_
    assert ours.coef_.shape == (1 if n_classes == 2 else n_classes, d)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_roc_auc(n, k):
    X, y, _ = data(n, k, 2)
    for scoring in ("roc_auc", "average_precision"):
        labels = y if scoring == "roc_auc" else (y == "middle").astype(int)
        ours = PrefixRidgeClassifierCV([2, k], alphas=ALPHAS, cv=4, scoring=scoring)
        ours.fit(X, labels)
        theirs, scores = grid_search(X, labels, [2, k], cv=4, scoring=scoring)
        assert_same_search(ours, theirs, scores)
    assert ours.set_params(scoring="roc_auc").fit(X, y).score(X, y) == pytest.approx(
        roc_auc_score(y, ours.decision_function(X))
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_scorers_get_decision_values_of_the_usual_shape(n_classes):
    X, y, _ = data(40, 6, n_classes)
    shapes = []

    def scorer(model, X, y):
        shapes.append(model.decision_function(X).shape)
        return model.score(X, y)

    search = PrefixRidgeClassifierCV([2, 6], alphas=1.0, cv=4, scoring=scorer).fit(X, y)
    search.score(X, y)
    columns = () if n_classes == 2 else (3,)
    assert shapes == [(10, *columns)] * 8 + [(40, *columns)]
    assert search.decision_function(X).shape == (40, *columns)


def test_roc_auc_of_several_classes_needs_probabilities_as_in_scikit_learn():
    X, y, _ = data(30, 5, 3)
    for scoring in ("roc_auc", "neg_log_loss"):
        search = PrefixRidgeClassifierCV(alphas=ALPHAS, scoring=scoring)
        with (
            pytest.warns(UserWarning, match="Scoring failed"),
            pytest.raises(
                ValueError, match=r"failed for all .*(multi_class|predict_proba|binary)"
            ),
        ):
            search.fit(X, y)


@pytest.mark.filterwarnings("ignore:.*candidates have a score of NaN")
@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_a_scorer_that_fails_for_some_candidates_gives_nan():
    X, y, _ = data(40, 6, 2)

    def scorer(model, X, y):
        right = np.mean(model.predict(X) == np.asarray(y))
        if right == 1.0:
            raise RuntimeError("too good to be true")
        return right

    with pytest.warns(UserWarning, match="Scoring failed.*set to nan"):
        search = PrefixRidgeClassifierCV("all", alphas=ALPHAS, cv=8, scoring=scorer).fit(X, y)
    with pytest.warns(UserWarning, match="Scoring failed.*set to nan"):
        theirs, scores = grid_search(X, y, range(1, 7), cv=8, scoring=scorer)
    assert 0 < np.isnan(scores).any(axis=2).sum() < 24
    assert_array_equal(search.cv_scores_, scores)
    assert search.n_components_ == theirs.best_params_["prefix__n_components"]


def test_metrics_are_no_scorers():
    X, y, _ = data(20, 5, 2)
    with pytest.raises(ValueError, match="looks like it is a metric function"):
        PrefixRidgeClassifierCV(scoring=accuracy_score).fit(X, y)
    with pytest.raises(ValueError, match="must be a str"):
        PrefixRidgeClassifierCV(scoring=["accuracy"]).fit(X, y)


@pytest.mark.filterwarnings("ignore:A column-vector y")
@pytest.mark.parametrize("kind", ["list", "integers", "booleans", "column", "series"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_splitters_and_scorers_get_what_was_given(kind, n_classes):
    X, y, _ = data(30, 4, n_classes)
    if kind == "list":
        y = y.tolist()
    elif kind == "integers":
        y = np.unique(y, return_inverse=True)[1].astype(np.int8)
    elif kind == "booleans":
        y = y == "high"
    elif kind == "column":
        y = y[:, None]
    else:
        y = pytest.importorskip("pandas").Series(y, index=np.arange(30) + 100, dtype="category")
    logs = []
    for fit in (
        lambda **how: PrefixRidgeClassifierCV([4], alphas=[1.0], **how).fit(X, y),
        lambda **how: grid_search(X, y, [4], [1.0], **how),
    ):
        seen = []

        class Recording(StratifiedKFold):
            def split(self, X, y=None, groups=None, seen=seen):
                seen.append(y)
                return super().split(X, y, groups)

        def scorer(model, X, y, seen=seen):
            seen.extend([y, model.predict(X)])
            return 1.0

        fit(cv=Recording(3), scoring=scorer)
        logs.append(seen)
    assert len(logs[0]) == len(logs[1]) == 7
    for ours, theirs in zip(*logs, strict=True):
        assert_alike(ours, theirs)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("n", "k"), [(14, 8), (12, 16)])
def test_leave_one_out(n, k, n_classes):
    X, y, w = data(n, k, n_classes)
    weights = {"class_weight": {"high": 2.0}}
    ours = PrefixRidgeClassifierCV("all", alphas=ALPHAS, cv="loo", **weights)
    ours.fit(X, y, sample_weight=w)
    _, scores = grid_search(X, y, range(1, k + 1), w=w, cv=LeaveOneOut(), **weights)
    assert_array_equal(ours.cv_scores_, scores)
    assert set(np.unique(scores)) == {0, 1}


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_leave_one_out_of_the_only_row_of_a_class(fit_intercept):
    for seed in range(5):
        X, *_ = data(9, 3, 2, seed=seed)
        y = np.array([1, 0, 0, 1, 1, 0, 2, 1, 0])
        ours = PrefixRidgeClassifierCV(
            "all", alphas=ALPHAS, cv="loo", fit_intercept=fit_intercept
        ).fit(X, y)
        how = {"cv": LeaveOneOut(), "fit_intercept": fit_intercept}
        _, scores = grid_search(X, y, [1, 2, 3], **how)
        assert_array_equal(ours.cv_scores_[..., 6], scores[..., 6])
        assert not ours.cv_scores_[..., 6].any()


def test_leave_one_out_has_its_limits():
    X, y, _ = data(20, 5, 2)
    with pytest.raises(ValueError, match="class_weight='balanced' has no closed form"):
        PrefixRidgeClassifierCV(cv="loo", class_weight="balanced").fit(X, y)
    with pytest.raises(ValueError, match="use None or 'accuracy'"):
        PrefixRidgeClassifierCV(cv="loo", scoring="roc_auc").fit(X, y)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_fold_without_a_class(n_classes):
    X, y, _ = data(30, 6, n_classes)
    order = np.argsort(y)
    X, y = X[order], y[order]
    cv = KFold(4)  # whole classes are missing from training rows
    ours = PrefixRidgeClassifierCV("all", alphas=ALPHAS, cv=cv).fit(X, y)
    _, scores = grid_search(X, y, range(1, 7), cv=cv)
    assert_array_equal(ours.cv_scores_, scores)


def test_known_scores_need_no_calls(monkeypatch):
    monkeypatch.setattr(_ridge_classifier_cv, "GivenDecisions", None)
    X, y, _ = data(30, 6, 2)
    for scoring in (None, "accuracy", "balanced_accuracy", "roc_auc"):
        PrefixRidgeClassifierCV("all", alphas=1.0, scoring=scoring).fit(X, y)


def test_targets_that_cannot_be():
    X, y, _ = data(20, 5, 2)
    with pytest.raises(ValueError, match="y has one class, 'a', among the rows of positive"):
        PrefixRidgeClassifierCV().fit(X, ["a"] * 20)
    with pytest.raises(ValueError, match="y has one class, 'high', among"):
        PrefixRidgeClassifierCV().fit(X, y, sample_weight=(y == "high").astype(float))
    with pytest.raises(ValueError, match="weight"):
        PrefixRidgeClassifierCV().fit(X, y, sample_weight=np.zeros(20))
    with pytest.raises(ValueError, match="Unknown label type"):
        PrefixRidgeClassifierCV().fit(X, np.linspace(0, 1, 20))
    with pytest.raises(ValueError, match="class_weight"):
        PrefixRidgeClassifierCV(class_weight="even").fit(X, y)
    with pytest.raises(ValueError, match="Split 0 has 0 training rows of positive weight"):
        PrefixRidgeClassifierCV(class_weight={"middle": 0, "high": 0}).fit(X, y)
    with pytest.raises(ValueError, match="Split 0: a weight is negative or not finite"):
        PrefixRidgeClassifierCV(class_weight={"high": -1.0}).fit(X, y)


def test_truncate_and_nested():
    X, y, _ = data(60, 12, 3)
    search = PrefixRidgeClassifierCV([2, 6], alphas=ALPHAS).fit(X, y)
    before = pickle.dumps(search)
    narrow = search.with_n_features(search.n_components_)
    part = X[:, : search.n_components_]
    assert_array_equal(narrow.decision_function(part), search.decision_function(X))
    assert_array_equal(narrow.predict(part), search.predict(X))
    assert pickle.dumps(search) == before
    assert search.score(X, y) == accuracy_score(y, search.predict(X))
    groups = np.arange(60) // 5
    scores = cross_val_score(
        PrefixRidgeClassifierCV("all", alphas=ALPHAS, cv=GroupKFold(3)),
        X,
        y,
        cv=GroupKFold(3),
        groups=groups,
        params={"groups": groups},
    )
    assert (scores > 0.4).all()


def test_groups_find_the_splitter_by_routing():
    X, y, _ = data(60, 6, 2)
    groups = np.arange(60) // 5
    with config_context(enable_metadata_routing=True):
        model = PrefixRidgeClassifierCV("all", alphas=ALPHAS, cv=GroupKFold(3))
        scores = cross_val_score(model, X, y, cv=GroupKFold(4), params={"groups": groups})
    expected = cross_val_score(
        model, X, y, cv=GroupKFold(4), groups=groups, params={"groups": groups}
    )
    assert_array_equal(scores, expected)


def test_leave_one_out_of_scikit_learn_is_loo_where_it_has_a_closed_form():
    X, y, _ = data(14, 5, 2)
    by_name = PrefixRidgeClassifierCV("all", alphas=ALPHAS, cv="loo").fit(X, y)
    by_class = PrefixRidgeClassifierCV("all", alphas=ALPHAS, cv=LeaveOneOut()).fit(X, y)
    assert_array_equal(by_class.cv_scores_, by_name.cv_scores_)
    balanced = {"class_weight": "balanced"}
    folds = PrefixRidgeClassifierCV("all", alphas=ALPHAS, cv=LeaveOneOut(), **balanced).fit(X, y)
    _, scores = grid_search(X, y, range(1, 6), cv=LeaveOneOut(), **balanced)
    assert_array_equal(folds.cv_scores_, scores)
