"""From letters to token ids: by a checkpoint's own vocabulary, or by its tokenizer."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from ..base._damage import FAULTS, damage_is_told, read_text
from ._checkpoint import TOKENIZER_FILES
from ._residues import AMBIGUOUS, AMINO_ACIDS


@dataclass(frozen=True)
class Alphabet:
    """Token ids of a checkpoint: one for each residue, and those around a protein.

    Parameters
    ----------
    source : str
        Folder or hub id, for messages.

    before, after : tuple of int
        Special tokens around a protein.

    pad : int
        Token that fills a batch up.

    residues : mapping of str to int
        The letters it has, upper case.

    mask : int or None, default=None
        Token of a masked residue, where the vocabulary has one.
    """

    source: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int
    residues: Mapping[str, int]
    mask: int | None = None


def read_alphabet(folder, member):
    """Return the alphabet of a checkpoint.

    Parameters
    ----------
    folder : Path
        Folder with its vocabulary.

    member : Member
        Its architecture and, for messages, its name.

    Returns
    -------
    alphabet : Alphabet

    Raises
    ------
    ValueError
        If there is no vocabulary that can be read, it lacks a token that the architecture
        needs, or the tokenizer of a model without an entry does not give one token a
        residue; as :exc:`DamagedFileError`, if it is no text.
    """
    architecture = member.architecture
    if architecture.before is None:
        return _from_tokenizer(_tokenizer(folder, member), member)
    tokens = _vocabulary(folder, member)
    if architecture.or_tokenizer and not set(architecture.before) <= tokens.keys():
        return _from_tokenizer(_tokenizer(folder, member), member)
    return _from_vocabulary(tokens, member)


def _vocabulary(folder, member):
    """Return the checkpoint's tokens with their ids."""
    path = folder / "vocab.txt"
    if path.is_file():
        with damage_is_told(f"The vocabulary {path} is damaged", "save or fetch it again."):
            return {t.strip(): i for i, t in enumerate(read_text(path).splitlines())}
    return _tokenizer(folder, member).get_vocab()


def _tokenizer(folder, member):
    from transformers import AutoTokenizer

    files = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)}
    if not files and not member.trust_remote_code:
        # Some classes of transformers make an empty one of nothing, without a word.
        raise ValueError(
            f"Model {member.source!r} has no tokenizer: none of its files is there. "
            f"{_way_out(folder, member)}"
        )
    try:
        return AutoTokenizer.from_pretrained(str(folder), **member.code_options)
    except Exception as error:  # of as many kinds as there are ways to write a tokenizer
        raise ValueError(
            f"Model {member.source!r} has no tokenizer that can be read. "
            f"{_way_out(folder, member)} "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error


def _way_out(folder, member):
    """Say what makes the tokenizer of a folder readable."""
    settings = folder / "tokenizer_config.json"
    own_code = False
    with suppress(OSError, *FAULTS):  # what is wrong with it is told by who reads it
        own_code = settings.is_file() and "auto_map" in json.loads(read_text(settings))
    if own_code and not member.trust_remote_code:
        return (
            "It is code of the repository, which runs only where you say so: "
            "model_kwargs={'trust_remote_code': True}."
        )
    if not (folder / "tokenizer.json").is_file() and any(folder.glob("*.model")):
        return (
            "Two packages read its sentencepiece model: pip install sentencepiece protobuf. "
            "If they are there, the file is damaged: fetch it again."
        )
    return (
        f"Expected is vocab.txt or tokenizer.json in {str(folder)!r}, as save_pretrained of "
        "the tokenizer writes it."
    )


def _from_vocabulary(tokens, member):
    """Look up the tokens that the architecture's entry names; all must be there."""
    architecture = member.architecture
    spelling = next(
        (s for s in architecture.spellings if s.format("A") in tokens),
        next(iter(architecture.spellings)),
    )
    as_x = architecture.spellings[spelling]
    residues = {r: spelling.format("X" if r in as_x else r) for r in architecture.residues}
    tag = [token for token in architecture.tags if token in tokens][:1]
    before = [*tag, *architecture.before]
    needed = [*before, *architecture.after, architecture.pad, *residues.values()]
    missing = [token for token in dict.fromkeys(needed) if token not in tokens]
    if missing:
        raise ValueError(
            f"The vocabulary of {member.source!r} lacks {', '.join(missing)}, which the "
            f"architecture {member.model_type!r} needs. Is it a protein language model, and "
            "its vocab.txt or tokenizer.json that of the model?"
        )
    return Alphabet(
        member.source,
        before=tuple(tokens[token] for token in before),
        after=tuple(tokens[token] for token in architecture.after),
        pad=tokens[architecture.pad],
        residues={residue: tokens[token] for residue, token in residues.items()},
        mask=tokens.get(architecture.mask),
    )


def _from_tokenizer(tokenizer, member):
    """Let a tokenizer show its tokens, with residues run together or spaced."""
    for space in ("", " "):
        inner = _ids(tokenizer, AMINO_ACIDS, space)
        if (
            len(set(inner)) == len(inner) == len(AMINO_ACIDS)
            and tokenizer.unk_token_id not in inner
            # What a tokenizer makes of a letter may depend on its neighbours.
            and _ids(tokenizer, AMINO_ACIDS[::-1], space) == inner[::-1]
        ):
            break
    else:
        raise ValueError(
            f"The tokenizer of {member.source!r} does not give each residue a token of its "
            f"own: the twenty amino acids {AMINO_ACIDS} become "
            f"{tokenizer.convert_ids_to_tokens(_ids(tokenizer, AMINO_ACIDS))}. Only encoders "
            "that read proteins residue by residue can be used."
        )
    whole = _ids(tokenizer, AMINO_ACIDS, space, specials=True)
    start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    residues = dict(zip(AMINO_ACIDS, inner, strict=True))
    for letter in AMBIGUOUS:
        found = _ids(tokenizer, f"A{letter}A", space)
        if len(found) == 3 and found[1] != tokenizer.unk_token_id:
            residues[letter] = found[1]
    pad = tokenizer.pad_token_id
    return Alphabet(
        member.source,
        before=tuple(whole[:start]),
        after=tuple(whole[start + len(inner) :]),
        pad=0 if pad is None else pad,  # masked, so that any token will do
        residues=residues,
    )


def _ids(tokenizer, letters, space="", specials=False):
    return tokenizer(space.join(letters), add_special_tokens=specials)["input_ids"]
