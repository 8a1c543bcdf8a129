"""Other prefixes at the same cost: which of them are better, decided before the first run.

    python benchmarks/data_sets.py sets
    python benchmarks/bench_prefixes.py sets/variants [scan.csv.gz ...] [--models esm2-nano]
        [--cache-dir cache] [--rows 600] [--output bench_prefixes.json]

**Written down before any of it was run:**

*Data sets.* All given scans with 400 single substitutions or more (rows with several are left
out), GB1 and amyloid as they are bundled, one scan a protein: the first by name. Of each the 600
rows of the smallest hashes. GB1, amyloid beta, ubiquitin, SUMO1, GRB2 and calmodulin were looked at
while the ideas arose: they are in the *development* half. The other proteins are sorted by the
SHA-256 of their names; each third one joins the development half, the others are the *report*.
What the report says decides; development is shown beside it.

*Folds and head.* Random and position folds (five, seed 0, by hash), ridge with its penalty
chosen in inner folds of the same kind, Spearman, the mean over the five folds of a scan.

*What counts.* Of a contrast: the difference of two rows of equal width, averaged over the widths
of its range, a number a scan and kind of fold. Ranges: short (8, 16, 32 columns), middle (48,
64), full (80, 96). A contrast is a **win** if its 95% interval over proteins (bootstrap, 10,000
draws, seed 0) lies above zero in random *and* in position folds of the report, a **loss** if in
both below; anything else is undecided. Six contrasts are primary, all others are told as tried:

1. mutant level, base turned to it, against the paper's chain with its base turned: middle and full.
2. The same against principal components of the same models (1..i) at mutant level: middle, full.
3. Columns by variance at mutant level against stage order of the same columns: short. It needs
   all models where stage order needs one.
4. The same against principal components of all models at mutant level: short.
5. All residual directions kept (a rotation of the concatenation) against the concatenation: 192.
6. The base and 16 supervised directions of the residuals (partial least squares in the fold)
   against the base and 16 such directions of the raw larger models: 48.

A default changes where a primary contrast is a win that holds for every user (1); what wins
otherwise is recommended as a parameter.
"""

import argparse
import json
import time
from hashlib import sha256
from itertools import pairwise

import numpy as np
from paper_tables import PLAN, fewer, scans
from sklearn.base import TransformerMixin
from sklearn.cross_decomposition import PLSRegression

from revdist_sklearn import ESMFeaturizer, Moments, ReverseDistiller, corpus_moments
from revdist_sklearn.datasets import load_uniprot_sample
from revdist_sklearn.evaluation._rows import Rows
from revdist_sklearn.evaluation._run import score_rows
from revdist_sklearn.evaluation._summary import _over_data_sets, proteins_of
from revdist_sklearn.evaluation._table import variants_of
from revdist_sklearn.method._chain import principal_directions
from revdist_sklearn.method._level import Level

METRIC = "Spearman"
WIDTHS = (8, 16, 32, 48, 64, 80, 96)
RANGES = {"short": (8, 16, 32), "middle": (48, 64), "full": (80, 96), "48": (48,), "all": None}
SEEN = {"GB1", "amyloid beta", "ubiquitin", "SUMO1", "GRB2", "CALM1"}
LEAST = 400
# Name, row, rival and ranges; the first six numbers of the docstring.
PRIMARY = (
    ("1", "mutant, base mutant", "residue, base residue", ("middle", "full")),
    ("2", "mutant, base mutant", "PCA of models 1..i, mutant", ("middle", "full")),
    ("3", "mutant, by variance", "mutant, base mutant", ("short",)),
    ("4", "mutant, by variance", "PCA of all models, mutant", ("short",)),
    ("5", "all residual directions", "concatenation", ("all",)),
    ("6", "base + PLS of residuals", "base + PLS of raw models", ("48",)),
)
TRIED = (
    ("base turned to proteins", "residue, base protein", "residue, base residue", ("short",)),
    ("base turned to mutants", "residue, base mutant", "residue, base residue", ("short",)),
    ("protein level", "protein, base protein", "residue, base residue", ("middle", "full")),
    ("mutant level, base as it is", "mutant", "residue", ("middle", "full")),
    ("residues by variance", "residue, by variance", "residue, base residue", ("short", "full")),
    ("proteins by variance", "protein, by variance", "protein, base protein", ("short", "full")),
    (
        "mutants by variance, long",
        "mutant, by variance",
        "mutant, base mutant",
        ("middle", "full"),
    ),
    ("no regression, mutant", "mutant, base mutant", "no regression, mutant", ("middle", "full")),
    ("regression on proteins", "regression on proteins", "residue, base residue", ("full",)),
    ("regression on mutants", "regression on mutants", "mutant, base mutant", ("full",)),
    ("ridge, tenth of the trace", "ridge", "residue, base residue", ("middle", "full")),
    ("pcr", "pcr", "residue, base residue", ("middle", "full")),
    ("square root of spread", "mutant, spread^.5", "mutant, base mutant", ("short", "full")),
    ("standardised", "mutant, spread^0", "mutant, base mutant", ("short", "full")),
    ("supervised against mutant level", "base + PLS of residuals", "mutant, base mutant", ("48",)),
    ("PLS of all, no base", "PLS of raw models", "base + PLS of residuals", ("48",)),
)


class SupervisedDirections(TransformerMixin):
    """The first columns as they are, and directions of the others by partial least squares."""

    def __init__(self, n_kept, n_directions):
        self.n_kept = n_kept
        self.n_directions = n_directions

    def fit(self, X, y):
        """Fit the directions."""
        self.pls = PLSRegression(self.n_directions, scale=False).fit(X[:, self.n_kept :], y)
        return self

    def transform(self, X):
        """Return the first columns and the directions."""
        return np.hstack([X[:, : self.n_kept], self.pls.transform(X[:, self.n_kept :])])


def with_residue_level(moments, level):
    """Return moments whose residue level is another one."""
    found = Moments(moments.block_sizes, block_names=moments.block_names)
    found.residue, found.n_rows = Level.of(level.n, level.mean, level.scatter), int(level.n)
    found.sample = None
    return found


def axes_of(C, slices, X):
    """Return the columns of PCA of models 1..i, each prefix from the models that it needs."""
    parts, done = [], 0
    for last in slices:
        V = principal_directions(C[: last.stop, : last.stop])[1]
        k = last.stop - last.start
        if k > done:
            parts.append((done, k, X[:, : last.stop] @ V))
            done = k
    return parts


def representations(moments):
    """Return functions of X that give a matrix, by name, and what each was made with."""
    slices, levels = moments.blocks.slices, moments.levels
    made = {}

    def distilled(name, **parameters):
        of = parameters.pop("of", moments)
        distiller = ReverseDistiller(**parameters).fit_moments(of)
        made[name] = distiller.transform, {**parameters, "n_models": distiller.n_models_.tolist()}
        return distiller

    distilled("residue")
    distilled("mutant", residual_level="mutant")
    for level in ("protein", "mutant"):
        distilled(f"residue, base {level}", rotate_base=level)
    for level in levels:
        how = {"residual_level": level, "rotate_base": level}
        distilled(f"{level}, base {level}", **how)
        distilled(f"{level}, by variance", order="variance", **how)
        if level != "residue":
            of = with_residue_level(moments, levels[level])
            distilled(f"regression on {level}s", rotate_base=True, of=of)
    trace = np.trace(moments.residue.covariance) / len(moments.mean)
    alpha = float(0.1 * moments.n * trace)
    distilled("ridge", rotate_base=True, regressor="ridge", alpha=alpha)
    distilled("pcr", rotate_base=True, regressor="pcr")
    C = levels["mutant"].covariance
    spread = levels["protein"].covariance
    base = ReverseDistiller(residual_level="mutant", rotate_base="mutant").fit_moments(moments)
    scale = np.sqrt(np.einsum("ij,jk,ik->i", base.components_, spread, base.components_))
    scale[scale < 1e-6 * scale.max()] = np.inf
    for power in (0.5, 0):
        factor = scale ** (power - 1.0)

        def scaled(X, factor=factor):
            return base.transform(X) * factor

        made[f"mutant, spread^{power}".replace("0.5", ".5")] = scaled, {"power": power}
    V = principal_directions(C)[1]
    made["PCA of all models, mutant"] = (lambda X: X @ V), {"level": "mutant"}

    def without_regression(X):
        first = base.transform(X)[:, : slices[0].stop]
        more = [
            X[:, b]
            @ principal_directions(C[b, b])[1][:, : (b.stop - b.start) - (a.stop - a.start)]
            for a, b in pairwise(slices)
        ]
        return np.hstack([first, *more])

    made["no regression, mutant"] = without_regression, {"level": "mutant"}
    return made


def rows_of_scan(X, moments, made):
    """Return what is scored of one scan."""
    everyone = tuple(range(len(moments.blocks)))
    slices, sizes = moments.blocks.slices, moments.block_sizes

    def named(name, widths, **how):
        names = tuple(f"{name}|{width}" for width in widths)
        return {"names": names, "widths": widths, "members": (everyone,) * len(widths), **how}

    rows = [
        Rows("prefix", features=transform(X), parameters=how, **named(name, WIDTHS))
        for name, (transform, how) in made.items()
    ]
    for done, k, Z in axes_of(moments.levels["mutant"].covariance, slices, X):
        widths = tuple(width for width in WIDTHS if done < width <= k)
        rows.append(Rows("prefix", features=Z, **named("PCA of models 1..i, mutant", widths)))
    whole = ReverseDistiller(residual_sizes=sizes[1:]).fit_moments(moments).transform(X)
    width = (X.shape[1],)
    rows.append(Rows("prefix", features=whole, **named("all residual directions", width)))
    rows.append(Rows("prefix", features=X, **named("concatenation", width)))
    k = sizes[0]
    for name, Z, n_kept in (
        ("base + PLS of residuals", whole, k),
        ("base + PLS of raw models", X, k),
        ("PLS of raw models", X, 0),
    ):
        in_fold = SupervisedDirections(n_kept, 48 - n_kept)
        rows.append(Rows("prefix", features=Z, in_fold=in_fold, **named(name, (48,))))
    return rows


def singles(name, table, least=LEAST):
    """Return the rows of one substitution, None where they are too few."""
    keep = [i for i, mutations in enumerate(table.mutations) if len(mutations) == 1]
    if len(keep) < least:
        return None
    sequences, mutations = table.sequences, table.mutations
    return variants_of(
        name,
        [sequences[i] for i in keep],
        table.target[keep],
        [":".join(f"{w}{p}{m}" for w, p, m in mutations[i]) for i in keep],
    )


def halves(proteins):
    """Return which proteins are development; the others are the report."""
    others = sorted(set(proteins) - SEEN, key=lambda name: sha256(name.encode()).hexdigest())
    return (SEEN & set(proteins)) | set(others[2::3])


def decide(scores, proteins, seed=0, *, contrasts=None, ranges=RANGES, development=None):
    """Return the figures of each contrast, by half and kind of folds.

    Parameters
    ----------
    scores : dict of str to dict of (str, str, int) to float
        By scan, and by row, kind of folds and width.

    proteins : dict of str to str

    seed : int, default=0

    contrasts : sequence of (str, str, str, tuple of str), default=None
        None takes those of this script.

    ranges : dict of str to (tuple of int or None)

    development : set of str, default=None
        Proteins; None takes those of :func:`halves`.
    """
    if development is None:
        development = halves(proteins.values())
    found = []
    for number, name, rival, parts in PRIMARY + TRIED if contrasts is None else contrasts:
        for part in parts:
            for half in ("development", "report"):
                some = [s for s in scores if (proteins[s] in development) == (half[0] == "d")]
                for split in PLAN.kinds:
                    gains = []
                    for scan in some:
                        widths = ranges[part] or sorted(
                            w for row, kind, w in scores[scan] if (row, kind) == (name, split)
                        )
                        own, its = (
                            np.mean([scores[scan][row, split, w] for w in widths])
                            for row in (name, rival)
                        )
                        gains.append((own, own - its))
                    if not gains:
                        continue
                    means, differences = zip(*gains, strict=True)
                    over = _over_data_sets(differences, [proteins[s] for s in some], seed)
                    found.append(
                        {
                            "contrast": number,
                            "row": name,
                            "rival": rival,
                            "range": part,
                            "half": half,
                            "split": split,
                            "mean": float(np.mean(means)),
                            **over,
                        }
                    )
    return found


def verdict(figures):
    """Return "win", "loss" or "undecided" of the two kinds of folds of the report."""
    intervals = [each["difference_interval"] for each in figures if each["half"] == "report"]
    if len(intervals) < 2 or None in intervals:
        return "undecided"
    if all(low > 0 for low, _ in intervals):
        return "win"
    return "loss" if all(high < 0 for _, high in intervals) else "undecided"


def shown(found):
    """Return the contrasts as a table of Markdown."""
    lines = [
        "| contrast | columns | half | random: mean, difference | position: mean, difference | verdict |"
    ]
    lines.append("|---" * 6 + "|")
    keys = dict.fromkeys((e["contrast"], e["row"], e["rival"], e["range"]) for e in found)
    for key in keys:
        of_key = [e for e in found if (e["contrast"], e["row"], e["rival"], e["range"]) == key]
        number, row, rival, part = key
        for half in ("development", "report"):
            cells = []
            for each in (e for e in of_key if e["half"] == half):
                interval = each["difference_interval"]
                between = f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
                cells.append(f"{each['mean']:.3f}, {each['difference']:+.3f}{between}")
            if cells:
                said = verdict(of_key) if half == "report" else ""
                what = f"{number}: {row} against {rival}"
                lines.append(f"| {what} | {part} | {half} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines)


def means_of(results, seconds):
    """Return the mean scores of a scan by row, kind of folds and width, and add its seconds."""
    means = {}
    for row in results:
        name = row["row"].partition("|")[0]
        means[name, row["split"], row["width"]] = row["mean"][METRIC]
        seconds[name] = seconds.get(name, 0.0) + row["seconds"]
    return means


def record_of(moments, decided, made, seconds, scores):
    """Return what is written of a run, beside its data sets."""
    return {
        "models": list(moments.blocks.names),
        "contrasts": decided,
        "parameters": {name: how for name, (_, how) in made.items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "scores": {
            scan: [[*key, value] for key, value in of_scan.items()]
            for scan, of_scan in scores.items()
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="*")
    parser.add_argument("--models", nargs="+", default=["esm2-nano"])
    parser.add_argument("--cache-dir")
    parser.add_argument("--rows", type=int, default=600, help="of a scan at most")
    parser.add_argument("--output", default="bench_prefixes.json")
    given = parser.parse_args()
    start = time.perf_counter()
    models = given.models[0] if len(given.models) == 1 else given.models
    featurizer = ESMFeaturizer(models, cache_dir=given.cache_dir)
    corpus = load_uniprot_sample().sequences
    moments = corpus_moments(featurizer, corpus, mutants=16, verbose=0)
    seconds = {"moments": time.perf_counter() - start}
    made = representations(moments)
    found, named = scans(given.scans, featurizer, True)
    proteins = proteins_of({name: table.wild_type for name, table in found.items()}, named)
    for name, table in found.items():
        if proteins[name] == table.wild_type:  # no name is known
            proteins[name] = name.partition("_")[0]
    tables: dict = {}
    for name in sorted(found, key=str.lower):
        if proteins[name] in (proteins[other] for other in tables):
            continue
        if (table := singles(name, found[name])) is not None:
            tables[name] = fewer(table, given.rows)
    development = halves([proteins[name] for name in tables])
    scores: dict = {}
    for name, table in tables.items():
        begun = time.perf_counter()
        X = np.asarray(featurizer.transform(table.sequences), dtype=np.float64)
        embedded = time.perf_counter()
        results = score_rows(table, rows_of_scan(X, moments, made), PLAN, notes=[])
        scores[name] = means_of(results, seconds)
        half = "development" if proteins[name] in development else "report"
        print(
            f"{name} ({proteins[name]}, {half}): {len(table)} rows, embedded in "
            f"{embedded - begun:.0f} s, scored in {time.perf_counter() - embedded:.0f} s",
            flush=True,
        )
    decided = decide(scores, {name: proteins[name] for name in tables})
    print("\n" + shown(decided))
    record = record_of(moments, decided, made, seconds, scores)
    record |= {"proteins": {name: proteins[name] for name in tables}}
    record |= {"development": sorted(development)}
    print(f"\n{time.perf_counter() - start:.0f} s")
    with open(given.output, "w") as file:
        json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
