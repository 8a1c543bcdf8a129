"""All single substitutions of a protein, as a frame."""

import numpy as np
from sklearn.utils._optional_dependencies import check_pandas_support

from ..embedding._sequences import check_sequences
from ..models._residues import AMINO_ACIDS
from ._substitutions import N_LETTERS, codes_of

LETTERS = np.array(list(AMINO_ACIDS))


def single_substitutions(reference, *, sequences=True):
    """Return all single substitutions of a protein, in order of position and new residue.

    Parameters
    ----------
    reference : str
        Sequence of the wild type. Residues other than the twenty amino acids have none.

    sequences : bool, default=True
        Whether with the whole sequence of each, for the ``predict`` of a model.

    Returns
    -------
    frame : pandas.DataFrame of 19 rows a residue
        - "mutant": ``"M1A"``, as in the tables of ProteinGym; the first residue is number 1
        - "position": the number in it
        - "wild_type", "residue": the letter before and after
        - "sequence": all residues, where they are asked for

    Raises
    ------
    TypeError, ValueError
        If ``reference`` is no sequence.

    ImportError
        If pandas is not installed.

    Examples
    --------
    >>> from revdist_sklearn import single_substitutions
    >>> single_substitutions("MK").iloc[[0, 37]]
       mutant  position wild_type residue sequence
    0     M1A         1         M       A       AK
    37    K2Y         2         K       Y       MY
    """
    [reference] = check_sequences([reference])
    codes = codes_of(reference)
    sites, new = np.nonzero(codes[:, None] != np.arange(N_LETTERS))
    known = codes[sites] < N_LETTERS
    sites, new = sites[known], new[known]
    old, letters = LETTERS[codes[sites]], LETTERS[new]
    columns = {
        "mutant": [f"{a}{p + 1}{b}" for a, p, b in zip(old, sites, letters, strict=True)],
        "position": sites + 1,
        "wild_type": old.astype(object),
        "residue": letters.astype(object),
    }
    if sequences:
        columns["sequence"] = [
            f"{reference[:p]}{b}{reference[p + 1 :]}" for p, b in zip(sites, letters, strict=True)
        ]
    return check_pandas_support("single_substitutions").DataFrame(columns)
