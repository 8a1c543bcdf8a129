"""Checks of numbers that say what would be right."""

from numbers import Integral

from sklearn.utils import check_scalar


def check_integer(value, name, low, high, message):
    """Return an integer in [low, high], or raise with a message that names the way out.

    Parameters
    ----------
    value : object

    name : str
        Of the parameter.

    low, high : int
        Both are allowed.

    message : str
        What the error says.

    Returns
    -------
    value : int

    Raises
    ------
    ValueError
        If it is none of these integers; True and False are none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError(f"{name} is a bool.")
        return int(check_scalar(value, name, Integral, min_val=low, max_val=high))
    except (TypeError, ValueError) as error:
        raise ValueError(message) from error
