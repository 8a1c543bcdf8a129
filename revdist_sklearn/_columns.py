"""Column names: ``<block>__<column>``, the column zero-padded, one block a model."""

from itertools import groupby

import numpy as np


def column_names(block, width):
    """Return the ``width`` names of a block, zero-padded so that they sort.

    Parameters
    ----------
    block : str
        Name of the block.
    width : int
        Number of columns.

    Returns
    -------
    names : list of str, length ``width``

    Examples
    --------
    >>> from revdist_sklearn._columns import column_names
    >>> column_names("esm2_nano_032", 11)[-2:]
    ['esm2_nano_032__09', 'esm2_nano_032__10']
    """
    digits = len(str(width - 1))
    return [f"{block}__{column:0{digits}d}" for column in range(width)]


def blocks_of(names):
    """Return the blocks of column names, in order of appearance.

    Parameters
    ----------
    names : sequence of str or None
        Column names.

    Returns
    -------
    blocks : list of (str, int) or None
        Name and width of each run of columns with the same block, or None where a name
        carries no block.

    Examples
    --------
    >>> from revdist_sklearn._columns import blocks_of
    >>> blocks_of(["a__0", "a__1", "b__0"])
    [('a', 2), ('b', 1)]
    >>> blocks_of(["a__0", "height"]) is None
    True
    """
    if names is None:
        return None
    names = list(names)
    if not names or not all(isinstance(name, str) and "__" in name for name in names):
        return None
    return [
        (block, sum(1 for _ in run))
        for block, run in groupby(names, key=lambda name: name.rpartition("__")[0])
    ]


def stages_of(names):
    """Return the names and cumulative widths of the blocks of column names.

    Parameters
    ----------
    names : sequence of str or None
        Column names.

    Returns
    -------
    blocks : list of str or None
        Names of the blocks; None where there are fewer than two.
    widths : ndarray of int or None
        Columns up to the end of each.

    Examples
    --------
    >>> from revdist_sklearn._columns import stages_of
    >>> blocks, widths = stages_of(["a__0", "a__1", "b__0"])
    >>> blocks, widths.tolist()
    (['a', 'b'], [2, 3])
    """
    blocks = blocks_of(names)
    if blocks is None or len(blocks) < 2:
        return None, None
    return [block for block, _ in blocks], np.cumsum([width for _, width in blocks])
