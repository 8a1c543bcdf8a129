"""Stability of the single mutants of protein G B1."""

import numpy as np
from sklearn.utils import Bunch

from ._read import read_columns

WILD_TYPE = "MTYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"

DESCR = """\
Stability of the single mutants of protein G B1
================================================

812 single mutants of the B1 domain of streptococcal protein G (56 residues), each with the
change of its free energy of folding.  None mutates to cysteine or tryptophan.

:sequences: 812 strings of 56 residues
:target: change of the folding free energy against the wild type, in kcal/mol.  Negative:
    more stable than the wild type; positive: less stable.  From -1.92 to 3.69.
:mutations: "T2A" = threonine at position 2 replaced by alanine; the initial methionine is
    position 1, so mutation ``p`` changes ``wild_type[p - 1]``
:wild_type: 56 residues; it has no row of its own
:order: by position.  Folds cut from the rows as they stand are therefore nearly folds
    by position (group by the number in ``mutations`` for exact ones); shuffle for random
    ones.

Source and processing
---------------------
The measurements are those of Nisthal et al. (2019).  The file is nisthal_data.csv.gz of the
Python package mavenn 1.1.4.  Its documentation says that it took the published column
``ddG(mAvg)_mean``, reversed the sign, cut off position 1 with its mutants, and dropped the
values that are exactly 4 kcal/mol after the reversal, as not precisely measured.  So the
most harmful mutations are missing: position 43 has no row at all, position 26 has two.

Two changes were made here.  The file's sequences lack the initial methionine (its names
count it): it is put back.  The row named "WT, WT , T02Q" is left out: its name lists the
wild type beside the mutant T2Q, so it cannot be told whose value (-0.3391) it is.  Every
other row's name agrees with its sequence.

What the embedded models have seen
----------------------------------
UniProt entry F5U588, on which the esm2-nano models were trained, holds residues 2 to 56 of
the wild type letter by letter, and a second, similar copy of the domain.  The models have
read the wild type, not its mutants and no measurement.

Licence
-------
The file: MIT, Copyright (c) 2020 Ammar Tareen, Justin B. Kinney (mavenn; the text is in
NOTICE).  Please cite the measurements:

A. Nisthal, C. Y. Wang, M. L. Ary, S. L. Mayo, "Protein stability engineering insights
revealed by domain-wide comprehensive mutagenesis", Proc. Natl. Acad. Sci. USA 116 (33),
16367-16377 (2019), doi:10.1073/pnas.1903888116.
"""


def load_gb1_stability(*, return_X_y=False):
    """Load the stability of 812 single mutants of protein G B1.

    Rows are ordered by position: unshuffled folds are nearly folds by position.

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(sequences, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - ``sequences`` : list of str, length 812, each of 56 residues
        - ``target`` : float64 array of shape (812,), change of the folding free energy
          against the wild type in kcal/mol; lower is more stable
        - ``wild_type`` : str, 56 residues with the initial methionine
        - ``mutations`` : list of str such as ``"T2A"``, methionine being position 1
        - ``DESCR`` : str, the full description

    (sequences, target) : tuple, if ``return_X_y``

    Notes
    -----
    Measured by Nisthal et al. [1]_; the file is one of the package mavenn 1.1.4 (MIT,
    Copyright (c) 2020 Ammar Tareen, Justin B. Kinney) with the initial methionine put back
    and one row left out whose name is ambiguous. The least stable mutants are missing from
    it. ``DESCR`` has the details.

    References
    ----------
    .. [1] A. Nisthal, C. Y. Wang, M. L. Ary, S. L. Mayo, "Protein stability engineering
       insights revealed by domain-wide comprehensive mutagenesis", Proc. Natl. Acad. Sci.
       USA 116 (33), 16367-16377 (2019), doi:10.1073/pnas.1903888116.

    Examples
    --------
    >>> from revdist_sklearn.datasets import load_gb1_stability
    >>> data = load_gb1_stability()
    >>> data.mutations[0], data.sequences[0][:5], float(data.target[0])
    ('T2A', 'MAYKL', 0.4704)
    >>> sequences, target = load_gb1_stability(return_X_y=True)
    >>> len(sequences), target.shape
    (812, (812,))
    """
    columns = read_columns("gb1_stability.csv.gz")
    target = np.array(columns["target"], dtype=np.float64)
    if return_X_y:
        return columns["sequence"], target
    return Bunch(
        sequences=columns["sequence"],
        target=target,
        wild_type=WILD_TYPE,
        mutations=columns["mutations"],
        DESCR=DESCR,
    )
