"""Distillers that the authors of the method have published."""

from pathlib import Path

import numpy as np

from ._chain import Chain, Stage
from ._distiller import ReverseDistiller


def load_reference_scalers(paths):
    """Return a fitted ReverseDistiller from the published scalers of a family.

    The files are those of the authors' package ``reverse-distillation``: one ``.npz`` a
    stage, of any of its regressors (``linear``, ``ridge``, ``pcr``) and PCA types.

    Parameters
    ----------
    paths : sequence of path-like
        The files of stages 2 to m, smallest first.

    Returns
    -------
    distiller : ReverseDistiller
        Its ``transform`` gives what the authors' inference gives on the models' embeddings
        side by side. The files hold no covariance across models, so that
        ``inverse_transform`` is not available, and the explained shares are NaN.

    Raises
    ------
    ValueError
        If a file lacks an array, or its widths do not follow on those before.

    References
    ----------
    Catrina, Bepler, Sledzieski, Singh, "Reverse Distillation: Consistently Scaling Protein
    Language Model Representations", ICLR 2026, arXiv:2603.07710.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from revdist_sklearn.interop import load_reference_scalers
    >>> arrays = {
    ...     "regressor__coef_": np.ones((3, 2)), "regressor__intercept_": np.zeros(3),
    ...     "pca__components_": np.eye(1, 3), "pca__mean_": np.zeros(3),
    ... }
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "stage.npz")
    ...     np.savez(path, **arrays)
    ...     load_reference_scalers([path]).transform([[1.0, 2.0, 10.0, 0.0, 0.0]])
    array([[1., 2., 7.]])
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise ValueError("paths is empty; give the file of each stage from the second model on.")
    stages: list[Stage] = []
    sizes: list[int] = []
    means: list[np.ndarray] = []
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
        if not sizes:
            sizes.append(len(W))
            means.append(np.zeros(len(W)))
        expected = stages[-1].width if stages else sizes[0]
        if len(W) != expected or len(V) != W.shape[1]:
            raise ValueError(
                f"{path} regresses {len(V)} columns on {len(W)}, but the stage before ends at "
                f"{expected}; give the files of one family, smallest first."
            )
        width = len(W) + V.shape[1]
        sizes.append(len(V))
        means.append(mean)
        stages.append(
            Stage(
                block=str(number),
                width=width,
                n_components=V.shape[1],
                n_components_nonzero=int(np.any(V, axis=0).sum()),
                n_regression=kept,
                explained_before=np.nan,
                component_shares=np.full(V.shape[1], np.nan),
                residual_variances=np.asarray(
                    state.get("pca__explained_variance_", np.full(V.shape[1], np.nan))
                ),
                directions=V,
                coef=W @ V,
                mean=mean,
                prefix_mean=prefix_mean,
            )
        )
    residual_sizes = tuple(stage.n_components for stage in stages)
    grows = residual_sizes == tuple(np.diff(sizes))
    distiller = ReverseDistiller(tuple(sizes), residual_sizes=None if grows else residual_sizes)
    return distiller._with_chain(
        Chain(tuple(sizes), None, sizes[0], tuple(stages), np.concatenate(means), None),
        block_sizes=tuple(sizes),
        block_names=None,
        stage_sizes=(sizes[0], *residual_sizes),
        n_samples_seen=0,
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
