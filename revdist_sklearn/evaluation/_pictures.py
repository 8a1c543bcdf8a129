"""The pictures of an evaluation's page."""

import io
from itertools import product

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from ..base._drawing import remove_legend
from ..prefix._curve_display import PrefixCurveDisplay
from ..variants._landscape_display import LandscapeDisplay
from ._summary import enough_is_tested
from ._verdict import preferred_split

# Residues of a protein whose landscape is drawn, and of a row of it.
LONGEST, ROW = 400, 50
# Inches of a panel, which a telephone shows as wide as it is.
PANEL = 3.5, 3.2


def pictures_of(figures, family):
    """Return the pictures of a page: of each data set, and of all together.

    Parameters
    ----------
    figures : dict
        What the JSON file holds.

    family : Family

    Returns
    -------
    pictures : list of (str, str, str)
        Data set or "", caption, SVG.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    check_matplotlib_support("The pictures of an evaluation")
    found = []
    for name, data_set in figures["data_sets"].items():
        rows, metric = data_set["rows"], data_set["metric"]
        stages, lines = figures["stages"], "the widths that are compared"
        if [each["width"] for each in stages] == figures["stage_dims"]:
            ends = ", ".join(f"{each['block']} at {each['width']}" for each in stages)
            lines = f"where models of the family end, {ends}"
        caption = (
            f"Score against prefix. Dashed lines: {lines}. Bands: standard deviation over folds "
            "and seeds."
        )
        found.append((name, caption, as_svg(*draw_prefixes(rows, metric, figures["stage_dims"]))))
        if len(figures["stage_dims"]) > 1:
            caption = "Does the larger model help? Raw models and reverse-distilled ones."
            found.append((name, caption, as_svg(*draw_scaling(rows, metric))))
        landscape = draw_landscape(data_set, family) if family.scores else None
        if landscape is not None:
            caption = "What the models themselves say of every single substitution, by member."
            found.append((name, caption, as_svg(landscape)))
    metrics = {data_set["metric"] for data_set in figures["data_sets"].values()}
    if len(figures["data_sets"]) > 1 and len(metrics) == 1:
        [metric] = metrics
        splits = {preferred_split(each["rows"]) for each in figures["data_sets"].values()}
        for split in sorted(splits):
            having = {
                name: each
                for name, each in figures["data_sets"].items()
                if enough_is_tested(each["rows"], split)
                and any(row["split"] == split for row in each["rows"])
            }
            caption = f"How often each row is ahead of each other one, {split} folds."
            found.append(("", caption, as_svg(draw_wins(having, metric, split))))
    if len(figures["stages"]) > 1:
        caption = "Spectra of the residuals, stage by stage."
        found.append(("", caption, as_svg(draw_spectra(figures))))
    return found


def draw_landscape(data_set, family):
    """Return the figure of the models' scores of all substitutions; None where there is none."""
    protein = data_set["wild_type"]
    if protein is None or len(protein) > LONGEST or family.without_head() is not None:
        return None
    scorer = family.scorer(protein)
    return LandscapeDisplay.from_scorer(scorer, first_position=data_set["first_position"]).figure_


def draw_spectra(figures):
    """Return the figure of the variances of the residual directions of each stage."""
    figure = new_figure(*PANEL)
    ax = figure.subplots()
    for stage in figures["stages"][1:]:
        values = np.array(stage["residual_variances"])
        values = values[values > 1e-9 * values.max(initial=0)]  # others are rounding
        ax.semilogy(range(1, len(values) + 1), values, label=stage["block"])
    ax.set(xlabel="direction of the residual", ylabel="variance")
    if len(figures["stages"]) > 1:
        ax.legend(fontsize=8, frameon=False)
    return figure


def as_svg(*figures):
    """Return figures of matplotlib as SVG that stands within a page.

    Parameters
    ----------
    *figures : matplotlib Figure

    Returns
    -------
    svg : str
        One after another.
    """
    from matplotlib import rc_context

    found = []
    # Text stays text; nothing of the page depends on the hour.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "revdist"}):
        for figure in figures:
            stream = io.StringIO()
            figure.savefig(stream, format="svg", metadata={"Date": None})
            text = stream.getvalue()
            found.append(text[text.index("<svg") :])
    return "".join(found)


def new_figure(width, height):
    """Return a figure that no window shows."""
    check_matplotlib_support("The pictures of an evaluation")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(titles):
    """Return a figure and axes for each title; :func:`_on_one_scale` ends them."""
    found = []
    for title in titles:
        figure = new_figure(*PANEL)
        ax = figure.subplots()
        ax.set_title(title, fontsize=10)
        found.append((figure, ax))
    return found


def _on_one_scale(panels):
    """Return the figures of panels, with the range of all and a legend each."""
    low, high = np.array([ax.get_ylim() for _, ax in panels]).T
    for figure, ax in panels:
        ax.set_ylim(low.min(), high.max())
        ax.tick_params(labelsize=8)
        handles = ax.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return [figure for figure, _ in panels]


def draw_prefixes(rows, metric, stage_dims):
    """Return the figures of scores against prefixes, one a kind of split.

    Parameters
    ----------
    rows : list of dict
        Results of one data set.

    metric : str

    stage_dims : list of int

    Returns
    -------
    figures : list of matplotlib Figure
    """
    rows = [r for r in rows if r["n_train"] is None and metric in r["scores"]]
    kinds = list(dict.fromkeys(r["split"] for r in rows))
    panels = _panels(map(_folds_of, kinds))
    for (_, ax), kind in zip(panels, kinds, strict=True):
        here = [r for r in rows if r["split"] == kind]
        for which, label, style in (
            ("distilled", "reverse-distilled", {"color": "C0", "marker": "o"}),
            (
                "concatenation_pca",
                "concatenation + PCA",
                {"color": "C2", "marker": "^", "ls": "--"},
            ),
            ("raw", "raw model", {"color": "C3", "marker": "s", "ls": "none"}),
        ):
            curve = sorted((r["width"], r["scores"][metric]) for r in here if r["kind"] == which)
            if curve:
                widths, scores = zip(*curve, strict=True)
                PrefixCurveDisplay.from_scores(
                    widths,
                    scores,
                    stage_dims=stage_dims,
                    name=label,
                    ax=ax,
                    spread="std" if which == "distilled" else None,
                    line_kw=style,
                )
        for row in here:
            if row["kind"] == "mutation" and row["mean"][metric] is not None:
                label = "position, wild type, mutant"
                ax.axhline(row["mean"][metric], color="0.4", ls=":", label=label)
        remove_legend(ax)
        ax.set(xlabel="columns", ylabel=metric)
    return _on_one_scale(panels)


def _folds_of(kind):
    return kind if kind.startswith("fold_") else f"{kind} folds"


def draw_scaling(rows, metric):
    """Return the figures of scores against the size of the model, raw and reverse-distilled."""
    rows = [r for r in rows if r["n_train"] is None and r["in_table"] and metric in r["scores"]]
    kinds = list(dict.fromkeys(r["split"] for r in rows))
    panels = _panels(map(_folds_of, kinds))
    for (_, ax), kind in zip(panels, kinds, strict=True):
        for which, label, style in (("raw", "raw", "C3s--"), ("distilled", "distilled", "C0o-")):
            found = sorted(
                (r["width"], r["mean"][metric])
                for r in rows
                if r["split"] == kind and r["kind"] == which and r["mean"][metric] is not None
            )
            ax.plot([str(w) for w, _ in found], [s for _, s in found], style, label=label)
        ax.set(xlabel="columns of the model", ylabel=metric)
    return _on_one_scale(panels)


def draw_wins(data_sets, metric, split):
    """Return the figure of how often each row is ahead of each other one, over data sets."""
    tables = []
    for data_set in data_sets.values():
        tables.append(
            {
                r["row"]: r["mean"][metric]
                for r in data_set["rows"]
                if r["split"] == split
                and r["n_train"] is None
                and r["in_table"]
                and r["kind"] in ("mutation", "raw", "distilled", "concatenation_pca", "one_hot")
                and r["mean"].get(metric) is not None
            }
        )
    names = [n for n in tables[0] if all(n in table for table in tables)]
    share = np.full((len(names), len(names)), np.nan)
    for (i, one), (j, other) in product(enumerate(names), enumerate(names)):
        if i != j:
            share[i, j] = np.mean([table[one] > table[other] for table in tables])
    side = 2.5 + 0.35 * len(names)
    figure = new_figure(side + 1, side)
    ax = figure.subplots()
    image = ax.imshow(share, vmin=0, vmax=1, cmap="RdBu_r")
    ax.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    for i, j in product(range(len(names)), range(len(names))):
        if np.isfinite(share[i, j]):
            ax.text(j, i, f"{share[i, j]:.0%}", ha="center", va="center", fontsize=7)
    figure.colorbar(image, ax=ax, label="share of data sets", shrink=0.7)
    return figure
