import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import (
    ESM_TOKENS,
    T5_LETTERS,
    letter_tokenizer,
    save_esm,
    save_generic,
    save_random_t5,
    save_t5,
    small,
)
from transformers import RobertaConfig, RobertaModel

from revdist_sklearn.embedding._sequences import RESIDUES
from revdist_sklearn.models._alphabet import read_alphabet
from revdist_sklearn.models._family import resolve_family


def alphabet_of(folder):
    (member,) = resolve_family(str(folder))
    return read_alphabet(Path(folder), member)


def test_tokens_follow_the_checkpoint_and_not_a_fixed_order(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    tokens = (folder / "vocab.txt").read_text().split("\n")
    tokens[4], tokens[5] = tokens[5], tokens[4]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    usual, swapped = alphabet_of(tiny_model).residues, alphabet_of(folder).residues
    assert (usual["L"], usual["A"]) == (swapped["A"], swapped["L"]) == (4, 5)


def test_tokens_are_the_same_without_vocab_txt(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    expected = alphabet_of(folder)
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.txt").unlink()
    letter_tokenizer(ESM_TOKENS).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert alphabet_of(folder) == replace(expected, source=str(folder))


def test_vocabulary_must_know_all_residues(tmp_path):
    folder = Path(save_esm(tmp_path / "m"))
    text = (folder / "vocab.txt").read_text()
    (folder / "vocab.txt").write_text(text.replace("\nU\n", "\nj\n").replace("<eos>", "<end>"))
    with pytest.raises(ValueError, match=r"vocabulary of .* lacks <eos>, U"):
        alphabet_of(folder)


def test_t5_of_another_field_lacks_residues(tmp_path):
    with pytest.raises(ValueError, match=r"lacks ▁A, ▁C.*Is it a protein language model"):
        alphabet_of(save_t5(tmp_path / "m", spelling="{}ing"))


def test_no_vocabulary_says_what_is_expected(tmp_path):
    folder = Path(save_esm(tmp_path / "m"))
    (folder / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"Expected is vocab\.txt or tokenizer\.json") as caught:
        alphabet_of(folder)
    assert str(folder) in str(caught.value)


def test_unreadable_sentencepiece_names_the_packages(tmp_path):
    folder = Path(save_random_t5(tmp_path / "m", 40))
    (folder / "spiece.model").write_bytes(b"no vocabulary")
    with pytest.raises(ValueError, match="pip install sentencepiece protobuf"):
        alphabet_of(folder)


def test_sentencepiece_gives_the_tokens_that_it_gives_itself(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    folder = Path(save_random_t5(tmp_path / "m", 80))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(T5_LETTERS[i:] + T5_LETTERS[:i]) for i in range(25)),
        model_prefix=str(folder / "spiece"),
        model_type="unigram",
        vocab_size=54,
        hard_vocab_limit=False,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    alphabet = alphabet_of(folder)
    assert (alphabet.pad, alphabet.before, alphabet.after) == (0, (), (1,))
    for residue in RESIDUES:
        written = "X" if residue in "UZOB" else residue
        assert alphabet.residues[residue] == processor.piece_to_id(f"▁{written}")


def test_code_of_a_tokenizer_is_not_run_unasked(tmp_path):
    config = RobertaConfig(**small(29), pad_token_id=1)
    folder = Path(save_generic(tmp_path / "m", RobertaModel, config))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", null]}}'
    )
    (folder / "own.py").write_text("raise SystemExit('the code ran')")
    with pytest.raises(ValueError, match=r"model_kwargs=\{'trust_remote_code': True\}"):
        alphabet_of(folder)


@pytest.mark.parametrize("spelling", ["generic", "▁{}"])
def test_a_missing_tokenizer_is_named_as_such(tmp_path, spelling):
    if spelling == "generic":
        config = RobertaConfig(**small(29), pad_token_id=1)
        folder = Path(save_generic(tmp_path / "m", RobertaModel, config))
    else:
        folder = Path(save_t5(tmp_path / "m", spelling=spelling))
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer.*Expected is vocab\.txt"):
        alphabet_of(folder)
