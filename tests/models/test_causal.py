"""Models that look back: refused unless the user says so, and then as transformers has them."""

import numpy as np
import pytest
import torch
import transformers
from conftest import IGLM_TOKENS, T5_LETTERS, save_generic, save_iglm

from revdist_sklearn import ESMFeaturizer
from revdist_sklearn.models._architectures import ARCHITECTURES
from revdist_sklearn.models._family import resolve_family
from revdist_sklearn.models._loading import get_encoder

CPU = torch.device("cpu")
N_TOKENS = 4 + len(T5_LETTERS)
TEXTS = ["MKTAYIAKQR", "GSHMW", "M"]


@pytest.fixture(scope="module")
def iglm(tmp_path_factory):
    return save_iglm(tmp_path_factory.mktemp("iglm") / "m")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT-2 that reads residues, with a tokenizer of its own: no tokens of IgLM."""
    config = transformers.GPT2Config(
        vocab_size=N_TOKENS, n_embd=8, n_layer=2, n_head=2, n_positions=64, initializer_range=0.6
    )
    folder = tmp_path_factory.mktemp("gpt2") / "m"
    return save_generic(folder, transformers.GPT2LMHeadModel, config)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A decoder without an entry: only a trial tells that it looks back."""
    config = transformers.GPTNeoXConfig(
        vocab_size=N_TOKENS,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.6,
    )
    folder = tmp_path_factory.mktemp("neox") / "m"
    return save_generic(folder, transformers.GPTNeoXForCausalLM, config)


@pytest.mark.parametrize("name", ["iglm", "gpt2", "decoder"])
def test_they_are_refused_and_the_message_names_the_option(name, request):
    folder = request.getfixturevalue(name)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"looks only back.*causal=True") as caught:
            ESMFeaturizer(folder).transform(TEXTS)
        assert repr(folder) in str(caught.value)
        ESMFeaturizer(folder, causal=True).transform(TEXTS)  # loaded, and refused again


def by_hand(folder, ids, layer=-1):
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_hidden_states=True)
    return out.hidden_states[layer][0].numpy()


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_iglm_is_told_of_a_heavy_chain_of_a_human(iglm, layer):
    X = ESMFeaturizer(iglm, causal=True, layer=layer).transform(TEXTS)
    for text, row in zip(TEXTS, X, strict=True):
        tokens = ["[HEAVY]", "[HUMAN]", *text, "[SEP]"]
        states = by_hand(iglm, [IGLM_TOKENS.index(token) for token in tokens], layer)
        np.testing.assert_allclose(row, states[2:-1].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "decoder"])
def test_others_have_what_their_tokenizer_puts_around_a_protein(name, request):
    folder = request.getfixturevalue(name)
    X = ESMFeaturizer(folder, causal=True).transform(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, row in zip(TEXTS, X, strict=True):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text) + 2
        np.testing.assert_allclose(row, by_hand(folder, ids)[1:-1].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["iglm", "gpt2", "decoder"])
def test_a_residue_has_seen_those_before_it_alone(name, request):
    emb = ESMFeaturizer(request.getfixturevalue(name), causal=True)
    (one, _), (other, _) = (next(emb.iter_residues([text])) for text in ("MKTAYI", "MKTWWW"))
    np.testing.assert_allclose(one[:3], other[:3], atol=1e-6)
    assert np.abs(one[3:] - other[3:]).max() > 1e-3
    assert "not known to allow it" in str(*emb.packed_.values())


@pytest.mark.parametrize("name", ["iglm", "gpt2", "decoder"])
def test_the_start_token_tells_nothing(name, request):
    emb = ESMFeaturizer(request.getfixturevalue(name), causal=True, pooling="cls")
    with pytest.raises(ValueError, match=r"start token, which in .* looks only back"):
        emb.transform(TEXTS)


def test_other_models_are_used_as_they_are(tiny_family, proteins, iglm):
    causal = ESMFeaturizer(tiny_family, causal=True)
    plain = ESMFeaturizer(tiny_family)
    np.testing.assert_array_equal(causal.transform(proteins), plain.transform(proteins))
    assert causal.embedding_plan().identity() == plain.embedding_plan().identity()
    assert causal.packed_ == plain.packed_
    mixed = ESMFeaturizer([iglm, tiny_family[1]], causal=True)
    assert mixed.transform(TEXTS).shape == (3, 20)


def test_letters_and_lengths_are_those_of_the_model(iglm, gpt2):
    emb = ESMFeaturizer(iglm, causal=True)
    with pytest.raises(ValueError, match="'X'"):
        emb.transform(["MKX"])
    limit = 64 - 3  # two tokens before and one after
    assert emb.embedding_plan().limit == limit
    assert emb.transform(["A" * limit]).shape == (1, 8)
    with pytest.raises(ValueError, match=f"{limit + 1} residues"):
        emb.transform(["A" * (limit + 1)])
    assert ESMFeaturizer(gpt2, causal=True).transform(["A" * limit]).shape == (1, 8)


def test_padding_and_batches_change_nothing(iglm):
    emb = ESMFeaturizer(iglm, causal=True)
    together = emb.transform(TEXTS)
    alone = np.vstack([emb.transform([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_keys_and_values_are_kept(iglm):
    (member,) = resolve_family(iglm, causal=True)
    encoder = get_encoder(member, dtype="float32", layer=-1, device=CPU)
    found = []
    encoder.model.register_forward_hook(lambda model, args, output: found.append(output))
    encoder(TEXTS)
    assert not any(key for key in found[0] if key in ("past_key_values", "cache"))


def test_a_vocabulary_without_iglms_tokens_is_another_models(gpt2, iglm):
    entry = ARCHITECTURES["gpt2"]
    assert entry.causal and not entry.may_pack
    of_gpt2 = get_encoder(
        *resolve_family(gpt2, causal=True), dtype="float32", layer=-1, device=CPU
    )
    assert of_gpt2.tokenize("M").tolist() == [0, 4 + T5_LETTERS.index("M"), 2]


@pytest.mark.parametrize("causal", ["yes", 1.0, None])
def test_causal_is_a_bool(causal, iglm):
    with pytest.raises(ValueError, match="'causal' parameter"):
        ESMFeaturizer(iglm, causal=causal).fit(TEXTS)


def test_a_loaded_model_is_not_taken_for_tokens_that_it_lacks(gpt2):
    settings = {"dtype": "float32", "layer": -1, "device": CPU}
    get_encoder(*resolve_family(gpt2, causal=True), **settings)
    with pytest.raises(ValueError, match=r"lacks \[HEAVY\]"):
        get_encoder(*resolve_family(gpt2, causal=("[HEAVY]", "[HUMAN]")), **settings)


def test_iglm_may_be_told_of_another_chain_and_species(iglm, tiny_family, tmp_path):
    light = ESMFeaturizer(iglm, causal=["[LIGHT]", "[MOUSE]"], cache_dir=tmp_path)
    heavy = ESMFeaturizer(iglm, causal=True, cache_dir=tmp_path)
    first, again = light.transform(TEXTS), heavy.transform(TEXTS)
    for tokens, X in ((["[LIGHT]", "[MOUSE]"], first), (["[HEAVY]", "[HUMAN]"], again)):
        for text, row in zip(TEXTS, X, strict=True):
            ids = [IGLM_TOKENS.index(token) for token in [*tokens, *text, "[SEP]"]]
            states = by_hand(iglm, ids)[2:-1]
            np.testing.assert_allclose(row, states.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(light.transform(TEXTS), first)  # from the cache
    one = light.set_params(causal=("[LIGHT]",))
    assert one.embedding_plan().limit == 64 - 2 and one.transform(["A" * 62]).shape == (1, 8)
    told = heavy.set_params(causal=("[HEAVY]", "[HUMAN]")).embedding_plan().identity()
    assert told == heavy.set_params(causal=True).embedding_plan().identity()
    named = heavy.set_params(causal=("[HEAVY]", "[HUMAN]")).transform(TEXTS)
    np.testing.assert_array_equal(named, again)
    # Encoders have no part in it.
    names = ESMFeaturizer(tiny_family, causal=("[LIGHT]",)).embedding_plan().identity()
    assert names == ESMFeaturizer(tiny_family).embedding_plan().identity()


def test_tokens_that_are_none_are_told(iglm, gpt2, decoder, tmp_path):
    with pytest.raises(ValueError, match=r"vocabulary of .* lacks \[LLAMA\]"):
        ESMFeaturizer(iglm, causal=("[HEAVY]", "[LLAMA]")).transform(TEXTS)
    with pytest.raises(ValueError, match=r"vocabulary of .* lacks \[LIGHT\]"):
        ESMFeaturizer(gpt2, causal=("[LIGHT]",)).transform(TEXTS)
    with pytest.raises(ValueError, match=r"tokens before a protein.* Use causal=True"):
        ESMFeaturizer(decoder, causal=("<s>",)).transform(TEXTS)
    # The entry's own are no less wanted where they are named.
    own = {"models": gpt2, "cache_dir": tmp_path}
    ESMFeaturizer(causal=True, **own).transform(TEXTS)
    for causal in (("[HEAVY]", "[HUMAN]"), ["[HEAVY]", "[HUMAN]"]):
        for more in (own, {"models": gpt2}):
            with pytest.raises(ValueError, match=r"vocabulary of .* lacks \[HEAVY\], \[HUMAN\]"):
                ESMFeaturizer(causal=causal, **more).transform(TEXTS)
    for causal in ((), [1], ("[LIGHT]", None)):
        with pytest.raises(ValueError, match="names no tokens"):
            ESMFeaturizer(iglm, causal=causal).fit(TEXTS)
