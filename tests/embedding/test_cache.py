import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revdist_sklearn.base._formats import CACHE
from revdist_sklearn.cli._main import main
from revdist_sklearn.embedding import _cache, _cache_place
from revdist_sklearn.embedding._cache import FILE, EmbeddingCache, cache_info, clear_cache

SPACE = {"model": "m", "layer": -1, "width": 3}
ROWS = np.random.default_rng(0).normal(size=(1200, 3)).astype(np.float32)
TEXTS = [f"A{i:04d}".translate(str.maketrans("0123456789", "CDEFGHIKLM")) for i in range(1200)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Rows are written as they are put; ``test_cache_place.py`` has them wait."""
    monkeypatch.setattr(_cache_place, "BUFFER_SECONDS", 0.0)
    monkeypatch.setattr(_cache_place, "_PLACES", {})


@pytest.fixture
def cache(tmp_path):
    with EmbeddingCache(tmp_path / "new" / "folder") as cache:
        yield cache


def test_rows_come_back_bit_for_bit(cache):
    odd = np.array([[1e-45, -0.0, np.finfo(np.float32).max]], dtype=np.float32)
    cache.put(SPACE, TEXTS[:2], ROWS[:2])
    cache.put(SPACE, ["W"], odd)
    found, rows = cache.get(SPACE, ["Y", TEXTS[1], "W", TEXTS[0]])
    assert found == [1, 2, 3] and rows.dtype == np.float32
    assert rows.tobytes() == ROWS[1].tobytes() + odd.tobytes() + ROWS[0].tobytes()


def test_a_closed_cache_finds_and_keeps_nothing(tmp_path):
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, ["A"], ROWS[:1])
    cache.put(SPACE, ["C"], ROWS[1:2])
    assert cache.get(SPACE, ["A", "C"])[0] == []
    cache.close()  # a second time is no harm
    with EmbeddingCache(tmp_path) as again:
        assert again.get(SPACE, ["A", "C"])[0] == [0]


def test_more_keys_than_one_look_up_takes(cache):
    cache.put(SPACE, TEXTS[::2], ROWS[::2])
    found, rows = cache.get(SPACE, TEXTS)
    assert found == list(range(0, 1200, 2))
    np.testing.assert_array_equal(rows, ROWS[::2])


def test_nothing_is_found_in_an_empty_cache_or_for_no_sequences(cache):
    for texts in ([], ["A"]):
        found, rows = cache.get(SPACE, texts)
        assert found == [] and rows.shape == (0, 3)
    cache.put(SPACE, [], ROWS[:0])


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), st.none() | st.integers() | st.text(), max_size=3),
    st.dictionaries(st.sampled_from("abc"), st.none() | st.integers() | st.text(), max_size=3),
)
def test_rows_are_found_for_equal_spaces_only(tmp_path_factory, one, other):
    with EmbeddingCache(tmp_path_factory.mktemp("cache")) as cache:
        cache.put({**one, "width": 3}, ["A"], ROWS[:1])
        found, _ = cache.get({"width": 3, **other}, ["A"])
    assert found == ([0] if one == other else [])


def test_what_is_there_stays(cache):
    cache.put(SPACE, ["A"], ROWS[:1])
    cache.put(SPACE, ["A", "C"], ROWS[1:3])
    _, rows = cache.get(SPACE, ["A", "C"])
    np.testing.assert_array_equal(rows, ROWS[[0, 2]])


def test_a_batch_is_whole_or_not_there(cache):
    cache._connection.execute(
        "CREATE TEMP TRIGGER fault BEFORE INSERT ON main.rows "
        "WHEN (SELECT count(*) FROM rows) = 2 BEGIN SELECT raise(ABORT, 'the third row'); END"
    )
    with pytest.warns(UserWarning, match="the third row"):
        cache.put(SPACE, ["A", "C", "D"], ROWS[:3])
    assert cache.get(SPACE, ["A", "C", "D"])[0] == []


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS[:2, :2], ROWS[:2].astype(np.float64)])
def test_rows_of_another_shape_or_dtype_are_refused(cache, rows):
    with pytest.raises(ValueError, match=r"must have shape \(2, 3\) and dtype float32"):
        cache.put(SPACE, ["A", "C"], rows)
    assert cache.get(SPACE, ["A", "C"])[0] == []


def test_the_name_of_the_model_is_for_info_alone(cache):
    cache.put(SPACE, ["A"], ROWS[:1])
    assert cache.get({**SPACE, "model": "a folder that was moved"}, ["A"])[0] == [0]


def test_spaces_may_hold_integers_of_numpy(cache):
    cache.put({**SPACE, "layer": np.int64(-1)}, ["A"], ROWS[:1])
    assert cache.get(SPACE, ["A"])[0] == [0]


def test_an_interrupted_batch_does_not_mix_up_spaces(tmp_path, monkeypatch):
    other = {**SPACE, "layer": 0}

    class Interrupting(sqlite3.Connection):
        def executemany(self, *arguments):
            raise KeyboardInterrupt

    with EmbeddingCache(tmp_path) as cache, EmbeddingCache(tmp_path) as second:
        with monkeypatch.context() as patch:
            patch.setattr(
                cache, "_connection", sqlite3.connect(tmp_path / FILE, factory=Interrupting)
            )
            with pytest.raises(KeyboardInterrupt):
                cache.put(SPACE, ["A"], ROWS[:1])
            assert not cache._connection.in_transaction
            cache._connection.close()
        # Numbers in order of arrival would give this space that of the one undone.
        second.put(other, ["C"], ROWS[1:2])
        cache.put(SPACE, ["A"], ROWS[:1])
        assert second.get(other, ["A", "C"])[0] == [1]
        assert second.get(SPACE, ["A", "C"])[0] == [0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused(cache, value):
    with pytest.raises(ValueError, match="not finite"):
        cache.put(SPACE, ["A"], np.full((1, 3), value, dtype=np.float32))
    assert cache.get(SPACE, ["A"])[0] == []


def blob(*values):
    return f"x'{np.array(values, dtype='<f4').tobytes().hex()}'"


# What a row may hold that was not put there; the second row is "C".
DAMAGE = {
    "cut short": "embedding = x'00'",
    "empty": "embedding = x''",
    "too long": "embedding = zeroblob(16)",
    "huge": "embedding = zeroblob(30000000)",
    "zeroed": "embedding = zeroblob(12)",
    "NaN": f"embedding = {blob(np.nan, 1, 2)}",
    "text": "embedding = 'twelve bytes'",
    "integer": "embedding = 12",
    "real": "embedding = 1.5",
}
DAMAGE_WITH_CHECKSUMS = {
    "large": f"embedding = {blob(1e38, 1e38, 1e38)}",
    "of another row": "embedding = (SELECT embedding FROM rows WHERE rowid = 2)",
    "another row": "(embedding, checksum) = "
    "(SELECT embedding, checksum FROM rows WHERE rowid = 2)",
    "checksum": "checksum = zeroblob(8)",
    "checksum cut short": "checksum = x''",
    "checksum of text": "checksum = 'eight by'",
    "checksum huge": "checksum = zeroblob(30000000)",
}


@pytest.fixture
def cache_of_format_2(tmp_path):
    shutil.copytree(Path(__file__).parents[1] / "data" / "format_2" / "cache", tmp_path / "old")
    with EmbeddingCache(tmp_path / "old") as cache:
        assert cache._format == 2
        cache._connection.execute("DELETE FROM rows")
        yield cache


# Without a checksum a row of zeros is one that could be.
OF_FORMAT_2 = [(2, damage) for damage in DAMAGE if damage != "zeroed"]


@pytest.mark.parametrize(
    "version, damage", [*OF_FORMAT_2, *((3, d) for d in DAMAGE | DAMAGE_WITH_CHECKSUMS)]
)
@pytest.mark.filterwarnings("ignore:.*were damaged")
def test_damaged_rows_are_not_found_and_replaced(request, monkeypatch, version, damage):
    cache = request.getfixturevalue("cache" if version == 3 else "cache_of_format_2")
    cache.put(SPACE, ["A", "C"], ROWS[:2])
    change = (DAMAGE | DAMAGE_WITH_CHECKSUMS)[damage]
    with cache._connection as connection:
        connection.execute(f"UPDATE rows SET {change} WHERE rowid = 1")
    read, row = [], _cache._row
    monkeypatch.setattr(_cache, "_row", lambda *facts: read.extend(facts[2:]) or row(*facts))
    assert cache.get(SPACE, ["A", "C"])[0] == [1]
    cache.put(SPACE, ["A"], ROWS[5:6])
    # Nothing is read that has not the length of a row.
    assert all(blob is None or len(blob) <= 12 for blob in read)
    found, rows = cache.get(SPACE, ["A", "C"])
    assert found == [0, 1]
    np.testing.assert_array_equal(rows, ROWS[[5, 1]])


def test_rows_under_the_key_of_another_are_not_found(cache):
    """As where locks do nothing, so that two writers mix up pages."""
    other = {**SPACE, "layer": 0}
    cache.put(SPACE, ["A", "C"], ROWS[:2])
    cache.put(other, ["D"], ROWS[2:3])
    keys = [
        (_cache._number(space), _cache._digest(t)) for space, t in ((SPACE, "D"), (other, "A"))
    ]
    with cache._connection as connection:
        for row, key in enumerate(keys, start=1):
            connection.execute(
                "UPDATE rows SET space = ?, digest = ? WHERE rowid = ?", [*key, row]
            )
    assert cache.get(SPACE, ["A", "C", "D"])[0] == []
    assert cache.get(other, ["A", "D"])[0] == [1]
    with pytest.warns(UserWarning, match="^2 row"):
        cache.close()


def test_damaged_rows_are_one_warning_with_their_number(tmp_path):
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, TEXTS[:50], ROWS[:50])
        cache.put({**SPACE, "layer": 0}, TEXTS[:50], ROWS[:50])
        with cache._connection as connection:
            connection.execute("UPDATE rows SET checksum = zeroblob(8) WHERE rowid % 10 = 1")
    with pytest.warns(UserWarning) as caught:
        with EmbeddingCache(tmp_path) as cache:
            for layer in (-1, 0):
                found = cache.get({**SPACE, "layer": layer}, TEXTS[:50])[0]
                assert found == [i for i in range(50) if i % 10]
    message = one_warning(caught)
    assert message.startswith(f"10 row(s) of the cache in '{tmp_path}' were damaged")
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TRIGGER t AFTER INSERT ON rows BEGIN DELETE FROM rows; END",
        "ALTER TABLE rows RENAME TO real; CREATE VIEW rows AS SELECT space, digest, "
        "zeroblob(12) AS embedding, checksum FROM real",
        "CREATE VIEW more AS SELECT * FROM rows",
        "CREATE TABLE more (x)",
        "CREATE INDEX more ON rows (embedding)",
        "DROP INDEX of_sequence",
        "DROP TABLE spaces",
        "ALTER TABLE rows ADD COLUMN more",
        "ALTER TABLE rows DROP COLUMN checksum",
        "PRAGMA user_version = 2",
        "PRAGMA user_version = 1",
    ],
)
def test_other_tables_than_ours_are_not_read(tmp_path, script):
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, TEXTS[:4], ROWS[:4])
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.executescript(script)
    content = (tmp_path / FILE).read_bytes()
    with pytest.warns(UserWarning, match="other tables than format") as caught:
        assert use(tmp_path) == ([], [])
    one_warning(caught)
    assert (tmp_path / FILE).read_bytes() == content
    with pytest.raises(OSError, match=r"other tables .*Empty it: revdist cache clear"):
        cache_info(tmp_path)
    assert clear_cache(tmp_path) == len(content) and os.listdir(tmp_path) == []


def test_a_schema_that_is_no_text_is_a_warning(tmp_path):
    """SQLite's message quotes what it cannot parse, whatever bytes that is."""
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, TEXTS[:4], ROWS[:4])
    content = (tmp_path / FILE).read_bytes()
    damaged = content.replace(
        b"embedding BLOB NOT NULL, check", b"embedding BLOB NOT NULL\xc5 check"
    )
    assert damaged != content
    (tmp_path / FILE).write_bytes(damaged)
    with pytest.warns(UserWarning) as caught:
        assert use(tmp_path) == ([], [])
    one_warning(caught)
    with pytest.raises(OSError, match="cannot be read"):
        cache_info(tmp_path)
    assert clear_cache(tmp_path) == len(content)


def test_tables_are_those_that_are_compared(tmp_path):
    EmbeddingCache(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        assert _cache._read_master(connection) == _cache.MASTERS[CACHE]


# More than one process


def write(folder, start, stop, barrier):
    barrier.wait()
    with EmbeddingCache(folder) as cache:
        for i in range(start, stop):
            cache.put(SPACE, TEXTS[i : i + 5], ROWS[i : i + 5])


def test_two_processes_write_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    halves = (0, 400), (200, 600)
    writers = [context.Process(target=write, args=(tmp_path, *half, barrier)) for half in halves]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    with EmbeddingCache(tmp_path) as cache:
        found, rows = cache.get(SPACE, TEXTS[:604])
    assert found == list(range(604))
    np.testing.assert_array_equal(rows, ROWS[:604])


def put_part(cache, part, n):
    for i in range(part, n, 4):
        cache.put(SPACE, [TEXTS[i]], ROWS[[i]])


def in_four_threads(function):
    threads = [threading.Thread(target=function, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_threads_write_at_once(tmp_path):
    def write_part(part):
        with EmbeddingCache(tmp_path) as cache:
            put_part(cache, part, 200)

    in_four_threads(write_part)
    with EmbeddingCache(tmp_path) as cache:
        np.testing.assert_array_equal(cache.get(SPACE, TEXTS[:200])[1], ROWS[:200])


def test_threads_share_one_cache(tmp_path):
    with EmbeddingCache(tmp_path) as cache, warnings.catch_warnings():
        warnings.simplefilter("error")
        in_four_threads(lambda part: put_part(cache, part, 400))
    with EmbeddingCache(tmp_path) as cache:
        np.testing.assert_array_equal(cache.get(SPACE, TEXTS[:400])[1], ROWS[:400])


def run_script(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_forked_process_takes_a_connection_of_its_own(tmp_path):
    script = """
        import os, sys
        import numpy as np
        from revdist_sklearn.embedding._cache import EmbeddingCache
        space, rows = {"width": 1}, np.ones((1, 1), dtype=np.float32)
        with EmbeddingCache(sys.argv[1]) as cache:
            cache.put(space, ["A"], rows)
            inherited, child = cache._connection, os.fork()
            if not child:
                cache.put(space, ["C"], rows)
                own = cache._connection is not inherited
                inherited.execute("SELECT 1")  # raises where it was closed
                os._exit(0 if own and cache.get(space, ["A", "C"])[0] == [0, 1] else 1)
            failed = os.waitpid(child, 0)[1]
            cache.put(space, ["D"], rows)
            print(failed, cache._connection is inherited, cache.get(space, ["A", "C", "D"])[0])
    """
    done = run_script(script, tmp_path)
    assert done.stdout.strip() == "0 True [0, 1, 2]", done.stderr


def test_a_writer_killed_within_a_transaction(tmp_path):
    script = """
        import os, signal, sys
        import numpy as np
        from revdist_sklearn.embedding import _cache, _cache_place
        cache = _cache.EmbeddingCache(sys.argv[1], seconds=0)
        space, rows = {"width": 1000}, np.ones((50, 1000), dtype=np.float32)
        cache.put(space, [f"a{i}" for i in range(50)], rows)
        # Pages of the transaction go to the file before it ends.
        cache._connection.execute("PRAGMA cache_size = 2")
        kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
        cache._connection.create_function("killed", 0, kill)
        cache._connection.execute(
            "CREATE TEMP TRIGGER fault AFTER INSERT ON main.rows "
            "WHEN (SELECT count(*) FROM rows) = 90 BEGIN SELECT killed(); END"
        )
        cache.put(space, [f"b{i}" for i in range(50)], 2 * rows)
    """
    size = 50 * 4 * 1000
    assert run_script(script, tmp_path).returncode == -signal.SIGKILL
    # The file was being changed.
    assert (tmp_path / f"{FILE}-journal").stat().st_size > 0
    assert (tmp_path / FILE).stat().st_size > 1.5 * size
    with EmbeddingCache(tmp_path) as cache:
        texts = [f"{letter}{i}" for letter in "ab" for i in range(50)]
        found, rows = cache.get({"width": 1000}, texts)
        assert found == list(range(50)) and (rows == 1).all()
        assert cache._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert os.listdir(tmp_path) == [FILE]


def test_a_killed_writer_loses_at_most_its_last_batch(tmp_path):
    script = """
        import sys
        import numpy as np
        from revdist_sklearn.embedding._cache import EmbeddingCache
        rows = np.tile(np.arange(50, dtype=np.float32)[:, None], 3)
        with EmbeddingCache(sys.argv[1], seconds=0) as cache:
            for i in range(10**9):
                cache.put({"width": 3}, [f"{i}-{j}" for j in range(50)], rows)
                print(i, flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], stdout=subprocess.PIPE
    )
    for _ in range(20):
        process.stdout.readline()
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    told = 19
    for line in process.stdout.read().split(b"\n"):
        told = int(line) if line else told
    process.wait()
    with EmbeddingCache(tmp_path) as cache:
        assert cache._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for i in range(told + 3):
            found, rows = cache.get({"width": 3}, [f"{i}-{j}" for j in range(50)])
            assert len(found) == 50 if i <= told else len(found) in (0, 50)
            np.testing.assert_array_equal(rows[:, 0], found)
        cache.put({"width": 3}, ["A"], ROWS[:1])
        assert cache.get({"width": 3}, ["A"])[0] == [0]


# What goes wrong is a warning, one for each cache


def one_warning(caught):
    [warning] = [w for w in caught if "cache" in str(w.message)]
    assert "revdist cache clear" in str(warning.message)
    return str(warning.message)


def use(folder):
    """Read, write and read again, and return what was found."""
    with EmbeddingCache(folder) as cache:
        before = cache.get(SPACE, TEXTS[:2])[0]
        cache.put(SPACE, TEXTS[1:3], ROWS[1:3])
        cache.put(SPACE, TEXTS[3:4], ROWS[3:4])
        return before, cache.get(SPACE, TEXTS[:4])[0]


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning) as caught:
        assert use(tmp_path / "file" / "cache") == ([], [])
    assert "it is not used" in one_warning(caught)


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"x" * 5000]
)
def test_a_file_that_is_no_database_is_left_alone(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.warns(UserWarning) as caught:
        assert use(tmp_path) == ([], [])
    one_warning(caught)
    assert (tmp_path / FILE).read_bytes() == content


@pytest.mark.parametrize("version", [0, CACHE + 1])
def test_a_file_of_another_version_is_left_alone(tmp_path, version):
    EmbeddingCache(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    content = (tmp_path / FILE).read_bytes()
    with pytest.warns(UserWarning, match="another version of revdist_sklearn") as caught:
        assert use(tmp_path) == ([], [])
    if version > CACHE:  # nobody is told to remove what a newer version may need
        assert len(caught) == 1 and "clear" not in str(caught[0].message)
    else:
        one_warning(caught)
    assert (tmp_path / FILE).read_bytes() == content
    with pytest.raises(OSError, match="another version"):
        cache_info(tmp_path)
    assert clear_cache(tmp_path) == len(content) and os.listdir(tmp_path) == []


def test_a_database_of_another_program_is_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    content = (tmp_path / FILE).read_bytes()
    with pytest.warns(UserWarning, match="another program. Name another `cache_dir`") as caught:
        assert use(tmp_path) == ([], [])
    assert len(caught) == 1 and "clear" not in str(caught[0].message)
    for function in cache_info, clear_cache:
        with pytest.raises(OSError, match="database of another program"):
            function(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_cache_that_cannot_be_read_after_it_could_not_be_written_warns_once(cache):
    cache.put(SPACE, ["A"], ROWS[:1])
    with cache._connection:
        cache._connection.execute("ALTER TABLE rows RENAME TO gone")
    with pytest.warns(UserWarning) as caught:
        cache.put(SPACE, ["C"], ROWS[:1])
        assert cache.get(SPACE, ["A"])[0] == []
    one_warning(caught)


def test_a_file_that_can_only_be_read_is_read(tmp_path, monkeypatch):
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, TEXTS[:1], ROWS[:1])

    connect = sqlite3.connect
    monkeypatch.setattr(
        _cache.sqlite3,
        "connect",
        lambda path, **options: connect(f"file:{path}?mode=ro", uri=True, **options),
    )
    with pytest.warns(UserWarning) as caught:
        assert use(tmp_path) == ([0], [0])
    assert "nothing more is written" in one_warning(caught)


def test_a_writer_that_never_ends_is_waited_for_and_given_up(tmp_path, monkeypatch):
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, TEXTS[:1], ROWS[:1])
    monkeypatch.setattr(_cache_place, "PATIENCE", 0.2)
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.warns(UserWarning, match="locked") as caught:
        assert use(tmp_path) == ([0], [0])
    one_warning(caught)
    other.execute("ROLLBACK")
    other.execute("BEGIN EXCLUSIVE")  # not even to be read
    with pytest.warns(UserWarning, match="locked") as caught:
        assert use(tmp_path) == ([], [])
    one_warning(caught)
    other.close()


def test_a_full_disk_keeps_what_is_there(tmp_path):
    script = """
        import json, resource, signal, sys, warnings
        import numpy as np
        from revdist_sklearn.embedding._cache import EmbeddingCache
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        rows = np.ones((100, 1000), dtype=np.float32)
        space = {"width": 1000}
        with (
            EmbeddingCache(sys.argv[1], seconds=0) as cache,
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            cache.put(space, [f"a{i}" for i in range(100)], rows)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
            for part in "bcd":
                cache.put(space, [f"{part}{i}" for i in range(100)], rows)
            kept = [len(cache.get(space, [f"{p}{i}" for i in range(100)])[0]) for p in "abcd"]
            print(json.dumps([[str(w.message) for w in caught], kept]))
    """
    done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr
    [message], kept = json.loads(done.stdout)
    assert "nothing more is written" in message
    assert kept[0] == 100 and set(kept) <= {0, 100} and kept[-1] == 0
    with EmbeddingCache(tmp_path) as cache:
        assert cache._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_healthy_cache_warns_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert use(tmp_path) == ([], [1, 2, 3])


# What it holds


def test_info_and_clear(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert cache_info(tmp_path) == ([], 0) and clear_cache(tmp_path) == 0
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, TEXTS[:2], ROWS[:2])
        cache.put({**SPACE, "layer": 0}, TEXTS[:1], ROWS[:1])
    spaces, size = cache_info(tmp_path)
    assert size == (tmp_path / FILE).stat().st_size
    assert [(s["layer"], s["n_sequences"], s["n_bytes"]) for s in spaces] == [
        (-1, 2, 24),
        (0, 1, 12),
    ]  # in the order in which they came
    assert clear_cache(tmp_path) == size
    assert os.listdir(tmp_path) == ["notes.txt"] and cache_info(tmp_path) == ([], 0)


@pytest.mark.parametrize("function", [cache_info, clear_cache])
def test_what_is_no_folder_is_named(tmp_path, function):
    for path in (tmp_path / "nowhere", "~no-such-user/nowhere"):
        with pytest.raises(OSError, match="nowhere' is no folder"):
            function(path)


def test_info_of_a_damaged_file_says_what_to_do(tmp_path):
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(OSError, match="revdist cache clear"):
        cache_info(tmp_path)
    assert clear_cache(tmp_path) == 1800


def test_info_changes_nothing(tmp_path):
    (tmp_path / FILE).touch()  # what a process leaves that is killed when it starts
    assert cache_info(tmp_path) == ([], 0) and (tmp_path / FILE).stat().st_size == 0
    assert use(tmp_path) == ([], [1, 2, 3])
    content = (tmp_path / FILE).read_bytes()
    cache_info(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content and os.listdir(tmp_path) == [FILE]


def test_info_of_a_file_whose_maker_was_killed_as_it_wrote_the_tables(tmp_path):
    use(tmp_path)
    # The journal of a file that was empty before: no page, no page there at first.
    numbers = (0, 1, 0, 512, 4096)  # records, nonce, pages at first, sector, page
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">5I", *numbers)
    (tmp_path / f"{FILE}-journal").write_bytes(header.ljust(512, b"\0"))
    assert cache_info(tmp_path)[0] == []
    assert use(tmp_path) == ([], [1, 2, 3])


def test_a_file_without_tables_is_not_written_to(tmp_path):
    (tmp_path / FILE).touch()
    assert clear_cache(tmp_path) == 0 and os.listdir(tmp_path) == []
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.executescript("CREATE TABLE mine (x); DROP TABLE mine")
    content = (tmp_path / FILE).read_bytes()
    with pytest.raises(OSError, match="cannot be read"):
        cache_info(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content and len(content) > 0
    assert clear_cache(tmp_path) == len(content)


@pytest.mark.parametrize(
    "text",
    [
        "'{'",
        "3",
        "'3'",
        "'[]'",
        "'{}'",
        "x'ff'",
        "'" + "[" * 10**5 + "'",
        """'{"layer":0,"width":3}'""",
        """'{"layer":-1,"width":"3"}'""",
        """'{"width":NaN}'""",
        "CAST(x'7bff7d' AS TEXT)",
        "description, number = 5",
    ],
)
def test_info_of_a_damaged_description_lists_the_others(cache, text, capsys):
    other = {**SPACE, "layer": 7}
    for space, n in ((SPACE, 1), (other, 2)):
        cache.put(space, ["A", "C"][:n], ROWS[:n])
    before = cache_info(cache.folder)[0]
    assert [space["n_sequences"] for space in before] == [1, 2]
    with cache._connection:
        cache._connection.execute(
            f"UPDATE spaces SET description = {text} WHERE rowid = (SELECT MIN(rowid) FROM spaces)"
        )
    found, _ = cache_info(cache.folder)
    [damaged] = [space for space in found if "damaged" in space]
    assert damaged["n_sequences"] == 1 and "is damaged" in damaged["damaged"]
    assert [space for space in found if "damaged" not in space] == before[1:]
    assert main(["cache", "info", str(cache.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and sum("is damaged" in line for line in lines) == 1
    assert sum("layer 7" in line and "2 sequences" in line for line in lines) == 1


def test_clear_waits_for_a_writer_and_says_if_it_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache_place, "PATIENCE", 0.2)
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, ["A"], ROWS[:1])
        cache._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match="in use by another process"):
            clear_cache(tmp_path)
        cache._connection.execute("ROLLBACK")
        assert cache.get(SPACE, ["A"])[0] == [0]


def test_clear_under_a_cache_that_is_open(tmp_path):
    with EmbeddingCache(tmp_path) as cache:
        cache.put(SPACE, ["A"], ROWS[:1])
        clear_cache(tmp_path)
        with EmbeddingCache(tmp_path) as new:
            new.put(SPACE, ["C"], ROWS[1:2])
            with pytest.warns(UserWarning) as caught:
                cache.put(SPACE, ["D"], ROWS[2:3])
            one_warning(caught)
            assert new.get(SPACE, ["A", "C", "D"])[0] == [1]
            assert new._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with EmbeddingCache("~/cache") as cache:
        cache.put(SPACE, ["A"], ROWS[:1])
    assert (tmp_path / "cache" / FILE).is_file()
    assert len(cache_info("~/cache")[0]) == 1
