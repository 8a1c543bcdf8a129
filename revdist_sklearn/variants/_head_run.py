"""One model with its language-model head over many sequences: one row a sequence.

A run is made as :class:`MemberRun` is, and its rows go the same ways: windows, batches, halving
where memory runs out, the cache, workers. What differs is what makes a row of the states.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

import numpy as np

from ..base._blocks import Blocks
from ..base._identity import digest
from ..embedding._member_run import MemberRun
from ..embedding._plan import EmbeddingPlan
from ..embedding._sequences import window_starts
from ..models._head import check_mask
from ..models._residues import MASKED
from ._substitutions import N_LETTERS, codes_of, log_ratios, with_masks

# Residues of masked copies of proteins that are there at a time.
COPIES = 2**24


@dataclass(frozen=True)
class HeadRun(MemberRun):
    """How one model is run with its language-model head.

    Parameters are those of :class:`MemberRun`, without a pooling.
    """

    head: ClassVar[bool] = True
    what: ClassVar[str] = "score"
    # What the rows are, in the description of a cache's space.
    kind: ClassVar[str] = ""

    def _identify(self):
        return {**super()._identify(), "pooling": self.kind}

    def at_sites(self, texts, sites, index=None):
        """Yield the log probabilities at some sites of texts, some texts at a time.

        Of a protein in windows, those that hold no site are not run. The state of a site is the
        mean over the windows that hold it, as in embeddings, and then goes through the head.

        Parameters
        ----------
        texts : list of str
            Checked sequences, in which residues may be masked.

        sites : list of ndarray of shape (n_sites,), int64
            Of each text, one site at least.

        index : list of int or None, default=None
            What messages call the texts; None counts.

        Yields
        ------
        batch : list of (int, ndarray of shape (n_sites, 20), float32)
            Index into ``texts``, and the log probabilities.
        """
        import torch

        encoder = self.encoder()
        if any(MASKED in text for text in texts):
            check_mask(encoder)
        pieces, owners, names, left = [], [], [], [0] * len(texts)
        for i, (text, at) in enumerate(zip(texts, sites, strict=True)):
            size = self.limit or len(text)
            for start in window_starts(len(text), self.limit):
                inside = np.flatnonzero((at >= start) & (at < start + size))
                if len(inside):
                    pieces.append(text[start : start + size])
                    owners.append((i, inside, torch.from_numpy(at[inside] - start)))
                    names.append(i if index is None else index[i])
                    left[i] += 1
        in_windows = {i for i, n in enumerate(left) if n > 1}
        sums: dict[int, tuple] = {}
        for batch in self.batches_of_states(pieces, names):
            done = []
            for j, residues, _ in batch:
                i, inside, at = owners[j]
                states = residues[at.to(residues.device)]
                if i not in in_windows:
                    done.append((i, states))
                    continue
                # Of few proteins at a time: windows of one come one after another.
                if i not in sums:
                    n = len(sites[i])
                    sums[i] = states.new_zeros(n, states.shape[1]), states.new_zeros(n, 1)
                total, count = sums[i]
                total[inside] += states.to(total.device)
                count[inside] += 1
                left[i] -= 1
                if not left[i]:
                    total, count = sums.pop(i)
                    done.append((i, total / count))
            if not done:
                continue
            device = done[0][1].device
            states = torch.cat([states.to(device) for _, states in done])
            rows = encoder.log_probabilities(states).cpu().numpy()
            ends = np.cumsum([len(states) for _, states in done])
            parts = np.split(rows, ends[:-1])
            yield [(i, part) for (i, _), part in zip(done, parts, strict=True)]

    def rows_of(self, batch, texts):
        """Return the rows of some texts, of shape (n_texts, width), from what a batch gives."""
        raise NotImplementedError

    def _told(self, indices, rows, texts, index, cache):
        """Return rows that are looked at, and put into the cache."""
        import torch

        rows = np.ascontiguousarray(rows, dtype=np.float32)
        return self._finish(indices, (torch.from_numpy(rows), None), texts, index, cache)


@dataclass(frozen=True)
class LogProbabilities(HeadRun):
    """Log probabilities at the masked residues of texts; at all of a text without a mask.

    Parameters
    ----------
    n_sites : int, default=1
        How many sites each text has.
    """

    n_sites: int = 1
    kind: ClassVar[str] = "log probabilities of amino acids"

    @property
    def width_of_layer(self):
        """Columns of a row: the amino acids, site by site."""
        return N_LETTERS * self.n_sites

    def pooled(self, texts, index=None, cache=None):
        """Yield rows as :meth:`MemberRun.pooled` does."""
        if not texts:
            return
        for batch in self.at_sites(texts, [_sites(text) for text in texts], index):
            rows = np.stack([part.ravel() for _, part in batch])
            yield self._told([i for i, _ in batch], rows, texts, index, cache)


@dataclass(frozen=True)
class MutantScores(HeadRun):
    """Sum over the mutated sites of log p of the new letter minus that of the reference's.

    The model sees the variant as it is.

    Parameters
    ----------
    reference : str
        Of the length of each text.
    """

    reference: str = ""
    kind: ClassVar[str] = "mutant score"

    @property
    def width_of_layer(self):
        """Columns of a row."""
        return 1

    def _identify(self):
        return {**super()._identify(), "reference": digest(self.reference)}

    def pooled(self, texts, index=None, cache=None):
        """Yield rows as :meth:`MemberRun.pooled` does."""
        reference = codes_of(self.reference)
        differ = [np.flatnonzero(codes_of(text) != reference) for text in texts]
        same = [i for i, sites in enumerate(differ) if not len(sites)]
        if same:
            yield self._told(same, np.zeros((len(same), 1)), texts, index, cache)
        other = [i for i, sites in enumerate(differ) if len(sites)]
        if not other:  # no need of the model either
            return
        names = other if index is None else [index[i] for i in other]
        of_other = [texts[i] for i in other], [differ[i] for i in other]
        for batch in self.at_sites(*of_other, names):
            indices = [other[j] for j, _ in batch]
            rows = [
                self._score(texts[i], differ[i], p)
                for i, (_, p) in zip(indices, batch, strict=True)
            ]
            yield self._told(indices, np.array(rows)[:, None], texts, index, cache)

    def _score(self, text, sites, log_p):
        new, old = codes_of(text)[sites], codes_of(self.reference)
        table = np.zeros((len(old), N_LETTERS))
        table[sites] = log_p
        return log_ratios(table, old, sites, new).sum()


@dataclass(frozen=True)
class PseudoLikelihoods(HeadRun):
    """Sum over the residues of a protein of log p of each where it alone is masked.

    Residues other than the twenty amino acids are context. A row holds the sum in two columns,
    as far as float32 has it and the rest, for the differences of variants are small beside it.
    """

    kind: ClassVar[str] = "pseudo-likelihood"

    @property
    def width_of_layer(self):
        """Columns of a row."""
        return 2

    def pooled(self, texts, index=None, cache=None):
        """Yield rows as :meth:`MemberRun.pooled` does."""
        codes = [codes_of(text) for text in texts]
        left = np.array([np.count_nonzero(c < N_LETTERS) for c in codes])
        totals = np.zeros(len(texts))
        for copies in _masked_copies(texts, codes):
            owners = list(copies.values())
            sites = [np.array([of_copy[0][1]]) for of_copy in owners]
            names = [
                of_copy[0][0] if index is None else index[of_copy[0][0]] for of_copy in owners
            ]
            done = []
            for batch in self.at_sites(list(copies), sites, names):
                for j, [log_p] in batch:
                    for i, site in owners[j]:
                        totals[i] += log_p[codes[i][site]]
                        left[i] -= 1
                        if not left[i]:
                            done.append(i)
            if done:
                high = totals[done].astype(np.float32)
                rows = np.stack([high, totals[done] - high], axis=1)
                yield self._told(done, rows, texts, index, cache)


@dataclass(frozen=True)
class ScorePlan(EmbeddingPlan):
    """Which models run with their heads over which sequences, and how.

    Parameters
    ----------
    make : callable, default=LogProbabilities
        Class of the runs.

    settings : mapping, default={}
        What it takes beside the parameters of a :class:`MemberRun`.

    width : int, default=20
        Columns of a model.
    """

    make: Callable = LogProbabilities
    settings: Mapping[str, object] = field(default_factory=dict)
    width: int = N_LETTERS

    @classmethod
    def of(cls, plan, make, **settings):
        """Return the plan of some scores by the models of a plan of residues."""
        run, _ = plan.runs()[0]
        width = make(**_parameters(run), **settings).width
        return cls(**_parameters(plan), make=make, settings=settings, width=width)

    @property
    def blocks(self):
        """The blocks of columns, one a model."""
        return Blocks([self.width] * len(self.members), super().blocks.names)

    def runs(self):
        """Return how each model is run, with the slice of its columns."""
        runs = (self.make(**_parameters(run), **self.settings) for run, _ in super().runs())
        return [*zip(runs, self.blocks.slices, strict=True)]


def _parameters(instance):
    """Return the parameters that made an instance of a dataclass."""
    return {f.name: getattr(instance, f.name) for f in fields(instance) if f.init}


def _masked_copies(texts, codes):
    """Yield, for some residues at a time, masked copies with text and site of each.

    Variants of a protein share those that are masked where they differ.
    """
    copies: dict[str, list] = {}
    n_residues = 0
    for i, (text, of_text) in enumerate(zip(texts, codes, strict=True)):
        for site in np.flatnonzero(of_text < N_LETTERS):
            copies.setdefault(with_masks(text, [site]), []).append((i, site))
            n_residues += len(text)
            if n_residues >= COPIES:
                yield copies
                copies, n_residues = {}, 0
    if copies:
        yield copies


def _sites(text):
    """Return the sites of a text: those that are masked, else all."""
    masked = np.flatnonzero(np.frombuffer(text.encode("ascii"), dtype=np.uint8) == ord(MASKED))
    return masked if len(masked) else np.arange(len(text))
