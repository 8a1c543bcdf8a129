"""Model files: in a folder, in the cache of the Hugging Face hub, or fetched from it."""

import json
import os
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
    *("config.json", "vocab.txt", "tokenizer*.json", "special_tokens_map.json"),
    *("added_tokens.json", "spiece.model"),
)


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


# The hub is asked once a process: a branch that moves meanwhile cannot give two folds of a
# cross-validation different models, and later calls need no network.
@lru_cache(maxsize=64)
def hub_config(source, revision, local_files_only, token):
    """Return the path of a hub id's config.json, downloaded where it is not cached.

    Parameters
    ----------
    source : str
        Hub id.
    revision : str or None
        Commit, tag or branch.
    local_files_only : bool
        Whether the hub must not be asked.
    token : str or None
        Name of the environment variable with the access token.

    Returns
    -------
    path : str

    Raises
    ------
    ModelNotFoundError
        If it is neither in the cache nor to be had.
    """
    from huggingface_hub import hf_hub_download

    with _hub_errors(source, revision, local_files_only), quiet():
        return hf_hub_download(
            source,
            "config.json",
            revision=revision,
            local_files_only=local_files_only,
            token=_secret(token),
        )


@lru_cache(maxsize=64)
def hub_snapshot(source, revision, local_files_only, token, silent):
    """Return the folder of a hub id's files, downloaded where they are not cached.

    Parameters
    ----------
    source, revision, local_files_only, token
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

    def fetch(*patterns):
        return Path(
            snapshot_download(
                source,
                revision=revision,
                local_files_only=local_files_only,
                token=_secret(token),
                allow_patterns=list(patterns),
            )
        )

    with _hub_errors(source, revision, local_files_only), quiet(silent):
        folder = fetch(*CONFIG_FILES, "model*.safetensors", "model.safetensors.index.json")
        if not any((folder / name).is_file() for name in WEIGHT_FILES):
            # Old repositories have no safetensors; in others both would be fetched at once.
            folder = fetch("pytorch_model*.bin", "pytorch_model.bin.index.json")
        if not any((folder / name).is_file() for name in WEIGHT_FILES):
            raise OSError(f"no {one_of(WEIGHT_FILES)} in {folder}")
        return folder


def check_token(token):
    """Raise unless a token is None or the name of an environment variable that is set.

    Parameters
    ----------
    token : str or None
        Name of the variable; what it holds is read when the hub is asked, and kept nowhere.

    Raises
    ------
    ValueError
        If there is no such variable.  What looks like a token itself is not repeated.
    """
    if token is None or os.environ.get(token):
        return
    if not token.replace("_", "").isupper() or token.startswith("hf_"):
        raise ValueError(
            "`token` is the name of an environment variable, such as 'HF_TOKEN', and never the "
            "token itself, which would end up in pickles and logs. Put it into a variable and "
            "give the variable's name."
        )
    raise ValueError(
        f"`token`={token!r} names an environment variable that is not set here. Set it to the "
        "hub's access token, or use None for what `hf auth login` has stored."
    )


def _secret(token):
    """Return the access token that a variable holds, or None for the hub's own way."""
    return None if token is None else os.environ[token]


@contextmanager
def _hub_errors(source, revision, local_files_only):
    """Turn whatever the hub raises into an error that says how to get the model."""
    from huggingface_hub import constants

    try:
        yield
    except Exception as error:  # whatever stands between here and the hub
        at = f" --revision {revision}" if revision else ""
        where = f"the Hugging Face cache {constants.HF_HUB_CACHE}"
        if local_files_only:
            where += " only (local_files_only=True)"
        elif constants.HF_HUB_OFFLINE:
            where += " only (HF_HUB_OFFLINE is set)"
        else:
            where += f" and {constants.ENDPOINT}"
        # The hub answers so for what is private, too.
        private = type(error).__name__ in ("GatedRepoError", "RepositoryNotFoundError")
        hint = (
            "If it is gated or private: accept its terms on the hub, and name the environment "
            "variable that holds your access token by `token`.\n"
            if private
            else ""
        )
        raise ModelNotFoundError(
            f"Model {source!r}{at.replace(' --', ', ')} was not found. It was "
            f"looked for in {where}; there is no folder of that name either. On a machine "
            "with network access, fetch it beforehand:\n"
            f"    hf download {source}{at}\n{hint}"
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error


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
