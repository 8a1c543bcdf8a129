"""The paper's ablations and its scaling-consistency table, on any scans and any family.

    python benchmarks/paper_tables.py [scan.csv.gz or folder ...] [--models esm2-nano]
        [--fasta corpus.fasta] [--cache-dir cache] [--rows 1000] [--output paper_tables.json]

For ESM-2 on ProteinGym's files, on a machine with the hub and a GPU::

    python benchmarks/paper_tables.py DMS_ProteinGym_substitutions --models esm2:15B \
        --fasta corpus.fasta --cache-dir cache

``data_sets.py FOLDER`` writes scans of more proteins, which are read as ``FOLDER/variants``.
Without files, or with ``--bundled`` too, the two bundled scans are taken. Of each scan the rows of the smallest hashes are
scored (``--rows``), in random folds and in folds by position, by ridge whose penalty is chosen
inside the folds. What is varied, one thing at a time, against the chain of the paper (least
squares, all members, residues of the whole corpus):

- chain: without the members in the middle (direct), with every second one (skipping);
- regressor: ridge, principal-component regression;
- residual directions by protein means instead of residues; a fit on pooled proteins alone;
- corpus: 10 and 100 proteins of it; the variants of the scan itself;
- each regression on the raw smaller model instead of the accumulated embedding, applied to the
  latter, as the authors' published training script does it;

beside the rows of ``revdist evaluate``: raw members, no regression, concatenation and its PCA. Before
it starts it says how long embedding will take, by some proteins of each model, and what memory.
Differences are paired by scan, and intervals are of a bootstrap over proteins, where there are
six or more. The protein is that of a file's column "protein"; a file without it is of the protein
of a scan whose wild type holds its own or is part of it, or else of one of its own. Results are printed and written as JSON.
"""

import argparse
import hashlib
import json
import time
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np

from revdist_sklearn import (
    ESMFeaturizer,
    FastaReader,
    Moments,
    ReverseDistiller,
    corpus_moments,
)
from revdist_sklearn.datasets import (
    load_amyloid_nucleation,
    load_gb1_stability,
    load_uniprot_sample,
)
from revdist_sklearn.evaluation._data_set import Family, rows_of
from revdist_sklearn.evaluation._files import format_scores, name_of, prepared_table, tables_of
from revdist_sklearn.evaluation._rows import Rows
from revdist_sklearn.evaluation._run import Plan, score_rows
from revdist_sklearn.evaluation._summary import (
    _over_data_sets,
    enough_is_tested,
    few_tested,
    format_summary,
    proteins_of,
    summarise,
)
from revdist_sklearn.evaluation._table import variants_of
from revdist_sklearn.method._level import Level

METRIC, PLAN = "Spearman", Plan(("random", "position"))
READING = {"sequence_column": "mutated_sequence", "target_column": "DMS_score"}
FULL = "the paper's chain"
TIMED = 8
# Variants of a scan whose residues are a corpus.
VARIANTS = 200


def scans(paths, featurizer, with_bundled):
    """Return the tables by name, and the proteins that are named."""
    found, proteins = {}, {}
    if with_bundled or not paths:
        gb1, amyloid = load_gb1_stability(), load_amyloid_nucleation(mutations="single")
        # Greater is better: the target of GB1 is what a mutation costs.
        for name, scan, sign in (("GB1", gb1, -1), ("amyloid", amyloid, 1)):
            found[name] = variants_of(name, scan.sequences, sign * scan.target, scan.mutations)
        proteins |= {"GB1": "GB1", "amyloid": "amyloid beta"}
    for file in tables_of(paths):
        name = name_of(file)
        found[name] = prepared_table(file, featurizer, READING)
        if found[name].protein:
            proteins[name] = found[name].protein
    return found, proteins


def fewer(table, n):
    """Return the rows of the smallest hashes."""
    if n is None or len(table) <= n:
        return table
    hashes = [hashlib.sha256(text.encode()).digest() for text in table.sequences]
    keep = sorted(sorted(range(len(table)), key=hashes.__getitem__)[:n])
    return replace(
        table,
        sequences=[table.sequences[i] for i in keep],
        target=table.target[keep],
        mutations=[table.mutations[i] for i in keep],
        labels=[table.labels[i] for i in keep],
        n_replicates=table.n_replicates[keep],
        folds={name: values[keep] for name, values in table.folds.items()},
    )


def part_of(moments, blocks):
    """Return the moments of some of the blocks."""
    slices, names = moments.blocks.slices, moments.blocks.names
    columns = np.concatenate([np.arange(s.start, s.stop) for s in (slices[b] for b in blocks)])
    part = Moments(
        [moments.block_sizes[b] for b in blocks], block_names=[names[b] for b in blocks]
    )
    level = moments.residue
    scatter = np.ascontiguousarray(level.scatter[np.ix_(columns, columns)])
    part.residue, part.n_rows = Level.of(level.n, level.mean[columns], scatter), moments.n_rows
    return part, columns


def raw_chain(moments, X):
    """Return the embedding whose regressions were fitted on raw models: the authors' script."""
    C, mean, slices = moments.residue.covariance, moments.mean, moments.blocks.slices
    Z = X[:, slices[0]]
    for before, block in pairwise(slices):
        scale = np.sqrt(np.diag(C[before, before]))
        scale[scale == 0] = 1
        correlation = C[before, before] / np.outer(scale, scale)
        W = np.linalg.pinv(correlation, rcond=1e-12, hermitian=True) / scale[:, None] / scale
        W = W @ C[before, block]
        left = C[block, block] - W.T @ C[before, block]
        _, V = np.linalg.eigh((left + left.T) / 2)
        V = V[:, ::-1][:, : X[:, block].shape[1] - Z.shape[1]]
        residual = X[:, block] - mean[block] - (Z - mean[before]) @ W
        Z = np.hstack([Z, residual @ V])
    return Z


def variations(moments, featurizer, corpus, **how):
    """Return the fitted distillers by name, and the columns of the family that each takes."""
    n, everything = len(moments.blocks), slice(None)
    found = {FULL: (ReverseDistiller().fit_moments(moments), everything)}
    for regressor in ("ridge", "pcr"):
        found[regressor] = ReverseDistiller(regressor=regressor).fit_moments(moments), everything
    by_means = ReverseDistiller(residual_level="protein").fit_moments(moments)
    found["directions by protein means"] = by_means, everything
    pooled = np.asarray(featurizer.transform(corpus))
    found["fit on pooled proteins"] = (
        ReverseDistiller(moments.block_sizes).fit(pooled),
        everything,
    )
    for size in (10, 100):
        if size < len(corpus):
            few = corpus_moments(featurizer, corpus[:: len(corpus) // size][:size], **how)
            found[f"corpus of {size} proteins"] = ReverseDistiller().fit_moments(few), everything
    for name, blocks in (("direct", (0, n - 1)), ("skipping", (*range(0, n - 1, 2), n - 1))):
        if 1 < len(set(blocks)) < n and (name == "direct" or n > 3):
            part, columns = part_of(moments, sorted(set(blocks)))
            found[name] = ReverseDistiller().fit_moments(part), columns
    return found


def estimate(featurizer, corpus, tables):
    """Say how long embedding takes, and what memory."""
    family, sample = (
        Family(featurizer, None, None),
        corpus[:: max(1, len(corpus) // TIMED)][:TIMED],
    )
    costs = family.costs(sample)
    residues = sum(map(len, corpus))
    of_variants = sum(sum(map(len, table.sequences)) for table in tables.values())
    per_residue = sum(c["seconds"] for c in costs) / 1000 / np.mean([len(s) for s in sample])
    D = featurizer.embedding_plan().blocks.n_columns
    n = sum(map(len, tables.values()))
    parameters = sum(c["parameters"] for c in costs)
    print(
        f"{len(corpus):,} proteins of the corpus and {n:,} variants, {residues + of_variants:,} "
        f"residues: about {per_residue * (residues + of_variants):,.0f} s to embed here. "
        f"{parameters:,} parameters, {4 * parameters / 1e9:.2g} GB in float32; moments "
        f"{16 * D**2 / 1e9:.2g} GB, embeddings {8 * n * D / 1e9:.2g} GB.",
        flush=True,
    )


def rows_of_scan(table, X, family, distillers, **how):
    """Return what is scored of one scan."""
    kinds = ("mutation", "raw", "distilled", "concatenation", "concatenation_pca")
    kinds += ("without_regression", "largest_pca")
    rows = [r for r in rows_of(table, X, family, curve=(), notes=[]) if r.kind in kinds]
    moments = family.moments
    everyone = tuple(range(len(moments.blocks)))
    made = {name: (d.transform(X[:, columns]), d) for name, (d, columns) in distillers.items()}
    with warnings.catch_warnings():  # that variants are no corpus is what is asked here
        warnings.simplefilter("ignore", UserWarning)
        own = corpus_moments(family.featurizer, table.sequences[:VARIANTS], **how)
        distiller = ReverseDistiller().fit_moments(own)
    made["corpus of the scan's own variants"] = distiller.transform(X), distiller
    Z = raw_chain(moments, X)
    made["regressions on raw models"] = Z, distillers[FULL][0]
    for name, (Z, distiller) in made.items():
        width = int(distiller.stage_dims_[-1])
        rows.append(Rows("ablation", (name,), (width,), (everyone,), Z))
    return rows


def ablations(data_sets, seed=0):
    """Return for each variation and split its mean, and its difference to the chain."""
    found = []
    for split in PLAN.kinds:
        by_name: dict[str, dict] = {}
        for scan, data_set in data_sets.items():
            if not enough_is_tested(data_set["rows"], split):
                continue
            for row in data_set["rows"]:
                if row["split"] == split and row["kind"] == "ablation":
                    by_name.setdefault(row["row"], {})[scan] = row["mean"][METRIC]
        full = by_name[FULL]
        for name, means in by_name.items():
            proteins = [data_sets[scan]["protein"] for scan in means]
            gains = [mean - full[scan] for scan, mean in means.items()]
            over = _over_data_sets(gains, proteins, seed)
            found.append(
                {"name": name, "split": split, "mean": np.mean([*means.values()]), **over}
            )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="*")
    parser.add_argument("--models", nargs="+", default=["esm2-nano"])
    parser.add_argument("--bundled", action="store_true", help="the bundled scans too")
    parser.add_argument("--fasta", help="corpus (default: the bundled sample of UniProt)")
    parser.add_argument("--cache-dir")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--n-jobs", type=int)
    parser.add_argument("--rows", type=int, default=1000, help="of a scan at most")
    parser.add_argument("--output", default="paper_tables.json")
    given = parser.parse_args()
    start = time.perf_counter()
    models = given.models[0] if len(given.models) == 1 else given.models
    featurizer = ESMFeaturizer(
        models,
        cache_dir=given.cache_dir,
        device=given.device,
        dtype=given.dtype,
        n_jobs=given.n_jobs,
    )
    if given.fasta is None:
        corpus = load_uniprot_sample().sequences
    else:
        corpus = [record.sequence for record in FastaReader(given.fasta).records()]
    found, named = scans(given.scans, featurizer, given.bundled)
    proteins = proteins_of({name: table.wild_type for name, table in found.items()}, named)
    tables = {name: fewer(table, given.rows) for name, table in found.items()}
    estimate(featurizer, corpus, tables)
    how = {"n_jobs": given.n_jobs, "verbose": 0}
    moments = corpus_moments(featurizer, corpus, **how)
    distillers = variations(moments, featurizer, corpus, **how)
    family = Family(featurizer, distillers[FULL][0], moments, scores=False)
    data_sets = {}
    for name, table in tables.items():
        X = np.asarray(featurizer.transform(table.sequences), dtype=np.float64)
        rows = rows_of_scan(table, X, family, distillers, **how)
        scored = score_rows(table, rows, PLAN, notes=[])
        data_sets[name] = {
            "metric": METRIC,
            "protein": proteins[name],
            "wild_type": table.wild_type,
            "n_rows": len(table),
            "rows": scored,
        }
        print(
            f"\n{name}, {len(table):,} rows\n{format_scores({name: data_sets[name]})}", flush=True
        )
    summary = summarise(data_sets, METRIC)
    print("\n" + "\n".join([format_summary(summary), *few_tested(data_sets)]))
    tried = ablations(data_sets)
    print(f"\n| what is varied | {' | '.join(f'{s} folds | difference' for s in PLAN.kinds)} |")
    print("|---" * (1 + 2 * len(PLAN.kinds)) + "|")
    for name in dict.fromkeys(each["name"] for each in tried):
        cells = []
        for each in (e for e in tried if e["name"] == name):
            interval = each["difference_interval"]
            shown = f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
            cells += [f"{each['mean']:.3f}", f"{each['difference']:+.3f}{shown}"]
        print(f"| {name} | {' | '.join(cells)} |")
    figures = {
        "models": list(moments.blocks.names),
        "data_sets": data_sets,
        "summary": summary,
        "ablations": tried,
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(f"\n{figures['seconds']:.0f} s")
    with open(given.output, "w") as file:
        json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
