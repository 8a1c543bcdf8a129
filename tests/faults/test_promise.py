"""The promise: kill it or cut the power, and each file is the old one or the new one.

``benchmarks/promise.py`` brings about more of each, and prints a table.
"""

import json
import os

import power
import pytest
import rows
import syscalls
from nursery import Nursery

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
# Of those that a shell command takes seconds to come to, calls in between are left out.
SLOW = {
    "save_pretrained": 4,
    "rows of a cache": 7,
    "the second checkpoint of a corpus pass": 7,
    "revdist evaluate": 4,
    "revdist embed": 45,
}


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as processes:
        yield processes


@pytest.fixture(scope="module")
def inputs(nursery, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    end = nursery.run("write_inputs", folder)
    assert end.code == 0, end.text
    return folder


def test_a_kill_at_each_system_call_of_a_save(nursery, tmp_path):
    if syscalls.why_not():
        pytest.skip(syscalls.why_not())
    writer = syscalls.WRITERS["Moments.save"]
    outcomes = syscalls.kill_at_each(nursery, writer, tmp_path, tmp_path / "killed")
    assert set(outcomes) <= rows.GOOD and outcomes.total() >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_kill_at_system_calls_of_each_writer(name, nursery, inputs, tmp_path):
    if syscalls.why_not():
        pytest.skip(syscalls.why_not())
    writer = syscalls.WRITERS[name]
    outcomes = syscalls.kill_at_each(nursery, writer, inputs, tmp_path / "killed", SLOW[name])
    assert set(outcomes) <= rows.GOOD and outcomes.total() >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", power.WRITES)
def test_a_power_cut(name, tmp_path):
    if power.why_not():
        pytest.skip(power.why_not())
    assert set(power.cuts(tmp_path, name)) == {rows.SAME}


def test_a_disk_forgets_what_is_not_synced(tmp_path, monkeypatch):
    """Else the tests of power cuts would prove nothing."""
    if power.why_not():
        pytest.skip(power.why_not())
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    assert rows.SAME not in power.cuts(tmp_path, "Moments.save", ["after"])


@pytest.mark.parametrize("n_rounds", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_writers_without_locks_find_no_wrong_row(n_rounds, nursery, tmp_path):
    children = [
        nursery.start("use_cache_without_locks", tmp_path, 20, n_rounds, seed) for seed in range(4)
    ]
    ends = [child.wait() for child in children]
    assert all(end.code == 0 for end in ends), [end.text for end in ends]
    told = [json.loads(end.text.splitlines()[-1]) for end in ends]
    assert sum(one["wrong"] for one in told) == 0 and sum(one["found"] for one in told) > 0
