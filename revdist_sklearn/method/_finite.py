"""Rows with NaN or infinity, named by their place."""

import numpy as np

from ._products_torch import is_tensor


def check_finite(rows, name, columns=None):
    """Raise where a row holds NaN or infinity, naming the first place.

    Parameters
    ----------
    rows : ndarray or torch.Tensor of shape (n, D)

    name : str
        What the message calls the rows.

    columns : sequence of str or None
        Column names for the message.
    """
    if is_tensor(rows):
        if bool(rows.isfinite().all()):
            return
        rows = rows.float().cpu().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        # One sum tells for almost all input; where it overflows, each value is looked at.
        if rows.dtype.kind != "f" or np.isfinite(rows.sum()):
            return
    bad = np.argwhere(~np.isfinite(rows))
    if not len(bad):
        return
    row, column = (int(i) for i in bad[0])
    value = rows[row, column]
    what = "NaN" if np.isnan(value) else "infinity (inf)"
    label = f" ({columns[column]!r})" if columns is not None else ""
    raise ValueError(
        f"{name} contains {what}: the first of {len(bad)} such values is at row {row}, column "
        f"{column}{label}. Only finite values are allowed; leave out or impute those rows."
    )
