"""``revdist embed``: nested embeddings of proteins to a file."""

import csv
from pathlib import Path

import numpy as np

from .. import ReverseDistiller, fit_on_corpus
from ..datasets import load_uniprot_sample
from ._options import DISTILLER, add_models, distiller_of, featurizer_of
from ._readers import read_fasta

HELP = "write nested embeddings of proteins"


def add_arguments(parser):
    """Add the options of this command."""
    add_models(parser)
    parser.add_argument("--fasta", required=True, help="the proteins")
    parser.add_argument("--distiller", help=DISTILLER)
    parser.add_argument("--n-components", type=int, help="columns to keep (default: all)")
    parser.add_argument("--output", required=True, help="file: .npz or .csv")


def run(arguments):
    """Embed and write."""
    suffix = Path(arguments.output).suffix
    if suffix not in (".npz", ".csv"):
        raise ValueError(f"--output {arguments.output} must end in .npz or .csv.")
    names, sequences = zip(*read_fasta(arguments.fasta), strict=True)
    featurizer = featurizer_of(arguments)
    distiller = distiller_of(arguments, featurizer)
    if distiller is None:
        corpus = load_uniprot_sample().sequences
        distiller = fit_on_corpus(ReverseDistiller(), featurizer, corpus, n_jobs=arguments.n_jobs)
    if arguments.n_components is not None:
        distiller = distiller.truncate(arguments.n_components)
        featurizer = featurizer.with_n_models(len(distiller.blocks_))
    Z = distiller.transform(featurizer.transform(sequences))
    columns = distiller.get_feature_names_out()
    if suffix == ".npz":
        arrays = {"names": np.array(names), "columns": columns.astype(str), "embedding": Z}
        np.savez(arguments.output, **arrays)
    else:
        with open(arguments.output, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", *columns])
            writer.writerows([name, *row] for name, row in zip(names, Z.tolist(), strict=True))
    print(f"{Z.shape[0]} proteins, {Z.shape[1]} columns: {arguments.output}")
