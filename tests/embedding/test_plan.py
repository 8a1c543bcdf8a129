import shutil
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from conftest import save_generic
from transformers import GPT2Config, GPT2LMHeadModel

from revdist_sklearn import ESMFeaturizer
from revdist_sklearn.base._identity import canonical_json


def identity(*args, level="protein", **kwargs):
    return ESMFeaturizer(*args, **kwargs).embedding_plan(level).identity()


def test_is_what_the_parameters_come_to(tiny_family):
    plan = ESMFeaturizer(tiny_family[:2], max_length=7, too_long="window").embedding_plan()
    assert plan.blocks.names == ("tiny_08", "tiny_12") and plan.blocks.sizes == (8, 12)
    assert (plan.limit, plan.too_long, plan.pooling.kind) == (7, "window", "mean")
    assert plan.prepare(["mkt", "A" * 20]) == ["MKT", "A" * 20]
    assert [columns for _, columns in plan.runs()] == [slice(0, 8), slice(8, 20)]
    with pytest.raises(FrozenInstanceError):
        plan.layer = 3


def test_residues_have_no_pooling(tiny_model):
    emb = ESMFeaturizer(tiny_model, pooling="mutated", reference="MKT")
    assert emb.embedding_plan("residue").pooling is None
    assert identity(tiny_model, level="residue") != identity(tiny_model)
    with pytest.raises(ValueError, match="level='proteins' must be 'protein' or 'residue'"):
        emb.embedding_plan("proteins")


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": 0},
        {"dtype": "float16"},
        {"pooling": "max"},
        {"pooling": [0, 2]},
        {"reference": "MKT"},
        {"pooling": "mutated", "reference": "MKT"},
        {"max_length": 9, "too_long": "window"},
        {"model_kwargs": {"attn_implementation": "eager"}},
    ],
)
def test_identity_changes_with_all_that_rows_depend_on(tiny_model, changed):
    assert identity(tiny_model, **changed) != identity(tiny_model)
    assert identity(tiny_model, **changed) == identity(tiny_model, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"max_length": 9},  # under these policies the sequences tell
        {"max_length": 9, "too_long": "truncate"},
        {"token_budget": 50},
        {"device": "cpu"},
        {"n_jobs": 2},
        {"cache_dir": "c"},
        {"verbose": 1},
        {"local_files_only": True},
        {"model_kwargs": {}},
    ],
)
def test_identity_is_the_same_whatever_sets_speed_and_memory_alone(tiny_model, changed):
    assert identity(tiny_model, **changed) == identity(tiny_model)


def test_identity_knows_the_reference_by_its_letters(tiny_model):
    for pooling in ("mean", "mutated"):
        one = identity(tiny_model, pooling=pooling, reference="MKT")
        assert one != identity(tiny_model, pooling=pooling, reference="MKV")
        assert one == identity(tiny_model, pooling=pooling, reference="mkt")


def test_identity_is_of_the_contents_of_models(tiny_family, tmp_path):
    copied = shutil.copytree(tiny_family[0], tmp_path / "elsewhere")
    assert identity([str(copied)]) == identity([tiny_family[0]])
    assert identity([str(copied), tiny_family[1]]) == identity(tiny_family[:2])
    assert identity(tiny_family[1::-1]) != identity(tiny_family[:2])
    weights = copied / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert identity([str(copied)]) != identity([tiny_family[0]])


def test_identity_is_plain(tiny_model):
    text = canonical_json(identity(tiny_model, pooling=np.array([1, 2])))
    assert '"pooling":[1,2]' in text and "MKT" not in canonical_json(
        identity(tiny_model, reference="MKT")
    )


def test_settings_that_cannot_be_written_down_are_told(tiny_model):
    emb = ESMFeaturizer(tiny_model, model_kwargs={"device_map": object()})
    with pytest.raises(TypeError, match=r"`model_kwargs`.*settings\['device_map'\] is <object"):
        emb.embedding_plan().identity()


def test_configurations_and_types_of_torch_can_be_written_down():
    torch = pytest.importorskip("torch")
    from transformers import BitsAndBytesConfig

    def text(**settings):
        return canonical_json({"q": BitsAndBytesConfig(**settings), "t": torch.float16})

    assert text(load_in_8bit=True) == text(load_in_8bit=True) != text(load_in_4bit=True)
    assert '"t":"torch.float16"' in text() and "BitsAndBytesConfig" in text()


@pytest.mark.parametrize("given", [{}, {"max_length": 100}])
def test_a_decoder_is_refused_for_what_it_is_and_not_for_its_limit(tmp_path, given):
    config = GPT2Config(
        vocab_size=29, n_embd=8, n_layer=1, n_head=2, n_positions=64, initializer_range=0.6
    )
    folder = save_generic(tmp_path / "m", GPT2LMHeadModel, config)
    with pytest.raises(ValueError, match="looks only back"):
        ESMFeaturizer(folder, **given).transform(["MKTAY" * 20])
