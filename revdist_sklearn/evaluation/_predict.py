"""The decision that a lab waits for: which features, and what to measure next."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.feature_extraction import DictVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from .._compact import compact
from ..prefix._ridge_cv import PrefixRidgeCV
from ._data_set import TABLE, few_in_fold, scored_alone
from ._fit import fit_rows
from ._metrics import METRICS
from ._mutations import compared
from ._rows import (
    Behind,
    PartScaler,
    Rows,
    SideBySide,
    TotalScaler,
    mutation_counts,
    too_large,
    widths_of,
)
from ._run import rounded, scorer_of
from ._splits import inner, splits
from ._summary import mean_score, standard_error
from ._verdict import against_no_model, folds_by

ONE_HOT, SCORES, EMBEDDING = "one-hot", "scores", "embedding"
# What is compared, from the cheapest to run; scores go first and are not penalised.
CANDIDATES = (
    (TABLE,),
    (ONE_HOT,),
    (SCORES,),
    (SCORES, TABLE),
    (SCORES, ONE_HOT),
    (EMBEDDING,),
    (SCORES, EMBEDDING),
    (TABLE, EMBEDDING),
    (ONE_HOT, EMBEDDING),
    (SCORES, TABLE, EMBEDDING),
    (SCORES, ONE_HOT, EMBEDDING),
)
OF_MODELS = {SCORES, EMBEDDING}
# A fold may have one row.
SCORING = "neg_mean_squared_error"


def letters(sequences):
    """Return sequences of one length as an array of letters."""
    return np.array([list(sequence.upper()) for sequence in sequences])


def counts(reference, offset, sequences):
    """Return the counts of :func:`mutation_counts` of sequences by their wild type."""
    found = []
    for sequence in sequences:
        mutations = compared(reference, sequence.upper()) or ()
        found.append(mutation_counts([(a, p + offset, b) for a, p, b in mutations]))
    return found


@dataclass(frozen=True)
class Choice:
    """What was chosen, and how it compares.

    Parameters
    ----------
    model : Pipeline
        Fitted; its ``predict`` takes sequences, and ``return_std``.

    parts : tuple of str
        What its features are.

    scores : dict of str to list of float or None
        Spearman correlation of each candidate in each fold; None where measurements of a fold
        are all equal.

    split : str
        Kind of the folds.

    lines : list of str
        What is to be said.
    """

    model: object
    parts: tuple
    scores: dict
    split: str
    lines: list


def transformers(family, reference, offset):
    """Return the transformers from sequences to features, by name.

    Parameters
    ----------
    family : Family

    reference : str
        The wild type.

    offset : int
        Position ``p`` is residue ``p - offset`` of it.

    Returns
    -------
    parts : dict of str to transformer
        Without scores where ``family`` has them not.
    """
    count = FunctionTransformer(partial(counts, reference, offset))
    split = FunctionTransformer(letters)
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    embedding = make_pipeline(family.featurizer, FrozenEstimator(family.distiller))
    parts = {
        TABLE: make_pipeline(count, DictVectorizer(sparse=False)),
        ONE_HOT: make_pipeline(split, encoder),
        EMBEDDING: embedding,
    }
    if family.scores:
        parts[SCORES] = family.scorer(reference, combine="mean")
    return parts


def choose(variants, family, *, seed=0):
    """Choose the features of a table of measurements in folds by position, and fit them.

    Parameters
    ----------
    variants : Variants
        Numbers of sequences as long as their wild type, which is known.

    family : Family

    seed : int, default=0
        Of the folds.

    Returns
    -------
    choice : Choice

    Raises
    ------
    ValueError
        If there is no wild type, sequences differ in length from it, or measurements are
        classes.
    """
    check_variants(variants)
    variants, note = scored_alone(variants, family)
    notes = [] if note is None else [note]
    parts = transformers(family, variants.wild_type, variants.offset)
    kind, folds, note = _folds(variants, seed)
    few = few_in_fold(kind, np.mean([len(fold.test) for fold in folds]))
    notes += [each for each in (note, few) if each is not None]
    X = {}
    for name, part in list(parts.items()):
        try:
            X[name] = np.asarray(part.fit_transform(variants.sequences))
        except ValueError as error:
            if name != SCORES:
                raise
            notes.append(f"No scores of the models themselves: {error}")
            del parts[SCORES]
    if (why := too_large(*X[ONE_HOT].shape)) is not None:
        notes.append(f"No one-hot residues: {why}")
        del X[ONE_HOT]
    metric = scorer_of(METRICS["regression"][0], None)
    within = [inner(fold, variants) for fold in folds]
    scores: dict[tuple, list] = {}
    for names in CANDIDATES:
        if not set(names) <= set(X):
            continue
        features = SideBySide(*(X[name] for name in names))
        q = X[SCORES].shape[1] if SCORES in names else 0
        in_fold = None
        if n_penalized(names) > 1:  # what has a penalty in common is brought to one scale
            widths = [X[name].shape[1] for name in names if name != SCORES]
            in_fold = Behind(q, PartScaler(widths))
        rows = Rows("x", ("x",), (features.shape[1],), ((),), features, in_fold, q)
        scores[names] = []
        for fold, inside in zip(folds, within, strict=True):
            values, _ = fit_rows(rows, variants.target, None, fold, inside, metric)
            scores[names].append(rounded(metric(variants.target[fold.test], values)[0]))
    if not np.isfinite(mean_score(scores[TABLE,])):
        raise ValueError(
            f"{variants.name} has no score in any of the {folds_by(kind)}: measurements in each "
            "are equal. Measure more variants."
        )
    chosen = cheapest_of_the_best(scores)
    model = _fitted(variants, family, parts, chosen, folds)
    lines = [*notes, *_said(scores, chosen, kind)]
    by_name = {_name(names): found for names, found in scores.items()}
    return Choice(model, chosen, by_name, kind, lines)


def check_variants(variants):
    """Raise where variants are none that can be chosen for."""
    if variants.task != "regression":
        raise ValueError(
            f"{variants.name} has classes; a ranking needs numbers. --task regression takes 0 "
            "and 1 as numbers, and `revdist evaluate` scores classes."
        )
    if variants.wild_type is None:
        raise ValueError(
            f"The wild type of {variants.name} is not known; give its sequence with --wild-type. "
            "What is ranked are variants of one protein."
        )
    for sequence, label in zip(variants.sequences, variants.labels, strict=True):
        if len(sequence) != len(variants.wild_type):
            raise ValueError(
                f"{label} has {len(sequence)} residues, the wild type {len(variants.wild_type)}; "
                "substitutions alone can be ranked. Leave out insertions and deletions."
            )


def _folds(variants, seed):
    """Return the kind of the folds, the folds, and what is to be said of them."""
    try:
        found = splits(variants, "position", seed=seed)
        n_tested = sum(len(fold.test) for fold in found)
        if 2 * n_tested >= len(variants):
            return "position", found, None
        why = f"they test {n_tested} of {len(variants)} rows alone."
    except ValueError as error:
        why = str(error)
    text = (
        f"No folds by position: {why} What is predicted of positions without a measurement is "
        "not tested."
    )
    return "random", splits(variants, "random", seed=seed), text


def cheapest_of_the_best(scores):
    """Return the first candidate within one standard error of the best.

    Parameters
    ----------
    scores : dict of tuple to list of float or None
        From the cheapest to run on.

    Returns
    -------
    names : tuple of str
    """
    means = {names: mean_score(found) for names, found in scores.items()}
    best = max(means, key=means.__getitem__)
    error = standard_error(scores[best])
    return next(names for names, mean in means.items() if mean >= means[best] - error)


def _fitted(variants, family, parts, names, folds):
    """Return the fitted pipeline of the chosen features, of as few models as they need."""
    cv = [(fold.train, fold.test) for fold in folds]
    if names == (EMBEDDING,):
        widths = widths_of(family.distiller)
        head = PrefixRidgeCV(widths, cv=cv, one_standard_error=True, scoring=SCORING)
        steps = [step for _, step in parts[EMBEDDING].steps]
        model = make_pipeline(*steps, head)
        return compact(model.fit(variants.sequences, variants.target))
    several = n_penalized(names) > 1
    steps = [
        make_pipeline(*(step for _, step in parts[name].steps), TotalScaler())
        if several and name != SCORES
        else parts[name]
        for name in names
    ]
    # All columns: none of these is nested.
    head = PrefixRidgeCV(1, cv=cv, n_unpenalized=int(SCORES in names), scoring=SCORING)
    return make_pipeline(make_union(*steps), head).fit(variants.sequences, variants.target)


def n_penalized(names):
    """Return how many of the parts have a penalty: all but the scores."""
    return sum(name != SCORES for name in names)


def _said(scores, chosen, kind):
    """Return what was chosen and why, and whether the language model helps, in plain words."""
    means = {names: mean_score(found) for names, found in scores.items()}
    best = max(means, key=means.__getitem__)
    error = standard_error(scores[best])
    why = "the best"
    if chosen != best:
        why = (
            f"the cheapest to run within one standard error ({error:.3f}) of the best, "
            f"{_name(best)} with {means[best]:.3f}"
        )
    lines = [f"Chosen: {_name(chosen)}, Spearman {means[chosen]:.3f} in {folds_by(kind)}, {why}."]
    without = [names for names in means if not OF_MODELS & set(names)]
    with_models = [names for names in means if OF_MODELS & set(names)]
    plain, model = (max(some, key=means.__getitem__) for some in (without, with_models))
    clause, is_ahead = against_no_model(
        (_name(model), scores[model]), (_name(plain), scores[plain]), folds_by(kind)
    )
    runs_model = bool(OF_MODELS & set(chosen))
    if is_ahead and not runs_model:
        clause += f"; yet {_name(chosen)} is within one standard error of the best and is chosen"
    elif runs_model and not is_ahead:
        clause += "; yet it is chosen, as what needs none is not within one standard error"
    lines.append(f"{clause}.")
    if means[chosen] < 2 * standard_error(scores[chosen]):
        lines.append(
            "The score is hardly above 0: such a ranking is little better than chance. Measure "
            "more before relying on it."
        )
    return lines


def _name(names):
    """Return what a candidate is called."""
    return " + ".join(names)


def next_to_measure(positions, bound, n):
    """Return which candidates to measure next: best first, positions once before any twice.

    Parameters
    ----------
    positions : sequence
        Hashable, of each candidate.

    bound : ndarray of shape (n_candidates,)
        Greater is better.

    n : int

    Returns
    -------
    order : ndarray of shape (min(n, n_candidates),)

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.evaluation._predict import next_to_measure
    >>> next_to_measure([1, 1, 2, 3], np.array([4.0, 3.0, 2.0, 1.0]), 3).tolist()
    [0, 2, 3]
    """
    order = np.argsort(-bound, kind="stable")
    seen: dict = {}
    turns = np.empty(len(order), dtype=int)
    for rank, i in enumerate(order):
        turns[rank] = seen[positions[i]] = seen.get(positions[i], -1) + 1
    return order[np.argsort(turns, kind="stable")][:n]
