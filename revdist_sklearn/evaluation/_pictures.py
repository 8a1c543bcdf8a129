"""The pictures of an evaluation's page."""

from sklearn.utils._optional_dependencies import check_matplotlib_support

from ..variants._landscape_display import LandscapeDisplay
from ..variants._scorer import OF_FEATURIZER, ESMVariantScorer
from ._page import as_svg, draw_prefixes, draw_scaling, draw_wins, new_figure
from ._verdict import preferred_split

# Residues of a protein whose landscape is drawn.
LONGEST = 400


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
        picture = draw_prefixes(rows, metric, figures["stage_dims"], figures["models"])
        caption = (
            "Score against prefix. Dashed lines: where a model of the family ends. Bands: "
            "standard deviation over folds and seeds."
        )
        found.append((name, caption, as_svg(picture)))
        if len(figures["stage_dims"]) > 1:
            caption = "Does the larger model help? Raw models and reverse-distilled ones."
            found.append((name, caption, as_svg(draw_scaling(rows, metric))))
        landscape = draw_landscape(data_set["protein"], family) if family.scores else None
        if landscape is not None:
            caption = "What the models themselves say of every single substitution, by member."
            found.append((name, caption, as_svg(landscape)))
    metrics = {data_set["metric"] for data_set in figures["data_sets"].values()}
    if len(figures["data_sets"]) > 1 and len(metrics) == 1:
        splits = {preferred_split(each["rows"]) for each in figures["data_sets"].values()}
        for split in sorted(splits):
            having = {
                name: each
                for name, each in figures["data_sets"].items()
                if any(row["split"] == split for row in each["rows"])
            }
            caption = f"How often each row is ahead of each other one, {split} folds."
            found.append(("", caption, as_svg(draw_wins(having, *metrics, split))))
    found.append(("", "Spectra of the residuals, stage by stage.", as_svg(draw_spectra(figures))))
    return found


def draw_landscape(protein, family):
    """Return the figure of the models' scores of all substitutions; None where there is none."""
    shared = {name: getattr(family.featurizer, name) for name in OF_FEATURIZER}
    if len(protein) > LONGEST or family.without_head() is not None:
        return None
    scorer = ESMVariantScorer(**shared, reference=protein, joint=False)
    try:
        return LandscapeDisplay.from_scorer(scorer).figure_
    except (TypeError, ValueError):  # a name that stands for a protein
        return None


def draw_spectra(figures):
    """Return the figure of the variances of the residual directions of each stage."""
    figure = new_figure(5.5, 3.2)
    ax = figure.subplots()
    for stage in figures["stages"][1:]:
        values = [v for v in stage["residual_variances"] if v > 0]
        ax.semilogy(range(1, len(values) + 1), values, label=stage["block"])
    ax.set(xlabel="direction of the residual", ylabel="variance")
    if len(figures["stages"]) > 1:
        ax.legend(fontsize=8, frameon=False)
    return figure
