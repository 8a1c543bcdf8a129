"""The file of one block of proteins, and the folder of them.

A shard is a safetensors file with a header and a digest of all that it holds, under a name that
says which block of which input under which settings it is: what stands there under that name is
what would be computed. ``embeddings.json`` of the folder says what the columns are, and once the
run is done, which shards there are.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from ..base._damage import DamagedFileError, damage_is_told, integer, one_of, read_json_object
from ..base._files import replace_file
from ..base._formats import SHARDS, check_format
from ..base._identity import digest
from ..base._tensor_file import read_tensors, write_tensors

MANIFEST = "embeddings.json"
NAME = re.compile(r"shard-(\d{6,})-([0-9a-f]{16})\.safetensors")
DTYPES = ("float32", "float16")
LEVELS = ("protein", "residue")
# What a shard tells of its proteins beside their rows.
HEAD = ("names", "name_bytes", "lengths", "counts")


@dataclass(frozen=True)
class Shard:
    """The embeddings of some consecutive proteins.

    Parameters
    ----------
    names : list of str
        Identifiers.

    lengths : ndarray of shape (n_proteins,), int64
        Residues of each protein as it was given.

    counts : ndarray of shape (n_proteins,), int64
        Rows of each: 1 at protein level; at residue level its residues, fewer where it was cut.

    rows : ndarray of shape (counts.sum(), n_columns), float32 or float16
        Rows of all proteins, one after the other.
    """

    names: list
    lengths: np.ndarray
    counts: np.ndarray
    rows: np.ndarray

    def __len__(self):
        return len(self.names)

    def proteins(self):
        """Yield each protein's name, residues as given, and rows of shape (count, n_columns)."""
        ends = np.cumsum(self.counts)
        for name, length, count, end in zip(
            self.names, self.lengths, self.counts, ends, strict=True
        ):
            yield name, int(length), self.rows[end - count : end]


def shard_name(index, identity, records):
    """Return the name of the file of a block.

    Parameters
    ----------
    index : int
        Of the block, from 0.

    identity : str
        Of the settings.

    records : list of (str, str, int)
        Name, sequence as it is embedded, and residues as given of each protein.

    Returns
    -------
    name : str
    """
    key = hashlib.blake2b(identity.encode(), digest_size=8)
    for name, sequence, length in records:
        text = f"{len(name)} {name} {sequence} {length}\n"
        key.update(text.encode("utf-8", "surrogatepass"))
    return f"shard-{index:06d}-{key.hexdigest()}.safetensors"


def write_shard(path, shard, identity):
    """Write a shard, whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    encoded = [name.encode() for name in shard.names]
    head = {
        "names": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "name_bytes": np.array([len(name) for name in encoded], dtype=np.int64),
        "lengths": np.asarray(shard.lengths, dtype=np.int64),
        "counts": np.asarray(shard.counts, dtype=np.int64),
    }
    header = {"format": SHARDS, "identity": identity, "name": path.name, "head": _digest(head)}
    write_tensors(path, "shard", header, {**head, "rows": shard.rows})


def read_shard(path, n_columns=None, dtype=None):
    """Return a shard, if it is what was written to the last bit.

    Parameters
    ----------
    path : Path

    n_columns : int, default=None
        What it must have; None for any number.

    dtype : str, default=None
        Of its rows; None for any.

    Raises
    ------
    DamagedFileError, FormatError, FileNotFoundError
    """
    with damage_is_told(f"{path} is no whole shard", "the same call makes it again."):
        header, tensors, _ = read_tensors(path, "shard", SHARDS)
        if header is None or header["name"] != path.name:
            raise ValueError("it is none, or was given another name")
        rows, counts, lengths = (tensors[name] for name in ("rows", "counts", "lengths"))
        names = _names(tensors)
        if rows.ndim != 2 or rows.shape[1] != (n_columns or rows.shape[1]):
            raise ValueError(
                f"its rows have shape {rows.shape}, and there are {n_columns} columns"
            )
        if str(rows.dtype) not in (DTYPES if dtype is None else (dtype,)):
            raise ValueError(f"its rows are {rows.dtype} and not {dtype}")
        if not len(names) == len(counts) == len(lengths) or counts.sum() != len(rows):
            raise ValueError("its proteins and rows do not fit together")
    return Shard(names, lengths, counts, rows)


def read_head(path):
    """Return what a shard tells of its proteins, checked, without reading its rows.

    Parameters
    ----------
    path : Path

    Returns
    -------
    names : list of str

    lengths, counts : ndarray of shape (n_proteins,), int64

    mark : str
        The digest of the whole that the shard says it has.

    Raises
    ------
    DamagedFileError, FormatError, FileNotFoundError
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    with damage_is_told(f"{path} is no whole shard", "the same call makes it again."):
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            head = {name: file.get_tensor(name) for name in HEAD}
        header = json.loads(metadata["shard"])
        check_format(header["format"], SHARDS, str(path))
        if header["name"] != path.name or header["head"] != _digest(head):
            raise ValueError("its names or lengths are not those that were written")
        names, lengths, counts = _names(head), head["lengths"], head["counts"]
        if not len(names) == len(lengths) == len(counts):
            raise ValueError("its names, lengths and counts do not fit together")
        return names, lengths, counts, metadata["digest"]


def _digest(head):
    """Return the digest of what is told of proteins."""
    found = hashlib.blake2b(digest_size=16)
    for name in HEAD:
        array = np.ascontiguousarray(head[name])
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.data)
    return found.hexdigest()


def _names(tensors):
    """Return the identifiers that lie one after the other as bytes."""
    sizes, text = tensors["name_bytes"], tensors["names"].tobytes()
    if len(sizes) and (sizes.min() < 0 or sizes.sum() != len(text)):
        raise ValueError("its names do not fit together")
    ends = np.cumsum(sizes)
    return [text[end - size : end].decode() for size, end in zip(sizes, ends, strict=True)]


def digest_of_shard(path):
    """Return the digest that a shard says it has, without reading its rows.

    Raises
    ------
    DamagedFileError, FileNotFoundError
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    with damage_is_told(f"{path} is no whole shard", "the same call makes it again."):
        with safe_open(path, framework="numpy") as file:
            return file.metadata()["digest"]


class ShardFolder:
    """A folder of shards: what is in it, and what its columns are.

    Parameters
    ----------
    path : path-like

    facts : dict
        ``level``, ``dtype``, ``columns`` (names), ``stages`` (list of block name and longest
        prefix for which the models up to it suffice, as ``stage_dims_``), ``settings``,
        ``version``; can be written as JSON.

    shards : list of dict or None, default=None
        ``name``, ``n_proteins``, ``n_rows``, ``n_residues`` and ``digest`` of each, in order; None
        until the run is done.

    input : str or None, default=None
        Digest of all that was embedded, where it is known.
    """

    def __init__(self, path, facts, shards=None, input=None):
        self.path, self.facts, self.entries, self.input = Path(path), facts, shards, input

    @property
    def identity(self):
        """Digest of the settings."""
        return digest(self.facts["settings"])

    @property
    def level(self):
        """Whether rows are of proteins or of residues."""
        return self.facts["level"]

    @property
    def dtype(self):
        """Type of the numbers, as text."""
        return self.facts["dtype"]

    @property
    def columns(self):
        """Names of the columns."""
        return self.facts["columns"]

    @property
    def n_proteins(self):
        """Number of proteins."""
        return sum(entry["n_proteins"] for entry in self._done())

    @property
    def n_rows(self):
        """Number of rows: proteins, or residues."""
        return sum(entry["n_rows"] for entry in self._done())

    @property
    def n_residues(self):
        """Residues of all proteins as they were given."""
        return sum(entry["n_residues"] for entry in self._done())

    def shards(self):
        """Yield the shards in order, each checked to the last bit.

        Raises
        ------
        DamagedFileError, FileNotFoundError
        """
        for i in range(len(self._done())):
            yield self.shard(i)

    def shard(self, i):
        """Return one shard, checked to the last bit, by its number from 0."""
        entry = self._done()[i]
        path = self.path / entry["name"]
        if digest_of_shard(path) != entry["digest"]:
            raise _another(path)
        return read_shard(path, len(self.columns), self.dtype)

    def heads(self):
        """Yield names, residues as given, and counts of rows of each shard, without its rows.

        Raises
        ------
        DamagedFileError, FileNotFoundError
        """
        for i in range(len(self._done())):
            yield self.head(i)

    def head(self, i):
        """Return names, residues as given, and counts of rows of one shard, checked."""
        entry = self._done()[i]
        path = self.path / entry["name"]
        names, lengths, counts, mark = read_head(path)
        if mark != entry["digest"] or len(names) != entry["n_proteins"]:
            raise _another(path)
        return names, lengths, counts

    def _done(self):
        if self.entries is None:
            raise ValueError(
                f"{self.path} is not complete: its run was ended before it was done. The same "
                "call, or command, goes on from what is there."
            )
        return self.entries

    def save(self):
        """Write ``embeddings.json``."""
        header = {
            "format": SHARDS,
            **self.facts,
            "input": self.input,
            "shards": self.entries,
        }
        text = json.dumps(header, indent=1) + "\n"
        replace_file(self.path / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path):
        """Return what a folder holds.

        Raises
        ------
        FileNotFoundError
            If it is no folder of shards.

        DamagedFileError, FormatError
        """
        path = Path(path)
        file = path / MANIFEST
        if not file.is_file():
            raise FileNotFoundError(f"{path} has no {MANIFEST}: it holds no embeddings.")
        way_out = "the same call writes it anew."
        facts = read_json_object(file, way_out)
        with damage_is_told(f"{file} is damaged", way_out):
            check_format(facts.pop("format"), SHARDS, str(file))
            one_of(facts, "level", LEVELS)
            one_of(facts, "dtype", DTYPES)
            shards, given = facts.pop("shards"), facts.pop("input")
            for entry in shards or []:
                if not NAME.fullmatch(entry["name"]):
                    raise ValueError(f"it names a shard {entry['name']!r}")
                for name in ("n_proteins", "n_rows", "n_residues"):
                    integer(entry, name)
            if not all(isinstance(name, str) for name in facts["columns"]):
                raise ValueError("its columns are no names")
            found = cls(path, facts, shards, given)
            found.identity  # noqa: B018 (its settings can be read)
        return found

    def entry(self, name):
        """Return what ``embeddings.json`` tells of a shard that is there.

        Raises
        ------
        DamagedFileError, FileNotFoundError
        """
        _, lengths, counts, mark = read_head(self.path / name)
        return {
            "name": name,
            "n_proteins": len(counts),
            "n_rows": int(counts.sum()),
            "n_residues": int(lengths.sum()),
            "digest": mark,
        }


def _another(path):
    return DamagedFileError(
        f"{path} is not the shard that {MANIFEST} tells of: its digest is another; the same call "
        "makes it again."
    )
