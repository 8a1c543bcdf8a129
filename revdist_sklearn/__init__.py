"""Nested protein language model embeddings by reverse distillation, for scikit-learn."""

# Before the imports: files tell by which version they were written.
__version__ = "0.1.0"

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
from .prefix._curve_display import PrefixCurveDisplay
from .prefix._ridge_classifier_cv import PrefixRidgeClassifierCV
from .prefix._ridge_cv import PrefixRidgeCV
from .prefix._selector import PrefixSelector

__all__ = [
    "Blocks",
    "DamagedFileError",
    "ESMFeaturizer",
    "EmbeddingPlan",
    "EmbeddingReport",
    "Embeddings",
    "FastaReader",
    "FormatError",
    "Level",
    "ModelNotFoundError",
    "Moments",
    "PrefixCurveDisplay",
    "PrefixRidgeCV",
    "PrefixRidgeClassifierCV",
    "PrefixSelector",
    "ReverseDistiller",
    "Stage",
    "UploadError",
    "compact",
    "corpus_moments",
    "embed_to",
    "fit_on_corpus",
    "load_embeddings",
]
