import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from conftest import save_esm, save_generic, small
from safetensors.torch import save_file
from transformers import EsmConfig

from revdist_sklearn import Blocks, ESMFeaturizer
from revdist_sklearn.base._aliases import FAMILIES, alias_blocks, alias_of
from revdist_sklearn.base._hub import ModelNotFoundError
from revdist_sklearn.models._architectures import ARCHITECTURES
from revdist_sklearn.models._family import blocks_of, resolve_family
from revdist_sklearn.models._loading import load


def family_blocks(models):
    return blocks_of(resolve_family(models))


def test_alias_without_size_is_the_default_chain():
    assert [m.width for m in resolve_family("esm2-nano")] == [32, 64, 96]
    assert [m.width for m in resolve_family("esm2")] == [320, 480, 640, 1280]
    assert [m.width for m in resolve_family("esmc")] == [960, 1152]
    assert [m.width for m in resolve_family("ankh")] == [768, 1536]


def test_alias_with_size_is_the_chain_up_to_it():
    assert alias_blocks("esm2-nano:64") == Blocks([32, 64], ["esm2_nano_032", "esm2_nano_064"])
    assert [m.source for m in resolve_family("esm2:35M")] == [
        "facebook/esm2_t6_8M_UR50D",
        "facebook/esm2_t12_35M_UR50D",
    ]
    assert alias_blocks("esmc:300M") == Blocks([960], ["ESMC-300M"])
    assert alias_blocks("ESM2:15b").names[-1] == "esm2_t48_15B_UR50D"
    assert alias_blocks("ESM2:15b").sizes[-1] == 5120
    for name, family in FAMILIES.items():
        for size in family.members:
            assert alias_blocks(f"{name}:{size}") == family_blocks(f"{name}:{size}")


def test_only_aliases_have_blocks_without_asking():
    with pytest.raises(ValueError, match=r"'acme/x' is no alias of a family\. Known aliases"):
        alias_blocks("acme/x")
    with pytest.raises(ValueError, match="Unknown size '7M'"):
        alias_blocks("esm2:7M")


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
        assert family_blocks(one) == Blocks([8], ["tiny_08"])
    monkeypatch.chdir(Path(tiny_family[0]).parent)
    assert family_blocks("./tiny_08/") == Blocks([8], ["tiny_08"])
    assert family_blocks("tiny_08") == Blocks([8], ["tiny_08"])
    monkeypatch.setenv("HOME", str(Path(tiny_family[0]).parent))
    assert family_blocks("~/tiny_08") == Blocks([8], ["tiny_08"])


def test_an_alias_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    save_esm(tmp_path / "esm2", width=8)
    monkeypatch.chdir(tmp_path)
    assert len(resolve_family("esm2")) == 4
    assert family_blocks("./esm2") == family_blocks(Path("esm2")) == Blocks([8], ["esm2"])


def test_block_names_hold_no_double_underscore_and_differ(tmp_path):
    folders = [save_esm(tmp_path / name / "my__model_") for name in "ab"]
    folders += [save_esm(tmp_path / "c" / "my model"), save_esm(tmp_path / "d" / "my_model_2")]
    names = [m.block for m in resolve_family(folders)]
    assert names == ["my_model", "my_model_2", "my_model_3", "my_model_2_2"]
    blocks = family_blocks(folders)
    assert blocks.names == tuple(names) and Blocks.of_columns(blocks.columns()) == blocks


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


@pytest.mark.parametrize("written", ['{"model_type": "abacus"}', '{"hidden_size": 8}'])
def test_architecture_that_transformers_does_not_have(tmp_path, written):
    (tmp_path / "config.json").write_text(written)
    with pytest.raises(ValueError, match="pip install -U transformers") as caught:
        resolve_family(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert transformers.__version__ in str(caught.value)


def test_width_that_is_the_default_may_be_left_out_of_the_file(tmp_path):
    folder = Path(save_esm(tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert resolve_family(str(folder))[0].width == EsmConfig().hidden_size


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


# Code of the repository


CONFIG_CODE = """
from transformers import PretrainedConfig


class OwnConfig(PretrainedConfig):
    model_type = "own_encoder"
    hidden_size = 8
"""
MODEL_CODE = """
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_own import OwnConfig


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(29, 8)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, **_):
        states = self.embed(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mean = (states * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        both = (states, states + mean)
        return BaseModelOutput(both[-1], both if output_hidden_states else None)
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """Return the folder of a model whose classes are in the folder; they leave a trace."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr("sys.path", [*sys.path])
    # Those of another test lie in its folder.
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    folder, trace = tmp_path / "own", tmp_path / "ran"
    config = transformers.RobertaConfig(**small(29), pad_token_id=1)
    save_generic(folder, transformers.RobertaModel, config)
    auto_map = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    written = {"model_type": "own_encoder", "auto_map": auto_map, "architectures": ["OwnModel"]}
    (folder / "config.json").write_text(json.dumps(written))
    mark = f"open({str(trace)!r}, 'w').close()"
    (folder / "configuration_own.py").write_text(CONFIG_CODE + mark)
    (folder / "modeling_own.py").write_text(MODEL_CODE)
    weights = torch.randn(29, 8, generator=torch.Generator().manual_seed(0))
    save_file({"embed.weight": weights}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, trace, weights


def test_code_of_a_repository_is_not_run_unasked(own_code, no_network):
    folder, trace, _ = own_code
    with pytest.raises(ValueError, match=r"model_kwargs=\{'trust_remote_code': True\}") as caught:
        resolve_family(str(folder))
    assert "'own_encoder'" in str(caught.value) and str(folder) in str(caught.value)
    assert not trace.exists()


def test_code_of_a_repository_runs_where_the_user_says_so(own_code, no_network):
    folder, trace, weights = own_code
    (member,) = resolve_family(str(folder), trust_remote_code=True)
    assert trace.exists() and member.width == 8
    encoder = load(member.folder(), member, "float32", -1, torch.device("cpu"))
    (residues,), _ = encoder(["MKTAY"])
    ids = encoder.tokenize("MKTAY")
    expected = weights[ids] + weights[ids].mean(0)
    assert (residues - expected[1:-1]).abs().max() < 1e-6


def test_width_by_its_other_name(own_code):
    """As T5's configuration has it, where transformers gives no second name."""
    folder, _, _ = own_code
    for path in folder.glob("*_own.py"):
        path.write_text(path.read_text().replace("hidden_size", "d_model"))
    (member,) = resolve_family(str(folder), trust_remote_code=True)
    assert member.width == 8
    encoder = load(member.folder(), member, "float32", -1, torch.device("cpu"))
    assert encoder.width == 8 and encoder(["MKTAY"])[0][0].shape == (5, 8)


def test_width_that_the_configuration_does_not_tell(own_code):
    folder, _, _ = own_code
    path = folder / "configuration_own.py"
    path.write_text(path.read_text().replace("hidden_size", "size_of_states"))
    with pytest.raises(ValueError, match="neither hidden_size nor d_model"):
        resolve_family(str(folder), trust_remote_code=True)


def test_trust_is_not_needed_nor_used_where_transformers_has_the_class(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('the code ran')")
    for trust in (False, True):
        (member,) = resolve_family(str(folder), trust_remote_code=trust)
        assert member.width == 12
        load(member.folder(), member, "float32", -1, torch.device("cpu"))


# The token of the hub


SECRET = "hf_" + "aB3" * 11


def test_a_token_in_place_of_its_name_is_refused_and_not_repeated():
    for token in (SECRET, "api_org_" + "x" * 20, "eyJ.a.b", ""):
        with pytest.raises(ValueError, match="token='HF_TOKEN_LAB'") as caught:
            resolve_family("esm2-nano", token=token)
        assert not token or token not in str(caught.value)


def test_members_carry_the_name_of_the_token_alone(monkeypatch, hub_cache):
    hub_cache("acme/carried")
    monkeypatch.setenv("HF_TOKEN_LAB", SECRET)
    members = resolve_family("esm2", token="HF_TOKEN_LAB")
    members += resolve_family("acme/carried", local_files_only=True, token="HF_TOKEN_LAB")
    for member in members:
        assert member.token == "HF_TOKEN_LAB"
        assert SECRET not in repr(member) and SECRET.encode() not in pickle.dumps(member)


@pytest.mark.parametrize("text", ["{", "[]", "\ufeff{}"])
def test_a_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{tmp_path}/config.json is damaged"):
        resolve_family(str(tmp_path))


def test_bundled_models_have_names(tmp_path, monkeypatch):
    [alone] = resolve_family("esm2_nano_064")
    of_alias = resolve_family("esm2-nano:64")[1]
    assert (alone.source, alone.block, alone.width) == (of_alias.source, of_alias.block, 64)
    assert [m.width for m in resolve_family(["esm2_nano_032", "esm2_nano_096"])] == [32, 96]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "esm2_nano_064").mkdir()  # a folder of that name goes first
    with pytest.raises(OSError, match="holds no model"):
        resolve_family("esm2_nano_064")
