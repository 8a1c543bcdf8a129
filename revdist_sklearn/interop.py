"""Distillers that the authors of the method have published."""

import os
import re
import warnings
from pathlib import Path

import numpy as np

from .base._aliases import FAMILIES
from .base._blocks import Blocks
from .base._hub import HubRepository, check_token_name, is_hub_id, no_such_folder
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
        several settings, or not those of one family, are given.

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
        state = _read(path)
        V, pca_mean = _get(state, path, "pca__components_").T, _get(state, path, "pca__mean_")
        coef = np.atleast_2d(_get(state, path, "regressor__coef_"))
        intercept = _get(state, path, "regressor__intercept_")
        if "regressor__input_components_" in state:  # pcr
            kept = int(_get(state, path, "regressor__n_significant_pcs_"))
            W = _get(state, path, "regressor__input_components_")[:, :kept] @ coef.T
            prefix_mean = _get(state, path, "regressor__input_mean_")
            mean = intercept + _get(state, path, "regressor__output_mean_") + pca_mean
        else:
            W = coef.T
            kept, prefix_mean, mean = len(W), np.zeros(len(W)), intercept + pca_mean
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
        variances = np.full(len(V), np.nan)  # of the directions that the file holds
        known = state.get("pca__explained_variance_", variances[: V.shape[1]])
        variances[: V.shape[1]] = known
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


def _read(path):
    with np.load(path, allow_pickle=False) as file:
        # Arrays of objects would run code on loading; the needed ones are all plain.
        return {name: file[name] for name in file.files if _is_plain(file, name)}


def _is_plain(file, name):
    try:
        file[name]
    except ValueError:
        return False
    return True


def _get(state, path, name):
    if name not in state:
        raise ValueError(
            f"{path} has no array {name!r}; it is no scaler of the reverse-distillation package "
            f"(arrays: {', '.join(sorted(state)) or 'none'})."
        )
    return np.asarray(state[name], dtype=np.float64)
