"""What pictures share: marks of stages, legends clear of the data, ticks that can be read."""

from typing import Any

import numpy as np

STAGES = "revdist_sklearn stages"
# Share of the height of axes that a legend may take from the data, and what is left free.
MOST, BELOW, ABOVE = 0.5, 0.03, 0.05
# Points that a number above a mark takes.
NUMBER = 22


def new_axes():
    """Return the axes of a new figure."""
    return pyplot().subplots(layout="constrained")[1]


def pyplot():
    """Return ``matplotlib.pyplot``, or raise an ImportError that says how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'Drawing needs matplotlib: pip install "revdist_sklearn[plot]".'
        ) from error
    return plt


def mark_stages(ax, dims, names=None):
    """Mark the widths of the models; curves on the same axes share the marks.

    Parameters
    ----------
    ax : matplotlib Axes

    dims : sequence of int

    names : sequence of str or None, default=None
        Above the axes.
    """
    marks = {text.get_position()[0]: text for text in ax.texts if text.get_gid() == STAGES}
    names = [""] * len(dims) if names is None else names
    for d, name in zip(map(int, dims), names, strict=True):
        if d not in marks:
            ax.axvline(d, color="0.8", linewidth=0.8, linestyle="--", zorder=0)
            ax.text(
                *(d, 1.01, name),
                transform=ax.get_xaxis_transform(),
                rotation=-40,
                rotation_mode="anchor",
                ha="right",  # the last name needs no room beside the axes
                fontsize="small",
                color="0.4",
                gid=STAGES,
            )
        elif name not in marks[d].get_text().split(", "):
            marks[d].set_text(f"{marks[d].get_text()}, {name}")


def clear_legend(ax):
    """Draw the legend of axes in a strip below the data, and give it the room that it takes.

    Parameters
    ----------
    ax : matplotlib Axes
        Ticks stay where the data are.

    Returns
    -------
    legend : matplotlib Legend or None
        None where nothing has a label.
    """
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return None
    root = ax.figure.canvas.figure  # of subfigures too
    root.draw_without_rendering()  # a layout sizes the axes
    sizes = [("small", 3), ("small", 2), ("x-small", 2), ("x-small", 1)]
    for size, n_columns in sizes[len(labels) < 3 :] if len(labels) > 1 else [("small", 1)]:
        legend = ax.legend(
            *(handles, labels),
            loc="lower center",
            ncols=n_columns,
            fontsize=size,
            facecolor=ax.get_facecolor(),  # lines of stages end at it
            edgecolor="none",
            borderaxespad=0.3,
            borderpad=0.2,
            columnspacing=1.0,
            handlelength=1.6,
            handletextpad=0.5,
            labelspacing=0.3,
        )
        legend.set_in_layout(False)  # inside of the axes it changes none
        box = legend.get_window_extent()
        if box.width <= ax.bbox.width:
            break
    taken = min(box.height / ax.bbox.height, MOST)
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(np.array(ax.dataLim.intervaly))
    if not np.isfinite([low, high]).all() or low == high:
        low, high = scale.transform(np.array(ax.get_ylim()))
    above = ABOVE
    if any(text.get_gid() != STAGES for text in ax.texts):  # the choice of a curve
        above = max(above, NUMBER * root.dpi / 72 / ax.bbox.height)
    height = (high - low) / (1 - taken - BELOW - above)
    top = high + above * height
    _keep_ticks(ax, *scale.inverted().transform(np.array([low - BELOW * height, top])))
    # Further curves scale the axes anew.
    ax.set_ylim(*scale.inverted().transform(np.array([top - height, top])), auto=None)
    return legend


def remove_legend(ax):
    """Take the legend of axes away, and its strip: one legend may be for several."""
    if (legend := ax.get_legend()) is not None:
        legend.remove()
    for minor in (False, True):
        found = ax.yaxis.get_minor_locator() if minor else ax.yaxis.get_major_locator()
        if hasattr(found, "whole"):
            (ax.yaxis.set_minor_locator if minor else ax.yaxis.set_major_locator)(found.whole)
    ax.autoscale(axis="y")


def _keep_ticks(ax, low, high):
    """Keep ticks of the vertical axis within limits, those of the strip left out."""
    from matplotlib.ticker import FixedLocator, NullLocator

    for minor in (False, True):
        found = ax.yaxis.get_minor_locator() if minor else ax.yaxis.get_major_locator()
        whole = getattr(found, "whole", found)  # that of curves drawn before
        if isinstance(whole, (FixedLocator, NullLocator)):
            continue
        locator: Any = FixedLocator([d for d in whole.tick_values(low, high) if low <= d <= high])
        locator.whole = whole
        (ax.yaxis.set_minor_locator if minor else ax.yaxis.set_major_locator)(locator)


def thin_ticks(ax):
    """Leave out labels of the horizontal axis that run into the one before."""
    ax.figure.canvas.figure.draw_without_rendering()
    low, high = sorted(ax.get_xlim())
    located = zip(ax.get_xticks(), ax.xaxis.get_major_ticks(), strict=True)
    # Some versions have ticks beyond the limits; axes that share an axis hide the inner labels.
    ticks = [(d, tick.label1) for d, tick in located if low <= d <= high]
    if not all(label.get_visible() for _, label in ticks):
        return
    # From the right: the widest prefix, all columns, is named.
    kept, end = [], np.inf
    for d, label in reversed(ticks):
        box = label.get_window_extent()
        if box.x1 + 0.3 * box.height <= end:
            kept.append(d)
            end = box.x0
    if len(kept) < len(ticks):
        ax.set_xticks(kept[::-1])
