"""What must be known of a model class of transformers to embed proteins with it.

To add an architecture, add one entry to :data:`ARCHITECTURES`, under the ``model_type`` of
its config.json, and a small random model of it to the tests. Models without an entry are
loaded by ``AutoModel`` and must show what they are: see :data:`GENERIC`. Nothing here
imports torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ._residues import AMINO_ACIDS, RESIDUES


@dataclass(frozen=True)
class Architecture:
    """One encoder class of transformers, its alphabet and its special tokens.

    Parameters
    ----------
    model_class : str
        Name of the encoder class in transformers.

    layers : str or None
        Path of the list of layers inside the model. None: unknown, so that all layers
        run and the wanted hidden state is asked for.

    final_norm : str or None, default=None
        Path of the norm after the last layer, where there is one.

    load_options : mapping, default={}
        Further keywords of ``from_pretrained``.

    before, after : tuple of str or None, default=("<cls>",), ("<eos>",)
        Special tokens around a protein. The first of ``before`` is what pooling "cls"
        returns; where ``before`` is empty there is no such pooling. None: whatever the
        tokenizer puts there.

    pad : str, default="<pad>"
        Token that fills a batch up.

    residues : str, default=RESIDUES
        Letters the model takes, upper case.

    spellings : mapping of str to str, default={"{}": ""}
        How the vocabulary may write a residue, most wanted first; for each spelling the
        letters that are given to the model as X.

    tags : tuple of str, default=()
        Tokens of which the first that the vocabulary knows, if any, stands before all
        others: the task that some checkpoints were trained to be told.

    harmless : str, default="(?!)"
        Regular expression of weight names that play no part in hidden states, or follow
        from the configuration: a checkpoint may lack them. The default finds none.

    positions : callable, default=None
        Tokens a model of that configuration can take at most, or None.

    may_pack : bool, default=False
        Whether every residue attends to all others, however long the protein, and positions
        can be given: then proteins may share a row on a CPU (:mod:`._packed`). It is not
        found out, because local attention is like any other on proteins within its window.

    lm_class : str or None, default=None
        Class of transformers that holds this encoder as its base model, and a head that
        makes logits of the last hidden state. None: there is no such head, and no score.

    lm_head : str, default="lm_head"
        Path of the head in it.

    mask : str, default="<mask>"
        Token of a masked residue.

    causal : bool, default=False
        Whether a residue attends to those before it alone. Such models are used only where the
        user says so.

    or_tokenizer : bool, default=False
        Whether a checkpoint whose vocabulary lacks a token of ``before`` is another kind of
        model, before and after whose proteins its tokenizer puts what it does.
    """

    model_class: str
    layers: str | None
    final_norm: str | None = None
    load_options: Mapping[str, object] = field(default_factory=dict)
    before: tuple[str, ...] | None = ("<cls>",)
    after: tuple[str, ...] | None = ("<eos>",)
    pad: str = "<pad>"
    residues: str = RESIDUES
    spellings: Mapping[str, str] = field(default_factory=lambda: {"{}": ""})
    tags: tuple[str, ...] = ()
    harmless: str = "(?!)"
    positions: Callable | None = None
    may_pack: bool = False
    lm_class: str | None = None
    lm_head: str = "lm_head"
    mask: str = "<mask>"
    causal: bool = False
    or_tokenizer: bool = False

    def limit(self, config):
        """Return the residues that a model of this configuration takes at most, or None."""
        tokens = None if self.positions is None else self.positions(config)
        if tokens is None:
            return None
        if self.before is None or self.after is None:
            return tokens - 2  # most tokenizers add a start and an end
        return tokens - len(self.before) - len(self.after)


def _esm_positions(config):
    """Rotary positions (ESM-2) have no end; a table of learned ones (ESM-1b) has."""
    if config.position_embedding_type != "absolute":
        return None
    # Positions are counted from the row after the padding token's.
    return config.max_position_embeddings - config.pad_token_id - 1


def _table_of_positions(config):
    return config.max_position_embeddings


def _generic_positions(config):
    """Two rows less than the table may have: RoBERTa and its kin leave them unused."""
    rows = getattr(config, "max_position_embeddings", None)
    return rows - 2 if isinstance(rows, int) and rows > 0 else None


# Keys are the `model_type` of config.json.
ARCHITECTURES = {
    "esm": Architecture(  # ESM-2 and ESM-1b
        model_class="EsmModel",
        layers="encoder.layer",
        final_norm="encoder.emb_layer_norm_after",
        load_options={"add_pooling_layer": False},  # its weights would be random
        harmless=r"(^|\.)contact_head\.|\.inv_freq$",
        positions=_esm_positions,
        may_pack=True,
        lm_class="EsmForMaskedLM",
    ),
    "esmc": Architecture(  # ESM C
        model_class="EsmcModel",
        layers="layers",
        final_norm="norm",
        may_pack=True,
        lm_class="EsmcForMaskedLM",
    ),
    "t5": Architecture(  # the encoders of ProtT5, ProstT5 and Ankh; positions are relative
        model_class="T5EncoderModel",
        layers="encoder.block",
        final_norm="encoder.final_layer_norm",
        before=(),
        after=("</s>",),
        # ProtT5 (sentencepiece) has tokens for U, Z, O and B, but its authors wrote X for
        # them in training: the tokens' weights are as they were drawn. Ankh uses its own.
        spellings={"▁{}": "UZOB", "{}": ""},
        tags=("<AA2fold>", "[NLU]"),  # ProstT5; Ankh3
    ),
    "bert": Architecture(  # ProtBert
        model_class="BertModel",
        layers="encoder.layer",
        load_options={"add_pooling_layer": False},
        before=("[CLS]",),
        after=("[SEP]",),
        pad="[PAD]",
        spellings={"{}": "UZOB"},  # as for ProtT5
        positions=_table_of_positions,
        may_pack=True,
        lm_class="BertForMaskedLM",
        lm_head="cls",
        mask="[MASK]",
    ),
    # IgLM, told that a heavy chain of a human follows. It was trained to go on from the chain and
    # the species, and its vocabulary has the twenty amino acids alone.
    "gpt2": Architecture(
        model_class="GPT2Model",
        layers="h",
        final_norm="ln_f",
        load_options={"use_cache": False},  # keys and values that nothing goes on from
        before=("[HEAVY]", "[HUMAN]"),
        after=("[SEP]",),
        pad="[PAD]",
        residues=AMINO_ACIDS,
        harmless=r"\.attn\.(masked_)?bias$",  # masks that follow from the positions
        positions=_table_of_positions,
        causal=True,
        or_tokenizer=True,
    ),
}

# Any other encoder. Its tokenizer shows tokens and special tokens, a trial at load that
# one residue is one token, that attention looks both ways unless the user says otherwise, and that
# padding is masked.
GENERIC = Architecture(
    model_class="AutoModel",
    layers=None,
    before=None,
    after=None,
    harmless=r"(^|\.)pooler\.",
    positions=_generic_positions,
)
