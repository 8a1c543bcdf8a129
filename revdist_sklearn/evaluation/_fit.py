"""Ridge of one set of rows on one split, its penalty chosen inside of the training part.

The search is that of :class:`PrefixRidgeCV`, whose kernel this calls: with one path for all
prefixes and penalties, and a penalty for each prefix.
"""

import numpy as np
from sklearn.base import clone
from sklearn.preprocessing import LabelBinarizer

from ..base._threads import one_thread_of_blas
from ..prefix._ridge_path import centred_split, ridge_path
from ..prefix._search import ALPHAS, first_best

# Of the spread of the targets: what predictions that are closer to one another than this differ
# by is rounding.
ROUNDING = 1e-9


def fit_rows(rows, target, classes, split, inner, metric, head=None):
    """Return what rows predict of the test part of a split.

    Parameters
    ----------
    rows : Rows

    target : ndarray of shape (n,)
        Numbers, or classes.

    classes : ndarray of shape (n_classes,) or None
        All of them; None for numbers.

    split : Split

    inner : list of Split
        Of the training rows, by which the penalty is chosen; rows are those of the table.

    metric : callable
        Takes true targets and values of shape (m, n_candidates, n_columns); returns a score a
        candidate, greater being better.

    head : estimator, default=None
        In place of ridge, fitted to each row as it stands.

    Returns
    -------
    values : ndarray of shape (m, n_rows, n_columns)
        Predictions; of classes, decision values.

    alphas : ndarray of shape (n_rows,), or None
        The penalties that were chosen.
    """
    if rows.is_score:
        values = rows.features[split.test][:, np.array(rows.widths) - 1]
        return values[:, :, None], None
    if head is not None:
        return _of_head(rows, target, classes, split, head), None
    options = rows.choices or (rows.features,)
    inside = [
        [_scores(rows, X, target, classes, part.train, part.test, metric) for part in inner]
        for X in options
    ]
    # Of choices, rows and alphas; folds without a score tell nothing.
    inside = np.ma.masked_invalid(np.array(inside)).mean(axis=1).filled(-np.inf)
    chosen = int(first_best(inside.max(axis=(1, 2)))) if len(options) > 1 else 0
    best = first_best(inside[chosen])
    paths = _paths(rows, options[chosen], target, classes, split.train, split.test)
    values = np.take_along_axis(paths, best[None, :, None, None], axis=2)[:, :, 0]
    return values, np.array(ALPHAS)[best]


def _scores(rows, X, target, classes, train, test, metric):
    """Return the score of each prefix and alpha, of shape (n_rows, n_alphas)."""
    values = _paths(rows, X, target, classes, train, test)
    m, n_rows, n_alphas, n_columns = values.shape
    scores = metric(target[test], values.reshape(m, n_rows * n_alphas, n_columns))
    return np.asarray(scores).reshape(n_rows, n_alphas)


def _paths(rows, X, target, classes, train, test):
    """Return predictions of shape (m, n_rows, n_alphas, n_columns)."""
    fit, held = _parts(rows, X, target, train, test)
    q, widest = rows.n_unpenalized, max(rows.widths)
    y = encoded(target[train], classes)
    penalised = np.array(rows.widths) - q
    values = np.empty((len(test), len(rows.widths), len(ALPHAS), y.shape[1]))
    with one_thread_of_blas(fit.size * min(fit.shape)):
        split = centred_split(
            fit[:, :widest], y, held[:, :widest], n_unpenalized=q, overwrite=True
        )
        for part in ridge_path(split, penalised, np.array(ALPHAS)):
            values[:, part.prefixes, part.alphas] = part.values
    # Of what is equal but for rounding, ranks would be noise.
    unit = ROUNDING * y.std(axis=0)
    varies = np.ptp(y, axis=0) > 0
    return np.where(varies, np.round(values / np.where(varies, unit, 1)) * unit, y.mean(axis=0))


def _parts(rows, X, target, train, test):
    """Return copies of training and test rows, through what is fitted in the fold."""
    fit, held = X[train], X[test]
    if rows.in_fold is not None:
        transformer = clone(rows.in_fold, safe=False).fit(fit, target[train])
        fit, held = transformer.transform(fit), transformer.transform(held)
    return tuple(np.asarray(part, dtype=np.float64, order="F") for part in (fit, held))


def encoded(target, classes):
    """Return targets as columns of numbers: of classes -1 and 1, one column for two."""
    if classes is None:
        return target.astype(np.float64)[:, None]
    return LabelBinarizer(neg_label=-1).fit(classes).transform(target).astype(np.float64)


def _of_head(rows, target, classes, split, head):
    """Return what another estimator predicts, of shape (m, n_rows, n_columns)."""
    fit, held = _parts(rows, rows.features, target, split.train, split.test)
    found = []
    for width in rows.widths:
        model = clone(head).fit(fit[:, :width], target[split.train])
        found.append(_decisions(model, held[:, :width], classes))
    return np.stack(found, axis=1)


def _decisions(model, X, classes):
    """Return predictions of shape (m, 1), or decision values in the order of all classes."""
    if classes is None:
        return np.asarray(model.predict(X), dtype=np.float64).reshape(len(X), -1)
    for name in ("decision_function", "predict_proba"):
        if hasattr(model, name):
            values = np.asarray(getattr(model, name)(X), dtype=np.float64).reshape(len(X), -1)
            if values.shape[1] == 1:  # of two classes, the second
                values = np.hstack([-values, values])
            break
    else:
        values = model.predict(X)[:, None] == model.classes_
    found = np.full((len(X), len(classes)), values.min() - 1)
    found[:, np.searchsorted(classes, model.classes_)] = values
    return found[:, 1:] - found[:, :1] if len(classes) == 2 else found
