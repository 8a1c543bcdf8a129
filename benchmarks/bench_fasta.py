"""Readers of FASTA side by side: seconds, memory, and what each does with files that are not plain.

Why the reader is our own. A million generated proteins are read to their end by each reader, in a
process of its own, in turns: identifier and sequence are taken of each record, and their lengths
summed. Then each is given small files of every kind that people have, and what comes out is told
in a word: whether it is what this package's reader promises, which others need not::

    pip install pyfastx biopython pyfaidx screed dnaio needletail mappy pysam
    python benchmarks/bench_fasta.py

A reader that is not installed is left out. pyfastx is measured without its index; pyfaidx has no
other way than one, which it writes beside the file. The second row is our reader with the checks
of a run (residues, identifiers that occur twice, a digest). Results are printed and written as
JSON (``--output``).
"""

import argparse
import gzip
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

LETTERS = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
WIDTH = 60


def ours(path):
    """Read by this package."""
    from revdist_sklearn import FastaReader

    return iter(FastaReader(path))


def checked(path):
    """Read by this package, with the checks of a run."""
    from revdist_sklearn import ESMFeaturizer, FastaReader
    from revdist_sklearn.library._records import RecordChecker, blocks_of

    checker = RecordChecker(ESMFeaturizer("esm2-nano").embedding_plan("residue"))
    for block in blocks_of(FastaReader(path).records()):
        yield from (good[:2] for good in checker.check(block))
    checker.digest()


def simple_fasta_parser(path):
    """Read by Biopython's fast parser, which wants an open text file."""
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    with gzip.open(path, "rt") if is_gzip(path) else open(path) as file:
        for title, sequence in SimpleFastaParser(file):
            yield title.split(None, 1)[0], sequence


def seqio(path):
    """Read by Biopython's records."""
    from Bio import SeqIO

    with gzip.open(path, "rt") if is_gzip(path) else open(path) as file:
        for record in SeqIO.parse(file, "fasta"):
            yield record.id, str(record.seq)


def pyfastx(path):
    """Read by pyfastx without an index."""
    import pyfastx

    for name, sequence, *_ in pyfastx.Fastx(str(path), "fasta"):
        yield name, sequence


def pyfaidx(path):
    """Read by pyfaidx, whose index is made first."""
    import pyfaidx

    with pyfaidx.Fasta(str(path)) as fasta:
        for record in fasta:
            yield record.name, str(record)


def screed(path):
    """Read by screed."""
    import screed

    with screed.open(str(path)) as records:
        for record in records:
            yield record.name.split(None, 1)[0], record.sequence


def dnaio(path):
    """Read by dnaio, cutadapt's reader."""
    import dnaio

    with dnaio.open(path) as records:
        for record in records:
            yield record.id, record.sequence


def needletail(path):
    """Read by needletail, in Rust."""
    from needletail import parse_fastx_file

    for record in parse_fastx_file(str(path)):
        yield record.id.split(None, 1)[0], record.seq


def mappy(path):
    """Read by minimap2's kseq."""
    from mappy import fastx_read

    for name, sequence, _ in fastx_read(str(path)):
        yield name, sequence


def pysam(path):
    """Read by htslib's kseq."""
    from pysam import FastxFile

    with FastxFile(str(path)) as records:
        for record in records:
            yield record.name, record.sequence


READERS = {
    "FastaReader (ours)": (ours, "revdist_sklearn"),
    "the same with all checks": (checked, "revdist_sklearn"),
    "Biopython SimpleFastaParser": (simple_fasta_parser, "biopython"),
    "Biopython SeqIO": (seqio, "biopython"),
    "pyfastx": (pyfastx, "pyfastx"),
    "pyfaidx": (pyfaidx, "pyfaidx"),
    "screed": (screed, "screed"),
    "dnaio": (dnaio, "dnaio"),
    "needletail": (needletail, "needletail"),
    "mappy": (mappy, "mappy"),
    "pysam": (pysam, "pysam"),
}
TWO = b">a x\nMKT\nAY\n>b\ngiv\n"
EXPECTED = [("a", "MKTAY"), ("b", "giv")]
# Compressible: what is not is packed as it is, and a reader that skips to a '>' finds it.
LONG = TWO.replace(b"AY", b"AY" * 300)
EXPECTED_LONG = [("a", "MKT" + "AY" * 300), ("b", "giv")]
ERROR = "an error"
# What a careful reader gives: records, or an error.
CASES = {
    "plain": (TWO, EXPECTED),
    "CRLF": (TWO.replace(b"\n", b"\r\n"), EXPECTED),
    "old Mac": (TWO.replace(b"\n", b"\r"), EXPECTED),
    "byte-order mark": (b"\xef\xbb\xbf" + TWO, EXPECTED),
    "blank lines": (b"\n\n" + TWO.replace(b"\n", b"\n\n"), EXPECTED),
    "white space within": (TWO.replace(b"MKT", b" MK T "), EXPECTED),
    "stop at the end": (TWO.replace(b"AY", b"AY*"), EXPECTED),
    "no end of the last line": (TWO[:-1], EXPECTED),
    "'>' alone": (b">\nMKT\n>b\ngiv\n", [("line_1", "MKT"), ("b", "giv")]),
    "gzip of two members": (gzip.compress(LONG[:99]) + gzip.compress(LONG[99:]), EXPECTED_LONG),
    "bzip2": ("bz2", EXPECTED_LONG),
    "xz": ("lzma", EXPECTED_LONG),
    "zstd": ("zstandard", EXPECTED_LONG),
    "text before a header": (b"MKT\n" + TWO, ERROR),
    "empty": (b"", ERROR),
    "cut .gz": (gzip.compress(TWO * 500)[:-12], ERROR),
    "FASTQ": (b"@r\nACGT\n+\nIIII\n", ERROR),
    "UTF-16": (TWO.decode().encode("utf-16"), ERROR),
    "NUL byte": (TWO.replace(b"AY", b"A\0Y"), ERROR),
    "no UTF-8 in a sequence": (TWO.replace(b"AY", b"A\xffY"), ERROR),
}
ENDINGS = {
    "bzip2": ".bz2",
    "xz": ".xz",
    "zstd": ".zst",
    "gzip of two members": ".gz",
    "cut .gz": ".gz",
}


def is_gzip(path):
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def installed(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_corpus(path, n):
    """Write proteins with lengths like UniProt's (a gamma of mean 350), wrapped at 60."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for start in range(0, n, 10_000):
            lengths = 20 + rng.gamma(2.0, 165.0, min(10_000, n - start)).astype(int)
            residues = LETTERS[rng.integers(0, 20, lengths.sum())].tobytes()
            end = 0
            for i, length in enumerate(lengths.tolist(), start=start):
                begin, end = end, end + length
                text = b"\n".join(
                    residues[j : min(j + WIDTH, end)] for j in range(begin, end, WIDTH)
                )
                file.write(b">tr|A%08d|A%08d_9BACT Generated protein OS=None OX=1\n" % (i, i))
                file.write(text + b"\n")


def read(name, path):
    """Return seconds, records, residues and megabytes that a reader takes to its end."""
    reader = READERS[name][0]
    with tempfile.TemporaryDirectory() as folder:  # imports have no part in the time
        tiny = Path(folder) / "tiny.fasta"
        tiny.write_bytes(TWO)
        list(reader(tiny))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, n, residues = time.perf_counter(), 0, 0
    cpu = time.process_time()
    for identifier, sequence in reader(path):
        n += bool(identifier)
        residues += len(sequence)
    cpu = time.process_time() - cpu
    seconds = time.perf_counter() - begin
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    Path(f"{path}.fai").unlink(missing_ok=True)
    return seconds, cpu, n, residues, more


def outcome(name, case):
    """Return in a word what a reader makes of a file."""
    content, expected = CASES[case]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / f"x.fasta{ENDINGS.get(case, '')}"
        if isinstance(content, str):
            content = importlib.import_module(content).compress(LONG)
        path.write_bytes(content)
        try:
            found = [(str(a), str(b)) for a, b in READERS[name][0](path)]
        except (Exception, SystemExit) as error:
            located = any(word in str(error).lower() for word in ("line", str(path)))
            right = expected == ERROR
            return ("error" if located else "error without file or line") if right else "refused"
        if found == expected:
            return "read"
        if expected == ERROR:
            return "taken for records" if found else "taken for empty"
        return "read otherwise"


def outcomes(name):
    """Return what a reader makes of all files, in a process of its own: some libraries end it."""
    context, found = multiprocessing.get_context("spawn"), {}
    pool = context.Pool(1)
    for case, (content, _) in CASES.items():
        if isinstance(content, str) and importlib.util.find_spec(content) is None:
            continue
        try:
            found[case] = pool.apply_async(outcome, (name, case)).get(timeout=20)
        except multiprocessing.TimeoutError:
            found[case] = "hangs or crashes"
            pool.terminate()
            pool = context.Pool(1)
    pool.terminate()
    return found


def one(job):
    return read(*job)


def table(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--no-strictness", action="store_true", help="leave the second table out")
    parser.add_argument("--output", default="bench_fasta.json")
    arguments = parser.parse_args()
    versions = {name: installed(package) for name, (_, package) in READERS.items()}
    names = [name for name in READERS if versions[name]]
    context = multiprocessing.get_context("spawn")
    figures = {"machine": platform.platform(), "cores": os.cpu_count(), "versions": versions}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.fasta"
        write_corpus(path, arguments.records)
        runs: dict[str, list] = {name: [] for name in names}
        for _ in range(arguments.repeats):
            for name in names:
                with context.Pool(1) as pool:
                    runs[name].append(pool.apply(one, ((name, path),)))
        size = path.stat().st_size
    assert len({run[2:4] for found in runs.values() for run in found}) == 1, "readers differ"
    figures["records"], figures["bytes"] = arguments.records, size
    figures["readers"] = {
        name: {
            "seconds": float(np.median([run[0] for run in found])),
            "cpu_seconds": float(np.median([run[1] for run in found])),
            "more_megabytes": float(max(run[4] for run in found)),
        }
        for name, found in runs.items()
    }
    print(f"{arguments.records:,} records, {size / 1e6:,.0f} MB, {os.cpu_count()} cores\n")
    head = [
        "reader",
        "version",
        "seconds",
        "of the processor",
        "million records a minute",
        "MB more",
    ]
    rows = [
        [
            name,
            versions[name],
            f"{row['seconds']:.2f}",
            f"{row['cpu_seconds']:.2f}",
            f"{arguments.records / row['seconds'] * 60 / 1e6:.1f}",
            f"{row['more_megabytes']:.0f}",
        ]
        for name, row in figures["readers"].items()
    ]
    print(table(head, rows))
    if not arguments.no_strictness:
        strict = [name for name in names if READERS[name][0] is not checked]
        figures["strictness"] = {name: outcomes(name) for name in strict}
        cases = [case for case in CASES if case in figures["strictness"][strict[0]]]
        rows = [[case, *(figures["strictness"][name][case] for name in strict)] for case in cases]
        print("\n" + table(["file", *strict], rows))
    Path(arguments.output).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
