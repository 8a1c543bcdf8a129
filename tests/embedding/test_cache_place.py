"""Rows that wait to be written, and processes that wait for one another."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from contextlib import closing, contextmanager
from functools import partial

import numpy as np
import pytest

from revdist_sklearn import ESMFeaturizer
from revdist_sklearn.embedding import _cache_place
from revdist_sklearn.embedding._cache import FILE, EmbeddingCache, cache_info, clear_cache
from revdist_sklearn.embedding._cache_place import place_of
from revdist_sklearn.models._encoder import Encoder

SPACE, OTHER = {"model": "m", "layer": -1, "width": 3}, {"model": "m", "layer": 0, "width": 3}
ROWS = np.random.default_rng(0).normal(size=(1200, 3)).astype(np.float32)
TEXTS = [f"A{i:04d}".translate(str.maketrans("0123456789", "CDEFGHIKLM")) for i in range(1200)]


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    monkeypatch.setattr(_cache_place, "BUFFER_SECONDS", 100.0)
    monkeypatch.setattr(_cache_place, "_PLACES", {})


def on_disk(folder):
    """Return how many rows another process sees."""
    with closing(sqlite3.connect(folder / FILE)) as connection:
        return connection.execute("SELECT count(*) FROM rows").fetchone()[0]


def put(cache, i, space=SPACE, row=None):
    cache.put(space, [TEXTS[i]], ROWS[[i if row is None else row]])


def found(cache, n, space=SPACE):
    return cache.get(space, TEXTS[:n])[0]


@contextmanager
def statements(cache):
    """Yield a list of what SQLite is told."""
    told: list = []
    cache._connection.set_trace_callback(told.append)
    yield told


# Rows that wait


def test_rows_that_wait_are_found_and_written_at_the_end(tmp_path):
    with EmbeddingCache(tmp_path) as cache:
        put(cache, 0)
        put(cache, 2, OTHER)
        assert on_disk(tmp_path) == 0
        indices, rows = cache.get(SPACE, TEXTS[:3])
        assert indices == [0] and rows.tobytes() == ROWS[0].tobytes()
        assert found(cache, 3, OTHER) == [2]
    assert on_disk(tmp_path) == 2
    with EmbeddingCache(tmp_path) as cache:
        assert cache.get(SPACE, TEXTS[:3])[1].tobytes() == ROWS[0].tobytes()
    assert [space["n_sequences"] for space in cache_info(tmp_path)[0]] == [1, 1]


def test_rows_here_and_in_the_file_come_in_order(tmp_path):
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, TEXTS[::2], ROWS[::2])
        assert cache.flush()
        cache.put(SPACE, TEXTS[1::3], ROWS[1::3])
        indices, rows = cache.get(SPACE, TEXTS)
        assert indices == sorted({*range(0, 1200, 2), *range(1, 1200, 3)})
        np.testing.assert_array_equal(rows, ROWS[indices])


def test_many_batches_are_one_transaction(tmp_path):
    with EmbeddingCache(tmp_path) as cache, statements(cache) as told:
        for i in range(100):
            put(cache, i, OTHER if i % 2 else SPACE)
        cache.flush()
        cache.flush()
        assert [text for text in told if text.startswith("BEGIN")] == ["BEGIN IMMEDIATE"]
    assert on_disk(tmp_path) == 100


def test_what_is_there_needs_no_turn_to_write(tmp_path):
    with EmbeddingCache(tmp_path) as cache:
        put(cache, 0)
    with EmbeddingCache(tmp_path) as cache, statements(cache) as told:
        put(cache, 0, row=5)
        cache.flush()
        assert told and not [text for text in told if text.startswith("BEGIN")]
        assert cache.get(SPACE, TEXTS[:1])[1].tobytes() == ROWS[0].tobytes()


def test_the_first_row_stays_while_it_waits(tmp_path):
    with EmbeddingCache(tmp_path) as cache:
        put(cache, 0)
        put(cache, 0, row=1)
    with EmbeddingCache(tmp_path) as cache:
        assert cache.get(SPACE, TEXTS[:1])[1].tobytes() == ROWS[0].tobytes()


def test_a_damaged_row_is_replaced_by_one_that_waits(tmp_path):
    with EmbeddingCache(tmp_path) as cache:
        put(cache, 0)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute("UPDATE rows SET checksum = zeroblob(8)")
    with pytest.warns(UserWarning, match="1 row"), EmbeddingCache(tmp_path) as cache:
        assert found(cache, 1) == []
        put(cache, 0, row=7)
    with EmbeddingCache(tmp_path) as cache:
        assert cache.get(SPACE, TEXTS[:1])[1].tobytes() == ROWS[7].tobytes()


def test_seconds_and_megabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache_place, "BUFFER_BYTES", 10 * 12)
    with EmbeddingCache(tmp_path) as cache:
        for i in range(25):
            put(cache, i)
        assert on_disk(tmp_path) == 20 and place_of(tmp_path).n_bytes == 5 * 12
    with EmbeddingCache(tmp_path, seconds=0.2) as cache:
        cache.flush()
        place_of(tmp_path).pause = 0.0
        put(cache, 30)
        assert on_disk(tmp_path) == 25
        time.sleep(0.25)
        put(cache, 31)
        assert on_disk(tmp_path) == 27
    with EmbeddingCache(tmp_path, seconds=0) as cache:
        put(cache, 40)
        assert on_disk(tmp_path) == 28


def test_slow_transactions_come_less_often():
    place = _cache_place.Place()
    for pause, after, due in ((0, 6, True), (20, 6, False), (20, 21, True), (900, 61, True)):
        place.pause, place.written_at = pause, time.monotonic() - after
        assert place.is_due(5.0) is due
    with place.timed():
        time.sleep(0.02)
    assert place.pause >= 0.02 / _cache_place.SHARE


def test_caches_of_a_process_find_each_others_rows(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with EmbeddingCache(tmp_path) as one, EmbeddingCache(tmp_path / "link") as other:
        put(one, 0)
        assert found(other, 1) == [0] and on_disk(tmp_path) == 0
        other.close()
        assert on_disk(tmp_path) == 1 and found(one, 1) == [0]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError, ValueError])
def test_a_fault_writes_what_waits(kind, tmp_path):
    with pytest.raises(kind), EmbeddingCache(tmp_path) as cache:
        put(cache, 0)
        raise kind
    assert on_disk(tmp_path) == 1


def test_an_interrupt_while_it_writes_loses_nothing(tmp_path):
    with EmbeddingCache(tmp_path) as cache:
        put(cache, 0)
        put(cache, 1, OTHER)
        calls = []

        def interrupt(*facts):
            calls.append(1)
            if len(calls) == 1:
                raise KeyboardInterrupt
            return False

        insert, cache._insert = cache._insert, interrupt
        with pytest.raises(KeyboardInterrupt):
            cache.flush()
        assert not cache._connection.in_transaction and found(cache, 1) == [0]
        cache._insert = insert
    assert on_disk(tmp_path) == 2


def test_threads_put_while_others_write(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache_place, "BUFFER_BYTES", 7 * 12)
    missing = []

    def work(part, cache):
        for i in range(part, 400, 4):
            put(cache, i)
            if not cache.get(SPACE, [TEXTS[i]])[0]:
                missing.append(i)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with EmbeddingCache(tmp_path) as one, EmbeddingCache(tmp_path) as other:
            caches = (one, one, other, other)
            threads = [threading.Thread(target=work, args=a) for a in enumerate(caches)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
    assert not missing and on_disk(tmp_path) == 400
    assert place_of(tmp_path).n_bytes == 0 and not place_of(tmp_path).rows


def run_script(script, *arguments, wait=True):
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    if not wait:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_forks_write_their_own_rows_and_no_others(tmp_path):
    script = """
        import os, sqlite3, sys
        import numpy as np
        from revdist_sklearn.embedding._cache import FILE, EmbeddingCache
        space, rows = {"width": 1}, np.ones((1, 1), dtype=np.float32)
        def on_disk():
            connection = sqlite3.connect(os.path.join(sys.argv[1], FILE))
            return connection.execute("SELECT count(*) FROM rows").fetchone()[0]
        def child(task):
            pid = os.fork()
            if not pid:
                found = task()
                os._exit(len(found))
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with EmbeddingCache(sys.argv[1], seconds=100) as cache:
            cache.put(space, ["A"], rows)
            def goes_on():  # and ends without closing
                cache.put(space, ["C"], rows)
                return cache.get(space, ["A", "C"])[0]
            def opens():
                with EmbeddingCache(sys.argv[1], seconds=100) as own:
                    own.put(space, ["D"], rows)
                    return own.get(space, ["A", "C", "D"])[0]
            print(child(goes_on), on_disk(), child(opens), on_disk())
        print(on_disk())
    """
    done = run_script(script, tmp_path)
    assert done.stdout.split() == ["2", "1", "3", "2", "3"], done.stderr


def test_kill_loses_the_last_seconds_alone(tmp_path):
    script = """
        import sys, time
        import numpy as np
        from revdist_sklearn.embedding._cache import EmbeddingCache
        rows = np.ones((1, 3), dtype=np.float32)
        with EmbeddingCache(sys.argv[1], seconds=0.3) as cache:
            for i in range(10**9):
                cache.put({"width": 3}, [str(i)], rows)
                print(i, time.monotonic(), flush=True)
                time.sleep(0.005)
    """
    process = run_script(script, tmp_path, wait=False)
    lines = [process.stdout.readline() for _ in range(150)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    process.wait()
    put_at = [float(line.split()[1]) for line in lines if len(line.split()) == 2]
    assert put_at[-1] - put_at[0] > 0.5
    with EmbeddingCache(tmp_path) as cache:
        kept = len(cache.get({"width": 3}, [str(i) for i in range(len(put_at))])[0])
    longest = max(np.diff(put_at))
    # A machine that is busy may rest between the looks at the clock.
    assert put_at[-1] - put_at[kept - 1] < 0.3 + 2 * longest + 20 * 0.05
    assert kept < len(put_at)


def test_rows_that_cannot_be_written_are_one_warning_and_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache_place, "BUFFER_BYTES", 3 * 12)
    with pytest.warns(UserWarning) as caught:
        with EmbeddingCache(tmp_path) as cache:
            cache._connection.execute(
                "CREATE TEMP TRIGGER fault BEFORE INSERT ON main.rows "
                "BEGIN SELECT raise(ABORT, 'the disk is full'); END"
            )
            for i in range(20):
                put(cache, i)
            assert found(cache, 20) == [] and not cache.flush()
    assert len(caught) == 1 and "nothing more is written" in str(caught[0].message)
    place = place_of(tmp_path)
    assert not place.rows and place.n_bytes == 0 and on_disk(tmp_path) == 0


# Others that write


@pytest.fixture
def holder(tmp_path):
    """Return a function that has another process lock the file, and one that ends it."""
    EmbeddingCache(tmp_path).close()
    script = """
        import sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute(f"BEGIN {sys.argv[2]}")
        print("held", flush=True)
        sys.stdin.read()
    """
    processes = []

    def hold(kind):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / FILE), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout.readline() == b"held\n"

    def release():
        while processes:
            processes.pop().communicate()

    yield hold, release
    release()


def test_a_stuck_writer_is_waited_for_once(tmp_path, holder, monkeypatch):
    hold, release = holder
    monkeypatch.setattr(_cache_place, "PATIENCE", 1.0)
    monkeypatch.setattr(_cache_place, "HASTE", 0.1)
    hold("IMMEDIATE")
    seconds = []
    for _ in range(3):
        begun = time.monotonic()
        with pytest.warns(UserWarning, match="locked"), EmbeddingCache(tmp_path) as cache:
            put(cache, 0)
        seconds.append(time.monotonic() - begun)
    assert seconds[0] >= 1.0 and max(seconds[1:]) < 0.9
    assert place_of(tmp_path).waited >= 1.0
    release()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with EmbeddingCache(tmp_path) as cache:
            put(cache, 0)
    assert on_disk(tmp_path) == 1
    assert not place_of(tmp_path).is_stuck  # it is patient again


def test_a_stuck_writer_that_lets_nobody_read(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(_cache_place, "PATIENCE", 0.5)
    monkeypatch.setattr(_cache_place, "HASTE", 0.1)
    holder[0]("EXCLUSIVE")
    for least, most in ((0.5, 60.0), (0.0, 0.45)):
        begun = time.monotonic()
        with pytest.warns(UserWarning, match="locked"), EmbeddingCache(tmp_path) as cache:
            assert found(cache, 3) == []
        assert least <= time.monotonic() - begun < most


def uses(folder):
    """Return what may have to wait: of a cache, and of the shell."""

    def write():
        with EmbeddingCache(folder) as cache:
            put(cache, 0)

    functions = {"info": cache_info, "clear": clear_cache}
    return {"write": write, **{name: partial(f, folder) for name, f in functions.items()}}


@pytest.mark.parametrize("what", ["write", "info", "clear"])
@pytest.mark.filterwarnings("ignore:.*locked")
def test_an_interrupt_is_answered_at_once(what, tmp_path, holder, monkeypatch):
    monkeypatch.setattr(_cache_place, "HASTE", 0.5)
    holder[0]("EXCLUSIVE")
    use = uses(tmp_path)[what]
    strike = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    begun = time.monotonic()
    strike.start()
    with pytest.raises(KeyboardInterrupt):
        use()
    assert time.monotonic() - begun < 5.0  # not a minute
    assert (tmp_path / FILE).exists()


def test_an_interrupt_does_not_wait_for_a_stuck_writer(tmp_path, holder, monkeypatch):
    """Ctrl-C comes while a model runs, and rows wait that cannot be written."""
    monkeypatch.setattr(_cache_place, "HASTE", 0.2)
    holder[0]("IMMEDIATE")
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="locked"):
        with EmbeddingCache(tmp_path) as cache:
            put(cache, 0)
            raise KeyboardInterrupt
    assert time.monotonic() - begun < 5.0


def test_a_writer_that_ends_is_waited_for(tmp_path, holder):
    hold, release = holder
    hold("IMMEDIATE")
    threading.Timer(0.5, release).start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with EmbeddingCache(tmp_path) as cache:
            put(cache, 0)
    assert on_disk(tmp_path) == 1 and place_of(tmp_path).waited >= 0.2


# What messages say


@pytest.fixture
def interrupted(monkeypatch):
    """Have the third batch of the models end in an interrupt, after which a look is taken."""
    calls, call = [], Encoder.__call__

    def third(self, texts):
        calls.append(texts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return call(self, texts)

    monkeypatch.setattr(Encoder, "__call__", third)


def note_of(tmp_path):
    emb = ESMFeaturizer("esm2-nano:32", cache_dir=tmp_path, token_budget=12)
    with pytest.raises(KeyboardInterrupt) as raised:
        emb.transform(["MKTAYIAK", "GSHMWWYA", "ACDEFGHI", "KLMNPQRS"])
    return raised.value.__notes__[-1]


def test_finished_batches_are_in_the_cache_when_that_is_said(tmp_path, interrupted, monkeypatch):
    seen, flush = [], EmbeddingCache.flush
    monkeypatch.setattr(
        EmbeddingCache,
        "flush",
        lambda self, patience=None: (flush(self, patience), seen.append(on_disk(tmp_path)))[0],
    )
    note = note_of(tmp_path)
    assert note == f"Finished batches are in {str(tmp_path)!r}; the same call goes on from there."
    assert seen[0] == on_disk(tmp_path) == 2


def test_nothing_is_said_to_be_in_a_cache_that_does_not_work(tmp_path, interrupted):
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    with pytest.warns(UserWarning, match="does not work"):
        assert "does not work" in note_of(tmp_path)
