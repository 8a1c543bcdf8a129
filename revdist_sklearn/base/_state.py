"""Estimators that an older version has pickled."""

from inspect import signature


def set_missing_parameters(estimator):
    """Give an estimator the defaults of parameters that its pickle does not know.

    A parameter is added with a default that does what was done without it.

    Parameters
    ----------
    estimator : BaseEstimator
    """
    known = vars(estimator)
    for name, parameter in signature(type(estimator).__init__).parameters.items():
        if name not in known and parameter.default is not parameter.empty:
            setattr(estimator, name, parameter.default)
