"""Models of a fit are known again by their weights, whatever their folders are called."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import HUB_COMMITS, save_esm
from safetensors.numpy import load_file, save_file
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from revdist_sklearn import (
    ESMFeaturizer,
    Moments,
    PrefixSelector,
    ReverseDistiller,
    compact,
    corpus_moments,
    fit_on_corpus,
)
from revdist_sklearn._provenance import check_models
from revdist_sklearn.cli._main import main
from revdist_sklearn.models._fingerprint import tensors_digest

SEQUENCES = ["MKTAYIAKQR", "GIVEQCCTSI", "FVNQHLCGSH", "ACDEFGHIKL", "MNPQRSTVWY", "GSHMWGSHMW"]


@pytest.fixture
def folders(tmp_path):
    """Return two models as a training run saves them, in folders of one name."""
    names = [tmp_path / "small" / "checkpoint-500", tmp_path / "large" / "checkpoint-500"]
    return [save_esm(folder, width=w) for folder, w in zip(names, (8, 12), strict=True)]


def fitted(folders, tmp_path):
    distiller = fit_on_corpus(
        ReverseDistiller(), ESMFeaturizer(folders), SEQUENCES * 3, verbose=False
    )
    distiller.save_pretrained(tmp_path / "distiller")
    return ReverseDistiller.from_pretrained(tmp_path / "distiller")


def check(distiller, models, **options):
    plan = ESMFeaturizer(models, local_files_only=True).embedding_plan("residue")
    check_models(distiller, plan, "--models gives", "give those.", **options)


def test_the_record_of_a_fit_comes_back(folders, tmp_path):
    moments = corpus_moments(ESMFeaturizer(folders), SEQUENCES * 3, verbose=False)
    distiller = ReverseDistiller().fit_moments(moments)
    assert distiller.provenance_ == moments.provenance
    assert fitted(folders, tmp_path).provenance_ == moments.provenance
    cut = distiller.truncate(8)
    assert cut.provenance_ == {**moments.provenance, "members": moments.provenance["members"][:1]}
    cut.save_pretrained(tmp_path / "cut")
    assert ReverseDistiller.from_pretrained(tmp_path / "cut").provenance_ == cut.provenance_
    assert len(moments.provenance["members"]) == 2


def test_a_fit_on_rows_has_none(folders):
    X = ESMFeaturizer(folders).transform(SEQUENCES * 3)
    moments = corpus_moments(ESMFeaturizer(folders), SEQUENCES * 3, verbose=False)
    distiller = ReverseDistiller((8, 12)).fit_moments(moments)
    with pytest.warns(UserWarning, match="starts anew"):
        distiller.partial_fit(X)
    assert distiller.provenance_ is None
    assert distiller.fit_moments(moments).provenance_ is not None
    assert distiller.fit(X).provenance_ is None
    assert distiller.fit_moments(Moments((8, 12)).update(X)).provenance_ is None


def test_the_same_weights_under_another_name_are_the_same(folders, tmp_path):
    distiller = fitted(folders, tmp_path)
    copies = [shutil.copytree(f, tmp_path / f"copy_{i}") for i, f in enumerate(folders)]
    Path(copies[0], "trainer_state.json").write_text("{}")
    check(distiller, folders)
    check(distiller, copies)
    check(distiller.truncate(8), copies, n=1)


def saved_anew(source, folder, how):
    """Write the same tensors to other files."""
    shutil.copytree(source, folder)
    old = folder / "model.safetensors"
    tensors = load_file(old)
    old.unlink()
    if how == "other metadata":
        save_file(tensors, old, {"format": "pt", "of": "somebody else"})
    elif how == "other order":
        # The library sorts by itself; the format does not.
        header, data = {}, b""
        for name, array in sorted(tensors.items(), reverse=True):
            offsets = [len(data), len(data := data + array.tobytes())]
            header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": offsets}
        text = json.dumps(header).encode()
        old.write_bytes(len(text).to_bytes(8, "little") + text + data)
    else:
        names, parts = sorted(tensors), {}
        for i, part in enumerate((names[::2], names[1::2])):
            parts |= dict.fromkeys(part, f"model-{i}.safetensors")
            save_file({name: tensors[name] for name in part}, folder / f"model-{i}.safetensors")
        index = {"metadata": {}, "weight_map": parts}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("how", ["other metadata", "other order", "in two parts"])
def test_the_same_tensors_in_other_files_are_the_same(how, folders, tmp_path):
    distiller = fitted(folders, tmp_path)
    anew = [saved_anew(f, tmp_path / f"anew_{i}", how) for i, f in enumerate(folders)]
    check(distiller, anew)
    again = corpus_moments(ESMFeaturizer(anew), SEQUENCES * 3, verbose=False)
    np.testing.assert_array_equal(
        ReverseDistiller().fit_moments(again).components_, distiller.components_
    )
    # A record of before knows files alone, and so these are others.
    for member in distiller.provenance_["members"]:
        del member["tensors"]
    check(distiller, folders)
    with pytest.raises(ValueError, match="are not those"):
        check(distiller, anew)


def test_one_bit_of_a_tensor_is_another_model(folders, tmp_path):
    distiller = fitted(folders, tmp_path)
    path = saved_anew(folders[0], tmp_path / "anew", "other order") / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="anew are not those"):
        check(distiller, [tmp_path / "anew", folders[1]])


@pytest.mark.parametrize("start", [b"", b"\xff" * 99, b"\x05" + 7 * b"\0" + b"[1,2]", b"abc"])
def test_a_damaged_file_has_no_tensors(start, folders):
    Path(folders[0], "model.safetensors").write_bytes(start)
    assert tensors_digest(folders[0]) is None


def test_other_weights_under_the_same_name_are_others(folders, tmp_path):
    distiller = fitted(folders, tmp_path)
    save_esm(folders[1], width=12, seed=9)
    with pytest.raises(ValueError, match=r"weights of \S*large/checkpoint-500 are not those"):
        check(distiller, folders)
    check(distiller.truncate(8), folders, n=1)  # which the prefix does not need


def test_models_in_another_order_or_of_other_widths_are_told(folders, tmp_path):
    distiller = fitted(folders, tmp_path)
    for models in (folders[::-1], folders[:1]):
        with pytest.raises(ValueError, match=r"--models gives the blocks .*, but the"):
            check(distiller, models)


def without_record(distiller):
    distiller.provenance_ = None
    return distiller


def test_names_count_where_a_fit_knows_no_weights(folders, tmp_path):
    distiller = without_record(fitted(folders, tmp_path))
    check(distiller, folders)
    copies = [shutil.copytree(f, tmp_path / f"copy_{i}") for i, f in enumerate(folders)]
    with pytest.raises(ValueError, match=r"copy_0 \(8\).*fitted on checkpoint-500 \(8\)"):
        check(distiller, copies)
    save_esm(folders[1], width=12, seed=9)
    check(distiller, folders)


def test_arrays_without_names_stay_the_word_of_the_user(folders, tmp_path):
    X = ESMFeaturizer(folders).transform(SEQUENCES * 3)
    distiller = ReverseDistiller((8, 12)).fit(X)
    copies = [shutil.copytree(f, tmp_path / f"copy_{i}") for i, f in enumerate(folders)]
    check(distiller, copies)
    others = [save_esm(f, width=w, seed=9) for f, w in zip(folders, (8, 12), strict=True)]
    Z = fitted(copies, tmp_path).transform(ESMFeaturizer(others).transform(SEQUENCES))
    assert Z.shape == (6, 12)


def test_models_of_the_hub_are_known_by_commit_or_by_weights(hub_cache, tmp_path, no_network):
    snapshots = hub_cache("acme/tiny-seen") / "snapshots"
    emb = ESMFeaturizer("acme/tiny-seen", local_files_only=True)
    with pytest.warns(UserWarning, match="one block"):
        distiller = fit_on_corpus(ReverseDistiller(), emb, SEQUENCES, verbose=False)
    check(distiller, "acme/tiny-seen")
    copy = shutil.copytree(snapshots / HUB_COMMITS["main"], tmp_path / "copy")
    check(distiller, copy)
    save_esm(copy, seed=9)
    with pytest.raises(ValueError, match="weights of"):
        check(distiller, copy)


def test_names_count_where_the_weights_are_not_on_this_machine(hub_cache, no_network):
    snapshots = hub_cache("acme/tiny-gone") / "snapshots"
    emb = ESMFeaturizer("acme/tiny-gone", local_files_only=True)
    with pytest.warns(UserWarning, match="one block"):
        distiller = fit_on_corpus(ReverseDistiller(), emb, SEQUENCES, verbose=False)
    (snapshots / HUB_COMMITS["main"] / "model.safetensors").unlink()
    check(distiller, "acme/tiny-gone")
    distiller.blocks_ = type(distiller.blocks_)([8], ["another"])
    with pytest.raises(ValueError, match=r"tiny-gone \(8\), but the distiller .* another"):
        check(distiller, "acme/tiny-gone")


def model_of(emb, distiller):
    model = make_pipeline(emb, FrozenEstimator(distiller), PrefixSelector(6), Ridge())
    return model.fit(SEQUENCES, np.arange(6.0))


def test_compact_knows_the_models_by_their_weights(folders, tmp_path):
    distiller = fitted(folders, tmp_path)
    copies = [shutil.copytree(f, tmp_path / f"copy_{i}") for i, f in enumerate(folders)]
    model = model_of(ESMFeaturizer(copies), distiller)
    small = compact(model)
    np.testing.assert_allclose(small.predict(SEQUENCES), model.predict(SEQUENCES), atol=1e-5)
    save_esm(copies[0], width=8, seed=9)
    with pytest.raises(ValueError, match=r"weights of \S*copy_0 are not .*no model can be left"):
        compact(model)


def test_the_shell_knows_the_models_by_their_weights(folders, tmp_path, capsys):
    fitted(folders, tmp_path)
    copies = [str(shutil.copytree(f, tmp_path / f"copy_{i}")) for i, f in enumerate(folders)]
    (tmp_path / "p.fasta").write_text(">a\nMKTAYIAKQR\n")
    (tmp_path / "v.csv").write_text("mutated_sequence,DMS_score\n")
    common = ["--models", *copies, "--distiller", str(tmp_path / "distiller")]
    embed = ["embed", *common, "--fasta", str(tmp_path / "p.fasta")]
    embed += ["--output", str(tmp_path / "z.npz")]
    assert main(embed) == 0
    save_esm(copies[1], width=12, seed=9)
    assert main([*embed, "--n-components", "8"]) == 0  # which the second has no part in
    capsys.readouterr()
    assert main(embed) == 2
    assert "copy_1 are not those that the distiller was fitted on" in capsys.readouterr().err
