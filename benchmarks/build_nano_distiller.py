"""Rebuild the distiller of esm2-nano that the package ships.

It is what the README's ``fit_on_corpus(ReverseDistiller(), ESMFeaturizer("esm2-nano"), ..)`` gives
on the bundled UniProt sample, with default parameters, kept in the narrowest type whose rounding
stays below that of the float32 rows it is applied to::

    python benchmarks/build_nano_distiller.py

The table says what each type costs. Another machine's rows differ in their last bits, and so do
the columns of the distiller: by less than a thousandth of their spread, as
``tests/test_nano_distiller.py`` has it. On one machine the numbers are the same to the last bit.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from revdist_sklearn import ESMFeaturizer, ReverseDistiller, fit_on_corpus
from revdist_sklearn.base._aliases import bundled_distiller
from revdist_sklearn.datasets import load_uniprot_sample
from revdist_sklearn.method._rounding import KINDS

ALIAS = "esm2-nano"
DTYPE = "float32"


def fitted():
    return fit_on_corpus(ReverseDistiller(), ESMFeaturizer(ALIAS), load_uniprot_sample().sequences)


def costs(distiller):
    """Return bytes and errors of each type."""
    rows = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            distiller.save_pretrained(folder, dtype=kind)
            size = (Path(folder) / "chain.safetensors").stat().st_size
            record = ReverseDistiller.from_pretrained(folder).rounding_ or {}
        errors = {k: record.get(k, 0.0) for k in ("root_mean_square", "largest", "explained")}
        rows.append({"dtype": kind, "bytes": size, **errors})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=bundled_distiller(ALIAS)[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    start = time.perf_counter()
    distiller = fitted()
    seconds = time.perf_counter() - start
    rows = costs(distiller)
    print(
        "| type | bytes | root mean square | largest | explained shares |\n|---|---|---|---|---|"
    )
    for row in rows:
        errors = [f"{row[k]:.1e}" for k in ("root_mean_square", "largest", "explained")]
        print(f"| {row['dtype']} | {row['bytes']:,} | {' | '.join(errors)} |")
    distiller.save_pretrained(args.output, dtype=DTYPE)
    print(f"\nFitted in {seconds:.0f} s. Written in {DTYPE}: {args.output}")
    if args.json:
        args.json.write_text(json.dumps({"seconds": seconds, "types": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
