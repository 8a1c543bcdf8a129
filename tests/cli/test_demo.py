import json

import numpy as np
import pytest

from revdist_sklearn import ESMFeaturizer, ReverseDistiller, fit_on_corpus
from revdist_sklearn.cli import _demo
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
