import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
)

from revdist_sklearn.evaluation._metrics import METRICS, aupr, auroc, metrics, ndcg, spearman


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_spearman_is_scipys_for_all_candidates(rng):
    y, p = rng.integers(0, 9, 50), rng.normal(size=(50, 4)).round(1)
    p[:, 3] = 2.0
    expected = [spearmanr(y, p[:, j]).statistic for j in range(3)]
    assert_allclose(spearman(y, p), [*expected, 0])
    assert np.isnan(spearman(np.ones(50), p)).all() and np.isnan(spearman(y[:1], p[:1])).all()


def plain_ndcg(y, prediction):
    """What ProteinGym says, written out: top tenth, gains from 0 to 1, discount by rank."""
    gains = (y - y.min()) / (y.max() - y.min())
    k = int(len(y) * 0.1)
    total = sum(gains[i] / np.log2(r + 2) for r, i in enumerate(np.argsort(-prediction)[:k]))
    ideal = sum(gain / np.log2(r + 2) for r, gain in enumerate(np.sort(gains)[::-1][:k]))
    return total / ideal


@pytest.mark.parametrize("n", [10, 19, 70, 237])
def test_ndcg_is_that_of_the_best_tenth(rng, n):
    y, p = rng.normal(size=n), rng.normal(size=(n, 5))
    p[:, 4] = y
    expected = [plain_ndcg(y, column) for column in p.T]
    assert_allclose(ndcg(y, p), expected)
    assert expected[4] == 1 and min(expected) < 0.9


def test_ndcg_of_equal_predictions_is_the_mean_over_orders(rng):
    y = rng.normal(size=40)
    ties = rng.integers(0, 4, 40).astype(float)
    orders = [plain_ndcg(y, ties + 1e-9 * rng.permutation(40)) for _ in range(4000)]
    assert_allclose(ndcg(y, ties[:, None]), [np.mean(orders)], atol=0.01)
    assert np.isnan(ndcg(y[:9], ties[:9, None])).all()
    assert np.isnan(ndcg(np.ones(40), ties[:, None])).all()


def test_areas_of_two_classes_are_sklearns(rng):
    y, p = rng.choice(["a", "b"], 60), rng.normal(size=(60, 3, 1)).round(1)
    classes = np.array(["a", "b"])
    for score, witness in ((auroc, roc_auc_score), (aupr, average_precision_score)):
        expected = [witness(y == "b", p[:, j, 0]) for j in range(3)]
        assert_allclose(score(y, p, classes), expected)
        assert np.isnan(score(np.full(60, "a"), p, classes)).all()


def test_areas_of_more_classes_are_means_of_one_against_the_rest(rng):
    classes = np.array(["a", "b", "c", "d"])  # of "d" there is no row
    y = rng.choice(classes[:3], 60)
    p = rng.dirichlet(np.ones(4), size=(60, 2))
    for score, witness in ((auroc, roc_auc_score), (aupr, average_precision_score)):
        expected = [
            np.mean([witness(y == name, p[:, j, k]) for k, name in enumerate("abc")])
            for j in range(2)
        ]
        assert_allclose(score(y, p, classes), expected)
    three = p[:, 0, :3] / p[:, 0, :3].sum(axis=1, keepdims=True)
    expected = roc_auc_score(y, three, multi_class="ovr", average="macro")
    assert_allclose(auroc(y, three[:, None], classes[:3]), [expected])


def test_metrics_of_tasks(rng):
    assert [m.name for m in metrics("regression")] == ["Spearman", "NDCG@10%"]
    assert [m.name for m in metrics("classification", 3)] == ["AUROC", "balanced accuracy", "AUPR"]
    names = [metrics("residues", k)[0].name for k in (3, 8, 4, 2)]
    assert names == ["Q3", "Q8", "accuracy", "AUPR"]
    assert all(m.greater_is_better for found in METRICS.values() for m in found)
    classes = np.array(["E", "H", "L"])
    y, p = rng.choice(classes, 50), rng.normal(size=(50, 2, 3))
    told = classes[p.argmax(axis=2)]
    by_name = {m.name: m.score(y, p, classes) for m in metrics("residues", 3)}
    assert_allclose(by_name["Q3"], [accuracy_score(y, told[:, j]) for j in range(2)])
    expected = [balanced_accuracy_score(y, told[:, j]) for j in range(2)]
    assert_allclose(by_name["balanced accuracy"], expected)
