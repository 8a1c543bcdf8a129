import numpy as np
import pytest
import torch

from revdist_sklearn.embedding._pooling import Pooling, resolve_pooling

STATES = torch.arange(12.0).reshape(4, 3) ** 2
FIRST = torch.tensor([7.0, 8.0, 9.0])


@pytest.mark.parametrize(
    ("pooling", "row"),
    [
        ("mean", STATES.mean(0)),
        ("max", STATES[3]),
        ("cls", FIRST),
        ([2], STATES[2]),
        ([3, 0], (STATES[0] + STATES[3]) / 2),
        (np.array([0, 1, 2, 3]), STATES.mean(0)),
    ],
)
def test_what_each_pooling_computes(pooling, row):
    pooled = resolve_pooling(pooling, None)("ACDE", STATES, FIRST)
    torch.testing.assert_close(pooled, row)


def test_mutated_is_the_mean_difference_at_the_sites_that_differ():
    pooling = resolve_pooling("mutated", "ACDE")
    reference = torch.ones(4, 3)
    row = pooling("AVDW", STATES, FIRST, reference)
    torch.testing.assert_close(row, (STATES[1] + STATES[3]) / 2 - 1)
    torch.testing.assert_close(pooling("ACDE", STATES, FIRST, reference), torch.zeros(3))


@pytest.mark.parametrize("positions", [[], [-1], [1, 1], [0.5], [[0, 1]], ["a"], [True, False]])
def test_positions_that_are_none(positions):
    with pytest.raises(ValueError, match="counted from 0"):
        resolve_pooling(positions, None)


def test_mutated_needs_a_reference():
    with pytest.raises(ValueError, match="give the wild type as `reference`"):
        resolve_pooling("mutated", None)


def test_sequences_must_have_the_positions():
    with pytest.raises(ValueError, match=r"Sequence 1 has 3 residues.* position 3 "):
        Pooling((0, 3)).check(["ACDE", "ACD"])
    Pooling((0, 3)).check(["ACDE", "ACDEF"])


def test_mutated_sequences_have_the_length_of_the_reference():
    with pytest.raises(ValueError, match="Sequence 1 has 3 residues, `reference` has 4"):
        Pooling("mutated", "ACDE").check(["ACDF", "ACD"])
