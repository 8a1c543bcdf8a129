import json
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from conftest import save_esm
from huggingface_hub import constants
from huggingface_hub import utils as hub_utils
from sklearn.utils._testing import raises
from transformers import EsmConfig
from transformers.utils import logging as transformers_logging

from revdist_sklearn import _family
from revdist_sklearn._columns import blocks_of, column_names
from revdist_sklearn._family import (
    ARCHITECTURES,
    FAMILIES,
    ModelNotFoundError,
    alias_of,
    family_blocks,
    quiet,
    resolve_family,
    weight_files,
)

COMMIT, OLDER = "a" * 40, "b" * 40


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Return a function that puts a repository of two revisions into an empty hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def add(repo_id, *, weights=True):
        repo = tmp_path / "hub" / f"models--{repo_id.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        for commit, name, width in ((COMMIT, "main", 8), (OLDER, "v1", 12)):
            (repo / "refs" / name).write_text(commit)
            folder = repo / "snapshots" / commit
            save_esm(folder, width=width)
            if not weights:
                (folder / "model.safetensors").unlink()
        return repo

    return add


@pytest.fixture
def no_network(monkeypatch):
    """Make every connection an error of the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def test_alias_without_size_is_the_default_chain():
    assert [m.width for m in resolve_family("esm2-nano")] == [32, 64, 96]
    assert [m.width for m in resolve_family("esm2")] == [320, 480, 640, 1280]
    assert [m.width for m in resolve_family("esmc")] == [960, 1152]


def test_alias_with_size_is_the_chain_up_to_it():
    assert family_blocks("esm2-nano:64") == [("esm2_nano_032", 32), ("esm2_nano_064", 64)]
    assert [m.source for m in resolve_family("esm2:35M")] == [
        "facebook/esm2_t6_8M_UR50D",
        "facebook/esm2_t12_35M_UR50D",
    ]
    assert family_blocks("esmc:300M") == [("ESMC-300M", 960)]
    assert family_blocks("ESM2:15b")[-1] == ("esm2_t48_15B_UR50D", 5120)


def test_aliases_need_neither_disk_nor_network(no_network):
    for name, family in FAMILIES.items():
        for size in family.members:
            members = resolve_family(f"{name}:{size}")
            assert members[-1].model_type in ARCHITECTURES
            widths = [m.width for m in members]
            assert widths == sorted(set(widths))


@pytest.mark.parametrize("size", ["32", "64", "96"])
def test_bundled_members_are_what_the_table_says(size):
    member = resolve_family(f"esm2-nano:{size}")[-1]
    if not Path(member.source).is_dir():
        pytest.skip("weights not there yet")
    (found,) = resolve_family(member.source)
    assert (found.block, found.width, found.limit) == (member.block, member.width, None)
    assert member.local_files_only


@pytest.mark.parametrize("models", ["esm3", "esm2-nano:48", "esm2:", "esm2_t6_8M_UR50D"])
def test_unknown_alias_lists_the_known_ones_with_their_sizes(models):
    with pytest.raises(ValueError, match="Unknown") as caught:
        resolve_family(models)
    message = str(caught.value)
    for word in ("esm2-nano:32", "esm2-nano:96", "esm2:8M", "esm2:15B", "esmc:600M", "folder"):
        assert word in message


def test_alias_of_names_the_first_members():
    assert alias_of("esm2-nano", 2) == "esm2-nano:64"
    assert alias_of("ESM2:650M", 1) == "esm2:8M"
    assert alias_of("some/model", 1) is None
    assert alias_of(["some/model"], 1) is None


def test_folders_are_read_from_their_configuration(tiny_family):
    members = resolve_family([tiny_family[0], Path(tiny_family[1])])
    assert [(m.block, m.width, m.limit) for m in members] == [
        ("tiny_08", 8, None),
        ("tiny_12", 12, None),
    ]


def test_one_folder_is_a_family_of_one(tiny_family, monkeypatch):
    for one in (tiny_family[0], Path(tiny_family[0]), [tiny_family[0]]):
        assert family_blocks(one) == [("tiny_08", 8)]
    monkeypatch.chdir(Path(tiny_family[0]).parent)
    assert family_blocks("./tiny_08/") == [("tiny_08", 8)]
    assert family_blocks("tiny_08") == [("tiny_08", 8)]
    monkeypatch.setenv("HOME", str(Path(tiny_family[0]).parent))
    assert family_blocks("~/tiny_08") == [("tiny_08", 8)]


def test_an_alias_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    save_esm(tmp_path / "esm2", width=8)
    monkeypatch.chdir(tmp_path)
    assert len(resolve_family("esm2")) == 4
    assert family_blocks("./esm2") == family_blocks(Path("esm2")) == [("esm2", 8)]


def test_block_names_hold_no_double_underscore_and_differ(tmp_path):
    folders = [save_esm(tmp_path / name / "my__model_") for name in "ab"]
    folders += [save_esm(tmp_path / "c" / "my model"), save_esm(tmp_path / "d" / "my_model_2")]
    names = [m.block for m in resolve_family(folders)]
    assert names == ["my_model", "my_model_2", "my_model_3", "my_model_2_2"]
    columns = [column for name in names for column in column_names(name, 8)]
    assert blocks_of(columns) == [(name, 8) for name in names]


def test_same_model_twice_is_an_error(tiny_family):
    with pytest.raises(ValueError, match="twice"):
        resolve_family([tiny_family[0], tiny_family[0]])


@pytest.mark.parametrize(
    ("models", "error", "words"),
    [
        ([], ValueError, "empty"),
        ([None], TypeError, "None"),
        (["esm2-nano:64"], ValueError, "An alias stands alone"),
    ],
)
def test_lists_that_make_no_family(models, error, words):
    with pytest.raises(error, match=words):
        resolve_family(models)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "a/b/c", Path("nowhere")])
def test_missing_folder_is_named(path):
    with pytest.raises(ModelNotFoundError, match="no such folder") as caught:
        resolve_family(path)
    assert repr(str(path)) in str(caught.value)


def test_folder_without_configuration(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"config\.json is missing") as caught:
        resolve_family(str(tmp_path))
    assert str(tmp_path) in str(caught.value) and "model.safetensors" in str(caught.value)


def test_folder_without_weights_says_what_is_expected(tmp_path):
    (member,) = resolve_family(save_esm(tmp_path / "m"))
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="no weights") as caught:
        member.folder()
    for word in (str(tmp_path / "m"), "model.safetensors", "pytorch_model.bin"):
        assert word in str(caught.value)


def test_missing_part_of_weights_is_named(tmp_path):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match=r"lacks model-2\.safetensors"):
        weight_files(tmp_path)
    (tmp_path / "model-2.safetensors").touch()
    assert [p.name for p in weight_files(tmp_path)] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]


def test_unsupported_architecture_lists_the_supported_ones(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 8}')
    with pytest.raises(ValueError, match=r"'bert'.*'esm', 'esmc'"):
        resolve_family(str(tmp_path))


def test_width_that_is_the_default_may_be_left_out_of_the_file(tmp_path):
    folder = Path(save_esm(tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert resolve_family(str(folder))[0].width == EsmConfig().hidden_size


def test_learned_positions_have_an_end_and_rotary_ones_none():
    esm = ARCHITECTURES["esm"]
    settings = {"pad_token_id": 1, "vocab_size": 33, "max_position_embeddings": 1026}
    assert esm.limit(EsmConfig(position_embedding_type="rotary", **settings)) is None
    # ESM-1b: 1,024 tokens, of which two are special.
    assert esm.limit(EsmConfig(position_embedding_type="absolute", **settings)) == 1022


def test_hub_id_is_found_in_the_cache_at_its_revision(hub_cache, no_network):
    hub_cache("acme/tiny-one")
    (member,) = resolve_family("acme/tiny-one", local_files_only=True)
    assert (member.block, member.width) == ("tiny-one", 8)
    assert member.folder().name == COMMIT
    (member,) = resolve_family("acme/tiny-one", revision="v1", local_files_only=True)
    assert member.width == 12
    assert member.folder().name == OLDER


def test_revisions_go_to_their_models(hub_cache, tiny_family):
    hub_cache("acme/tiny-two")
    models = ["acme/tiny-two", tiny_family[2]]
    for revision in ("v1", ["v1", None], ("v1", None)):
        members = resolve_family(models, revision, local_files_only=True)
        assert [m.revision for m in members] == ["v1", None]
        assert [m.width for m in members] == [12, 16]


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("v1", "no effect"),
        (["v1"], "1 entries for 3 models"),
        ([None, "v1", None], "is a folder"),
    ],
)
def test_revision_that_would_be_ignored_is_an_error(tiny_family, revision, words):
    with pytest.raises(ValueError, match=words):
        resolve_family(tiny_family, revision)


def test_revision_of_the_bundled_family_is_an_error():
    with pytest.raises(ValueError, match="no effect"):
        resolve_family("esm2-nano:32", "v1")


def test_model_not_in_the_cache_says_how_to_fetch_it(hub_cache, no_network):
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_family("acme/absent", local_files_only=True)
    message = str(caught.value)
    assert "'acme/absent'" in message
    assert constants.HF_HUB_CACHE in message and "local_files_only=True" in message
    assert "\n    hf download acme/absent\n" in message
    assert isinstance(caught.value, OSError)


def test_alias_not_in_the_cache_says_how_to_fetch_its_member(hub_cache, no_network):
    member = resolve_family("esm2:8M", revision="main", local_files_only=True)[0]
    with raises(ModelNotFoundError, match="hf download facebook/esm2_t6_8M_UR50D --revision main"):
        member.folder()


def test_weights_not_in_the_cache(hub_cache, no_network):
    hub_cache("acme/no-weights", weights=False)
    (member,) = resolve_family("acme/no-weights", local_files_only=True)
    with pytest.raises(ModelNotFoundError, match="hf download acme/no-weights"):
        member.folder()


def test_unreachable_hub_is_told_from_local_files_only(hub_cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("unreachable")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ModelNotFoundError, match="ConnectionError: unreachable") as caught:
        resolve_family("acme/unreachable")
    assert constants.ENDPOINT in str(caught.value)
    assert "local_files_only" not in str(caught.value)


@pytest.mark.parametrize("local_files_only", [False, True])
def test_the_hub_is_asked_once_a_process_and_as_told(hub_cache, monkeypatch, local_files_only):
    repo_id = f"acme/asked-{local_files_only}"
    snapshot = hub_cache(repo_id) / "snapshots" / COMMIT
    asked = []

    def download(repo_id, filename, **options):
        asked.append(options)
        return str(snapshot / filename)

    def snapshot_download(repo_id, allow_patterns, **options):
        asked.append(options)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for _ in range(2):
        (member,) = resolve_family(repo_id, "v1", local_files_only=local_files_only)
        member.folder()
    options = {"revision": "v1", "local_files_only": local_files_only}
    assert asked == [options, options]


def test_old_repositories_without_safetensors_are_fetched_too(hub_cache, monkeypatch):
    snapshot = hub_cache("acme/old", weights=False) / "snapshots" / COMMIT
    wanted = []

    def snapshot_download(repo_id, allow_patterns, **options):
        wanted.append(allow_patterns)
        if len(wanted) == 2:
            (snapshot / "pytorch_model.bin").touch()
        return str(snapshot)

    (member,) = resolve_family("acme/old", local_files_only=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert weight_files(member.folder()) == [snapshot / "pytorch_model.bin"]
    assert not any("bin" in pattern for pattern in wanted[0])


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("hub_bars", [True, False])
def test_quiet_puts_everything_back(bars, hub_bars):
    def state():
        return (
            transformers_logging.get_verbosity(),
            transformers_logging.is_progress_bar_enabled(),
            not hub_utils.are_progress_bars_disabled(),
        )

    before = state()
    try:
        if not bars:
            transformers_logging.disable_progress_bar()
        (hub_utils.enable_progress_bars if hub_bars else hub_utils.disable_progress_bars)()
        transformers_logging.set_verbosity_info()
        set_up = state()
        assert set_up == (transformers_logging.INFO, bars, hub_bars)
        with quiet():
            assert state() == (transformers_logging.ERROR, False, False)
            with quiet():
                pass
            assert state() == (transformers_logging.ERROR, False, False)
        assert state() == set_up
        with quiet(silent=False):
            assert state() == set_up
        with pytest.raises(KeyError), quiet():
            raise KeyError
        assert state() == set_up
    finally:
        transformers_logging.enable_progress_bar()
        transformers_logging.set_verbosity(before[0])
        assert state() == before


def test_quiet_in_two_threads_does_not_cross():
    level = transformers_logging.get_verbosity()
    inside, leave, left = threading.Event(), threading.Event(), threading.Event()

    def first():
        with quiet():
            inside.set()
            leave.wait(10)
        left.set()

    def second():
        with quiet():  # without a lock it would take the silence of the first for the rule
            left.wait(10)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait(10)
    threads[1].start()
    time.sleep(0.2)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert transformers_logging.get_verbosity() == level


def test_trust_remote_code_is_passed_nowhere():
    package = Path(_family.__file__).parent
    assert not [p.name for p in package.glob("*.py") if "trust_remote_code" in p.read_text()]
