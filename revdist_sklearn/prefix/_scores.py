"""Scores of many predictions of the same rows: all at once, or by any scorer one by one."""

import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

# Every function takes the true targets of m rows, predictions of shape
# (m, n_candidates, n_targets) and, for classes, those that the model knows; it returns an
# array of shape (n_candidates,).


def r2(y, predictions):
    """Return the coefficients of determination, averaged over targets."""
    y = y.reshape(len(y), -1).astype(np.float64)
    if len(y) < 2:
        return np.full(predictions.shape[1], np.nan)
    errors = _square_sums(predictions - y[:, None])
    total = _square_sums((y - y.mean(axis=0))[:, None])
    # As scikit-learn has it for constant targets: 1 if predicted exactly, else 0.
    constant = np.where(errors == 0, 1.0, 0.0)
    ratio = np.divide(errors, total, out=np.ones_like(errors), where=total > 0)
    return np.where(total > 0, 1 - ratio, constant).mean(axis=1)


def neg_mean_squared_error(y, predictions):
    """Return the negative mean squared errors, averaged over targets."""
    y = y.reshape(len(y), -1)
    return -_square_sums(predictions - y[:, None]).mean(axis=1) / len(y)


def _square_sums(differences):
    return np.einsum("mct,mct->ct", differences, differences)


def accuracy(y, predictions, classes):
    """Return the fractions of rows whose class is predicted."""
    return (decide(predictions, classes) == y[:, None]).mean(axis=0)


def balanced_accuracy(y, predictions, classes):
    """Return the recalls, averaged over the classes of y."""
    right = decide(predictions, classes) == y[:, None]
    return np.mean([right[y == each].mean(axis=0) for each in np.unique(y)], axis=0)


def roc_auc(y, predictions, classes):
    """Return the areas under the ROC curves of two classes; NaN where there is one alone."""
    positive = y == classes[-1]
    n_positive = int(positive.sum())
    n_pairs = n_positive * (len(y) - n_positive)
    if n_pairs == 0 or len(classes) < 2:
        return np.full(predictions.shape[1], np.nan)
    # Mann and Whitney: the pairs in which the positive row ranks above the negative one.
    ranks = rankdata(predictions[..., 0], axis=0)[positive].sum(axis=0)
    return (ranks - n_positive * (n_positive + 1) / 2) / n_pairs


def decide(decisions, classes):
    """Return the classes that decision values stand for.

    Parameters
    ----------
    decisions : ndarray of shape (m, n_candidates, n_columns)
        One column for two classes, the second being the positive one, or for a class alone;
        else one a class.

    classes : ndarray of shape (n_classes,)

    Returns
    -------
    labels : ndarray of shape (m, n_candidates)
    """
    if decisions.shape[2] == 1:
        return classes[np.where(decisions[..., 0] > 0, len(classes) - 1, 0)]
    return classes[decisions.argmax(axis=2)]


def flat(decisions):
    """Return decision values as scikit-learn has them: a single column as one dimension."""
    return decisions[:, 0] if decisions.shape[1] == 1 else decisions


class GivenValues(RegressorMixin, BaseEstimator):
    """What a scorer sees of a candidate: its predictions, which are there already.

    Parameters
    ----------
    X : ndarray of shape (m, k)
        The rows that the scorer is called with.

    predictions : ndarray of shape (m,) or (m, n_targets)
    """

    def __init__(self, X, predictions):
        self.X = X
        self.predictions = predictions
        self.is_fitted_ = True

    def predict(self, X):
        """Return the predictions of the rows."""
        return self._of(X)

    def _of(self, X):
        if X is not self.X:
            raise ValueError(
                "The scorer asks for predictions of other rows than the test rows it was given. "
                "In a prefix search these alone are predicted; use GridSearchCV over "
                "PrefixSelector for such a scorer."
            )
        return self.predictions


class GivenDecisions(ClassifierMixin, GivenValues):
    """The same of a classifier, for which the predictions are decision values.

    Parameters
    ----------
    X, predictions
        As in ``GivenValues``.

    classes_ : ndarray of shape (n_classes,)
    """

    def __init__(self, X, predictions, classes):
        super().__init__(X, predictions)
        self.classes_ = classes

    def decision_function(self, X):
        """Return the decision values of the rows."""
        return self._of(X)

    @property
    def predict_proba(self):
        """Ridge has no probabilities."""
        raise AttributeError(
            "Ridge has no predict_proba; take a scorer of decision values or classes."
        )

    def predict(self, X):
        """Return the classes of the rows."""
        decisions = self._of(X).reshape(len(self.predictions), 1, -1)
        return decide(decisions, self.classes_)[:, 0]
