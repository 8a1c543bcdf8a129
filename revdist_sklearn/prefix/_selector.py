"""The first columns of a nested embedding."""

from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.feature_selection import SelectorMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data


class PrefixSelector(SelectorMixin, BaseEstimator):
    """Keep the first columns of a nested embedding.

    Every prefix of a reverse-distilled embedding is a usable embedding; as a step of a
    pipeline this makes its width a parameter to search over, while the distiller stays as it
    is.

    Parameters
    ----------
    n_components : int, default=None
        Number of leading columns to keep. None keeps all.

    Attributes
    ----------
    n_components_ : int
        Number of columns kept.

    n_features_in_ : int
        Number of columns seen by ``fit``.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where they are all strings.

    See Also
    --------
    ReverseDistiller : Makes nested embeddings; its ``truncate`` cuts a fitted one.

    Examples
    --------
    >>> import numpy as np
    >>> from revdist_sklearn import PrefixSelector
    >>> PrefixSelector(2).fit_transform(np.arange(6.0).reshape(2, 3))
    array([[0., 1.],
           [3., 4.]])
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, n_components=None):
        self.n_components = n_components

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Learn the number of columns.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.

        y : None
            Ignored.

        Returns
        -------
        self : PrefixSelector

        Raises
        ------
        ValueError
            If ``n_components`` is larger than the number of columns.
        """
        X = validate_data(self, X)
        if self.n_components is not None and self.n_components > X.shape[1]:
            raise ValueError(
                f"n_components={self.n_components} is larger than the {X.shape[1]} columns of "
                f"X; use an integer in [1, {X.shape[1]}] or None."
            )
        self.n_components_ = X.shape[1] if self.n_components is None else self.n_components
        return self

    def _get_support_mask(self):
        check_is_fitted(self)
        return np.arange(self.n_features_in_) < self.n_components_
