import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from revdist_sklearn.method import _level
from revdist_sklearn.method._level import Level


def level_of(rows):
    rows = np.asarray(rows, dtype=float)
    centred = rows - rows.mean(axis=0)
    return Level.of(len(rows), rows.mean(axis=0), centred.T @ centred)


def lower_of(rows):
    """A level whose lower triangle alone was filled, as products fill it."""
    level, whole = Level(rows.shape[1]), level_of(rows)
    level.add(whole.n, whole.mean, _with_garbage_above(whole.scatter, whole))
    return level


def _with_garbage_above(scatter, whole):
    step = Level(len(scatter)).step(whole.n, whole.mean)
    square = scatter + np.outer(step, step)
    return np.where(np.tri(len(scatter), dtype=bool), square, 777.0)


def rows(n=40, d=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 3 * rng.normal(size=d)


def assert_is_of(level, X):
    expected = level_of(X)
    assert level.n == len(X)
    assert_allclose(level.mean, expected.mean, rtol=1e-12)
    assert_allclose(level.scatter, expected.scatter, atol=1e-11)
    assert_allclose(level.covariance, np.cov(X.T, bias=True), atol=1e-11)


@pytest.fixture(params=[3, 4, 8, 512])
def tile(request, monkeypatch):
    monkeypatch.setattr(_level, "TILE", request.param)


@pytest.mark.parametrize("first", [level_of, lower_of])
@pytest.mark.parametrize("second", [level_of, lower_of])
def test_merging_any_two_gives_a_whole_symmetric_scatter(tile, first, second):
    X, Y = rows(), rows(30, seed=1)
    level, other = first(X), second(Y)
    level.merge(other)
    assert_is_of(level, np.vstack([X, Y]))
    assert_array_equal(level.scatter, level.scatter.T)
    assert_is_of(other, Y)
    level.merge(other)
    assert_is_of(level, np.vstack([X, Y, Y]))


def test_adding_after_the_scatter_was_asked_for(tile):
    X, Y = rows(), rows(30, seed=1)
    level, new = lower_of(X), level_of(Y)
    assert_is_of(level, X)
    step = level.step(new.n, new.mean)
    square = new.scatter + np.outer(step, step)
    level.add(new.n, new.mean, np.where(np.tri(8, dtype=bool), square, 777.0))
    assert_is_of(level, np.vstack([X, Y]))


def test_two_groups_of_rows_worked_by_hand():
    # Two rows at 0 and six at 4: about their mean of 3 the squares are 2 * 9 + 6 * 1.
    level, other = Level.of(2, np.array([0.0]), np.zeros((1, 1))), Level(1)
    other.merge(Level.of(6, np.array([4.0]), np.zeros((1, 1))))
    assert_allclose(level.step(6.0, np.array([4.0])) ** 2, 24)
    level.merge(other)
    assert (level.n, level.mean.item()) == (8.0, 3.0)
    assert_allclose(level.scatter, 24)


def test_rows_may_come_one_by_one():
    X = rows(9)
    level = Level(8)
    for row in X:
        level.merge(level_of([row]))
    assert_is_of(level, X)


def test_an_empty_level_adds_nothing_and_takes_all():
    X, empty = rows(), Level(8)
    level = level_of(X)
    level.merge(empty)
    assert level == level_of(X)
    empty.merge(level)
    assert_is_of(empty, X)
    empty.merge(level)  # has arrays of its own
    assert level == level_of(X)
    both = Level(8)
    both.merge(Level(8))
    assert both == Level(8) and both.n == 0


def test_levels_are_equal_by_their_numbers():
    X = rows()
    assert level_of(X) == level_of(X) and lower_of(X) == lower_of(X)
    n, mean, scatter = len(X), X.mean(axis=0), level_of(X).scatter
    assert Level.of(n, mean, scatter) != Level.of(n + 1, mean, scatter)
    assert Level.of(n, mean, scatter) != Level.of(n, mean + 1, scatter)
    assert Level.of(n, mean, scatter) != Level.of(n, mean, scatter + 1)
    assert (level_of(X) == 3) is False and isinstance(Level.of(3, mean, scatter).n, float)


def test_a_pickle_holds_the_whole_scatter(tile):
    level = lower_of(rows())
    again = pickle.loads(pickle.dumps(level))
    assert again == level
    assert_is_of(again, rows())
    again.merge(level)
    assert_is_of(again, np.vstack([rows(), rows()]))
