"""Random single substitutions of a corpus: what the level of mutants is gathered from."""

import hashlib
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain, islice

import numpy as np

from .embedding._sequences import runs
from .method._moments import protein_means
from .models._residues import AMINO_ACIDS
from .variants._substitutions import N_LETTERS, codes_of

# Rows of mutants, of whole proteins, multiplied at a time.
ROWS = 1024


@dataclass(frozen=True)
class Mutants:
    """Which proteins of a corpus are mutated, and how often.

    Parameters
    ----------
    n : int
        Mutants of each protein; of short ones all single substitutions that there are.

    proteins : frozenset of int or None
        Index in the corpus of those that are mutated; None for all.

    seed : int
    """

    n: int
    proteins: frozenset | None
    seed: int

    def identity(self):
        """Return what tells them apart from others of the same corpus, for JSON."""
        proteins = None if self.proteins is None else sorted(self.proteins)
        return {"n": self.n, "proteins": proteins, "seed": self.seed}

    def facts(self, sequences):
        """Return what a provenance tells of them: proteins without a mutant do not count."""
        n = sum(_n_substitutions(sequence) > 0 for sequence in self._mutated(sequences, 0))
        return {"n_per_protein": self.n, "n_proteins": n, "seed": self.seed}

    def of(self, sequences, start):
        """Return each mutated protein of some consecutive ones, followed by its mutants.

        Parameters
        ----------
        sequences : list of str

        start : int
            Index of the first of them in the corpus.

        Returns
        -------
        families : list of list of str
        """
        families = [
            [sequence, *mutants_of(sequence, self.n, self.seed)]
            for sequence in self._mutated(sequences, start)
        ]
        return [family for family in families if len(family) > 1]

    def n_residues(self, sequences, start):
        """Return how many residues these are: what the mutants cost beside the corpus itself."""
        total = 0
        for sequence in self._mutated(sequences, start):
            n_all = _n_substitutions(sequence)
            total += (min(self.n, n_all) + 1) * len(sequence) if n_all else 0
        return total

    def _mutated(self, sequences, start):
        if self.proteins is None:
            return sequences
        return [s for i, s in enumerate(sequences, start) if i in self.proteins]


def choose_mutants(n, n_proteins, sequences, seed):
    """Return the proteins of a corpus that are mutated, by a hash of their sequences.

    So another protein more, or another order, leaves most of the choice as it is.

    Parameters
    ----------
    n : int
        Mutants of each.

    n_proteins : int or None
        Distinct proteins that are mutated; None for all of the corpus, also repeated ones.

    sequences : list of str

    seed : int

    Returns
    -------
    mutants : Mutants

    Raises
    ------
    ValueError
        If no protein has an amino acid to substitute.
    """
    first = {sequence: i for i, sequence in reversed(list(enumerate(sequences)))}
    able = [sequence for sequence in first if _n_substitutions(sequence)]
    if not able:
        raise ValueError(
            "No protein of the corpus has one of the twenty amino acids, which mutants "
            "substitute; leave mutants out."
        )
    if n_proteins is None:
        return Mutants(n, None, seed)
    chosen = nsmallest(n_proteins, able, key=lambda sequence: _hash(sequence, seed))
    return Mutants(n, frozenset(first[sequence] for sequence in chosen), seed)


def mutants_of(sequence, n, seed):
    """Return random single substitutions of a protein, none twice.

    Parameters
    ----------
    sequence : str

    n : int
        How many; all, where there are fewer.

    seed : int

    Returns
    -------
    mutants : list of str

    Examples
    --------
    >>> from revdist_sklearn._mutants import mutants_of
    >>> mutants = mutants_of("MKTX", 5, seed=0)
    >>> len(set(mutants)), {mutant[3] for mutant in mutants}, len(mutants_of("MKTX", 99, seed=0))
    (5, {'X'}, 57)
    """
    codes = codes_of(sequence)
    sites = np.flatnonzero(codes < N_LETTERS)
    n_all = len(sites) * (N_LETTERS - 1)
    random = np.random.default_rng(int.from_bytes(_hash(sequence, seed), "big"))
    picked = random.choice(n_all, size=min(n, n_all), replace=False) if n_all else []
    mutants = []
    for number in picked:
        site, letter = divmod(int(number), N_LETTERS - 1)
        site = sites[site]
        letter += letter >= codes[site]  # all but the residue that is there
        mutants.append(f"{sequence[:site]}{AMINO_ACIDS[letter]}{sequence[site + 1 :]}")
    return mutants


def _n_substitutions(sequence):
    """Return how many single substitutions there are, in sites of the twenty amino acids."""
    return int((codes_of(sequence) < N_LETTERS).sum()) * (N_LETTERS - 1)


def _hash(sequence, seed):
    return hashlib.blake2b(f"{seed} {sequence.upper()}".encode(), digest_size=16).digest()


def add_mutants(moments, featurizer, families, options, progress=None):
    """Add mutants to the level ``"mutant"`` of moments.

    A row is the mean over the residues of a mutant less that of its protein, times their number:
    the sum of what the substitution changes, whatever the length.

    Parameters
    ----------
    moments : Moments

    featurizer : ESMFeaturizer

    families : list of list of str
        As ``Mutants.of`` gives them.

    options : dict
        For ``iter_residues``.

    progress : callable or None
        Called with the number of residues after each batch.
    """

    def means():
        texts = list(chain.from_iterable(families))
        for rows, index in featurizer.iter_residues(texts, **options):
            found = protein_means(rows, None, index)
            if progress is not None:  # before the last mean, after which nobody asks for more
                progress(len(rows))
            yield from found

    each = means()
    for first, last in runs([len(family) - 1 for family in families], ROWS):
        rows, labels = [], []
        for family in families[first:last]:
            reference, *mutants = islice(each, len(family))
            rows.append((np.array(mutants) - reference) * len(family[0]))
            labels += [len(rows)] * len(mutants)
        moments.update(np.concatenate(rows), proteins=labels, level="mutant")
