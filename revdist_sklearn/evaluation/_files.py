"""Many data sets: each is kept when it is done, and one fault does not stop the rest."""

import csv
import hashlib
import io
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from .. import __version__
from ..base._files import make_folder, replace_file
from ..base._identity import digest
from ..base._text import shown
from ..embedding._sequences import listed, nucleotides
from ..embedding._workers import as_they_come, in_order
from ._data_set import check_enough, evaluate_variants
from ._page import spread
from ._table import read_table

# Of the figures of a data set; another one is computed anew.
FORMAT = 3
ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".csv.bz2", ".csv.xz", ".csv.zst")
# What goes wrong with a file and with what is in it.
AT_FAULT = (ValueError, TypeError, OSError)


def tables_of(paths):
    """Return the files that are named, and those in the folders that are.

    Parameters
    ----------
    paths : sequence of path-like
        Of a folder its tables are taken, by name; no ``.txt`` files and no folders in it.

    Returns
    -------
    files : list of str

    Raises
    ------
    ValueError
        If a folder has no table, or two files give data sets of one name.
    """
    files = []
    for path in paths:
        if str(path) == "-" or not Path(path).is_dir():
            files.append(str(path))
            continue
        inside = (p for p in Path(path).iterdir() if p.suffix.lower() != ".txt")  # notes
        found = sorted(str(p) for p in inside if p.name.lower().endswith(ENDINGS))
        if not found:
            raise ValueError(f"The folder {path} has no table ({', '.join(ENDINGS)}).")
        files += found
    names: dict[str, str] = {}
    for file in files:
        other = names.setdefault(name_of(file), file)
        if other != file:
            raise ValueError(
                f"{other} and {file} are both the data set {name_of(file)!r}; rename one."
            )
    return list(dict.fromkeys(files))


def name_of(path):
    """Return the name of a file's data set."""
    name = Path(path).name
    ending = max((e for e in ENDINGS if name.lower().endswith(e)), key=len, default="")
    return name[: len(name) - len(ending)].lstrip(".") or "table"


def wild_type_of(file, wild_types, protein=None):
    """Return the wild type of a file's data set.

    Parameters
    ----------
    file : path-like

    wild_types : str, list of (str, str), or None
        Of several names and sequences, that whose name, or a part of it between ``|``, is the
        protein; else the longest that the name of the data set is or begins with, before a ``_``.

    protein : str, default=None
        As the file names it.

    Returns
    -------
    wild_type : str or None

    Raises
    ------
    ValueError
        If there is none, or several.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._files import wild_type_of
    >>> wild_type_of("a/GB1_2014.csv", [("sp|P0|GB1", "MTYK"), ("other", "MAK")])
    'MTYK'
    """
    if wild_types is None or isinstance(wild_types, str):
        return wild_types
    name, named = name_of(file).casefold(), protein and protein.casefold()
    # Of the name of the file, the longest part; of the protein, all of it.
    found: dict[float, list] = {}
    for i, (record, _) in enumerate(wild_types):
        parts = [part.casefold() for part in (record, *record.split("|")) if part]
        fits = [float(len(part)) for part in parts if f"{name}_".startswith(f"{part}_")]
        fits += [math.inf for part in parts if part == named]
        if fits:
            found.setdefault(max(fits), []).append(i)
    fitting = found[max(found)] if found else []
    if len(fitting) != 1:
        records = listed(shown(wild_types[i][0]) for i in fitting or range(len(wild_types)))
        of_protein = f", as its protein {shown(protein)!r}" if protein else ""
        raise ValueError(
            f"{len(fitting) or 'None'} of the {len(wild_types)} wild types are named as the data "
            f"set {shown(name_of(file))!r}{of_protein}, or as it begins before a _: {records}. "
            "Rename records or files, or give a FASTA file of one record for each file."
        )
    return wild_types[fitting[0]][1]


def prepared_table(file, featurizer, reading):
    """Return what a file holds, its sequences as the models take them.

    Parameters
    ----------
    file : path-like

    featurizer : ESMFeaturizer

    reading : dict
        Keywords of :func:`read_table`; ``wild_type`` may be those of :func:`wild_type_of`.

    Returns
    -------
    table : Variants or Residues

    Raises
    ------
    OSError, TypeError, ValueError
        As :func:`read_table` and :meth:`EmbeddingPlan.prepare`; if sequences are DNA, or fewer
        than folds inside of folds need.
    """
    wild_type = reading.get("wild_type")
    records = wild_type if isinstance(wild_type, list) else []
    if records:
        wild_type = partial(wild_type_of, file, records)
    table = without_stops(read_table(file, **{**reading, "wild_type": wild_type}))
    taken = [name for name, text in records if text.upper() == table.wild_type]
    if taken:
        table.notes.append(f"The wild type is the record {shown(taken[0])}.")
    if found := nucleotides(table.sequences):
        raise ValueError(
            f"{len(found)} of {len(table)} sequences are DNA or RNA by their letters: "
            f"{listed(table.labels[i] for i in found)}. Translate them to proteins, or leave "
            "them out."
        )
    check_enough(table)
    plan = featurizer.embedding_plan("residue")
    prepared = plan.prepare(table.sequences, table.labels)
    if cut := sum(len(a) != len(b) for a, b in zip(prepared, table.sequences, strict=True)):
        raise ValueError(
            f"{cut} of {len(table)} sequences are longer than the limit of {plan.limit} residues, "
            "and what is cut off was measured too. Give a larger --max-length, or --too-long "
            "window."
        )
    return replace(table, sequences=prepared)


def without_stops(table):
    """Return a table without the sequences that have a stop, and a note of them."""
    stops = [i for i, sequence in enumerate(table.sequences) if "*" in sequence]
    if not stops or len(stops) == len(table):
        return table
    n_rows = int(table.n_replicates[stops].sum())
    table.counts["left out"] += n_rows
    table.notes.append(
        f"{len(stops)} sequences with a stop ('*') are left out: "
        f"{listed(table.labels[i] for i in stops)}."
    )
    return table.take(np.setdiff1d(np.arange(len(table)), stops))


def evaluate_files(files, family, plan, reading, *, folder=None, n_jobs=None, **how):
    """Yield the figures of each file when it is done, or what is wrong with it.

    Parameters
    ----------
    files : list of str or (str, Variants)
        A file that can be read but once comes with what it holds.

    family : Family

    plan : Plan

    reading : dict
        Keywords of :func:`read_table`.

    folder : path-like, default=None
        Where the figures of each data set are kept, and found again.

    n_jobs : int, default=None
        Files at a time, as in joblib.

    **how
        Keywords of :func:`evaluate_variants`, with ``source`` for all.

    Yields
    ------
    file : str

    figures : dict or None
        None where the file is at fault.

    fault : str or None

    was_kept : bool
        Whether they were found.
    """
    kept = None if folder is None else Path(folder)
    if kept is not None:
        make_folder(kept)
    identity = {
        "family": family.identity(),
        "plan": [plan.kinds, plan.n_seeds, plan.n_train, plan.n_draws, repr(plan.head)],
        "reading": reading,
        "version": __version__,
        "curve": how.get("curve"),
        "source": repr(how.get("source")),
    }
    one = partial(_one, family, plan, reading, identity, kept, how)
    run = in_order if n_jobs in (None, 1) else as_they_come
    yield from run(one, ((file,) for file in files), n_jobs)


def _one(family, plan, reading, identity, kept, how, file):
    file, variants = file if isinstance(file, tuple) else (file, None)
    path = None if kept is None else kept / f"{name_of(file)}.json"
    try:
        key = None if variants else digest({**identity, "file": sha256_of(file)})
        if path is not None and key is not None and (found := _read(path, key)) is not None:
            return file, found, None, True
        if variants is None:
            variants = prepared_table(file, family.featurizer, reading)
        source = how.get("source")
        if source is not None:
            source = {**source, "path": file}
        figures = evaluate_variants(variants, family, plan, **{**how, "source": source})
    except AT_FAULT as error:
        return file, None, str(error) or type(error).__name__, False
    if path is not None and key is not None:
        write_json(path, {"format": FORMAT, "key": key, **figures})
    return file, figures, None, False


def sha256_of(path):
    """Return the digest of a file as hexadecimal digits."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            found.update(chunk)
    return found.hexdigest()


def _read(path, key):
    """Return kept figures, or None where there are none of this key."""
    try:
        found = json.loads(path.read_text())
        wanted = found.pop("format") == FORMAT and found.pop("key") == key
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if wanted else None


def write_text(path, text):
    """Write a text file in one step."""
    replace_file(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def write_json(path, figures):
    """Write figures as JSON in one step; what is no finite number is null.

    Parameters
    ----------
    path : path-like

    figures : dict
        Of dicts, lists, texts and numbers, also those of NumPy.

    Raises
    ------
    TypeError
        If something else is among them; nothing is written then.
    """
    write_text(path, json.dumps(_of_finite(figures), indent=1, allow_nan=False) + "\n")


def _of_finite(value, where="figures"):
    """Return the same with None for numbers that JSON does not have, all others as Python's."""
    if isinstance(value, dict):
        return {
            _plain(name, f"a key of {where},"): _of_finite(each, f"{where}[{name!r}]")
            for name, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_of_finite(each, f"{where}[{i}]") for i, each in enumerate(value)]
    value = _plain(value, where)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value, where):
    """Return a text or number as Python's own, as JSON takes it; raise where it is neither."""
    found = value.item() if isinstance(value, np.generic) else value
    if isinstance(found, np.longdouble):  # which has no counterpart
        found = float(found)
    if found is None or isinstance(found, (str, bool, int, float)):
        return found
    raise TypeError(
        f"{where} {value!r} ({type(value).__name__}) cannot be written as JSON; give a number, a "
        "text, or a list or dict of these (an array's tolist())."
    )


def scores_csv(data_sets):
    """Return all scores as CSV, a line a data set, row, split, metric and fold.

    Rows that are left out have one line, with the reason in place of scores.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            *("data_set", "row", "kind", "width", "split", "n_train", "metric", "fold", "score"),
            "left_out",
        ]
    )
    for name, data_set in data_sets.items():
        for row in data_set["rows"]:
            for metric, scores in row["scores"].items():
                for fold, score in zip(row["folds"], scores, strict=True):
                    n = "" if row["n_train"] is None else row["n_train"]
                    of_row = name, row["row"], row["kind"], row["width"], row["split"], n
                    writer.writerow([*of_row, metric, fold, score, ""])
        for row in data_set["left_out"]:
            writer.writerow([name, row["row"], row["kind"], row["width"], *[""] * 5, row["why"]])
    return stream.getvalue()


def format_scores(data_sets, metric=None):
    """Return the scores of data sets as a table of text, means ± standard deviations.

    Parameters
    ----------
    data_sets : dict of str to dict

    metric : str, default=None
        None takes the first of each.

    Returns
    -------
    text : str
    """
    columns, cells = [], {}
    for name, data_set in data_sets.items():
        which = data_set["metric"] if metric is None else metric
        for row in data_set["rows"]:
            if not row["in_table"] or which not in row["mean"]:
                continue
            folds = "" if row["split"].startswith("fold_") else " folds"
            n = folds if row["n_train"] is None else f", {row['n_train']} rows"
            column = name, f"{row['split']}{n}"
            if column not in columns:
                columns.append(column)
            cells[column, row["row"]] = spread(row["mean"][which], row["std"][which])
        left_out = [row["row"] for row in data_set.get("left_out", ()) if row["in_table"]]
        cells |= {(c, row): "left out" for c in columns if c[0] == name for row in left_out}
    labels = list(dict.fromkeys(label for _, label in cells))
    head = [["", *(name for name, _ in columns)], ["", *(split for _, split in columns)]]
    body = [[label, *(cells.get((c, label), "-") for c in columns)] for label in labels]
    widths = [max(map(len, column)) for column in zip(*head, *body, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in head + body
    )
