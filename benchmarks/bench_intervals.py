"""How often new measurements lie within the intervals of predictions, beside scikit-learn's.

    python benchmarks/bench_intervals.py

Embeddings are those of the bundled models and their distiller, on the two bundled scans (single
mutants). Every fold of an outer split is predicted by a fit to the others, or to ``--rows`` drawn
from these; splits inside of the fit are of the same kind. An interval of a share is the mean
plus and minus quantiles of the normal distribution times the standard deviation. Results are
printed as Markdown and written as JSON (``--output``).
"""

import argparse
import json
import re
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import norm, spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, WhiteKernel
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import GroupKFold, KFold

from revdist_sklearn import ESMFeaturizer, PrefixRidgeCV, ReverseDistiller
from revdist_sklearn.datasets import load_amyloid_nucleation, load_gb1_stability

SHARES = (0.5, 0.8, 0.95)
ALPHAS = np.logspace(-4, 2, 13)
N_SPLITS = 5


def scans():
    emb, rd = ESMFeaturizer("esm2-nano"), ReverseDistiller.from_pretrained("esm2-nano")
    for name, data in (
        ("GB1 stability", load_gb1_stability()),
        ("amyloid nucleation", load_amyloid_nucleation(mutations="single")),
    ):
        positions = np.array([int(re.findall(r"\d+", each)[0]) for each in data.mutations])
        yield name, rd.transform(emb.transform(data.sequences)), data.target, positions


def splitter(by_position, seed=0):
    if by_position:
        return GroupKFold(N_SPLITS)
    return KFold(N_SPLITS, shuffle=True, random_state=seed)


def search(prefixes, cv=None):
    def fit(X, y, positions, by_position):
        inner = splitter(by_position, seed=1) if cv is None else cv
        head = PrefixRidgeCV(prefixes, alphas=ALPHAS, cv=inner)
        return head.fit(X, y, groups=positions)

    return fit


def bayesian_ridge(X, y, positions, by_position):
    return BayesianRidge().fit(X, y)


def gaussian_process(X, y, positions, by_position):
    # Marginal likelihood chooses the variances. From scikit-learn's default, a noise of 1, which
    # is all of the variance, the optimiser does not move.
    kernel = ConstantKernel(0.01, (1e-6, 1e5)) * DotProduct() + WhiteKernel(0.5, (1e-3, 1e2))
    return GaussianProcessRegressor(kernel, normalize_y=True).fit(X, y)


CONTESTANTS = {
    "PrefixRidgeCV, 12 prefixes": search(12),
    "PrefixRidgeCV, 96 columns": search([96]),
    'PrefixRidgeCV, 96 columns, cv="loo"': search([96], "loo"),
    "BayesianRidge": bayesian_ridge,
    "GaussianProcessRegressor": gaussian_process,
}


def rows_of(fit, X, y, positions, by_position, n_rows, draws):
    """Return the figures of one contestant, means over the rows of all folds and draws."""
    means, stds, truth, folds, seconds = [], [], [], [], 0.0
    for draw in range(draws):
        outer = splitter(by_position, seed=draw).split(X, y, positions)
        rng = np.random.default_rng(draw)
        for train, test in outer:
            if n_rows is not None:
                train = rng.choice(train, n_rows, replace=False)
            start = time.perf_counter()
            model = fit(X[train], y[train], positions[train], by_position)
            mean, std = model.predict(X[test], return_std=True)
            seconds += time.perf_counter() - start
            means.append(mean)
            stds.append(std)
            truth.append(y[test])
            folds.append(spearmanr(mean, y[test]).statistic)
    mean, std, y = (np.concatenate(each) for each in (means, stds, truth))
    z = np.abs(y - mean) / std
    return {
        **{f"{share:.0%}": float((z < norm.ppf(0.5 + share / 2)).mean()) for share in SHARES},
        "deviation": float(std.mean()),
        "error": float(np.sqrt(np.square(y - mean).mean())),
        "log density": float(norm.logpdf(y, mean, std).mean()),
        "Spearman": float(np.nanmean(folds)),
        "error told": float(np.nan_to_num(spearmanr(std, np.abs(y - mean)).statistic)),
        "seconds": seconds / len(folds),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=None, help="rows of each fit; all by default")
    parser.add_argument("--draws", type=int, default=1, help="how often folds and rows are drawn")
    parser.add_argument("--output", type=Path, default=Path("bench_intervals.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", UserWarning)
    results = []
    for name, X, y, positions in scans():
        for by_position in (False, True):
            kind = "folds by position" if by_position else "random folds"
            size = "all others" if options.rows is None else f"{options.rows} rows"
            print(f"\n{name}, {kind}, fits to {size} ({len(y)} variants)\n", flush=True)
            header = None
            for contestant, fit in CONTESTANTS.items():
                row = rows_of(fit, X, y, positions, by_position, options.rows, options.draws)
                if header is None:
                    header = ["", *row]
                    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
                cells = [
                    f"{value:.1%}" if "%" in key else f"{value:.2f}" for key, value in row.items()
                ]
                print("| " + " | ".join([contestant, *cells]) + " |", flush=True)
                results.append({"data": name, "folds": kind, "fit": contestant, **row})
    options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
