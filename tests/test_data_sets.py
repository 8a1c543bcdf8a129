"""Readers of ``benchmarks/data_sets.py``, on made-up rows."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "data_sets.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("data_sets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def data_set(script, read):
    return script.DataSet("scan", "P", "package", ("file",), "paper", read)


def test_rows_by_sequence(script):
    text = "n,s,y\n1,AKL,0.5\n1,TKV,1\n2,TAV,nan\n1,T*L,2\n1,TKM,3\n0,TKL,4\n"

    def read(content):
        return script.by_sequence(
            content, sequence="s", score="y", n_mutations="n", start=5, before="M"
        )

    rows, left_out = script.rows_of(data_set(script, read), [text])
    assert rows == [
        ("T6A", "MAKL", "0.5", "P"),
        ("L8V", "MTKV", "1", "P"),
        ("L8M", "MTKM", "3", "P"),
    ]
    assert left_out == {"no measurement": 1, "a stop": 1, "the wild type": 1}
    with pytest.raises(SystemExit, match="has 1 mutations and 2 in 'n'"):
        script.rows_of(data_set(script, read), [text.replace("1,AKL", "2,AKL")])


def test_a_wrong_wild_type_letter_stops(script):
    def read(content):
        return "MTK", 1, [((("A", 2, "V"),), "1")]

    with pytest.raises(
        SystemExit, match="has A2V, and its wild type of residues 1 to 3 not A there"
    ):
        script.rows_of(data_set(script, read), [""])


def test_a_grid_fits_its_sequence_alone(script):
    rng = np.random.default_rng(0)
    wild_type = "".join(rng.choice(list(script.AMINO_ACIDS), 40))
    grid = rng.normal(size=(20, 39)) + 3
    letters = script.AMINO_ACIDS
    for j, letter in enumerate(wild_type[1:]):
        grid[letters.index(letter), j] = 0.01
    _, start, rows = script.of_grid(grid, wild_type, letters, 0, start=2)
    assert (start, len(rows)) == (1, 20 * 39)
    assert rows[0] == (((wild_type[1], 2, "A"),), repr(float(grid[0, 0])))
    with pytest.raises(SystemExit, match="another sequence, or another start than 1"):
        script.of_grid(grid, wild_type, letters, 0, start=1)


def test_labels_of_residues(script):
    text = "entry\tsequence\tlabel\nA\tMTK\t0,1,0\n"
    assert list(script.labelled(text, residues=True)) == [("MTK", "010")]
    with pytest.raises(SystemExit, match="A has 2 labels and 3 residues"):
        list(script.labelled(text.replace("0,1,0", "0,1"), residues=True))


def test_chain_breaks_are_counted(script):
    kept, left_out = script.whole([("MTK", "1"), ("M!K", "0")])
    assert kept == [("MTK", "1")]
    assert left_out == {"a chain break ('!')": 1}


def test_names_are_distinct(script):
    names = [(each.kind, each.name) for each in script.DATA_SETS]
    assert len(set(names)) == len(names)
    assert {each.package for each in script.DATA_SETS} == set(script.PACKAGES)
