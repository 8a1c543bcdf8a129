"""What a pass over a corpus keeps on disk, so that the same call goes on after any fault.

The calling process keeps one file, the checkpoint: the moments so far and which pieces of the
corpus are in them. Several workers, each with a span of pieces, keep what they have summed of it
in files beside the checkpoint. Those hold the same as a checkpoint does, so that a call with any
other number of workers goes on from them too.
"""

import hashlib
import json
import os
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from .base._damage import DamagedFileError, damage_is_told, integer
from .base._formats import CHECKPOINT, check_format
from .base._identity import digest
from .base._warnings import warn
from .method._moments import Moments

# Since then pieces may be any; before, they were the first ones, and their number was kept. It
# still is where they are, which also the version before reads.
ANY_PIECES_SINCE = 3
# A worker's file is written for a fiftieth of its time at most, however slow the disk is.
WORTH_WRITING = 50


class Checkpoint:
    """The moments so far, on disk, and the pieces in them.

    Parameters
    ----------
    path : path-like or None
        None keeps nothing.

    facts : tuple
        Whatever changes the moments, as :data:`FINGERPRINTS` take it.

    empty : Moments
        Of no rows.

    n_pieces : int
        Of the whole corpus.

    seconds : float
        Not more often than this it is written: it holds all moments.

    Raises
    ------
    OSError
        If it cannot be a file.
    """

    def __init__(self, path, facts, empty, n_pieces, seconds):
        self.path = None if path is None else Path(path)
        self.facts, self.empty, self.n_pieces, self.seconds = facts, empty, n_pieces, seconds
        self.merging = False
        self.saved_at = time.monotonic()
        # Partial sums that are in the moments; they go when these are on the disk.
        self.merged: set[Path] = set()
        if self.path is None:
            return
        if self.path.is_dir() or not self.path.absolute().parent.is_dir():
            raise OSError(
                f"The checkpoint {self.path} cannot be a file: it is a folder, or its folder does "
                "not exist. Name a file in an existing folder."
            )
        # Models count by their contents, wherever they lie.
        self.fingerprint = FINGERPRINTS[CHECKPOINT](*facts)

    def load(self):
        """Return the moments so far and the set of pieces in them, those of workers included.

        Returns
        -------
        moments : Moments

        done : set of int

        Raises
        ------
        ValueError
            If a file belongs to other input; as :exc:`DamagedFileError`, if the checkpoint is
            damaged. Partial sums that are, are a warning, and gathered again.

        OSError
            If what workers have left cannot be added to the checkpoint.
        """
        if self.path is None:
            return self.empty, set()
        moments, done = self.empty, set()
        self._remove(signs_beside(self.path))  # of a call that was killed, whose workers may live
        if self.path.exists():
            moments, done = self._read(self.path, f"The checkpoint {self.path}", self._way_out())
        for path in partial_sums_beside(self.path):
            try:
                part, pieces = self._read(path, f"The file of partial sums {path}", "")
            except FileNotFoundError:  # of another process that ends just now
                continue
            except DamagedFileError as error:
                warn(f"{str(error).strip(' ;')}. What it held is gathered again.")
                self._remove([path])
                continue
            if done.isdisjoint(pieces):
                moments.merge(part)
                done |= pieces
                self.merged.add(path)
            else:  # the checkpoint was written, and then the process was killed
                self._remove([path])
        if self.merged:
            self._write(moments, done)
        return moments, done

    def _read(self, path, what, way_out):
        """Return the moments of a file and the pieces in them."""
        try:
            moments, facts = Moments.load(path, return_metadata=True)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error} {way_out}".strip()) from error
        number = check_format(facts.get("format", 1), CHECKPOINT, what)
        if facts.get("fingerprint") != FINGERPRINTS[number](*self.facts):
            others = partial_sums_beside(self.path)
            beside = f" and {self.path}.*{ENDING}" if others and path == self.path else ""
            raise ValueError(
                f"{what} belongs to another corpus, family or setting; name another file for the "
                f"checkpoint, or remove it{beside} to start anew."
            )
        with damage_is_told(f"{what} is damaged", way_out):
            pieces = pieces_in(facts, number)
            n_pieces = max(pieces, default=-1) + 1
            if n_pieces > self.n_pieces or moments.blocks != self.empty.blocks:
                raise ValueError(f"it holds {n_pieces} pieces of {self.n_pieces}: {moments}")
        return moments, pieces

    def _way_out(self):
        return "As a checkpoint, remove it to start anew, or name another file."

    def save(self, moments, done, *, last=False):
        """Write, unless that was done within the last minute."""
        if self.path is None:
            return
        if last:
            try:
                self._write(moments, done)
                # Also those that a worker has written twice, when Dask took it for dead.
                self._remove(partial_sums_beside(self.path))
            except OSError as error:  # the moments are whole, and not lost for it
                warn(str(error))
        elif time.monotonic() - self.saved_at >= self.seconds:
            self._write(moments, done)
            self.saved_at = time.monotonic()

    def forget(self, partial, span):
        """Have the partial sums of a span, which has been merged, go with the next writing."""
        if partial is not None:
            self.merged.add(partial.of(span))

    def rescue(self, moments, done):
        """Write what a fault has left, where that is whole; the fault itself is reported."""
        if self.path is not None and done and not self.merging:
            with suppress(OSError):
                self._write(moments, done)

    def _write(self, moments, done):
        assert self.path is not None
        try:
            moments.save(self.path, metadata=facts_of(self.fingerprint, done))
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
        self._remove(self.merged)
        self.merged.clear()

    def _remove(self, paths):
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    @contextmanager
    def partial_sums(self):
        """Yield where workers may keep theirs, None where nothing is kept, until the block ends.

        A file without contents tells them that theirs is the same folder, and that this call
        still goes on: what nobody could read, or would, is not written.
        """
        if self.path is None:
            yield None
            return
        path = Path(os.path.abspath(self.path))
        sign = path.with_name(f".{path.name}.{uuid.uuid4().hex}{SIGN}")
        with suppress(OSError):  # where that fails nothing can be kept
            sign.touch()
        try:
            yield PartialSums(path, sign, self.fingerprint, self.seconds)
        finally:
            self._remove([sign])


ENDING, SIGN = ".part", ".running"


@dataclass(frozen=True)
class PartialSums:
    """Where workers keep what they have summed of their spans.

    Parameters
    ----------
    path : Path
        The checkpoint beside which the files are.

    sign : Path
        What is there as long as the call goes on.

    fingerprint : str
        That of the checkpoint.

    seconds : float
        Not more often than this a file is written.
    """

    path: Path
    sign: Path
    fingerprint: str
    seconds: float

    def of(self, span):
        """Return the file of a span, by its first piece."""
        return self.path.with_name(f"{self.path.name}.{span[0]:06d}{ENDING}")

    def load(self, span, empty):
        """Return the moments of the first pieces of a span, and how many; without a file none.

        Parameters
        ----------
        span : list of int
            Pieces.

        empty : Moments
            Of no rows.

        Returns
        -------
        moments : Moments

        n_pieces : int
        """
        if not self.sign.exists():
            return empty, 0
        try:
            moments, facts = Moments.load(self.of(span), return_metadata=True)
            pieces = sorted(pieces_in(facts, facts["format"]))
        except (OSError, ValueError, LookupError, TypeError):
            return empty, 0  # of whatever cannot be read the pieces are summed again
        alike = facts.get("fingerprint") == self.fingerprint and moments.blocks == empty.blocks
        if not alike or pieces != span[: len(pieces)]:
            return empty, 0
        return moments, len(pieces)

    def writer(self, span):
        """Return a function of moments and a number of pieces that writes them now and then."""
        due, wait = time.monotonic() + self.seconds, self.seconds

        def write(moments, n_pieces):
            nonlocal due, wait
            if time.monotonic() < due or not self.sign.exists():
                return
            begun = time.monotonic()
            facts = facts_of(self.fingerprint, span[:n_pieces], any_pieces=True)
            with suppress(OSError):  # a worker that cannot write there keeps nothing
                moments.save(self.of(span), metadata=facts)
            wait = max(self.seconds, WORTH_WRITING * (time.monotonic() - begun))
            due = time.monotonic() + wait

        return write


def partial_sums_beside(path):
    """Return the files of partial sums beside a checkpoint, sorted."""
    return sorted(path.parent.glob(f"{escape(path.name)}.[0-9]*{ENDING}"))


def signs_beside(path):
    """Return what stands beside a checkpoint as long as its call goes on."""
    return list(path.parent.glob(f".{escape(path.name)}.*{SIGN}"))


def facts_of(fingerprint, pieces, *, any_pieces=False):
    """Return what a file tells beside its moments.

    Parameters
    ----------
    fingerprint : str

    pieces : collection of int

    any_pieces : bool, default=False
        Write them as such also where they are the first ones.
    """
    ranges: list[list[int]] = []
    for piece in sorted(pieces):
        if ranges and ranges[-1][1] == piece:
            ranges[-1][1] += 1
        else:
            ranges.append([piece, piece + 1])
    facts = {"format": CHECKPOINT, "fingerprint": fingerprint, "pieces": ranges}
    if not any_pieces and ranges == [[0, len(pieces)]]:
        facts |= {"format": ANY_PIECES_SINCE - 1, "pieces": len(pieces)}
    return facts


def pieces_in(facts, number):
    """Return the set of pieces that a file of some format tells of."""
    if number < ANY_PIECES_SINCE:
        return set(range(integer(facts, "pieces")))
    pieces: set[int] = set()
    stop = 0
    if not isinstance(facts["pieces"], list):
        raise ValueError(f"its pieces are {facts['pieces']!r}, no list")
    for pair in facts["pieces"]:
        first, last = {"first": pair[0]}, {"last": pair[1]}
        start = integer(first, "first", stop)
        stop = integer(last, "last", start + 1)
        pieces.update(range(start, stop))
    return pieces


def _fingerprint(plan, sequences, weighting, empty, piece_residues, mutants=None):
    """Return a text that is the same for equal moments of equal pieces."""
    facts = {
        "rows": plan.identity(),
        "blocks": empty.blocks.names,
        "weighting": weighting,
        "precision": empty.precision,
        "piece_residues": piece_residues,
        # Not of those from before there were any.
        **({} if mutants is None else {"mutants": mutants.identity()}),
    }
    return digest([digest(facts), digest_of_sequences(sequences, hashlib.sha256())])


def _fingerprint_of_format_1(plan, sequences, weighting, empty, piece_residues, mutants=None):
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
    facts = [weights, blocks, parameters, weighting, empty.precision, piece_residues]
    facts += [] if mutants is None else [mutants.identity()]
    return digest_of_sequences(sequences, hashlib.sha256(json.dumps(facts, default=str).encode()))


def digest_of_sequences(sequences, digest):
    """Return the hexadecimal digest of sequences, which a hash is updated by."""
    for sequence in sequences:
        digest.update(sequence.encode() + b"\n")
    return digest.hexdigest()


# By the format of the checkpoint.
FINGERPRINTS = {1: _fingerprint_of_format_1, 2: _fingerprint, 3: _fingerprint}
