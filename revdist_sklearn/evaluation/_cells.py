"""The cells of a table as text: opened, unpacked and split into columns."""

import csv
import io
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

from ..base._text import shown
from ..base._unpack import CHUNK, UnpackedFile, file_name
from ..embedding._sequences import listed

SEPARATORS = (",", ";", "\t")
# The first bytes of a zip archive, as .xlsx and .ods are, and of the container of .xls.
SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")


@dataclass(frozen=True)
class Cells:
    """Columns of a table.

    Parameters
    ----------
    separator : str

    columns : dict of str to list of str
        The cells of the columns that were asked for, without white space around them.

    lines : list of int
        The line of the file in which each row ends, the first being 1.
    """

    separator: str
    columns: dict
    lines: list


def read_cells(path, choose, expected=()):
    """Return some columns of a table with a header; only these are held in memory.

    Rows without any text are no rows.

    Parameters
    ----------
    path : path-like
        Text in UTF-8, separated by commas, semicolons or tabs, plain or packed; ``"-"`` is
        standard input.

    choose : callable
        Takes the names in the header and returns those that are wanted, or raises.

    expected : sequence of str, default=()
        Names by which the separator is told: the one that gives most of them, then the one
        that gives most columns.

    Returns
    -------
    cells : Cells

    Raises
    ------
    OSError
        If it cannot be read.

    ValueError
        If it is no such text, has no rows, or rows with more or fewer fields than the header.
    """
    source = file_name(path)
    lines: list[int] = []
    odd: list[tuple[int, int]] = []
    with open_table(path, "table") as text, long_cells():
        start = []
        for line in text:
            start.append(line)
            if line.strip():
                break
        separator = _separator(start[-1] if start else "", expected)
        reader = csv.reader(chain(start, text), delimiter=separator)
        try:
            rows = (row for row in reader if any(map(str.strip, row)))
            header = [name.strip() for name in next(rows, [])]
            columns: dict[str, list[str]] = {name: [] for name in choose(header)} if header else {}
            wanted = [(header.index(name), cells) for name, cells in columns.items()]
            for row in rows:
                lines.append(reader.line_num)
                if len(row) != len(header):
                    odd.append((reader.line_num, len(row)))
                    continue
                for at, cells in wanted:
                    cells.append(row[at].strip())
        except csv.Error as error:
            raise ValueError(
                f"{source} is no CSV file in line {reader.line_num}: {error}. Is a quote missing?"
            ) from error
    if not lines:
        raise ValueError(f"{source} has no rows{' but a header' if header else ''}.")
    if odd:
        raise ValueError(
            f"{source}: {len(odd)} of {len(lines)} rows have not the {len(header)} fields of the "
            f"header (line {odd[0][0]} has {odd[0][1]}): lines "
            f"{listed(str(line) for line, _ in odd)}. Is a {separator!r} within a field not "
            "quoted, or a quote missing?"
        )
    return Cells(separator, columns, lines)


def _separator(line, expected):
    """Return what separates the names of a header."""

    def found(separator):
        try:
            names = [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
        except csv.Error:  # reading it tells
            names = []
        return len(set(expected).intersection(names)), len(names)

    return max(SEPARATORS, key=found)


@contextmanager
def open_table(path, option):
    """Yield the lines of a text file, unpacked, with or without a byte-order mark.

    Parameters
    ----------
    path : path-like
        ``"-"`` is standard input.

    option : str
        What messages call it.

    Yields
    ------
    lines : text file

    Raises
    ------
    OSError
        If it cannot be read.

    ValueError
        If it is a spreadsheet, or no text in UTF-8.
    """
    name = file_name(path, option)
    try:
        with io.BufferedReader(UnpackedFile(path, name), CHUNK) as stream:  # type: ignore[arg-type]
            if stream.peek(8).startswith(SPREADSHEETS):
                raise ValueError(
                    f"{name} is a spreadsheet (Excel or the like) or a zip archive, and no text. "
                    "Save its sheet as CSV in UTF-8, with points in numbers, and give that."
                )
            with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as lines:
                yield lines
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is no text in UTF-8 ({error.reason}: {error.object[error.start]:#04x}). Save "
            "it as UTF-8, or if it is packed, as .gz, .bz2, .xz or .zst."
        ) from error


@contextmanager
def long_cells():
    """Let a cell be as long as a protein may be; the limit is one of the whole process."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def check_columns(source, header, wanted, ways=None):
    """Raise where a column that is wanted is not there once.

    Parameters
    ----------
    source : str

    header : list of str

    wanted : dict of str to str
        Name of the parameter to name of the column.

    ways : dict of str to str, default=None
        Other ways out where there is no such column, by name of the parameter.
    """
    for parameter, column in wanted.items():
        if header.count(column) == 1:
            continue
        has = "several columns" if column in header else "no column"
        like = [name for name in header if name.casefold() == column.casefold()]
        hint = f" Is it {shown(like[0])!r}?" if like and column not in header else ""
        option = "--" + parameter.replace("_", "-")
        other = (ways or {}).get(parameter) if column not in header else None
        raise ValueError(
            f"{source} has {has} {column!r}; it has {listed(map(shown, header), 30) or 'none'}."
            f"{hint} Name the right one with {option} ({parameter} in Python)"
            f"{f', or {other}' if other else ''}."
        )
