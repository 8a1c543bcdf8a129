"""Small folders of shards, and names that formats stumble over."""

import numpy as np

from revdist_sklearn.library._shards import Shard, ShardFolder, shard_name, write_shard

NAMES = [
    *("sp|P1|A/B", "a.b", "..", ".", "", "naïve", "with,comma", 'quo"te', "x" * 300),
    *("a/b", "a%2Fb", "%", "100%", " spaces ", "tab\there", "two\nlines", "two\r\nends", "\r"),
    *("embedding", "names", "columns", "NA", "nan", "1", "日本", "\x1b[31mred", "😀", "'", "#x"),
]


def make_folder(
    path, *, level="protein", dtype="float32", names=None, n_columns=5, size=7, seed=0
):
    """Return a finished folder of shards, and the rows, counts and lengths of its proteins."""
    rng = np.random.default_rng(seed)
    names = NAMES if names is None else names
    lengths = rng.integers(1, 9, len(names))
    counts = np.ones_like(lengths)
    if level == "residue":
        counts = np.minimum(lengths, 6)  # longer ones were cut
    rows = rng.standard_normal((counts.sum(), n_columns)).astype(dtype)
    facts = {
        "level": level,
        "dtype": dtype,
        "columns": [f"revdist_{j}" for j in range(n_columns)],
        "stages": [["first", 2], ["second", n_columns]],
        "settings": {"level": level, "dtype": dtype, "seed": seed},
        "version": "0",
    }
    folder = ShardFolder(path, facts, [], input="digest of the input")
    folder.path.mkdir(exist_ok=True)
    ends = np.cumsum(counts)
    for start in range(0, len(names), size):
        part = slice(start, start + size)
        mine = rows[ends[start] - counts[start] : ends[part][-1]]
        shard = Shard(list(names[part]), lengths[part], counts[part], mine)
        records = [(name, "", int(length)) for name, length, _ in shard.proteins()]
        name = shard_name(start // size, folder.identity, records)
        write_shard(folder.path / name, shard, folder.identity)
        folder.entries.append(folder.entry(name))
    folder.save()
    return ShardFolder.load(path), rows, counts, lengths
