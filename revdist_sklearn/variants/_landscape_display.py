"""The landscape of single substitutions as a picture: position by residue."""

import re
from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from ..embedding._sequences import check_sequences
from ..models._residues import AMINO_ACIDS
from ._substitutions import N_LETTERS, all_single, codes_of

# Rows of a panel from the top: aliphatic, aromatic, small, polar, basic, acidic.
BY_KIND = "AVILMFWYGPCSTNQHKRDE"
# Positions side by side whose letters can be read, and rows of them in one figure.
READABLE = 72
MOST_ROWS = 12
# Share of the values that the colours span; the rest is as dark as colours go.
SPAN = 98
MUTANT = re.compile(rf"([A-Z])(-?\d+)([{AMINO_ACIDS}])", re.IGNORECASE | re.ASCII)
FACTS = ("position", "wild_type", "residue")


class LandscapeDisplay:
    """What is said of each single substitution of a protein: a heat map, position by residue.

    Make one with :meth:`from_scorer`, :meth:`from_predictions` or :meth:`from_frame`; each draws
    at once.

    Parameters
    ----------
    wild_type : str
        Letters of the positions that are drawn; ``"?"`` where nothing is known.

    values : array-like of shape (n_panels, n_positions, 20)
        Of each residue, in the order of ``ACDEFGHIKLMNPQRSTVWY``; NaN where there is none, as
        at the wild type's own.

    names : sequence of str, default=None
        Titles of the panels.

    first_position : int, default=1
        Number of the first position.

    value_name : str, default=None
        What the values are, for the scale of colours.

    Attributes
    ----------
    ax_ : matplotlib Axes, or ndarray of these of shape (n_panels, n_rows)
        Where it was drawn; several where there are several panels, or a long protein is drawn
        in rows.

    figure_ : matplotlib Figure
        The figure of the axes.

    im_ : matplotlib AxesImage, or ndarray of these as ``ax_``
        The heat maps.

    See Also
    --------
    ESMVariantScorer : Scores to be drawn.
    single_substitutions : The frame that predictions are made for.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import LandscapeDisplay
    >>> display = LandscapeDisplay(wild_type="MK", values=np.zeros((1, 2, 20)))
    >>> display.values.shape
    (1, 2, 20)
    """

    def __init__(self, *, wild_type, values, names=None, first_position=1, value_name=None):
        self.wild_type = wild_type
        self.values = np.asarray(values, dtype=np.float64)
        expected = len(wild_type), N_LETTERS
        if self.values.ndim != 3 or not self.values.size or self.values.shape[1:] != expected:
            raise ValueError(
                f"values has shape {self.values.shape}; expected is (n_panels, {expected[0]}, "
                f"{N_LETTERS}) for a wild type of {expected[0]} positions."
            )
        if names is not None and len(names) != len(self.values):
            raise ValueError(
                f"names has {len(names)} titles for {len(self.values)} panels; give one each."
            )
        self.names = names
        self.first_position = first_position
        self.value_name = value_name

    def plot(self, ax=None, *, residues=BY_KIND, limit=None, wrap=None, cmap="RdBu"):
        """Draw the heat maps.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of these, default=None
            Where to draw, one axes a panel, each in one row; None makes a figure.

        residues : str, default="AVILMFWYGPCSTNQHKRDE"
            Order of the rows from the top: some or all of the twenty amino acids.

        limit : float, default=None
            Absolute value at which colours end, around white at 0. None is that which 98 in 100
            values of all panels are within.

        wrap : int, default=None
            Positions of a row, longer proteins in several. None is 72, or more where a figure
            would have more than 12 rows.

        cmap : str or matplotlib Colormap, default="RdBu"
            From low to high; a diverging one.

        Returns
        -------
        display : LandscapeDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        ValueError
            If ``residues`` has another letter, ``limit`` or ``wrap`` is not positive, or ``ax``
            has another number of axes than there are panels.
        """
        check_matplotlib_support("LandscapeDisplay.plot")
        order = _order(residues)
        limit = self._limit(limit)
        n_panels, n_positions = self.values.shape[:2]
        if ax is None:
            axes, width = self._new_axes(wrap)
        else:
            axes, width = np.array(ax, dtype=object).reshape(-1, 1), n_positions
            if len(axes) != n_panels:
                raise ValueError(
                    f"ax has {len(axes)} axes for {n_panels} panels; give one each, or None."
                )
        images: Any = np.empty(axes.shape, dtype=object)
        for panel, row in np.ndindex(axes.shape):
            start = row * width
            images[panel, row] = self._draw(
                axes[panel, row], panel, start, width, order, limit, cmap
            )
            if self.names is not None and row == 0:
                axes[panel, row].set_title(self.names[panel], fontsize="medium", loc="left")
        for column in axes:
            column[-1].set_xlabel("position")
        self.figure_ = axes[0, 0].figure
        finite = self.values[np.isfinite(self.values)]
        below, above = (finite < -limit).any(), (finite > limit).any()
        ends = {(True, True): "both", (True, False): "min", (False, True): "max"}
        bar = self.figure_.colorbar(
            images[0, 0],
            ax=list(axes.ravel()),
            pad=0.01,
            aspect=15 * axes.size,  # a fifth of an inch, whatever the height
            extend=ends.get((bool(below), bool(above)), "neither"),
            extendfrac=0.02,
        )
        if self.value_name is not None:
            bar.set_label(self.value_name)
        self.ax_, self.im_ = axes, images
        if axes.size == 1:
            self.ax_, self.im_ = axes[0, 0], images[0, 0]
        return self

    def _new_axes(self, wrap):
        """Return axes of a new figure, a row of the array a panel, and positions of each."""
        import matplotlib.pyplot as plt

        n_panels, n_positions = self.values.shape[:2]
        if wrap is None:
            most = max(1, MOST_ROWS // n_panels)
            wrap = max(READABLE, -(-n_positions // most))
        elif wrap < 1:
            raise ValueError(f"wrap={wrap!r} positions are no row; use 1 or more, or None.")
        n_rows = -(-n_positions // wrap)
        width = -(-n_positions // n_rows)  # rows of like lengths
        size = (min(12, 2.5 + 0.14 * width), 0.5 + 2.9 * n_panels * n_rows)
        _, axes = plt.subplots(
            n_panels * n_rows, 1, figsize=size, layout="constrained", squeeze=False
        )
        return axes.reshape(n_panels, n_rows), width

    def _draw(self, ax, panel, start, width, order, limit, cmap):
        """Draw some positions of a panel."""
        import matplotlib as mpl

        shown = self.values[panel, start : start + width][:, order].T
        colors = mpl.colormaps[cmap] if isinstance(cmap, str) else cmap
        colors = colors.with_extremes(bad="0.88")
        n = shown.shape[1]
        first = self.first_position + start
        image = ax.imshow(
            shown,
            cmap=colors,
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
            extent=(first - 0.5, first + n - 0.5, len(order) - 0.5, -0.5),
        )
        # Rows of one width have cells of one size, a shorter last row too.
        ax.set_xlim(first - 0.5, first + width - 0.5)
        letters = self.wild_type[start : start + n]
        known = [(first + i, order.index(c)) for i, c in enumerate(_codes(letters)) if c in order]
        if known:
            ax.plot(*zip(*known, strict=True), ".", color="0.25", markersize=3)
        ax.set_yticks(range(len(order)), [AMINO_ACIDS[i] for i in order])
        ax.tick_params(axis="y", labelsize=7, length=0)
        ax.tick_params(axis="x", labelsize=7)
        ax.xaxis.get_major_locator().set_params(integer=True)
        if width <= READABLE:
            top = ax.secondary_xaxis("top")
            top.set_xticks(range(first, first + n), list(letters))
            top.tick_params(labelsize=7, length=0, pad=1)
        return image

    def _limit(self, limit):
        """Return where the colours end."""
        if limit is not None:
            if not limit > 0:
                raise ValueError(f"limit={limit!r} is no range of colours; use one above 0.")
            return limit
        finite = np.abs(self.values[np.isfinite(self.values)])
        found = float(np.percentile(finite, SPAN)) if finite.size else 0.0
        return found or 1.0

    @classmethod
    def from_scorer(cls, scorer, reference=None, *, first_position=1, ax=None, **style):
        """Draw the scores of all single substitutions.

        Parameters
        ----------
        scorer : ESMVariantScorer
            Fitted or not; a panel for each column of its ``transform``.

        reference : str, default=None
            A protein; None is the scorer's own.

        first_position : int, default=1
            Number of the first residue.

        ax : matplotlib Axes or array-like of these, default=None
            As for :meth:`plot`.

        **style
            Further keywords of :meth:`plot`.

        Returns
        -------
        display : LandscapeDisplay

        Examples
        --------
        >>> from revdist_sklearn import ESMVariantScorer, LandscapeDisplay
        >>> scorer = ESMVariantScorer("esm2-nano:32", reference="MKTAYIAKQR")
        >>> display = LandscapeDisplay.from_scorer(scorer)  # doctest: +SKIP
        """
        check_matplotlib_support("LandscapeDisplay.from_scorer")
        frame = scorer.score_landscape(reference)
        frame["position"] += first_position - 1
        return cls.from_frame(frame, value_name="score", ax=ax, **style)

    @classmethod
    def from_predictions(
        cls, model, reference, *, name=None, relative=True, first_position=1, ax=None, **style
    ):
        """Draw what a fitted model predicts of all single substitutions.

        Parameters
        ----------
        model : fitted estimator
            Its ``predict`` takes a list of sequences.

        reference : str
            Sequence of the wild type.

        name : str, default=None
            Title; None is the name of the model's class.

        relative : bool, default=True
            Whether to subtract the prediction of the wild type, so that 0 is no change.

        first_position : int, default=1
            Number of the first residue.

        ax : matplotlib Axes, default=None
            As for :meth:`plot`.

        **style
            Further keywords of :meth:`plot`.

        Returns
        -------
        display : LandscapeDisplay

        Raises
        ------
        TypeError, ValueError
            If ``reference`` is no sequence, or the model gives other than a number each.

        Examples
        --------
        >>> from sklearn.dummy import DummyRegressor
        >>> from revdist_sklearn import LandscapeDisplay
        >>> model = DummyRegressor().fit(["MK", "MR"], [0.0, 1.0])
        >>> display = LandscapeDisplay.from_predictions(model, "MK")  # doctest: +SKIP
        """
        check_matplotlib_support("LandscapeDisplay.from_predictions")
        [reference] = check_sequences([reference])
        sites, codes, _, sequences = all_single(reference)
        predicted = np.asarray(model.predict([reference, *sequences]))
        predicted = predicted.astype(np.float64)
        if predicted.ndim == 2 and predicted.shape[1] == 1:
            predicted = predicted.ravel()
        if predicted.shape != (len(sites) + 1,):
            raise ValueError(
                f"The model predicts an array of shape {predicted.shape} for {len(sites) + 1} "
                "sequences; a landscape is of one number each."
            )
        values = np.full((1, len(reference), N_LETTERS), np.nan)
        values[0, sites, codes] = predicted[1:] - (predicted[0] if relative else 0.0)
        display = cls(
            wild_type=reference,
            values=values,
            names=[type(model).__name__ if name is None else name],
            first_position=first_position,
            value_name="prediction less the wild type's" if relative else "prediction",
        )
        return display.plot(ax, **style)

    @classmethod
    def from_frame(cls, frame, *, columns=None, value_name=None, ax=None, **style):
        """Draw columns of a frame with a row a substitution.

        Parameters
        ----------
        frame : pandas.DataFrame
            As :meth:`ESMVariantScorer.score_landscape` or :func:`single_substitutions` gives
            it, some rows or all: "position", "wild_type" and "residue"; without these "mutant",
            such as ``"M1A"`` in the tables of ProteinGym.

        columns : str or list of str, default=None
            What is drawn, a panel each; None is all columns of numbers.

        value_name : str, default=None
            What the values are.

        ax : matplotlib Axes or array-like of these, default=None
            As for :meth:`plot`.

        **style
            Further keywords of :meth:`plot`.

        Returns
        -------
        display : LandscapeDisplay

        Raises
        ------
        ValueError
            If rows are no single substitutions, one occurs twice, they are of several wild
            types, or a column is not there or no numbers.

        Examples
        --------
        >>> from revdist_sklearn import LandscapeDisplay, single_substitutions
        >>> frame = single_substitutions("MKTAY", sequences=False)
        >>> frame["score"] = 0.0
        >>> display = LandscapeDisplay.from_frame(frame)  # doctest: +SKIP
        """
        positions, old, new = _facts(frame)
        if isinstance(columns, str):
            columns = [columns]
        if columns is None:
            numbers = frame.select_dtypes("number").columns
            columns = [column for column in numbers if column not in FACTS]
        missing = [column for column in columns if column not in frame.columns]
        if missing or not len(columns):
            raise ValueError(
                f"The frame has no column {missing[0]!r}; it has {list(frame.columns)}."
                if missing
                else "The frame has no column of numbers to draw beside the substitutions."
            )
        if not len(frame):
            raise ValueError("The frame has no row, and a landscape no substitution.")
        first = int(positions.min())
        wild_type = np.full(int(positions.max()) - first + 1, "?")
        at = positions - first
        wild_type[at] = old
        if (wild_type[at] != old).any():
            i = int(np.argmax(wild_type[at] != old))
            raise ValueError(
                f"Position {positions[i]} has the wild types {old[i]} and {wild_type[at[i]]}; "
                "draw one protein at a time."
            )
        cells = at * N_LETTERS + new
        unique, counts = np.unique(cells, return_counts=True)
        if (counts > 1).any():
            site, code = divmod(int(unique[np.argmax(counts > 1)]), N_LETTERS)
            raise ValueError(
                f"The substitution {wild_type[site]}{first + site}{AMINO_ACIDS[code]} occurs more "
                "than once; average its rows first."
            )
        values = np.full((len(columns), len(wild_type), N_LETTERS), np.nan)
        for panel, column in enumerate(columns):
            values[panel, at, new] = np.asarray(frame[column], dtype=np.float64)
        display = cls(
            wild_type="".join(wild_type),
            values=values,
            names=[str(column) for column in columns],
            first_position=first,
            value_name=value_name,
        )
        return display.plot(ax, **style)


def _facts(frame):
    """Return positions, letters of the wild type and codes of the new residues of a frame."""
    if all(name in frame.columns for name in FACTS):
        whole = [_integer_of(position) for position in frame["position"]]
        facts = frame["wild_type"], whole, frame["residue"]
        mutants = ["".join(map(str, row)) for row in zip(*facts, strict=True)]
    elif "mutant" in frame.columns:
        mutants = [str(mutant) for mutant in frame["mutant"]]
    else:
        raise ValueError(
            f"The frame has neither the columns {', '.join(FACTS)} nor 'mutant'; it has "
            f"{list(frame.columns)}."
        )
    found = [MUTANT.fullmatch(mutant) for mutant in mutants]
    parts = [match.groups() for match in found if match is not None]
    if len(parts) < len(mutants):
        raise ValueError(
            f"{mutants[found.index(None)]!r} is no single substitution, such as 'M1A', by one of "
            "the twenty amino acids; drop rows of several mutations, and of the wild type."
        )
    old = np.array([letter.upper() for letter, _, _ in parts])
    new = codes_of("".join(letter.upper() for _, _, letter in parts)).astype(np.int64)
    return np.array([int(position) for _, position, _ in parts]), old, new


def _integer_of(position):
    """Return a float that is an integer as one: as a table with gaps has positions."""
    is_float = isinstance(position, (float, np.floating))
    return int(position) if is_float and position.is_integer() else position


def _order(residues):
    """Return the codes of the rows, from the top."""
    order = [AMINO_ACIDS.find(letter) for letter in residues]
    if not order or min(order) < 0 or len(set(order)) < len(order):
        raise ValueError(
            f"residues={residues!r} is no order of rows; use each of {AMINO_ACIDS} once at most."
        )
    return order


def _codes(letters):
    return [AMINO_ACIDS.find(letter) for letter in letters]
