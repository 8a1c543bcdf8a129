"""The client of the Hugging Face hub: for models and distillers alike."""

import errno
import os
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ._imports import IMPORTS
from ._secrets import secret_of, without


class ModelNotFoundError(FileNotFoundError):
    """A model or distiller, or a file it cannot do without, is neither on disk nor to be had.

    The message says what it is, where it was looked for, and the command that fetches it
    beforehand.

    Examples
    --------
    >>> from revdist_sklearn import ESMFeaturizer, ModelNotFoundError
    >>> try:
    ...     ESMFeaturizer("./no_such_folder").fit(["MKTAYIAKQR"])
    ... except ModelNotFoundError as error:
    ...     print(error)
    Model './no_such_folder' was not found: there is no such folder.
    """


@dataclass(frozen=True)
class HubRepository:
    """A repository of the hub, and how it may be asked for.

    Each question is asked once a process: a branch that moves meanwhile cannot give two folds
    of a cross-validation different models, and later calls need no network.

    Parameters
    ----------
    id : str
        Such as ``"facebook/esm2_t6_8M_UR50D"``.

    revision : str or None, default=None
        Commit, tag or branch.

    local_files_only : bool, default=False
        Whether the hub must not be asked, so that only what was fetched before is found.

    token : str or None, default=None
        Name of the environment variable that holds the hub's token: never the token.

    kind : str, default="Model"
        What it holds, for messages.
    """

    id: str
    revision: str | None = None
    local_files_only: bool = False
    token: str | None = None
    kind: str = "Model"

    def file(self, name):
        """Return the path of one file, fetched where it is not cached.

        Raises
        ------
        ModelNotFoundError
            If it is neither in the cache nor to be had.
        """
        return _file(self, name)

    def snapshot(self, patterns, *, silent=True, or_else=None):
        """Return the folder of the files that match, fetched where they are not cached.

        Parameters
        ----------
        patterns : sequence of str
            File names, with wild cards.

        silent : bool, default=True
            Whether to silence the hub's progress bars.

        or_else : (sequence of str, sequence of str), default=None
            Files of which one must be there, and what else to fetch where none is.

        Returns
        -------
        folder : Path

        Raises
        ------
        ModelNotFoundError
            If they are neither in the cache nor to be had.
        """
        or_else = or_else and tuple(map(tuple, or_else))
        return _snapshot(self, tuple(patterns), silent, or_else)


def no_such_folder(kind, name):
    """Return the error that something is neither a folder nor named as a repository is."""
    return ModelNotFoundError(f"{kind} {str(name)!r} was not found: there is no such folder.")


def is_hub_id(name):
    """Return whether a text has the form of a repository's id."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def one_of(names):
    """Return the names as "a, b or c"."""
    return ", ".join(names[:-1]) + " or " + names[-1]


@lru_cache(maxsize=64)
def _file(repository, name):
    with IMPORTS:
        from huggingface_hub import hf_hub_download

    with _asking(repository) as options, quiet():
        return Path(hf_hub_download(repository.id, name, **options))


@lru_cache(maxsize=64)
def _snapshot(repository, patterns, silent, or_else):
    with IMPORTS:
        from huggingface_hub import snapshot_download

    with _asking(repository) as options, quiet(silent):
        folder = Path(snapshot_download(repository.id, allow_patterns=list(patterns), **options))
        if or_else is None:
            return folder
        one_must_be_there, otherwise = or_else
        if not any((folder / name).is_file() for name in one_must_be_there):
            folder = Path(
                snapshot_download(repository.id, allow_patterns=list(otherwise), **options)
            )
        if not any((folder / name).is_file() for name in one_must_be_there):
            raise OSError(f"no {one_of(one_must_be_there)} in {folder}")
        return folder


# Nothing is wrong with the repository where these are.
NO_ROOM = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT)


@contextmanager
def _asking(repository):
    """Yield keywords for the hub; turn its errors into one that says how to get the files."""
    with IMPORTS:
        from huggingface_hub import constants, errors, get_token

    source, revision, token = repository.id, repository.revision, repository.token
    local_files_only = repository.local_files_only
    options = {"revision": revision, "local_files_only": local_files_only}
    secret = None if local_files_only else secret_of(token)
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
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise type(error)(
                error.errno,
                f"{repository.kind} {source!r} cannot be fetched into {constants.HF_HUB_CACHE} "
                f"({error.strerror}); make room there, or name another folder in HF_HOME.",
            ) from (error if secret is None else None)
        cause = " ".join(str(error).split())
        # An error may quote the token, as in a header that cannot be sent.
        clean = without([secret, get_token()], cause)
        raise ModelNotFoundError(
            f"{repository.kind} {source!r}{at.replace(' --', ', ')} was not found. It was "
            f"looked for in {where}; there is no folder of that name either. {hint}On a machine "
            "with network access, fetch it beforehand:\n"
            f"    hf download {source}{at}{login}\n"
            f"({type(error).__name__}: {clean})"
        ) from (error if clean == cause else None)


# Settings of the process are changed and put back: threads must not do so crosswise.
_QUIET = threading.RLock()


def _free_quiet():
    """Take a lock of our own in a forked process: a thread of the parent may hold that one."""
    global _QUIET
    _QUIET = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_free_quiet)


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
    with IMPORTS:
        from huggingface_hub import utils as hub
        from transformers.utils import logging

    with quiet_reports():
        bars = logging.is_progress_bar_enabled()
        hub_bars = not hub.are_progress_bars_disabled()
        if bars:
            logging.disable_progress_bar()
        if hub_bars:
            hub.disable_progress_bars()
        try:
            yield
        finally:
            if bars:
                logging.enable_progress_bar()
            # The line above turns the hub's bars on as well, wanted or not.
            if hub_bars:
                hub.enable_progress_bars()
            elif bars:
                hub.disable_progress_bars()


@contextmanager
def quiet_reports():
    """Silence the reports of transformers, for the time being, and leave the bars.

    What matters of them at a load, as weights that are missing, is an error of this package;
    a head that is left out on purpose would be reported each time.
    """
    with IMPORTS:
        from transformers.utils import logging

    with _QUIET:
        level = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(level)
