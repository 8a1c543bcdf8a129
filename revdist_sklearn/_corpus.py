"""From a corpus of sequences to the moments of its residues, and to a fitted distiller."""

from tqdm.auto import tqdm

from ._columns import blocks_of
from ._moments import Moments
from ._sequences import check_sequences


def corpus_moments(featurizer, sequences, *, verbose=True):
    """Gather the moments of all residues of a corpus, and of its protein means, in one pass.

    Residues are embedded batch by batch and never held; memory beyond the models and one
    batch is that of the moments, O(D^2).

    Parameters
    ----------
    featurizer : ESMFeaturizer
        Embeds the sequences; ``pooling`` must be ``"mean"``, which is what commutes with the
        chain.

    sequences : sequence of str
        Diverse proteins, not the variants of one.

    verbose : bool, default=True
        Show a progress bar, in residues.

    Returns
    -------
    moments : Moments
        At residue level and at protein level, with the blocks of the featurizer.

    Raises
    ------
    ValueError
        If the featurizer does not pool by the mean, or a sequence is not valid.

    Examples
    --------
    >>> from revdist_sklearn import ESMFeaturizer, corpus_moments
    >>> corpus_moments(ESMFeaturizer("esm2-nano:64"), ["MKTAYIAKQR", "GSHM"], verbose=False)
    Moments(block_sizes=(32, 64), n_rows=14, n_proteins=2)
    """
    if featurizer.pooling != "mean":
        raise ValueError(
            f"A corpus fit needs a featurizer with pooling='mean', not {featurizer.pooling!r}: "
            "only the mean over residues commutes with the chain. For other pooling, fit a "
            "ReverseDistiller on the pooled rows themselves."
        )
    sequences = check_sequences(sequences)
    blocks = blocks_of(featurizer.get_feature_names_out())
    names, sizes = zip(*blocks, strict=True)
    moments = Moments(sizes, block_names=names)
    total = sum(map(len, sequences))
    with tqdm(total=total, unit="residue", unit_scale=True, disable=not verbose) as bar:
        for rows, sequence_index in featurizer.iter_residues(sequences):
            moments.update(rows, groups=sequence_index)
            bar.update(len(rows))
    return moments


def fit_on_corpus(distiller, featurizer, sequences, *, verbose=True):
    """Fit a distiller on the residues of a corpus.

    The same as ``distiller.fit_moments(corpus_moments(featurizer, sequences))``.  The result
    applies to mean-pooled embeddings as well, because the mean over residues commutes with
    the affine chain; freeze it (:class:`sklearn.frozen.FrozenEstimator`) in pipelines.

    Parameters
    ----------
    distiller : ReverseDistiller
        Fitted in place.

    featurizer : ESMFeaturizer
        Embeds the sequences, with ``pooling="mean"``.

    sequences : sequence of str
        Diverse proteins, not the variants of one.

    verbose : bool, default=True
        Show a progress bar, in residues.

    Returns
    -------
    distiller : ReverseDistiller

    Examples
    --------
    >>> from revdist_sklearn import ESMFeaturizer, ReverseDistiller, fit_on_corpus
    >>> from revdist_sklearn.datasets import load_uniprot_sample
    >>> emb = ESMFeaturizer("esm2-nano:64")
    >>> corpus = load_uniprot_sample().sequences[:5]
    >>> distiller = fit_on_corpus(ReverseDistiller(), emb, corpus, verbose=False)
    >>> distiller.transform(emb.transform(["MKTAYIAKQR"])).shape
    (1, 64)
    """
    return distiller.fit_moments(corpus_moments(featurizer, sequences, verbose=verbose))
