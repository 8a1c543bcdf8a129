"""One model over many sequences: windows, batches, pooling, the cache, and what can go wrong.

Nothing here knows an estimator: :class:`MemberRun` is small and is all that a worker needs.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np

from ..base._identity import digest
from ..base._torch import free_memory, is_out_of_memory
from ..models._alphabet import read_alphabet
from ..models._device import (
    RESIDENTS,
    ModelTooLarge,
    finish_copy,
    on,
    resolve_device,
    start_copy,
    tokens_of_a_square,
    tokens_that_fit,
)
from ..models._family import Member
from ..models._fingerprint import fingerprint, written_over
from ..models._loading import changed, described, get_encoder
from ._cache import EmbeddingCache
from ._pooling import Pooling
from ._sequences import batches, window_starts


@dataclass(frozen=True)
class MemberRun:
    """How one model of a family is run.

    Parameters
    ----------
    member : Member
        Which model.

    pooling : Pooling or None
        What makes one row of a protein; None where residues alone are asked for.

    dtype, device, model_kwargs
        As in :class:`ESMFeaturizer`.

    layer : int or tuple of int
        Which hidden states of the model; those of several are side by side, from one pass.

    limit : int or None
        Residues of a window; None for proteins as they are.

    token_budget : int or None
        Tokens of a batch; None chooses.

    silent : bool
        Whether loading shows nothing.
    """

    member: Member
    pooling: Pooling | None
    dtype: str = "float32"
    layer: int | tuple[int, ...] = -1
    device: str | None = None
    model_kwargs: Mapping[str, object] = field(default_factory=dict)
    limit: int | None = None
    token_budget: int | None = None
    silent: bool = True
    head: ClassVar[bool] = False  # whether models are loaded with their language-model heads
    what: ClassVar[str] = "embedding"
    _known: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def layers(self):
        """The hidden states, in the order of their columns."""
        return self.layer if isinstance(self.layer, tuple) else (self.layer,)

    @property
    def width_of_layer(self):
        """Columns of a row, of one hidden state."""
        return self.member.width

    @property
    def width(self):
        """Columns of all hidden states."""
        return self.width_of_layer * len(self.layers)

    def columns_of_layers(self, start=0):
        """Return the columns of each hidden state, of which the first begins at ``start``."""
        edges = range(start, start + self.width + 1, self.width_of_layer)
        return [slice(*ends) for ends in pairwise(edges)]

    def of_layers(self, layers):
        """Return the run of some of the hidden states, of the same weights."""
        if layers == self.layers:
            return self
        part = replace(self, layer=layers)
        part._known.update(self._known)
        return part

    def encoder(self):
        """Return the loaded model."""
        return get_encoder(
            self.member,
            dtype=self.dtype,
            layer=self.layers if len(self.layers) > 1 else self.layers[0],
            device=resolve_device(self.device),
            model_kwargs=self.model_kwargs,
            silent=self.silent,
            # Rows are filed under these.
            weights=self._identity["weights"],
            head=self.head,
        )

    def batches_of_states(self, texts, index=None):
        """Yield a model's states, some proteins at a time.

        Parameters
        ----------
        texts : list of str
            Checked sequences.

        index : list of int or None, default=None
            What messages call them; None counts.

        Yields
        ------
        batch : list of (int, Tensor, Tensor)
            Index into ``texts``, residues of shape (n_residues, width), first token of shape
            (width,); proteins longest first.

        Raises
        ------
        ValueError
            If the model has no token for a letter.

        MemoryError
            If a single protein, or window of one, does not fit into memory.

        RuntimeError
            If the files of the model change meanwhile.
        """
        encoder = self.encoder()
        self._check_letters(texts, encoder, index)
        starts = [window_starts(len(text), self.limit) for text in texts]
        windows = [(i, start) for i, of_text in enumerate(starts) for start in of_text]
        size = self.limit or max(map(len, texts), default=0)
        pieces = [texts[i][start : start + size] for i, start in windows]
        parts: dict[int, list] = {}
        for batch, states in self._forward(encoder, pieces, windows, index):
            done = []
            for j, residues, first in zip(batch, *states, strict=True):
                i, start = windows[j]
                if len(starts[i]) == 1:
                    done.append((i, residues, first))
                    continue
                # Windows of a protein have one length, so they come one after another and
                # few proteins are incomplete at a time.
                parts.setdefault(i, []).append((start, residues, first))
                if len(parts[i]) == len(starts[i]):
                    averaged = or_on_host(average_windows, parts.pop(i), len(texts[i]))
                    done.append((i, *averaged))
            if done:
                yield on_one_device(done)

    def _check_letters(self, texts, encoder, index):
        """Raise if a text has a letter for which the checkpoint, now loaded, has no token."""
        known = set(encoder.residues)
        if known.issuperset(self.member.architecture.residues):
            return  # what the texts were checked for before it was loaded
        for i, text in enumerate(texts):
            if not known.issuperset(text):
                letter = next(letter for letter in text if letter not in known)
                raise ValueError(
                    f"Sequence {i if index is None else index[i]} has {letter!r}, for which "
                    f"{self.member.source!r} has no token; it knows {encoder.residues}. Write "
                    "another residue in its place, or drop the sequence."
                )

    def _forward(self, encoder, pieces, windows, index):
        """Yield each batch with its states; where memory runs out, by half as many tokens."""
        budget, square = self.token_budget, 0.0
        if budget is None:
            # What is free is what is left beside the model.
            with RESIDENTS.room_for(encoder):
                budget = tokens_that_fit(encoder)
            square = tokens_of_a_square(encoder)
        lengths = [len(piece) for piece in pieces]
        left, was_alone = list(range(len(pieces))), False
        while left:
            plan = batches(
                [lengths[j] for j in left], budget, encoder.n_specials, encoder.packed, square
            )
            done, full = 0, False
            order = [[left[k] for k in batch] for batch in plan]
            for batch in order:
                try:
                    states = encoder([pieces[j] for j in batch])
                except ModelTooLarge:  # no batch is small enough
                    raise
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    full = True
                # Outside of the handler, whose traceback holds on to the tensors.
                if full:
                    # The same batch once more in the room of the other models, but once only:
                    # two threads whose models take turns would go on for ever.
                    if not was_alone and RESIDENTS.alone(encoder):
                        was_alone = True
                        break
                    if len(batch) == 1:
                        i = windows[batch[0]][0]
                        raise MemoryError(self._too_large(lengths[batch[0]], i, index))
                    longest = lengths[batch[0]] + encoder.n_specials
                    tokens = len(batch) * (longest + square * longest**2)
                    budget = min(budget, tokens) / 2
                    break
                if written_over(encoder.files):
                    raise RuntimeError(changed(self.member, "while it was in use"))
                done, was_alone = done + 1, False
                yield batch, states
                del states
            left = [j for batch in order[done:] for j in batch]
            if full:
                free_memory(encoder.device)

    def _too_large(self, n_residues, i, index):
        which = "" if index is None else f"Sequence {index[i]}: "
        return (
            f"{which}{n_residues} residues at a time are more than the memory of "
            f"{resolve_device(self.device)} holds beside {self.member.source!r}. Use "
            "too_long='window' with a smaller `max_length`, a half precision `dtype`, another "
            "`device`, or drop the sequence."
        )

    def pooled(self, texts, index=None, cache=None):
        """Yield the rows of some proteins at a time, and put them into a cache.

        Parameters
        ----------
        texts, index
            As in :meth:`batches_of_states`.

        cache : EmbeddingCache or None

        Yields
        ------
        indices : list of int
            Indices into ``texts``.

        rows : ndarray of shape (len(indices), width), float32

        Raises
        ------
        ValueError
            If an embedding is not finite.

        MemoryError
            As :meth:`batches_of_states`.
        """
        if not texts:  # no need of the model either
            return
        assert self.pooling is not None
        if self.pooling.kind == "cls":
            if not self.encoder().has_start:
                raise ValueError(no_start_token(self.member))
            if self.encoder().looks_back:
                raise ValueError(blind_start_token(self.member))
        reference = None
        if self.pooling.reference is not None:
            [[(_, reference, _)]] = self.batches_of_states([self.pooling.reference])
        pending = None
        for batch in self.batches_of_states(texts, index):
            indices = [i for i, _, _ in batch]
            started = indices, or_on_host(self._pool, batch, texts, reference)
            # A copy from a GPU goes on while the next batch is computed.
            if pending is not None:
                yield self._finish(*pending, texts, index, cache)
            pending = started
            if pending[1][1] is None:  # there is no copy to wait for
                yield self._finish(*pending, texts, index, cache)
                pending = None
        if pending is not None:
            yield self._finish(*pending, texts, index, cache)

    def _pool(self, batch, texts, reference):
        """Return the rows of a batch on their way to the host's memory."""
        import torch

        assert self.pooling is not None
        if reference is not None:  # states may have gone to the host
            reference = reference.to(batch[0][1].device)
        rows = [self.pooling(texts[i], r, first, reference) for i, r, first in batch]
        return start_copy(torch.stack(rows))

    def _finish(self, indices, copy, texts, index, cache):
        rows = finish_copy(*copy)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            i = indices[int(np.argmin(finite))]
            raise ValueError(
                f"The {self.what} of sequence {i if index is None else index[i]} by "
                f"{self.member.source!r} is not finite. Half precision overflows in some "
                "models: try dtype='bfloat16' or 'float32'."
            )
        self.keep([texts[i] for i in indices], rows, cache)
        return indices, rows

    def cached(self, texts, cache, layer=None):
        """Return the rows of one hidden state that a cache holds.

        Parameters
        ----------
        texts : list of str
            Checked sequences.

        cache : EmbeddingCache or None

        layer : int or None, default=None
            One of the run; None is the first.

        Returns
        -------
        found : list of int
            Indices into ``texts``.

        rows : ndarray of shape (len(found), width), float32
        """
        found, rows = [], [np.empty((0, self.width_of_layer), dtype=np.float32)]
        for window, part in self._windows(texts, cache):
            space = self.identity(window, layer)
            known, of_part = cache.get(space, [texts[i] for i in part])
            found += [part[k] for k in known]
            rows.append(of_part)
        return found, np.concatenate(rows)

    def keep(self, texts, rows, cache):
        """Put rows of texts, of shape (len(texts), width), into a cache, if there is one."""
        for window, part in self._windows(texts, cache):
            names = [texts[i] for i in part]
            for space, columns in zip(
                self.identities(window), self.columns_of_layers(), strict=True
            ):
                cache.put(space, names, rows[part, columns])

    @property
    def _identity(self):
        # Python's own cached_property has a lock until 3.12, which a fork does not wait for.
        if "identity" not in self._known:
            self._known["identity"] = self._identify()
        return self._known["identity"]

    def _identify(self):
        folder = self.member.folder(self.silent)
        if self.member.is_prompted:
            # Rows of the same tokens may be filed under the same where the tokens are the entry's
            # own, which not all vocabularies have.
            read_alphabet(folder, self.member)
        reference = None if self.pooling is None else self.pooling.reference
        return {
            "model": self.member.source,
            "weights": fingerprint(folder),
            "dtype": self.dtype,
            "layer": None,  # of each row its own
            "pooling": None if self.pooling is None else self.pooling.kind,
            # A digest, as of all sequences in the file.
            "reference": None if reference is None else digest(reference),
            "model_kwargs": described(self.model_kwargs),
            "width": self.width_of_layer,
            # Not among what others are filed under.
            **({} if self.member.prompt is None else {"prompt": self.member.prompt}),
        }

    def identity(self, window=None, layer=None):
        """Return what this model's rows depend on beside the sequences.

        Parameters
        ----------
        window : int or None, default=None
            Residues of the windows that longer proteins are cut into.

        layer : int or None, default=None
            Which of the hidden states; None is the first.

        Returns
        -------
        identity : dict
            Can be written as JSON. "model" is a name for people alone.
        """
        layer = self.layers[0] if layer is None else layer
        return {**self._identity, "layer": layer, "window": window}

    def identities(self, window=None):
        """Return the identity of the rows of each hidden state, as if it were alone."""
        return [self.identity(window, layer) for layer in self.layers]

    def _windows(self, texts, cache):
        """Yield the window that the rows of some texts depend on, with the indices of these.

        It is part of their identity for the proteins that are embedded in windows alone, so that
        another limit finds the others.
        """
        if cache is None:
            return
        limit = self.limit
        is_long = [limit is not None and len(text) > limit for text in texts]
        for window in (None, limit) if any(is_long) else (None,):
            part = [i for i, long in enumerate(is_long) if long == (window is not None)]
            if part:
                yield window, part


def pooled_rows(run, texts, index, cache_dir):
    """Return the rows of all ``texts``; what a worker runs.

    Parameters
    ----------
    run : MemberRun

    texts : list of str

    index : list of int
        What messages call them.

    cache_dir : path or None
        Folder of the cache that keeps each batch.

    Returns
    -------
    rows : ndarray of shape (len(texts), run.width), float32
    """
    out = np.empty((len(texts), run.width), dtype=np.float32)
    with nullcontext() if cache_dir is None else EmbeddingCache(cache_dir) as cache:
        batches = run.pooled(texts, index, cache)
        for indices, rows in complete(batches, range(len(texts)), run):
            out[indices] = rows
    return out


def complete(batches, wanted, run):
    """Yield batches of rows, and raise where one that is wanted was in none of them.

    It would be whatever the memory held.

    Parameters
    ----------
    batches : iterable of (list of int, ndarray)
        Indices and rows.

    wanted : sequence of int
        Indices.

    run : MemberRun
        Which has made them.

    Yields
    ------
    batch : (list of int, ndarray)

    Raises
    ------
    RuntimeError
        At the end.
    """
    lacks = np.zeros(max(wanted, default=-1) + 1, dtype=bool)
    lacks[list(wanted)] = True
    for indices, rows in batches:
        lacks[indices] = False
        yield indices, rows
    if lacks.any():
        raise RuntimeError(
            f"{np.count_nonzero(lacks)} of {len(wanted)} proteins have got no {run.what} by "
            f"{run.member.source!r}, and none was told to be wrong. Nothing is returned; this is "
            "a fault of the package: please report it with a sequence."
        )


def no_start_token(member):
    """Return the message that a model has nothing to pool by "cls"."""
    return (
        f"pooling='cls' needs a start token, which {member.source!r} ({member.model_type}) does "
        "not have; use 'mean' or 'max'."
    )


def blind_start_token(member):
    """Return the message that the start token of a model has nothing before it to tell of."""
    return (
        f"pooling='cls' takes the state of the start token, which in {member.source!r} "
        f"({member.model_type}) looks only back and so is the same of all proteins; use 'mean', "
        "'max' or positions."
    )


def or_on_host(function, states, *others):
    """Return what a function makes of states, on the host where their GPU has no room for it.

    Parameters
    ----------
    function : callable
        Called with ``states`` and ``others``.

    states : list of tuple
        Tensors among whatever else.

    *others
        Tensors and other things.

    Returns
    -------
    result : object

    Raises
    ------
    MemoryError, RuntimeError
        If that does not fit into the host's memory either.
    """
    device = states[0][1].device
    with on(device):
        try:
            return function(states, *others)
        except (RuntimeError, MemoryError) as error:
            if device.type == "cpu" or not is_out_of_memory(error):
                raise
        # Outside of the handler, whose traceback holds on to tensors.
        free_memory(device)
        states = [tuple(_to_host(x) for x in part) for part in states]
        return function(states, *(_to_host(x) for x in others))


def on_one_device(batch):
    """Return states as they are, all on the host where some are: full devices send them there.

    Parameters
    ----------
    batch : list of tuple
        As ``batches_of_states`` yields them.

    Returns
    -------
    batch : list of tuple
    """
    if len({str(residues.device) for _, residues, _ in batch}) == 1:
        return batch
    return [tuple(_to_host(x) for x in part) for part in batch]


def _to_host(x):
    return x.cpu() if hasattr(x, "cpu") else x


def average_windows(parts, length):
    """Return a protein's states from those of its windows, equal weight to each window.

    Parameters
    ----------
    parts : list of (int, Tensor, Tensor)
        Start of the window, states of its residues, state of its first token.

    length : int
        Residues of the protein.

    Returns
    -------
    residues : Tensor of shape (length, width)
        Mean over the windows that hold the residue.

    first : Tensor of shape (width,)
        Mean over all windows.
    """
    first = sum(first for _, _, first in parts) / len(parts)
    residues = first.new_zeros(length, parts[0][1].shape[1])
    count = first.new_zeros(length, 1)
    for start, states, _ in parts:
        residues[start : start + len(states)] += states
        count[start : start + len(states)] += 1
    return residues / count, first
