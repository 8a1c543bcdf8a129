"""``revdist predict``: from measured variants to those that are worth measuring next."""

import csv
import io
import json
import warnings
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np

from .. import LandscapeDisplay
from .._corpus import fit_on_corpus
from ..base._files import make_folder
from ..evaluation._data_set import WITHOUT_SCORES, Family
from ..evaluation._files import prepared_table, write_text
from ..evaluation._mutations import compared
from ..evaluation._predict import check_variants, choose, next_to_measure
from ..method._distiller import ReverseDistiller
from ..models._residues import AMINO_ACIDS
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
from ._outputs import check_folder, write_file
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
    check_folder("--output", arguments.output)
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
    if family.scores and (why := family.without_head()) is not None:
        variants.notes.append(f"{WITHOUT_SCORES}{why}")
        note(variants.notes[-1])
        family = replace(family, scores=False)
    with warnings.catch_warnings():
        # Of the grid of penalties, in folds where nothing is to be had.
        warnings.filterwarnings("ignore", message="The chosen alpha")
        choice = choose(variants, family)
    counted = ", ".join(f"{name} {n:,}" for name, n in variants.counts.items() if n)
    say(f"{variants.name}: {len(variants):,} variants ({counted})\n")
    say("Spearman correlation, mean ± spread over folds" + f" by {choice.split}")
    for name, scores in choice.scores.items():
        say(f"  {name:<40} {np.nanmean(scores):.3f} ± {np.nanstd(scores):.3f}")
    say("\n".join(["", *choice.lines]))
    mean, std = choice.model.predict(sequences, return_std=True)
    folder = Path(arguments.output)
    make_folder(folder)
    _write(folder, arguments, variants, choice, names, sequences, mean, std)


def _n_models(featurizer):
    return len(featurizer.embedding_plan().members)


def _candidates(arguments, variants, featurizer):
    """Return names and sequences of what may be measured."""
    wild = variants.wild_type
    if arguments.candidates is not None:
        found = read_fasta(arguments.candidates, option="--candidates")
        sequences = found.prepared(featurizer)
        for label, sequence in zip(found.labels, sequences, strict=True):
            if len(sequence) != len(wild):
                raise ValueError(
                    f"--candidates {arguments.candidates}: {label} has {len(sequence)} residues, "
                    f"the wild type {len(wild)}; substitutions alone can be ranked."
                )
        return found.names, sequences
    names, sequences = [], []
    for place, letter in enumerate(wild):
        for new in AMINO_ACIDS:
            if letter in AMINO_ACIDS and new != letter:
                names.append(f"{letter}{place + 1 + variants.offset}{new}")
                sequences.append(f"{wild[:place]}{new}{wild[place + 1 :]}")
    return names, sequences


def _write(folder, arguments, variants, choice, names, sequences, mean, std):
    """Write tables, the model, the facts and the picture."""
    sign = -1.0 if arguments.lower_is_better else 1.0
    measured = dict(zip(variants.sequences, variants.target.tolist(), strict=True))
    order = np.argsort(-sign * mean, kind="stable")
    rows = [
        (names[i], f"{mean[i]:.6g}", f"{std[i]:.6g}", measured.get(sequences[i], ""), sequences[i])
        for i in order
    ]
    head = "mutant", "predicted", "deviation", "measured", "sequence"
    _write_csv(folder / RANKED, head, rows)
    unknown = [i for i in range(len(names)) if sequences[i] not in measured]
    places = [tuple(p for _, p, _ in compared(variants.wild_type, sequences[i])) for i in unknown]
    bound = sign * mean[unknown] + std[unknown]
    taken = [unknown[k] for k in next_to_measure(places, bound, arguments.n_next)]
    _write_csv(
        folder / NEXT,
        (*head[:3], "sequence"),
        [(names[i], f"{mean[i]:.6g}", f"{std[i]:.6g}", sequences[i]) for i in taken],
    )
    write_file(folder / MODEL, lambda file: joblib.dump(choice.model, file))
    facts = {
        "chosen": list(choice.parts),
        "split": choice.split,
        "scores": choice.scores,
        "said": choice.lines,
        "counts": variants.counts,
        "notes": variants.notes,
        "wild_type": variants.wild_type,
    }
    write_text(folder / FACTS, json.dumps(facts, indent=1) + "\n")
    written = [RANKED, NEXT, FACTS, MODEL]
    try:
        display = LandscapeDisplay.from_predictions(
            choice.model, variants.wild_type, name=" + ".join(choice.parts)
        )
        write_file(folder / PICTURE, lambda f: display.figure_.savefig(f, format="png", dpi=130))
        written.append(PICTURE)
    except ImportError:
        note('No picture: it needs matplotlib and pandas (pip install "revdist_sklearn[plot]").')
    say(
        f"\nNext {len(taken)}: {', '.join(names[i] for i in taken[:5])} .. In {folder}: "
        f"{', '.join(written)}"
    )


def _write_csv(path, head, rows):
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    write_text(path, stream.getvalue())
