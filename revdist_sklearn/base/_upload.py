"""Folders put on the Hugging Face hub."""

from ._hub import is_hub_id
from ._secrets import check_token_name, secret_of

# Beside what is uploaded, a repository may hold these.
ALWAYS = (".gitattributes", "README.md")


class UploadError(OSError):
    """A folder could not be put on the Hugging Face hub.

    The message says why, and what to do; it holds no token.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import ReverseDistiller, UploadError
    >>> distiller = ReverseDistiller((2, 3)).fit(np.random.default_rng(0).normal(size=(50, 5)))
    >>> try:
    ...     distiller.push_to_hub("lab/chain", token="HF_TOKEN_NOT_SET")
    ... except UploadError as error:
    ...     print(error)
    'lab/chain' was not uploaded: ...
    """


def check_upload(repo_id, token):
    """Return the token for an upload; raise before anything is written where there is none.

    Parameters
    ----------
    repo_id : str

    token : str or None
        Name of an environment variable; None for the login of this machine.

    Returns
    -------
    secret : str

    Raises
    ------
    ValueError
        If ``repo_id`` has another form, or ``token`` is a token itself.

    UploadError
        If there is no token.
    """
    if not isinstance(repo_id, str) or not is_hub_id(repo_id):
        raise ValueError(
            f"repo_id={repo_id!r} is no id of a repository; give owner and name, such as "
            "'lab/distiller'."
        )
    check_token_name(token)
    try:
        secret = secret_of(token)
    except ValueError as error:
        raise UploadError(f"{repo_id!r} was not uploaded: {error}") from None
    if secret is None:
        from huggingface_hub import get_token

        secret = get_token()
    if not secret:
        raise UploadError(
            f"{repo_id!r} was not uploaded: there is no token of the Hugging Face hub. Run "
            "`hf auth login`, set HF_TOKEN, or name the environment variable that holds one in "
            "`token`; it must be allowed to write."
        )
    return secret


def upload(folder, repo_id, secret, *, known_by, revision=None, private=None, message=None):
    """Upload a folder to a repository of the hub, made where it does not exist.

    Parameters
    ----------
    folder : path-like

    repo_id : str

    secret : str
        The token.

    known_by : str
        File by which a repository is known to hold the same kind of thing.

    revision : str or None, default=None
        Branch, made where it does not exist; None for the main one.

    private : bool or None, default=None
        Whether a new repository is private; None leaves that to the hub.

    message : str or None, default=None
        Of the commit.

    Returns
    -------
    url : str
        Of the commit.

    Raises
    ------
    UploadError
        If it cannot be done, the repository holds something else, or is public where it
        should be private.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=secret)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        _check(api.repo_info(repo_id, revision=revision), repo_id, known_by, private)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            revision=revision,
            commit_message=message,
        )
        return str(getattr(commit, "commit_url", commit))
    except UploadError:
        raise
    except Exception as error:  # whatever stands between here and the hub
        cause = " ".join(str(error).split())
        # An error may quote the token, as in a header that cannot be sent.
        clean = cause.replace(secret, "***")
        raise UploadError(
            f"{repo_id!r} was not uploaded. {_way_out(error, repo_id)} "
            f"({type(error).__name__}: {clean})"
        ) from (error if clean == cause else None)


def _check(info, repo_id, known_by, private):
    """Raise where an existing repository is not the place for it."""
    names = {file.rfilename for file in info.siblings or ()}.difference(ALWAYS)
    if names and known_by not in names:
        shown = ", ".join(sorted(names)[:10]) + (", .." if len(names) > 10 else "")
        raise UploadError(
            f"{repo_id!r} was not uploaded: the repository holds something else than a distiller "
            f"({shown}), which would be overwritten or mixed up. Name another."
        )
    if private and not info.private:
        raise UploadError(
            f"{repo_id!r} was not uploaded: the repository exists and is public, and "
            "private=True makes new ones private only. Change it on its page, or name another."
        )


def _way_out(error, repo_id):
    """Return what to do about an error of the hub."""
    from huggingface_hub import constants

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            "The hub refuses the token: it must be valid, and allowed to write to "
            f"{repo_id.partition('/')[0]!r}; make one at {constants.ENDPOINT}/settings/tokens."
        )
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set: unset it where there is a network."
    if isinstance(error, OSError) and status is None:  # of the network, as are those of the hub
        return (
            f"Is {constants.ENDPOINT} reached from this machine? Where it is not, write the files "
            f"with save_pretrained and run `hf upload {repo_id} FOLDER` where it is."
        )
    return f"See {constants.ENDPOINT}/{repo_id} and try again."
