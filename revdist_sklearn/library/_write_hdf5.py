"""HDF5: a dataset for each protein, one matrix, or what AnnData reads."""

import json
from contextlib import contextmanager

import numpy as np

from ._facts import KEY, starts_of, whole_shards
from ._patient_disk import PatientDisk

# Bytes of a chunk of a matrix: what is read at least for one row.
CHUNK = 2**19


def dataset_name(name):
    """Return the name of a protein's dataset: its identifier, where HDF5 takes it as it is.

    ``/`` separates groups and ``.`` is the group itself, so that they are written as percent and
    hexadecimal digits, as in addresses; so is the percent sign, that no two identifiers become
    one. The empty one is a lone percent sign, which is no other's.

    Examples
    --------
    >>> from revdist_sklearn.library._write_hdf5 import dataset_name
    >>> dataset_name("sp|P1|A/B"), dataset_name("a.b"), dataset_name("100%")
    ('sp|P1|A%2FB', 'a.b', '100%25')
    """
    if name in ("", ".", ".."):
        return name.replace(".", "%2E") or "%"
    return name.replace("%", "%25").replace("/", "%2F")


def write_keyed(path, folder, facts):
    """Write one dataset for each protein, in the order of the proteins."""
    import h5py

    with _new_file(path, track_order=True) as (file, check):
        file.attrs[KEY] = json.dumps(facts)
        # What `create_dataset` does, without its checks: they take most of its time.
        links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
        links.set_char_encoding(h5py.h5t.CSET_UTF8)
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        kind = h5py.h5t.py_create(np.dtype(folder.dtype))
        everything, one = h5py.h5s.ALL, h5py.h5s.create(h5py.h5s.SCALAR)
        by_residue = folder.level == "residue"
        for shard in whole_shards(folder):
            for name, length, rows in shard.proteins():
                rows = np.ascontiguousarray(rows if by_residue else rows[0])
                space = h5py.h5s.create_simple(rows.shape)
                key = dataset_name(name)
                made = h5py.h5d.create(file.id, key.encode(), kind, space, settings, links)
                made.write(everything, everything, rows)
                if by_residue:
                    for told, value in ((b"length", length), (b"n_rows", len(rows))):
                        attribute = h5py.h5a.create(made, told, h5py.h5t.STD_I64LE, one)
                        attribute.write(np.array(value, dtype=np.int64))
                if key != name:
                    h5py.Dataset(made).attrs["original_id"] = name
                check()


def write_matrix(path, folder, facts):
    """Write one matrix with the identifiers, names of columns and lengths beside it."""
    import h5py

    with _new_file(path) as (file, check):
        file.attrs[KEY] = json.dumps(facts)
        text, n = h5py.string_dtype("utf-8"), folder.n_proteins
        file.create_dataset("columns", data=np.array(folder.columns, dtype=object), dtype=text)
        names = file.create_dataset("names", shape=(n,), dtype=text)
        lengths = file.create_dataset("lengths", shape=(n,), dtype=np.int64)
        embedding = _matrix(file, "embedding", folder)
        offsets = None
        if folder.level == "residue":
            offsets = file.create_dataset("offsets", shape=(n + 1,), dtype=np.int64)
        _fill(folder, check, embedding, names, lengths, offsets)


def write_h5ad(path, folder, facts):
    """Write what AnnData reads: proteins as ``obs``, columns as ``var``.

    By h5py itself: AnnData would hold all of it.
    """
    import h5py

    text, n = h5py.string_dtype("utf-8"), folder.n_proteins

    def encoded(item, kind, version):
        item.attrs["encoding-type"], item.attrs["encoding-version"] = kind, version
        return item

    def strings(group, name, values):
        data = np.array(values, dtype=object)
        return encoded(group.create_dataset(name, data=data, dtype=text), "string-array", "0.2.0")

    def frame(name, columns):
        group = encoded(file.create_group(name), "dataframe", "0.2.0")
        group.attrs["_index"] = "_index"
        group.attrs.create("column-order", np.array(columns, dtype=object), dtype=text)
        return group

    with _new_file(path) as (file, check):
        encoded(file, "anndata", "0.1.0")
        for name in ("layers", "obsm", "obsp", "varm", "varp"):
            encoded(file.create_group(name), "dict", "0.1.0")
        strings(frame("var", []), "_index", folder.columns)
        obs = frame("obs", ["length"])
        names = obs.create_dataset("_index", shape=(n,), dtype=text)
        lengths = obs.create_dataset("length", shape=(n,), dtype=np.int64)
        told = encoded(file.create_group("uns"), "dict", "0.1.0").create_group(KEY)
        encoded(told, "dict", "0.1.0")
        strings(told, "stage_names", [str(name) for name, _ in folder.facts["stages"]])
        widths = np.array([width for _, width in folder.facts["stages"]], dtype=np.int64)
        encoded(told.create_dataset("stage_widths", data=widths), "array", "0.2.0")
        for name, value in (("settings", folder.facts["settings"]), ("facts", facts)):
            made = told.create_dataset(name, data=json.dumps(value), dtype=text)
            encoded(made, "string", "0.2.0")
        embedding = encoded(_matrix(file, "X", folder), "array", "0.2.0")
        encoded(names, "string-array", "0.2.0")
        encoded(lengths, "array", "0.2.0")
        _fill(folder, check, embedding, names, lengths)


@contextmanager
def _new_file(path, **settings):
    """Yield a new file, and what to call often: it raises where the disk does not take more."""
    import h5py

    with PatientDisk(path) as disk:
        with h5py.File(disk, "w", **settings) as file:
            yield file, disk.check
        disk.check()


def _matrix(group, name, folder):
    """Return an empty matrix whose chunks carry a checksum each."""
    n, width = folder.n_rows, len(folder.columns)
    dtype = np.dtype(folder.dtype)
    # Of one size, so that the last one is full: each takes its whole room on the disk.
    chunks = -(-n // max(1, CHUNK // (width * dtype.itemsize)))
    rows = -(-n // chunks)
    return group.create_dataset(
        name, shape=(n, width), dtype=dtype, chunks=(rows, width), fletcher32=True
    )


def _fill(folder, check, embedding, names, lengths, offsets=None):
    """Write shard after shard."""
    protein = row = 0
    for shard in whole_shards(folder):
        after, end = protein + len(shard), row + len(shard.rows)
        embedding[row:end] = shard.rows
        names[protein:after] = np.array(shard.names, dtype=object)
        lengths[protein:after] = shard.lengths
        if offsets is not None:
            offsets[protein : after + 1] = row + starts_of(shard)
        check()
        protein, row = after, end
