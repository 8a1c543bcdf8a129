"""Families of protein language models: architectures, aliases, folders and hub ids.

Nothing here loads weights or imports torch.  To add an alias, add an entry to
:data:`FAMILIES`; to add an architecture, one to the table of :mod:`._architectures`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ._architectures import ARCHITECTURES, GENERIC, architecture_of
from ._hub import (
    WEIGHT_FILES,
    ModelNotFoundError,
    check_token,
    hub_config,
    hub_snapshot,
    one_of,
    weight_files,
)

BUNDLED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Family:
    """An alias: its members by size, in ascending width.

    Parameters
    ----------
    model_type : str
        Key of the table of architectures.
    members : mapping of str to (str, int)
        Size to model (hub id, or name of a bundled folder) and width.
    default : str
        Last member where the alias names no size.
    bundled : bool, default=False
        Whether the weights are part of this package.
    """

    model_type: str
    members: Mapping[str, tuple[str, int]]
    default: str
    bundled: bool = False


FAMILIES = {
    "esm2-nano": Family(
        "esm",
        {
            "32": ("esm2_nano_032", 32),
            "64": ("esm2_nano_064", 64),
            "96": ("esm2_nano_096", 96),
        },
        default="96",
        bundled=True,
    ),
    "esm2": Family(
        "esm",
        {
            "8M": ("facebook/esm2_t6_8M_UR50D", 320),
            "35M": ("facebook/esm2_t12_35M_UR50D", 480),
            "150M": ("facebook/esm2_t30_150M_UR50D", 640),
            "650M": ("facebook/esm2_t33_650M_UR50D", 1280),
            "3B": ("facebook/esm2_t36_3B_UR50D", 2560),
            "15B": ("facebook/esm2_t48_15B_UR50D", 5120),
        },
        default="650M",  # 3B and 15B are downloads of 11 and 61 GB: ask for them by name
    ),
    "ankh": Family(
        "ankh",
        {
            "base": ("ElnaggarLab/ankh-base", 768),
            "large": ("ElnaggarLab/ankh-large", 1536),
        },
        default="large",
    ),
    "esmc": Family(
        "esmc",
        {
            "300M": ("biohub/ESMC-300M", 960),
            "600M": ("biohub/ESMC-600M", 1152),
            "6B": ("biohub/ESMC-6B", 2560),
        },
        default="600M",
    ),
}


@dataclass(frozen=True)
class Member:
    """One model of a family.

    Parameters
    ----------
    source : str
        Folder or hub id.
    block : str
        Name of its block of columns.
    width : int
        Number of its columns.
    model_type : str
        Key of the table of architectures, or the `model_type` of another configuration.
    limit : int or None
        Residues it can take at most.
    revision : str or None
        Commit, tag or branch of a hub id.
    local_files_only : bool
        Whether the hub must not be asked.
    token : str or None
        Name of the environment variable with the hub's access token.
    """

    source: str
    block: str
    width: int
    model_type: str
    limit: int | None = None
    revision: str | None = None
    local_files_only: bool = True
    token: str | None = None

    @property
    def architecture(self):
        """The entry of the table of architectures, or the one for all others."""
        return ARCHITECTURES.get(self.model_type, GENERIC)

    def folder(self, silent=True):
        """Return the folder of its files, fetched from the hub where need be.

        Parameters
        ----------
        silent : bool, default=True
            Whether to silence the hub's progress bars.

        Returns
        -------
        folder : Path

        Raises
        ------
        ModelNotFoundError
            If there are no weights, or the hub does not give them.
        """
        folder = Path(self.source)
        if not folder.is_dir():
            if not _is_hub_id(self.source):
                raise _no_such_folder(self.source)
            folder = hub_snapshot(
                self.source, self.revision, self.local_files_only, self.token, silent
            )
        weight_files(folder)
        return folder


def resolve_family(
    models, revision=None, local_files_only=False, token=None, trust_remote_code=False
):
    """Return the members that `models` names, smallest first as given.

    Parameters
    ----------
    models : str, path, or list or tuple of these
        An alias (``"esm2-nano"``, or ``"esm2:650M"`` for its members up to that one), a
        folder, a hub id, or a list of folders and hub ids.
    revision : str, sequence of (str or None), or None, default=None
        Commit, tag or branch of the hub ids; a sequence has one entry a member.
    local_files_only : bool, default=False
        Whether to use what is on disk only.
    token : str or None, default=None
        Name of the environment variable with the hub's access token.
    trust_remote_code : bool, default=False
        Whether the code of a repository may run to read its configuration.

    Returns
    -------
    members : tuple of Member
        Widths and block names are known; no weights are read.

    Raises
    ------
    ValueError
        Unknown alias, an architecture that cannot be used, the same model twice, a revision
        that belongs to no hub id, or a `token` that names no environment variable.
    ModelNotFoundError
        A folder or its ``config.json`` does not exist, or the hub does not give it.

    Examples
    --------
    >>> from revdist_sklearn._family import resolve_family
    >>> [(m.block, m.width) for m in resolve_family("esm2:150M")]
    [('esm2_t6_8M_UR50D', 320), ('esm2_t12_35M_UR50D', 480), ('esm2_t30_150M_UR50D', 640)]
    """
    check_token(token)
    if isinstance(models, (list, tuple)):
        sources = list(models)
        if not sources:
            raise ValueError("`models` is empty; name at least one model, folder or alias.")
        for source in sources:
            if not isinstance(source, (str, os.PathLike)):
                raise TypeError(
                    f"`models` holds {source!r} ({type(source).__name__}); give hub ids as "
                    "strings, folders as strings or paths."
                )
            if str(source).partition(":")[0] in FAMILIES and not Path(source).is_dir():
                raise ValueError(
                    f"`models` holds the alias {str(source)!r} in a list. An alias stands "
                    f"alone, models={str(source)!r}; a list holds hub ids and folders."
                )
    else:
        members = _alias_members(models, local_files_only)
        if members is not None:
            return _with_revisions([replace(m, token=token) for m in members], revision)
        sources = [models]

    members = []
    for source in sources:
        name = os.path.expanduser(os.fspath(source))
        kind = "folder" if Path(name).is_dir() else "id" if _is_hub_id(name) else None
        if kind is None:
            if not _is_path(name) and not isinstance(source, os.PathLike):
                raise ValueError(f"Unknown model {name!r}. {_known_models()}")
            raise _no_such_folder(name)
        if any(member.source == name for member in members):
            raise ValueError(f"`models` names {name!r} twice; each member may stand once.")
        last = os.path.basename(os.path.abspath(name)) if kind == "folder" else name
        members.append(
            Member(
                source=name,
                block=_block_name(last, {member.block for member in members}),
                width=0,  # read below, when the revision is known
                model_type="",
                local_files_only=local_files_only or kind == "folder",
                token=token,
            )
        )
    return tuple(
        _configured(member, trust_remote_code) for member in _with_revisions(members, revision)
    )


def family_blocks(alias):
    """Return the block names and widths of a family's members.

    Parameters
    ----------
    alias : str, path, or list or tuple of these
        As in :func:`resolve_family`; an alias needs neither disk nor network.

    Returns
    -------
    blocks : list of (str, int)

    Examples
    --------
    >>> from revdist_sklearn._family import family_blocks
    >>> family_blocks("esm2-nano:64")
    [('esm2_nano_032', 32), ('esm2_nano_064', 64)]
    """
    return [(member.block, member.width) for member in resolve_family(alias)]


def _alias_members(models, local_files_only):
    """Return the members of an alias, None if `models` is none."""
    name, colon, size = os.fspath(models).partition(":")
    family = FAMILIES.get(name.lower())
    if family is None or isinstance(models, os.PathLike):
        return None
    sizes = {key.lower(): i for i, key in enumerate(family.members)}
    last = sizes.get((size if colon else family.default).lower())
    if last is None:
        raise ValueError(f"Unknown size {size!r} of family {name!r}. {_known_models()}")
    members = []
    for source, width in list(family.members.values())[: last + 1]:
        members.append(
            Member(
                source=str(BUNDLED / source) if family.bundled else source,
                block=_block_name(source, set()),
                width=width,
                model_type=family.model_type,
                local_files_only=local_files_only or family.bundled,
            )
        )
    return members


def alias_of(models, n_members):
    """Return the alias of the first members of an alias, None if `models` is none.

    Parameters
    ----------
    models : str, path, list or tuple
        As in :func:`resolve_family`.
    n_members : int
        How many members to keep.

    Returns
    -------
    alias : str or None

    Examples
    --------
    >>> from revdist_sklearn._family import alias_of
    >>> alias_of("esm2:650M", 2)
    'esm2:35M'
    """
    if not isinstance(models, str):
        return None
    name = models.partition(":")[0].lower()
    family = FAMILIES.get(name)
    return None if family is None else f"{name}:{list(family.members)[n_members - 1]}"


def _no_such_folder(name):
    return ModelNotFoundError(f"Model {name!r} was not found: there is no such folder.")


def _known_models():
    aliases = "; ".join(
        f"'{name}' ({', '.join(f'{name}:{size}' for size in family.members)})"
        for name, family in FAMILIES.items()
    )
    return (
        f"Known aliases, each with the sizes it can end at: {aliases}. Or give a folder that "
        "holds a model, a hub id such as 'facebook/esm2_t6_8M_UR50D', or a list of these."
    )


def _is_hub_id(name):
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def _is_path(name):
    return os.path.isabs(name) or name.startswith((".", "~")) or os.sep in name or "/" in name


def _block_name(source, taken):
    """Return the last component, free of double underscores and not among `taken`."""
    last = re.sub(r"[^\w.-]", "_", source.rpartition("/")[2])
    name = re.sub("__+", "_", last).strip("_") or "model"
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique


def _with_revisions(members, revision):
    """Return the members with their revisions; one that would be ignored is an error."""
    if revision is None:
        return tuple(members)
    # A folder's files are what they are: it has no revision.
    on_hub = [not Path(member.source).is_dir() for member in members]
    if isinstance(revision, str):
        if not any(on_hub):
            raise ValueError(
                f"`revision`={revision!r} has no effect: all models are folders. Drop it."
            )
        revision = [revision if hub else None for hub in on_hub]
    if len(revision) != len(members):
        raise ValueError(
            f"`revision` has {len(revision)} entries for {len(members)} models; give one for "
            "each (None for a folder), or one string for all hub ids."
        )
    for member, hub, name in zip(members, on_hub, revision, strict=True):
        if name is not None and not hub:
            raise ValueError(
                f"`revision` has {name!r} for {member.source!r}, which is a folder; give None "
                "there."
            )
    return tuple(replace(m, revision=name) for m, name in zip(members, revision, strict=True))


def _configured(member, trust_remote_code):
    """Return the member with what its config.json says."""
    folder = Path(member.source)
    if folder.is_dir():
        path = folder / "config.json"
        if not path.is_file():
            raise ModelNotFoundError(
                f"Folder {member.source!r} holds no model: config.json is missing. Expected "
                f"are config.json, vocab.txt or tokenizer.json, and {one_of(WEIGHT_FILES)}, "
                "as save_pretrained of a model and of its tokenizer writes them."
            )
    else:
        path = Path(
            hub_config(member.source, member.revision, member.local_files_only, member.token)
        )
    # Older versions write only what differs from the defaults: transformers knows those.
    from transformers import AutoConfig

    raw = json.loads(Path(path).read_text(encoding="utf-8"))
    model_type = raw.get("model_type")
    foreign = "auto_map" in raw and not any(
        model_type == architecture.model_type for architecture in ARCHITECTURES.values()
    )
    if foreign and not trust_remote_code:
        raise ValueError(
            f"Model {member.source!r} brings its own code (auto_map in its config.json), which "
            "is not run unasked. Read it; then model_kwargs={'trust_remote_code': True} runs it."
        )
    try:
        config = AutoConfig.from_pretrained(
            str(path.parent), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"Model {member.source!r} has the architecture {model_type!r} (model_type in its "
            "config.json), which the installed version of transformers does not have. Upgrade "
            f"it: pip install -U transformers. In the table are {', '.join(ARCHITECTURES)}."
        ) from error
    key = architecture_of(config)
    if key is None and getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"Model {member.source!r} ({model_type!r}) is an encoder with a decoder, and of its "
            "kind the encoder alone is known for T5 only. Save the encoder as a model of its "
            "own, or use another model."
        )
    width = getattr(config, "hidden_size", None)
    if width is None:
        raise ValueError(
            f"The configuration of {member.source!r} ({model_type!r}) does not tell the width "
            "of its hidden states (hidden_size); the model cannot be used."
        )
    return replace(
        member,
        width=width,
        model_type=key or model_type,
        limit=(ARCHITECTURES[key] if key else GENERIC).limit(config),
    )
