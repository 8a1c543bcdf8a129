"""Families of protein language models: architectures, aliases, folders and hub ids.

Nothing here loads weights or imports torch.  To add an architecture, add an entry to
:data:`ARCHITECTURES`; to add an alias, one to :data:`FAMILIES`.
"""

import json
import os
import re
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from ._sequences import RESIDUES

BUNDLED = Path(__file__).parent / "models"
# From most to least wanted; an index lists the files of weights in several parts.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
CONFIG_FILES = ("config.json", "vocab.txt", "tokenizer*.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Architecture:
    """What must be known of one model class of transformers to embed with it.

    Parameters
    ----------
    model_class : str
        Name of the encoder class in transformers.
    layers, final_norm : str
        Path of the list of layers, and of the norm after the last of them, inside the model.
    load_options : mapping, default={}
        Further keywords of ``from_pretrained``.
    before, after : tuple of str, default=("<cls>",), ("<eos>",)
        Special tokens around a protein.  The first is what pooling "cls" returns.
    pad : str, default="<pad>"
        Token that fills a batch up.
    residues : str, default=RESIDUES
        Letters the model knows, upper case.
    harmless : str, default="(?!)"
        Regular expression of weight names that play no part in hidden states, or follow
        from the configuration: a checkpoint may lack them.  The default finds none.
    """

    model_class: str
    layers: str
    final_norm: str
    load_options: Mapping[str, object] = field(default_factory=dict)
    before: tuple[str, ...] = ("<cls>",)
    after: tuple[str, ...] = ("<eos>",)
    pad: str = "<pad>"
    residues: str = RESIDUES
    harmless: str = "(?!)"

    def limit(self, config):
        """Return the residues a model can take at most, or None.

        Rotary positions have no end; a table of learned positions (ESM-1b) has one.
        """
        if getattr(config, "position_embedding_type", "rotary") != "absolute":
            return None
        # Positions are counted from the row after the padding token's.
        rows = config.max_position_embeddings - config.pad_token_id - 1
        return rows - len(self.before) - len(self.after)


# Keys are the `model_type` of config.json.
ARCHITECTURES = {
    "esm": Architecture(  # ESM-2 and ESM-1b
        model_class="EsmModel",
        layers="encoder.layer",
        final_norm="encoder.emb_layer_norm_after",
        load_options={"add_pooling_layer": False},  # its weights would be random
        harmless=r"^contact_head\.|\.inv_freq$",
    ),
    "esmc": Architecture(  # ESM C
        model_class="EsmcModel",
        layers="layers",
        final_norm="norm",
    ),
}


@dataclass(frozen=True)
class Family:
    """An alias: its members by size, in ascending width.

    Parameters
    ----------
    model_type : str
        Key of :data:`ARCHITECTURES`.
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


class ModelNotFoundError(OSError):
    """A model, or a file it cannot do without, is neither on disk nor to be had.

    The message says which model, where it was looked for, and the command that fetches it
    beforehand.

    Examples
    --------
    >>> from revdist_sklearn import ESMFeaturizer
    >>> from revdist_sklearn._family import ModelNotFoundError
    >>> try:
    ...     ESMFeaturizer("./no_such_folder").fit(["MKTAYIAKQR"])
    ... except ModelNotFoundError as error:
    ...     print(error)
    Model './no_such_folder' was not found: there is no such folder.
    """


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
        Key of :data:`ARCHITECTURES`.
    limit : int or None
        Residues it can take at most.
    revision : str or None
        Commit, tag or branch of a hub id.
    local_files_only : bool
        Whether the hub must not be asked.
    """

    source: str
    block: str
    width: int
    model_type: str
    limit: int | None = None
    revision: str | None = None
    local_files_only: bool = True

    @property
    def architecture(self):
        """The entry of :data:`ARCHITECTURES`."""
        return ARCHITECTURES[self.model_type]

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
            folder = _from_hub(self, silent)
        weight_files(folder)
        return folder


def resolve_family(models, revision=None, local_files_only=False):
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

    Returns
    -------
    members : tuple of Member
        Widths and block names are known; no weights are read.

    Raises
    ------
    ValueError
        Unknown alias, unknown architecture, the same model twice, or a revision that
        belongs to no hub id.
    ModelNotFoundError
        A folder or its ``config.json`` does not exist, or the hub does not give it.

    Examples
    --------
    >>> from revdist_sklearn._family import resolve_family
    >>> [(m.block, m.width) for m in resolve_family("esm2:150M")]
    [('esm2_t6_8M_UR50D', 320), ('esm2_t12_35M_UR50D', 480), ('esm2_t30_150M_UR50D', 640)]
    """
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
            return _with_revisions(members, revision)
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
            )
        )
    return tuple(_configured(member) for member in _with_revisions(members, revision))


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


def _configured(member):
    """Return the member with what its config.json says."""
    folder = Path(member.source)
    if folder.is_dir():
        path = folder / "config.json"
        if not path.is_file():
            raise ModelNotFoundError(
                f"Folder {member.source!r} holds no model: config.json is missing. Expected "
                f"are config.json, vocab.txt or tokenizer.json, and {_one_of(WEIGHT_FILES)}, "
                "as save_pretrained of a model and of its tokenizer writes them."
            )
    else:
        path = _config_from_hub(member)
    model_type = json.loads(Path(path).read_text(encoding="utf-8")).get("model_type")
    architecture = ARCHITECTURES.get(model_type)
    if architecture is None:
        raise ValueError(
            f"Model {member.source!r} has the architecture {model_type!r} (model_type in its "
            f"config.json). Supported are {', '.join(map(repr, ARCHITECTURES))}."
        )
    # Older versions write only what differs from the defaults: transformers knows those.
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(Path(path).parent), local_files_only=True)
    return replace(
        member,
        width=config.hidden_size,
        model_type=model_type,
        limit=architecture.limit(config),
    )


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
            f"Folder {str(folder)!r} has no weights. Expected is {_one_of(WEIGHT_FILES)}, as "
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


def _one_of(names):
    return ", ".join(names[:-1]) + " or " + names[-1]


# The hub is asked once a process: a branch that moves meanwhile cannot give two folds of a
# cross-validation different models, and later calls need no network.
@lru_cache(maxsize=64)
def _config_from_hub(member):
    """Return the path of a hub id's config.json; downloads it where it is not cached."""
    from huggingface_hub import hf_hub_download

    with _hub_errors(member), quiet():
        return hf_hub_download(
            member.source,
            "config.json",
            revision=member.revision,
            local_files_only=member.local_files_only,
        )


@lru_cache(maxsize=64)
def _from_hub(member, silent):
    """Return the snapshot folder of a hub id; downloads what is not cached."""
    from huggingface_hub import snapshot_download

    def fetch(*patterns):
        return Path(
            snapshot_download(
                member.source,
                revision=member.revision,
                local_files_only=member.local_files_only,
                allow_patterns=list(patterns),
            )
        )

    with _hub_errors(member), quiet(silent):
        folder = fetch(*CONFIG_FILES, "model*.safetensors", "model.safetensors.index.json")
        if not any((folder / name).is_file() for name in WEIGHT_FILES):
            # Old repositories have no safetensors; in others both would be fetched at once.
            folder = fetch("pytorch_model*.bin", "pytorch_model.bin.index.json")
        if not any((folder / name).is_file() for name in WEIGHT_FILES):
            raise OSError(f"no {_one_of(WEIGHT_FILES)} in {folder}")
        return folder


@contextmanager
def _hub_errors(member):
    """Turn whatever the hub raises into an error that says how to get the model."""
    from huggingface_hub import constants

    try:
        yield
    except Exception as error:  # whatever stands between here and the hub
        revision = f" --revision {member.revision}" if member.revision else ""
        where = f"the Hugging Face cache {constants.HF_HUB_CACHE}"
        if member.local_files_only:
            where += " only (local_files_only=True)"
        elif constants.HF_HUB_OFFLINE:
            where += " only (HF_HUB_OFFLINE is set)"
        else:
            where += f" and {constants.ENDPOINT}"
        raise ModelNotFoundError(
            f"Model {member.source!r}{revision.replace(' --', ', ')} was not found. It was "
            f"looked for in {where}; there is no folder of that name either. On a machine "
            "with network access, fetch it beforehand:\n"
            f"    hf download {member.source}{revision}\n"
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
