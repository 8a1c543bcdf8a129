"""Blocks of columns, one a model: names, widths and the names of their columns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from operator import index


@dataclass(frozen=True)
class Blocks:
    """Which columns belong to which model of a family.

    Columns are named ``<block>__<column>``, the column zero-padded; what stands before the
    last double underscore names the block.

    Parameters
    ----------
    sizes : sequence of int
        Columns of each block, in order.

    names : sequence of str or None, default=None
        Name of each block; None where they have none.

    Raises
    ------
    ValueError
        If there is no block, one has no column, or names and sizes differ in number.

    TypeError
        If a width is no integer.

    Examples
    --------
    >>> from revdist_sklearn.base._blocks import Blocks
    >>> blocks = Blocks([2, 11], ["a", "b"])
    >>> print(blocks)
    a (2), b (11)
    >>> blocks.edges, blocks.n_columns, blocks.columns()[-2:]
    ((0, 2, 13), 13, ['b__09', 'b__10'])
    >>> Blocks.of_columns(blocks.columns()) == blocks
    True
    """

    sizes: Sequence[int]
    names: Sequence[str] | None = None

    def __post_init__(self):
        if any(isinstance(size, bool) for size in self.sizes):
            raise TypeError(f"block_sizes={self.sizes} has a bool; give the widths of blocks.")
        object.__setattr__(self, "sizes", tuple(map(index, self.sizes)))
        if self.names is not None:
            object.__setattr__(self, "names", tuple(self.names))
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(
                f"block_sizes={self.sizes} must hold at least one width, each 1 or more."
            )
        if self.names is not None and len(self.names) != len(self.sizes):
            raise ValueError(
                f"{len(self.names)} block_names were given for {len(self.sizes)} blocks; give one "
                "name a block, or None."
            )

    @classmethod
    def of_columns(cls, columns):
        """Return the blocks of column names, or None where a name carries no block."""
        columns = None if columns is None else list(columns)
        if not columns or not all(isinstance(c, str) and "__" in c for c in columns):
            return None
        runs = groupby(columns, key=lambda column: column.rpartition("__")[0])
        names, sizes = zip(*((name, sum(1 for _ in run)) for name, run in runs), strict=True)
        return cls(sizes, names)

    @classmethod
    def nested(cls, columns):
        """Return the blocks of columns that come model by model, or None.

        By their names: there are several blocks, none comes twice, and the numbers of a block's
        columns ascend. Columns by variance are in another order, and where they are not, no
        name tells.
        """
        columns = None if columns is None else list(columns)
        blocks = cls.of_columns(columns)
        if blocks is None or not len(set(blocks.names)) == len(blocks) > 1:
            return None
        ascend = all(_ascend(columns[block]) for block in blocks.slices)
        return blocks if ascend else None

    def __len__(self):
        return len(self.sizes)

    def __str__(self):
        if self.names is None:
            return str(self.sizes)
        return ", ".join(f"{n} ({size})" for n, size in zip(self.names, self.sizes, strict=True))

    @property
    def n_columns(self):
        """Columns of all blocks."""
        return sum(self.sizes)

    @property
    def edges(self):
        """Columns before each block, and all of them."""
        return tuple(accumulate(self.sizes, initial=0))

    @property
    def slices(self):
        """Columns of each block, as a slice."""
        return [slice(start, stop) for start, stop in pairwise(self.edges)]

    @property
    def labels(self):
        """Names of the blocks; their numbers from 1 where they have none."""
        return self.names or tuple(str(i + 1) for i in range(len(self)))

    def columns(self, prefix=""):
        """Return the names of all columns, ``<prefix><block>__<column>``."""
        return [
            f"{prefix}{label}__{column:0{len(str(size - 1))}d}"
            for label, size in zip(self.labels, self.sizes, strict=True)
            for column in range(size)
        ]

    def first(self, n):
        """Return the first ``n`` blocks."""
        return Blocks(self.sizes[:n], self.names and self.names[:n])

    def agrees(self, other):
        """Return whether ``other`` may be the same: equal widths, and names if both have any."""
        return self.sizes == other.sizes and (
            self.names is None or other.names is None or self.names == other.names
        )

    def check(self, other, theirs, mine, way_out, *, strictly=False):
        """Raise where ``other`` are blocks of another family.

        Parameters
        ----------
        other : Blocks

        theirs, mine : str
            Who has the others and who has these, as the message begins and goes on:
            "<theirs> the blocks .., but <mine> ..".

        way_out : str
            What to do, for its end.

        strictly : bool, default=False
            Whether blocks without names are others than those with.

        Raises
        ------
        ValueError
            If they do not agree.
        """
        if self != other if strictly else not self.agrees(other):
            raise ValueError(f"{theirs} the blocks {other}, but {mine} {self}: {way_out}")


def _ascend(names):
    """Return whether names that differ in numbers alone come in the order of these."""
    parts = [re.split(r"(\d+)", name) for name in names]
    return all(
        one[::2] != other[::2] or [*map(int, one[1::2])] < [*map(int, other[1::2])]
        for one, other in pairwise(parts)
    )
