"""Rows of token ids side by side."""


def fill_up(rows, pad):
    """Return rows of token ids filled up to one length, and what of them is no padding.

    Parameters
    ----------
    rows : list of ndarray of shape (n_tokens,), int64

    pad : int
        Token that fills up.

    Returns
    -------
    ids, mask : Tensor of shape (n_rows, longest), int64
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.from_numpy(row) for row in rows]
    mask = pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
    return pad_sequence(ids, batch_first=True, padding_value=pad), mask
