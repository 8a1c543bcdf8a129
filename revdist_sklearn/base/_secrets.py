"""The hub's token: named by a variable of the environment, and neither kept nor shown.

Where its name is expected, the token itself is given by mistake. So what may be one is masked
in whatever is printed or pickled, before anything is said of the mistake.
"""

import os
import re
from urllib.parse import quote

MASK = "***"
# Words of letters, with a number perhaps: what people call variables. Tokens of the hub begin as
# told, and random ones have longer words, or digits and letters mixed.
PLAIN = r"_*[A-Za-z]{1,15}\d{0,3}(_+([A-Za-z]{1,15}\d{0,3}|\d{1,4}))*_*"
MOST = 48
TOKENS = r"(hf|api)_"
WAY_OUT = (
    "Put the token into a variable, such as HF_TOKEN_LAB, and give that name: "
    "token='HF_TOKEN_LAB'. If you gave a token, revoke it where others may have seen it."
)


class Masked(str):
    """A text that may be a token where the name of its variable belongs.

    It equals the text, and neither prints nor pickles as it, unless there is such a variable.
    """

    __slots__ = ()

    def __repr__(self):
        return repr(self._shown())

    def __str__(self):
        return self._shown()

    def __format__(self, how):
        return format(self._shown(), how)

    def __reduce_ex__(self, protocol):
        return str, (self._shown(),)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self  # a clone must hold the same

    def _shown(self):
        text = str.__str__(self)
        return MASK if may_be_token(text) else text


class TokenName:
    """A parameter of an estimator that holds the name of a token's variable."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        try:
            return vars(instance)[self.name]
        except KeyError:
            raise AttributeError(self.name) from None

    def __set__(self, instance, value):
        if isinstance(value, str) and not isinstance(value, Masked) and may_be_token(value):
            value = Masked(value)
        vars(instance)[self.name] = value

    def __delete__(self, instance):
        vars(instance).pop(self.name, None)


def may_be_token(name):
    """Return whether a text may be a token itself: it is no variable's, and not like a name."""
    if not name or _is_set(name):
        return False
    return bool(
        len(name) > MOST or re.match(TOKENS, name) or not re.fullmatch(PLAIN, name, re.ASCII)
    )


def _is_set(name):
    try:
        return name in os.environ
    except UnicodeEncodeError:
        return False


def check_token_name(name):
    """Raise if what should be the name of an environment variable may be a token itself.

    Parameters
    ----------
    name : str or None
        As the user gave it.

    Raises
    ------
    ValueError, TypeError
        If it may be a secret, or is no text. The message does not repeat it.
    """
    if name is None:
        return
    if not isinstance(name, str):
        raise TypeError(
            f"`token` is of type {type(name).__name__}; it must be the name of an environment "
            f"variable, as a string, or None. {WAY_OUT}"
        )
    if not name or may_be_token(name):
        raise ValueError(
            "`token` is no name of an environment variable that is set; it looks like a token "
            f"itself, which would end up in pickles and logs. {WAY_OUT}"
        )


def secret_of(name):
    """Return the token that an environment variable holds, None where none is named.

    Raises
    ------
    ValueError
        If there is none, or it is no token. The message does not repeat it.
    """
    check_token_name(name)
    if name is None:
        return None
    value = os.environ.get(name, "").strip()
    if not value:
        raise ValueError(
            f"`token`={name!r} names an environment variable that is not set. Set it to a token "
            "of the Hugging Face hub, or use token=None for the login of this machine."
        )
    # It goes into one line of a request; an error about another would quote it.
    if not re.fullmatch("[!-~]+", value):
        raise ValueError(
            f"`token`={name!r} names an environment variable whose value is no token: a token is "
            "one line of printable ASCII characters without spaces. Is it a whole file, or two "
            "tokens? It is not shown here."
        )
    return value


def without(secrets, text):
    """Return a text in which secrets are masked, also as messages and addresses quote them."""
    for secret in filter(None, secrets):
        forms = {secret, repr(secret)[1:-1], repr(secret.encode())[2:-1], quote(secret, safe="")}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, MASK)
    return text
