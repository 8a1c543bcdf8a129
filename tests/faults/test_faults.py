"""What processes may meet: each fault ends in the same result or in an error that says why.

``benchmarks/fault_table.py`` runs the same rows more often and prints them as a table.
"""

import os
import signal
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest
import rows

from revdist_sklearn import Moments
from revdist_sklearn.cli._main import COMMANDS, main

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
on_linux = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")


# Kills


@pytest.mark.parametrize("row", ["fit", "embed", "corpus_pass", "save", "one_of_two"])
def test_a_kill_at_any_moment_leaves_a_call_that_ends_alike(row, nursery, inputs, tmp_path):
    needs = [inputs] if row in ("embed", "one_of_two") else []
    outcomes = getattr(rows, f"kill_{row}")(nursery, tmp_path, 2, *needs)
    assert outcomes.total() == 2 and set(outcomes) <= rows.GOOD


@pytest.fixture
def two_distillers(nursery, tmp_path):
    for seed in (1, 2):
        assert nursery.run("fit_and_save", tmp_path / str(seed), seed).code == 0
    assert nursery.run("load_and_save", tmp_path / "1", tmp_path / "d").code == 0
    return tmp_path / "2", tmp_path / "d"


@pytest.mark.parametrize("nth", [1, 2])
def test_a_kill_between_the_files_of_a_distiller(nth, nursery, two_distillers):
    new, folder = two_distillers
    wholes = {rows.chain_of(new), rows.chain_of(folder)}
    nursery.run("load_and_save", new, folder, at=rows.REPLACE, do=signal.SIGKILL, nth=nth)
    assert rows.chain_of(folder) in wholes


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_a_worker_that_dies(backend, nursery):
    if backend == "dask":
        pytest.importorskip("distributed")
    assert set(rows.worker_death(nursery, backend)) <= rows.GOOD


# Signals


@pytest.fixture(scope="module")
def expected(nursery, inputs, tmp_path_factory):
    """Return what the commands write that nothing disturbs, by command."""
    return rows.undisturbed(nursery, inputs, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def struck(nursery, inputs, tmp_path_factory):
    """Return a function from signal and phase to how the command ended, and its folder."""

    @cache
    def strike(number, phase):
        folder = tmp_path_factory.mktemp("struck")
        return rows.struck_in(nursery, inputs, folder, number, phase), folder

    return strike


@pytest.mark.parametrize("phase", rows.PHASES)
@pytest.mark.parametrize("number", rows.SIGNALS)
def test_a_signal_ends_the_shell_with_one_line(number, phase, struck):
    end, _ = struck(number, phase)
    assert end.code == 128 + number
    *_, last = end.text.splitlines()
    assert "Traceback" not in end.text and last.startswith(f"revdist {rows.PHASES[phase][0]}: ")


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("number", rows.SIGNALS)
def test_a_signal_ends_the_shell_with_one_line_while_it_starts(number, n_jobs, inputs, tmp_path):
    """To all processes of the shell, as Ctrl-C is."""
    assert set(rows.struck_at_start(inputs, tmp_path, number, 4, n_jobs)) == {rows.ONE_LINE}


@pytest.mark.slow
def test_workers_that_are_up_say_nothing_of_an_interrupt(nursery, inputs, tmp_path):
    for i in range(5):  # on a busy machine a run may end before the signal comes
        place = tmp_path / str(i)
        place.mkdir()
        child = nursery.start("embed", inputs, place / "cache", place / "z.npz", 2)
        while not rows.cached_rows(place / "cache") and child.runs():
            time.sleep(0.02)
        child.kill(signal.SIGINT, group=True)
        end = child.wait()
        if end.code:
            break
    assert end.code == 130 and "Traceback" not in end.text, end.text
    assert end.last.startswith("revdist embed: Interrupted")


def test_an_interrupt_that_an_import_turns_into_an_error_is_one(monkeypatch, capsys):
    def run(arguments):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise ImportError("numpy.core failed to import") from error

    monkeypatch.setattr(COMMANDS["cache"], "run", run)
    assert main(["cache", "info", "x"]) == 143
    assert capsys.readouterr().err == "revdist cache: Terminated.\n"


@pytest.mark.parametrize("number", rows.SIGNALS)
def test_a_signal_leaves_no_temporary_file(number, struck):
    _, folder = struck(number, "save distiller")
    assert not rows.left_over(folder)


@pytest.mark.parametrize("phase", rows.PHASES)
@pytest.mark.parametrize("number", rows.SIGNALS)
def test_what_a_signal_leaves_is_whole(number, phase, struck, expected, nursery, inputs):
    """Runs after those that look at the folder, which the repeated call fills."""
    end, folder = struck(number, phase)
    assert end.code in (-number, 128 + number), end.text
    if phase == "embed":
        assert rows.cached_rows(folder / "cache") > 0
    command = rows.PHASES[phase][0]
    end = nursery.run(*rows.call(command, inputs, folder))
    assert end.code == 0, end.text
    assert rows.result(command, folder) == expected[command]


@pytest.mark.parametrize("number", [*rows.SIGNALS, signal.SIGKILL])
def test_an_output_that_is_not_whole_does_not_take_the_place_of_one(
    number, nursery, inputs, tmp_path
):
    words = rows.call("embed", inputs, tmp_path)
    assert nursery.run(*words).code == 0
    before = rows.result("embed", tmp_path)
    nursery.run(*words, at=rows.WRITE, do=int(number), nth=2)
    assert rows.result("embed", tmp_path) == before


def test_a_signal_in_a_corpus_pass_leaves_a_checkpoint_to_go_on_from(nursery, tmp_path):
    arguments = "corpus_pass", tmp_path / "m", tmp_path / "d"
    for number in rows.SIGNALS:
        end = nursery.run(*arguments, at=rows.BATCH, do=int(number), nth=9)
        assert end.code == -number, end.text
        assert Moments.load(tmp_path / "m").n_rows > 0
        assert not rows.left_over(tmp_path)
    assert nursery.run(*arguments).code == 0
    assert nursery.run("corpus_pass", tmp_path / "n", tmp_path / "e").code == 0
    assert rows.chain_of(tmp_path / "d") == rows.chain_of(tmp_path / "e")


@pytest.mark.parametrize("call", ["library", "shell"])
def test_a_signal_within_the_first_minute_leaves_a_checkpoint_too(call, nursery, inputs, tmp_path):
    """Nothing has written one before, and the process ends by the signal as it would have."""
    task = "corpus_pass_of_seconds" if call == "library" else "fit_of_seconds"
    words = [task, *([inputs] if call == "shell" else [])]
    found = []
    for number in rows.SIGNALS:
        name = str(int(number))
        arguments = *words, tmp_path / name, tmp_path / f"d{name}"
        end = nursery.run(*arguments, at=rows.BATCH, do=int(number), nth=9)
        assert end.code == (-number if call == "library" else 128 + number), end.text
        assert Moments.load(tmp_path / name).n_rows > 0
        assert not rows.left_over(tmp_path)
        assert nursery.run(*arguments).code == 0
        found.append(rows.chain_of(tmp_path / f"d{name}"))
    assert found[0] == found[1]


# Disks


def test_a_file_that_cannot_grow_leaves_the_old_distiller(nursery, two_distillers):
    new, folder = two_distillers
    before = rows.chain_of(folder)
    end = nursery.run("load_and_save", new, folder, limit=9000)
    assert end.code == 1 and end.text.splitlines()[-1].startswith("OSError: ")
    assert "cannot be written" in end.text and str(folder) in end.text
    assert rows.chain_of(folder) == before and not rows.left_over(folder)


def test_a_disk_that_is_full(nursery, tmp_path):
    disk = tmp_path / "disk"
    end = nursery.run("on_full_disk", disk, "fit_and_save", disk / "d")
    if end.code == 77:
        pytest.skip("only root can have a small disk")
    assert end.code == 1 and "left: ['d']" in end.text
    assert "cannot be written" in end.text and "No space left" in end.text


def test_files_that_cannot_grow(nursery, inputs, expected, tmp_path):
    outcomes = rows.full_disks(nursery, inputs, tmp_path, 1, expected)
    assert outcomes == {rows.SAME: 1, rows.TYPED: 3}
    assert 0 <= rows.cached_rows(tmp_path / "0" / "cache") < 96


def test_a_full_disk_under_a_checkpoint(nursery, tmp_path):
    arguments = "corpus_pass", tmp_path / "m", tmp_path / "d"
    assert nursery.run(*arguments, at=rows.BATCH, do=int(signal.SIGKILL), nth=9).code < 0
    before = (tmp_path / "m").read_bytes()
    end = nursery.run(*arguments, limit=9000)
    assert end.code == 1 and end.text.splitlines()[-1].startswith("OSError: ")
    assert "goes on from it" in end.text
    assert (tmp_path / "m").read_bytes() == before and not rows.left_over(tmp_path)


def test_a_folder_that_one_may_not_write_to(nursery):
    # Not below pytest's own, which nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        assert rows.read_only_folder(nursery, Path(folder), 1) == {rows.TYPED: 1}


def test_a_cache_whose_folder_goes_meanwhile(nursery, inputs, expected, tmp_path):
    assert rows.folder_goes(nursery, inputs, tmp_path, 1, expected) == {rows.SAME: 2}


def test_pickles_in_a_model_folder_do_not_run(nursery, tmp_path):
    assert rows.pickled_weights(nursery, tmp_path, 1) == {rows.TYPED: 2}


# Many at once, and for long


@pytest.mark.parametrize("n_threads", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_forks_beside_threads_do_not_hang(n_threads, nursery):
    assert rows.forks(nursery, 4, n_threads) == {rows.SAME: 16}


@pytest.mark.slow
def test_forks_beside_the_first_imports_and_loads_do_not_hang():
    assert rows.cold_forks(6) == {rows.SAME: 6}


def test_a_fork_waits_for_a_bar(nursery):
    end = nursery.run("fork_in_a_bar")
    assert end.code == 0, end.text


def test_eight_processes_on_one_cache(nursery, inputs, expected, tmp_path):
    outcomes = rows.many_on_one_cache(nursery, tmp_path, 8, inputs, expected["embed"])
    assert outcomes == {rows.SAME: 8}


@on_linux
@pytest.mark.parametrize("with_cache", [True, False])
def test_open_files_and_memory_stay_over_many_calls(with_cache, nursery, tmp_path):
    (files, memory), (files_after, memory_after) = rows.figures_of_many_calls(
        nursery, 200, tmp_path / "cache" if with_cache else ""
    )
    assert files_after == files
    assert memory_after - memory < 4000  # kB, of 400,000; a batch of these is less
