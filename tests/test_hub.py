import json
import pickle
import threading
import time

import huggingface_hub
import pytest
from conftest import HUB_COMMITS
from huggingface_hub import constants
from huggingface_hub import utils as hub_utils
from transformers.utils import logging as transformers_logging

from revdist_sklearn._family import resolve_family
from revdist_sklearn._hub import ModelNotFoundError, quiet, weight_files


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


def test_hub_id_is_found_in_the_cache_at_its_revision(hub_cache, no_network):
    hub_cache("acme/tiny-one")
    (member,) = resolve_family("acme/tiny-one", local_files_only=True)
    assert (member.block, member.width) == ("tiny-one", 8)
    assert member.folder().name == HUB_COMMITS["main"]
    (member,) = resolve_family("acme/tiny-one", revision="v1", local_files_only=True)
    assert member.width == 12
    assert member.folder().name == HUB_COMMITS["v1"]


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
    with pytest.raises(ModelNotFoundError, match=r"hf download .*8M_UR50D --revision main"):
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
    snapshot = hub_cache(repo_id) / "snapshots" / HUB_COMMITS["main"]
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
    options = {"revision": "v1", "local_files_only": local_files_only, "token": None}
    assert asked == [options, options]


def test_old_repositories_without_safetensors_are_fetched_too(hub_cache, monkeypatch):
    snapshot = hub_cache("acme/old", weights=False) / "snapshots" / HUB_COMMITS["main"]
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


def test_the_token_is_read_from_its_variable_when_the_hub_is_asked(hub_cache, monkeypatch):
    snapshot = hub_cache("acme/gated") / "snapshots" / HUB_COMMITS["main"]
    monkeypatch.setenv("LAB_TOKEN", "hf_secret")
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda repo_id, name, **options: asked.append(options["token"]) or str(snapshot / name),
    )
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo_id, **options: asked.append(options["token"]) or str(snapshot),
    )
    (member,) = resolve_family("acme/gated", token="LAB_TOKEN")
    member.folder()
    assert asked == ["hf_secret", "hf_secret"]
    assert "hf_secret" not in repr(member) and b"hf_secret" not in pickle.dumps(member)


@pytest.mark.parametrize("token", ["hf_abcdEFGH1234", "abc-DEF"])
def test_a_token_itself_is_refused_and_not_repeated(token):
    with pytest.raises(ValueError, match="never the token itself") as raised:
        resolve_family("esm2-nano", token=token)
    assert token not in str(raised.value)


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("LAB_TOKEN", raising=False)
    with pytest.raises(ValueError, match="'LAB_TOKEN' names an environment variable"):
        resolve_family("acme/gated", token="LAB_TOKEN")


def test_private_repositories_say_how_to_give_a_token(monkeypatch):
    class GatedRepoError(Exception):
        """As huggingface_hub's."""

    def refuse(*args, **options):
        raise GatedRepoError("401")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ModelNotFoundError, match=r"gated or private.*by `token`"):
        resolve_family("acme/gated-and-new")
