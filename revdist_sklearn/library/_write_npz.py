"""NumPy's archive of arrays, written as the shards come."""

import json
import zipfile

import numpy as np

from ._facts import whole_shards


def write_npz(path, folder, facts):
    """Write what ``np.load(path, allow_pickle=False)`` opens.

    ``embedding`` lies there as it is, so that parts of it can be read; names are compressed, as
    NumPy gives each the room of the longest.
    """
    widest, lengths, counts = 1, [], []
    for names, some_lengths, some_counts in folder.heads():
        widest = max([widest, *map(len, names)])
        lengths.append(some_lengths)
        counts.append(some_counts)
    n, width = folder.n_proteins, len(folder.columns)
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        kind = np.dtype(f"<U{widest}")
        with _member(archive, "names", kind, (n,), zipfile.ZIP_DEFLATED) as file:
            for names, _, _ in folder.heads():
                file.write(np.array(names, dtype=kind).tobytes())
        _array(archive, "columns", np.array(folder.columns))
        _array(archive, "facts", np.array(json.dumps(facts)))
        if folder.level == "residue":
            _array(archive, "lengths", np.concatenate(lengths))
            ends = np.cumsum(np.concatenate(counts))
            _array(archive, "offsets", np.concatenate([[0], ends]))
        kind = np.dtype(folder.dtype).newbyteorder("<")
        with _member(archive, "embedding", kind, (folder.n_rows, width)) as file:
            for shard in whole_shards(folder):
                file.write(np.ascontiguousarray(shard.rows, dtype=kind).data.cast("B"))


def _array(archive, name, array):
    with _member(archive, name, array.dtype, array.shape, zipfile.ZIP_DEFLATED) as file:
        file.write(array.tobytes())


def _member(archive, name, dtype, shape, method=zipfile.ZIP_STORED):
    """Return an open member after its header, for the bytes of an array in rows."""
    told = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    told.compress_type = method
    told.external_attr = 0o600 << 16
    file = archive.open(told, "w", force_zip64=True)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(file, header)
    return file
