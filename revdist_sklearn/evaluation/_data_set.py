"""One data set from its file to its figures: rows, scores, verdict and code."""

import hashlib
import time
from dataclasses import dataclass, replace

import numpy as np

from ..base._unpack import STANDARD_INPUT
from ..embedding._featurizer import ESMFeaturizer
from ..embedding._sequences import listed
from ..method._distiller import ReverseDistiller
from ..method._moments import Moments
from ..models._residues import AMINO_ACIDS
from ..variants._scorer import OF_FEATURIZER, ESMVariantScorer
from ._rows import (
    PartScaler,
    Representations,
    Rows,
    SideBySide,
    family_rows,
    ladder,
    layer_rows,
    mutation_features,
    one_hot,
    too_large,
)
from ._run import LEAST_ROWS, rows_for_head, score_rows
from ._verdict import code, verdict

TABLE = "position, wild type, mutant"
# Rows of a fold below which its score says little.
FEW_TESTED = 10
# Variants by which the seconds of a model are measured.
SAMPLE = 16


@dataclass(frozen=True)
class Family:
    """The models of an evaluation, and what of them does not depend on the data set.

    Parameters
    ----------
    featurizer : ESMFeaturizer

    distiller : ReverseDistiller

    moments : Moments or None
        Of the corpus of the baselines; None where there are none.

    others : tuple of (str, ReverseDistiller), default=()
        Further fitted distillers.

    layers : tuple of (ESMFeaturizer, Moments), default=None
        Of several layers of the last model.

    scores : bool, default=True
        Whether the models' own scores of variants are rows, alone and beside every other one.
    """

    featurizer: ESMFeaturizer
    distiller: ReverseDistiller
    moments: Moments | None
    others: tuple = ()
    layers: tuple | None = None
    scores: bool = True

    def representations(self):
        """Return what is linear in the embeddings."""
        return Representations(self.distiller, self.moments)

    def identity(self):
        """Return what figures depend on; can be written as JSON."""
        arrays = []
        if self.moments is not None:
            arrays += [self.moments.mean, self.moments.residue.covariance]
        for distiller in (self.distiller, *(other for _, other in self.others)):
            arrays += [distiller.components_, distiller.mean_]
        found = hashlib.sha256()
        for array in arrays:
            found.update(np.ascontiguousarray(array).tobytes())
        layers = None if self.layers is None else self.layers[0].embedding_plan().identity()
        return {
            "models": self.featurizer.embedding_plan().identity(),
            # Which sequences the models see depends on these too.
            "limits": [self.featurizer.max_length, self.featurizer.too_long],
            "fits": found.hexdigest(),
            "others": [name for name, _ in self.others],
            "layers": layers,
            "scores": self.scores,
        }

    def without_head(self):
        """Return the message that a member has no language-model head, or None."""
        try:
            self.scorer("M").fit_transform(["M"])  # its weights may be missing too
        except ValueError as error:
            return str(error)
        return None

    def scorer(self, reference, **how):
        """Return the scorer of the same models, of which single sites add up."""
        shared = {name: getattr(self.featurizer, name) for name in OF_FEATURIZER}
        return ESMVariantScorer(**shared, reference=reference, joint=False, **how)

    def costs(self, sequences):
        """Return what it takes to run each member: parameters, and seconds for 1,000 proteins.

        Parameters
        ----------
        sequences : list of str
            The first of them are embedded, without cache.

        Returns
        -------
        costs : list of dict
            ``name``, ``parameters``, ``seconds``.
        """
        sample, found = sequences[:SAMPLE], []
        for run, _ in self.featurizer.embedding_plan().runs():
            encoder = run.encoder()
            list(run.pooled(sample[:1]))  # what the first batch prepares
            start = time.perf_counter()
            list(run.pooled(sample))
            seconds = (time.perf_counter() - start) / len(sample) * 1000
            found.append(
                {
                    "name": run.member.block,
                    "parameters": encoder.n_parameters,
                    "seconds": float(f"{seconds:.3g}"),
                }
            )
        return found


def residue_rows(residues, X, family):
    """Return all rows of proteins with labelled residues.

    Parameters
    ----------
    residues : Residues

    X : ndarray of shape (n_residues, D)
        Embeddings of the residues, protein after protein.

    family : Family

    Returns
    -------
    rows : list of Rows
    """
    representations = family.representations()
    letters = np.frombuffer("".join(residues.sequences).encode(), dtype=np.uint8)
    features = (letters[:, None] == np.unique(letters)).astype(np.float64)
    alone = Rows("one_hot", ("residue alone",), (features.shape[1],), ((),), features)
    return [alone, *family_rows(representations, X, others=family.others)]


def embedded_residues(featurizer, sequences):
    """Return the embeddings of residues, of shape (n_residues, D), protein after protein."""
    parts = [np.asarray(rows) for rows, _ in featurizer.iter_residues(sequences)]
    X = np.concatenate(parts).astype(np.float64)
    n = sum(map(len, sequences))
    if len(X) != n:
        raise ValueError(
            f"{n - len(X)} of {n} residues have no embedding, because proteins are cut at the "
            "length limit; give a larger --max-length, or --too-long window."
        )
    return X


def rows_of(variants, X, family, *, curve=None, notes):
    """Return all rows of a data set.

    Parameters
    ----------
    variants : Variants

    X : ndarray of shape (n_variants, D)
        Its embeddings.

    family : Family

    curve : sequence of int, default=None
        Widths between the stages; None is the middle before each.

    notes : list of str
        Gains a sentence for each row that cannot be.

    Returns
    -------
    rows : list of Rows
    """
    representations = family.representations()
    curve = ladder(representations.stage_dims) if curve is None else curve
    of_family = family_rows(representations, X, others=family.others, curve=curve)
    embedding = next(rows for rows in of_family if rows.kind == "distilled")
    everyone = tuple(range(len(representations.names)))
    tables = []

    def alone(kind, name, features, members=(), **how):
        return Rows(kind, (name,), (features.shape[1],), (members,), features, **how)

    unknown = sum(m is None for m in variants.mutations)
    if unknown <= len(variants) / 2:
        features = mutation_features([m or () for m in variants.mutations])
        tables.append(alone("mutation", TABLE, features))
        if unknown:
            notes.append(
                f"The row {TABLE!r} takes {unknown} rows whose mutations are not known for the "
                "wild type."
            )
    else:
        notes.append(
            f"No row {TABLE!r}: of {unknown} of {len(variants)} rows the mutations are not known."
        )
    letters = one_hot(variants.sequences) if len(set(map(len, variants.sequences))) == 1 else None
    if letters is None:
        notes.append("No one-hot rows: sequences differ in length.")
    elif (why := too_large(*letters.shape)) is not None:
        notes.append(f"No one-hot rows: {why}")
    else:
        tables.append(alone("one_hot", "one-hot", letters))
        parts = letters, embedding.features
        both = alone("one_hot_and_embedding", "one-hot + embedding", SideBySide(*parts), everyone)
        tables.append(replace(both, in_fold=PartScaler([p.shape[1] for p in parts])))
    if family.layers is not None:
        featurizer, moments = family.layers
        states = np.asarray(featurizer.transform(variants.sequences), dtype=np.float64)
        tables += layer_rows(moments, states, featurizer.layer, everyone[-1])
    rows = [*tables, *of_family]
    scores = _scores(variants, family, notes) if family.scores else None
    if scores is None:
        return rows
    mean = scores.mean(axis=1)[:, None]
    rows += [each.beside(mean, everyone) for each in rows]
    if variants.task == "classification":  # which class is the better one, nobody has told
        notes.append("Scores of the models alone are no classes: they stand beside rows only.")
        return rows
    blocks = [*representations.names]
    zero_shot = [
        alone("score", f"score of {name}", scores[:, [i]], (i,), is_score=True)
        for i, name in enumerate(blocks)
    ]
    if len(blocks) > 1:
        for name, made in (("mean", np.mean), ("minimum", np.min)):
            column = made(scores, axis=1)[:, None]
            zero_shot.append(
                alone("score", f"{name} score of the family", column, everyone, is_score=True)
            )
    return [*zero_shot, *rows]


def scored_alone(variants, family):
    """Return the variants of which models can say how likely they are, without the others.

    Parameters
    ----------
    variants : Variants

    family : Family

    Returns
    -------
    variants : Variants
        Without those that have another letter than the twenty amino acids in the place of a
        mutation. All of them where no scores can be had or are wanted, or these are more than
        half or leave too few.

    note : str or None
        What is to be said of those that are left out.
    """
    wild = variants.wild_type
    lengths = set(map(len, variants.sequences))
    if not family.scores or wild is None or lengths != {len(wild)}:
        return variants, None
    known = set(AMINO_ACIDS)

    def can_be(sequence):
        pairs = zip(wild, sequence, strict=True)
        return all({old, new} <= known for old, new in pairs if old != new)

    odd = [i for i, sequence in enumerate(variants.sequences) if not can_be(sequence)]
    n = len(variants)
    if not odd or 2 * len(odd) > n or n - len(odd) < LEAST_ROWS:
        return variants, None
    if family.without_head() is not None:
        return variants, None
    text = (
        f"{len(odd)} of {n} variants have another letter than the twenty amino acids in the place "
        f"of a mutation and no score of the models: {listed(variants.labels[i] for i in odd)}. "
        "They are left out, so that all rows are of the same variants; --no-scores leaves out "
        "the scores instead."
    )
    kept = variants.take(np.setdiff1d(np.arange(n), odd))
    left = variants.counts["left out"] + int(variants.n_replicates[odd].sum())
    return replace(kept, counts={**variants.counts, "left out": left}), text


def _scores(variants, family, notes):
    """Return the models' own scores of the variants, or None with a note that says why."""
    missing = "No scores of the models themselves: "
    if variants.wild_type is None:
        notes.append(f"{missing}the wild type is not known; give it, or a column of mutations.")
        return None
    if any(len(text) != len(variants.wild_type) for text in variants.sequences):
        notes.append(f"{missing}sequences differ in length from the wild type.")
        return None
    scorer = family.scorer(variants.wild_type)
    try:
        return np.asarray(scorer.transform(variants.sequences), dtype=np.float64)
    except ValueError as error:
        notes.append(f"{missing}{error}")
        return None


def evaluate_variants(variants, family, plan, *, curve=None, source=None, progress=None):
    """Return the figures of one data set.

    Parameters
    ----------
    variants : Variants

    family : Family

    plan : Plan
        What is scored.

    curve : sequence of int, default=None
        As in :func:`rows_of`.

    source : dict, default=None
        For the code that is recommended: ``path``, ``sequence``, ``target``,
        ``models``, ``sources`` and ``distiller``.

    progress : callable, default=None
        As in :func:`score_rows`.

    Returns
    -------
    figures : dict
        ``task``, ``metric``, ``wild_type``, ``first_position`` (the number of its first
        residue in the names of mutations), ``protein`` (as the table names it),
        ``counts``, ``notes``, ``costs``, ``verdict``, ``choice``, ``code``, ``rows``, and as
        ``left_out`` the rows that the head cannot take, with the reason.

    Raises
    ------
    ValueError
        As the featurizer and the splits.
    """
    notes = list(variants.notes)
    if variants.task != "residues":
        variants, note = scored_alone(variants, family)
        notes += [] if note is None else [note]
    if variants.task == "residues":
        X = embedded_residues(family.featurizer, variants.sequences)
        groups = residue_rows(variants, X, family)
    else:
        X = np.asarray(family.featurizer.transform(variants.sequences), dtype=np.float64)
        groups = rows_of(variants, X, family, curve=curve, notes=notes)
    groups, left_out = rows_for_head(groups, plan.head, notes)
    rows = score_rows(variants, groups, plan, notes=notes, progress=progress)
    metric = next(iter(rows[0]["scores"]))
    notes += few_in_folds(rows)
    costs, wild_type = family.costs(variants.sequences), getattr(variants, "wild_type", None)
    lines, choice = verdict(rows, metric, costs)
    return {
        "task": variants.task,
        "metric": metric,
        "wild_type": wild_type,
        "first_position": 1 + getattr(variants, "offset", 0),
        "protein": getattr(variants, "protein", None),
        "counts": dict(variants.counts),
        "notes": notes,
        "costs": costs,
        "verdict": lines,
        "choice": choice["row"],
        "code": _code(choice, variants, source, plan.head, notes),
        "rows": rows,
        "left_out": left_out,
    }


def _code(choice, variants, source, head, notes):
    if source is None or variants.task == "residues":
        return None
    if head is not None:
        notes.append("No lines of Python: they fit ridge, and --head was given.")
        return None
    if variants.is_made or source["path"] == STANDARD_INPUT:
        why = "the table has none" if variants.is_made else "standard input is read once"
        notes.append(f"No lines of Python: they read sequences from a file, and {why}.")
        return None
    source = dict(source)
    has_limits = source.pop("censored", "limit") == "limit" and variants.counts["censored"] > 0
    return code(choice, task=variants.task, has_limits=has_limits, **source)


def few_in_folds(rows):
    """Return a sentence for each kind of split whose folds test few rows.

    Parameters
    ----------
    rows : list of dict
        Results of one data set.
    """
    found: dict[str, float] = {}
    for row in rows:
        if row["n_train"] is None:
            n_folds = len(next(iter(row["scores"].values())))
            found.setdefault(row["split"], row["n_tested"] / n_folds)
    return [told for kind, n in found.items() if (told := few_in_fold(kind, n)) is not None]


def few_in_fold(kind, n):
    """Return a sentence where folds of a kind test few rows, n on average; else None."""
    if n >= FEW_TESTED:
        return None
    return (
        f"Folds by {kind!r} test {n:.0f} rows each: scores of so few are hardly told from chance."
    )


def check_enough(variants):
    """Raise where there are too few distinct sequences for folds inside of folds."""
    n = len(variants)
    if n < LEAST_ROWS:
        raise ValueError(
            f"{n} distinct sequences are too few for five folds with five inside of each, of two "
            f"rows or more; measure {LEAST_ROWS} at least."
        )
