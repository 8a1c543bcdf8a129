"""``revdist embed``: nested embeddings of proteins to a file."""

import csv
import io
import zipfile

import numpy as np

from .. import Moments, ReverseDistiller, fit_on_corpus
from ._messages import note, say
from ._options import (
    DISTILLER,
    add_models,
    corpus_of,
    distiller_of,
    featurizer_of,
    kept_moments,
    remembering,
    telling_what_is_kept,
)
from ._outputs import check_file, check_no_input, write_file
from ._readers import read_fasta

HELP = "write nested embeddings of proteins"


def add_arguments(parser):
    """Add the options of this command."""
    add_models(parser)
    parser.add_argument("--fasta", required=True, help="the proteins; - is standard input")
    parser.add_argument("--distiller", help=DISTILLER)
    parser.add_argument(
        "--n-components", type=int, help="columns to keep, from the first (default: all)"
    )
    parser.add_argument("--output", required=True, help="file: .npz or .csv")


def run(arguments):
    """Embed and write."""
    suffix = check_file("--output", arguments.output, (".npz", ".csv"))
    check_no_input("--output", arguments.output, arguments.fasta)
    records = read_fasta(arguments.fasta)
    featurizer = featurizer_of(arguments)
    sequences = records.prepared(featurizer)
    distiller = distiller_of(arguments, featurizer) or _fitted_here(arguments, featurizer)
    if arguments.n_components is not None:
        distiller = distiller.truncate(arguments.n_components)
        featurizer = featurizer.with_n_models(len(distiller.blocks_))
    Z = distiller.transform(featurizer.transform(sequences))
    columns = distiller.get_feature_names_out()
    write = _as_npz if suffix == ".npz" else _as_csv
    write_file(arguments.output, lambda file: write(file, records.names, columns, Z))
    say(f"{Z.shape[0]} proteins, {Z.shape[1]} columns: {arguments.output}")


def _fitted_here(arguments, featurizer):
    """Return a distiller fitted on the bundled corpus, after saying so."""
    blocks = featurizer.embedding_plan("residue").blocks
    empty = Moments(blocks.sizes, block_names=blocks.names)
    # More columns than there are is found before the fit.
    ReverseDistiller(n_components=arguments.n_components).check_moments(empty)
    corpus = corpus_of(None, featurizer)
    kept = kept_moments(arguments, featurizer, corpus)
    note(
        f"No --distiller: one is fitted first, on {corpus}; {remembering(kept)}. `revdist fit "
        f"--models {' '.join(arguments.models)} --output FOLDER` fits it once, and --distiller "
        "FOLDER then takes it."
    )
    with telling_what_is_kept(kept):
        return fit_on_corpus(
            ReverseDistiller(),
            featurizer,
            corpus.sequences,
            n_jobs=arguments.n_jobs,
            checkpoint=kept,
        )


def _as_npz(file, names, columns, Z):
    # As np.savez, of which older ones leave the archive open where the disk is full.
    arrays = {"names": np.array(names), "columns": columns.astype(str), "embedding": Z}
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _as_csv(file, names, columns, Z):
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["name", *columns])
        writer.writerows([name, *row.tolist()] for name, row in zip(names, Z, strict=True))
