"""Scores of embeddings on measured variants, every representation on the same folds."""

import re
import warnings
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import ConstantInputWarning, spearmanr
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold
from sklearn.preprocessing import OneHotEncoder

from .base._threads import one_thread_of_blas
from .method._chain import principal_directions
from .method._distiller import ReverseDistiller
from .prefix._ridge_path import centred_split, ridge_path
from .prefix._search import ALPHAS, first_best

N_SPLITS = 5
# So many that the folds inside of folds have two rows each.
LEAST_ROWS = 15
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
        wild, position, mutant = match.groups()
        table.append((wild, str(int(position)), mutant))  # T02G is of position 2
    return np.array(table, dtype=object)


def not_single(mutations):
    """Return the indices of mutations that are no single substitution."""
    return [i for i, m in enumerate(mutations) if not MUTATION.fullmatch(str(m))]


def position_offset(mutations, sequences):
    """Return from where the positions of mutations are counted, and which do not fit.

    Residue ``p - offset`` of a sequence, the first being 1, must be the mutant residue of each
    of its mutations ``T<p>A``. Positions may be counted from another start than that of the
    sequences (as of a domain), if it is the same in all rows.

    Parameters
    ----------
    mutations : sequence of str
        Such as ``"T2A"`` or ``"T2A:K4R"``; other parts fit any sequence.

    sequences : sequence of str

    Returns
    -------
    offset : int
        The smallest that fits all rows; 0 where none does.

    wrong : list of int
        The rows that do not fit; none where an offset was found.

    Examples
    --------
    >>> from revdist_sklearn._evaluation import position_offset
    >>> position_offset(["T2A", "K3R"], ["MAK", "MTR"])
    (0, [])
    >>> position_offset(["T12A", "K13R"], ["MAK", "MTR"])
    (10, [])
    >>> position_offset(["T2A", "K3R"], ["MAK", "MTK"])
    (0, [1])
    """
    possible: set[int] | None = None
    wrong: list[int] = []
    for i, (mutation, sequence) in enumerate(zip(mutations, sequences, strict=True)):
        parts = filter(None, (MUTATION.fullmatch(part) for part in str(mutation).split(":")))
        for position, residue in ((int(part[2]), part[3]) for part in parts):

            def fits(offset, text=sequence, position=position, residue=residue):
                place = position - offset
                found = 1 <= place <= len(text) and text[place - 1]
                return bool(found) and found.upper() == residue.upper()

            if possible is None:
                possible = {position - place for place in range(1, len(sequence) + 1)}
            possible = set(filter(fits, possible))
            if not fits(0) and i not in wrong[-1:]:
                wrong.append(i)
    if possible is None or not wrong:
        return 0, []
    return (min(possible, key=abs), []) if possible else (0, wrong)


def other_wild_types(mutations, sequences, offset=0):
    """Return the rows whose mutations name another wild type than the other rows have.

    Told by the sequences of equal length that are not mutated there, where these agree: rows of
    several proteins, or of a position that all rows mutate, tell nothing.

    Parameters
    ----------
    mutations : sequence of str
        Such as ``"T2A"`` or ``"T2A:K4R"``.

    sequences : sequence of str

    offset : int, default=0
        As :func:`position_offset` returns it.

    Returns
    -------
    rows : list of int

    Examples
    --------
    >>> from revdist_sklearn._evaluation import other_wild_types
    >>> other_wild_types(["T2A", "W3R"], ["MAK", "MTR"])
    [1]
    """
    named: dict[int, list] = {}
    by_length: dict[int, list[int]] = {}
    for i, mutation in enumerate(mutations):
        parts = [MUTATION.fullmatch(part) for part in str(mutation).split(":")]
        if all(parts):  # of others it is not known where they are mutated
            named[i] = parts
            by_length.setdefault(len(sequences[i]), []).append(i)
    found = []
    for length, rows in by_length.items():
        text = "".join(sequences[i].upper() for i in rows).encode("ascii", "replace")
        if not length or len(text) != length * len(rows):  # letters that grow in upper case
            continue
        letters = np.frombuffer(text, dtype=np.uint8).reshape(len(rows), length)
        claims: dict[int, list[tuple[int, str]]] = {}
        for number, i in enumerate(rows):
            for match in named[i]:
                claims.setdefault(int(match[2]) - offset - 1, []).append((number, match[1]))
        for place, claimed in claims.items():
            others = np.delete(letters[:, place], [number for number, _ in claimed])
            if len(others) and (others == others[0]).all():
                wild = chr(others[0])
                found += [rows[number] for number, letter in claimed if letter.upper() != wild]
    return sorted(set(found))


def check_rows(sequences):
    """Raise where there are too few distinct sequences for folds inside of folds."""
    n = len(set(sequences))
    if n < LEAST_ROWS:
        raise ValueError(
            f"{n} distinct sequences are too few for {N_SPLITS} folds with {N_SPLITS} inside of "
            f"each, of two rows or more; measure {LEAST_ROWS} at least."
        )


class GroupsInOrder:
    """KFold of groups: rows of one group are never on both sides of a split.

    Groups are counted by their first row, so that with one row a group the splits are those of
    :class:`~sklearn.model_selection.KFold`.

    Parameters
    ----------
    n_splits : int

    seed : int
    """

    def __init__(self, n_splits, seed):
        self.of_groups = KFold(n_splits, shuffle=True, random_state=seed)

    def split(self, X, y=None, groups=None):
        """Yield the indices of the rows for training and for the test."""
        _, first, group = np.unique(
            np.arange(len(X)) if groups is None else groups,
            return_index=True,
            return_inverse=True,
        )
        for train, test in self.of_groups.split(first):
            order = np.argsort(first)
            yield tuple(np.flatnonzero(np.isin(group, order[part])) for part in (train, test))


def identical_rows(X):
    """Return a number for each row, the same for equal rows: replicates of one sequence.

    Parameters
    ----------
    X : ndarray of shape (n, D)

    Returns
    -------
    number : ndarray of shape (n,), int
    """
    return np.unique(X, axis=0, return_inverse=True)[1].ravel()


def joined(positions, same):
    """Return groups of rows that share a position or are the same, directly or by others.

    Parameters
    ----------
    positions : ndarray of shape (n,)

    same : ndarray of shape (n,)

    Returns
    -------
    groups : ndarray of shape (n,)
        The position of the first of its rows, by which a group is called.
    """
    n = len(positions)
    _, by_position = np.unique(positions, return_inverse=True)
    _, by_sequence = np.unique(same, return_inverse=True)
    # A graph of positions and sequences, with an edge for each row.
    n_nodes = n + by_sequence.max() + 1
    ends = by_position.astype(np.int32), (n + by_sequence).astype(np.int32)  # for older SciPy
    edges = coo_array((np.ones(n), ends), shape=(n_nodes, n_nodes))
    component = connected_components(edges, directed=False)[1][by_position]
    _, first, group = np.unique(component, return_index=True, return_inverse=True)
    return positions[first][group]


def folds(n, positions=None, same=None, *, seed=0):
    """Return the outer splits: random ones, and ones by position where there are any.

    Parameters
    ----------
    n : int
        Number of rows.

    positions : array-like of shape (n,) or None
        Mutated position of each row.

    same : array-like of shape (n,) or None
        Equal for replicates, rows of one sequence: neither kind of split parts them. None
        where each row is a sequence of its own.

    seed : int

    Returns
    -------
    schemes : dict of str to (splitter, groups)
        Without "position" where there are too few groups for folds inside of folds.
    """
    schemes: dict = {"random": (GroupsInOrder(N_SPLITS, seed), same)}
    if positions is not None:
        positions, splitter = np.asarray(positions), GroupKFold(N_SPLITS)
        groups = positions if same is None else joined(positions, np.asarray(same))
        if _may_nest(splitter, groups):
            schemes["position"] = (splitter, groups)
    return schemes


def _may_nest(splitter, groups):
    """Return whether the training part of each split has groups enough to be split again."""
    if len(set(groups)) < N_SPLITS:
        return False
    splits = splitter.split(groups, groups=groups)
    return all(len(set(groups[train])) >= N_SPLITS for train, _ in splits)


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
        inner = _inner_scores(features, y, train, splitter, groups, prefixes, encoder)
        best = first_best(inner)
        outer = _scores_of_alphas(features, y, train, test, prefixes, encoder)
        scores.append(outer[np.arange(len(best)), best])
    of_prefixes = np.transpose(scores)
    return of_prefixes[0] if prefixes is None else of_prefixes


def _inner_scores(features, y, train, splitter, groups, prefixes=None, encoder=None):
    """Return the mean scores in folds of the training rows, of shape (n_prefixes, n_alphas)."""
    inside = None if groups is None else groups[train]
    scores = [
        _scores_of_alphas(features, y, train[fit], train[held], prefixes, encoder)
        for fit, held in splitter.split(train, groups=inside)
    ]
    return np.mean(scores, axis=0)


def score_chosen(candidates, y, splitter, groups):
    """Return the Spearman correlation of ridge in each fold, features and alpha chosen inside it.

    Parameters
    ----------
    candidates : list of ndarray of shape (n, k)
        Features of the same rows, such as the layers of a model.

    y, splitter, groups
        As in :func:`score_folds`.

    Returns
    -------
    scores : ndarray of shape (n_splits,)

    chosen : list of int
        Which candidate each fold took: of those that are equally good the first.
    """
    scores, chosen = [], []
    for train, test in splitter.split(candidates[0], y, groups):
        inner = np.array([_inner_scores(X, y, train, splitter, groups)[0] for X in candidates])
        alphas, best = first_best(inner), int(first_best(inner.max(axis=1)))
        outer = _scores_of_alphas(candidates[best], y, train, test, None, None)
        scores.append(outer[0, alphas[best]])
        chosen.append(best)
    return np.array(scores), chosen


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
        for part in ridge_path(split, prefixes, np.array(ALPHAS)):
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


# Share of the residual's variance that each further layer adds to the chain of all.
LAYER_SHARE = 0.9


class Layers:
    """Hidden states of one model that are compared with each other, and their chain.

    Parameters
    ----------
    moments : Moments
        Of the corpus, one block a layer: the chain begins with the first.

    X : ndarray of shape (n, D)
        The layers' pooled embeddings of the variants.

    numbers : sequence of int
        Of the hidden state of each block, 0 being the embeddings.
    """

    def __init__(self, moments, X, numbers):
        X = np.asarray(X, dtype=np.float64)
        self.numbers = np.asarray(numbers)
        self.parts = [X[:, block] for block in moments.blocks.slices]
        distiller = ReverseDistiller(residual_sizes=LAYER_SHARE).fit_moments(moments)
        self.chain = distiller.transform(X)

    def scores(self, y, splitter, groups):
        """Yield row, width and scores of the last layer, the middle one, the chosen one and all.

        Parameters
        ----------
        y, splitter, groups
            As in :func:`score_folds`.
        """
        last = self.numbers.max()
        for name, wanted in (("last", last), ("middle", last / 2)):
            at = int(np.argmin(np.abs(self.numbers - wanted)))
            X = self.parts[at]
            yield (
                f"{name} layer, {self.numbers[at]}",
                X.shape[1],
                score_folds(X, y, splitter, groups),
            )
        scores, _ = score_chosen(self.parts, y, splitter, groups)
        yield "layer chosen inside the folds", self.parts[0].shape[1], scores
        width = self.chain.shape[1]
        yield (
            f"chain of {len(self.parts)} layers",
            width,
            score_folds(self.chain, y, splitter, groups),
        )


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


def evaluate(representations, X, y, *, mutations=None, curve=False, layers=None, progress=None):
    """Score every representation of one data set in every kind of fold.

    Parameters
    ----------
    representations : Representations

    X : ndarray of shape (n, D)
        The family's pooled embeddings. Equal rows, of replicates, are on the same side of each
        split.

    y : ndarray of shape (n,)
        Measurements.

    mutations : sequence of str or None
        Single substitutions: add the baseline without a language model, and folds by position.

    curve : bool, default=False
        Score prefixes between the stages too.

    layers : Layers or None, default=None
        Of the same variants: add rows of layers.

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
    positions = None if table is None else table[:, 1]
    for scheme, (splitter, groups) in folds(len(y), positions, identical_rows(X)).items():

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
        if layers is not None:
            for row, width, scores in layers.scores(y, splitter, groups):
                tell(row, "layers", width, scores)
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
