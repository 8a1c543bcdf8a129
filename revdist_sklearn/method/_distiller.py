"""The nested embedding as a scikit-learn transformer."""

from copy import copy, deepcopy
from itertools import accumulate
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    _check_feature_names_in,
    check_array,
    check_is_fitted,
    validate_data,
)

from ..base._aliases import alias_blocks, alias_of
from ..base._blocks import Blocks
from ..base._provenance import of_first
from ..base._threads import one_thread_of_blas
from ..base._upload import check_upload, upload
from ..base._validation import check_integer
from ..base._warnings import warn
from ._card import model_card
from ._chain import (
    EPSILON,
    NULL,
    RANK,
    apply_chain,
    importance_order,
    linear_map,
    reconstruct,
    solve_chain,
    truncate_chain,
)
from ._distiller_file import WEIGHTS, damaged, fetch, plain, read_chain, write_chain
from ._finite import check_finite
from ._moments import Moments, coarser
from ._rounding import KINDS

# Half precision keeps enough of a column whose mean is within this many of its spreads.
HALF_SPREADS = 10
# What only the solved chain tells; of residual sizes that are shares, and of an order by
# variance, also its widths.
SOLVED = ("components_", "stages_")
WIDTHS = ("n_components_", "stage_dims_", "n_models_", "column_order_")


class ReverseDistiller(TransformerMixin, BaseEstimator):
    """Nested embedding of a family of models by reverse distillation.

    The columns of X are the embeddings of a family of models side by side, narrowest first.
    Each stage regresses the next model on the nested embedding so far, and appends the
    leading principal directions of what the regression leaves. The first k_1 columns of the
    result are the smallest model's embedding itself, and any prefix is a usable embedding.

    The fit depends on the rows through their mean and covariance alone: it takes one pass,
    and memory for one D x D matrix.

    Parameters
    ----------
    block_sizes : tuple of int or str, default=None
        Widths k_1, .., k_m of the blocks of columns, one block a model, or the alias of a
        family such as ``"esm2-nano"`` or ``"esm2:150M"``. None reads the blocks from column names
        ``<block>__<column>``; X without such names is one block, which is returned as it is,
        with a warning.

    n_components : int, default=None
        Columns of the nested embedding. None gives all: the width of the largest model,
        unless ``residual_sizes`` says otherwise. Where shares come to fewer columns than are
        asked for, a warning says so.

    regressor : {"ols", "ridge", "pcr"}, default="ols"
        How the larger model is regressed on the smaller prefix. ``"ols"``: least squares;
        the stage then is the best affine completion of the prefix (Theorem 1 of [1]_).
        ``"ridge"``: with penalty ``alpha``. ``"pcr"``: least squares on the principal
        components above Johnstone's bulk edge, the setting that [1]_ publishes.

    alpha : float, default=1.0
        Penalty of ``"ridge"``, as in :class:`~sklearn.linear_model.Ridge`: added to sums
        over centred rows. 0 is least squares.

    residual_sizes : tuple of (int or float), or float, default=None
        Columns that stages 2 to m append. None: k_i - k_{i-1}, so that the prefix grows to
        each model's own width; families whose widths do not grow, and layers of one model, need
        it given. A float in (0, 1) is a share: as many residual directions, one at least, as
        explain more than it of the residual's variance, as ``n_components`` of
        :class:`~sklearn.decomposition.PCA` has it, at the level of ``residual_level``. One float
        is for all stages. How many columns that came to is known after the fit.

    rotate_base : bool or str, default=False
        Turn the first block to its principal axes, so that a prefix shorter than k_1 is a
        good one. The first columns are then no longer the smallest model's own. True turns
        it to the axes of residues, the name of a level, as for ``residual_level``, to those
        of that level.

    residual_level : str, default="residue"
        Rows that choose the residual directions: ``"residue"``, as in [1]_; ``"protein"``,
        the means of proteins, which needs ``proteins`` or moments of a corpus; ``"mutant"``,
        random substitutions (``mutants`` of :func:`corpus_moments`); or any other level that
        the moments have. The regression is on residues in any case.

    order : {"stage", "variance"}, default="stage"
        Order of the columns. ``"stage"``: model by model, so that prefixes nest as in [1]_.
        ``"variance"``: all columns by their variance at ``residual_level``, descending, so that
        a short prefix takes the strongest of all models; ``n_models_`` says which it needs.
        ``n_components`` keeps the first columns in that order.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features_in_)
        The matrix of the affine map from X to the nested embedding.

    mean_ : ndarray of shape (n_features_in_,)
        Mean of X.

    n_components_ : int
        Columns of the nested embedding.

    stage_dims_ : ndarray of shape (n_stages,)
        Width of the nested embedding after each stage; the first is the base. In general, the
        longest prefix for which the models up to that stage suffice: with
        ``order="variance"`` it may be 0.

    n_models_ : ndarray of shape (n_components_,)
        How many models, the first ones, the prefix of 1, 2, .. columns needs.

    column_order_ : ndarray of shape (n_components_,)
        Where each column stands in the order of stages; ``arange`` with ``order="stage"``.

    stages_ : list of Stage, length n_stages
        What each stage found, the base being the first: see :class:`Stage`. After
        ``partial_fit`` this and ``components_`` are solved when first asked for.

    blocks_ : Blocks
        The blocks of columns, one a model.

    block_sizes_ : tuple of int
        Widths of the blocks.

    block_names_ : tuple of str or None
        Names of the blocks, where known.

    n_samples_seen_ : int
        Rows of positive weight.

    provenance_ : dict or None
        What a fit on a corpus knows of it: ``members``, the models with digests of their
        weights; ``corpora``, digest, proteins and residues of each corpus; and the
        ``version`` of this package. By it ``compact`` and ``revdist`` know the models of the
        fit again, whatever their folders are called. None after a fit on rows.

    rounding_ : dict or None
        Of a distiller that was kept in less than float64: its ``dtype``, and the errors that
        were measured when it was written, see :meth:`save_pretrained`. None of others.

    n_features_in_ : int
        D, the number of columns of X.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where ``fit`` saw a frame.

    See Also
    --------
    fit_on_corpus : Fits on the residues of a corpus, the recommended way.
    PrefixSelector : Cuts the embedding inside a pipeline.

    Notes
    -----
    O(n D^2) time for n rows, O(sum k_i^3 + D k_m^2) for the chain, O(D^2) memory.

    The chain is accumulated, as Algorithm 3 of [1]_ has it: each stage regresses on the
    nested embedding to which it is applied. Products and sums are float64 whatever the type of
    the rows, so that shares of explained variance are those of an SVD of the rows to about
    ``2e-16 * condition**2``: to 1e-10 up to condition numbers of 500, to 1e-3 up to 1e6 (see
    ``Stage.condition``). The error is absolute, in shares of a model's variance, and not relative
    to a tiny share that is left unexplained: 3e-10 at a condition of 100 is known to 2e-12, a part
    in 150 at worst. Rank is judged on columns of unit variance, and what cannot be told
    from rounding has no part: directions of the prefix below 1e-6 of the largest singular
    value, or within the rounding of the rows by their type; residual directions within 4e-15
    of what the larger model's columns vary by along them (more in wide blocks) and of what the
    regression takes away from that, grown by the condition of what it draws on. Columns of the
    latter are zero, so that the width is kept. A warning says where directions of the prefix
    are lost that do vary, or a whole stage is. Directions below 6e-8 of the largest, and those
    within the rounding of the rows, are taken to be the null ones of a LayerNorm, silently,
    unless rows of float64 are at hand (not in moments from a file) and vary along them: a few
    are kept to ask, and columns that are zero although the rows vary are warned of too.

    Fit on many diverse rows, at least twice as many as the prefix has columns; on a few
    hundred similar ones least squares leaves no residual to speak of, and a warning says so.

    References
    ----------
    .. [1] Catrina, Bepler, Sledzieski, Singh, "Reverse Distillation: Consistently Scaling
       Protein Language Model Representations", ICLR 2026, arXiv:2603.07710.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import ReverseDistiller
    >>> rng = np.random.default_rng(0)
    >>> small = rng.normal(size=(200, 2))
    >>> large = small @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(200, 4))
    >>> distiller = ReverseDistiller(block_sizes=(2, 4)).fit(np.hstack([small, large]))
    >>> Z = distiller.transform(np.hstack([small, large]))
    >>> Z.shape, bool(np.all(Z[:, :2] == small))
    ((200, 4), True)
    >>> distiller.stages_[1].explained_before > 0.95
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "block_sizes": ["array-like", str, None],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "regressor": [StrOptions({"ols", "ridge", "pcr"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "residual_sizes": ["array-like", Interval(Real, 0, 1, closed="neither"), None],
        "rotate_base": ["boolean", str],
        "residual_level": [str],
        "order": [StrOptions({"stage", "variance"})],
    }

    def __init__(
        self,
        block_sizes=None,
        *,
        n_components=None,
        regressor="ols",
        alpha=1.0,
        residual_sizes=None,
        rotate_base=False,
        residual_level="residue",
        order="stage",
    ):
        self.block_sizes = block_sizes
        self.n_components = n_components
        self.regressor = regressor
        self.alpha = alpha
        self.residual_sizes = residual_sizes
        self.rotate_base = rotate_base
        self.residual_level = residual_level
        self.order = order

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None, *, proteins=None):
        """Fit the chain on rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings of the family side by side, narrowest model first.

        y : None
            Ignored.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights; 0 leaves a row out, 2 counts it twice.

        proteins : array-like of shape (n_samples,), default=None
            Label of the protein of each row, for ``residual_level="protein"``.

        Returns
        -------
        self : ReverseDistiller

        Raises
        ------
        ValueError
            If X is not finite or has fewer than two rows, if the widths do not add up to its
            columns, or if a stage would get no columns.
        """
        self._forget()
        self.provenance_ = self.rounding_ = None
        half = _half_kind(X)
        X = self._validate_rows(X, reset=True, ensure_min_samples=2)
        moments = self._new_moments(X)
        self._adopt(moments)
        self._update(moments, X, half, sample_weight, proteins)
        return self._finish(moments)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None, *, proteins=None):
        """Add rows to the fit; any split of the rows gives the same result.

        The moments of all rows are kept in the estimator. The chain is solved when its result
        (``transform``, ``stages_``, ``components_``, ..) is first asked for, so that a call
        costs the update only.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings of the family side by side, narrowest model first.

        y : None
            Ignored.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights; 0 leaves a row out, 2 counts it twice.

        proteins : array-like of shape (n_samples,), default=None
            Label of the protein of each row, for ``residual_level="protein"``; the rows of a
            protein must come in one call.

        Returns
        -------
        self : ReverseDistiller

        Raises
        ------
        ValueError
            As ``fit``; fewer than two rows are an error when the result is asked for.
        """
        first = self.__dict__.get("_moments") is None
        if first and "_chain" in self.__dict__:
            warn(
                "partial_fit starts anew: fit and fit_moments keep no moments to go on from, so "
                "their rows do not count. Use partial_fit for all rows, or merge Moments and "
                "call fit_moments.",
            )
            self._forget()
        half = _half_kind(X)
        X = self._validate_rows(X, reset=first)
        moments = self._new_moments(X) if first else self.__dict__["_moments"]
        if not first and self.block_sizes is not None:
            self._check_blocks(moments)
        if "protein" in (self.residual_level, self.rotate_base) and proteins is None:
            name = "residual_level" if self.residual_level == "protein" else "rotate_base"
            raise ValueError(
                f'{name}="protein" needs proteins, the label of the protein of each row, '
                "in every call."
            )
        # What is wrong is found before rows are added.
        copy(self)._adopt(moments, quietly=not first)
        self._update(moments, X, half, sample_weight, proteins)
        self._adopt(moments, quietly=True)
        self._moments, self._chain = moments, None
        self.provenance_ = self.rounding_ = None
        for name in SOLVED:  # those of the rows so far
            self.__dict__.pop(name, None)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_moments(self, moments):
        """Fit the chain on moments gathered before, without another pass over the rows.

        Parameters
        ----------
        moments : Moments
            From ``corpus_moments`` or ``Moments.update``. Not kept, not changed.

        Returns
        -------
        self : ReverseDistiller
        """
        if not isinstance(moments, Moments):
            raise TypeError(
                f"fit_moments takes Moments, not {type(moments).__name__}; gather them with "
                "corpus_moments or Moments(block_sizes).update(rows), or call fit on rows."
            )
        self._forget()
        self._adopt_moments(moments)
        self.provenance_, self.rounding_ = deepcopy(moments.provenance), None
        return self._finish(moments)

    def check_moments(self, moments):
        """Raise where parameters do not suit the blocks of moments, however few rows these have.

        What would be wrong after a long pass is found before it.

        Parameters
        ----------
        moments : Moments

        Raises
        ------
        ValueError
            As ``fit_moments``.
        """
        self._validate_params()
        copy(self)._adopt_moments(moments, quietly=True)

    def transform(self, X):
        """Return the nested embedding.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings of the family side by side, residues or means over proteins.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components_)
            Of the dtype of X, float32 or float64.
        """
        chain = self._solved()
        return self._in_order(apply_chain(chain, self._validate_rows(X, reset=False)))

    def _in_order(self, columns):
        """Return columns that come in the order of stages in that of the embedding."""
        return columns if self._order is None else columns[..., self._order]

    def inverse_transform(self, Z):
        """Return the best affine reconstruction of all models from a prefix.

        Parameters
        ----------
        Z : array-like of shape (n_samples, d)
            The first d columns of the nested embedding, any d up to ``n_components_``.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features_in_)
            The blocks that the prefix contains exactly, the others by least squares on the
            rows of the fit.
        """
        chain = self._solved()
        Z = check_array(
            _from_tensor_or_half(Z), dtype=[np.float64, np.float32], ensure_all_finite=False
        )
        check_finite(Z, "Input Z")
        if Z.shape[1] > self.n_components_:
            raise ValueError(
                f"Z has {Z.shape[1]} columns and the chain {self.n_components_}; give a prefix "
                f"of 1 to {self.n_components_} columns."
            )
        if chain.cross_covariance is None:
            raise ValueError(
                "This chain was loaded without the covariance that a reconstruction needs; fit "
                "it on a corpus (fit_on_corpus) to use inverse_transform."
            )
        columns = None if self._order is None else self._order[: Z.shape[1]]
        return reconstruct(chain, Z, columns)

    def truncate(self, d):
        """Return a fitted copy that gives the first d columns from the blocks they need.

        Parameters
        ----------
        d : int
            Columns to keep, from 1 to ``n_components_``.

        Returns
        -------
        distiller : ReverseDistiller
            Takes only the blocks of the models that the prefix needs: those up to the first
            that is at least d wide, or with ``order="variance"`` the first ``n_models_[d - 1]``.
        """
        chain = self._solved()
        d = check_integer(
            d,
            "d",
            1,
            self.n_components_,
            f"d={d!r} is no prefix of the {self.n_components_} columns of the chain; use an "
            f"integer in [1, {self.n_components_}].",
        )
        cut = copy(self)
        order = self._order if self._order is None else self._order[:d]
        chain = truncate_chain(chain, d if order is None else int(order.max()) + 1)
        n_blocks = len(chain.blocks)
        cut.n_components = d
        if isinstance(self.block_sizes, str):
            # The alias also names the blocks, for a fit on arrays.
            cut.block_sizes = alias_of(self.block_sizes, n_blocks)
        elif self.block_sizes is not None:
            cut.block_sizes = chain.blocks.sizes
        if not (self.residual_sizes is None or isinstance(self.residual_sizes, Real)):
            cut.residual_sizes = tuple(self.residual_sizes)[: n_blocks - 1]
        if hasattr(self, "feature_names_in_"):
            cut.feature_names_in_ = self.feature_names_in_[: chain.blocks.n_columns]
        return cut._with_chain(
            chain,
            blocks=chain.blocks,
            stage_sizes=self._stage_sizes[:n_blocks],
            n_samples_seen=self.n_samples_seen_,
            provenance=of_first(getattr(self, "provenance_", None), n_blocks),
            rounding=getattr(self, "rounding_", None),
            order=order,
        )

    def save_pretrained(self, folder, *, dtype="float64"):
        """Write the fitted distiller to a folder, as safetensors and JSON.

        ``chain.safetensors`` holds all of it, with a digest, and is put in its place in one
        step; ``config.json`` is a copy of its header to be looked at.

        Parameters
        ----------
        folder : path-like
            Made where it does not exist. A distiller that is there is replaced.

        dtype : {"float64", "float32", "float16", "bfloat16"}, default="float64"
            Type in which its matrices are kept: half, or a quarter, of the bytes. Means and
            variances stay in float64, and so do the sums of a distiller that is read again.
            Those in less than float64 are of format 4, which older versions do not read.

        Raises
        ------
        OSError
            If the folder holds something else, such as a model, or cannot be written; what
            stood there is still there.

        ValueError
            If a number is beyond the largest of ``dtype``, as 65,504 of float16; the message
            says which type takes it.

        Notes
        -----
        What rounding costs is measured against the chain in float64 and written beside it:
        ``rounding`` in the JSON, ``rounding_`` of the distiller that is read. 1,000 rows are
        drawn, with a fixed seed, from the mean and the covariance that the chain knows: that of
        the best reconstruction of X, and the variances beyond it, spread evenly.
        ``largest`` and ``root_mean_square`` are of the differences between their columns of
        the embedding, in units of each column's spread; ``explained`` is the largest
        difference between the shares of a model's variance that ``inverse_transform`` of its
        prefix explains; ``stages`` has the same stage by stage. A warning says where columns
        move by more than 0.05, or shares by more than 0.01. A chain without covariance
        (published scalers) is measured on independent columns of unit variance.

        See Also
        --------
        from_pretrained : Reads it.
        push_to_hub : Puts it on the hub.
        """
        self._save(folder, dtype)

    def _save(self, folder, dtype):
        """Write the distiller to a folder; return what its JSON tells."""
        chain = self._solved()
        self._validate_params()
        if dtype not in KINDS:
            raise ValueError(f"dtype={dtype!r} is none of {', '.join(map(repr, KINDS))}.")
        parameters = {name: plain(value, name) for name, value in self.get_params().items()}
        share = parameters["residual_sizes"]
        share = share if isinstance(share, float) else None
        if share is not None:  # older versions know a tuple alone
            parameters["residual_sizes"] = [share] * (len(self.blocks_) - 1)
        header = {
            "parameters": parameters,
            **({} if share is None else {"residual_share": share}),
            "block_sizes": self.blocks_.sizes,
            "block_names": self.blocks_.names,
            "stage_sizes": self._stage_sizes,
            "n_samples_seen": self.n_samples_seen_,
            "feature_names_in": list(getattr(self, "feature_names_in_", [])),
            "provenance": getattr(self, "provenance_", None),
            "rounding": getattr(self, "rounding_", None),
            "column_order": None if self._order is None else self._order.tolist(),
        }
        return write_chain(folder, chain, header, dtype)

    def push_to_hub(
        self,
        repo_id,
        *,
        dtype="float64",
        private=None,
        revision=None,
        token=None,
        commit_message=None,
        license=None,
        tags=(),
    ):
        """Put the fitted distiller on the Hugging Face hub, with a model card.

        The files are those of :meth:`save_pretrained`; ``README.md`` tells what their JSON does:
        stages, models, corpora and the error of rounding. The repository is made where it does
        not exist; a distiller and a README.md that are there are replaced.

        Parameters
        ----------
        repo_id : str
            Owner and name, such as ``"lab/distiller"``.

        dtype : {"float64", "float32", "float16", "bfloat16"}, default="float64"
            As in :meth:`save_pretrained`.

        private : bool, default=None
            Whether a new repository is private. None leaves that to the hub: public, unless the
            owner has it otherwise. With True, one that is there and public is an error.

        revision : str, default=None
            Branch, made where it does not exist; None for the main one.

        token : str, default=None
            Name of the environment variable that holds a token that may write; never the token
            itself. None: what ``hf auth login`` or ``HF_TOKEN`` say.

        commit_message : str, default=None
            None: what was fitted.

        license : str, default=None
            As the hub knows it, such as ``"mit"``. None names none.

        tags : sequence of str, default=()
            For the card, besides those that every card has.

        Returns
        -------
        url : str
            Of the commit.

        Raises
        ------
        UploadError
            If there is no token or network, the hub refuses, the repository holds something
            else than a distiller, or is public with ``private=True``.

        ValueError
            If ``repo_id`` has another form, ``token`` is a token itself, or ``dtype`` is too
            narrow.
        """
        secret = check_upload(repo_id, token)
        if isinstance(tags, str):
            raise ValueError(f"tags={tags!r} is one text; give a list of them.")
        with TemporaryDirectory() as folder:
            config = self._save(folder, dtype)
            stages = self._solved().stages
            card = model_card(config, stages, repo_id, license=license, tags=tags)
            (Path(folder) / "README.md").write_text(card, encoding="utf-8")
            if commit_message is None:
                commit_message = f"Reverse distiller of {self.n_components_} columns, {dtype}"
            return upload(
                folder,
                repo_id,
                secret,
                known_by=WEIGHTS,
                revision=revision,
                private=private,
                message=commit_message,
            )

    @classmethod
    def from_pretrained(cls, folder, *, revision=None, local_files_only=False, token=None):
        """Read a fitted distiller that ``save_pretrained`` wrote.

        Parameters
        ----------
        folder : path-like or str
            The folder, the id of a hub repository that holds its files, or the alias of a
            family whose distiller is part of this package: ``"esm2-nano"``, or
            ``"esm2-nano:64"`` for the one of its first two models. Folders come first.

        revision : str, default=None
            Commit, tag or branch of a hub repository.

        local_files_only : bool, default=False
            Never ask the hub; use what was downloaded before.

        token : str, default=None
            Name of the environment variable that holds the access token for gated or private
            repositories, such as ``"HF_TOKEN_LAB"``; never the token itself. None: what
            ``hf auth login`` or ``HF_TOKEN`` say.

        Returns
        -------
        distiller : ReverseDistiller

        Raises
        ------
        FileNotFoundError
            If the folder holds no distiller, or (as :exc:`ModelNotFoundError`, a subclass)
            there is neither such a folder nor such a repository.

        FormatError
            If a newer version has written it.

        DamagedFileError
            If its file is not what was written.

        ValueError
            If a family has no member of the size that an alias names.

        Examples
        --------
        >>> from revdist_sklearn import ESMFeaturizer, ReverseDistiller
        >>> distiller = ReverseDistiller.from_pretrained("esm2-nano")
        >>> X = ESMFeaturizer("esm2-nano").transform(["MKTAYIAKQR", "GSHMWWY"])
        >>> distiller.transform(X).shape
        (2, 96)
        """
        found, width = fetch(folder, revision, local_files_only, token)
        chain, header = read_chain(found)
        with damaged(found):
            parameters = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in header["parameters"].items()
            }
            if "residual_share" in header:
                parameters["residual_sizes"] = header["residual_share"]
            distiller = cls(**parameters)._with_chain(
                chain,
                blocks=Blocks(header["block_sizes"], header["block_names"]),
                stage_sizes=tuple(header["stage_sizes"]),
                n_samples_seen=header["n_samples_seen"],
                provenance=header["provenance"],
                rounding=header["rounding"],
                order=header["column_order"],
            )
            distiller._validate_params()
        if names := header["feature_names_in"]:
            distiller.feature_names_in_ = np.asarray(names, dtype=object)
        if width is not None and width < distiller.n_components_:
            return distiller.truncate(width)
        return distiller

    def get_feature_names_out(self, input_features=None):
        """Return names of the output columns, ``rd_<block>__<column>``.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Checked against the columns of the fit, otherwise not used.

        Returns
        -------
        names : ndarray of str objects of shape (n_components_,)
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        if "n_components_" not in self.__dict__:  # of shares, after partial_fit
            self._solved()
        columns = Blocks(self._stage_sizes, self.blocks_.labels).columns("rd_")
        return np.asarray(columns, dtype=object)[self.column_order_]

    def __getattr__(self, name):
        # No property: scikit-learn reads all properties to draw an estimator in a notebook.
        if name in (*SOLVED, *WIDTHS) and self.__dict__.get("_moments") is not None:
            try:
                self._tell(self._chain or self._solve(self._moments))
            except ValueError as error:  # too few rows so far
                raise AttributeError(f"{name} cannot be told: {error}") from error
            return self.__dict__[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _solved(self):
        """Return the chain, solved now where rows came by ``partial_fit``."""
        check_is_fitted(self)
        if self._chain is None:
            self._tell(self._solve(self._moments))
        return self._chain

    def _finish(self, moments):
        """Fit the chain on moments, which are not kept."""
        self._tell(self._solve(moments))
        self._moments = None
        return self

    def _tell(self, chain):
        """Keep a chain, and what users are told of it."""
        self.stages_ = list(chain.stages)
        self.components_ = self._in_order(linear_map(chain).T).T
        self.mean_ = chain.mean
        self._tell_widths([stage.width for stage in chain.stages])
        self._chain = chain

    def _tell_widths(self, widths):
        """Keep how wide the embedding is, and what its prefixes need."""
        order = np.arange(widths[-1]) if self._order is None else self._order
        stage = np.searchsorted(widths, order, side="right")
        self.column_order_, self.n_components_ = order, len(order)
        self.n_models_ = np.maximum.accumulate(stage) + 1
        self.stage_dims_ = np.searchsorted(self.n_models_, np.arange(len(widths)) + 1, "right")

    def _with_chain(
        self,
        chain,
        *,
        blocks,
        stage_sizes,
        n_samples_seen,
        provenance=None,
        rounding=None,
        order=None,
    ):
        """Return the estimator, fitted by a chain that was solved elsewhere."""
        self._moments, self.provenance_, self.rounding_ = None, provenance, rounding
        self._order = None if order is None else np.asarray(order)
        self._tell(chain)
        self._set_blocks(blocks)
        self._stage_sizes, self.n_samples_seen_ = stage_sizes, n_samples_seen
        return self

    def _set_blocks(self, blocks):
        self.blocks_, self.n_features_in_ = blocks, blocks.n_columns
        self.block_sizes_, self.block_names_ = blocks.sizes, blocks.names

    def _forget(self):
        """Drop an earlier fit, so that a fit that fails leaves nothing half-written."""
        for name in ("_chain", "_moments", *SOLVED, *WIDTHS):
            self.__dict__.pop(name, None)

    def _validate_rows(self, X, *, reset, ensure_min_samples=1):
        """Return X as a float array; names the place of the first value that is not finite."""
        names = getattr(X, "columns", None)
        X = _from_tensor_or_half(X)
        if not reset and not hasattr(self, "feature_names_in_") and names is not None:
            # Fitted on a corpus, whose blocks are known by name: a frame of the same blocks
            # is no mistake, a frame of others is.
            found = Blocks.of_columns(names)
            if self.blocks_.names is not None and found is not None:
                self._check_frame(found, names)
                X = np.asarray(X)
        X = validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            ensure_min_samples=ensure_min_samples,
        )
        check_finite(X, "Input X", names)
        return X

    def _check_frame(self, found, names):
        """Raise unless a frame has the columns of the fit, in their order."""
        way_out = "give the columns of the same models in the same order"
        same = f"{way_out}, or an array, X.to_numpy(), of the same models under other names."
        self.blocks_.check(found, "X has", "ReverseDistiller was fitted on", same)
        numbers = [name.rpartition("__")[2] for name in names]
        expected = [column for size in self.blocks_.sizes for column in range(size)]
        if all(map(str.isdigit, numbers)) and [*map(int, numbers)] != expected:
            raise ValueError(
                "X has the columns of each block, but its columns in another order than those "
                f"ReverseDistiller was fitted on; {way_out}."
            )

    def _given_blocks(self, n_columns):
        """Return the blocks of the ``block_sizes`` parameter, checked."""
        if isinstance(self.block_sizes, str):
            # An alias alone: a numeric estimator asks neither disk nor hub.
            blocks = alias_blocks(self.block_sizes)
        else:
            sizes = list(self.block_sizes)
            for i, size in enumerate(sizes):
                sizes[i] = check_integer(
                    size,
                    f"block_sizes[{i}]",
                    1,
                    None,
                    f"block_sizes={self.block_sizes!r} must hold the width of each block, "
                    "integers of 1 or more.",
                )
            blocks = Blocks(sizes)
        if blocks.n_columns != n_columns:
            raise ValueError(
                f"block_sizes={self.block_sizes!r} add up to {blocks.n_columns}, but X has "
                f"{n_columns} columns; give the width of each model's block, in the order of the "
                "columns."
            )
        return blocks

    def _new_moments(self, X):
        """Return empty moments of the blocks of X."""
        blocks = Blocks.of_columns(getattr(self, "feature_names_in_", None))
        if self.block_sizes is not None:
            given = self._given_blocks(X.shape[1])
            # Columns may have names that say nothing of these blocks, unless an alias knows them.
            if blocks is None or blocks.sizes != given.sizes:
                blocks = given
            way_out = "give the family of X."
            given.check(blocks, "X has", f"block_sizes={self.block_sizes!r} stands for", way_out)
        elif blocks is None:
            blocks = Blocks([X.shape[1]])
        return Moments(blocks.sizes, block_names=blocks.names)

    def _update(self, moments, X, half, sample_weight, proteins):
        if isinstance(sample_weight, Real):
            sample_weight = np.full(len(X), float(sample_weight))
        moments.update(X, sample_weight=sample_weight, proteins=proteins)
        if half is not None:  # float32 arrays here, which hold it exactly
            moments.row_precision = coarser(moments.row_precision, half)
        self.n_samples_seen_ = moments.n_rows
        self.mean_ = moments.mean

    def _adopt_moments(self, moments, quietly=False):
        """Take over the blocks of moments that were gathered elsewhere."""
        given = self._check_blocks(moments) if self.block_sizes is not None else None
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self._adopt(moments, quietly=quietly)
        if moments.blocks.names is None and given is not None:
            self._set_blocks(given)

    def _check_blocks(self, moments):
        """Raise where ``block_sizes`` are not the blocks of moments; return its blocks."""
        given = self._given_blocks(moments.n_columns)
        given.check(
            moments.blocks,
            "the moments have",
            "the parameter stands for",
            f"block_sizes={self.block_sizes!r} are not the blocks of the moments; leave "
            "block_sizes=None to take the moments' own.",
        )
        return given

    def _adopt(self, moments, quietly=False):
        """Take over the blocks of moments, and check the sizes of the stages against them."""
        blocks = moments.blocks
        sizes = blocks.sizes
        if self.residual_sizes is None:
            residual_sizes = tuple(np.diff(sizes).tolist())
        elif isinstance(self.residual_sizes, Real):
            residual_sizes = (float(self.residual_sizes),) * (len(sizes) - 1)
        else:
            residual_sizes = tuple(map(_as_share, self.residual_sizes))
            if len(residual_sizes) != len(sizes) - 1:
                raise ValueError(
                    f"residual_sizes={self.residual_sizes!r} has {len(residual_sizes)} entries "
                    f"for {len(sizes)} blocks; give one for each block but the first."
                )
        for i, (q, k) in enumerate(zip(residual_sizes, sizes[1:], strict=True), start=1):
            label = f"block {i + 1}" + (f" ({blocks.names[i]})" if blocks.names else "")
            if self.residual_sizes is None and q < 1:
                raise ValueError(
                    f"{label} has {k} columns and the block before it {sizes[i - 1]}: its stage "
                    "would get no columns. Order the models by ascending width, or give "
                    "residual_sizes: the columns that each stage appends, or a share of the "
                    "residual's variance for it to reach, such as residual_sizes=0.9."
                )
            if isinstance(q, float) and 0 < q < 1:
                continue
            name = f"residual_sizes[{i - 1}]"
            message = (
                f"{name}={q!r} of {label} must be an integer in [1, {k}], the columns of it, or a "
                "share of the residual's variance, a float in (0, 1)."
            )
            check_integer(q, name, 1, k, message)
        # Of shares the most that they can come to.
        most = [
            k if isinstance(q, float) else int(q)
            for q, k in zip(residual_sizes, sizes[1:], strict=True)
        ]
        total = sizes[0] + sum(most)
        if self.n_components is not None and self.n_components > total:
            raise ValueError(
                f"n_components={self.n_components} is larger than the {total} columns of the "
                f"chain; use an integer in [1, {total}] or None."
            )
        if len(sizes) == 1 and not quietly:
            warn(
                f"All {sizes[0]} columns are one block, and the output equals the input"
                f"{' turned to its principal axes' if self.rotate_base else ''}. Give "
                "block_sizes, the width of each model's block, or columns named "
                "<block>__<column>; a family needs two models or more.",
            )
        self._set_blocks(blocks)
        self._residual_sizes = tuple(q if isinstance(q, float) else int(q) for q in residual_sizes)
        self._stage_sizes = (sizes[0], *most)
        self._order = None
        if self._has_shares() or self.order == "variance":
            for name in WIDTHS:
                self.__dict__.pop(name, None)
        else:
            n_components = total if self.n_components is None else self.n_components
            widths = accumulate(self._stage_sizes)
            before = [width for width in widths if width < n_components]
            self._tell_widths([*before, n_components])
        # A parameter acts at fit: what is set after partial_fit has no part in its chain.
        self._parameters = {
            name: getattr(self, name)
            for name in (
                "n_components",
                "regressor",
                "alpha",
                "rotate_base",
                "residual_level",
                "order",
            )
        }

    def _has_shares(self):
        # Of pickles from before there were shares.
        sizes = self.__dict__.setdefault("_residual_sizes", self._stage_sizes[1:])
        return any(isinstance(size, float) for size in sizes)

    def _solve(self, moments):
        """Return the chain of moments."""
        moments.check_whole()
        if moments.n_rows == 0:
            raise ValueError(
                "No row has a weight above zero; add rows, or give weights of which at least one "
                "is not zero."
            )
        if moments.n_rows < 2:
            raise ValueError(
                f"Found {moments.n_rows} row(s) of positive weight while a minimum of 2 is "
                "required by ReverseDistiller; add rows."
            )
        parameters = dict(self._parameters)
        level, turned_by = parameters.pop("residual_level"), parameters.pop("rotate_base")
        by_variance = parameters.pop("order") == "variance"
        wanted = n_components = parameters.pop("n_components") or sum(self._stage_sizes)
        if by_variance:  # all, before the first in their order are kept
            n_components = sum(self._stage_sizes)
        by_protein = level == "protein"
        C_directions = C_base = of_directions = of_base = None
        if level != "residue":
            C_directions = _level_of(moments, level, "residual_level").covariance
            of_directions = moments.precisions_of(level)
        if isinstance(turned_by, str) and turned_by != "residue":
            first = slice(moments.block_sizes[0])
            turning = _level_of(moments, turned_by, "rotate_base", first)
            C_base = turning.scatter[first, first] / turning.n
            of_base = moments.precisions_of(turned_by)
        has_shares = self._has_shares()
        if not has_shares:
            self._warn_if_few_rows(moments, n_components, by_protein)
        self._warn_if_rounded(moments)
        self.n_samples_seen_ = moments.n_rows
        with one_thread_of_blas(moments.blocks.n_columns**3):
            chain = solve_chain(
                moments.n,
                moments.mean,
                moments.residue.covariance,
                self.blocks_,
                self._residual_sizes,
                n_components,
                **parameters,
                rotate_base=bool(turned_by),
                n_rows=moments.n_rows,
                C_directions=C_directions,
                C_base=C_base,
                precision=moments.product_precision,
                rows=moments.row_precision,
                sample=moments.sample,
                of_directions=of_directions,
                of_base=of_base,
            )
        self._warn_if_untold(chain)
        if has_shares:
            # Stages that were not computed keep the most that they may have.
            self._stage_sizes = (*chain.sizes, *self._stage_sizes[len(chain.sizes) :])
            self._warn_if_few_rows(moments, n_components, by_protein)
            self._warn_if_narrow(chain)
        if by_variance:
            C = moments.residue.covariance if C_directions is None else C_directions
            self._order = importance_order(chain, C)[:wanted]
            chain = truncate_chain(chain, int(self._order.max()) + 1)
        return chain

    def _warn_if_narrow(self, chain):
        """Warn where shares came to fewer columns than were asked for."""
        wanted = self._parameters["n_components"]
        if wanted is not None and wanted > chain.width:
            warn(
                f"n_components={wanted} is more than the {chain.width} columns that "
                f"residual_sizes={self.residual_sizes!r} came to, which are all given. Ask for "
                "larger shares, or fewer columns."
            )

    def _warn_if_few_rows(self, moments, n_components, by_protein):
        starts = np.cumsum(self._stage_sizes)[:-1]
        widest = max((int(w) for w in starts if w < n_components), default=0)
        if moments.n_rows < 2 * widest:
            warn(
                f"{moments.n_rows} rows are too few to tell signal from noise in a regression on "
                f"{widest} columns: the residual is understated. Fit on {2 * widest} rows or "
                "more, best the residues of a corpus (fit_on_corpus), and freeze the result.",
            )
        most = max(self._stage_sizes[1:], default=0)
        if by_protein and moments.n_proteins <= most:
            warn(
                f"{moments.n_proteins} proteins determine {moments.n_proteins - 1} residual "
                f"directions at most, fewer than the {most} columns of a stage: the others are "
                'zero. Add proteins, or use residual_level="residue".',
            )

    def _warn_if_rounded(self, moments):
        """Warn of columns whose spread half precision has rounded away."""
        kind = moments.row_precision
        if kind not in ("float16", "bfloat16"):
            return
        spread = np.sqrt(np.diag(moments.scatter) / moments.n)
        far = np.flatnonzero(np.abs(moments.mean) > HALF_SPREADS * spread)
        if not len(far):
            return
        names = self.blocks_.columns()
        shown = ", ".join(names[j] for j in far[:10]) + (", .." if len(far) > 10 else "")
        warn(
            f"{len(far)} of {len(names)} columns have a mean beyond {HALF_SPREADS} times their "
            f"spread, of which {kind} rounds away a part: {shown}. Embed in float32, or "
            "subtract the means before rounding.",
        )

    def _warn_if_untold(self, chain):
        """Warn of what the products cannot tell, and of stages that came to nothing."""
        limit = 1 / np.sqrt(RANK * EPSILON[chain.precision])
        way_out = (
            "use precision='float64' of Moments"
            if chain.precision == "float32"
            else "leave out columns that nearly repeat others, or use regressor='ridge'"
        )
        # A LayerNorm's null direction, for one, which is rounding in the rows that it gave.
        of_float32 = "; of values that were float32 once, give the rows as float32"
        for stage in chain.stages[1:]:
            if stage.n_lost:
                finer = stage.condition > 1 / np.sqrt(NULL * EPSILON[chain.precision])
                warn(
                    f"The columns before {stage.block!r} have a condition number of "
                    f"{stage.condition:.0e}; {chain.precision} products tell their directions up "
                    f"to {limit:.0e}, and {stage.n_lost} weaker ones have no part in the "
                    f"regression: {way_out}{of_float32 if finer else ''}."
                )
        for stage in chain.stages:
            if n := chain.untold.get(stage.block):
                warn(
                    f"{n} of the {stage.n_added} columns of {stage.block!r} are zero although its "
                    f"rows vary there, by less than {chain.precision} products tell from rounding"
                    f"{f' at a condition number of {stage.condition:.0e}' * bool(stage.coef.size)}"
                    f": leave out columns that nearly repeat others{of_float32}."
                )
            elif stage.n_added and not stage.n_added_nonzero:
                warn(
                    f"{stage.block!r} adds no column: nothing of it that can be told from "
                    "rounding varies"
                    f"{' beside what the smaller models explain' if stage.coef.size else ''}. Its "
                    "columns are zero; leave that model out, or fit on more diverse rows."
                )

    def __sklearn_is_fitted__(self):
        return "_chain" in self.__dict__

    def __setstate__(self, state):
        # Of pickles from before there was an order.
        super().__setstate__({"order": "stage", "_order": None, **state})
        if "_parameters" in state:
            self._parameters = {"order": "stage", **state["_parameters"]}
        if "n_components_" in state and "n_models_" not in state:
            self._tell_widths([int(width) for width in state["stage_dims_"]])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _level_of(moments, name, parameter, columns=slice(None)):
    """Return a level of moments that a parameter names, some columns of which vary."""
    levels = moments.levels
    there = name in levels
    if name == "protein" and not (there and levels[name].n > 1):
        raise ValueError(
            f'{parameter}="protein" needs moments of at least two proteins: give proteins, '
            "the label of the protein of each row, in every call, or fit on a corpus "
            "(fit_on_corpus)."
        )
    if not there:
        raise ValueError(
            f"{parameter}={name!r} is a level that the moments lack; they have "
            f"{', '.join(map(repr, levels))}. Gather it: corpus_moments(.., mutants=16) for "
            "'mutant', Moments.update(.., level=) for any other."
        )
    if not levels[name].squares[columns].any():
        where = "no column" if columns == slice(None) else "no column of the first block"
        raise ValueError(
            f"{parameter}={name!r} is a level of which {where} varies (the weights of its rows "
            f"add up to {levels[name].n:g}), so that it has no directions to choose: add rows "
            "that differ, where they are centred by protein two or more of one, or use "
            f"{parameter}={'False' if parameter == 'rotate_base' else repr('residue')}."
        )
    return levels[name]


def _as_share(size):
    """Return a fraction as a float of Python; any other size as it is."""
    return float(size) if isinstance(size, (float, np.floating)) and 0 < size < 1 else size


def _half_kind(X):
    """Return "float16" or "bfloat16" for an array or tensor of half precision, else None."""
    kind = str(getattr(X, "dtype", "")).removeprefix("torch.")
    return kind if kind in ("float16", "bfloat16") else None


def _from_tensor_or_half(X):
    """Return a torch tensor as an array, and half precision as float32, which holds it exactly."""
    half = _half_kind(X) is not None
    if hasattr(X, "detach"):
        X = X.detach().cpu()
        return (X.float() if half else X).numpy()
    return X.astype(np.float32) if half else X
