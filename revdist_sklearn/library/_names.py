"""Identifiers that occurred before, of tens of millions, in 8 bytes each."""

import numpy as np

# Hashes of one sorted array at most, so that a merge takes little memory beside them.
LONGEST_RUN = 1 << 22


class SeenNames:
    """The identifiers so far, as sorted runs of hashes, each more than twice the next.

    Python's own hash of 64 bits is keyed anew in each process, so that nobody can make two
    identifiers meet. By chance two of n do with n² / 2^65.
    """

    def __init__(self):
        self._runs: list[np.ndarray] = []

    def add(self, names):
        """Return which of the names occurred before, here or earlier, and remember the others.

        Parameters
        ----------
        names : list of str

        Returns
        -------
        repeated : ndarray of bool
        """
        hashes = np.fromiter(map(hash, names), np.int64, len(names))
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        known = np.zeros(len(names), bool)
        known[1:] = hashes[1:] == hashes[:-1]
        for run in self._runs:
            place = np.searchsorted(run, hashes)
            place[place == len(run)] = 0
            known |= run[place] == hashes
        self._remember(hashes[~known])
        repeated = np.empty(len(names), bool)
        repeated[order] = known
        return repeated

    def _remember(self, run):
        runs = self._runs
        if len(run):
            runs.append(run)
        while (
            len(runs) > 1
            and len(runs[-2]) < 2 * len(runs[-1])
            and (len(runs[-2]) + len(runs[-1]) <= LONGEST_RUN)
        ):
            # Two sorted runs are what this sort merges, in linear time.
            runs[-2:] = [np.sort(np.concatenate(runs[-2:]), kind="stable")]
