"""``revdist demo``: from real proteins to a scored nested embedding, offline."""

import sys
import time
from pathlib import Path

from tqdm.auto import tqdm

from .. import ESMFeaturizer, PrefixCurveDisplay, ReverseDistiller, corpus_moments
from ..base._drawing import remove_legend
from ..base._files import make_folder
from ..datasets import load_amyloid_nucleation, load_gb1_stability, load_uniprot_sample
from ..evaluation._data_set import Family, rows_of
from ..evaluation._files import format_scores, write_json
from ..evaluation._run import Plan, score_rows
from ..evaluation._table import variants_of
from ._messages import say
from ._outputs import check_folder, write_file
from ._stages import describe_stages, format_stages
from ._versions import versions

HELP = "fit, score and plot the bundled family, offline"
EXAMPLE = "revdist demo --output demo"
FAMILY = "esm2-nano"
PICTURE, FIGURES = "revdist_demo.png", "revdist_demo.json"
CURVES = {
    "distilled": ("reverse-distilled prefix", {"color": "C0", "marker": "o"}),
    "raw": ("raw member", {"color": "C3", "marker": "s", "linestyle": "none"}),
    "concatenation_pca": (
        "concatenation + PCA",
        {"color": "C2", "marker": "^", "linestyle": "--"},
    ),
    "without_regression": (
        "without regression",
        {"color": "C1", "marker": "x", "linestyle": "none"},
    ),
}
KINDS = "mutation", *CURVES
METRIC = "Spearman"
# What has a band: the nested embedding and its rival.
BANDS = ("distilled", "concatenation_pca")
TABLE = "no language model"


def add_arguments(parser):
    """Add the options of this command."""
    parser.add_argument("--output", default=".", help="folder of the results (default: here)")


def run(arguments):
    """Run the demo; bars are for terminals."""
    check_folder("--output", arguments.output)
    run_demo(arguments.output, verbose=sys.stderr.isatty())


def run_demo(output=".", *, models=FAMILY, verbose=1):
    """Fit the bundled family on the bundled corpus and score it on two measured data sets.

    Parameters
    ----------
    output : path-like, default="."
        Folder for the picture (``revdist_demo.png``) and all figures
        (``revdist_demo.json``); made where it does not exist.

    models : str or list, default="esm2-nano"
        The family, as ``ESMFeaturizer`` takes it.

    verbose : int or bool, default=1
        As in :class:`ESMFeaturizer`: 0 shows no progress bars.

    Returns
    -------
    figures : dict
        What the JSON file holds.
    """
    start = time.perf_counter()
    output = Path(output)
    make_folder(output)
    featurizer = ESMFeaturizer(models)

    corpus = load_uniprot_sample().sequences
    residues = sum(map(len, corpus))
    say(f"1. Fit on {len(corpus):,} UniProt sequences, {residues:,} residues")
    moments = corpus_moments(featurizer, corpus, verbose=verbose)
    distiller = ReverseDistiller().fit_moments(moments)
    stages = describe_stages(distiller)
    say(format_stages(stages) + "\n")

    data = {"GB1 stability": load_gb1_stability()}
    data["amyloid nucleation"] = load_amyloid_nucleation(mutations="single")
    sizes = ", ".join(f"{name} {len(bunch.target)}" for name, bunch in data.items())
    say(f"2. Mean Spearman correlation of ridge, ± its spread over five folds ({sizes} mutants)")
    family = Family(featurizer, distiller, moments, scores=False)
    scored = {}
    with tqdm(unit="score", disable=not verbose, leave=False) as bar:
        for name, bunch in data.items():
            variants = variants_of(name, bunch.sequences, bunch.target, bunch.mutations)
            X = featurizer.transform(variants.sequences).astype(float)
            rows = [r for r in rows_of(variants, X, family, notes=[]) if r.kind in KINDS]
            plan = Plan(("random", "position"))
            found = score_rows(variants, rows, plan, notes=[], progress=bar.update)
            scored[name] = {"metric": METRIC, "rows": found}
    say(format_scores(scored) + "\n")
    results = {name: list(map(flat, each["rows"])) for name, each in scored.items()}

    figures = {
        "models": list(moments.blocks.names),
        "corpus": {"sequences": len(corpus), "residues": residues},
        "stages": stages,
        "stage_dims": distiller.stage_dims_.tolist(),
        "scores": results,
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_json(output / FIGURES, figures)
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


def flat(row):
    """Return a row of one metric."""
    kept = {name: row[name] for name in ("row", "kind", "width", "in_table")}
    of_metric = {name: row[name][METRIC] for name in ("scores", "mean", "std")}
    return {**kept, "folds": row["split"], **of_metric}


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
    figure = Figure(figsize=(9.5, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    rows_of_axes = -(-len(panels) // 2)
    # Kinds of fold of one data set are side by side, on one scale.
    axes = figure.subplots(rows_of_axes, 2, squeeze=False, sharex=True, sharey="row")
    dims, names = figures["stage_dims"], figures["models"]
    for ax, (name, scheme) in zip(axes.flat, panels, strict=True):
        rows = of_scheme(figures["scores"][name], scheme)
        for kind, (label, style) in CURVES.items():
            curve = sorted((r["width"], r["scores"]) for r in rows if r["kind"] == kind)
            if not curve:  # a family of one has no stage to leave the regression out of
                continue
            prefixes, scores = zip(*curve, strict=True)
            PrefixCurveDisplay.from_scores(
                prefixes,
                scores,
                stage_dims=dims,
                name=label,
                ax=ax,
                spread="std" if kind in BANDS else None,
                line_kw=style,
            )
        for row in rows:
            if row["kind"] == "mutation":
                ax.axhline(row["mean"], color="0.4", ls=":", label=TABLE)
        remove_legend(ax)  # one for all panels
        ax.set_title(f"{name}, {scheme} folds", fontsize=10)
        ax.set_xticks(dims, [f"{d}\n{model}" for d, model in zip(dims, names, strict=False)])
        ax.tick_params(axis="x", labelbottom=True, labelsize=9)
        ax.tick_params(axis="y", labelleft=True)
        ax.set(xlabel="", ylabel="")
    for ax in axes[-1]:
        ax.set_xlabel("columns used, and the largest model that they need")
    for ax in axes[:, 0]:
        ax.set_ylabel("Spearman correlation")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    figure.suptitle(caption(figures["scores"]), fontsize=9)
    write_file(path, lambda file: figure.savefig(file, format="png", dpi=130))


def of_scheme(rows, scheme):
    """Return the rows of one kind of fold."""
    return [row for row in rows if row["folds"] == scheme]


def caption(scores):
    """Return what the bands of the picture are, and where no language model is needed.

    Parameters
    ----------
    scores : dict of str to list of dict
        Data set to what ``evaluate`` returned.

    Returns
    -------
    text : str
        Two lines, or one where no table was scored.
    """
    n_folds = len(next(iter(scores.values()))[0]["scores"])
    lines = [f"Lines: means, bands: ± standard deviation over {n_folds} folds."]
    known, won = False, []
    for name, rows in scores.items():
        schemes = []
        for scheme in dict.fromkeys(row["folds"] for row in rows):
            means = [(row["kind"] == "mutation", row["mean"]) for row in of_scheme(rows, scheme)]
            table = [mean for is_table, mean in means if is_table]
            known = known or bool(table)
            if table and table[0] > max(mean for is_table, mean in means if not is_table):
                schemes.append(scheme)
        won += [f"{name} ({' and '.join(schemes)} folds)"] * bool(schemes)
    if known:
        where = f"on {', '.join(won)}" if won else "nowhere"
        lines[0] += " Dotted: ridge on position, wild-type and mutant residue."
        lines.append(f"That table, without a language model, is ahead of all embeddings {where}.")
    return "\n".join(lines)
