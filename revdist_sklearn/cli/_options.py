"""Options that commands share, and what these come to."""

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from .. import ESMFeaturizer, Moments, ReverseDistiller
from .._checkpoint import partial_sums_beside
from .._corpus import corpus_fingerprint
from .._provenance import check_models
from ..base._files import make_folder
from ..base._formats import CHECKPOINT, FormatError, check_format
from ..base._notes import add_note
from ..datasets import load_uniprot_sample
from ._messages import note
from ._outputs import check_folder
from ._readers import Records, read_fasta

DISTILLER = (
    "folder or hub id of a fitted distiller (default: the bundled one of esm2-nano; of others "
    "one is fitted on the bundled UniProt sample)"
)
# Of a cache: moments of whole corpora, beside the embeddings of single proteins.
MOMENTS_FILE = "moments-{}.safetensors"
# As :func:`kept_moments` names them; other files of a folder are the user's.
MOMENTS_FILES = MOMENTS_FILE.format("[0-9a-f]" * 32)


def add_models(parser):
    """Add the options of the featurizer."""
    parser.add_argument(
        "--models",
        nargs="+",
        default=["esm2-nano"],
        help="alias (esm2-nano, esm2:650M), or hub ids or folders, narrowest first "
        "(default: esm2-nano)",
    )
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="in what the models compute (default: float32)",
    )
    parser.add_argument("--max-length", type=int, help="residues of a sequence at most")
    parser.add_argument(
        "--too-long",
        choices=["error", "truncate", "window"],
        default="error",
        help="what happens to longer ones (default: error)",
    )
    parser.add_argument(
        "--cache-dir",
        help="folder that keeps embeddings, and the moments of a corpus, between runs; a command "
        "that was interrupted goes on from there",
    )
    parser.add_argument("--n-jobs", type=int, help="workers that embed (default: 1)")


def featurizer_of(arguments):
    """Return the featurizer that the options of ``add_models`` name."""
    models = arguments.models
    if arguments.n_jobs == 0:
        raise ValueError("--n-jobs 0 embeds nothing; give 1 or more, or -1 for all processors.")
    if arguments.cache_dir is not None:
        check_folder("--cache-dir", arguments.cache_dir, writable=False)
    return ESMFeaturizer(
        models[0] if len(models) == 1 else models,
        device=arguments.device,
        dtype=arguments.dtype,
        max_length=arguments.max_length,
        too_long=arguments.too_long,
        cache_dir=arguments.cache_dir,
        n_jobs=arguments.n_jobs,
        verbose=sys.stderr.isatty(),
    )


def is_bundled(featurizer):
    """Return whether a distiller of the models of a featurizer is part of this package."""
    models = featurizer.models
    return (
        isinstance(models, str)
        and models.split(":")[0] == "esm2-nano"
        and not os.path.isdir(models)
    )


@dataclass(frozen=True)
class Corpus:
    """Proteins that a distiller is fitted on, and where they come from."""

    sequences: list
    source: str

    def __str__(self):
        residues = sum(map(len, self.sequences))
        return f"{self.source} ({len(self.sequences):,} proteins, {residues:,} residues)"


def corpus_of(fasta, featurizer):
    """Return the corpus of a file, or the bundled one, as the featurizer embeds it."""
    if fasta is not None:
        return Corpus(read_fasta(fasta).prepared(featurizer), fasta)
    bundled = load_uniprot_sample()
    labels = [f"{name} of the bundled UniProt sample" for name in bundled.accessions]
    records = Records(bundled.sequences, labels, bundled.accessions)
    return Corpus(records.prepared(featurizer), "the bundled UniProt sample")


def kept_moments(arguments, featurizer, corpus, mutants=None):
    """Return the file of ``--cache-dir`` that keeps the moments of a corpus, or None.

    It is a checkpoint: of all residues, it is read and nothing is computed; of a part, or not
    there yet, the pass goes on and is kept. A damaged one is removed.

    Parameters
    ----------
    arguments : Namespace

    featurizer : ESMFeaturizer

    corpus : Corpus

    mutants : int, default=None
        Of each of some proteins, beside the corpus.

    Returns
    -------
    path : Path or None
        None without ``--cache-dir``, or where it cannot be used, with a note.
    """
    if arguments.cache_dir is None:
        return None
    folder = Path(os.path.abspath(os.path.expanduser(arguments.cache_dir)))
    fingerprint = corpus_fingerprint(featurizer, corpus.sequences, mutants)
    path = folder / MOMENTS_FILE.format(fingerprint[:32])
    if path.exists():
        try:
            facts = Moments.load(path, return_metadata=True)[1]
            check_format(facts.get("format", 1), CHECKPOINT, f"The checkpoint {path}")
            if facts.get("fingerprint") == fingerprint and "pieces" in facts:
                return path
            fault = "it holds something else"
        except FormatError as error:
            note(f"{path} is left alone, and moments are computed: {error}")
            return None
        except ValueError:
            fault = "it is damaged"
        except OSError as error:
            note(f"{path} cannot be read, and moments are computed: {error}")
            return None
        note(f"The moments in {path} are computed anew: {fault}.")
    try:
        check_folder("--cache-dir", str(folder))
        make_folder(folder)
        path.unlink(missing_ok=True)
    except OSError as error:
        note(f"Moments of the corpus are not kept: {error}")
        return None
    return path


def remembering(path):
    """Return what is told of a corpus whose moments a file may hold."""
    if path is None:
        return "--cache-dir FOLDER would keep what it computes"
    return f"{'found' if path.exists() else 'kept'} in {path}"


@contextmanager
def telling_what_is_kept(path):
    """Add to an interruption of a pass over a corpus what a file has kept of it, if any."""
    try:
        yield
    except KeyboardInterrupt as error:
        if path is None:
            kept = "Nothing is kept; with --cache-dir FOLDER the same command would go on from it."
        elif Path(path).exists():
            kept = f"The pass so far is in {path}; the same command goes on from there."
        elif partial_sums_beside(Path(path)):
            kept = f"Partial sums are beside {path}; the same command goes on from them."
        else:
            kept = f"Nothing is in {path} yet."
        add_note(error, kept)
        raise


def distiller_of(arguments, featurizer):
    """Return the distiller of ``--distiller``, of the models of the featurizer, or None."""
    if arguments.distiller is None:
        return None
    return _checked_distiller(arguments.distiller, arguments, featurizer)


def distillers_of(arguments, featurizer):
    """Return the first distiller of ``--distiller`` or None, and the others with their names."""
    first, *rest = arguments.distiller or [None]
    if first in rest or len(set(rest)) < len(rest):
        raise ValueError("--distiller names one distiller twice; name each once.")
    others = tuple((path, _checked_distiller(path, arguments, featurizer)) for path in rest)
    return first and _checked_distiller(first, arguments, featurizer), others


def _checked_distiller(path, arguments, featurizer):
    distiller = ReverseDistiller.from_pretrained(path)
    # Models beyond the prefix need not be those of the fit.
    d = getattr(arguments, "n_components", None)
    needed = distiller if d is None else distiller.truncate(d)
    check_models(
        needed,
        featurizer.embedding_plan("residue"),
        "--models gives",
        "give the models of the fit, in the same order.",
        n=None if d is None else len(needed.blocks_),
    )
    return distiller


def add_table_columns(parser):
    """Add the options that say what a table of measurements holds."""
    parser.add_argument(
        "--sequence-column",
        default="mutated_sequence",
        help="whole sequences of the variants (default: mutated_sequence)",
    )
    parser.add_argument(
        "--target-column", default="DMS_score", help="measurements (default: DMS_score)"
    )
    parser.add_argument(
        "--mutation-column",
        help="mutations such as T2A, T2A:K4R or p.Thr2Ala (default: mutant, where there is one)",
    )
    parser.add_argument(
        "--wild-type",
        help="FASTA file with the sequence of the wild type (default: by mutations). Of a table "
        "without sequences, these are made of it and the mutations. Of several records each file "
        "takes the one of the protein in its column protein, else of its own name, or of the "
        "beginning of its name before a _",
    )
    parser.add_argument(
        "--task",
        choices=["regression", "classification", "residues"],
        help="what the measurements are (default: by themselves); residues: a label a residue",
    )
    parser.add_argument(
        "--censored",
        choices=["limit", "drop"],
        default="limit",
        help="values such as >100: taken as their limit, or left out (default: limit)",
    )


def reading_of(arguments):
    """Return the keywords of ``read_table`` that the options of ``add_table_columns`` give."""
    wild_type = None
    if arguments.wild_type is not None:
        found = read_fasta(arguments.wild_type, option="--wild-type")
        wild_type = found.sequences[0]
        if len(found.sequences) > 1:
            wild_type = list(zip(found.names, found.sequences, strict=True))
    return {
        "sequence_column": arguments.sequence_column,
        "target_column": arguments.target_column,
        "mutation_column": arguments.mutation_column,
        "wild_type": wild_type,
        "task": arguments.task,
        "censored": arguments.censored,
    }


def head_of(path):
    """Return the estimator of ``--head``, with its defaults, or None."""
    if path is None:
        return None
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"--head {path} is no estimator that can be made without arguments ({error}); give "
            "the path of its class, such as sklearn.neighbors.KNeighborsRegressor."
        ) from error
