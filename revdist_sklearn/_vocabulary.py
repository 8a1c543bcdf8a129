"""From residues to token ids, by a checkpoint's own vocabulary.

A lookup table, one token a residue: tokenizers are slow, and some merge unknown characters,
so that lengths break.
"""

from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from ._sequences import AMINO_ACIDS


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of residues and of what stands around them.

    Parameters
    ----------
    before, after : tuple of int
        Special tokens around a protein.
    pad : int
        Fills a batch up.
    residues : dict of str to int
        Upper-case letters.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int
    residues: dict[str, int]


def read_vocabulary(folder, member, trust_remote_code=False):
    """Return the vocabulary of a checkpoint; every amino acid must be in it.

    Parameters
    ----------
    folder : Path
        Folder of the checkpoint.
    member : Member
        Its architecture and, for messages, its name.
    trust_remote_code : bool, default=False
        Whether a tokenizer of the repository's own may run.

    Returns
    -------
    vocabulary : Vocabulary

    Raises
    ------
    ValueError
        If there is no vocabulary that can be read, it lacks residues, or makes other than
        one token of one residue.
    """
    architecture = member.architecture
    path = folder / "vocab.txt"
    if path.is_file() and architecture.before is not None:
        tokens = {t.strip(): i for i, t in enumerate(path.read_text("utf-8").splitlines())}
        vocabulary = _of_tokens(tokens, member)
    else:
        vocabulary = _of_tokenizer(_tokenizer(folder, member, trust_remote_code), member)
    letters = dict(vocabulary.residues)
    for letter in architecture.as_unknown:
        letters[letter] = letters["X"]
    return Vocabulary(vocabulary.before, vocabulary.after, vocabulary.pad, letters)


def _of_tokens(tokens, member):
    """Return the vocabulary of a plain list of tokens."""
    architecture = member.architecture
    needed = [*architecture.before, *architecture.after, architecture.pad]
    needed += [r for r in architecture.residues if r not in architecture.as_unknown]
    missing = [token for token in needed if token not in tokens]
    if missing:
        raise ValueError(
            f"The vocabulary of {member.source!r} lacks {', '.join(missing)}, which the "
            f"architecture {member.model_type!r} needs. Is its vocab.txt or tokenizer.json "
            "that of the model?"
        )
    return Vocabulary(
        tuple(tokens[token] for token in architecture.before),
        tuple(tokens[token] for token in architecture.after),
        tokens[architecture.pad],
        {r: tokens[r] for r in architecture.residues if r in tokens},
    )


def _tokenizer(folder, member, trust_remote_code):
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        needs = (
            " Reading its spiece.model may need other packages: pip install sentencepiece protobuf"
            if (folder / "spiece.model").is_file()
            else ""
        )
        raise ValueError(
            f"Model {member.source!r} has no tokenizer that can be read: expected is "
            f"vocab.txt or tokenizer.json in {str(folder)!r}, as save_pretrained of the "
            f"tokenizer writes it.{needs} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]})"
        ) from error


def _of_tokenizer(tokenizer, member):
    """Return what a tokenizer makes of residues, whichever way it wants them spaced."""
    # A model of longer tokens knows single letters too, but has hardly seen them alone.
    merged = tokenizer(AMINO_ACIDS, add_special_tokens=False)["input_ids"]
    merges = len(merged) < len(AMINO_ACIDS) and tokenizer.unk_token_id not in merged
    for call in () if merges else (_spaced, _listed, _plain):
        found = _around(tokenizer, call, AMINO_ACIDS)
        if found is None:
            continue
        before, ids, after = found
        residues = dict(zip(AMINO_ACIDS, ids, strict=True))
        for letter in member.architecture.residues:
            of_letter = _around(tokenizer, call, f"A{letter}A")
            if letter not in residues and of_letter is not None:
                residues[letter] = of_letter[1][1]
        missing = [
            r
            for r in member.architecture.residues
            if r not in residues and r not in member.architecture.as_unknown
        ]
        # Of a model that nobody described the rare letters may be missing: X stands in.
        if member.architecture.before is None and "X" in residues:
            residues.update(dict.fromkeys(missing, residues["X"]))
            missing = []
        if missing and member.architecture.before is not None:
            raise ValueError(
                f"The tokenizer of {member.source!r} does not know {', '.join(missing)}, which "
                f"the architecture {member.model_type!r} needs. Is it that of the model?"
            )
        around = tuple(tuple(tokenizer.convert_ids_to_tokens(list(x))) for x in (before, after))
        expected = member.architecture.before, member.architecture.after
        if expected[0] is not None and around != expected:
            raise ValueError(
                f"The tokenizer of {member.source!r} puts {around} around a protein, the "
                f"architecture {member.model_type!r} expects {expected}. Is it that of the model?"
            )
        pad = tokenizer.pad_token_id
        return Vocabulary(tuple(before), tuple(after), 0 if pad is None else pad, residues)
    raise ValueError(
        f"The tokenizer of {member.source!r} does not make one token of each amino acid, with "
        "spaces between them or without: its tokens are not residues. Only models of single "
        "residues can be used."
    )


def _spaced(tokenizer, letters):
    return tokenizer(" ".join(letters), return_special_tokens_mask=True)


def _listed(tokenizer, letters):
    return tokenizer(list(letters), is_split_into_words=True, return_special_tokens_mask=True)


def _plain(tokenizer, letters):
    return tokenizer(letters, return_special_tokens_mask=True)


def _around(tokenizer, call, letters):
    """Return the ids before, of and after letters; None if these are not one known token each."""
    try:
        encoded = call(tokenizer, letters)
    except Exception:  # a way of calling that this tokenizer does not have
        return None
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    start = len(list(takewhile(bool, special)))
    stop = len(ids) - len(list(takewhile(bool, reversed(special))))
    of_letters = ids[start:stop]
    known = tokenizer.unk_token_id not in of_letters
    if not known or len(of_letters) != len(letters):
        return None
    if len(set(of_letters)) != len(set(letters)):
        return None
    return ids[:start], of_letters, ids[stop:]


def lookup_table(residues):
    """Return an array that gives the token id of each ASCII letter, -1 where there is none.

    Parameters
    ----------
    residues : dict of str to int

    Returns
    -------
    table : ndarray of shape (128,), int64

    Examples
    --------
    >>> from revdist_sklearn._vocabulary import lookup_table
    >>> lookup_table({"A": 5})[[ord("A"), ord("J")]].tolist()
    [5, -1]
    """
    table = np.full(128, -1, dtype=np.int64)
    for residue, token in residues.items():
        table[ord(residue)] = token
    return table
