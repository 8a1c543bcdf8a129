"""From a corpus of sequences to the moments of its residues, and to a fitted distiller."""

import hashlib
import json
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
from joblib import effective_n_jobs

from . import __version__
from ._provenance import members_of
from .base._damage import DamagedFileError, damage_is_told, integer
from .base._formats import CHECKPOINT, check_format
from .base._identity import digest
from .base._progress import progress_bar
from .base._signals import ending_in_order
from .base._threads import one_thread_of_blas
from .base._torch import free_memory, is_out_of_memory
from .base._warnings import warn
from .embedding._sequences import runs
from .embedding._workers import in_order, is_worker_death
from .method._moments import Moments
from .models._device import resolve_device
from .models._fingerprint import fingerprint
from .models._loading import changed

# Residues that one task embeds and sums. Pieces follow from the input alone, so that the
# number of workers does not change the result.
PIECE_RESIDUES = 2**16
# A checkpoint holds all moments: not more often than this.
CHECKPOINT_SECONDS = 60.0
# Distinct proteins below which a corpus is told to be small.
FEW_PROTEINS = 100


def corpus_moments(
    featurizer,
    sequences,
    *,
    weighting="residue",
    precision=None,
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
        Precision of the products, as in ``Moments``; None takes that of the embeddings,
        float32.

    n_jobs : int, default=None
        Number of workers, as in joblib: None is 1 unless in a
        :class:`joblib.parallel_config` context, -1 all processors. Under
        ``joblib.parallel_config(backend="dask")`` the pieces go to a Dask cluster, ``n_jobs``
        at a time, None and -1 as many as it has threads. Devices as in ``ESMFeaturizer``. The
        moments of given embeddings do not depend on it, to 1e-10; the embeddings themselves
        move by about 1e-8 with the threads of a process, of which a worker has fewer.

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
        At residue level and at protein level, with the blocks of the featurizer; their
        ``provenance`` tells the weights of its models and the corpus.

    Raises
    ------
    ValueError
        If the featurizer does not pool by the mean, a sequence is not valid, an embedding is
        not finite, or the checkpoint belongs to other input; as :exc:`DamagedFileError`, if
        the checkpoint is damaged.

    RuntimeError
        If a worker died, or the files of a model change meanwhile.

    OSError
        If the checkpoint cannot be written; what it held before is still there.

    Notes
    -----
    Each of several workers holds the models and the moments of its piece; the pieces are
    merged in the order of the sequences as they arrive.

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
    plan = featurizer.embedding_plan("residue")
    # Cut where the featurizer truncates: what is counted is what is embedded.
    sequences = plan.prepare(sequences)
    verbose = featurizer.verbose if verbose is None else verbose
    empty = _empty_moments(plan.blocks, precision)
    pieces = list(runs([len(sequence) for sequence in sequences], PIECE_RESIDUES))
    members = members_of(plan)
    marks = [member["fingerprint"] for member in members]
    store = _Checkpoint(checkpoint, plan, sequences, weighting, empty, len(pieces))
    moments, done = store.load()

    with (
        nullcontext() if checkpoint is None else ending_in_order(),
        progress_bar(sum(map(len, sequences)), verbose) as bar,
    ):
        bar.update(sum(len(s) for start, stop in pieces[:done] for s in sequences[start:stop]))
        tasks = (
            (featurizer, sequences[start:stop], start, weighting, precision, marks)
            for start, stop in pieces[done:]
        )
        # In this process the bar moves with each batch, elsewhere with each piece.
        alone = effective_n_jobs(n_jobs) == 1
        if alone:
            results = (piece_moments(*task, progress=bar.update) for task in tasks)
        else:
            results = in_order(piece_moments, tasks, n_jobs)
        try:
            for piece, (start, stop) in zip(results, pieces[done:], strict=True):
                store.merging = True
                moments.merge(piece)
                done += 1
                store.merging = False
                if not alone:
                    bar.update(sum(map(len, sequences[start:stop])))
                store.save(moments, done, last=done == len(pieces))
        except BaseException as error:
            store.rescue(moments, done)
            if is_worker_death(error):
                raise RuntimeError(_worker_died(done, len(pieces), checkpoint)) from error
            raise
    moments.provenance = {
        "members": members,
        "corpora": [
            {
                "digest": _digest_of(sequences, hashlib.sha256()),
                "n_proteins": len(sequences),
                "n_residues": sum(map(len, sequences)),
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

    weighting, precision, n_jobs, checkpoint, verbose
        As in ``corpus_moments``, with the same defaults.

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
    moments = corpus_moments(
        featurizer,
        sequences,
        weighting=weighting,
        precision=precision,
        n_jobs=n_jobs,
        checkpoint=checkpoint,
        verbose=verbose,
    )
    warn_if_few_proteins(sequences)
    return distiller.fit_moments(moments)


def warn_if_few_proteins(sequences):
    """Warn of a corpus of few distinct proteins, whatever the number of their residues."""
    n = len(set(sequences))
    if n < FEW_PROTEINS:
        warn(
            f"A corpus of {n} distinct protein{'s' if n != 1 else ''} says little of others: "
            f"residues of one protein are alike. Fit on {FEW_PROTEINS} diverse proteins at least, "
            "better thousands; the bundled sample (load_uniprot_sample, and the shell's default) "
            "has 1,000.",
        )


def corpus_fingerprint(featurizer, sequences):
    """Return a text that is the same exactly where moments of residues are, with its defaults.

    Parameters
    ----------
    featurizer : ESMFeaturizer

    sequences : list of str
        As ``prepare`` of the plan gives them.

    Returns
    -------
    fingerprint : str
        That of a checkpoint of :func:`corpus_moments`.
    """
    plan = featurizer.embedding_plan("residue")
    return FINGERPRINTS[CHECKPOINT](plan, sequences, "residue", _empty_moments(plan.blocks, None))


def _empty_moments(blocks, precision):
    return Moments(blocks.sizes, block_names=blocks.names, precision=precision)


def piece_moments(featurizer, sequences, start, weighting, precision, marks=None, progress=None):
    """Return the moments of some consecutive sequences; what a worker runs.

    Parameters
    ----------
    featurizer : ESMFeaturizer

    sequences : list of str

    start : int
        Index of the first of them in the corpus, for messages.

    weighting : {"residue", "protein"}

    precision : {"float32", "float64"} or None

    marks : list of str or None, default=None
        Fingerprints that the models must have, before the pass and after it.

    progress : callable or None
        Called with the number of residues after each batch.

    Returns
    -------
    moments : Moments

    Raises
    ------
    RuntimeError
        If the models are others.
    """
    plan = featurizer.embedding_plan("residue")
    _check_unchanged(plan, marks)
    moments = _empty_moments(plan.blocks, precision)
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
    _check_unchanged(plan, marks)
    return moments


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


def _worker_died(done, total, checkpoint):
    if done == 0:
        kept = "Nothing is lost."
    elif checkpoint is not None:
        kept = f"They are in {checkpoint}; the same call goes on from there."
    else:
        kept = "They are lost; with checkpoint= the same call would go on from there."
    return (
        f"A worker died, most often for want of memory, after {done} of {total} pieces were "
        f"merged. {kept} Each worker holds all models and one piece's moments: use a smaller "
        "n_jobs, or a smaller token_budget."
    )


class _Checkpoint:
    """The moments so far, on disk, and the piece to go on from."""

    def __init__(self, path, plan, sequences, weighting, empty, n_pieces):
        self.path = None if path is None else Path(path)
        self.empty = empty
        self.n_pieces = n_pieces
        self.merging = False
        self.saved_at = time.monotonic()
        if self.path is None:
            return
        if self.path.is_dir() or not self.path.absolute().parent.is_dir():
            raise OSError(
                f"The checkpoint {self.path} cannot be a file: it is a folder, or its folder does "
                "not exist. Name a file in an existing folder."
            )
        # Whatever changes the moments; models by their contents, wherever they lie.
        self.facts = plan, sequences, weighting, empty
        self.fingerprint = FINGERPRINTS[CHECKPOINT](*self.facts)

    def load(self):
        """Return the moments so far and the number of pieces in them."""
        if self.path is None or not self.path.exists():
            return self.empty, 0
        try:
            moments, facts = Moments.load(self.path, return_metadata=True)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error} {self._way_out()}") from error
        number = check_format(facts.get("format", 1), CHECKPOINT, f"The checkpoint {self.path}")
        if facts.get("fingerprint") != FINGERPRINTS[number](*self.facts):
            raise ValueError(
                f"The checkpoint {self.path} belongs to another corpus, family or setting; name "
                "another file, or remove it to start anew."
            )
        with damage_is_told(f"The checkpoint {self.path} is damaged", self._way_out()):
            done = integer(facts, "pieces")
            if done > self.n_pieces or moments.blocks != self.empty.blocks:
                raise ValueError(f"it holds {done} pieces of {self.n_pieces}: {moments}")
        return moments, done

    def _way_out(self):
        return "As a checkpoint, remove it to start anew, or name another file."

    def save(self, moments, done, *, last=False):
        """Write, unless that was done within the last minute."""
        if self.path is None:
            return
        if last:
            try:
                self._write(moments, done)
            except OSError as error:  # the moments are whole, and not lost for it
                warn(str(error))
        elif time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS:
            self._write(moments, done)
            self.saved_at = time.monotonic()

    def rescue(self, moments, done):
        """Write what a fault has left, where that is whole; the fault itself is reported."""
        if self.path is not None and done and not self.merging:
            with suppress(OSError):
                self._write(moments, done)

    def _write(self, moments, done):
        assert self.path is not None
        try:
            facts = {"format": CHECKPOINT, "fingerprint": self.fingerprint, "pieces": done}
            moments.save(self.path, metadata=facts)
        except OSError as error:
            kept = (
                "What it held before is still there, and the same call goes on from it."
                if self.path.exists()
                else "Nothing was kept."
            )
            raise OSError(
                f"The checkpoint cannot be written. {kept} Make room, or name a file elsewhere. "
                f"({error})"
            ) from error


def _fingerprint(plan, sequences, weighting, empty):
    """Return a text that is the same for equal moments of equal pieces."""
    facts = {
        "rows": plan.identity(),
        "blocks": empty.blocks.names,
        "weighting": weighting,
        "precision": empty.precision,
        "piece_residues": PIECE_RESIDUES,
    }
    return digest([digest(facts), _digest_of(sequences, hashlib.sha256())])


def _fingerprint_of_format_1(plan, sequences, weighting, empty):
    """Return the same as format 1 has it: of the parameters that its featurizers had."""
    weights = [member["weights"] for member in plan.identity()["members"]]
    blocks = [*zip(empty.blocks.names, empty.blocks.sizes, strict=True)]
    parameters = {
        "dtype": plan.dtype,
        "layer": plan.layer,
        "max_length": plan.max_length,
        "model_kwargs": plan.model_kwargs or None,
        "too_long": plan.too_long,
    }
    facts = [weights, blocks, parameters, weighting, empty.precision, PIECE_RESIDUES]
    return _digest_of(sequences, hashlib.sha256(json.dumps(facts, default=str).encode()))


def _digest_of(sequences, digest):
    for sequence in sequences:
        digest.update(sequence.encode() + b"\n")
    return digest.hexdigest()


# By the format of the checkpoint.
FINGERPRINTS = {1: _fingerprint_of_format_1, 2: _fingerprint}
