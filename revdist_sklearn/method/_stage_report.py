"""What each stage of a fitted distiller adds: figures as text, as HTML and as numbers."""

from dataclasses import fields
from html import escape
from itertools import groupby, pairwise

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..base._text import shown
from ..base._threads import one_thread_of_blas
from ..base._validation import check_integer
from ._moments import Moments
from ._stage_figures import figures_of_fit, figures_of_rows, regressions

# Prefixes inside each stage, its own width among them.
STEPS = 8
SOURCES = {
    "fit": "rows of the fit, as the distiller holds them",
    "moments": "rows of the moments",
    "rows": "rows of X",
}
# Group and head of each column of the table.
HEADS = (
    ("", "model"),
    ("", "width"),
    ("explained", "before"),
    ("explained", "after"),
    ("residual", "rank"),
    ("residual", "above edge"),
    ("correlation", "with base"),
    ("left of all", "prefix"),
    ("left of all", "best"),
    ("left of largest", "prefix"),
    ("left of largest", "best"),
)
NOTES = (
    "explained: share of the model's variance, by the smaller models and with the stage's columns",
    "residual: effective rank of what the regression leaves; directions above Johnstone's edge",
    "correlation: largest between a column that is added and one before it",
    "left: share of variance that the prefix leaves, of all columns and of the largest model's; "
    "best: PCA",
)


class StageReport:
    """What each stage of a fitted distiller adds, on the rows of its fit and on others.

    Make one with :meth:`from_estimator`. ``print`` shows a table, a notebook the same in HTML.

    Parameters
    ----------
    names : sequence of str, length n_stages
        Of the models.

    stage_dims : sequence of int, length n_stages
        Width of the nested embedding after each.

    regressor : str
        Of the distiller.

    figures : dict of str to StageFigures
        Figures on the rows of the ``"fit"``, and on those of ``"moments"`` and ``"rows"`` where
        they were given.

    See Also
    --------
    StageReportDisplay : The same as pictures.
    StageFigures : The figures on one set of rows.

    Notes
    -----
    Figures on rows need their mean and covariance alone: O(n D^2) for rows, O(D^3) for the
    principal components that prefixes are compared with, and O(D k^2) a prefix of k columns.

    The edge is Johnstone's, as the rule of ``regressor="pcr"`` takes it: what is above it is no
    white noise. Residuals of real models have no flat bulk, so that it is a mark rather than a
    test. For distillers that were fitted on weighted rows the number of rows stands for the
    sum of weights in edges, and in regressions by ``"ridge"`` and ``"pcr"``.

    References
    ----------
    Catrina, Bepler, Sledzieski, Singh, "Reverse Distillation: Consistently Scaling Protein
    Language Model Representations", ICLR 2026, arXiv:2603.07710.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import ReverseDistiller, StageReport
    >>> rng = np.random.default_rng(0)
    >>> small, turn = rng.normal(size=(400, 2)), rng.normal(size=(2, 4))
    >>> X = np.hstack([small, small @ turn + 0.1 * rng.normal(size=(400, 4))])
    >>> distiller = ReverseDistiller((2, 4)).fit(X[:200])
    >>> report = StageReport.from_estimator(distiller, X[200:])
    >>> list(report.figures)
    ['fit', 'rows']
    >>> bool(report.figures["rows"].explained_before[1] > 0.9)
    True
    """

    def __init__(self, *, names, stage_dims, regressor, figures):
        self.names = tuple(names)
        self.stage_dims = tuple(int(d) for d in stage_dims)
        self.regressor = regressor
        self.figures = dict(figures)
        if not self.figures:
            raise ValueError("figures is empty; give those of one set of rows, such as 'fit'.")
        for source, facts in self.figures.items():
            found = len(self.names), len(self.stage_dims), len(facts.spectra)
            if len(set(found)) > 1:
                raise ValueError(
                    f"{found[0]} names, {found[1]} stage_dims and {found[2]} stages of "
                    f"{source!r} do not agree; give one of each a stage."
                )

    @classmethod
    def from_estimator(cls, distiller, X=None, *, moments=None, prefixes=None):
        """Make the report of a fitted distiller.

        Parameters
        ----------
        distiller : ReverseDistiller
            Fitted.

        X : array-like of shape (n_samples, n_features), default=None
            Rows that the fit has not seen, such as residues or pooled embeddings of other
            proteins.

        moments : Moments, default=None
            Of any rows of the same blocks, such as those of the fit: at residue level.

        prefixes : sequence of int, default=None
            Widths at which reconstructions are told, beside those of the stages. None is eight
            in each stage.

        Returns
        -------
        report : StageReport
            What the distiller holds of its fit is always part of it.

        Raises
        ------
        NotFittedError
            If the distiller is not fitted.

        TypeError
            If ``moments`` are none.

        ValueError
            If the columns are not in the order of stages; if ``X`` has other columns, or
            fewer than two rows; if ``moments`` are of other
            blocks or have fewer than two rows; if a prefix is wider than the chain; or if
            rows are given to a chain without cov(x, z), such as published scalers.
        """
        check_is_fitted(distiller)
        chain = distiller._solved()
        if distiller._order is not None:
            raise ValueError(
                "StageReport tells of prefixes in the order of stages, and the columns of this "
                "distiller have another; fit one with order='stage', whose stages are the same."
            )
        # A parameter acts at fit.
        settings = getattr(distiller, "_parameters", None) or distiller.get_params()
        n_rows = distiller.n_samples_seen_
        widths = [stage.width for stage in chain.stages]
        prefixes = _prefixes(prefixes, widths)
        given = {}
        if moments is not None:
            given["moments"] = _checked_moments(moments, distiller.blocks_)
        if X is not None:
            given["rows"] = _moments_of_rows(distiller, X)
        if given and chain.cross_covariance is None:
            raise ValueError(
                "This chain was loaded without the covariance that a report on rows needs; fit "
                "it on a corpus (fit_on_corpus), or leave out X and moments."
            )
        same_level = settings["residual_level"] == "residue"
        with one_thread_of_blas(chain.blocks.n_columns**3):
            figures = {
                "fit": figures_of_fit(chain, n_rows, n_rows, prefixes, same_level=same_level)
            }
            if given:
                how = {name: settings[name] for name in ("regressor", "alpha")}
                W = regressions(chain, n=n_rows, n_rows=n_rows, **how)
            for source, of_rows in given.items():
                figures[source] = figures_of_rows(
                    chain,
                    W,
                    of_rows.n,
                    of_rows.n_rows,
                    of_rows.mean,
                    of_rows.residue.covariance,
                    prefixes,
                    of_rows.product_precision,
                )
        names = [stage.block for stage in chain.stages]
        return cls(
            names=names, stage_dims=widths, regressor=settings["regressor"], figures=figures
        )

    def to_dict(self):
        """Return all figures as plain numbers, for JSON; what is not known is None.

        Returns
        -------
        values : dict
            ``names``, ``stage_dims``, ``regressor`` and ``figures``, by source and name.
        """
        figures = {
            source: {field.name: _plain(getattr(facts, field.name)) for field in fields(facts)}
            for source, facts in self.figures.items()
        }
        return {
            "names": list(self.names),
            "stage_dims": list(self.stage_dims),
            "regressor": self.regressor,
            "figures": figures,
        }

    def __repr__(self):
        return f"StageReport(names={list(self.names)}, figures of {', '.join(self.figures)})"

    def __str__(self):
        """Return a table for terminals, one a set of rows."""
        tables = {source: self._cells(source) for source in self.figures}
        groups, heads = zip(*HEADS, strict=True)
        widths = [
            max(len(line[j]) for lines in tables.values() for line in [heads, *lines])
            for j in range(len(heads))
        ]
        # A group is as wide as its columns, which grow where its name is wider.
        spans = _spans(groups)
        for group, columns in spans:
            short = len(group) - sum(widths[j] + 2 for j in columns) + 2
            widths[columns[-1]] += max(0, short)
        above = "  ".join(
            group.center(sum(widths[j] + 2 for j in columns) - 2) for group, columns in spans
        )
        out = []
        for source, lines in tables.items():
            out += [self._title(source), above.rstrip()]
            for line in [heads, *lines]:
                cells = map(str.rjust, line[1:], widths[1:])
                out.append("  ".join([line[0].ljust(widths[0]), *cells]).rstrip())
            out.append("")
        return "\n".join(out + list(NOTES))

    def _repr_html_(self):
        groups, heads = zip(*HEADS, strict=True)
        above = "".join(
            f'<th colspan="{len(columns)}">{escape(group)}</th>'
            for group, columns in _spans(groups)
        )
        head = f"<tr>{above}</tr>{_html_row(heads, 'th')}"
        tables = [
            f'<table style="text-align: right"><caption>{escape(self._title(source))}</caption>'
            f"<thead>{head}</thead><tbody>"
            + "".join(_html_row(line, "td") for line in self._cells(source))
            + "</tbody></table>"
            for source in self.figures
        ]
        notes = "<br>".join(map(escape, NOTES))
        return f"<div>{''.join(tables)}<small>{notes}</small></div>"

    def _title(self, source):
        n_rows = self.figures[source].n_rows
        return f"{SOURCES.get(source, source)} ({n_rows:,}), regressor {self.regressor}"

    def _cells(self, source):
        """Return the table of one set of rows as text, a line a stage."""
        facts = self.figures[source]
        at = {int(d): j for j, d in enumerate(facts.prefixes)}
        lines = []
        for i, (name, width) in enumerate(zip(self.names, self.stage_dims, strict=True)):
            left = [
                getattr(facts, name)[at[width]] if width in at else np.nan
                for name in ("left_of_all", "best_of_all", "left_of_largest", "best_of_largest")
            ]
            n_above, k = facts.n_above[i], len(facts.spectra[i])
            lines.append(
                [
                    shown(name, 40),
                    str(width),
                    _percent(facts.explained_before[i]) if i else "base",
                    _percent(facts.explained_after[i]),
                    _number(facts.effective_ranks[i], ".1f"),
                    f"{_number(n_above, '.0f')} of {k}",
                    _number(facts.correlations[i], ".1e") if i else "",
                    *map(_percent, left),
                ]
            )
        return lines


def _prefixes(prefixes, widths):
    """Return the prefixes of a report, ascending, those of the stages among them."""
    if prefixes is None:
        steps = [
            np.linspace(low, high, STEPS + 1)[1:].round().astype(int)
            for low, high in pairwise((0, *widths))
        ]
        found = np.concatenate(steps)
        return np.unique(np.maximum(found, 1))
    for i, d in enumerate(prefixes):
        check_integer(
            d,
            f"prefixes[{i}]",
            1,
            widths[-1],
            f"prefixes[{i}]={d!r} is no prefix of the {widths[-1]} columns of the chain; use "
            f"integers in [1, {widths[-1]}].",
        )
    return np.unique([*map(int, prefixes), *widths])


def _checked_moments(moments, blocks):
    """Return moments that a report can be made on, or raise."""
    if not isinstance(moments, Moments):
        raise TypeError(
            f"moments are of type {type(moments).__name__}; gather Moments with corpus_moments or "
            "Moments(block_sizes).update(rows), or give rows as X."
        )
    blocks.check(
        moments.blocks,
        "the moments have",
        "the distiller was fitted on",
        "give moments of the same models in the same order.",
    )
    moments.check_whole()
    if moments.n_rows < 2:
        raise ValueError(
            f"The moments are of {moments.n_rows} row(s), which have no variance to explain; give "
            "two rows or more."
        )
    return moments


def _moments_of_rows(distiller, X):
    """Return the moments of rows, as the distiller takes them."""
    X = distiller._validate_rows(X, reset=False)
    if len(X) < 2:
        raise ValueError(
            f"X has {len(X)} row(s), which have no variance to explain; give two rows or more."
        )
    return Moments(distiller.blocks_.sizes).update(X)


def _spans(groups):
    """Return each group of columns with the numbers of these."""
    numbered = groupby(enumerate(groups), key=lambda pair: pair[1])
    return [(group, [j for j, _ in pairs]) for group, pairs in numbered]


def _html_row(cells, tag):
    first, *others = (escape(cell) for cell in cells)
    start = f'<th style="text-align: left">{first}</th>'
    return f"<tr>{start}{''.join(f'<{tag}>{cell}</{tag}>' for cell in others)}</tr>"


def _percent(value):
    return _number(value, ".1%")


def _number(value, form):
    return "?" if np.isnan(value) else format(value, form)


def _plain(value):
    """Return arrays as lists of Python's numbers, and NaN as None."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return None if value != value else value
