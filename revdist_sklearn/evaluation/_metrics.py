"""How good predictions are: metrics of each task, of many predictions of the same rows at once.

Regression takes the measured values of n rows and predictions of shape (n, n_candidates);
classification and residues take class labels, decision values of shape
(n, n_candidates, n_columns) and the classes that the model knows, as ``prefix/_scores`` has it:
one column for two classes, of which the last is the positive one, else one a class. All return
an array of shape (n_candidates,).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, ndcg_score

from ..prefix._scores import accuracy, balanced_accuracy, roc_auc

# Of all rows, one in so many counts in NDCG.
ONE_IN = 10


def spearman(y, predictions):
    """Return Spearman's rank correlations; 0 where a prediction is constant, NaN where y is.

    Parameters
    ----------
    y : ndarray of shape (n,)

    predictions : ndarray of shape (n, n_candidates)

    Returns
    -------
    correlations : ndarray of shape (n_candidates,)

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.evaluation._metrics import spearman
    >>> spearman(np.array([1.0, 2.0, 4.0]), np.array([[1, 3, 0], [5, 2, 0], [6, 1, 0]])).tolist()
    [1.0, -1.0, 0.0]
    """
    a, b = (ranks - ranks.mean(axis=0) for ranks in (rankdata(y), rankdata(predictions, axis=0)))
    lengths = np.sqrt((a @ a) * np.einsum("nc,nc->c", b, b))
    if np.ptp(y) == 0:  # one row, or a fold in which nothing differs
        return np.full(b.shape[1], np.nan)
    found = np.divide(a @ b, lengths, out=np.zeros(b.shape[1]), where=lengths > 0)
    return np.clip(found, -1, 1)


def ndcg(y, predictions):
    """Return the normalised discounted cumulative gains of the best tenth of the rows.

    As ProteinGym has it (``calc_ndcg`` of its ``performance_DMS_benchmarks.py``): gains are the
    measured values, scaled to [0, 1]; the first n // 10 rows by prediction count, divided by
    log2(rank + 1), as a share of what the true order gives. There it depends on the sort how
    equal predictions are ordered; here it is the mean over their orders, as
    :func:`sklearn.metrics.ndcg_score` takes it.

    Parameters
    ----------
    y : ndarray of shape (n,)

    predictions : ndarray of shape (n, n_candidates)

    Returns
    -------
    gains : ndarray of shape (n_candidates,)
        NaN for fewer than ten rows, of which none counts (ProteinGym has 0), and where all values
        are equal.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.evaluation._metrics import ndcg
    >>> y = np.arange(20.0)
    >>> ndcg(y, np.stack([y, -y], axis=1)).round(3).tolist()
    [1.0, 0.021]
    """
    n_candidates, k = predictions.shape[1], len(y) // ONE_IN
    if not k or np.ptp(y) == 0:
        return np.full(n_candidates, np.nan)
    gains = ((y - y.min()) / np.ptp(y))[None]
    return np.array([ndcg_score(gains, column[None], k=k) for column in predictions.T])


def auroc(y, decisions, classes):
    """Return the areas under the ROC curves: of two classes, or the mean of each against the rest.

    Parameters
    ----------
    y : ndarray of shape (n,)

    decisions : ndarray of shape (n, n_candidates, n_columns)

    classes : ndarray of shape (n_classes,)

    Returns
    -------
    areas : ndarray of shape (n_candidates,)
        Classes that y does not have tell nothing; NaN where it has one class alone.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.evaluation._metrics import auroc
    >>> y, classes = np.array(["a", "b", "b"]), np.array(["a", "b"])
    >>> auroc(y, np.array([[[0.1]], [[0.3]], [[0.2]]]), classes).tolist()
    [1.0]
    """
    return _against_the_rest(
        lambda positive, values: roc_auc(positive, values[..., None], np.array([False, True])),
        y,
        decisions,
        classes,
    )


def aupr(y, decisions, classes):
    """Return average precisions: of the last of two classes, or the mean of each against the rest.

    As :func:`sklearn.metrics.average_precision_score` has it.

    Parameters
    ----------
    y, decisions, classes
        As in :func:`auroc`.

    Returns
    -------
    areas : ndarray of shape (n_candidates,)
        NaN as there.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.evaluation._metrics import aupr
    >>> y, classes = np.array(["a", "b", "b"]), np.array(["a", "b"])
    >>> aupr(y, np.array([[[0.3]], [[0.1]], [[0.2]]]), classes).round(3).tolist()
    [0.583]
    """
    return _against_the_rest(
        lambda positive, values: np.array(
            [average_precision_score(positive, column) for column in values.T]
        ),
        y,
        decisions,
        classes,
    )


def _against_the_rest(score, y, decisions, classes):
    """Return the mean score of classes against the others; of two, that of the last alone."""
    if decisions.shape[2] == 1:
        pairs = [(y == classes[-1], decisions[..., 0])]
    else:
        pairs = [(y == name, decisions[..., k]) for k, name in enumerate(classes)]
    found = [score(positive, values) for positive, values in pairs if 0 < positive.sum() < len(y)]
    return np.mean(found, axis=0) if found else np.full(decisions.shape[1], np.nan)


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    Parameters
    ----------
    name : str

    score : callable
        Of ``(y, predictions)``, or ``(y, decisions, classes)`` where there are classes.

    greater_is_better : bool, default=True
    """

    name: str
    score: Callable
    greater_is_better: bool = True


# The first of a task chooses between candidates.
METRICS = {
    "regression": (Metric("Spearman", spearman), Metric("NDCG@10%", ndcg)),
    "classification": (
        Metric("AUROC", auroc),
        Metric("balanced accuracy", balanced_accuracy),
        Metric("AUPR", aupr),
    ),
    # Of all residues of all proteins; Q3 or Q8 of as many states.
    "residues": (Metric("accuracy", accuracy), Metric("balanced accuracy", balanced_accuracy)),
}


def metrics(task, n_classes=None):
    """Return the metrics of a task; the accuracy of 3 or 8 states of residues is Q3 or Q8.

    Of two states of residues, such as binding or not, the area under the precision-recall curve
    comes first: where few residues bind, accuracy tells little.

    Parameters
    ----------
    task : {"regression", "classification", "residues"}

    n_classes : int, default=None

    Returns
    -------
    metrics : tuple of Metric

    Examples
    --------
    >>> from revdist_sklearn.evaluation._metrics import metrics
    >>> [metric.name for metric in metrics("residues", 3)]
    ['Q3', 'balanced accuracy']
    """
    first, *others = METRICS[task]
    if task == "residues" and n_classes == 2:
        first, others = Metric("AUPR", aupr), [first, *others]
    if task == "residues" and n_classes in (3, 8):
        first = Metric(f"Q{n_classes}", first.score)
    return (first, *others)
