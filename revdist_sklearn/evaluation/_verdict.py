"""Three lines for the biologist, and ten of Python."""

import numpy as np

from ._summary import differences

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
    best = max((r for r in rows if r["members"]), key=lambda r: _mean(r, metric))
    error = _standard_error(best["scores"][metric])
    able = [r for r in rows if r["kind"] in DEPLOYABLE and r["in_table"]]
    within = [r for r in able if _mean(r, metric) >= _mean(best, metric) - error]
    top = f"the best row, {best['row']} with {_mean(best, metric):.3f}"
    how = f"within one standard error ({error:.3f}) of {top}"
    if not within:
        within = [max(able, key=lambda r: _mean(r, metric))]
        how = f"by more than its standard error ({error:.3f}) short of {top}"
    choice = min(within, key=lambda r: (_cost(r, costs, "parameters"), r["width"]))
    names = " and ".join(costs[i]["name"] for i in choice["members"])
    where = "random folds" if kind == "random" else f"folds by {kind}"
    lines = [
        f"{choice['row']}, {choice['width']} columns: {metric} {_mean(choice, metric):.3f} in "
        f"{where}, {how}.",
        f"It runs {names}: {_cost(choice, costs, 'parameters'):,.0f} parameters, "
        f"{_cost(choice, costs, 'seconds'):.3g} s for 1,000 variants here.",
        _against_table(rows, best, metric, where),
    ]
    return lines, choice


def preferred_split(rows):
    """Return the kind of split that is asked first: by position where there is one."""
    kinds = dict.fromkeys(r["split"] for r in rows if r["n_train"] is None)
    return "position" if "position" in kinds else next(iter(kinds))


def _mean(row, metric):
    mean = row["mean"][metric]
    return -np.inf if mean is None else mean


def _standard_error(scores):
    scores = np.array([score for score in scores if score is not None])
    return float(scores.std(ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else 0.0


def _cost(row, costs, what):
    return sum(costs[i][what] for i in row["members"])


def _against_table(rows, best, metric, where):
    """Return whether a language model beats the table of positions."""
    tables = [r for r in rows if r["kind"] == "mutation"]
    if not tables:
        return "No table of positions to compare with: the variants' mutations are not known."
    table = tables[0]
    difference = differences(best, table, metric)
    gain, error = difference.mean(), _standard_error(difference)
    does = "beats" if gain > error else "does not beat" if gain <= 0 else "hardly beats"
    return (
        f"A language model {does} the table of positions, which has {_mean(table, metric):.3f}: "
        f"{gain:+.3f} ± {error:.3f} (standard error over folds) in {where}, for the best of "
        f"{sum(bool(r['members']) for r in rows)} rows."
    )


START = """\
import joblib, pandas as pd
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from revdist_sklearn import ESMFeaturizer, PrefixRidge{C}CV, ReverseDistiller, compact
table = pd.read_csv({path!r}, sep=None, engine="python")
X, y = table[{sequence!r}].str.upper(), table[{target!r}]
"""
NESTED = """\
steps = ESMFeaturizer({models!r}), FrozenEstimator(ReverseDistiller.from_pretrained({distiller!r}))
model = compact(make_pipeline(*steps, PrefixRidge{C}CV([{width}])).fit(X.tolist(), y))
"""
ALONE = """\
embedding = ESMFeaturizer({models!r})
model = make_pipeline(embedding, PrefixRidge{C}CV([{width}])).fit(X.tolist(), y)
"""
END = """\
joblib.dump(model, "model.joblib")
print(joblib.load("model.joblib").predict(X[:3].tolist()))
"""


def code(choice, *, path, sequence, target, models, sources, distiller, task):
    """Return some ten lines of Python that fit, save and use what was recommended.

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

    Returns
    -------
    text : str
    """
    is_raw = choice["kind"] == "raw"
    text = START + (ALONE if is_raw else NESTED) + END
    if is_raw:
        text = text.replace(", ReverseDistiller, compact", "")
        text = text.replace("from sklearn.frozen import FrozenEstimator\n", "")
    return text.format(
        C="Classifier" if task == "classification" else "",
        path=str(path),
        sequence=sequence,
        target=target,
        models=[sources[i] for i in choice["members"]] if is_raw else models,
        distiller=str(distiller),
        width=choice["width"],
    )
