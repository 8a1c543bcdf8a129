"""NumPy's archives, read in parts: a member that is not compressed is a stretch of the file."""

import zipfile

import numpy as np

from ._facts import parsed_facts
from ._store import Store, foreign, numbered, numbers_of, told

# A member that Deflate has made smaller than this share of itself is none that it can make.
_RATIO = 1032
# Bytes of names that are read at a time.
_PIECE = 2**24


class NpzStore(Store):
    """``embedding`` and ``names``, and where there are ``columns``, ``facts``, ``offsets``."""

    def __init__(self, path):
        with told(path), zipfile.ZipFile(path) as archive:
            self._members = {
                info.filename.removesuffix(".npy"): _Member(archive, info, path)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            if missing := {"names", "embedding"} - set(self._members):
                raise foreign(path, f"it has no {' and no '.join(sorted(missing))}")
            text = self._members.get("facts")
            facts = None if text is None else parsed_facts(text.all(path).item(), path)
            embedding, offsets = self._members["embedding"], self._members.get("offsets")
            names = self._members["names"]
            if len(embedding.shape) != 2 or len(names.shape) != 1 or names.dtype.kind not in "US":
                raise foreign(path, f"its embedding has shape {embedding.shape}, or no names")
            dtype = numbers_of(embedding.dtype, path)
            n_rows, width = embedding.shape
            columns = numbered(width)
            if "columns" in self._members:
                columns = [str(name) for name in self._members["columns"].all(path)]
            level = "protein" if offsets is None else "residue"
            if facts:
                told_of = facts["n_rows"], len(facts["columns"]), facts["dtype"], facts["level"]
                if told_of != (n_rows, width, str(dtype), level):
                    raise ValueError(f"it tells of {told_of[:3]} and holds {embedding.shape}")
            if len(columns) != width:
                raise ValueError(f"it names {len(columns)} columns of {width}")
        super().__init__(path, facts, level, dtype, columns)

    def _count(self):
        return self._members["names"].shape[0]

    def _names(self):
        names = []
        for piece in self._members["names"].pieces(self.path):
            names += (np.char.decode(piece) if piece.dtype.kind == "S" else piece).tolist()
        return names

    def _counts(self):
        return np.diff(self._members["offsets"].all(self.path))

    def _lengths(self):
        lengths = self._members.get("lengths")
        return None if lengths is None else lengths.all(self.path)

    def _rows(self, start, stop):
        return self._members["embedding"].rows(self.path, start, stop)

    def whole(self):
        """Return all rows, after a look at the checksum of the archive."""
        rows = np.empty((self.n_rows, len(self.columns)), self.dtype)
        with told(self.path):
            done, flat = 0, rows.reshape(-1)
            for piece in self._members["embedding"].pieces(self.path):
                flat[done : done + len(piece)] = piece
                done += len(piece)
        return rows


class _Member:
    """An array of an archive: what its header says, if the archive has room for that."""

    def __init__(self, archive, info, path):
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"{info.filename} has a header of version {version}")
            reads = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            self.shape, by_column, self.dtype = reads[version](file)
            self._header = file.tell()
        if self.dtype.hasobject:
            raise foreign(path, f"{info.filename} holds Python objects, which are not read")
        size = int(np.prod([1, *self.shape], dtype=object)) * self.dtype.itemsize
        if size != info.file_size - self._header or min((0, *self.shape)) < 0:
            raise ValueError(f"{info.filename} is to have {size} bytes, and has another number")
        room = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else _RATIO)
        if info.file_size > room or info.compress_size > path.stat().st_size:
            raise ValueError(f"{info.filename} has no room for what it is to hold")
        if by_column and len(self.shape) > 1:
            raise foreign(path, f"{info.filename} lies there by columns; np.load reads it")
        self._info = info
        self._stored = info.compress_type == zipfile.ZIP_STORED

    def all(self, path):
        """Return the whole array."""
        with zipfile.ZipFile(path) as archive, archive.open(self._info) as file:
            file.seek(self._header)
            return np.frombuffer(file.read(), dtype=self.dtype).reshape(self.shape)

    def pieces(self, path):
        """Yield the entries of a list in pieces."""
        n = max(1, _PIECE // max(1, self.dtype.itemsize)) * self.dtype.itemsize
        with zipfile.ZipFile(path) as archive, archive.open(self._info) as file:
            file.seek(self._header)
            while data := file.read(n):
                yield np.frombuffer(data, dtype=self.dtype)

    def rows(self, path, start, stop):
        """Return rows of a matrix."""
        width = self.shape[1]
        before, size = start * width, (stop - start) * width
        if self._stored:
            offset = _data_offset(path, self._info) + self._header
            return np.fromfile(
                path, self.dtype, size, offset=offset + before * self.dtype.itemsize
            ).reshape(stop - start, width)
        with zipfile.ZipFile(path) as archive, archive.open(self._info) as file:
            file.seek(self._header + before * self.dtype.itemsize)
            data = file.read(size * self.dtype.itemsize)
            return np.frombuffer(data, dtype=self.dtype).reshape(stop - start, width).copy()


def _data_offset(path, info):
    """Return where the bytes of a member begin: behind its local header, which can differ."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        local = file.read(30)
    if local[:4] != b"PK\3\4" or len(local) != 30:
        raise ValueError(f"{info.filename} is not where the archive says")
    return (
        info.header_offset
        + 30
        + int.from_bytes(local[26:28], "little")
        + int.from_bytes(local[28:30], "little")
    )
