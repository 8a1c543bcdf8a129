import json
from pathlib import Path

import pytest
from conftest import save_esm
from transformers import EsmConfig

from revdist_sklearn import ESMFeaturizer
from revdist_sklearn._columns import blocks_of, column_names
from revdist_sklearn._family import (
    ARCHITECTURES,
    FAMILIES,
    alias_of,
    family_blocks,
    resolve_family,
)
from revdist_sklearn._hub import ModelNotFoundError


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
    (found,) = resolve_family(member.source)
    assert (found.block, found.width, found.limit) == (member.block, member.width, None)
    assert member.local_files_only


@pytest.mark.parametrize("size", ["32", "64", "96"])
def test_bundled_members_load_with_transformers_own_classes(size):
    from transformers import EsmForMaskedLM, EsmModel, EsmTokenizer

    member = resolve_family(f"esm2-nano:{size}")[-1]
    model, report = EsmForMaskedLM.from_pretrained(member.source, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = EsmTokenizer.from_pretrained(member.source)("MKTAYIAKQR", return_tensors="pt")
    assert model.float()(**ids).logits.shape == (1, 12, 33)
    encoder = EsmModel.from_pretrained(member.source, add_pooling_layer=False).float().eval()
    states = encoder(**ids).last_hidden_state[0, 1:-1].mean(0).detach()
    block = ESMFeaturizer([member.source]).transform(["MKTAYIAKQR"])[0]
    assert abs(states.numpy() - block).max() < 1e-5


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


def test_architecture_that_transformers_does_not_know(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "esm9", "hidden_size": 8}')
    with pytest.raises(ValueError, match=r"'esm9'.*pip install -U transformers.*esm, esmc"):
        resolve_family(str(tmp_path))


@pytest.mark.parametrize("model_type", ["bart", "mt5"])
def test_encoders_with_a_decoder_are_refused(tmp_path, model_type):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    with pytest.raises(ValueError, match="is an encoder with a decoder"):
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


def test_code_of_a_repository_runs_only_when_asked_for(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}'
    )
    (tmp_path / "configuration_own.py").write_text(
        "from transformers import PretrainedConfig\n\n\n"
        "class OwnConfig(PretrainedConfig):\n"
        '    model_type = "own"\n\n'
        "    def __init__(self, hidden_size=8, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
        "        self.hidden_size = hidden_size\n"
    )
    with pytest.raises(ValueError, match=r"brings its own code.*'trust_remote_code': True"):
        resolve_family(str(tmp_path))
    (member,) = resolve_family(str(tmp_path), trust_remote_code=True)
    assert (member.width, member.model_type) == (8, "own")
