"""Members of a family: from what the user names to folders, widths and limits.

Nothing here loads weights or imports torch.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ..base._aliases import (
    BUNDLED,
    FAMILIES,
    block_name,
    bundled_model,
    find_alias,
    known_aliases,
)
from ..base._blocks import Blocks
from ..base._damage import FAULTS, damage_is_told, integer, read_json_object
from ..base._hub import (
    HubRepository,
    ModelNotFoundError,
    is_hub_id,
    no_such_folder,
    one_of,
    quiet,
)
from ..base._imports import IMPORTS
from ..base._secrets import check_token_name
from ._architectures import ARCHITECTURES, GENERIC
from ._checkpoint import WEIGHT_FILES, fetch_config, fetch_files, weight_files

OTHER_THAN_ALIASES = (
    "Or give a folder that holds a model, a hub id such as 'facebook/esm2_t6_8M_UR50D', or a list "
    "of these."
)

WAY_OUT = "save or fetch the model again."
# What sizes of a configuration may be at most: some times those of the largest models. Beyond
# it memory, or an integer of the libraries below, would run over.
AT_MOST = {
    **dict.fromkeys(("hidden_size", "d_model"), 2**20),
    **dict.fromkeys(("intermediate_size", "d_ff", "d_kv"), 2**24),
    **dict.fromkeys(("num_hidden_layers", "num_layers"), 2**14),
    **dict.fromkeys(("num_attention_heads", "num_heads"), 2**14),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 2**26),
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
        The ``model_type`` of its config.json.

    limit : int or None
        Residues it can take at most.

    revision : str or None
        Commit, tag or branch of a hub id.

    local_files_only : bool
        Whether the hub must not be asked.

    token : str or None
        Name of the environment variable that holds the hub's token: never the token.

    trust_remote_code : bool
        Whether code of its repository may run.

    depth : int or None
        Number of its layers; None where its configuration does not tell.

    causal : bool or tuple of str
        Whether it may look back only; tokens are those that stand before a protein of one that
        does.

    layer : int or None
        Hidden state that its block holds, where there are several of a model: see
        :func:`~._layers.with_layers`. None: the one that all models have.
    """

    source: str
    block: str
    width: int
    model_type: str
    limit: int | None = None
    revision: str | None = None
    local_files_only: bool = True
    token: str | None = None
    trust_remote_code: bool = False
    depth: int | None = None
    causal: bool | tuple[str, ...] = False
    layer: int | None = None

    @property
    def architecture(self):
        """The entry of :data:`~._architectures.ARCHITECTURES`, or ``GENERIC``."""
        if not self.is_prompted:
            return self._entry
        return replace(self._entry, before=self.causal, or_tokenizer=False)

    @property
    def is_prompted(self):
        """Whether the user names the tokens before a protein, which the vocabulary must have."""
        return self._entry.causal and isinstance(self.causal, tuple)

    @property
    def prompt(self):
        """Tokens that the user has before a protein, in place of the entry's; None for these."""
        return self.causal if self.is_prompted and self.causal != self._entry.before else None

    @property
    def _entry(self):
        return ARCHITECTURES.get(self.model_type, GENERIC)

    @property
    def code_options(self):
        """Keywords of the Auto classes of transformers: whose code, and from where."""
        # Unless told, they would ask at the terminal whether to run foreign code.
        if not self.trust_remote_code or self.model_type in ARCHITECTURES:
            return {"trust_remote_code": False, "local_files_only": True}
        # The code may lie in another repository than the weights.
        return {"trust_remote_code": True, "local_files_only": self.local_files_only}

    @property
    def _repository(self):
        return HubRepository(self.source, self.revision, self.local_files_only, self.token)

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
            if not is_hub_id(self.source):
                raise no_such_folder("Model", self.source)
            folder = fetch_files(self._repository, self.trust_remote_code, silent)
        weight_files(folder)
        return folder


def blocks_of(members):
    """Return the blocks of columns of some members."""
    return Blocks([member.width for member in members], [member.block for member in members])


def resolve_family(
    models,
    revision=None,
    local_files_only=False,
    token=None,
    trust_remote_code=False,
    causal=False,
):
    """Return the members that ``models`` names, smallest first as given.

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
        Name of the environment variable that holds the hub's token.

    trust_remote_code : bool, default=False
        Whether code of the repositories may run, for models that transformers does not
        know.

    causal : bool, or list or tuple of str, default=False
        Whether models may look back only, or the tokens before a protein of those that do.

    Returns
    -------
    members : tuple of Member
        Widths and block names are known; no weights are read.

    Raises
    ------
    ValueError
        Unknown alias, no encoder, a model that looks back only, one that is code of its
        repository, the same model twice, a revision that belongs to no hub id, or what may be
        a token in place of its name.

    ModelNotFoundError
        A folder or its ``config.json`` does not exist, or the hub does not give it.

    Examples
    --------
    >>> from revdist_sklearn.models._family import resolve_family
    >>> [(m.block, m.width) for m in resolve_family("esm2:150M")]
    [('esm2_t6_8M_UR50D', 320), ('esm2_t12_35M_UR50D', 480), ('esm2_t30_150M_UR50D', 640)]
    """
    check_token_name(token)
    causal = _checked_prompt(causal)
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
            members = _with_revisions(members, revision)
            return tuple(replace(member, token=token) for member in members)
        sources = [models]

    members = []
    for source in sources:
        name = os.path.expanduser(os.fspath(source))
        if not Path(name).is_dir():
            name = str(bundled_model(name) or name)
        kind = "folder" if Path(name).is_dir() else "id" if is_hub_id(name) else None
        if kind is None:
            if not _is_path(name) and not isinstance(source, os.PathLike):
                raise ValueError(f"Unknown model {name!r}. {known_aliases()} {OTHER_THAN_ALIASES}")
            raise no_such_folder("Model", name)
        if any(member.source == name for member in members):
            raise ValueError(f"`models` names {name!r} twice; each member may stand once.")
        last = os.path.basename(os.path.abspath(name)) if kind == "folder" else name
        members.append(
            Member(
                source=name,
                block=block_name(last, {member.block for member in members}),
                width=0,  # read below, when the revision is known
                model_type="",
                local_files_only=local_files_only or kind == "folder",
                token=token,
                trust_remote_code=trust_remote_code,
                causal=causal,
            )
        )
    return tuple(_configured(member) for member in _with_revisions(members, revision))


def _alias_members(models, local_files_only):
    """Return the members of an alias, None if ``models`` is none."""
    try:
        found = find_alias(models)
    except ValueError as error:
        raise ValueError(f"{error} {OTHER_THAN_ALIASES}") from None
    if found is None:
        return None
    family, size = found
    return [
        Member(
            source=str(BUNDLED / source) if family.bundled else source,
            block=block_name(source),
            width=width,
            depth=depth,
            model_type=family.model_type,
            local_files_only=local_files_only or family.bundled,
        )
        for source, width, depth in family.up_to(size)
    ]


def _is_path(name):
    return os.path.isabs(name) or name.startswith((".", "~")) or os.sep in name or "/" in name


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
                f"are config.json, vocab.txt or tokenizer.json, and {one_of(WEIGHT_FILES)}, "
                "as save_pretrained of a model and of its tokenizer writes them."
            )
    else:
        path = fetch_config(member._repository, member.trust_remote_code)
    written = read_json_object(path, WAY_OUT)
    member = replace(member, model_type=str(written.get("model_type") or ""))
    _check_known(member, written)
    check_causal(member, member.architecture.causal)
    config = _configuration(path, member)
    if member.model_type not in ARCHITECTURES and getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"Model {member.source!r} is an encoder and a decoder ({member.model_type!r}), of "
            "which only T5's encoder can be used alone. Save its encoder as a model of its own, "
            "or use another model."
        )
    with damage_is_told(f"{path} describes no model", WAY_OUT):
        _check_sizes(config, member)
        limit = member.architecture.limit(config)
        if limit is not None and limit < 1:
            raise ValueError(f"its max_position_embeddings leave room for {limit} residues")
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None)
    if width is None:
        raise ValueError(
            f"The configuration of {member.source!r} ({member.model_type!r}) has neither "
            "hidden_size nor d_model, so that its width is unknown. Add hidden_size, the "
            "columns of its hidden states, to its config.json."
        )
    depth = getattr(config, "num_hidden_layers", None)
    depth = depth if isinstance(depth, int) and depth > 0 else None
    return replace(member, width=width, limit=limit, depth=depth)


def _checked_prompt(causal):
    """Return what was said of models that look back, tokens as a tuple."""
    if not isinstance(causal, (list, tuple)):
        return causal
    if not causal or not all(isinstance(token, str) for token in causal):
        raise ValueError(
            f"`causal`={causal!r} names no tokens; give those that stand before a protein, such "
            "as ('[LIGHT]', '[HUMAN]') of IgLM, or True."
        )
    return tuple(causal)


def check_causal(member, looks_back):
    """Raise where a model looks back only, and the user has not said that it may."""
    if looks_back and isinstance(member.causal, tuple) and not member.architecture.causal:
        raise ValueError(
            f"`causal`={member.causal!r} are tokens before a protein, which only models of "
            f"GPT-2's kind are told; {member.source!r} ({member.model_type!r}) has what its "
            "tokenizer puts there. Use causal=True."
        )
    if looks_back and not member.causal:
        raise ValueError(
            f"Model {member.source!r} ({member.model_type!r}) looks only back: the state of a "
            "residue does not depend on the residues after it, as in a decoder. Use an encoder, "
            "such as ESM-2, ProtT5 or ProtBert; or, to pool such states all the same, "
            "causal=True."
        )


def _configuration(path, member):
    """Return the configuration of transformers, which knows what an older one leaves out."""
    with IMPORTS:
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig

    faults = (*FAULTS, StrictDataclassError)
    with quiet(), IMPORTS, damage_is_told(f"{path} describes no model", WAY_OUT, faults):
        return AutoConfig.from_pretrained(str(Path(path).parent), **member.code_options)


def _check_sizes(config, member):
    """Raise where a model is of no size, or of one that nothing has.

    Of classes without an entry only the width is known to mean the same.
    """
    known = member.model_type in ARCHITECTURES
    for name in AT_MOST if known else ("hidden_size", "d_model"):
        value = getattr(config, name, None)
        # Some have no such size; a null in place of one is none, but that of a vocabulary.
        if value is not None or (known and hasattr(config, name) and name != "vocab_size"):
            integer({name: value}, name, 1, AT_MOST[name])


def _check_known(member, written):
    """Raise unless transformers, or code that may run, has a class for the model."""
    name, model_type = member.source, member.model_type
    with IMPORTS:
        import transformers

        if model_type in transformers.CONFIG_MAPPING:
            return
    if "auto_map" not in written:
        raise ValueError(
            f"Model {name!r} has the architecture {model_type!r} (model_type in its "
            f"config.json), which the installed transformers {transformers.__version__} does "
            "not have. Is it saved with save_pretrained of a transformers model? A newer "
            "version may know it: pip install -U transformers"
        )
    if not member.trust_remote_code:
        raise ValueError(
            f"Model {name!r} is code of its own ({model_type!r}): to load it, Python files of "
            "the repository would have to run on this machine. If you have read them and trust "
            "them, say so with model_kwargs={'trust_remote_code': True}, and pin the `revision` "
            "that you have read."
        )
