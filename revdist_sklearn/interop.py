"""Distillers that the authors of the method have published."""

import os
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np

from .base._aliases import FAMILIES
from .base._blocks import Blocks
from .base._damage import damage_is_told
from .base._hub import HubRepository, is_hub_id, no_such_folder
from .base._secrets import check_token_name
from .method._chain import Chain, Stage
from .method._distiller import ReverseDistiller

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


def load_published_scalers(
    source=PUBLISHED, *, setting=None, revision=None, local_files_only=False, token=None
):
    """Return a fitted ReverseDistiller from the published scalers of a family.

    The files are those of the authors' package ``reverse-distillation``: one ``.npz`` a
    stage, of any of its regressors (``linear``, ``ridge``, ``pcr``) and PCA types. Their
    names say which models they join, such as ``rd-scaler-8M-35M-pcr-incremental-1k.npz``, and
    so decide the order.

    Parameters
    ----------
    source : str, path-like or sequence of path-like, default=PUBLISHED
        A folder of such files, the id of a hub repository (the authors' own by default), or
        the files of stages 2 to m. Files of other names are taken in the order given.

    setting : str, default=None
        Which of several settings to take: regressor, PCA type and number of training
        sequences as the names have them. None: the only one of a folder, and
        ``"pcr-incremental-1k"`` of a repository, as the authors' package does.

    revision : str, default=None
        Commit, tag or branch of the repository.

    local_files_only : bool, default=False
        Never ask the hub; use what was downloaded before.

    token : str, default=None
        Name of the environment variable that holds the hub's access token.

    Returns
    -------
    distiller : ReverseDistiller
        Its ``transform`` gives what the authors' inference gives on the models' embeddings
        side by side. The files hold no covariance across models, so that
        ``inverse_transform`` is not available, and of stages after the base the explained
        shares are NaN.

    Raises
    ------
    ValueError
        If a file lacks an array, its widths do not follow on those before, or files of
        several settings, or not those of one family, are given. As :exc:`DamagedFileError`,
        if it is damaged: its checksums, those of zip files, do not match, or an array is none
        of finite numbers, or of another shape than the others ask for.

    ModelNotFoundError
        If there is neither such a folder nor such a repository.

    References
    ----------
    Catrina, Bepler, Sledzieski, Singh, "Reverse Distillation: Consistently Scaling Protein
    Language Model Representations", ICLR 2026, arXiv:2603.07710.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from revdist_sklearn.interop import load_published_scalers
    >>> arrays = {
    ...     "regressor__coef_": np.ones((3, 2)), "regressor__intercept_": np.zeros(3),
    ...     "pca__components_": np.eye(1, 3), "pca__mean_": np.zeros(3),
    ... }
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(os.path.join(folder, "rd-scaler-8M-35M-linear-fbpca-1k.npz"), **arrays)
    ...     load_published_scalers(folder).transform([[1.0, 2.0, 10.0, 0.0, 0.0]])
    array([[1., 2., 7.]])
    """
    paths = _find(source, setting, revision, local_files_only, token)
    stages: list[Stage] = []
    sizes: list[int] = []
    for number, path in enumerate(paths, start=2):
        what, way_out = f"{path} is no whole scaler", "fetch or save it again."
        # Whatever it raises: a zip's flags lead to any compression, encryption or shape.
        with open(path, "rb") as stream, damage_is_told(what, way_out, Exception):
            V, W, kept, mean, prefix_mean, variances = _stage_of(_read(stream))
        if not stages:
            sizes.append(len(W))
            stages.append(_base(len(W)))
        expected = stages[-1].width
        if len(W) != expected or len(V) != W.shape[1]:
            raise ValueError(
                f"{path} regresses {len(V)} columns on {len(W)}, but the stage before ends at "
                f"{expected}; give the files of one family, smallest first."
            )
        sizes.append(len(V))
        stages.append(
            Stage(
                block=str(number),
                width=len(W) + V.shape[1],
                n_added=V.shape[1],
                n_regression=kept,
                explained_before=np.nan,
                component_shares=np.full(V.shape[1], np.nan),
                residual_variances=variances,
                directions=V,
                coef=W @ V,
                mean=mean,
                prefix_mean=prefix_mean,
            )
        )
    blocks = Blocks(sizes)
    residual_sizes = tuple(stage.n_added for stage in stages[1:])
    grows = residual_sizes == tuple(np.diff(sizes))
    mean = np.concatenate([np.zeros(sizes[0]), *(stage.mean for stage in stages[1:])])
    distiller = ReverseDistiller(blocks.sizes, residual_sizes=None if grows else residual_sizes)
    return distiller._with_chain(
        Chain(blocks, tuple(stages), False, mean, None),
        blocks=blocks,
        stage_sizes=(sizes[0], *residual_sizes),
        n_samples_seen=0,
    )


def load_reference_scalers(paths):
    """Return ``load_published_scalers(paths)``, with a warning: this is its former name.

    Parameters
    ----------
    paths : sequence of path-like

    Returns
    -------
    distiller : ReverseDistiller
    """
    warnings.warn(
        "load_reference_scalers is now called load_published_scalers, and will go by the old name "
        "no more from version 0.3 on.",
        FutureWarning,
        stacklevel=2,
    )
    return load_published_scalers(paths)


def _find(source, setting, revision, local_files_only, token):
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
            folder = repository.snapshot([f"*rd-scaler-*-{setting}.npz"], silent=False)
            folder = folder / "weights" if (folder / "weights").is_dir() else folder
        paths = [path for path in sorted(folder.iterdir()) if NAME.fullmatch(path.name)]
        if not paths:
            raise ValueError(
                f"{folder} holds no scalers of reverse distillation, which have names such as "
                f"rd-scaler-8M-35M-{DEFAULT_SETTING}.npz."
            )
        # A PCA of models side by side may lie beside them; it keeps no prefix.
        nested = [path for path in paths if not path.name.startswith("naive")]
        paths = _of_setting(nested or paths, setting)
    else:
        paths = [Path(path) for path in source]
        if not paths:
            raise ValueError(
                "paths is empty; give the file of each stage from the second model on."
            )
        paths = _of_setting(paths, setting)
    return _in_order(paths)


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
    if any(match["kind"] == "naive" for _, match in named):
        raise ValueError(
            f"{paths[0].parent} has scalers of the kind 'naive': a PCA of models side by side, "
            "which keeps no prefix and is no chain. Give those of the kind 'rd'."
        )
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


def _base(width):
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


def _stage_of(state):
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
