"""Equality of values that hold arrays."""

import numpy as np


def same(a, b):
    """Return whether two values are equal, arrays entry by entry; NaN equals NaN."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        nan_counts = a.dtype.kind in "fc" and b.dtype.kind in "fc"
        return bool(np.array_equal(a, b, equal_nan=nan_counts))
    return bool(a == b or (a != a and b != b))
