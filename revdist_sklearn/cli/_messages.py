"""What the shell says beside its results: notes, warnings and errors, in its own words."""

import re
import sys
import warnings
from contextlib import contextmanager

from ..base._text import visible

# Parameters that are options here. What a checkpoint keeps, a cache keeps in every command; d is
# what a method calls its number of columns.
OPTIONS = {
    name: "--" + name.replace("_", "-")
    for name in (
        *("models", "device", "dtype", "max_length", "too_long", "cache_dir", "n_jobs"),
        *("n_components", "regressor", "alpha"),
        *("residual_level", "rotate_base", "order", "mutants"),
    )
} | {"checkpoint": "--cache-dir"}
# Parameters that messages name and that no option sets.
OF_PYTHON = (
    *("model_kwargs", "token_budget", "revision", "token", "local_files_only"),
    *("residual_sizes", "layer", "pooling", "causal"),
)
_VALUE = r"(?:=(?P<{}>'[^']*'|[\w.+-]*\w)?)"
_NAMES = "|".join(OPTIONS)
# No word of English, with or without a value.
_TELLING = "|".join(name for name in OPTIONS if "_" in name)
# Not within a path or a quotation: what a user has named stays as it is.
_BEFORE, _AFTER = r"(?<![\w/\\'\".=-])", r"(?![\w/\\\"=.-]*[/\\])(?![\w\"'-])"
_PARAMETER = re.compile(
    rf"`(?P<quoted>{_NAMES})`{_VALUE.format('a')}?"
    rf"|{_BEFORE}(?P<bare>{_NAMES}){_VALUE.format('b')}{_AFTER}"
    rf"|{_BEFORE}(?P<alone>{_TELLING})\b{_AFTER}"
)
# As scikit-learn says that a parameter is out of its range.
_OUT_OF_RANGE = re.compile(rf"The '(?P<name>{_NAMES})' parameter of \w+ must be ")
# What Python has, and what the shell has for it.
PHRASES = {
    r"an int in the range \[(\d+), inf\)": r"an integer of \1 or more",
    r"a float in the range \[(\d+)\.0, inf\)": r"a number of \1 or more",
    r"\(load_uniprot_sample, and the shell's default\)": "(what is taken without --fasta)",
    r" \(fit_on_corpus\)": "",
    r"Give block_sizes, the width .* columns named <block>__<column>; a family": "A family",
    r"ReverseDistiller\.save_pretrained or `revdist fit`": "`revdist fit`",
    r"save it again with ReverseDistiller\.save_pretrained": "write it again with `revdist fit`",
    r"write it with Moments\.save": "`revdist fit --checkpoint` writes it",
    r"a file of Moments\.save or a checkpoint": "a checkpoint",
}
# What a method calls its number of columns begins its message.
_COLUMNS = re.compile(r"^d=(?=-?\d+ )")


def note(message):
    """Print a line for people on standard error."""
    say(f"revdist: {message}", file=sys.stderr)


def say(text="", file=None):
    """Print what may hold names of others: nothing in it but a newline moves a terminal."""
    print(visible(text, keep="\n"), file=file)


def as_options(message):
    """Return a message of the package with the options of the shell in place of parameters.

    Parameters
    ----------
    message : str

    Returns
    -------
    message : str

    Examples
    --------
    >>> from revdist_sklearn.cli._messages import as_options
    >>> as_options("Raise `max_length`=5, or use too_long='window', or drop `models`.")
    'Raise --max-length 5, or use --too-long window, or drop --models.'
    """

    def option(match):
        value = match["a"] or match["b"]
        name = OPTIONS[match["quoted"] or match["bare"] or match["alone"]]
        return f"{name} {value.strip(chr(39))}" if value else name

    text = _COLUMNS.sub("--n-components ", str(message))
    text = _OUT_OF_RANGE.sub(lambda match: f"{OPTIONS[match['name']]} must be ", text)
    for python, shell in PHRASES.items():
        text = re.sub(python, shell, text)
    text = _PARAMETER.sub(option, text).replace(" or None", " or leave it out")
    unknown = [name for name in OF_PYTHON if re.search(rf"`{name}`|\b{name}=", text)]
    if unknown:
        text += f" (Parameters of Python alone, without an option here: {', '.join(unknown)}.)"
    return text


def said_of(error):
    """Return the text of an error with its notes, as a terminal can show it."""
    text = str(error) or type(error).__name__
    text = " ".join([text, *getattr(error, "__notes__", [])])
    return visible(as_options(text), keep="\n")


@contextmanager
def warnings_as_notes():
    """Show warnings as lines without the place in the code."""
    before = warnings.formatwarning

    def as_line(message, category, filename, lineno, line=None):
        return visible(f"revdist: warning: {as_options(message)}\n", keep="\n")

    warnings.formatwarning = as_line  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.formatwarning = before
