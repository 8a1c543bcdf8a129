"""A sample of UniProt sequences that the embedded models were not trained on."""

from sklearn.utils import Bunch

from ._read import read_columns

DESCR = """\
A sample of UniProt sequences
=============================

1,000 proteins of all kinds: a corpus of diverse residues on which a chain of models is
fitted once, before it is applied to measured variants.  There is nothing to predict.

:sequences: 1,000 strings of 31 to 1,019 residues (336,215 in all, median length 290), made
    of the 20 standard amino acids alone
:accessions: the UniProt accession of each sequence, such as "A0A014KW72"
:order: by accession

Source and processing
---------------------
Debian's package mmseqs2-examples holds 20,000 UniProt entries, 18,801 of them distinct.
They were clustered with MMseqs2 (30% identity, 50% mutual coverage) and split by cluster:
17,001 sequences to train the esm2-nano models on, 1,800 held out.  Of the held-out ones
1,636 have 30 to 1,022 residues and the standard alphabet; 175 of these share a run of 12
residues with a training sequence (fragments of it, mostly) and were left out; 1,000 of the
other 1,461 were drawn by a seeded hash of the sequence (``benchmarks/build_datasets.py``).
157 are from Swiss-Prot, 843 from TrEMBL; 65 do not begin with methionine, being fragments.

So the models were trained on none of these sequences.  Distant relatives remain: MMseqs2
finds for 95 of them a training sequence of at least 30% identity over half their length.

Licence
-------
UniProt, Creative Commons Attribution 4.0 International (CC BY 4.0),
https://www.uniprot.org/help/license.  Changes: the selection above; sequences and accessions
alone were kept.
"""


def load_uniprot_sample():
    """Load 1,000 UniProt sequences that the esm2-nano models were not trained on.

    The corpus on which :func:`~revdist_sklearn.fit_on_corpus` is meant to fit a chain.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        - ``sequences`` : list of str, length 1,000, of 31 to 1,019 residues
        - ``accessions`` : list of str, length 1,000, UniProt accessions
        - ``DESCR`` : str, the full description

    Notes
    -----
    Source: UniProt, CC BY 4.0 (https://www.uniprot.org/help/license), by way of Debian's
    package mmseqs2-examples. The sequences come from clusters (30% identity) that were held
    out from the training of the models, and share no run of 12 residues with a sequence of
    the training. ``DESCR`` has the details.

    Examples
    --------
    >>> from revdist_sklearn.datasets import load_uniprot_sample
    >>> data = load_uniprot_sample()
    >>> len(data.sequences), sum(map(len, data.sequences))
    (1000, 336215)
    """
    columns = read_columns("uniprot_sample.csv.gz")
    return Bunch(
        sequences=columns["sequence"],
        accessions=columns["accession"],
        DESCR=DESCR,
    )
