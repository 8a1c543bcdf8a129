"""One file of the shards, for other tools: which formats there are, and the way to each.

========= ======================================================================= =========
ending    what it holds                                                           by
========= ======================================================================= =========
.h5       ``keyed``: a dataset for each protein, as in UniProt's embedding files;  h5py
          ``matrix``: ``embedding``, ``names``, ``columns``, ``lengths``
.parquet  a column ``name`` and one for each number                               pyarrow
.h5ad     ``X``, ``obs_names``, ``obs["length"]``, ``var_names``, ``uns``          h5py
.npz      ``embedding``, ``names``, ``columns``, ``facts``
.csv      a column ``name`` and one for each number
========= ======================================================================= =========

At residue level a keyed .h5 has a matrix for each protein, with ``length`` (residues as given) and
``n_rows`` as attributes; the matrix and .npz have ``offsets`` (first row of each protein, and one
past the last of all) and ``lengths``; tables have ``position``, from 1. Each tells of itself in
JSON: as attribute or metadata ``revdist``, in ``uns["revdist"]["facts"]``, as member ``facts``.

.csv has no place for that: ``NAME.csv.json`` lies beside it, is removed before a new .csv takes
its place and written after, with the size of the .csv in bytes. Where it is missing or of another
size the .csv is not taken for a finished one.
"""

import importlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base._damage import DamagedFileError
from ..base._files import replace_file
from ..base._formats import FormatError
from ._facts import facts_of, side_file
from ._open_hdf5 import open_h5ad, open_hdf5
from ._open_npz import NpzStore
from ._open_tables import CsvStore, ParquetStore
from ._shards import LEVELS
from ._write_hdf5 import write_h5ad, write_keyed, write_matrix
from ._write_npz import write_npz
from ._write_tables import GROUP, write_csv, write_parquet


@dataclass(frozen=True)
class Ending:
    """A format of single files.

    Parameters
    ----------
    write : dict of str or None to callable
        What writes each layout, the default one first; None where there is one alone. Takes
        path, folder and facts.

    open : callable
        Takes the path of a file and returns its ``Store``.

    libraries : tuple of str, default=()
        Modules that it needs.

    extra : str, default=""
        The extra of this package that installs them.

    levels : tuple of str, default=LEVELS
        What its rows can be of.
    """

    write: dict[str | None, Callable]
    open: Callable
    libraries: tuple[str, ...] = ()
    extra: str = ""
    levels: tuple[str, ...] = LEVELS


_HDF5 = Ending({"keyed": write_keyed, "matrix": write_matrix}, open_hdf5, ("h5py",), "hdf5")
ENDINGS = {
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".parquet": Ending({None: write_parquet}, ParquetStore, ("pyarrow",), "parquet"),
    ".h5ad": Ending({None: write_h5ad}, open_h5ad, ("h5py",), "anndata", ("protein",)),
    ".npz": Ending({None: write_npz}, NpzStore),
    ".csv": Ending({None: write_csv}, CsvStore),
}


def check_ending(path, level, layout=None):
    """Return the ending of an output, or say why it cannot be written.

    Parameters
    ----------
    path : path-like

    level : {"protein", "residue"}

    layout : {"keyed", "matrix"} or None, default=None

    Returns
    -------
    ending : str
        A key of ``ENDINGS``, or ``""`` for a folder of shards.

    Raises
    ------
    ValueError
        If the ending is unknown, or its format does not have the layout or the level.

    ImportError
        If a library is missing; the message names the extra that installs it.
    """
    ending = Path(path).suffix
    if ending and ending not in ENDINGS:
        raise ValueError(
            f"{os.fspath(path)!r} ends in {ending!r}, which is no format of embeddings. Known "
            f"are {', '.join(ENDINGS)}; a name without an ending is a folder of shards."
        )
    form = ENDINGS.get(ending)
    if layout is not None and (form is None or layout not in form.write):
        what = f"{ending} files have" if ending else "a folder of shards has"
        raise ValueError(
            f"layout={layout!r}: {what} no such layout. It is 'keyed' or 'matrix' for .h5 and "
            ".hdf5, and None for all else."
        )
    if form is not None and level not in form.levels:
        raise ValueError(
            f"{ending} files hold one row for each protein, and not level={level!r}. Take "
            f"{', '.join(key for key, other in ENDINGS.items() if level in other.levels)}."
        )
    require(ending)
    return ending


def require(ending):
    """Import the libraries of an ending, or name the extra that installs them.

    Raises
    ------
    ImportError
    """
    if ending not in ENDINGS:
        return
    form = ENDINGS[ending]
    for library in form.libraries:
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise ImportError(
                f'{ending} files need {library}: pip install "revdist_sklearn[{form.extra}]"'
            ) from error


def assemble(folder, path, *, layout=None):
    """Write one file of a finished folder, in one step, a few shards at a time.

    Parameters
    ----------
    folder : ShardFolder

    path : path-like
        Its ending is a key of ``ENDINGS``. A link is followed.

    layout : {"keyed", "matrix"} or None, default=None
        Of .h5 files; None is ``"keyed"``.

    Raises
    ------
    ValueError
        As :func:`check_ending`; if the folder is not complete or empty, or an identifier holds a
        NUL.

    ImportError
        If a library is missing.

    DamagedFileError, FileNotFoundError
        If a shard is not what was written.

    OSError
        If the file cannot be written; what stood there is still there.
    """
    ending = check_ending(path, folder.level, layout)
    if not ending:
        raise ValueError(f"{os.fspath(path)!r} has no ending that names a format.")
    if not folder.n_proteins:
        raise ValueError(f"{folder.path} holds no proteins, so that there is nothing to write.")
    writers = ENDINGS[ending].write
    if layout is None:
        layout = next(iter(writers))
    facts = facts_of(folder, layout)
    path = Path(os.path.realpath(path))
    beside = side_file(path)
    if ending == ".csv":
        with suppress(FileNotFoundError):
            beside.unlink()
    replace_file(path, lambda temporary: writers[layout](temporary, folder, facts))
    if ending == ".csv":
        text = json.dumps({**facts, "bytes": path.stat().st_size}, indent=1) + "\n"
        replace_file(beside, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def written_from(path, layout=None):
    """Return what a finished file was made of.

    Parameters
    ----------
    path : path-like

    layout : str or None, default=None
        The layout that it must have; None for any.

    Returns
    -------
    made_of : (str, str or None) or None
        Identity of the settings and digest of the input; None where there is no such file, it is
        of another program or damaged, or of another layout.
    """
    ending = Path(path).suffix
    require(ending)
    try:
        store = ENDINGS[ending].open(Path(path))
    except (DamagedFileError, FormatError, OSError):
        return None
    store.close()
    facts = store.facts
    if facts is None or layout not in (None, facts.get("layout")):
        return None
    return facts["identity"], facts["input"]


# Bytes for each protein beside its numbers, at identifiers of about 20 characters, as measured:
# what HDF5 keeps of a dataset and its link, or of a name, a length and an offset.
_DATASET, _NAME = 380, 80
# Characters of a number with its comma.
_TEXT = {"float32": 11.2, "float16": 7.2}


def size_of(n_proteins, n_rows, n_columns, dtype, ending, layout=None):
    """Return about how many bytes an output will have.

    Parameters
    ----------
    n_proteins, n_rows, n_columns : int

    dtype : {"float32", "float16"}

    ending : str
        A key of ``ENDINGS``, or ``""`` for a folder of shards.

    layout : {"keyed", "matrix"} or None, default=None

    Returns
    -------
    size : int
    """
    by_residue = n_rows != n_proteins
    numbers = n_rows * n_columns * np.dtype(dtype).itemsize
    columns = 40 * n_columns
    if ending == ".csv":
        return int(n_rows * (n_columns * _TEXT[dtype] + 22 + 4 * by_residue) + columns)
    if ending == ".parquet":
        names = n_rows * 3 if by_residue else n_proteins * 24
        return numbers + names + (1 + numbers // GROUP) * n_columns * 150
    if ending in (".h5ad", ".h5", ".hdf5"):
        matrix = ending == ".h5ad" or layout == "matrix"
        return numbers + n_proteins * (_NAME if matrix else _DATASET) + columns
    return numbers + n_proteins * (8 if ending else 48) + columns
