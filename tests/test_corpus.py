import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
from conftest import save_esm
from numpy.testing import assert_allclose

import revdist_sklearn
from revdist_sklearn import (
    DamagedFileError,
    ESMFeaturizer,
    Moments,
    ReverseDistiller,
    _corpus,
    corpus_moments,
    fit_on_corpus,
)
from revdist_sklearn._checkpoint import Checkpoint
from revdist_sklearn._corpus import warn_if_few_proteins
from revdist_sklearn.datasets import load_gb1_stability, load_uniprot_sample

PROTEINS = ["MKTAYIAKQR", "GSHMWWY", "MKTAYIAKQRQISFVKSHFSRQ", "ACDEFGHIKLMNPQRSTVWY", "MM"]


@pytest.fixture(scope="module")
def featurizer():
    return ESMFeaturizer("esm2-nano:64")


@pytest.fixture(scope="module")
def rows(featurizer):
    """All residues of the corpus at once, and their proteins."""
    rows, index = zip(*featurizer.iter_residues(PROTEINS), strict=True)
    return np.concatenate(rows), np.concatenate(index)


def test_moments_are_those_of_all_residues(featurizer, rows):
    X, protein = rows
    moments = corpus_moments(featurizer, PROTEINS, precision="float64", verbose=False)
    assert moments.block_sizes == (32, 64)
    assert moments.block_names == ("esm2_nano_032", "esm2_nano_064")
    assert (moments.n_rows, moments.n_proteins) == (sum(map(len, PROTEINS)), len(PROTEINS))
    expected = Moments((32, 64), precision="float64").update(X, proteins=protein)
    assert_allclose(moments.residue.covariance, np.cov(X.T.astype(float), bias=True), atol=1e-10)
    assert_allclose(moments.protein.scatter, expected.protein.scatter, atol=1e-10)


def test_residues_are_pooled_to_what_transform_gives(featurizer, rows):
    X, protein = rows
    pooled = np.array([X[protein == i].mean(axis=0) for i in range(len(PROTEINS))])
    assert_allclose(featurizer.transform(PROTEINS), pooled, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*too few:UserWarning")
def test_fit_on_corpus_is_fit_on_its_residues(featurizer, rows):
    X, _ = rows
    distiller = ReverseDistiller()
    assert fit_on_corpus(distiller, featurizer, PROTEINS, verbose=False) is distiller
    by_rows = ReverseDistiller((32, 64)).fit(X)
    assert_allclose(
        distiller.stages_[1].residual_variances, by_rows.stages_[1].residual_variances, atol=1e-8
    )
    assert distiller.get_feature_names_out()[-1] == "rd_esm2_nano_064__31"


@pytest.mark.filterwarnings("ignore:.*too few:UserWarning")
def test_pooled_embeddings_pass_as_the_featurizer_names_them(featurizer, recwarn):
    pytest.importorskip("pandas")
    distiller = fit_on_corpus(ReverseDistiller(), featurizer, PROTEINS, verbose=False)
    named = ESMFeaturizer("esm2-nano:64").set_output(transform="pandas").fit_transform(PROTEINS)
    recwarn.clear()
    assert_allclose(
        distiller.transform(named), distiller.transform(featurizer.transform(PROTEINS))
    )
    assert not recwarn.list
    with pytest.raises(ValueError, match="but ReverseDistiller was fitted on"):
        distiller.transform(named.iloc[:, ::-1])


@pytest.mark.parametrize("pooling", ["max", "cls"])
def test_refuses_other_pooling(pooling):
    featurizer = ESMFeaturizer("esm2-nano:32", pooling=pooling)
    with pytest.raises(ValueError, match=f"pooling='mean', not '{pooling}'"):
        fit_on_corpus(ReverseDistiller(), featurizer, PROTEINS)


def test_bad_sequences_are_named(featurizer):
    with pytest.raises(ValueError, match="Sequence 1"):
        corpus_moments(featurizer, ["MKT", "MK*"])


def test_progress_bar_counts_residues(featurizer, capsys):
    corpus_moments(featurizer, PROTEINS, verbose=1)
    assert "residue" in capsys.readouterr().err
    for verbose in (0, None):  # None: as the featurizer
        corpus_moments(featurizer, PROTEINS, verbose=verbose)
        assert not capsys.readouterr().err


# Pieces, workers and weights


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """A model's float32 output moves by 1e-8 with its threads, of which a worker has one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def many_pieces(monkeypatch):
    monkeypatch.setattr(_corpus, "PIECE_RESIDUES", 20)


def gather(featurizer, **kwargs):
    return corpus_moments(featurizer, PROTEINS, precision="float64", verbose=False, **kwargs)


def assert_same(a, b, tolerance=1e-10):
    assert (a.n_rows, a.n_proteins) == (b.n_rows, b.n_proteins)
    for one, other in ((a.residue, b.residue), (a.protein, b.protein)):
        scale = np.abs(other.scatter).max()
        assert_allclose(one.mean, other.mean, atol=tolerance)
        assert_allclose(one.scatter, other.scatter, atol=tolerance * scale)


def test_pieces_give_the_whole(featurizer, many_pieces):
    # Batches differ between pieces and the whole, and with them the last bits of the model.
    whole = gather(featurizer)
    _corpus.PIECE_RESIDUES = 10**6
    assert_same(whole, gather(featurizer), tolerance=1e-6)


def test_two_workers_give_the_same(featurizer, many_pieces):
    assert_same(gather(featurizer, n_jobs=2), gather(featurizer))


def test_tasks_are_small(featurizer, many_pieces, monkeypatch):
    """A task carries sequences and settings, not the D x D moments of the pieces before."""
    sizes = []

    def in_turn(function, tasks, n_jobs):
        for task in tasks:
            sizes.append(len(pickle.dumps(task)))
            yield function(*task)

    monkeypatch.setattr(_corpus, "as_they_come", in_turn)
    gather(featurizer, n_jobs=2)
    assert len(sizes) > 2 and max(sizes) < 2000


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same(featurizer, many_pieces, dask_cluster):
    with joblib.parallel_config(backend="dask"):
        on_dask = gather(featurizer)
    assert_same(on_dask, gather(featurizer))


def test_weighting_by_protein(featurizer, rows):
    X, protein = rows
    moments = gather(featurizer, weighting="protein")
    assert np.isclose(moments.n, len(PROTEINS)) and moments.n_rows == len(X)
    lengths = np.bincount(protein)
    assert_allclose(moments.mean, np.average(X, axis=0, weights=1 / lengths[protein]), atol=1e-6)
    # The mean of all residues is then the mean of proteins.
    assert_allclose(moments.mean, moments.protein.mean, atol=1e-6)


# Faults: what was merged before is kept, and the same call goes on from there.


class Faulty(ESMFeaturizer):
    """Breaks at one protein, until the file ``repaired`` exists."""

    def with_repair(self, path):
        self.repaired = str(path)
        return self

    def iter_residues(self, sequences):
        for rows, index in super().iter_residues(sequences):
            if PROTEINS[3] in sequences and not os.path.exists(self.repaired):
                rows = self.fault(rows)
            yield rows, index


class GivesNaN(Faulty):
    def fault(self, rows):
        rows[-1, 3] = np.nan
        return rows


class Interrupted(Faulty):
    def fault(self, rows):
        raise KeyboardInterrupt


class Dies(Faulty):
    def fault(self, rows):
        os._exit(1)


@pytest.fixture
def repaired(tmp_path):
    return tmp_path / "repaired"


@pytest.mark.parametrize(
    "kind, error, message, n_jobs",
    [
        (GivesNaN, ValueError, "embedding of sequence 3 is not finite", None),
        pytest.param(
            *(GivesNaN, ValueError, "embedding of sequence 3 is not finite", 2),
            marks=pytest.mark.slow,
        ),
        (Interrupted, KeyboardInterrupt, None, None),
        pytest.param(
            Dies,
            RuntimeError,
            r"A worker died.*pieces were merged\. (They are in|Nothing was kept yet)",
            2,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_goes_on_after_a_fault(
    kind, error, message, n_jobs, featurizer, many_pieces, repaired, tmp_path
):
    path = tmp_path / "moments.safetensors"
    # The other parameters are those of the featurizer, so that the checkpoint is its own.
    faulty = kind("esm2-nano:64").with_repair(repaired)
    with pytest.raises(error, match=message):
        gather(faulty, checkpoint=path, n_jobs=n_jobs)
    if n_jobs is None:  # with two workers the fault may come before the first piece
        before = Moments.load(path)
        assert 0 < before.n_proteins < 4
    repaired.touch()
    seen = []

    class Counts(kind):
        def iter_residues(self, sequences):
            seen.extend(sequences)
            return super().iter_residues(sequences)

    assert_same(
        gather(Counts("esm2-nano:64").with_repair(repaired), checkpoint=path), gather(featurizer)
    )
    if n_jobs is None:
        assert len(seen) == len(PROTEINS) - before.n_proteins


@pytest.mark.slow
def test_goes_on_after_the_process_was_killed(featurizer, many_pieces, tmp_path):
    path = tmp_path / "moments.safetensors"
    code = f"""
import os, signal
from revdist_sklearn import ESMFeaturizer, _corpus, corpus_moments

class Killed(ESMFeaturizer):
    def iter_residues(self, sequences):
        if {PROTEINS[3]!r} in sequences:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().iter_residues(sequences)

_corpus.PIECE_RESIDUES, _corpus.CHECKPOINT_SECONDS = 20, 0.0
corpus_moments(Killed("esm2-nano:64"), {PROTEINS!r}, precision="float64", checkpoint={str(path)!r})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert run.returncode == -signal.SIGKILL
    assert 0 < Moments.load(path).n_proteins < 4
    assert_same(gather(featurizer, checkpoint=path), gather(featurizer), tolerance=1e-6)


def test_a_finished_checkpoint_needs_no_pass(featurizer, tmp_path, monkeypatch):
    path = tmp_path / "moments.safetensors"
    first = gather(featurizer, checkpoint=path)
    monkeypatch.setattr(ESMFeaturizer, "iter_residues", None)
    assert_same(gather(featurizer, checkpoint=path), first, tolerance=0)


def test_a_full_disk_leaves_the_last_checkpoint(
    featurizer, many_pieces, repaired, tmp_path, monkeypatch
):
    path = tmp_path / "moments.safetensors"
    with pytest.raises(KeyboardInterrupt):
        gather(Interrupted("esm2-nano:64").with_repair(repaired), checkpoint=path)
    before = path.read_bytes()

    # A real fault of the file system: no file may grow beyond 4 kB.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.warns(UserWarning, match=r"cannot be written\. What it held before is still"):
            whole = gather(featurizer, checkpoint=path)
        with pytest.raises(KeyboardInterrupt):  # and it hides no other fault
            gather(Interrupted("esm2-nano:64").with_repair(repaired), checkpoint=tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    expected = gather(featurizer)
    assert_same(whole, expected)
    assert_same(gather(featurizer, checkpoint=path), expected)


def test_checkpoints_are_written_as_time_goes(featurizer, many_pieces, tmp_path, monkeypatch):
    monkeypatch.setattr(_corpus, "CHECKPOINT_SECONDS", 0.0)
    writes, write = [], Checkpoint._write
    monkeypatch.setattr(
        Checkpoint,
        "_write",
        lambda self, moments, done: (writes.append(len(done)), write(self, moments, done)),
    )
    gather(featurizer, checkpoint=tmp_path / "m.safetensors")
    assert writes == list(range(1, len(writes) + 1)) and len(writes) > 2


def test_a_checkpoint_of_other_input_is_refused(featurizer, tmp_path):
    path = tmp_path / "moments.safetensors"
    gather(featurizer, checkpoint=path)
    with pytest.raises(ValueError, match="belongs to another corpus"):
        corpus_moments(featurizer, PROTEINS[:3], checkpoint=path, verbose=False)
    with pytest.raises(ValueError, match="belongs to another corpus"):
        gather(featurizer, checkpoint=path, weighting="protein")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"layer": -1}, {"layer": 1}),
        ({"dtype": "float32"}, {"dtype": "bfloat16"}),
        ({"model_kwargs": None}, {"model_kwargs": {"attn_implementation": "eager"}}),
        (
            {"max_length": 12, "too_long": "window"},
            {"max_length": 14, "too_long": "window"},
        ),
        (
            {"max_length": 12, "too_long": "truncate"},
            {"max_length": 14, "too_long": "truncate"},
        ),
        (
            {"max_length": 12, "too_long": "window"},
            {"max_length": 12, "too_long": "truncate"},
        ),
        ({"too_long": "error"}, {"max_length": 12, "too_long": "window"}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*were cut to their first")
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, first, second):
    path = tmp_path / "moments.safetensors"
    gather(ESMFeaturizer("esm2-nano:32", **first), checkpoint=path)
    gather(ESMFeaturizer("esm2-nano:32", **first), checkpoint=path)
    with pytest.raises(ValueError, match="belongs to another corpus"):
        gather(ESMFeaturizer("esm2-nano:32", **second), checkpoint=path)


def test_what_rows_do_not_depend_on_does_not_part_checkpoints(tmp_path, monkeypatch):
    path = tmp_path / "moments.safetensors"
    first = gather(ESMFeaturizer("esm2-nano:32"), checkpoint=path)
    copied = shutil.copytree(_corpus_family(ESMFeaturizer("esm2-nano:32")), tmp_path / "other")
    monkeypatch.setattr(ESMFeaturizer, "iter_residues", None)
    same = {"token_budget": 99, "n_jobs": 2, "reference": "MK", "pooling": [0], "verbose": 1}
    for emb in (
        ESMFeaturizer("esm2-nano:32", cache_dir=tmp_path, max_length=999, **same),
        ESMFeaturizer("esm2-nano:32", device="cpu"),
    ):
        assert_same(gather(emb, checkpoint=path), first, tolerance=0)
    # The blocks have other names, which moments carry.
    with pytest.raises(ValueError, match="belongs to another corpus"):
        gather(ESMFeaturizer([str(copied)]), checkpoint=path)


def test_a_checkpoint_of_other_weights_is_refused(featurizer, tmp_path):
    """The same name and width, but another network."""
    path = tmp_path / "moments.safetensors"
    first, second = tmp_path / "1" / "model", tmp_path / "2" / "model"
    source = _corpus_family(featurizer)
    shutil.copytree(source, first)
    shutil.copytree(first, second)
    weights = second / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    gather(ESMFeaturizer([str(first)]), checkpoint=path)
    with pytest.raises(ValueError, match="belongs to another corpus"):
        gather(ESMFeaturizer([str(second)]), checkpoint=path)


@pytest.mark.parametrize("when", ["between", "within"])
def test_weights_that_change_during_the_pass_end_it(tmp_path, many_pieces, monkeypatch, when):
    """Moments of two models would be of none; what was merged before is kept."""
    folder, path = save_esm(tmp_path / "m"), tmp_path / "moments.safetensors"
    pieces, piece_moments = [], _corpus.piece_moments

    def counted(featurizer, sequences, *arguments, **options):
        pieces.append(sequences)
        if len(pieces) == 2 and when == "between":
            save_esm(folder, seed=7)
        return piece_moments(featurizer, sequences, *arguments, **options)

    class Saves(ESMFeaturizer):
        def iter_residues(self, sequences):
            yield from super().iter_residues(sequences)
            if len(pieces) == 2 and when == "within":
                save_esm(folder, seed=7)

    monkeypatch.setattr(_corpus, "piece_moments", counted)
    with pytest.raises(RuntimeError, match="have changed since the pass over the corpus began"):
        gather(Saves([folder]), checkpoint=path)
    assert Moments.load(path).n_proteins == len(pieces[0])
    with pytest.raises(ValueError, match="belongs to another corpus, family"):
        gather(Saves([folder]), checkpoint=path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda facts: facts.update(pieces=99), "99 pieces of 1"),
        (lambda facts: facts.update(pieces=True), "pieces is True"),
        (lambda facts: facts.pop("pieces"), "'pieces' is missing"),
    ],
)
def test_a_checkpoint_that_is_none_is_told(featurizer, tmp_path, change, words):
    path = tmp_path / "moments.safetensors"
    moments = gather(featurizer, checkpoint=path)
    _, facts = Moments.load(path, return_metadata=True)
    change(facts)
    moments.save(path, metadata=facts)
    with pytest.raises(DamagedFileError, match=rf"The checkpoint .*{words}.*remove it to start"):
        gather(featurizer, checkpoint=path)


def test_a_damaged_checkpoint_says_how_to_go_on(featurizer, tmp_path, monkeypatch):
    path = tmp_path / "moments.safetensors"
    gather(featurizer, checkpoint=path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    monkeypatch.setattr(ESMFeaturizer, "iter_residues", None)
    with pytest.raises(DamagedFileError, match=r"digest does not .*As a checkpoint, remove it"):
        gather(featurizer, checkpoint=path)
    assert path.read_bytes() == content


def test_moments_tell_of_models_and_corpus(featurizer, tmp_path):
    path = tmp_path / "moments.safetensors"
    for moments in (
        gather(featurizer),
        gather(featurizer, checkpoint=path),
        gather(featurizer, checkpoint=path),
    ):
        assert moments.provenance == gather(featurizer).provenance
    members, [corpus], version = moments.provenance.values()
    assert [member["block"] for member in members] == ["esm2_nano_032", "esm2_nano_064"]
    assert members[0]["weights"] != members[1]["weights"]
    assert (corpus["n_proteins"], corpus["n_residues"]) == (5, sum(map(len, PROTEINS)))
    assert version == revdist_sklearn.__version__
    other = corpus_moments(featurizer, PROTEINS[::-1], verbose=False).provenance
    assert other["members"] == members and other["corpora"][0]["digest"] != corpus["digest"]


def _corpus_family(featurizer):
    return featurizer.embedding_plan().members[0].source


@pytest.mark.parametrize("name", [".", "missing/m.safetensors"])
def test_a_checkpoint_that_cannot_be_a_file(featurizer, tmp_path, name, monkeypatch):
    monkeypatch.setattr(ESMFeaturizer, "iter_residues", None)  # found before the pass
    with pytest.raises(OSError, match="cannot be a file"):
        gather(featurizer, checkpoint=tmp_path / name)


def test_a_pass_that_fails_leaves_the_distiller_as_it_was(featurizer, repaired):
    distiller = ReverseDistiller()
    with pytest.warns(UserWarning, match="too few"):
        fit_on_corpus(distiller, featurizer, PROTEINS, verbose=False)
    X = featurizer.transform(PROTEINS)
    before = distiller.transform(X)
    faulty = Interrupted("esm2-nano").with_repair(repaired)
    with pytest.raises(KeyboardInterrupt):
        fit_on_corpus(distiller, faulty, PROTEINS, verbose=False)
    assert_allclose(distiller.transform(X), before)


def test_parameters_are_checked_before_the_pass(featurizer, monkeypatch):
    monkeypatch.setattr(ESMFeaturizer, "iter_residues", None)
    with pytest.raises(ValueError, match="regressor"):
        fit_on_corpus(ReverseDistiller(regressor="lasso"), featurizer, PROTEINS)


def test_unknown_weighting(featurizer):
    with pytest.raises(ValueError, match="weighting='length' must be"):
        gather(featurizer, weighting="length")


def test_sizes_are_checked_before_the_pass(featurizer, monkeypatch):
    monkeypatch.setattr(ESMFeaturizer, "iter_residues", None)
    with pytest.raises(ValueError, match="n_components=65 is larger than the 64 columns"):
        fit_on_corpus(ReverseDistiller(n_components=65), featurizer, PROTEINS)


def test_residues_on_a_device_stay_there(featurizer, monkeypatch):
    torch = pytest.importorskip("torch")
    expected = gather(featurizer)
    seen = []
    update = Moments.update
    monkeypatch.setattr(_corpus, "_on_device", lambda featurizer: True)
    monkeypatch.setattr(
        Moments,
        "update",
        lambda self, rows, **kwargs: seen.append(rows) or update(self, rows, **kwargs),
    )
    assert_same(gather(featurizer), expected)
    assert seen and all(isinstance(rows, torch.Tensor) for rows in seen)
    faulty = GivesNaN("esm2-nano:64").with_repair("no such file")
    faulty.iter_residues = lambda sequences, as_tensor: (
        (torch.full_like(torch.as_tensor(rows), torch.nan), index)
        for rows, index in featurizer.iter_residues(sequences)
    )
    with pytest.raises(ValueError, match="embedding of sequence 0 is not finite"):
        gather(faulty)


def test_residues_that_a_device_has_no_room_to_look_at_are_summed_on_the_host(
    featurizer, monkeypatch
):
    torch = pytest.importorskip("torch")
    expected, update, refused = gather(featurizer), Moments.update, []

    def full(self, rows, **settings):
        if isinstance(rows, torch.Tensor):
            refused.append(len(rows))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return update(self, rows, **settings)

    monkeypatch.setattr(_corpus, "_on_device", lambda featurizer: True)
    monkeypatch.setattr(Moments, "update", full)
    assert_same(gather(featurizer), expected)
    assert sum(refused) == sum(map(len, PROTEINS))


def test_a_checkpoint_of_another_precision_is_refused(featurizer, tmp_path):
    path = tmp_path / "moments.safetensors"
    corpus_moments(featurizer, PROTEINS, checkpoint=path, precision="float32")
    for precision in (None, "float64"):
        with pytest.raises(ValueError, match="belongs to another corpus"):
            corpus_moments(featurizer, PROTEINS, checkpoint=path, precision=precision)


def test_variants_of_one_protein_are_no_corpus():
    emb = ESMFeaturizer("esm2-nano:32")
    variants = load_gb1_stability().sequences[:120]
    with pytest.warns(UserWarning, match="variants of one say little of others"):
        fit_on_corpus(ReverseDistiller([32]), emb, variants, verbose=False)
    # Diverse proteins, also of one length, are one.
    rng = np.random.default_rng(0)
    diverse = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 30)) for _ in range(120)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_few_proteins(diverse)
        warn_if_few_proteins(load_uniprot_sample().sequences)
    with pytest.warns(UserWarning, match="variants of one"):
        warn_if_few_proteins([*diverse[:40], *variants[:80]])
