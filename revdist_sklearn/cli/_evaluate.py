"""``revdist evaluate``: scores of all representations on measured variants."""

import json
from pathlib import Path

from .. import ReverseDistiller, corpus_moments
from .._evaluation import Representations, evaluate, format_table, single_mutations
from ._options import DISTILLER, add_models, corpus_of, distiller_of, featurizer_of
from ._readers import read_measurements
from ._stages import describe_stages, format_stages

HELP = "score all representations on measured variants"


def add_arguments(parser):
    """Add the options of this command."""
    add_models(parser)
    parser.add_argument("csv", help="table with sequences and measurements (.csv or .csv.gz)")
    parser.add_argument("--distiller", help=DISTILLER)
    parser.add_argument("--fasta", help="corpus (default: the bundled UniProt sample)")
    parser.add_argument("--sequence-column", default="mutated_sequence")
    parser.add_argument("--target-column", default="DMS_score")
    parser.add_argument(
        "--mutation-column",
        help="single substitutions such as T2A, for folds by position (default: mutant)",
    )
    parser.add_argument("--output", help="JSON file of all figures")


def run(arguments):
    """Score and print the table."""
    sequences, target, mutations = read_measurements(
        arguments.csv,
        arguments.sequence_column,
        arguments.target_column,
        arguments.mutation_column,
    )
    if mutations is not None and (mutations := single_mutations(mutations)) is None:
        print("Not all mutants are single substitutions: no folds by position.")
    featurizer = featurizer_of(arguments)
    distiller = distiller_of(arguments, featurizer)
    # The baselines' PCA needs the moments of a corpus, also where a distiller is given.
    moments = corpus_moments(featurizer, corpus_of(arguments), n_jobs=arguments.n_jobs)
    if distiller is None:
        distiller = ReverseDistiller().fit_moments(moments)
    X = featurizer.transform(sequences)
    scores = evaluate(Representations(distiller, moments), X, target, mutations=mutations)
    name = Path(arguments.csv).name.split(".")[0]
    print(format_stages(describe_stages(distiller)), "\n")
    print(f"Spearman correlation of ridge, mean ± spread over five folds ({len(target)} rows)")
    print(format_table({name: scores}))
    if arguments.output is not None:
        Path(arguments.output).write_text(json.dumps({"scores": {name: scores}}, indent=1) + "\n")
