"""Distillers that the third format left behind (tests/data/format_3) load, with the same numbers.

They were written by commit 6a201ba, which knows no other type than float64.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from revdist_sklearn import Blocks, FormatError, ReverseDistiller
from revdist_sklearn.base import _tensor_file

DATA = Path(__file__).parent / "data" / "format_3"


@pytest.fixture(scope="module")
def answers():
    with np.load(DATA / "answers.npz") as file:
        return dict(file)


def test_all_parameters(answers, tmp_path):
    old = ReverseDistiller.from_pretrained(DATA / "distiller_all_parameters")
    old.save_pretrained(tmp_path)
    for distiller in (old, ReverseDistiller.from_pretrained(tmp_path)):
        assert distiller.n_components == 11 and distiller.rotate_base
        assert distiller.rounding_ is None
        assert_array_equal(distiller.transform(answers["X"]), answers["all_parameters"])
        back = distiller.inverse_transform(answers["all_parameters"])
        assert_array_equal(back, answers["all_parameters_inverse"])


def test_a_distiller_of_a_corpus(answers):
    distiller = ReverseDistiller.from_pretrained(DATA / "distiller_corpus")
    assert distiller.blocks_ == Blocks([3, 5, 8], ["a", "b", "c"])
    assert [m["block"] for m in distiller.provenance_["members"]] == ["a", "b", "c"]
    Z = distiller.transform(answers["X"])
    assert_array_equal(Z, answers["corpus"])
    assert_array_equal(distiller.inverse_transform(Z[:, :6]), answers["corpus_inverse"])


def test_float64_is_still_written_as_format_3_and_the_rest_is_not(tmp_path):
    """Versions that know format 3 alone read the first, and say of the other what it is."""
    distiller = ReverseDistiller.from_pretrained(DATA / "distiller_corpus")
    distiller.save_pretrained(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "rounded")
    distiller.save_pretrained(tmp_path / "rounded", dtype="float32")
    numbers = {}
    for name in ("whole", "rounded"):
        numbers[name] = json.loads((tmp_path / name / "config.json").read_text())["format"]
    assert numbers == {"whole": 3, "rounded": 4}
    _tensor_file.read_tensors(tmp_path / "whole" / "chain.safetensors", "distiller", 3)
    with pytest.raises(FormatError, match="format 4"):
        _tensor_file.read_tensors(tmp_path / "rounded" / "chain.safetensors", "distiller", 3)
