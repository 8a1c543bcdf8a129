import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from conftest import save_esm, save_t5
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import EsmModel, EsmTokenizer
from transformers.utils import logging as transformers_logging

from revdist_sklearn import DamagedFileError, ESMFeaturizer
from revdist_sklearn.base._hub import ModelNotFoundError
from revdist_sklearn.models import _device, _fingerprint, _loading
from revdist_sklearn.models._architectures import ARCHITECTURES
from revdist_sklearn.models._device import resolve_device
from revdist_sklearn.models._encoder import Encoder
from revdist_sklearn.models._family import resolve_family
from revdist_sklearn.models._fingerprint import weights_digest
from revdist_sklearn.models._loading import (
    Registry,
    check_model_kwargs,
    fingerprint,
    get_encoder,
    load,
)

CPU = torch.device("cpu")


def encoder_of(folder, dtype="float32", layer=-1):
    (member,) = resolve_family(str(folder))
    return load(member.folder(), member, dtype, layer, CPU)


def states_by_hand(folder, sequence, layer=-1):
    """Return all hidden states of one protein, special tokens included, the plain way."""
    model = EsmModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()
    tokens = EsmTokenizer.from_pretrained(folder)(sequence, return_tensors="pt")
    with torch.no_grad():
        return model(**tokens, output_hidden_states=True).hidden_states[layer][0].numpy()


def edit_weights(folder, change):
    """Let `change` edit the weights of a folder in place."""
    path = Path(folder) / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_sequences_of_one_length_go_without_a_mask(tiny_model):
    encoder = encoder_of(tiny_model, "float16")  # which is not packed
    seen = []
    encoder.model.register_forward_pre_hook(
        lambda model, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    encoder(["MKTAY", "GIVEQ"])
    encoder(["MKTAY", "GIV"])
    assert seen[0] is None
    assert seen[1].tolist() == [[1] * 7, [1] * 5 + [0] * 2]


def test_gradients_are_off_and_the_model_evaluates(tiny_model):
    encoder = encoder_of(tiny_model)
    assert not encoder.model.training
    residues, _ = encoder(["MKTAY"])
    assert residues[0].is_inference()


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("sequence", ["MKTAYIAKQR"])
def test_layer_is_the_hidden_state_of_that_number(tiny_model, layer, sequence):
    residues, first = encoder_of(tiny_model, layer=layer)([sequence, sequence + "GG"])
    expected = states_by_hand(tiny_model, sequence, layer)
    np.testing.assert_allclose(residues[0], expected[1:-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(first[0], expected[0], rtol=1e-5, atol=1e-5)


def test_layers_above_the_wanted_one_are_dropped(tiny_model):
    assert len(encoder_of(tiny_model, layer=-1).model.encoder.layer) == 2
    assert len(encoder_of(tiny_model, layer=1).model.encoder.layer) == 1


@pytest.mark.parametrize("layer", [3, -4])
def test_layer_out_of_range_names_the_range(tiny_model, layer):
    with pytest.raises(ValueError, match=r"which has 2 layers; use an integer in \[-3, 2\]"):
        encoder_of(tiny_model, layer=layer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_the_asked_one_and_not_the_checkpoints(tmp_path, dtype):
    folder = save_esm(tmp_path / "m", dtype="float16")
    edit_weights(folder, lambda weights: weights.update({k: v.half() for k, v in weights.items()}))
    model = encoder_of(folder, dtype).model
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{dtype}"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_and_comes_out_as_float32(tiny_model, dtype):
    exact, _ = encoder_of(tiny_model)(["MKTAYIAKQR"])
    near, first = encoder_of(tiny_model, dtype)(["MKTAYIAKQR"])
    assert near[0].dtype == first.dtype == torch.float32
    difference = (near[0] - exact[0]).abs().max()
    assert 0 < difference < (0.3 if dtype == "bfloat16" else 0.03)


@pytest.mark.parametrize("lm_head", [True, False])
def test_checkpoints_with_and_without_a_head_load_without_a_pooler(tmp_path, lm_head):
    folder = save_esm(tmp_path / "m", lm_head=lm_head)
    names = {name.partition(".")[0] for name in load_file(Path(folder) / "model.safetensors")}
    assert ("lm_head" in names) == lm_head
    encoder = encoder_of(folder)
    assert encoder.model.pooler is None
    residues, _ = encoder(["MKTAY"])
    np.testing.assert_allclose(residues[0], states_by_hand(folder, "MKTAY")[1:-1], atol=1e-5)


def test_missing_weights_name_checkpoint_and_keys(tmp_path):
    folder = save_esm(tmp_path / "m")

    def drop(weights):
        del weights["esm.encoder.layer.0.attention.self.query.weight"]
        del weights["esm.embeddings.word_embeddings.weight"]

    edit_weights(folder, drop)
    with pytest.raises(ValueError, match="lacks 2 weights of EsmModel") as caught:
        encoder_of(folder)
    message = str(caught.value)
    assert repr(folder) in message and "random" in message
    assert "embeddings.word_embeddings.weight" in message
    assert "encoder.layer.0.attention.self.query.weight" in message


def test_weights_that_play_no_part_may_be_missing(tmp_path):
    folder = save_esm(tmp_path / "m")
    expected = states_by_hand(folder, "MKTAYIAKQR")[1:-1]

    def drop(weights):
        del weights["esm.contact_head.regression.weight"]
        del weights["esm.contact_head.regression.bias"]
        for name in [name for name in weights if name.endswith("inv_freq")]:
            del weights[name]  # follow from the configuration

    edit_weights(folder, drop)
    residues, _ = encoder_of(folder)(["MKTAYIAKQR"])
    np.testing.assert_allclose(residues[0], expected, atol=1e-5)


def test_checkpoints_of_the_hubs_age_load_with_their_rotary_frequencies(tmp_path):
    # ESM-2 on the hub was saved by transformers 4: frequencies in each layer, rounded, with
    # tables of positions that rotary models do not use.
    folder = save_esm(tmp_path / "m", width=8, layers=2)

    def age(weights):
        names = [name for name in weights if name.endswith("inv_freq")]
        frequencies = weights[names[0]] * 1.1
        for name in names:
            del weights[name]
        for layer in range(2):
            name = f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
            weights[name] = frequencies.clone()
        weights["esm.embeddings.position_ids"] = torch.arange(1026)[None]
        weights["esm.embeddings.position_embeddings.weight"] = torch.ones(1026, 8)

    def frequencies():
        buffers = encoder_of(folder).model.named_buffers()
        return np.array([buffer for name, buffer in buffers if name.endswith("inv_freq")])

    new = frequencies()
    edit_weights(folder, age)
    np.testing.assert_allclose(frequencies() / new, 1.1, rtol=1e-5)


def test_weights_of_another_shape_or_a_damaged_file(tmp_path):
    folder = save_esm(tmp_path / "m")
    name = "esm.encoder.layer.0.intermediate.dense.bias"
    edit_weights(folder, lambda weights: weights.update({name: torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"do not fit the EsmModel") as caught:
        encoder_of(folder)
    assert repr(folder) in str(caught.value)
    (Path(folder) / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"file is damaged"):
        encoder_of(folder)


def test_class_that_transformers_does_not_have_yet(tiny_model, monkeypatch):
    absent = replace(ARCHITECTURES["esm"], model_class="EsmNextModel")
    monkeypatch.setitem(ARCHITECTURES, "esm", absent)
    with pytest.raises(ImportError, match="EsmNextModel") as caught:
        encoder_of(tiny_model)
    assert transformers.__version__ in str(caught.value)
    assert "pip install -U transformers" in str(caught.value)


def test_loading_is_silent_and_leaves_settings_as_they_were(tiny_model, capfd):
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    encoder_of(tiny_model)
    assert capfd.readouterr() == ("", "")
    after = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    assert after == before == (transformers_logging.WARNING, True)
    (member,) = resolve_family(tiny_model)
    load(member.folder(), member, "float32", -1, CPU, silent=False)
    assert "Loading weights" in capfd.readouterr().err


def test_threads_of_torch_are_left_alone(tiny_model):
    before = torch.get_num_threads(), torch.get_num_interop_threads()
    encoder_of(tiny_model)(["MKTAY"])
    assert (torch.get_num_threads(), torch.get_num_interop_threads()) == before


def test_loading_a_folder_touches_no_network(tiny_model, no_network):
    encoder_of(tiny_model)(["MKTAY"])


def test_device_by_name():
    assert resolve_device("cpu") == CPU
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device(None).type == expected
    for device in ("abacus", "cuda:99"):
        with pytest.raises(ValueError, match=f"`device`='{device}' cannot be used here"):
            resolve_device(device)


# The registry


def test_registry_is_bounded_and_drops_the_least_recently_used():
    registry = Registry(2)
    loads = []

    def get(key):
        return registry.get(key, lambda: loads.append(key) or key.upper())

    assert [get(key) for key in "abacaba"] == list("ABACABA")
    assert loads == ["a", "b", "c", "b"]
    assert len(registry) == 2
    registry.clear()
    assert len(registry) == 0


def test_registry_survives_a_failed_load():
    registry = Registry(1)
    with pytest.raises(ZeroDivisionError):
        registry.get("a", lambda: 1 / 0)
    assert len(registry) == 0
    assert registry.get("a", lambda: 1) == 1


def test_registry_loads_once_for_many_threads():
    registry = Registry(2)
    start = threading.Barrier(8)
    loads, found = [], []

    def load_slowly():
        loads.append(1)
        threading.Event().wait(0.05)
        return object()

    def work():
        start.wait(10)
        found.append(registry.get("a", load_slowly))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(loads) == 1
    assert len(found) == 8 and len(set(map(id, found))) == 1


@pytest.fixture
def registry(monkeypatch):
    """Put an empty registry in place of the process's own."""
    registry = Registry(_loading.MAX_MODELS)
    monkeypatch.setattr(_loading, "REGISTRY", registry)
    return registry


def get(folder, dtype="float32", layer=-1, device=CPU, **model_kwargs):
    (member,) = resolve_family(str(folder))
    return get_encoder(member, dtype=dtype, layer=layer, device=device, model_kwargs=model_kwargs)


def test_registry_key_is_content_dtype_layer_and_device(tiny_family, tmp_path, registry):
    model = get(tiny_family[1])
    assert get(tiny_family[1]) is model
    assert get(shutil.copytree(tiny_family[1], tmp_path / "copy")) is model
    assert get(tiny_family[1], dtype="bfloat16") is not model
    assert get(tiny_family[1], layer=0) is not model
    assert get(tiny_family[1], device=torch.device("meta")).device.type == "meta"
    assert get(tiny_family[0]) is not model
    assert get(tiny_family[1]) is model
    assert len(registry) == 5


def test_registry_of_the_process_is_bounded(tiny_model, registry):
    for layer in range(-3, 3):
        for dtype in ("float32", "bfloat16", "float16"):
            get(tiny_model, dtype, layer)
    assert len(registry) == registry.size == 8


def test_weights_changed_in_place_are_loaded_again(tmp_path, registry):
    folder = save_esm(tmp_path / "m")
    before, _ = get(folder)(["MKTAY"])
    edit_weights(
        folder, lambda weights: weights["esm.embeddings.word_embeddings.weight"].mul_(-1.5)
    )
    after, _ = get(folder)(["MKTAY"])
    assert (after[0] - before[0]).abs().max() > 0.1


def test_fingerprint_follows_each_file_that_matters(tmp_path):
    folder = Path(save_esm(tmp_path / "m"))
    seen = {fingerprint(folder)}
    (folder / "notes.md").write_text("of no account")
    assert fingerprint(folder) in seen
    (folder / "spiece.model").write_bytes(b"a sentencepiece vocabulary")
    (folder / "modeling_own.py").write_text("# code of the repository")
    seen.add(fingerprint(folder))
    names = ("config.json", "vocab.txt", "model.safetensors", "spiece.model", "modeling_own.py")
    for name in names:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        seen.add(fingerprint(folder))
    assert len(seen) == 2 + len(names)


def snapshot_of(repository, source, *, linked=True):
    """Put a model where the hub's cache has one: links into blobs, or files of that place."""
    folder = repository / "snapshots" / ("0123456789" * 4)
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in Path(source).iterdir():
        if linked:
            shutil.copy(path, repository / "blobs" / path.name)
            (folder / path.name).symlink_to(Path("../../blobs") / path.name)
        else:
            shutil.copy(path, folder)
    return folder


def test_fingerprint_of_a_hub_snapshot_is_its_commit(tmp_path, tiny_model):
    folder = snapshot_of(tmp_path / "models--acme--tiny", tiny_model)
    assert fingerprint(folder) == "models--acme--tiny@" + "0123456789" * 4
    assert weights_digest(folder) == weights_digest(tiny_model)


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_only_named_like_a_snapshot_is_known_by_its_contents(tmp_path, tiny_model, linked):
    folder = snapshot_of(tmp_path / "models--acme--tiny", tiny_model, linked=linked)
    if linked:  # but one file to somewhere else
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").symlink_to(Path(tiny_model) / "model.safetensors")
    assert fingerprint(folder) == fingerprint(tiny_model)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(content[:-1] + b"x")
    assert fingerprint(folder) != fingerprint(tiny_model)


def test_the_digest_of_weights_is_of_them_alone(tmp_path, tiny_model):
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    (copy / "trainer_state.json").write_text("{}")
    assert fingerprint(copy) != fingerprint(tiny_model)
    assert weights_digest(copy) == weights_digest(tiny_model)
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[:-1] + b"x")
    assert weights_digest(copy) != weights_digest(tiny_model)


@pytest.mark.parametrize("just_changed", [0, _fingerprint.JUST_CHANGED])
def test_a_change_that_keeps_size_and_date_is_seen(tmp_path, monkeypatch, just_changed):
    monkeypatch.setattr(_fingerprint, "JUST_CHANGED", just_changed)
    folder = Path(save_esm(tmp_path / "m"))
    path, before = folder / "model.safetensors", fingerprint(folder)
    stat, content = path.stat(), path.read_bytes()
    time.sleep(0.05)  # more than a tick of the file system's clock
    for rewrite in (overwrite, replace_by_another):
        rewrite(path, content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_mtime_ns == stat.st_mtime_ns
        assert fingerprint(folder) != before
        overwrite(path, content)
        assert fingerprint(folder) == before


def test_a_change_within_a_tick_of_the_clock_is_seen(tmp_path, monkeypatch):
    folder = Path(save_esm(tmp_path / "m"))
    path, before = folder / "model.safetensors", fingerprint(folder)
    stat = _fingerprint._stat(path)
    monkeypatch.setattr(_fingerprint, "_stat", lambda path: stat)
    overwrite(path, path.read_bytes()[:-1] + b"x")
    assert fingerprint(folder) != before


def test_a_file_is_read_once_while_it_stays(tiny_model, monkeypatch):
    monkeypatch.setattr(_fingerprint, "JUST_CHANGED", 0)
    before = fingerprint(tiny_model)
    monkeypatch.setattr("builtins.open", None)
    assert fingerprint(tiny_model) == before


def test_a_file_that_keeps_changing_is_told(tiny_model, monkeypatch):
    count = iter(range(99))
    monkeypatch.setattr(_fingerprint, "_stat", lambda path: (0, 0, next(count), 0))
    with pytest.raises(OSError, match="changes while it is read; wait until"):
        fingerprint(tiny_model)


def overwrite(path, content):
    """Change a file where it is; the map of a loaded model changes with it."""
    with open(path, "r+b") as file:
        file.write(content)


def replace_by_another(path, content):
    """Put another file in the place of one, as most programs save."""
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


def test_weights_that_change_before_they_are_read_are_filed_under_their_own(
    tmp_path, registry, monkeypatch
):
    folder = save_esm(tmp_path / "m")
    fingerprints = []

    def load_late(*arguments):
        if not fingerprints:
            save_esm(folder, seed=5)
        fingerprints.append(fingerprint(folder))
        return load(*arguments)

    monkeypatch.setattr(_loading, "load", load_late)
    encoder = get(folder)
    [key] = registry._models
    assert key[0] == fingerprint(folder) == fingerprints[-1] and len(fingerprints) == 2
    states, _ = encoder(["MKTAY"])
    np.testing.assert_allclose(states[0], states_by_hand(folder, "MKTAY")[1:-1], atol=1e-5)
    assert get(folder) is encoder


@pytest.mark.parametrize("broken", [False, True])
def test_weights_that_never_stop_changing_are_an_error(tmp_path, registry, monkeypatch, broken):
    folder = save_esm(tmp_path / "m")
    seeds = iter(range(1, 99))

    def load_late(*arguments):
        save_esm(folder, seed=next(seeds))
        if broken:  # as of a file that is half written
            raise ValueError("damaged")
        return load(*arguments)

    monkeypatch.setattr(_loading, "load", load_late)
    with pytest.raises(RuntimeError, match=r"have changed during each of 3 attempts.*copy of the"):
        get(folder)
    assert not registry._models and next(seeds) == 4


def test_a_damaged_model_that_stays_as_it_is_is_read_once(tmp_path, registry, monkeypatch):
    loads = []

    def fails(*arguments):
        loads.append(1)
        raise ValueError("damaged")

    monkeypatch.setattr(_loading, "load", fails)
    with pytest.raises(ValueError, match="damaged"):
        get(save_esm(tmp_path / "m"))
    assert len(loads) == 1


def test_marks_tell_what_is_written_over_from_what_is_replaced(tmp_path):
    folder = Path(save_esm(tmp_path / "m"))
    path = folder / "model.safetensors"
    content = path.read_bytes()
    other = content[:-1] + bytes([content[-1] ^ 1])
    marks = _fingerprint.marks(folder)
    time.sleep(0.05)
    path.chmod(0o600)
    overwrite(path, content)
    assert not _fingerprint.written_over(marks)
    overwrite(path, other)
    assert _fingerprint.written_over(marks)
    overwrite(path, content)
    replace_by_another(path, other)
    assert not _fingerprint.written_over(marks)
    path.unlink()
    assert not _fingerprint.written_over(marks)


def test_missing_weights_are_found_before_the_registry(tmp_path, registry):
    folder = save_esm(tmp_path / "m")
    (Path(folder) / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="no weights"):
        get(folder)


# Keywords of the user


def test_keywords_reach_transformers(tiny_model, registry):
    plain = get(tiny_model, attn_implementation="sdpa")
    eager = get(tiny_model, attn_implementation="eager")
    assert not plain.packed and not eager.packed
    assert plain.model.config._attn_implementation == "sdpa"
    assert eager.model.config._attn_implementation == "eager"
    (expected,), _ = plain(["MKTAYIAKQR"])
    (found,), _ = eager(["MKTAYIAKQR"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_registry_key_holds_keywords_by_value(tiny_model, registry, monkeypatch):
    loads = []
    monkeypatch.setattr(
        _loading,
        "load",
        lambda *args: (
            loads.append(args) or SimpleNamespace(files={}, is_broken=False, looks_back=False)
        ),
    )

    def of(**model_kwargs):
        return get(tiny_model, **model_kwargs)

    assert of() is of()
    config = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16}
    first = of(quantization_config=transformers.BitsAndBytesConfig(**config), max_memory={0: 1})
    again = transformers.BitsAndBytesConfig(**dict(reversed(config.items())))
    assert of(max_memory={0: 1}, quantization_config=again) is first
    other = transformers.BitsAndBytesConfig(load_in_8bit=True)
    assert of(quantization_config=other, max_memory={0: 1}) is not first
    assert of(trust_remote_code=True) is of()  # it is the member that says so
    assert len(loads) == 3


def test_a_model_with_a_map_of_devices_stays_where_it_is(tiny_model, registry, monkeypatch):
    moved, options = [], []
    original = EsmModel.from_pretrained

    def from_pretrained(folder, device_map=None, **kwargs):
        options.append(device_map)
        return original(folder, **kwargs)

    monkeypatch.setattr(EsmModel, "from_pretrained", from_pretrained)
    monkeypatch.setattr(EsmModel, "to", lambda self, device: moved.append(device))
    meta = torch.device("meta")
    encoder = get(tiny_model, device=meta, device_map={"": "cpu"})
    assert (moved, options) == ([], [{"": "cpu"}])
    assert encoder.device == CPU and encoder.is_placed
    # Without a map it is put there when it runs, and has no fast path of the CPU.
    encoder = get(tiny_model, device=meta)
    assert not encoder.packed and moved == []
    with _device.Residents().room_for(encoder):
        assert moved == [meta]


def test_quantised_models_stay_where_they_are(tiny_model, registry, monkeypatch):
    monkeypatch.setattr(EsmModel, "is_quantized", True, raising=False)
    monkeypatch.setattr(EsmModel, "to", lambda self, device: pytest.fail("moved"))
    get(tiny_model)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dtype", "set `dtype`"),
        ("torch_dtype", "set `dtype`"),
        ("revision", "set `revision`"),
        ("token", "set `token`"),
        ("local_files_only", "set `local_files_only`"),
        ("output_loading_info", "set by this package"),
        ("add_pooling_layer", "set by this package"),
    ],
)
def test_keywords_that_are_set_elsewhere(name, words):
    with pytest.raises(ValueError, match=words) as caught:
        check_model_kwargs({"device_map": "auto", name: "float32"})
    assert repr(name) in str(caught.value)


def test_a_letter_without_a_token_is_named(tiny_model):
    with pytest.raises(ValueError, match=r"no token for 'J'; it knows ACDEF"):
        encoder_of(tiny_model).tokenize("MKJ")


def test_a_t5_in_float16_is_warned_of_unless_it_was_published_so(tmp_path):
    folder = save_t5(tmp_path / "t5", spelling="▁{}")
    with pytest.warns(UserWarning, match=r"T5 in float16.*overflow.*'bfloat16' or 'float32'"):
        encoder_of(folder, "float16")
    config = json.loads((tmp_path / "t5" / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        config.pop("dtype", None)
        (tmp_path / "t5" / "config.json").write_text(json.dumps({**config, name: "float16"}))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            encoder_of(folder, "float16")
            encoder_of(folder, "bfloat16")


# Files of a model that are not what they should be


class Payload:
    """What a pickle can do: here it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["pickle", "torch", "zip"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_no_pickle_in_a_model_folder_runs(tmp_path, registry, how, name):
    folder, trace = Path(save_esm(tmp_path / "m")), tmp_path / "executed"
    (folder / "model.safetensors").unlink()
    if how == "pickle":
        (folder / name).write_bytes(pickle.dumps(Payload(trace)))
    else:
        options = {"_use_new_zipfile_serialization": how == "zip"}
        torch.save({"weight": Payload(trace)}, folder / name, **options)
    for other in ("training_args.bin", "optimizer.pt", "vocab.pkl", "tokenizer.pkl"):
        (folder / other).write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(ValueError, match=r"their file is damaged\. Save or fetch the model again"):
        get(folder)
    assert not trace.exists()


def with_index(folder, index):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


@pytest.mark.parametrize(
    "part", ["../model-1.safetensors", "/etc/passwd", "a/b", "..", "", "a\\b", 3, None, ["m"]]
)
def test_an_index_names_files_of_its_folder_alone(tmp_path, part):
    folder = with_index(Path(save_esm(tmp_path / "m")), json.dumps({"weight_map": {"a": part}}))
    shutil.copy(folder / "model-1.safetensors", tmp_path)
    with pytest.raises(DamagedFileError, match=r"index\.json is damaged .*no file of its folder"):
        get(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', "\x00", "[" * 10**5])
def test_an_index_that_is_none_is_told(tmp_path, text):
    folder = with_index(Path(save_esm(tmp_path / "m")), text)
    with pytest.raises(DamagedFileError, match=r"index\.json is damaged .*; save or fetch the"):
        get(folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b"", b"\xff\xfe", b"[" * 10**5])
def test_a_configuration_that_is_none_is_told(tmp_path, content):
    folder = Path(save_esm(tmp_path / "m"))
    (folder / "config.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"config\.json is damaged .*; save or fetch the"):
        resolve_family(str(folder))


def test_the_report_of_a_head_that_is_left_out_is_silent_with_bars_too():
    code = "from revdist_sklearn import ESMFeaturizer as E; E('esm2-nano:32', verbose=1)"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}.transform(['MKTAYIAKQR'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Loading weights" in run.stderr
    assert "LOAD REPORT" not in run.stdout + run.stderr


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        SafetensorError("unable to mmap 31388 bytes: Cannot allocate memory (os error 12)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("where", ["from_pretrained", "pack"])
def test_memory_that_runs_out_at_load_is_no_damage(error, where, tiny_model, monkeypatch):
    def full(*args, **kwargs):
        raise error

    owner = EsmModel if where == "from_pretrained" else Encoder
    monkeypatch.setattr(owner, where, full)
    monkeypatch.setattr(_loading, "REGISTRY", Registry(1))
    with pytest.raises(MemoryError, match=r"tiny_12'.* take 0 MiB\. Use a smaller") as caught:
        ESMFeaturizer(tiny_model).transform(["MKT"])
    assert "damaged" not in str(caught.value)
    monkeypatch.undo()
    monkeypatch.setattr(_loading, "REGISTRY", Registry(1))
    assert ESMFeaturizer(tiny_model).transform(["MKT"]).shape == (1, 12)
