"""One block of proteins to one shard: what a worker runs."""

import hashlib
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..base._damage import DamagedFileError
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

    distiller : (str, str) or None
        Folder of the distiller, and its :func:`digest_of_distiller`; None for the models side
        by side.

    level, dtype : str
        As in :func:`embed_to`.

    cache_dir : str or None
        As in :class:`ESMFeaturizer`.
    """

    plan: EmbeddingPlan
    rows: str
    folder: str
    identity: str
    distiller: tuple[str, str] | None
    level: str
    dtype: str
    cache_dir: str | None


def write_block(run, name, records):
    """Embed the proteins of a block and write their shard, unless it is there and whole.

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

    outcome : {"found", "made", "mended"}
        The last of a shard that was there and damaged.

    seconds : float
        That it took.

    Raises
    ------
    ValueError
        If an embedding is not finite, or beyond the range of float16.

    RuntimeError
        If the weights are others than at the beginning of the run.

    OSError
        If the shard cannot be written.
    """
    started, path = time.monotonic(), Path(run.folder) / name
    was_there = path.exists()
    if was_there and _is_whole(path, run.dtype):
        return name, "found", time.monotonic() - started
    _check_weights(run)
    names = [name for name, _, _ in records]
    sequences = [sequence for _, sequence, _ in records]
    lengths = np.array([length for _, _, length in records], dtype=np.int64)
    if run.level == "protein":
        counts = np.ones(len(names), dtype=np.int64)
        rows = _finished(run, _rows_of_proteins(run, names, sequences), names, counts)
    else:
        counts = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
        rows = _rows_of_residues(run, sequences, names, counts)
    _check_weights(run)
    write_shard(path, Shard(names, lengths, counts, rows), run.identity)
    return name, "mended" if was_there else "made", time.monotonic() - started


def _check_weights(run):
    if digest(run.plan.identity()) != run.rows:
        raise RuntimeError(
            "The weights of a model have changed since the run began, or are others on a worker's "
            "machine: shards would be of different models. Restore them, or write to another "
            "place."
        )


def _is_whole(path, dtype):
    """Return whether a shard that is there is what was written, to the last bit."""
    try:
        read_shard(path, dtype=dtype)
    except (DamagedFileError, FileNotFoundError):
        return False
    return True


def _rows_of_proteins(run, names, sequences):
    if run.plan.pooling.kind not in (MEAN, MAX, CLS):  # positions, which not all may have
        for name, sequence in zip(names, sequences, strict=True):
            try:
                run.plan.pooling.check([sequence])
            except ValueError as error:
                raise ValueError(str(error).replace("Sequence 0", shown(name), 1)) from error
    try:
        return ProteinRows(run.plan, run.cache_dir, 1).of(sequences)
    except (KeyboardInterrupt, MemoryError) as error:
        error.__notes__ = []  # of what is kept the run itself tells
        raise


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
        rows = _distiller(*run.distiller).transform(rows)
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
def _distiller(folder, expected):
    """Return the distiller of a run, read once a process."""
    distiller = ReverseDistiller.from_pretrained(folder)
    if digest_of_distiller(distiller) != expected:
        raise RuntimeError(f"{folder} holds another distiller than that of the run.")
    return distiller


def digest_of_distiller(distiller):
    """Return a text that is the same for distillers that give the same rows."""
    found = hashlib.blake2b(digest_size=16)
    if not np.array_equal(distiller.column_order_, np.arange(distiller.n_components_)):
        found.update(f"{distiller.column_order_.tolist()}\n".encode())
    for stage in distiller.stages_:
        for array in (stage.directions, stage.coef, stage.mean, stage.prefix_mean):
            found.update(f"{array.shape}\n".encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
