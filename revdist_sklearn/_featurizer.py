"""ESMFeaturizer: from protein sequences to the embeddings of a family of models."""

import os
from contextlib import nullcontext
from itertools import pairwise
from numbers import Integral
from typing import ClassVar

import numpy as np
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context, clone
from sklearn.utils._param_validation import Interval, StrOptions
from tqdm.auto import tqdm

from ._cache import EmbeddingCache
from ._callbacks import NO_CALLBACKS, CallbackSupportMixin, with_callbacks
from ._columns import column_names
from ._device import resolve_device
from ._embed import MemberRun, no_start_token, pooled_rows
from ._family import alias_of, resolve_family
from ._pooling import resolve_pooling
from ._sequences import RESIDUES, apply_limit, check_sequences, runs
from ._workers import in_order, is_worker_death

# Residue rows that `iter_residues` holds at a time, in bytes: on a CPU some batches, on a
# GPU enough to be worth the change from one model to the next.
RUN_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}
RUN_TOKENS = {"cpu": 8192, "cuda": 2**20}
# Residues that one task embeds, unless there is less than four tasks' work for a worker.
PIECE_RESIDUES = 2**16


class ESMFeaturizer(CallbackSupportMixin, TransformerMixin, BaseEstimator):
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

    pooling : {"mean", "max", "cls", "mutated"} or array-like of int, default="mean"
        What makes one row of a protein.  Padding and special tokens have no part in it,
        "cls" excepted; float32 whatever `dtype` is.

        - "mean", "max": the mean or the maximum of each column over the residues.
        - "cls": the state of the start token, where the model has one.
        - Positions, counted from 0 (residue 1 of a protein is position 0): the mean over
          these residues, the same in all sequences.
        - "mutated": the mean over the positions at which the sequence differs from
          `reference`, which must be of its length, of the difference between the two.  The
          reference itself has a row of zeros.

        Means commute with the chain of a :class:`ReverseDistiller` fitted on residues;
        "max" and "cls" do not.

    reference : str or None, default=None
        Sequence of the wild type.  Its row, pooled alike, is subtracted from each row: what
        the mutations change, for variant effects.  A distiller's constant then stays in the
        nested embedding, the same in all rows; a head with an intercept does not see it.

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

    token : str or None, default=None
        Name of the environment variable that holds the access token for gated or private
        models, such as ``"HF_TOKEN_LAB"``; never the token itself, which would end up in
        pickles and logs.  None: what ``hf auth login`` or ``HF_TOKEN`` say.

    model_kwargs : dict or None, default=None
        Further keywords of transformers' ``from_pretrained``: ``device_map`` (`device` must
        then be None), ``quantization_config``, ``attn_implementation``, or
        ``trust_remote_code`` for models whose repository brings code that you have read.

    token_budget : int or None, default=None
        Tokens of a batch, padding included.  None: 1,024 on a CPU; on a GPU what half of its
        free memory holds.  Batches that do not fit all the same are halved and run again.
        It sets speed and memory, not the result.

    cache_dir : str, path or None, default=None
        Folder that keeps the rows of `transform` on disk, by sequence and model: folds, grid
        candidates, processes and runs that share it embed no sequence twice.  A row is found
        again if the weights (by content, or commit of the hub), `dtype`, `layer`, `pooling`,
        `reference` (of "mutated"), the window of a long protein and `model_kwargs` are the
        same.  Rows are written batch by batch; a folder that cannot be written to is a
        warning.  ``revdist cache info`` and ``revdist cache clear`` look after it.

    n_jobs : int or None, default=None
        Workers of `transform`, as in joblib: None is 1 unless in a
        :class:`joblib.parallel_config` context, -1 all processors; the "dask" backend sends
        the work to a Dask cluster.  Each worker process loads each model once and runs one at a
        time.  On the CPU of one machine a single process uses all cores already and is often
        faster; workers are for several GPUs or machines.

    verbose : int or bool, default=0
        0 is silent, also about what transformers and the hub print; 1 shows their bars
        while models load and one over the residues of all models, with their rate.

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

    `fit_transform` tells scikit-learn's callbacks (1.9 or later) of each model and each
    batch, as tasks below its own.

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
        "pooling": [StrOptions({"mean", "max", "cls", "mutated"}), "array-like"],
        "reference": [str, None],
        "layer": [Interval(Integral, None, None, closed="neither")],
        "dtype": [StrOptions({"float32", "bfloat16", "float16"})],
        "device": [str, None],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "too_long": [StrOptions({"error", "truncate", "window"})],
        "revision": [str, list, tuple, None],
        "local_files_only": ["boolean"],
        "token": [str, None],
        "model_kwargs": [dict, None],
        "token_budget": [Interval(Integral, 1, None, closed="left"), None],
        "cache_dir": [str, os.PathLike, None],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        models="esm2-nano",
        *,
        pooling="mean",
        reference=None,
        layer=-1,
        dtype="float32",
        device=None,
        max_length=None,
        too_long="error",
        revision=None,
        local_files_only=False,
        token=None,
        model_kwargs=None,
        token_budget=None,
        cache_dir=None,
        n_jobs=None,
        verbose=0,
    ):
        self.models = models
        self.pooling = pooling
        self.reference = reference
        self.layer = layer
        self.dtype = dtype
        self.device = device
        self.max_length = max_length
        self.too_long = too_long
        self.revision = revision
        self.local_files_only = local_files_only
        self.token = token
        self.model_kwargs = model_kwargs
        self.token_budget = token_budget
        self.cache_dir = cache_dir
        self.n_jobs = n_jobs
        self.verbose = verbose

    @with_callbacks
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
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self._plan(X)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @with_callbacks
    def fit_transform(self, X, y=None):
        """Embed sequences, one row a protein; the same as `transform`.

        Parameters
        ----------
        X : list, tuple, 1-d array or Series of str of length n_samples
            Protein sequences.
        y : None
            Ignored.

        Returns
        -------
        embeddings : ndarray of shape (n_samples, sum(block_sizes_)), float32
            As `transform`, with its errors.
        """
        self._validate_params()
        context = self._init_callback_context(
            task_name="fit-transform", max_subtasks=len(self._members())
        )
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        embeddings = self._embed(X, context)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return embeddings

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
            is too long under the policy "error"; if a parameter has no meaning, or `pooling`
            asks for positions that a sequence has not; if an embedding is not finite.
        ModelNotFoundError
            If a model is neither on disk nor to be had.
        MemoryError
            If one protein alone does not fit into the device's memory.
        RuntimeError
            If a worker died.
        """
        return self._embed(X, NO_CALLBACKS)

    def _embed(self, X, context):
        self._validate_params()
        members, sequences, limit, pooling, reference = self._plan(X)
        # Each distinct sequence once, with what messages call it.
        index: dict[str, object] = {}
        for i, sequence in enumerate(sequences):
            index.setdefault(sequence, i)
        if reference is not None:
            index.setdefault(reference, "`reference`")
        texts, names = list(index), list(index.values())
        out = np.empty((len(texts), _width(members)), dtype=np.float32)
        with nullcontext() if self.cache_dir is None else EmbeddingCache(self.cache_dir) as cache:
            todo = []
            for member, columns in _columns_of(members):
                run = self._run(member, limit, pooling)
                found, rows = run.cached(texts, cache)
                out[found, columns] = rows
                known = set(found)
                todo.append((run, columns, [i for i in range(len(texts)) if i not in known]))
            try:
                self._compute(todo, texts, names, out, cache, X, context)
            except (KeyboardInterrupt, MemoryError) as error:
                if hasattr(error, "add_note"):  # Python 3.11
                    error.add_note(self._kept())
                raise
        place = {sequence: i for i, sequence in enumerate(texts)}
        if reference is not None:
            out -= out[place[reference]]
        # Without repeats the rows are in order already, and need not be there twice.
        if len(texts) == len(sequences):
            return out
        return out[[place[sequence] for sequence in sequences]]

    def _compute(self, todo, texts, names, out, cache, X, context):
        """Fill in the rows that no cache held."""
        total = sum(len(texts[i]) for _, _, missing in todo for i in missing)
        silent = not self.verbose
        with tqdm(total=total, unit="residue", unit_scale=True, disable=silent) as bar:
            for (run, columns, _), batches in self._batches(todo, texts, names, cache):
                bar.set_description(run.member.block)
                task = context.subcontext(task_name=run.member.block, max_subtasks=None)
                task.call_on_fit_task_begin(estimator=self, X=X)
                for indices, rows in batches:
                    leaf = task.subcontext(task_name="batch")
                    leaf.call_on_fit_task_begin(estimator=self, X=X)
                    out[indices, columns] = rows
                    bar.update(sum(len(texts[i]) for i in indices))
                    leaf.call_on_fit_task_end(estimator=self, X=X)
                task.call_on_fit_task_end(estimator=self, X=X)

    def _batches(self, todo, texts, names, cache):
        """Yield each model's part of the work with its batches of indices and rows."""
        if effective_n_jobs(self.n_jobs) == 1:
            for part in todo:
                run, _, missing = part
                batches = run.pooled(
                    [texts[i] for i in missing], [names[i] for i in missing], cache
                )
                yield part, (([missing[j] for j in batch], rows) for batch, rows in batches)
            return
        pieces = [self._pieces(missing, texts) for _, _, missing in todo]
        # Workers may run in another folder.
        folder = self.cache_dir and os.path.abspath(os.path.expanduser(self.cache_dir))
        tasks = (
            (run, [texts[i] for i in piece], [names[i] for i in piece], folder)
            for (run, _, _), of_run in zip(todo, pieces, strict=True)
            for piece in of_run
        )
        results = in_order(pooled_rows, tasks, self.n_jobs)
        for part, of_run in zip(todo, pieces, strict=True):
            yield part, self._collected(part[0], of_run, results, texts, cache)

    def _pieces(self, missing, texts):
        """Return the tasks of a model: indices, longest proteins first."""
        order = sorted(missing, key=lambda i: -len(texts[i]))
        lengths = [len(texts[i]) for i in order]
        share = sum(lengths) // (4 * effective_n_jobs(self.n_jobs))
        return [order[a:b] for a, b in runs(lengths, min(PIECE_RESIDUES, max(share, 1)))]

    def _collected(self, run, pieces, results, texts, cache):
        """Yield what the workers have computed of a model."""
        done = 0
        try:
            for piece, rows in zip(pieces, results, strict=False):
                # Workers on other machines may have a disk of their own.
                run.keep([texts[i] for i in piece], rows, cache)
                yield piece, rows
                done += 1
        except BaseException as error:
            if not is_worker_death(error):
                raise
            raise RuntimeError(
                f"A worker died, most often for want of memory, after {done} of {len(pieces)} "
                f"pieces of {run.member.source!r}. {self._kept()} Each worker holds a copy of a "
                "model: use a smaller `n_jobs` or `token_budget`."
            ) from error

    def _kept(self):
        if self.cache_dir is None:
            return (
                "What was computed is lost; with `cache_dir` the same call would go on from there."
            )
        return (
            f"Finished batches are in {os.fspath(self.cache_dir)!r}; the same call goes on from "
            "there."
        )

    def _run(self, member, limit, pooling):
        return MemberRun(
            member,
            pooling,
            dtype=self.dtype,
            layer=self.layer,
            device=self.device,
            model_kwargs=self.model_kwargs or {},
            limit=limit,
            token_budget=self.token_budget,
            silent=not self.verbose,
        )

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

        # On the CPU a tensor and its array are one memory.
        models_on = resolve_device(self.device)
        device = models_on if as_tensor else "cpu"
        lengths = np.array([len(sequence) for sequence in sequences])
        width = _width(members)
        kind = "cpu" if models_on.type == "cpu" else "cuda"
        tokens = RUN_TOKENS[kind] if self.token_budget is None else 8 * self.token_budget
        most = min(tokens, RUN_BYTES[kind] // (4 * width))
        pooling = resolve_pooling("mean", None)
        parts = [(self._run(m, limit, pooling), columns) for m, columns in _columns_of(members)]
        for start, stop in runs(lengths.tolist(), most):
            ends = np.cumsum(lengths[start:stop])
            rows = torch.empty((ends[-1], width), dtype=torch.float32, device=device)
            places: dict[str, list[slice]] = {}
            index: dict[str, int] = {}
            for i, end in zip(range(start, stop), ends, strict=True):
                sequence = sequences[i]
                index.setdefault(sequence, i)
                places.setdefault(sequence, []).append(slice(end - len(sequence), end))
            texts, names = list(places), list(index.values())
            for run, columns in parts:
                for batch in run.batches_of_states(texts, names):
                    for i, residues, _ in batch:
                        states = residues.to(device)
                        for place in places[texts[i]]:
                            rows[place, columns] = states
            proteins = np.repeat(np.arange(start, stop), lengths[start:stop])
            yield (rows if as_tensor else rows.numpy()), proteins

    def _plan(self, X):
        """Return what `_prepare` does, the pooling, and the row to subtract or None."""
        members, sequences, limit = self._prepare(X)
        reference = self.reference
        if reference is not None:
            try:
                [reference] = apply_limit(
                    check_sequences([reference], _residues(members)), limit, self.too_long
                )
            except (TypeError, ValueError) as error:
                raise type(error)(f"`reference` is no valid sequence. {error}") from error
        if self.device is not None and "device_map" in (self.model_kwargs or {}):
            raise ValueError(
                f"`device`={self.device!r} and a `device_map` in `model_kwargs` both say where "
                "the models run; leave `device` at None."
            )
        pooling = resolve_pooling(self.pooling, reference)
        pooling.check(sequences if reference is None else [*sequences, reference])
        if pooling.kind == "cls":
            for member in members:
                if member.architecture.before == ():
                    raise ValueError(no_start_token(member))
        return members, sequences, limit, pooling, None if pooling.reference else reference

    def _prepare(self, X):
        """Return the members, the sequences as they will be embedded, and the length limit."""
        members = self._members()
        limit = self._limit(members)
        sequences = apply_limit(check_sequences(X, _residues(members)), limit, self.too_long)
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

    def __getattr__(self, name):
        # No property: scikit-learn reads all properties to draw an estimator in a notebook,
        # and this one may raise for the models it is given, or ask the hub for them.
        if name == "block_sizes_":
            return tuple(member.width for member in self._members())
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _members(self):
        trust = (self.model_kwargs or {}).get("trust_remote_code") is True
        return resolve_family(self.models, self.revision, self.local_files_only, self.token, trust)

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
        """Return a featurizer of the first n models that takes proteins as all of them do."""
        several = isinstance(self.models, (list, tuple))
        models = self.models[:n] if several else alias_of(self.models, n) or self.models
        revision = self.revision
        if isinstance(revision, (list, tuple)):
            revision = revision[:n]
        first = clone(self).set_params(models=models, revision=revision)
        # A model that is left out may have been the one with the least limit.
        limit = self._limit(self._members())
        if first._limit(first._members()) != limit:
            first.set_params(max_length=limit)
        return first

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


def _residues(members):
    """Return the letters that all models know."""
    return "".join(r for r in RESIDUES if all(r in m.architecture.residues for m in members))
