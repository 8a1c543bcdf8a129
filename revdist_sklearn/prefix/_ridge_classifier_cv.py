"""Ridge classification that chooses its prefix and its penalty."""

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from ._scores import GivenDecisions, accuracy, balanced_accuracy, decide, flat, roc_auc
from ._search import ALPHAS, PrefixSearch

BATCH_SCORES = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}


class PrefixRidgeClassifierCV(ClassifierMixin, PrefixSearch):
    """Ridge classification on the best prefix of a nested embedding.

    Is to :class:`PrefixRidgeCV` what :class:`~sklearn.linear_model.RidgeClassifierCV` is to
    :class:`~sklearn.linear_model.RidgeCV`: ridge regression on targets of -1 and 1, one
    column a class, a single one for two classes. Scores and choice are those of
    :class:`~sklearn.model_selection.GridSearchCV` over a pipeline of :class:`PrefixSelector`
    and :class:`~sklearn.linear_model.RidgeClassifier`, from one factorisation a fold and
    penalty.

    Parameters
    ----------
    prefixes : array-like of int, int, "all" or None, default=None
        Widths to search over, as in :class:`PrefixRidgeCV`.

    alphas : array-like of float or float, default=(1e-6, 1e-5, .., 1e3)
        Penalties, above 0. One that is chosen at either end of them warns.

    class_weight : dict, "balanced" or None, default=None
        Weights of classes, multiplied with ``sample_weight``; ``"balanced"`` is by the
        counts of the training rows of each fold.

    cv : int, cross-validation splitter, iterable or "loo", default=None
        As in :class:`~sklearn.model_selection.GridSearchCV`; None is five stratified folds in
        order of the rows, without shuffling. ``"loo"`` leaves one row out at a time, in
        closed form; it scores the accuracy. So does ``LeaveOneOut()``, unless ``scale``,
        ``scoring`` or balanced weights have no closed form.

    scoring : str or callable, default=None
        A name or a scorer of scikit-learn. None is ``"accuracy"``. With that,
        ``"balanced_accuracy"`` and, for two classes, ``"roc_auc"`` all prefixes are scored at
        once. Any other scorer is called once a candidate, with an estimator that has decision
        values and classes of the test rows and no others, no probabilities, and without
        weights unless it asks for them by scikit-learn's metadata routing.

    fit_intercept : bool, default=True
        Whether to fit a constant, which is not penalised.

    scale : bool, default=False
        Divide each column by its standard deviation in the training rows of the fold (in all
        rows, for the final fit).

    one_standard_error : bool, default=False
        Choose the smallest prefix whose best mean score is within one standard error of the
        best, instead of the best.

    n_unpenalized : int, default=0
        The first columns are in every prefix, count in its width and are not penalised, as in
        :class:`PrefixRidgeCV`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes.

    n_components_ : int
        The chosen prefix.

    alpha_ : float
        The chosen penalty.

    best_score_ : float
        Mean score over splits of the chosen prefix and penalty: optimistic, as the best of
        many.

    cv_scores_ : ndarray of shape (n_prefixes, n_alphas, n_splits)
        Score of every candidate on the test rows of every split, not weighted.

    prefixes_ : ndarray of shape (n_prefixes,)
        The widths, ascending.

    alphas_ : ndarray of shape (n_alphas,)
        The penalties, in the order given.

    n_splits_ : int
        Number of splits; for ``cv="loo"`` that of rows.

    coef_ : ndarray of shape (1, n_components_) or (n_classes, n_components_)
        Coefficients of the first columns, for columns as they come.

    intercept_ : float or ndarray of shape (1,) or (n_classes,)
        The constant; 0 without intercept.

    n_features_in_ : int
        Number of columns seen by ``fit``.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where they are all strings.

    See Also
    --------
    PrefixRidgeCV : The same for measurements; its Notes hold here too.
    PrefixCurveDisplay : Draws score against prefix.
    PrefixSelector : For any other classifier, in GridSearchCV.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import PrefixRidgeClassifierCV
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 12))
    >>> y = np.where(X[:, :4].sum(axis=1) > 0, "binds", "does not")
    >>> search = PrefixRidgeClassifierCV("all", alphas=[1.0, 10.0, 100.0], scoring="roc_auc")
    >>> search = search.fit(X, y)
    >>> search.n_components_, search.classes_.tolist()
    (4, ['binds', 'does not'])
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **PrefixSearch._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }
    _default_scoring = "accuracy"
    _leave_one_out_score = "accuracy"

    def __init__(
        self,
        prefixes=None,
        *,
        alphas=ALPHAS,
        class_weight=None,
        cv=None,
        scoring=None,
        fit_intercept=True,
        scale=False,
        one_standard_error=False,
        n_unpenalized=0,
    ):
        super().__init__(
            prefixes,
            alphas=alphas,
            cv=cv,
            scoring=scoring,
            fit_intercept=fit_intercept,
            scale=scale,
            one_standard_error=one_standard_error,
            n_unpenalized=n_unpenalized,
        )
        self.class_weight = class_weight

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, groups=None, **params):
        """Search over prefixes and penalties, then fit the chosen classifier on all rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Nested embeddings.

        y : array-like of shape (n_samples,)
            Classes.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights in the fits; scores are not weighted.

        groups : array-like of shape (n_samples,), default=None
            Given to the splitter, such as the position of each mutant; ``cv="loo"`` ignores
            them.

        **params : dict
            What splitter and scorer ask for, where scikit-learn's metadata routing is on.

        Returns
        -------
        self : PrefixRidgeClassifierCV

        Raises
        ------
        ValueError
            If y has one class alone, a prefix is wider than X or narrower than
            ``n_unpenalized``, a penalty is not above 0, a split has no row of positive weight,
            no candidate has a score, ``cv="loo"`` meets ``scale``, ``class_weight="balanced"``
            or another ``scoring``, ``one_standard_error`` a single split, or ``scoring`` is a
            metric, or a scorer that returns no number or fails for every candidate, as one of
            probabilities does.

        Warns
        -----
        UserWarning
            If a scorer fails: the score is NaN then, and the candidate ranks last.
        """
        given = X, y
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        return self._search(X, y, given, sample_weight, groups, params)

    def decision_function(self, X):
        """Return the decision values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Nested embeddings.

        Returns
        -------
        values : ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes, above 0 for the second of ``classes_``; else the largest is of
            the class that is predicted.
        """
        return flat(self._linear(X))

    def predict(self, X):
        """Predict classes from the first columns.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Nested embeddings.

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        return decide(self._linear(X)[:, None], self.classes_)[:, 0]

    def score(self, X, y, sample_weight=None):
        """Return the score of the predictions, by ``scoring`` ("accuracy" for None).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Nested embeddings.

        y : array-like of shape (n_samples,)
            True classes.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights, given to the scorer where they are not None.

        Returns
        -------
        score : float
        """
        return self._score(X, y, sample_weight, self.classes_)

    def _check_targets(self, y):
        classes = np.unique(y).tolist()
        if len(classes) < 2:
            raise ValueError(
                f"y has one class, {classes[0]!r}, among the rows of positive weight; a "
                "classifier needs two or more."
            )

    def _batch_score(self, name):
        if name == "roc_auc" and len(self.classes_) == 2:
            return roc_auc
        return BATCH_SCORES.get(name)

    def _encode(self, y, sample_weight):
        binarizer = LabelBinarizer(neg_label=-1)
        targets = binarizer.fit_transform(y).astype(np.float64)
        if self.class_weight is not None:
            by_class = compute_sample_weight(self.class_weight, y)
            sample_weight = by_class if sample_weight is None else sample_weight * by_class
        return targets, sample_weight, binarizer.classes_

    def _given(self, X, decisions, classes):
        return GivenDecisions(X, flat(decisions), classes)

    def _row_scores(self, y, all_y, decisions, classes):
        m, *candidates, n_columns = decisions.shape
        labels = decide(decisions.reshape(m, -1, n_columns), classes)
        # Without its only row a class is not known, and not predicted.
        known = np.isin(y, [each for each in classes if np.count_nonzero(all_y == each) > 1])
        return ((labels == y[:, None]) & known[:, None]).reshape(m, *candidates)

    def _why_no_closed_form(self):
        if self.class_weight == "balanced":
            return (
                "class_weight='balanced' has no closed form for cv='loo', as every row that is "
                "left out changes the weights. Give them as a dict, or take cv=LeaveOneOut()."
            )
        return super()._why_no_closed_form()
