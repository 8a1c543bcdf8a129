"""The fit, side by side: this package, the authors' package, scikit-learn and torch.

Every measurement runs in a process of its own, so that peak memory is its own; the
contestants alternate, and ratios are medians over the rounds::

    pip install -e ".[bench]"
    pip install --no-deps reverse-distillation fair-esm fbpca loguru
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/bench_fit.py

The authors' package pins versions of its own; without it, its rows are left out. Results
are printed and written as JSON (``--output``).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

SIZES = (320, 480, 640)
ROWS = 100_000
ESM2 = (320, 480, 640, 1280, 2560, 5120)


# ---------------------------------------------------------------------------------- data


def batches(n, sizes, seed=0, batch=8192):
    """Yield float32 rows of a family: larger members hold the smaller ones' signal, and more."""
    maps = np.random.default_rng(12345)
    rank = max(sizes) // 2
    scales = np.geomspace(1, 0.02, rank).astype(np.float32)
    matrices = [maps.normal(size=(rank, k)).astype(np.float32) for k in sizes]
    shifts = [maps.normal(size=k).astype(np.float32) for k in sizes]
    rng = np.random.default_rng(seed)
    for start in range(0, n, batch):
        m = min(batch, n - start)
        latent = rng.standard_normal((m, rank), dtype=np.float32) * scales
        yield np.hstack(
            [
                latent[:, : rank * k // max(sizes)] @ M[: rank * k // max(sizes)]
                + 0.3 * rng.standard_normal((m, k), dtype=np.float32)
                + shift
                for k, M, shift in zip(sizes, matrices, shifts, strict=True)
            ]
        )


def blocks(X, sizes=SIZES):
    return np.split(X, np.cumsum(sizes)[:-1], axis=1)


# -------------------------------------------------------------------------- contestants


def ours(X, regressor="pcr"):
    from revdist_sklearn import ReverseDistiller

    return ReverseDistiller(SIZES, regressor=regressor).fit(X)


def ours_ols(X):
    return ours(X, "ols")


def authors(X):
    import torch
    from reverse_distillation.scaler.rd import rdScaler

    h = blocks(X)
    z = h[0]
    names = ("8M", "35M", "150M")
    for (small, large), target in zip(pairwise(names), h[1:], strict=True):
        scaler = rdScaler(small, large, regressor_type="pcr", pca_type="incremental")
        scaler.fit(z, target, show_r2=False)
        if large != names[-1]:
            z = scaler.step(torch.from_numpy(z), torch.from_numpy(target)).numpy()
    return scaler


def sklearn_best(X):
    """Run the fastest route of scikit-learn's own estimators, stage by stage."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge

    return by_stages(
        X,
        lambda: Ridge(alpha=1e-6, solver="cholesky"),
        lambda q: PCA(q, svd_solver="covariance_eigh"),
    )


def sklearn_usual(X):
    from sklearn.decomposition import IncrementalPCA
    from sklearn.linear_model import LinearRegression

    return by_stages(X, LinearRegression, lambda q: IncrementalPCA(q, batch_size=16384))


def by_stages(X, regression, pca):
    h = blocks(X)
    z = h[0]
    for target in h[1:]:
        model = regression().fit(z, target)
        residual = target - model.predict(z)
        directions = pca(target.shape[1] - z.shape[1]).fit(residual)
        z = np.hstack([z, directions.transform(residual)])
    return z


def with_torch(X):
    """Least squares and SVD of the residual's covariance, as one writes it in torch."""
    import torch

    h = [torch.from_numpy(np.ascontiguousarray(b)) for b in blocks(X)]
    z = h[0]
    for target in h[1:]:
        a = z - z.mean(0)
        W = torch.linalg.lstsq(a, target).solution
        residual = target - target.mean(0) - a @ W
        q = target.shape[1] - z.shape[1]
        _, V = torch.linalg.eigh(residual.T @ residual)
        z = torch.cat([z, residual @ V[:, -q:].flip(1)], 1)
    return z


CONTESTANTS = {
    "revdist_sklearn, pcr": ours,
    "revdist_sklearn, ols": ours_ols,
    "authors' package, pcr": authors,
    "scikit-learn: PCA(covariance_eigh), Ridge(cholesky)": sklearn_best,
    "scikit-learn: IncrementalPCA, LinearRegression": sklearn_usual,
    "torch: lstsq, eigh": with_torch,
}


# ------------------------------------------------------------------------ measurements


def memory_mb(name):
    """Return a line of /proc/self/status: VmRSS (now) or VmHWM (the peak), in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def peak_mb():
    return memory_mb("VmHWM")


def base_mb():
    """Return the memory in use, and let the peak start from it."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb("VmRSS")


def run_contestant(name, path, warm):
    """Time one fit; where ``warm`` is False, take its memory above data and imports instead.

    A warm-up would allocate, and hide, what does not grow with the rows.
    """
    X = np.load(path)
    function = CONTESTANTS[name]
    import torch  # every contestant pays the same imports
    from sklearn.decomposition import PCA

    from revdist_sklearn import ReverseDistiller

    del torch, PCA, ReverseDistiller
    if name.startswith("authors"):
        import reverse_distillation.scaler.rd  # noqa: F401
    if warm:
        function(np.concatenate(list(batches(2000, SIZES, seed=7))))
    before = base_mb()
    start = time.perf_counter()
    function(X)
    return {"seconds": time.perf_counter() - start, "extra_mb": peak_mb() - before}


def run_peak():
    """Rate of products alone (n D^2 a second), of the moments, and their ratio, in one run."""
    from scipy.linalg import blas

    from revdist_sklearn import Moments
    from revdist_sklearn.method._products_numpy import CHUNK_ROWS

    D = sum(SIZES)
    X = np.concatenate(list(batches(16 * CHUNK_ROWS, SIZES)))
    chunk = np.ascontiguousarray(X[:CHUNK_ROWS])
    rates = {}

    def rate(label, function, rows):
        function()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        rates[label] = rows * D * D / np.median(times) / 1e9

    wide = chunk.astype(np.float64)
    rate("ssyrk", lambda: blas.ssyrk(1.0, chunk.T), CHUNK_ROWS)
    other = chunk.copy()
    rate("sgemm", lambda: chunk.T @ other, CHUNK_ROWS)
    rate("dsyrk", lambda: blas.dsyrk(1.0, wide.T), CHUNK_ROWS)
    for precision in ("float32", "float64"):
        moments = Moments(SIZES, precision=precision)
        rate(f"moments, {precision} products", lambda m=moments: m.update(X), len(X))
    return rates


def run_stream(n, sizes):
    """Moments of n generated rows, never held: seconds in the kernel, and peak memory."""
    from revdist_sklearn import Moments

    generator = batches(8192, sizes)
    next(generator)
    base = base_mb()  # imports, and one batch as the generator makes it
    moments, seconds = Moments(sizes), 0.0
    for rows in batches(n, sizes):
        start = time.perf_counter()
        moments.update(rows)
        seconds += time.perf_counter() - start
    return {"n": n, "D": sum(sizes), "seconds": seconds, "peak_mb": peak_mb() - base}


def run_solve(sizes, n):
    """Solve a chain from moments: seconds, and peak memory of the whole process."""
    from revdist_sklearn import Moments, ReverseDistiller

    moments, update = Moments(sizes), 0.0
    for rows in batches(n, sizes, batch=4096):
        start = time.perf_counter()
        moments.update(rows)
        update += time.perf_counter() - start
    start = time.perf_counter()
    distiller = ReverseDistiller().fit_moments(moments)
    seconds = time.perf_counter() - start
    return {
        "D": sum(sizes),
        "n": n,
        "update_seconds": update,
        "solve_seconds": seconds,
        "peak_gb": peak_mb() / 1024,
        "explained": [round(s.explained_after, 4) for s in distiller.stages_[1:]],
    }


# ---------------------------------------------------------------------------- exactness


def cases(seed):
    """Yield (name, float64 rows, sizes) of hard columns; D is small, the SVD is direct."""
    sizes = (48, 80)
    fixed = np.concatenate(list(batches(20_000, sizes, seed=99))).astype(np.float64)
    spread = fixed.std(axis=0)  # the same for both seeds: held-out rows are of one distribution
    X = np.concatenate(list(batches(20_000, sizes, seed=seed))).astype(np.float64)
    X = X - fixed.mean(axis=0)
    for times in (0, 10, 1000):
        yield f"means of {times} spreads", X + times * spread, sizes
    duplicated = X.copy()
    duplicated[:, 1] = duplicated[:, 0]
    yield "a duplicated column", duplicated, sizes
    normed = np.hstack(
        [
            (b - b.mean(axis=1, keepdims=True)) / b.std(axis=1, keepdims=True)
            for b in blocks(X, sizes)
        ]
    )
    yield "a null direction (LayerNorm)", normed, sizes
    outliers = X.copy()
    outliers[:, [3, 7, 60]] *= 1000
    yield "outlier columns, 1,000 times", outliers, sizes


def direct(X, sizes):
    """Return V, predictions' coefficients and spectrum by least squares and SVD on rows."""
    z, h = blocks(X, sizes)
    zc, hc = centre(z), centre(h)
    scale = zc.std(axis=0)
    W = np.linalg.lstsq(zc / scale, hc, rcond=1e-6)[0] / scale[:, None]
    r = hc - zc @ W
    _, s, Vt = np.linalg.svd(r, full_matrices=False)
    q = sizes[1] - sizes[0]
    signs = np.sign(Vt[np.arange(len(Vt)), np.argmax(np.abs(Vt), axis=1)])
    return W, (Vt * signs[:, None])[:q].T, s**2 / len(X)


def centre(a):
    """Centre twice: at a mean of 1,000 spreads the first sum rounds in the ninth digit."""
    a = a - a.mean(axis=0)
    return a - a.mean(axis=0)


def held_out(distiller, X, sizes):
    """Share of the larger member that its reconstruction from all of z explains, held out."""
    back = distiller.inverse_transform(distiller.transform(X))[:, sizes[0] :]
    h = X[:, sizes[0] :]
    scale = h.std(axis=0)
    return 1 - (((h - back) / scale) ** 2).mean()


def run_exactness():
    import warnings

    import torch

    from revdist_sklearn import ReverseDistiller

    rows = []
    for (name, X, sizes), (_, new, _) in zip(cases(0), cases(1), strict=True):
        W, V, spectrum = direct(X, sizes)
        reference = ReverseDistiller(sizes).fit(X)
        z, h = blocks(X, sizes)
        u = (centre(h) - centre(z) @ W) @ V
        inputs = {
            "float64": X,
            "float32": X.astype(np.float32),
            "float16": X.astype(np.float16) if np.abs(X).max() < 6e4 else None,
            "bfloat16": torch.from_numpy(X).to(torch.bfloat16),
        }
        for kind, rounded in inputs.items():
            if rounded is None:
                rows.append({"case": name, "input": kind, "note": "overflows float16"})
                continue
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                distiller = ReverseDistiller(sizes).fit(rounded)
            stage = distiller.stages_[1]
            # Predictions: (h - u V^T part aside) coefficients seen through the same V.
            predicted = (z - stage.prefix_mean) @ (stage.coef @ stage.directions.T)
            expected = centre(z) @ (W @ V @ V.T)
            out = distiller.transform(X)[:, sizes[0] :]
            rows.append(
                {
                    "case": name,
                    "input": kind,
                    "predictions": relative(predicted, expected),
                    "spectrum": float(
                        np.max(np.abs(stage.residual_variances - spectrum)) / spectrum[0]
                    ),
                    "columns": relative(out, u),
                    "held_out": held_out(reference, new, sizes),
                    "held_out_change": held_out(distiller, new, sizes)
                    - held_out(reference, new, sizes),
                    "warned": any("rounds away" in str(w.message) for w in caught),
                }
            )
    return rows


# ------------------------------------------------------------ error against condition number


ACCURACY_SIZES = SIZES[:2]
CONDITIONS = (10, 100, 1_000, 10_000)


def conditioned(n, condition, seed=0):
    """Return float32 rows: a base of a condition number, and a larger model that needs all of it.

    The base is a mixture of Gaussians; the larger model follows its weakest directions as much
    as its strongest, so that an error in any of them is one of what is explained.
    """
    k, q = ACCURACY_SIZES
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(k, k)))[0]
    latent = rng.normal(size=(n, k)) + 2 * rng.integers(0, 2, size=(n, 1))
    latent = (latent - latent.mean(axis=0)) / latent.std(axis=0)
    base = (latent * np.geomspace(1, 1 / condition, k)) @ turn.T
    own = rng.normal(size=(n, q)) * np.geomspace(0.5, 0.05, q)
    return np.hstack([base, latent @ rng.normal(size=(k, q)) / np.sqrt(k) + own]).astype("f4")


def of_rows(z, h, predict):
    """Return 1 - R2 and the residual spectrum of predictions, both taken in float64."""
    residual = centre(h.astype(np.float64) - predict.astype(np.float64))
    total = (centre(h.astype(np.float64)) ** 2).sum()
    spectrum = np.linalg.eigvalsh(residual.T @ residual)[::-1] / len(h)
    return (residual**2).sum() / total, spectrum


def by_svd(z, h, dtype):
    """Least squares by the SVD of the centred rows, columns at unit variance."""
    z, h = (centre(block.astype(np.float64)).astype(dtype) for block in (z, h))
    z = z / z.std(axis=0)
    return of_rows(z, h, z @ np.linalg.lstsq(z, h, rcond=None)[0])


def by_moments(z, h, precision):
    from revdist_sklearn import Moments, ReverseDistiller

    moments = Moments(ACCURACY_SIZES, precision=precision).update(np.hstack([z, h]))
    stage = ReverseDistiller().fit_moments(moments).stages_[1]
    return 1 - stage.explained_before, stage.residual_variances


def by_authors(z, h):
    from reverse_distillation.scaler.rd import rdScaler

    scaler = rdScaler("8M", "35M", regressor_type="linear", pca_type="incremental")
    scaler.fit_regressor(z, h, show_r2=False)
    return of_rows(z, h, scaler.predict_regressor(z))


ACCURACY = {
    "revdist_sklearn": lambda z, h: by_moments(z, h, None),
    "revdist_sklearn, precision='float32'": lambda z, h: by_moments(z, h, "float32"),
    "numpy lstsq in float32": lambda z, h: by_svd(z, h, np.float32),
    "authors' package, linear": by_authors,
}


def run_accuracy(n):
    """Errors of 1 - R2 and of the spectrum, relative, against an SVD in float64 of the rows."""
    import warnings

    rows = []
    for condition in CONDITIONS:
        z, h = blocks(conditioned(n, condition), ACCURACY_SIZES)
        unexplained, spectrum = by_svd(z, h, np.float64)
        for name, function in ACCURACY.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    found, variances = function(z, h)
                except ImportError:
                    continue
            rows.append(
                {
                    "n": n,
                    "condition": condition,
                    "name": name,
                    "unexplained": abs(found / unexplained - 1),
                    "spectrum": float(np.max(np.abs(variances / spectrum - 1))),
                    "warned": any("condition number" in str(w.message) for w in caught),
                }
            )
    return rows


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# -------------------------------------------------------------------------------- parent


def child(*arguments):
    """Run one measurement in a fresh process and return its JSON."""
    run = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )
    if run.returncode:
        print(f"left out, ended with code {run.returncode}: {arguments}", file=sys.stderr)
        return None
    return json.loads(run.stdout.splitlines()[-1])


def run_child(kind, *arguments):
    functions = {
        "contestant": run_contestant,
        "peak": run_peak,
        "stream": run_stream,
        "solve": run_solve,
        "exactness": run_exactness,
        "accuracy": run_accuracy,
    }
    print(json.dumps(functions[kind](*arguments)))


def slope(points, x):
    """Return the log-log slope of seconds against x."""
    a, b = np.log([p[x] for p in points]), np.log([p["seconds"] for p in points])
    return float(np.polyfit(a, b, 1)[0])


def contest(rounds, folder):
    path = str(Path(folder) / "rows.npy")
    np.save(path, np.concatenate(list(batches(ROWS, SIZES))))
    memory = {name: child("contestant", name, path, False) for name in CONTESTANTS}
    runs = {name: [] for name, cold in memory.items() if cold is not None}
    for _ in range(rounds):
        for name, results in runs.items():
            results.append(child("contestant", name, path, True))
    base = runs["revdist_sklearn, pcr"]
    return [
        {
            "name": name,
            "seconds": float(np.median([r["seconds"] for r in results])),
            "extra_mb": memory[name]["extra_mb"],
            "ratio": float(
                np.median(
                    [r["seconds"] / b["seconds"] for r, b in zip(results, base, strict=True)]
                )
            ),
        }
        for name, results in runs.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("bench_fit.json"))
    parser.add_argument("--skip-large", action="store_true", help="no 10,400-column solve")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return run_child(*json.loads(args.child))

    import sklearn
    from threadpoolctl import threadpool_info

    blas = next((b for b in threadpool_info() if b["user_api"] == "blas"), {})
    result = {
        "machine": {
            "threads": os.cpu_count(),
            "platform": platform.platform(),
            "blas": f"{blas.get('internal_api')} {blas.get('version')} {blas.get('architecture')}",
            "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "unset"),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        }
    }
    print(json.dumps(result["machine"], indent=1))

    with tempfile.TemporaryDirectory() as folder:
        result["contest"] = contest(args.rounds, folder)
    print(f"\nFit of {SIZES} columns, {ROWS:,} float32 rows, median of {args.rounds} rounds\n")
    print("| | seconds | times ours (pcr) | MB above the data |\n|---|---|---|---|")
    for row in result["contest"]:
        print(
            f"| {row['name']} | {row['seconds']:.2f} | {row['ratio']:.1f} | "
            f"{row['extra_mb']:.0f} |"
        )

    result["rates"] = rates = child("peak")
    print("\nRates, 10^9 n D^2 a second\n\n| | rate |\n|---|---|")
    for label, value in rates.items():
        print(f"| {label} | {value:.0f} |")
    best = max(rates["ssyrk"], rates["sgemm"])
    result["share_of_peak"] = {
        "float32": rates["moments, float32 products"] / best,
        "float64": rates["moments, float64 products"] / rates["dsyrk"],
    }
    for precision, share in result["share_of_peak"].items():
        print(f"\nMoments in {precision}: {share:.0%} of the best product alone")

    result["rows"] = [
        child("stream", n, SIZES) for n in (50_000, 100_000, 200_000, 400_000, 800_000)
    ]
    result["columns"] = [
        child("stream", 50_000, (k, 3 * k // 2, 2 * k)) for k in (160, 320, 640, 1280)
    ]
    growth = result["rows"][-1]["peak_mb"] / result["rows"][0]["peak_mb"] - 1
    result["memory_growth"] = growth
    result["slopes"] = {"n": slope(result["rows"], "n"), "D": slope(result["columns"], "D")}
    print("\nMoments of generated rows; memory above imports and one batch\n")
    print("| rows | columns | seconds | peak MB |\n|---|---|---|---|")
    for row in result["rows"] + result["columns"]:
        print(f"| {row['n']:,} | {row['D']:,} | {row['seconds']:.2f} | {row['peak_mb']:.0f} |")
    print(
        f"\nPeak memory from 50,000 to 800,000 rows: {growth:+.1%}. Log-log slopes: n "
        f"{result['slopes']['n']:.2f} (theory 1), D {result['slopes']['D']:.2f} (theory 2)"
    )

    result["exactness"] = child("exactness")
    print("\nErrors against a direct float64 SVD of the unrounded rows\n")
    print(
        "| columns | input | predictions | spectrum | output columns | held-out R2 (change) | warns |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in result["exactness"]:
        if "note" in row:
            print(f"| {row['case']} | {row['input']} | {row['note']} | | | | |")
            continue
        print(
            f"| {row['case']} | {row['input']} | {row['predictions']:.0e} | {row['spectrum']:.0e} "
            f"| {row['columns']:.0e} | {row['held_out']:.4f} ({row['held_out_change']:+.0e}) | "
            f"{'yes' if row['warned'] else ''} |"
        )

    result["accuracy"] = [row for n in (6_000, 100_000) for row in child("accuracy", n)]
    print(
        f"\nErrors against an SVD in float64, by the condition number of a base of "
        f"{ACCURACY_SIZES[0]} columns; float32 rows\n"
    )
    print("| rows | condition | | 1 - R2 | spectrum | warns |\n|---|---|---|---|---|---|")
    for row in result["accuracy"]:
        print(
            f"| {row['n']:,} | {row['condition']:,} | {row['name']} | {row['unexplained']:.0e} | "
            f"{row['spectrum']:.0e} | {'yes' if row['warned'] else ''} |"
        )

    if not args.skip_large:
        result["solve"] = solve = child("solve", ESM2, 21_000)
        D = sum(ESM2)
        update = solve["update_seconds"] * 350_000 / solve["n"]
        result["projection_seconds"] = {"moments": update, "solve": solve["solve_seconds"]}
        print(
            f"\nChain of all of ESM-2 ({D:,} columns): solved in {solve['solve_seconds']:.0f} s, peak "
            f"{solve['peak_gb']:.1f} GB. Projected on 350,000 residues: {update / 60:.1f} min for the "
            f"moments, {solve['solve_seconds'] / 60:.1f} min for the chain"
        )
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
