"""Ridge regression that chooses its prefix and its penalty."""

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.linear_model import Ridge
from sklearn.utils.validation import validate_data

from ._scores import GivenValues, flat, neg_mean_squared_error, r2
from ._search import PrefixSearch

BATCH_SCORES = {"r2": r2, "neg_mean_squared_error": neg_mean_squared_error}


class PrefixRidgeCV(RegressorMixin, PrefixSearch):
    """Ridge regression on the best prefix of a nested embedding.

    Searches every prefix and every penalty by cross-validation. Scores and choice are those
    of :class:`~sklearn.model_selection.GridSearchCV` over a pipeline of
    :class:`PrefixSelector` and :class:`~sklearn.linear_model.Ridge`, but all prefixes
    come from one factorisation a fold and penalty, so that more of them cost little.

    Parameters
    ----------
    prefixes : array-like of int, int, "all" or None, default=None
        Widths to search over, or how many, evenly spaced up to all columns. None: the widths
        at which each model of the family ends, where the names of the columns tell
        (``<block>__<column>``), else all columns, half of them, and so on down to one. For
        embeddings without column names give the ``stage_dims_`` of the distiller.

    alphas : array-like of float or float, default=(1e-6, 1e-5, .., 1e3)
        Penalties, above 0, as in :class:`~sklearn.linear_model.Ridge`. One that is chosen
        at either end of them warns.

    cv : int, cross-validation splitter, iterable or "loo", default=None
        As in :class:`~sklearn.model_selection.GridSearchCV`; None is five folds in order of
        the rows, without shuffling. ``"loo"`` leaves one row out at a time, in closed form; so
        does ``LeaveOneOut()``, unless ``scale`` or ``scoring`` have none.

    scoring : str or callable, default=None
        A name or a scorer of scikit-learn. None is ``"r2"``, for ``cv="loo"``
        ``"neg_mean_squared_error"``; with these two all prefixes are scored at once. Any other
        scorer is called once a candidate, with an estimator that has the predictions of the
        test rows and no others, and without weights unless it asks for them by scikit-learn's
        metadata routing.

    fit_intercept : bool, default=True
        Whether to fit a constant, which is not penalised.

    scale : bool, default=False
        Divide each column by its standard deviation in the training rows of the fold (in all
        rows, for the final fit). The columns of a distiller carry their weight in their
        scale: try both.

    one_standard_error : bool, default=False
        Choose the smallest prefix whose best mean score is within one standard error of the
        best, which is a smaller model to run, instead of the best.

    Attributes
    ----------
    n_components_ : int
        The chosen prefix.

    alpha_ : float
        The chosen penalty.

    best_score_ : float
        Mean score over splits of the chosen prefix and penalty. It is the best of many, so
        it is optimistic: see Notes.

    cv_scores_ : ndarray of shape (n_prefixes, n_alphas, n_splits)
        Score of every candidate on the test rows of every split, not weighted.

    prefixes_ : ndarray of shape (n_prefixes,)
        The widths, ascending.

    alphas_ : ndarray of shape (n_alphas,)
        The penalties, in the order given.

    n_splits_ : int
        Number of splits; for ``cv="loo"`` that of rows.

    coef_ : ndarray of shape (n_components_,) or (n_targets, n_components_)
        Coefficients of the first columns, for columns as they come.

    intercept_ : float or ndarray of shape (n_targets,)
        The constant; 0 without intercept.

    n_features_in_ : int
        Number of columns seen by ``fit``.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where they are all strings.

    See Also
    --------
    PrefixRidgeClassifierCV : The same for classes.
    PrefixCurveDisplay : Draws score against prefix.
    PrefixSelector : For any other model, in GridSearchCV.
    compact : Leaves the models beyond the chosen prefix out of a pipeline.

    Notes
    -----
    For one fold of n rows to fit and m to predict, k columns, P prefixes and A penalties the
    primal form takes O(n k^2 + A (k^3 + m k P)) time. Where rows are few,
    prefixes wider than that take the dual form, O(n (n + m) k + P A n^3); whichever costs
    less is chosen for each prefix. Sums are in float64 whatever the type of X.

    Memory beside X is two float64 copies of it (seven for ``cv="loo"``), a few matrices of k^2
    (n^2 in the dual form), and ``cv_scores_``, which for ``cv="loo"`` has n splits.

    Cholesky's factor is exact to some 1e-16 over the smallest eigenvalue of the Gram matrix
    scaled to unit diagonal. Where that is below 1e-7, QR (primal) or a singular value
    decomposition (dual) of the rows takes its place, which is slower, so that scores are those
    of exact fits to 1e-8; below 1e-11, where other alphas or scales would serve, with a
    warning. What is left to the condition of the rows themselves no solver mends. For
    ``cv="loo"``, rows that all but determine their own prediction are left out one by one.

    Targets that are all equal are predicted exactly, for an r2 of 1, which
    :class:`~sklearn.model_selection.GridSearchCV` finds where their sum does not round.

    Scores closer than 1e-10 of themselves are ties: the smaller prefix is taken, then the
    penalty that comes first.

    ``best_score_`` is the maximum over the grid. For an honest estimate run the whole search
    inside of outer folds: ``cross_val_score(PrefixRidgeCV(), X, y)``.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import PrefixRidgeCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 12))
    >>> y = X[:, :4] @ [3.0, 2.0, 2.0, 1.0] + rng.normal(size=100)
    >>> search = PrefixRidgeCV("all", alphas=np.logspace(-2, 3, 6)).fit(X, y)
    >>> search.n_components_, search.coef_.shape, search.cv_scores_.shape
    (4, (4,), (12, 6, 5))
    """

    _default_scoring = "r2"
    _leave_one_out_score = "neg_mean_squared_error"

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, groups=None, **params):
        """Search over prefixes and penalties, then fit the chosen ridge on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Nested embeddings.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights in the fits; scores are not weighted.

        groups : array-like of shape (n_samples,), default=None
            Given to the splitter, such as the position of each mutant; under metadata routing
            only to one that asks for them, as ``GroupKFold`` does. ``cv="loo"`` has none
            and ignores them: mutants of one position are then trained and tested on.

        **params : dict
            What splitter and scorer ask for, where scikit-learn's metadata routing is on.

        Returns
        -------
        self : PrefixRidgeCV

        Raises
        ------
        ValueError
            If a prefix is wider than X, a penalty is not above 0, a split has no row of
            positive weight, no candidate has a score, ``cv="loo"`` meets ``scale`` or another
            ``scoring``, ``one_standard_error`` a single split, or ``scoring`` is a metric, or
            a scorer that returns no number or fails for every candidate.

        Warns
        -----
        UserWarning
            If a scorer fails: the score is NaN then, and the candidate ranks last.
        """
        given = X, y
        X, y = validate_data(
            self,
            X,
            y,
            dtype=[np.float64, np.float32],
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
        )
        return self._search(X, y, given, sample_weight, groups, params)

    def predict(self, X):
        """Predict from the first columns.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Nested embeddings.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        """
        return self._linear(X)

    def score(self, X, y, sample_weight=None):
        """Return the score of the predictions, by ``scoring`` ("r2" for None).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Nested embeddings.

        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            True targets.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights, given to the scorer where they are not None.

        Returns
        -------
        score : float
        """
        return self._score(X, y, sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _batch_score(self, name):
        return BATCH_SCORES.get(name)

    def _encode(self, y, sample_weight):
        return y.reshape(len(y), -1).astype(np.float64), sample_weight

    def _given(self, X, predictions):
        # A column of targets has predictions of one dimension, as from Ridge.
        return GivenValues(X, flat(predictions))

    def _row_scores(self, y, all_y, predictions):
        errors = predictions - y.reshape(len(y), 1, 1, -1)
        return -np.square(errors).mean(axis=3)

    def _head(self, **parameters):
        return Ridge(**parameters)
