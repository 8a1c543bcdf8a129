"""Protein sequences as they come in: checks, the length policy, windows and batches."""

import re
from collections.abc import Iterable, Sized

from scipy.sparse import issparse

from ..base._warnings import warn
from ..models._residues import AMINO_ACIDS, RESIDUES

# Batches of one length need no padding; a little padding is cheaper than many small
# batches, a lot of it is not (measured on CPU, where padding is computed like residues).
SHORTEST_IN_BATCH = 0.9

# What messages call the wild type.
REFERENCE = "`reference`"

# Offenders that a message lists.
MOST_LISTED = 10

# Letters from which on DNA is told from a protein.
SHORTEST_NUCLEOTIDES = 20
_NO_NUCLEOTIDE = re.compile("[^ACGTUNacgtun]")


def check_sequences(sequences, residues=RESIDUES, labels=None):
    """Return the sequences as a list of upper-case strings, or say what is wrong.

    Parameters
    ----------
    sequences : list, tuple, 1-d array or Series of str
        Protein sequences.

    residues : str, default=RESIDUES
        Allowed letters, upper case: the twenty amino acids and X, B, Z, U, O. Lower case
        is accepted too.

    labels : sequence of str, default=None
        What messages call the sequences; None counts them.

    Returns
    -------
    checked : list of str
        The same sequences in the same order, in upper case.

    Raises
    ------
    TypeError
        If ``sequences`` is one string or no flat container in a fixed order, or if an item
        is no string (a number, None, bytes). The message names its index.

    ValueError
        If there is no sequence, a sequence is empty, or a character is no residue. The
        message names the index, the position and the character, and the other sequences
        of which the same is true.

    Examples
    --------
    >>> from revdist_sklearn.embedding._sequences import check_sequences
    >>> check_sequences(["MKtay", "GIVEQX"])
    ['MKTAY', 'GIVEQX']
    >>> check_sequences(["MKTAY", "GIV*"])
    Traceback (most recent call last):
        ...
    ValueError: Sequence 1 has '*' at position 3 (counted from 0), which is no residue. \
Allowed are ACDEFGHIKLMNPQRSTVWY and X, B, Z, U, O, in either case. Leave out gaps and \
stops, and write X for an unknown residue.
    """
    items = as_list(sequences)
    foreign = foreign_letters(residues)
    found = [i for i, item in enumerate(items) if not isinstance(item, str)]
    if found:
        raise TypeError(
            f"{_called(labels, found[0])} is {_shown(items[found[0]])}, not a string"
            f"{_and_others(found, items, labels, 'so are')}. Drop it, or give the "
            "protein's residues as text, such as 'MKTAYIAKQR'."
        )
    found = [i for i, item in enumerate(items) if not item]
    if found:
        drop = "Drop it together with its row in all other columns."
        if labels is not None:
            drop = "Give its residues, or drop it."
        raise ValueError(
            f"{_called(labels, found[0])} is empty{_and_others(found, items, labels, 'so are')}: "
            f"there is no residue to embed. {drop}"
        )
    found = [i for i, item in enumerate(items) if foreign.search(item)]
    if found:
        match = foreign.search(items[found[0]])
        assert match is not None
        raise ValueError(
            f"{_called(labels, found[0])} has {match.group()!r} at position {match.start()} "
            "(counted from 0), which is no residue"
            f"{_and_others(found, items, labels, 'such characters have')}. "
            f"{allowed(residues)}"
        )
    return [item.upper() for item in items]


def foreign_letters(residues):
    """Return the pattern of a character that is none of these residues, in either case."""
    # Judged before upper-casing: "ß" and "ı" become ASCII letters in upper case.
    return re.compile(f"[^{''.join(sorted(residues + residues.lower()))}]")


def allowed(residues):
    """Return what is told of a character that is no residue: which are, and what to do."""
    others = ", ".join(r for r in residues if r not in AMINO_ACIDS)
    standard = "".join(r for r in residues if r in AMINO_ACIDS)
    unknown = (
        "write X for an unknown residue"
        if "X" in residues
        else "write one of these for an unknown residue, or drop the sequence"
    )
    return (
        f"Allowed are {standard}{f' and {others}' if others else ''}, in either case. Leave out "
        f"gaps and stops, and {unknown}."
    )


def _called(labels, index):
    return f"Sequence {index}" if labels is None else labels[index]


def listed(names, most=MOST_LISTED, separator=", "):
    """Return names as a list in a sentence, of which the first are shown."""
    names = list(names)
    return separator.join(names[:most]) + (f"{separator}.." if len(names) > most else "")


def _and_others(found, items, labels, verb):
    """Return which others share what is said of the first that was found."""
    if len(found) == 1:
        return ""
    others = listed(_called(labels, i) for i in found[1:])
    return f" ({verb} {len(found)} of {len(items)}; the others: {others})"


def nucleotides(sequences):
    """Return the indices of sequences that are DNA or RNA by their letters.

    A, C, G and T (or U), all of them, N at most beside them, and no fewer than 20: of a
    protein's residues a quarter are such letters, so that a random protein is taken for one
    with a chance of 1e-12.

    Parameters
    ----------
    sequences : sequence of str

    Returns
    -------
    found : list of int

    Examples
    --------
    >>> from revdist_sklearn.embedding._sequences import nucleotides
    >>> nucleotides(["ATGGCTAGCTAGGCTAACGT", "MKTAYIAKQRQISFVKSHFS", "GAGAGAGAGAGAGAGAGAGAGA"])
    [0]
    """
    found = []
    for i, sequence in enumerate(sequences):
        # Of a protein the first letters tell, so that none is gone through.
        if len(sequence) < SHORTEST_NUCLEOTIDES or _NO_NUCLEOTIDE.search(sequence):
            continue
        letters = set(sequence.upper())
        if {"A", "C", "G"} <= letters and letters - {"N"} in ({*"ACGT"}, {*"ACGU"}):
            found.append(i)
    return found


def warn_of_nucleotides(sequences, labels=None):
    """Warn once where sequences are DNA or RNA, which reads as a protein of four residues."""
    found = nucleotides(sequences)
    if found:
        warn(
            f"{len(found)} of {len(sequences)} sequences are DNA or RNA by their letters (A, C, "
            f"G, T or U alone): {listed(_called(labels, i) for i in found)}. They are embedded "
            "as proteins of these residues; translate them first.",
        )


def as_list(sequences):
    """Return the items of a flat container that has a length and an order."""
    if isinstance(sequences, (str, bytes)):
        raise TypeError(
            f"Expected a list of protein sequences, got one {type(sequences).__name__} of "
            f"length {len(sequences)}. For a single protein give a list of one: [sequence]."
        )
    if issparse(sequences):
        raise ValueError(
            "Expected a list of protein sequences, got a sparse matrix of numbers. Give the "
            "sequences themselves, as text."
        )
    # Before the iteration below, which would take the columns of a frame for its items.
    shape = getattr(sequences, "shape", None)
    if shape is not None and len(shape) != 1:
        way_out = "Give one dimension: X.ravel() for an array of one column."
        if hasattr(sequences, "columns"):
            name = next(iter(sequences.columns), "sequence")
            way_out = (
                f"Name the column that holds the sequences, as in frame[{name!r}]; in a "
                "ColumnTransformer give the name as a string, not in a list."
            )
        raise ValueError(
            f"Expected a flat list of protein sequences, got {type(sequences).__name__} of "
            f"shape {tuple(shape)}. {way_out}"
        )
    unordered = isinstance(sequences, (dict, set, frozenset))
    if unordered or not (isinstance(sequences, Iterable) and isinstance(sequences, Sized)):
        raise TypeError(
            "Expected a list, tuple, 1-d array or Series of protein sequences, got "
            f"{_shown(sequences)}. Turn it into a list whose order you know."
        )
    items = list(sequences)
    if not items:
        raise ValueError(
            "Expected at least one protein sequence, got an empty "
            f"{type(sequences).__name__} (0 samples)."
        )
    return items


def _shown(value):
    text = repr(value)
    text = text if len(text) <= 40 else text[:37] + "..."
    return text if value is None else f"{text} ({type(value).__name__})"


def apply_limit(sequences, limit, too_long, labels=None):
    """Return the sequences with the policy for long ones applied.

    Parameters
    ----------
    sequences : list of str
        Checked sequences.

    limit : int or None
        Largest number of residues; None for no limit.

    too_long : {"error", "truncate", "window"}
        The policy. "window" leaves the sequences whole: see :func:`window_starts`.

    labels : sequence of str, default=None
        What messages call the sequences; None counts them.

    Returns
    -------
    sequences : list of str
        The same list where nothing is too long, else with the first ``limit`` residues of the
        long ones under "truncate".

    Raises
    ------
    ValueError
        Under "error", if a sequence is too long.

    Warns
    -----
    UserWarning
        Under "truncate", once, with the number of sequences that lost residues.

    Examples
    --------
    >>> from revdist_sklearn.embedding._sequences import apply_limit
    >>> apply_limit(["MKTAY", "GIV"], 5, "error")
    ['MKTAY', 'GIV']
    """
    if limit is None or too_long == "window":
        return sequences
    lengths = [len(s) for s in sequences]
    long = [i for i, length in enumerate(lengths) if length > limit]
    if not long:
        return sequences
    first = long[0]
    if too_long == "error":
        which = listed(_called(labels, i) for i in long)
        of_all = f" ({len(long)} of {len(sequences)} sequences are longer: {which})"
        raise ValueError(
            f"{_called(labels, first)} has {lengths[first]} residues, the limit is {limit}"
            f"{of_all if len(sequences) > 1 else ''}. Raise or drop `max_length` if the models "
            "can take more, use too_long='window' to average overlapping windows, "
            "too_long='truncate' to cut, or drop the sequence."
        )
    if len(sequences) == 1:
        warn(
            f"{_called(labels, 0)} has {lengths[0]} residues and was cut to its first {limit}. "
            "too_long='window' keeps every residue.",
            UserWarning,
        )
        return [sequences[0][:limit]]
    longest = max(lengths)
    which, where = f"sequence {first}", f"at index {lengths.index(longest)}"
    if labels is not None:
        which, where = labels[first], f"it is {labels[lengths.index(longest)]}"
    warn(
        f"{len(long)} of {len(sequences)} sequences are longer than {limit} residues and were "
        f"cut to their first {limit}; the first is {which} with {lengths[first]} "
        f"residues, the longest has {longest}, {where}. "
        "too_long='window' keeps every residue.",
        UserWarning,
    )
    return [s[:limit] for s in sequences]


def window_starts(length, size):
    """Return the starts of windows of ``size`` residues that cover ``length`` residues.

    Neighbours overlap by half a window; the last one ends at the last residue, so that it
    overlaps by more.

    Parameters
    ----------
    length : int
        Residues of the protein.

    size : int or None
        Residues of a window; None for one window, however long.

    Returns
    -------
    starts : list of int
        ``[0]`` where one window holds everything.

    Examples
    --------
    >>> from revdist_sklearn.embedding._sequences import window_starts
    >>> window_starts(10, 4)
    [0, 2, 4, 6]
    >>> window_starts(9, 4)
    [0, 2, 4, 5]
    >>> window_starts(4, 4)
    [0]
    """
    if size is None or length <= size:
        return [0]
    return [*range(0, length - size, max(1, size // 2)), length - size]


def batches(lengths, budget, specials=2, packed=False, square=0.0):
    """Yield batches of indices, longest first, of like lengths, up to a number of tokens.

    Parameters
    ----------
    lengths : list of int
        Residues of each sequence.

    budget : int
        Tokens of a batch, padding and special tokens included. A sequence longer than
        that is a batch of its own.

    specials : int, default=2
        Special tokens of each sequence.

    packed : bool, default=False
        Whether the model needs no padding, so that lengths may differ.

    square : float, default=0.0
        What the square of a sequence's tokens counts, in tokens: where memory grows with it.

    Yields
    ------
    batch : list of int
        Indices into ``lengths``; every index occurs in one batch.

    Examples
    --------
    >>> from revdist_sklearn.embedding._sequences import batches
    >>> list(batches([5, 30, 5, 29, 5], budget=64))
    [[1, 3], [0, 2, 4]]
    """
    batch: list[int] = []
    tokens = 0.0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch:
            longest = lengths[batch[0]]
            padded = not packed and lengths[index] < SHORTEST_IN_BATCH * longest
            more = (lengths[index] if packed else longest) + specials
            if padded or tokens + more + square * more**2 > budget:
                yield batch
                batch, tokens = [], 0.0
        batch.append(index)
        more = lengths[index if packed else batch[0]] + specials
        tokens += more + square * more**2
    if batch:
        yield batch


def runs(lengths, most):
    """Yield ``(start, stop)`` of consecutive sequences that together have ``most`` residues.

    Parameters
    ----------
    lengths : list of int
        Residues of each sequence.

    most : int
        Residues of a run; a longer sequence is a run of its own.

    Yields
    ------
    run : tuple of (int, int)
        Half-open range of indices.

    Examples
    --------
    >>> from revdist_sklearn.embedding._sequences import runs
    >>> list(runs([4, 4, 9, 3], most=8))
    [(0, 2), (2, 3), (3, 4)]
    """
    start, total = 0, 0
    for index, length in enumerate(lengths):
        if index > start and total + length > most:
            yield start, index
            start, total = index, 0
        total += length
    if start < len(lengths):
        yield start, len(lengths)
