"""One block of proteins to one shard: what a worker runs."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..base._damage import DamagedFileError
from ..base._formats import FormatError
from ..base._identity import digest
from ..base._text import shown
from ..embedding._plan import EmbeddingPlan
from ..embedding._pooling import CLS, MAX, MEAN
from ..embedding._protein_rows import ProteinRows
from ..embedding._residue_rows import residue_rows
from ..method._distiller import ReverseDistiller
from ._shards import Shard, read_shard, write_shard


@dataclass(frozen=True)
class BlockRun:
    """How blocks are embedded: small, as it goes to a worker with each of them.

    Parameters
    ----------
    plan : EmbeddingPlan
        Of proteins or of residues.

    rows : str
        Digest of ``plan.identity()`` where the run began; other weights are an error.

    folder : str
        Of the shards, and of the distiller; workers must see it under this name.

    identity : str
        Digest of all settings.

    distiller : str or None
        Folder of the distiller; None for the models side by side.

    level, dtype : str
        As in :func:`embed_to`.

    cache_dir : str or None
        As in :class:`ESMFeaturizer`.
    """

    plan: EmbeddingPlan
    rows: str
    folder: str
    identity: str
    distiller: str | None
    level: str
    dtype: str
    cache_dir: str | None


def write_block(run, name, records):
    """Embed the proteins of a block and write their shard.

    Parameters
    ----------
    run : BlockRun

    name : str
        Of the shard.

    records : list of (str, str, int)
        Name, sequence as it is embedded, and residues as given of each protein.

    Returns
    -------
    name : str

    Raises
    ------
    ValueError
        If an embedding is not finite, or beyond the range of float16.

    RuntimeError
        If the weights are others than at the beginning of the run.

    OSError
        If the shard cannot be written.
    """
    _check_weights(run)
    names = [name for name, _, _ in records]
    sequences = [sequence for _, sequence, _ in records]
    lengths = np.array([length for _, _, length in records], dtype=np.int64)
    if run.level == "protein":
        counts = np.ones(len(names), dtype=np.int64)
        _check_pooling(run.plan.pooling, names, sequences)
        rows = _finished(run, ProteinRows(run.plan, run.cache_dir, 1).of(sequences), names, counts)
    else:
        counts = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        rows = _rows_of_residues(run, sequences, names, counts)
    _check_weights(run)
    write_shard(Path(run.folder) / name, Shard(names, lengths, counts, rows), run.identity)
    return name


def _check_weights(run):
    if digest(run.plan.identity()) != run.rows:
        raise RuntimeError(
            "The weights of a model have changed since the run began, or are others on a worker's "
            "machine: shards would be of different models. Restore them, or write to another "
            "place."
        )


def _check_pooling(pooling, names, sequences):
    """Raise where a protein has not the positions to pool over, naming it."""
    if pooling.kind in (MEAN, MAX, CLS):
        return
    for name, sequence in zip(names, sequences, strict=True):
        try:
            pooling.check([sequence])
        except ValueError as error:
            raise ValueError(str(error).replace("Sequence 0", shown(name), 1)) from error


def is_whole(path, n_columns, dtype):
    """Return whether a shard is there, and is what was written to the last bit."""
    try:
        read_shard(path, n_columns, dtype)
    except FormatError:
        raise
    except (DamagedFileError, FileNotFoundError):
        return False
    return True


def _rows_of_residues(run, sequences, names, counts):
    out, start, first = None, 0, 0
    for rows, proteins in residue_rows(run.plan, sequences):
        here = slice(first, first + len(np.unique(proteins)))
        first = here.stop
        rows = _finished(run, rows, names[here], counts[here])
        if out is None:
            out = np.empty((int(counts.sum()), rows.shape[1]), dtype=rows.dtype)
        out[start : start + len(rows)] = rows
        start += len(rows)
    return out


def _finished(run, rows, names, counts):
    """Return rows as they are written: distilled, and of the wanted type."""
    if not np.isfinite(rows).all():
        worst = _protein(names, counts, ~np.isfinite(rows).all(axis=1))
        raise ValueError(
            f"The embedding of {worst} is not finite. Half precision overflows in some models; "
            "try dtype='float32' or 'bfloat16' of the featurizer."
        )
    if run.distiller is not None:
        rows = _distiller(run.distiller, run.identity).transform(rows)
    if run.dtype == "float16":
        largest = np.abs(rows).max(axis=1, initial=0.0)
        if largest.max(initial=0.0) > np.finfo(np.float16).max:
            worst = _protein(names, counts, largest > np.finfo(np.float16).max)
            raise ValueError(
                f"The embedding of {worst} has the value {largest.max():.3g}, and float16 ends "
                f"at {np.finfo(np.float16).max:.0f}. Write float32 instead: dtype='float32'."
            )
    return rows.astype(run.dtype, copy=False)


def _protein(names, counts, wrong):
    """Return the name of the protein of the first row that is marked."""
    return shown(names[int(np.searchsorted(np.cumsum(counts), np.argmax(wrong), side="right"))])


@lru_cache(maxsize=2)
def _distiller(folder, identity):
    """Return the distiller of a run, read once a process; ``identity`` tells runs apart."""
    return ReverseDistiller.from_pretrained(folder)
