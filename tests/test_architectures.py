from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from conftest import save_bert, save_esm, save_t5

from revdist_sklearn import ESMFeaturizer, _architectures
from revdist_sklearn._architectures import ARCHITECTURES
from revdist_sklearn._device import resolve_device
from revdist_sklearn._family import FAMILIES, resolve_family
from revdist_sklearn._models import load
from revdist_sklearn._sequences import AMINO_ACIDS, RESIDUES

KEYS = [*ARCHITECTURES, "distilbert"]
# How each is called by hand: its class, and whether residues stand apart.
BY_HAND = {
    "esm": ("EsmModel", False),
    "esmc": ("EsmcModel", False),
    "prott5": ("T5EncoderModel", True),
    "ankh": ("T5EncoderModel", True),
    "protbert": ("BertModel", True),
    "distilbert": ("DistilBertModel", True),
}


@pytest.fixture
def folder(architecture_folders, key):
    if key not in architecture_folders:
        pytest.skip("this version of transformers does not have it")
    return architecture_folders[key]


def encoder_of(folder, dtype="float32", layer=-1, options=None):
    (member,) = resolve_family(folder)
    return load(member.folder(), member, dtype, layer, resolve_device("cpu"), True, options)


def by_hand(folder, key, sequence, layer=-1):
    """Return token ids and all hidden states of one protein, by transformers' own means."""
    name, apart = BY_HAND[key]
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    if key in ("protbert", "prott5", "distilbert"):  # as their model cards do it
        sequence = sequence.translate(str.maketrans("UZOB", "XXXX"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(" ".join(sequence) if apart else sequence, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        output = model(input_ids=ids, output_hidden_states=True)
    states = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    return ids[0].tolist(), states[0].numpy()


@pytest.mark.parametrize("key", KEYS)
def test_token_ids_are_those_of_the_tokenizer(folder, key):
    for sequence in (RESIDUES, "M", RESIDUES[::-1]):
        expected, _ = by_hand(folder, key, sequence)
        assert encoder_of(folder).tokenize(sequence).tolist() == expected


@pytest.mark.parametrize("layer", [-1, 2, 1, 0, -2])
@pytest.mark.parametrize("key", KEYS)
def test_states_are_those_of_transformers(folder, key, layer, proteins):
    encoder = encoder_of(folder, layer=layer)
    proteins = [protein for protein in proteins if len(protein) <= 56]
    residues, first = encoder(proteins)
    start = len(encoder._before)
    for i, sequence in enumerate(proteins):
        _, expected = by_hand(folder, key, sequence, layer)
        tolerance = 1e-5 * max(1, np.abs(expected).max())
        of_residues = expected[start : start + len(sequence)]
        np.testing.assert_allclose(residues[i], of_residues, rtol=0, atol=tolerance)
        np.testing.assert_allclose(first[i], expected[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("key", KEYS)
def test_company_in_a_batch_changes_nothing(folder, proteins):
    encoder = encoder_of(folder)
    together, _ = encoder(proteins)
    for protein, states in zip(proteins, together, strict=True):
        ([alone], _) = encoder([protein])
        tolerance = 1e-5 * max(1, float(alone.abs().max()))
        torch.testing.assert_close(states, alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("key", KEYS)
def test_members_know_width_and_limit(folder, key):
    (member,) = resolve_family(folder)
    limits = {"protbert": 58}
    assert (member.width, member.limit) == (8, limits.get(key))
    assert member.model_type == key


def test_every_architecture_has_a_test_model(architecture_folders):
    tested = {resolve_family(folder)[0].model_type for folder in architecture_folders.values()}
    missing = set() if hasattr(transformers, "EsmcModel") else {"esmc"}
    assert tested == {*ARCHITECTURES, "distilbert"} - missing


def test_families_name_architectures():
    assert {family.model_type for family in FAMILIES.values()} <= set(ARCHITECTURES)


def test_one_entry_adds_an_architecture(tmp_path, monkeypatch, proteins):
    """DistilBERT with its layers named: those above the wanted one are then not run."""
    folder = save_bert(tmp_path / "distil", model="DistilBert")
    entry = replace(
        ARCHITECTURES["protbert"],
        model_type="distilbert",
        model_class="DistilBertModel",
        layers="transformer.layer",
        load_options={},
    )
    generic = ESMFeaturizer(folder, layer=1).transform(proteins)
    monkeypatch.setitem(_architectures.ARCHITECTURES, "distil", entry)
    (member,) = resolve_family(folder)
    assert (member.model_type, member.limit) == ("distil", 58)
    assert len(encoder_of(folder, layer=1).model.transformer.layer) == 1
    X = ESMFeaturizer(folder, layer=1, device="cpu").transform(proteins)
    np.testing.assert_allclose(X, generic, atol=1e-5)


def test_families_may_mix_architectures(architecture_folders, proteins):
    folders = [architecture_folders[key] for key in ("esm", "prott5", "protbert")]
    X = ESMFeaturizer(folders).transform(proteins)
    for i, (key, of_model) in enumerate(zip(("esm", "prott5", "protbert"), folders, strict=True)):
        start = 0 if key == "prott5" else 1
        states = [by_hand(of_model, key, s)[1][start : start + len(s)] for s in proteins]
        expected = np.array([s.mean(0) for s in states])
        np.testing.assert_allclose(X[:, 8 * i : 8 * i + 8], expected, atol=1e-4)


@pytest.mark.parametrize("key", ["prott5", "ankh"])
def test_cls_needs_a_start_token(folder):
    with pytest.raises(ValueError, match=r"'cls' needs a start token, which .*tiny_"):
        ESMFeaturizer(folder, pooling="cls").fit(["MKT"])


def test_cls_of_a_model_without_an_entry(architecture_folders):
    folder = architecture_folders["distilbert"]
    X = ESMFeaturizer(folder, pooling="cls").transform([AMINO_ACIDS])
    np.testing.assert_allclose(X[0], by_hand(folder, "distilbert", AMINO_ACIDS)[1][0], atol=1e-5)


def test_tokens_of_several_residues_are_refused(tmp_path):
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast

    folder = save_bert(tmp_path / "merges", model="DistilBert", files=())
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["[UNK]", "[PAD]"])
    tokenizer.train_from_iterator([AMINO_ACIDS] * 50, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    with pytest.raises(ValueError, match="does not make one token of each amino acid"):
        ESMFeaturizer(folder).transform([AMINO_ACIDS])


def test_a_tokenizer_of_another_model_is_told(tmp_path):
    folder = save_t5(tmp_path / "t5")
    other = save_bert(tmp_path / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "t5" / name).write_text((tmp_path / "bert" / name).read_text())
    assert other
    with pytest.raises(ValueError, match=r"puts \(\('\[CLS\]',\), .* the architecture 'prott5'"):
        ESMFeaturizer(folder).transform(["MKT"])


def test_letters_that_a_model_without_an_entry_lacks(tmp_path):
    folder = save_bert(tmp_path / "distil", model="DistilBert", files=())
    X = ESMFeaturizer(folder).transform(["AUA", "AXA"])
    np.testing.assert_array_equal(X[0], X[1])


def test_model_kwargs_reach_transformers(tmp_path):
    folder = save_esm(tmp_path / "m")
    for wanted in ("eager", "sdpa"):
        encoder = encoder_of(folder, options={"attn_implementation": wanted})
        assert encoder.model.config._attn_implementation == wanted and not encoder.packed


@pytest.mark.parametrize("keyword", ["dtype", "torch_dtype", "revision", "token"])
def test_model_kwargs_do_not_repeat_parameters(tmp_path, keyword):
    folder = save_esm(tmp_path / "m")
    with pytest.raises(ValueError, match=f"holds '{keyword}'.*use the parameter"):
        ESMFeaturizer(folder, model_kwargs={keyword: "x"}).transform(["MKT"])


def test_device_and_device_map_contradict(tiny_model):
    emb = ESMFeaturizer(tiny_model, device="cpu", model_kwargs={"device_map": "auto"})
    with pytest.raises(ValueError, match="leave `device` at None"):
        emb.fit(["MKT"])
