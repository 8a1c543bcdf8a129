"""``revdist evaluate``: scores of all representations on measured variants."""

import time
from argparse import ArgumentTypeError
from contextlib import contextmanager
from pathlib import Path

from sklearn.base import clone
from tqdm.auto import tqdm

from .. import ReverseDistiller, corpus_moments
from .._corpus import warn_if_few_proteins
from ..base._notes import add_note
from ..base._units import as_size
from ..embedding._sequences import listed
from ..evaluation._data_set import Family
from ..evaluation._files import (
    AT_FAULT,
    evaluate_files,
    format_scores,
    name_of,
    prepared_table,
    scores_csv,
    sha256_of,
    tables_of,
    write_json,
    write_text,
)
from ..evaluation._page import page
from ..evaluation._pictures import pictures_of
from ..evaluation._rows import widths_of
from ..evaluation._run import Plan
from ..evaluation._summary import few_tested, format_summary, summarise
from ..prefix._search import ALPHAS
from ._messages import note, say
from ._options import (
    DISTILLER,
    add_models,
    add_table_columns,
    corpus_of,
    distillers_of,
    featurizer_of,
    head_of,
    kept_moments,
    reading_of,
    remembering,
    telling_what_is_kept,
)
from ._outputs import check_file, check_folder
from ._stages import describe_stages, format_stages
from ._versions import versions

HELP = "score all representations on measured variants"
EXAMPLE = "revdist evaluate scan.csv --models esm2-nano:64"
KINDS = "random", "position", "contiguous", "modulo", "n_mutations"
PAGE, FIGURES, SCORES, KEPT = "evaluation.html", "evaluation.json", "scores.csv", "data_sets"


def add_arguments(parser):
    """Add the options of this command."""
    add_models(parser)
    parser.add_argument(
        "files",
        nargs="+",
        help="tables with sequences and measurements (CSV, plain or packed), or folders of them; "
        "- is standard input",
    )
    parser.add_argument("--distiller", nargs="+", help=DISTILLER + "; further ones add rows")
    parser.add_argument(
        "--fasta", help="corpus of the baselines (default: the bundled UniProt sample)"
    )
    add_table_columns(parser)
    parser.add_argument(
        "--splits",
        nargs="+",
        metavar="KIND",
        help=f"{', '.join(KINDS)}, protein (of residues), or a column fold_.. of the table "
        "(default: random, position where mutations are known, and columns fold_..)",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="repeats of drawn splits (default: 1)"
    )
    parser.add_argument(
        "--n-train",
        type=sizes,
        default=(),
        metavar="16,48,96",
        help="learning curves: training parts of so many rows",
    )
    parser.add_argument(
        "--draws", type=int, default=20, help="draws of each training part (default: 20)"
    )
    parser.add_argument(
        "--head",
        metavar="PACKAGE.CLASS",
        help="estimator in place of ridge, such as sklearn.neighbors.KNeighborsRegressor",
    )
    parser.add_argument(
        "--no-scores",
        action="store_true",
        help="leave out the models' own scores of variants, alone and beside each row",
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
    parser.add_argument(
        "--output",
        help=f"folder of {PAGE}, {FIGURES} and {SCORES}, where the same command goes on with what "
        "is there; or a .json file of all figures alone",
    )


def sizes(text):
    """Return the numbers of a list with commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ArgumentTypeError(
            f"{text!r} is no list of integers with commas, such as 16,48,96"
        ) from error


def run(arguments):
    """Score, print the tables and write the page."""
    start = time.perf_counter()
    if arguments.output is not None:
        if arguments.output.endswith(".json"):
            check_file("--output", arguments.output, (".json",))
        else:
            check_folder("--output", arguments.output)
    if arguments.seeds < 1 or arguments.draws < 1:
        raise ValueError("--seeds and --draws are 1 or more.")
    files = tables_of(arguments.files)
    featurizer = featurizer_of(arguments)
    if len(files) > 1:  # workers take files, and have no workers of their own
        featurizer.set_params(n_jobs=None)
    reading, head = reading_of(arguments), head_of(arguments.head)
    readable, failed = _looked_at(files, featurizer, reading)
    layered = None if arguments.layers is None else _layered(featurizer, arguments.layers)
    distiller, others = distillers_of(arguments, featurizer)
    family, corpus = _family(arguments, featurizer, layered, distiller, others)
    plan = Plan(
        kinds=None if arguments.splits is None else tuple(arguments.splits),
        n_seeds=arguments.seeds,
        n_train=arguments.n_train,
        n_draws=arguments.draws,
        head=head,
    )
    say(format_stages(describe_stages(family.distiller)) + "\n")
    data_sets = _data_sets(arguments, readable, family, plan, reading, failed)
    data_sets = {n: data_sets[n] for n in map(name_of, files) if n in data_sets}
    for name, data_set in data_sets.items():
        say(f"{name}: mean {data_set['metric']} ± spread over folds")
        say(format_scores({name: data_set}))
        say("\n".join(["", *data_set["verdict"], ""]))
    metrics = {data_set["metric"] for data_set in data_sets.values()}
    summary = [row for metric in sorted(metrics) for row in summarise(data_sets, metric)]
    if len(data_sets) > 1:
        say("\n".join([format_summary(summary), *few_tested(data_sets)]))
    figures = {
        "models": list(family.moments.blocks.labels),
        "distiller": arguments.distiller[0] if arguments.distiller else f"fitted on {corpus}",
        "corpus": str(corpus),
        "parameters": {
            "splits": arguments.splits,
            "seeds": arguments.seeds,
            "n_train": list(arguments.n_train),
            "draws": arguments.draws,
            "head": arguments.head or "ridge",
            "alphas": list(ALPHAS),
        },
        "stage_dims": widths_of(family.distiller),
        "stages": describe_stages(family.distiller),
        "data_sets": data_sets,
        "failed": failed,
        "summary": summary if len(data_sets) > 1 else [],
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    if arguments.output is not None and arguments.output.endswith(".json"):
        write_json(arguments.output, figures)
    elif arguments.output is not None:
        _write(Path(arguments.output), figures, family)
    if failed:
        told = "\n".join(_named(file, fault) for file, fault in failed.items())
        raise ValueError(f"{len(failed)} of {len(files)} files were not scored:\n{told}")


def _family(arguments, featurizer, layered, distiller, others):
    """Return the family and the corpus of its baselines."""
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
    layers = None if layered is None else (layered, _layers(arguments, layered, corpus))
    family = Family(featurizer, distiller, moments, others, layers, not arguments.no_scores)
    return family, corpus


def _looked_at(files, featurizer, reading):
    """Return the files that can be scored, and what is wrong with others, before the work."""
    readable, failed = [], {}
    for file in files:
        try:
            table = prepared_table(file, featurizer, reading)
        except AT_FAULT as error:
            if len(files) == 1:
                raise
            failed[file] = str(error)
            continue
        readable.append((file, table) if file == "-" else file)
    _tell_copies([file if isinstance(file, str) else file[0] for file in readable])
    if not readable:
        told = "\n".join(_named(file, fault) for file, fault in failed.items())
        raise ValueError(f"No file can be scored.\n{told}")
    return readable, failed


def _tell_copies(files):
    """Note files that hold the same, byte by byte."""
    by_content: dict[str, list] = {}
    for file in files:
        if file != "-":
            by_content.setdefault(sha256_of(file), []).append(file)
    for same in by_content.values():
        if len(same) > 1:
            note(f"warning: {listed(same)} hold the same, and count as {len(same)} data sets.")


def _data_sets(arguments, files, family, plan, reading, failed):
    """Return the figures of the data sets by name; what goes wrong is added to ``failed``."""
    folder = None
    if arguments.output is not None and not arguments.output.endswith(".json"):
        folder = Path(arguments.output) / KEPT
    source = {
        "sequence": arguments.sequence_column,
        "target": arguments.target_column,
        "models": family.featurizer.models,
        "sources": [m.source for m in family.featurizer.embedding_plan("residue").members],
        "distiller": arguments.distiller[0] if arguments.distiller else None,
        "censored": arguments.censored,
    }
    if folder is not None and source["distiller"] is None:
        source["distiller"] = str(Path(arguments.output) / "distiller")
        family.distiller.save_pretrained(source["distiller"])
    data_sets: dict = {}
    with (
        _telling_what_is_done(folder),
        tqdm(total=len(files), unit="file", disable=len(files) == 1 or None, leave=False) as bar,
    ):
        for file, figures, fault, was_kept in evaluate_files(
            files,
            family,
            plan,
            reading,
            folder=folder,
            n_jobs=arguments.n_jobs if len(files) > 1 else None,
            source=None if source["distiller"] is None else source,
        ):
            bar.update()
            if fault is not None:
                failed[file] = fault
                continue
            if was_kept:
                note(f"{name_of(file)} is in {folder} already.")
            for sentence in figures["notes"]:
                note(_named(name_of(file), sentence))
            data_sets[name_of(file)] = figures
    if not data_sets:
        told = "\n".join(_named(file, fault) for file, fault in failed.items())
        raise ValueError(told if len(files) == 1 else f"No file could be scored.\n{told}")
    return data_sets


def _named(name, text):
    """Return a text that begins with what it is of, once."""
    return text if text.startswith(f"{name}: ") else f"{name}: {text}"


@contextmanager
def _telling_what_is_done(folder):
    """Add to an interruption what is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        done = 0 if folder is None else len([*folder.glob("*.json")])
        kept = "Nothing is kept; with --output FOLDER the same command would go on from it."
        if folder is not None:
            kept = f"{done} data sets are in {folder}; the same command goes on from there."
        add_note(error, kept)
        raise


def _write(folder, figures, family):
    """Write the page, all figures and the scores."""
    write_json(folder / FIGURES, figures)
    write_text(folder / SCORES, scores_csv(figures["data_sets"]))
    pictures = []
    try:
        pictures = pictures_of(figures, family)
    except ImportError:
        note('The page has no pictures: they need pip install "revdist_sklearn[plot]".')
    write_text(folder / PAGE, page(figures, pictures))
    say(f"Written: {folder / PAGE}, {folder / FIGURES} and {folder / SCORES}")


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


def _layers(arguments, featurizer, corpus):
    """Return the moments of several layers on the corpus."""
    plan = featurizer.embedding_plan("residue")
    kept = kept_moments(arguments, featurizer, corpus)
    width = plan.blocks.n_columns
    note(
        f"{len(plan.members)} layers come from the same corpus, {width:,} columns whose moments "
        f"take {as_size(16 * width**2)}; {remembering(kept)}."
    )
    with telling_what_is_kept(kept):
        return corpus_moments(
            featurizer, corpus.sequences, n_jobs=arguments.n_jobs, checkpoint=kept
        )
