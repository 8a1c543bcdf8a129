"""``revdist fit``: a distiller from a corpus."""

from .. import ReverseDistiller, fit_on_corpus
from ._options import add_models, corpus_of, featurizer_of
from ._stages import describe_stages, format_stages

HELP = "fit a distiller on a corpus of diverse proteins"


def add_arguments(parser):
    """Add the options of this command."""
    add_models(parser)
    parser.add_argument("--fasta", help="the corpus (default: the bundled UniProt sample)")
    parser.add_argument("--output", required=True, help="folder of the fitted distiller")
    parser.add_argument("--regressor", choices=["ols", "ridge", "pcr"], default="ols")


def run(arguments):
    """Fit, write and describe."""
    featurizer, corpus = featurizer_of(arguments), corpus_of(arguments)
    distiller = ReverseDistiller(regressor=arguments.regressor)
    fit_on_corpus(distiller, featurizer, corpus, n_jobs=arguments.n_jobs)
    distiller.save_pretrained(arguments.output)
    print(format_stages(describe_stages(distiller)))
    print(f"Written: {arguments.output}")
