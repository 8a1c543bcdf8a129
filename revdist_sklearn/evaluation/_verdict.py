"""Three lines for the biologist, and ten of Python."""

import numpy as np

from ..base._aliases import public_name
from ._summary import differences, enough_is_tested, mean_score, standard_error

# Rows that are embeddings which a pipeline of sequences gives as they stand.
DEPLOYABLE = ("distilled", "raw")


def verdict(rows, metric, costs):
    """Return what the rows of one data set say, in three lines.

    Parameters
    ----------
    rows : list of dict
        Results of one data set.

    metric : str

    costs : list of dict
        Of each member ``"name"``, ``"parameters"`` and ``"seconds"`` for a thousand variants.

    Returns
    -------
    lines : list of str of length 3

    choice : dict
        The result of the row that is recommended.
    """
    kind = preferred_split(rows)
    rows = [r for r in rows if r["split"] == kind and r["n_train"] is None]
    shown = [r for r in rows if r["in_table"]]
    best = max((r for r in shown if r["members"]), key=lambda r: _mean(r, metric))
    error = standard_error(best["scores"][metric])
    n_folds = sum(score is not None for score in best["scores"][metric])
    able = [r for r in rows if r["kind"] in DEPLOYABLE and r["in_table"]]
    within = [r for r in able if _mean(r, metric) >= _mean(best, metric) - error]
    top = f"the best row with a language model, {best['row']} with {_mean(best, metric):.3f}"
    how = f"within one standard error ({error:.3f}) of {top}"
    if not within:
        within = [max(able, key=lambda r: _mean(r, metric))]
        how = f"by more than its standard error ({error:.3f}) short of {top}"
    choice = min(within, key=lambda r: (_cost(r, costs, "parameters"), r["width"]))
    if choice is best:
        how = f"the best row with a language model, with a standard error of {error:.3f}"
    if n_folds < 2:
        how = "the best row with a language model" if choice is best else f"short of {top}"
        how += "; one fold alone has a score, and no standard error"
    names = " and ".join(costs[i]["name"] for i in choice["members"])
    where = folds_by(kind)
    lines = [
        f"{choice['row']}, {choice['width']} columns: {metric} {_mean(choice, metric):.3f} in "
        f"{where}, {how}.",
        f"It runs {names}: {_cost(choice, costs, 'parameters'):,.0f} parameters, "
        f"{_cost(choice, costs, 'seconds'):.3g} s for 1,000 variants here.",
        _against_others(shown, best, metric, where),
    ]
    return lines, choice


def preferred_split(rows):
    """Return the kind of split that is asked first: by position where it tests enough rows."""
    kinds = list(dict.fromkeys(r["split"] for r in rows if r["n_train"] is None))
    able = [kind for kind in kinds if enough_is_tested(rows, kind)] or kinds
    return "position" if "position" in able else able[0]


def _mean(row, metric):
    mean = row["mean"][metric]
    return -np.inf if mean is None else mean


def _cost(row, costs, what):
    return sum(costs[i][what] for i in row["members"])


def _against_others(rows, best, metric, where):
    """Return whether a language model beats what needs none."""
    without = [r for r in rows if not r["members"]]
    if not without:
        return "Nothing without a language model to compare with: mutations are not known."
    other = max(without, key=lambda r: _mean(r, metric))
    model, plain = ((r["row"], r["scores"][metric]) for r in (best, other))
    if not len(differences(model[1], plain[1])):
        return "No fold has a score of both a language model and what needs none."
    n = sum(bool(r["members"]) for r in rows)
    return f"{against_no_model(model, plain, where)[0]}, for the best of {n} rows."


def folds_by(kind):
    """Return what folds of a kind are called."""
    return "random folds" if kind == "random" else f"folds by {kind}"


def against_no_model(model, plain, where):
    """Return whether a language model helps, in words.

    Parameters
    ----------
    model, plain : (str, list of float or None)
        Name, and scores of the same folds, of the best with a language model and without one.

    where : str
        What the folds are.

    Returns
    -------
    clause : str
        Without a full stop.

    is_ahead : bool
        Whether by more than two standard errors of the differences between folds.
    """
    difference = differences(model[1], plain[1])
    gain, error = difference.mean(), standard_error(difference)
    # Of one difference there is no error, and nothing is told from chance.
    is_ahead = len(difference) > 1 and gain > 2 * error
    helps = "helps" if is_ahead else "does not help"
    if gain > 0 and not is_ahead:
        helps = "may help, by no more than chance"
    with_one, without = mean_score(model[1]), mean_score(plain[1])
    spread = f"{gain:+.3f} ± {error:.3f} (standard error over folds)"
    if len(difference) < 2:
        spread = f"{gain:+.3f} (one fold alone has both scores)"
    clause = (
        f"The language model {helps}: {spread} in {where}, {with_one:.3f} of {model[0]} against "
        f"{without:.3f} of {plain[0]}"
    )
    if not any(plain[1]):  # constant predictions, such as of one position by positions
        clause += ", which cannot tell these variants apart"
    return clause, bool(is_ahead)


START = """\
import joblib, pandas as pd
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from revdist_sklearn import ESMFeaturizer, PrefixRidge{C}CV, ReverseDistiller, compact
table = pd.read_csv({path!r}, sep=None, engine="python")  # each sequence once, without stops:
X, y = table[{sequence!r}].str.upper().str.removesuffix("*"), {clean}
y = y[~X.str.contains("*", regex=False, na=True)].dropna().groupby(X).agg({average})
"""
NESTED = """\
steps = ESMFeaturizer({models!r}), FrozenEstimator(ReverseDistiller.from_pretrained({distiller!r}))
model = compact(make_pipeline(*steps, PrefixRidge{C}CV([{width}])).fit(y.index.tolist(), y))
"""
ALONE = """\
embedding = ESMFeaturizer({models!r})
model = make_pipeline(embedding, PrefixRidge{C}CV([{width}])).fit(y.index.tolist(), y)
"""
END = """\
joblib.dump(model, "model.joblib")
print(joblib.load("model.joblib").predict(y.index[:3].tolist()))
"""


def code(choice, *, path, sequence, target, models, sources, distiller, task, has_limits=False):
    """Return eleven lines of Python that fit, save and use what was recommended.

    Parameters
    ----------
    choice : dict
        The result of its row.

    path, sequence, target : str
        The table, and its columns.

    models : str or list
        Of the featurizer.

    sources : list of str
        Folder or hub id of each member.

    distiller : str
        Folder or hub id.

    task : {"regression", "classification"}

    has_limits : bool, default=False
        Whether targets such as ``>100`` are taken as numbers.

    Returns
    -------
    text : str
    """
    column, average = f"table[{target!r}]", '"mean"'
    if task == "classification":
        clean, average = column, "lambda classes: classes.mode()[0]"
    else:
        text = f'{column}.astype(str).str.strip("<>≤≥= ")' if has_limits else column
        clean = f'pd.to_numeric({text}, errors="coerce")'
    is_raw = choice["kind"] == "raw"
    text = START + (ALONE if is_raw else NESTED) + END
    if is_raw:
        text = text.replace(", ReverseDistiller, compact", "")
        text = text.replace("from sklearn.frozen import FrozenEstimator\n", "")
    return text.format(
        C="Classifier" if task == "classification" else "",
        path=str(path),
        clean=clean,
        average=average,
        sequence=sequence,
        models=[public_name(sources[i]) for i in choice["members"]] if is_raw else models,
        distiller=str(distiller),
        width=choice["width"],
    )
