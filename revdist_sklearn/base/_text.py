"""Text of others in messages: what a terminal would obey is written out."""

LONGEST_SHOWN = 100


def visible(text, keep=""):
    r"""Return text in which every character can be seen, for messages and tables.

    Control characters, marks of direction, lone surrogates and whatever else has no picture
    become their Python escapes; what is printable stays as it is, in any script. Done twice it
    changes nothing more.

    Parameters
    ----------
    text : str

    keep : str, default=""
        Characters that stay, such as a newline.

    Returns
    -------
    text : str

    Examples
    --------
    >>> from revdist_sklearn.base._text import visible
    >>> print(visible("sp|P1\x1b]0;evil\x07\u202e"))
    sp|P1\x1b]0;evil\x07\u202e
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def shown(text, most=LONGEST_SHOWN):
    """Return the visible text of a name, shortened where it is long."""
    text = str(text)
    return visible(text if len(text) <= most else text[: most - 3] + "...")


def counted(n, noun):
    """Return how many of a thing there are, in words.

    Examples
    --------
    >>> from revdist_sklearn.base._text import counted
    >>> counted(1, "shard"), counted(2000, "shard")
    ('1 shard', '2,000 shards')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _escaped(character):
    return character.encode("unicode_escape", "surrogatepass").decode()
