"""What must be known of a model class of transformers to embed proteins with it.

To add an architecture, add an entry to :data:`ARCHITECTURES`, and to the test models of
``tests/conftest.py`` a random checkpoint: the tests compare every entry with a plain forward
pass of transformers.  Models of other classes go by :data:`GENERIC`, which asks their own
tokenizer and `AutoModel` instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ._sequences import RESIDUES


def no_limit(config):
    """Return None: rotary or relative positions have no end.

    Parameters
    ----------
    config : PretrainedConfig

    Returns
    -------
    tokens : None
    """
    return None


def position_table(config):
    """Return the tokens that a table of learned positions holds (BERT).

    Parameters
    ----------
    config : PretrainedConfig

    Returns
    -------
    tokens : int
    """
    return config.max_position_embeddings


def esm_positions(config):
    """Return the tokens ESM-1b can take, or None for the rotary positions of ESM-2.

    Parameters
    ----------
    config : PretrainedConfig

    Returns
    -------
    tokens : int or None
    """
    if config.position_embedding_type != "absolute":
        return None
    # Positions are counted from the row after the padding token's.
    return config.max_position_embeddings - config.pad_token_id - 1


def any_config(config):
    """Return True: the `model_type` says it all.

    Parameters
    ----------
    config : PretrainedConfig

    Returns
    -------
    belongs : bool
    """
    return True


@dataclass(frozen=True)
class Architecture:
    """One entry of the table.

    Parameters
    ----------
    model_type : str
        As in config.json.
    model_class : str
        Name of the encoder class in transformers.
    layers, final_norm : str or None
        Path of the list of layers, and of the norm after the last of them, inside the model.
        None for `layers`: unknown, the wanted hidden state is picked from all of them.
    belongs : callable
        Whether a configuration of that `model_type` is of this entry.
    load_options : mapping, default={}
        Further keywords of ``from_pretrained``.
    before, after : tuple of str or None
        Special tokens around a protein; the first is what pooling "cls" returns.  None: as
        the tokenizer has them.
    pad : str or None
        Token that fills a batch up.  None: as the tokenizer has it.
    residues : str, default=RESIDUES
        Letters that are taken, upper case.
    as_unknown : str, default=""
        Letters that go in as X, as the authors of the models do it.
    positions : callable, default=no_limit
        From the configuration to the tokens a model can take at most, or None.
    harmless : str, default="(?!)"
        Regular expression of weight names that play no part in hidden states, or follow
        from the configuration: a checkpoint may lack them.  The default finds none.
    """

    model_type: str
    model_class: str
    layers: str | None
    final_norm: str | None
    belongs: Callable = any_config
    load_options: Mapping[str, object] = field(default_factory=dict)
    before: tuple[str, ...] | None = ("<cls>",)
    after: tuple[str, ...] | None = ("<eos>",)
    pad: str | None = "<pad>"
    residues: str = RESIDUES
    as_unknown: str = ""
    positions: Callable = no_limit
    harmless: str = "(?!)"

    def limit(self, config):
        """Return the residues a model can take at most, or None.

        Parameters
        ----------
        config : PretrainedConfig

        Returns
        -------
        residues : int or None
        """
        tokens = self.positions(config)
        if tokens is None:
            return None
        return tokens - len(self.before or ()) - len(self.after or ())


T5 = Architecture(
    model_type="t5",
    model_class="T5EncoderModel",
    layers="encoder.block",
    final_norm="encoder.final_layer_norm",
    before=(),  # no start token
    after=("</s>",),
)

ARCHITECTURES = {
    "esm": Architecture(  # ESM-2 and ESM-1b
        model_type="esm",
        model_class="EsmModel",
        layers="encoder.layer",
        final_norm="encoder.emb_layer_norm_after",
        load_options={"add_pooling_layer": False},  # its weights would be random
        positions=esm_positions,
        harmless=r"^contact_head\.|\.inv_freq$",
    ),
    "esmc": Architecture(  # ESM C
        model_type="esmc",
        model_class="EsmcModel",
        layers="layers",
        final_norm="norm",
    ),
    # Both T5; ProtT5 came first and is not gated.  Of Ankh's letters all have been trained.
    "prott5": replace(T5, belongs=lambda config: not config.is_gated_act, as_unknown="UZOB"),
    "ankh": replace(T5, belongs=lambda config: config.is_gated_act),
    "protbert": Architecture(
        model_type="bert",
        model_class="BertModel",
        layers="encoder.layer",
        final_norm=None,
        load_options={"add_pooling_layer": False},
        before=("[CLS]",),
        after=("[SEP]",),
        pad="[PAD]",
        as_unknown="UZOB",
        positions=position_table,
    ),
}

# Any other model that AutoModel loads and whose tokenizer makes one token of one residue.
GENERIC = Architecture(
    model_type="",
    model_class="AutoModel",
    layers=None,
    final_norm=None,
    before=None,
    after=None,
    pad=None,
)


def architecture_of(config):
    """Return the key of a configuration's architecture, None for :data:`GENERIC`.

    Parameters
    ----------
    config : PretrainedConfig

    Returns
    -------
    key : str or None

    Examples
    --------
    >>> from transformers import T5Config
    >>> from revdist_sklearn._architectures import architecture_of
    >>> architecture_of(T5Config(feed_forward_proj="gated-gelu"))
    'ankh'
    """
    for key, architecture in ARCHITECTURES.items():
        if architecture.model_type == config.model_type and architecture.belongs(config):
            return key
    return None
