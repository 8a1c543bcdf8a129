"""``revdist demo``: from real proteins to a scored nested embedding, offline."""

import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import sklearn
from tqdm.auto import tqdm

from ._corpus import corpus_moments
from ._distiller import ReverseDistiller
from ._evaluate import Representations, evaluate, format_table
from ._featurizer import ESMFeaturizer
from .datasets import load_amyloid_nucleation, load_gb1_stability, load_uniprot_sample

FAMILY = "esm2-nano"
PICTURE, FIGURES = "revdist_demo.png", "revdist_demo.json"
CURVES = {
    "distilled": ("reverse-distilled prefix", "o-", "C0"),
    "raw": ("raw member", "s", "C3"),
    "concatenation_pca": ("concatenation + PCA", "^--", "C2"),
    "without_regression": ("without regression", "x", "C1"),
}


def run_demo(output=".", *, models=FAMILY, verbose=True):
    """Fit the bundled family on the bundled corpus and score it on two measured data sets.

    Parameters
    ----------
    output : path-like, default="."
        Folder for the picture (``revdist_demo.png``) and all figures
        (``revdist_demo.json``); made where it does not exist.

    models : str or list, default="esm2-nano"
        The family, as ``ESMFeaturizer`` takes it.

    verbose : bool, default=True
        Print the tables, and show progress bars.

    Returns
    -------
    figures : dict
        What the JSON file holds.
    """
    start = time.perf_counter()
    say = print if verbose else (lambda *_: None)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    featurizer = ESMFeaturizer(models)

    corpus = load_uniprot_sample().sequences
    residues = sum(map(len, corpus))
    say(f"1. Fit on {len(corpus):,} UniProt sequences, {residues:,} residues")
    moments = corpus_moments(featurizer, corpus, verbose=verbose)
    distiller = ReverseDistiller().fit_moments(moments)
    stages = describe_stages(distiller)
    say(format_stages(stages), "\n")

    data = {"GB1 stability": load_gb1_stability()}
    data["amyloid nucleation"] = load_amyloid_nucleation(mutations="single")
    sizes = ", ".join(f"{name} {len(bunch.target)}" for name, bunch in data.items())
    say(f"2. Mean Spearman correlation of ridge, ± its spread over five folds ({sizes} mutants)")
    representations = Representations(distiller, moments)
    results = {}
    with tqdm(unit="score", disable=not verbose, leave=False) as bar:
        for name, bunch in data.items():
            X = featurizer.transform(bunch.sequences)
            results[name] = evaluate(
                representations,
                X,
                bunch.target,
                mutations=bunch.mutations,
                curve=True,
                progress=bar.update,
            )
    say(format_table(results), "\n")

    figures = {
        "models": list(moments.block_names),
        "corpus": {"sequences": len(corpus), "residues": residues},
        "stages": stages,
        "stage_dims": distiller.stage_dims_.tolist(),
        "scores": results,
        "versions": _versions(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    (output / FIGURES).write_text(json.dumps(figures, indent=1) + "\n")
    written = [str(output / FIGURES)]
    try:
        draw(figures, output / PICTURE)
        written.insert(0, str(output / PICTURE))
    except ImportError:
        say('No picture: matplotlib is not installed (pip install "revdist_sklearn[plot]").')
    say(f"3. Written in {figures['seconds']:.0f} s: {' and '.join(written)}\n")
    say("4. On your own data (FASTA of diverse proteins; CSV with sequences and measurements):")
    say("   revdist fit --models esm2:150M --fasta corpus.fasta --output distiller")
    say("   revdist evaluate mine.csv --models esm2:150M --distiller distiller")
    return figures


def describe_stages(distiller):
    """Return the results of each stage as plain numbers, the base first."""
    base = {
        "block": distiller._block_labels()[0],
        "width": int(distiller.stage_dims_[0]),
    }
    return [base] + [
        {
            "block": stage.block,
            "width": stage.width,
            "explained_before": stage.explained_before,
            "explained_after": stage.explained_after,
            "n_regression": stage.n_regression,
            "n_components": stage.n_components,
            "residual_variances": [float(f"{v:.6g}") for v in stage.residual_variances],
        }
        for stage in distiller.stages_
    ]


def format_stages(stages):
    """Return the table of the stages as text."""
    name = max(len(stage["block"]) for stage in stages)
    lines = [
        f"{'stage':<{name}}  width  explained by the smaller  with this stage  components kept",
        f"{stages[0]['block']:<{name}}  {stages[0]['width']:5d}  {'the base, as it is':>24}",
    ]
    for stage in stages[1:]:
        lines.append(
            f"{stage['block']:<{name}}  {stage['width']:5d}  "
            f"{stage['explained_before']:24.1%}  {stage['explained_after']:15.1%}  "
            f"{stage['n_components']:15d}"
        )
    return "\n".join(lines)


def draw(figures, path):
    """Draw score against prefix width, a panel each data set and kind of fold.

    Parameters
    ----------
    figures : dict
        From ``run_demo``.
    path : path-like
        PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [
        (name, scheme)
        for name, rows in figures["scores"].items()
        for scheme in dict.fromkeys(row["folds"] for row in rows)
    ]
    figure = Figure(figsize=(9.5, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False, sharex=True)
    for ax, (name, scheme) in zip(axes.flat, panels, strict=True):
        rows = [r for r in figures["scores"][name] if r["folds"] == scheme]
        for kind, (label, style, color) in CURVES.items():
            points = sorted((r["width"], r["mean"], r["std"]) for r in rows if r["kind"] == kind)
            if not points:  # a family of one has no stage to leave the regression out of
                continue
            width, mean, std = np.array(points).T
            ax.plot(width, mean, style, color=color, label=label)
            if kind == "distilled":
                ax.fill_between(width, mean - std, mean + std, color=color, alpha=0.15, lw=0)
        for row in rows:
            if row["kind"] == "mutation":
                ax.axhline(row["mean"], color="0.4", ls=":", label="no language model")
        for width in figures["stage_dims"]:
            ax.axvline(width, color="0.85", lw=1, zorder=0)
        ax.set_title(f"{name}, {scheme} folds", fontsize=10)
    for ax in axes[-1]:
        ax.set_xlabel("columns used")
        ax.set_xticks(figures["stage_dims"])
    for ax in axes[:, 0]:
        ax.set_ylabel("Spearman correlation")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    figure.suptitle("Band: spread of the reverse-distilled score over folds", fontsize=9)
    figure.savefig(path, dpi=130)


def _versions():
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
