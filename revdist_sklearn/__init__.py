"""Nested protein language model embeddings by reverse distillation, for scikit-learn."""

from importlib import import_module
from typing import TYPE_CHECKING

# Files tell by which version they were written.
__version__ = "0.1.0"

# For type checkers and editors; what runs is below.
if TYPE_CHECKING:
    from ._compact import compact
    from ._corpus import corpus_moments, fit_on_corpus
    from .base._blocks import Blocks
    from .base._damage import DamagedFileError
    from .base._formats import FormatError
    from .base._hub import ModelNotFoundError
    from .base._upload import UploadError
    from .embedding._featurizer import ESMFeaturizer
    from .embedding._plan import EmbeddingPlan
    from .library._embed_to import EmbeddingReport, embed_to
    from .library._fasta import FastaReader
    from .library._load import Embeddings, load_embeddings
    from .method._chain import Stage
    from .method._distiller import ReverseDistiller
    from .method._level import Level
    from .method._moments import Moments
    from .method._stage_figures import StageFigures
    from .method._stage_report import StageReport
    from .method._stage_report_display import StageReportDisplay
    from .prefix._curve_display import PrefixCurveDisplay
    from .prefix._ridge_classifier_cv import PrefixRidgeClassifierCV
    from .prefix._ridge_cv import PrefixRidgeCV
    from .prefix._selector import PrefixSelector
    from .variants._landscape import single_substitutions
    from .variants._landscape_display import LandscapeDisplay
    from .variants._scorer import ESMVariantScorer

__all__ = [
    "Blocks",
    "DamagedFileError",
    "ESMFeaturizer",
    "ESMVariantScorer",
    "EmbeddingPlan",
    "EmbeddingReport",
    "Embeddings",
    "FastaReader",
    "FormatError",
    "LandscapeDisplay",
    "Level",
    "ModelNotFoundError",
    "Moments",
    "PrefixCurveDisplay",
    "PrefixRidgeCV",
    "PrefixRidgeClassifierCV",
    "PrefixSelector",
    "ReverseDistiller",
    "Stage",
    "StageFigures",
    "StageReport",
    "StageReportDisplay",
    "UploadError",
    "compact",
    "corpus_moments",
    "embed_to",
    "fit_on_corpus",
    "load_embeddings",
    "single_substitutions",
]

# Where each lives. It is imported when it is first asked for: scikit-learn takes a second or
# more, in which the shell could not even be interrupted in peace.
_HOMES = {
    "compact": "_compact",
    "corpus_moments": "_corpus",
    "fit_on_corpus": "_corpus",
    "Blocks": "base._blocks",
    "DamagedFileError": "base._damage",
    "FormatError": "base._formats",
    "ModelNotFoundError": "base._hub",
    "UploadError": "base._upload",
    "ESMFeaturizer": "embedding._featurizer",
    "EmbeddingPlan": "embedding._plan",
    "EmbeddingReport": "library._embed_to",
    "embed_to": "library._embed_to",
    "FastaReader": "library._fasta",
    "Embeddings": "library._load",
    "load_embeddings": "library._load",
    "Stage": "method._chain",
    "ReverseDistiller": "method._distiller",
    "Level": "method._level",
    "Moments": "method._moments",
    "StageFigures": "method._stage_figures",
    "StageReport": "method._stage_report",
    "StageReportDisplay": "method._stage_report_display",
    "PrefixCurveDisplay": "prefix._curve_display",
    "PrefixRidgeClassifierCV": "prefix._ridge_classifier_cv",
    "PrefixRidgeCV": "prefix._ridge_cv",
    "PrefixSelector": "prefix._selector",
    "single_substitutions": "variants._landscape",
    "LandscapeDisplay": "variants._landscape_display",
    "ESMVariantScorer": "variants._scorer",
}


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
