"""Heads of masked language models against transformers' own classes and tokenizers."""

import re
import threading

import numpy as np
import pytest
import torch
import transformers
from conftest import ESM_TOKENS, save_bert, save_esm, save_esmc, save_t5
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertTokenizer, EsmForMaskedLM, EsmTokenizer

from revdist_sklearn.models import _loading
from revdist_sklearn.models._family import resolve_family
from revdist_sklearn.models._head import HEAD, check_mask
from revdist_sklearn.models._loading import Registry, get_encoder, load
from revdist_sklearn.models._residues import AMINO_ACIDS

CPU = torch.device("cpu")
TOLERANCE = 1e-5
# Of several lengths, with none, one and many masks: they share a row on the packed path.
TEXTS = [
    "MKTAYI?KQRQISFVKSHFSRQ",
    "?????",
    "GIVEQCCTSIC",
    "M?XBZUO?K",
    "AC?",
    "WWWWWWWWWWWW?WWWW" * 3,
]


def spaced(text):
    return " ".join(re.sub("[UZOB]", "X", text)).replace("?", "[MASK]")


def as_esm(text):
    return text.replace("?", "<mask>")


# How a tiny model is saved, its class and tokenizer, and how that wants masked proteins.
MODELS = {
    "ESM-2": (lambda f: save_esm(f, layers=2), EsmForMaskedLM, EsmTokenizer, as_esm),
    "ESM-2 without token dropout": (
        lambda f: save_esm(f, layers=2, token_dropout=False),
        *(EsmForMaskedLM, EsmTokenizer, as_esm),
    ),
    "ESM-1b": (
        lambda f: save_esm(
            f, layers=2, position_embedding_type="absolute", emb_layer_norm_before=True
        ),
        *(EsmForMaskedLM, EsmTokenizer, as_esm),
    ),
    "ESM C": (save_esmc, "EsmcForMaskedLM", "EsmcTokenizer", as_esm),
    "ProtBert": (save_bert, BertForMaskedLM, BertTokenizer, spaced),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """Return the folder of a tiny model, and its log probabilities by hand."""
    save, model_class, tokenizer, text_of = MODELS[request.param]
    if isinstance(model_class, str):
        if not hasattr(transformers, model_class):
            pytest.skip(f"this version of transformers has no {model_class}")
        model_class, tokenizer = (getattr(transformers, n) for n in (model_class, tokenizer))
    folder = tmp_path_factory.mktemp("heads") / "tiny"
    save(folder)

    def by_hand(text):
        plain = model_class.from_pretrained(folder, dtype=torch.float32).eval()
        tokens = tokenizer.from_pretrained(folder)
        ids = tokens(text_of(text), return_tensors="pt")
        with torch.no_grad():
            logits = plain(**ids).logits[0, 1:-1]
        columns = tokens.convert_tokens_to_ids(list(AMINO_ACIDS))
        return logits[:, columns].log_softmax(-1).numpy()

    return str(folder), by_hand


def encoder_of(folder, dtype="float32", head=True):
    (member,) = resolve_family(folder)
    return load(member.folder(), member, dtype, -1, CPU, head=head)


def get(folder, head, layer=-1):
    (member,) = resolve_family(folder)
    return get_encoder(member, dtype="float32", layer=layer, device=CPU, head=head)


@pytest.fixture
def registry(monkeypatch):
    registry = Registry(8)
    monkeypatch.setattr(_loading, "REGISTRY", registry)
    return registry


# transformers 5.0 warns within its own BertTokenizer.
@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0:DeprecationWarning")
@pytest.mark.parametrize("packed", [True, False])
def test_log_probabilities_are_those_of_a_masked_pass_by_hand(model, packed):
    folder, by_hand = model
    encoder = encoder_of(folder)
    if not packed:
        encoder = encoder_of(folder)
        encoder._packed = None
        encoder.model.set_attn_implementation("sdpa")
    states, _ = encoder(TEXTS)
    for text, of_text in zip(TEXTS, states, strict=True):
        found = encoder.log_probabilities(of_text)
        assert found.shape == (len(text), 20) and found.dtype == torch.float32
        np.testing.assert_allclose(found, by_hand(text), rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose(found.exp().sum(-1), 1, rtol=1e-5)


def test_masks_are_counted_by_protein_in_half_precision_too(tmp_path):
    """The numbers of the model's own token dropout, bit for bit."""
    folder = save_esm(tmp_path / "m", layers=2)
    plain = EsmForMaskedLM.from_pretrained(folder, dtype=torch.float16).eval()
    ours = encoder_of(folder, "float16")
    ids = torch.from_numpy(np.stack([ours.tokenize(t) for t in ("MK?AY?", "MKTAYI")]))
    ids[1, 5:] = 1  # padding
    mask = (ids != 1).long()
    with torch.no_grad():
        expected = plain.esm.embeddings(ids, mask)
        assert torch.equal(ours.model.embeddings(ids, mask), expected)


def test_states_are_the_same_bit_for_bit_with_and_without_a_head(model, proteins):
    with_head, without = (encoder_of(model[0], head=head)(proteins)[0] for head in (True, False))
    for a, b in zip(with_head, without, strict=True):
        assert torch.equal(a, b)


def test_a_head_goes_where_its_model_goes(model):
    encoder = encoder_of(model[0])
    encoder.model.to("meta")
    assert {p.device.type for p in encoder.model.get_submodule(HEAD).parameters()} == {"meta"}


def test_a_model_with_its_head_serves_embeddings_too(model, registry):
    folder, _ = model
    alone = get(folder, head=False)
    whole = get(folder, head=True)
    assert whole is not alone and len(registry) == 1
    assert get(folder, head=False) is whole
    get(folder, head=False, layer=1)  # of another layer it has no states
    assert len(registry) == 2


def test_threads_that_start_at_once_share_the_model_with_its_head(model, registry, monkeypatch):
    """One decides before the other has loaded it."""
    folder, _ = model
    begun, threads = threading.Event(), []
    load = _loading.load

    def slow_load(*args):
        if not begun.is_set():
            begun.set()
            # The other waits for this load, once it has looked what is there.
            threads[1].join(0.5)
        return load(*args)

    monkeypatch.setattr(_loading, "load", slow_load)
    found = {}

    def run(head):
        if not head:
            begun.wait(60)
        found[head] = get(folder, head=head)

    threads += [threading.Thread(target=run, args=(head,)) for head in (True, False)]
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[True] is found[False] and len(registry) == 1


def test_a_checkpoint_without_a_head_says_so(tmp_path):
    folder = save_esm(tmp_path / "m", lm_head=False)
    encoder_of(folder, head=False)
    with pytest.raises(ValueError, match=r"no weights of a language-model head \(lm_head.*random"):
        encoder_of(folder)


def test_other_missing_weights_are_told_as_such(tmp_path):
    folder = save_esm(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    weights = load_file(path)
    del weights["esm.encoder.layer.0.attention.self.query.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of EsmForMaskedLM .*query"):
        encoder_of(folder)


def test_models_without_a_head_name_what_remains(tmp_path):
    folder = save_t5(tmp_path / "t5", spelling="▁{}")
    message = r"no masked-language-model head.*embeddings remain"
    with pytest.raises(ValueError, match=message) as caught:
        encoder_of(folder)
    assert repr(folder) in str(caught.value)


def test_a_vocabulary_without_a_mask_masks_nothing(tmp_path):
    folder = save_esm(tmp_path / "m")
    tokens = [token if token != "<mask>" else "<other>" for token in ESM_TOKENS]
    (tmp_path / "m" / "vocab.txt").write_text("\n".join(tokens))
    encoder = encoder_of(folder)
    assert not encoder.has_mask and encoder.log_probabilities(encoder(["MK"])[0][0]).shape == (
        2,
        20,
    )
    with pytest.raises(ValueError, match=r"vocabulary of .* has no mask token"):
        check_mask(encoder)
    with pytest.raises(ValueError, match=r"no token for '\?'"):
        encoder(["MK?"])


def test_the_letter_of_a_mask_is_none_of_a_model_without_its_head(model):
    for head in (True, False):
        assert "?" not in encoder_of(model[0], head=head).residues
    with pytest.raises(ValueError, match=r"no token for '\?'"):
        encoder_of(model[0], head=False)(["MK?"])


# Learned with bias, as fair-esm has it.
FAIR_NAMES = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.LayerNorm",
    "final_layer_norm": "LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}


def save_from_fair_esm(folder, seed=0):
    """Save the random weights of a tiny ESM-2 of fair-esm for transformers; return it too."""
    esm = pytest.importorskip("esm")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = esm.ESM2(num_layers=2, embed_dim=8, attention_heads=2, alphabet="ESM-1b").eval()
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    save_esm(folder, width=8, layers=2, intermediate_size=32)
    ours = EsmForMaskedLM.from_pretrained(folder)
    state = {
        "esm.embeddings.word_embeddings.weight": theirs.embed_tokens.weight,
        "esm.encoder.emb_layer_norm_after.weight": theirs.emb_layer_norm_after.weight,
        "esm.encoder.emb_layer_norm_after.bias": theirs.emb_layer_norm_after.bias,
        "lm_head.decoder.weight": theirs.lm_head.weight,
        "lm_head.bias": theirs.lm_head.bias,
        **{
            f"lm_head.{part}.{kind}": getattr(getattr(theirs.lm_head, part), kind)
            for part in ("dense", "layer_norm")
            for kind in ("weight", "bias")
        },
    }
    for i, layer in enumerate(theirs.layers):
        for name, value in layer.named_parameters():
            part, _, kind = name.rpartition(".")
            state[f"esm.encoder.layer.{i}.{FAIR_NAMES[part]}.{kind}"] = value
    report = ours.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    assert all("inv_freq" in k or "contact" in k for k in report.missing_keys)
    ours.save_pretrained(folder)
    return theirs


def test_log_probabilities_are_those_of_fair_esm(tmp_path):
    theirs = save_from_fair_esm(tmp_path / "m")
    alphabet = theirs.alphabet
    convert = alphabet.get_batch_converter()
    columns = [alphabet.get_idx(letter) for letter in AMINO_ACIDS]
    encoder = encoder_of(str(tmp_path / "m"))
    states, _ = encoder(TEXTS)
    for text, of_text in zip(TEXTS, states, strict=True):
        _, _, ids = convert([("", text.replace("?", "<mask>"))])
        with torch.no_grad():
            logits = theirs(ids)["logits"][0, 1:-1]
        expected = logits[:, columns].log_softmax(-1)
        np.testing.assert_allclose(
            encoder.log_probabilities(of_text), expected, rtol=TOLERANCE, atol=TOLERANCE
        )
