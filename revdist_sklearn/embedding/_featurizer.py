"""ESMFeaturizer: from protein sequences to the embeddings of a family of models."""

import os
from dataclasses import replace
from itertools import chain, groupby
from numbers import Integral
from typing import ClassVar

import numpy as np
from sklearn.base import _fit_context, clone
from sklearn.utils._param_validation import Interval, StrOptions

from ..base._aliases import alias_of
from ..base._validation import check_integer
from ..base._warnings import warn
from ..models._family import blocks_of
from ..models._layers import as_model, with_layers
from ._callbacks import NO_CALLBACKS, with_callbacks
from ._family_estimator import FamilyEstimator
from ._plan import EmbeddingPlan, ascending
from ._pooling import resolve_pooling
from ._protein_rows import ProteinRows
from ._residue_rows import residue_rows
from ._sequences import REFERENCE

BFLOAT16_OF_VARIANTS = (
    "dtype='bfloat16' with a `reference`: bfloat16 keeps 8 bits of a number, and the variants of "
    "one protein differ little. Its error is a few times larger beside the spread of variants "
    "than beside that of diverse proteins: 3 to 5% instead of 0.5 to 1% for the bundled models, "
    "more for deeper ones. Use 'float16', whose error is a tenth of that, for ESM-2, or "
    "'float32'."
)


class ESMFeaturizer(FamilyEstimator):
    """Embeddings of protein sequences by a family of protein language models.

    Each model of the family gives one block of columns, side by side, smallest model first:
    the input of :class:`ReverseDistiller`. A protein's row is the mean of its residues'
    embeddings (or their maximum, or the embedding of the start token).

    There is nothing to fit: ``transform`` works at once. Models are loaded when they are
    first needed, into a registry of the process that all featurizers share; none is part
    of the estimator, whose pickles stay small.

    Parameters
    ----------
    models : str, path, or list or tuple of these, default="esm2-nano"
        The family, smallest model first.

        - An alias: ``"esm2-nano"`` (part of this package; 32, 64 and 96 columns),
          ``"esm2"`` or ``"esmc"``, or up to one of their members: ``"esm2-nano:64"``,
          ``"esm2:150M"``, ``"esmc:300M"``. Without a size ``"esm2"`` ends at 650M and
          ``"esmc"`` at 600M.
        - A list of hub ids (``"facebook/esm2_t6_8M_UR50D"``), folders that
          ``save_pretrained`` of a model and its tokenizer wrote, and models that are part of
          this package (``"esm2_nano_064"``).
        - One of these: a family of one.

        Widths that do not ascend are embedded all the same; :class:`ReverseDistiller` then
        needs its ``residual_sizes``.

    pooling : {"mean", "max", "cls", "mutated"} or array-like of int, default="mean"
        What makes one row of a protein. Padding and special tokens have no part in it,
        "cls" excepted; float32 whatever ``dtype`` is.

        - "mean", "max": the mean or the maximum of each column over the residues.
        - "cls": the state of the start token, where the model has one.
        - Positions, counted from 0 (residue 1 of a protein is position 0): the mean over
          these residues, the same in all sequences.
        - "mutated": the mean over the positions at which the sequence differs from
          ``reference``, which must be of its length, of the difference between the two. The
          reference itself has a row of zeros.

        Means commute with the chain of a :class:`ReverseDistiller` fitted on residues;
        "max" and "cls" do not.

    reference : str or None, default=None
        Sequence of the wild type. Its row, pooled alike, is subtracted from each row: what
        the mutations change, for variant effects. A distiller's constant then stays in the
        nested embedding, the same in all rows; a head with an intercept does not see it.

    layer : int, or list or tuple of int, or of one such list for each model, default=-1
        Which hidden state, as in ``hidden_states[layer]`` of transformers: 0 is the
        embedding before any layer, -1 the last one, after the final norm. The layers
        above are not run.

        Several, ``[-1, 6]``, are blocks of their own, named ``<block>_layer_<n>`` with n counted
        from the embeddings: models first, and layers within them in the order that is given. They
        come from one forward pass of each model, and are cached one by one, as if each were
        alone. A list for each model, ``[[-1], [6, -1]]``, gives each its own. Blocks of equal
        width need ``residual_sizes`` of :class:`ReverseDistiller`, best a share.

    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        In what the models compute. With the half precisions a row depends a little on
        the batch it was computed in; with float32, in which TF32 has no part, by less than
        1e-5. Rows of the bundled models are off by 0.05 to 0.1% of the spread of diverse
        proteins in float16, 0.5 to 1% in bfloat16; by 0.3 to 0.5% and 3 to 5% of the spread
        of variants of one protein. So take float16 for ESM-2 and ProtT5's checkpoint of half
        precision, but bfloat16, which does not overflow, for other T5 encoders, and float32
        where small differences matter.

    device : str or None, default=None
        Where the models run, such as ``"cpu"`` or ``"cuda:1"``. None: CUDA where there is
        a GPU, else the CPU. ``"cuda"``, and None, is the current GPU, in the workers of
        ``n_jobs`` another one for each process as long as there are enough.

    max_length : int or None, default=None
        Residues a sequence may have. None: what the models can take, which is any length
        for ESM-2 and ESM C (rotary positions) and 1,022 for ESM-1b (learned positions).

    too_long : {"error", "truncate", "window"}, default="error"
        What happens to longer sequences.

        - "error": a :exc:`ValueError` names the first.
        - "truncate": only the first ``max_length`` residues are embedded, and a warning says
          of how many sequences.
        - "window": windows of ``max_length`` residues that overlap by half (the last one
          ends at the last residue) are embedded one by one; a residue's state is the mean
          over the windows that hold it, the state of the start token the mean over all.

    causal : bool, or list or tuple of str, default=False
        Whether models may look only back, as decoders do, in which the state of a residue
        depends on the residues before it alone. False refuses them. With True they are embedded
        like others, without the packed path; the mean over a protein then is that of states each
        of which has seen a part of it, the last residues most, so that it is not the embedding
        that an encoder gives. The start token has seen nothing: "cls" is an error. GPT-2 of
        residues is taken, with the twenty amino acids alone. IgLM, a folder with its
        ``vocab.txt``, is told of a heavy chain of a human unless this names its tokens for
        another chain and species, ``("[LIGHT]", "[MOUSE]")``. Models that look to both sides
        are used as they are.

    revision : str, sequence of (str or None), or None, default=None
        Commit, tag or branch of the hub ids: one for all, or one for each model.

    local_files_only : bool, default=False
        Never ask the hub; use what was downloaded before.

    token : str or None, default=None
        Name of the environment variable that holds the access token for gated or private
        models, such as ``"HF_TOKEN_LAB"``; never the token itself, which would end up in
        pickles and logs. What may be one and is no variable's name is shown and pickled as
        ``"***"``, and an error. None: what ``hf auth login`` or ``HF_TOKEN`` say.

    model_kwargs : dict or None, default=None
        Further keywords of transformers' ``from_pretrained``: ``device_map`` (``device`` must
        then be None), ``quantization_config``, ``attn_implementation``, or
        ``trust_remote_code`` for models whose repository brings code that you have read.

    token_budget : int or None, default=None
        Tokens of a batch, padding included. None: 1,024 on a CPU; on a GPU what half of its
        free memory holds, attention masks included. Batches that do not fit all the same are
        halved and run again.
        It sets speed and memory, not the result.

    cache_dir : str, path or None, default=None
        Folder that keeps the rows of ``transform`` on disk, by sequence and model: folds, grid
        candidates, processes and runs that share it embed no sequence twice. A row is found
        again if the weights (by content, or commit of the hub), ``dtype``, ``layer``, ``pooling``,
        ``reference`` (of "mutated"), the window of a long protein and ``model_kwargs`` are the
        same. Rows are written every five seconds, at the end, and for any fault, each with a
        checksum: a damaged one is computed again, with a warning, and a folder that cannot be
        written to is a warning. One whose key has changed is not found, and computed again
        without a word: never is a wrong row returned. The file system must support locks, as
        local ones and NFS 4 do; there some ten processes may write at a time.
        ``revdist cache info`` and ``revdist cache clear`` look after it. A relative path
        counts from the working directory of the first use (``fit``, ``transform``, or the
        pickle that goes to a worker), and stays that folder wherever later calls are made; not
        of ``__init__``, because scikit-learn's estimators keep their parameters as given.

    n_jobs : int or None, default=None
        Workers of ``transform``, as in joblib: None is 1 unless in a
        :class:`joblib.parallel_config` context, -1 all processors; the "dask" backend sends
        the work to a Dask cluster, ``n_jobs`` tasks at a time, None and -1 as many as its
        workers have threads. Each worker process loads each model once and runs one at a
        time. On the CPU of one machine a single process uses all cores already and is often
        faster; workers are for several GPUs or machines.

    verbose : int or bool, default=0
        0 is silent, also about what transformers and the hub print; 1 shows their bars
        while models load and one over the residues of all models, with their rate, and says
        of each model whether it takes the packed path (see ``packed_``).

    Attributes
    ----------
    block_sizes_ : tuple of int
        Columns of each model's block, or of each of its layers. Known before ``fit``, without
        loading a model, for aliases, folders, and models of the hub whose configuration has been
        fetched.

    packed_ : dict of str to (True or str)
        Of each block, whether its model takes the packed path: proteins in one row of tokens
        without padding, on a CPU in float32, and in bfloat16 where it has instructions for it.
        True, or in words what of it does not run and why. The path is compared with the plain
        model at load, so that models which are not there yet are loaded to answer.

    See Also
    --------
    ReverseDistiller : Turns the blocks into one nested embedding.
    corpus_moments : Moments over the residues of a corpus, for fitting it.

    Notes
    -----
    Columns are named ``<block>__<column>``, the block after the last part of the folder or
    hub id (``esm2_nano_032__07``, of several layers ``esm2_nano_032_layer_2__07``). A sequence
    that occurs several times in a call is embedded once. Lower case is read as upper case; X, B,
    Z, U and O are known to the models, ``J``, ``*``, gaps and digits are not and raise.

    ``fit_transform`` tells scikit-learn's callbacks (1.9 or later) of each model and each
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
    >>> emb.for_prefix(20).get_params()["models"]
    'esm2-nano:32'
    >>> ESMFeaturizer("esm2-nano:32", layer=[-1, 0]).embedding_plan().blocks.names
    ('esm2_nano_032_layer_2', 'esm2_nano_032_layer_0')
    """

    _parameter_constraints: ClassVar[dict] = {
        "models": [str, list, tuple, os.PathLike],
        "pooling": [StrOptions({"mean", "max", "cls", "mutated"}), "array-like"],
        "reference": [str, None],
        "layer": [Interval(Integral, None, None, closed="neither"), list, tuple],
        "dtype": [StrOptions({"float32", "bfloat16", "float16"})],
        "device": [str, None],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "too_long": [StrOptions({"error", "truncate", "window"})],
        "causal": ["boolean", list, tuple],
        "revision": [str, list, tuple, None],
        "local_files_only": ["boolean"],
        "token": "no_validation",  # whose message would repeat it
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
        causal=False,
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
        self.causal = causal
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
            As in ``transform``, except for what only loading a model can show.
        """
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self.embedding_plan().prepare(X)
        self._cache_folder()
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @with_callbacks
    def fit_transform(self, X, y=None):
        """Embed sequences, one row a protein; the same as ``transform``.

        Parameters
        ----------
        X : list, tuple, 1-d array or Series of str of length n_samples
            Protein sequences.

        y : None
            Ignored.

        Returns
        -------
        embeddings : ndarray of shape (n_samples, sum(block_sizes_)), float32
            As ``transform``, with its errors.
        """
        plan = self.embedding_plan()
        context = self._init_callback_context(
            # Of several layers those that a cache lacks may be run by themselves.
            task_name="fit-transform",
            max_subtasks=None if isinstance(plan.layer, tuple) else len(plan.members),
        )
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        embeddings = self._embed(plan, X, context)
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
            One block of columns a model. A frame where ``set_output`` asks for pandas, with
            the index of a Series (scikit-learn 1.7 or later).

        Raises
        ------
        TypeError
            If ``X`` is one string, or an item is none.

        ValueError
            If there is no sequence, one is empty, has a character that is no residue or
            is too long under the policy "error"; if a parameter has no meaning, or ``pooling``
            asks for positions that a sequence has not; if an embedding is not finite.

        ModelNotFoundError
            If a model is neither on disk nor to be had.

        MemoryError
            If a model, or one protein alone, does not fit into the device's memory.

        RuntimeError
            If a worker died, or the files of a model change meanwhile.
        """
        return self._embed(self.embedding_plan(), X, NO_CALLBACKS)

    def _embed(self, plan, X, context):
        if self.dtype == "bfloat16" and self.reference is not None:
            warn(BFLOAT16_OF_VARIANTS)
        rows = ProteinRows(plan, self._cache_folder(), self.n_jobs, self.verbose)
        return rows.of(plan.prepare(X), context, estimator=self, X=X)

    def iter_residues(self, sequences, *, as_tensor=False):
        """Embed sequences residue by residue, some whole proteins at a time.

        ``pooling`` has no part in it. Memory is bounded whatever the number of sequences: a
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
            Index into ``sequences`` of each row's protein.

        Raises
        ------
        TypeError, ValueError, ModelNotFoundError
            As ``transform``, when called and not at the first row.

        Examples
        --------
        >>> from revdist_sklearn import ESMFeaturizer
        >>> emb = ESMFeaturizer("esm2-nano:32")
        >>> for rows, sequence_index in emb.iter_residues(["MKT", "GSHM"]):
        ...     print(rows.shape, sequence_index)
        (7, 32) [0 0 0 1 1 1 1]
        """
        plan = self.embedding_plan("residue")
        return residue_rows(plan, plan.prepare(sequences, seen=True), as_tensor)

    def embedding_plan(self, level="protein"):
        """Return what the parameters come to: models, settings, and what rows depend on.

        Parameters
        ----------
        level : {"protein", "residue"}, default="protein"
            Whether for the rows of :meth:`transform` or those of :meth:`iter_residues`, in
            which ``pooling`` and ``reference`` have no part.

        Returns
        -------
        plan : EmbeddingPlan
            ``plan.blocks`` are the blocks of columns, ``plan.identity()`` is equal for equal
            rows, whatever the models are called and wherever they lie.

        Raises
        ------
        ValueError, TypeError
            If a parameter has no meaning.

        ModelNotFoundError
            If the configuration of a model is neither on disk nor to be had.

        Examples
        --------
        >>> from revdist_sklearn import ESMFeaturizer
        >>> plan = ESMFeaturizer("esm2-nano:64").embedding_plan()
        >>> plan.blocks.sizes
        (32, 64)
        >>> plan.identity() == ESMFeaturizer("esm2-nano").embedding_plan().identity()
        False
        """
        self._validate_params()
        if level not in ("protein", "residue"):
            raise ValueError(f"level={level!r} must be 'protein' or 'residue'.")
        if self.device is not None and "device_map" in (self.model_kwargs or {}):
            raise ValueError(
                f"`device`={self.device!r} and a `device_map` in `model_kwargs` both say where "
                "the models run; leave `device` at None."
            )
        plan = EmbeddingPlan(
            self._members(),
            None,
            dtype=self.dtype,
            layer=tuple(self.layer) if isinstance(self.layer, list) else self.layer,
            device=self.device,
            model_kwargs=self.model_kwargs or {},
            max_length=self.max_length,
            too_long=self.too_long,
            token_budget=self.token_budget,
            silent=not self.verbose,
        )
        if level == "residue":
            return plan
        reference = self.reference
        if reference is not None:
            [reference] = plan.prepare([reference], [REFERENCE])
        pooling = resolve_pooling(self.pooling, reference)
        # Of "mutated" the reference's own row is zero.
        subtracted = None if pooling.reference is not None else reference
        plan = replace(plan, pooling=pooling, reference=subtracted)
        plan.check_start_tokens()
        return plan

    def __getattr__(self, name):
        # No property: scikit-learn reads all properties to draw an estimator in a notebook, and
        # this one may raise for the models it is given. No hub is asked for it either.
        if name == "block_sizes_":
            return blocks_of(self._members(local_files_only=True)).sizes
        if name == "packed_":
            plan = self.embedding_plan("residue")
            packings = [[run.encoder().packing] * len(run.layers) for run, _ in plan.runs()]
            return dict(zip(plan.blocks.labels, chain.from_iterable(packings), strict=True))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _members(self, local_files_only=None, causal=None):
        causal = self.causal if causal is None else causal
        return with_layers(super()._members(local_files_only, causal), self.layer)

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
        return np.array(blocks_of(self._members()).columns(), dtype=object)

    def for_prefix(self, d):
        """Return a featurizer that runs only the models which a prefix needs.

        The first ``d`` columns of a nested embedding depend on the models up to the first
        one of at least ``d`` columns.

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
            If ``d`` is out of range, or the widths do not ascend, so that the prefix depends
            on the distiller's ``residual_sizes``.

        See Also
        --------
        with_n_models : By the number of models.

        Examples
        --------
        >>> from revdist_sklearn import ESMFeaturizer
        >>> ESMFeaturizer("esm2:650M").for_prefix(400).block_sizes_
        (320, 480)
        """
        blocks = blocks_of(self._members())
        if not ascending(blocks):
            raise ValueError(
                f"The widths {blocks.sizes} do not ascend, so the models that a prefix needs "
                "depend on the `residual_sizes` of the distiller. Name the models yourself: "
                "set_params(models=...), or with_n_models."
            )
        widest = blocks.sizes[-1]
        message = f"`d`={d!r} is no prefix of this family; use an integer in [1, {widest}]."
        d = check_integer(d, "d", 1, widest, message)
        return self.with_n_models(next(i for i, w in enumerate(blocks.sizes) if w >= d) + 1)

    def with_n_models(self, n):
        """Return a featurizer of the first models that takes proteins as all of them do.

        Parameters
        ----------
        n : int
            Number of models, from 1 to that of the family; with several layers that of their
            blocks, of which the last model may keep a part.

        Returns
        -------
        featurizer : ESMFeaturizer
            A new one, with the other parameters as they are; where a model that is left out
            had the least limit, that is its ``max_length``.

        Raises
        ------
        ValueError
            If there are not so many models.

        Examples
        --------
        >>> from revdist_sklearn import ESMFeaturizer
        >>> ESMFeaturizer("esm2-nano").with_n_models(2).models
        'esm2-nano:64'
        """
        plan = self.embedding_plan("residue")
        most = len(plan.members)
        n = check_integer(
            n,
            "n",
            1,
            most,
            f"`n`={n!r} models are none of this family; use an integer in [1, {most}].",
        )
        layer = self.layer
        if isinstance(layer, (list, tuple)):
            of_models = groupby(plan.members[:n], as_model)
            kept = [[member.layer for member in of_model] for _, of_model in of_models]
            n = len(kept)
            layer = kept[0] if kept.count(kept[0]) == n else kept
        several = isinstance(self.models, (list, tuple))
        models = self.models[:n] if several else alias_of(self.models, n) or self.models
        revision = self.revision
        if isinstance(revision, (list, tuple)):
            revision = revision[:n]
        first = clone(self).set_params(models=models, revision=revision, layer=layer)
        # A model that is left out may have been the one with the least limit.
        if first.embedding_plan("residue").limit != plan.limit:
            first.set_params(max_length=plan.limit)
        return first
