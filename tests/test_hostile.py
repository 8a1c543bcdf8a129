"""Files that are made to be no good: each is one error that names it, before much is read of it.

Whoever reads has not the memory for what they say they hold, or no model is of such sizes.
"""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ESM_TOKENS, save_esm, save_t5

from revdist_sklearn import (
    DamagedFileError,
    ESMFeaturizer,
    Moments,
    ReverseDistiller,
    corpus_moments,
)
from revdist_sklearn.base import _damage
from revdist_sklearn.base._damage import damage_is_told, integer, read_json_object, read_text
from revdist_sklearn.embedding._cache import FILE, cache_info, clear_cache

DATA = Path(__file__).parent / "data"
SIZE = 400 * 10**9
HUGE = 10**12


@pytest.fixture
def sparse(tmp_path):
    """Return a function that makes a file of 400 GB that takes up none."""

    def make(path, start=b""):
        with open(path, "wb") as file:
            file.write(start)
            try:
                file.truncate(len(start) + SIZE)
            except OSError:
                pytest.skip("the file system has no sparse files of such a size")
        return path

    return make


@pytest.fixture(autouse=True)
def quick():
    """Nothing of a hostile file is read for long."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 30  # with imports


def tensors(n_bytes, key, header="{}"):
    """Return the start of a safetensors file with one tensor of zeros."""
    entry = {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}
    text = json.dumps({"__metadata__": {key: header}, "residue.n": entry}).encode()
    return len(text).to_bytes(8, "little") + text


STARTS = {"zeros": b"", "header of 10 GB": (10**10).to_bytes(8, "little")}


@pytest.mark.parametrize("start", STARTS)
def test_tensors_of_400_gigabytes_that_are_none(sparse, tmp_path, start):
    path = sparse(tmp_path / "m.safetensors", STARTS[start])
    with pytest.raises(DamagedFileError, match=r"m\.safetensors holds no moments"):
        Moments.load(path)
    path = sparse(tmp_path / "chain.safetensors", STARTS[start])
    with pytest.raises(DamagedFileError, match=f"{tmp_path} holds no complete distiller"):
        ReverseDistiller.from_pretrained(tmp_path)


def test_tensors_of_400_gigabytes_that_their_header_tells_of(sparse, tmp_path):
    """There may be a machine that has the memory; here it is told that there is none."""
    path = sparse(tmp_path / "m.safetensors", tensors(SIZE, "moments"))
    with pytest.raises(MemoryError, match=r"m\.safetensors holds no moments.*400,000,000"):
        Moments.load(path)
    with pytest.raises(MemoryError, match=r"m\.safetensors"):
        corpus_moments(ESMFeaturizer("esm2-nano:32"), ["MKTAYIAKQR"], checkpoint=path)
    sparse(tmp_path / "chain.safetensors", tensors(SIZE, "distiller"))
    with pytest.raises(MemoryError, match=f"{tmp_path} holds no complete distiller"):
        ReverseDistiller.from_pretrained(tmp_path)


def test_settings_of_400_gigabytes(sparse, tmp_path):
    folder = Path(save_esm(tmp_path / "m"))
    sparse(folder / "config.json")
    words = rf"{folder}/config\.json is damaged \(it has 400,000,000,000 bytes, and such"
    with pytest.raises(DamagedFileError, match=words):
        ESMFeaturizer([folder]).transform(["MK"])
    old = shutil.copytree(DATA / "format_2" / "distiller_frame", tmp_path / "d")
    sparse(old / "config.json")
    with pytest.raises(DamagedFileError, match=f"{old} holds no complete .*400,000,000,000"):
        ReverseDistiller.from_pretrained(old)
    rows = np.random.default_rng(0).normal(size=(40, 4))
    fitted = ReverseDistiller([2, 2], residual_sizes=[1]).fit(rows)
    fitted.save_pretrained(old)  # over what is damaged
    assert ReverseDistiller.from_pretrained(old).stages_ == fitted.stages_


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer_config.json"])
def test_vocabularies_of_400_gigabytes(sparse, tmp_path, name):
    """Neither are they read for a digest of the model."""
    folder = Path(save_esm(tmp_path / "m"))
    sparse(folder / name)
    with pytest.raises(DamagedFileError, match=rf"{folder}/{name} is damaged .*400,000,000,000"):
        ESMFeaturizer([folder]).transform(["MK"])


def test_a_cache_of_400_gigabytes(sparse, tmp_path):
    sparse(tmp_path / FILE)
    emb = ESMFeaturizer("esm2-nano:32", cache_dir=tmp_path)
    with pytest.warns(UserWarning, match=f"The cache in '{tmp_path}' does not work") as caught:
        found = emb.transform(["MKTAYIAKQR"])
    assert len(caught) == 1 and "cache clear" in str(caught[0].message)
    np.testing.assert_array_equal(found, ESMFeaturizer("esm2-nano:32").transform(["MKTAYIAKQR"]))
    with pytest.raises(OSError, match=f"{tmp_path}"):
        cache_info(tmp_path)
    assert clear_cache(tmp_path) == SIZE and not list(tmp_path.iterdir())


def test_text_that_is_larger_than_its_kind(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}" + " " * 98)
    assert read_json_object(path, "no way out") == {} and len(read_text(path, 100)) == 100
    with pytest.raises(ValueError, match="it has 100 bytes, and such files 99 at most"):
        read_text(path, 99)
    if Path("/dev/zero").exists():  # which tells no size
        with pytest.raises(ValueError, match="it has 100 bytes"):
            read_text("/dev/zero", 99)  # one more than is allowed is read


def test_what_there_is_no_memory_for_is_named():
    with (
        pytest.raises(MemoryError, match=r"^a is damaged, or it is larger than .* \(x\); b$"),
        damage_is_told("a is damaged", "b"),
    ):
        raise MemoryError("x")


def test_an_index_is_no_key():
    for error, words in ((IndexError("no such item"), r"no such item"), (KeyError("k"), "'k' is")):
        with (
            pytest.raises(DamagedFileError, match=rf"\({words}"),
            damage_is_told("a is damaged", "b"),
        ):
            raise error


def test_an_integer_has_an_end():
    assert integer({"a": 5}, "a", 1, 5) == 5
    with pytest.raises(ValueError, match="its a is 6, more than 5"):
        integer({"a": 6}, "a", 1, 5)
    assert _damage.TEXT_LIMIT == 64 * 2**20


# Models


@pytest.fixture(scope="module")
def esm(tmp_path_factory):
    """Return a folder of a model with a table of positions."""
    folder = tmp_path_factory.mktemp("model")
    return Path(save_esm(folder / "m", position_embedding_type="absolute"))


@pytest.fixture
def with_settings(esm, tmp_path):
    """Return a function to a copy of the model whose configuration says something else."""

    def change(**settings):
        folder = Path(shutil.copytree(esm, tmp_path / "m"))
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        return folder

    return change


WRONG = [[8], "8", -32, 0, HUGE, 10**30, None, 2.5, True, {}]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "max_position_embeddings"])
def test_sizes_that_no_model_has(with_settings, name, value):
    folder = with_settings(**{name: value})
    with pytest.raises(DamagedFileError) as caught:
        ESMFeaturizer([folder]).get_feature_names_out()
    message = str(caught.value)
    assert message.startswith(f"{folder}/config.json describes no model (")
    assert name in message and message.endswith("; save or fetch the model again.")


@pytest.mark.parametrize(
    "settings",
    [{"dtype": ["x"]}, {"dtype": "x"}, {"vocab_size": HUGE}, {"intermediate_size": -1}],
    ids=str,
)
def test_settings_that_describe_no_model(with_settings, settings):
    folder = with_settings(**settings)
    with pytest.raises(DamagedFileError, match=f"{folder}/config.json describes no model"):
        ESMFeaturizer([folder]).transform(["MK"])


def test_positions_that_leave_no_room(with_settings):
    folder = with_settings(max_position_embeddings=4)
    with pytest.raises(DamagedFileError, match="leave room for 0 residues"):
        ESMFeaturizer([folder]).transform(["MK"])


@pytest.mark.parametrize("settings", [{"num_attention_heads": 3}, {"pad_token_id": 99}], ids=str)
def test_settings_that_no_model_can_be_made_of(with_settings, settings):
    folder = with_settings(**settings)
    with pytest.raises(ValueError, match=f"The weights of '{folder}' do not fit"):
        ESMFeaturizer([folder]).transform(["MK"])


def test_sizes_of_other_architectures(tmp_path):
    folder = Path(save_t5(tmp_path / "t5", spelling="▁{}"))
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    for name in ("d_model", "num_layers", "d_ff", "num_heads"):
        path.write_text(json.dumps({**settings, name: HUGE}))
        with pytest.raises(DamagedFileError, match=f"{path} describes no model"):
            ESMFeaturizer([folder]).get_feature_names_out()


def test_a_vocabulary_of_bytes(esm, tmp_path):
    folder = Path(shutil.copytree(esm, tmp_path / "m"))
    (folder / "vocab.txt").write_bytes(b"\x80\xff" * 100)
    with pytest.raises(DamagedFileError, match=f"The vocabulary {folder}/vocab.txt is damaged"):
        ESMFeaturizer([folder]).transform(["MK"])


def test_a_vocabulary_of_a_larger_model(esm, tmp_path):
    folder = Path(shutil.copytree(esm, tmp_path / "m"))
    text = "\n".join([*(f"<more_{i}>" for i in range(9)), *ESM_TOKENS])
    (folder / "vocab.txt").write_text(text)
    words = f"{folder} holds the vocabulary of another model .it has a token 3., and the model 33"
    with pytest.raises(DamagedFileError, match=words):
        ESMFeaturizer([folder]).transform(["MK"])
