"""What was measured: cells of targets as numbers, classes or labels, and the account of rows."""

import math
import re
from dataclasses import dataclass, field
from sys import intern

import numpy as np

from ..base._text import shown
from ..embedding._sequences import listed

# Cells without a measurement, in lower case; the second set where the others are numbers, beside
# classes these may be classes.
MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "-", "--", "#value!", "#div/0!"}
MISSING_BESIDE_NUMBERS = {"none", "nd", "n.d.", "missing", ".", "?"}
# Characters of a target from which on that of a sequence's length is no chance, and no number.
LABELS = 16
_LIMIT = re.compile("(?:<=|>=|[<>≤≥])")
_DECIMAL_COMMA = re.compile(r"(?:<=|>=|[<>≤≥])?\s*[+-]?[\d.]*\d,\d+(?:[eE][+-]?\d+)?")


@dataclass
class Account:
    """What becomes of the rows of a file.

    Parameters
    ----------
    source, target : str
        What messages call the file, and the column that was measured.

    lines : list of int

    mutants : list of str or None
        By which rows are called, beside their lines.

    counts : dict of str to int

    notes : list of str
    """

    source: str
    target: str
    lines: list
    mutants: list | None
    counts: dict
    notes: list = field(default_factory=list)

    def label(self, row):
        """Return what messages call a row."""
        name = self.mutants and self.mutants[row]
        line = f"line {self.lines[row]}"
        return f"{shown(name)} ({line})" if name else line

    def _of(self, rows, cells):
        """Return how many of the rows, and which, with what their cells hold."""
        which = (self.label(i) for i in rows)
        if cells is not None:
            which = (f"{shown(cells[i])!r} in {self.label(i)}" for i in rows)
        return f"{len(rows)} of {len(self.lines)} rows", listed(which)

    def note(self, rows, says, cells=None, ends=""):
        """Keep a sentence about rows, if there are any."""
        if len(rows):
            n, which = self._of(rows, cells)
            self.notes.append(f"{n} {says}: {which}{ends}.")

    def refuse(self, rows, says, way_out, cells=None):
        """Raise about rows, if there are any."""
        if len(rows):
            n, which = self._of(rows, cells)
            raise ValueError(f"{self.source}: {n} {says}: {which}. {way_out}")


def measured(account, targets, missing=MISSING):
    """Return the rows with a measurement, as an array; count and note the others."""
    absent = np.array([cell.lower() in missing for cell in targets], dtype=bool)
    account.counts["missing"] = int(absent.sum())
    says = f"have no {account.target} and are left out"
    account.note(np.flatnonzero(absent), says, targets)
    return np.flatnonzero(~absent)


def values_of(account, targets, task, censored, lengths=None):
    """Return the task, the rows with a measurement, and numbers or class labels of these.

    Parameters
    ----------
    account : Account

    targets : list of str

    task : {"regression", "classification"} or None

    censored : {"limit", "drop"}

    lengths : list of int, default=None
        Of the sequences: targets that are as long, all of them, are labels of residues.
    """
    column = account.target
    numbers, limits = _numbers(targets)
    _refuse_labels(account, targets, lengths, task)
    absent = MISSING
    if task == "regression" or (task is None and not np.isnan(numbers).all()):
        absent = MISSING | MISSING_BESIDE_NUMBERS
    rows = measured(account, targets, absent)
    texts = rows[np.isnan(numbers[rows])]
    if task != "classification":
        account.refuse(
            [i for i in texts if _DECIMAL_COMMA.fullmatch(targets[i])],
            f"have a decimal comma in {column}",
            "Write numbers with decimal points (in a spreadsheet, choose so before saving as "
            "CSV). If these are classes, say so by --task classification (task in Python).",
            targets,
        )
    if task == "regression" or (task is None and len(texts) < len(rows)):
        account.refuse(
            texts,
            f"have no number as {column}",
            "Mend or empty these cells; if they are classes, say so by --task classification "
            "(task in Python).",
            targets,
        )
    found = numbers[rows]
    if task is None:
        zero_one = set(np.unique(found).tolist()) == {0.0, 1.0} and not limits[rows].any()
        task = "classification" if len(texts) or zero_one else "regression"
        if task == "regression" and len(np.unique(found)) == 2:
            account.notes.append(
                f"{column} has two values alone, taken as numbers; --task classification (task "
                "in Python) takes them as classes."
            )
    if task == "classification":
        plain = not len(texts) and not limits[rows].any()
        return task, rows, [_class(targets[i], numbers[i] if plain else None) for i in rows]
    account.refuse(
        rows[~np.isfinite(found)],
        f"have no finite number as {column}",
        "Mend or empty these cells.",
        targets,
    )
    limited = rows[limits[rows]]
    account.counts["censored"] = len(limited)
    if censored == "drop":
        account.note(limited, f"have a limit as {column} and are left out", targets)
        rows = rows[~limits[rows]]
    else:
        account.note(limited, f"have a limit as {column}, taken as the number", targets)
        _tell_far_limits(account, rows, limited, numbers, targets)
    return task, rows, numbers[rows]


def _refuse_labels(account, targets, lengths, task):
    """Raise where targets are labels of residues by their looks and nobody says what they are."""
    if task is not None or lengths is None:
        return
    pairs = [
        (len(t), n) for t, n in zip(targets, lengths, strict=True) if t.lower() not in MISSING
    ]
    if pairs and min(pairs)[0] >= LABELS and all(a == b for a, b in pairs):
        raise ValueError(
            f"{account.source}: each {account.target} has as many characters as its sequence has "
            "residues. Say what they are: --task residues takes labels of residues, --task "
            "classification or regression the whole (task in Python)."
        )


def _tell_far_limits(account, rows, limited, numbers, targets):
    """Note limits that lie far outside of what was measured, which least squares follows."""
    measured_ones = numbers[np.setdiff1d(rows, limited)]
    if not len(measured_ones):
        return
    low, high = measured_ones.min(), measured_ones.max()
    room = 3 * (high - low)
    far = (numbers[limited] > high + room) | (numbers[limited] < low - room)
    account.note(
        limited[far],
        f"have a limit that lies far outside of the other values ({low:.4g} to {high:.4g}) and "
        "draws every fit to it",
        targets,
        " --censored drop (censored in Python) leaves such rows out.",
    )


def _numbers(cells):
    """Return cells as numbers, NaN where they are none, and which of them are limits."""
    numbers = np.full(len(cells), np.nan)
    limits = np.zeros(len(cells), dtype=bool)
    for i, cell in enumerate(cells):
        limit = _LIMIT.match(cell)
        text = cell[limit.end() :] if limit else cell
        try:
            # Python's 1_000 and digits of other scripts are no numbers of tables.
            numbers[i] = float(text) if text.isascii() and "_" not in text else np.nan
        except ValueError:
            continue
        limits[i] = bool(limit) and not np.isnan(numbers[i])
    return numbers, limits


def _class(cell, number):
    """Return a class label: 1 and 1.0 are the same where all are numbers."""
    if number is not None and math.isfinite(number):
        cell = str(int(number)) if float(number).is_integer() else repr(float(number))
    return intern(cell)


def majority(account, rows, group, labels):
    """Return the class that most rows of each sequence have, and the sequences without one."""
    names, code = np.unique(np.array(labels, dtype=object), return_inverse=True)
    alike = [sorted(found) for found in _by_case(names).values() if len(found) > 1]
    if alike:
        pairs = listed(" and ".join(map(shown, found)) for found in alike)
        account.notes.append(f"Classes that differ by case alone are taken as several: {pairs}.")
    pair, n = np.unique(group * len(names) + code, return_counts=True)
    of_pair = pair // len(names)
    most = np.zeros(group.max() + 1, dtype=int)
    np.maximum.at(most, of_pair, n)
    winning = n == most[of_pair]
    tied = np.flatnonzero(np.bincount(of_pair[winning]) > 1)
    account.note(
        rows[np.isin(group, tied)],
        f"are of a sequence of which no class has most rows, and are left out by their "
        f"{account.target}",
    )
    target = np.empty(len(most), dtype=object)
    target[of_pair[winning]] = names[pair[winning] % len(names)]
    return target, tied


def _by_case(names):
    found: dict[str, set] = {}
    for name in names:
        found.setdefault(name.casefold(), set()).add(name)
    return found


def residue_labels(account, rows, texts, targets, group):
    """Return the labels of the residues of each sequence, and the sequences where rows differ."""
    found: dict[int, np.ndarray] = {}
    wrong, unequal = [], []
    for row, text, g in zip(rows.tolist(), texts, group.tolist(), strict=True):
        cell = targets[row]
        labels = list(cell)
        if len(cell) != len(text) or "," in cell:
            labels = [label for label in re.split(r"[\s,]+", cell) if label]
        if len(labels) != len(text):
            wrong.append(row)
        elif found.setdefault(g, np.array(labels)).tolist() != labels:
            unequal.append(g)
    account.refuse(
        wrong,
        f"have not a label for each residue as {account.target}",
        "Give one character for each, or a list with commas or spaces.",
    )
    left = np.unique(np.array(unequal, dtype=int))
    account.note(
        rows[np.isin(group, left)],
        f"are of a sequence whose rows differ in {account.target}, and are left out",
    )
    kept = [found[g] for g in found if g not in set(unequal)]
    names, numbers = np.unique(np.concatenate([*kept, np.array([], str)]), return_counts=True)
    check_contrast(account, set(names.tolist()))
    pairs = zip(names.tolist(), numbers.tolist(), strict=True)
    account.notes.append(
        "Labels of residues: " + listed(f"{shown(name)} ({n:,})" for name, n in pairs) + "."
    )
    return [found[g] for g in range(len(found))], left


def check_contrast(account, values):
    """Raise where nothing is left, or the set of all targets has one alone."""
    if len(values) == 1:
        raise ValueError(
            f"{account.source}: {account.target} is {shown(values.pop())} everywhere, so that "
            "there is nothing to tell apart. Name another column with "
            "--target-column (target_column in Python)."
        )
    if not values:
        raise ValueError(f"{account.source}: no row is left. {' '.join(account.notes)}")
