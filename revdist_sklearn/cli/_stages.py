"""The stages of a distiller as plain numbers and as text."""

from itertools import accumulate

from ..method._chain import columns_of_stages


def describe_stages(distiller):
    """Return the results of each stage as plain numbers, the base first.

    Widths and columns are those that the distiller gives, shares those of whole stages: with
    ``order="variance"`` columns of small variance may be left out.
    """
    columns = columns_of_stages(distiller.stages_, distiller.column_order_)
    widths = list(accumulate(columns))
    base, *larger = distiller.stages_
    return [
        {"block": base.block, "width": widths[0]},
        *(
            {
                "block": stage.block,
                "width": width,
                "explained_before": stage.explained_before,
                "explained_after": stage.explained_after,
                "n_regression": stage.n_regression,
                "n_added": n_added,
                "residual_variances": [float(f"{v:.6g}") for v in stage.residual_variances],
            }
            for stage, width, n_added in zip(larger, widths[1:], columns[1:], strict=True)
        ),
    ]


def format_stages(stages):
    """Return the table of the stages as text."""
    name = max(len(stage["block"]) for stage in stages)
    lines = [
        f"{'stage':<{name}}  width  explained by the smaller  with this stage   columns added",
        f"{stages[0]['block']:<{name}}  {stages[0]['width']:5d}  {'the base':>24}",
    ]
    for stage in stages[1:]:
        lines.append(
            f"{stage['block']:<{name}}  {stage['width']:5d}  "
            f"{stage['explained_before']:24.1%}  {stage['explained_after']:15.1%}  "
            f"{stage['n_added']:15d}"
        )
    return "\n".join(lines)
