"""What a run will write, and where: all of it is known before a sequence is read."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import __version__
from .._provenance import check_models
from ..base._text import counted
from ..base._units import as_size
from ..embedding._plan import EmbeddingPlan
from ..method._distiller import ReverseDistiller
from ._block import digest_of_distiller
from ._formats import ENDINGS, check_ending, size_of
from ._shards import DTYPES, LEVELS

# What one block holds at most. Blocks follow from the input and the settings alone, so that the
# number of workers does not change the shards.
BLOCK_RESIDUES = 2**18
BLOCK_PROTEINS = 2**13
BLOCK_BYTES = 2**28


@dataclass(frozen=True)
class Job:
    """Settings and places of a run.

    Parameters
    ----------
    output : Path
        Absolute.

    ending : str
        "" for a folder of shards.

    layout : str or None
        Of the ending.

    plan : EmbeddingPlan
        Of the models that are needed, at the level of the rows.

    residues : EmbeddingPlan
        The same for residues: what sequences are checked by.

    distiller : ReverseDistiller or None
        Cut to the wanted prefix.

    facts : dict
        Of :class:`ShardFolder`.

    cache_dir : str or None

    n_models : int
        Of the family.
    """

    output: Path
    ending: str
    layout: str | None
    plan: EmbeddingPlan
    residues: EmbeddingPlan
    distiller: ReverseDistiller | None
    facts: dict
    cache_dir: str | None
    n_models: int

    @classmethod
    def of(cls, output, featurizer, distiller, n_components, *, level, dtype, layout):
        """Return the job of the parameters of :func:`embed_to`, checked."""
        _check_choice("level", level, LEVELS)
        _check_choice("dtype", dtype, DTYPES)
        if not os.fspath(output):
            raise ValueError("`output` is empty; name a file or a folder.")
        output = Path(os.path.abspath(os.path.expanduser(output)))
        ending = "" if output.is_dir() else output.suffix
        if ending:
            check_ending(output, level, layout)
            layout = layout or next(iter(ENDINGS[ending].write))  # the default one
        elif layout is not None:
            raise ValueError(f"`layout`={layout!r} is of .h5 files, and {output} is a folder.")
        if level == "residue":
            _check_residues(featurizer)
        n_models = len(featurizer.embedding_plan("residue").members)
        featurizer, distiller = _prefix(featurizer, distiller, n_components)
        plan = featurizer.embedding_plan(level)
        _check_reference(plan)
        of = featurizer if distiller is None else distiller
        sizes = np.cumsum(plan.blocks.sizes) if distiller is None else distiller.stage_dims_
        labels = plan.blocks.labels if distiller is None else distiller.blocks_.labels
        facts = {
            "level": level,
            "dtype": dtype,
            "columns": [str(name) for name in of.get_feature_names_out()],
            "stages": [[str(n), int(w)] for n, w in zip(labels, sizes, strict=False)],
            "limit": plan.limit,
            "too_long": plan.too_long,
            "settings": {
                "rows": plan.identity(),
                "cut": plan.limit if plan.too_long == "truncate" else None,
                "distiller": None if distiller is None else digest_of_distiller(distiller),
                "level": level,
                "dtype": dtype,
                "blocks": [BLOCK_RESIDUES, BLOCK_PROTEINS, BLOCK_BYTES],
            },
            "version": __version__,
        }
        cache_dir = featurizer._cache_folder() if level == "protein" else None
        residues = featurizer.embedding_plan("residue")
        return cls(output, ending, layout, plan, residues, distiller, facts, cache_dir, n_models)

    @property
    def folder(self):
        """Where the shards are written."""
        return self.output.with_name(f"{self.output.name}.shards") if self.ending else self.output

    @property
    def skipped(self):
        """The file of the records that are left out, where they are."""
        return self.output.with_name(f"{self.output.name}.skipped.tsv")

    @property
    def nested(self):
        """Digest of the distiller, or None."""
        return self.facts["settings"]["distiller"]

    def blocks(self, checked):
        """Yield lists of consecutive proteins, each of a block.

        Parameters
        ----------
        checked : iterable of (str, str, int)
            Name, sequence as it is embedded, and residues as given of each protein.
        """
        most = BLOCK_RESIDUES
        if self.facts["level"] == "residue":
            most = min(most, BLOCK_BYTES // (4 * len(self.facts["columns"])))
        block: list[tuple] = []
        n_residues = 0
        for record in checked:
            n = len(record[1])
            if block and (n_residues + n > most or len(block) == BLOCK_PROTEINS):
                yield block
                block, n_residues = [], 0
            block.append(record)
            n_residues += n
        if block:
            yield block

    def announcement(self, totals):
        """Return what is told before the run, line by line.

        Parameters
        ----------
        totals : RecordChecker or None
            After a pass over all records; None where there was none.
        """
        members = [member.block for member in self.plan.members]
        width, level = len(self.facts["columns"]), self.facts["level"]
        limit = self.facts["limit"]
        much = "Sequences are checked as they are read."
        if totals is not None:
            much = (
                f"{counted(totals.n_proteins, 'protein')}, "
                f"{counted(totals.n_residues, 'residue')}, the longest of {totals.longest:,}."
            )
        yield much
        limited = "no length limit"
        if limit is not None:
            policy = {"error": "longer ones are an error", "truncate": "longer ones are cut"}
            policy["window"] = "longer ones in windows"
            limited = f"at most {limit:,} residues ({policy[self.facts['too_long']]})"
        some = "" if len(members) == self.n_models else f", {len(members)} of {self.n_models}"
        yield (f"Models: {', '.join(members)}{some}, for {width:,} columns; {limited}.")
        if totals is None:
            yield f"Output: {self.output}, {level} level, {self.facts['dtype']}."
            return
        n_rows = totals.n_proteins if level == "protein" else totals.n_residues
        size = size_of(
            totals.n_proteins, n_rows, width, self.facts["dtype"], self.ending, self.layout
        )
        yield (
            f"Output: {self.output}, {n_rows:,} x {width:,} {self.facts['dtype']}, about "
            f"{as_size(size)}."
        )
        there = next(p for p in (self.output, *self.output.parents) if p.exists())
        # Beside a single file its shards lie until it is whole.
        needed, free = size * (2 if self.ending else 1), shutil.disk_usage(there).free
        if needed > free:
            yield (
                f"warning: it needs {as_size(needed)} on the way, and {as_size(free)} are free at "
                f"{there}. What fits is kept; the same call goes on from there."
            )


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be {' or '.join(map(repr, choices))}.")


def _check_reference(plan):
    """Raise where the reference has not the positions to pool over."""
    if plan.pooling is not None and plan.reference is not None:
        try:
            plan.pooling.check([plan.reference])
        except ValueError as error:
            raise ValueError(str(error).replace("Sequence 0", "`reference`", 1)) from error


def _check_residues(featurizer):
    """Raise where a featurizer pools in a way that rows of residues have no part in."""
    pooled = not (isinstance(featurizer.pooling, str) and featurizer.pooling == "mean")
    for name, is_set in (("pooling", pooled), ("reference", featurizer.reference is not None)):
        if is_set:
            raise ValueError(
                f"`{name}`={getattr(featurizer, name)!r} has no part in rows of residues. Leave "
                "it at its default, or take level='protein'."
            )


def _prefix(featurizer, distiller, n_components):
    """Return a featurizer of the models that are needed, and the distiller cut to the prefix."""
    if distiller is None:
        if n_components is not None:
            raise ValueError(
                f"`n_components`={n_components!r} are columns of a nested embedding, and there is "
                "no `distiller`. Give one, or leave models out of the featurizer (for_prefix)."
            )
        return featurizer, None
    distiller = getattr(distiller, "estimator", distiller)  # of FrozenEstimator
    if n_components is not None:
        distiller = distiller.truncate(n_components)
    n = len(distiller.blocks_)
    plan = featurizer.embedding_plan("residue")
    way_out = "give the featurizer of the fit, with its models in the same order."
    check_models(distiller, plan, "The featurizer gives", way_out, n=n)
    return featurizer.with_n_models(n), distiller
