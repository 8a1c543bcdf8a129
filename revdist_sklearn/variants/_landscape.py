"""All single substitutions of a protein, as a frame."""

import numpy as np
from sklearn.utils._optional_dependencies import check_pandas_support

from ..embedding._sequences import check_sequences
from ..models._residues import AMINO_ACIDS
from ._substitutions import all_single

LETTERS = np.array(list(AMINO_ACIDS), dtype=object)


def single_substitutions(reference, *, sequences=True, first_position=1):
    """Return all single substitutions of a protein, in order of position and new residue.

    Parameters
    ----------
    reference : str
        Sequence of the wild type. Residues other than the twenty amino acids have none.

    sequences : bool, default=True
        Whether with the whole sequence of each, for the ``predict`` of a model.

    first_position : int, default=1
        Number of the first residue, of a domain or where a tag stands before it.

    Returns
    -------
    frame : pandas.DataFrame of 19 rows a residue
        - "mutant": ``"M1A"``, as in the tables of ProteinGym
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
    sites, codes, names, texts = all_single(reference, first_position)
    columns = {
        "mutant": names,
        "position": sites + first_position,
        "wild_type": np.array(list(reference), dtype=object)[sites],
        "residue": LETTERS[codes],
    }
    if sequences:
        columns["sequence"] = texts
    return check_pandas_support("single_substitutions").DataFrame(columns)
