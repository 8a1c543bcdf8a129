"""Scans of further proteins, from clones of three public repositories: checked, written as tables.

    git clone https://github.com/ziul-bio/SWAT
    git clone https://github.com/jbloomlab/SARS-CoV-2-RBD_DMS
    git clone https://github.com/gitter-lab/nn4dms
    python benchmarks/more_scans.py FOLDER --swat SWAT --rbd SARS-CoV-2-RBD_DMS --nn4dms nn4dms

14 scans of 12 proteins, none of which is in ``data_sets.py`` or bundled: single substitutions alone,
in ProteinGym's columns and with the name of the protein; three homologs of one enzyme bear one name.
Of a protein of which a part was mutated, that part is written with 50 residues on either side.
The first repository (GPL-3) gathers scans that the papers below published; its file
``data/DMS_metadata.csv`` names them. Files are read from the last commit, so that a bare clone will
do. Nothing of it is part of this project.
"""

import argparse
import csv
import gzip
import io
import re
import subprocess
from pathlib import Path

import numpy as np

from revdist_sklearn.evaluation._mutations import parse_mutations, position_offset, undone

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
FLANK = 50
# Name of the file, the protein, who measured it.
SWAT = (
    ("AMIE_PSEAE_Whitehead", "AMIE", "Wrenbeck et al. 2017, Nature Communications"),
    ("B3VI55_LIPST_Whitehead2015", "LGK", "Klesmith et al. 2015, ACS Synthetic Biology"),
    ("BG_STRSQ_hmmerbit", "Bgl3", "Romero et al. 2015, PNAS"),
    ("DLG4_RAT_Ranganathan2012", "PSD95", "McLaughlin et al. 2012, Nature"),
    ("MTH3_HAEAESTABILIZED_Tawfik2015", "M.HaeIII", "Rockah-Shmuel et al. 2015, PLoS Comp. Biol."),
    ("PABP_YEAST_Fields2013_singles", "Pab1", "Melamed et al. 2013, RNA"),
    ("PA_FLU_Sun2015", "PA", "Wu et al. 2015, PLoS Genetics"),
    ("TIM_SULSO", "IGPS", "Chan et al. 2017, Nature Communications"),
    ("TIM_THEMA", "IGPS", "Chan et al. 2017, Nature Communications"),
    ("TIM_THETH", "IGPS", "Chan et al. 2017, Nature Communications"),
    ("UBE4B_MOUSE_Klevit2013_singles", "UBE4B", "Starita et al. 2013, PNAS"),
    ("YAP1_HUMAN_Fields2012_singles", "YAP1", "Araya et al. 2012, PNAS"),
)
RBD = "RBD_Starr_2020", "SARS-CoV-2 RBD", "Starr et al. 2020, Cell"
GFP = "GFP_Sarkisyan_2016", "avGFP", "Sarkisyan et al. 2016, Nature"
LETTERS = dict(
    zip(
        "Ala Cys Asp Glu Phe Gly His Ile Lys Leu Met Asn Pro Gln Arg Ser Thr Val Trp Tyr".split(),
        AMINO_ACIDS,
        strict=True,
    )
)


def text_of(clone, path):
    """Return a file of the last commit of a clone."""
    command = ["git", "-C", str(clone), "show", f"HEAD:{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measured(rows):
    """Return mutation and number of the rows that have one substitution and a finite number."""
    found = []
    for mutant, score in rows:
        named = re.fullmatch(rf"([{AMINO_ACIDS}])(\d+)([{AMINO_ACIDS}])", mutant)
        try:
            value = float(score)
        except ValueError:
            continue
        if named and np.isfinite(value) and named[1] != named[3]:
            found.append((named[1], int(named[2]), named[3], value))
    return found


def of_swat(clone, name):
    """Return wild type and rows of a file of the first repository."""
    text = text_of(clone, f"data/DMS_metadata/{name}_metadata.csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    mutations = [parse_mutations(line["mutant"])[0] for line in lines]
    offset, wrong = position_offset(mutations, [line["sequence"] for line in lines])
    if wrong:
        raise ValueError(f"{name}: {lines[wrong[0]]['mutant']} is not in its sequence.")
    wild = {
        undone(line["sequence"], row, offset) for line, row in zip(lines, mutations, strict=True)
    }
    if len(wild) != 1:
        raise ValueError(f"{name}: sequences come from {len(wild)} wild types.")
    rows = measured((line["mutant"], line["target"]) for line in lines)
    rows = [(old, position - offset, new, value) for old, position, new, value in rows]
    wild = wild.pop()
    return wild, rows


def of_rbd(clone):
    """Return wild type and rows: expression of the domain, the mean of libraries that have it."""
    lines = csv.DictReader(
        io.StringIO(text_of(clone, "MaveDB_upload/score-set_expression_mut.csv"))
    )
    rows = []
    for line in lines:
        named = re.fullmatch(r"p\.([A-Z][a-z]{2})(\d+)([A-Z][a-z]{2})", line["hgvs_pro"])
        if named and named[3] in LETTERS:
            rows.append((LETTERS[named[1]] + named[2] + LETTERS[named[3]], line["average"]))
    found = measured(dict(rows).items())  # a line a library, of one average
    letters = {position: letter for letter, position, _, _ in found}
    if sorted(letters) != list(range(1, len(letters) + 1)):
        raise ValueError("RBD: there are positions without a mutation.")
    return "".join(letters[position] for position in sorted(letters)), found


def of_gfp(clone):
    """Return wild type and rows: brightness of single mutants."""
    code = text_of(clone, "code/constants.py")
    block = code[code.index('"wt_aa"') : code.index('"wt_ofs"')]
    wild = "".join(re.findall(rf'"([{AMINO_ACIDS}]{{20,}})"', block))
    lines = csv.DictReader(io.StringIO(text_of(clone, "data/avgfp/avgfp.tsv")), delimiter="\t")
    return wild, measured(
        (
            f"{line['variant'][0]}{int(line['variant'][1:-1]) + 1}{line['variant'][-1]}",
            line["score"],
        )
        for line in lines
        if line["num_mutations"] == "1"
    )


def write(folder, name, protein, wild, rows):
    """Write a table, and return what is said of it."""
    for old, position, new, _ in rows:
        if wild[position - 1] != old:
            raise ValueError(
                f"{name}: the wild type has no {old}{position} ({old}{position}{new})."
            )
    positions = [position for _, position, _, _ in rows]
    start, stop = max(0, min(positions) - 1 - FLANK), min(len(wild), max(positions) + FLANK)
    with gzip.open(folder / f"{name}.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["mutant", "mutated_sequence", "DMS_score", "protein"])
        for old, position, new, value in rows:
            sequence = wild[start : position - 1] + new + wild[position:stop]
            writer.writerow([f"{old}{position}{new}", sequence, value, protein])
    return f"{name}: {protein}, {len(rows):,} rows, {len(set(positions))} positions, {stop - start} residues"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for option in ("swat", "rbd", "nn4dms"):
        parser.add_argument(f"--{option}", type=Path, required=True, help="a clone")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    found = [(name, protein, *of_swat(given.swat, name)) for name, protein, _ in SWAT]
    found.append((*RBD[:2], *of_rbd(given.rbd)))
    found.append((*GFP[:2], *of_gfp(given.nn4dms)))
    for each in found:
        print(write(given.folder, *each))


if __name__ == "__main__":
    main()
