"""``revdist evaluate``: scores of all representations on measured variants."""

import json
from pathlib import Path

from sklearn.base import clone

from .. import ReverseDistiller, corpus_moments
from .._corpus import warn_if_few_proteins
from .._evaluation import (
    Layers,
    Representations,
    check_rows,
    evaluate,
    format_table,
    not_single,
)
from ..base._units import as_size
from ..embedding._sequences import listed
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
from ._outputs import check_file, write_file
from ._readers import read_measurements
from ._stages import describe_stages, format_stages

HELP = "score all representations on measured variants"
EXAMPLE = "revdist evaluate scan.csv --models esm2-nano:64"


def add_arguments(parser):
    """Add the options of this command."""
    add_models(parser)
    parser.add_argument(
        "csv",
        help="table with sequences and measurements (CSV, plain or gzip); - is standard input",
    )
    parser.add_argument("--distiller", help=DISTILLER)
    parser.add_argument(
        "--fasta", help="corpus of the baselines (default: the bundled UniProt sample)"
    )
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
        help="single substitutions such as T2A, for folds by position (default: mutant)",
    )
    parser.add_argument(
        "--layers",
        nargs="*",
        type=int,
        metavar="N",
        help="also score layers of the last model: its last one, the middle one, the one that is "
        "chosen inside the folds, and all as a chain; hidden states N, 0 being the embeddings "
        "(default: all but these). A second pass over the corpus",
    )
    parser.add_argument("--output", help="JSON file of all figures")


def run(arguments):
    """Score and print the table."""
    if arguments.output is not None:
        check_file("--output", arguments.output, (".json",))
    table = read_measurements(
        arguments.csv,
        arguments.sequence_column,
        arguments.target_column,
        arguments.mutation_column,
    )
    featurizer = featurizer_of(arguments)
    sequences = table.prepared(featurizer)
    check_rows(sequences)
    mutations = table.mutations
    if mutations is not None and (several := not_single(mutations)):
        shown = listed(table.labels[i] for i in several)
        note(
            f"No folds by position: {len(several)} of {len(mutations)} mutations are no single "
            f"substitutions: {shown}. Without these rows there are such folds."
        )
        mutations = None
    layered = None if arguments.layers is None else _layered(featurizer, arguments.layers)
    distiller = distiller_of(arguments, featurizer)
    # The baselines' PCA needs the moments of a corpus, also where a distiller is given.
    corpus = corpus_of(arguments.fasta, featurizer)
    warn_if_few_proteins(corpus.sequences)
    kept = kept_moments(arguments, featurizer, corpus)
    whose = "Distiller and baselines" if distiller is None else "The baselines"
    note(f"{whose} come from {corpus}; {remembering(kept)}.")
    with telling_what_is_kept(kept):
        moments = corpus_moments(
            featurizer, corpus.sequences, n_jobs=arguments.n_jobs, checkpoint=kept
        )
    if distiller is None:
        distiller = ReverseDistiller().fit_moments(moments)
    layers = None if layered is None else _layers(arguments, layered, corpus, sequences)
    X = featurizer.transform(sequences)
    scores = evaluate(
        Representations(distiller, moments), X, table.target, mutations=mutations, layers=layers
    )
    if mutations is not None and not any(row["folds"] == "position" for row in scores):
        note(_no_positions(table))
    name = Path(arguments.csv).name.split(".")[0] or arguments.csv
    say(format_stages(describe_stages(distiller)) + "\n")
    say(f"Spearman correlation of ridge, mean ± spread over five folds ({len(table.target)} rows)")
    say(format_table({name: scores}))
    if arguments.output is not None:
        figures = {"baselines": str(corpus), "scores": {name: scores}}
        text = json.dumps(figures, indent=1) + "\n"
        write_file(arguments.output, lambda file: file.write(text.encode()))


def _layered(featurizer, numbers):
    """Return the featurizer of some hidden states of the last model, the last of them first."""
    last = featurizer.embedding_plan("residue").members[-1]
    if last.depth is None:
        raise ValueError(
            f"The configuration of {last.source!r} does not tell the number of its layers, by "
            "which --layers tells them apart. Leave it out."
        )
    numbers = numbers or range(1, last.depth + 1)
    wrong = [n for n in numbers if n < 0]
    if wrong or len(set(numbers)) < 2:
        raise ValueError(
            f"--layers {' '.join(map(str, numbers))} names no two hidden states to compare; give "
            f"different integers in [0, {last.depth}], or none for all layers."
        )
    layered = clone(featurizer).set_params(
        models=[last.source],
        revision=None if last.revision is None else [last.revision],
        layer=sorted(set(numbers), reverse=True),
    )
    layered.embedding_plan("residue")  # a layer that there is not is told before the work
    return layered


def _layers(arguments, featurizer, corpus, sequences):
    """Return the layers of a featurizer with several, on the corpus and on variants."""
    plan = featurizer.embedding_plan("residue")
    kept = kept_moments(arguments, featurizer, corpus)
    width = plan.blocks.n_columns
    note(
        f"{len(plan.members)} layers come from the same corpus, {width:,} columns whose moments "
        f"take {as_size(16 * width**2)}; {remembering(kept)}."
    )
    with telling_what_is_kept(kept):
        moments = corpus_moments(
            featurizer, corpus.sequences, n_jobs=arguments.n_jobs, checkpoint=kept
        )
    return Layers(moments, featurizer.transform(sequences), featurizer.layer)


def _no_positions(table):
    """Return why a table of single substitutions has no folds by position."""
    message = (
        "No folds by position: rows of one position, or of one sequence, stay together, and that "
        "leaves too few groups for five folds with five inside of each."
    )
    wild = [i for i, mutation in enumerate(table.mutations) if mutation[0] == mutation[-1]]
    if wild:
        shown = listed(table.labels[i] for i in wild)
        message += f" {len(wild)} rows are of the wild type, at several positions: {shown}."
    return message
