"""What measurements, embeddings and the models' own scores are worth for variants of one protein.

    python benchmarks/bench_variants.py [scan.csv.gz ...] [--models esm2-nano] [--draws 20]

Of the two bundled scans, and of files in ProteinGym's columns (mutant, DMS_score,
mutated_sequence), Spearman's correlation, NDCG at the best tenth, and the share of the best tenth
of the test rows that is among the 96 best predicted ones are taken for

- zero-shot scores: each member's masked marginals, their mean and their minimum, which see no
  measurement;
- the nested embedding in ``PrefixRidgeCV``;
- the mean score, or all members', beside the embedding in one head, without penalty;
- baselines without a language model: one-hot residues of the whole sequence, and position, wild
  type and mutant residue, by ridge;

each on the same rows: 24, 48, 96 and 384 drawn for training (the rest are test rows), and five
folds, random and by position. Differences are paired, and their intervals are of a bootstrap over
the data sets. Results are printed and written as JSON (``--output``).

A family other than an alias with a bundled distiller takes the folder of one (``--distiller``).
"""

import argparse
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.metrics import ndcg_score
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit
from sklearn.preprocessing import OneHotEncoder

from revdist_sklearn import ESMFeaturizer, ESMVariantScorer, PrefixRidgeCV, ReverseDistiller
from revdist_sklearn.datasets import load_amyloid_nucleation, load_gb1_stability

SIZES = (24, 48, 96, 384)
PICKED = 96
ALPHAS = np.logspace(-3, 4, 8)
METRICS = ("Spearman", "NDCG@10%", f"top 10% in {PICKED}")
PAIRS = (
    ("mean score and embedding", "embedding"),
    ("all scores and embedding", "embedding"),
    ("mean score and embedding", "zero-shot, mean"),
    ("embedding", "one-hot"),
    ("zero-shot, min", "zero-shot, mean"),
)


def bundled():
    """Yield name, mutants, scores and sequences of the scans of this package."""
    # Greater is better, as for all scores: the target of GB1 is what a mutation costs.
    for name, load, sign in (
        ("GB1 stability", load_gb1_stability, -1),
        ("amyloid", load_amyloid_nucleation, 1),
    ):
        scan = load()
        single = np.array([bool(re.fullmatch(r"[A-Z]\d+[A-Z]", m)) for m in scan.mutations])
        rows = np.flatnonzero(single)
        yield (
            name,
            [scan.mutations[i] for i in rows],
            sign * np.asarray(scan.target, dtype=float)[rows],
            [scan.sequences[i] for i in rows],
        )


def from_file(path):
    """Return the same of a file in ProteinGym's columns."""
    table = pd.read_csv(path)
    table = table[table.mutant.str.fullmatch(r"[A-Z]\d+[A-Z]")]
    name = Path(path).name.split(".")[0]
    return name, table.mutant.tolist(), table.DMS_score.to_numpy(), table.mutated_sequence.tolist()


def wild_type(mutants, sequences):
    """Return the sequence that all single mutants come of; positions may count from elsewhere."""
    letters = np.array([[*sequence] for sequence in sequences])
    common = [max(set(column), key=list(column).count) for column in letters.T]
    text = "".join(common)
    for sequence in sequences:
        assert sum(a != b for a, b in zip(sequence, text, strict=True)) <= 1, sequence
    return text


def columns_of(scan, models, distiller, cache):
    """Return scores of members, nested embedding, stage widths and baselines of a scan."""
    _, mutants, _, sequences = scan
    reference = wild_type(mutants, sequences)
    scorer = ESMVariantScorer(models, reference=reference, cache_dir=cache)
    scores = scorer.fit(sequences).transform(sequences)
    embedding = distiller.transform(ESMFeaturizer(models, cache_dir=cache).transform(sequences))
    one_hot = OneHotEncoder(sparse_output=False).fit_transform([[*s] for s in sequences])
    sites = [re.fullmatch(r"([A-Z])(\d+)([A-Z])", m).groups() for m in mutants]
    position = OneHotEncoder(sparse_output=False).fit_transform(np.array(sites, dtype=object))
    return scores, embedding, one_hot, position, np.array([int(site[1]) for site in sites])


def predictions(train, columns, y, stages, groups):
    """Yield the name of each contestant with its predictions of all rows."""
    scores, embedding, one_hot, position, _ = columns
    for i in range(scores.shape[1]):
        yield f"zero-shot, member {i + 1}", scores[:, i]
    yield "zero-shot, mean", scores.mean(axis=1)
    yield "zero-shot, min", scores.min(axis=1)
    cv = [*folds(len(train), None if groups is None else groups[train])]
    for name, beside in (
        ("embedding", scores[:, :0]),
        ("mean score and embedding", scores.mean(axis=1, keepdims=True)),
        ("all scores and embedding", scores),
    ):
        X, free = np.hstack([beside, embedding]), beside.shape[1]
        head = PrefixRidgeCV(
            [free + width for width in stages], alphas=ALPHAS, cv=cv, n_unpenalized=free
        )
        yield name, head.fit(X[train], y[train]).predict(X)
    for name, X in (("one-hot", one_hot), ("position, wild type, mutant", position)):
        yield name, RidgeCV(ALPHAS).fit(X[train], y[train]).predict(X)


def folds(n, groups):
    """Return five folds, random ones or whole positions."""
    rows = np.zeros((n, 1))
    if groups is None:
        return KFold(5, shuffle=True, random_state=0).split(rows)
    return GroupKFold(min(5, len(set(groups))), shuffle=True, random_state=0).split(
        rows, groups=groups
    )


def figures(y, predicted):
    """Return Spearman, NDCG at the best tenth, and the share of it among the best predicted."""
    tenth = max(1, len(y) // 10)
    gains = (y - y.min()) / (np.ptp(y) or 1)
    best = set(np.argsort(-y, kind="stable")[:tenth])
    picked = set(np.argsort(-predicted, kind="stable")[:PICKED])
    constant = np.ptp(predicted) == 0
    return (
        0.0 if constant else float(spearmanr(y, predicted).statistic),
        float(ndcg_score([gains], [predicted], k=tenth)),
        len(best & picked) / tenth,
    )


def splits_of(n, positions, draws):
    """Yield the kind of split, and its parts."""
    for size in SIZES:
        if size <= n - 2 * PICKED:
            draw = ShuffleSplit(draws, train_size=size, test_size=n - size, random_state=0)
            yield f"{size} rows", [(*part, None) for part in draw.split(np.zeros((n, 1)))]
    yield "random folds", [(*part, None) for part in folds(n, None)]
    yield "folds by position", [(*part, positions) for part in folds(n, positions)]


def measure(scan, models, distiller, draws, cache):
    """Return for each kind of split and contestant its mean figures over the splits."""
    columns, y = columns_of(scan, models, distiller, cache), scan[2]
    found = {}
    for kind, parts in splits_of(len(y), columns[-1], draws):
        of_kind = found.setdefault(kind, {})
        for train, test, groups in parts:
            for name, predicted in predictions(train, columns, y, distiller.stage_dims_, groups):
                of_kind.setdefault(name, []).append(figures(y[test], predicted[test]))
    return {
        kind: {name: np.mean(values, axis=0).tolist() for name, values in of_kind.items()}
        for kind, of_kind in found.items()
    }


def interval(differences, seed=0):
    """Return the mean of differences and its 95% interval by a bootstrap over the data sets."""
    differences = np.asarray(differences)
    draws = np.random.default_rng(seed).integers(len(differences), size=(10_000, len(differences)))
    low, high = np.quantile(differences[draws].mean(axis=1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="*", type=Path)
    parser.add_argument("--models", default="esm2-nano")
    parser.add_argument("--distiller", help="folder (default: the one of --models)")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--cache-dir")
    parser.add_argument("--output", type=Path, default=Path("bench_variants.json"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*The chosen alpha")
    distiller = ReverseDistiller.from_pretrained(arguments.distiller or arguments.models)
    scans = [*bundled(), *map(from_file, arguments.scans)]
    found = {}
    for scan in scans:
        found[scan[0]] = measure(
            scan, arguments.models, distiller, arguments.draws, arguments.cache_dir
        )
        print(f"{scan[0]}: {len(scan[2]):,} single mutants", flush=True)
    kinds = [*next(iter(found.values()))]
    for i, metric in enumerate(METRICS):
        print(f"\n{metric}, mean over {len(found)} data sets\n")
        print("| | " + " | ".join(kinds) + " |")
        print("|---" * (1 + len(kinds)) + "|")
        for name in found[scans[0][0]][kinds[0]]:
            row = [
                np.mean([of[kind][name][i] for of in found.values() if kind in of])
                for kind in kinds
            ]
            print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    print("\nSpearman of single data sets, folds by position\n")
    names = [*found[scans[0][0]][kinds[-1]]]
    print("| | " + " | ".join(found) + " |")
    print("|---" * (1 + len(found)) + "|")
    for name in names:
        print(
            f"| {name} | "
            + " | ".join(f"{of[kinds[-1]][name][0]:.3f}" for of in found.values())
            + " |"
        )
    differences = {}
    print("\nDifferences of Spearman, with 95% intervals by a bootstrap over the data sets\n")
    print("| | " + " | ".join(kinds) + " |")
    print("|---" * (1 + len(kinds)) + "|")
    for a, b in PAIRS:
        cells = []
        for kind in kinds:
            of_sets = [of[kind][a][0] - of[kind][b][0] for of in found.values() if kind in of]
            mean, low, high = differences.setdefault(f"{a} - {b}", {})[kind] = interval(of_sets)
            cells.append(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})")
        print(f"| {a} less {b} | " + " | ".join(cells) + " |")
    arguments.output.write_text(json.dumps({"scans": found, "differences": differences}, indent=1))


if __name__ == "__main__":
    main()
