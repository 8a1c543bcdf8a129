"""Scores of embeddings on measured variants, every representation on the same folds."""

import re
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold
from sklearn.preprocessing import OneHotEncoder

from ._chain import principal_directions

ALPHAS = np.logspace(-6, 3, 10)
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
    a, b = rankdata(y_true), rankdata(y_pred, axis=0)
    a, b = a - a.mean(), b - b.mean(axis=0)
    norms = np.sqrt((a @ a) * (b * b).sum(axis=0))
    return np.divide(a @ b, norms, out=np.zeros_like(norms), where=norms > 0)


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


def score_folds(features, y, splitter, groups, *, encoder=None):
    """Return the Spearman correlation of ridge in each fold, alpha chosen inside it.

    Inner folds are of the same kind as the outer ones, so that alpha is chosen for the task
    that is scored.

    Parameters
    ----------
    features : ndarray of shape (n, k)
    y : ndarray of shape (n,)
    splitter : cross-validation splitter
    groups : ndarray of shape (n,) or None
    encoder : transformer or None
        Fitted on each training part, before ridge.

    Returns
    -------
    scores : ndarray of shape (n_splits,)
    """
    scores = []
    for train, test in splitter.split(features, y, groups):
        inside = None if groups is None else groups[train]
        inner = [
            _scores_of_alphas(features, y, train[fit], train[held], encoder)
            for fit, held in splitter.split(train, groups=inside)
        ]
        best = np.mean(inner, axis=0).argmax()
        scores.append(_scores_of_alphas(features, y, train, test, encoder)[best])
    return np.array(scores)


def _scores_of_alphas(features, y, train, test, encoder):
    """Return the score of each alpha: one decomposition serves them all, a target each."""
    fit, held = features[train], features[test]
    if encoder is not None:
        encoder = clone(encoder).fit(fit)
        fit, held = encoder.transform(fit), encoder.transform(held)
    ridge = Ridge(alpha=ALPHAS, solver="svd").fit(fit, np.tile(y[train, None], len(ALPHAS)))
    return spearman(y[test], ridge.predict(held))


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
        C, edges = moments.residue.covariance, [0, *accumulate(moments.block_sizes)]
        self.blocks = [slice(a, b) for a, b in pairwise(edges)]
        self.names = moments.block_names
        self.mean = moments.mean
        self.concatenation_axes = principal_directions(C)[1]
        self.block_axes = [principal_directions(C[b, b])[1] for b in self.blocks]
        self.stage_dims = [int(d) for d in distiller.stage_dims_]

    def raw(self, i, X):
        """Return the embedding of member i alone."""
        return X[:, self.blocks[i]]

    def distilled(self, d, X):
        """Return the reverse-distilled prefix of d columns."""
        return self.distiller.transform(X)[:, :d]

    def without_regression(self, d, X):
        """Return the same nesting with the larger member's own PCA in place of residuals."""
        parts, width = [X[:, self.blocks[0]]], self.stage_dims[0]
        for block, axes, stop in zip(
            self.blocks[1:], self.block_axes[1:], self.stage_dims[1:], strict=True
        ):
            parts.append((X[:, block] - self.mean[block]) @ axes[:, : stop - width])
            width = stop
        return np.hstack(parts)[:, :d]

    def concatenation_pca(self, d, X):
        """Return the d leading principal components of all members side by side."""
        return (X - self.mean) @ self.concatenation_axes[:, :d]

    def rows(self):
        """Yield (label, kind, width, function of X) of every row of the table."""
        for i, block in enumerate(self.blocks):
            width = block.stop - block.start
            yield f"raw {self.names[i]}", "raw", width, partial(self.raw, i)
        kinds = (
            ("reverse-distilled", "distilled", self.distilled, 0),
            ("without regression", "without_regression", self.without_regression, 1),
            ("concatenation + PCA", "concatenation_pca", self.concatenation_pca, 0),
        )
        for label, kind, function, first in kinds:
            # Without regression the first prefix is the raw smallest member again.
            for d in self.stage_dims[first:]:
                yield f"{label} {d}", kind, d, partial(function, d)


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
    rows = [(*row, None, True) for row in representations.rows()]
    if curve:
        seen = {(kind, width) for _, kind, width, *_ in rows}
        for kind in ("distilled", "concatenation_pca"):
            function = getattr(representations, kind)
            for d in ladder(representations.stage_dims):
                if (kind, d) not in seen:
                    prefix = partial(function, d)
                    rows.append((f"{kind} {d}", kind, d, prefix, None, False))
    if table is not None:
        label = "position, wild type, mutant"
        rows.insert(0, (label, "mutation", None, lambda X: table, mutation_encoder(), True))
    results = []
    for scheme, (splitter, groups) in folds(
        len(y), None if table is None else table[:, 1]
    ).items():
        for label, kind, width, function, encoder, in_table in rows:
            scores = score_folds(function(X), y, splitter, groups, encoder=encoder)
            results.append(
                {
                    "row": label,
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
