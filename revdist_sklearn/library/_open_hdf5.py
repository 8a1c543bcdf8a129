"""HDF5 files, read in parts: ours, UniProt's and AnnData's.

Nothing outside the file is read: soft and external links, and datasets whose numbers lie in other
files, are refused.
"""

import math

import numpy as np

from ._facts import KEY, parsed_facts
from ._store import Store, foreign, numbered, numbers_of, told
from ._write_hdf5 import dataset_name

# What a filter can make of a byte at most, for sizes that are told and not there.
_RATIO = 1100
# Bytes of chunks that HDF5 keeps.
_CACHE = 2**24
_NAMES = 2**16


def open_hdf5(path):
    """Return the store of a .h5 file, whichever of the layouts it has."""
    with told(path):
        file = _opened(path)
        try:
            facts = parsed_facts(file.attrs.get(KEY), path)
            if facts:
                matrix = facts["layout"] == "matrix"
            else:
                matrix = "embedding" in file and "names" in file
            if matrix:
                names = {key: key for key in ("embedding", "names", "columns", "lengths")}
                return MatrixStore(path, file, facts, {**names, "offsets": "offsets"})
            return KeyedStore(path, file, facts)
        except BaseException:
            file.close()
            raise


def open_h5ad(path):
    """Return the store of what AnnData writes, or we for it."""
    with told(path):
        file = _opened(path)
        try:
            text = None
            if _there(file, f"uns/{KEY}/facts", path):
                text = _dataset(file, f"uns/{KEY}/facts", path).asstr()[()]
            facts = parsed_facts(text, path)
            places = {"embedding": "X", "lengths": "obs/length"}
            for what, name in (("names", "obs"), ("columns", "var")):
                if (group := _there(file, name, path)) is None:
                    raise foreign(path, f"it has no {name}")
                place = f"{name}/{group.attrs['_index']}"
                # What newer versions of AnnData write where texts could be missing.
                values = f"{place}/values"
                places[what] = values if _there(file, values, path) else place
            return MatrixStore(path, file, facts, places)
        except BaseException:
            file.close()
            raise


class MatrixStore(Store):
    """One matrix with names beside it.

    Parameters
    ----------
    path : Path

    file : h5py.File

    facts : dict or None

    places : dict of str to str
        Where the file has what.
    """

    def __init__(self, path, file, facts, places):
        self._file, self._places = file, places
        self._matrix = self._at("embedding", path)
        if self._matrix.ndim != 2 or self._at("names", path).ndim != 1:
            raise foreign(path, f"its matrix has shape {self._matrix.shape}")
        width = self._matrix.shape[1]
        columns = numbered(width)
        if _there(file, places["columns"], path):
            columns = _texts(self._at("columns", path))
        by_residue = "offsets" in places and _there(file, places["offsets"], path)
        level = "residue" if by_residue else "protein"
        super().__init__(path, facts, level, numbers_of(self._matrix.dtype, path), columns)
        if len(columns) != width:
            raise ValueError(f"it names {len(columns)} columns of {width}")
        if facts:
            told_of = facts["n_rows"], len(facts["columns"]), facts["dtype"], facts["level"]
            if told_of != (*self._matrix.shape, str(self.dtype), level):
                raise ValueError(f"it tells of {told_of} and holds {self._matrix.shape}")

    def _at(self, what, path):
        return _dataset(self._file, self._places[what], path)

    def _count(self):
        return len(self._at("names", self.path))

    def _names(self):
        return _texts(self._at("names", self.path))

    def _counts(self):
        return np.diff(self._at("offsets", self.path)[:])

    def _lengths(self):
        if not _there(self._file, self._places["lengths"], self.path):
            return None
        return self._at("lengths", self.path)[:]

    def _rows(self, start, stop):
        return self._matrix[start:stop]

    def close(self):
        """Close the file."""
        self._file.close()


class KeyedStore(Store):
    """A dataset for each protein, under its name or with that as attribute ``original_id``."""

    def __init__(self, path, file, facts):
        import h5py

        self._file, self._keys, self._everything = file, [], (h5py.h5s.ALL, h5py.h5s.ALL)
        # Names as attributes are those of ours that are percent-encoded, or all.
        self._renamed = False
        if facts:
            level, dtype, columns = facts["level"], facts["dtype"], facts["columns"]
        else:
            first = _first_name(file)
            if first is None:
                raise foreign(path, "it is empty")
            dataset = _dataset(file, first, path)
            if dataset.ndim not in (1, 2):
                raise foreign(path, f"{first!r} has shape {dataset.shape}")
            level = "residue" if dataset.ndim == 2 else "protein"
            dtype, columns = numbers_of(dataset.dtype, path), numbered(dataset.shape[-1])
            self._renamed = "original_id" in dataset.attrs
        super().__init__(path, facts, level, dtype, columns)

    def _count(self):
        return len(self._file)

    def _names(self):
        # Not of the file: older versions of h5py give that in alphabetical order.
        self._keys = list(self._file["/"])
        if self._renamed:
            return [self._original(key) for key in self._keys]
        if self.facts is None:
            return list(self._keys)
        return [self._original(key) if "%" in key else key for key in self._keys]

    def _original(self, key):
        return str(_dataset(self._file, key, self.path).attrs["original_id"])

    def _each(self):
        self.names  # noqa: B018 (reads the keys)
        return (self._protein(key) for key in self._keys)

    def _counts(self):
        return [dataset.shape[0] for dataset in self._each()]

    def _lengths(self):
        if self.level == "protein" or self.facts is None:
            return None
        import h5py

        return [h5py.Dataset(dataset).attrs["length"] for dataset in self._each()]

    def _rows(self, start, stop):
        self.names  # noqa: B018 (reads the keys)
        i = start
        if self.level == "residue":
            i = int(np.searchsorted(self.offsets, start, side="right")) - 1
            start_of = int(self.offsets[i])
        rows, done = np.empty((stop - start, len(self.columns)), self.dtype), 0
        skip = 0 if self.level == "protein" else start - start_of
        while done < stop - start:
            some = self._of_key(self._keys[i])[skip : skip + stop - start - done]
            rows[done : done + len(some)] = some
            done, i, skip = done + len(some), i + 1, 0
        return rows

    def _protein(self, key):
        """Return the dataset of a protein, as h5py has it inside: files have millions."""
        dataset = _inner_dataset(self._file, key, self.path)
        shape = (len(self.columns),) if self.level == "protein" else (None, len(self.columns))
        if dataset.shape[-1:] != shape[-1:] or len(dataset.shape) != len(shape):
            raise foreign(self.path, f"{key!r} has shape {dataset.shape}, others {shape}")
        if dataset.dtype != self.dtype:
            raise foreign(self.path, f"{key!r} is {dataset.dtype}, others {self.dtype}")
        return dataset

    def _of_key(self, key):
        dataset = self._protein(key)
        rows = np.empty(dataset.shape, self.dtype)
        if rows.size:
            dataset.read(*self._everything, rows)
        return rows.reshape(-1, len(self.columns))

    def has(self, name):
        """Return whether there is a protein of a name; the others' are not read."""
        if self._renamed:
            return super().has(name)
        with told(self.path):
            key = self._key(name)
            return key is not None and key in self._file

    def of(self, name):
        """Return the rows of a protein by its name; the others' are not read."""
        if self._renamed:
            return super().of(name)
        with told(self.path):
            return self._of_key(self._key(name))

    def _key(self, name):
        """Return the name of a dataset; None for what can be none."""
        if self.facts:
            name = dataset_name(name)
        return None if "/" in name or "\0" in name or name in ("", ".") else name

    def close(self):
        """Close the file."""
        self._file.close()


def _opened(path):
    import h5py

    return h5py.File(path, "r", rdcc_nbytes=_CACHE)


def _first_name(file):
    """Return one name of a file that may have millions, None where it is empty."""
    import h5py

    root = file["/"]
    name = h5py.h5g.iterate(root.id, lambda name: name)  # ends at what is not None
    return None if name is None else name.decode("utf-8", "surrogateescape")


def _there(file, name, path):
    """Return what lies in this file under a name, None where nothing does."""
    import h5py

    item = file
    for part in name.split("/"):
        if not isinstance(item, h5py.Group):
            return None
        # `in` and `getlink` do not follow a link.
        link = item.get(part, getlink=True) if part in item else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise foreign(path, f"{name!r} is a link to somewhere else, which is not followed")
        item = item[part]
    return item


def _dataset(file, name, path):
    """Return a dataset that lies in this file, and has the room on the disk that it tells of."""
    import h5py

    dataset = _there(file, name, path)
    if not isinstance(dataset, h5py.Dataset):
        raise foreign(path, f"{name!r} is no dataset of it")
    _check(dataset.id, name, path)
    return dataset


def _inner_dataset(file, key, path):
    """Return the same of a dataset of the file itself, as h5py has it inside."""
    import h5py

    key_bytes = key.encode("utf-8", "surrogateescape")
    if file.id.links.get_info(key_bytes).type != h5py.h5l.TYPE_HARD:
        raise foreign(path, f"{key!r} is a link to somewhere else, which is not followed")
    dataset = h5py.h5o.open(file.id, key_bytes)
    if not isinstance(dataset, h5py.h5d.DatasetID):
        raise foreign(path, f"{key!r} is no dataset of it")
    _check(dataset, key, path)
    return dataset


def _check(dataset, name, path):
    """Raise where numbers lie in other files, are something else, or are only told of."""
    import h5py

    settings = dataset.get_create_plist()
    if settings.get_external_count() or settings.get_layout() == h5py.h5d.VIRTUAL:
        raise foreign(path, f"the numbers of {name!r} lie in other files, which are not read")
    dtype, shape = dataset.dtype, dataset.shape
    if dtype.hasobject and h5py.check_string_dtype(dtype) is None:
        raise foreign(path, f"{name!r} holds neither numbers nor texts")
    if shape:
        same = (h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_SHUFFLE)
        filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
        room = dataset.get_storage_size() * (1 if set(filters) <= set(same) else _RATIO)
        if math.prod(shape) * dtype.itemsize > room:
            raise ValueError(f"{name!r} is to have shape {shape}, and has {room} bytes")


def _texts(dataset):
    """Return a list of texts, read in pieces."""
    texts, n = dataset.asstr(), len(dataset)
    return [text for i in range(0, n, _NAMES) for text in texts[i : i + _NAMES].tolist()]
