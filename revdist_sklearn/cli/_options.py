"""Options that commands share, and what these come to."""

import sys

from .. import ESMFeaturizer, ReverseDistiller
from .._provenance import check_models
from ..datasets import load_uniprot_sample
from ._readers import read_fasta

DISTILLER = "folder or hub id of a fitted distiller (default: fit on the bundled UniProt sample)"


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
    parser.add_argument("--cache-dir", help="folder that keeps embeddings between runs")
    parser.add_argument("--n-jobs", type=int, help="workers that embed (default: 1)")


def featurizer_of(arguments):
    """Return the featurizer that the options of ``add_models`` name."""
    models = arguments.models
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


def corpus_of(arguments):
    """Return the sequences of ``--fasta``, or the bundled corpus."""
    if arguments.fasta is None:
        return load_uniprot_sample().sequences
    return [sequence for _, sequence in read_fasta(arguments.fasta)]


def distiller_of(arguments, featurizer):
    """Return the distiller of ``--distiller``, of the models of the featurizer, or None."""
    if arguments.distiller is None:
        return None
    distiller = ReverseDistiller.from_pretrained(arguments.distiller)
    if distiller.blocks_.names is not None:  # else their widths are the user's word
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
