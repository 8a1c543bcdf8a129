"""From a corpus of sequences to the moments of its residues, and to a fitted distiller."""

import hashlib
import math
import sys
from collections import Counter
from contextlib import nullcontext

import numpy as np
from joblib import effective_n_jobs
from tqdm.auto import tqdm

from . import __version__
from ._checkpoint import FINGERPRINTS, Checkpoint, digest_of_sequences, partial_sums_beside
from ._mutants import add_mutants, choose_mutants
from ._provenance import members_of
from .base._formats import CHECKPOINT
from .base._progress import progress_bar
from .base._signals import ending_in_order
from .base._threads import one_thread_of_blas
from .base._torch import free_memory, is_out_of_memory
from .base._validation import check_integer
from .base._warnings import warn
from .embedding._sequences import runs
from .embedding._workers import as_they_come, is_worker_death, tasks_at_a_time
from .method._moments import Moments
from .method._moments_file import FIXED
from .models._device import resolve_device
from .models._fingerprint import fingerprint
from .models._loading import changed

# Residues of a piece. Pieces follow from the input alone, so that the number of workers does not
# change the result, and a call with another number goes on from what is kept.
PIECE_RESIDUES = 2**16
# Spans of pieces for each worker: of each one D x D moments come back to the calling process.
SPANS = 4
# A checkpoint holds all moments: not more often than this.
CHECKPOINT_SECONDS = 60.0
# Distinct proteins below which a corpus is told to be small.
FEW_PROTEINS = 100
# Proteins that are compared with one another to tell whether they are variants of one.
SAMPLE = 200
# Of a corpus, proteins that are mutated, where no number is given.
MUTANT_PROTEINS = 240
# Mutants of a protein where a distiller is fitted that needs them.
MUTANTS = 16


def corpus_moments(
    featurizer,
    sequences,
    *,
    weighting="residue",
    precision=None,
    mutants=None,
    mutant_proteins=MUTANT_PROTEINS,
    random_state=0,
    n_jobs=None,
    checkpoint=None,
    verbose=None,
):
    """Gather the moments of all residues of a corpus, and of its protein means, in one pass.

    Residues are embedded batch by batch and never held; memory beyond the models and one
    batch is that of the moments, O(D^2).

    Parameters
    ----------
    featurizer : ESMFeaturizer
        Embeds the sequences. Its ``pooling`` must be a mean (``"max"`` and ``"cls"`` do not
        commute with the chain) and has no part in the moments, nor have ``reference`` and
        ``cache_dir``.

    sequences : sequence of str
        Diverse proteins, not the variants of one.

    weighting : {"residue", "protein"}, default="residue"
        ``"residue"`` counts each residue once. ``"protein"`` gives each protein a weight of
        1, shared by its residues, so that long proteins do not dominate; ``n`` is then the
        number of proteins.

    precision : {"float32", "float64"}, default=None
        Precision of the products, as in ``Moments``; None is float64.

    mutants : int, default=None
        Random single substitutions, 2 or more, of each of some proteins, for a level ``"mutant"``
        beside the other two (``residual_level`` of :class:`ReverseDistiller`): differences of
        the mean rows from the protein's own, times its length, and their covariance within
        proteins. Each mutant is embedded as another protein is: 16 of 240 proteins cost as much
        as 4,080 proteins of the corpus, which ``verbose`` tells in residues. None gathers
        no such level.

    mutant_proteins : int, default=240
        How many distinct proteins are mutated, chosen by a hash of their sequences; None for
        all of the corpus.

    random_state : int, default=0
        Seed of the choice of proteins and mutants.

    n_jobs : int, default=None
        Number of workers, as in joblib: None is 1 unless in a
        :class:`joblib.parallel_config` context, -1 all processors. Under
        ``joblib.parallel_config(backend="dask")`` the work goes to a Dask cluster, ``n_jobs``
        tasks at a time, None and -1 as many as it has threads. Devices as in
        ``ESMFeaturizer``. The moments of given embeddings do not depend on it, to 1e-10; the
        embeddings themselves move by about 1e-8 with the threads of a process, of which a
        worker has fewer.

    checkpoint : path-like, default=None
        File that keeps the moments so far: written every minute and when a fault ends the
        call, Ctrl-C and SIGTERM included, and read at the next call with the same input,
        which goes on from there. SIGTERM so ends the process a moment later; handlers of
        your own stay in place.

    verbose : int or bool, default=None
        As in :class:`ESMFeaturizer`: 0 is silent, 1 shows a bar, in residues. None takes that
        of the featurizer.

    Returns
    -------
    moments : Moments
        At residue level and at protein level, and with ``mutants`` at level ``"mutant"``,
        with the blocks of the featurizer; their ``provenance`` tells the weights of its
        models and the corpus.

    Raises
    ------
    ValueError
        If the featurizer does not pool by the mean, a sequence is not valid, a number of
        mutants is not positive or no protein can be mutated, an embedding is not finite, or
        the checkpoint belongs to other input; as :exc:`DamagedFileError`, if the checkpoint
        is damaged.

    RuntimeError
        If a worker died, or the files of a model change meanwhile.

    OSError
        If the checkpoint cannot be written; what it held before is still there.

    Notes
    -----
    Each of several workers holds the models and the moments of a span of the corpus, of which
    it has four at most. Those of a span come back when it is done, and are merged as they come.
    With a checkpoint each worker also keeps what it has summed of its span in a file beside
    it, ``<checkpoint>.<number>.part``, where it can write there, every minute or, where the disk
    is slow, in a fiftieth of its time: so a call that is killed, or a worker, loses a minute
    of each worker, whatever the number of workers that go on. They go as they are merged.

    Examples
    --------
    >>> from revdist_sklearn import ESMFeaturizer, corpus_moments
    >>> corpus_moments(ESMFeaturizer("esm2-nano:64"), ["MKTAYIAKQR", "GSHM"], verbose=False)
    Moments(block_sizes=(32, 64), n_rows=14, n_proteins=2)
    """
    if isinstance(featurizer.pooling, str) and featurizer.pooling in ("max", "cls"):
        raise ValueError(
            f"A corpus fit needs a featurizer with pooling='mean', not {featurizer.pooling!r}: "
            "only means over residues commute with the chain. For other pooling, fit a "
            "ReverseDistiller on the pooled rows themselves."
        )
    if weighting not in ("residue", "protein"):
        raise ValueError(f"weighting={weighting!r} must be 'residue' or 'protein'.")
    if mutants is not None:
        way_out = f"mutants={mutants!r} must be an integer of 2 or more, or None."
        mutants = int(check_integer(mutants, "mutants", 2, None, way_out))
    if mutant_proteins is not None:
        way_out = f"mutant_proteins={mutant_proteins!r} must be an integer of 1 or more, or None."
        mutant_proteins = int(check_integer(mutant_proteins, "mutant_proteins", 1, None, way_out))
    way_out = f"random_state={random_state!r} must be an integer, not negative."
    random_state = int(check_integer(random_state, "random_state", 0, None, way_out))
    plan = featurizer.embedding_plan("residue")
    # Cut where the featurizer truncates: what is counted is what is embedded.
    sequences = plan.prepare(sequences)
    verbose = featurizer.verbose if verbose is None else verbose
    empty = _empty_moments(plan.blocks, precision)
    pieces = list(runs([len(sequence) for sequence in sequences], PIECE_RESIDUES))
    sizes = [sum(map(len, sequences[start:stop])) for start, stop in pieces]
    chosen = None
    if mutants is not None:
        chosen = choose_mutants(mutants, mutant_proteins, sequences, random_state)
        more = [chosen.n_residues(sequences[start:stop], start) for start, stop in pieces]
        if verbose:
            tqdm.write(
                f"Mutants: {sum(more):,} residues beside the {sum(sizes):,} of the corpus, "
                f"{1 + sum(more) / sum(sizes):.1f} times the pass without them.",
                file=sys.stderr,
            )
        sizes = [size + extra for size, extra in zip(sizes, more, strict=True)]
    members = members_of(plan)
    marks = [member["fingerprint"] for member in members]
    facts = plan, sequences, weighting, empty, PIECE_RESIDUES, chosen
    store = Checkpoint(checkpoint, facts, empty, len(pieces), CHECKPOINT_SECONDS)
    moments, done = store.load()
    left = [piece for piece in range(len(pieces)) if piece not in done]
    # In this process the bar moves with each batch, elsewhere with each span.
    alone = effective_n_jobs(n_jobs) == 1

    with (
        nullcontext() if checkpoint is None else ending_in_order(),
        progress_bar(sum(sizes), verbose) as bar,
        nullcontext() if alone or not left else store.partial_sums() as partial,
    ):
        bar.update(sum(sizes[piece] for piece in done))
        settings = weighting, precision, marks, chosen
        if alone:
            results = (
                ([i], piece_moments(featurizer, texts, start, *settings, progress=bar.update))
                for i, (start, texts) in _texts(left, pieces, sequences)
            )
        else:
            tasks = (
                (featurizer, dict(_texts(span, pieces, sequences)), *settings, partial)
                for span in spans_of(left, SPANS * tasks_at_a_time(n_jobs))
            )
            results = as_they_come(span_moments, tasks, n_jobs)
        try:
            for summed, part in results:
                store.merging = True
                moments.merge(part)
                done.update(summed)
                store.merging = False
                part = None  # the next one needs the room
                if not alone:
                    bar.update(sum(sizes[piece] for piece in summed))
                    store.forget(partial, summed)
                store.save(moments, done, last=len(done) == len(pieces))
        except BaseException as error:
            store.rescue(moments, done)
            if is_worker_death(error):
                raise RuntimeError(_worker_died(len(done), len(pieces), store.path)) from error
            raise
    moments.provenance = {
        "members": members,
        "corpora": [
            {
                "digest": digest_of_sequences(sequences, hashlib.sha256()),
                "n_proteins": len(sequences),
                "n_residues": sum(map(len, sequences)),
                **({} if chosen is None else {"mutants": chosen.facts(sequences)}),
            }
        ],
        "version": __version__,
    }
    return moments


def fit_on_corpus(
    distiller,
    featurizer,
    sequences,
    *,
    weighting="residue",
    precision=None,
    mutants=None,
    mutant_proteins=MUTANT_PROTEINS,
    random_state=0,
    n_jobs=None,
    checkpoint=None,
    verbose=None,
):
    """Fit a distiller on the residues of a corpus.

    The same as ``distiller.fit_moments(corpus_moments(featurizer, sequences))``. The result
    applies to mean-pooled embeddings as well, because the mean over residues commutes with
    the affine chain; freeze it (:class:`sklearn.frozen.FrozenEstimator`) in pipelines.

    Parameters
    ----------
    distiller : ReverseDistiller
        Fitted in place.

    featurizer : ESMFeaturizer
        Embeds the sequences; as in ``corpus_moments``.

    sequences : sequence of str
        Diverse proteins, not the variants of one.

    weighting, precision, mutant_proteins, random_state, n_jobs, checkpoint, verbose
        As in ``corpus_moments``, with the same defaults.

    mutants : int, default=None
        As in ``corpus_moments``; None is 16 where the distiller's parameters name the level
        ``"mutant"``.

    Returns
    -------
    distiller : ReverseDistiller

    Raises
    ------
    ValueError, RuntimeError, OSError
        As ``corpus_moments``.

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
    # What does not fit is found before the pass, not after it; a pass that fails leaves the
    # distiller as it was.
    blocks = featurizer.embedding_plan("residue").blocks
    distiller.check_moments(_empty_moments(blocks, precision))
    for name in ("residual_level", "rotate_base"):
        level = getattr(distiller, name)
        if isinstance(level, str) and level not in (*FIXED, "mutant"):
            raise ValueError(
                f"{name}={level!r} is no level of a corpus, which has 'residue', 'protein' and "
                "'mutant'; gather it with Moments.update(.., level=), and use fit_moments."
            )
    mutants = mutants_for(distiller, mutants)
    moments = corpus_moments(
        featurizer,
        sequences,
        weighting=weighting,
        precision=precision,
        mutants=mutants,
        mutant_proteins=mutant_proteins,
        random_state=random_state,
        n_jobs=n_jobs,
        checkpoint=checkpoint,
        verbose=verbose,
    )
    warn_if_few_proteins(sequences)
    return distiller.fit_moments(moments)


def mutants_for(distiller, mutants=None):
    """Return how many mutants of a protein a corpus pass embeds for a distiller, None for none.

    Parameters
    ----------
    distiller : ReverseDistiller
        Its ``residual_level`` or ``rotate_base`` may need them.

    mutants : int, default=None
        As asked for.

    Returns
    -------
    mutants : int or None
    """
    needs = "mutant" in (distiller.residual_level, distiller.rotate_base)
    return MUTANTS if mutants is None and needs else mutants


def warn_if_few_proteins(sequences):
    """Warn of a corpus of few distinct proteins, or of variants of one."""
    n = len(set(sequences))
    if n >= FEW_PROTEINS and _are_variants(sequences):
        warn(
            "Most proteins of the corpus are alike, residue by residue: variants of one say "
            "little of others, whatever their number. Fit on diverse proteins; the bundled sample "
            "(load_uniprot_sample, and the shell's default) has 1,000.",
        )
    if n < FEW_PROTEINS:
        warn(
            f"A corpus of {n} distinct protein{'s' if n != 1 else ''} says little of others: "
            f"residues of one protein are alike. Fit on {FEW_PROTEINS} diverse proteins at least, "
            "better thousands; the bundled sample (load_uniprot_sample, and the shell's default) "
            "has 1,000.",
        )


def _are_variants(sequences):
    """Return whether most sequences, of a sample, are one but for a tenth of their residues."""
    sample = sequences[:: max(1, len(sequences) // SAMPLE)]
    [(length, _)] = Counter(map(len, sample)).most_common(1)
    alike = [sequence.upper() for sequence in sample if len(sequence) == length]
    if not length or 2 * len(alike) <= len(sample):
        return False
    texts = np.array([list(sequence) for sequence in alike])
    return bool(np.median((texts != texts[len(texts) // 2]).mean(axis=1)) <= 0.1)


def corpus_fingerprint(featurizer, sequences, mutants=None):
    """Return a text that is the same exactly where moments of a corpus are, with its defaults.

    Parameters
    ----------
    featurizer : ESMFeaturizer

    sequences : list of str
        As ``prepare`` of the plan gives them.

    mutants : int, default=None
        As in :func:`corpus_moments`.

    Returns
    -------
    fingerprint : str
        That of a checkpoint of :func:`corpus_moments`.
    """
    plan = featurizer.embedding_plan("residue")
    empty = _empty_moments(plan.blocks, None)
    facts = plan, sequences, "residue", empty, PIECE_RESIDUES
    if mutants is None:
        return FINGERPRINTS[CHECKPOINT](*facts)
    chosen = choose_mutants(mutants, MUTANT_PROTEINS, sequences, 0)
    return FINGERPRINTS[CHECKPOINT](*facts, chosen)


def _empty_moments(blocks, precision):
    return Moments(blocks.sizes, block_names=blocks.names, precision=precision)


def spans_of(pieces, most):
    """Return pieces as spans of consecutive ones, each shorter than the one before.

    So workers end their spans one after another, which the process that merges them needs the
    room for, and have little to wait for at the end.

    Parameters
    ----------
    pieces : list of int

    most : int
        Number of spans that there may be.

    Returns
    -------
    spans : list of list of int
    """
    n = len(pieces)
    # Lengths fall linearly, from twice their mean.
    stops = [math.ceil(n * (1 - (1 - i / most) ** 2)) for i in range(1, most)] + [n]
    cuts = zip([0, *stops], stops, strict=False)
    return [pieces[start:stop] for start, stop in cuts if start < stop]


def _texts(span, pieces, sequences):
    """Yield each piece of a span with the index of its first sequence and its sequences."""
    for piece in span:
        start, stop = pieces[piece]
        yield piece, (start, sequences[start:stop])


def span_moments(featurizer, span, weighting, precision, marks=None, mutants=None, partial=None):
    """Return the moments of a span of pieces; what a worker runs.

    Parameters
    ----------
    featurizer : ESMFeaturizer

    span : dict of int to tuple of (int, list of str)
        By piece, the index of its first sequence and its sequences.

    weighting, precision, marks, mutants
        As in :func:`piece_moments`.

    partial : PartialSums or None, default=None
        Where a task that is repeated goes on from.

    Returns
    -------
    pieces : list of int

    moments : Moments
        Of all of them.
    """
    pieces, n_done = list(span), 0
    moments = _empty_moments(featurizer.embedding_plan("residue").blocks, precision)
    if partial is not None:
        moments, n_done = partial.load(pieces, moments)
        keep = partial.writer(pieces)
    for i in range(n_done, len(pieces)):
        start, sequences = span[pieces[i]]
        add_piece(moments, featurizer, sequences, start, weighting, marks, mutants)
        if partial is not None:
            keep(moments, i + 1)
    return pieces, moments


def piece_moments(
    featurizer, sequences, start, weighting, precision, marks=None, mutants=None, progress=None
):
    """Return the moments of some consecutive sequences.

    Parameters
    ----------
    featurizer, sequences, start, weighting, marks, mutants, progress
        As in :func:`add_piece`.

    precision : {"float32", "float64"} or None

    Returns
    -------
    moments : Moments

    Raises
    ------
    RuntimeError
        If the models are others.
    """
    moments = _empty_moments(featurizer.embedding_plan("residue").blocks, precision)
    add_piece(moments, featurizer, sequences, start, weighting, marks, mutants, progress)
    return moments


def add_piece(
    moments, featurizer, sequences, start, weighting, marks=None, mutants=None, progress=None
):
    """Add the residues of some consecutive sequences to moments.

    Parameters
    ----------
    moments : Moments

    featurizer : ESMFeaturizer

    sequences : list of str

    start : int
        Index of the first of them in the corpus, for messages.

    weighting : {"residue", "protein"}

    marks : list of str or None, default=None
        Fingerprints that the models must have, before the pass and after it.

    mutants : Mutants or None, default=None
        Which of them are mutated as well.

    progress : callable or None
        Called with the number of residues after each batch.

    Raises
    ------
    RuntimeError
        If the models are others.
    """
    plan = featurizer.embedding_plan("residue")
    _check_unchanged(plan, marks)
    # Its products, which take turns with the models', are of 4 D rows at a time.
    operations = 4 * moments.blocks.n_columns**3
    # Off the host the residues stay where the models are; only products come back.
    options = {"as_tensor": True} if _on_device(featurizer) else {}
    for rows, index in featurizer.iter_residues(sequences, **options):
        weights = 1.0 / np.bincount(index)[index] if weighting == "protein" else None
        try:
            with one_thread_of_blas(operations):
                _update(moments, rows, sample_weight=weights, proteins=index)
        except ValueError as error:
            finite = np.isfinite(rows.cpu().numpy() if options else rows).all(axis=1)
            if finite.all():
                raise
            first = int(index[np.argmin(finite)]) + start
            raise ValueError(
                f"The embedding of sequence {first} is not finite: {error} Half precision "
                "overflows in some models; try dtype='float32' or 'bfloat16'."
            ) from error
        if progress is not None:
            progress(len(rows))
    if mutants is not None and (families := mutants.of(sequences, start)):
        with one_thread_of_blas(operations):
            add_mutants(moments, featurizer, families, options, progress)
    _check_unchanged(plan, marks)


def _update(moments, rows, **settings):
    """Add rows to moments, from the host where the device has no room even to look at them."""
    try:
        moments.update(rows, **settings)
        return
    except (RuntimeError, MemoryError) as error:
        if isinstance(rows, np.ndarray) or not is_out_of_memory(error):
            raise
    free_memory(rows.device)
    moments.update(rows.cpu().numpy(), **settings)


def _check_unchanged(plan, marks):
    """Raise where a piece of the corpus would be of other weights than the pieces before."""
    if marks is None:
        return
    for member, expected in zip(plan.members, marks, strict=True):
        if fingerprint(member.folder(plan.silent)) != expected:
            raise RuntimeError(changed(member, "since the pass over the corpus began"))


def _on_device(featurizer):
    return resolve_device(featurizer.device).type != "cpu"


def _worker_died(n_done, total, checkpoint):
    if checkpoint is None:
        kept = (
            "They are lost, and so is what workers had summed since; with checkpoint= the same "
            "call would go on from there."
        )
    elif partial_sums_beside(checkpoint):
        kept = (
            f"They are in {checkpoint}, what workers had summed since in files beside it; the "
            "same call goes on from there."
        )
    elif n_done:
        kept = f"They are in {checkpoint}; the same call goes on from there."
    else:
        kept = "Nothing was kept yet."
    return (
        f"A worker died, most often for want of memory, after {n_done} of {total} pieces were "
        f"merged. {kept} Each worker holds all models and the moments of its span: use a smaller "
        "n_jobs, or a smaller token_budget."
    )
