"""Reading the data files of this folder."""

import csv
import gzip
from importlib.resources import files


def read_columns(name):
    """Return the columns of a bundled file.

    Parameters
    ----------
    name : str
        File name below ``data/``, a gzipped CSV file with a header.

    Returns
    -------
    columns : dict of str to list of str

    Examples
    --------
    >>> from revdist_sklearn.datasets._read import read_columns
    >>> list(read_columns("uniprot_sample.csv.gz"))
    ['accession', 'sequence']
    """
    path = files("revdist_sklearn.datasets").joinpath("data", name)
    with path.open("rb") as raw, gzip.open(raw, "rt", encoding="ascii", newline="") as lines:
        header, *rows = csv.reader(lines)
    return {
        title: list(column) for title, column in zip(header, zip(*rows, strict=True), strict=True)
    }
