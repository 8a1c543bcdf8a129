import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyRegressor

from revdist_sklearn import ESMVariantScorer, LandscapeDisplay, single_substitutions
from revdist_sklearn.models._residues import AMINO_ACIDS

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

WILD_TYPE = "MKXTA"


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


class Lengths:
    """Predicts of a sequence where it differs from the wild type, and how."""

    def predict(self, sequences):
        return np.array([sum(map(ord, text)) for text in sequences], dtype=float)


def cell(display, mutant, panel=None):
    """Return what is drawn for a substitution, found as a reader of the axes would."""
    position, letter = int(mutant[1:-1]), mutant[-1]
    images = np.atleast_2d(np.array(display.im_, dtype=object))
    for image in images[panel or 0]:
        left, right, bottom, top = image.get_extent()
        if left < position < right:
            rows = [label.get_text() for label in image.axes.get_yticklabels()]
            data = image.get_array()
            column = int((position - left) / (right - left) * data.shape[1])
            row = int((rows.index(letter) - top) / (bottom - top) * data.shape[0])
            return data.filled(np.nan)[row, column]
    raise AssertionError("it is not drawn")


def test_all_single_substitutions_in_order():
    frame = single_substitutions(WILD_TYPE.lower())
    expected = [
        (f"{a}{i}{b}", i, a, b, WILD_TYPE[: i - 1] + b + WILD_TYPE[i:])
        for i, a in enumerate(WILD_TYPE, start=1)
        if a != "X"
        for b in AMINO_ACIDS
        if b != a
    ]
    names = ["mutant", "position", "wild_type", "residue", "sequence"]
    pd.testing.assert_frame_equal(frame, pd.DataFrame(expected, columns=names))
    less = single_substitutions(WILD_TYPE, sequences=False)
    pd.testing.assert_frame_equal(less, frame.drop(columns="sequence"))


@pytest.mark.parametrize("bad", ["", "MK?", None, 3, ["MK"]])
def test_substitutions_of_what_is_no_sequence(bad):
    with pytest.raises((TypeError, ValueError)):
        single_substitutions(bad)


def test_scores_are_drawn_where_they_belong(tiny_family):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE)
    display = LandscapeDisplay.from_scorer(scorer)
    frame = scorer.score_landscape().set_index("mutant")
    assert display.ax_.shape == display.im_.shape == (3, 1)
    for panel, name in enumerate(scorer.get_feature_names_out()):
        assert display.ax_[panel, 0].get_title(loc="left") == name
        for mutant in ("M1A", "K2W", "A5Y", "T4D"):
            assert cell(display, mutant, panel) == pytest.approx(frame.loc[mutant, name])
        for own in ("M1M", "T4T", "A5A"):
            assert np.isnan(cell(display, own, panel))
    limits = {image.get_clim() for image in display.im_.ravel()}
    assert len(limits) == 1 and min(limits)[0] == -min(limits)[1] < 0
    assert display.figure_ is display.ax_[0, 0].figure


def test_the_wild_type_is_marked():
    display = LandscapeDisplay.from_predictions(Lengths(), WILD_TYPE)
    [marks] = display.ax_.lines
    rows = [label.get_text() for label in display.ax_.get_yticklabels()]
    marked = {(int(x), rows[int(y)]) for x, y in zip(*marks.get_data(), strict=True)}
    assert marked == {(1, "M"), (2, "K"), (4, "T"), (5, "A")}  # X has no row
    top = display.ax_.child_axes[0]
    assert "".join(label.get_text() for label in top.get_xticklabels()) == "MKXTA"


@pytest.mark.parametrize("relative", [True, False])
def test_predictions_of_any_model_are_drawn(relative):
    display = LandscapeDisplay.from_predictions(Lengths(), WILD_TYPE, relative=relative)
    change = ord("W") - ord("K")
    expected = change if relative else sum(map(ord, WILD_TYPE)) + change
    assert cell(display, "K2W") == expected
    assert display.ax_.get_title(loc="left") == "Lengths"
    model = DummyRegressor().fit(["MK", "MR"], [[0.0, 1.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"shape \(77, 2\) for 77 sequences"):
        LandscapeDisplay.from_predictions(model, WILD_TYPE)


def test_measurements_of_some_substitutions_are_drawn():
    frame = pd.DataFrame({"mutant": ["K7A", "t9w"], "DMS_score": [1.0, -2.0], "note": ["a", "b"]})
    display = LandscapeDisplay.from_frame(frame)
    assert cell(display, "K7A") == 1 and cell(display, "T9W") == -2
    assert np.isnan(cell(display, "K8A"))
    assert display.wild_type == "K?T"
    assert display.ax_.get_xlim() == (6.5, 9.5)


def test_long_proteins_are_drawn_in_rows_of_one_width():
    rng = np.random.default_rng(0)
    for n_positions, n_panels, n_rows in ((73, 1, 2), (300, 1, 5), (2000, 3, 4), (72, 2, 1)):
        values = rng.normal(size=(n_panels, n_positions, 20))
        display = LandscapeDisplay(wild_type="A" * n_positions, values=values).plot()
        axes = np.atleast_2d(np.array(display.ax_, dtype=object))
        assert axes.shape == (n_panels, n_rows)
        widths = {np.ptp(ax.get_xlim()) for ax in axes.ravel()}
        assert len(widths) == 1
        for mutant in ("A1C", f"A{n_positions}Y", f"A{n_positions // 2}D"):
            expected = values[n_panels - 1, int(mutant[1:-1]) - 1, AMINO_ACIDS.index(mutant[-1])]
            assert cell(display, mutant, n_panels - 1) == expected
        plt.close("all")
    display = LandscapeDisplay(wild_type="A" * 30, values=np.zeros((1, 30, 20))).plot(wrap=10)
    assert display.ax_.shape == (1, 3)


def test_it_draws_on_axes_that_are_given():
    _, axes = plt.subplots(2)
    values = np.zeros((2, 90, 20))
    display = LandscapeDisplay(wild_type="A" * 90, values=values).plot(axes, limit=2.0)
    assert display.ax_[:, 0].tolist() == axes.tolist()
    assert display.im_[0, 0].get_clim() == (-2, 2)
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="ax has 1 axes for 2 panels"):
        display.plot(ax)
    one = LandscapeDisplay(wild_type="AC", values=np.zeros((1, 2, 20))).plot(ax, residues="WYF")
    assert one.ax_ is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == list("WYF")


def test_constant_values_and_none_are_drawn():
    for value in (0.0, np.nan):
        values = np.full((1, 3, 20), value)
        display = LandscapeDisplay(wild_type="ACD", values=values).plot()
        display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"mutant": ["M1A:K2R"], "y": [1.0]}, "'M1A:K2R' is no single substitution"),
        ({"mutant": ["M1X"], "y": [1.0]}, "'M1X' is no single substitution"),
        ({"mutant": ["M1A", "M1A"], "y": [1.0, 2.0]}, "M1A occurs more than once"),
        ({"mutant": ["M1A", "K1R"], "y": [1.0, 2.0]}, "Position 1 has the wild types M and K"),
        ({"mutant": ["M1A"], "y": ["a"]}, "no column of numbers"),
        ({"mutant": [], "y": []}, "no row"),
        ({"mutation": ["M1A"], "y": [1.0]}, "neither the columns .* nor 'mutant'"),
        (
            {"position": [1.5], "wild_type": ["M"], "residue": ["A"], "y": [1.0]},
            r"'M1.5A' is no single",
        ),
    ],
)
def test_frames_that_are_no_landscape(rows, message):
    with pytest.raises(ValueError, match=message):
        LandscapeDisplay.from_frame(pd.DataFrame(rows))


def test_positions_of_a_table_with_gaps_are_floats():
    frame = single_substitutions("MKT", sequences=False)
    frame["y"] = 1.0
    for dtype in (np.float64, np.float32, "Int64"):
        display = LandscapeDisplay.from_frame(frame.astype({"position": dtype}))
        assert display.wild_type == "MKT" and display.first_position == 1
    frame = frame.astype({"position": float})
    frame.loc[0, "position"] = np.nan
    with pytest.raises(ValueError, match="'MnanA' is no single substitution"):
        LandscapeDisplay.from_frame(frame)


def test_one_column_may_be_named_alone():
    frame = single_substitutions("MK", sequences=False)
    frame["score"], frame["other"] = 1.0, 2.0
    assert LandscapeDisplay.from_frame(frame, columns="score").names == ["score"]
    with pytest.raises(ValueError, match="no column 'scores'"):
        LandscapeDisplay.from_frame(frame, columns="scores")


def test_columns_that_are_not_there():
    frame = single_substitutions("MK", sequences=False)
    with pytest.raises(ValueError, match="no column 'score'"):
        LandscapeDisplay.from_frame(frame, columns=["score"])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"residues": "AB"}, "residues='AB' is no order"),
        ({"residues": "AA"}, "residues='AA' is no order"),
        ({"residues": ""}, "residues='' is no order"),
        ({"limit": 0}, "limit=0 is no range"),
        ({"limit": np.nan}, "limit=nan is no range"),
        ({"wrap": 0}, "wrap=0 positions"),
    ],
)
def test_styles_that_mean_nothing(how, message):
    display = LandscapeDisplay(wild_type="AC", values=np.zeros((1, 2, 20)))
    with pytest.raises(ValueError, match=message):
        display.plot(**how)


@pytest.mark.parametrize("shape", [(2, 20), (1, 3, 20), (1, 2, 19), (0, 2, 20)])
def test_values_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"values has shape .* wild type of 2 positions"):
        LandscapeDisplay(wild_type="AC", values=np.zeros(shape))
    with pytest.raises(ValueError, match="names has 2 titles for 1 panels"):
        LandscapeDisplay(wild_type="AC", values=np.zeros((1, 2, 20)), names=["a", "b"])


@pytest.mark.parametrize("first", [17, -3])
def test_positions_may_count_from_elsewhere(tiny_family, first):
    scorer = ESMVariantScorer(tiny_family, reference=WILD_TYPE, combine="mean")
    frame = single_substitutions(WILD_TYPE, first_position=first)
    assert frame["position"].min() == first and frame["mutant"][0] == f"M{first}A"
    by_models = LandscapeDisplay.from_scorer(scorer, first_position=first)
    predicted = LandscapeDisplay.from_predictions(Lengths(), WILD_TYPE, first_position=first)
    assert predicted.ax_.get_xlim() == (first - 0.5, first + 4.5)
    scores = scorer.score_landscape().set_index("mutant")["mean__masked"]
    for display, expected in ((predicted, ord("W") - ord("K")), (by_models, scores["K2W"])):
        assert display.first_position == first
        assert display.values[0, 1, AMINO_ACIDS.index("W")] == pytest.approx(expected)
