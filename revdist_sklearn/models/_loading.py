"""Loaded models: one bounded registry a process.

The registry is why a featurizer holds no weights: it stays small in pickles and caches, a
clone finds the model that is already there, and a worker process loads each model once.

A fork waits for the load or the batch of another thread, so that the child has models that are
whole and locks that are free. There torch computes with one thread: OpenMP, on which its
threads are, does not survive a fork. On a GPU nothing does: start processes by "spawn".
"""

import re
import sys
import threading
from collections import OrderedDict
from contextlib import contextmanager, suppress
from functools import partial
from pickle import UnpicklingError

import numpy as np
from safetensors import SafetensorError
from tqdm.auto import tqdm

from ..base._damage import FAULTS, damage_is_told, read_json_object
from ..base._hub import quiet, quiet_reports
from ..base._identity import digest
from ..base._imports import at_fork
from ..base._text import visible
from ..base._torch import is_out_of_memory
from ..base._warnings import warn
from ._alphabet import read_alphabet
from ._checkpoint import weight_files
from ._device import RESIDENTS, ModelTooLarge
from ._encoder import ENCODERS, Encoder
from ._family import check_causal
from ._fingerprint import fingerprint, marks, written_over
from ._head import check_head, count_masks_by_protein, missing_head
from ._layers import hidden_state, tap
from ._residues import AMINO_ACIDS

# The six members of ESM-2 and two more; beyond that the least recently used one goes.
MAX_MODELS = 8

# Devices that have a fast path.
PACKED_ON = ("cpu", "cuda", "mps")

WAY_OUT = "save or fetch the model again."

# Keywords of `from_pretrained` with a parameter of their own, and those that are set here.
PARAMETERS = {
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "revision": "revision",
    "token": "token",
    "local_files_only": "local_files_only",
}
SET_HERE = ("config", "output_loading_info", "output_hidden_states", "add_pooling_layer")


class Registry:
    """Least-recently-used store of loaded models, safe to share between threads.

    Parameters
    ----------
    size : int
        Models kept at most.

    Attributes
    ----------
    lock : threading.RLock
        Held during each call; whoever looks first and then asks holds it over both.
    """

    def __init__(self, size):
        self.size = size
        self._models = OrderedDict()
        self._was_used = False
        # One load at a time: a second thread that wants the same model waits and finds it,
        # and the silencing of transformers during a load does not overlap with another.
        self.lock = threading.RLock()
        self._held_for_fork = []

    def __len__(self):
        return len(self._models)

    def __contains__(self, key):
        return key in self._models

    def get(self, key, load, is_whole=lambda model: True):
        """Return the model under ``key``, loading it where it is not there.

        Parameters
        ----------
        key : hashable
            All that the model depends on.

        load : callable
            Called without arguments; returns the model.

        is_whole : callable, default=lambda model: True
            Tells of a model that is there whether it still is what was loaded.

        Returns
        -------
        model : object
        """
        with self.lock:
            if key in self._models and is_whole(self._models[key]):
                self._models.move_to_end(key)
                return self._models[key]
            self._models.pop(key, None)
            self._was_used = True
            # Make room first, so that the new one need not fit beside the one that goes.
            while len(self._models) >= self.size:
                self._models.popitem(last=False)
            model = self._models[key] = load()
            return model

    def drop(self, key):
        """Drop the model under ``key``, if it is there."""
        with self.lock:
            self._models.pop(key, None)

    def clear(self):
        """Drop all models."""
        with self.lock:
            self._models.clear()

    def before_fork(self):
        """Wait until no other thread loads or runs a model, and keep them from it."""
        # Noted one by one: where Ctrl-C ends the wait, those that are held are let go.
        for lock in self._locks():
            lock.acquire()
            self._held_for_fork.append(lock)

    def after_fork(self):
        """Let the threads go on."""
        # A thread that waits to fork notes the first of its locks as soon as that is let go.
        held, self._held_for_fork = self._held_for_fork, []
        while held:
            held.pop().release()

    def after_fork_in_child(self):
        """Let go in the child, whose only thread is the one that forked."""
        self.after_fork()
        if self._was_used:
            import torch

            torch.set_num_threads(1)

    def _locks(self):
        """Yield all locks of models, in the order in which threads take them."""
        yield self.lock
        # Within the lock of the registry, so that none comes; those that have left it too.
        for encoder in list(ENCODERS):
            yield encoder.lock
        yield from RESIDENTS.locks()


REGISTRY = Registry(MAX_MODELS)
# Times that a model is loaded anew because its files have changed meanwhile.
LOADS = 3

at_fork(REGISTRY.before_fork, REGISTRY.after_fork, REGISTRY.after_fork_in_child)


class _Changed(Exception):
    """Files of a model were written while it was loaded."""


def get_encoder(
    member, *, dtype, layer, device, model_kwargs=None, silent=True, weights=None, head=False
):
    """Return a member's encoder from the registry of this process.

    Parameters
    ----------
    member : Member
        Which model.

    dtype : {"float32", "bfloat16", "float16"}
        In what it computes.

    layer : int or tuple of int
        Which hidden state, as in ``hidden_states[layer]`` of transformers; several are side by
        side, in this order.

    device : torch.device
        Where it runs. A ``device_map`` in ``model_kwargs`` takes precedence.

    model_kwargs : dict or None, default=None
        Further keywords of ``from_pretrained``, such as ``attn_implementation``,
        ``device_map`` or ``quantization_config``. ``trust_remote_code`` is the member's.

    silent : bool, default=True
        Whether to silence transformers' and the hub's own bars, and not to say whether the
        model takes the packed path; reports are silent always.

    weights : str or None, default=None
        Fingerprint that the model must have; None takes what is there.

    head : bool, default=False
        Whether with its language-model head, which takes the last hidden state (layer -1).

    Returns
    -------
    encoder : Encoder

    Raises
    ------
    ModelNotFoundError
        If there are no weights.

    RuntimeError
        If its files are others than those of ``weights``, or keep changing.

    ValueError
        If the checkpoint lacks weights, or the head that is wanted, its vocabulary lacks
        residues, it has no such layer, it is no encoder that reads residue by residue, or
        ``model_kwargs`` hold what is set elsewhere.

    MemoryError
        If there is not enough memory to load it.
    """
    options = check_model_kwargs(model_kwargs)
    folder = member.folder(silent)
    settings = (
        *(dtype, layer, str(device), member.trust_remote_code),
        # Of tokens that the user names a vocabulary must have all, of the entry's it need not.
        *(member.prompt, member.is_prompted),
        described(options),
    )
    for _ in range(LOADS):
        mark = fingerprint(folder)
        if weights is not None and mark != weights:
            raise RuntimeError(changed(member, "while it was in use"))
        with_head, without = (mark, *settings, True), (mark, *settings, False)

        def load_as_it_is(head, mark=mark):
            try:
                encoder = load(folder, member, dtype, layer, device, options, silent, head)
            except (ValueError, OSError, MemoryError):  # as of what is half written
                if fingerprint(folder) != mark:
                    raise _Changed from None
                raise
            if fingerprint(folder) != mark:
                raise _Changed
            return encoder

        with suppress(_Changed):
            # With its head a model gives the same states: it need not be there twice. Which is
            # there no other thread may change meanwhile.
            with REGISTRY.lock:
                if head or with_head in REGISTRY:
                    REGISTRY.drop(without)
                    encoder = REGISTRY.get(with_head, partial(load_as_it_is, True), _is_whole)
                else:
                    encoder = REGISTRY.get(without, partial(load_as_it_is, False), _is_whole)
            check_causal(member, encoder.looks_back)  # loaded for one that may, perhaps
            if not (silent or encoder.is_told):
                encoder.is_told = True  # once, whoever loaded it
                tqdm.write(f"{visible(member.block)}: {told(encoder.packing)}", file=sys.stderr)
            return encoder
    raise RuntimeError(changed(member, f"during each of {LOADS} attempts to load it"))


def _is_whole(encoder):
    # Of a copy that has been written over since, perhaps: equal folders share a model.
    return not (encoder.is_broken or written_over(encoder.files))


def changed(member, when):
    """Return the message that the files of a model have changed."""
    return (
        f"The files of {member.source!r} have changed {when}, so that embeddings of two models "
        "would be mixed up. Wait until whatever writes there has ended, and run the same call "
        "again, or give a copy of the folder."
    )


def told(packing):
    """Return in words what :attr:`Encoder.packing` says."""
    if packing is True:
        return "packed path: proteins share a row of tokens without padding"
    # Parts of it may be all that is left out.
    path = "packed" if packing.startswith("in one row") else "plain"
    return f"{path} path: {packing}"


def check_model_kwargs(model_kwargs):
    """Return the keywords that go to ``from_pretrained``, or say what has no place there.

    Parameters
    ----------
    model_kwargs : dict or None
        As the user gave them.

    Returns
    -------
    options : dict
        Without ``trust_remote_code``, which also concerns configuration and tokenizer.

    Raises
    ------
    ValueError
        If one is set by a parameter of its own, or by this package.

    Examples
    --------
    >>> from revdist_sklearn.models._loading import check_model_kwargs
    >>> check_model_kwargs({"attn_implementation": "eager"})
    {'attn_implementation': 'eager'}
    """
    options = dict(model_kwargs or {})
    options.pop("trust_remote_code", None)
    for name in options:
        parameter = PARAMETERS.get(name)
        if parameter is not None:
            raise ValueError(
                f"`model_kwargs` holds {name!r}, which has a parameter of its own: set "
                f"`{parameter}` and leave it out there."
            )
        if name in SET_HERE:
            raise ValueError(
                f"`model_kwargs` holds {name!r}, which is set by this package; leave it out."
            )
    return options


def described(model_kwargs):
    """Return a text that is the same for equal keywords, None where there are none."""
    try:
        return digest(model_kwargs) if model_kwargs else None
    except TypeError as error:
        raise TypeError(f"`model_kwargs` cannot be written down: {error}") from error


def load(folder, member, dtype, layer, device, model_kwargs=None, silent=True, head=False):
    """Load a checkpoint as an :class:`Encoder`; see :func:`get_encoder`.

    Parameters
    ----------
    folder : Path
        Folder with configuration, vocabulary and weights.

    member : Member
        Its architecture and, for messages, its name.

    dtype, layer, device, model_kwargs, silent, head
        As in :func:`get_encoder`.

    Returns
    -------
    encoder : Encoder
    """
    with _memory_is_told(folder, member):
        return _load(folder, member, dtype, layer, device, model_kwargs, silent, head)


@contextmanager
def _memory_is_told(folder, member):
    """Say what there is no memory for, where it runs out."""
    try:
        yield
    except ModelTooLarge:
        raise
    except Exception as error:
        chain: list[BaseException] = [error]
        while before := chain[-1].__cause__ or chain[-1].__context__:
            chain.append(before)
        # The first, which those after it quote.
        cause = next(filter(is_out_of_memory, reversed(chain)), None)
        if cause is None:
            raise
        size = sum(path.stat().st_size for path in weight_files(folder))
        raise MemoryError(
            f"There is not enough memory to load {member.source!r}, whose files of weights take "
            f"{size / 2**20:,.0f} MiB. Use a smaller model, a half precision `dtype`, fewer "
            "workers (`n_jobs`), each of which holds a copy, or a machine with more memory. "
            f"({type(cause).__name__}: {' '.join(str(cause).split())})"
        ) from cause


def _load(folder, member, dtype, layer, device, model_kwargs, silent, head):
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    files = marks(folder)
    architecture = member.architecture
    generic = architecture.layers is None
    if head:
        check_head(member)
    class_name = architecture.lm_class if head else architecture.model_class
    model_class = getattr(transformers, class_name, None)
    if model_class is None:
        raise ImportError(
            f"Model {member.source!r} needs transformers' {class_name}, which "
            f"the installed version {transformers.__version__} does not have. Upgrade it: "
            "pip install -U transformers"
        )
    options = {
        "dtype": getattr(torch, dtype),  # else the checkpoint's own, float16 for some
        "output_loading_info": True,
        **(member.code_options if generic else {"local_files_only": True}),
        **({} if head else architecture.load_options),
        **(model_kwargs or {}),
    }
    # What a configuration holds that no model can be made of; or what the caller asks for.
    faults = () if generic or model_kwargs else (*FAULTS, AssertionError, StrictDataclassError)
    with quiet_reports(), quiet(silent):
        alphabet = read_alphabet(folder, member)
        try:
            model, report = model_class.from_pretrained(str(folder), **options)
        except (RuntimeError, OSError, SafetensorError, UnpicklingError, *faults) as error:
            raise ValueError(
                f"The weights of {member.source!r} do not fit the {class_name} "
                "that its config.json describes, or their file is damaged. Save or fetch the "
                "model again. "
                f"({type(error).__name__}: {' '.join(str(error).split())})"
            ) from error
    harmless = re.compile(architecture.harmless)
    missing = sorted(key for key in report["missing_keys"] if not harmless.search(key))
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        if head and all(key.startswith(f"{architecture.lm_head}.") for key in missing):
            raise ValueError(missing_head(member, shown))
        raise ValueError(
            f"The checkpoint {member.source!r} lacks {len(missing)} weights of "
            f"{type(model).__name__} ({shown}): they would be random. Is it a whole model, "
            "saved with save_pretrained, and not an adapter or another architecture?"
        )
    if not generic:  # those show at a trial what they are
        _check_tokens(alphabet, model, folder, head)
    _warn_of_overflow(folder, member, dtype)
    # With a map of devices, or quantised, it is where transformers has put it.
    stays = "device_map" in options or getattr(model, "is_quantized", False)
    where = None if stays else device
    whole = model
    if head:
        model = whole.base_model
        count_masks_by_protein(model, alphabet.before[0])
    layers = layer if isinstance(layer, tuple) else (layer,)
    n_layers = len(layers)
    if generic:
        encoder = Encoder(model, alphabet, member.width, where, layer=layer, n_layers=n_layers)
        _try(encoder, member)
    else:
        _cut(model, architecture, layer, member)
        encoder = Encoder(model, alphabet, member.width, where, n_layers=n_layers)
        encoder.looks_back = architecture.causal
    encoder.files = files
    why_not = _why_not_packed(architecture, options, stays, device, member)
    if why_not is None:
        encoder.pack()
    else:
        encoder.packing = why_not
    if head:
        encoder.add_head(whole.get_submodule(architecture.lm_head), alphabet)
    return encoder


def _check_tokens(alphabet, model, folder, head=False):
    """Raise where a residue has a token that the model has no row for."""
    n_rows = model.get_input_embeddings().num_embeddings
    tokens = [*alphabet.before, *alphabet.after, alphabet.pad, *alphabet.residues.values()]
    with damage_is_told(f"{folder} holds the vocabulary of another model", WAY_OUT):
        if head and alphabet.mask is not None:
            tokens.append(alphabet.mask)
        largest = max(tokens)
        if largest >= n_rows:
            raise ValueError(f"it has a token {largest}, and the model {n_rows}")


def _warn_of_overflow(folder, member, dtype):
    """Warn of a T5 in float16 that was not published in it: overflow is cut, not shown."""
    if member.model_type != "t5" or dtype != "float16":
        return
    config = read_json_object(folder / "config.json", WAY_OUT)
    if config.get("dtype", config.get("torch_dtype")) != "float16":
        warn(
            f"Model {member.source!r} is a T5 in float16, in which its checkpoint was not "
            "published. States of T5 encoders commonly overflow in float16, and transformers "
            "cuts them at 64,504 without a word, so that embeddings are finite and wrong. Use "
            "dtype='bfloat16' or 'float32'."
        )


def _why_not_packed(architecture, options, stays, device, member):
    """Return why no fast path is tried; None where it is."""
    if device.type not in PACKED_ON:
        return f"proteins share a row on {', '.join(PACKED_ON)}, and the model runs on {device}"
    # Whoever asks for an attention, or a place, gets it.
    if stays:
        return "transformers has placed or quantised the model, as `model_kwargs` say"
    if "attn_implementation" in options:
        return "`model_kwargs` ask for an attention"
    if not architecture.may_pack:
        return f"models of type {member.model_type!r} are not known to allow it"
    return None


def _wanted_states(layer, depth, member):
    """Return the numbers of the hidden states, from 0 (the embeddings) to ``depth``."""
    if not isinstance(layer, tuple):
        return [hidden_state(layer, depth, member.source)]
    if member.depth not in (None, depth):  # by which blocks are named
        raise ValueError(
            f"Model {member.source!r} has {depth} layers, and its configuration tells of "
            f"{member.depth}, so that its hidden states have other numbers than their blocks. "
            "Give one `layer`, as an integer."
        )
    return [hidden_state(one, depth, member.source) for one in layer]


def _cut(model, architecture, layer, member):
    """Drop the layers above the highest wanted hidden state, and then the final norm.

    Only the last hidden state goes through the final norm, as in transformers.
    """
    import torch

    layers = model.get_submodule(architecture.layers)
    wanted = _wanted_states(layer, len(layers), member)
    if max(wanted) < len(layers):
        layers = layers[: max(wanted)]
        _replace(model, architecture.layers, layers)
        if architecture.final_norm is not None:
            _replace(model, architecture.final_norm, torch.nn.Identity())
    if len(wanted) > 1:
        tap(model, layers, wanted)


def _replace(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _try(encoder, member):
    """Raise unless a model without an entry behaves as embeddings need it.

    Three proteins of twenty residues are run. Hidden states must have one row a token and
    the width that the configuration tells; the state of a residue must depend on the
    residues after it (a decoder's does not: its mean over a protein is another thing than
    that of an encoder); and it must not depend on padding.
    """
    import torch

    name = f"Model {member.source!r} ({member.model_type!r})"
    ids = encoder.tokenize(AMINO_ACIDS)
    changed = encoder.tokenize(AMINO_ACIDS[0] + "W" * (len(AMINO_ACIDS) - 1))
    filled = np.append(ids, [encoder.pad] * 8)

    def run(tokens):
        mask = torch.arange(len(tokens), device=encoder.model.device) < len(ids)
        return encoder.model(
            input_ids=torch.from_numpy(tokens)[None].to(encoder.model.device),
            attention_mask=mask.long()[None],
            output_hidden_states=True,
        )

    try:
        with RESIDENTS.room_for(encoder), torch.inference_mode():
            plain, other, padded = run(ids), run(changed), run(filled)
        depth = len(plain.hidden_states) - 1
    except Exception as error:  # of whatever kind: it is not a model for this
        raise ValueError(
            f"{name} does not give hidden states for token ids and an attention mask, as the "
            f"encoders of transformers do. ({type(error).__name__}: {error})"
        ) from error
    wanted = _wanted_states(encoder.layer, depth, member)
    shapes = [tuple(plain.hidden_states[number].shape[1:]) for number in wanted]
    if other_shapes := set(shapes) - {(len(ids), member.width)}:
        raise ValueError(
            f"{name} gives hidden states of shape {min(other_shapes)} for {len(ids)} tokens; "
            f"expected is ({len(ids)}, {member.width}) by its configuration. Try another `layer`."
        )
    first = int(np.argmax(ids != changed)) - 1  # the residue before those that differ
    encoder.looks_back = torch.equal(
        plain.hidden_states[-1][0, first], other.hidden_states[-1][0, first]
    )
    check_causal(member, encoder.looks_back)
    # Far above rounding, far below what attention to padding changes.
    for number in wanted:
        states = plain.hidden_states[number]
        beside = padded.hidden_states[number][:, : len(ids)]
        allowed = 1e-3 if states.dtype == torch.float32 else 0.1
        if (states - beside).abs().max() > allowed * states.abs().max():
            raise ValueError(
                f"{name} does not mask padding: its states change with the batch. Such models "
                "cannot be used."
            )
    # Some classes norm the last state after they have noted it among the hidden ones; and the
    # states of all layers need not be kept.
    if wanted == [depth] and getattr(plain, "last_hidden_state", None) is not None:
        encoder.layer = None
    elif isinstance(encoder.layer, tuple):
        encoder.layer = tuple(wanted)
