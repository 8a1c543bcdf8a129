"""Distillers that the authors of the method have published, and files of skops.

What this package fits goes through joblib, pickle and ``skops.io``. The last runs no code of the
file, and asks which types are trusted::

    skops.io.dump(model, "model.skops")
    model = skops.io.load("model.skops", trusted=TRUSTED_TYPES)

A search keeps the splitter that it was given: of ``cv=GroupKFold(5)`` its class stands beside
these, ``trusted=[*TRUSTED_TYPES, "sklearn.model_selection._split.GroupKFold"]``. Which classes a
file asks for, ``skops.io.get_untrusted_types(file="model.skops")`` tells.
"""

import warnings

import numpy as np

from ._published import PUBLISHED, base_of, find, from_file, kind_of, naive_chain, stage_of
from .base._blocks import Blocks
from .method._chain import Chain, Stage, apply_chain
from .method._distiller import ReverseDistiller

# The classes of what this package fits, for skops; loading them runs none of their code.
TRUSTED_TYPES = [
    "revdist_sklearn.base._blocks.Blocks",
    "revdist_sklearn.embedding._featurizer.ESMFeaturizer",
    "revdist_sklearn.method._chain.Chain",
    "revdist_sklearn.method._chain.Stage",
    "revdist_sklearn.method._distiller.ReverseDistiller",
    "revdist_sklearn.method._level.Level",
    "revdist_sklearn.method._moments.Moments",
    "revdist_sklearn.method._sample.Sample",
    "revdist_sklearn.prefix._ridge_classifier_cv.PrefixRidgeClassifierCV",
    "revdist_sklearn.prefix._ridge_cv.PrefixRidgeCV",
    "revdist_sklearn.prefix._ridge_path.Leverage",
    "revdist_sklearn.prefix._selector.PrefixSelector",
    "revdist_sklearn.variants._scorer.ESMVariantScorer",
]


def load_published_scalers(
    source=PUBLISHED, *, setting=None, revision=None, local_files_only=False, token=None
):
    """Return a fitted ReverseDistiller from the published scalers of a family.

    The files are those of the authors' package ``reverse-distillation``: one ``.npz`` a
    stage, of any of its regressors (``linear``, ``ridge``, ``pcr``) and PCA types
    (``incremental``, ``fbpca``). Their names say which models they join, such as
    ``rd-scaler-8M-35M-pcr-incremental-1k.npz``, and so decide the order. Those of the kind
    ``naive`` are a PCA of two models side by side, the next one a PCA of what it gives and the
    third model, and so on.

    Parameters
    ----------
    source : str, path-like or sequence of path-like, default=PUBLISHED
        A folder of such files, the id of a hub repository (the authors' own by default), or
        the files of stages 2 to m. Files of other names are taken in the order given.

    setting : str, default=None
        Which of several settings to take: regressor, PCA type and number of training
        sequences as the names have them; naive ones have ``"None"`` for a regressor, as
        ``"None-incremental-1k"``. None: the only one of a folder (naive ones count where there
        are no others), and ``"pcr-incremental-1k"`` of a repository, as the authors' package
        does.

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
        shares are NaN. Of naive scalers it has one block of all columns, turned to axes of
        theirs (``rotate_base=True``): no prefix of it is a model, and each needs all models.

    See Also
    --------
    regression_inputs : On what each stage's regression was trained, as far as files tell.
    regression_scores : How well each regression predicts on rows.

    Notes
    -----
    The paper's chain is accumulated: stage i regresses on the embedding that stage i - 1 gives.
    The authors' training script fits that regression on the smaller model's own embedding
    instead, and their inference applies it to the accumulated one, as this function must. With
    two models the two are the same. From the third on the prediction can be worse than none:
    on one real chain of three models its R2 was -36 on other rows, and .82 where the stage was
    fitted on what it is applied to. No column of the smaller models is lost by it, but the
    columns that a stage appends are then not what its model adds. :func:`regression_inputs`
    tells from ``pcr`` files which of the two they are, and :func:`regression_scores` shows on
    rows what it costs.

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
    paths = find(source, setting, revision, local_files_only, token)
    if any(kind_of(path) == "naive" for path in paths):
        chain = naive_chain(paths)
        D = chain.blocks.n_columns
        distiller = ReverseDistiller((D,), n_components=chain.width, rotate_base=True)
        return distiller._with_chain(
            chain, blocks=chain.blocks, stage_sizes=(D,), n_samples_seen=0
        )
    stages: list[Stage] = []
    sizes: list[int] = []
    for number, path in enumerate(paths, start=2):
        V, W, kept, mean, prefix_mean, variances = from_file(path, stage_of)
        if not stages:
            sizes.append(len(W))
            stages.append(base_of(len(W)))
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


def regression_inputs(distiller):
    """Return on what the regression of each stage was trained, as far as its numbers tell.

    A regression of a chain should be trained on the embedding that the stage before gives, and
    published ones were trained on the smaller model's own: see Notes of
    :func:`load_published_scalers`. The two have different means, which ``pcr`` keeps.

    Parameters
    ----------
    distiller : ReverseDistiller
        Fitted or loaded.

    Returns
    -------
    inputs : list of str, length n_stages
        ``"base"`` for the first; ``"prefix"``: the embedding of the stage before, as in the
        paper (of the second stage that is the smallest model); ``"model"``: the smaller model's
        own embedding; ``"unknown"``: numbers of neither, as of ``linear`` and ``ridge`` files,
        which keep no mean.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import ReverseDistiller
    >>> from revdist_sklearn.interop import regression_inputs
    >>> rows = np.random.default_rng(0).normal(size=(99, 9)) + 1
    >>> regression_inputs(ReverseDistiller((2, 3, 4)).fit(rows))
    ['base', 'prefix', 'prefix']
    """
    first, *larger = distiller.stages_
    fitted_here = distiller._chain.cross_covariance is not None
    found, before = ["base"], first
    for stage in larger:
        if before is first or fitted_here:
            found.append("prefix")
        else:
            found.append(_trained_on(stage, before))
        before = stage
    return found


def _trained_on(stage, before):
    """Return which of two means that of a regression is: the other one is far off."""
    kept = stage.prefix_mean
    if not kept.any() or kept.shape != before.mean.shape:
        return "unknown"
    # Columns that a stage appends have mean zero.
    appended = np.zeros(len(kept) - len(before.prefix_mean))
    from_model = np.linalg.norm(kept - before.mean)
    from_prefix = np.linalg.norm(kept - np.concatenate([before.prefix_mean, appended]))
    if 3 * from_model < from_prefix:
        return "model"
    return "prefix" if 3 * from_prefix < from_model else "unknown"


def regression_scores(distiller, X):
    """Return how well the regression of each stage predicts what the stage appends.

    Of a stage with residual directions V, this is the R2 of the prediction of (h - mean) V, the
    model's coordinates along them, from the embedding z before it: 1 less the ratio of the mean
    square of the stage's columns to the variance of these coordinates. A chain that is fitted
    on what it is applied to scores from 0 to 1 on its own rows; far below 0, a regression does
    worse than the mean, as those of published scalers from the third model on can: see Notes of
    :func:`load_published_scalers`.

    Parameters
    ----------
    distiller : ReverseDistiller
        Fitted or loaded.

    X : array-like of shape (n_samples, n_features)
        Embeddings of the family side by side, best residues that the fit did not see.

    Returns
    -------
    scores : list of float, length n_stages
        NaN for the base, which has no regression, and for a stage whose coordinates do not
        vary.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import ReverseDistiller
    >>> from revdist_sklearn.interop import regression_scores
    >>> rng = np.random.default_rng(0)
    >>> small = rng.normal(size=(300, 2))
    >>> large = small @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(300, 4))
    >>> rows = np.hstack([small, large])
    >>> [round(score, 1) for score in regression_scores(ReverseDistiller((2, 4)).fit(rows), rows)]
    [nan, 1.0]
    """
    X = distiller._validate_rows(X, reset=False).astype(np.float64)
    Z = apply_chain(distiller._solved(), X)  # in the order of stages
    scores = []
    for stage, columns in zip(distiller.stages_, distiller.blocks_.slices, strict=False):
        h = (X[:, columns] - stage.mean) @ stage.directions
        total = np.sum((h - h.mean(axis=0)) ** 2)
        left = np.sum(Z[:, stage.width - stage.n_added : stage.width] ** 2)
        known = stage.n_regression > 0 and total > 0
        scores.append(float(1 - left / total) if known else float("nan"))
    return scores


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
