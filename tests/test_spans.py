"""The pass over a corpus by several workers: what comes back, and what they keep on disk."""

import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from revdist_sklearn import (
    DamagedFileError,
    ESMFeaturizer,
    FormatError,
    Moments,
    _checkpoint,
    _corpus,
    corpus_moments,
)
from revdist_sklearn._corpus import SPANS, spans_of

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
PROTEINS = [LETTERS[i % 20 :] + LETTERS[: i % 17] for i in range(60)]
MODELS = "esm2-nano:32"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """A model's float32 output moves by 1e-8 with its threads, of which a worker has one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(_corpus, "PIECE_RESIDUES", 40)
    monkeypatch.setattr(_checkpoint, "WORTH_WRITING", 0)
    yield
    torch.set_num_threads(threads)


class Counts(ESMFeaturizer):
    """Notes what it embeds; at one protein something may happen."""

    seen: list = []  # noqa: RUF012 (one for all copies)
    at = fault = None

    def iter_residues(self, sequences):
        type(self).seen += sequences
        if self.at in sequences:
            self.fault()
        return super().iter_residues(sequences)


@pytest.fixture
def featurizer():
    Counts.seen, Counts.at = [], None
    return Counts(MODELS)


def gather(featurizer, **options):
    return corpus_moments(featurizer, PROTEINS, precision="float64", verbose=False, **options)


def assert_same(a, b):
    assert (a.n_rows, a.n_proteins) == (b.n_rows, b.n_proteins)
    for one, other in ((a.residue, b.residue), (a.protein, b.protein)):
        assert_allclose(one.mean, other.mean, rtol=0, atol=1e-10)
        scale = np.abs(other.scatter).max()
        assert_allclose(one.scatter, other.scatter, rtol=0, atol=1e-10 * scale)


@pytest.fixture
def expected():
    return gather(ESMFeaturizer(MODELS))


class Workers:
    """Stands for joblib's: runs tasks in some order, by copies as other processes have them."""

    def __init__(self, monkeypatch, order=None):
        self.order, self.bytes_out, self.bytes_back = order, [], []
        monkeypatch.setattr(_corpus, "as_they_come", self)

    def __call__(self, function, tasks, n_jobs):
        tasks = [pickle.dumps(task) for task in tasks]
        self.bytes_out += map(len, tasks)
        for i in self.order(len(tasks)) if self.order else range(len(tasks)):
            back = pickle.dumps(function(*pickle.loads(tasks[i])))
            self.bytes_back.append(len(back))
            yield pickle.loads(back)


# Spans


@given(st.integers(0, 400), st.integers(1, 300))
def test_spans_are_few_whole_and_fall_in_length(n, most):
    pieces = list(range(7, 7 + 2 * n, 2))
    spans = spans_of(pieces, most)
    assert len(spans) <= most and [piece for span in spans for piece in span] == pieces
    lengths = [len(span) for span in spans]
    assert all(lengths)
    # To the nearest piece, that is.
    assert all(a >= b - 1 for a, b in pairwise(lengths))
    assert max(lengths, default=0) <= 2 * n / most + 1


@pytest.mark.parametrize("n_jobs", [2, 3])
@pytest.mark.parametrize("order", [None, lambda n: range(n)[::-1], lambda n: [*range(1, n), 0]])
def test_four_moments_a_worker_come_back_in_any_order(
    monkeypatch, featurizer, expected, n_jobs, order
):
    workers, merges = Workers(monkeypatch, order), []
    merge = Moments.merge
    monkeypatch.setattr(
        Moments, "merge", lambda self, other: merges.append(other) or merge(self, other)
    )
    assert_same(gather(featurizer, n_jobs=n_jobs), expected)
    one = len(pickle.dumps(expected))
    n_pieces = sum(map(len, PROTEINS)) // 40
    assert len(merges) == len(workers.bytes_back) <= SPANS * n_jobs < n_pieces
    assert sum(workers.bytes_back) < 1.1 * SPANS * n_jobs * one
    # Sequences go out once.
    assert sorted(featurizer.seen) == sorted(PROTEINS)
    residues = sum(map(len, PROTEINS))
    assert (
        residues
        < sum(workers.bytes_out)
        < residues + 30 * len(PROTEINS) + 2000 * len(workers.bytes_out)
    )


@pytest.mark.parametrize("order", [None, lambda n: range(n)[::-1]])
def test_results_do_not_pile_up(monkeypatch, featurizer, order):
    """Two at most at a time: those so far and the one that has come."""
    alive, most = [0], [0]

    class Counted(Moments):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    def one_by_one(function, tasks, n_jobs):
        for task in [*tasks][:: -1 if order else 1]:
            yield function(*task)

    monkeypatch.setattr(_corpus, "Moments", Counted)
    monkeypatch.setattr(_corpus, "as_they_come", one_by_one)
    gather(featurizer, n_jobs=3)
    assert most[0] == 2


# Faults


def parts(path):
    return _checkpoint.partial_sums_beside(path)


def others(path):
    return sorted(p.name for p in path.parent.iterdir() if p != path)


@pytest.fixture
def interrupted(monkeypatch, featurizer, tmp_path):
    """A call that ends when one span was merged and two were begun; what it had embedded."""
    monkeypatch.setattr(_corpus, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "m.safetensors"

    def end(self):
        raise KeyboardInterrupt

    def unlucky(function, tasks, n_jobs):
        tasks = list(tasks)
        spans = [task[1] for task in tasks]
        yield function(*tasks[2])
        for i in (0, 3):
            *_, (_, (last, *_)) = spans[i].values()
            monkeypatch.setattr(Counts, "at", last)
            with pytest.raises(KeyboardInterrupt):
                function(*tasks[i])
        raise KeyboardInterrupt

    monkeypatch.setattr(Counts, "fault", end)
    with monkeypatch.context() as context:
        context.setattr(_corpus, "as_they_come", unlucky)
        with pytest.raises(KeyboardInterrupt):
            gather(featurizer, n_jobs=2, checkpoint=path)
    Counts.at = None
    assert len(parts(path)) == 2 and others(path) == [p.name for p in parts(path)]
    return path


@pytest.mark.parametrize("n_jobs", [None, 2, 5])
def test_any_number_of_workers_goes_on_from_what_all_had_summed(
    n_jobs, monkeypatch, interrupted, featurizer, expected
):
    kept = Moments.load(interrupted).n_proteins
    kept += sum(Moments.load(path).n_proteins for path in parts(interrupted))
    Counts.seen = []
    Workers(monkeypatch, lambda n: range(n)[::-1])
    assert_same(gather(featurizer, n_jobs=n_jobs, checkpoint=interrupted), expected)
    assert len(Counts.seen) == len(PROTEINS) - kept and kept > 10
    assert others(interrupted) == []
    Counts.seen = []  # and the next call needs none
    assert_same(gather(featurizer, n_jobs=n_jobs, checkpoint=interrupted), expected)
    assert Counts.seen == []


def test_without_the_checkpoint_itself_partial_sums_count(interrupted, featurizer, expected):
    interrupted.unlink()
    Counts.seen = []
    assert_same(gather(featurizer, checkpoint=interrupted), expected)
    assert 0 < len(Counts.seen) < len(PROTEINS) and others(interrupted) == []


def test_sums_that_are_in_the_checkpoint_are_not_counted_twice(interrupted, featurizer, expected):
    """As where the process was killed after it had written the checkpoint."""
    contents = {path: path.read_bytes() for path in parts(interrupted)}
    gather(featurizer, checkpoint=interrupted)
    for path, content in contents.items():
        path.write_bytes(content)
    assert_same(gather(featurizer, checkpoint=interrupted), expected)
    assert others(interrupted) == []


def test_a_repeated_task_goes_on_from_its_sums(monkeypatch, featurizer, expected, tmp_path):
    monkeypatch.setattr(_corpus, "CHECKPOINT_SECONDS", 0.0)

    def end(self):
        Counts.at = None
        raise MemoryError

    def repeating(function, tasks, n_jobs):
        for task in tasks:
            *_, (_, (Counts.at, *_)) = task[1].values()
            with pytest.raises(MemoryError):
                function(*task)
            yield function(*task)

    monkeypatch.setattr(Counts, "fault", end)
    monkeypatch.setattr(_corpus, "as_they_come", repeating)
    path = tmp_path / "m.safetensors"
    assert_same(gather(featurizer, n_jobs=2, checkpoint=path), expected)
    # Of each span the last piece is embedded twice.
    assert len(featurizer.seen) - len(PROTEINS) <= 3 * SPANS * 2 and others(path) == []


def test_sums_of_a_shorter_time_are_not_written(monkeypatch, featurizer, expected, tmp_path):
    saved, save = [], Moments.save
    monkeypatch.setattr(
        Moments,
        "save",
        lambda self, path, **facts: saved.append(path) or save(self, path, **facts),
    )
    Workers(monkeypatch)
    gather(featurizer, n_jobs=2, checkpoint=tmp_path / "m.safetensors")
    assert saved == [tmp_path / "m.safetensors"]


def test_a_slow_disk_is_written_to_less_often(monkeypatch, tmp_path):
    monkeypatch.setattr(_checkpoint, "WORTH_WRITING", 50)
    now, saved = [0.0], []
    monkeypatch.setattr(_checkpoint.time, "monotonic", lambda: now[0])

    class Slow(Moments):
        def save(self, path, *, metadata):
            saved.append(now[0])
            now[0] += 3.0

    (tmp_path / "sign").touch()
    sums = _checkpoint.PartialSums(tmp_path / "m", tmp_path / "sign", "f", 60.0)
    write = sums.writer(list(range(1000)))
    for i in range(40):
        now[0] += 10.0
        write(Slow([2]), i)
    assert len(saved) == 3 and saved[0] == 60.0 and np.diff(saved).min() >= 150.0


@pytest.mark.parametrize("missing", ["folder", "sign", "room"])
def test_where_workers_cannot_write_they_sum_all_the_same(
    missing, monkeypatch, featurizer, expected, tmp_path
):
    monkeypatch.setattr(_corpus, "CHECKPOINT_SECONDS", 0.0)
    path = tmp_path / "m.safetensors"

    class Elsewhere(Workers):
        def __call__(self, function, tasks, n_jobs):
            for *task, sums in tasks:
                assert sums.sign.exists()
                if missing == "room":  # nothing can take the place of a folder
                    sums.of(list(task[1])).mkdir()
                else:
                    place = tmp_path / missing
                    sums = _checkpoint.PartialSums(place / "m", place / "s", "f", 0.0)
                    if missing == "sign":  # its own disk has a folder of that name
                        place.mkdir(exist_ok=True)
                yield function(*task, sums)
                if missing == "sign":
                    assert not list(place.iterdir())

    Elsewhere(monkeypatch)
    assert_same(gather(featurizer, n_jobs=2, checkpoint=path), expected)


# What is on disk


def test_a_checkpoint_of_the_first_pieces_is_of_the_format_before(featurizer, tmp_path):
    path = tmp_path / "m"
    gather(featurizer, checkpoint=path)
    facts = Moments.load(path, return_metadata=True)[1]
    assert facts["format"] == 2 and facts["pieces"] > 20


def test_a_checkpoint_of_other_pieces_says_which(interrupted):
    for path in (interrupted, *parts(interrupted)):
        facts = Moments.load(path, return_metadata=True)[1]
        assert facts["format"] == 3
        [[start, stop]] = facts["pieces"]
        assert stop > start >= 0


@pytest.mark.parametrize(
    "pieces",
    [
        *(5, None, "", [5], [[5]], [[5, 5]], [[3, 1]], [[1, 3], [2, 4]], [[-1, 3]]),
        *([[0, 10**6]], [[True, 2]], [[0.0, 2]], [["a", "b"]], {"a": 1}),
    ],
)
def test_pieces_that_are_none_are_damage(pieces, interrupted, featurizer):
    moments, facts = Moments.load(interrupted, return_metadata=True)
    moments.save(interrupted, metadata={**facts, "pieces": pieces})
    with pytest.raises(DamagedFileError, match=r"The checkpoint .* is damaged.*remove it to"):
        gather(featurizer, checkpoint=interrupted)


@pytest.mark.parametrize("where", [0, 40, -9, None])
def test_damaged_sums_are_gathered_again_with_a_warning(where, interrupted, featurizer, expected):
    path = parts(interrupted)[0]
    content = bytearray(path.read_bytes())
    if where is None:
        content = content[:1000]
    else:
        content[where] ^= 4
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=rf"{path.name}.*What it held is gathered again"):
        moments = gather(featurizer, checkpoint=interrupted)
    assert_same(moments, expected)
    assert others(interrupted) == []


def test_sums_of_another_corpus_are_left_alone(interrupted, featurizer):
    for gone in (False, True):
        if gone:
            interrupted.unlink()
        before = {path: path.read_bytes() for path in interrupted.parent.iterdir()}
        with pytest.raises(ValueError, match=r"m.safetensors.* belongs to another corpus"):
            corpus_moments(featurizer, PROTEINS[1:], checkpoint=interrupted)
        assert {path: path.read_bytes() for path in interrupted.parent.iterdir()} == before


def test_another_corpus_tells_of_the_files_beside(interrupted, featurizer):
    with pytest.raises(ValueError, match=r"or remove it and .*m\.safetensors\.\*\.part to start"):
        corpus_moments(featurizer, PROTEINS[1:], checkpoint=interrupted)


def test_sums_of_a_newer_version_are_left_alone(interrupted, featurizer):
    path = parts(interrupted)[0]
    moments, facts = Moments.load(path, return_metadata=True)
    moments.save(path, metadata={**facts, "format": 4})
    with pytest.raises(FormatError, match=r"partial sums .*reads up to 3"):
        gather(featurizer, checkpoint=interrupted)
    assert path.exists()


def test_names_of_checkpoints_are_no_patterns(monkeypatch, featurizer, tmp_path):
    (tmp_path / "[ab]*.000001.part").write_bytes(b"mine")
    (tmp_path / "a.000001.part").write_bytes(b"mine")
    with pytest.warns(UserWarning, match="gathered again"):
        gather(featurizer, checkpoint=tmp_path / "[ab]*")
    assert others(tmp_path / "[ab]*") == ["a.000001.part"]


# Real workers


class Struck(ESMFeaturizer):
    """Kills its own process at one protein, the first time."""

    def with_marks(self, folder, proteins):
        self.folder, self.proteins = str(folder), list(proteins)
        return self

    def iter_residues(self, sequences):
        for protein in set(self.proteins).intersection(sequences):
            try:
                (Path(self.folder) / protein).touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        return super().iter_residues(sequences)


@pytest.mark.slow
def test_dask_ends_alike_when_a_worker_is_killed(
    monkeypatch, dask_cluster, expected, tmp_path, recwarn
):
    monkeypatch.setattr(_corpus, "CHECKPOINT_SECONDS", 0.0)
    came, merge = [], Moments.merge
    monkeypatch.setattr(
        Moments, "merge", lambda self, other: came.append(other.n_rows) or merge(self, other)
    )
    (tmp_path / "marks").mkdir()
    path = tmp_path / "m.safetensors"
    with joblib.parallel_config(backend="dask"):
        struck = Struck(MODELS).with_marks(tmp_path / "marks", [PROTEINS[20]])
        assert_same(gather(struck, checkpoint=path), expected)
    assert (tmp_path / "marks" / PROTEINS[20]).exists()
    assert len(came) <= SPANS * 2 and others(path) == ["marks"]


@pytest.mark.slow
def test_of_killed_workers_of_joblib_the_sums_are_kept(monkeypatch, expected, tmp_path):
    monkeypatch.setattr(_corpus, "CHECKPOINT_SECONDS", 0.0)
    (tmp_path / "marks").mkdir()
    path = tmp_path / "m.safetensors"
    struck = Struck(MODELS).with_marks(tmp_path / "marks", [PROTEINS[14]])
    with pytest.raises(RuntimeError, match=r"A worker died.*They are in .*beside it; the same"):
        gather(struck, checkpoint=path, n_jobs=2)
    assert parts(path)
    assert_same(gather(struck, checkpoint=path, n_jobs=2), expected)
    assert others(path) == ["marks"]


@pytest.mark.slow
def test_a_killed_call_loses_little(featurizer, expected, tmp_path):
    """Kill -9 of the calling process while one of two workers hangs in the first span."""
    path = tmp_path / "m.safetensors"
    code = f"""
import time
from revdist_sklearn import ESMFeaturizer, _corpus, corpus_moments

class Slow(ESMFeaturizer):
    def iter_residues(self, sequences):
        if {PROTEINS[9]!r} in sequences:
            time.sleep(600)
        time.sleep(0.05)
        return super().iter_residues(sequences)

_corpus.PIECE_RESIDUES, _corpus.CHECKPOINT_SECONDS = 40, 0.0
corpus_moments(
    Slow({MODELS!r}), {PROTEINS!r}, precision="float64", checkpoint={str(path)!r}, n_jobs=2
)
"""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    end = time.monotonic() + 120
    try:
        while not (path.exists() and parts(path)) and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert Moments.load(parts(path)[0]).n_proteins > 0
    assert_same(gather(featurizer, checkpoint=path), expected)
    assert 0 < len(featurizer.seen) < len(PROTEINS) - 4
    assert others(path) == []
    with suppress(ProcessLookupError):  # the worker that hangs
        os.killpg(process.pid, signal.SIGKILL)
