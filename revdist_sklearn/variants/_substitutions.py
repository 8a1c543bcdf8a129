"""Where variants differ from a reference, and what a table of log probabilities says of it."""

import numpy as np

from ..models._residues import AMINO_ACIDS, MASKED, RESIDUES

N_LETTERS = len(AMINO_ACIDS)
# Code of each letter: 0 to 19 are the amino acids in their order, what follows has no score.
NO_RESIDUE = 255
_codes = bytearray([NO_RESIDUE]) * 256
for _code, _letter in enumerate(RESIDUES):
    _codes[ord(_letter)] = _codes[ord(_letter.lower())] = _code
_CODES = bytes(_codes)
# Bytes of sequences that are compared at a time.
BLOCK = 2**20


def codes_of(sequence):
    """Return the codes of a sequence's letters.

    Parameters
    ----------
    sequence : str
        Residues in either case.

    Returns
    -------
    codes : ndarray of shape (n_residues,), uint8
        From 0 to 19 for the amino acids, in the order of ``AMINO_ACIDS``; more for other
        residues; 255 for what is none.

    Examples
    --------
    >>> from revdist_sklearn.variants._substitutions import codes_of
    >>> codes_of("ACYX")
    array([ 0,  1, 19, 20], dtype=uint8)
    """
    return np.frombuffer(sequence.encode("ascii").translate(_CODES), dtype=np.uint8)


def substitutions(sequences, reference):
    """Return where sequences of a reference's length differ from it.

    Millions are looked at at once, so that none of them need be checked before.

    Parameters
    ----------
    sequences : list

    reference : str

    Returns
    -------
    rows, sites : ndarray of shape (n_substitutions,), int64
        Index of the sequence, and position in it, ascending.

    codes : ndarray of shape (n_substitutions,), uint8
        Codes of the new letters.

    None where a sequence is no text, of another length, or has a character that is no residue.

    Examples
    --------
    >>> from revdist_sklearn.variants._substitutions import substitutions
    >>> substitutions(["MKT", "AKC"], "MKT")
    (array([1, 1]), array([0, 2]), array([0, 1], dtype=uint8))
    """
    wild_type, length = codes_of(reference), len(reference)
    parts = []
    step = max(1, BLOCK // length)
    for start in range(0, len(sequences), step):
        block = sequences[start : start + step]
        try:
            if set(map(len, block)) != {length}:
                return None
            codes = codes_of("".join(block)).reshape(len(block), length)
        except (TypeError, UnicodeEncodeError):
            return None
        if (codes == NO_RESIDUE).any():
            return None
        # Many times as fast as of two dimensions.
        rows, sites = np.divmod(np.flatnonzero(codes != wild_type), length)
        parts.append((rows + start, sites, codes[rows, sites]))
    rows, sites, codes = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return rows, sites, codes


def all_single(reference, first_position=1):
    """Return all single substitutions of a protein, in order of position and new residue.

    Parameters
    ----------
    reference : str
        In upper case. Residues other than the twenty amino acids have none.

    first_position : int, default=1
        Number of the first residue in names.

    Returns
    -------
    sites : ndarray of shape (n,), int64
        Positions in the reference, from 0.

    codes : ndarray of shape (n,), int64
        Codes of the new letters.

    names : list of str
        Such as ``"M1A"``.

    sequences : list of str

    Examples
    --------
    >>> from revdist_sklearn.variants._substitutions import all_single
    >>> sites, codes, names, sequences = all_single("MK", first_position=18)
    >>> len(names), names[0], names[-1], sequences[0]
    (38, 'M18A', 'K19Y', 'AK')
    """
    wild_type = codes_of(reference)
    sites, codes = np.nonzero(wild_type[:, None] != np.arange(N_LETTERS))
    known = wild_type[sites] < N_LETTERS
    sites, codes = sites[known], codes[known]
    names, sequences = [], []
    for site, code in zip(sites.tolist(), codes.tolist(), strict=True):
        new = AMINO_ACIDS[code]
        names.append(f"{reference[site]}{site + first_position}{new}")
        sequences.append(f"{reference[:site]}{new}{reference[site + 1 :]}")
    return sites, codes, names, sequences


def log_ratios(table, reference, sites, codes):
    """Return log p of the new letter minus log p of the reference's, at each site.

    Parameters
    ----------
    table : ndarray of shape (..., n_residues, 20)
        Log probabilities of the amino acids at each site.

    reference : ndarray of shape (n_residues,), uint8
        Its codes.

    sites : ndarray of shape (n,), int64

    codes : ndarray of shape (n,), uint8

    Returns
    -------
    ratios : ndarray of shape (..., n), float64

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.variants._substitutions import codes_of, log_ratios
    >>> table = np.log(np.full((1, 2, 20), 0.05))
    >>> table[0, 1, 0] = np.log(0.1)
    >>> log_ratios(table, codes_of("MK"), np.array([1]), codes_of("A")).round(3)
    array([[0.693]])
    """
    new = table[..., sites, codes].astype(np.float64)
    return new - table[..., sites, reference[sites]]


def sums_by_row(values, rows, n_rows):
    """Return the sums of values that belong to one row.

    Parameters
    ----------
    values : ndarray of shape (n_members, n)

    rows : ndarray of shape (n,), int64

    n_rows : int

    Returns
    -------
    sums : ndarray of shape (n_rows, n_members), float64
    """
    sums = [np.bincount(rows, weights=of_member, minlength=n_rows) for of_member in values]
    return np.stack(sums, axis=1)


def with_masks(sequence, sites):
    """Return a sequence whose residues at some sites are masked.

    Examples
    --------
    >>> from revdist_sklearn.variants._substitutions import with_masks
    >>> with_masks("MKTAY", [1, 3])
    'M?T?Y'
    """
    letters = bytearray(sequence, "ascii")
    for site in sites:
        letters[site] = ord(MASKED)
    return letters.decode("ascii")
