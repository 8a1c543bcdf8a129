"""A loaded model with its alphabet: the forward pass of a batch."""

import math
import threading
import weakref

import numpy as np

from ..base._threads import one_thread_of_torch
from ..base._torch import is_of_one_dnn
from ._batch import fill_up
from ._device import CPU_TOKENS, RESIDENTS
from ._head import HEAD, ROWS
from ._residues import AMINO_ACIDS, MASKED

# All there are, for a fork to wait for.
ENCODERS: weakref.WeakSet = weakref.WeakSet()


class Encoder:
    """A loaded model with its alphabet: from sequences to hidden states.

    Parameters
    ----------
    model : torch.nn.Module
        The encoder, in evaluation mode.

    alphabet : Alphabet
        Its tokens.

    width : int
        Columns of one of its hidden states; those of several layers are side by side.

    device : torch.device or None, default=None
        Where it runs, and is put when it does: see :class:`Residents`. None: where the
        model is and must stay, because of a ``device_map`` or quantisation.

    layer : int, tuple of int or None, default=None
        Hidden states to ask for; None: the model gives the wanted ones as its last.

    n_layers : int, default=1
        Hidden states that are wanted.

    Attributes
    ----------
    device : torch.device
        Where it runs.

    is_placed : bool
        Whether it must stay there.

    files : dict
        Marks of the files that it was loaded from.

    itemsize : int
        Bytes of a number in what it computes in.

    n_parameters : int
        Numbers that it has learned, as far as they run.

    residues : str
        Letters it knows, upper case.

    pad : int
        Token that fills a batch up.

    source : str
        What messages call it.

    square_bytes : int
        Bytes that grow with the square of a padded protein's tokens: see
        :func:`square_bytes`.

    packing : True or str
        True if proteins share a row of tokens by all of the fast path of :mod:`._packed` or
        :mod:`._varlen`; else what of it does not run, and why.

    is_told : bool
        Whether a user who wants to hear of it has been told.

    is_broken : bool
        Whether it fails from now on, so that it must be loaded anew.

    looks_back : bool
        Whether a residue attends to those before it alone.

    lock : threading.RLock
        Held while a batch runs: one at a time.
    """

    def __init__(self, model, alphabet, width, device=None, *, layer=None, n_layers=1):
        ENCODERS.add(self)
        self.model = model
        self.is_placed = device is None
        self.device = model.device if device is None else device
        self.files: dict = {}
        self.width = width
        self.itemsize = model.dtype.itemsize
        self.n_parameters = sum(tensor.numel() for tensor in model.parameters())
        self._packed = None
        self.packing = "not tried"
        self.is_told = self.is_broken = self.looks_back = False
        self.residues = "".join(alphabet.residues)
        self.layer, self.n_layers = layer, n_layers
        self.source = alphabet.source
        self.square_bytes = square_bytes(model, self.device.type)
        self._before = np.array(alphabet.before, dtype=np.int64)
        self._after = np.array(alphabet.after, dtype=np.int64)
        self.pad = alphabet.pad
        # Older versions of transformers keep the rotary tables of the last batch in the model.
        self.lock = threading.RLock()
        # One token a letter: indexing with the bytes of a sequence gives its token ids.
        self._table = np.full(128, -1, dtype=np.int64)
        for residue, token in alphabet.residues.items():
            self._table[ord(residue)] = token
        self._amino_acids: list[int] = []  # tokens of what a head tells

    def pack(self):
        """Look for the fast path of :mod:`._packed`, on a GPU of :mod:`._varlen`."""
        if self.device.type == "cpu":
            from ._packed import pack

            self._packed, self.packing = pack(self.model, self.tokenize, AMINO_ACIDS, self.pad)
            return
        import torch

        from ._varlen import pack as pack_on_gpu

        with RESIDENTS.room_for(self), torch.inference_mode():
            self._packed, self.packing = pack_on_gpu(
                self.model, self.tokenize, AMINO_ACIDS, self.pad
            )

    @property
    def packed(self):
        """Whether batches need no padding, so that they may mix lengths."""
        return self._packed is not None

    @property
    def n_specials(self):
        """Special tokens added to each sequence."""
        return len(self._before) + len(self._after)

    @property
    def has_start(self):
        """Whether a special token stands before the residues, as pooling "cls" needs."""
        return len(self._before) > 0

    @property
    def has_mask(self):
        """Whether residues can be masked: it has a head, and its vocabulary a token for them."""
        return bool(self._table[ord(MASKED)] >= 0)

    def tokenize(self, sequence):
        """Return the token ids of one checked sequence, special tokens included.

        Parameters
        ----------
        sequence : str
            Upper-case residues.

        Returns
        -------
        ids : ndarray of shape (n_residues + n_specials,), int64

        Raises
        ------
        ValueError
            If the model has no token for a letter.
        """
        ids = self._table[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]
        if ids.size and ids.min() < 0:
            raise ValueError(
                f"Model {self.source!r} has no token for {sequence[ids.argmin()]!r}; it knows "
                f"{self.residues}. Write another residue in its place, or drop the sequence."
            )
        return np.concatenate([self._before, ids, self._after])

    def __call__(self, sequences):
        """Return the hidden states of a batch, in float32 whatever the model computes in.

        Parameters
        ----------
        sequences : list of str
            Checked sequences, best of similar lengths where the model is not ``packed``.

        Returns
        -------
        residues : list of Tensor of shape (n_residues, n_layers * width)
            States of the residues alone: no special token, no padding.

        first : Tensor of shape (n_sequences, n_layers * width)
            States of the first token: the start token where the model has one.
        """
        import torch

        rows = [self.tokenize(sequence) for sequence in sequences]
        threads = one_thread_of_torch(self._operations(rows))
        with self.lock, RESIDENTS.room_for(self), threads, torch.inference_mode():
            states = self._padded(rows) if self._packed is None else self._in_one_row(rows)
        start, end = len(self._before), len(self._after)
        residues = [s[start : len(row) - end] for s, row in zip(states, rows, strict=True)]
        return residues, torch.stack([s[0] for s in states])

    def add_head(self, head, alphabet):
        """Take a language-model head, and with it the letter of a masked residue.

        After :meth:`pack`, which looks at states alone.

        Parameters
        ----------
        head : torch.nn.Module
            From last hidden states to logits of the vocabulary.

        alphabet : Alphabet
            Without a mask residues cannot be masked.
        """
        self.model.add_module(HEAD, head)
        self._amino_acids = [alphabet.residues[residue] for residue in AMINO_ACIDS]
        if alphabet.mask is not None:
            self._table[ord(MASKED)] = alphabet.mask

    def log_probabilities(self, states):
        """Return what the head says of residues, by their states.

        Parameters
        ----------
        states : Tensor of shape (n_residues, width)
            Last hidden states.

        Returns
        -------
        log_probabilities : Tensor of shape (n_residues, 20), float32
            Natural logarithms, in the order of ``AMINO_ACIDS``; the softmax runs over these
            letters alone.
        """
        import torch

        head = self.model.get_submodule(HEAD)
        threads = one_thread_of_torch(self._operations([states]))
        parts = []
        with self.lock, RESIDENTS.room_for(self), threads, torch.inference_mode():
            for part in states.split(ROWS):
                logits = head(part.to(self.model.device, self.model.dtype))
                parts.append(logits[:, self._amino_acids].float().log_softmax(-1))
            return torch.cat(parts)

    def _operations(self, rows):
        """Return the multiplications of the largest product of a batch; endless off the CPU."""
        if self.device.type != "cpu":
            return math.inf
        # Small batches count as whole ones: they take as long to read the weights.
        tokens = max(CPU_TOKENS, sum(map(len, rows)))
        of_layer = tokens * self.width * 4 * self.width
        return max(of_layer, max(map(len, rows)) ** 2 * self.width)

    def _in_one_row(self, rows):
        """Return the states by the packed path, without oneDNN from where that fails on."""
        assert self._packed is not None
        if self.device.type != "cpu":
            return self._packed(rows)
        try:
            return self._packed(rows)
        except RuntimeError as error:
            if not is_of_one_dnn(error):
                raise
            failed = error.with_traceback(None)  # which holds on to tensors
        from ._packed import GELU, ONE_DNN, but_without

        try:
            if not self._packed.without_one_dnn():
                raise failed
        except BaseException:
            self.is_broken = True  # some layers may be on oneDNN still
            raise
        self.packing = but_without([f"{ONE_DNN} ({failed})", GELU], self.packing)
        return self._packed(rows)

    def _padded(self, rows):
        """Return the states of a batch whose rows are filled up to one length."""
        ids, mask = (x.to(self.model.device) for x in fill_up(rows, self.pad))
        # Without padding there is nothing to mask, and attention without a mask is faster.
        no_padding = all(len(row) == len(rows[0]) for row in rows)
        return self._states(ids, None if no_padding else mask).float()

    def _states(self, ids, mask):
        if self.layer is None:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        if not isinstance(self.layer, tuple):
            return out.hidden_states[self.layer]
        import torch

        states = list(out.hidden_states)
        # Of some classes the last one is not normed among the hidden ones.
        last = getattr(out, "last_hidden_state", None)
        states[-1] = states[-1] if last is None else last
        return torch.cat([states[number] for number in self.layer], dim=-1)


def square_bytes(model, device_type="cuda"):
    """Return the bytes that grow with the square of the tokens of a padded protein.

    Parameters
    ----------
    model : torch.nn.Module
        A model of transformers.

    device_type : str, default="cuda"

    Returns
    -------
    n_bytes : int
        Of a protein and squared token. A mask is there as it is and in the model's type;
        biases by relative position (T5) once a head and once more with the mask; and the
        scores, where no fused attention does without them, before and after the softmax,
        which is in float32.
    """
    config, itemsize = model.config, model.dtype.itemsize
    heads = next(
        (
            getattr(config, name)
            for name in ("num_attention_heads", "num_heads")
            if isinstance(getattr(config, name, None), int)
        ),
        1,
    )
    of_a_head = 0
    if hasattr(config, "relative_attention_num_buckets"):
        of_a_head += 2 * itemsize
    attention = getattr(config, "_attn_implementation", None) or "eager"
    if attention == "eager" or device_type != "cuda":
        of_a_head += 3 * itemsize + 4
    return heads * of_a_head + itemsize + 1
