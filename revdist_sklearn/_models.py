"""Loaded models: one bounded registry a process, and the forward pass of a batch.

The registry is why a featurizer holds no weights: it stays small in pickles and caches, a
clone finds the model that is already there, and a worker process loads each model once.
"""

import hashlib
import re
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError

import joblib
import numpy as np
from safetensors import SafetensorError

from ._alphabet import read_alphabet
from ._device import RESIDENTS
from ._hub import quiet, weight_files
from ._sequences import AMINO_ACIDS

# The six members of ESM-2 and two more; beyond that the least recently used one goes.
MAX_MODELS = 8

# What a fingerprint covers beside weights: settings, vocabularies and code.
SMALL_FILES = (".json", ".txt", ".model", ".py")

# Keywords of `from_pretrained` with a parameter of their own, and those that are set here.
PARAMETERS = {
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "revision": "revision",
    "token": "token",
    "local_files_only": "local_files_only",
}
SET_HERE = ("config", "output_loading_info", "output_hidden_states", "add_pooling_layer")


class Encoder:
    """A loaded model with its alphabet: from sequences to hidden states.

    Parameters
    ----------
    model : torch.nn.Module
        The encoder, in evaluation mode.
    alphabet : Alphabet
        Its tokens.
    width : int
        Columns of its states.
    device : torch.device or None, default=None
        Where it runs, and is put when it does: see :class:`Residents`.  None: where the
        model is and must stay, because of a ``device_map`` or quantisation.
    layer : int or None, default=None
        Hidden state to ask for; None: the model ends at the wanted one.

    Attributes
    ----------
    device : torch.device
        Where it runs.
    is_placed : bool
        Whether it must stay there.
    itemsize : int
        Bytes of a number in what it computes in.
    residues : str
        Letters it knows, upper case.
    pad : int
        Token that fills a batch up.
    """

    def __init__(self, model, alphabet, width, device=None, *, layer=None):
        self.model = model
        self.is_placed = device is None
        self.device = model.device if device is None else device
        self.width = width
        self.itemsize = model.dtype.itemsize
        self._packed = None
        self.residues = "".join(alphabet.residues)
        self.layer = layer
        self._source = alphabet.source
        self._before = np.array(alphabet.before, dtype=np.int64)
        self._after = np.array(alphabet.after, dtype=np.int64)
        self.pad = alphabet.pad
        # Older versions of transformers keep the rotary tables of the last batch in the model.
        self._one_at_a_time = threading.Lock()
        # One token a letter: indexing with the bytes of a sequence gives its token ids.
        self._table = np.full(128, -1, dtype=np.int64)
        for residue, token in alphabet.residues.items():
            self._table[ord(residue)] = token

    def pack(self):
        """Look for the fast path of :mod:`._packed`."""
        from ._packed import pack

        self._packed = pack(self.model, self.tokenize, AMINO_ACIDS, self.pad)

    @property
    def packed(self):
        """Whether batches need no padding, so that they may mix lengths."""
        return self._packed is not None

    @property
    def n_specials(self):
        """Special tokens added to each sequence."""
        return len(self._before) + len(self._after)

    @property
    def has_start(self):
        """Whether a special token stands before the residues, as pooling "cls" needs."""
        return len(self._before) > 0

    def tokenize(self, sequence):
        """Return the token ids of one checked sequence, special tokens included.

        Parameters
        ----------
        sequence : str
            Upper-case residues.

        Returns
        -------
        ids : ndarray of shape (n_residues + n_specials,), int64

        Raises
        ------
        ValueError
            If the model has no token for a letter.
        """
        ids = self._table[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]
        if ids.size and ids.min() < 0:
            raise ValueError(
                f"Model {self._source!r} has no token for {sequence[ids.argmin()]!r}; it knows "
                f"{self.residues}. Write another residue in its place, or drop the sequence."
            )
        return np.concatenate([self._before, ids, self._after])

    def __call__(self, sequences):
        """Return the hidden states of a batch, in float32 whatever the model computes in.

        Parameters
        ----------
        sequences : list of str
            Checked sequences, best of similar lengths where the model is not `packed`.

        Returns
        -------
        residues : list of Tensor of shape (n_residues, width)
            States of the residues alone: no special token, no padding.
        first : Tensor of shape (n_sequences, width)
            States of the first token: the start token where the model has one.
        """
        import torch

        rows = [self.tokenize(sequence) for sequence in sequences]
        with self._one_at_a_time, RESIDENTS.room_for(self), torch.inference_mode():
            states = self._padded(rows) if self._packed is None else self._packed(rows)
        start, end = len(self._before), len(self._after)
        residues = [s[start : len(row) - end] for s, row in zip(states, rows, strict=True)]
        return residues, torch.stack([s[0] for s in states])

    def _padded(self, rows):
        """Return the states of a batch whose rows are filled up to one length."""
        ids, mask = (x.to(self.model.device) for x in fill_up(rows, self.pad))
        # Without padding there is nothing to mask, and attention without a mask is faster.
        no_padding = all(len(row) == len(rows[0]) for row in rows)
        return self._states(ids, None if no_padding else mask).float()

    def _states(self, ids, mask):
        if self.layer is None:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        return out.hidden_states[self.layer]


def fill_up(rows, pad):
    """Return rows of token ids filled up to one length, and what of them is no padding.

    Parameters
    ----------
    rows : list of ndarray of shape (n_tokens,), int64
    pad : int
        Token that fills up.

    Returns
    -------
    ids, mask : Tensor of shape (n_rows, longest), int64
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.from_numpy(row) for row in rows]
    mask = pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
    return pad_sequence(ids, batch_first=True, padding_value=pad), mask


class Registry:
    """Least-recently-used store of loaded models, safe to share between threads.

    Parameters
    ----------
    size : int
        Models kept at most.
    """

    def __init__(self, size):
        self.size = size
        self._models = OrderedDict()
        # One load at a time: a second thread that wants the same model waits and finds it,
        # and the silencing of transformers during a load does not overlap with another.
        self._lock = threading.Lock()

    def __len__(self):
        return len(self._models)

    def get(self, key, load):
        """Return the model under `key`, loading it where it is not there.

        Parameters
        ----------
        key : hashable
            All that the model depends on.
        load : callable
            Called without arguments; returns the model.

        Returns
        -------
        model : object
        """
        with self._lock:
            if key in self._models:
                self._models.move_to_end(key)
                return self._models[key]
            # Make room first, so that the new one need not fit beside the one that goes.
            while len(self._models) >= self.size:
                self._models.popitem(last=False)
            model = self._models[key] = load()
            return model

    def clear(self):
        """Drop all models."""
        with self._lock:
            self._models.clear()


REGISTRY = Registry(MAX_MODELS)


def get_encoder(member, *, dtype, layer, device, model_kwargs=None, silent=True):
    """Return a member's encoder from the registry of this process.

    Parameters
    ----------
    member : Member
        Which model.
    dtype : {"float32", "bfloat16", "float16"}
        In what it computes.
    layer : int
        Which hidden state, as in ``hidden_states[layer]`` of transformers.
    device : torch.device
        Where it runs.  A ``device_map`` in `model_kwargs` takes precedence.
    model_kwargs : dict or None, default=None
        Further keywords of ``from_pretrained``, such as ``attn_implementation``,
        ``device_map`` or ``quantization_config``.  ``trust_remote_code`` is the member's.
    silent : bool, default=True
        Whether to silence transformers' and the hub's own bars and reports.

    Returns
    -------
    encoder : Encoder

    Raises
    ------
    ModelNotFoundError
        If there are no weights.
    ValueError
        If the checkpoint lacks weights, its vocabulary lacks residues, it has no such
        layer, it is no encoder that reads residue by residue, or `model_kwargs` hold what
        is set elsewhere.
    """
    options = check_model_kwargs(model_kwargs)
    folder = member.folder(silent)
    key = (
        fingerprint(folder),
        *(dtype, layer, str(device)),
        *(member.trust_remote_code, described(options)),
    )
    return REGISTRY.get(key, lambda: load(folder, member, dtype, layer, device, options, silent))


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
    >>> from revdist_sklearn._models import check_model_kwargs
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
    """Return a text that is the same for equal keywords of ``from_pretrained``.

    Parameters
    ----------
    model_kwargs : mapping

    Returns
    -------
    text : str
    """
    return joblib.hash(dict(model_kwargs)) if model_kwargs else None


def fingerprint(folder):
    """Return a text that is the same for two folders only if they hold the same model.

    A snapshot of the hub is named by its commit.  Of other folders the contents of
    configuration, vocabulary and weights are hashed: a date tells nothing when files are
    copied, and a path nothing when a training run saves into it again.  Hashing reads a
    folder once a process and change of its files, a fraction of the time to load it.

    Parameters
    ----------
    folder : path
        Folder of a model.

    Returns
    -------
    fingerprint : str
    """
    folder = Path(folder)
    if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name):
        return f"{folder.parent.parent.name}@{folder.name}"
    small = [p for p in folder.iterdir() if p.suffix in SMALL_FILES and p.is_file()]
    digest = hashlib.sha256()
    for path in sorted({*small, *weight_files(folder)}):
        stat = path.stat()
        digest.update(f"{path.name} {_digest(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _digest(path, size, changed):
    """Return the hash of a file; size and time of the last change are part of the key."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load(folder, member, dtype, layer, device, model_kwargs=None, silent=True):
    """Load a checkpoint as an :class:`Encoder`; see :func:`get_encoder`.

    Parameters
    ----------
    folder : Path
        Folder with configuration, vocabulary and weights.
    member : Member
        Its architecture and, for messages, its name.
    dtype, layer, device, model_kwargs, silent
        As in :func:`get_encoder`.

    Returns
    -------
    encoder : Encoder
    """
    import torch
    import transformers

    architecture = member.architecture
    generic = architecture.layers is None
    model_class = getattr(transformers, architecture.model_class, None)
    if model_class is None:
        raise ImportError(
            f"Model {member.source!r} needs transformers' {architecture.model_class}, which "
            f"the installed version {transformers.__version__} does not have. Upgrade it: "
            "pip install -U transformers"
        )
    options = {
        "dtype": getattr(torch, dtype),  # else the checkpoint's own, float16 for some
        "output_loading_info": True,
        **(member.code_options if generic else {"local_files_only": True}),
        **architecture.load_options,
        **(model_kwargs or {}),
    }
    with quiet(silent):
        alphabet = read_alphabet(folder, member)
        try:
            model, report = model_class.from_pretrained(str(folder), **options)
        except (RuntimeError, OSError, SafetensorError, UnpicklingError) as error:
            raise ValueError(
                f"The weights of {member.source!r} do not fit the {architecture.model_class} "
                "that its config.json describes, or their file is damaged. Save or fetch the "
                "model again. "
                f"({type(error).__name__}: {' '.join(str(error).split())})"
            ) from error
    harmless = re.compile(architecture.harmless)
    missing = sorted(key for key in report["missing_keys"] if not harmless.search(key))
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"The checkpoint {member.source!r} lacks {len(missing)} weights of "
            f"{type(model).__name__} ({shown}): they would be random. Is it a whole model, "
            "saved with save_pretrained, and not an adapter or another architecture?"
        )
    # With a map of devices, or quantised, it is where transformers has put it.
    stays = "device_map" in options or getattr(model, "is_quantized", False)
    where = None if stays else device
    if generic:
        encoder = Encoder(model, alphabet, member.width, where, layer=layer)
        _try(encoder, member)
    else:
        _cut(model, architecture, layer, member)
        encoder = Encoder(model, alphabet, member.width, where)
    # For a CPU; whoever asks for an attention, or a place, gets it.
    plain = stays or device.type != "cpu" or "attn_implementation" in options
    if architecture.may_pack and not plain:
        encoder.pack()
    return encoder


def _wanted_state(layer, depth, member):
    """Return the number of the hidden state, from 0 (the embeddings) to `depth`.

    Hidden state i is the output of layer i.
    """
    if not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"`layer`={layer} does not exist in {member.source!r}, which has {depth} layers; "
            f"use an integer in [{-depth - 1}, {depth}] (0: the embeddings, -1 or {depth}: the "
            "last hidden state)."
        )
    return layer % (depth + 1)


def _cut(model, architecture, layer, member):
    """Drop the layers above the wanted hidden state, and then the final norm.

    Only the last hidden state goes through the final norm, as in transformers.
    """
    import torch

    layers = model.get_submodule(architecture.layers)
    wanted = _wanted_state(layer, len(layers), member)
    if wanted < len(layers):
        _replace(model, architecture.layers, layers[:wanted])
        if architecture.final_norm is not None:
            _replace(model, architecture.final_norm, torch.nn.Identity())


def _replace(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _try(encoder, member):
    """Raise unless a model without an entry behaves as embeddings need it.

    Three proteins of twenty residues are run.  Hidden states must have one row a token and
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
    wanted = _wanted_state(encoder.layer, depth, member)
    states = plain.hidden_states[wanted]
    shape = tuple(states.shape[1:])
    if shape != (len(ids), member.width):
        raise ValueError(
            f"{name} gives hidden states of shape {shape} for {len(ids)} tokens; expected is "
            f"({len(ids)}, {member.width}) by its configuration. Try another `layer`."
        )
    first = int(np.argmax(ids != changed)) - 1  # the residue before those that differ
    if torch.equal(plain.hidden_states[-1][0, first], other.hidden_states[-1][0, first]):
        raise ValueError(
            f"{name} looks only back: the state of a residue does not depend on the residues "
            "after it, as in a decoder. Use an encoder, such as ESM-2, ProtT5 or ProtBert."
        )
    beside = padded.hidden_states[wanted][:, : len(ids)]
    # Far above rounding, far below what attention to padding changes.
    allowed = 1e-3 if states.dtype == torch.float32 else 0.1
    if (states - beside).abs().max() > allowed * states.abs().max():
        raise ValueError(
            f"{name} does not mask padding: its states change with the batch. Such models "
            "cannot be used."
        )
    # Some classes norm the last state after they have noted it among the hidden ones; and the
    # states of all layers need not be kept.
    if wanted == depth and getattr(plain, "last_hidden_state", None) is not None:
        encoder.layer = None
