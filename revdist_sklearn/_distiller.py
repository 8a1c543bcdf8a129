"""The nested embedding as a scikit-learn transformer."""

import warnings
from copy import copy
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    _check_feature_names_in,
    check_array,
    check_is_fitted,
    validate_data,
)

from ._chain import apply_chain, linear_map, reconstruct, solve_chain, truncate_chain
from ._columns import blocks_of, column_names
from ._moments import Moments, check_finite
from ._pretrained import fetch, read_chain, write_chain

# Half precision keeps enough of a column whose mean is within this many of its spreads.
HALF_SPREADS = 10


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
        family as ``ESMFeaturizer`` takes it. None reads the blocks from column names
        ``<block>__<column>``; X without such names is one block, which is returned as it is,
        with a warning.

    n_components : int, default=None
        Columns of the nested embedding. None gives all: the width of the largest model,
        unless ``residual_sizes`` says otherwise.

    regressor : {"ols", "ridge", "pcr"}, default="ols"
        How the larger model is regressed on the smaller prefix. ``"ols"``: least squares;
        the stage then is the best affine completion of the prefix (Theorem 1 of [1]_).
        ``"ridge"``: with penalty ``alpha``. ``"pcr"``: least squares on the principal
        components above Johnstone's bulk edge, the setting that [1]_ publishes.

    alpha : float, default=1.0
        Penalty of ``"ridge"``, as in :class:`~sklearn.linear_model.Ridge`: added to sums
        over centred rows. 0 is least squares.

    residual_sizes : tuple of int, default=None
        Columns that stages 2 to m append. None: k_i - k_{i-1}, so that the prefix grows to
        each model's own width; families whose widths do not grow need it given.

    rotate_base : bool, default=False
        Turn the first block to its principal axes, so that a prefix shorter than k_1 is a
        good one. The first columns are then no longer the smallest model's own.

    residual_level : {"residue", "protein"}, default="residue"
        Rows that choose the residual directions: residues, as in [1]_, or the means of
        proteins, which needs ``groups`` or moments of a corpus. The regression is on
        residues either way.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features_in_)
        The matrix of the affine map from X to the nested embedding. Assembled at each
        access.

    mean_ : ndarray of shape (n_features_in_,)
        Mean of X.

    n_components_ : int
        Columns of the nested embedding.

    stage_dims_ : ndarray of shape (n_stages,)
        Width of the nested embedding after each stage; the first is the base.

    stages_ : list of Stage
        What each stage from the second on found: ``block``, ``width``, ``n_components``,
        ``n_components_nonzero``, ``n_regression``, ``explained_before``,
        ``explained_after``, ``residual_variances``, ``directions``, ``coef``.

    block_sizes_ : tuple of int
        Widths of the blocks.

    block_names_ : tuple of str or None
        Names of the blocks, where known.

    n_samples_seen_ : int
        Rows of positive weight.

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
    nested embedding to which it is applied. Rank is judged on columns of unit variance;
    singular values below 1e-6 of the largest count as zero. Residual directions that carry
    less than 1e-12 of the residual's variance, or 1e-14 of what the larger model's columns
    vary by along them, are arbitrary: their columns are zero, so that the width is kept. Where
    products were float32, the default for float32 rows (see ``Moments``), rounding stands at
    1e-4 of the largest singular value and 1e-6 of that variance, and these are the limits.

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
    >>> distiller.stages_[0].explained_before > 0.95
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "block_sizes": ["array-like", str, None],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "regressor": [StrOptions({"ols", "ridge", "pcr"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "residual_sizes": ["array-like", None],
        "rotate_base": ["boolean"],
        "residual_level": [StrOptions({"residue", "protein"})],
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
    ):
        self.block_sizes = block_sizes
        self.n_components = n_components
        self.regressor = regressor
        self.alpha = alpha
        self.residual_sizes = residual_sizes
        self.rotate_base = rotate_base
        self.residual_level = residual_level

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None, *, groups=None):
        """Fit the chain on rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings of the family side by side, narrowest model first.

        y : None
            Ignored.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights; 0 leaves a row out, 2 counts it twice.

        groups : array-like of shape (n_samples,), default=None
            The protein of each row, for ``residual_level="protein"``.

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
        half = _half_kind(X)
        X = self._validate_rows(X, reset=True, ensure_min_samples=2)
        moments = self._new_moments(X)
        self._adopt(moments)
        self._update(moments, X, half, sample_weight, groups)
        self._chain = self._solve(moments)
        self._moments = None
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None, *, groups=None):
        """Add rows to the fit; any split of the rows gives the same result.

        The moments of all rows are kept in the estimator. The chain is solved when its result
        is first asked for, so that a call costs the update only.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings of the family side by side, narrowest model first.

        y : None
            Ignored.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights; 0 leaves a row out, 2 counts it twice.

        groups : array-like of shape (n_samples,), default=None
            The protein of each row, for ``residual_level="protein"``; the rows of a protein
            must come in one call.

        Returns
        -------
        self : ReverseDistiller

        Raises
        ------
        ValueError
            As ``fit``; fewer than two rows are an error when the result is asked for.
        """
        first = getattr(self, "_moments", None) is None
        if first and hasattr(self, "_chain"):
            warnings.warn(
                "partial_fit starts anew: fit and fit_moments keep no moments to go on from, so "
                "their rows do not count. Use partial_fit for all rows, or merge Moments and "
                "call fit_moments.",
                stacklevel=2,
            )
            self._forget()
        half = _half_kind(X)
        X = self._validate_rows(X, reset=first)
        moments = self._new_moments(X) if first else self._moments
        if not first and self.block_sizes is not None:
            self._check_blocks(moments)
        if self.residual_level == "protein" and groups is None:
            raise ValueError(
                'residual_level="protein" needs groups, the protein of each row, in every call.'
            )
        self._adopt(moments, warn=first)
        self._update(moments, X, half, sample_weight, groups)
        self._moments, self._chain = moments, None
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
        self._chain = self._solve(moments)
        self._moments = None
        return self

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
        return apply_chain(chain, self._validate_rows(X, reset=False))

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
        if Z.shape[1] > chain.width:
            raise ValueError(
                f"Z has {Z.shape[1]} columns and the chain {chain.width}; give a prefix of 1 to "
                f"{chain.width} columns."
            )
        if chain.cross_covariance is None:
            raise ValueError(
                "This chain was loaded without the covariance that a reconstruction needs; fit "
                "it on a corpus (fit_on_corpus) to use inverse_transform."
            )
        return reconstruct(chain, Z)

    def truncate(self, d):
        """Return a fitted copy that gives the first d columns from the blocks they need.

        Parameters
        ----------
        d : int
            Columns to keep, from 1 to ``n_components_``.

        Returns
        -------
        distiller : ReverseDistiller
            Takes only the blocks of the models up to the first that is at least d wide.
        """
        chain = self._solved()
        if not _is_integer(d) or not 1 <= d <= chain.width:
            raise ValueError(
                f"d={d!r} is no prefix of the {chain.width} columns of the chain; use an integer "
                f"in [1, {chain.width}]."
            )
        cut = copy(self)
        cut._chain, cut._moments = truncate_chain(chain, int(d)), None
        n_blocks = len(cut._chain.block_sizes)
        cut.n_components = int(d)
        if isinstance(self.block_sizes, str):
            from ._family import alias_of

            # The alias also names the blocks, for a fit on arrays.
            cut.block_sizes = alias_of(self.block_sizes, n_blocks) or self.block_sizes
        elif self.block_sizes is not None:
            cut.block_sizes = cut._chain.block_sizes
        if self.residual_sizes is not None:
            cut.residual_sizes = tuple(self.residual_sizes)[: n_blocks - 1]
        cut.block_sizes_ = cut._chain.block_sizes
        cut._stage_sizes = self._stage_sizes[:n_blocks]
        if self.block_names_ is not None:
            cut.block_names_ = self.block_names_[:n_blocks]
        cut.n_features_in_ = sum(cut._chain.block_sizes)
        if hasattr(self, "feature_names_in_"):
            cut.feature_names_in_ = self.feature_names_in_[: cut.n_features_in_]
        return cut

    def save_pretrained(self, folder):
        """Write the fitted distiller to a folder, as safetensors and JSON.

        Parameters
        ----------
        folder : path-like
            Made where it does not exist.

        See Also
        --------
        from_pretrained : Reads it.
        """
        header = {
            "parameters": self.get_params(),
            "block_sizes": [int(size) for size in self.block_sizes_],
            "block_names": self.block_names_,
            "stage_sizes": self._stage_sizes,
            "n_samples_seen": self.n_samples_seen_,
            "feature_names_in": list(getattr(self, "feature_names_in_", [])),
        }
        write_chain(folder, self._solved(), header)

    @classmethod
    def from_pretrained(cls, folder, *, revision=None):
        """Read a fitted distiller that ``save_pretrained`` wrote.

        Parameters
        ----------
        folder : path-like or str
            The folder, or the id of a hub repository that holds its two files.

        revision : str, default=None
            Commit, tag or branch of a hub repository.

        Returns
        -------
        distiller : ReverseDistiller

        Raises
        ------
        FileNotFoundError
            If there is no such folder or repository.
        ValueError
            If its files are damaged.
        """
        chain, header = read_chain(fetch(folder, revision))
        parameters = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in header["parameters"].items()
        }
        names = header["block_names"]
        distiller = cls(**parameters)._with_chain(
            chain,
            block_sizes=tuple(header["block_sizes"]),
            block_names=None if names is None else tuple(names),
            stage_sizes=tuple(header["stage_sizes"]),
            n_samples_seen=header["n_samples_seen"],
        )
        if header["feature_names_in"]:
            distiller.feature_names_in_ = np.asarray(header["feature_names_in"], dtype=object)
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
        chain = self._solved()
        _check_feature_names_in(self, input_features, generate_names=False)
        names = [
            name
            for label, size in zip(self._block_labels(), self._stage_sizes, strict=True)
            for name in column_names(f"rd_{label}", size)
        ]
        return np.asarray(names[: chain.width], dtype=object)

    @property
    def components_(self):
        """Matrix of the affine map from X to the nested embedding."""
        return linear_map(self._solved())

    @property
    def mean_(self):
        """Mean of X."""
        return self._solved().mean

    @property
    def n_components_(self):
        """Columns of the nested embedding."""
        return self._solved().width

    @property
    def stage_dims_(self):
        """Width of the nested embedding after each stage."""
        chain = self._solved()
        return np.array([chain.n_base, *(stage.width for stage in chain.stages)])

    @property
    def stages_(self):
        """Results of the stages from the second on."""
        return list(self._solved().stages)

    def _solved(self):
        check_is_fitted(self)
        if self._chain is None:
            self._chain = self._solve(self._moments)
        return self._chain

    def _with_chain(self, chain, *, block_sizes, block_names, stage_sizes, n_samples_seen):
        """Return the estimator, fitted by a chain that was solved elsewhere."""
        self._chain, self._moments = chain, None
        self.block_sizes_, self.block_names_ = block_sizes, block_names
        self._stage_sizes, self.n_samples_seen_ = stage_sizes, n_samples_seen
        self.n_features_in_ = sum(block_sizes)
        return self

    def _forget(self):
        """Drop an earlier fit, so that a fit that fails leaves nothing half-written."""
        for name in ("_chain", "_moments"):
            self.__dict__.pop(name, None)

    def _validate_rows(self, X, *, reset, ensure_min_samples=1):
        """Return X as a float array; names the place of the first value that is not finite."""
        names = getattr(X, "columns", None)
        X = _from_tensor_or_half(X)
        if not reset and not hasattr(self, "feature_names_in_") and names is not None:
            # Fitted on a corpus, whose blocks are known by name: a frame of the same blocks
            # is no mistake, a frame of others is.
            if self.block_names_ is not None and (blocks := blocks_of(names)) is not None:
                fitted = list(zip(self.block_names_, self.block_sizes_, strict=True))
                numbers = [name.rpartition("__")[2] for name in names]
                expected = [column for size in self.block_sizes_ for column in range(size)]
                permuted = all(map(str.isdigit, numbers)) and [*map(int, numbers)] != expected
                if blocks != fitted or permuted:
                    found = blocks if blocks != fitted else "its columns in another order"
                    raise ValueError(
                        f"X has {found}, but ReverseDistiller was fitted on {fitted}; give the "
                        "columns of the same models in the same order."
                    )
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

    def _given_blocks(self, n_columns):
        """Return widths and names of the ``block_sizes`` parameter, checked."""
        if isinstance(self.block_sizes, str):
            from ._family import family_blocks

            names, sizes = zip(*family_blocks(self.block_sizes), strict=True)
        else:
            names, sizes = None, tuple(self.block_sizes)
            if not sizes or not all(_is_integer(k) and k >= 1 for k in sizes):
                raise ValueError(
                    f"block_sizes={self.block_sizes!r} must hold the width of each block, "
                    "integers of 1 or more."
                )
            sizes = tuple(int(k) for k in sizes)
        if sum(sizes) != n_columns:
            raise ValueError(
                f"block_sizes={self.block_sizes!r} add up to {sum(sizes)}, but X has {n_columns} "
                "columns; give the width of each model's block, in the order of the columns."
            )
        return sizes, names

    def _new_moments(self, X):
        """Return empty moments of the blocks of X."""
        named = blocks_of(getattr(self, "feature_names_in_", None))
        if self.block_sizes is not None:
            sizes, names = self._given_blocks(X.shape[1])
            if named is not None and sizes == tuple(size for _, size in named):
                if names is not None and names != tuple(name for name, _ in named):
                    raise ValueError(
                        f"X has the blocks {[name for name, _ in named]}, but block_sizes="
                        f"{self.block_sizes!r} has {list(names)}; give the family of X."
                    )
                names = tuple(name for name, _ in named)
        elif named is not None:
            names, sizes = zip(*named, strict=True)
        else:
            names, sizes = None, (X.shape[1],)
        return Moments(sizes, block_names=names)

    def _update(self, moments, X, half, sample_weight, groups):
        if isinstance(sample_weight, Real):
            sample_weight = np.full(len(X), float(sample_weight))
        moments.update(X, sample_weight=sample_weight, groups=groups)
        moments.half = moments.half or half
        self.n_samples_seen_ = moments.n_rows

    def _adopt_moments(self, moments):
        """Take over the blocks of moments that were gathered elsewhere."""
        given = self._check_blocks(moments) if self.block_sizes is not None else None
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self.n_features_in_ = moments.n_columns
        self._adopt(moments)
        self.block_names_ = moments.block_names or given

    def _check_blocks(self, moments):
        """Raise where ``block_sizes`` are not the blocks of moments; return its names."""
        sizes, names = self._given_blocks(moments.n_columns)
        if sizes != moments.block_sizes or (
            names is not None and moments.block_names not in (None, names)
        ):
            raise ValueError(
                f"block_sizes={self.block_sizes!r} are not the blocks of the moments, "
                f"{moments.block_names or ''}{moments.block_sizes}; leave block_sizes=None to "
                "take the moments' own."
            )
        return names

    def _adopt(self, moments, warn=True):
        """Take over the blocks of moments, and check the sizes of the stages against them."""
        sizes, names = moments.block_sizes, moments.block_names
        if self.residual_sizes is None:
            residual_sizes = tuple(np.diff(sizes).tolist())
        else:
            residual_sizes = tuple(self.residual_sizes)
            if len(residual_sizes) != len(sizes) - 1:
                raise ValueError(
                    f"residual_sizes={self.residual_sizes!r} has {len(residual_sizes)} entries "
                    f"for {len(sizes)} blocks; give one for each block but the first."
                )
        for i, (q, k) in enumerate(zip(residual_sizes, sizes[1:], strict=True), start=1):
            label = f"block {i + 1}" if names is None else f"block {i + 1} ({names[i]})"
            if self.residual_sizes is None and q < 1:
                raise ValueError(
                    f"{label} has {k} columns and the block before it {sizes[i - 1]}: its stage "
                    "would get no columns. Order the models by ascending width, or give "
                    "residual_sizes, the columns that each stage appends."
                )
            if not _is_integer(q) or not 1 <= q <= k:
                raise ValueError(
                    f"residual_sizes[{i - 1}]={q!r} of {label} must be an integer in [1, {k}], "
                    "the columns of that block."
                )
        total = sizes[0] + sum(residual_sizes)
        if self.n_components is not None and self.n_components > total:
            raise ValueError(
                f"n_components={self.n_components} is larger than the {total} columns of the "
                f"chain; use an integer in [1, {total}] or None."
            )
        if len(sizes) == 1 and warn:
            warnings.warn(
                f"All {sizes[0]} columns are one block, and the output equals the input"
                f"{' turned to its principal axes' if self.rotate_base else ''}. Give "
                "block_sizes, the width of each model's block, or columns named "
                "<block>__<column>; a family needs two models or more.",
                stacklevel=3,
            )
        self.block_sizes_, self.block_names_ = sizes, names
        self._stage_sizes = (sizes[0], *(int(q) for q in residual_sizes))
        # A parameter acts at fit: what is set after partial_fit has no part in its chain.
        self._parameters = {
            name: getattr(self, name)
            for name in ("n_components", "regressor", "alpha", "rotate_base", "residual_level")
        }

    def _solve(self, moments):
        """Return the chain of moments."""
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
        by_protein = parameters.pop("residual_level") == "protein"
        n_components = parameters.pop("n_components") or sum(self._stage_sizes)
        if by_protein and (moments.protein is None or moments.n_proteins < 2):
            raise ValueError(
                'residual_level="protein" needs moments of at least two proteins: give groups, '
                "the protein of each row, in every call, or fit on a corpus (fit_on_corpus)."
            )
        self._warn_if_few_rows(moments, n_components, by_protein)
        self._warn_if_rounded(moments)
        self.n_samples_seen_ = moments.n_rows
        return solve_chain(
            moments.n,
            moments.mean,
            moments.residue.covariance,
            moments.block_sizes,
            self._stage_sizes[1:],
            n_components,
            block_names=self._block_labels(),
            **parameters,
            n_rows=moments.n_rows,
            C_directions=moments.protein.covariance if by_protein else None,
            precision=moments.product_precision,
        )

    def _warn_if_few_rows(self, moments, n_components, by_protein):
        starts = np.cumsum(self._stage_sizes)[:-1]
        widest = max((int(w) for w in starts if w < n_components), default=0)
        if moments.n_rows < 2 * widest:
            warnings.warn(
                f"{moments.n_rows} rows are too few to tell signal from noise in a regression on "
                f"{widest} columns: the residual is understated. Fit on {2 * widest} rows or "
                "more, best the residues of a corpus (fit_on_corpus), and freeze the result.",
                stacklevel=4,
            )
        most = max(self._stage_sizes[1:], default=0)
        if by_protein and moments.n_proteins <= most:
            warnings.warn(
                f"{moments.n_proteins} proteins determine {moments.n_proteins - 1} residual "
                f"directions at most, fewer than the {most} columns of a stage: the others are "
                'zero. Add proteins, or use residual_level="residue".',
                stacklevel=4,
            )

    def _warn_if_rounded(self, moments):
        """Warn of columns whose spread half precision has rounded away."""
        if moments.half is None:
            return
        spread = np.sqrt(np.diag(moments.scatter) / moments.n)
        far = np.flatnonzero(np.abs(moments.mean) > HALF_SPREADS * spread)
        if not len(far):
            return
        names = [
            name
            for label, size in zip(self._block_labels(), self.block_sizes_, strict=True)
            for name in column_names(label, size)
        ]
        shown = ", ".join(names[j] for j in far[:10]) + (", .." if len(far) > 10 else "")
        warnings.warn(
            f"{len(far)} of {len(names)} columns have a mean beyond {HALF_SPREADS} times their "
            f"spread, of which {moments.half} rounds away a part: {shown}. Embed in float32, or "
            "subtract the means before rounding.",
            stacklevel=4,
        )

    def _block_labels(self):
        if self.block_names_ is not None:
            return self.block_names_
        return tuple(str(i + 1) for i in range(len(self.block_sizes_)))

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_chain")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _is_integer(value):
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


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
