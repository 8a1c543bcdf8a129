"""The stages of a distiller as plain numbers and as text."""


def describe_stages(distiller):
    """Return the results of each stage as plain numbers, the base first."""
    base, *larger = distiller.stages_
    return [
        {"block": base.block, "width": base.width},
        *(
            {
                "block": stage.block,
                "width": stage.width,
                "explained_before": stage.explained_before,
                "explained_after": stage.explained_after,
                "n_regression": stage.n_regression,
                "n_added": stage.n_added,
                "residual_variances": [float(f"{v:.6g}") for v in stage.residual_variances],
            }
            for stage in larger
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
