"""Nested protein language model embeddings by reverse distillation, for scikit-learn."""

from ._compact import compact
from ._corpus import corpus_moments, fit_on_corpus
from ._distiller import ReverseDistiller
from ._featurizer import ESMFeaturizer
from ._hub import ModelNotFoundError
from ._moments import Moments
from ._prefix import PrefixSelector
from ._prefix_curve import PrefixCurveDisplay
from ._prefix_ridge import PrefixRidgeCV
from ._prefix_ridge_classifier import PrefixRidgeClassifierCV

__all__ = [
    "ESMFeaturizer",
    "ModelNotFoundError",
    "Moments",
    "PrefixCurveDisplay",
    "PrefixRidgeCV",
    "PrefixRidgeClassifierCV",
    "PrefixSelector",
    "ReverseDistiller",
    "compact",
    "corpus_moments",
    "fit_on_corpus",
]

__version__ = "0.1.0"
