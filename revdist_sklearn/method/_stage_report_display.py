"""What each stage adds, as pictures."""

from typing import Any

import numpy as np

from ..base._drawing import clear_legend, mark_stages, pyplot
from ..base._text import shown
from ._stage_report import StageReport

PANELS = ("spectra", "explained", "left")
SOURCES = {"fit": "fit", "moments": "moments", "rows": "rows of X"}
LONGEST_NAME = 24
EDGE = "Johnstone's edge"
# Shares below this are not drawn on a logarithmic axis.
NOTHING = 1e-6


class StageReportDisplay:
    """Residual spectra, shares explained and reconstruction errors of a fitted distiller.

    Make one with :meth:`from_estimator` or :meth:`from_report`; both draw it at once. Of three
    panels: ``"spectra"``, variances of what each regression leaves, with Johnstone's bulk edge;
    ``"explained"``, the share of each model's variance that the smaller ones explain, and that
    the stage's columns add; ``"left"``, the share of variance that each prefix leaves, beside the
    best of as many directions, where rows are given.

    Parameters
    ----------
    report : StageReport
        What is drawn.

    Attributes
    ----------
    ax_ : matplotlib Axes, or ndarray of these of shape (n_panels,)
        Where it was drawn; several where there are several panels.

    figure_ : matplotlib Figure
        The figure of the axes.

    See Also
    --------
    StageReport : The same as a table.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import ReverseDistiller, StageReport, StageReportDisplay
    >>> rows = np.random.default_rng(0).normal(size=(100, 5))
    >>> report = StageReport.from_estimator(ReverseDistiller((2, 3)).fit(rows))
    >>> StageReportDisplay(report=report).report.names
    ('1', '2')
    """

    def __init__(self, *, report):
        self.report = report

    def plot(self, ax=None, *, panels=PANELS, source=None):
        """Draw the panels.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of these, default=None
            Where to draw, one a panel; None makes a figure. Names of models take room beside
            and above: make figures of your own with ``layout="constrained"``.

        panels : str or sequence of str, default=("spectra", "explained", "left")
            Which; one alone is readable at 4 x 3 inches.

        source : {"fit", "moments", "rows"}, default=None
            Rows of the spectra and of what is left; None is the last of these that the report
            has. Shares explained are drawn for all.

        Returns
        -------
        display : StageReportDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        ValueError
            If a panel or source is none of these, or ``ax`` has another number of axes.
        """
        panels = [panels] if isinstance(panels, str) else list(panels)
        unknown = [panel for panel in panels if panel not in PANELS]
        if unknown or not panels:
            raise ValueError(f"panels={panels!r}; use some of {', '.join(map(repr, PANELS))}.")
        found = list(self.report.figures)
        source = found[-1] if source is None else source
        if source not in found:
            raise ValueError(
                f"source={source!r}; the report has figures of {', '.join(map(repr, found))}."
            )
        plt = pyplot()
        if ax is None:
            size = 4.4 * len(panels), 3.6
            ax = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)[1]
        axes: Any = np.array(ax, dtype=object).reshape(-1)
        if len(axes) != len(panels):
            raise ValueError(
                f"ax has {len(axes)} axes for {len(panels)} panels; give one each, or None."
            )
        draw = {"spectra": self._spectra, "explained": self._explained, "left": self._left}
        for panel, place in zip(panels, axes, strict=True):
            draw[panel](place, source)
        # When all are drawn, a layout has sized them.
        for place in axes:
            clear_legend(place)
        self.figure_ = axes[0].figure
        self.ax_ = axes[0] if len(axes) == 1 else axes
        return self

    @property
    def _stages(self):
        """Number and name of each stage that is drawn: all but the base, where there are more."""
        names = [shown(name, LONGEST_NAME) for name in self.report.names]
        numbered = list(enumerate(names))
        return numbered[1:] or numbered

    def _spectra(self, ax, source):
        facts = self.report.figures[source]
        edge_drawn = False
        for i, name in self._stages:
            spectrum = facts.spectra[i]
            varies = np.flatnonzero(spectrum > 0)
            [line] = ax.plot(varies + 1, spectrum[varies], f"C{i}", label=name, linewidth=1.5)
            if facts.edges[i] > 0:
                label = None if edge_drawn else EDGE
                ax.axhline(
                    facts.edges[i],
                    color=line.get_color(),
                    linestyle="--",
                    linewidth=1,
                    label=label,
                )
                edge_drawn = True
        if any((facts.spectra[i] > 0).any() for i, _ in self._stages):
            ax.set_yscale("log")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel="residual direction", ylabel=f"variance ({SOURCES.get(source, source)})")

    def _explained(self, ax, _):
        stages, sources = self._stages, self.report.figures
        height, lowest = 0.8 / len(sources), 0.0
        for j, (source, facts) in enumerate(sources.items()):
            at = np.arange(len(stages)) + (j - (len(sources) - 1) / 2) * height
            numbers = [i for i, _ in stages]
            before, after = facts.explained_before[numbers], facts.explained_after[numbers]
            bar = {"height": 0.9 * height, "color": f"C{j}"}
            ax.barh(at, before, label=f"smaller models, {SOURCES.get(source, source)}", **bar)
            ax.barh(at, after - before, left=before, alpha=0.4, **bar)
            lowest = min(lowest, float(before.min()))
        ax.fill([np.nan], [np.nan], color="0.75", label="lighter: and the stage's columns")
        ax.set_yticks(range(len(stages)), [name for _, name in stages])
        ax.set_xlim(max(lowest * 1.05, -1.0), 1.0)
        ax.set_xlabel("share of variance explained")

    def _left(self, ax, source):
        facts = self.report.figures[source]
        last = shown(self.report.names[-1], LONGEST_NAME)
        curves = [("all columns", "C0", facts.left_of_all, facts.best_of_all)]
        if len(self.report.names) > 1:
            curves.append((last, "C1", facts.left_of_largest, facts.best_of_largest))
        some = False
        for name, color, left, best in curves:
            left, best = (np.where(shares > NOTHING, shares, np.nan) for shares in (left, best))
            ax.plot(facts.prefixes, left, color=color, marker=".", label=name)
            if np.isfinite(best).any():
                ax.plot(facts.prefixes, best, color=color, linestyle="--", label=f"{name}, PCA")
            some = some or bool(np.isfinite(left).any())
        if some:
            ax.set_yscale("log")
        names = [shown(name, LONGEST_NAME) for name in self.report.names]
        mark_stages(ax, self.report.stage_dims, names)
        ax.set(xlabel="prefix (columns)", ylabel="share of variance left")

    @classmethod
    def from_estimator(
        cls, distiller, X=None, *, moments=None, ax=None, panels=PANELS, source=None
    ):
        """Draw the report of a fitted distiller.

        Parameters
        ----------
        distiller, X, moments
            As for :meth:`StageReport.from_estimator`.

        ax, panels, source
            As for :meth:`plot`.

        Returns
        -------
        display : StageReportDisplay

        Examples
        --------
        >>> import numpy as np
        >>> from revdist_sklearn import ReverseDistiller, StageReportDisplay
        >>> rows = np.random.default_rng(0).normal(size=(100, 5))
        >>> distiller = ReverseDistiller((2, 3)).fit(rows)
        >>> display = StageReportDisplay.from_estimator(distiller)  # doctest: +SKIP
        """
        report = StageReport.from_estimator(distiller, X, moments=moments)
        return cls.from_report(report, ax=ax, panels=panels, source=source)

    @classmethod
    def from_report(cls, report, *, ax=None, panels=PANELS, source=None):
        """Draw a report.

        Parameters
        ----------
        report : StageReport

        ax, panels, source
            As for :meth:`plot`.

        Returns
        -------
        display : StageReportDisplay
        """
        return cls(report=report).plot(ax, panels=panels, source=source)
