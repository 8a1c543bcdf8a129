import json

import numpy as np
import pytest

from revdist_sklearn import ESMFeaturizer, ReverseDistiller, fit_on_corpus
from revdist_sklearn.cli import _demo
from revdist_sklearn.cli._main import main
from revdist_sklearn.datasets import (
    load_amyloid_nucleation,
    load_gb1_stability,
    load_uniprot_sample,
)


@pytest.fixture
def small(monkeypatch):
    """A corpus and data sets small enough for a test: every ninth row."""

    def thinned(load, step):
        def loader(**kwargs):
            bunch = load(**kwargs)
            for key in ("sequences", "target", "mutations", "accessions"):
                if key in bunch:
                    bunch[key] = bunch[key][::step]
            return bunch

        return loader

    monkeypatch.setattr(_demo, "load_uniprot_sample", thinned(load_uniprot_sample, 50))
    monkeypatch.setattr(_demo, "load_gb1_stability", thinned(load_gb1_stability, 9))
    monkeypatch.setattr(_demo, "load_amyloid_nucleation", thinned(load_amyloid_nucleation, 9))


def test_demo_end_to_end(small, tmp_path, capsys, monkeypatch):
    import socket

    def no_network(*args, **kwargs):
        raise AssertionError("the demo opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    pytest.importorskip("matplotlib")
    _demo.run_demo(tmp_path, models="esm2-nano:64")
    printed = capsys.readouterr()
    assert "residue" in printed.err  # the progress bar
    assert "explained by the smaller" in printed.out and "revdist evaluate" in printed.out
    figures = json.loads((tmp_path / "revdist_demo.json").read_text())
    assert (tmp_path / "revdist_demo.png").stat().st_size > 10_000

    # The figures are those of the run: fit again by the public interface.
    emb = ESMFeaturizer("esm2-nano:64")
    corpus = load_uniprot_sample().sequences[::50]
    distiller = fit_on_corpus(ReverseDistiller(), emb, corpus, verbose=False)
    assert figures["corpus"]["residues"] == sum(map(len, corpus))
    assert np.isclose(
        figures["stages"][1]["explained_before"], distiller.stages_[1].explained_before
    )
    for rows in figures["scores"].values():
        assert {row["folds"] for row in rows} == {"random", "position"}
        for row in rows:
            assert f"{row['mean']:.3f} ± {row['std']:.3f}" in printed.out or not row["in_table"]


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals(terminal, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(_demo, "run_demo", lambda output, verbose: seen.append(verbose))
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert main(["demo", "--output", str(tmp_path)]) == 0
    assert seen == [terminal]


def test_a_family_of_one_is_drawn(small, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.warns(UserWarning, match="one block"):
        _demo.run_demo(tmp_path, models="esm2-nano:32", verbose=False)
    assert (tmp_path / "revdist_demo.png").exists()


def test_demo_without_matplotlib_says_so(small, tmp_path, capsys, monkeypatch):
    def missing(*args):
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(_demo, "draw", missing)
    with pytest.warns(UserWarning, match="one block"):
        _demo.run_demo(tmp_path, models="esm2-nano:32")
    assert 'pip install "revdist_sklearn[plot]"' in capsys.readouterr().out
    assert not (tmp_path / "revdist_demo.png").exists()


def test_every_panel_shows_its_own_scores(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    figure_module = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figure_module.Figure, "savefig", lambda self, *a, **k: drawn.append(self))

    def row(kind, width, folds, shift):
        scores = (np.arange(5) / 100 + width / 1000 + shift).tolist()
        return {"kind": kind, "width": width, "folds": folds, "scores": scores} | {
            "mean": float(np.mean(scores)),
            "row": kind,
        }

    shifts = {("first", "random"): 0.1, ("first", "position"): 0.2}
    shifts |= {("second", "random"): 0.3, ("second", "position"): 0.4}
    kinds = ("distilled", "raw", "concatenation_pca", "without_regression")
    scores = {
        name: [
            row(kind, width, folds, shift + i / 50)
            for (of, folds), shift in shifts.items()
            if of == name
            for i, kind in enumerate(kinds)
            for width in (32, 64)
        ]
        for name in ("first", "second")
    }
    for name, table in {"first": 9.0, "second": 0.0}.items():
        tables = {"kind": "mutation", "scores": [table] * 5, "mean": table}
        scores[name].append(tables | {"folds": "position"})
    figures = {"scores": scores, "stage_dims": [32, 64], "models": ["small", "large"]}
    _demo.draw(figures, tmp_path / "p.png")
    [figure] = drawn
    assert figure.get_suptitle() == (
        "Lines: means, bands: ± standard deviation over 5 folds. "
        "Dotted: ridge on position, wild-type and mutant residue.\n"
        "That table, without a language model, is ahead of all embeddings on first "
        "(position folds)."
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [label for label, _ in _demo.CURVES.values()]
    without = {"first": [row for row in scores["first"] if row["kind"] != "mutation"]}
    assert "Dotted" not in _demo.caption(without)
    assert _demo.caption({"second": scores["second"]}).endswith("embeddings nowhere.")
    for left, right in zip(figure.axes[::2], figure.axes[1::2], strict=True):
        assert left.get_ylim() == right.get_ylim()  # one scale a data set
    for ax, ((name, folds), shift) in zip(figure.axes, shifts.items(), strict=True):
        assert ax.get_title() == f"{name}, {folds} folds"
        assert [text.get_text() for text in ax.get_xticklabels()] == ["32\nsmall", "64\nlarge"]
        bands = [band.get_facecolor()[0] for band in ax.collections]
        lines = {line.get_label(): line for line in ax.get_lines()}
        colors = [lines[_demo.CURVES[kind][0]].get_color() for kind in _demo.BANDS]
        assert [matplotlib.colors.to_hex(band) for band in bands] == [
            matplotlib.colors.to_hex(color) for color in colors
        ]
        for i, kind in enumerate(kinds):
            line = lines[_demo.CURVES[kind][0]]
            np.testing.assert_array_equal(line.get_xdata(), [32, 64])
            expected = 0.02 + np.array([0.032, 0.064]) + shift + i / 50
            np.testing.assert_allclose(line.get_ydata(), expected)
