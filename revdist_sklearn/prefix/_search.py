"""The search over prefixes and alphas that regression and classification share."""

from contextlib import suppress
from copy import copy
from numbers import Integral, Number, Real
from traceback import format_exc

import numpy as np
from scipy.linalg import LinAlgWarning
from sklearn.base import BaseEstimator, is_classifier
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import LeaveOneOut, check_cv
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing, check_consistent_length, indexable
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metadata_routing import (
    UNUSED,
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.validation import (
    _check_method_params,
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from ..base._blocks import Blocks
from ..base._state import set_missing_parameters
from ..base._threads import one_thread_of_blas
from ..base._validation import check_integer
from ..base._warnings import warn
from ._ridge_path import (
    centred_split,
    leave_one_out_path,
    ridge_coefficients,
    ridge_path,
    with_gram,
)

# A tuple, as an array for a default breaks the printing of estimators.
ALPHAS = tuple(10.0**i for i in range(-6, 4))
# Scores are good to this, relative to themselves; closer ones are ties.
TIE = 1e-10
# Alphas of a Gram matrix whose least eigenvalue is below this, scaled to unit diagonal, warn.
ILL_CONDITIONED = 1e-11

# What a search finds out.
FITTED = (
    *("n_components_", "alpha_", "best_score_", "cv_scores_", "coef_", "intercept_"),
    *("noise_variance_", "_leverage", "_path_coef", "_path_intercept"),
)


def resolve_prefixes(prefixes, n_features, names=None, n_unpenalized=0):
    """Return the prefixes to search over.

    Parameters
    ----------
    prefixes : None, "all", int or array-like of int
        As in ``PrefixRidgeCV``.

    n_features : int
        Columns of X.

    names : sequence of str or None
        Their names.

    n_unpenalized : int, default=0
        The first columns, which are in every prefix.

    Returns
    -------
    prefixes : ndarray of int
        Ascending, each once.

    Raises
    ------
    ValueError
        If one is no integer from 1, or ``n_unpenalized``, to ``n_features``.

    Examples
    --------
    >>> from revdist_sklearn.prefix._search import resolve_prefixes
    >>> resolve_prefixes(None, 5, ["a__0", "a__1", "b__0", "b__1", "b__2"]).tolist()
    [2, 5]
    >>> resolve_prefixes(None, 20).tolist()
    [1, 2, 3, 5, 10, 20]
    >>> resolve_prefixes(4, 20).tolist()
    [5, 10, 15, 20]
    >>> resolve_prefixes(None, 22, n_unpenalized=2).tolist()
    [2, 3, 4, 5, 7, 12, 22]
    """
    least, n_penalized = max(1, n_unpenalized), n_features - n_unpenalized
    beside = f" beside the {n_unpenalized} that are not penalised" if n_unpenalized else ""
    if prefixes is None:
        blocks = Blocks.nested(names)
        if blocks is not None:
            return np.array([edge for edge in blocks.edges if edge >= least])
        halvings = int(np.ceil(np.log2(max(1, n_penalized))))
        ladder = [n_unpenalized - (-n_penalized // 2**i) for i in range(halvings + 1)]
        return np.unique([*ladder, least] if n_unpenalized else ladder)
    if isinstance(prefixes, str):
        return np.arange(least, n_features + 1)
    if isinstance(prefixes, Integral):
        most = max(1, n_penalized)
        message = (
            f"prefixes={prefixes} is no number of prefixes of X, which has {n_penalized} "
            f"columns{beside}; use an integer in [1, {most}], or 'all'."
        )
        count = check_integer(prefixes, "prefixes", 1, most, message)
        return np.array([n_unpenalized - (-n_penalized * i // count) for i in range(1, count + 1)])
    given = np.asarray(prefixes)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iu":
        raise ValueError(
            f"prefixes={prefixes!r} is no one-dimensional array of integers; use None, 'all', a "
            "number of prefixes, or their widths."
        )
    for d in given:
        if not least <= d <= n_features:
            in_all = f", of which n_unpenalized={least} are in every prefix" * bool(n_unpenalized)
            raise ValueError(
                f"prefixes has {d}, but X has {n_features} columns{in_all}; use integers in "
                f"[{least}, {n_features}]."
            )
    return np.unique(given)


def choose(scores, *, one_standard_error=False):
    """Return the indices of the prefix and the alpha to take.

    Parameters
    ----------
    scores : ndarray of shape (n_prefixes, n_alphas, n_splits)
        Greater is better.

    one_standard_error : bool, default=False
        Take the smallest prefix whose best mean score is within one standard error of the
        best of all, rather than the best.

    Returns
    -------
    prefix, alpha : int
        Of ties, the smaller prefix, then the alpha that comes first.

    Raises
    ------
    ValueError
        If no mean score is a number, or the standard error of one split is asked for.
    """
    mean = scores.mean(axis=2)
    n_splits = scores.shape[2]
    if np.isnan(mean).all():
        raise ValueError(
            f"None of the {mean.size} mean scores over {n_splits} splits is a number: the score "
            "is NaN in some split of each. Take a scoring that is defined on these test rows (r2 "
            "needs two, roc_auc both classes), and targets whose squares float64 can hold."
        )
    mean = np.where(np.isnan(mean), -np.inf, mean)
    prefix = int(first_best(mean.max(axis=1)))
    if one_standard_error:
        if n_splits < 2:
            raise ValueError(
                "one_standard_error=True needs two splits or more, but cv gives one; take more "
                "splits, or one_standard_error=False."
            )
        best = scores[prefix, first_best(mean[prefix])]
        least = best.mean() - best.std(ddof=1) / np.sqrt(n_splits)
        prefix = int(np.argmax(mean.max(axis=1) >= least))
    return prefix, int(first_best(mean[prefix]))


def first_best(means):
    """Return the index of the largest along the last axis; of those within TIE, the first."""
    best = means.max(axis=-1, keepdims=True)
    return ((means == best) | np.isclose(means, best, rtol=TIE, atol=0)).argmax(axis=-1)


def _check_weights(weights, where, at_least=1):
    """Raise where the weights of training rows cannot be fitted."""
    if weights is None:
        return
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"{where}: a weight is negative or not finite; see class_weight.")
    if np.count_nonzero(weights) < at_least:
        raise ValueError(
            f"{where} has {np.count_nonzero(weights)} training rows of positive weight; it needs "
            f"{at_least} or more. See sample_weight and class_weight, or take another cv."
        )


def _number(score, scorer):
    """Return what a scorer returned as GridSearchCV takes it: arrays of one number are one."""
    if hasattr(score, "item"):
        with suppress(ValueError):
            score = score.item()
    if not isinstance(score, Number):
        raise ValueError(
            f"scoring must return a number, got {score} ({type(score)}) instead. (scorer={scorer})"
        )
    return score


class PrefixSearch(BaseEstimator):
    """Ridge on every prefix, for the classes that say what targets and scores are.

    A subclass has

    - ``_default_scoring`` and ``_leave_one_out_score``: names of scores;
    - ``_batch_score(name)``: the function of ``_prefix_scores`` for a score, or None where
      there is no such function;
    - ``_encode(y, sample_weight)``: the targets of ridge as columns, the weights, and
      what the functions of ``_prefix_scores`` are told besides;
    - ``_given(X, predictions, *told)``: what any other scorer is called with;
    - ``_row_scores(y, all_y, predictions, *told)``: of single rows, for leave-one-out;
    - ``_keeps_grams``: whether ``_tell_more`` wants the splits' Gram matrices;
    - ``_check_targets(y)``, where not all targets can be fitted.
    """

    _keeps_grams = False

    _parameter_constraints: dict = {  # noqa: RUF012
        "prefixes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"all"}),
            None,
        ],
        "alphas": ["array-like", Interval(Real, 0, None, closed="neither")],
        "cv": ["cv_object", StrOptions({"loo"})],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "fit_intercept": ["boolean"],
        "scale": ["boolean"],
        "one_standard_error": ["boolean"],
        "n_unpenalized": [Interval(Integral, 0, None, closed="left")],
    }
    # `groups` are for the splitter alone, who asks for them itself.
    __metadata_request__fit = {"groups": UNUSED}  # noqa: RUF012

    def __init__(
        self,
        prefixes=None,
        *,
        alphas=ALPHAS,
        cv=None,
        scoring=None,
        fit_intercept=True,
        scale=False,
        one_standard_error=False,
        n_unpenalized=0,
    ):
        self.prefixes = prefixes
        self.alphas = alphas
        self.cv = cv
        self.scoring = scoring
        self.fit_intercept = fit_intercept
        self.scale = scale
        self.one_standard_error = one_standard_error
        self.n_unpenalized = n_unpenalized

    def get_metadata_routing(self):
        """Return who asks for which metadata: this search, its scorer and its splitter.

        Returns
        -------
        routing : MetadataRouter
        """
        scorer = self._scorer()
        if self.scoring is None and _routing_enabled():
            # Nobody has to be asked: scores are not weighted, with routing or without.
            scorer = scorer.set_score_request(sample_weight=False)
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(
                scorer=scorer,
                method_mapping=MethodMapping().add(caller="fit", callee="score"),
            )
            .add(
                splitter=self.cv,
                method_mapping=MethodMapping().add(caller="fit", callee="split"),
            )
        )

    def _routed(self, sample_weight, groups, params):
        """Return what the splitter and what the scorer gets beside the rows."""
        _raise_for_params(params, self, "fit")
        if not _routing_enabled():
            return {"groups": groups}, {}
        given = {**params, "sample_weight": sample_weight, "groups": groups}
        given = {name: value for name, value in given.items() if value is not None}
        routed = process_routing(self, "fit", **given)
        return routed.splitter.split, routed.scorer.score

    def _search(self, X, y, given, sample_weight, groups, params):
        """Score all candidates, choose one, and fit it on all rows.

        Splitters and scorers get rows and targets as they were given, as in GridSearchCV.
        """
        for name in FITTED:  # a search that fails leaves nothing of an earlier one
            self.__dict__.pop(name, None)
        self._scorer()  # raises for what is none
        for_splitter, for_scorer = self._routed(sample_weight, groups, params)
        names = getattr(self, "feature_names_in_", None)
        q = self._check_unpenalized(X.shape[1])
        self.prefixes_ = resolve_prefixes(self.prefixes, X.shape[1], names, q)
        self.alphas_ = self._check_alphas()
        check_consistent_length(X, groups)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
            _check_weights(sample_weight, "X")
        self._check_targets(y if sample_weight is None else y[sample_weight > 0])
        with one_thread_of_blas(X.size * min(X.shape)):
            splits = grams = None
            if self._leaves_one_out():
                self.cv_scores_, least = self._leave_one_out(X, y, sample_weight)
            else:
                given = indexable(*given)
                splits = self._splits(y, given, for_splitter)
                self.cv_scores_, least, grams = self._folds(
                    X, y, sample_weight, given, splits, for_scorer
                )
        self.n_splits_ = self.cv_scores_.shape[2]
        p, a = choose(self.cv_scores_, one_standard_error=self.one_standard_error)
        self.n_components_ = int(self.prefixes_[p])
        self.alpha_ = float(self.alphas_[a])
        self.best_score_ = float(self.cv_scores_[p, a].mean())
        self._warn(least)
        with one_thread_of_blas(X.size * min(X.shape)):
            self._refit(X, y, sample_weight)
            self._tell_more(X, y, sample_weight, splits, grams)
        return self

    def __setstate__(self, state):
        super().__setstate__(state)
        set_missing_parameters(self)

    def _tell_more(self, X, y, sample_weight, splits, grams):
        """Keep what else is asked of the chosen candidate.

        For leave-one-out there are no splits; ``grams`` has the Gram matrix of each, or None.
        """

    def _check_unpenalized(self, n_features):
        return check_integer(
            self.n_unpenalized,
            "n_unpenalized",
            0,
            n_features,
            f"n_unpenalized={self.n_unpenalized} cannot be of X, which has {n_features} columns; "
            f"use an integer in [0, {n_features}].",
        )

    def _check_targets(self, y):
        """Raise where the targets of the rows of positive weight cannot be fitted."""

    def _check_alphas(self):
        alphas = np.atleast_1d(np.asarray(self.alphas, dtype=np.float64))
        if alphas.ndim != 1 or not alphas.size:
            raise ValueError(
                f"alphas={self.alphas!r} is no one-dimensional array of numbers; use penalties "
                "such as np.logspace(-6, 3, 10)."
            )
        for alpha in alphas:
            if not (np.isfinite(alpha) and alpha > 0):
                raise ValueError(
                    f"alphas has {alpha:g}; penalties are finite and above 0. For least squares "
                    "take a small one, such as 1e-6."
                )
        return alphas

    def _splits(self, y, given, for_splitter):
        """Return the training and the test rows of all splits."""
        cv = check_cv(self.cv, given[1], classifier=is_classifier(self))
        try:
            found = list(cv.split(*given, **for_splitter))
        except ValueError as error:
            if "groups" in str(error) and for_splitter.get("groups") is None:
                raise ValueError(
                    f"{error} cv={self.cv!r} asks for groups: give them with fit(X, y, "
                    "groups=..), in cross_validate by scikit-learn's metadata routing "
                    "(set_config(enable_metadata_routing=True))."
                ) from error
            raise
        splits = [tuple(np.asarray(part) for part in split) for split in found]
        if not splits:
            raise ValueError(f"cv={self.cv!r} gives no splits; a search needs one or more.")
        for i, (train, test) in enumerate(splits):
            for part, its_rows in (("training", train), ("test", test)):
                if not len(y[its_rows]):
                    raise ValueError(f"Split {i} of cv has no {part} rows; leave it out.")
        return splits

    def _folds(self, X, y, sample_weight, given, splits, for_scorer):
        """Return scores of all candidates, alphas' least eigenvalues, and splits' Gram matrices.

        The last are None where nobody wants them, or all would take more memory than a copy of X.
        """
        kept = self._keeps_grams and len(splits) * self.prefixes_[-1] ** 2 <= X.size
        scores = np.empty((len(self.prefixes_), len(self.alphas_), len(splits)))
        least = np.ones(len(self.alphas_))
        failures: list[Exception] = []
        grams = []
        for i, (train, test) in enumerate(splits):
            weights = None if sample_weight is None else sample_weight[train]
            score = self._score_of_rows(given, y, test, for_scorer, failures)
            scores[..., i], its, gram = self._fold(X, y, weights, train, test, score, f"Split {i}")
            least = np.minimum(least, its)
            grams.append(gram if kept else None)
        if failures and np.isnan(scores.mean(axis=2)).all():
            raise ValueError(
                f"scoring={self.scoring!r} failed for all {scores[..., 0].size} candidates, in "
                f"one or more of the {len(splits)} splits each; the first time with "
                f"{failures[0]!r}"
            ) from failures[0]
        return scores, least, grams

    def _fold(self, X, y, weights, train, test, score, where):
        """Return scores of all candidates, alphas' least eigenvalues, and the Gram matrix."""
        targets, all_weights, *told = self._encode(y[train], weights)
        _check_weights(all_weights, where)
        X_train, X_test = self._columns(X[:, : self.prefixes_[-1]], train, test, weights)
        split = self._split(X_train, targets, X_test, all_weights)
        scores = np.empty((len(self.prefixes_), len(self.alphas_)))
        least = np.ones(len(self.alphas_))
        penalised = self.prefixes_ - self.n_unpenalized
        split = with_gram(split, penalised, len(self.alphas_))
        for part in ridge_path(split, penalised, self.alphas_):
            shape = part.values.shape
            candidates = part.values.reshape(shape[0], -1, shape[3])
            scores[part.prefixes, part.alphas] = score(candidates, *told).reshape(shape[1:3])
            least[part.alphas] = np.minimum(least[part.alphas], part.least)
        return scores, least, split.gram

    def _columns(self, X, train, test, weights):
        """Return training and test rows in float64, scaled where asked for."""
        X_train, X_test = (X[rows].astype(np.float64, order="F") for rows in (train, test))
        if self.scale:
            scaler = StandardScaler(with_mean=False, copy=False)
            scaler.fit(X_train, sample_weight=weights)
            X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)
        return X_train, X_test

    def _split(self, X_train, targets, X_test, weights):
        """Return a split of this search for the kernel, which works in the rows."""
        how = self.fit_intercept, self.n_unpenalized
        return centred_split(X_train, targets, X_test, weights, *how, overwrite=True)

    def _scorer(self):
        """Return the scorer; metrics and what else is none are refused in scikit-learn's words."""
        return check_scoring(self, self.scoring or self._default_scoring)

    def _score_of_rows(self, given, y, test, for_scorer, failures):
        """Return the function that scores predictions of shape (m, n_candidates, n_targets).

        Errors of the scorer are added to ``failures``.
        """
        batch = None
        if not callable(self.scoring) and not for_scorer:
            batch = self._batch_score(self.scoring or self._default_scoring)
        if batch is not None:
            return lambda candidates, *told: batch(y[test], candidates, *told)
        scorer = self._scorer()
        for_scorer = _check_method_params(given[0], params=for_scorer, indices=test)
        X_test, y_test = (_safe_indexing(part, test) for part in given)

        def one_by_one(candidates, *told):
            scores = np.empty(candidates.shape[1])
            for i, predictions in enumerate(np.moveaxis(candidates, 1, 0)):
                model = self._given(X_test, predictions, *told)
                try:
                    score = scorer(model, X_test, y_test, **for_scorer)
                except Exception as error:
                    failures.append(error)
                    score = np.nan
                    warn(
                        "Scoring failed. The score on this train-test partition for these "
                        f"parameters will be set to nan. Details: \n{format_exc()}"
                    )
                scores[i] = _number(score, scorer)
            return scores

        return one_by_one

    def _leave_one_out(self, X, y, sample_weight):
        """Return the scores of all candidates, a split a row, and alphas' least eigenvalues."""
        if (why := self._why_no_closed_form()) is not None:
            raise ValueError(why)
        targets, weights, *told = self._encode(y, sample_weight)
        _check_weights(weights, "cv='loo'", at_least=2)
        paths = leave_one_out_path(
            X[:, : self.prefixes_[-1]].astype(np.float64),
            targets,
            self.prefixes_ - self.n_unpenalized,
            self.alphas_,
            weights,
            self.fit_intercept,
            None,
            self.n_unpenalized,
        )
        scores = np.empty((len(self.prefixes_), len(self.alphas_), len(X)))
        least = np.ones(len(self.alphas_))
        for part in paths:
            scored = self._row_scores(y[part.rows], y, part.values, *told)
            scores[part.prefixes, part.alphas, part.rows] = np.moveaxis(scored, 0, 2)
            least[part.alphas] = np.minimum(least[part.alphas], part.least)
        return scores, least

    def _leaves_one_out(self):
        """Return whether each row is left out in closed form.

        ``"loo"`` asks for it, and ``LeaveOneOut()`` means the same wherever it can be had.
        """
        if isinstance(self.cv, str):
            return True
        return type(self.cv) is LeaveOneOut and self._why_no_closed_form() is None

    def _why_no_closed_form(self):
        """Return what stands against it, as a message, or None."""
        if self.scale:
            return (
                "scale=True has no closed form for cv='loo', as every row that is left out "
                "changes the scales. Scale the columns beforehand, or take cv=LeaveOneOut()."
            )
        if self.scoring not in (None, self._leave_one_out_score):
            return (
                f"scoring={self.scoring!r} cannot be used with cv='loo', whose splits have one "
                f"row; use None or {self._leave_one_out_score!r}, or another cv."
            )
        return None

    def _warn(self, least):
        ill = least < ILL_CONDITIONED
        if ill.any():
            listed = ", ".join(f"{alpha:g}" for alpha in self.alphas_[ill])
            warn(
                f"Ill-conditioned Gram matrices for alphas {listed}: the rows were factorised "
                "instead, which is slower. Larger alphas, or columns of one scale (scale=True), "
                "avoid this.",
                LinAlgWarning,
            )
        if np.isnan(self.cv_scores_).any():
            n_undefined = int(np.isnan(self.cv_scores_).any(axis=2).sum())
            warn(
                f"{n_undefined} candidates have a score of NaN in some split; they rank last.",
                UserWarning,
            )
        if self.n_components_ == self.n_unpenalized:  # the penalty is of nothing
            return
        for word, edge in (("smallest", self.alphas_.min()), ("largest", self.alphas_.max())):
            if self.alpha_ == edge and len(np.unique(self.alphas_)) > 1:
                warn(
                    f"The chosen alpha, {edge:g}, is the {word} of the grid; a better one may lie "
                    "beyond it. Widen alphas, or pass that one alone.",
                    UserWarning,
                )

    def _refit(self, X, y, sample_weight):
        """Fit the chosen candidate to all rows."""
        d = self.n_components_
        split, scale = self._split_of_all(X[:, :d], y, sample_weight)
        penalised = np.array([d - self.n_unpenalized])
        [coef], [intercept] = ridge_coefficients(split, penalised, self.alpha_)
        self._keep(coef / scale[:, None], intercept)

    def _split_of_all(self, X, y, sample_weight):
        """Return a split of all rows, and the scale of its columns; one row is to be predicted."""
        X, scale = self._scaled(X, sample_weight)
        targets, weights, *_ = self._encode(y, sample_weight)
        return self._split(X, targets, X[:1].copy(), weights), scale

    def _keep(self, coef, intercept):
        """Keep coefficients of shape (d, n_targets) and intercepts, shaped as Ridge's are."""
        # A copy has the strides that a pickle gives, and so the same joblib.hash.
        self.coef_ = np.array(coef.T, order="C")
        self.intercept_ = intercept if self.fit_intercept else 0.0

    def _scaled(self, X, sample_weight):
        """Return a copy of all rows in float64, and the scale by which they were divided."""
        X = X.astype(np.float64, order="F")
        if not self.scale:
            return X, np.ones(X.shape[1])
        scaler = StandardScaler(with_mean=False, copy=False).fit(X, sample_weight=sample_weight)
        return scaler.transform(X), scaler.scale_

    def _first(self, X):
        """Return the first columns of X, as many as the chosen prefix has."""
        check_is_fitted(self, "coef_")
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return X[:, : self.n_components_]

    def _linear(self, X):
        """Return what the coefficients make of the first columns of X."""
        return self._first(X) @ self.coef_.T + self.intercept_

    def _score(self, X, y, sample_weight, *told):
        """Return the score of the predictions, the scorer being called as in the search."""
        scorer = self._scorer()
        predictions = self._linear(X)
        check_consistent_length(predictions, y, sample_weight)
        given = self._given(X, predictions.reshape(len(predictions), -1), *told)
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        return scorer(given, X, y, **weights)

    def with_n_features(self, n_features):
        """Return a fitted copy that takes fewer columns.

        Parameters
        ----------
        n_features : int
            Columns that the copy takes, from ``n_components_``, which are all that it uses,
            to ``n_features_in_``.

        Returns
        -------
        head : object of the same class
            Predicts from ``X[:, :n_features]`` what this one predicts from X.

        Raises
        ------
        ValueError
            If the number of columns is no integer in this range.

        NotFittedError
            If the search is not fitted.
        """
        check_is_fitted(self, "coef_")
        n_features = check_integer(
            n_features,
            "n_features",
            self.n_components_,
            self.n_features_in_,
            f"n_features={n_features} cannot be; use an integer in "
            f"[{self.n_components_}, {self.n_features_in_}]: the chosen prefix has "
            f"{self.n_components_} columns, X had {self.n_features_in_}.",
        )
        narrow = copy(self)
        narrow.n_features_in_ = n_features
        if hasattr(self, "feature_names_in_"):
            narrow.feature_names_in_ = self.feature_names_in_[:n_features]
        return narrow
