"""Chains in fewer bits: what is rounded, and how far that moves what they give."""

import numpy as np

from ..base._damage import one_of
from ..base._tensor_file import narrowed
from ..base._warnings import warn
from ._chain import apply_chain, covariance_factor, reconstruct

KINDS = ("float64", "float32", "float16", "bfloat16")
# Nearly all of a chain. Means, variances and shares take little room, and stay in float64.
ROUNDED = ("directions", "coef")
FACTOR = "covariance_factor"
ROWS, SEED = 1000, 0
# Beyond these, of a column's spread and of explained shares, a distiller is another one.
FAR, SHARE = 0.05, 0.01
WIDER = {"float32": "float64", "float16": "bfloat16, which reaches 3e38, or float32"}


def rounded_tensors(chain, kind):
    """Return the matrices of a chain in a type of fewer bits, by their names in a file.

    Raises
    ------
    ValueError
        If a number is beyond the largest of that type; it says which type takes it.
    """
    matrices = {
        f"stage.{i}.{name}": getattr(stage, name)
        for i, stage in enumerate(chain.stages)
        for name in ROUNDED
    }
    if chain.cross_covariance is not None:
        matrices[FACTOR] = covariance_factor(chain)
    tensors = {}
    for name, array in matrices.items():
        try:
            tensors[name] = narrowed(array, kind)
        except OverflowError as error:
            raise ValueError(
                f"This distiller cannot be kept in {kind}: of its {name}, {error}. Use dtype="
                f"{WIDER.get(kind, 'float64')}."
            ) from None
    return tensors


def drawn_rows(chain):
    """Return rows x as the chain knows of them: its mean, and a covariance.

    The covariance is that of the best reconstruction of x from z. What is left of a block
    beyond that has the variances of its stage's spectrum, of which the directions are not
    kept: it is spread evenly over all directions that the stage does not append. A chain
    without cov(x, z) gives independent columns of unit variance.

    Parameters
    ----------
    chain : Chain

    Returns
    -------
    X : ndarray of shape (ROWS, D)
    """
    rng = np.random.default_rng(SEED)
    if chain.cross_covariance is None:
        return chain.mean + rng.normal(size=(ROWS, chain.blocks.n_columns))
    M = covariance_factor(chain)
    X = chain.mean + rng.normal(size=(ROWS, M.shape[1])) @ M.T
    for stage, columns in zip(chain.stages, chain.blocks.slices, strict=False):
        V, k = stage.directions, len(stage.directions)
        if (stage.coef.size or chain.rotated) and k > stage.n_added:
            rest = np.nansum(stage.residual_variances[stage.n_added :])
            g = rng.normal(size=(ROWS, k)) * np.sqrt(rest / (k - stage.n_added))
            X[:, columns] += g - (g @ V) @ V.T
    return X


def measured(chain, rounded, kind):
    """Return how far rounding moves what a chain gives, as JSON takes it.

    Parameters
    ----------
    chain, rounded : Chain
        As it is, and as it is read again.

    kind : str
        The type in between.

    Returns
    -------
    record : dict
        ``dtype``; ``rows``, ``seed`` and ``drawn_from`` of the rows; ``largest`` and
        ``root_mean_square`` of the differences in their columns of z, each in units of the
        column's spread; ``explained``, the largest difference between the shares of a model's
        variance that the reconstruction from its stage's prefix explains, None where there is
        none; and ``stages`` with the same of each.
    """
    X = drawn_rows(chain)
    Z, Z_rounded = apply_chain(chain, X), apply_chain(rounded, X)
    spread = Z.std(axis=0)
    # Of a column without spread (a direction that does not exist) nothing moves.
    differences = np.abs(Z_rounded - Z) / np.where(spread > 0, spread, np.inf)
    stages, known = [], chain.cross_covariance is not None
    for stage, columns in zip(chain.stages, chain.blocks.slices, strict=False):
        own = differences[:, stage.width - stage.n_added : stage.width]
        explained = None
        if known:
            pairs = ((chain, Z), (rounded, Z_rounded))
            one, other = (_explained(c, X, z[:, : stage.width], columns) for c, z in pairs)
            explained = abs(one - other)
        stages.append({"block": stage.block, **_summary(own), "explained": explained})
    return {
        "dtype": kind,
        "rows": ROWS,
        "seed": SEED,
        "drawn_from": "covariance" if known else "unit variances",
        **_summary(differences),
        "explained": max(stage["explained"] for stage in stages) if known else None,
        "stages": stages,
    }


def warn_if_far(record):
    """Warn where rounding moves columns or shares by so much that another type is better."""
    explained = record["explained"] or 0.0
    if record["root_mean_square"] > FAR or explained > SHARE:
        warn(
            f"Rounding to {record['dtype']} moves the columns of this distiller by "
            f"{record['root_mean_square']:.1g} of their spread (root mean square), and explained "
            f"shares by {explained:.1g}: use dtype={WIDER.get(record['dtype'], 'float32')}."
        )


def _summary(differences):
    return {
        "largest": float(differences.max()),
        "root_mean_square": float(np.sqrt(np.mean(differences**2))),
    }


def _explained(chain, X, Z, columns):
    """Return the share of the variance of a block that the reconstruction from z explains."""
    h = X[:, columns]
    left = np.sum((h - reconstruct(chain, Z)[:, columns]) ** 2)
    total = np.sum((h - h.mean(axis=0)) ** 2)
    return float(1 - left / total) if total > 0 else 1.0


def checked_record(values):
    """Return the record of a rounding as it stands in a file, or raise where it is none.

    Raises
    ------
    ValueError, LookupError, TypeError
        If it is something else.
    """
    if values is None:
        return None
    kind = one_of(values, "dtype", KINDS[1:])
    drawn_from = one_of(values, "drawn_from", ("covariance", "unit variances"))
    known = drawn_from == "covariance"
    record = {"dtype": kind, "rows": values["rows"], "seed": values["seed"]}
    if any(type(record[name]) is not int for name in ("rows", "seed")):
        raise ValueError("rows and seed of its rounding are no integers")
    record |= {"drawn_from": drawn_from, **_numbers(values, known)}
    record["stages"] = [
        {"block": str(stage["block"]), **_numbers(stage, known)} for stage in values["stages"]
    ]
    if "before" in values:
        record["before"] = checked_record(values["before"])
    return record


def _numbers(values, known):
    names = ("largest", "root_mean_square", "explained")
    found = {name: values[name] for name in names}
    for name, value in found.items():
        if type(value) is not float and (name != "explained" or known or value is not None):
            raise ValueError(f"{name} of its rounding is {value!r} and no number")
    return found
