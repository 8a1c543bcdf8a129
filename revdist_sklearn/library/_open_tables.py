"""Tables, read in parts: Parquet by its groups of rows, CSV by where its records begin."""

import csv
import io
import json

import numpy as np

from ._facts import KEY, parsed_facts, side_file
from ._open_shards import from_parts
from ._store import RunsOfNames, Store, foreign, numbers_of, told

NONE_HELD: tuple = (None, None)
# Bytes of text that are read at a time.
_PIECE = 2**24


class ParquetStore(Store):
    """A column of names, ``position`` at residue level, and numbers; one group is held."""

    def __init__(self, path):
        with told(path):
            self._file = _opened(path)
            try:
                super().__init__(path, *self._looked_at(path))
            except BaseException:
                self._file.close()
                raise

    def _looked_at(self, path):
        from pyarrow import types

        schema, told_of = self._file.schema_arrow, self._file.metadata
        facts = parsed_facts((schema.metadata or {}).get(KEY.encode()), path)
        texts = [
            f.name for f in schema if types.is_string(f.type) or types.is_large_string(f.type)
        ]
        self._name = "name" if "name" in texts else texts[0] if len(texts) == 1 else None
        if self._name is None:
            raise foreign(path, "it has no column 'name' of texts")
        rest = [field for field in schema if field.name != self._name]
        level = "protein"
        if rest and rest[0].name == "position" and types.is_integer(rest[0].type):
            level, rest = "residue", rest[1:]
        for field in rest:
            if not types.is_floating(field.type):
                raise foreign(path, f"its column {field.name!r} is {field.type} and no number")
        columns = [field.name for field in rest]
        if not columns or len(set(schema.names)) != len(schema.names):
            raise foreign(path, "it has no columns of numbers, or two of one name")
        dtype = np.result_type(*{field.type.to_pandas_dtype() for field in rest})
        groups = [told_of.row_group(i).num_rows for i in range(told_of.num_row_groups)]
        self._ends, self._held = np.cumsum(groups, dtype=np.int64), NONE_HELD
        if facts:
            told_by = facts["n_rows"], facts["columns"], facts["dtype"], facts["level"]
            if told_by != (told_of.num_rows, columns, str(dtype), level):
                raise ValueError("its columns and rows are not those that it tells of")
        return facts, level, numbers_of(dtype, path), columns

    def _count(self):
        return self._file.metadata.num_rows if self.level == "protein" else len(self.names)

    def _names(self):
        if self.level == "residue":
            return self._runs().names
        names = []
        for i in range(self._file.num_row_groups):
            names += self._file.read_row_group(i, [self._name]).column(0).to_pylist()
        if not all(isinstance(name, str) for name in names):
            raise ValueError("some of its names are missing")
        return names

    def _counts(self):
        return self._runs().counts()

    def _runs(self):
        if not hasattr(self, "_found"):
            runs = RunsOfNames()
            for i in range(self._file.num_row_groups):
                table = self._file.read_row_group(i, [self._name, "position"])
                names = table.column(self._name).to_pylist()
                runs.add(names, table.column("position").to_numpy())
            self._found = runs
        return self._found

    def _rows(self, start, stop):
        return from_parts(self._ends, start, stop, self._part, len(self.columns), self.dtype)

    def _part(self, i):
        if self._held[0] != i:
            self._held = NONE_HELD  # not two of them
            table = self._file.read_row_group(i, self.columns)
            rows = np.empty((table.num_rows, len(self.columns)), self.dtype)
            for j, column in enumerate(self.columns):
                rows[:, j] = table.column(column).to_numpy()
            self._held = (i, rows)
        return self._held[1]

    def close(self):
        """Close the file."""
        self._held = NONE_HELD
        self._file.close()


def _opened(path):
    from pyarrow import parquet

    return parquet.ParquetFile(path, page_checksum_verification=True)


class CsvStore(Store):
    """A column ``name``, ``position`` at residue level, and numbers.

    Where its records begin is found by one reading, at first need; numbers are those of the side
    file's type, float64 where there is none.
    """

    def __init__(self, path):
        with told(path):
            with open(path, encoding="utf-8-sig", newline="") as text:
                header = next(csv.reader(text), None)
            if not header or header[0] != "name":
                raise foreign(path, "its first column is not 'name'")
            level = "residue" if header[1:2] == ["position"] else "protein"
            self._first = 2 if level == "residue" else 1
            columns = header[self._first :]
            if not columns:
                raise foreign(path, "it has no columns of numbers")
            facts = side_facts(path)
            if facts and (facts["columns"], facts["level"]) != (columns, level):
                raise ValueError("its columns are not those that the file beside it tells of")
        super().__init__(path, facts, level, facts["dtype"] if facts else "float64", columns)
        self._begins = None

    def _count(self):
        return len(self._offsets()) - 1 if self.level == "protein" else len(self.names)

    def _names(self):
        if self.level == "residue":
            return self._runs().names
        return [row[0] for piece in self._pieces(1) for row in piece]

    def _counts(self):
        return self._runs().counts()

    def _runs(self):
        if not hasattr(self, "_found"):
            runs = RunsOfNames()
            for piece in self._pieces(2):
                runs.add([row[0] for row in piece], np.array([int(row[1]) for row in piece]))
            self._found = runs
        return self._found

    def _rows(self, start, stop):
        begins, width = self._offsets(), len(self.columns)
        rows = np.empty((stop - start, width), dtype=self.dtype)
        done = start
        while done < stop:
            end = int(np.searchsorted(begins, begins[done] + _PIECE, side="right")) - 1
            end = min(max(end, done + 1), stop)
            records = self._records(int(begins[done]), int(begins[end]))
            numbers = np.array([row[self._first :] for row in records], dtype=np.float64)
            rows[done - start : end - start] = numbers.reshape(end - done, width)
            done = end
        return rows

    def _records(self, begin, end):
        with open(self.path, "rb") as file:
            file.seek(begin)
            data = file.read(end - begin)
        return list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))

    def _pieces(self, n_fields):
        """Yield the first fields of records, those of a piece of the file at a time."""
        begins, done = self._offsets(), 0
        while done < len(begins) - 1:
            end = int(np.searchsorted(begins, begins[done] + _PIECE, side="right")) - 1
            end = max(end, done + 1)
            records = self._records(int(begins[done]), int(begins[end]))
            if len(records) != end - done:
                raise ValueError("its records are not one a line")
            yield [row[:n_fields] for row in records]
            done = end

    def _offsets(self):
        """Return where each record begins, and the end of the last: 8 bytes each."""
        if self._begins is None:
            begins = record_offsets(self.path)
            if self.facts and len(begins) - 1 != self.facts["n_rows"]:
                raise ValueError(
                    f"it has {len(begins) - 1} records, and {self.facts['n_rows']} are told"
                )
            self._begins = begins
        return self._begins


def record_offsets(path):
    """Return where each record of a .csv file begins, after the header, and the end of the last.

    A line end is one of a record where the quotes before it are even in number.
    """
    ends, quotes, position, last = [], 0, 0, b"\n"
    with open(path, "rb") as file:
        while data := file.read(_PIECE):
            piece = np.frombuffer(data, dtype=np.uint8)
            lines = np.flatnonzero(piece == ord("\n"))
            marks = np.flatnonzero(piece == ord('"'))
            before = quotes + np.searchsorted(marks, lines)
            ends.append(position + 1 + lines[before % 2 == 0])
            quotes, position, last = quotes + len(marks), position + len(data), data[-1:]
    if quotes % 2:
        raise ValueError("a quote is not closed")
    if last != b"\n":
        ends.append(np.array([position]))
    return np.concatenate(ends) if ends else np.zeros(1, dtype=np.int64)


def side_facts(path):
    """Return what lies beside a .csv file, None where nothing does.

    Raises
    ------
    DamagedFileError
        If it is of a file of another size: a part may be missing.
    """
    beside = side_file(path)
    if not beside.is_file():
        return None
    facts = json.loads(beside.read_text(encoding="utf-8"))
    if facts["bytes"] != path.stat().st_size:
        raise foreign(
            path,
            f"it has {path.stat().st_size} bytes, and {beside.name} tells of {facts['bytes']}; "
            "remove that where you have changed it yourself",
        )
    return parsed_facts(json.dumps(facts), beside)
