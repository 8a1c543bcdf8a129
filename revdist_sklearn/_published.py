"""The authors' published scalers: found, put in order, and read as stages of a chain."""

import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from .base._aliases import FAMILIES
from .base._blocks import Blocks
from .base._damage import damage_is_told
from .base._hub import HubRepository, is_hub_id, no_such_folder
from .base._secrets import check_token_name
from .method._chain import Chain, Stage

# Where the authors' package looks for them, and the setting that it takes by default.
PUBLISHED, DEFAULT_SETTING = "singhlab/plm_reverse_distillation", "pcr-incremental-1k"
# Kind, models, and setting: regressor, PCA and training sequences.
NAME = re.compile(
    r"(?P<kind>rd|naive)-scaler-(?P<small>[\d.]+[MB])-(?P<large>[\d.]+[MB])"
    r"-(?P<setting>[^-]+-[^-]+-[^-]+)\.npz"
)
SMALLEST = "8M"
# Bytes of the record at the end of a zip file; the number of entries stands at 10.
END_OF_ZIP = 22


def find(source, setting, revision, local_files_only, token):
    """Return the files of stages 2 to m, in order."""
    if isinstance(source, (str, os.PathLike)):
        folder = Path(source)
        if folder.is_file():
            return _in_order(_of_setting([folder], setting))
        if not folder.is_dir():
            if not is_hub_id(str(source)):
                raise no_such_folder("Scalers", source)
            setting = DEFAULT_SETTING if setting is None else setting
            check_token_name(token)
            repository = HubRepository(str(source), revision, local_files_only, token, "Scalers")
            kind = "naive" if _is_naive(setting) else "rd"
            folder = repository.snapshot([f"*{kind}-scaler-*-{setting}.npz"], silent=False)
            folder = folder / "weights" if (folder / "weights").is_dir() else folder
        paths = [path for path in sorted(folder.iterdir()) if NAME.fullmatch(path.name)]
        if not paths:
            raise ValueError(
                f"{folder} holds no scalers of reverse distillation, which have names such as "
                f"rd-scaler-8M-35M-{DEFAULT_SETTING}.npz."
            )
        # Naive ones, a PCA of models side by side, may lie beside them.
        nested = [path for path in paths if kind_of(path) == "rd"]
        paths = _of_setting((not _is_naive(setting) and nested) or paths, setting)
    else:
        paths = [Path(path) for path in source]
        if not paths:
            raise ValueError(
                "paths is empty; give the file of each stage from the second model on."
            )
        paths = _of_setting(paths, setting)
    return _in_order(paths)


def kind_of(path):
    match = NAME.fullmatch(path.name)
    return match and match["kind"]


def _is_naive(setting):
    return setting is not None and setting.startswith("None-")


def _of_setting(paths, setting):
    named = [(path, match["setting"]) for path in paths if (match := NAME.fullmatch(path.name))]
    settings = sorted({name for _, name in named})
    if setting is None and len(settings) < 2:  # files of other names are of none
        return paths
    if setting not in settings:
        asked = "None names none" if setting is None else f"{setting!r} is none"
        raise ValueError(
            f"setting={asked} of those in {paths[0].parent}: {', '.join(settings)}. Name one."
        )
    return [path for path, name in named if name == setting]


def _in_order(paths):
    """Return the files smallest model first, where their names tell."""
    named = [(path, match) for path in paths if (match := NAME.fullmatch(path.name))]
    if len(named) < len(paths):
        return paths
    settings = sorted({match["setting"] for _, match in named})
    if len(settings) > 1:
        raise ValueError(
            f"The files are of several settings: {', '.join(settings)}. Give those of one."
        )
    named.sort(key=lambda pair: _millions(pair[1]["large"]))
    first = min(named, key=lambda pair: _millions(pair[1]["small"]))[1]["small"]
    # A chain of ESM-2 starts at its smallest model; of other families the files tell.
    last = SMALLEST if first in FAMILIES["esm2"].members else first
    start = last
    for path, match in named:
        if match["small"] != last:
            raise ValueError(
                f"{path.name} goes on from the model of size {match['small']}, and no file ends "
                f"there: the chain starts at {start}, and is at {last}. Give the files of all "
                "stages."
            )
        last = match["large"]
    return [path for path, _ in named]


def _millions(size):
    return float(size[:-1]) * {"M": 1, "B": 1000}[size[-1]]


def from_file(path, read):
    """Return what ``read`` makes of the arrays of a file."""
    what, way_out = f"{path} is no whole scaler", "fetch or save it again."
    # Whatever it raises: a zip's flags lead to any compression, encryption or shape.
    with open(path, "rb") as stream, damage_is_told(what, way_out, Exception):
        return read(_read(stream))


def naive_chain(paths):
    """Return a tower of PCAs as a chain of one block, which is turned to its axes."""
    A, mean, variances = np.zeros((0, 0)), np.zeros(0), np.zeros(0)
    for path in paths:
        if kind_of(path) != "naive":
            raise ValueError(f"{path} is no naive scaler, as others are; give those of one kind.")
        C, center, variances = from_file(path, _pca_of)
        k = len(C)
        width = C.shape[1] - k  # of what the PCA before gives, or the smallest model
        if not len(A) and width > 0:
            A, mean = np.eye(width), np.zeros(width)
        if width < 1 or width != len(A):
            raise ValueError(
                f"{path} is a PCA of {C.shape[1]} columns to {k}, which does not go on from "
                f"{len(A) or 'one model'}; give the files of one family, smallest "
                "first."
            )
        # z' = C [z - a; h - b] with z = A (x - mean) is C [A (x - mean - A^+ a); h - b].
        mean = np.concatenate(
            [mean + np.linalg.lstsq(A, center[:width], rcond=None)[0], center[width:]]
        )
        A = np.hstack([C[:, :width] @ A, C[:, width:]])
    k, D = A.shape
    spectrum = np.full(D, np.nan)
    spectrum[:k] = variances
    base = replace(
        base_of(k),
        residual_variances=spectrum,
        directions=np.ascontiguousarray(A.T),
        mean=mean,
    )
    return Chain(Blocks([D]), (base,), True, mean, None)


def _pca_of(state):
    """Return components, mean and variances of a naive scaler."""
    C = _get(state, "pca__components_", (None, None))
    center = _get(state, "pca__mean_", (C.shape[1],))
    variances = np.full(len(C), np.nan)
    if "pca__explained_variance_" in state:
        variances = _get(state, "pca__explained_variance_", (len(C),))
    if np.linalg.matrix_rank(C) < len(C):
        raise ValueError("its axes repeat each other")
    return C, center, variances


def base_of(width):
    """Return the first stage: the smallest model as it is, of which no file tells more."""
    return Stage(
        block="1",
        width=width,
        n_added=width,
        n_regression=0,
        explained_before=0.0,
        component_shares=np.full(width, np.nan),
        residual_variances=np.full(width, np.nan),
        directions=np.eye(width),
        coef=np.zeros((0, width)),
        mean=np.zeros(width),
        prefix_mean=np.zeros(0),
    )


def stage_of(state):
    """Return what the arrays of a file come to.

    Parameters
    ----------
    state : dict of str to ndarray

    Returns
    -------
    V, W : ndarray of shape (k_i, q) and (k_{i-1}, k_i)
        Residual directions, and coefficients of the regression.

    kept : int
        Directions of the prefix in use.

    mean, prefix_mean : ndarray of shape (k_i,) and (k_{i-1},)

    variances : ndarray of shape (k_i,)
        Of the directions that the file holds; NaN beyond.
    """
    V = _get(state, "pca__components_", (None, None)).T
    k, q = V.shape
    coef = np.atleast_2d(_get(state, "regressor__coef_"))
    mean = _get(state, "regressor__intercept_", (k,)) + _get(state, "pca__mean_", (k,))
    if "regressor__input_components_" in state:  # pcr
        kept = int(_get(state, "regressor__n_significant_pcs_").item())
        axes = _get(state, "regressor__input_components_", (None, None))
        if not 0 <= kept <= axes.shape[1]:
            raise ValueError(f"it keeps {kept} of {axes.shape[1]} components")
        W = axes[:, :kept] @ coef.T
        prefix_mean = _get(state, "regressor__input_mean_", (len(W),))
        mean = mean + _get(state, "regressor__output_mean_", (k,))
    else:
        W = coef.T
        kept, prefix_mean = len(W), np.zeros(len(W))
    variances = np.full(k, np.nan)
    if "pca__explained_variance_" in state:
        variances[:q] = _get(state, "pca__explained_variance_", (q,))
    return V, W, kept, mean, prefix_mean, variances


def _read(stream):
    """Return the plain arrays of a file; those of objects would run code on loading."""
    with zipfile.ZipFile(stream) as file:
        # Also of arrays that are not asked for: a damaged one must not be taken for objects.
        if (name := file.testzip()) is not None:
            raise ValueError(f"its {name} does not match its checksum")
        # An entry that swallows those after it, as its comment, is not noticed by zipfile.
        stream.seek(-END_OF_ZIP - len(file.comment), os.SEEK_END)
        n_entries = int.from_bytes(stream.read(END_OF_ZIP)[10:12], "little")
        if n_entries != len(file.infolist()):
            raise ValueError(f"{len(file.infolist())} of its {n_entries} arrays are there")
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if _is_plain(file, name)}


def _is_plain(file, name):
    try:
        file[name]
    except ValueError:
        return False
    return True


def _get(state, name, shape=None):
    """Return an array of finite numbers as float64; None in ``shape`` stands for any length."""
    if name not in state:
        raise ValueError(
            f"it has no array {name!r}, as those of the reverse-distillation package have; "
            f"arrays: {', '.join(sorted(state)) or 'none'}"
        )
    array = state[name]
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ValueError(f"its {name} ({array.dtype}) are not all finite numbers")
    if shape is not None and (
        len(shape) != array.ndim
        or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True))
    ):
        raise ValueError(f"its {name} has shape {array.shape} and not {shape}")
    return array.astype(np.float64)
