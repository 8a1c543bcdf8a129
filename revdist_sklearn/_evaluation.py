"""Scores of embeddings on measured variants, every representation on the same folds."""

import re
import warnings
from itertools import pairwise

import numpy as np
from scipy.stats import ConstantInputWarning, spearmanr
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold
from sklearn.preprocessing import OneHotEncoder

from .base._threads import one_thread_of_blas
from .method._chain import principal_directions
from .prefix._ridge_path import centred_split, ridge_path
from .prefix._search import ALPHAS, first_best

N_SPLITS = 5
MUTATION = re.compile(r"([A-Za-z])(\d+)([A-Za-z])")


def spearman(y_true, y_pred):
    """Return Spearman's rank correlation with each column; 0 where a prediction is constant.

    Parameters
    ----------
    y_true : ndarray of shape (n,)

    y_pred : ndarray of shape (n, n_columns)

    Returns
    -------
    correlations : ndarray of shape (n_columns,)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        found = [spearmanr(y_true, column).statistic for column in y_pred.T]
    return np.nan_to_num(found)


def split_mutations(mutations):
    """Return wild-type residue, position and mutant residue of single mutants.

    Parameters
    ----------
    mutations : sequence of str
        Such as ``"T2A"``.

    Returns
    -------
    table : ndarray of shape (n, 3) of str objects

    Raises
    ------
    ValueError
        If an entry is no single substitution.
    """
    table = []
    for i, mutation in enumerate(mutations):
        match = MUTATION.fullmatch(str(mutation))
        if match is None:
            raise ValueError(
                f"mutation {i} is {mutation!r}; single substitutions such as 'T2A' (wild-type "
                "residue, position, mutant residue) are allowed. Leave out the others."
            )
        table.append(match.groups())
    return np.array(table, dtype=object)


def single_mutations(mutations):
    """Return the mutations, or None where one is no single substitution."""
    return mutations if all(MUTATION.fullmatch(str(m)) for m in mutations) else None


def folds(n, positions=None, *, seed=0):
    """Return the outer splits: random ones, and ones by position where there are any.

    Parameters
    ----------
    n : int
        Number of rows.

    positions : array-like of shape (n,) or None
        Mutated position of each row.

    seed : int

    Returns
    -------
    schemes : dict of str to (splitter, groups)
    """
    schemes: dict = {"random": (KFold(N_SPLITS, shuffle=True, random_state=seed), None)}
    if positions is not None:
        schemes["position"] = (GroupKFold(N_SPLITS), np.asarray(positions))
    return schemes


def score_folds(features, y, splitter, groups, *, prefixes=None, encoder=None):
    """Return the Spearman correlation of ridge in each fold, alpha chosen inside it.

    Inner folds are of the same kind as the outer ones, so that alpha is chosen for the task
    that is scored.

    Parameters
    ----------
    features : ndarray of shape (n, k)

    y : ndarray of shape (n,)

    splitter : cross-validation splitter

    groups : ndarray of shape (n,) or None

    prefixes : sequence of int, default=None
        Ascending numbers of leading columns to score, each with an alpha of its own. None
        scores all columns.

    encoder : transformer, default=None
        Fitted on each training part, before ridge.

    Returns
    -------
    scores : ndarray of shape (n_splits,), or (n_prefixes, n_splits) where there are prefixes
    """
    scores = []
    for train, test in splitter.split(features, y, groups):
        inside = None if groups is None else groups[train]
        inner = [
            _scores_of_alphas(features, y, train[fit], train[held], prefixes, encoder)
            for fit, held in splitter.split(train, groups=inside)
        ]
        best = first_best(np.mean(inner, axis=0))
        outer = _scores_of_alphas(features, y, train, test, prefixes, encoder)
        scores.append(outer[np.arange(len(best)), best])
    of_prefixes = np.transpose(scores)
    return of_prefixes[0] if prefixes is None else of_prefixes


def _scores_of_alphas(features, y, train, test, prefixes, encoder):
    """Return the score of each prefix and alpha, of shape (n_prefixes, n_alphas)."""
    fit, held = features[train], features[test]
    if encoder is not None:
        encoder = clone(encoder).fit(fit)
        fit, held = encoder.transform(fit), encoder.transform(held)
    prefixes = np.array([fit.shape[1]] if prefixes is None else prefixes)
    scores = np.empty((len(prefixes), len(ALPHAS)))
    with one_thread_of_blas(fit.size * min(fit.shape)):
        split = centred_split(fit[:, : prefixes[-1]], y[train, None], held[:, : prefixes[-1]])
        for part in ridge_path(split, prefixes, ALPHAS):
            values = part.values[..., 0]
            scored = spearman(y[test], values.reshape(len(values), -1))
            scores[part.prefixes, part.alphas] = scored.reshape(values.shape[1:])
    return scores


def mutation_encoder():
    """Return the encoder of position, wild-type and mutant residue: no language model."""
    return OneHotEncoder(handle_unknown="ignore", sparse_output=False)


class Representations:
    """The representations that are compared, all linear in the family's embeddings.

    Parameters
    ----------
    distiller : ReverseDistiller
        Fitted on ``moments``.

    moments : Moments
        Of the corpus; every PCA comes from them.
    """

    def __init__(self, distiller, moments):
        self.distiller = distiller
        C = moments.residue.covariance
        self.blocks = moments.blocks.slices
        self.names = moments.blocks.labels
        self.mean = moments.mean
        self.concatenation_axes = principal_directions(C)[1]
        self.block_axes = [principal_directions(C[b, b])[1] for b in self.blocks]
        self.stage_dims = [int(d) for d in distiller.stage_dims_]

    def raw(self, i, X):
        """Return the embedding of member i alone."""
        return X[:, self.blocks[i]]

    def distilled(self, X):
        """Return the reverse-distilled embedding."""
        return self.distiller.transform(X)

    def without_regression(self, X):
        """Return the same nesting with the larger members' own PCA in place of residuals."""
        parts = [X[:, self.blocks[0]][:, : self.stage_dims[0]]]
        # A distiller that was cut has fewer stages than there are blocks.
        for block, axes, (width, stop) in zip(
            self.blocks[1:], self.block_axes[1:], pairwise(self.stage_dims), strict=False
        ):
            parts.append((X[:, block] - self.mean[block]) @ axes[:, : stop - width])
        return np.hstack(parts)

    def concatenation_pca(self, X):
        """Return the principal components of all members side by side."""
        return (X - self.mean) @ self.concatenation_axes[:, : self.stage_dims[-1]]


# What is nested: any prefix of it is an embedding. Its first prefix in the table: without
# regression that is the raw smallest member again.
NESTED = (
    ("distilled", "reverse-distilled", 0),
    ("without_regression", "without regression", 1),
    ("concatenation_pca", "concatenation + PCA", 0),
)


# Of these, prefixes between the stages are scored for a curve.
CURVES = ("distilled", "concatenation_pca")


def ladder(stage_dims):
    """Return widths for a curve: the stage widths and the middle before each."""
    middles = {(low + high) // 2 for low, high in pairwise((0, *stage_dims))}
    return sorted(middles.union(stage_dims) - {0})


def evaluate(representations, X, y, *, mutations=None, curve=False, progress=None):
    """Score every representation of one data set in every kind of fold.

    Parameters
    ----------
    representations : Representations

    X : ndarray of shape (n, D)
        The family's pooled embeddings.

    y : ndarray of shape (n,)
        Measurements.

    mutations : sequence of str or None
        Single substitutions: add the baseline without a language model, and folds by position.

    curve : bool, default=False
        Score prefixes between the stages too.

    progress : callable or None
        Called with 1 after each row and kind of fold.

    Returns
    -------
    results : list of dict
        ``row``, ``kind``, ``width``, ``folds``, ``scores``, ``mean``, ``std``, ``in_table``.
    """
    X, y = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
    table = None if mutations is None else split_mutations(mutations)
    stage_dims = representations.stage_dims
    results = []
    for scheme, (splitter, groups) in folds(
        len(y), None if table is None else table[:, 1]
    ).items():

        def tell(row, kind, width, scores, in_table=True, scheme=scheme):
            results.append(
                {
                    "row": row,
                    "kind": kind,
                    "width": width,
                    "folds": scheme,
                    "scores": [round(float(s), 6) for s in scores],
                    "mean": float(scores.mean()),
                    "std": float(scores.std()),
                    "in_table": in_table,
                }
            )
            if progress is not None:
                progress(1)

        if table is not None:
            scores = score_folds(table, y, splitter, groups, encoder=mutation_encoder())
            tell("position, wild type, mutant", "mutation", None, scores)
        for i, name in enumerate(representations.names):
            features = representations.raw(i, X)
            scores = score_folds(features, y, splitter, groups)
            tell(f"raw {name}", "raw", features.shape[1], scores)
        for kind, label, first in NESTED:
            features = getattr(representations, kind)(X)
            between = ladder(stage_dims) if curve and kind in CURVES else ()
            prefixes = sorted({*stage_dims[first:], *between})
            if not prefixes:  # a family of one has no stage to leave the regression out of
                continue
            scores = score_folds(features, y, splitter, groups, prefixes=prefixes)
            for d, of_prefix in zip(prefixes, scores, strict=True):
                tell(f"{label} {d}", kind, d, of_prefix, d in stage_dims)
    return results


def format_table(results):
    """Return the table of one or more data sets as text.

    Parameters
    ----------
    results : dict of str to list of dict
        Data set name to what ``evaluate`` returned.

    Returns
    -------
    text : str
        A line a representation, mean and standard deviation over folds in each column.
    """
    columns = [
        (name, scheme)
        for name, rows in results.items()
        for scheme in dict.fromkeys(row["folds"] for row in rows)
    ]
    cells = {
        (name, row["folds"], row["row"]): f"{row['mean']:.3f} ± {row['std']:.3f}"
        for name, rows in results.items()
        for row in rows
        if row["in_table"]
    }
    labels = list(dict.fromkeys(label for _, _, label in cells))
    head = [
        ["", *(name for name, _ in columns)],
        ["", *(f"{scheme} folds" for _, scheme in columns)],
    ]
    body = [[label, *(cells.get((*column, label), "-") for column in columns)] for label in labels]
    widths = [max(map(len, column)) for column in zip(*head, *body, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in head + body
    )
