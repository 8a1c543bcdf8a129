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

from ._hub import quiet, weight_files

# The six members of ESM-2 and two more; beyond that the least recently used one goes.
MAX_MODELS = 8


def resolve_device(device):
    """Return the torch device of that name; None is CUDA where there is one, else the CPU.

    Parameters
    ----------
    device : str or None
        Such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If torch knows no such device, or cannot use it here.

    Examples
    --------
    >>> from revdist_sklearn._models import resolve_device
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"`device`={device!r} cannot be used here: {first} "
            "Use 'cpu', 'cuda' or 'cuda:<number>' on a machine that has one, or None for "
            "whichever is there."
        ) from error
    return resolved


class Encoder:
    """A loaded model with its alphabet: from sequences to hidden states.

    Parameters
    ----------
    model : torch.nn.Module
        The encoder, in evaluation mode, on its device.
    architecture : Architecture
        Its entry of the table.
    token_ids : dict of str to int
        The checkpoint's own vocabulary.

    Attributes
    ----------
    device : torch.device
        Where it runs.
    """

    def __init__(self, model, architecture, token_ids):
        self.model = model
        self.device = model.device
        self._before = np.array([token_ids[token] for token in architecture.before], np.int64)
        self._after = np.array([token_ids[token] for token in architecture.after], np.int64)
        self._pad = token_ids[architecture.pad]
        # Older versions of transformers keep the rotary tables of the last batch in the model.
        self._one_at_a_time = threading.Lock()
        # One token a letter: indexing with the bytes of a sequence gives its token ids.
        self._table = np.full(128, -1, dtype=np.int64)
        for residue in architecture.residues:
            self._table[ord(residue)] = token_ids[residue]

    @property
    def n_specials(self):
        """Special tokens added to each sequence."""
        return len(self._before) + len(self._after)

    def tokenize(self, sequence):
        """Return the token ids of one checked sequence, special tokens included.

        Parameters
        ----------
        sequence : str
            Upper-case residues.

        Returns
        -------
        ids : ndarray of shape (n_residues + n_specials,), int64
        """
        ids = self._table[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]
        return np.concatenate([self._before, ids, self._after])

    def __call__(self, sequences):
        """Return the hidden states of a batch, in float32 whatever the model computes in.

        Parameters
        ----------
        sequences : list of str
            Checked sequences, best of similar lengths.

        Returns
        -------
        residues : list of Tensor of shape (n_residues, width)
            States of the residues alone: no special token, no padding.
        first : Tensor of shape (n_sequences, width)
            States of the first special token.
        """
        import torch

        rows = [self.tokenize(sequence) for sequence in sequences]
        lengths = [len(row) for row in rows]
        ids = np.full((len(rows), max(lengths)), self._pad, dtype=np.int64)
        for filled, row in zip(ids, rows, strict=True):
            filled[: len(row)] = row
        # Without padding there is nothing to mask, and attention without a mask is faster.
        mask = None
        if min(lengths) < ids.shape[1]:
            filled_up = np.arange(ids.shape[1]) < np.array(lengths)[:, None]
            mask = torch.from_numpy(filled_up.astype(np.int64)).to(self.device)
        with self._one_at_a_time, torch.inference_mode():
            states = self.model(
                input_ids=torch.from_numpy(ids).to(self.device), attention_mask=mask
            ).last_hidden_state.float()
        start, end = len(self._before), len(self._after)
        residues = [s[start : n - end] for s, n in zip(states, lengths, strict=True)]
        return residues, states[:, 0]


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


def get_encoder(member, *, dtype, layer, device, silent=True):
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
        If the checkpoint lacks weights, its vocabulary lacks residues, or it has no such
        layer.
    """
    folder = member.folder(silent)
    key = (fingerprint(folder), dtype, layer, str(device))
    return REGISTRY.get(key, lambda: load(folder, member, dtype, layer, device, silent))


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
    small = [p for p in folder.iterdir() if p.suffix in (".json", ".txt") and p.is_file()]
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


def load(folder, member, dtype, layer, device, silent=True):
    """Load a checkpoint as an :class:`Encoder`; see :func:`get_encoder`.

    Parameters
    ----------
    folder : Path
        Folder with configuration, vocabulary and weights.
    member : Member
        Its architecture and, for messages, its name.
    dtype, layer, device, silent
        As in :func:`get_encoder`.

    Returns
    -------
    encoder : Encoder
    """
    import torch
    import transformers

    architecture = member.architecture
    model_class = getattr(transformers, architecture.model_class, None)
    if model_class is None:
        raise ImportError(
            f"Model {member.source!r} needs transformers' {architecture.model_class}, which "
            f"the installed version {transformers.__version__} does not have. Upgrade it: "
            "pip install -U transformers"
        )
    with quiet(silent):
        token_ids = _vocabulary(folder, member)
        try:
            model, report = model_class.from_pretrained(
                str(folder),
                dtype=getattr(torch, dtype),  # else the checkpoint's own, float16 for some
                local_files_only=True,
                output_loading_info=True,
                **architecture.load_options,
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
    _cut(model, architecture, layer, member)
    return Encoder(model.to(device), architecture, token_ids)


def _vocabulary(folder, member):
    """Return the checkpoint's tokens with their ids; every residue must be among them."""
    architecture = member.architecture
    path = folder / "vocab.txt"
    if path.is_file():
        tokens = {t.strip(): i for i, t in enumerate(path.read_text("utf-8").splitlines())}
    else:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            tokens = tokenizer.get_vocab()
        except Exception as error:
            raise ValueError(
                f"Model {member.source!r} has no tokenizer that can be read: expected is "
                f"vocab.txt or tokenizer.json in {str(folder)!r}, as save_pretrained of the "
                "tokenizer writes it."
            ) from error
    needed = [*architecture.before, *architecture.after, architecture.pad]
    needed += architecture.residues
    missing = [token for token in needed if token not in tokens]
    if missing:
        raise ValueError(
            f"The vocabulary of {member.source!r} lacks {', '.join(missing)}, which the "
            f"architecture {member.model_type!r} needs. Is its vocab.txt or tokenizer.json "
            "that of the model?"
        )
    return tokens


def _cut(model, architecture, layer, member):
    """Drop the layers above the wanted hidden state, and then the final norm.

    Hidden state i is the output of layer i (0: the embeddings, before any layer).  Only the
    last one goes through the final norm, as in transformers.
    """
    import torch

    layers = model.get_submodule(architecture.layers)
    depth = len(layers)
    if not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"`layer`={layer} does not exist in {member.source!r}, which has {depth} layers; "
            f"use an integer in [{-depth - 1}, {depth}] (0: the embeddings, -1 or {depth}: the "
            "last hidden state)."
        )
    wanted = layer % (depth + 1)
    if wanted < depth:
        _replace(model, architecture.layers, layers[:wanted])
        _replace(model, architecture.final_norm, torch.nn.Identity())


def _replace(model, path, module):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
