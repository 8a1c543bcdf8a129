"""From sequences to files: any number of proteins, on any workers, gone on with after a fault."""

import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from joblib import effective_n_jobs

from ..base._damage import DamagedFileError
from ..base._files import make_folder
from ..base._identity import digest
from ..base._notes import add_note
from ..base._progress import progress_bar
from ..base._text import counted, shown, visible
from ..base._units import as_time
from ..embedding._workers import as_they_come, is_worker_death, tasks_at_a_time
from ..method._distiller import ReverseDistiller
from ._block import BlockRun, digest_of_distiller, write_block
from ._fasta import FastaReader
from ._formats import assemble, written_from
from ._job import Job
from ._lock import LOCK, only_one
from ._records import RecordChecker, blocks_of, check_pass, records_of
from ._shards import MANIFEST, NAME, ShardFolder, shard_name

# Folder of the distiller among the shards.
DISTILLER = "distiller"


@dataclass(frozen=True)
class EmbeddingReport:
    """What a run of :func:`embed_to` has written.

    Parameters
    ----------
    output : str
        The file or folder.

    n_proteins, n_residues : int
        What is in it; residues as they were embedded, without those that were cut off.

    n_columns : int
        Its width.

    n_skipped, n_truncated : int
        Records that were left out, and proteins that were cut to the limit.

    n_shards, n_found : int
        Blocks of the run, and those that were there already; 0 where a single file was finished
        before.

    Examples
    --------
    >>> from revdist_sklearn import EmbeddingReport
    >>> EmbeddingReport("library.h5", 2, 14, 96, 0, 0, 1, 0).n_found
    0
    """

    output: str
    n_proteins: int
    n_residues: int
    n_columns: int
    n_skipped: int
    n_truncated: int
    n_shards: int
    n_found: int


def embed_to(
    output,
    featurizer,
    sequences,
    *,
    distiller=None,
    n_components=None,
    level="protein",
    dtype="float32",
    layout=None,
    skip_bad=False,
    n_jobs=None,
    verbose=None,
):
    """Embed any number of proteins to a file, or to a folder of shards.

    Sequences are read as they go and cut into blocks; each block is embedded where a worker is
    free and written as one file, whole or not at all. The same call after a fault goes on from
    the blocks that are there, and after a finished run it computes nothing: it reads
    the input, and looks whether the shards are whole.

    Parameters
    ----------
    output : path-like
        Without an ending, the folder of shards itself, made where it does not exist. With one,
        a single file that is put together from shards beside it (``<output>.shards``, which
        then go): ``.h5``, ``.parquet``, ``.h5ad``, ``.npz`` or ``.csv``. A file of that name is
        replaced in one step when the new one is whole.

    featurizer : ESMFeaturizer
        Embeds the sequences. At residue level its ``pooling`` must be the mean and its
        ``reference`` None, and its ``cache_dir`` has no part.

    sequences : iterable of (str, str), mapping, or FastaReader
        Identifier and sequence of each protein. Files (:class:`FastaReader`), lists and mappings
        are checked before the first model runs; other iterables as they are read.

    distiller : ReverseDistiller, default=None
        Fitted on the models of the featurizer. None writes the models' embeddings side by side.

    n_components : int, default=None
        Columns to keep, from the first, of the nested embedding; only the models that they need
        run. None keeps all.

    level : {"protein", "residue"}, default="protein"
        One row a protein, or one a residue.

    dtype : {"float32", "float16"}, default="float32"
        Type of the numbers in the file. (In what the models compute is the featurizer's.)

    layout : {"keyed", "matrix"}, default=None
        Of ``.h5`` files: one dataset an identifier (None, and as UniProt's files have it), or one
        matrix and the identifiers beside it, which is smaller.

    skip_bad : bool, default=False
        Whether to leave out records that cannot be embedded, and to write them with their reasons
        to ``<output>.skipped.tsv``. By default they are an error.

    n_jobs : int, default=None
        Workers, as in :class:`ESMFeaturizer`, on a Dask cluster too; they must see ``output``
        under the same name.

    verbose : int or bool, default=None
        1 tells on standard error what will be done and how long it will take, and shows a bar in
        residues. None takes that of the featurizer.

    Returns
    -------
    report : EmbeddingReport

    Raises
    ------
    ValueError
        If a record cannot be embedded (no residue, a character that is none, too long, an
        identifier that was there before): the message names record and line, nothing is written
        of files and lists, and of what is read as it comes the blocks before it stay. If an
        embedding is not finite, or beyond the range of float16; if the distiller was fitted on
        other models; if parameters have no meaning.

    FileExistsError
        If the folder holds embeddings of other input or settings, or something else.

    ImportError
        If the library for the ending is not installed.

    OSError
        If the output cannot be written, or another process is writing it.

    RuntimeError
        If a worker died, or the files of a model change meanwhile.

    See Also
    --------
    load_embeddings : Opens what was written.

    Notes
    -----
    The memory of the calling process does not grow with the sequences, but for 8 bytes an
    identifier and less than 1 kB a shard, of up to 8,192 proteins. Two different identifiers are
    taken for one with a chance of 3e-6 in ten million. Sequences that occur several times in a
    block are embedded once.

    Of what is not a file, list or mapping the end is not known before: a single file of it is
    made anew by the same call, a folder of shards is gone on with.

    Examples
    --------
    >>> import os, tempfile
    >>> from revdist_sklearn import ESMFeaturizer, embed_to, load_embeddings
    >>> proteins = [("P1", "MKTAYIAKQR"), ("P2", "GSHMLEDPVD")]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     output = os.path.join(folder, "library.npz")
    ...     report = embed_to(output, ESMFeaturizer("esm2-nano:64"), proteins)
    ...     print(report.n_proteins, load_embeddings(output)["P2"].shape)
    2 (96,)
    """
    verbose = featurizer.verbose if verbose is None else verbose
    job = Job.of(
        output, featurizer, distiller, n_components, level=level, dtype=dtype, layout=layout
    )
    return run(job, sequences, skip_bad, n_jobs, _to_stderr if verbose else None, bool(verbose))


def _to_stderr(message):
    print(visible(f"revdist: {message}", keep="\n"), file=sys.stderr)


def run(job, sequences, skip_bad=False, n_jobs=None, tell=None, bar=False):
    """Do a job.

    Parameters
    ----------
    job : Job

    sequences, skip_bad, n_jobs
        As in :func:`embed_to`.

    tell : callable, default=None
        Called with each message for people.

    bar : bool, default=False
        Whether to show a bar.

    Returns
    -------
    report : EmbeddingReport
    """
    tell = tell or (lambda message: None)
    effective_n_jobs(n_jobs)  # raises where it is no number of workers
    skipped = job.skipped if skip_bad else None
    known, totals = first_pass(job.residues, sequences, skip_bad, skipped)
    for line in job.announcement(totals):
        tell(line)
    shards = ShardFolder(job.folder, job.facts, input=known)
    if job.ending and known and _written_from(job) == (shards.identity, known):
        tell(f"{job.output} is finished: there is nothing left to do.")
        if _is_of(job.folder, shards):  # of a call that was killed after that
            with only_one(job.folder):
                _remove(job.folder)
        return _report(job, totals)
    make_folder(job.folder)
    with only_one(job.folder):
        _begin(job, shards)
        made = _Made(job, shards.identity, totals, tell)
        if made.n_there:
            are = "is" if made.n_there == 1 else "are"
            there = f"{counted(made.n_there, 'shard')} {are} there already"
            tell(f"{there}; those of this run stay.")
        skipped = skipped if known is None else None  # it was written by the first pass
        try:
            with RecordChecker(job.residues, skip=skip_bad, skipped_to=skipped) as checker:
                made.write(_records(sequences), checker, n_jobs, bar)
            if not made.names:
                raise ValueError("There is no protein to embed: the input is empty.")
            if known not in (None, checker.digest()):
                raise RuntimeError(
                    "The sequences have changed while they were read. Repeat the call when "
                    "nothing writes to them."
                )
            made.check_complete()
            shards.entries = [shards.entry(name) for name in made.names]
        except FileExistsError:
            raise
        except BaseException as error:
            add_note(error, made.kept())
            raise
        shards.input = checker.digest()
        shards.save()
        if job.ending:
            assemble(shards, job.output, layout=job.layout)
            _remove(job.folder)
    return _report(job, checker, len(made.names), made.n_found)


class _Made:
    """The shards of a run: those that were there, and those that are made."""

    def __init__(self, job, identity, totals, tell):
        self.job, self.identity, self.totals, self.tell = job, identity, totals, tell
        self.names: list[str] = []
        self.n_found = 0
        self._waiting: dict[str, int] = {}
        self._fault: Exception | None = None
        self._there = defaultdict(set)
        for path in job.folder.iterdir():
            if match := NAME.fullmatch(path.name):
                self._there[int(match[1])].add(path.name)

    @property
    def n_there(self):
        """Number of shards that were there before."""
        return sum(map(len, self._there.values()))

    def write(self, records, checker, n_jobs, bar):
        """Write the shards that are not there, of records as they come."""
        total = None if self.totals is None else self.totals.n_residues
        with progress_bar(total, bar) as progress:
            tasks = self._tasks(records, checker)
            if effective_n_jobs(n_jobs) == 1:
                results = (write_block(*task) for task in tasks)
            else:
                results = as_they_come(write_block, tasks, n_jobs)
            done, is_estimated = 0, False
            try:
                for name, outcome, seconds in results:
                    n_residues = self._waiting.pop(name)
                    progress.update(n_residues)
                    done += n_residues
                    if outcome == "found":
                        self.n_found += 1
                        continue
                    if outcome == "mended":
                        self.tell(f"{self.job.folder / name} was damaged, and is made again.")
                    if not is_estimated and total is not None and done < total:
                        left = total - done
                        seconds *= left / n_residues / tasks_at_a_time(n_jobs)
                        about = f"About {as_time(seconds)} for the other {left:,} residues"
                        self.tell(f"{about}, by the first block.")
                        is_estimated = True
            except BaseException as error:
                if not is_worker_death(error):
                    raise
                raise RuntimeError(
                    "A worker died, most often for want of memory. Each worker holds the models "
                    "and one block: use a smaller `n_jobs` or `token_budget`."
                ) from error
            finally:
                results.close()  # workers write nothing more
        if self._fault is not None:
            raise self._fault

    def _tasks(self, records, checker):
        """Yield the tasks of the blocks, also of those that are there: a worker looks."""
        job = self.job
        run = BlockRun(
            job.plan,
            digest(job.plan.identity()),
            str(job.folder),
            self.identity,
            None if job.distiller is None else (str(job.folder / DISTILLER), job.nested),
            job.facts["level"],
            job.facts["dtype"],
            job.cache_dir,
        )
        good = chain.from_iterable(map(checker.check, blocks_of(records)))
        blocks = job.blocks(good)
        while True:
            try:
                block = next(blocks, None)
            except Exception as error:
                # What was read before it is written first.
                self._fault = error
                return
            if block is None:
                return
            index = len(self.names)
            name = shard_name(index, self.identity, block)
            others = self._there[index] - {name}
            if others and not job.ending:
                self._fault = FileExistsError(
                    f"{job.folder} holds embeddings of other sequences: {min(others)} is of "
                    "another block. Name another output, or remove that folder."
                )
                return
            self.names.append(name)
            self._waiting[name] = sum(len(sequence) for _, sequence, _ in block)
            yield run, name, block

    def check_complete(self):
        """Raise where the folder holds shards beyond those of the run; in our own they go."""
        left = sorted(set().union(*self._there.values()) - set(self.names))
        if left and not self.job.ending:
            more = f", and {counted(len(left) - 1, 'other shard')}" if len(left) > 1 else ""
            raise FileExistsError(
                f"{self.job.folder} holds embeddings of more sequences than these: "
                f"{left[0]}{more}. Name another output, or remove them."
            )
        for name in left:
            (self.job.folder / name).unlink(missing_ok=True)

    def kept(self):
        """Return what is told of a run that ends before it is done."""
        n = sum(1 for path in self.job.folder.glob("shard-*") if NAME.fullmatch(path.name))
        if not n:
            return "Nothing is kept: the first block was not done."
        shards = f"{counted(n, 'whole shard')} {'is' if n == 1 else 'are'}"
        return f"{shards} in {self.job.folder}; the same call goes on from there."


def first_pass(plan, sequences, skip_bad=False, skipped_to=None):
    """Look at all records before anything is made or run.

    Parameters
    ----------
    plan : EmbeddingPlan
        For residues.

    sequences, skip_bad
        As in :func:`embed_to`.

    skipped_to : Path or None, default=None
        File of the records that are left out.

    Returns
    -------
    digest : str or None
        Of the good ones; None where they can be read but once.

    checker : RecordChecker or None
        With its counts.

    Raises
    ------
    ValueError
        If a record cannot be embedded.
    """
    if not _can_be_read_again(sequences):
        return None, None
    with RecordChecker(plan, skip=skip_bad, skipped_to=skipped_to) as checker:
        return check_pass(_records(sequences), checker), checker


def _can_be_read_again(sequences):
    if isinstance(sequences, FastaReader):
        return sequences.rereadable
    return isinstance(sequences, (Mapping, Sequence))


def _records(sequences):
    if isinstance(sequences, FastaReader):
        return sequences.records()
    if isinstance(sequences, Mapping):
        sequences = sequences.items()
    return records_of(sequences)


def _written_from(job):
    """Return from what the output was written, None where that cannot be told."""
    try:
        return written_from(job.output, job.layout)
    except (OSError, ValueError):
        return None


def _begin(job, shards):
    """Check that the folder is that of the shards, and keep the distiller there.

    Raises
    ------
    FileExistsError
        If it holds something else.
    """
    folder = job.folder
    if (folder / MANIFEST).exists():
        try:
            _check_is_ours(job, ShardFolder.load(folder), shards)
        except DamagedFileError:  # nothing depends on it: shards tell of themselves
            shards.save()
    else:
        ours = {path.name for path in folder.glob("shard-*")}
        others = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - ours
        if others:
            raise FileExistsError(
                f"{folder} holds something else than embeddings ({shown(min(others))}). Name a "
                "new or an empty folder."
            )
        # First of all: what ends the run from here on is gone on from.
        shards.save()
    if job.distiller is not None:
        kept = folder / DISTILLER
        try:
            is_kept = digest_of_distiller(ReverseDistiller.from_pretrained(kept)) == job.nested
        except (OSError, ValueError):  # there is none yet, or it is damaged
            is_kept = False
        if not is_kept:
            shutil.rmtree(kept, ignore_errors=True)
            job.distiller.save_pretrained(kept)


def _is_of(folder, shards):
    """Return whether a folder is that of shards of the same settings, or what is left of one."""
    try:
        if {path.name for path in folder.iterdir()} <= {LOCK}:
            return True
        return ShardFolder.load(folder).identity == shards.identity
    except (OSError, ValueError):
        return False


def _remove(folder):
    """Remove a folder of shards, what tells of them last."""
    last = (MANIFEST, LOCK)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in last:
            path.unlink(missing_ok=True)
    for name in last:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # something else has come
        folder.rmdir()


def _check_is_ours(job, before, shards):
    way_out = (
        f"Repeat the call that began it, or remove {job.folder}."
        if job.ending
        else "Name another output, or remove that folder."
    )
    if before.identity != shards.identity:
        raise FileExistsError(
            f"{job.folder} holds embeddings by other models or settings (level, dtype, distiller, "
            f"limit). {way_out}"
        )
    given = {before.input, shards.input} - {None}
    if len(given) == 2 and not job.ending:
        raise FileExistsError(f"{job.folder} holds embeddings of other sequences. {way_out}")


def _report(job, checker, n_shards=0, n_found=0):
    return EmbeddingReport(
        str(job.output),
        checker.n_proteins,
        checker.n_residues,
        len(job.facts["columns"]),
        checker.n_skipped,
        checker.n_truncated,
        n_shards,
        n_found,
    )
