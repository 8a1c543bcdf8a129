"""What several data sets say together: shares of wins, with intervals and the sign test."""

from itertools import pairwise

import numpy as np
from scipy.stats import binomtest

N_RESAMPLES = 10_000
# Of fewer proteins the bootstrap tells nothing.
LEAST_PROTEINS = 6
# Kinds of rows at one width that are compared, the first with the second.
AT_ONE_WIDTH = (
    ("distilled", "concatenation_pca", "reverse distillation over concatenation + PCA"),
    ("distilled", "fold_pca", "reverse distillation over PCA of the fold"),
    ("distilled", "largest_pca", "reverse distillation over PCA of the largest model"),
    ("distilled", "without_regression", "reverse distillation over the same without regression"),
    ("distilled", "raw", "reverse distillation over the raw model"),
)


def comparisons(results):
    """Return the pairs of rows of one data set that the summary compares.

    Parameters
    ----------
    results : list of dict
        Of one data set, one kind of split and no learning curve.

    Returns
    -------
    pairs : list of (str, str, dict, dict)
        The claim, what is compared, and both rows.
    """
    of_kind: dict[str, dict] = {}
    for row in results:
        of_kind.setdefault(row["kind"], {})[row["width"]] = row
    pairs = []
    for kind, claim in (
        ("distilled", "reverse distillation, larger over smaller"),
        ("raw", "raw models, larger over smaller"),
    ):
        rows = [row for _, row in sorted(of_kind.get(kind, {}).items()) if row["in_table"]]
        steps = list(pairwise(rows))
        if len(rows) > 2:
            steps.append((rows[0], rows[-1]))
        pairs += [(claim, large, small) for small, large in steps]
    for ours, other, claim in AT_ONE_WIDTH:
        for width, row in sorted(of_kind.get(ours, {}).items()):
            rival = of_kind.get(other, {}).get(width)
            # At the width of the smallest model both are that model itself.
            if rival is not None and row["in_table"] and row["scores"] != rival["scores"]:
                pairs.append((claim, row, rival))
    tables = of_kind.get("mutation", {}).values()
    best = [row for _, row in sorted(of_kind.get("distilled", {}).items())][-1:]
    pairs += [
        ("reverse distillation over the table of positions", b, t) for b in best for t in tables
    ]
    return [(claim, f"{a['row']} over {b['row']}", a, b) for claim, a, b in pairs]


def paired_difference(one, other, metric):
    """Return the mean over folds and seeds of one row's score less another's; NaN if none."""
    difference = differences(one["scores"][metric], other["scores"][metric])
    return float(difference.mean()) if len(difference) else float("nan")


def differences(one, other):
    """Return some scores less others, of the folds in which both have one."""
    return _known(np.subtract(*np.array([one, other], dtype=np.float64)))


def _known(scores):
    """Return the scores that are numbers."""
    scores = np.array(scores, dtype=np.float64)  # None becomes NaN
    return scores[np.isfinite(scores)]


def mean_score(scores):
    """Return the mean of scores that are numbers; minus infinity of none, which is never best."""
    known = _known(scores)
    return float(known.mean()) if len(known) else -np.inf


def standard_error(scores):
    """Return the standard error of the mean of scores that are numbers; 0 of fewer than two."""
    known = _known(scores)
    return float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else 0.0


def summarise(data_sets, metric, *, seed=0):
    """Return for each comparison and kind of split how many data sets it holds on.

    Parameters
    ----------
    data_sets : dict of str to dict
        Of each its ``"protein"``, by which data sets are resampled together, and ``"rows"``.

    metric : str
        The score that is compared.

    seed : int, default=0
        Of the bootstrap.

    Returns
    -------
    summary : list of dict
        ``claim``, ``rows``, ``split``, ``metric``, ``wins``, ``losses``, ``ties``,
        ``n_proteins``, ``share`` of wins among all, ``difference`` (mean over data sets),
        ``share_interval`` and ``difference_interval`` (None of fewer than six proteins),
        ``p_sign``.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._summary import summarise
    >>> def row(name, width, score):
    ...     facts = {"row": name, "kind": "raw", "width": width, "split": "random"}
    ...     return {**facts, "in_table": True, "n_train": None, "scores": {"spearman": [score]}}
    >>> sets = {
    ...     name: {"protein": name, "rows": [row("raw a", 1, 0.3), row("raw b", 2, 0.4 + gain)]}
    ...     for name, gain in (("x", 0.1), ("y", 0.0), ("z", -0.2))
    ... }
    >>> [found] = summarise(sets, "spearman")
    >>> found["rows"], found["wins"], found["losses"], round(found["p_sign"], 2)
    ('raw b over raw a', 2, 1, 1.0)
    """
    found: dict[tuple, dict] = {}
    for name, data_set in data_sets.items():
        by_split: dict[str, list] = {}
        for row in data_set["rows"]:
            if row["n_train"] is None and metric in row["scores"]:
                by_split.setdefault(row["split"], []).append(row)
        for split, rows in by_split.items():
            for claim, compared, one, other in comparisons(rows):
                difference = paired_difference(one, other, metric)
                if np.isfinite(difference):
                    found.setdefault((split, claim, compared), {})[name] = difference
    proteins = {name: data_set["protein"] for name, data_set in data_sets.items()}
    return [
        {
            "claim": claim,
            "rows": compared,
            "split": split,
            "metric": metric,
            **_over_data_sets(list(by_set.values()), [proteins[name] for name in by_set], seed),
        }
        for (split, claim, compared), by_set in found.items()
    ]


def _over_data_sets(differences, proteins, seed):
    """Return wins, losses, ties, shares and intervals of differences, a data set each."""
    differences = np.array(differences)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    _, group = np.unique(proteins, return_inverse=True)
    n_groups = int(group.max()) + 1
    figures: dict = {
        "wins": wins,
        "losses": losses,
        "ties": len(differences) - wins - losses,
        "n_proteins": n_groups,
        "share": wins / len(differences),
        "difference": float(differences.mean()),
        "p_sign": float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
        "share_interval": None,
        "difference_interval": None,
    }
    if n_groups < LEAST_PROTEINS:
        return figures
    # Whole proteins are drawn: scans of one are alike.
    draws = np.random.default_rng(seed).integers(n_groups, size=(N_RESAMPLES, n_groups))
    sizes = np.bincount(group)
    for name, values in (("share", differences > 0), ("difference", differences)):
        sums = np.bincount(group, weights=values)
        means = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)
        figures[f"{name}_interval"] = [float(q) for q in np.quantile(means, [0.025, 0.975])]
    return figures


def format_summary(summary):
    """Return the summary as text, a line a comparison."""
    lines = []
    for claim, split in dict.fromkeys((each["claim"], each["split"]) for each in summary):
        lines.append(f"{claim} ({split} folds)")
        for each in summary:
            if (each["claim"], each["split"]) == (claim, split):
                lines.append(f"  {each['rows']}: {described(each)}")
    return "\n".join(lines)


def described(each):
    """Return one comparison of the summary in words."""
    n = each["wins"] + each["losses"] + each["ties"]
    ties = f", {each['ties']} ties" if each["ties"] else ""
    text = f"{each['wins']} of {n}{ties}, difference {each['difference']:+.3f}"
    if each["difference_interval"] is None:
        proteins = "one protein" if each["n_proteins"] == 1 else f"{each['n_proteins']} proteins"
        return f"{text}; {proteins}, too few for an interval: no claim"
    low, high = each["difference_interval"]
    share = "{:.0%} to {:.0%}".format(*each["share_interval"])
    return (
        f"{text} (95%: {low:+.3f} to {high:+.3f}), share of wins 95%: {share}, sign test "
        f"p = {each['p_sign']:.2g}"
    )
