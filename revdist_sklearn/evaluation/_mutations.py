"""Mutations as tables name them, and what sequences say of them.

A mutation is ``(wild, position, new)``: letter, number as the name has it, letter. A row has a
tuple of them, ``()`` for the wild type, and None where it is not known.
"""

import re
from collections import Counter
from functools import lru_cache

import numpy as np

# Names of three letters, as HGVS writes them.
THREE_LETTERS = {
    "ALA": "A",
    "ARG": "R",
    "ASN": "N",
    "ASP": "D",
    "CYS": "C",
    "GLN": "Q",
    "GLU": "E",
    "GLY": "G",
    "HIS": "H",
    "ILE": "I",
    "LEU": "L",
    "LYS": "K",
    "MET": "M",
    "PHE": "F",
    "PRO": "P",
    "SER": "S",
    "THR": "T",
    "TRP": "W",
    "TYR": "Y",
    "VAL": "V",
    "SEC": "U",
    "PYL": "O",
    "ASX": "B",
    "GLX": "Z",
    "XAA": "X",
    "TER": "*",
}
_LETTER = f"[A-Z]|{'|'.join(THREE_LETTERS)}"
# Positions of ten digits at most are any protein's.
_PART = re.compile(rf"({_LETTER}|\*)([0-9]{{1,10}})({_LETTER}|[*=])", re.IGNORECASE | re.ASCII)
_WILD_TYPE = re.compile(r"_?(wt|sy|wild[ _-]?type)|(p\.)?\(?=\)?", re.IGNORECASE)
_INDEL = re.compile(r"del|ins|dup|fs|ext", re.IGNORECASE)
_PLACE = f"(?:{_LETTER})[0-9]+"
# The name of a sequence before its mutations, which is no mutation itself.
_NAME = rf"p\.|{_PLACE}(?:{_LETTER}|[*=]|(?:_{_PLACE})?(?:del|ins|dup)\w*|fs\w*|ext\w*):"
_REFERENCE = re.compile(rf"(?!{_NAME})[\w.-]+:(?=p\.)", re.IGNORECASE | re.ASCII)
_SEPARATORS = re.compile(r"[\s:,;/+]+")

EMPTY = "name no mutation"
STOP = "name a stop codon"
INDEL = "name an insertion, a deletion or a shifted frame"
ALLELES = "name several alleles"
TWICE = "name a position twice"
UNKNOWN = "name a mutation in no known way"


def parse_mutations(cell):
    """Return the mutations that a cell names, or why it names none that are substitutions.

    ``A24G``, several such as ``A24G:T30S`` (also by ``,`` ``;`` ``/`` ``+`` or a space), the
    names of HGVS for proteins (with or without a reference before them), and names of the wild
    type (``WT``, ``_wt``, ``wild type``, ``p.=`` and ``_sy`` of Enrich2) are understood, in
    either case. Synonymous ones are kept, as they tell of the sequence:
    :func:`without_synonymous`.

    Parameters
    ----------
    cell : str

    Returns
    -------
    mutations : tuple of (str, int, str), or None
        Letters in upper case; ``()`` for the wild type.

    reason : str
        Why it is None, else empty.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._mutations import parse_mutations
    >>> parse_mutations("A24G:T30S")
    ((('A', 24, 'G'), ('T', 30, 'S')), '')
    >>> parse_mutations("p.[Ala24Gly;Thr30=]")
    ((('A', 24, 'G'), ('T', 30, 'T')), '')
    >>> parse_mutations("_wt")
    ((), '')
    >>> parse_mutations("p.Ala24Ter")
    (None, 'name a stop codon')
    """
    text = cell.strip()
    if not text:
        return None, EMPTY
    if _WILD_TYPE.fullmatch(text):
        return (), ""
    reference = _REFERENCE.match(text)
    if reference:
        text = text[reference.end() :]
        if _WILD_TYPE.fullmatch(text):
            return (), ""
    if text.count("[") > 1:
        return None, ALLELES
    found = []
    for part in filter(None, _SEPARATORS.split(text.strip("[]()"))):
        mutation = _parse_part(part)
        if isinstance(mutation, str):
            return None, mutation
        found.append(mutation)
    if not found:
        return None, UNKNOWN
    if len({position for _, position, _ in found}) < len(found):
        return None, TWICE
    return tuple(found), ""


@lru_cache(maxsize=1 << 16)  # rows with several mutations share them, in memory too
def _parse_part(part):
    """Return one mutation, or why it is none."""
    text = part.removeprefix("p.").strip("[]()")
    match = _PART.fullmatch(text)
    if match is None:
        return INDEL if _INDEL.search(text) else UNKNOWN
    wild, new = (THREE_LETTERS.get(letter.upper(), letter.upper()) for letter in match.group(1, 3))
    new = wild if new == "=" else new
    return STOP if "*" in (wild, new) else (wild, int(match[2]), new)


def without_synonymous(mutations):
    """Return the mutations that change a residue."""
    return tuple(m for m in mutations if m[0] != m[2])


def position_offset(mutations, sequences):
    """Return from where the positions of mutations are counted, and which rows do not fit.

    Residue ``p - offset`` of a sequence, the first being 1, must be the new one of each of its
    mutations. Positions may be counted from another start than that of the sequences (as of a
    domain), if it is the same in all rows.

    Parameters
    ----------
    mutations : sequence of tuple or None
        Rows that are None fit anything.

    sequences : sequence of str
        In upper case.

    Returns
    -------
    offset : int
        The smallest that fits all rows; where none does, one that fits most.

    wrong : list of int
        The rows that do not fit; none where an offset fits all.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._mutations import position_offset
    >>> position_offset([(("T", 12, "A"),), (("K", 13, "R"),)], ["MAK", "MTR"])
    (10, [])
    """
    wrong = _misfits(mutations, sequences, 0)
    if not wrong:
        return 0, []
    votes: Counter[int] = Counter()
    named = [i for i, row in enumerate(mutations) if row]
    # Evenly taken rows tell which starts are possible; all rows are tried below.
    for i in named[:: max(1, len(named) // 1000)]:
        text, (_, position, new) = sequences[i], mutations[i][0]
        votes.update(position - at for at, letter in enumerate(text, 1) if letter == new)
    if not votes:
        return 0, wrong
    most = max(votes.values())
    best = (len(wrong), 0, 0, wrong)
    # Of rows at one position every start fits as well that has the same letters.
    for offset in sorted((o for o, n in votes.items() if n == most), key=abs):
        found = _misfits(mutations, sequences, offset)
        best = min(best, (len(found), abs(offset), offset, found))
        if not found:
            break
    return best[2], best[3]


def _misfits(mutations, sequences, offset):
    """Return the rows whose sequence has not the residues that its mutations name."""
    return [
        i
        for i, (row, text) in enumerate(zip(mutations, sequences, strict=True))
        if row
        and any(
            not 1 <= position - offset <= len(text) or text[position - offset - 1] != new
            for _, position, new in row
        )
    ]


def wild_type_offsets(mutations, wild_type):
    """Return from where positions are counted by the residues that mutations replace.

    Parameters
    ----------
    mutations : sequence of tuple or None
        Rows that are None fit anything.

    wild_type : str
        Its residue ``p - offset``, the first being 1, must be the wild one of each mutation.

    Returns
    -------
    offsets : list of int
        All that fit all rows, ascending, or 0 alone where it does; where none does, one that
        fits most positions.

    wrong : list of int
        The rows that do not fit; none where an offset fits all.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._mutations import wild_type_offsets
    >>> wild_type_offsets([(("T", 12, "A"),), (("K", 13, "R"),)], "MTK")
    ([10], [])
    >>> wild_type_offsets([(("T", 12, "A"),)], "TTK")
    ([10, 11], [])
    """
    sites = {(wild, position) for row in mutations if row for wild, position, _ in row}
    places: dict[str, list[int]] = {}
    for at, letter in enumerate(wild_type, 1):
        places.setdefault(letter, []).append(at)
    votes = Counter({0: 0})
    for wild, position in sites:
        votes.update(position - at for at in places.get(wild, ()))
    fitting = sorted(offset for offset, n in votes.items() if n == len(sites))
    if 0 in fitting:
        return [0], []
    if fitting:
        return fitting, []
    offset = max(votes, key=lambda o: (votes[o], -abs(o)))
    fits = {(wild, at + offset) for wild, found in places.items() for at in found}
    wrong = [
        i
        for i, row in enumerate(mutations)
        if row and any((wild, position) not in fits for wild, position, _ in row)
    ]
    return [offset], wrong


def mutated(wild_type, mutations, offset=0):
    """Return the sequence with mutations that fit the wild type.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._mutations import mutated
    >>> mutated("MTK", (("T", 2, "A"),))
    'MAK'
    """
    return undone(wild_type, [(new, position, wild) for wild, position, new in mutations], offset)


def undone(sequence, mutations, offset=0):
    """Return a sequence as it was before its mutations, which fit it.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._mutations import undone
    >>> undone("MAK", (("T", 2, "A"),))
    'MTK'
    """
    for wild, position, _ in mutations:
        at = position - offset - 1
        sequence = sequence[:at] + wild + sequence[at + 1 :]
    return sequence


def infer_wild_type(mutations, sequences, offset=0):
    """Return the sequence that rows had before their mutations; None where they disagree.

    Parameters
    ----------
    mutations : sequence of tuple or None
        They fit their sequences (:func:`position_offset`); rows that are None tell nothing.

    sequences : sequence of str

    offset : int, default=0

    Returns
    -------
    wild_type : str or None
        That of more than half of the rows that tell.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._mutations import infer_wild_type
    >>> infer_wild_type([(("T", 2, "A"),), (("K", 3, "R"),), None], ["MAK", "MTR", "WWW"])
    'MTK'
    """
    found = Counter(
        undone(text, row, offset)
        for row, text in zip(mutations, sequences, strict=True)
        if row is not None
    )
    if not found:
        return None
    [(wild_type, n)] = found.most_common(1)
    return wild_type if 2 * n > found.total() else None


def compared(wild_type, sequence):
    """Return the mutations of a sequence by comparison; None where lengths differ.

    Parameters
    ----------
    wild_type, sequence : str

    Returns
    -------
    mutations : tuple of (str, int, str), or None
        Positions count from 1.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._mutations import compared
    >>> compared("MTK", "MAR")
    (('T', 2, 'A'), ('K', 3, 'R'))
    """
    if len(wild_type) != len(sequence):
        return None
    places = np.flatnonzero(_letters(wild_type) != _letters(sequence)).tolist()
    return tuple((wild_type[at], at + 1, sequence[at]) for at in places)


def _letters(text):
    # Four bytes a letter, whatever letters there are.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
