"""The rows of the table: representations of the same variants, and the baselines.

Rows whose features are prefixes of one matrix are kept together, as they are fitted together.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.feature_extraction import DictVectorizer

from ..method._chain import principal_directions
from ..method._distiller import ReverseDistiller

# Share of the residual's variance that each further layer adds to the chain of all.
LAYER_SHARE = 0.9
# Of a fit of one-hot residues: half a minute on one core.
MOST_OPERATIONS = 3e11
# A column of scores that goes unpenalised before any features.
BESIDE = " + score"


class SideBySide:
    """Parts of a matrix, which are put side by side for the rows that are taken alone.

    Parameters
    ----------
    *parts : ndarray of shape (n, k)

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.evaluation._rows import SideBySide
    >>> X = SideBySide(np.eye(2), np.array([[True], [False]]))
    >>> X.shape, X[np.array([0])].tolist()
    ((2, 3), [[1.0, 0.0, 1.0]])
    """

    def __init__(self, *parts):
        self.parts = parts
        self.shape = len(parts[0]), sum(part.shape[1] for part in parts)

    def __getitem__(self, rows):
        return np.hstack([part[rows] for part in self.parts], dtype=np.float64)


@dataclass(frozen=True)
class Rows:
    """Rows whose features are prefixes of one matrix.

    Parameters
    ----------
    kind : str
        Such as ``"raw"``; rows of one kind are told apart by their widths.

    names : tuple of str of length n_rows
        As the table shows them.

    widths : tuple of int of length n_rows
        Ascending numbers of leading columns.

    members : tuple of tuple of int of length n_rows
        Members of the family that have to run.

    features : ndarray or SideBySide of shape (n_variants, k)

    in_fold : transformer, default=None
        Fitted on the training part of each split.

    n_unpenalized : int, default=0
        The first columns, which are in every prefix and not penalised.

    is_score : bool, default=False
        Whether the features are predictions already, and nothing is fitted.

    choices : tuple of ndarray or SideBySide, default=()
        Features of which those that are best inside each fold are taken, ``features`` the first.

    parameters : dict, default=None
        What was run, for the record.

    between : tuple of str, default=()
        Names of rows that are for curves alone, not for tables.
    """

    kind: str
    names: tuple
    widths: tuple
    members: tuple
    features: np.ndarray | SideBySide
    in_fold: TransformerMixin | None = None
    n_unpenalized: int = 0
    is_score: bool = False
    choices: tuple = ()
    parameters: dict | None = None
    between: tuple = ()

    def beside(self, scores, members):
        """Return the same rows with a column of scores before the features, unpenalised.

        Parameters
        ----------
        scores : ndarray of shape (n_variants, q)

        members : tuple of int
            What the scores need.
        """
        q = scores.shape[1]
        in_fold = None if self.in_fold is None else Behind(q, self.in_fold)
        return replace(
            self,
            kind=self.kind + BESIDE,
            names=tuple(name + BESIDE for name in self.names),
            widths=tuple(width + q for width in self.widths),
            members=tuple(tuple(sorted({*each, *members})) for each in self.members),
            features=SideBySide(scores, self.features),
            in_fold=in_fold,
            n_unpenalized=q,
            choices=tuple(SideBySide(scores, each) for each in self.choices),
            parameters={**(self.parameters or {}), "n_unpenalized": q},
            between=tuple(name + BESIDE for name in self.between),
        )


class Behind(TransformerMixin):
    """A transformer of the columns behind the first q, which stay as they are."""

    def __init__(self, q, transformer):
        self.q = q
        self.transformer = transformer

    def fit(self, X, y=None):
        """Fit the transformer to the columns behind the first."""
        self.transformer.fit(X[:, self.q :], y)
        return self

    def transform(self, X):
        """Return the first columns and the others transformed."""
        return np.hstack([X[:, : self.q], self.transformer.transform(X[:, self.q :])])


class LeadingComponents(PCA):
    """PCA of up to so many components; the columns that few rows cannot have are zeros."""

    def __init__(self, n_wanted):
        super().__init__(svd_solver="full")
        self.n_wanted = n_wanted

    def fit(self, X, y=None):
        """Fit as many components as there are."""
        self.n_components = min(self.n_wanted, *X.shape)
        return super().fit(X)

    def transform(self, X):
        """Return ``n_wanted`` columns."""
        Z = super().transform(X)
        return np.pad(Z, ((0, 0), (0, self.n_wanted - Z.shape[1])))


class TotalScaler(TransformerMixin, BaseEstimator):
    """Divides all columns by one number, so that their total variance is 1.

    Attributes
    ----------
    scale_ : float
    """

    def fit(self, X, y=None):
        """Take the root of the total variance."""
        self.scale_ = float(np.sqrt(np.var(X, axis=0).sum())) or 1.0
        return self

    def transform(self, X):
        """Return the columns over it."""
        return np.asarray(X, dtype=np.float64) / self.scale_


class PartScaler(TransformerMixin, BaseEstimator):
    """Brings each of several parts that stand side by side to a total variance of 1.

    Parameters
    ----------
    widths : sequence of int
        Their numbers of columns.

    Attributes
    ----------
    scale_ : ndarray of shape (n_columns,)
    """

    def __init__(self, widths):
        self.widths = widths

    def fit(self, X, y=None):
        """Take the scale of each part."""
        parts = np.split(X, np.cumsum(self.widths)[:-1], axis=1)
        self.scale_ = np.repeat([TotalScaler().fit(part).scale_ for part in parts], self.widths)
        return self

    def transform(self, X):
        """Return the parts over their scales."""
        return X / self.scale_


def mutation_features(mutations):
    """Return what a variant's mutations are made of: counts of positions and of letters.

    For single substitutions these are the indicator columns of position, wild type and mutant
    residue; with several mutations a row, their sums.

    Parameters
    ----------
    mutations : list of tuple of (str, int, str)
        Wild-type residue, position and new residue; an empty tuple is the wild type.

    Returns
    -------
    features : ndarray of shape (n_variants, k)

    Examples
    --------
    >>> from revdist_sklearn.evaluation._rows import mutation_features
    >>> mutation_features([(("M", 1, "A"),), (("M", 1, "C"), ("K", 2, "C"))]).tolist()
    [[1.0, 0.0, 1.0, 0.0, 0.0, 1.0], [0.0, 2.0, 1.0, 1.0, 1.0, 1.0]]
    """
    return DictVectorizer(sparse=False).fit_transform(map(mutation_counts, mutations))


def mutation_counts(mutations):
    """Return the counts of one variant by name, for :class:`DictVectorizer`."""
    counts: dict[str, float] = {}
    for wild, position, new in mutations:
        for name in (f"position {position}", f"wild type {wild}", f"new {new}"):
            counts[name] = counts.get(name, 0) + 1.0
    return counts


def one_hot(sequences):
    """Return the residues of sequences of one length, a column a site and letter that varies.

    Parameters
    ----------
    sequences : list of str

    Returns
    -------
    features : ndarray of shape (n_variants, k), bool

    Raises
    ------
    ValueError
        If their lengths differ.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._rows import one_hot
    >>> one_hot(["MA", "MC", "MA"]).tolist()
    [[True, False], [False, True], [True, False]]
    """
    if len(set(map(len, sequences))) != 1:
        raise ValueError("Sequences differ in length; one-hot residues are of one length alone.")
    letters = np.array(sequences).view(np.uint32).reshape(len(sequences), -1)
    parts = [letters[:, [i]] == np.unique(letters[:, i]) for i in range(letters.shape[1])]
    return np.hstack([part for part in parts if part.shape[1] > 1] or parts)


def too_large(n, k):
    """Return why ridge on n rows of k columns is not made, or None."""
    operations = float(n) * k * min(n, k)
    if operations <= MOST_OPERATIONS:
        return None
    return (
        f"{n:,} rows of {k:,} columns take {operations:.1e} operations a fit, and hundreds are "
        f"made; the limit is {MOST_OPERATIONS:.0e}. Fewer rows, or such that vary at fewer sites, "
        "are within it."
    )


class Representations:
    """What is linear in the family's embeddings.

    Parameters
    ----------
    distiller : ReverseDistiller
        Fitted, of the family's first members or all of them.

    moments : Moments
        Of a corpus; every PCA comes from them.
    """

    def __init__(self, distiller, moments):
        self.distiller = distiller
        C = moments.residue.covariance
        self.blocks = moments.blocks.slices
        self.names = moments.blocks.labels
        self.mean = moments.mean
        self.concatenation_axes = principal_directions(C)[1]
        self.block_axes = [principal_directions(C[b, b])[1] for b in self.blocks]
        self.stage_dims = widths_of(distiller)

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

    def largest_pca(self, X):
        """Return the principal components of the largest member."""
        block = self.blocks[-1]
        return (X[:, block] - self.mean[block]) @ self.block_axes[-1]


def widths_of(distiller):
    """Return the widths at which a distiller is compared: those of its stages, in any order."""
    return sorted({min(stage.width, distiller.n_components_) for stage in distiller.stages_})


def family_rows(representations, X, *, others=(), curve=()):
    """Return the rows that are made of the family's embeddings.

    Parameters
    ----------
    representations : Representations

    X : ndarray of shape (n_variants, D)

    others : sequence of (str, ReverseDistiller), default=()
        Further fitted distillers, by name.

    curve : sequence of int, default=()
        Further widths of what is nested.

    Returns
    -------
    rows : list of Rows
    """
    dims, n = representations.stage_dims, len(representations.names)
    all_members, found = tuple(range(n)), []

    def nested(kind, label, features, widths, members=None, more=(), n_models=None, **how):
        widths = sorted({*widths, *more})
        if widths:
            if n_models is None:
                n_models = {d: np.searchsorted(dims, d) + 1 for d in widths}
            needs = [members or all_members[: n_models[d]] for d in widths]
            names = tuple(f"{label} {d}" for d in widths)
            between = tuple(f"{label} {d}" for d in widths if d in set(more) - set(dims))
            found.append(
                Rows(kind, names, tuple(widths), tuple(needs), features, between=between, **how)
            )

    for i, name in enumerate(representations.names):
        features = representations.raw(i, X)
        found.append(Rows("raw", (f"raw {name}",), (features.shape[1],), ((i,),), features))
    distilled = representations.distilled(X)
    how = parameters_of(representations.distiller)
    n_models = dict(enumerate(representations.distiller.n_models_.tolist(), start=1))
    nested(
        "distilled", "reverse-distilled", distilled, dims, None, curve, n_models, parameters=how
    )
    for name, distiller in others:
        label, widths = f"reverse-distilled ({name})", widths_of(distiller)
        how = parameters_of(distiller)
        nested("other", label, distiller.transform(X), widths, all_members, parameters=how)
    if n > 1:
        nested(
            "without_regression",
            "without regression",
            representations.without_regression(X),
            dims[1:],
        )
        found.append(Rows("concatenation", ("concatenation",), (X.shape[1],), (all_members,), X))
        nested(
            "concatenation_pca",
            "concatenation + PCA",
            representations.concatenation_pca(X),
            dims,
            all_members,
            curve,
        )
        in_fold = LeadingComponents(min(dims[-1], X.shape[1]))
        label = "concatenation + PCA of the fold"
        nested("fold_pca", label, X, dims, all_members, in_fold=in_fold)
    largest = representations.largest_pca(X)
    nested(
        "largest_pca",
        f"PCA of {representations.names[-1]}",
        largest,
        [d for d in dims if d < largest.shape[1]],
        all_members[-1:],
    )
    return found


def parameters_of(distiller):
    """Return the parameters of a distiller that differ from the defaults, for the record."""
    plain = type(distiller)().get_params()
    found = {name: v for name, v in distiller.get_params().items() if v != plain[name]}
    given = {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}
    return {"regressor": distiller.regressor, **given}


def ladder(stage_dims):
    """Return widths for a curve: the stage widths and the middle before each."""
    middles = {(low + high) // 2 for low, high in pairwise((0, *stage_dims))}
    return sorted(middles.union(stage_dims) - {0})


def layer_rows(moments, X, numbers, member):
    """Return the rows of hidden states of one model: last, middle, chosen in the fold, a chain.

    Parameters
    ----------
    moments : Moments
        Of the corpus, one block a layer: the chain begins with the first.

    X : ndarray of shape (n_variants, D)
        The layers' pooled embeddings of the variants.

    numbers : sequence of int
        Of the hidden state of each block, 0 being the embeddings.

    member : int
        Whose layers they are.

    Returns
    -------
    rows : list of Rows
    """
    numbers = np.asarray(numbers)
    parts = [X[:, block] for block in moments.blocks.slices]
    chain = ReverseDistiller(residual_sizes=LAYER_SHARE).fit_moments(moments).transform(X)
    found = []

    def row(name, features, **how):
        found.append(Rows("layers", (name,), (features.shape[1],), ((member,),), features, **how))

    for name, wanted in (("last", numbers.max()), ("middle", numbers.max() / 2)):
        at = int(np.argmin(np.abs(numbers - wanted)))
        row(f"{name} layer, {numbers[at]}", parts[at], parameters={"layer": int(numbers[at])})
    row("layer chosen inside the folds", parts[0], choices=tuple(parts))
    row(f"chain of {len(parts)} layers", chain, parameters={"residual_sizes": LAYER_SHARE})
    return found
