"""Training and test rows: by hash, so that a row that is added moves no other."""

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from ..base._text import shown
from ._table import Residues

# What a table can be split by, beside its columns ``fold_*``.
OF_POSITIONS = ("position", "contiguous", "modulo")
OF_VARIANTS = ("random", *OF_POSITIONS, "n_mutations")
OF_RESIDUES = ("protein",)
SINGLES = 1


@dataclass(frozen=True, eq=False)
class Split:
    """Rows for training and rows for the test.

    Parameters
    ----------
    kind : str

    name : str
        Which of its kind.

    seed : int or None
        None where the kind does not depend on it, so that other seeds give the same.

    train, test : ndarray of int
        Ascending indices of rows; never the same row, and other rows may be in neither.
    """

    kind: str
    name: str
    seed: int | None
    train: np.ndarray
    test: np.ndarray


def splits(table, kind, *, seed=0, n_splits=5):
    r"""Return the splits of a kind.

    Parameters
    ----------
    table : Variants or Residues

    kind : str
        Of variants:

        - "random": the fold of a row is a hash of the seed and its sequence.
        - "position": the fold of a position is a hash of the seed and the position.
        - "contiguous": mutated positions in order, cut into runs of the same length.
        - "modulo": mutated positions in order, each ``n_splits``-th in the same fold.
        - "n_mutations": one mutation at most for training; two, three and so on for the test,
          and all of these together.

        Of residues "protein": the fold of a protein is a hash of the seed and its sequence. Of
        both the name of a column ``fold_*``, whose values are the folds.

    seed : int, default=0
        Of "random", "position" and "protein".

    n_splits : int, default=5
        Folds, of those kinds that make them.

    Returns
    -------
    splits : list of Split
        Folds without a row for the test or for training are left out; where folds are of
        positions, the wild type alone is no training.

    Raises
    ------
    ValueError
        If fewer than two folds have rows, or what the kind needs is not in the table.

    Notes
    -----
    "contiguous" and "modulo" are those of the supervised benchmark of ProteinGym [1]_ (as in
    ``proteinnpt/utils/cv_split.py`` of OATML-Markslab/ProteinNPT), which has rows of one
    mutation alone; with these the folds are the same. Both depend on which positions the table
    has, so that a row at a new position may move others.

    Hashes are the first 64 bits of SHA-256 of ``f"{seed}\n{name}"``, modulo ``n_splits``; a
    position is called by its number.

    Where folds are of positions, no position is on both sides, with several mutations as well. A
    row is tested if all its positions are in one fold, so that others never are; it does not
    train in a fold if it shares a position with a row that is tested there. The wild type always
    trains. Rows whose mutations are not known might share any position: they are in neither
    part, as rows without a value in a column ``fold_*`` are, and rows whose mutations are not
    known in "n_mutations". :func:`never_tested` counts.

    References
    ----------
    .. [1] Notin et al., "ProteinNPT: Improving protein property prediction and design with
       non-parametric transformers", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.evaluation._splits import never_tested, splits
    >>> from revdist_sklearn.evaluation._table import Variants
    >>> mutations = [(("M", p, "A"),) for p in range(1, 7)] + [(("M", 1, "A"), ("M", 6, "A"))]
    >>> sequences = ["".join("A" if i in {p for _, p, _ in m} else "M" for i in range(1, 7))
    ...              for m in mutations]
    >>> table = Variants("x", sequences, np.arange(7.0), "regression", np.ones(7, dtype=int),
    ...                  sequences, {}, {}, [], mutations, "MMMMMM")
    >>> for split in splits(table, "contiguous", n_splits=3):
    ...     print(split.name, split.train.tolist(), split.test.tolist())
    0 [2, 3, 4, 5] [0, 1]
    1 [0, 1, 4, 5, 6] [2, 3]
    2 [0, 1, 2, 3] [4, 5]
    >>> never_tested(table, splits(table, "contiguous", n_splits=3)).tolist()
    [6]
    """
    _check_kind(table, kind)
    if n_splits < 2:
        raise ValueError(f"n_splits={n_splits} is too few; take 2 or more.")
    rows = np.arange(len(table))
    return _splits(table, kind, rows, seed, seed, n_splits)


def inner(split, table, *, n_splits=5):
    """Return splits of the training rows of one, to choose alpha for what is tested.

    Parameters
    ----------
    split : Split
        Of :func:`splits` or :func:`draws`.

    table : Variants or Residues
        The same.

    n_splits : int, default=5

    Returns
    -------
    splits : list of Split
        Of the same kind, with indices into the whole table. Those of a column ``fold_*`` are
        its other folds. Where the training rows allow none of the kind, as with
        "n_mutations", they are random ones, of which ``kind`` tells.

    Raises
    ------
    ValueError
        If there are too few training rows for two folds.
    """
    within = f"{split.seed} within {split.kind} {split.name}"
    chance = "protein" if isinstance(table, Residues) else "random"
    if split.kind not in ("n_mutations", chance):
        try:
            return _splits(table, split.kind, split.train, within, split.seed, n_splits)
        except ValueError:
            pass
    return _splits(table, chance, split.train, within, split.seed, n_splits)


def draws(table, n_train, kind, *, n_draws=20, seed=0):
    """Return splits with a number of training rows, for learning curves.

    Parameters
    ----------
    table : Variants or Residues

    n_train : int
        Training rows. More of them in the same draw hold the fewer.

    kind : {"random", "position", "protein"}
        "random" (of residues "protein") trains on the ``n_train`` rows whose hash of seed, draw
        and sequence is smallest, and tests the others. "position" draws positions until there
        are so many rows of these alone, the wild type first of all, and tests rows of none of
        these positions.

    n_draws : int, default=20

    seed : int, default=0

    Returns
    -------
    splits : list of Split

    Raises
    ------
    ValueError
        If so many rows leave none for the test.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn.evaluation._splits import draws
    >>> from revdist_sklearn.evaluation._table import Variants
    >>> table = Variants("x", list("ACDEF"), np.arange(5.0), "regression",
    ...                  np.ones(5, dtype=int), list("ACDEF"), {}, {}, [], [None] * 5, None)
    >>> [(len(split.train), len(split.test)) for split in draws(table, 2, "random", n_draws=3)]
    [(2, 3), (2, 3), (2, 3)]
    """
    _check_kind(table, kind)
    allowed = OF_RESIDUES if isinstance(table, Residues) else ("random", "position")
    if kind not in allowed:
        raise ValueError(f"Rows cannot be drawn by {kind!r}; take {' or '.join(allowed)}.")
    if n_train < 1 or n_draws < 1:
        raise ValueError(f"n_train={n_train} and n_draws={n_draws} must be 1 or more.")
    found = []
    for draw in range(n_draws):
        within = f"{seed} draw {draw}"
        if kind == "position":
            train, test = _drawn_positions(table, n_train, within)
        else:
            order = np.argsort(_hashes(within, table.sequences), kind="stable")
            train, test = order[:n_train], order[n_train:]
        if len(train) < n_train or not len(test):
            raise ValueError(
                f"n_train={n_train} of {len(table)} rows leaves none for the test in draw {draw} "
                f"by {kind!r}; take fewer. {_way_out(table, kind)}"
            )
        found.append(
            Split(kind, f"{n_train} rows, draw {draw}", seed, np.sort(train), np.sort(test))
        )
    return found


def never_tested(table, splits):
    """Return the rows that no split tests.

    Parameters
    ----------
    table : Variants or Residues

    splits : list of Split

    Returns
    -------
    rows : ndarray of int
    """
    tested = np.zeros(len(table), dtype=bool)
    for split in splits:
        tested[split.test] = True
    return np.flatnonzero(~tested)


def _check_kind(table, kind):
    """Raise where a kind is none of a table's."""
    kinds = [*(OF_RESIDUES if isinstance(table, Residues) else OF_VARIANTS), *table.folds]
    if kind not in kinds:
        raise ValueError(
            f"{shown(table.name)} cannot be split by {kind!r}; take one of {', '.join(kinds)}."
        )


def _splits(table, kind, rows, salt, seed, n_splits):
    """Return the splits of some rows of a table; the salt goes into hashes."""
    if kind == "n_mutations":
        found = _by_number(table, rows)
        least, seed = 1, None
    elif kind in OF_POSITIONS:
        found = _by_position(table, kind, rows, salt, n_splits)
        least, seed = 2, seed if kind == "position" else None
    else:
        if kind in table.folds:
            values, seed = table.folds[kind][rows], None
        else:
            values = _hashes(salt, [table.sequences[i] for i in rows]) % np.uint64(n_splits)
        names = sorted(set(values.tolist()) - {""}, key=_as_number)
        used = rows[values != ""] if kind in table.folds else rows
        tests = [(str(name), rows[values == name]) for name in names]
        found = [(name, np.setdiff1d(used, test), test) for name, test in tests]
        least = 2
    found = [(name, train, test) for name, train, test in found if len(train) and len(test)]
    if len(found) < least:
        raise ValueError(
            f"{shown(table.name)}: {len(rows)} rows give {len(found) or 'no'} "
            f"fold{'' if len(found) == 1 else 's'} by {kind!r} that can be tested, and {least} "
            f"are needed. {_way_out(table, kind)}"
        )
    return [Split(kind, name, seed, train, test) for name, train, test in found]


def _way_out(table, kind):
    if kind in (*OF_POSITIONS, "n_mutations") and not any(table.mutations):
        return "It has no mutations: read it with a column of them, or with the wild type."
    if kind == "n_mutations":
        return "Rows of one mutation (or the wild type) and of several are needed."
    if kind in OF_POSITIONS:
        return "Measure more positions, or split by 'random'."
    if kind in ("random", "protein"):
        return "Give more rows, or take more splits."
    return "Give two values or more in that column, or split by another kind."


def _as_number(name):
    """Return a key by which folds are in order, numbers before other names."""
    try:
        return (0, float(name), "")
    except ValueError:
        return (1, 0.0, name)


def _hashes(salt, names):
    """Return a number of 64 bits for each name, the same anywhere."""
    start = hashlib.sha256(f"{salt}\n".encode())
    found = np.empty(len(names), dtype=np.uint64)
    for i, name in enumerate(names):
        state = start.copy()
        state.update(str(name).encode("utf-8", "surrogatepass"))
        found[i] = int.from_bytes(state.digest()[:8], "big")
    return found


def _by_number(table, rows):
    """Return splits by the number of mutations: few for training, more for the test."""
    counts = np.array(
        [-1 if table.mutations[i] is None else len(table.mutations[i]) for i in rows]
    )
    train = rows[(counts >= 0) & (counts <= SINGLES)]
    numbers = sorted(set(counts[counts > SINGLES].tolist()))
    found = [(f"{n} mutations", train, rows[counts == n]) for n in numbers]
    if len(numbers) > 1:
        found.append(("all", train, rows[counts > SINGLES]))
    return found


@dataclass(frozen=True)
class _Positions:
    """Which rows have which mutated positions.

    Parameters
    ----------
    rows : ndarray of shape (n,)
        Those whose mutations are known, the wild type among them.

    positions : ndarray of shape (n_positions,)
        In order.

    has : sparse array of shape (n, n_positions)
    """

    rows: np.ndarray
    positions: np.ndarray
    has: csr_array

    @classmethod
    def of(cls, table, rows):
        """Return those of some rows of a table."""
        known = np.array([i for i in rows if table.mutations[i] is not None], dtype=int)
        named = [[position for _, position, _ in table.mutations[i]] for i in known]
        flat = np.array([position for row in named for position in row], dtype=np.int64)
        positions, column = np.unique(flat, return_inverse=True)
        ends = np.concatenate([[0], np.cumsum([len(row) for row in named])]).astype(int)
        shape = (len(known), len(positions))
        return cls(known, positions, csr_array((np.ones(len(flat)), column, ends), shape=shape))

    @property
    def mutated(self):
        """Which rows are not the wild type."""
        return np.diff(self.has.indptr) > 0

    def any_in(self, chosen):
        """Return which rows have any of the chosen positions, an array of bool."""
        return self.has @ chosen.astype(float) > 0


def _by_position(table, kind, rows, salt, n_splits):
    """Return splits by position, of which none is on both sides."""
    found = _Positions.of(table, rows)
    if not len(found.positions):
        return []
    order = np.arange(len(found.positions))
    if kind == "position":
        fold = _hashes(salt, found.positions.tolist()) % np.uint64(n_splits)
    elif kind == "modulo":
        fold = order % n_splits
    else:
        runs = np.array_split(order, n_splits)
        fold = np.repeat(np.arange(n_splits), [len(run) for run in runs])
    parts = []
    for k in range(n_splits):
        test = found.mutated & ~found.any_in(fold != k)
        tested = found.has.T @ test.astype(float) > 0
        train = ~test & ~found.any_in(tested)
        if (train & found.mutated).any():  # the wild type alone teaches nothing
            parts.append((str(k), found.rows[train], found.rows[test]))
    return parts


def _drawn_positions(table, n_train, salt):
    """Return rows of drawn positions, and rows that have none of these."""
    found = _Positions.of(table, np.arange(len(table)))
    if not len(found.positions):
        return found.rows, found.rows[:0]
    rank = np.argsort(np.argsort(_hashes(salt, found.positions.tolist()), kind="stable"))
    # A row can be taken when the last of its positions is drawn; the wild type at once.
    when = np.full(len(found.rows), -1)
    np.maximum.at(
        when,
        np.repeat(np.arange(len(found.rows)), np.diff(found.has.indptr)),
        rank[found.has.indices],
    )
    hashes = _hashes(salt, [table.sequences[i] for i in found.rows])
    train = np.lexsort((hashes, when))[:n_train]
    last = when[train].max(initial=-1)
    test = found.mutated & ~found.any_in(rank <= last)
    return found.rows[train], found.rows[test]
