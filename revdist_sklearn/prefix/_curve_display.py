"""Score against prefix, as a picture."""

import numpy as np
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..base._blocks import Blocks
from ..base._drawing import clear_legend, mark_stages, new_axes, thin_ticks
from ._search import PrefixSearch, first_best
from ._selector import PrefixSelector

SCORE_NAMES = {"r2": "R²", "roc_auc": "ROC AUC"}
# Prefixes whose steps differ by more than this are drawn on a logarithmic axis.
UNEVEN = 5
# More of them than this are not all written on that axis.
MOST_TICKS = 12
# Of more prefixes than this the line alone is drawn.
MOST_MARKERS = 40
PREFIX = "prefix (columns)"
SPREADS = {"std": "standard deviation", "standard_error": "standard error"}


class PrefixCurveDisplay:
    """Score against the prefix of a nested embedding, with its spread over splits.

    Make one with :meth:`from_estimator` or :meth:`from_scores`; both draw it at once.

    Parameters
    ----------
    prefixes : array-like of int, shape (n_prefixes,)
        Widths, ascending.

    scores : array-like of shape (n_prefixes, n_splits)
        Scores of each; greater is better.

    n_components : int, default=None
        The chosen prefix, to be marked.

    stage_dims : array-like of int, shape (n_stages,), default=None
        Widths at which the models of the family end, such as the ``stage_dims_`` of a
        distiller, to be marked.

    stage_names : sequence of str, default=None
        Names of these models, such as the ``block_names_`` of a distiller.

    score_name : str, default=None
        What the scores are, for the axis.

    name : str, default=None
        Of the curve, for the legend.

    nested_scores : array-like of shape (n_outer_splits,), default=None
        Scores of the whole search on rows that it has not seen, such as those that
        ``cross_val_score`` gives of a :class:`PrefixRidgeCV`, to be drawn at the chosen prefix.
        The curve's own score there is the best of many, and so too good.

    baselines : dict of str to float or array-like, default=None
        Scores, one or one a split, of what has no prefix, by name: drawn as level lines.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.

    figure_ : matplotlib Figure
        The figure of the axes.

    line_ : matplotlib Line2D
        The mean scores.

    band_ : matplotlib collection or None
        Their spread over splits.

    chosen_ : matplotlib Line2D or None
        The mark of the chosen prefix.

    nested_ : matplotlib ErrorbarContainer or None
        The nested score.

    baselines_ : list of matplotlib Line2D
        The level lines.

    See Also
    --------
    PrefixRidgeCV : A search that it draws.

    Examples
    --------
    >>> from revdist_sklearn import PrefixCurveDisplay
    >>> display = PrefixCurveDisplay(
    ...     prefixes=[32, 64, 96], scores=[[0.3, 0.4], [0.4, 0.5], [0.4, 0.6]])
    >>> display.mean.round(2).tolist()
    [0.35, 0.45, 0.5]
    """

    def __init__(
        self,
        *,
        prefixes,
        scores,
        n_components=None,
        stage_dims=None,
        stage_names=None,
        score_name=None,
        name=None,
        nested_scores=None,
        baselines=None,
    ):
        self.prefixes = np.asarray(prefixes)
        self.scores = np.asarray(scores, dtype=np.float64)
        if self.scores.ndim != 2 or not self.scores.size or len(self.scores) != self.prefixes.size:
            raise ValueError(
                f"scores has shape {self.scores.shape}, prefixes {self.prefixes.shape}; scores "
                "needs one row a prefix and one column a split."
            )
        if (np.diff(self.prefixes) <= 0).any():
            raise ValueError(f"prefixes={self.prefixes.tolist()} do not ascend; sort both by it.")
        if n_components is not None and n_components not in self.prefixes:
            raise ValueError(
                f"n_components={n_components} is none of the prefixes, {self.prefixes.tolist()}."
            )
        n_names = None if stage_names is None else len(stage_names)
        n_dims = 0 if stage_dims is None else len(stage_dims)
        if n_names not in (None, n_dims):
            raise ValueError(
                f"stage_names has {n_names} names, stage_dims {n_dims} widths; give one name a "
                "width."
            )
        self.nested_scores = None
        if nested_scores is not None:
            self.nested_scores = _one_dimensional(nested_scores, "nested_scores")
            if n_components is None:
                raise ValueError(
                    "nested_scores are drawn at the chosen prefix, and none is; give n_components."
                )
        self.baselines = {
            str(of): _one_dimensional(given, f"baselines[{of!r}]")
            for of, given in (baselines or {}).items()
        }
        self.n_components = n_components
        self.stage_dims = stage_dims
        self.stage_names = stage_names
        self.score_name = score_name
        self.name = name

    @property
    def mean(self):
        """Mean scores over splits, of shape (n_prefixes,)."""
        return self.scores.mean(axis=1)

    def plot(self, ax=None, *, name=None, spread="std", line_kw=None, band_kw=None):
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure. Several curves share the axes of the first.

        name : str, default=None
            For the legend; None takes that of the display.

        spread : {"std", "standard_error"} or None, default="std"
            What the band shows around the mean, and the bars of nested scores and baselines:
            the standard deviation over splits, or the standard error of the mean, which the
            one-standard-error rule uses. The axis says which, and of how many splits.

        line_kw, band_kw : dict, default=None
            For matplotlib's ``plot`` and ``fill_between``.

        Returns
        -------
        display : PrefixCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        ValueError
            If ``spread`` is none of these.
        """
        if spread not in ("std", "standard_error", None):
            raise ValueError(f"spread={spread!r}; use 'std', 'standard_error' or None.")
        if ax is None:
            ax = new_axes()
        from matplotlib.lines import Line2D

        name = self.name if name is None else name
        self.ax_, self.figure_ = ax, ax.figure
        if not ax.has_data():
            self._scale_axis()
        marker = "." if len(self.prefixes) <= MOST_MARKERS else ""
        style = _style(Line2D, {"marker": marker, "label": name}, line_kw)
        [self.line_] = ax.plot(self.prefixes, self.mean, **style)
        color = self.line_.get_color()
        self.band_ = self._draw_band(spread, {"color": color} | (band_kw or {}))
        self.chosen_ = self._draw_chosen(color)
        self.nested_ = self._draw_nested(spread, color)
        self.baselines_ = self._draw_baselines(spread)
        if self.stage_dims is not None:
            mark_stages(ax, self.stage_dims, self.stage_names)
        self._label_axes(spread)
        thin_ticks(ax)
        clear_legend(ax)
        return self

    def _label_axes(self, spread):
        """Name the axes, and say below them what lines and bands of all curves are."""
        before = self.ax_.get_xlabel().split("\n")
        notes = before[1:] if before[0] == PREFIX else []
        n_splits = self.scores.shape[1]
        if n_splits > 1:
            band = "" if self.band_ is None else f" ± {SPREADS[spread]}"
            note = f"mean{band} over {n_splits} splits"
            notes += [note] if note not in notes else []
        self.ax_.set_xlabel("\n".join([PREFIX, *notes]))
        self.ax_.set_ylabel(self.score_name or "score")

    def _draw_band(self, spread, style):
        width = _width(self.scores, spread)
        if width is None:
            return None
        from matplotlib.collections import PolyCollection

        style = _style(PolyCollection, {"alpha": 0.15, "linewidth": 0}, style)
        return self.ax_.fill_between(self.prefixes, self.mean - width, self.mean + width, **style)

    def _draw_nested(self, spread, color):
        """Draw the nested score at the chosen prefix."""
        if self.nested_scores is None:
            return None
        score, width = self.nested_scores.mean(), _width(self.nested_scores, spread)
        what = f"nested: {score:.3f}" + ("" if width is None else f" ± {width:.3f}")
        return self.ax_.errorbar(
            *(self.n_components, score, width),
            fmt="D",
            color=color,
            markersize=6,
            markeredgecolor="white",
            capsize=4,
            label=what,
            zorder=4,
        )

    def _draw_baselines(self, spread):
        lines = []
        for j, (of, scores) in enumerate(self.baselines.items()):
            color, width = str(0.25 + 0.35 * (j % 2)), _width(scores, spread)
            style = (":", "-.")[j // 2 % 2]
            lines.append(self.ax_.axhline(scores.mean(), color=color, linestyle=style, label=of))
            if width is not None:
                low, high = scores.mean() - width, scores.mean() + width
                self.ax_.axhspan(low, high, color=color, alpha=0.08, linewidth=0)
        return lines

    def _draw_chosen(self, color):
        if self.n_components is None:
            return None
        score = self.mean[self.prefixes == self.n_components][0]
        [mark] = self.ax_.plot(
            self.n_components,
            score,
            "o",
            color=color,
            markersize=9,
            markerfacecolor="none",
            markeredgewidth=2,
        )
        self.ax_.annotate(
            f"{self.n_components}",
            (self.n_components, score),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            color=color,
        )
        return mark

    def _scale_axis(self):
        steps = np.diff(self.prefixes)
        if len(steps) > 1 and steps.max() > UNEVEN * steps.min():
            self.ax_.set_xscale("log", base=2)
            if len(self.prefixes) <= MOST_TICKS:
                self.ax_.set_xticks(self.prefixes)
            self.ax_.xaxis.set_major_formatter("{x:g}")
            self.ax_.minorticks_off()

    @classmethod
    def from_estimator(
        cls,
        search,
        *,
        stage_dims=None,
        stage_names=None,
        score_name=None,
        name=None,
        nested_scores=None,
        baselines=None,
        ax=None,
        spread="auto",
        line_kw=None,
        band_kw=None,
    ):
        """Draw the curve of a fitted search: for each prefix, that of its best other parameters.

        Parameters
        ----------
        search : fitted estimator
            :class:`PrefixRidgeCV`, :class:`PrefixRidgeClassifierCV`, a pipeline that ends
            in one, or a search such as :class:`~sklearn.model_selection.GridSearchCV` over
            the ``n_components`` of a :class:`PrefixSelector`.

        stage_dims, stage_names
            As for the class; without ``stage_dims`` both are read from the names of the
            columns that the prefix is taken of, where they tell.

        score_name, name
            As for the class; None takes the name of ``scoring``, and no name.

        nested_scores, baselines
            As for the class.

        ax, line_kw, band_kw
            As for :meth:`plot`.

        spread : {"auto", "std", "standard_error"} or None, default="auto"
            As for :meth:`plot`; ``"auto"`` is ``"std"``, for ``cv="loo"``, whose splits have
            one row, ``"standard_error"``.

        Returns
        -------
        display : PrefixCurveDisplay

        Raises
        ------
        TypeError
            If it is no search over prefixes, or one whose candidates saw different rows.

        ValueError
            If its parameters or metrics leave open what to draw.

        NotFittedError
            If it is not fitted.

        Examples
        --------
        >>> import numpy as np
        >>> from revdist_sklearn import PrefixCurveDisplay, PrefixRidgeCV
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 8))
        >>> y = X[:, :3].sum(axis=1) + rng.normal(size=60)
        >>> search = PrefixRidgeCV("all", alphas=[0.1, 1.0, 10.0, 100.0]).fit(X, y)
        >>> display = PrefixCurveDisplay.from_estimator(search)  # doctest: +SKIP
        """
        while isinstance(search, Pipeline):
            search = search[-1]
        if isinstance(search, PrefixSearch):
            curve = _of_prefix_search(search)
        else:
            curve = _of_grid_search(search)
        prefixes, scores, n_components, names, scoring = curve
        blocks = Blocks.nested(names)
        if stage_dims is None and blocks is not None:
            # What ends before the first prefix that there can be is no stage.
            least = getattr(search, "n_unpenalized", 0)
            pairs = zip(blocks.edges[1:], blocks.labels, strict=True)
            ends = [(edge, name) for edge, name in pairs if edge >= least]
            stage_dims = [edge for edge, _ in ends]
            if stage_names is None:
                # Without the names of transformers, which a FeatureUnion puts before them.
                stage_names = [name.rpartition("__")[2].removeprefix("rd_") for _, name in ends]
        if spread == "auto":
            one_row_a_split = isinstance(search, PrefixSearch) and search._leaves_one_out()
            spread = "standard_error" if one_row_a_split else "std"
        display = cls(
            prefixes=prefixes,
            scores=scores,
            n_components=n_components,
            stage_dims=stage_dims,
            stage_names=stage_names,
            score_name=_score_name(scoring) if score_name is None else score_name,
            name=name,
            nested_scores=nested_scores,
            baselines=baselines,
        )
        return display.plot(ax, spread=spread, line_kw=line_kw, band_kw=band_kw)

    @classmethod
    def from_scores(
        cls,
        prefixes,
        scores,
        *,
        n_components=None,
        stage_dims=None,
        stage_names=None,
        score_name=None,
        name=None,
        nested_scores=None,
        baselines=None,
        ax=None,
        spread="std",
        line_kw=None,
        band_kw=None,
    ):
        """Draw the curve of given scores.

        Parameters
        ----------
        prefixes, scores, n_components, stage_dims, stage_names, score_name, name
            As for the class.

        nested_scores, baselines
            As for the class.

        ax, spread, line_kw, band_kw
            As for :meth:`plot`.

        Returns
        -------
        display : PrefixCurveDisplay
        """
        display = cls(
            prefixes=prefixes,
            scores=scores,
            n_components=n_components,
            stage_dims=stage_dims,
            stage_names=stage_names,
            score_name=score_name,
            name=name,
            nested_scores=nested_scores,
            baselines=baselines,
        )
        return display.plot(ax, spread=spread, line_kw=line_kw, band_kw=band_kw)


def _style(artist, defaults, given):
    """Return keywords for an artist, given ones first, by their long names."""
    from matplotlib.cbook import normalize_kwargs

    return defaults | normalize_kwargs(given or {}, artist)


def _width(scores, spread):
    """Return the spread of scores over their last axis, or None where there is none."""
    n_splits = scores.shape[-1]
    if spread is None or n_splits < 2:
        return None
    if spread == "standard_error":
        return scores.std(axis=-1, ddof=1) / np.sqrt(n_splits)
    return scores.std(axis=-1)


def _one_dimensional(scores, name):
    """Return scores as an array, one a split."""
    scores = np.atleast_1d(np.asarray(scores, dtype=np.float64))
    if scores.ndim != 1 or not scores.size:
        raise ValueError(
            f"{name} has shape {scores.shape}; give one score, or a flat list of one a split."
        )
    return scores


def _of_prefix_search(search):
    """Return prefixes, scores at the best alpha of each, choice, names of columns and scoring."""
    check_is_fitted(search, "coef_")
    scoring = search.scoring
    if scoring is None:
        scoring = search._leave_one_out_score if search._leaves_one_out() else _default(search)
    return (
        search.prefixes_,
        _best(search.cv_scores_),
        search.n_components_,
        getattr(search, "feature_names_in_", None),
        scoring,
    )


def _of_grid_search(search):
    """Return the same of a search of scikit-learn over a PrefixSelector."""
    estimator = getattr(search, "estimator", None)
    steps = {} if estimator is None else estimator.get_params(deep=True)
    keys = [
        f"{step}__n_components"
        for step, value in steps.items()
        if isinstance(value, PrefixSelector)
    ]
    if not keys:
        raise TypeError(
            f"{type(search).__name__} is no search over prefixes. Draw a fitted PrefixRidgeCV or "
            "PrefixRidgeClassifierCV, or GridSearchCV over a pipeline with a PrefixSelector; for "
            "scores of other origin use from_scores."
        )
    check_is_fitted(search, "cv_results_")
    if hasattr(search, "n_resources_"):
        raise TypeError(
            f"{type(search).__name__} scores its candidates on different numbers of rows, which "
            "one curve cannot show; give those of one iteration to from_scores."
        )
    candidates = search.cv_results_["params"]
    found = [key for key in keys if all(key in candidate for candidate in candidates)]
    if len(found) != 1:
        raise ValueError(
            f"The grid has {len(found)} of {', '.join(keys)} as parameters of all candidates; a "
            "curve needs one of them."
        )
    [key] = found
    if any(candidate[key] is None for candidate in candidates):
        raise ValueError(
            f"The grid of {key} has None; give the number of columns that it stands for instead."
        )
    metric, scoring = "score", search.scoring
    if search.multimetric_:
        metric = scoring = search.refit
        if not isinstance(metric, str):
            raise ValueError(
                f"The search has the metrics {', '.join(search.scorer_)}, and refit={metric!r} "
                "names none of them; set refit to the one to draw."
            )
    scores = np.stack(
        [search.cv_results_[f"split{i}_test_{metric}"] for i in range(search.n_splits_)], axis=-1
    )
    widths = np.array([candidate[key] for candidate in candidates])
    prefixes = np.unique(widths)
    best = np.concatenate([_best(scores[widths == d][None]) for d in prefixes])
    names = None
    if hasattr(search, "best_estimator_"):
        selector = search.best_estimator_.get_params()[key.rpartition("__")[0]]
        names = getattr(selector, "feature_names_in_", None)
    chosen = candidates[search.best_index_][key] if hasattr(search, "best_index_") else None
    return prefixes, best, chosen, names, scoring or _default(search)


def _best(scores):
    """Return (n_prefixes, n_splits) of (n_prefixes, n_candidates, n_splits): the best mean."""
    mean = scores.mean(axis=2)
    best = first_best(np.where(np.isnan(mean), -np.inf, mean))
    return scores[np.arange(len(scores)), best]


def _default(search):
    return "accuracy" if is_classifier(search) else "r2"


def _score_name(scoring):
    if not isinstance(scoring, str):
        return None
    words = scoring.replace("neg_", "negative ").replace("_", " ")
    return SCORE_NAMES.get(scoring, words)
