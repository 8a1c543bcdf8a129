"""Warnings that point at the line of the user."""

import sys
import warnings
from types import FrameType

# Frames of these packages are not the user's.
OURS = ("revdist_sklearn", "sklearn", "joblib")


def warn(message, category=UserWarning):
    """Warn, naming the innermost line that is neither of this package nor of scikit-learn."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level if frame is not None else 2)
