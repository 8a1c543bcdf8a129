"""Runs over any number of proteins: the same rows as in memory, gone on with after any fault."""

import json
import os
import re
import signal
import warnings

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.frozen import FrozenEstimator

from revdist_sklearn import ESMFeaturizer, FastaReader, ReverseDistiller, embed_to, fit_on_corpus
from revdist_sklearn.datasets import load_uniprot_sample
from revdist_sklearn.library import _block, _embed_to, _job
from revdist_sklearn.library._shards import MANIFEST, ShardFolder

EMB = ESMFeaturizer("esm2-nano:64")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(_job, "BLOCK_RESIDUES", 400)


@pytest.fixture(scope="module")
def proteins():
    sample = load_uniprot_sample()
    return [
        (name, sequence[:150])
        for name, sequence in zip(sample.accessions[:12], sample.sequences[:12], strict=True)
    ]


@pytest.fixture(scope="module")
def distiller():
    corpus = load_uniprot_sample().sequences[100:200:2]
    return fit_on_corpus(ReverseDistiller(), EMB, [s[:60] for s in corpus] * 2, verbose=False)


def table(folder):
    """Return names and rows of all shards of a folder."""
    shards = list(ShardFolder.load(folder).shards())
    names = [name for shard in shards for name in shard.names]
    return names, np.concatenate([shard.rows for shard in shards])


def shards_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def in_memory(proteins, distiller, d=None):
    X = EMB.transform([sequence for _, sequence in proteins])
    return (distiller if d is None else distiller.truncate(d)).transform(X[:, :None])


# What is written


def test_rows_are_those_in_memory(tmp_path, proteins, distiller):
    report = embed_to(tmp_path / "z", EMB, proteins, distiller=FrozenEstimator(distiller))
    names, Z = table(tmp_path / "z")
    assert names == [name for name, _ in proteins] and Z.dtype == np.float32
    np.testing.assert_allclose(Z, in_memory(proteins, distiller), atol=1e-5)
    n_residues = sum(len(sequence) for _, sequence in proteins)
    assert (report.n_proteins, report.n_residues, report.n_columns) == (12, n_residues, 64)
    assert report.n_shards > 3 and report.n_found == 0
    facts = ShardFolder.load(tmp_path / "z").facts
    assert facts["columns"] == list(distiller.get_feature_names_out())
    assert facts["stages"] == [["esm2_nano_032", 32], ["esm2_nano_064", 64]]
    # The distiller lies beside them, for reconstructions.
    kept = ReverseDistiller.from_pretrained(tmp_path / "z" / "distiller")
    np.testing.assert_array_equal(kept.components_, distiller.components_)


def test_models_side_by_side_without_a_distiller(tmp_path, proteins):
    embed_to(tmp_path / "z", EMB, dict(proteins))
    X = EMB.transform([sequence for _, sequence in proteins])
    np.testing.assert_allclose(table(tmp_path / "z")[1], X, atol=1e-5)
    assert ShardFolder.load(tmp_path / "z").columns == list(EMB.get_feature_names_out())
    with pytest.raises(ValueError, match=r"`n_components`=5 .* no `distiller`"):
        embed_to(tmp_path / "y", EMB, proteins, n_components=5)


def test_a_prefix_runs_the_models_that_it_needs(tmp_path, proteins, distiller, monkeypatch):
    expected, runs = in_memory(proteins, distiller)[:, :20], []
    of = _block.ProteinRows.of
    monkeypatch.setattr(
        _block.ProteinRows, "of", lambda self, s: runs.append(self.plan.members) or of(self, s)
    )
    embed_to(tmp_path / "z", EMB, proteins, distiller=distiller, n_components=20)
    assert {len(members) for members in runs} == {1}
    np.testing.assert_allclose(table(tmp_path / "z")[1], expected, atol=1e-5)


def test_half_precision_rounds_and_ends_at_its_range(tmp_path, proteins, distiller):
    embed_to(tmp_path / "z", EMB, proteins, distiller=distiller, dtype="float16")
    Z = table(tmp_path / "z")[1]
    assert Z.dtype == np.float16
    np.testing.assert_allclose(Z, in_memory(proteins, distiller), rtol=1e-3, atol=1e-4)
    large = ReverseDistiller((32, 64), rotate_base=True)
    X = EMB.transform([sequence for _, sequence in proteins])
    large.fit(np.vstack([X] * 20) + np.random.default_rng(0).normal(size=(240, 96)) * 0.1)
    for stage in large._chain.stages:
        stage.directions[:] *= 1e6
    with pytest.raises(ValueError, match=rf"{proteins[0][0]}.*float16 ends at 65504.*float32"):
        embed_to(tmp_path / "y", EMB, proteins, distiller=large, dtype="float16")


@pytest.mark.parametrize("too_long", ["window", "truncate"])
def test_rows_of_residues_and_what_was_cut(tmp_path, proteins, distiller, too_long):
    emb = ESMFeaturizer("esm2-nano:64", max_length=60, too_long=too_long)
    sequences = [sequence for _, sequence in proteins]
    with pytest.warns(UserWarning, match="cut") if too_long == "truncate" else no_warning():
        expected = np.concatenate([rows for rows, _ in emb.iter_residues(checked(emb, sequences))])
    report = embed_to(tmp_path / "z", emb, proteins, distiller=distiller, level="residue")
    folder = ShardFolder.load(tmp_path / "z")
    found = [protein for shard in folder.shards() for protein in shard.proteins()]
    assert [(name, length) for name, length, _ in found] == [(n, len(s)) for n, s in proteins]
    cut = 60 if too_long == "truncate" else 1000
    assert [len(rows) for _, _, rows in found] == [min(len(s), cut) for s in sequences]
    Z = np.concatenate([rows for _, _, rows in found])
    np.testing.assert_allclose(Z, distiller.transform(expected), atol=2e-5)
    assert folder.facts["limit"] == 60 and folder.facts["too_long"] == too_long
    assert report.n_truncated == (12 - sum(len(s) <= 60 for s in sequences)) * (cut == 60)


def checked(emb, sequences):
    return emb.embedding_plan("residue").prepare(sequences)


class no_warning:
    def __enter__(self):
        pass

    def __exit__(self, *fault):
        pass


@pytest.mark.parametrize(
    ("parameters", "name"),
    [({"pooling": "max"}, "pooling"), ({"reference": "MKT"}, "reference")],
)
def test_pooling_has_no_part_in_residues(tmp_path, proteins, parameters, name):
    emb = ESMFeaturizer("esm2-nano:32", **parameters)
    with pytest.raises(ValueError, match=rf"`{name}`=.* no part in rows of residues"):
        embed_to(tmp_path / "z", emb, proteins, level="residue")
    assert not (tmp_path / "z").exists()


def test_positions_that_a_protein_has_not_are_told_by_its_name(tmp_path, proteins):
    emb = ESMFeaturizer("esm2-nano:32", pooling=[2, 100])
    short = [proteins[0], ("short", "MKT")]
    with pytest.raises(ValueError, match=r"^short has 3 residues, but `pooling` names position"):
        embed_to(tmp_path / "z", emb, short)
    with pytest.raises(ValueError, match="`reference` has 3 residues"):
        embed_to(tmp_path / "x", emb.__class__(**{**emb.get_params(), "reference": "MKT"}), short)
    embed_to(tmp_path / "y", emb, proteins[:1])
    expected = emb.transform([proteins[0][1]])
    np.testing.assert_allclose(table(tmp_path / "y")[1], expected, atol=1e-5)


def test_records_that_cannot_be_embedded_are_left_out_and_listed(tmp_path, proteins):
    bad = [*proteins[:3], ("bad\x1b", "MK1T"), *proteins[3:5], proteins[0]]
    with pytest.raises(ValueError, match=r"record 3 \(bad\\x1b\) has '1' at position 2"):
        embed_to(tmp_path / "z", EMB, bad)
    assert not (tmp_path / "z").exists()
    report = embed_to(tmp_path / "z", EMB, bad, skip_bad=True)
    assert (report.n_proteins, report.n_skipped) == (5, 2)
    assert table(tmp_path / "z")[0] == [name for name, _ in proteins[:5]]
    lines = (tmp_path / "z.skipped.tsv").read_text().splitlines()
    assert len(lines) == 3 and "earlier record" in lines[2]


# Gone on with


@pytest.fixture
def written(monkeypatch):
    """Names of the shards that are computed."""
    names = []
    write = _embed_to.write_block

    def noted(run, name, block):
        done = write(run, name, block)
        if done[1] != "found":
            names.append(name)
        return done

    monkeypatch.setattr(_embed_to, "write_block", noted)
    return names


def test_the_same_call_goes_on_and_a_finished_one_computes_nothing(
    tmp_path, proteins, distiller, monkeypatch, written
):
    embed_to(tmp_path / "whole", EMB, proteins, distiller=distiller)
    n = len(written)

    def interrupted(run, name, block):
        if len(written) == n + 2:
            raise KeyboardInterrupt
        written.append(name)
        return _block.write_block(run, name, block)

    with monkeypatch.context() as patch:
        patch.setattr(_embed_to, "write_block", interrupted)
        with pytest.raises(KeyboardInterrupt) as raised:
            embed_to(tmp_path / "z", EMB, iter(proteins), distiller=distiller)
    assert raised.value.__notes__ == [
        f"2 whole shards are in {tmp_path / 'z'}; the same call goes on from there."
    ]
    with pytest.raises(ValueError, match="not complete"):
        table(tmp_path / "z")
    report = embed_to(tmp_path / "z", EMB, iter(proteins), distiller=distiller)
    assert report.n_found == 2 and report.n_shards == n and len(written) == 2 * n
    assert shards_of(tmp_path / "z").keys() == shards_of(tmp_path / "whole").keys()
    np.testing.assert_array_equal(table(tmp_path / "z")[1], table(tmp_path / "whole")[1])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "z").glob("shard-*")}
    report = embed_to(tmp_path / "z", EMB, proteins, distiller=distiller)
    assert report.n_found == n and len(written) == 2 * n
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "other"])
def test_a_damaged_shard_is_named_and_made_again(tmp_path, proteins, damage, capsys, written):
    embed_to(tmp_path / "z", EMB, proteins)
    expected, n = table(tmp_path / "z"), len(written)
    first, second, *_ = sorted((tmp_path / "z").glob("shard-*"))
    data = bytearray(second.read_bytes())
    if damage == "cut":
        second.write_bytes(data[:-1])
    elif damage == "bit":
        data[-5] ^= 4
        second.write_bytes(data)
    elif damage == "gone":
        second.unlink()
    else:
        second.write_bytes(first.read_bytes())
    embed_to(tmp_path / "z", EMB, proteins, verbose=1)
    assert written[n:] == [second.name]
    said = capsys.readouterr().err
    assert (f"{second} was damaged, and is made again" in said) == (damage != "gone")
    names, rows = table(tmp_path / "z")
    assert names == expected[0]
    np.testing.assert_array_equal(rows, expected[1])


def test_other_input_or_settings_are_refused_and_nothing_is_touched(tmp_path, proteins, distiller):
    embed_to(tmp_path / "z", EMB, proteins)
    before = shards_of(tmp_path / "z"), (tmp_path / "z" / MANIFEST).read_bytes()
    settings = "other models or settings"
    n_of_two = sum(entry["n_proteins"] for entry in ShardFolder.load(tmp_path / "z").entries[:2])
    for sequences, options, said in (
        (proteins, {"distiller": distiller}, settings),
        (proteins, {"dtype": "float16"}, settings),
        (proteins, {"level": "residue"}, settings),
        (proteins[:6], {}, "of other sequences"),
        (iter(proteins[:n_of_two]), {}, "of more sequences"),
        (iter([("x", "MKT"), *proteins]), {}, "of other sequences"),
    ):
        with pytest.raises(FileExistsError, match=said):
            embed_to(tmp_path / "z", EMB, sequences, **options)
        assert shards_of(tmp_path / "z") == before[0]
    assert len(table(tmp_path / "z")[0]) == 12
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("of three years")
    with pytest.raises(FileExistsError, match="something else than embeddings"):
        embed_to(other, EMB, proteins)


def test_of_a_stream_with_a_fault_whole_shards_stay(tmp_path, proteins, monkeypatch):
    from revdist_sklearn.library import _records

    monkeypatch.setattr(_records, "BLOCK", (2, 10**6))
    bad = [*proteins[:9], ("bad", "MK?"), *proteins[9:]]
    with pytest.raises(ValueError, match=r"record 9 \(bad\) has '\?'") as raised:
        embed_to(tmp_path / "z", EMB, iter(bad))
    assert re.search("whole shards? (is|are) in", raised.value.__notes__[0])
    n = len(shards_of(tmp_path / "z"))
    assert n >= 2
    report = embed_to(tmp_path / "z", EMB, iter(proteins))
    assert report.n_found == n
    assert table(tmp_path / "z")[0] == [name for name, _ in proteins]


def test_a_fasta_file_is_checked_before_a_model_runs(tmp_path, proteins, monkeypatch):
    path = tmp_path / "p.fasta"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in proteins))
    embed_to(tmp_path / "z", EMB, FastaReader(path))
    assert table(tmp_path / "z")[0] == [name for name, _ in proteins]
    monkeypatch.setattr(_embed_to, "write_block", None)
    with open(path, "a") as file:
        file.write(">b\nMKT!\n>c\n\n")
    with pytest.raises(ValueError, match=r"b \(line 25\) has '!'.*c \(line 27\) has no sequence"):
        embed_to(tmp_path / "y", EMB, FastaReader(path))
    assert not (tmp_path / "y").exists()


def test_input_that_changes_between_two_readings_is_told(tmp_path, proteins, monkeypatch):
    class Changing(list):
        def __iter__(self):
            yield from super().__iter__()
            self[-1] = ("other", "MKTAYIAKQR")

    with pytest.raises(RuntimeError, match="changed while they were read"):
        embed_to(tmp_path / "z", EMB, Changing(proteins))
    with pytest.raises(ValueError, match="not complete"):
        table(tmp_path / "z")


def test_two_processes_do_not_write_at_once(tmp_path, proteins):
    pytest.importorskip("fcntl")
    from revdist_sklearn.library._lock import only_one

    embed_to(tmp_path / "z", EMB, proteins)
    with only_one(tmp_path / "z"), pytest.raises(OSError, match="Another process is writing"):
        embed_to(tmp_path / "z", EMB, proteins)


def test_other_weights_than_at_the_beginning_are_an_error(tmp_path, proteins, monkeypatch):
    monkeypatch.setattr(_embed_to, "digest", lambda identity: "another")
    with pytest.raises(RuntimeError, match="weights of a model have changed"):
        embed_to(tmp_path / "z", EMB, proteins)
    assert not shards_of(tmp_path / "z")


def test_a_distiller_of_other_models_is_refused(tmp_path, proteins, distiller):
    with pytest.raises(ValueError, match="The featurizer gives the blocks"):
        embed_to(tmp_path / "z", ESMFeaturizer("esm2-nano:32"), proteins, distiller=distiller)
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize("level", ["protein", "residue"])
@pytest.mark.parametrize(
    "sequences", [[], iter([]), [("a", "MKT"), "MKT"], iter([("a",)]), "MKT", 7]
)
def test_what_is_no_input_is_an_error(tmp_path, sequences, level):
    with pytest.raises((ValueError, TypeError)):
        embed_to(tmp_path / "z", EMB, sequences, level=level)


# Single files


def test_a_single_file_takes_the_place_of_the_old_one_when_it_is_whole(
    tmp_path, proteins, distiller, monkeypatch, written
):
    path = tmp_path / "z.npz"
    path.write_bytes(b"the old one")

    def interrupted(run, name, block):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_embed_to, "assemble", interrupted)
        with pytest.raises((KeyboardInterrupt, TypeError)):
            embed_to(path, EMB, proteins, distiller=distiller)
    assert path.read_bytes() == b"the old one"
    n = len(written)
    embed_to(path, EMB, proteins, distiller=distiller)
    assert len(written) == n  # put together alone
    with np.load(path, allow_pickle=False) as file:
        assert file["names"].tolist() == [name for name, _ in proteins]
        np.testing.assert_allclose(file["embedding"], in_memory(proteins, distiller), atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["z.npz"]
    report = embed_to(path, EMB, proteins, distiller=distiller)
    assert len(written) == n and report.n_proteins == 12 and report.n_shards == 0
    embed_to(path, EMB, proteins[:5], distiller=distiller)
    with np.load(path, allow_pickle=False) as file:
        assert file["names"].tolist() == [name for name, _ in proteins[:5]]


@pytest.mark.parametrize("ending", ["", ".npz"])
def test_another_limit_is_another_setting(tmp_path, proteins, ending):
    path = tmp_path / f"z{ending}"
    for limit, too_long in ((40, "truncate"), (60, "truncate"), (60, "window"), (None, "error")):
        emb = ESMFeaturizer("esm2-nano:32", max_length=limit, too_long=too_long)
        if ending or limit == 40:
            embed_to(path, emb, proteins[:3])
            if ending:
                with np.load(path) as file, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    expected = emb.transform([sequence for _, sequence in proteins[:3]])
                    np.testing.assert_allclose(file["embedding"], expected, atol=1e-5)
        else:
            with pytest.raises(FileExistsError, match="limit"):
                embed_to(path, emb, proteins[:3])


def test_a_distiller_that_lies_there_is_not_taken_for_another(tmp_path, proteins, distiller):
    other = fit_on_corpus(
        ReverseDistiller(), EMB, [s[::-1] for _, s in proteins] * 3, verbose=False
    )
    embed_to(tmp_path / "z", EMB, proteins, distiller=other)
    for path in (tmp_path / "z").glob("shard-*"):
        path.unlink()
    (tmp_path / "z" / MANIFEST).write_text("damaged")
    embed_to(tmp_path / "z", EMB, proteins, distiller=distiller)
    np.testing.assert_allclose(table(tmp_path / "z")[1], in_memory(proteins, distiller), atol=1e-5)


def test_a_fault_before_the_first_shard_is_gone_on_from(
    tmp_path, proteins, distiller, monkeypatch
):
    def full(self, folder):
        os.makedirs(folder)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ReverseDistiller, "save_pretrained", full)
        with pytest.raises(OSError, match="No space"):
            embed_to(tmp_path / "z", EMB, proteins, distiller=distiller)
    embed_to(tmp_path / "z", EMB, proteins, distiller=distiller)
    assert len(table(tmp_path / "z")[0]) == 12


def test_shards_that_a_kill_has_left_beside_a_finished_file_go(tmp_path, proteins, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_embed_to, "_remove", lambda folder: None)
        embed_to(tmp_path / "z.npz", EMB, proteins)
    assert (tmp_path / "z.npz.shards").exists()
    embed_to(tmp_path / "z.npz", EMB, proteins)
    assert [path.name for path in tmp_path.iterdir()] == ["z.npz"]


def test_whatever_ends_the_input_whole_shards_stay(tmp_path, proteins, monkeypatch):
    from revdist_sklearn.library import _records

    monkeypatch.setattr(_records, "BLOCK", (2, 10**6))

    def broken():
        yield from proteins[:9]
        raise KeyError("a row of a database")

    with pytest.raises(KeyError) as raised:
        embed_to(tmp_path / "z", EMB, broken())
    assert re.search("whole shards? (is|are) in", raised.value.__notes__[0])
    assert len(shards_of(tmp_path / "z")) >= 2


def test_another_layout_is_another_file(tmp_path, proteins):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "z.h5"
    for layout, is_keyed in ((None, True), ("matrix", False), ("matrix", False), (None, True)):
        embed_to(path, EMB, proteins[:4], layout=layout)
        with h5py.File(path) as file:
            assert (proteins[0][0] in file) == is_keyed


def test_shards_of_a_call_with_other_settings_are_not_thrown_away(tmp_path, proteins, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_embed_to, "assemble", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed_to(tmp_path / "z.npz", EMB, proteins)
    with pytest.raises(
        FileExistsError, match=r"Repeat the call that began it, or remove .*shards"
    ):
        embed_to(tmp_path / "z.npz", EMB, proteins, dtype="float16")
    # Another list of proteins takes what it shares, and the rest goes.
    report = embed_to(tmp_path / "z.npz", EMB, [*proteins[:8], ("x", "MKT")])
    assert report.n_found > 0 and not (tmp_path / "z.npz.shards").exists()


def test_an_ending_that_is_none_is_told_before_the_work(tmp_path, proteins, monkeypatch):
    monkeypatch.setattr(_embed_to, "write_block", None)
    for name, options, said in (
        ("z.xlsx", {}, r"\.h5"),
        ("z.h5ad", {"level": "residue"}, "residue"),
        ("z.npz", {"layout": "keyed"}, "layout"),
        ("z", {"layout": "keyed"}, "layout"),
        ("z.npz", {"dtype": "float64"}, "dtype='float64' must be"),
        ("z.npz", {"level": "atom"}, "level='atom' must be"),
        ("z", {"n_jobs": 0}, "n_jobs"),
    ):
        with pytest.raises(ValueError, match=said):
            embed_to(tmp_path / name, EMB, proteins, **options)
    assert not list(tmp_path.iterdir())


# Workers


def killed_once(run, name, block):
    """Kill the worker of the first task, once."""
    mark = os.path.join(run.folder, ".killed")
    if not os.path.exists(mark):
        with open(mark, "x"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return _block.write_block(run, name, block)


@pytest.mark.slow
def test_the_shards_do_not_depend_on_the_number_of_workers_nor_on_one_that_dies(
    tmp_path, proteins, distiller, monkeypatch
):
    embed_to(tmp_path / "one", EMB, proteins, distiller=distiller)
    monkeypatch.setattr(_embed_to, "write_block", killed_once)
    with pytest.raises(RuntimeError, match="A worker died") as raised:
        embed_to(tmp_path / "two", EMB, proteins, distiller=distiller, n_jobs=2)
    assert "goes on" in raised.value.__notes__[0] or "Nothing is" in raised.value.__notes__[0]
    embed_to(tmp_path / "two", EMB, proteins, distiller=distiller, n_jobs=2)
    (names, one), (same, two) = table(tmp_path / "one"), table(tmp_path / "two")
    assert names == same == [name for name, _ in proteins]
    assert shards_of(tmp_path / "one").keys() == shards_of(tmp_path / "two").keys()
    np.testing.assert_allclose(one, two, atol=1e-5)
    facts = [json.loads((tmp_path / n / MANIFEST).read_text()) for n in ("one", "two")]
    assert facts[0]["settings"] == facts[1]["settings"] and facts[0]["input"] == facts[1]["input"]


@pytest.mark.slow
def test_on_dask_and_one_worker_dies(tmp_path, proteins, distiller, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(_embed_to, "write_block", killed_once)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        parallel_config(backend="dask"),
    ):
        embed_to(tmp_path / "z", EMB, proteins, distiller=distiller)
    assert (tmp_path / "z" / ".killed").exists()
    names, Z = table(tmp_path / "z")
    assert names == [name for name, _ in proteins]
    np.testing.assert_allclose(Z, in_memory(proteins, distiller), atol=1e-5)


# Kills of what is made before the shards, and of what is removed after them


def test_a_run_that_is_killed_as_it_begins_is_gone_on_with(
    tmp_path, proteins, distiller, monkeypatch
):
    """What tells that a folder is ours is there before anything else is."""
    with monkeypatch.context() as killed:
        save = ReverseDistiller.save_pretrained

        def save_and_die(*arguments):
            save(*arguments)
            raise KeyboardInterrupt

        killed.setattr(ReverseDistiller, "save_pretrained", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            embed_to(tmp_path / "z", EMB, proteins, distiller=distiller)
    assert embed_to(tmp_path / "z", EMB, proteins, distiller=distiller).n_proteins == 12
    assert ReverseDistiller.from_pretrained(tmp_path / "z" / "distiller").n_components_ == 64


@pytest.mark.parametrize("left", ["a shard less", "all but what tells of them", "an empty folder"])
def test_a_removal_that_is_killed_is_finished_by_the_next_call(
    tmp_path, proteins, distiller, monkeypatch, left
):
    output, folder = tmp_path / "z.npz", tmp_path / "z.npz.shards"
    with monkeypatch.context() as killed:
        killed.setattr(_embed_to, "_remove", lambda folder: None)
        embed_to(output, EMB, proteins, distiller=distiller)
    before = output.read_bytes()
    if left == "a shard less":
        next(folder.glob("shard-*")).unlink()
    else:
        (folder / MANIFEST).rename(tmp_path / "kept")
        _embed_to._remove(folder)
        folder.mkdir()
        if left != "an empty folder":
            (tmp_path / "kept").rename(folder / MANIFEST)
    embed_to(output, EMB, proteins, distiller=distiller)
    assert output.read_bytes() == before and not folder.exists()


def test_what_tells_of_shards_is_removed_last(tmp_path, proteins, monkeypatch):
    unlink, names = type(tmp_path).unlink, []

    def noted(path, **options):
        names.append(path.name)
        if path.name.startswith("shard-"):
            assert (tmp_path / "z.npz.shards" / MANIFEST).exists()
        unlink(path, **options)

    monkeypatch.setattr(type(tmp_path), "unlink", noted)
    embed_to(tmp_path / "z.npz", EMB, proteins)
    assert sum(name.startswith("shard-") for name in names) > 3
    assert not (tmp_path / "z.npz.shards").exists()
