"""Readers of what users bring: FASTA and tables of measurements."""

import csv
import gzip

import numpy as np


def read_fasta(path):
    """Return ``[(name, sequence)]`` of a FASTA file, plain or gzip.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    records : list of (str, str)
        The name is the header's first word.

    Raises
    ------
    ValueError
        If the file has no record, text before the first header, or an empty sequence.
    """
    records: list[tuple[str, list[str]]] = []
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if line.startswith(">"):
                name = line[1:].split(maxsplit=1)[0] if line[1:].strip() else f"line_{number}"
                records.append((name, []))
            elif line and not records:
                raise ValueError(
                    f"{path} has text before the first header in line {number}; FASTA records "
                    "start with '>name'."
                )
            elif line:
                records[-1][1].append(line)
    if not records:
        raise ValueError(f"{path} holds no FASTA record ('>name', then the sequence).")
    for name, parts in records:
        if not parts:
            raise ValueError(f"{path}: the record {name!r} has no sequence; remove it.")
    return [(name, "".join(parts)) for name, parts in records]


def read_measurements(path, sequence_column, target_column, mutation_column=None):
    """Return sequences, measurements and mutations of a table.

    Parameters
    ----------
    path : path-like
        CSV file with a header, plain or gzip.

    sequence_column, target_column : str

    mutation_column : str or None
        None takes the column "mutant" where there is one.

    Returns
    -------
    sequences : list of str

    target : ndarray of shape (n,)

    mutations : list of str or None
        None where the table has no such column.

    Raises
    ------
    ValueError
        If a column is missing, or a measurement is no finite number; the message names the
        row and the column.
    """
    with _open(path) as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or []
        for option, column in (("sequence", sequence_column), ("target", target_column)):
            if column not in columns:
                raise ValueError(
                    f"{path} has no column {column!r}; it has {', '.join(columns) or 'none'}. "
                    f"Name it with --{option}-column."
                )
        rows = list(reader)
    if not rows:
        raise ValueError(f"{path} has no rows.")
    target = np.empty(len(rows))
    for i, row in enumerate(rows):
        try:
            target[i] = float(row[target_column])
        except (TypeError, ValueError):
            target[i] = np.nan
        if not np.isfinite(target[i]):
            raise ValueError(
                f"{path}, row {i + 1} after the header: {target_column} is "
                f"{row[target_column]!r}, not a finite number; remove the row."
            )
    has_mutations = (mutation_column or "mutant") in columns
    if mutation_column is not None and not has_mutations:
        raise ValueError(
            f"{path} has no column {mutation_column!r}; it has {', '.join(columns)}. Leave out "
            "--mutation-column for random folds alone."
        )
    return (
        [row[sequence_column] for row in rows],
        target,
        [row[mutation_column or "mutant"] for row in rows] if has_mutations else None,
    )


def _open(path):
    return gzip.open(path, "rt") if str(path).endswith(".gz") else open(path, newline="")
