"""ESMFeaturizer: from protein sequences to the embeddings of a family of models."""

import os
from itertools import pairwise
from numbers import Integral
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context, clone
from sklearn.utils._param_validation import Interval, StrOptions
from tqdm.auto import tqdm

from ._columns import column_names
from ._family import alias_of, resolve_family
from ._sequences import RESIDUES, apply_limit, batches, check_sequences, runs, window_starts

# Tokens of a batch.  One protein fills a CPU, and padding costs there what residues cost; a
# GPU wants more at a time.
CPU_TOKENS = 1024
GPU_TOKENS = 16384
# Residue rows that `iter_residues` holds at a time: in batches, and in bytes.
RUN_BATCHES = 8
RUN_BYTES = 64 * 2**20


class ESMFeaturizer(TransformerMixin, BaseEstimator):
    """Embeddings of protein sequences by a family of protein language models.

    Each model of the family gives one block of columns, side by side, smallest model first:
    the input of :class:`ReverseDistiller`.  A protein's row is the mean of its residues'
    embeddings (or their maximum, or the embedding of the start token).

    There is nothing to fit: `transform` works at once.  Models are loaded when they are
    first needed, into a registry of the process that all featurizers share; none is part
    of the estimator, whose pickles stay small.

    Parameters
    ----------
    models : str, path, or list or tuple of these, default="esm2-nano"
        The family, smallest model first.

        - An alias: ``"esm2-nano"`` (part of this package; 32, 64 and 96 columns),
          ``"esm2"`` or ``"esmc"``, or up to one of their members: ``"esm2-nano:64"``,
          ``"esm2:150M"``, ``"esmc:300M"``.  Without a size ``"esm2"`` ends at 650M and
          ``"esmc"`` at 600M.
        - A list of hub ids (``"facebook/esm2_t6_8M_UR50D"``) and folders that
          ``save_pretrained`` of a model and its tokenizer wrote.
        - One hub id or folder: a family of one.

        Widths that do not ascend are embedded all the same; :class:`ReverseDistiller` then
        needs its `residual_sizes`.

    pooling : {"mean", "max", "cls"}, default="mean"
        What makes one row of a protein: the mean or the maximum of each column over its
        residues, or the state of the start token ``<cls>``.  Padding and special tokens
        have no part in the first two.  Pooled in float32 whatever `dtype` is.  Only the
        mean commutes with the chain of a :class:`ReverseDistiller` fitted on residues.

    layer : int, default=-1
        Which hidden state, as in ``hidden_states[layer]`` of transformers: 0 is the
        embedding before any layer, -1 the last one, after the final norm.  The layers
        above are not run.

    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        In what the models compute.  With the half precisions a row depends a little on
        the batch it was computed in; with float32 by less than 1e-5.

    device : str or None, default=None
        Where the models run, such as ``"cpu"`` or ``"cuda:1"``.  None: CUDA where there is
        a GPU, else the CPU.

    max_length : int or None, default=None
        Residues a sequence may have.  None: what the models can take, which is any length
        for ESM-2 and ESM C (rotary positions) and 1,022 for ESM-1b (learned positions).

    too_long : {"error", "truncate", "window"}, default="error"
        What happens to longer sequences.

        - "error": a :exc:`ValueError` names the first.
        - "truncate": only the first `max_length` residues are embedded, and a warning says
          of how many sequences.
        - "window": windows of `max_length` residues that overlap by half (the last one
          ends at the last residue) are embedded one by one; a residue's state is the mean
          over the windows that hold it, the state of the start token the mean over all.

    revision : str, sequence of (str or None), or None, default=None
        Commit, tag or branch of the hub ids: one for all, or one for each model.

    local_files_only : bool, default=False
        Never ask the hub; use what was downloaded before.

    token_budget : int or None, default=None
        Tokens of a batch, padding included.  None: 1,024 on a CPU and 16,384 on a GPU.
        It sets speed and memory, not the result.

    verbose : int or bool, default=0
        0 is silent, also about what transformers and the hub print; 1 shows their bars
        while models load and one over the residues of all models.

    Attributes
    ----------
    block_sizes_ : tuple of int
        Columns of each model's block.  Known before `fit`, without loading a model.

    See Also
    --------
    ReverseDistiller : Turns the blocks into one nested embedding.
    corpus_moments : Moments over the residues of a corpus, for fitting it.

    Notes
    -----
    Columns are named ``<block>__<column>``, the block after the last part of the folder or
    hub id (``esm2_nano_032__07``).  A sequence that occurs several times in a call is
    embedded once.  Lower case is read as upper case; X, B, Z, U and O are known to the
    models, ``J``, ``*``, gaps and digits are not and raise.

    Time grows with the residues and, in long proteins, with their square (attention);
    memory beyond the loaded models is that of one batch and the result.

    References
    ----------
    Lin et al., "Evolutionary-scale prediction of atomic-level protein structure with a
    language model", Science 379 (2023), for ESM-2.

    Examples
    --------
    >>> from revdist_sklearn import ESMFeaturizer
    >>> emb = ESMFeaturizer("esm2-nano:64")
    >>> emb.transform(["MKTAYIAKQR", "GSHMLEDPVD"]).shape
    (2, 96)
    >>> emb.block_sizes_
    (32, 64)
    >>> emb.get_feature_names_out()[[0, -1]].tolist()
    ['esm2_nano_032__00', 'esm2_nano_064__63']
    >>> emb.truncate(20).get_params()["models"]
    'esm2-nano:32'
    """

    _parameter_constraints: ClassVar[dict] = {
        "models": [str, list, tuple, os.PathLike],
        "pooling": [StrOptions({"mean", "max", "cls"})],
        "layer": [Interval(Integral, None, None, closed="neither")],
        "dtype": [StrOptions({"float32", "bfloat16", "float16"})],
        "device": [str, None],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "too_long": [StrOptions({"error", "truncate", "window"})],
        "revision": [str, list, tuple, None],
        "local_files_only": ["boolean"],
        "token_budget": [Interval(Integral, 1, None, closed="left"), None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        models="esm2-nano",
        *,
        pooling="mean",
        layer=-1,
        dtype="float32",
        device=None,
        max_length=None,
        too_long="error",
        revision=None,
        local_files_only=False,
        token_budget=None,
        verbose=0,
    ):
        self.models = models
        self.pooling = pooling
        self.layer = layer
        self.dtype = dtype
        self.device = device
        self.max_length = max_length
        self.too_long = too_long
        self.revision = revision
        self.local_files_only = local_files_only
        self.token_budget = token_budget
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check parameters and sequences; there is nothing to learn.

        Parameters
        ----------
        X : list, tuple, 1-d array or Series of str
            Protein sequences.

        y : None
            Ignored.

        Returns
        -------
        self : ESMFeaturizer

        Raises
        ------
        ValueError, TypeError
            As in `transform`, except for what only loading a model can show.
        """
        self._prepare(X)
        return self

    def transform(self, X):
        """Embed sequences, one row a protein.

        Parameters
        ----------
        X : list, tuple, 1-d array or Series of str of length n_samples
            Protein sequences.

        Returns
        -------
        embeddings : ndarray of shape (n_samples, sum(block_sizes_)), float32
            One block of columns a model.  A frame where `set_output` asks for pandas, with
            the index of a Series (scikit-learn 1.7 or later).

        Raises
        ------
        TypeError
            If `X` is one string, or an item is none.
        ValueError
            If there is no sequence, one is empty, has a character that is no residue or
            is too long under the policy "error"; if a parameter has no meaning.
        ModelNotFoundError
            If a model is neither on disk nor to be had.
        """
        self._validate_params()
        members, sequences, limit = self._prepare(X)
        distinct = {sequence: i for i, sequence in enumerate(dict.fromkeys(sequences))}
        texts = list(distinct)
        out = np.empty((len(texts), _width(members)), dtype=np.float32)
        total = len(members) * sum(map(len, texts))
        silent = not self.verbose
        with tqdm(total=total, unit="residue", unit_scale=True, disable=silent) as bar:
            for member, columns in _columns_of(members):
                bar.set_description(member.block)
                for i, residues, first in self._states(member, texts, limit):
                    out[i, columns] = self._pool(residues, first).cpu().numpy()
                    bar.update(len(residues))
        return out[[distinct[sequence] for sequence in sequences]]

    def iter_residues(self, sequences, *, as_tensor=False):
        """Embed sequences residue by residue, some whole proteins at a time.

        `pooling` has no part in it.  Memory is bounded whatever the number of sequences: a
        few batches of rows, or one protein where that is more.

        Parameters
        ----------
        sequences : list, tuple, 1-d array or Series of str
            Protein sequences.
        as_tensor : bool, default=False
            Whether to leave the rows on the device of the models, as torch tensors.

        Yields
        ------
        rows : ndarray or torch.Tensor of shape (n_residues, sum(block_sizes_)), float32
            Embeddings of all residues of some consecutive proteins, in order.
        sequence_index : ndarray of shape (n_residues,), int64
            Index into `sequences` of each row's protein.

        Raises
        ------
        TypeError, ValueError, ModelNotFoundError
            As `transform`, when called and not at the first row.

        Examples
        --------
        >>> from revdist_sklearn import ESMFeaturizer
        >>> emb = ESMFeaturizer("esm2-nano:32")
        >>> for rows, sequence_index in emb.iter_residues(["MKT", "GSHM"]):
        ...     print(rows.shape, sequence_index)
        (7, 32) [0 0 0 1 1 1 1]
        """
        self._validate_params()
        members, texts, limit = self._prepare(sequences)
        return self._iter_residues(members, texts, limit, as_tensor)

    def _iter_residues(self, members, sequences, limit, as_tensor):
        import torch

        from ._models import resolve_device

        # On the CPU a tensor and its array are one memory.
        device = resolve_device(self.device) if as_tensor else "cpu"
        lengths = np.array([len(sequence) for sequence in sequences])
        width = _width(members)
        most = min(RUN_BATCHES * self._budget(), RUN_BYTES // (4 * width))
        for start, stop in runs(lengths.tolist(), most):
            ends = np.cumsum(lengths[start:stop])
            rows = torch.empty((ends[-1], width), dtype=torch.float32, device=device)
            places: dict[str, list[slice]] = {}
            for sequence, end in zip(sequences[start:stop], ends, strict=True):
                places.setdefault(sequence, []).append(slice(end - len(sequence), end))
            texts = list(places)
            for member, columns in _columns_of(members):
                for i, residues, _ in self._states(member, texts, limit):
                    states = residues.to(device)
                    for place in places[texts[i]]:
                        rows[place, columns] = states
            index = np.repeat(np.arange(start, stop), lengths[start:stop])
            yield (rows if as_tensor else rows.numpy()), index

    def _prepare(self, X):
        """Return the members, the sequences as they will be embedded, and the length limit."""
        members = resolve_family(self.models, self.revision, self.local_files_only)
        known = [r for r in RESIDUES if all(r in m.architecture.residues for m in members)]
        limit = self._limit(members)
        sequences = apply_limit(check_sequences(X, "".join(known)), limit, self.too_long)
        return members, sequences, limit

    def _limit(self, members):
        """Return the smaller of `max_length` and what the models can take."""
        bounded = [member for member in members if member.limit is not None]
        if not bounded:
            return self.max_length
        least = min(bounded, key=lambda member: member.limit)
        if self.max_length is None:
            return least.limit
        if self.max_length > least.limit:
            raise ValueError(
                f"`max_length`={self.max_length} is more than the {least.limit} residues that "
                f"{least.source!r} can take (its positions are a table that ends there). Use "
                f"at most {least.limit}, or None; too_long='window' embeds longer sequences."
            )
        return self.max_length

    def _budget(self):
        from ._models import resolve_device

        if self.token_budget is not None:
            return self.token_budget
        return CPU_TOKENS if resolve_device(self.device).type == "cpu" else GPU_TOKENS

    def _states(self, member, texts, limit):
        """Yield ``(i, residues, first)``: a model's states of each text, in no fixed order."""
        from ._models import get_encoder, resolve_device

        encoder = get_encoder(
            member,
            dtype=self.dtype,
            layer=self.layer,
            device=resolve_device(self.device),
            silent=not self.verbose,
        )
        starts = [window_starts(len(text), limit) for text in texts]
        windows = [(i, start) for i, of_text in enumerate(starts) for start in of_text]
        pieces = [texts[i][s : None if limit is None else s + limit] for i, s in windows]
        parts: dict[int, list] = {}
        for batch in batches([len(p) for p in pieces], self._budget(), encoder.n_specials):
            states = encoder([pieces[j] for j in batch])
            for j, residues, first in zip(batch, *states, strict=True):
                i, start = windows[j]
                if len(starts[i]) == 1:
                    yield i, residues, first
                    continue
                # Windows of a protein have one length, so they come one after another and
                # few proteins are incomplete at a time.
                parts.setdefault(i, []).append((start, residues, first))
                if len(parts[i]) == len(starts[i]):
                    yield i, *_average(parts.pop(i), len(texts[i]))

    def _pool(self, residues, first):
        if self.pooling == "cls":
            return first
        return residues.mean(0) if self.pooling == "mean" else residues.amax(0)

    def __getattr__(self, name):
        # No property: scikit-learn reads all properties to draw an estimator in a notebook,
        # and this one may raise for the models it is given, or ask the hub for them.
        if name == "block_sizes_":
            return tuple(member.width for member in self._members())
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _members(self):
        return resolve_family(self.models, self.revision, self.local_files_only)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns, ``<block>__<column>``.

        Parameters
        ----------
        input_features : None
            Ignored: the input is text.

        Returns
        -------
        names : ndarray of shape (sum(block_sizes_),), object
        """
        names = [name for m in self._members() for name in column_names(m.block, m.width)]
        return np.array(names, dtype=object)

    def truncate(self, d):
        """Return a featurizer that runs only the models which a prefix needs.

        The first `d` columns of a nested embedding depend on the models up to the first
        one of at least `d` columns.

        Parameters
        ----------
        d : int
            Length of the prefix, from 1 to the width of the last model.

        Returns
        -------
        featurizer : ESMFeaturizer
            A new one, with the other parameters as they are.

        Raises
        ------
        ValueError
            If `d` is out of range, or the widths do not ascend, so that the prefix depends
            on the distiller's `residual_sizes`.

        Examples
        --------
        >>> from revdist_sklearn import ESMFeaturizer
        >>> ESMFeaturizer("esm2:650M").truncate(400).block_sizes_
        (320, 480)
        """
        widths = self.block_sizes_
        if any(b <= a for a, b in pairwise(widths)):
            raise ValueError(
                f"The widths {widths} do not ascend, so the models that a prefix needs "
                "depend on the `residual_sizes` of the distiller. Name the models yourself: "
                "set_params(models=...)."
            )
        if isinstance(d, bool) or not isinstance(d, Integral) or not 1 <= int(d) <= widths[-1]:
            raise ValueError(
                f"`d`={d!r} is no prefix of this family; use an integer in [1, {widths[-1]}]."
            )
        return self._first_members(next(i for i, w in enumerate(widths) if w >= d) + 1)

    def _first_members(self, n):
        """Return a featurizer of the first n models."""
        several = isinstance(self.models, (list, tuple))
        models = self.models[:n] if several else alias_of(self.models, n) or self.models
        revision = self.revision
        if isinstance(revision, (list, tuple)):
            revision = revision[:n]
        return clone(self).set_params(models=models, revision=revision)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = False
        return tags


def _width(members):
    return sum(member.width for member in members)


def _columns_of(members):
    """Yield each member with the slice of its columns."""
    stop = 0
    for member in members:
        start, stop = stop, stop + member.width
        yield member, slice(start, stop)


def _average(parts, length):
    """Return a protein's states from those of its windows, equal weight to each window."""
    first = sum(first for _, _, first in parts) / len(parts)
    residues = first.new_zeros(length, len(first))
    count = first.new_zeros(length, 1)
    for start, states, _ in parts:
        residues[start : start + len(states)] += states
        count[start : start + len(states)] += 1
    return residues / count, first
