"""Model files: in a folder, in the cache of the Hugging Face hub, or fetched from it."""

import json
import os
import re
import threading
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

# From most to least wanted; an index lists the files of weights in several parts.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
CONFIG_FILES = (
    "config.json",
    *("vocab.*", "merges.txt", "*.model"),  # vocabularies; sentencepiece's is a model
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json"),
)
CODE_FILES = ("config.json", "*.py")


class ModelNotFoundError(OSError):
    """A model, or a file it cannot do without, is neither on disk nor to be had.

    The message says which model, where it was looked for, and the command that fetches it
    beforehand.

    Examples
    --------
    >>> from revdist_sklearn import ESMFeaturizer
    >>> from revdist_sklearn._hub import ModelNotFoundError
    >>> try:
    ...     ESMFeaturizer("./no_such_folder").fit(["MKTAYIAKQR"])
    ... except ModelNotFoundError as error:
    ...     print(error)
    Model './no_such_folder' was not found: there is no such folder.
    """


def weight_files(folder):
    """Return the paths of a folder's weights: safetensors where there are any.

    Parameters
    ----------
    folder : path
        Folder of a model.

    Returns
    -------
    files : list of Path
        One file, or all the parts that an index names.

    Raises
    ------
    ModelNotFoundError
        If there are none, or a part is missing.
    """
    folder = Path(folder)
    name = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if name is None:
        raise ModelNotFoundError(
            f"Folder {str(folder)!r} has no weights. Expected is {one_of(WEIGHT_FILES)}, as "
            "save_pretrained of a transformers model writes it."
        )
    if not name.endswith(".index.json"):
        return [folder / name]
    index = json.loads((folder / name).read_text(encoding="utf-8"))
    parts = sorted({folder / part for part in index["weight_map"].values()})
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelNotFoundError(
            f"Folder {str(folder)!r} lacks {', '.join(missing)}, which its {name} names."
        )
    return parts


def one_of(names):
    """Return the names as "a, b or c".

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    text : str
    """
    return ", ".join(names[:-1]) + " or " + names[-1]


def check_token_name(name):
    """Raise if what should be the name of an environment variable is a token itself.

    Parameters
    ----------
    name : str or None
        As the user gave it.

    Raises
    ------
    ValueError
        If it looks like a secret.  The message does not repeat it.
    """
    if name is None or name in os.environ:
        return
    if not re.fullmatch(r"[A-Za-z_]\w{0,63}", name) or re.match("(hf|api)_", name):
        raise ValueError(
            "`token` is no name of an environment variable; it looks like a token itself, "
            "which would end up in pickles and logs. Put the token into a variable, such as "
            "HF_TOKEN_LAB, and give that name: token='HF_TOKEN_LAB'. If you gave a token, "
            "revoke it where others may have seen it."
        )


def _secret(name):
    """Return the token that an environment variable holds, None where none is named."""
    if name is None:
        return None
    value = os.environ.get(name, "").strip()
    if not value:
        raise ValueError(
            f"`token`={name!r} names an environment variable that is not set. Set it to a token "
            "of the Hugging Face hub, or use token=None for the login of this machine."
        )
    return value


# The hub is asked once a process: a branch that moves meanwhile cannot give two folds of a
# cross-validation different models, and later calls need no network.
@lru_cache(maxsize=64)
def hub_config(source, revision, local_files_only, token=None, code=False):
    """Return the path of a hub id's config.json, downloaded where it is not cached.

    Parameters
    ----------
    source : str
        Hub id.
    revision : str or None
        Commit, tag or branch.
    local_files_only : bool
        Whether the hub must not be asked.
    token : str or None, default=None
        Name of the environment variable that holds the hub's token.
    code : bool, default=False
        Whether to fetch the Python files beside it.

    Returns
    -------
    path : str

    Raises
    ------
    ModelNotFoundError
        If it is neither in the cache nor to be had.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    with _asking(source, revision, local_files_only, token) as options, quiet():
        if code:
            folder = snapshot_download(source, allow_patterns=list(CODE_FILES), **options)
            return os.path.join(folder, "config.json")
        return hf_hub_download(source, "config.json", **options)


@lru_cache(maxsize=64)
def hub_snapshot(source, revision, local_files_only, silent, token=None, code=False):
    """Return the folder of a hub id's files, downloaded where they are not cached.

    Parameters
    ----------
    source, revision, local_files_only, token, code
        As in :func:`hub_config`.
    silent : bool
        Whether to silence the hub's progress bars.

    Returns
    -------
    folder : Path

    Raises
    ------
    ModelNotFoundError
        If they are neither in the cache nor to be had.
    """
    from huggingface_hub import snapshot_download

    wanted = [*CONFIG_FILES, "model*.safetensors", "model.safetensors.index.json"]
    if code:
        wanted += CODE_FILES
    with _asking(source, revision, local_files_only, token) as options, quiet(silent):
        folder = Path(snapshot_download(source, allow_patterns=wanted, **options))
        if not any((folder / name).is_file() for name in WEIGHT_FILES):
            # Old repositories have no safetensors; in others both would be fetched at once.
            old = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
            folder = Path(snapshot_download(source, allow_patterns=old, **options))
        if not any((folder / name).is_file() for name in WEIGHT_FILES):
            raise OSError(f"no {one_of(WEIGHT_FILES)} in {folder}")
        return folder


@contextmanager
def _asking(source, revision, local_files_only, token):
    """Yield keywords for the hub; turn its errors into one that says how to get the model."""
    from huggingface_hub import constants, errors

    options = {"revision": revision, "local_files_only": local_files_only}
    secret = None if local_files_only else _secret(token)
    try:
        yield options if secret is None else {**options, "token": secret}
    except Exception as error:  # whatever stands between here and the hub
        at = f" --revision {revision}" if revision else ""
        where = f"the Hugging Face cache {constants.HF_HUB_CACHE}"
        if local_files_only:
            where += " only (local_files_only=True)"
        elif constants.HF_HUB_OFFLINE:
            where += " only (HF_HUB_OFFLINE is set)"
        else:
            where += f" and {constants.ENDPOINT}"
        hint = ""
        if isinstance(error, errors.GatedRepoError):
            hint = (
                f"It is gated: accept its terms at {constants.ENDPOINT}/{source} and name the "
                "variable with your token in `token`. "
            )
        elif isinstance(error, errors.RepositoryNotFoundError):
            hint = (
                "The hub has no such repository, or it is private: then name the variable with "
                "a token that may read it in `token`. "
            )
        login = f' --token "${token}"' if token else ""
        cause = " ".join(str(error).split())
        # An error may quote the token, as in a header that cannot be sent.
        clean = cause if secret is None else cause.replace(secret, "***")
        raise ModelNotFoundError(
            f"Model {source!r}{at.replace(' --', ', ')} was not found. It was "
            f"looked for in {where}; there is no folder of that name either. {hint}On a machine "
            "with network access, fetch it beforehand:\n"
            f"    hf download {source}{at}{login}\n"
            f"({type(error).__name__}: {clean})"
        ) from (error if clean == cause else None)


# Settings of the process are changed and put back: threads must not do so crosswise.
_QUIET = threading.RLock()


@contextmanager
def quiet(silent=True):
    """Silence the bars and reports of transformers and of the hub, for the time being.

    Parameters
    ----------
    silent : bool, default=True
        False does nothing.
    """
    if not silent:
        yield
        return
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    with _QUIET:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        hub_bars = not hub.are_progress_bars_disabled()
        logging.set_verbosity_error()
        if bars:
            logging.disable_progress_bar()
        if hub_bars:
            hub.disable_progress_bars()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
            # The line above turns the hub's bars on as well, wanted or not.
            if hub_bars:
                hub.enable_progress_bars()
            elif bars:
                hub.disable_progress_bars()
