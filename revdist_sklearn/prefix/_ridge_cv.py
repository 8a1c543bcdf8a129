"""Ridge regression that chooses its prefix and its penalty."""

from dataclasses import replace

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted, validate_data

from ._ridge_path import (
    fit_with_leverage,
    leave_one_out_noise,
    out_of_fold_noise,
    ridge_coefficients,
    with_gram,
)
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

    n_unpenalized : int, default=0
        The first columns are in every prefix, count in its width and are not penalised, like
        the constant: for scores of the models themselves before their embedding. Columns among
        them that are constant or collinear do no harm: directions below 1e-6 of the largest, of
        columns scaled to length 1, are left out. Prefixes start at this width, where it is
        least squares on these columns alone, whatever the penalty.

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

    noise_variance_ : float or ndarray of shape (n_targets,)
        Variance of the noise of a measurement of weight 1, from what the splits left out: see
        Notes. NaN where no row of positive weight was left out.

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

    Memory beside X is three float64 copies of it (seven for ``cv="loo"``, four where the dual
    form is taken), a few matrices of k^2 (n^2 in the dual form), and ``cv_scores_``, which for
    ``cv="loo"`` has n splits.

    Cholesky's factor is exact to some 1e-16 over the smallest eigenvalue of the Gram matrix
    scaled to unit diagonal. Where that is below 1e-7, QR (primal) or a singular value
    decomposition (dual) of the rows takes its place, which is slower, so that scores are those
    of exact fits to 1e-8; below 1e-11, where other alphas or scales would serve, with a
    warning. What is left to the condition of the rows themselves no solver mends. For
    ``cv="loo"``, rows that all but determine their own prediction are left out one by one.

    With ``return_std=True`` the standard deviation of a new measurement x of weight 1 is that
    of the posterior whose prior the penalty is, sqrt(s^2 (1 + h)), with h = x^T A^-1 x + |u|^2 +
    1 / sum(w): x centred and free of the unpenalised columns, A the Gram matrix with the chosen
    penalty, u the coordinates of x in the unpenalised columns. ``noise_variance_``, s^2, is the
    mean of r_i^2 / (1 + h_i) over the rows that the splits leave out, r_i being their residuals
    and h_i the same of them in the fit without them, so that what the fit does not know is not
    counted twice. A row of weight w is taken for one of variance s^2 / w, such as the mean of
    w measurements: it counts with r_i^2 / (1 / w_i + h_i), and not at all if w is 0. The choice
    of prefix and penalty is not counted; rows of one protein, as of one position, that are
    alike are taken as they are split: with folds by position the variance is that of new
    positions. For it a fit keeps min(n, d) d numbers for a prefix of d columns, and those of
    all prefixes for ``predict_all_prefixes``: prefixes times columns times targets
    (:meth:`with_n_features`, and so ``compact``, cuts the latter).

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
    >>> mean, std = search.predict(X[:3], return_std=True)
    >>> mean.shape, std.shape, search.predict_all_prefixes(X[:3]).shape
    ((3,), (3,), (3, 12))
    """

    _default_scoring = "r2"
    _leave_one_out_score = "neg_mean_squared_error"
    _keeps_grams = True

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
            If a prefix is wider than X or narrower than ``n_unpenalized``, a penalty is not
            above 0, a split has no row of positive weight, no candidate has a score,
            ``cv="loo"`` meets ``scale`` or another ``scoring``, ``one_standard_error`` a single
            split, or ``scoring`` is a metric, or a scorer that returns no number or fails for
            every candidate.

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

    def predict(self, X, return_std=False):
        """Predict from the first columns.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Nested embeddings.

        return_std : bool, default=False
            Whether to return the standard deviation of a new measurement as well.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_targets)

        std : ndarray of the shape of y
            Only if ``return_std``; in the units of the targets. The interval of a share of
            measurements is y plus and minus quantiles of the normal distribution times this.

        Raises
        ------
        NotFittedError
            If the search is not fitted; with ``return_std``, if an older version has fitted it.

        Examples
        --------
        >>> import numpy as np
        >>> from revdist_sklearn import PrefixRidgeCV
        >>> X = np.random.default_rng(0).normal(size=(50, 3))
        >>> search = PrefixRidgeCV(alphas=[0.1, 1.0, 10.0], cv="loo").fit(X, X.sum(axis=1))
        >>> mean, std = search.predict([[0, 0, 0], [30, 30, 30]], return_std=True)
        >>> bool(std[1] > std[0])
        True
        """
        X = self._first(X)
        y = X @ self.coef_.T + self.intercept_
        if not return_std:
            return y
        self._check_keeps("_leverage", "return_std=True")
        h = self._leverage.of(X.astype(np.float64))
        std = np.sqrt(np.multiply.outer(1 + h, self.noise_variance_))
        return y, std.reshape(y.shape)

    def predict_all_prefixes(self, X):
        """Predict from every prefix that was searched, at the chosen penalty.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Nested embeddings.

        Returns
        -------
        y : ndarray of shape (n_samples, n_prefixes) or (n_samples, n_prefixes, n_targets)
            In the order of ``prefixes_``; after :meth:`with_n_features` of those that the
            columns left suffice for.

        Raises
        ------
        NotFittedError
            If the search is not fitted, or an older version has fitted it.

        Examples
        --------
        >>> import numpy as np
        >>> from revdist_sklearn import PrefixRidgeCV
        >>> X = np.random.default_rng(0).normal(size=(50, 3))
        >>> search = PrefixRidgeCV([1, 3], alphas=0.1).fit(X, X.sum(axis=1))
        >>> search.predict_all_prefixes([[1.0, 1.0, 1.0]]).round(1).shape
        (1, 2)
        """
        check_is_fitted(self, "coef_")
        self._check_keeps("_path_coef", "predict_all_prefixes")
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        n_prefixes, k, n_targets = self._path_coef.shape
        coef = np.moveaxis(self._path_coef, 0, 1).reshape(k, -1)
        y = (X[:, :k] @ coef).reshape(len(X), n_prefixes, n_targets) + self._path_intercept
        return y[:, :, 0] if np.ndim(self.noise_variance_) == 0 else y

    def with_n_features(self, n_features):
        """Return a fitted copy that takes fewer columns.

        Parameters
        ----------
        n_features : int
            Columns that the copy takes, from ``n_components_``, which are all that it uses,
            to ``n_features_in_``.

        Returns
        -------
        head : PrefixRidgeCV
            Predicts from ``X[:, :n_features]`` what this one predicts from X, with the same
            deviations; ``predict_all_prefixes`` is of the prefixes up to this width.

        Raises
        ------
        ValueError
            If the number of columns is no integer in this range.

        NotFittedError
            If the search is not fitted.
        """
        narrow = super().with_n_features(n_features)
        if not hasattr(self, "_path_coef"):  # fitted by an older version
            return narrow
        left = self.prefixes_[: len(self._path_coef)] <= n_features
        narrow._path_coef = self._path_coef[: left.sum(), :n_features].copy()
        narrow._path_intercept = self._path_intercept[: left.sum()].copy()
        return narrow

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

    def _check_keeps(self, name, what):
        """Raise where a fit by an older version did not keep what is needed."""
        if not hasattr(self, name):
            raise NotFittedError(
                f"This {type(self).__name__} was fitted by an older version, which did not keep "
                f"what {what} needs. Fit it again."
            )

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

    def _refit(self, X, y, sample_weight):
        """Fit every prefix to all rows, and keep the leverage of the chosen one."""
        q, d = self.n_unpenalized, self.n_components_
        split, scale = self._split_of_all(X[:, : self.prefixes_[-1]], y, sample_weight)
        split = with_gram(split, self.prefixes_ - q)
        coef, self._path_intercept = ridge_coefficients(split, self.prefixes_ - q, self.alpha_)
        self._path_coef = np.array(coef / scale[:, None], order="C")
        _, leverage = fit_with_leverage(split, d - q, self.alpha_)
        mean, scale = leverage.mean * scale[:d], scale[:d]
        # NumPy makes empty arrays without strides, a pickle with: joblib.hash tells them apart.
        empty = {
            name: value.ravel().reshape(value.shape)
            for name, value in vars(leverage).items()
            if np.size(value) == 0
        }
        self._leverage = replace(leverage, **{**empty, "mean": mean, "scale": scale})
        chosen = np.searchsorted(self.prefixes_, d)
        self._keep(self._path_coef[chosen, :d], self._path_intercept[chosen])
        if len(self.coef_) == 1:  # as of Ridge, also for a column of targets
            self.coef_ = self.coef_[0]
        if y.ndim == 1:
            self.intercept_ = float(np.ravel(self.intercept_)[0])

    def _tell_more(self, X, y, sample_weight, splits, grams):
        """Keep the variance of the noise."""
        targets, weights = self._encode(y, sample_weight)
        weights = np.ones(len(y)) if weights is None else weights
        X = X[:, : self.n_components_]
        self.noise_variance_ = self._noise(X, targets, weights, splits, grams)
        if y.ndim == 1:
            self.noise_variance_ = float(self.noise_variance_[0])

    def _noise(self, X, targets, weights, splits, grams):
        """Return the variance of the noise by rows that are left out, one a target."""
        how = self.fit_intercept, self.n_unpenalized
        if splits is None:
            used = weights > 0
            X, targets, weights = X[used].astype(np.float64), targets[used], weights[used]
            return leave_one_out_noise(X, targets, weights, self.alpha_, *how).mean(axis=0)
        d = self.n_components_ - self.n_unpenalized
        total, count = np.zeros(targets.shape[1]), 0
        for (train, test), gram in zip(splits, grams, strict=True):
            rows = self._columns(X, train, test, weights[train])
            split = self._split(rows[0], targets[train], rows[1], weights[train])
            split = replace(split, gram=gram)
            variances = out_of_fold_noise(split, targets[test], weights[test], d, self.alpha_)
            total += variances.sum(axis=0)
            count += int(np.count_nonzero(weights[test]))
        return total / count if count else np.full(len(total), np.nan)
