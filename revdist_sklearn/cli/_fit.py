"""``revdist fit``: a distiller from a corpus."""

from .. import ReverseDistiller, fit_on_corpus
from .._corpus import MUTANT_PROTEINS, MUTANTS, mutants_for
from ..method._distiller_file import check_folder as check_holds_nothing_else
from ._messages import note, say
from ._options import (
    add_models,
    corpus_of,
    featurizer_of,
    kept_moments,
    remembering,
    telling_what_is_kept,
)
from ._outputs import check_folder
from ._stages import describe_stages, format_stages

LEVELS = "residue", "protein", "mutant"
HELP = "fit a distiller on a corpus of diverse proteins"
EXAMPLE = "revdist fit --fasta corpus.fasta --models esm2-nano:64 --output distiller"


def add_arguments(parser):
    """Add the options of this command."""
    add_models(parser)
    parser.add_argument(
        "--fasta", help="the corpus, - for standard input (default: the bundled UniProt sample)"
    )
    parser.add_argument(
        "--output", required=True, help="folder of the fitted distiller: new, empty, or one's"
    )
    parser.add_argument(
        "--regressor",
        choices=["ols", "ridge", "pcr"],
        default="ols",
        help="how the larger model is predicted from the smaller: least squares (ols), ridge "
        "(with --alpha) or on principal components (pcr) (default: ols)",
    )
    parser.add_argument("--alpha", type=float, help="penalty of --regressor ridge (default: 1)")
    parser.add_argument(
        "--residual-level",
        choices=LEVELS,
        default="residue",
        help="by whose covariance the columns of larger models are chosen: residues, means of "
        "proteins, or random mutants of some proteins (default: residue)",
    )
    parser.add_argument(
        "--rotate-base",
        choices=LEVELS,
        help="turn the columns of the first model to its principal axes by that covariance, for "
        "prefixes shorter than it (default: as they are)",
    )
    parser.add_argument(
        "--order",
        choices=["stage", "variance"],
        default="stage",
        help="columns model by model, or of all models by variance at --residual-level, of which "
        "a prefix needs what models it needs (default: stage)",
    )
    parser.add_argument(
        "--mutants",
        type=int,
        metavar="N",
        help=f"random single substitutions of each of {MUTANT_PROTEINS} proteins of the corpus, "
        "where an option names mutants; they are embedded too, in a pass of its own "
        f"(default: {MUTANTS})",
    )
    parser.add_argument(
        "--checkpoint",
        help="file that keeps the pass over the corpus; the same command goes on from it "
        "(--cache-dir does the same in its folder)",
    )


def run(arguments):
    """Fit, write and describe."""
    check_folder("--output", arguments.output)
    check_holds_nothing_else(arguments.output)
    if arguments.checkpoint is not None and arguments.cache_dir is not None:
        raise ValueError(
            "--checkpoint and --cache-dir keep the same thing, the pass over the corpus; give one "
            "of them."
        )
    if arguments.checkpoint == "":
        raise ValueError("--checkpoint '' is no file; name one.")
    if arguments.alpha is not None and arguments.regressor != "ridge":
        raise ValueError(
            f"--alpha has no part in --regressor {arguments.regressor}; leave it out, or "
            "take ridge for it."
        )
    distiller = ReverseDistiller(
        regressor=arguments.regressor,
        alpha=1.0 if arguments.alpha is None else arguments.alpha,
        residual_level=arguments.residual_level,
        rotate_base=arguments.rotate_base or False,
        order=arguments.order,
    )
    mutants = mutants_for(distiller, arguments.mutants)
    if arguments.mutants is not None and mutants_for(distiller) is None:
        raise ValueError(
            f"--mutants {mutants} has no part without --residual-level mutant or --rotate-base "
            "mutant; leave it out, or give one of them."
        )
    if mutants is not None and mutants < 2:
        raise ValueError(f"--mutants {mutants} tell nothing apart; give 2 or more.")
    featurizer = featurizer_of(arguments)
    corpus = corpus_of(arguments.fasta, featurizer)
    kept = arguments.checkpoint or kept_moments(arguments, featurizer, corpus, mutants)
    if kept is not None and arguments.checkpoint is None:
        note(f"Moments of {corpus}: {remembering(kept)}")
    with telling_what_is_kept(kept):
        fit_on_corpus(
            distiller,
            featurizer,
            corpus.sequences,
            mutants=mutants,
            n_jobs=arguments.n_jobs,
            checkpoint=kept,
        )
    distiller.save_pretrained(arguments.output)
    say(format_stages(describe_stages(distiller)))
    say(f"Written: {arguments.output}")
