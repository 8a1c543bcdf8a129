"""Numbers with units, as people write them."""


def as_size(n_bytes):
    """Return a number of bytes as people write it.

    Examples
    --------
    >>> from revdist_sklearn.base._units import as_size
    >>> as_size(999), as_size(118_000_000)
    ('999 bytes', '118.0 MB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes} bytes"


def as_time(seconds):
    """Return seconds as people write them.

    Examples
    --------
    >>> from revdist_sklearn.base._units import as_time
    >>> as_time(45), as_time(1234), as_time(1e6)
    ('45 s', '21 min', '11.6 days')
    """
    for unit, size, digits in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{digits}f} {unit}"
    return f"{seconds:,.0f} s"
