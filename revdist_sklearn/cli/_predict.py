"""``revdist predict``: from measured variants to those that are worth measuring next."""

import csv
import io
import warnings
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np

from .. import LandscapeDisplay
from .._corpus import fit_on_corpus
from ..base._files import destination, make_folder
from ..base._signals import held_back
from ..base._text import shown
from ..embedding._sequences import listed
from ..evaluation._data_set import Family
from ..evaluation._files import prepared_table, write_json, write_text
from ..evaluation._mutations import compared
from ..evaluation._page import spread
from ..evaluation._predict import check_variants, choose, next_to_measure
from ..evaluation._summary import mean_score
from ..evaluation._verdict import folds_by
from ..method._distiller import ReverseDistiller
from ..models._residues import AMINO_ACIDS
from ..variants._substitutions import all_single
from ._messages import note, say
from ._options import (
    DISTILLER,
    add_models,
    add_table_columns,
    corpus_of,
    distiller_of,
    featurizer_of,
    is_bundled,
    reading_of,
)
from ._outputs import check_folder, check_no_input, write_file
from ._readers import read_fasta

HELP = "rank variants by measured ones: does the model help, and what to measure next"
EXAMPLE = "revdist predict scan.csv --output ranked"
MODEL, RANKED, NEXT, PICTURE, FACTS = (
    "model.joblib",
    "ranked.csv",
    "next.csv",
    "landscape.png",
    "choice.json",
)
FILES = RANKED, NEXT, FACTS, MODEL, PICTURE


def add_arguments(parser):
    """Add the options of this command."""
    add_models(parser)
    parser.add_argument("csv", help="table with sequences and measurements, as for evaluate")
    parser.add_argument("--distiller", help=DISTILLER)
    parser.add_argument(
        "--fasta", help="corpus of the distiller (default: the bundled UniProt sample)"
    )
    add_table_columns(parser)
    parser.add_argument(
        "--candidates",
        help="FASTA file of what may be measured (default: all single substitutions)",
    )
    parser.add_argument("--n-next", type=int, default=96, help="how many to choose (default: 96)")
    parser.add_argument(
        "--lower-is-better", action="store_true", help="rank small values first, not large ones"
    )
    parser.add_argument(
        "--no-scores", action="store_true", help="leave out the models' own scores of variants"
    )
    parser.add_argument(
        "--output",
        required=True,
        help=f"folder of {RANKED}, {NEXT}, {PICTURE}, {FACTS} and the fitted {MODEL}",
    )


def run(arguments):
    """Choose, fit, rank and write."""
    _check_output(arguments)
    if arguments.n_next < 1:
        raise ValueError(f"--n-next {arguments.n_next} chooses nothing; give 1 or more.")
    featurizer = featurizer_of(arguments)
    variants = prepared_table(arguments.csv, featurizer, reading_of(arguments))
    check_variants(variants)
    for sentence in variants.notes:
        note(sentence)
    names, sequences = _candidates(arguments, variants, featurizer)
    distiller = distiller_of(arguments, featurizer)
    if distiller is None and arguments.fasta is None and is_bundled(featurizer):
        distiller = ReverseDistiller.from_pretrained("esm2-nano")
        distiller = distiller.truncate(int(distiller.stage_dims_[_n_models(featurizer) - 1]))
    elif distiller is None:
        corpus = corpus_of(arguments.fasta, featurizer)
        note(f"The distiller is fitted on {corpus}.")
        distiller = fit_on_corpus(ReverseDistiller(), featurizer, corpus.sequences)
    family = Family(featurizer, distiller, None, scores=not arguments.no_scores)
    with warnings.catch_warnings():
        # Of the grid of penalties, in folds where nothing is to be had.
        warnings.filterwarnings("ignore", message="The chosen alpha")
        choice = choose(variants, family)
    counted = ", ".join(f"{name} {n:,}" for name, n in variants.counts.items() if n)
    say(f"{variants.name}: {len(variants):,} variants ({counted})\n")
    say(f"Spearman correlation, mean ± spread over {folds_by(choice.split)}")
    width = max(map(len, choice.scores))
    for name, scores in choice.scores.items():
        known = [score for score in scores if score is not None]
        say(f"  {name:<{width}}  {spread(mean_score(scores), np.std(known))}")
    say("\n".join(["", *choice.lines]))
    if variants.offset:
        say(
            f"Positions are counted as in {shown(arguments.csv)}: the first residue of the wild "
            f"type is number {1 + variants.offset}."
        )
    mean, std = choice.model.predict(sequences, return_std=True)
    _write(arguments, variants, choice, names, sequences, mean, std)


def _check_output(arguments):
    """Raise where the folder cannot take the files, or one of them is an input."""
    check_folder("--output", arguments.output)
    for name in FILES:
        path = Path(arguments.output, name)
        try:
            destination(path)
        except OSError as error:
            raise OSError(f"--output: {error}") from error
        for given in (arguments.csv, arguments.candidates, arguments.fasta, arguments.wild_type):
            check_no_input("--output", path, given or "")


def _n_models(featurizer):
    return len(featurizer.embedding_plan().members)


def _candidates(arguments, variants, featurizer):
    """Return names and sequences of what may be measured, each sequence once."""
    wild = variants.wild_type
    if arguments.candidates is None:
        _, _, names, sequences = all_single(wild, 1 + variants.offset)
        if not names:
            raise ValueError(
                f"The wild type of {variants.name} has none of the twenty amino acids "
                f"{AMINO_ACIDS}, and no substitution to rank. Give --candidates."
            )
        return names, sequences
    found = read_fasta(arguments.candidates, option="--candidates")
    source = f"--candidates {shown(arguments.candidates)}"
    named = replace(found, labels=[f"{source}: {label}" for label in found.labels])
    for label, sequence in zip(found.labels, found.sequences, strict=True):
        if len(sequence) != len(wild):
            raise ValueError(
                f"{source}: {label} has {len(sequence)} residues, the wild type {len(wild)}; "
                "substitutions alone can be ranked. Leave it out."
            )
    first: dict[str, int] = {}
    repeats = []
    for i, sequence in enumerate(named.prepared(featurizer)):
        if first.setdefault(sequence, i) != i:
            repeats.append(found.labels[i])
            continue
        for old, place, new in compared(wild, sequence):
            if not {old, new} <= set(AMINO_ACIDS):
                raise ValueError(
                    f"{source}: {found.labels[i]} has {new!r} where the wild type has {old!r}, at "
                    f"position {place + variants.offset}; mutations by the twenty amino acids "
                    f"{AMINO_ACIDS} alone can be ranked. Write one of them, or leave it out."
                )
    if repeats:
        note(
            f"{source}: {len(repeats)} of {len(found.sequences)} records repeat an earlier "
            f"sequence and are ranked once, by its name: {listed(repeats)}."
        )
    return [found.names[i] for i in first.values()], list(first)


def _write(arguments, variants, choice, names, sequences, mean, std):
    """Write tables, the model, the facts and the picture."""
    sign = -1.0 if arguments.lower_is_better else 1.0
    measured = dict(zip(variants.sequences, variants.target.tolist(), strict=True))
    order = np.argsort(-sign * mean, kind="stable")
    rows = [
        (names[i], f"{mean[i]:.6g}", f"{std[i]:.6g}", measured.get(sequences[i], ""), sequences[i])
        for i in order
    ]
    wild = variants.wild_type
    unknown = [i for i, text in enumerate(sequences) if text not in measured and text != wild]
    places = [tuple(p for _, p, _ in compared(wild, sequences[i])) for i in unknown]
    bound = sign * mean[unknown] + std[unknown]
    taken = [unknown[k] for k in next_to_measure(places, bound, arguments.n_next)]
    facts = {
        "chosen": list(choice.parts),
        "split": choice.split,
        "scores": choice.scores,
        "said": choice.lines,
        "counts": variants.counts,
        "notes": variants.notes,
        "wild_type": wild,
        "first_position": 1 + variants.offset,
        "lower_is_better": arguments.lower_is_better,
    }
    picture, model = _picture(choice, variants), io.BytesIO()
    joblib.dump(choice.model, model)
    folder = Path(arguments.output)
    head = "mutant", "predicted", "deviation", "measured", "sequence"
    with held_back():  # the files belong together
        make_folder(folder)
        _write_csv(folder / RANKED, head, rows)
        _write_csv(
            folder / NEXT,
            (*head[:3], "sequence"),
            [(names[i], f"{mean[i]:.6g}", f"{std[i]:.6g}", sequences[i]) for i in taken],
        )
        write_json(folder / FACTS, facts)
        write_file(folder / MODEL, lambda file: file.write(model.getvalue()))
        if picture is None:
            (folder / PICTURE).unlink(missing_ok=True)  # one of an earlier run
        else:
            write_file(folder / PICTURE, lambda file: file.write(picture))
    if picture is None:
        note('No picture: it needs matplotlib (pip install "revdist_sklearn[plot]").')
    written = [name for name in FILES if (folder / name).exists()]
    shown_names = ", ".join(names[i] for i in taken[:5]) + (" .." if len(taken) > 5 else "")
    if len(taken) < arguments.n_next:
        known = len(sequences) - len(unknown)
        say(
            f"\nOf {len(sequences)} candidates {known} are measured or the wild type, so that "
            f"{len(taken)} and not {arguments.n_next} are left to measure."
        )
    say(f"\nNext {len(taken)}: {shown_names or 'none'}. In {folder}: {', '.join(written)}")


def _picture(choice, variants):
    """Return the landscape as bytes of PNG, None without matplotlib."""
    try:
        display = LandscapeDisplay.from_predictions(
            choice.model,
            variants.wild_type,
            name=" + ".join(choice.parts),
            first_position=1 + variants.offset,
        )
    except ImportError:
        return None
    stream = io.BytesIO()
    display.figure_.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def _write_csv(path, head, rows):
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    write_text(path, stream.getvalue())
