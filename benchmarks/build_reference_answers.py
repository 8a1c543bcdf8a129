"""Rebuild ``tests/data/reference``: what the authors' own package answers on small data.

The package pins versions of its own, so it gets an environment of its own, in which this
package need not be installed::

    python -m venv peer
    peer/bin/pip install numpy scikit-learn torch tqdm huggingface_hub
    peer/bin/pip install --no-deps reverse-distillation fair-esm fbpca loguru
    OMP_NUM_THREADS=1 peer/bin/python benchmarks/build_reference_answers.py

Their classes know ESM-2's widths only and download the scalers they load; here the table of
widths is told three small ones, and a download finds the file that was written just before.
Everything else is theirs: training, the state they save, reading it back under the name they
ask for, and the loop over the models, whose place stand-ins take that return stored rows.

Written are, a folder for each setting, scalers trained on the smaller model's own embedding,
as their training script does it, and ``answers.npz``. The saved scalers learn the regression
on one half of the rows and the PCA on the other: on the same rows the mean of the residual
is zero, and a reader that forgot it would not be found out. In ``answers.npz`` are:

``graded``, ``flat``
    Rows of two families, ``graded`` of three models and ``flat`` of two. In ``graded`` one
    direction of the smallest model stands above the edge that the median of the noise
    gives, and below the one that its mean would give. In ``flat`` none does.
``inference__<setting>``, ``inference_float32__<setting>``
    What their inference makes of the first rows of ``graded`` with the saved scalers,
    without the columns of the smallest model: in float64, and by the class for GPUs.
``two_models__<setting>``, ``accumulated__<setting>``, ``flat__<setting>``
    The appended columns for the first rows, from a fit on all rows: of the first two models,
    of all three where each stage is trained on what the stage before returned (Algorithm 3
    of the paper), and of ``flat``; with ``_kept`` the principal components that ``pcr`` used.
``inference__None-<PCA>``, ``inference_float32__None-<PCA>``
    The same of their naive scalers, which replace all columns: in float64 by stepping through
    the scalers, as their model on a CPU stops with an error (its naive scaler returns an array
    where a tensor is asked for), and by the class for GPUs.
``spectra``, ``spectra_rows``, ``spectra_kept``
    Variances, number of rows, and components that ``pcr`` kept of rows with that covariance
    exactly: cosines, whose sample covariance is the identity, scaled.
``versions``
    Of what computed them.

The same versions give the same numbers up to rounding.
"""

import argparse
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).parents[1] / "tests" / "data" / "reference"
WIDTHS = {"8M": 8, "35M": 11, "150M": 16}
FLAT_WIDTHS = {"8M": 12, "35M": 15}
ROWS, SHOWN = 160, 30
SETTINGS = [
    f"{regressor}-{pca}"
    for regressor in ("linear", "ridge", "pcr")
    for pca in ("incremental", "fbpca")
]
NAIVE_SETTINGS = ["None-incremental", "None-fbpca"]
SEQUENCES = "1k"  # the part of a file's name that says how many proteins it was trained on
LIMIT = 180_000  # bytes of all files


def check(condition, message):
    if not condition:
        raise SystemExit(f"build_reference_answers: {message}")


# ---------------------------------------------------------------------------------- data


def rotation(rng, k):
    return np.linalg.qr(rng.normal(size=(k, k)))[0]


def family(rng, widths, variances, own):
    """Draw float32 rows: each model sees the one before, ``own`` directions, and noise.

    The covariance of the first model's rows has exactly the given variances.
    """
    first, *others = widths
    h = rng.normal(size=(ROWS, first))
    h = np.linalg.qr(h - h.mean(axis=0))[0] * np.sqrt(ROWS - 1)
    h = h * np.sqrt(variances) @ rotation(rng, first)
    blocks = [h]
    for k, strengths in zip(others, own, strict=True):
        new = rng.normal(size=(ROWS, len(strengths))) * np.sqrt(strengths)
        mixed = new @ rotation(rng, k)[: len(strengths)]
        seen = blocks[-1] @ rng.normal(size=(blocks[-1].shape[1], k)) / np.sqrt(k)
        blocks.append(seen + mixed + 0.3 * rng.normal(size=(ROWS, k)))
    return np.hstack([h + rng.normal(size=h.shape[1]) for h in blocks]).astype(np.float32)


def spectra(rng):
    """Yield variances, descending, and a number of rows, for the rule of ``pcr``."""
    for n in (10, 14, 26, 60, 400):
        for signals in (0, 0, 1, 2, 4, 7):
            for _ in range(2):
                e = rng.uniform(0.8, 1.2, size=12)
                if signals:
                    e[:signals] = rng.uniform(1.3, 3, size=signals) * np.geomspace(
                        rng.uniform(1, 30), 1, signals
                    )
                else:
                    e[: rng.integers(1, 4)] *= 0.01
                e = np.sort(e)[::-1]
                e[n - 1 :] = 0  # n centred rows determine n - 1 variances
                yield e, n


def rows_of(e, n):
    """Return n rows whose sample covariance is diagonal, with the variances e."""
    m = np.arange(1, min(n, len(e) + 1))
    cosines = np.sqrt(2 / n) * np.cos(np.pi / n * np.outer(np.arange(n) + 0.5, m))
    rows = np.zeros((n, len(e)))
    rows[:, : len(m)] = cosines * np.sqrt((n - 1) * e[: len(m)])
    return rows


def blocks_of(X, widths):
    return np.split(X.astype(np.float64), np.cumsum(list(widths.values()))[:-1], axis=1)


# ----------------------------------------------------------------------------- the peer


class Peer:
    """The authors' package, told small widths, and where downloads are found."""

    def __init__(self, folder):
        import reverse_distillation
        from reverse_distillation.models import rd_model
        from reverse_distillation.scaler import modules, naive, rd, utils

        reverse_distillation.logger.remove()
        self.rd_model, self.naive, self.rd, self.utils = rd_model, naive, rd, utils
        self.folder = folder
        self.asked = set()
        for module in (modules, naive, rd):
            module.hf_hub_download = self.download

    def download(self, repo_id, filename):
        self.asked.add(f"{repo_id}/{filename}")
        (path,) = self.folder.rglob(Path(filename).name)
        return str(path)

    def know(self, widths):
        for size, width in widths.items():
            self.utils.ESM2_CONFIGS[size]["embed_dim"] = width
        return list(widths)

    def scaler(self, small, large, setting):
        regressor, pca = setting.split("-")
        return self.rd.rdScaler(small, large, regressor_type=regressor, pca_type=pca)

    def accumulated(self, widths, h, setting):
        """Train each stage on the output of the one before; return scalers and last output."""
        import torch

        names = self.know(widths)
        scalers, z = [], h[0]
        for small, large, target in zip(names, names[1:], h[1:], strict=False):
            scaler = self.scaler(small, large, setting)
            scaler.fit(z, target, show_r2=False)
            z = scaler.step(torch.from_numpy(z), torch.from_numpy(target)).numpy()
            scalers.append(scaler)
        return scalers, z

    def publish(self, widths, h, setting):
        """Train each stage on the smaller model's own rows, and save it; return the scalers."""
        names = self.know(widths)
        half = len(h[0]) // 2
        scalers = []
        for i in range(1, len(names)):
            scaler = self.scaler(names[i - 1], names[i], setting)
            scaler.fit_regressor(h[i - 1][:half], h[i][:half], show_r2=False)
            scaler.fit_pca(h[i][half:] - scaler.predict_regressor(h[i - 1][half:]))
            scaler.is_trained = True
            self.save(scaler, "rd", names[i - 1], names[i], setting)
            scalers.append(scaler)
        return scalers

    def save(self, scaler, kind, small, large, setting):
        name = f"{kind}-scaler-{small}-{large}-{setting}-{SEQUENCES}.npz"
        folder = self.folder / setting
        folder.mkdir(exist_ok=True)
        np.savez_compressed(folder / name, **scaler.get_state_dict())
        with np.load(folder / name, allow_pickle=False) as file:
            for array in file.files:
                file[array]  # raises where an array is pickled

    def publish_naive(self, widths, h, setting):
        """Train naive scalers on pairs of the models' own rows, and save them; return them."""
        names = self.know(widths)
        scalers = []
        for i in range(1, len(names)):
            pca = setting.split("-")[1]
            scaler = self.naive.naiveScaler(names[i - 1], names[i], pca_type=pca)
            scaler.fit(h[i - 1], h[i])
            self.save(scaler, "naive", names[i - 1], names[i], setting)
            scalers.append(scaler)
        return scalers

    def infer(self, widths, h, setting, scaler_class, kind="rd"):
        """Run their model, with saved scalers, on stored rows: one protein, no special token."""
        import torch

        class Stored(torch.nn.Module):
            def __init__(self, rows):
                super().__init__()
                self.rows = torch.from_numpy(rows)[None]

            def forward(self, tokens, repr_layers):
                return {"representations": {repr_layers[0]: self.rows.clone()}}

        names = self.know(widths)
        scalers = {
            size: scaler_class.from_pretrained(f"{kind}.esm2/{size}:{setting}-{SEQUENCES}")
            for size in names[1:]
        }
        members = torch.nn.ModuleDict(dict(zip(names, map(Stored, h), strict=True)))
        model = self.rd_model.RDESM(names, members, scalers)
        out = model.forward(torch.zeros((1, len(h[0])), dtype=torch.int64))
        return out["representations"][names[-1]][0].numpy()


# ------------------------------------------------------------------------------ answers


def kept(scalers):
    return [int(getattr(s.regressor, "n_significant_pcs_", -1)) for s in scalers]


def fits(peer, answers, title, widths, h, setting):
    scalers, z = peer.accumulated(widths, h, setting)
    answers[f"{title}__{setting}"] = z[:SHOWN, next(iter(widths.values())) :]
    if setting.startswith("pcr"):
        answers[f"{title}_kept__{setting}"] = np.array(kept(scalers))
    return scalers


def families(peer, answers):
    rng = np.random.default_rng(20260309)
    variances = [40, 12, 5, 1.9, *[1] * 4]
    X = family(rng, WIDTHS.values(), variances, [(9, 6, 4, 1), (8, 6, 4.5, 3, 2, 1)])
    flat = family(
        rng, FLAT_WIDTHS.values(), [*np.linspace(1.2, 0.9, 10), 0.02, 0.01], [(6, 4, 2, 1)]
    )
    answers |= {"graded": X, "flat": flat}
    h = blocks_of(X, WIDTHS)
    two = dict(list(WIDTHS.items())[:2])
    for setting in SETTINGS:
        fits(peer, answers, "two_models", two, h[:2], setting)
        fits(peer, answers, "accumulated", WIDTHS, h, setting)
        published = peer.publish(WIDTHS, h, setting)

        shown = [rows[:SHOWN] for rows in h]
        rows32 = [rows.astype(np.float32) for rows in shown]
        z = peer.infer(WIDTHS, shown, setting, peer.rd.rdScaler)
        z32 = peer.infer(WIDTHS, rows32, setting, peer.rd.rdScalerGPUOptimized)
        answers[f"inference__{setting}"] = z[:, WIDTHS["8M"] :]
        answers[f"inference_float32__{setting}"] = z32[:, WIDTHS["8M"] :]
        print(f"{setting}: kept {kept(published)}, GPU class off by {abs(z - z32).max():.0e}")
    for setting in NAIVE_SETTINGS:
        peer.publish_naive(WIDTHS, h, setting)
        z = shown[0]
        for size, rows in zip(list(WIDTHS)[1:], shown[1:], strict=True):
            model_id = f"naive.esm2/{size}:{setting}-{SEQUENCES}"
            scaler = peer.naive.naiveScaler.from_pretrained(model_id)
            z = scaler.step(z, rows)
        z32 = peer.infer(WIDTHS, rows32, setting, peer.naive.naiveScalerGPUOptimized, kind="naive")
        answers[f"inference__{setting}"], answers[f"inference_float32__{setting}"] = z, z32
        print(f"{setting}: GPU class off by {abs(z - z32).max():.0e}")

    (scaler,) = fits(peer, answers, "flat", FLAT_WIDTHS, blocks_of(flat, FLAT_WIDTHS), "pcr-fbpca")
    regressor = scaler.regressor
    check(
        regressor.input_eigenvalues_[0] < regressor.johnstone_threshold_,
        "a component of `flat` is above the edge; draw it anew.",
    )
    print(f"flat: kept {kept([scaler])} of {FLAT_WIDTHS['8M']}")


def counts(peer, answers):
    rng = np.random.default_rng(1)
    found = []
    for e, n in spectra(rng):
        rows = rows_of(e, n)
        target = np.hstack([rows, rows[:, :1] ** 2])
        peer.know({"8M": len(e), "35M": len(e) + 1})
        regressor = peer.scaler("8M", "35M", "pcr-incremental").regressor.fit(rows, target)
        edge, share = regressor.johnstone_threshold_, np.cumsum(e) / e.sum()
        bulk = regressor.input_eigenvalues_.mean() * edge / regressor.sigma_sq_
        ties = e / edge - 1, e / bulk - 1, share - regressor.min_variance_explained
        check(np.abs(ties).min() > 1e-6, "rounding decides a count; draw the spectra anew.")
        found.append((e, n, int(regressor.n_significant_pcs_), e[0] < edge))
    e, n, kept, none_above = map(np.array, zip(*found, strict=True))
    answers |= {"spectra": e, "spectra_rows": n, "spectra_kept": kept}
    print(f"spectra: {len(n)}, {none_above.sum()} with none above the edge, kept {kept}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help="default: tests/data/reference"
    )
    args = parser.parse_args()
    for setting in (*SETTINGS, *NAIVE_SETTINGS):
        shutil.rmtree(args.output / setting, ignore_errors=True)
    args.output.mkdir(parents=True, exist_ok=True)

    answers = {}
    peer = Peer(args.output)
    families(peer, answers)
    counts(peer, answers)
    packages = ("reverse-distillation", "numpy", "scikit-learn", "fbpca", "torch")
    answers["versions"] = np.array(
        [f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
    )
    np.savez_compressed(args.output / "answers.npz", **answers)

    files = sorted(args.output.rglob("*.npz"))
    size = sum(path.stat().st_size for path in files)
    print(*sorted(peer.asked), f"{len(files)} files, {size:,} bytes", sep="\n")
    check(size < LIMIT, f"more than {LIMIT:,} bytes")


if __name__ == "__main__":
    main()
