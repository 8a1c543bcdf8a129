"""Tables of a row for each protein or residue: Parquet and CSV."""

import csv
import json

import numpy as np

from ._facts import KEY, whole_shards
from ._shards import Shard

# Bytes of a group of rows: Parquet tells about 150 bytes of each column of each group, so that
# few columns of a large file would be read before the first row were the groups small.
GROUP = 2**27
# Numbers that are text at a time: NumPy gives each 128 bytes.
NUMBERS = 2**17


def write_parquet(path, folder, facts):
    """Write a column of identifiers, that of residues at that level, and one for each number."""
    import pyarrow as pa
    from pyarrow import parquet

    by_residue = folder.level == "residue"
    number = pa.from_numpy_dtype(np.dtype(folder.dtype))
    schema = pa.schema(
        [
            ("name", pa.string()),
            *([("position", pa.int32())] if by_residue else []),
            *((column, number) for column in folder.columns),
        ],
        metadata={KEY: json.dumps(facts)},
    )
    writer = parquet.ParquetWriter(
        path,
        schema,
        compression="NONE",  # such numbers do not become smaller
        use_dictionary=["name"] if by_residue else False,
        write_statistics=["name"],
        write_page_checksum=True,
    )
    with writer:
        for shards in _groups(folder):
            names = [name for shard in shards for name in shard.names]
            columns = [pa.array(names, pa.string())]
            if by_residue:
                counts = np.concatenate([shard.counts for shard in shards])
                columns = [columns[0].take(pa.array(np.repeat(np.arange(len(names)), counts)))]
                columns.append(pa.array(np.concatenate([positions(s) for s in shards])))
            across = np.concatenate([shard.rows.T for shard in shards], axis=1)
            columns += [pa.array(numbers, number) for numbers in np.ascontiguousarray(across)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def write_csv(path, folder, facts):
    """Write text that gives the same numbers again when it is read in their type."""
    by_residue = folder.level == "residue"
    step = max(1, NUMBERS // len(folder.columns))
    with open(path, "w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text)  # its line ends are \r\n, so that it quotes names with either
        writer.writerow(["name", *(["position"] if by_residue else []), *folder.columns])
        for shard in whole_shards(folder):
            names = np.repeat(np.array(shard.names, dtype=object), shard.counts)
            where = positions(shard).tolist()
            for start in range(0, len(names), step):
                # The shortest text of each in its own type: repr of a Python float has 17 digits.
                numbers = shard.rows[start : start + step].astype(str).tolist()
                for i, row in enumerate(numbers, start):
                    writer.writerow([names[i], *([where[i]] if by_residue else []), *row])


def positions(shard):
    """Return the number of each row's residue in its protein, from 1, as int32."""
    starts = np.repeat(np.cumsum(shard.counts) - shard.counts, shard.counts)
    return (np.arange(len(shard.rows)) - starts + 1).astype(np.int32)


def _groups(folder):
    """Yield lists of shards that make a group of rows."""
    shards: list[Shard] = []
    size = 0
    for shard in whole_shards(folder):
        if shards and size + shard.rows.nbytes > GROUP:
            yield shards
            shards, size = [], 0
        shards.append(shard)
        size += shard.rows.nbytes
    if shards:
        yield shards
