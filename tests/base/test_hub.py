import json
import threading
import time
import traceback
from fnmatch import fnmatch

import huggingface_hub
import numpy as np
import pytest
from conftest import HUB_COMMITS
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors
from huggingface_hub import utils as hub_utils
from transformers.utils import logging as transformers_logging

from revdist_sklearn import ReverseDistiller
from revdist_sklearn.base._hub import ModelNotFoundError, quiet
from revdist_sklearn.models._checkpoint import weight_files
from revdist_sklearn.models._family import resolve_family


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
    options = {"revision": "v1", "local_files_only": local_files_only}
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


SECRET = "hf_" + "aB3" * 11


@pytest.fixture
def asked(hub_cache, monkeypatch):
    """Return the options that the hub is asked with, for any repository."""
    snapshot = hub_cache("acme/any") / "snapshots" / HUB_COMMITS["main"]
    options = []

    def download(repo_id, filename, **given):
        options.append({"filename": filename, **given})
        return str(snapshot / filename)

    def snapshot_download(repo_id, **given):
        options.append(given)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return options


def test_the_token_is_read_from_its_variable_when_the_hub_is_asked(asked, monkeypatch):
    (member,) = resolve_family_with_token("acme/token-1", monkeypatch)
    member.folder()
    assert [options["token"] for options in asked] == [SECRET, SECRET]


def resolve_family_with_token(repo_id, monkeypatch, **options):
    monkeypatch.setenv("HF_TOKEN_LAB", f"{SECRET}\n")  # as a file that is read has it
    return resolve_family(repo_id, token="HF_TOKEN_LAB", **options)


def test_no_token_is_sent_where_the_hub_is_not_asked(asked, monkeypatch):
    resolve_family("acme/token-2", local_files_only=True, token="HF_TOKEN_UNSET")
    resolve_family("acme/token-2", token=None)
    assert ["token" in options for options in asked] == [False, False]


def test_a_variable_that_is_not_set_is_named(asked):
    with pytest.raises(ValueError, match=r"'HF_TOKEN_UNSET' names .* not set"):
        resolve_family("acme/token-3", token="HF_TOKEN_UNSET")
    assert asked == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (hub_errors.GatedRepoError, "It is gated: accept its terms at .*/acme/gated"),
        (hub_errors.RepositoryNotFoundError, "no such repository, or it is private"),
    ],
)
def test_gated_and_private_repositories_are_told(hub_cache, monkeypatch, error, words):
    def refuse(*args, **kwargs):
        raise error.__new__(error, "401")  # else it wants a response

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ModelNotFoundError, match=words) as caught:
        resolve_family_with_token("acme/gated", monkeypatch)
    message = str(caught.value)
    assert '\n    hf download acme/gated --token "$HF_TOKEN_LAB"\n' in message
    assert f"({error.__name__}: " in message and SECRET not in message


def test_an_error_that_quotes_the_token_is_cleaned(hub_cache, monkeypatch):
    def refuse(*args, token, **kwargs):
        raise ConnectionError(f"Illegal header value 'Bearer {token}'")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ModelNotFoundError, match=r"'Bearer \*\*\*'") as caught:
        resolve_family_with_token("acme/quoted", monkeypatch)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_vocabularies_are_fetched_and_code_only_if_it_may_run(asked):
    for trust in (False, True):
        (member,) = resolve_family(f"acme/files-{trust}", trust_remote_code=trust)
        member.folder()
    config, files, config_and_code, files_and_code = asked
    assert config["filename"] == "config.json"
    assert "config.json" in config_and_code["allow_patterns"]

    def fetched(name, options):
        return any(fnmatch(name, pattern) for pattern in options["allow_patterns"])

    for name in ("vocab.txt", "spiece.model", "tokenizer.json", "tokenizer_config.json"):
        assert fetched(name, files)
    assert not fetched("modeling_own.py", files)
    assert fetched("modeling_own.py", config_and_code)
    assert fetched("modeling_own.py", files_and_code)
    assert not fetched("model.onnx", files_and_code)


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("hub_bars", [True, False])
def test_quiet_puts_everything_back(bars, hub_bars):
    def state():
        return (
            transformers_logging.get_verbosity(),
            transformers_logging.is_progress_bar_enabled(),
            not hub_utils.are_progress_bars_disabled(),
        )

    def show(bars, hub_bars):
        # The first two set the hub's as well.
        name = f"{'enable' if bars else 'disable'}_progress_bar"
        getattr(transformers_logging, name)()
        getattr(hub_utils, f"{'enable' if hub_bars else 'disable'}_progress_bars")()

    before = state()
    try:
        show(bars, hub_bars)
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
        show(*before[1:])
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


# Distillers come by the same client.


@pytest.fixture
def asked_for_a_distiller(monkeypatch, tmp_path):
    """Return the options with which the hub is asked for a distiller, which it has."""
    rows = np.random.default_rng(0).normal(size=(50, 6))
    ReverseDistiller((2, 4)).fit(rows).save_pretrained(tmp_path)
    options = []

    def snapshot_download(repo_id, **given):
        options.append({"repo_id": repo_id, **given})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return options


def test_a_distiller_is_asked_for_as_told(asked_for_a_distiller, monkeypatch):
    monkeypatch.setenv("HF_TOKEN_LAB", SECRET)
    for revision, token in (("v1", "HF_TOKEN_LAB"), ("v2", None), (None, None)):
        distiller = ReverseDistiller.from_pretrained(
            "acme/distiller-1", revision=revision, token=token
        )
        assert distiller.n_components_ == 4
    ReverseDistiller.from_pretrained("acme/distiller-1", local_files_only=True)
    expected = {"repo_id": "acme/distiller-1", "local_files_only": False}
    files = {"allow_patterns": ["config.json", "chain.safetensors"]}
    assert asked_for_a_distiller == [
        {**expected, **files, "revision": "v1", "token": SECRET},
        {**expected, **files, "revision": "v2"},
        {**expected, **files, "revision": None},
        {**expected, **files, "revision": None, "local_files_only": True},
    ]


def test_a_distiller_that_is_not_there_is_told_as_a_model_is(hub_cache, no_network):
    with pytest.raises(ModelNotFoundError, match=r"Distiller 'acme/none', revision v1") as caught:
        ReverseDistiller.from_pretrained("acme/none", revision="v1", local_files_only=True)
    assert isinstance(caught.value, FileNotFoundError)
    assert "\n    hf download acme/none --revision v1\n" in str(caught.value)


def test_a_token_in_place_of_its_name_is_refused_for_distillers_too():
    with pytest.raises(ValueError, match="token='HF_TOKEN_LAB'") as caught:
        ReverseDistiller.from_pretrained("acme/none", token=SECRET)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["./none", "/no/such/x", "a/b/c", "none"])
def test_what_cannot_be_a_repository_is_a_folder_that_is_missing(name, no_network):
    with pytest.raises(ModelNotFoundError, match=r"Distiller '.*' was not found: there is no"):
        ReverseDistiller.from_pretrained(name)
