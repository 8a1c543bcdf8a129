"""``revdist embed``: nested embeddings of any number of proteins to files."""

from pathlib import Path

from .. import Moments, ReverseDistiller, fit_on_corpus
from ..base._text import counted
from ..library._embed_to import first_pass
from ..library._embed_to import run as do
from ..library._fasta import FastaReader
from ..library._formats import ENDINGS
from ..library._job import Job
from ..library._shards import DTYPES, LEVELS
from ._messages import note, say
from ._options import (
    DISTILLER,
    add_models,
    corpus_of,
    distiller_of,
    featurizer_of,
    is_bundled,
    kept_moments,
    remembering,
    telling_what_is_kept,
)
from ._outputs import check_file, check_folder, check_no_input

HELP = "write nested embeddings of proteins"
EXAMPLE = "revdist embed --fasta proteins.fasta --n-components 64 --output embeddings.npz"
# In place of a distiller: the models side by side.
NONE = "none"


def add_arguments(parser):
    """Add the options of this command."""
    add_models(parser)
    parser.add_argument(
        "--fasta",
        required=True,
        nargs="+",
        help="the proteins: one or more files, plain or gz, bz2, xz, zst; - is standard input",
    )
    parser.add_argument(
        "--distiller",
        help=f"{DISTILLER}; {NONE} writes the models' embeddings side by side",
    )
    parser.add_argument(
        "--n-components", type=int, help="columns to keep, from the first (default: all)"
    )
    parser.add_argument(
        "--output",
        required=True,
        help=f"file that ends in {', '.join(ENDINGS)}, or a folder of shards, which has no ending",
    )
    parser.add_argument(
        "--level", choices=LEVELS, default=LEVELS[0], help="rows of what (default: protein)"
    )
    parser.add_argument(
        "--output-dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="type of the numbers in the file; float16 is half as large (default: float32)",
    )
    parser.add_argument(
        "--layout",
        choices=["keyed", "matrix"],
        help="of .h5: one dataset an identifier (default), or one matrix",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out what cannot be embedded, and say why in OUTPUT.skipped.tsv (default: an "
        "error)",
    )


def run(arguments):
    """Embed and write."""
    output = arguments.output
    if Path(output).suffix and not Path(output).is_dir():
        check_file("--output", output, tuple(ENDINGS), "; a folder of shards has no ending")
    else:
        check_folder("--output", output)
    for path in arguments.fasta:
        check_no_input("--output", output, path)
    reader = FastaReader(arguments.fasta, option="--fasta")
    featurizer = featurizer_of(arguments)

    if arguments.distiller == NONE:
        distiller = None
    elif arguments.distiller is not None:
        distiller = distiller_of(arguments, featurizer)
    elif is_bundled(featurizer):
        distiller = ReverseDistiller.from_pretrained(featurizer.models)
    else:
        distiller = _fitted_here(arguments, featurizer, reader)
    job = Job.of(
        output,
        featurizer,
        distiller,
        arguments.n_components,
        level=arguments.level,
        dtype=arguments.output_dtype,
        layout=arguments.layout,
    )
    report = do(
        job, reader, arguments.skip_bad, arguments.n_jobs, tell=note, bar=featurizer.verbose
    )
    if reader.n_stripped:
        times = counted(reader.n_stripped, "time")
        note(f"A * at the end of a sequence was left out, {times}.")
    if report.n_skipped:
        were = "was" if report.n_skipped == 1 else "were"
        note(f"{counted(report.n_skipped, 'record')} {were} left out; {job.skipped} says why.")
    proteins = counted(report.n_proteins, "protein")
    say(f"{proteins}, {counted(report.n_columns, 'column')}: {output}")


def _fitted_here(arguments, featurizer, reader):
    """Return a distiller fitted on the bundled corpus, after saying so."""
    blocks = featurizer.embedding_plan("residue").blocks
    empty = Moments(blocks.sizes, block_names=blocks.names)
    # Columns that there are not, and records that cannot be embedded, are found before the fit.
    ReverseDistiller(n_components=arguments.n_components).check_moments(empty)
    first_pass(featurizer.embedding_plan("residue"), reader, arguments.skip_bad)
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
