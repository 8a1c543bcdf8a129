"""Scores of all rows of one data set, in every kind of split."""

import time
from dataclasses import dataclass, replace

import numpy as np
from sklearn.base import is_classifier, is_regressor

from ..embedding._sequences import listed
from ._fit import fit_rows
from ._metrics import metrics
from ._splits import OF_POSITIONS, draws, inner, never_tested, splits

# So many that the folds inside of folds have two rows each.
LEAST_ROWS = 15


@dataclass(frozen=True)
class Plan:
    """What is scored.

    Parameters
    ----------
    kinds : tuple of str or None
        Kinds of splits; None takes those that a table can have: "random", "position", and its
        columns ``fold_*``; of residues "protein".

    n_seeds : int, default=1
        Repeats of those that are drawn.

    n_train : tuple of int, default=()
        Sizes of training parts for learning curves.

    n_draws : int, default=20
        Draws of each.

    head : estimator, default=None
        In place of ridge.
    """

    kinds: tuple | None
    n_seeds: int = 1
    n_train: tuple = ()
    n_draws: int = 20
    head: object = None


# Kinds of splits that a seed changes.
DRAWN = ("random", "position", "protein")


def tasks_of(variants, plan, notes):
    """Return kinds of splits with their splits: kind, number of training rows, splits.

    Parameters
    ----------
    variants : Variants

    plan : Plan

    notes : list of str
        Gains a sentence for each kind that cannot be.

    Returns
    -------
    tasks : list of (str, int or None, list of Split)
        The number is None where it is not a learning curve.

    Raises
    ------
    ValueError
        If none of the kinds can be.
    """
    possible, impossible = [], []
    for kind in dict.fromkeys(plan.kinds or _usual(variants)):
        seeds = range(plan.n_seeds if kind in DRAWN else 1)
        try:
            parts = [part for seed in seeds for part in splits(variants, kind, seed=seed)]
        except ValueError as error:
            if plan.kinds is not None and len(plan.kinds) == 1:
                raise
            impossible.append(str(error))
            continue
        possible.append((kind, None, parts))
    if not possible:
        raise ValueError(" ".join(impossible))
    notes += impossible
    for kind, _, _ in list(possible):
        if kind in DRAWN:
            for n in plan.n_train:
                try:
                    found = draws(variants, n, kind, n_draws=plan.n_draws)
                except ValueError as error:
                    notes.append(str(error))
                    continue
                possible.append((kind, n, found))
    return possible


def _usual(variants):
    """Return the kinds of splits that a table can have."""
    if variants.task == "residues":
        return ("protein", *variants.folds)
    known = sum(m is not None and len(m) > 0 for m in variants.mutations)
    by_position = ("position",) if known >= len(variants) / 2 else ()
    return ("random", *by_position, *variants.folds)


def rows_for_head(groups, head, notes):
    """Return the rows that a head can take, and those that are left out.

    Parameters
    ----------
    groups : list of Rows

    head : estimator or None

    notes : list of str
        Gains a sentence for each reason.

    Returns
    -------
    groups : list of Rows

    left_out : list of dict
        ``row``, ``kind``, ``width``, ``in_table`` and ``why``.
    """
    taken, left_out = [], []
    for rows in groups:
        why = None if head is None else _only_ridge(rows)
        if why is None:
            taken.append(rows)
            continue
        left_out += [
            {
                "row": name,
                "kind": rows.kind,
                "width": int(width),
                "in_table": name not in rows.between,
                "why": why,
            }
            for name, width in zip(rows.names, rows.widths, strict=True)
        ]
    for why in dict.fromkeys(each["why"] for each in left_out):
        names = [each["row"] for each in left_out if each["why"] == why and each["in_table"]]
        notes.append(
            f"With --head {type(head).__name__}, {len(names)} rows are left out, because {why}: "
            f"{listed(names, len(names))}. Without --head, ridge takes them."
        )
    return taken, left_out


def _only_ridge(rows):
    """Return why no other head than ridge takes rows; None for those that any does."""
    if rows.n_unpenalized:
        return "their scores go unpenalised, which ridge alone can do"
    if rows.choices:
        return "a layer is chosen inside the folds by ridge alone"
    return None


def score_rows(variants, groups, plan, *, notes, progress=None):
    """Return the scores of all rows in all splits.

    Parameters
    ----------
    variants : Variants

    groups : list of Rows

    plan : Plan

    notes : list of str
        Gains a sentence for each kind of split that cannot be, or does not test all rows.

    progress : callable, default=None
        Called with 1 after each fit.

    Returns
    -------
    results : list of dict
        A row and kind of split each: ``row``, ``kind``, ``width``, ``members``, ``split``,
        ``n_train``, ``scores`` (a list a metric, a number a fold and seed), ``mean``, ``std``,
        ``folds`` (what the numbers are of), ``n_tested`` (rows, over folds and seeds),
        ``n_distinct`` (each once), ``alphas``, ``seconds``, ``parameters`` and ``in_table``.

    Raises
    ------
    ValueError
        If the head is none for such targets, or no kind of split can be.
    """
    y, classes = variants.target, None
    of_proteins = variants.task == "residues"
    if of_proteins:
        starts = np.cumsum([0, *map(len, variants.target)])
        y = np.concatenate(variants.target)
    if variants.task != "regression":
        classes = np.unique(y)
    if plan.head is not None:
        is_able, kind, what = is_regressor, "regressor", "numbers"
        if classes is not None:
            is_able, kind, what = is_classifier, "classifier", "classes"
        if not is_able(plan.head):
            raise ValueError(
                f"{variants.name} has {what}, and --head {type(plan.head).__name__} is no {kind}; "
                "give one, or leave out --head."
            )
    of_task = metrics(variants.task, None if classes is None else len(classes))
    scorers = {metric.name: scorer_of(metric, classes) for metric in of_task}
    first = next(iter(scorers.values()))
    results = []
    for kind, n_train, parts in tasks_of(variants, plan, notes):
        if n_train is None and (kind in OF_POSITIONS or kind in variants.folds):
            _tell_untested(variants, kind, parts, notes)
        try:
            within = [inner(part, variants) for part in parts]
        except ValueError as error:
            if n_train is None:
                raise
            notes.append(f"No learning curve of {n_train} rows in {kind} folds: {error}")
            continue
        if of_proteins:
            parts = [_of_residues(part, starts) for part in parts]
            within = [[_of_residues(part, starts) for part in inside] for inside in within]
        folds = [
            part.name if part.seed is None else f"seed {part.seed}, {part.name}" for part in parts
        ]
        for rows in groups:
            start = time.perf_counter()
            scores: dict[str, list] = {name: [] for name in scorers}
            alphas = []
            for part, inside in zip(parts, within, strict=True):
                values, chosen = fit_rows(rows, y, classes, part, inside, first, plan.head)
                for name, scorer in scorers.items():
                    scores[name].append(scorer(y[part.test], values))
                alphas.append(chosen)
                if progress is not None:
                    progress(1)
            seconds = (time.perf_counter() - start) / len(rows.widths)
            for i, (name, width) in enumerate(zip(rows.names, rows.widths, strict=True)):
                of_row = {m: [rounded(each[i]) for each in found] for m, found in scores.items()}
                results.append(
                    {
                        "row": name,
                        "kind": rows.kind,
                        "width": int(width),
                        "members": list(rows.members[i]),
                        "split": kind,
                        "n_train": n_train,
                        "folds": folds,
                        "n_tested": int(sum(len(part.test) for part in parts)),
                        "n_distinct": len(np.unique(np.concatenate([p.test for p in parts]))),
                        "scores": of_row,
                        "mean": {m: rounded(_over(np.mean, s)) for m, s in of_row.items()},
                        "std": {m: rounded(_over(np.std, s)) for m, s in of_row.items()},
                        "alphas": [None if a is None else float(a[i]) for a in alphas],
                        "seconds": round(seconds, 3),
                        "parameters": rows.parameters or {},
                        "in_table": name not in rows.between,
                    }
                )
    return results


def _of_residues(part, starts):
    """Return a split of proteins as one of their residues."""

    def residues(proteins):
        return np.concatenate([np.arange(starts[i], starts[i + 1]) for i in proteins])

    return replace(part, train=residues(part.train), test=residues(part.test))


def scorer_of(metric, classes):
    """Return the function of true targets and values of shape (m, n_candidates, n_columns)."""
    if classes is None:
        return lambda y, values: metric.score(y, values[..., 0])
    return lambda y, values: metric.score(y, values, classes)


def _over(function, scores):
    """Return the mean or spread of the scores that are numbers; None of none."""
    known = [score for score in scores if score is not None]
    return function(known) if known else None


def rounded(score):
    """Return a score for JSON, which has no NaN."""
    return None if score is None or not np.isfinite(score) else round(float(score), 6)


def _tell_untested(variants, kind, parts, notes):
    seeds = dict.fromkeys(part.seed for part in parts)
    left = [never_tested(variants, [p for p in parts if p.seed == seed]) for seed in seeds]
    if any(len(rows) for rows in left):
        most = max(map(len, left))
        notes.append(
            f"Folds by {kind} never test {most} of {len(variants)} rows: the wild type, rows of "
            "unknown mutations or without a fold, and those whose positions are in several folds."
        )
