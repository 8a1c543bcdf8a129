"""compact: a fitted pipeline that runs only the models its prefix needs."""

from copy import copy, deepcopy

from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from ._provenance import check_models
from .embedding._featurizer import ESMFeaturizer
from .method._distiller import ReverseDistiller
from .prefix._selector import PrefixSelector

SHAPE = (
    "make_pipeline(ESMFeaturizer(...), FrozenEstimator(ReverseDistiller()), PrefixSelector(d), "
    "head), the same with PrefixRidgeCV() for the last two or make_union(others, "
    "make_pipeline(the first two)) for these, or a search over it"
)


def compact(pipeline):
    """Return an equal fitted pipeline that runs only the models its prefix needs.

    A pipeline that keeps the first columns of a nested embedding throws the others away after
    all models have run. The result leaves out those beyond the prefix: the featurizer has
    fewer members, the distiller fewer stages, and what follows is as it was.

    Parameters
    ----------
    pipeline : Pipeline, fitted search, or FrozenEstimator of one
        Its steps are an :class:`ESMFeaturizer`, a :class:`ReverseDistiller` (frozen or not),
        and any others. The prefix is that of the :class:`PrefixSelector` which follows, or of
        a last step such as :class:`PrefixRidgeCV`, one that has ``n_components_`` and
        ``with_n_features``; without either it is the distiller's own width. The first two may
        be a pipeline in a FeatureUnion, beside transformers of other columns: these stay as they
        are, or are dropped where they begin behind the prefix. A search stands for
        its ``best_estimator_``; so does one that is the last step, where it chose a narrower
        prefix.

    Returns
    -------
    pipeline : Pipeline
        Fitted, with the same names of steps, parameters and output configuration; it shares
        no step with the input, which is left as it is. Predictions are equal up to float32
        rounding of the same columns. ``score`` is that of the last step: the ``scoring`` of
        a search is not part of its best estimator.

    Raises
    ------
    NotFittedError
        If the pipeline, its distiller or the search is not fitted.

    TypeError
        If it is neither a pipeline nor a search of one.

    ValueError
        If the steps are of another kind, one between distiller and selector needs all
        columns, it cannot be told how many a transformer of a FeatureUnion gives, or the
        distiller was fitted on other models: known by their weights where it was fitted on a
        corpus and these are on this machine, else by their names, if any.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from revdist_sklearn import (
    ...     ESMFeaturizer, PrefixSelector, ReverseDistiller, compact, fit_on_corpus)
    >>> from revdist_sklearn.datasets import load_uniprot_sample
    >>> emb = ESMFeaturizer("esm2-nano:64")
    >>> corpus = load_uniprot_sample().sequences[:5]
    >>> rd = fit_on_corpus(ReverseDistiller(), emb, corpus, verbose=False)
    >>> model = make_pipeline(emb, FrozenEstimator(rd), PrefixSelector(20), Ridge())
    >>> small = compact(model.fit(["MKTAY", "GIVEQ"], [0.0, 1.0]))
    >>> small[0].get_params()["models"]
    'esm2-nano:32'
    """
    pipeline = _pipeline_of(pipeline)
    check_is_fitted(pipeline)
    steps = list(pipeline.steps)
    result = copy(pipeline)
    at = _distiller_at(steps)
    if at is not None:
        prefix, after = _prefix(steps[at + 1 :], _unfrozen(steps[at][1]).n_components_)
        result.steps = [*_cut_embedding(steps[: at + 1], prefix), *after]
        return result
    unions = [i for i, (_, step) in enumerate(steps) if _branch_of_union(_unfrozen(step))]
    if len(unions) != 1:
        names = ", ".join(f"{name} ({type(_unfrozen(step)).__name__})" for name, step in steps)
        raise ValueError(
            f"The steps {names} are not an ESMFeaturizer followed at once by a ReverseDistiller, "
            f"so that no model can be left out. Supported is {SHAPE}. For arrays instead of "
            "sequences use the distiller's truncate(d), which takes fewer columns."
        )
    [at] = unions
    name, step = steps[at]
    widths = _widths(_unfrozen(step), steps[at + 1 :])
    prefix, after = _prefix(
        steps[at + 1 :], sum(widths), lambda prefix: _cut_union(_unfrozen(step), widths, prefix)[0]
    )
    _, union = _cut_union(_unfrozen(step), widths, prefix)
    result.steps = [*deepcopy(steps[:at]), (name, _frozen_like(step, union)), *after]
    return result


def _distiller_at(steps):
    """Return where the distiller stands that follows an ESMFeaturizer, each the only one."""
    kinds = [_unfrozen(step) for _, step in steps]
    found = [i for i, step in enumerate(kinds) if isinstance(step, ReverseDistiller)]
    before = [i for i, step in enumerate(kinds) if isinstance(step, ESMFeaturizer)]
    if len(found) != 1 or before != [found[0] - 1]:
        return None
    check_is_fitted(kinds[found[0]])
    return found[0]


def _cut_embedding(steps, prefix):
    """Return copies of steps that end in featurizer and distiller, with the members it needs."""
    *before, (its_name, featurizer), (name, distiller) = steps
    check_models(
        _unfrozen(distiller),
        _unfrozen(featurizer).embedding_plan("residue"),
        "the featurizer gives",
        "so no model can be left out. Fit it on the featurizer's models: "
        "ReverseDistiller(block_sizes=...), or fit_on_corpus; the same models under other names "
        "are known by a fit_on_corpus of this version.",
    )
    cut = _unfrozen(distiller).truncate(prefix)
    fewer = _unfrozen(featurizer).with_n_models(len(cut.blocks_))
    return [
        *((each, deepcopy(step)) for each, step in before),
        (its_name, _frozen_like(featurizer, fewer)),
        (name, _frozen_like(distiller, deepcopy(cut))),
    ]


def _branch_of_union(step):
    """Return the name of the only transformer of a FeatureUnion that ends in a distiller."""
    names = [name for name, each in getattr(step, "transformer_list", ()) if _is_embedding(each)]
    return names[0] if isinstance(step, FeatureUnion) and len(names) == 1 else None


def _is_embedding(step):
    """Return whether a step is a pipeline of a featurizer and, at its end, a distiller."""
    pipeline = _unfrozen(step)
    if not isinstance(pipeline, Pipeline):
        return False
    return _distiller_at(pipeline.steps) == len(pipeline.steps) - 1


def _widths(union, after):
    """Return how many columns each transformer of a union gives, the following steps tell all."""
    widths, unknown = [], []
    for i, (name, step) in enumerate(union.transformer_list):
        if _is_embedding(step):
            widths.append(_unfrozen(_unfrozen(step).steps[-1][1]).n_components_)
        elif isinstance(step, str) and step == "drop":
            widths.append(0)
        else:
            try:
                widths.append(len(step.get_feature_names_out()))
            except Exception:  # it has no names, or none without those of its input
                widths.append(0)
                unknown.append((i, name))
    seen = [getattr(_unfrozen(step), "n_features_in_", None) for _, step in after]
    total = next((n for n in seen if n is not None), None)
    if len(unknown) == 1 and total is not None:
        widths[unknown[0][0]] = total - sum(widths)
        unknown = []
    if unknown:
        names = ", ".join(repr(name) for _, name in unknown)
        raise ValueError(
            f"It cannot be told how many columns {names} of the FeatureUnion give, and so which "
            "are of the distiller. Transformers with get_feature_names_out tell; so does a step "
            "behind the union that has n_features_in_, for one of them."
        )
    return widths


def _cut_union(union, widths, prefix):
    """Return how many columns are left of a union for this prefix, and a union that gives them.

    The distiller is cut to the prefix, others stay or, from the prefix on, are dropped.
    """
    cut, start, left = copy(union), 0, 0
    cut.transformer_list = []
    for (name, step), width in zip(union.transformer_list, widths, strict=True):
        needed = min(width, prefix - start)
        if needed <= 0:
            kept = "drop"
        elif needed < width and _is_embedding(step):
            branch = copy(_unfrozen(step))
            branch.steps = _cut_embedding(branch.steps, needed)
            kept, left = _frozen_like(step, branch), left + needed
        else:
            kept, left = deepcopy(step), left + width
        cut.transformer_list.append((name, kept))
        start += width
    return left, cut


def _pipeline_of(estimator):
    """Return the fitted pipeline that a search or a frozen estimator stands for."""
    estimator = _unfrozen(estimator)
    if hasattr(estimator, "best_estimator_"):
        return _pipeline_of(estimator.best_estimator_)
    if isinstance(estimator, Pipeline):
        return estimator
    if getattr(estimator, "refit", True) is False:
        raise ValueError(
            f"{type(estimator).__name__} was run with refit=False, so that it has no fitted "
            "pipeline. Set refit=True, or fit the pipeline of your choice and give that."
        )
    if hasattr(estimator, "refit") and hasattr(estimator, "estimator"):
        raise NotFittedError(f"This {type(estimator).__name__} is not fitted yet; call fit first.")
    raise TypeError(
        f"compact takes a fitted Pipeline, or a fitted search over one, not "
        f"{type(estimator).__name__}. Supported is {SHAPE}."
    )


def _prefix(steps, width, taken=int):
    """Return the prefix that some fitted steps keep, and the steps that take just that.

    Parameters
    ----------
    steps : list of (str, estimator)
        What follows the distiller.

    width : int
        Columns that come out of it.

    taken : callable, default=int
        How many columns the steps get that keep a prefix; more than the prefix where what
        comes last of it cannot be cut.

    Returns
    -------
    prefix : int

    steps : list of (str, estimator)
        Copies.
    """
    rest = list(steps)
    passed = []
    while rest:
        name, step = rest.pop(0)
        inner = _unfrozen(step)
        if inner is None or inner == "passthrough":
            passed.append((name, step))
            continue
        if isinstance(inner, PrefixSelector):
            prefix = inner.n_components_
            cut = _narrow_selector(inner, taken(prefix))
        elif hasattr(inner, "best_estimator_"):
            prefix, [(_, best)] = _prefix([(name, inner.best_estimator_)], width, taken)
            # One that searched for something else goes on as it is, with its scoring.
            cut = best if prefix < width else deepcopy(inner)
        elif _chooses_a_prefix(inner):
            prefix = inner.n_components_
            cut = deepcopy(inner.with_n_features(taken(prefix)))
        elif isinstance(inner, Pipeline):
            cut = copy(inner)
            prefix, cut.steps = _prefix(inner.steps, width, taken)
        elif any(_chooses_a_prefix(_unfrozen(later)) for _, later in rest):
            raise ValueError(
                f"The step {name!r} ({type(inner).__name__}) stands between the distiller and the "
                "step that chooses a prefix, and was fitted on all columns. Put it behind the "
                "PrefixSelector, or use scale=True of PrefixRidgeCV, and fit again."
            )
        else:
            prefix, cut = width, deepcopy(inner)
        return prefix, [*passed, (name, _frozen_like(step, cut)), *deepcopy(rest)]
    return width, passed


def _chooses_a_prefix(step):
    return isinstance(step, PrefixSelector) or (
        hasattr(step, "n_components_") and hasattr(step, "with_n_features")
    )


def _narrow_selector(selector, n_features):
    """Return a fitted selector that takes fewer columns, no fewer than it keeps."""
    narrow = deepcopy(selector)
    narrow.n_features_in_ = n_features
    if hasattr(selector, "feature_names_in_"):
        narrow.feature_names_in_ = selector.feature_names_in_[:n_features]
    return narrow


def _unfrozen(step):
    return step.estimator if isinstance(step, FrozenEstimator) else step


def _frozen_like(step, new):
    """Return the new step, frozen where the old one was."""
    if not isinstance(step, FrozenEstimator):
        return new
    frozen = copy(step)
    frozen.estimator = new
    return frozen
