"""From the states of a protein's residues to one row."""

from dataclasses import dataclass

import numpy as np

MEAN, MAX, CLS, MUTATED = "mean", "max", "cls", "mutated"


@dataclass(frozen=True)
class Pooling:
    """What makes one row of a protein.

    Parameters
    ----------
    kind : {"mean", "max", "cls", "mutated"} or tuple of int
        A tuple holds the positions to average over, counted from 0.

    reference : str or None, default=None
        Of "mutated" alone: the sequence that tells which positions are mutated.
    """

    kind: str | tuple[int, ...]
    reference: str | None = None

    def check(self, sequences):
        """Raise if a sequence has not the positions to pool over.

        Parameters
        ----------
        sequences : list of str
            Checked sequences, as they will be embedded.

        Raises
        ------
        ValueError
            The message names the index of the sequence.
        """
        if isinstance(self.kind, tuple):
            last = max(self.kind)
            for index, sequence in enumerate(sequences):
                if last >= len(sequence):
                    raise ValueError(
                        f"Sequence {index} has {len(sequence)} residues, but `pooling` names "
                        f"position {last} (counted from 0). Drop the sequence, or name "
                        "positions that all sequences have."
                    )
        elif self.reference is not None:
            for index, sequence in enumerate(sequences):
                if len(sequence) != len(self.reference):
                    raise ValueError(
                        f"Sequence {index} has {len(sequence)} residues, `reference` has "
                        f"{len(self.reference)}: pooling='mutated' compares them position by "
                        "position, which insertions and deletions do not allow. Use "
                        "pooling='mean', or drop the sequence."
                    )

    def positions(self, sequence):
        """Return the positions to average over, as an array, or None for all."""
        if isinstance(self.kind, tuple):
            return np.array(self.kind)
        if self.reference is not None:
            return np.flatnonzero(_letters(sequence) != _letters(self.reference))
        return None

    def __call__(self, sequence, residues, first, reference_residues=None):
        """Return the pooled row, on the device of the states.

        Parameters
        ----------
        sequence : str
            The protein.

        residues : Tensor of shape (n_residues, width), float32
            States of its residues.

        first : Tensor of shape (width,)
            State of the start token.

        reference_residues : Tensor of shape (n_residues, width) or None
            Of "mutated" alone: the states of the reference.

        Returns
        -------
        row : Tensor of shape (width,), float32
        """
        if self.kind == CLS:
            return first
        if self.kind == MAX:
            return residues.amax(0)
        positions = self.positions(sequence)
        if positions is None:
            return residues.mean(0)
        if reference_residues is not None:
            residues = residues - reference_residues
        if not len(positions):  # the reference itself: nothing differs
            return residues.new_zeros(residues.shape[1])
        return residues[positions].mean(0)


def resolve_pooling(pooling, reference):
    """Return the :class:`Pooling` that the featurizer's parameters ask for.

    Parameters
    ----------
    pooling : str or array-like of int
        As in :class:`ESMFeaturizer`.

    reference : str or None
        The checked reference.

    Returns
    -------
    pooling : Pooling

    Raises
    ------
    ValueError
        If the positions are no distinct integers from 0 on, or "mutated" has no reference.

    Examples
    --------
    >>> from revdist_sklearn.embedding._pooling import resolve_pooling
    >>> resolve_pooling([3, 7], None)
    Pooling(kind=(3, 7), reference=None)
    """
    if isinstance(pooling, str):
        if pooling != MUTATED:
            return Pooling(pooling)
        if reference is None:
            raise ValueError(
                "pooling='mutated' averages over the positions that differ from `reference`, "
                "which is None: give the wild type as `reference`."
            )
        return Pooling(MUTATED, reference)
    positions = np.asarray(pooling)
    distinct = np.unique(positions)
    integers = positions.ndim == 1 and np.issubdtype(positions.dtype, np.integer)
    if not integers or not len(distinct) or distinct[0] < 0 or len(distinct) < len(positions):
        raise ValueError(
            f"`pooling`={pooling!r} names no positions; give a flat list of distinct integers, "
            "counted from 0 (residue 1 of a protein is position 0), or 'mean', 'max', 'cls' or "
            "'mutated'."
        )
    return Pooling(tuple(int(position) for position in distinct))


def _letters(sequence):
    return np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)
