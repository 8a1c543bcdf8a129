"""Tables of measured variants, or of labelled residues, as they come: read, checked, accounted."""

from dataclasses import dataclass, replace
from pathlib import PurePath
from sys import intern

import numpy as np

from ..base._text import shown
from ..base._unpack import STANDARD_INPUT, file_name
from ..embedding._sequences import listed
from ._cells import check_columns, read_cells
from ._mutations import (
    EMPTY,
    compared,
    infer_wild_type,
    mutated,
    parse_mutations,
    position_offset,
    undone,
    wild_type_offsets,
    without_synonymous,
)
from ._targets import (
    MISSING,
    Account,
    check_contrast,
    majority,
    measured,
    residue_labels,
    values_of,
)

TASKS = ("regression", "classification", "residues")
CENSORED = ("limit", "drop")
SEQUENCE, MUTANT, PROTEIN = "mutated_sequence", "mutant", "protein"
COUNTS = (
    "rows",
    "missing",
    "censored",
    "replicates",
    "wild type",
    "several mutations",
    "unknown mutations",
    "left out",
)
MAKING = (
    "give the sequence of the wild type with --wild-type (wild_type in Python) and the column of "
    "mutations with --mutation-column (mutation_column in Python), of which sequences are made"
)
REPEAT = "repeat the sequence of an earlier one"
COUNTS_OF_RESIDUES = ("rows", "missing", "replicates", "left out")
_PACKINGS = {".gz", ".bz2", ".xz", ".zst"}


@dataclass(frozen=True, eq=False)
class _Rows:
    """What tables of both kinds have, one entry a distinct sequence.

    Parameters
    ----------
    name : str
        Of the file, without endings.

    sequences : list of str
        Distinct, in upper case, in the order of their first rows.

    target : ndarray of shape (n,) or list of ndarray

    task : {"regression", "classification", "residues"}

    n_replicates : ndarray of shape (n,), int
        The rows of each sequence.

    labels : list of str
        What messages call them, by their first rows: ``"A1C (line 2)"``.

    folds : dict of str to ndarray of shape (n,), str objects
        The columns ``fold_*``.

    counts : dict of str to int
        Of rows of the file, but for "wild type", "several mutations" and "unknown mutations",
        which are of distinct sequences. "rows" less "left out" are the replicates of all.

    notes : list of str
        A sentence for each thing that was handled.
    """

    name: str
    sequences: list
    target: np.ndarray | list
    task: str
    n_replicates: np.ndarray
    labels: list
    folds: dict
    counts: dict
    notes: list

    def __len__(self):
        return len(self.sequences)

    def take(self, rows):
        """Return the same of some rows, an array of indices; counts and notes stay."""
        rows = [int(i) for i in rows]
        lists = "sequences", "labels"
        of_rows: dict = {name: [getattr(self, name)[i] for i in rows] for name in lists}
        if isinstance(self.target, list):
            of_rows["target"] = [self.target[i] for i in rows]
        else:
            of_rows["target"] = self.target[rows]
        if hasattr(self, "mutations"):
            of_rows["mutations"] = [self.mutations[i] for i in rows]
        folds = {name: values[rows] for name, values in self.folds.items()}
        return replace(self, n_replicates=self.n_replicates[rows], folds=folds, **of_rows)


@dataclass(frozen=True, eq=False)
class Variants(_Rows):
    """Measured variants: sequences with a number or a class each.

    Parameters
    ----------
    name, sequences, target, task, n_replicates, labels, folds, counts, notes
        ``target`` is an array of floats, or of class labels (str objects).

    mutations : list of (tuple of (str, int, str), or None)
        Wild letter, position as the table counts it, new letter; ``()`` for the wild type and
        None where it is not known.

    wild_type : str or None
        As given, or as the mutations tell it.

    offset : int, default=0
        Position ``p`` is residue ``p - offset`` of a sequence, the first being 1.

    is_made : bool, default=False
        Whether the sequences are made of the wild type and the mutations.

    protein : str, default=None
        The one name in the column "protein".
    """

    mutations: list
    wild_type: str | None
    offset: int = 0
    is_made: bool = False
    protein: str | None = None


@dataclass(frozen=True, eq=False)
class Residues(_Rows):
    """Proteins with a label for each residue.

    Parameters
    ----------
    name, sequences, target, task, n_replicates, labels, folds, counts, notes
        ``target`` is a list of arrays of str, each as long as its sequence.
    """


def read_table(
    path,
    *,
    sequence_column=SEQUENCE,
    target_column="DMS_score",
    mutation_column=None,
    task=None,
    wild_type=None,
    censored="limit",
):
    r"""Return what a table of measurements holds, ready to be split and scored.

    Parameters
    ----------
    path : path-like
        CSV file with a header, such as those of ProteinGym: separated by commas, semicolons or
        tabs, in UTF-8, plain or packed (gzip, bzip2, xz, zstd); ``"-"`` is standard input.

    sequence_column, target_column : str, default="mutated_sequence", "DMS_score"
        Where there is no column "mutated_sequence", the sequences are made of the wild type and
        the mutations, whose wild residues must be those of it, from one start of all positions;
        rows whose mutations are no substitutions are left out.

    mutation_column : str, default=None
        None takes the column "mutant" where there is one. What its cells may hold is in
        :func:`~revdist_sklearn.evaluation._mutations.parse_mutations`.

    task : {"regression", "classification", "residues"}, default=None
        None takes numbers of more than two values as measurements, as well as two that are not
        0 and 1; texts, booleans, and 0 and 1 as classes. "residues" takes a cell as the labels
        of the residues: a character each, or a list of them with commas or spaces.

    wild_type : str or callable, default=None
        Its sequence, or what gives it of the protein in the column "protein", which may be None;
        needed where there is no column of sequences, else None has it from the
        mutations. Where there is no column of mutations, or it names none, they are found by
        comparison with sequences of its length.

    censored : {"limit", "drop"}, default="limit"
        What becomes of limits such as ``>100``: the number is taken, or the row left out.

    Returns
    -------
    table : Variants, or Residues where the task is "residues"
        Rows without a measurement are left out. Rows of one sequence, in either case of its
        letters, are one entry: the mean, or the class of most of them; where there is no such
        class, or labels of residues differ, they are left out. All of that is in ``counts`` and
        ``notes``. Columns ``fold_*`` come along as folds.

    Raises
    ------
    OSError
        If it cannot be read.

    ImportError
        If it is packed by zstd and nothing is installed that reads it.

    ValueError
        If it is no such table, or a column is missing, sequences are empty, measurements are no
        finite numbers, all are equal, or mutations are not those of their sequences; the message
        names rows and the way out.

    Examples
    --------
    >>> import os, tempfile
    >>> from revdist_sklearn.evaluation._table import read_table
    >>> text = "mutant,mutated_sequence,DMS_score\nT2A,MAK,0.5\nK3R,MTR,>2\nK3R,mtr,1\nWT,MTK,NA"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "assay.csv")
    ...     with open(path, "w") as file:
    ...         _ = file.write(text)
    ...     table = read_table(path)
    >>> table.name, table.sequences, table.target.tolist(), table.wild_type
    ('assay', ['MAK', 'MTR'], [0.5, 1.5], 'MTK')
    >>> table.mutations
    [(('T', 2, 'A'),), (('K', 3, 'R'),)]
    >>> print(*table.notes, sep="\n")
    1 of 4 rows have no DMS_score and are left out: 'NA' in WT (line 5).
    1 of 4 rows have a limit as DMS_score, taken as the number: '>2' in K3R (line 3).
    1 of 4 rows repeat the sequence of an earlier one, and are averaged with it: K3R (line 4).
    """
    _check_options(task, wild_type, censored, mutation_column)
    source = file_name(path)
    wanted = {"sequence_column": sequence_column, "target_column": target_column}
    can_be_made = sequence_column == SEQUENCE and task != "residues"

    def choose(header):
        if task != "residues" and (mutation_column is not None or MUTANT in header):
            wanted["mutation_column"] = mutation_column or MUTANT
        named = "mutation_column" in wanted and wild_type is not None
        if can_be_made and named and SEQUENCE not in header:
            del wanted["sequence_column"]
        check_columns(source, header, wanted, {"sequence_column": MAKING} if can_be_made else {})
        if task != "residues" and header.count(PROTEIN) == 1 and PROTEIN not in wanted.values():
            wanted["protein"] = PROTEIN
        folds = [name for name in header if name.startswith("fold_")]
        if len(set(folds)) < len(folds):
            raise ValueError(f"{source} has columns fold_* of one name; rename or remove them.")
        return [*dict.fromkeys([*wanted.values(), *folds])]

    cells = read_cells(path, choose, (sequence_column, target_column))
    mutants = cells.columns.get(wanted.get("mutation_column", ""))
    counts = dict.fromkeys(COUNTS if task != "residues" else COUNTS_OF_RESIDUES, 0)
    counts["rows"] = len(cells.lines)
    account = Account(source, target_column, cells.lines, mutants, counts)
    targets, sequences = cells.columns[target_column], cells.columns.get(sequence_column)
    values: np.ndarray | list = []
    if task == "residues":
        rows = measured(account, targets)
    else:
        lengths = None if sequences is None else list(map(len, sequences))
        task, rows, values = values_of(account, targets, task, censored, lengths)
    if not len(rows):
        raise ValueError(
            f"{source}: none of the {len(targets)} rows has a {target_column}. Name another "
            "column with --target-column (target_column in Python)."
        )
    names = cells.columns.get(wanted.get("protein", ""))
    protein = _protein(account, names, rows, wild_type is not None)
    if callable(wild_type):
        wild_type = wild_type(protein)
    wild_type = wild_type and _upper(wild_type.strip())
    is_made = sequences is None
    if is_made:
        kept, texts, mutations, offset = _made(account, rows, wild_type)
        rows, values = rows[kept], [values[i] for i in kept]
    else:
        account.refuse(
            [i for i in rows if not sequences[i]], f"have no {sequence_column}", "Remove them."
        )
        texts = [_upper(sequences[i]) for i in rows]
        ending = [i for i, text in enumerate(texts) if text.endswith("*") and len(text) > 1]
        for i in ending:
            texts[i] = texts[i][:-1]
        account.note(rows[ending], "have a sequence that ends in '*', left out as in FASTA files")
    groups = _Groups(rows, texts)
    if task == "residues":
        target, left = residue_labels(account, rows, groups.texts, targets, groups.number)
        account.note(groups.repeats, f"{REPEAT}, and are taken once")
        shared = _shared(path, account, cells, groups, left, task)
        return Residues(target=[target[g] for g in shared.pop("keep")], **shared)
    if not is_made:
        mutations, wild_type, offset = _mutations(account, rows, texts, wild_type)
    if task == "regression":
        target = groups.mean(np.asarray(values))
        left = np.array([], dtype=int)
        account.note(groups.repeats, f"{REPEAT}, and are averaged with it")
    else:
        if all(len(v) == len(t) > 1 for v, t in zip(values, groups.texts, strict=True)):
            account.notes.append(
                f"Each {target_column} is as long as its sequence: --task residues (task in "
                "Python) takes it as labels of residues."
            )
        target, left = majority(account, rows, groups.number, values)
        account.note(groups.repeats, f"{REPEAT}, and take the class of most")
    shared = _shared(path, account, cells, groups, left, task)
    keep = shared.pop("keep")
    # Of rows of one sequence some may be unknown.
    known: list = [None] * len(groups.first)
    for row, g in zip(mutations, groups.number.tolist(), strict=True):
        known[g] = row if known[g] is None else known[g]
    known = [known[g] for g in keep]
    counts["wild type"] = sum(row == () for row in known)
    counts["several mutations"] = sum(row is not None and len(row) > 1 for row in known)
    counts["unknown mutations"] = sum(row is None for row in known)
    check_contrast(account, set(target[keep].tolist()))
    return Variants(
        target=target[keep],
        mutations=known,
        wild_type=wild_type,
        offset=offset,
        is_made=is_made,
        protein=protein,
        **shared,
    )


def variants_of(name, sequences, target, mutations):
    """Return variants that are at hand, each sequence once.

    Parameters
    ----------
    name : str

    sequences : sequence of str
        Distinct ones.

    target : array-like of shape (n,)
        Numbers.

    mutations : sequence of str
        Such as ``"T2A"`` or ``"T2A:K4R"``, as :func:`read_table` takes them.

    Returns
    -------
    variants : Variants

    Examples
    --------
    >>> from revdist_sklearn.evaluation._table import variants_of
    >>> variants = variants_of("x", ["MAK", "MTR"], [0.5, 1.0], ["T2A", "K3R"])
    >>> variants.mutations, variants.wild_type
    ([(('T', 2, 'A'),), (('K', 3, 'R'),)], 'MTK')
    """
    texts = [_upper(sequence) for sequence in sequences]
    if len(set(texts)) < len(texts):
        raise ValueError(f"{name}: sequences occur more than once; average them beforehand.")
    rows = np.arange(len(texts))
    counts = dict.fromkeys(COUNTS, 0) | {"rows": len(texts)}
    account = Account(name, "target", (rows + 1).tolist(), list(mutations), counts)
    known, wild_type, offset = _mutations(account, rows, texts, None)
    return Variants(
        name=name,
        sequences=texts,
        target=np.asarray(target, dtype=np.float64),
        task="regression",
        n_replicates=np.ones(len(texts), dtype=int),
        labels=[account.label(row) for row in rows],
        folds={},
        counts=counts,
        notes=account.notes,
        mutations=known,
        wild_type=wild_type,
        offset=offset,
    )


class _Groups:
    """Rows by their sequences, which are counted in the order of their first rows.

    Parameters
    ----------
    rows : ndarray of int
        Of the file.

    texts : list of str
        Their sequences.
    """

    def __init__(self, rows, texts):
        numbers: dict[str, int] = {}
        self.rows, self.texts = rows, texts
        self.number = np.array([numbers.setdefault(text, len(numbers)) for text in texts])
        self.sequences = list(numbers)
        self.first = np.unique(self.number, return_index=True)[1]

    def mean(self, values):
        """Return the mean value of each sequence; where all are equal, that value exactly."""
        start = values[self.first]
        sums = np.bincount(self.number, values - start[self.number])
        return start + sums / np.bincount(self.number)

    @property
    def repeats(self):
        """The rows that are not the first of their sequence."""
        return np.delete(self.rows, self.first)


def _shared(path, account, cells, groups, left, task):
    """Return what tables of both kinds have, without some of the sequences, and the others."""
    counts, keep = account.counts, np.delete(np.arange(len(groups.first)), left)
    n_replicates = np.bincount(groups.number)[keep]
    counts["replicates"] = len(groups.repeats)
    counts["left out"] = counts["rows"] - int(n_replicates.sum())
    return {
        "name": _stem(path),
        "sequences": [groups.sequences[g] for g in keep],
        "task": task,
        "n_replicates": n_replicates,
        "labels": [account.label(row) for row in groups.rows[groups.first[keep]]],
        "folds": _folds(account, cells.columns, groups, keep),
        "counts": counts,
        "notes": account.notes,
        "keep": keep,
    }


def _check_options(task, wild_type, censored, mutation_column):
    if task is not None and task not in TASKS:
        raise ValueError(f"task={task!r} is none of {', '.join(TASKS)}, or None to have it told.")
    if censored not in CENSORED:
        raise ValueError(f"censored={censored!r} is none of {', '.join(CENSORED)}.")
    if task == "residues" and (wild_type is not None or mutation_column is not None):
        raise ValueError("Proteins of labelled residues have no wild_type and mutation_column.")
    if not (wild_type is None or callable(wild_type)) and not (
        isinstance(wild_type, str) and wild_type.strip()
    ):
        raise ValueError(f"wild_type is {wild_type!r}; give its sequence as text, or None.")


def _stem(path):
    """Return the name of a file without the endings of its packing and its format."""
    if str(path) == STANDARD_INPUT:
        return "standard input"
    name = PurePath(path)
    return PurePath(name.stem if name.suffix.lower() in _PACKINGS else name.name).stem


def _upper(text):
    # Only ASCII: other letters may become residues, or two of them, in upper case. What is so
    # already is no second copy.
    return text.upper() if text.isascii() and not text.isupper() else text


# What was mutated.


def _protein(account, cells, rows, has_wild_type):
    """Return the one protein that rows name, or None; raise of variants of several."""
    cells = [] if cells is None else [cells[i] for i in rows if cells[i].lower() not in MISSING]
    names = [*{name.casefold(): name for name in reversed(cells)}.values()][::-1]
    if len(names) > 1 and (account.mutants is not None or has_wild_type):
        raise ValueError(
            f"{account.source}: the column {PROTEIN!r} names {len(names)} proteins "
            f"({listed(map(shown, names))}), and a table has variants of one. Give each a file "
            "of its own."
        )
    return names[0] if len(names) == 1 else None


def _mutations(account, rows, texts, wild_type):
    """Return the mutations of each row, the wild type, and where positions start."""
    if account.mutants is None:
        return _compared(account, rows, texts, wild_type), wild_type, 0
    parsed = [parse_mutations(account.mutants[i]) for i in rows]
    named = [row for row, _ in parsed]
    if wild_type is not None and all(row is None for row in named):
        account.note(rows, "name no known mutation, which are told by the wild type")
        return _compared(account, rows, texts, wild_type), wild_type, 0
    offset, wrong = position_offset(named, texts)
    account.refuse(
        [rows[i] for i in wrong],
        "are named after a mutation that their sequence does not have",
        f"There the new residue stands at that position, the first being {1 + offset}. Mend the "
        "column, name another with --mutation-column (mutation_column in Python), or remove it.",
    )
    _tell_offset(account, offset)
    inferred = infer_wild_type(named, texts, offset)
    if wild_type is not None and inferred not in (None, wild_type):
        raise ValueError(
            f"{account.source}: wild_type is another sequence ({shown(wild_type, 40)}) than most "
            f"rows have without their mutations ({shown(inferred, 40)}). Mend it, or leave it out."
        )
    wild_type = wild_type or inferred
    wild_types = {text for row, text in zip(named, texts, strict=True) if row == ()}
    if wild_type is not None:
        account.refuse(
            [rows[i] for i, row in enumerate(named) if row == () and texts[i] != wild_type],
            "are named as the wild type and have another sequence than the others come from",
            "Mend the column or the sequences.",
        )
        wild_types.add(wild_type)
        pairs = enumerate(zip(named, texts, strict=True))
        foreign = [i for i, (row, text) in pairs if row and undone(text, row, offset) != wild_type]
        account.note(
            [rows[i] for i in foreign],
            "are named after another wild type than most rows come from",
            ends="; mend the column if that is not meant",
        )
    unknown: dict[str, list] = {}
    for i, (row, reason) in enumerate(parsed):
        if row is not None:
            named[i] = without_synonymous(row)
        elif reason == EMPTY and texts[i] in wild_types:
            named[i] = ()
        else:
            unknown.setdefault(reason, []).append(rows[i])
    for reason, found in unknown.items():
        account.note(found, f"{reason}, so that their positions are not known")
    return named, wild_type, offset


def _made(account, rows, wild_type):
    """Return sequences made of the wild type and the mutations that rows name.

    Returns
    -------
    kept : list of int
        Which of the rows name substitutions, or the wild type.

    texts, mutations : list
        Of these.

    offset : int
    """
    parsed = [parse_mutations(account.mutants[i]) for i in rows]
    offsets, wrong = wild_type_offsets([row for row, _ in parsed], wild_type)
    account.refuse(
        [rows[i] for i in wrong],
        "name another residue than the wild type has at that position",
        f"Its first residue is taken for position {1 + offsets[0]}, where most fit. Mend the "
        "names, or give the sequence that they are names of, from its first residue on, with "
        "--wild-type (wild_type in Python).",
    )
    if len(offsets) > 1:
        raise ValueError(
            f"{account.source}: positions of mutations do not fit the wild type as counted from "
            f"its first residue, and fit it from {len(offsets)} other starts: its first residue "
            f"may be position {listed(str(1 + offset) for offset in offsets)}. Give the sequence "
            "that they count along, from its first residue on, with --wild-type (wild_type in "
            "Python)."
        )
    left: dict[str, list] = {}
    kept = []
    for i, (row, reason) in enumerate(parsed):
        if row is None:
            left.setdefault(reason, []).append(rows[i])
        else:
            kept.append(i)
    account.notes.append(
        f"There is no column {SEQUENCE!r}: the sequences of {len(kept)} rows are made of the wild "
        "type and their mutations."
    )
    _tell_offset(account, offsets[0])
    for reason, found in left.items():
        account.note(found, f"{reason}, so that no sequence can be made, and are left out")
    if not kept:
        check_contrast(account, set())
    texts = [mutated(wild_type, parsed[i][0], offsets[0]) for i in kept]
    return kept, texts, [without_synonymous(parsed[i][0]) for i in kept], offsets[0]


def _tell_offset(account, offset):
    """Note positions that are counted from elsewhere."""
    if offset:
        account.notes.append(
            f"Positions of mutations are {abs(offset)} {'above' if offset > 0 else 'below'} those "
            "in the sequences, in all rows: taken as counted from elsewhere."
        )


def _compared(account, rows, texts, wild_type):
    """Return mutations by comparison with the wild type, if it is known."""
    if wild_type is None:
        account.notes.append(
            f"There is no column {MUTANT!r} and no wild type is given, so that positions of "
            "mutations are not known. Name a column with --mutation-column, or the sequence with "
            "--wild-type (mutation_column and wild_type in Python)."
        )
        return [None] * len(rows)
    found = [compared(wild_type, text) for text in texts]
    unknown = [rows[i] for i, row in enumerate(found) if row is None]
    if len(unknown) == len(rows):
        raise ValueError(
            f"{account.source}: no sequence is as long as the wild type, {len(wild_type)} "
            "residues, so that mutations cannot be told by comparison. Give the wild type of "
            "these sequences, or name a column of mutations with --mutation-column "
            "(mutation_column in Python)."
        )
    account.note(unknown, "are not as long as the wild type, so that mutations are not known")
    return found


# Folds that a table brings.


def _folds(account, columns, groups, keep):
    """Return the columns ``fold_*`` of each sequence."""
    folds, first = {}, groups.first
    for name in columns:
        if name.startswith("fold_"):
            cells = (columns[name][i] for i in groups.rows)
            texts = [intern("" if cell.lower() in MISSING else cell) for cell in cells]
            values = np.array(texts, dtype=object)
            account.refuse(
                groups.rows[values != values[first][groups.number]],
                f"have another {name} than an earlier row of the same sequence",
                "Give rows of one sequence the same fold, or remove the column.",
                columns[name],
            )
            folds[name] = values[first[keep]]
            empty = groups.rows[first[keep]][folds[name] == ""]
            account.note(empty, f"have no {name}, and are not used in splits by it")
    return folds
