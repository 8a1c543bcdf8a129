"""What settings are, as text: two are the same exactly where their texts are."""

import hashlib
import json
import os
from collections.abc import Mapping

import numpy as np


def canonical_json(settings):
    """Return settings as canonical JSON: sorted keys, no spaces, no NaN.

    Objects with ``to_dict`` (configurations of transformers) count by their class and
    contents, types of torch and NumPy by their names.

    Parameters
    ----------
    settings : dict, list, tuple, str, number, bool or None
        Any nesting of these.

    Returns
    -------
    text : str

    Raises
    ------
    TypeError
        If a value has no text that is the same in every process.

    Examples
    --------
    >>> from revdist_sklearn.base._identity import canonical_json
    >>> canonical_json({"b": (1, 2.5), "a": None})
    '{"a":null,"b":[1,2.5]}'
    """
    plain = _plain(settings, "settings")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(settings):
    """Return the SHA-256 of the canonical JSON of settings, in hexadecimal."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()


def _plain(value, where):
    """Return a value as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        plain = [(_plain(k, where), _plain(v, f"{where}[{k!r}]")) for k, v in value.items()]
        if all(isinstance(key, str) for key, _ in plain):
            return dict(plain)
        # JSON would make text of such keys: 1 and "1" are two.
        return {"mapping": sorted(plain, key=canonical_json)}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((_plain(item, where) for item in value), key=canonical_json)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if kind in ("torch.dtype", "torch.device"):
        return str(value)
    if callable(getattr(value, "to_dict", None)):
        return {"class": kind, "settings": _plain(value.to_dict(), where)}
    raise TypeError(
        f"{where} is {value!r} ({kind}), which has no text that is the same in every process, so "
        "that embeddings could not be found again by it. Use plain values or configurations of "
        "transformers."
    )
