"""Command line: ``revdist demo | fit | embed | evaluate | cache``."""

import argparse
import csv
import gzip
import json
import sys
from pathlib import Path

import numpy as np


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; None takes the process's own.

    Returns
    -------
    code : int
        0, or 2 where the input was at fault: the message is then on standard error.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        print(f"revdist {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser():
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="revdist",
        description="Nested protein language model embeddings by reverse distillation.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    demo = _command(commands, _demo, "fit, score and plot the bundled family, offline")
    demo.add_argument("--output", default=".", help="folder of the results (default: here)")

    fit = _command(commands, _fit, "fit a distiller on a corpus of diverse proteins")
    _add_models(fit)
    fit.add_argument("--fasta", help="the corpus (default: the bundled UniProt sample)")
    fit.add_argument("--output", required=True, help="folder of the fitted distiller")
    fit.add_argument("--regressor", choices=["ols", "ridge", "pcr"], default="ols")

    embed = _command(commands, _embed, "write nested embeddings of proteins")
    _add_models(embed)
    embed.add_argument("--fasta", required=True, help="the proteins")
    embed.add_argument("--distiller", help=DISTILLER)
    embed.add_argument("--n-components", type=int, help="columns to keep (default: all)")
    embed.add_argument("--output", required=True, help="file: .npz or .csv")

    evaluate = _command(commands, _evaluate, "score all representations on measured variants")
    _add_models(evaluate)
    evaluate.add_argument("csv", help="table with sequences and measurements (.csv or .csv.gz)")
    evaluate.add_argument("--distiller", help=DISTILLER)
    evaluate.add_argument("--fasta", help="corpus (default: the bundled UniProt sample)")
    evaluate.add_argument("--sequence-column", default="mutated_sequence")
    evaluate.add_argument("--target-column", default="DMS_score")
    evaluate.add_argument(
        "--mutation-column",
        help="single substitutions such as T2A, for folds by position (default: mutant)",
    )
    evaluate.add_argument("--output", help="JSON file of all figures")

    cache = commands.add_parser("cache", help="look after a cache of embeddings")
    actions = cache.add_subparsers(dest="action", required=True, metavar="action")
    for run, text in (
        (_cache_info, "list what a cache holds"),
        (_cache_clear, "remove a cache; other files of the folder stay"),
    ):
        action = actions.add_parser(run.__name__.rpartition("_")[2], help=text, description=text)
        action.set_defaults(run=run)
        action.add_argument("folder", help="the `cache_dir` of the featurizer (--cache-dir)")
    return parser


DISTILLER = "folder or hub id of a fitted distiller (default: fit on the bundled UniProt sample)"


def _command(commands, run, text):
    parser = commands.add_parser(run.__name__[1:], help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _add_models(parser):
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


def _demo(arguments):
    from ._demo import run_demo

    run_demo(arguments.output)


def _fit(arguments):
    from ._demo import describe_stages, format_stages

    distiller = _fitted(arguments, regressor=arguments.regressor)
    distiller.save_pretrained(arguments.output)
    print(format_stages(describe_stages(distiller)))
    print(f"Written: {arguments.output}")


def _embed(arguments):
    suffix = Path(arguments.output).suffix
    if suffix not in (".npz", ".csv"):
        raise ValueError(f"--output {arguments.output} must end in .npz or .csv.")
    names, sequences = zip(*read_fasta(arguments.fasta), strict=True)
    distiller = _fitted(arguments, default_corpus=True)
    featurizer = _featurizer(arguments)
    if arguments.n_components is not None:
        distiller = distiller.truncate(arguments.n_components)
        featurizer = featurizer.truncate(arguments.n_components)
    _same_blocks(distiller, featurizer)
    Z = distiller.transform(featurizer.transform(sequences))
    columns = distiller.get_feature_names_out()
    if suffix == ".npz":
        arrays = {"names": np.array(names), "columns": columns.astype(str), "embedding": Z}
        np.savez(arguments.output, **arrays)
    else:
        with open(arguments.output, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", *columns])
            writer.writerows([name, *row] for name, row in zip(names, Z.tolist(), strict=True))
    print(f"{Z.shape[0]} proteins, {Z.shape[1]} columns: {arguments.output}")


def _evaluate(arguments):
    from ._corpus import corpus_moments
    from ._demo import describe_stages, format_stages
    from ._distiller import ReverseDistiller
    from ._evaluate import Representations, evaluate, format_table, single_mutations

    sequences, target, mutations = read_measurements(
        arguments.csv,
        arguments.sequence_column,
        arguments.target_column,
        arguments.mutation_column,
    )
    if mutations is not None and (mutations := single_mutations(mutations)) is None:
        print("Not all mutants are single substitutions: no folds by position.")
    featurizer = _featurizer(arguments)
    distiller = None
    if arguments.distiller is not None:
        distiller = ReverseDistiller.from_pretrained(arguments.distiller)
        _same_blocks(distiller, featurizer)
    # The baselines' PCA needs the moments of a corpus, also where a distiller is given.
    moments = corpus_moments(featurizer, _corpus(arguments), n_jobs=arguments.n_jobs)
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


def _featurizer(arguments):
    from ._featurizer import ESMFeaturizer

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


def _cache_info(arguments):
    from ._cache import cache_info

    spaces, size = cache_info(arguments.folder)
    if not spaces:
        print(f"No embeddings in {arguments.folder}.")
        return
    for space in spaces:
        facts = [space["dtype"], f"layer {space['layer']}", f"pooling {space['pooling']}"]
        facts += [f"window {space['window']}"] if space["window"] is not None else []
        print(
            f"{space['model']} ({', '.join(facts)}): {space['n_sequences']:,} sequences, "
            f"{_megabytes(space['n_bytes'])}"
        )
    print(f"On disk: {_megabytes(size)}")


def _cache_clear(arguments):
    from ._cache import clear_cache

    print(f"Freed: {_megabytes(clear_cache(arguments.folder))}")


def _megabytes(size):
    return f"{size / 1e6:,.1f} MB"


def _corpus(arguments):
    from .datasets import load_uniprot_sample

    if getattr(arguments, "fasta", None) is None:
        return load_uniprot_sample().sequences
    return [sequence for _, sequence in read_fasta(arguments.fasta)]


def _fitted(arguments, default_corpus=False, **parameters):
    from ._corpus import fit_on_corpus
    from ._distiller import ReverseDistiller
    from .datasets import load_uniprot_sample

    if getattr(arguments, "distiller", None) is not None:
        return ReverseDistiller.from_pretrained(arguments.distiller)
    corpus = load_uniprot_sample().sequences if default_corpus else _corpus(arguments)
    featurizer = _featurizer(arguments)
    return fit_on_corpus(
        ReverseDistiller(**parameters), featurizer, corpus, n_jobs=arguments.n_jobs
    )


def _same_blocks(distiller, featurizer):
    """Raise where the distiller was fitted on other models than the featurizer's."""
    from ._columns import blocks_of

    blocks = blocks_of(featurizer.get_feature_names_out())
    fitted = list(zip(distiller.block_names_ or (), distiller.block_sizes_, strict=False))
    if fitted and fitted != blocks:
        raise ValueError(
            f"the distiller was fitted on {fitted}, but --models gives {blocks}; give the models "
            "of the fit, in the same order."
        )


def read_fasta(path):
    """Return ``[(name, sequence)]`` of a FASTA file, plain or gzip.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    records : list of (str, str)
        The name is the header's first word.

    Raises
    ------
    ValueError
        If the file has no record, text before the first header, or an empty sequence.
    """
    records: list[tuple[str, list[str]]] = []
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            line = line.strip()
            if line.startswith(">"):
                name = line[1:].split(maxsplit=1)[0] if line[1:].strip() else f"line_{number}"
                records.append((name, []))
            elif line and not records:
                raise ValueError(
                    f"{path} has text before the first header in line {number}; FASTA records "
                    "start with '>name'."
                )
            elif line:
                records[-1][1].append(line)
    if not records:
        raise ValueError(f"{path} holds no FASTA record ('>name', then the sequence).")
    for name, parts in records:
        if not parts:
            raise ValueError(f"{path}: the record {name!r} has no sequence; remove it.")
    return [(name, "".join(parts)) for name, parts in records]


def read_measurements(path, sequence_column, target_column, mutation_column=None):
    """Return sequences, measurements and mutations of a table.

    Parameters
    ----------
    path : path-like
        CSV file with a header, plain or gzip.
    sequence_column, target_column : str
    mutation_column : str or None
        None takes the column "mutant" where there is one.

    Returns
    -------
    sequences : list of str
    target : ndarray of shape (n,)
    mutations : list of str or None
        None where the table has no such column.

    Raises
    ------
    ValueError
        If a column is missing, or a measurement is no finite number; the message names the
        row and the column.
    """
    with _open(path) as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or []
        for option, column in (("sequence", sequence_column), ("target", target_column)):
            if column not in columns:
                raise ValueError(
                    f"{path} has no column {column!r}; it has {', '.join(columns) or 'none'}. "
                    f"Name it with --{option}-column."
                )
        rows = list(reader)
    if not rows:
        raise ValueError(f"{path} has no rows.")
    target = np.empty(len(rows))
    for i, row in enumerate(rows):
        try:
            target[i] = float(row[target_column])
        except (TypeError, ValueError):
            target[i] = np.nan
        if not np.isfinite(target[i]):
            raise ValueError(
                f"{path}, row {i + 1} after the header: {target_column} is "
                f"{row[target_column]!r}, not a finite number; remove the row."
            )
    has_mutations = (mutation_column or "mutant") in columns
    if mutation_column is not None and not has_mutations:
        raise ValueError(
            f"{path} has no column {mutation_column!r}; it has {', '.join(columns)}. Leave out "
            "--mutation-column for random folds alone."
        )
    return (
        [row[sequence_column] for row in rows],
        target,
        [row[mutation_column or "mutant"] for row in rows] if has_mutations else None,
    )


def _open(path):
    return gzip.open(path, "rt") if str(path).endswith(".gz") else open(path, newline="")
