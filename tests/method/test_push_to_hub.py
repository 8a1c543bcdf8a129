"""Uploads, on a stand-in for the hub: no test asks the network."""

import json
import re
import shutil
import traceback
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors
from numpy.testing import assert_array_equal

from revdist_sklearn import Moments, ReverseDistiller, UploadError
from revdist_sklearn.cli._stages import describe_stages

SECRET = "hf_" + "aB3" * 11
PROVENANCE = {
    "members": [
        {"block": "a|b", "fingerprint": "f1", "weights": "w" * 64, "layer": -1},
        {"block": "c\x1b[31m\nd", "fingerprint": "f2", "weights": "v" * 64},
    ],
    "corpora": [{"digest": "d" * 64, "n_proteins": 1234, "n_residues": 5678}],
    "version": "0.1.0",
}


@pytest.fixture(scope="module")
def distiller():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 1
    moments = Moments((4, 8), block_names=[m["block"] for m in PROVENANCE["members"]]).update(X)
    moments.provenance = PROVENANCE
    return ReverseDistiller().fit_moments(moments)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub: repositories are folders; ``calls`` are what it was asked."""
    calls, settings = [], SimpleNamespace(fails={}, private=None, files=())

    class HfApi:
        def __init__(self, token=None):
            calls.append(("token", token))

        def __getattr__(self, name):
            def call(repo_id, **options):
                calls.append((name, repo_id, options))
                if name in settings.fails:
                    raise settings.fails[name]
                if name == "create_repo" and settings.private is None:
                    settings.private = bool(options["private"])
                if name == "repo_info":
                    files = [SimpleNamespace(rfilename=file) for file in settings.files]
                    return SimpleNamespace(siblings=files, private=settings.private)
                if name == "upload_folder":
                    folder = options["folder_path"]
                    shutil.copytree(folder, tmp_path / "hub" / repo_id)
                    return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")
                return None

            return call

    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setenv("HF_TOKEN_LAB", f"{SECRET}\n")
    return SimpleNamespace(calls=calls, settings=settings, folder=tmp_path / "hub")


def names(hub):
    return [call[0] for call in hub.calls]


def test_what_is_uploaded_loads_again(hub, distiller):
    url = distiller.push_to_hub("lab/chain", token="HF_TOKEN_LAB")
    assert url == "https://hub/lab/chain/commit/1"
    assert names(hub) == ["token", "create_repo", "repo_info", "upload_folder"]
    assert hub.calls[0] == ("token", SECRET)
    assert hub.calls[1][2] == {"private": None, "exist_ok": True}
    assert hub.calls[3][2]["commit_message"] == "Reverse distiller of 8 columns, float64"
    folder = hub.folder / "lab" / "chain"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "chain.safetensors",
        "config.json",
    ]
    X = np.random.default_rng(1).normal(size=(5, 12))
    again = ReverseDistiller.from_pretrained(folder)
    assert_array_equal(again.transform(X), distiller.transform(X))
    assert SECRET not in "".join(p.read_bytes().decode("latin-1") for p in folder.iterdir())


def test_an_order_by_variance_is_told_by_the_columns_that_it_gives(hub):
    """The chain behind it is as wide as the last of them stands in the order of stages."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 12)) * [0.1, 9, 1, 1, 1, 1, 1, 1, 9, 9, 9, 9]
    distiller = ReverseDistiller((4, 8), order="variance", n_components=5).fit(X)
    n_base = int(np.sum(distiller.column_order_ < 4))
    assert distiller.stages_[-1].width > 5 > n_base > 0
    card = card_of(hub, distiller)
    assert hub.calls[-1][2]["commit_message"] == "Reverse distiller of 5 columns, float64"
    assert "to one nested embedding of 5 columns" in card
    assert f"| 1 | 4 | {n_base} | {n_base} | the base |" in card
    assert f"| 2 | 8 | 5 | {5 - n_base} |" in card
    assert "columns come by their variance" in card
    base, second = describe_stages(distiller)
    assert (base["width"], second["width"], second["n_added"]) == (n_base, 5, 5 - n_base)


def test_branch_privacy_message_and_type(hub, distiller):
    distiller.push_to_hub(
        "lab/chain",
        dtype="float16",
        private=True,
        revision="v1",
        token="HF_TOKEN_LAB",
        commit_message="more proteins",
    )
    order = ["token", "create_repo", "create_branch", "repo_info", "upload_folder"]
    assert names(hub) == order
    assert hub.calls[1][2]["private"] is True
    assert hub.calls[2][2] == {"branch": "v1", "exist_ok": True}
    assert hub.calls[3][2]["revision"] == hub.calls[4][2]["revision"] == "v1"
    assert hub.calls[4][2]["commit_message"] == "more proteins"
    again = ReverseDistiller.from_pretrained(hub.folder / "lab" / "chain")
    assert again.rounding_["dtype"] == "float16"


def card_of(hub, distiller, **options):
    distiller.push_to_hub("lab/chain", token="HF_TOKEN_LAB", **options)
    return (hub.folder / "lab" / "chain" / "README.md").read_text()


def test_the_card_tells_what_the_json_does(hub, distiller):
    card = card_of(
        hub, distiller, dtype="bfloat16", license="cc-by-4.0", tags=["antibodies", "sklearn"]
    )
    front, text = re.fullmatch(r"---\n(.*?)---\n(.*)", card, re.DOTALL).groups()
    told = {k: json.loads(v) for k, v in (line.split(": ", 1) for line in front.splitlines())}
    assert told["library_name"] == "revdist_sklearn" and told["license"] == "cc-by-4.0"
    assert "antibodies" in told["tags"] and len(set(told["tags"])) == len(told["tags"])
    config = json.loads((hub.folder / "lab" / "chain" / "config.json").read_text())
    stage = distiller.stages_[1]
    for part in (
        f"| 8 | 8 | 4 | {stage.explained_before:.1%} | {stage.explained_after:.1%} |",
        "| the base |",
        "w" * 64,
        "v" * 64,
        "d" * 64,
        "1,234 | 5,678",
        "Rows: 200",
        "Kept in bfloat16",
        f"{config['rounding']['root_mean_square']:.1e}",
        f"{config['rounding']['largest']:.1e}",
        f"{config['rounding']['explained']:.1e}",
        "from_pretrained('lab/chain')",
    ):
        assert part in text, part
    # Names are data: none ends a cell or a line, or reaches a terminal as a command.
    assert "a\\|b" in text and "\x1b" not in text
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if "a\\|b" in line}
    assert widths == {7, 4}
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(front) == told


def test_the_card_of_a_fit_on_rows_in_float64(hub):
    X = np.random.default_rng(0).normal(size=(200, 12))
    card = card_of(hub, ReverseDistiller((4, 8), regressor="pcr").fit(X))
    assert "Kept in float64." in card and "Models and corpus are not known" in card
    assert "license" not in card and "block_sizes=[4, 8]" in card and "regressor='pcr'" in card


def test_without_a_token_nothing_is_asked(hub, distiller, monkeypatch):
    with pytest.raises(UploadError, match=r"no token.*hf auth login.*HF_TOKEN"):
        distiller.push_to_hub("lab/chain")
    with pytest.raises(UploadError, match=r"'HF_TOKEN_UNSET' names .* not set"):
        distiller.push_to_hub("lab/chain", token="HF_TOKEN_UNSET")
    with pytest.raises(ValueError, match="looks like a token itself") as caught:
        distiller.push_to_hub("lab/chain", token=SECRET)
    assert SECRET not in str(caught.value)
    for name in ("chain", "a/b/c", "lab/", 3, None):
        with pytest.raises(ValueError, match="is no id of a repository"):
            distiller.push_to_hub(name, token="HF_TOKEN_LAB")
    with pytest.raises(ValueError, match="tags='one' is one text"):
        distiller.push_to_hub("lab/chain", token="HF_TOKEN_LAB", tags="one")
    with pytest.raises(ValueError, match="dtype='int8'"):
        distiller.push_to_hub("lab/chain", token="HF_TOKEN_LAB", dtype="int8")
    assert hub.calls == []
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: SECRET)
    distiller.push_to_hub("lab/chain")
    assert hub.calls[0] == ("token", SECRET)


def refused(status):
    error = hub_errors.HfHubHTTPError.__new__(hub_errors.HfHubHTTPError, "refused")
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize("call", ["create_repo", "repo_info", "upload_folder"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError(f"Illegal header value 'Bearer {SECRET}'"), r"reached .*hf upload lab/c"),
        (TimeoutError("timed out"), r"reached from this machine\?.*save_pretrained"),
        (refused(401), r"refuses the token.*allowed to write to 'lab'"),
        (refused(403), r"refuses the token.*settings/tokens"),
        (ValueError("bad name"), r"try again\. \(ValueError: bad name\)"),
    ],
)
def test_whatever_goes_wrong_is_one_error_without_the_token(hub, distiller, call, error, words):
    hub.settings.fails[call] = error
    with pytest.raises(UploadError, match=rf"^'lab/chain' was not uploaded\. .*{words}") as caught:
        distiller.push_to_hub("lab/chain", token="HF_TOKEN_LAB")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert isinstance(caught.value, OSError) and not hub.folder.exists()


def test_offline_mode_is_named(hub, distiller, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.settings.fails["create_repo"] = ConnectionError("offline mode")
    with pytest.raises(UploadError, match="HF_HUB_OFFLINE is set: unset it"):
        distiller.push_to_hub("lab/chain", token="HF_TOKEN_LAB")


def test_a_repository_of_something_else_is_left_alone(hub, distiller):
    hub.settings.files = (".gitattributes", "config.json", "model.safetensors")
    with pytest.raises(UploadError, match=r"something else .*\(config\.json, model\.safe"):
        distiller.push_to_hub("lab/chain", token="HF_TOKEN_LAB")
    assert "upload_folder" not in names(hub)
    hub.settings.files = (".gitattributes", "README.md", "chain.safetensors", "config.json")
    distiller.push_to_hub("lab/chain", token="HF_TOKEN_LAB")


def test_what_should_be_private_does_not_go_to_a_public_repository(hub, distiller):
    hub.settings.private = False
    with pytest.raises(UploadError, match="exists and is public"):
        distiller.push_to_hub("lab/chain", token="HF_TOKEN_LAB", private=True)
    assert "upload_folder" not in names(hub)
