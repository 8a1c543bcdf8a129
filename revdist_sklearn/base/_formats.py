"""Numbers of the file formats, and how older files are read.

Every file that the package writes carries the number of its format. A larger one than is
known here is an error; of a smaller one, names that have changed are replaced by these
tables. Whoever renames a parameter of :class:`ReverseDistiller` or a field of ``Stage`` adds
one to the number and an entry to the table.
"""

# What is written today. Moments and checkpoints of format 1 have no number in them.
DISTILLER, MOMENTS, CHECKPOINT, CACHE, SHARDS, EMBEDDINGS = 5, 4, 3, 3, 1, 1
# Distillers that are kept in less than float64 are of format 4. Others need nothing that is new
# in it, and go on as format 3, which older versions read.
ROUNDED_SINCE = 4
# Those whose columns have an order of their own, or whose levels have other names, of format 5.
ORDER_SINCE = 5
# Moments with levels of other names than residue and protein are of format 4; others go on as 3.
LEVELS_SINCE = 4
# Since then distillers, moments (and so checkpoints) and rows of caches carry digests.
DIGEST_SINCE = 3

# Of a format and all before it: name then to name now, None for what is no longer kept.
PARAMETERS: dict[int, dict[str, str | None]] = {1: {}}
STAGE_FIELDS: dict[int, dict[str, str | None]] = {
    1: {"n_components": "n_added", "n_components_nonzero": None},
}


class FormatError(ValueError):
    """A file was written by a newer version of this package, in a format unknown to this one.

    Examples
    --------
    >>> from revdist_sklearn import FormatError
    >>> from revdist_sklearn.base._formats import check_format
    >>> try:
    ...     check_format(9, 2, "distiller")
    ... except FormatError as error:
    ...     print(error)
    distiller was written in format 9, by another version of revdist_sklearn; this one reads ...
    """


def check_format(number, known, what):
    """Return the number of a format, or raise where it is none that can be read.

    Parameters
    ----------
    number : object
        As it stands in the file.

    known : int
        The newest format that can be read.

    what : str
        The file, for the message.

    Returns
    -------
    number : int

    Raises
    ------
    FormatError
        If the number is larger.

    ValueError
        If it is no number of a format.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(
            f"{what} was written in format {number!r}, which neither this nor another version of "
            "revdist_sklearn has."
        )
    if number > known:
        raise FormatError(
            f"{what} was written in format {number}, by another version of revdist_sklearn; this "
            f"one reads up to {known}. Update it: pip install -U revdist_sklearn"
        )
    return number


def renamed(values, table, number):
    """Return what a file of format ``number`` holds under today's names, by one of the tables."""
    for version in sorted(version for version in table if version >= number):
        now = {name: table[version].get(name, name) for name in values}
        values = {now[name]: value for name, value in values.items() if now[name] is not None}
    return values
