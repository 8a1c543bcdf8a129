"""Every entry against transformers: its own tokenizer, its own class, hidden_states[layer]."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from conftest import (
    T5_LETTERS,
    save_bert,
    save_esm,
    save_esmc,
    save_generic,
    save_iglm,
    save_random,
    save_t5,
    small,
)
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertModel,
    BertTokenizer,
    EsmConfig,
    EsmModel,
    EsmTokenizer,
    GPT2Model,
    T5EncoderModel,
)

from revdist_sklearn.models._architectures import ARCHITECTURES, GENERIC, Architecture
from revdist_sklearn.models._family import resolve_family
from revdist_sklearn.models._loading import load

CPU = torch.device("cpu")
GENERIC_TOKENS = 4 + len(T5_LETTERS)


def save_roberta(folder, **config):
    config = transformers.RobertaConfig(
        **{**small(GENERIC_TOKENS), "max_position_embeddings": 66, "pad_token_id": 1, **config}
    )
    return save_generic(folder, transformers.RobertaModel, config)


def save_distilbert(folder):
    config = transformers.DistilBertConfig(
        vocab_size=GENERIC_TOKENS,
        dim=8,
        hidden_dim=16,
        n_layers=2,
        n_heads=2,
        initializer_range=0.6,
    )
    return save_generic(folder, transformers.DistilBertForMaskedLM, config, spaced=True)


class IgLMTokenizer:
    """Tokens as IgLM's own package has them: no start token, and the chain before the species."""

    @classmethod
    def from_pretrained(cls, folder):
        tokenizer = BertTokenizer.from_pretrained(folder)

        def ids(text, return_tensors):
            return {"input_ids": torch.tensor([tokenizer.convert_tokens_to_ids(text.split())])}

        return ids


def spaced(sequence):
    """Spaces between residues, and X for U, Z, O and B: as the authors of ProtTrans do."""
    return " ".join(re.sub("[UZOB]", "X", sequence))


# Name: key of the table, how to save it, its classes, how its tokenizer wants proteins,
# special tokens before and after.
MODELS = {
    "ESM-2": ("esm", lambda f: save_esm(f, layers=2), EsmModel, EsmTokenizer, str, (1, 1)),
    "ESM-1b": (
        "esm",
        lambda f: save_esm(
            f, layers=2, position_embedding_type="absolute", emb_layer_norm_before=True
        ),
        *(EsmModel, EsmTokenizer, str, (1, 1)),
    ),
    "ESM C": ("esmc", save_esmc, "EsmcModel", "EsmcTokenizer", str, (1, 1)),
    "ProtT5": (
        "t5",
        lambda f: save_t5(f, spelling="▁{}"),
        *(T5EncoderModel, AutoTokenizer, spaced, (0, 1)),
    ),
    "Ankh": (  # gated, as Ankh's layers are; with a decoder, as its checkpoints have
        "t5",
        lambda f: save_t5(f, spelling="{}", lm_head=True, feed_forward_proj="gated-gelu"),
        *(T5EncoderModel, AutoTokenizer, str, (0, 1)),
    ),
    "ProstT5": (
        "t5",
        lambda f: save_t5(f, spelling="▁{}", tags=["<AA2fold>"]),
        *(T5EncoderModel, AutoTokenizer, lambda s: f"<AA2fold> {spaced(s)}", (1, 1)),
    ),
    "Ankh3": (
        "t5",
        lambda f: save_t5(f, spelling="{}", tags=["[NLU]", "[S2S]"]),
        *(T5EncoderModel, AutoTokenizer, lambda s: f"[NLU]{s}", (1, 1)),
    ),
    "ProtBert": ("bert", save_bert, BertModel, BertTokenizer, spaced, (1, 1)),
    "IgLM": (
        "gpt2",
        save_iglm,
        *(GPT2Model, IgLMTokenizer, lambda s: f"[HEAVY] [HUMAN] {' '.join(s)} [SEP]", (2, 1)),
    ),
    "RoBERTa": ("roberta", save_roberta, AutoModel, AutoTokenizer, str, (1, 1)),
    "DistilBERT": ("distilbert", save_distilbert, AutoModel, AutoTokenizer, " ".join, (1, 1)),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """Return the folder of a tiny model and how to read it by hand."""
    model_type, save, model_class, tokenizer, text_of, around = MODELS[request.param]
    if isinstance(model_class, str):
        if not hasattr(transformers, model_class):
            pytest.skip(f"this version of transformers has no {model_class}")
        model_class, tokenizer = (getattr(transformers, n) for n in (model_class, tokenizer))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(folder)

    def states_by_hand(sequence, layer):
        has_pooler = model_class in (EsmModel, BertModel)
        no_pooler = {"add_pooling_layer": False} if has_pooler else {}
        plain = model_class.from_pretrained(folder, dtype=torch.float32, **no_pooler).eval()
        ids = tokenizer.from_pretrained(folder)(text_of(sequence), return_tensors="pt")
        with torch.no_grad():
            out = plain(ids["input_ids"], output_hidden_states=True)
        return ids["input_ids"][0].tolist(), out.hidden_states[layer][0].numpy()

    return str(folder), model_type, states_by_hand, around


def encoder_of(folder, layer=-1, dtype="float32", causal=False):
    (member,) = resolve_family(folder, causal=causal)
    return load(member.folder(), member, dtype, layer, CPU)


# In older versions attention may not be told of the proteins in a row.
NEW = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 20)


@pytest.mark.skipif(not NEW, reason="older versions of transformers may keep the plain path")
def test_who_has_the_fast_path(model):
    folder, model_type, *_ = model
    assert encoder_of(folder, causal=True).packed == (model_type in ("esm", "esmc", "bert"))


# transformers 5.0 warns within its own BertTokenizer.
@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0:DeprecationWarning")
@pytest.mark.parametrize("layer", [-1, 0, 1, 2])
def test_tokens_and_states_are_those_of_transformers(model, proteins, layer):
    folder, model_type, states_by_hand, (before, after) = model
    (member,) = resolve_family(folder, causal=True)
    assert (member.model_type, member.width, member.depth) == (model_type, 8, 2)
    encoder = encoder_of(folder, layer, causal=True)
    assert encoder.n_specials == before + after
    assert encoder.has_start == (before > 0)
    assert sorted(encoder.residues) == sorted(member.architecture.residues)
    proteins = known_to(encoder, proteins)
    residues, first = encoder(proteins)
    for i, sequence in enumerate(proteins):
        ids, expected = states_by_hand(sequence, layer)
        assert encoder.tokenize(sequence).tolist() == ids
        end = len(expected) - after
        np.testing.assert_allclose(residues[i], expected[before:end], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(first[i], expected[0], rtol=1e-4, atol=1e-5)


# transformers 5.0 warns within its own BertTokenizer.
@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0:DeprecationWarning")
@pytest.mark.parametrize("layers", [(0, 1, -1), (1, 0), (2, 0), (1,)])
def test_states_of_several_layers_come_side_by_side_from_one_pass(model, proteins, layers):
    folder, _, states_by_hand, (before, after) = model
    encoder, passes = encoder_of(folder, layers, causal=True), []
    encoder.model.register_forward_hook(lambda *args: passes.append(1))
    proteins = known_to(encoder, proteins)
    residues, first = encoder(proteins)
    assert len(passes) == 1
    for i, sequence in enumerate(proteins):
        expected = np.hstack([states_by_hand(sequence, layer)[1] for layer in layers])
        end = len(expected) - after
        np.testing.assert_allclose(residues[i], expected[before:end], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(first[i], expected[0], rtol=1e-4, atol=1e-5)


def known_to(encoder, proteins):
    """Return proteins of the letters that a model has."""
    return [re.sub(f"[^{encoder.residues}]", "A", protein) for protein in proteins]


def test_padding_changes_nothing(model):
    encoder = encoder_of(model[0], causal=True)
    (alone,), _ = encoder(["MKTAY"])
    (padded, _), _ = encoder(["MKTAY", "GSHMLEDPVDAFKLRRRWNTQ"])
    assert alone.abs().max() > 0.1
    np.testing.assert_allclose(padded, alone, rtol=1e-4, atol=1e-5)


def test_layer_out_of_range_names_the_range(model):
    for layer in (3, -4):
        with pytest.raises(ValueError, match=r"has 2 layers; use an integer in \[-3, 2\]"):
            encoder_of(model[0], layer, causal=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(model, dtype):
    (exact,), _ = encoder_of(model[0], causal=True)(["MKTAYIAKQR"])
    (near,), _ = encoder_of(model[0], dtype=dtype, causal=True)(["MKTAYIAKQR"])
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.1 * exact.abs().max()


def test_every_entry_has_a_test_model():
    assert {model_type for model_type, *_ in MODELS.values()} >= set(ARCHITECTURES)


def test_an_entry_is_all_that_a_new_architecture_needs(tmp_path, monkeypatch):
    folder = save_roberta(tmp_path / "m")
    generic = encoder_of(folder, layer=1)
    entry = Architecture(
        "RobertaModel",
        layers="encoder.layer",
        load_options={"add_pooling_layer": False},
        before=("<s>",),
        after=("</s>",),
    )
    monkeypatch.setitem(ARCHITECTURES, "roberta", entry)
    tabled = encoder_of(folder, layer=1)
    assert len(tabled.model.encoder.layer) == 1  # cut: known from the table alone
    (expected,), _ = generic(["MKTAY"])
    (found,), _ = tabled(["MKTAY"])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rare_letters_are_x_where_the_authors_trained_so(tmp_path):
    as_x = encoder_of(save_t5(tmp_path / "prot", spelling="▁{}"))
    assert len(set(as_x.tokenize("XUZOB")[:5].tolist())) == 1
    own = encoder_of(save_t5(tmp_path / "ankh", spelling="{}"))
    assert len(set(own.tokenize("XUZOB")[:5].tolist())) == 5
    as_x = encoder_of(save_bert(tmp_path / "bert"))
    assert len(set(as_x.tokenize("XUZOB")[1:6].tolist())) == 1


def test_learned_positions_have_an_end_and_others_none(tmp_path):
    esm = ARCHITECTURES["esm"]
    settings = {"pad_token_id": 1, "vocab_size": 33, "max_position_embeddings": 1026}
    assert esm.limit(EsmConfig(position_embedding_type="rotary", **settings)) is None
    # ESM-1b: 1,024 tokens, of which two are special.
    assert esm.limit(EsmConfig(position_embedding_type="absolute", **settings)) == 1022
    assert ARCHITECTURES["t5"].limit(transformers.T5Config()) is None
    assert GENERIC.limit(transformers.T5Config()) is None


@pytest.mark.parametrize(("save", "limit"), [(save_bert, 62), (save_roberta, 62)])
def test_the_limit_is_the_longest_protein_that_runs(tmp_path, save, limit):
    folder = save(tmp_path / "m")
    assert resolve_family(folder)[0].limit == limit
    encoder = encoder_of(folder)
    encoder(["A" * limit])
    with pytest.raises((IndexError, RuntimeError)):
        encoder(["A" * (limit + 1)])


# Models without an entry


def test_states_of_all_layers_are_not_kept_without_need(tmp_path):
    folder = save_roberta(tmp_path / "m")
    asked = []
    for layer in (-1, 1):
        encoder = encoder_of(folder, layer)
        encoder.model.register_forward_pre_hook(
            lambda model, args, kwargs: asked.append(kwargs.get("output_hidden_states", False)),
            with_kwargs=True,
        )
        encoder(["MKT"])
    assert asked == [False, True]


def test_the_last_of_several_states_is_the_one_that_the_model_gives(tmp_path):
    """Some classes norm it after they have noted it among the hidden ones."""
    folder = save_roberta(tmp_path / "m")

    def norm_late(model, args, output):
        output.last_hidden_state = output.last_hidden_state + 1
        return output

    (plain,), _ = encoder_of(folder, (0, -1))(["MKT"])
    encoder = encoder_of(folder, (0, -1))
    encoder.model.register_forward_hook(norm_late)
    (states,), _ = encoder(["MKT"])
    np.testing.assert_allclose(states[:, :8], plain[:, :8])
    np.testing.assert_allclose(states[:, 8:], plain[:, 8:] + 1, rtol=1e-6)


def test_weights_of_a_pooler_may_be_missing_but_no_others(tmp_path):
    config = transformers.RobertaConfig(**small(GENERIC_TOKENS), pad_token_id=1)
    folder = save_generic(tmp_path / "m", transformers.RobertaForMaskedLM, config)
    encoder_of(folder)  # a masked language model has no pooler
    (tmp_path / "m" / "model.safetensors").unlink()
    config.num_hidden_layers = 1
    save_random(tmp_path / "one", transformers.RobertaForMaskedLM, config)
    (tmp_path / "one" / "model.safetensors").rename(tmp_path / "m" / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 16 weights of RobertaModel \(encoder\.layer\.1"):
        encoder_of(folder)


def test_letters_without_a_token_name_model_and_letter(tmp_path):
    config = transformers.RobertaConfig(**small(24), pad_token_id=1)
    letters = "ACDEFGHIKLMNPQRSTVWY"
    folder = save_generic(tmp_path / "m", transformers.RobertaModel, config, letters=letters)
    encoder = encoder_of(folder)
    assert encoder.residues == letters
    with pytest.raises(ValueError, match=r"no token for 'U'; it knows ACDEF") as caught:
        encoder(["MKT", "MKUT"])
    assert repr(folder) in str(caught.value)


def test_tokens_of_several_residues_are_refused(tmp_path):
    folder = save_generic(
        tmp_path / "m",
        transformers.RobertaModel,
        transformers.RobertaConfig(**small(GENERIC_TOKENS), pad_token_id=1),
        letters=T5_LETTERS.replace("A", "a"),
    )
    with pytest.raises(ValueError, match=r"each residue a token of its own.*'<unk>', 'C'"):
        encoder_of(folder)


def test_a_decoder_is_refused(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=GENERIC_TOKENS, n_embd=8, n_layer=2, n_head=2, initializer_range=0.6
    )
    folder = save_generic(tmp_path / "m", transformers.GPT2LMHeadModel, config)
    with pytest.raises(ValueError, match="looks only back") as caught:
        encoder_of(folder)
    assert repr(folder) in str(caught.value) and "'gpt2'" in str(caught.value)


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    config = transformers.BartConfig(
        vocab_size=GENERIC_TOKENS, d_model=8, encoder_layers=1, decoder_layers=1
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="an encoder and a decoder"):
        resolve_family(str(tmp_path))


def test_a_model_that_does_not_mask_padding_is_refused(tmp_path):
    config = transformers.ConvBertConfig(**small(GENERIC_TOKENS), embedding_size=8)
    folder = save_generic(tmp_path / "m", transformers.ConvBertModel, config)
    with pytest.raises(ValueError, match="does not mask padding"):
        encoder_of(folder)


def test_states_of_another_width_than_the_configuration_tells(tmp_path):
    folder = save_roberta(tmp_path / "m")
    (member,) = resolve_family(folder)
    with pytest.raises(ValueError, match=r"\(22, 8\) for 22 tokens; expected is \(22, 9\)"):
        load(member.folder(), replace(member, width=9), "float32", -1, CPU)


def test_a_model_that_is_no_text_encoder(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    folder = save_generic(tmp_path / "m", transformers.ViTModel, config)
    with pytest.raises(ValueError, match="does not give hidden states for token ids"):
        encoder_of(folder)
