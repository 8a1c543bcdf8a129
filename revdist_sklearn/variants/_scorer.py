"""ESMVariantScorer: what a family of models says of variants, without a measurement."""

from collections.abc import Callable
from copy import deepcopy
from typing import ClassVar

import numpy as np
from sklearn.base import _fit_context, clone
from sklearn.utils._optional_dependencies import check_pandas_support
from sklearn.utils._param_validation import StrOptions

from ..embedding._callbacks import NO_CALLBACKS, with_callbacks
from ..embedding._family_estimator import FamilyEstimator
from ..embedding._featurizer import ESMFeaturizer
from ..embedding._protein_rows import ProteinRows
from ..embedding._sequences import (
    REFERENCE,
    apply_limit,
    as_list,
    check_sequences,
    nucleotides,
    runs,
    warn_of_nucleotides,
)
from ..models._head import check_head
from ..models._loading import described
from ..models._residues import AMINO_ACIDS
from ._head_run import COPIES, LogProbabilities, MutantScores, PseudoLikelihoods, ScorePlan
from ._landscape import single_substitutions
from ._substitutions import (
    N_LETTERS,
    codes_of,
    log_ratios,
    substitutions,
    sums_by_row,
    with_masks,
)

MASKED_SCORE, WILD_TYPE, MUTANT, PSEUDO = "masked", "wild_type", "mutant", "pseudo_likelihood"
COMBINED: dict[str, Callable] = {"mean": np.mean, "min": np.min}
# Parameters that mean what they mean for the featurizer.
OF_FEATURIZER = (
    "models",
    "dtype",
    "device",
    "max_length",
    "too_long",
    "revision",
    "local_files_only",
    "token",
    "model_kwargs",
    "token_budget",
    "cache_dir",
    "n_jobs",
    "verbose",
)
# What a table depends on beside weights: with other values of these it is not that of the fit.
OF_TABLE = ("models", "reference", "score", "dtype", "max_length", "too_long", "revision")


class ESMVariantScorer(FamilyEstimator):
    """What protein language models say of variants: log-likelihood ratios, one column a model.

    A model that has learned to fill in masked residues tells how likely each amino acid is at a
    site. Log p of a variant's residue minus log p of the wild type's, summed over the mutated
    sites, tells of many proteins how harmful the mutation is, without any measurement. Greater
    is better; the reference itself has 0.

    Models run by the same rules as in :class:`ESMFeaturizer`, whose parameters these are, and
    with their language-model heads.

    Parameters
    ----------
    models : str, path, or list or tuple of these, default="esm2-nano"
        The family, as in :class:`ESMFeaturizer`: ESM-2, ESM-1b, ESM C and ProtBert. Encoders
        of T5, decoders and models without an entry have no such head, which is an error.

    reference : str or None, default=None
        Sequence of the wild type. All scores but "pseudo_likelihood" need it.

    score : {"masked", "wild_type", "mutant", "pseudo_likelihood"}, default="masked"
        What is summed, and what the model sees.

        - "masked": log p of the new residue minus log p of the wild type's at each mutated
          site, masked in the wild type. One pass for each distinct set of sites, or one for
          each site: see ``joint``.
        - "wild_type": the same, of one pass of the wild type as it is.
        - "mutant": the same, of one pass of each variant as it is.
        - "pseudo_likelihood": the sum over all sites of log p of the residue that is there,
          where it alone is masked: as many passes as a protein has residues. With a
          ``reference`` less its own sum. Insertions and deletions are scored by this alone.

    joint : bool, default=True
        Of "masked": whether the sites of a variant with several mutations are masked together,
        as Meier et al. do, one pass for each set of sites. False adds what single sites say,
        which a table of the wild type holds for all variants.

    combine : {"mean", "min"} or None, default=None
        What makes one column of those of all models; None leaves them.

    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        In what the models compute; the softmax is in float32. Of the spread of single mutants,
        scores of the bundled models are off by 0.1 to 0.2% in float16, 1 to 2% in bfloat16.

    device, max_length, revision, local_files_only, token, model_kwargs, token_budget, n_jobs
        As in :class:`ESMFeaturizer`.

    too_long : {"error", "truncate", "window"}, default="error"
        What happens to longer sequences, as in :class:`ESMFeaturizer`. With "window" only those
        windows run that hold a site which is asked for, and the head sees the mean of the
        site's states in them; "truncate" leaves mutations beyond ``max_length`` out.

    cache_dir : str, path or None, default=None
        Folder of the cache, which may be that of a featurizer: log probabilities of a site, or
        the score of a variant where they are not shared, are computed once.

    verbose : int or bool, default=0
        As in :class:`ESMFeaturizer`.

    Attributes
    ----------
    log_probabilities_ : ndarray of shape (n_models, n_residues, 20), float32, or None
        Of "masked" and "wild_type": the table of the reference, in the order of
        ``ACDEFGHIKLMNPQRSTVWY``. A fitted scorer needs no model for what it holds: all of
        "wild_type" and of ``joint=False``, single mutations of "masked".

    reference_ : str or None
        The reference in upper case.

    block_names_ : tuple of str
        Names of the models' blocks.

    See Also
    --------
    ESMFeaturizer : Embeddings of the same models.
    LandscapeDisplay : The scores of all single substitutions as a picture.

    Notes
    -----
    The softmax runs over the twenty amino acids, not over the vocabulary: special tokens and
    rare letters have little or no training, and vocabularies differ from model to model. The
    ratios of "masked", "wild_type" and "mutant" do not depend on it, for both letters have the
    same denominator; tables and pseudo-likelihoods do. A mutated site must have one of
    the twenty on both sides; X, B, Z, U and O elsewhere are context.

    Columns are named ``<block>__<score>`` (``esm2_nano_032__masked``), the combined one
    ``mean__<score>`` or ``min__<score>``. Nothing is learned from ``X`` or ``y``: ``transform``
    works without ``fit``, which computes the table once and keeps it. A scorer whose parameters
    are changed after ``fit`` computes anew.

    References
    ----------
    Meier et al., "Language models enable zero-shot prediction of the effects of mutations on
    protein function", NeurIPS 2021, for the scores and their names.

    Examples
    --------
    >>> from revdist_sklearn import ESMVariantScorer
    >>> scorer = ESMVariantScorer("esm2-nano:64", reference="MKTAYIAKQR")
    >>> scorer.transform(["MKTAYIAKQR", "MKTAYIAKQW", "MKPAYIAKQW"]).shape
    (3, 2)
    >>> scorer.get_feature_names_out().tolist()
    ['esm2_nano_032__masked', 'esm2_nano_064__masked']
    """

    _parameter_constraints: ClassVar[dict] = {
        **{name: ESMFeaturizer._parameter_constraints[name] for name in OF_FEATURIZER},
        "reference": [str, None],
        "score": [StrOptions({MASKED_SCORE, WILD_TYPE, MUTANT, PSEUDO})],
        "joint": ["boolean"],
        "combine": [StrOptions(set(COMBINED)), None],
    }

    def __init__(
        self,
        models="esm2-nano",
        *,
        reference=None,
        score="masked",
        joint=True,
        combine=None,
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
        self.reference = reference
        self.score = score
        self.joint = joint
        self.combine = combine
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
        """Check parameters and sequences, and compute what all variants share.

        That is the table of the reference for "masked" (one pass a residue) and "wild_type" (one
        pass), the reference's own sum for "pseudo_likelihood", and nothing for "mutant".

        Parameters
        ----------
        X : list, tuple, 1-d array or Series of str
            Protein sequences; they are looked at alone.

        y : None
            Ignored.

        Returns
        -------
        self : ESMVariantScorer

        Raises
        ------
        ValueError, TypeError, ModelNotFoundError, MemoryError, RuntimeError
            As in ``transform``.
        """
        plan = self._plan()
        limits = plan.letters, plan.limit
        reference = self._scored_reference(limits)
        if self.score == PSEUDO:
            self._checked(X, limits)
        else:
            self._substitutions(X, limits, reference, len(self.reference))
        context = self._init_callback_context(max_subtasks=None)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self._fitted_with = None  # what was kept is of no use from here on
        self.log_probabilities_ = self._reference_scores = None
        if self.score in (MASKED_SCORE, WILD_TYPE):
            self.log_probabilities_ = self._table(plan, reference, context=context)
        elif self.score == PSEUDO and reference is not None:
            [self._reference_scores] = self._pseudo_likelihoods(plan, [reference], context)
        self.reference_ = None if self.reference is None else self.reference.upper()
        self.block_names_ = plan.blocks.names
        self._limits = limits
        self._fitted_with = self._of_table()
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    def transform(self, X):
        """Score sequences, one row a protein.

        Parameters
        ----------
        X : list, tuple, 1-d array or Series of str of length n_samples
            Protein sequences; of the length of ``reference``, unless the score is
            "pseudo_likelihood".

        Returns
        -------
        scores : ndarray of shape (n_samples, n_models), float64
            Natural logarithms; of one column with ``combine``. A frame where ``set_output``
            asks for pandas.

        Raises
        ------
        TypeError
            If ``X`` is one string, or an item is none.

        ValueError
            If a score needs a ``reference``, or one of that length; a mutated site has a letter
            other than the twenty amino acids; a model has no language-model head; or as
            :meth:`ESMFeaturizer.transform`.

        ModelNotFoundError, MemoryError, RuntimeError
            As :meth:`ESMFeaturizer.transform`.
        """
        plan, limits = self._plan_and_limits()
        reference = self._scored_reference(limits)
        length = None if reference is None else len(self.reference)
        return self._scores(plan, limits, X, reference, length)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns, ``<block>__<score>``.

        Parameters
        ----------
        input_features : None
            Ignored: the input is text.

        Returns
        -------
        names : ndarray of shape (n_models,), object
        """
        blocks = self._block_names() if self.combine is None else [self.combine]
        return np.array([f"{block}__{self.score}" for block in blocks], dtype=object)

    def site_log_probabilities(self, reference=None):
        """Return what each model says of each site of a protein.

        The table of masked sites, or of one pass of the protein as it is for
        ``score="wild_type"``. A fitted scorer has that of its own reference.

        Parameters
        ----------
        reference : str, default=None
            A protein; None is the parameter ``reference``.

        Returns
        -------
        frame : pandas.DataFrame of shape (n_residues, 20 * n_models), float32
            Natural logarithms of probabilities that sum to 1 over the twenty amino acids of a
            model. Rows are named as ``"M1"``, the first residue being number 1. Columns are
            named ``<block>__<residue>``, as all columns here are, so that the frame goes
            through CSV and Parquet and one model is ``frame.filter(like="esm2_nano_032__")``.

        Raises
        ------
        ValueError
            If there is no reference, or the score is "mutant", which has no table; or as
            ``transform``.

        ImportError
            If pandas is not installed.

        Examples
        --------
        >>> from revdist_sklearn import ESMVariantScorer
        >>> frame = ESMVariantScorer("esm2-nano:32").site_log_probabilities("MKTAY")
        >>> frame.shape, frame.index[0], frame.columns[0]
        ((5, 20), 'M1', 'esm2_nano_032__A')
        >>> bool((frame.iloc[:, :20].to_numpy().argmax(axis=1) >= 0).all())
        True
        """
        if self.score == MUTANT:
            raise ValueError(
                "score='mutant' has no table: each variant is a context of its own. Use "
                "score='masked' or 'wild_type' for one."
            )
        pd = check_pandas_support("site_log_probabilities")
        scorer = self._of_reference(reference)
        text, table = scorer._reference_and_table()
        names = [f"{block}__{letter}" for block in scorer._block_names() for letter in AMINO_ACIDS]
        sites = [f"{letter}{i}" for i, letter in enumerate(text, start=1)]
        # From (models, residues, 20) to a row a residue; a copy, which callers may write to.
        return pd.DataFrame(np.concatenate(table, axis=1), index=sites, columns=names)

    def score_landscape(self, reference=None):
        """Return the scores of all single substitutions of a protein.

        Parameters
        ----------
        reference : str, default=None
            A protein; None is the parameter ``reference``.

        Returns
        -------
        frame : pandas.DataFrame of 19 rows a residue
            "mutant" (``"M1A"``), "position" (from 1), "wild_type" and "residue" (letters), as
            :func:`single_substitutions` gives them, and the scores, named as the columns of
            ``transform``. "masked" and "wild_type" take the passes of one table, "mutant" a
            pass a row, "pseudo_likelihood" as many a row as there are residues.

        Raises
        ------
        ValueError
            If there is no reference; or as ``transform``.

        ImportError
            If pandas is not installed.

        See Also
        --------
        LandscapeDisplay : Draws it.

        Examples
        --------
        >>> from revdist_sklearn import ESMVariantScorer
        >>> scorer = ESMVariantScorer("esm2-nano", combine="min")
        >>> frame = scorer.score_landscape("MKTAY")
        >>> len(frame), frame.columns.tolist()
        (95, ['mutant', 'position', 'wild_type', 'residue', 'min__masked'])
        """
        check_pandas_support("score_landscape")
        scorer = self._of_reference(reference)
        plan, limits = scorer._plan_and_limits()
        text = scorer._checked_reference(limits)
        frame = single_substitutions(text)
        if frame.empty:
            raise ValueError(
                f"The reference has none of the twenty amino acids {AMINO_ACIDS}, so that there "
                "is no substitution to score."
            )
        scores = scorer._scores(plan, limits, frame.pop("sequence").tolist(), text, len(text))
        frame[list(scorer.get_feature_names_out())] = scores
        return frame

    def _plan(self):
        """Return the plan of the same models' residues, which all have a head."""
        self._validate_params()
        shared = {name: getattr(self, name) for name in OF_FEATURIZER}
        # Decoders as well, which have no such head either, so that this is what is told.
        plan = ESMFeaturizer(**shared, causal=True).embedding_plan("residue")
        for member in plan.members:
            check_head(member)
        return plan

    def _plan_and_limits(self):
        """Return the plan, None where a table is kept, with the letters and the length it takes.

        What is kept needs no model, and none of its files.
        """
        self._validate_params()
        if self._is_kept() and self.log_probabilities_ is not None:
            return None, self._limits
        plan = self._plan()
        return plan, (plan.letters, plan.limit)

    def _members(self, local_files_only=None, causal=True):
        return super()._members(local_files_only, causal)

    def _of_table(self):
        # Copies: lists may be changed after they were given.
        parameters = {name: deepcopy(getattr(self, name)) for name in OF_TABLE}
        return {**parameters, "model_kwargs": described(self.model_kwargs)}

    def _is_kept(self):
        """Return whether what ``fit`` kept is of the parameters as they are."""
        return getattr(self, "_fitted_with", None) == self._of_table()

    def _block_names(self):
        return self.block_names_ if self._is_kept() else tuple(m.block for m in self._members())

    def _of_reference(self, reference):
        """Return a scorer of another reference; this one of its own."""
        if reference is None and self.reference is None:
            raise ValueError("`reference` is None, here and as a parameter: give a protein.")
        if reference is None or reference == self.reference:
            return self
        return clone(self).set_params(reference=reference)

    def _checked_reference(self, limits):
        """Return the reference as it is run, None where there is none and need not be."""
        if self.reference is None:
            if self.score == PSEUDO:
                return None
            raise ValueError(
                f"score={self.score!r} compares with a wild type, and `reference` is None: give "
                "its sequence, or use score='pseudo_likelihood'."
            )
        letters, limit = limits
        [whole] = check_sequences([self.reference], letters, [REFERENCE])
        return apply_limit([whole], limit, self.too_long, [REFERENCE])[0]

    def _scored_reference(self, limits):
        """Return the same, where it is scored itself with a residue to score."""
        reference = self._checked_reference(limits)
        if self.score == PSEUDO and reference is not None:
            self._check_some_letter([reference], [self.reference], [REFERENCE])
        return reference

    def _checked(self, X, limits, length=None):
        """Return sequences as they are run, checked and cut; ``length`` is that before."""
        letters, limit = limits
        whole = check_sequences(X, letters)
        warn_of_nucleotides(whole)
        if self.score != PSEUDO:
            self._check_lengths(whole, length)
        texts = apply_limit(whole, limit, self.too_long)
        if self.score == PSEUDO:
            self._check_some_letter(texts, whole)
        return texts

    def _check_lengths(self, texts, length):
        for i, text in enumerate(texts):
            if len(text) != length:
                raise ValueError(
                    f"Sequence {i} has {len(text)} residues, `reference` has {length}: "
                    f"score={self.score!r} compares them site by site. Insertions and deletions "
                    "are scored by score='pseudo_likelihood' alone; or drop the sequence."
                )

    def _check_some_letter(self, texts, whole, labels=None):
        """Raise where a text has no residue to score; ``whole`` are those before they were cut."""
        known = set(AMINO_ACIDS)
        for i, (text, before) in enumerate(zip(texts, whole, strict=True)):
            if known.isdisjoint(text):
                name = f"Sequence {i}" if labels is None else labels[i]
                where = f" in its first {len(text)} residues" if len(text) < len(before) else ""
                raise ValueError(
                    f"{name} has none of the twenty amino acids {AMINO_ACIDS}{where}, so that "
                    "there is nothing to score. Drop it."
                )

    def _substitutions(self, X, limits, reference, length):
        """Return how many sequences there are, and where they differ from the reference.

        Each letter there has a score.

        Parameters
        ----------
        X : list, tuple, 1-d array or Series of str

        limits : tuple

        reference : str
            As it is run.

        length : int
            That of ``X``, before they are cut.

        Returns
        -------
        n_sequences : int

        rows, sites, codes : ndarray
            As :func:`substitutions` gives them.
        """
        texts = as_list(X)
        found = None
        if len(reference) == length and not nucleotides([reference]):
            found = substitutions(texts, reference)
        if found is None:  # whatever it is, it is told, or cut
            texts = self._checked(X, limits, length)
            found = substitutions(texts, reference)
        self._check_known(found, texts, reference)
        return len(texts), *found

    def _check_known(self, found, texts, reference):
        """Raise where a substitution is not of one of the twenty by another."""
        rows, sites, codes = found
        unknown = (codes >= N_LETTERS) | (codes_of(reference)[sites] >= N_LETTERS)
        if unknown.any():
            at = int(np.argmax(unknown))
            i, site = rows[at], sites[at]
            raise ValueError(
                f"Sequence {i} has {texts[i][site]!r} at position {site} (counted from 0), where "
                f"`reference` has {reference[site]!r}: a mutated site is scored by the twenty "
                f"amino acids {AMINO_ACIDS} alone. Write one of them, or drop the sequence."
            )

    def _rows(self, plan, texts, make, context=NO_CALLBACKS, **settings):
        """Return what some kind of run gives of texts, of shape (n_texts, n_columns)."""
        rows = ProteinRows(
            ScorePlan.of(plan, make, **settings), self._cache_folder(), self.n_jobs, self.verbose
        )
        return rows.of(texts, context, estimator=self)

    def _masked_sites(self, plan, reference, sets, context=NO_CALLBACKS):
        """Return log probabilities at sites that are masked together.

        Parameters
        ----------
        plan : EmbeddingPlan

        reference : str

        sets : ndarray of shape (n_sets, n_sites)

        context : CallbackContext

        Returns
        -------
        log_probabilities : ndarray of shape (n_models, n_sets, n_sites, 20), float32
        """
        n_sets, n_sites = sets.shape
        parts = []
        for start, stop in runs([len(reference)] * n_sets, COPIES):
            texts = [with_masks(reference, sites) for sites in sets[start:stop]]
            parts.append(self._rows(plan, texts, LogProbabilities, context, n_sites=n_sites))
        shape = n_sets, len(plan.members), n_sites, N_LETTERS
        return np.concatenate(parts).reshape(shape).swapaxes(0, 1)

    def _table(self, plan, reference, sites=None, context=NO_CALLBACKS):
        """Return the table of a reference; at some masked sites, or at all.

        Returns
        -------
        table : ndarray of shape (n_models, n_residues, 20), float32
            NaN at other sites.
        """
        shape = len(plan.members), len(reference), N_LETTERS
        if self.score == WILD_TYPE:
            row = self._rows(plan, [reference], LogProbabilities, context, n_sites=len(reference))
            return row.reshape(shape)
        sites = np.arange(len(reference)) if sites is None else sites
        table = np.full(shape, np.nan, dtype=np.float32)
        if len(sites):
            table[:, sites] = self._masked_sites(plan, reference, sites[:, None], context)[:, :, 0]
        return table

    def _reference_and_table(self):
        """Return the reference as it is run, and its table; kept, or computed."""
        plan, limits = self._plan_and_limits()
        reference = self._checked_reference(limits)
        return reference, self.log_probabilities_ if plan is None else self._table(plan, reference)

    def _scores(self, plan, limits, X, reference, length):
        """Return what ``transform`` does, of a reference as it is run."""
        if self.score in (MASKED_SCORE, WILD_TYPE):
            found = self._substitutions(X, limits, reference, length)
            scores = self._of_sites(plan, reference, *found)
        else:
            scores = self._of_passes(plan, self._checked(X, limits, length), reference)
        scores = np.asarray(scores, dtype=np.float64)
        if self.combine is None:
            return scores
        return COMBINED[self.combine](scores, axis=1, keepdims=True)

    def _of_sites(self, plan, reference, n_sequences, rows, sites, codes):
        """Return the scores that sum over mutated sites; ``plan`` is None if a table is kept."""
        wild_type = codes_of(reference)
        together = np.zeros(len(rows), dtype=bool)
        if self.score == MASKED_SCORE and self.joint:
            together = np.bincount(rows, minlength=n_sequences)[rows] > 1
        alone = ~together
        table = self.log_probabilities_ if plan is None else None
        if table is None:
            table = self._table(plan, reference, np.unique(sites[alone]))
        ratios = np.zeros((len(table), len(rows)))
        ratios[:, alone] = log_ratios(table, wild_type, sites[alone], codes[alone])
        if together.any():
            plan = self._plan() if plan is None else plan
            ratios[:, together] = self._joint_ratios(
                plan, reference, rows[together], sites[together], codes[together]
            )
        return sums_by_row(ratios, rows, n_sequences)

    def _joint_ratios(self, plan, reference, rows, sites, codes):
        """Return log ratios at the sites of each variant, all of which are masked together."""
        wild_type = codes_of(reference)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        sizes = np.diff(starts, append=len(rows))
        ratios = np.zeros((len(plan.members), len(rows)))
        for size in np.unique(sizes):
            # Substitutions of the variants that have so many: (n_variants, size).
            at = starts[sizes == size][:, None] + np.arange(size)
            sets, which = np.unique(sites[at], axis=0, return_inverse=True)
            log_p = self._masked_sites(plan, reference, sets)
            of_variant = which.reshape(-1, 1), np.arange(size)
            new = log_p[(slice(None), *of_variant, codes[at])].astype(np.float64)
            ratios[:, at] = new - log_p[(slice(None), *of_variant, wild_type[sites[at]])]
        return ratios

    def _pseudo_likelihoods(self, plan, texts, context=NO_CALLBACKS):
        """Return pseudo-likelihoods, of shape (n_texts, n_models), float64."""
        rows = self._rows(plan, texts, PseudoLikelihoods, context)
        # Each is in two columns: see PseudoLikelihoods.
        return rows.astype(np.float64).reshape(len(texts), -1, 2).sum(axis=2)

    def _of_passes(self, plan, texts, reference):
        """Return the scores for which the models see each variant."""
        if self.score == MUTANT:
            self._check_known(substitutions(texts, reference), texts, reference)
            return self._rows(plan, texts, MutantScores, reference=reference)
        if reference is None:
            return self._pseudo_likelihoods(plan, texts)
        if self._is_kept():
            return self._pseudo_likelihoods(plan, texts) - self._reference_scores
        *scores, of_reference = self._pseudo_likelihoods(plan, [*texts, reference])
        return np.array(scores) - of_reference
