"""What several data sets say together: shares of wins, with intervals and the sign test."""

from itertools import pairwise

import numpy as np
from scipy.stats import binomtest

from ..embedding._sequences import listed

N_RESAMPLES = 10_000
# Of fewer proteins the bootstrap tells nothing.
LEAST_PROTEINS = 6
# Kinds of splits that leave out rows which have a position on both sides.
BY_POSITION = "position", "contiguous", "modulo"
# Residues of a wild type from which on being part of another one is no chance.
LEAST_PART = 20
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
    smallest = min(
        (r["width"] for r in results if r["kind"] == "distilled" and r["in_table"]), default=0
    )
    for ours, other, claim in AT_ONE_WIDTH:
        for width, row in sorted(of_kind.get(ours, {}).items()):
            rival = of_kind.get(other, {}).get(width)
            if rival is None or not row["in_table"]:
                continue
            # At the width of the smallest model both may be that model itself.
            if width > smallest or row["scores"] != rival["scores"]:
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


def proteins_of(wild_types, named):
    """Return the protein of each data set, by which data sets are resampled together.

    Parameters
    ----------
    wild_types : dict of str to (str or None)
        By data set.

    named : dict of str to str
        Proteins of the data sets that say so.

    Returns
    -------
    proteins : dict of str to str
        As named; else as a data set whose wild type is the same, holds this one or is part of
        it; else the wild type itself, or the data set's name.

    Examples
    --------
    >>> from revdist_sklearn.evaluation._summary import proteins_of
    >>> whole = "MTYKLILNGKTLKGETTTEAVDAATAEK"
    >>> proteins_of({"a": whole, "b": whole[1:25], "c": "MK", "d": None}, {"b": "GB1"})
    {'b': 'GB1', 'a': 'GB1', 'c': 'MK', 'd': 'd'}
    """
    found = dict(named)
    # The longest first: what is part of it is found to be so, in whatever order.
    for name, own in sorted(wild_types.items(), key=lambda each: -len(each[1] or "")):
        known = ((protein, wild_types.get(other)) for other, protein in found.items())
        same = [protein for protein, its in known if own and its and _are_of_one(own, its)]
        found.setdefault(name, same[0] if same else own or name)
    return found


def _are_of_one(one, other):
    short, long = sorted((one, other), key=len)
    return short == long or (len(short) >= LEAST_PART and short in long)


def enough_is_tested(rows, split):
    """Return whether a kind of split tests half of the rows that any other does.

    Of several mutations a row, folds by position may test few, whose score says little. Other
    kinds, such as that by number of mutations, test what they are asked to.

    Parameters
    ----------
    rows : list of dict
        Results of one data set.

    split : str

    Returns
    -------
    is_enough : bool
    """
    tested = {row["split"]: row["n_distinct"] for row in rows if row["n_train"] is None}
    return split not in BY_POSITION or 2 * tested.get(split, 0) >= max(tested.values(), default=0)


def few_tested(data_sets):
    """Return a sentence for each kind of split in which data sets do not count.

    Parameters
    ----------
    data_sets : dict of str to dict

    Returns
    -------
    sentences : list of str
    """
    found: dict[str, list] = {}
    for name, data_set in data_sets.items():
        for split in dict.fromkeys(row["split"] for row in data_set["rows"]):
            if not enough_is_tested(data_set["rows"], split):
                found.setdefault(split, []).append(name)
    return [
        f"{split} folds test few rows of {listed(names)}, which are left out there."
        for split, names in found.items()
    ]


def summarise(data_sets, metric, *, seed=0):
    """Return for each comparison and kind of split how many data sets it holds on.

    Data sets of which a kind of split tests few rows are left out in it, which
    :func:`few_tested` tells.

    Parameters
    ----------
    data_sets : dict of str to dict
        Of each its ``"rows"``, ``"wild_type"`` and ``"protein"`` (None where the data set names
        none), for :func:`proteins_of`.

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
    ...     facts |= {"in_table": True, "n_train": None, "n_distinct": 90}
    ...     return {**facts, "scores": {"spearman": [score]}}
    >>> sets = {}
    >>> for name, gain in (("x", 0.1), ("y", 0.0), ("z", -0.2)):
    ...     rows = [row("raw a", 1, 0.3), row("raw b", 2, 0.4 + gain)]
    ...     sets[name] = {"protein": name, "wild_type": None, "rows": rows}
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
            if not enough_is_tested(data_set["rows"], split):
                continue
            for claim, compared, one, other in comparisons(rows):
                difference = paired_difference(one, other, metric)
                if np.isfinite(difference):
                    found.setdefault((split, claim, compared), {})[name] = difference
    proteins = proteins_of(
        {name: data_set["wild_type"] for name, data_set in data_sets.items()},
        {name: each["protein"] for name, each in data_sets.items() if each["protein"]},
    )
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
