import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revdist_sklearn.library import _names
from revdist_sklearn.library._names import SeenNames


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 60), max_size=9), max_size=30), st.sampled_from([4, 100]))
def test_names_that_occurred_before_are_those_of_a_set(blocks, longest):
    seen, names = set(), SeenNames()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_names, "LONGEST_RUN", longest)
        for block in blocks:
            expected = []
            for number in block:
                expected.append(number in seen)
                seen.add(number)
            np.testing.assert_array_equal(names.add([f"P{n}" for n in block]), expected)
    runs = names._runs
    assert sum(map(len, runs)) == len(seen)
    assert all((run[1:] > run[:-1]).all() for run in runs)


def peak_of(n, block=2000):
    names = SeenNames()
    tracemalloc.start()
    for i in range(0, n, block):
        assert not names.add([f"sp|P{k:09d}" for k in range(i, i + block)]).any()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # In full length, for the time that a search in each run takes.
    assert len(names._runs) <= 2 + np.log2(n / block) + n / _names.LONGEST_RUN
    assert names.add([f"sp|P{n - 1:09d}", "new"]).tolist() == [True, False]
    return peak


def test_memory_is_that_of_the_hashes(monkeypatch):
    monkeypatch.setattr(_names, "LONGEST_RUN", 1 << 15)
    # Of 10 million as of these: 8 bytes each, and a merge of 4 million beside them.
    assert peak_of(150_000) < 8 * 150_000 + 2 * 8 * (1 << 15) + 1e6


@pytest.mark.slow
def test_memory_of_a_million():
    assert peak_of(1_000_000) < 20 * 1_000_000
