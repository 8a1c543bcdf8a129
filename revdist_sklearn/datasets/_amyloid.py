"""Nucleation of amyloid beta 42 variants."""

import numpy as np
from sklearn.utils import Bunch

from ._read import read_columns

WILD_TYPE = "DAEFRHDSGYEVHHQKLVFFAEDVGSNKGAIIGLMVGGVVIA"

DESCR = """\
Nucleation of amyloid beta 42 variants
======================================

468 single mutants and a fixed sample of 1,000 of the 14,015 double mutants of the peptide
amyloid beta 42, each with its nucleation score: how well yeast that carries the variant,
fused to a reporter, grows when growth depends on the variant's forming aggregates.

:sequences: 1,468 strings of 42 residues
:target: nucleation score, without a unit.  Higher: nucleates more readily.  The authors'
    analysis shifts all scores by one constant so that synonymous variants, which encode the
    wild type, are at 0; this file holds the scores before that shift, so 0 is near the wild
    type and not exactly it.
:mutations: "D1A", or "D1A:E3K" for a double mutant; aspartate of the peptide is position
    1, so mutation ``p`` changes ``wild_type[p - 1]``
:wild_type: 42 residues; it has no row of its own
:order: single mutants by position, then double mutants by their first position.  Folds cut
    from the single mutants as they stand are therefore nearly folds by position (group by
    the number in ``mutations`` for exact ones); shuffle for random ones.

Source and processing
---------------------
The measurements are those of Seuma et al. (2021), Gene Expression Omnibus GSE151147.  The
file is amyloid_data.csv.gz of the Python package mavenn 1.1.4; by its documentation the
score is the column ``nscore``, the mean of up to three replicates weighted by their errors.
Variants with a stop codon were left out here, and 1,000 double mutants were drawn by a
seeded hash of the sequence (``benchmarks/build_datasets.py``).  The published standard
errors are not bundled; their median is 0.13 for the single mutants and 0.61 for all double
mutants, so double mutants are much noisier.

What the embedded models have seen
----------------------------------
No sequence on which the esm2-nano models were trained holds amyloid beta 42, and a search
with MMseqs2 finds none that is related to it (best E-value 0.8).

Licence
-------
The file: MIT, Copyright (c) 2020 Ammar Tareen, Justin B. Kinney (mavenn; the text is in
NOTICE).  Please cite the measurements:

M. Seuma, A. J. Faure, M. Badia, B. Lehner, B. Bolognesi, "The genetic landscape for amyloid
beta fibril nucleation accurately discriminates familial Alzheimer's disease mutations",
eLife 10, e63364 (2021), doi:10.7554/eLife.63364.
"""


def load_amyloid_nucleation(*, mutations="all", return_X_y=False):
    """Load nucleation scores of single and double mutants of amyloid beta 42.

    Single mutants come first, by position: unshuffled folds of them are nearly folds by
    position.

    Parameters
    ----------
    mutations : {"all", "single"}, default="all"
        "all" for the 468 single mutants and the sample of 1,000 double mutants, "single"
        for the single mutants alone.

    return_X_y : bool, default=False
        Return ``(sequences, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes (n is 1,468, or 468 for "single")

        - ``sequences`` : list of str, length n, each of 42 residues
        - ``target`` : float64 array of shape (n,), nucleation score without a unit;
          higher nucleates more readily
        - ``wild_type`` : str, 42 residues
        - ``mutations`` : list of str such as ``"D1A"`` or ``"D1A:E3K"``, the first residue
          of the peptide being position 1
        - ``DESCR`` : str, the full description

    (sequences, target) : tuple, if ``return_X_y``

    Raises
    ------
    ValueError
        If ``mutations`` is neither "all" nor "single".

    Notes
    -----
    Measured by Seuma et al. [1]_; the file is one of the package mavenn 1.1.4 (MIT,
    Copyright (c) 2020 Ammar Tareen, Justin B. Kinney) without stop codons and with a fixed
    sample of the 14,015 double mutants. ``DESCR`` has the details.

    References
    ----------
    .. [1] M. Seuma, A. J. Faure, M. Badia, B. Lehner, B. Bolognesi, "The genetic landscape
       for amyloid beta fibril nucleation accurately discriminates familial Alzheimer's
       disease mutations", eLife 10, e63364 (2021), doi:10.7554/eLife.63364.

    Examples
    --------
    >>> from revdist_sklearn.datasets import load_amyloid_nucleation
    >>> data = load_amyloid_nucleation(mutations="single")
    >>> len(data.sequences), data.mutations[0], round(float(data.target.max()), 2)
    (468, 'D1A', 2.38)
    >>> sequences, target = load_amyloid_nucleation(return_X_y=True)
    >>> len(sequences), target.shape
    (1468, (1468,))
    """
    if mutations not in ("all", "single"):
        raise ValueError(
            f"mutations={mutations!r} is not known; use 'all' (single mutants and the sample "
            "of double mutants) or 'single'."
        )
    columns = read_columns("amyloid_nucleation.csv.gz")
    if mutations == "single":
        keep = [":" not in names for names in columns["mutations"]]
        columns = {
            title: [value for value, kept in zip(column, keep, strict=True) if kept]
            for title, column in columns.items()
        }
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
