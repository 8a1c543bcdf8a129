"""Readers of what users bring: FASTA and tables of measurements."""

import csv
from dataclasses import dataclass

import numpy as np

from .._evaluation import other_wild_types, position_offset
from ..base._unpack import file_name
from ..embedding._sequences import listed, nucleotides
from ..evaluation._cells import long_cells, open_table
from ..library._fasta import FastaReader
from ._messages import note


@dataclass(frozen=True)
class Records:
    """Proteins of a file, each with what messages call it.

    Parameters
    ----------
    sequences : list of str

    labels : list of str
        Such as ``"sp|P1 (line 12)"``.

    names : list of str
        Their identifiers.
    """

    sequences: list
    labels: list
    names: list

    def prepared(self, featurizer):
        """Return the sequences as a featurizer embeds them, before it loads a model.

        Raises
        ------
        ValueError
            If sequences are no proteins, or not such as the models take.
        """
        found = nucleotides(self.sequences)
        if found:
            raise ValueError(
                f"{len(found)} of {len(self.sequences)} records are DNA or RNA by their letters: "
                f"{listed(self.labels[i] for i in found)}. Translate them to proteins, or leave "
                "them out."
            )
        return featurizer.embedding_plan("residue").prepare(self.sequences, self.labels)


@dataclass(frozen=True)
class Measurements(Records):
    """Rows of a table: proteins, ``target`` of shape (n,), and mutations where it has them."""

    target: np.ndarray
    mutations: list | None


def read_fasta(path, option="--fasta"):
    """Return the records of a FASTA file, as :class:`FastaReader` reads them.

    Parameters
    ----------
    path : path-like
        ``"-"`` is standard input.

    option : str, default="--fasta"
        The option that names it, for messages.

    Returns
    -------
    records : Records
        A name is the header's first word.

    Raises
    ------
    OSError
        If it cannot be read.

    ValueError
        If the file has no record, text before the first header, or an empty sequence.
    """
    reader = FastaReader(path, option=option)
    source = file_name(path, option)
    records = list(reader.records())
    labels = [record.label for record in records]
    empty = [label for label, record in zip(labels, records, strict=True) if not record.sequence]
    if empty:
        raise ValueError(
            f"{source}: {len(empty)} of {len(records)} records have no sequence: {listed(empty)}; "
            "remove them."
        )
    names = [record.name for record in records]
    _tell_repeats(source, "identifiers", names, [record.line for record in records])
    if reader.n_stripped:
        note(f"{source}: {reader.n_stripped} of {len(records)} sequences end in '*', left out.")
    return Records([record.sequence for record in records], labels, names)


def _tell_repeats(source, what, names, lines):
    """Note names that occur more than once, with their lines."""
    places: dict[str, list[int]] = {}
    for name, line in zip(names, lines, strict=True):
        places.setdefault(name, []).append(line)
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    if repeated:
        shown = listed(
            f"{name} (lines {listed(map(str, found))})" for name, found in repeated.items()
        )
        note(
            f"warning: {source}: {len(repeated)} {what} occur more than once: {shown}. All are "
            "taken, in the order of the file; rename or remove them if that is not meant."
        )


def read_measurements(path, sequence_column, target_column, mutation_column=None):
    """Return sequences, measurements and mutations of a table.

    Parameters
    ----------
    path : path-like
        CSV file with a header, plain or packed; ``"-"`` is standard input.

    sequence_column, target_column : str

    mutation_column : str or None
        None takes the column "mutant" where there is one.

    Returns
    -------
    measurements : Measurements
        ``mutations`` is None where the table has no such column.

    Raises
    ------
    OSError
        If it cannot be read.

    ValueError
        If a column is missing, a row has more or fewer fields than the header, a measurement
        is no finite number, all are equal, or mutations are not those of the sequences; the
        message names rows and columns.
    """
    header, rows, lines = _read_table(path)
    wanted = [("sequence", sequence_column), ("target", target_column)]
    if mutation_column is not None or "mutant" in header:
        wanted.append(("mutation", mutation_column or "mutant"))
    for option, column in wanted:
        if header.count(column) != 1:
            has = "no column" if column not in header else "several columns"
            leave = (
                " Where a table has none, leave it out: folds are then random ones alone."
                if option == "mutation"
                else ""
            )
            raise ValueError(
                f"{path} has {has} {column!r}; it has {', '.join(header) or 'none'}. "
                f"Name the right one with --{option}-column.{leave}{_separator_hint(header)}"
            )
    columns = dict(zip(header, zip(*rows, strict=True), strict=False))
    target = _numbers(path, target_column, columns[target_column], lines)
    mutations = columns.get(mutation_column or "mutant")
    mutations = None if mutations is None else list(mutations)
    labels = [f"line {line}" for line in lines]
    if mutations is not None:
        pairs = zip(mutations, labels, strict=True)
        labels = [f"{mutation} ({label})" if mutation else label for mutation, label in pairs]
    sequences = list(columns[sequence_column])
    empty = [i for i, sequence in enumerate(sequences) if not sequence]
    if empty:
        raise ValueError(
            f"{path}: {len(empty)} of {len(rows)} rows have no {sequence_column}: "
            f"{listed(labels[i] for i in empty)}; remove them."
        )
    if mutations is not None:
        _check_mutations(path, mutations, sequences, labels)
    _tell_replicates(sequences, labels)
    return Measurements(sequences, labels, mutations or labels, target, mutations)


def _read_table(path):
    """Return the header, the rows, and the line in which each row ends."""
    rows, lines = [], []
    with open_table(path, "table") as text, long_cells():
        reader = csv.reader(text)
        try:
            header = [name.strip() for name in next(reader, [])]
            for row in reader:
                if any(map(str.strip, row)):
                    rows.append([field.strip() for field in row])
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise ValueError(
                f"{path} is no CSV file in line {reader.line_num}: {error}. Is a quote missing?"
            ) from error
    if not rows:
        raise ValueError(f"{path} has no rows{' but a header' if header else ''}.")
    odd = [i for i, row in enumerate(rows) if len(row) != len(header)]
    if odd:
        first = odd[0]
        raise ValueError(
            f"{path}: {len(odd)} of {len(rows)} rows have not the {len(header)} fields of the "
            f"header (line {lines[first]} has {len(rows[first])}): lines "
            f"{listed(str(lines[i]) for i in odd)}. Is a comma within a field not quoted, or a "
            "quote missing?"
        )
    return header, rows, lines


def _separator_hint(header):
    for name in (";", "\t"):
        if len(header) == 1 and name in header[0]:
            return f" Its columns are separated by {name!r}; write it with commas."
    return ""


def _numbers(path, column, fields, lines):
    """Return a column as finite numbers that are not all the same."""
    target = np.full(len(fields), np.nan)
    for i, field in enumerate(fields):
        try:
            target[i] = float("nan" if "_" in field else field)  # Python's 1_000
        except ValueError:
            pass
    wrong = np.flatnonzero(~np.isfinite(target))
    if len(wrong):
        shown = listed(f"{fields[i]!r} (line {lines[i]})" for i in wrong)
        raise ValueError(
            f"{path}: {len(wrong)} of {len(fields)} rows have no finite number as {column}: "
            f"{shown}; remove these rows."
        )
    if np.all(target == target[0]):
        raise ValueError(
            f"{path}: {column} is {fields[0]} in all {len(fields)} rows, so that there is nothing "
            "to tell apart. Name another column with --target-column."
        )
    return target


def _check_mutations(path, mutations, sequences, labels):
    """Raise where mutations are not those of their sequences; tell of an offset and wild types."""
    offset, wrong = position_offset(mutations, sequences)
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} of {len(mutations)} rows are named after a mutation that their "
            f"sequence does not have: {listed(labels[i] for i in wrong)}. In a sequence of "
            f"{mutations[wrong[0]]!r} that residue stands at that position, the first being 1. "
            "Mend the column, name another with --mutation-column, or remove it for random folds "
            "alone."
        )
    if offset:
        note(
            f"Positions of mutations are {abs(offset)} {'above' if offset > 0 else 'below'} those "
            "in the sequences, in all rows: taken as counted from elsewhere."
        )
    if others := other_wild_types(mutations, sequences, offset):
        note(
            f"warning: {path}: {len(others)} of {len(mutations)} rows are named after another "
            f"wild type than the rows have that are not mutated there: "
            f"{listed(labels[i] for i in others)}. Positions and mutant residues fit; mend the "
            "column if it is of another protein."
        )


def _tell_replicates(sequences, labels):
    """Note rows of the same sequence: none of them is on the other side of a split."""
    first: dict[str, int] = {}
    again = [i for i, text in enumerate(sequences) if first.setdefault(text.upper(), i) != i]
    if again:
        earlier = labels[first[sequences[again[0]].upper()]]
        note(
            f"{len(again)} of {len(sequences)} rows repeat the sequence of an earlier one "
            f"({labels[again[0]]} that of {earlier}, ..): they are kept on the same side of each "
            "split."
        )
