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

import numpy as np
from safetensors import SafetensorError

from ._device import RESIDENTS
from ._hub import quiet, weight_files
from ._sequences import AMINO_ACIDS
from ._vocabulary import lookup_table, read_vocabulary

# The six members of ESM-2 and two more; beyond that the least recently used one goes.
MAX_MODELS = 8


class Encoder:
    """A loaded model with its vocabulary: from sequences to hidden states.

    Parameters
    ----------
    model : torch.nn.Module
        The encoder, in evaluation mode.
    vocabulary : Vocabulary
        The checkpoint's own.
    source : str
        Name of the model, for messages.
    device : torch.device
        Where it runs.
    layer : int or None, default=None
        Which of all hidden states to return; None: the last one.
    is_placed : bool, default=False
        Whether the model is where it must stay, because of a ``device_map`` or quantisation.
    may_pack : bool, default=True
        Whether to look for the fast path of :mod:`._packed`.

    Attributes
    ----------
    packed : bool
        Whether batches need no padding, so that they may mix lengths; see :mod:`._packed`.
    """

    def __init__(
        self, model, vocabulary, source, device, *, layer=None, is_placed=False, may_pack=True
    ):
        self.model = model
        self.source = source
        self.device = device
        self.layer = layer
        self.is_placed = is_placed
        self.width = model.config.hidden_size
        self.itemsize = model.dtype.itemsize
        self._before = np.array(vocabulary.before, np.int64)
        self._after = np.array(vocabulary.after, np.int64)
        self._pad = vocabulary.pad
        self._table = lookup_table(vocabulary.residues)
        # Older versions of transformers keep the rotary tables of the last batch in the model.
        self._one_at_a_time = threading.Lock()
        self._packed = None
        if may_pack and layer is None and device.type == "cpu" and not is_placed:
            from ._packed import pack

            self._packed = pack(model, self.tokenize, AMINO_ACIDS, self._pad)

    @property
    def packed(self):
        """Whether batches may mix lengths."""
        return self._packed is not None

    @property
    def n_specials(self):
        """Special tokens added to each sequence."""
        return len(self._before) + len(self._after)

    @property
    def has_start(self):
        """Whether a start token stands before a protein."""
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
            If the model has no token for a letter, and none for X.
        """
        ids = self._table[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]
        if len(ids) and ids.min() < 0:
            letter = sequence[int(np.argmin(ids))]
            raise ValueError(
                f"Model {self.source!r} has no token for {letter!r}, nor for an unknown residue "
                f"(X). Drop the sequences with {letter!r}, or use another model."
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
            States of the first token, which is the start token where there is one.
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
        import torch

        lengths = [len(row) for row in rows]
        ids = np.full((len(rows), max(lengths)), self._pad, dtype=np.int64)
        for filled, row in zip(ids, rows, strict=True):
            filled[: len(row)] = row
        # Without padding there is nothing to mask, and attention without a mask is faster.
        mask = None
        if min(lengths) < ids.shape[1]:
            filled_up = np.arange(ids.shape[1]) < np.array(lengths)[:, None]
            mask = torch.from_numpy(filled_up.astype(np.int64)).to(self.model.device)
        output = self.model(
            input_ids=torch.from_numpy(ids).to(self.model.device),
            attention_mask=mask,
            **({} if self.layer is None else {"output_hidden_states": True}),
        )
        states = output.last_hidden_state if self.layer is None else output.hidden_states
        return (states if self.layer is None else states[self.layer]).float()


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
        Where it runs.
    model_kwargs : mapping or None, default=None
        Further keywords of ``from_pretrained``.
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
        If the checkpoint lacks weights, its vocabulary lacks residues, it has no such layer,
        or `model_kwargs` holds what has a parameter of its own.
    """
    options = dict(model_kwargs or {})
    taken = {key: OWN_KEYWORDS[key] for key in options if key in OWN_KEYWORDS}
    if taken:
        raise ValueError(
            f"`model_kwargs` holds {', '.join(map(repr, taken))}, which it must not: "
            f"{'; '.join(taken.values())}."
        )
    folder = member.folder(silent)
    key = (fingerprint(folder), dtype, layer, str(device), described(options))
    return REGISTRY.get(key, lambda: load(folder, member, dtype, layer, device, silent, options))


# Keywords of from_pretrained that are not for `model_kwargs`, and where they belong.
OWN_KEYWORDS = {
    "dtype": "use the parameter `dtype`",
    "torch_dtype": "use the parameter `dtype`",
    "revision": "use the parameter `revision`",
    "token": "use the parameter `token`",
    "local_files_only": "use the parameter `local_files_only`",
    "output_loading_info": "the report is read here, and missing weights raise",
    "add_pooling_layer": "the states of residues are taken, not the model's pooler",
}


def described(options):
    """Return a text that is the same for equal keywords of ``from_pretrained``.

    Parameters
    ----------
    options : mapping

    Returns
    -------
    text : str

    Examples
    --------
    >>> from revdist_sklearn._models import described
    >>> described({"b": 1, "a": None})
    "{'a': None, 'b': 1}"
    """
    return repr(dict(sorted(options.items())))


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
    # Configuration, vocabulary (spiece.model is one), and code where a repository has its own.
    kinds = ".json", ".txt", ".model", ".py"
    small = [p for p in folder.iterdir() if p.suffix in kinds and p.is_file()]
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


def load(folder, member, dtype, layer, device, silent=True, options=None):
    """Load a checkpoint as an :class:`Encoder`; see :func:`get_encoder`.

    Parameters
    ----------
    folder : Path
        Folder with configuration, vocabulary and weights.
    member : Member
        Its architecture and, for messages, its name.
    dtype, layer, device, silent
        As in :func:`get_encoder`.
    options : mapping or None, default=None
        Further keywords of ``from_pretrained``.

    Returns
    -------
    encoder : Encoder
    """
    import torch
    import transformers

    options = options or {}
    architecture = member.architecture
    model_class = getattr(transformers, architecture.model_class, None)
    if model_class is None:
        raise ImportError(
            f"Model {member.source!r} needs transformers' {architecture.model_class}, which "
            f"the installed version {transformers.__version__} does not have. Upgrade it: "
            "pip install -U transformers"
        )
    with quiet(silent):
        vocabulary = read_vocabulary(folder, member, options.get("trust_remote_code", False))
        try:
            model, report = model_class.from_pretrained(
                str(folder),
                dtype=getattr(torch, dtype),  # else the checkpoint's own, float16 for some
                local_files_only=True,
                output_loading_info=True,
                **{**architecture.load_options, **options},
            )
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
            f"{architecture.model_class} ({shown}): they would be random. Is it a whole model, "
            "saved with save_pretrained, and not an adapter or another architecture?"
        )
    model.eval()
    hidden_state = _cut(model, architecture, layer, member)
    # What from_pretrained has put onto devices is not moved again.
    is_placed = "device_map" in options or getattr(model, "is_quantized", False)
    if is_placed:
        device = model.device
    return Encoder(
        model,
        vocabulary,
        member.source,
        device,
        layer=hidden_state,
        is_placed=is_placed,
        # Whoever asks for an attention gets it.
        may_pack="attn_implementation" not in options,
    )


def _cut(model, architecture, layer, member):
    """Drop the layers above the wanted hidden state, and then the final norm.

    Hidden state i is the output of layer i (0: the embeddings, before any layer).  Only the
    last one goes through the final norm, as in transformers.  Return None where the model's
    output is then the wanted state, else the index of the state among all of them.
    """
    import torch

    layers = None if architecture.layers is None else model.get_submodule(architecture.layers)
    depth = model.config.num_hidden_layers if layers is None else len(layers)
    if not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"`layer`={layer} does not exist in {member.source!r}, which has {depth} layers; "
            f"use an integer in [{-depth - 1}, {depth}] (0: the embeddings, -1 or {depth}: the "
            "last hidden state)."
        )
    wanted = layer % (depth + 1)
    if wanted == depth:
        return None
    if layers is None:
        return wanted
    _replace(model, architecture.layers, layers[:wanted])
    if architecture.final_norm is not None:
        _replace(model, architecture.final_norm, torch.nn.Identity())
    return None


def _replace(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
