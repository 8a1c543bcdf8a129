"""Records on their way into a run: checked as they come, a block at a time."""

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..base._files import replace_file
from ..base._text import shown, visible
from ..base._unpack import file_name
from ..embedding._sequences import (
    MOST_LISTED,
    allowed,
    foreign_letters,
    listed,
    nucleotides,
)
from ._fasta import FastaReader, Record
from ._names import SeenNames

# Characters of an identifier: one that is longer is a sequence whose header was lost.
LONGEST_NAME = 1000
# Share of the records of a file from which on the file itself is called DNA.
NEARLY_ALL = 0.9
# What a checking pass looks at together: records and residues.
BLOCK = 2_000, 4_000_000
COLUMNS = "file\tline\tidentifier\treason\n"


# Ways out, one for each sort of fault.
WRITE_IT = "An identifier is text that is not empty, can be written, and holds no NUL."
SHORTEN = f"An identifier has {LONGEST_NAME:,} characters at most; is the end of its line missing?"
RENAME = "Rename or remove one of the two: rows are found by their identifier."
GIVE_TEXT = "Give the residues as text, such as 'MKTAYIAKQR'."
REMOVE = "Remove it: there is no residue to embed."
TRANSLATE = "Translate it to a protein, or leave it out."
CUT = (
    "Raise or drop `max_length` if the models can take more, use too_long='window' to average "
    "overlapping windows, too_long='truncate' to cut, or drop the sequence."
)


class Offender(NamedTuple):
    """A record that is not embedded, why, and the way out."""

    record: Record
    reason: str
    way_out: str


class RecordChecker:
    """Checks of records for a run over any number of them.

    Parameters
    ----------
    plan : EmbeddingPlan
        At residue level: of a featurizer, ``featurizer.embedding_plan("residue")``.

    skip : bool, default=False
        Whether records at fault are left out; else they are an error.

    skipped_to : path-like, default=None
        File that says which were left out and why: a table with tabs, of the columns file,
        line, identifier and reason. It appears at :meth:`close`, whole, also where nothing
        was left out.

    Attributes
    ----------
    n_proteins, n_residues : int
        Of the good ones, residues as they are embedded.

    n_truncated, n_windowed : int
        Good ones above the limit, under "truncate" and "window".

    n_skipped : int
        Those left out.

    longest : int
        Residues of the longest good one, before it is cut.

    skipped : list of str
        What is said of the first that were left out.

    Notes
    -----
    Identifiers are compared by hashes of 64 bits, of which all are held: 8 bytes each, and with
    the merging of them 150 MB for 10 million. That two different ones
    among n have the same hash, so that the second is taken for the first, has a chance of
    n² / 2^65: 3e-6 for 10 million.

    Examples
    --------
    >>> from revdist_sklearn import ESMFeaturizer
    >>> from revdist_sklearn.library._records import RecordChecker, records_of
    >>> plan = ESMFeaturizer("esm2-nano").embedding_plan("residue")
    >>> checker = RecordChecker(plan, skip=True)
    >>> checker.check(list(records_of([("a", "mktay"), ("b", "GIV-"), ("a", "GIV")])))
    [('a', 'MKTAY', 5)]
    >>> checker.n_proteins, checker.n_residues, checker.n_skipped
    (1, 5, 2)
    >>> print(checker.skipped[0])
    record 1 (b) has '-' at position 3 (counted from 0), which is no residue
    """

    def __init__(self, plan, *, skip=False, skipped_to=None):
        self.skip = skip
        self.skipped_to = None if skipped_to is None else Path(skipped_to)
        self.n_proteins = self.n_residues = self.n_skipped = self.longest = 0
        self.n_truncated = self.n_windowed = 0
        self.skipped: list[str] = []
        self._limit, self._too_long, self._letters = plan.limit, plan.too_long, plan.letters
        self._foreign = foreign_letters(self._letters)
        self._allowed = allowed(self._letters)
        self._residues = (self._letters + self._letters.lower()).encode()
        self._names = SeenNames()
        self._digest = hashlib.blake2b(digest_size=32)
        self._side = None
        if self.skipped_to is not None:
            with _told_as(self.skipped_to):
                # Without a name: it goes with the process, whatever ends that.
                self._side = tempfile.TemporaryFile(dir=self.skipped_to.parent)
                self._side.write(COLUMNS.encode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def check(self, records):
        """Return the good ones of a block, as they will be embedded.

        Parameters
        ----------
        records : list of Record

        Returns
        -------
        good : list of (str, str, int)
            Identifier, sequence in upper case, cut under "truncate", and the residues that
            it had before, in the order of the records.

        Raises
        ------
        ValueError
            Unless ``skip``, if a record is at fault: it names the first, its reason and the
            way out, and lists the others.
        """
        good, offenders = self._sorted_out(records)
        if offenders and not self.skip:
            files = _Files()
            files.count(records, offenders)
            raise ValueError(_refusal(offenders, len(offenders), files))
        return good

    def digest(self):
        """Return the BLAKE2b of all good records so far, in their order, in hexadecimal.

        It covers identifiers and whole sequences in upper case, and does not depend on how
        they came in blocks.
        """
        return self._digest.hexdigest()

    def close(self):
        """Put the file of what was left out in its place, if there is one."""
        side, self._side = self._side, None
        if side is None:
            return

        def write(temporary):
            with open(temporary, "wb") as file:
                side.seek(0)
                shutil.copyfileobj(side, file)

        with side:
            replace_file(self.skipped_to, write)

    def _sorted_out(self, records):
        """Return the good ones of a block, and the offenders in order; count both."""
        faults = self._faults(records)
        # An identifier that is left out may come again, with a better sequence.
        places = [i for i in range(len(records)) if i not in faults]
        repeated = self._names.add([records[i].name for i in places])
        for k in np.flatnonzero(repeated).tolist():
            faults[places[k]] = "has the identifier of an earlier record", RENAME
        if faults:
            offenders = [Offender(records[i], *faults[i]) for i in sorted(faults)]
            if self.skip:
                self._leave_out(offenders)
            return self._taken([r for i, r in enumerate(records) if i not in faults]), offenders
        return self._taken(records), []

    def _faults(self, records):
        """Return reasons and ways out by place, of all but identifiers that occur twice.

        What is true of a block as a whole is asked first, so that good ones cost little.
        """
        faults: dict[int, tuple[str, str]] = {}
        names, sequences = [r.name for r in records], [r.sequence for r in records]
        if not _all_good(names):
            faults = {i: fault for i, name in enumerate(names) if (fault := _fault_of(name))}
        if not all(isinstance(sequence, str) for sequence in sequences):
            for i, sequence in enumerate(sequences):
                if not isinstance(sequence, str):
                    kind = type(sequence).__name__
                    faults.setdefault(i, (f"has {kind} in place of a sequence", GIVE_TEXT))
                    sequences[i] = "X"
        for i in nucleotides(sequences):
            faults.setdefault(i, ("is DNA or RNA by its letters", TRANSLATE))
        whole = "".join(sequences)
        if not whole.isascii() or whole.encode().translate(None, self._residues):
            for i, sequence in enumerate(sequences):
                if match := self._foreign.search(sequence):
                    where = f"at position {match.start()} (counted from 0)"
                    reason = f"has {match.group()!r} {where}, which is no residue"
                    faults.setdefault(i, (reason, self._allowed))
        lengths = list(map(len, sequences))
        if 0 in lengths:
            for i, length in enumerate(lengths):
                if not length:
                    faults.setdefault(i, ("has no sequence", REMOVE))
        limit = self._limit
        if limit is not None and self._too_long == "error" and max(lengths, default=0) > limit:
            for i, length in enumerate(lengths):
                if length > limit:
                    reason = f"has {length:,} residues, the limit is {limit:,}"
                    faults.setdefault(i, (reason, CUT))
        return faults

    def _taken(self, records):
        """Return records as they are embedded, after counting them."""
        limit = self._limit
        upper = [r.sequence.upper() for r in records]
        lengths = list(map(len, upper))
        self._digest.update(
            "".join(
                f"{len(r.name)} {length} {r.name}{sequence}"
                for r, sequence, length in zip(records, upper, lengths, strict=True)
            ).encode()
        )
        self.longest = max([self.longest, *lengths])
        if limit is not None and self.longest > limit:
            n_long = sum(length > limit for length in lengths)
            if self._too_long == "truncate":
                self.n_truncated += n_long
                upper = [sequence[:limit] for sequence in upper]
            else:
                self.n_windowed += n_long
        self.n_proteins += len(records)
        self.n_residues += sum(map(len, upper))
        return [
            (record.name, sequence, length)
            for record, sequence, length in zip(records, upper, lengths, strict=True)
        ]

    def _leave_out(self, offenders):
        self.n_skipped += len(offenders)
        for record, reason, _ in offenders:
            if len(self.skipped) < MOST_LISTED:
                self.skipped.append(f"{record.label} {reason}")
            if self._side is not None:
                name = record.name if isinstance(record.name, str) else repr(record.name)
                path, name = visible(record.path), shown(name, LONGEST_NAME)
                line = f"{path}\t{record.line}\t{name}\t{visible(reason)}\n"
                with _told_as(self.skipped_to):
                    self._side.write(line.encode())


def check_pass(records, checker):
    """Check all records before anything is computed.

    Parameters
    ----------
    records : iterable of Record

    checker : RecordChecker
        Counts what it finds.

    Returns
    -------
    digest : str
        Of the good ones: :meth:`RecordChecker.digest`.

    Raises
    ------
    ValueError
        After all of them were seen, unless the checker skips: of the first at fault, its
        reason and the way out, with the number of all and the next ones; where nearly all of
        a file are DNA, that it is.
    """
    offenders: list[Offender] = []
    n_offenders, files = 0, _Files()
    for block in blocks_of(records):
        found = checker._sorted_out(block)[1]
        n_offenders += len(found)
        offenders += found[: MOST_LISTED + 2 - len(offenders)]
        files.count(block, found)
    if n_offenders and not (checker.skip and checker.n_proteins):
        raise ValueError(_refusal(offenders, n_offenders, files))
    if not checker.n_proteins:
        raise ValueError("There is no protein to embed: the input is empty.")
    return checker.digest()


def records_of(sequences):
    """Yield the items of any iterable of pairs as records.

    Parameters
    ----------
    sequences : iterable of (str, str)
        Identifiers and sequences; of a :class:`FastaReader` its own records.

    Yields
    ------
    record : Record
        Its label is such as ``"record 12 (id)"``, counted from 0.

    Raises
    ------
    TypeError
        If it is not iterable, or an item is no pair; the message names its place.

    Examples
    --------
    >>> from revdist_sklearn.library._records import records_of
    >>> [record.label for record in records_of({"a": "MKT", "b": "GIV"}.items())]
    ['record 0 (a)', 'record 1 (b)']
    """
    if isinstance(sequences, FastaReader):
        yield from sequences.records()
        return
    way_out = "Give pairs: an identifier and its sequence."
    if isinstance(sequences, Mapping):
        way_out = "Give its items: sequences.items()."
    elif hasattr(sequences, "columns"):
        way_out = "Give two of its columns: zip(frame['name'], frame['sequence'])."
    if isinstance(sequences, (str, bytes, Mapping)) or not hasattr(sequences, "__iter__"):
        kind = type(sequences).__name__
        raise TypeError(f"Expected an iterable of (identifier, sequence), got {kind}. {way_out}")
    for place, item in enumerate(sequences):
        try:
            if isinstance(item, (str, bytes, Mapping)):
                raise TypeError
            name, sequence = item
        except (TypeError, ValueError):
            text = shown(repr(item), 40)
            raise TypeError(
                f"Item {place} is {text} ({type(item).__name__}), not a pair (identifier, "
                f"sequence). {way_out}"
            ) from None
        yield Record(name, sequence, "", place)


def blocks_of(records):
    """Yield lists of records, of a number of them and of residues that a pass looks at."""
    most, most_residues = BLOCK
    records = iter(records)
    block: list[Record] = []
    residues = 0
    for record in records:
        block.append(record)
        residues += len(record.sequence) if isinstance(record.sequence, str) else 0
        if len(block) == most or residues >= most_residues:
            yield block
            block, residues = [], 0
    if block:
        yield block


@contextmanager
def _told_as(path):
    """Name in an error the file that is to be, in place of the temporary one."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"{visible(path)} cannot be written: {error.strerror or error}. Name a file in a "
            "folder that is there, with room, that you may write to."
        ) from error


def _all_good(names):
    """Return whether all identifiers are such as :func:`_fault_of` lets pass, at once."""
    try:
        text = "".join(names)
        text.encode()
    except (TypeError, UnicodeEncodeError):
        return False
    return "\0" not in text and all(names) and max(map(len, names), default=0) <= LONGEST_NAME


def _fault_of(name):
    """Return the reason and the way out where something is no identifier, or None."""
    if not isinstance(name, str):
        return f"has {type(name).__name__} in place of an identifier", WRITE_IT
    if not name:
        return "has an identifier that is empty", WRITE_IT
    if len(name) > LONGEST_NAME:
        return f"has an identifier of {len(name):,} characters", SHORTEN
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        return "has an identifier that cannot be written", WRITE_IT
    return None


def _refusal(offenders, n, files):
    """Return the message of records at fault, of which the first are given."""
    first = offenders[0]
    if dna := files.of_nucleotides():
        return dna
    others = ""
    if n > 1:
        names = [f"{record.label} {reason}" for record, reason, _ in offenders[1:]]
        others = (
            f" So {n:,} of {files.n_records:,} records are at fault; the others: "
            f"{listed(names, separator='; ')}."
        )
    return f"{first.record.label} {first.reason}. {first.way_out}{others}"


class _Files:
    """How many records each file has, and how many of these are DNA or RNA."""

    def __init__(self):
        self._n: Counter[str] = Counter()
        self._n_dna: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    @property
    def n_records(self):
        return self._n.total()

    def count(self, records, offenders):
        """Count records, of which some are at fault."""
        self._n.update(record.path for record in records)
        for record, _, way_out in offenders:
            if way_out is TRANSLATE:
                self._n_dna[record.path] += 1
                self._first.setdefault(record.path, record.label)

    def of_nucleotides(self):
        """Return the message that nearly all of a file is DNA or RNA, or None."""
        for path, n in self._n_dna.items():
            if n >= NEARLY_ALL * self._n[path]:
                return (
                    f"{file_name(path) or 'The input'} is DNA or RNA by its letters: {n:,} of "
                    f"{self._n[path]:,} records are, the first {self._first[path]}. Translate "
                    "them to proteins."
                )
        return None
