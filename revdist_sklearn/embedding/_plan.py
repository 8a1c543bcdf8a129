"""The embedding plan: what a featurizer's parameters come to, and what rows depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from ..base._identity import digest
from ..models._architectures import GENERIC
from ..models._family import Member, blocks_of
from ..models._layers import as_model
from ..models._residues import RESIDUES
from ._member_run import MemberRun, blind_start_token, no_start_token
from ._pooling import Pooling
from ._sequences import apply_limit, check_sequences, warn_of_nucleotides


@dataclass(frozen=True)
class EmbeddingPlan:
    """Which models run over which sequences, and how.

    Parameters
    ----------
    members : tuple of Member
        The models, in the order of their blocks; of several layers one member each.

    pooling : Pooling or None
        What makes one row of a protein; None for rows of residues.

    reference : str or None, default=None
        Sequence whose row is subtracted from each.

    dtype, layer, device, model_kwargs, max_length, too_long, token_budget
        As in :class:`ESMFeaturizer`.

    silent : bool, default=True
        Whether models load without a word.

    Examples
    --------
    >>> from revdist_sklearn import ESMFeaturizer
    >>> plan = ESMFeaturizer("esm2-nano:64", max_length=3, too_long="truncate").embedding_plan()
    >>> print(plan.blocks, plan.limit)
    esm2_nano_032 (32), esm2_nano_064 (64) 3
    >>> sorted(plan.identity()["members"][0])
    ['dtype', 'layer', 'model_kwargs', 'pooling', 'reference', 'weights', 'width', 'window']
    """

    members: tuple[Member, ...]
    pooling: Pooling | None
    reference: str | None = None
    dtype: str = "float32"
    layer: int | tuple = -1
    device: str | None = None
    model_kwargs: Mapping[str, object] = field(default_factory=dict)
    max_length: int | None = None
    too_long: str = "error"
    token_budget: int | None = None
    silent: bool = True

    def __post_init__(self):
        try:
            self.limit  # noqa: B018 (raises where the models cannot take so many residues)
        except ValueError:
            self._check_unknown_models()
            raise

    @property
    def blocks(self):
        """The blocks of columns, one a model, or a layer of one."""
        return blocks_of(self.members)

    @property
    def limit(self):
        """Residues of a sequence at most, or of a window; None for any number."""
        bounded = [(m.limit, m.source) for m in self.members if m.limit is not None]
        if not bounded:
            return self.max_length
        least, source = min(bounded)
        if self.max_length is None:
            return least
        if self.max_length > least:
            raise ValueError(
                f"`max_length`={self.max_length} is more than the {least} residues that "
                f"{source!r} can take (its positions are a table that ends there). Use at most "
                f"{least}, or None; too_long='window' embeds longer sequences."
            )
        return self.max_length

    @property
    def letters(self):
        """The letters that all models know."""
        return "".join(
            r for r in RESIDUES if all(r in m.architecture.residues for m in self.members)
        )

    def prepare(self, sequences, labels=None, *, seen=False):
        """Return sequences as they will be embedded, checked and cut.

        Parameters
        ----------
        sequences : list, tuple, 1-d array or Series of str

        labels : sequence of str, default=None
            What messages call the sequences; None counts them.

        seen : bool, default=False
            Whether they were prepared before, as parts of a whole are: what makes no error
            was told then.

        Returns
        -------
        prepared : list of str

        Raises
        ------
        TypeError, ValueError
            As ``check_sequences``, ``apply_limit`` and ``Pooling.check``.

        Warns
        -----
        UserWarning
            As ``apply_limit``, and where sequences are DNA or RNA.
        """
        checked = check_sequences(sequences, self.letters, labels)
        if not seen:
            warn_of_nucleotides(checked, labels)
        try:
            prepared = apply_limit(checked, self.limit, self.too_long, labels)
        except ValueError:
            self._check_unknown_models()
            raise
        if self.pooling is not None:
            extra = [] if self.reference is None else [self.reference]
            self.pooling.check([*prepared, *extra])
        return prepared

    def _check_unknown_models(self):
        """Raise where a model without an entry cannot be used at all, with whatever limit.

        Only loading such a model tells; what is wrong with it comes before its limit.
        """
        for run, _ in self._runs(None):
            if run.member.architecture is GENERIC:
                run.encoder()

    def check_start_tokens(self):
        """Raise where "cls" is to be pooled of a model whose start token tells nothing."""
        if self.pooling is not None and self.pooling.kind == "cls":
            for member in self.members:
                if member.architecture.before == ():
                    raise ValueError(no_start_token(member))
                if member.architecture.causal:
                    raise ValueError(blind_start_token(member))

    def layer_of(self, member):
        """Return which hidden state the block of a member holds, as it was given.

        Parameters
        ----------
        member : Member
            One of ``members``.

        Returns
        -------
        layer : int
        """
        return self.layer if member.layer is None else member.layer

    def runs(self):
        """Return how each model is run, for all of its layers at once, and its columns."""
        return self._runs(self.limit)

    def _runs(self, limit):
        runs, start = [], 0
        # Layers of a model stand side by side.
        for member, of_model in groupby(self.members, as_model):
            layers = tuple(self.layer_of(one) for one in of_model)
            run = MemberRun(
                member,
                self.pooling,
                dtype=self.dtype,
                layer=layers if isinstance(self.layer, tuple) else self.layer,
                device=self.device,
                model_kwargs=self.model_kwargs,
                limit=limit,
                token_budget=self.token_budget,
                silent=self.silent,
            )
            runs.append((run, slice(start, start + run.width)))
            start += run.width
        return runs

    def identity(self):
        """Return what rows depend on beside the sequences as ``prepare`` gives them.

        Equal identities mean equal rows, on any machine: of models the contents count, not
        their names and places. What sets speed or memory alone has no part in it.

        Returns
        -------
        identity : dict
            Can be written as JSON.
        """
        window = self.limit if self.too_long == "window" else None
        return {
            "members": [
                {name: value for name, value in of_layer.items() if name != "model"}
                for run, _ in self.runs()
                for of_layer in run.identities(window)
            ],
            "reference": None if self.reference is None else digest(self.reference),
        }


def ascending(blocks):
    """Return whether each model is wider than the one before."""
    return all(a < b for a, b in pairwise(blocks.sizes))
