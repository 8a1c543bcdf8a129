"""Language-model heads: what a model says of a masked residue.

A head takes the last hidden state as the encoder gives it, so that the encoder's own paths,
batches and windows serve, and only the residues that are asked for go through the head.
"""

# Where an encoder holds its head: it goes where the model goes.
HEAD = "language_head"
# Residues that go through a head at a time: logits are of the whole vocabulary.
ROWS = 4096
# Share of the residues that ESM's training masked: what is not masked is scaled by the rest.
MASKED_IN_TRAINING = 0.15 * 0.8


def check_head(member):
    """Raise where a model's architecture has no masked-language-model head.

    Parameters
    ----------
    member : Member

    Raises
    ------
    ValueError
        It says what can be used instead.
    """
    if member.architecture.lm_class is None:
        raise ValueError(
            f"Model {member.source!r} ({member.model_type!r}) has no masked-language-model head "
            "that this package knows, so that it gives no variant score: encoders of T5 (ProtT5, "
            "ProstT5, Ankh) were trained without one, and decoders (IgLM, ProtGPT2) tell what "
            "follows, not what is masked. Its embeddings remain (ESMFeaturizer, whose `reference` "
            "subtracts the wild type, and which takes decoders with causal=True); for scores use "
            "ESM-2, ESM-1b, ESM C or ProtBert."
        )


def check_mask(encoder):
    """Raise where residues are to be masked, and the vocabulary has no token for them."""
    if not encoder.has_mask:
        raise ValueError(
            f"The vocabulary of {encoder.source!r} has no mask token, so that no residue can be "
            "masked, as score='masked' and 'pseudo_likelihood' do. Use score='wild_type' or "
            "'mutant', which mask none; or save the model's own vocabulary beside it."
        )


def missing_head(member, missing):
    """Return the message that a checkpoint lacks weights of its head.

    Parameters
    ----------
    member : Member

    missing : str
        Names of the weights.
    """
    return (
        f"The checkpoint {member.source!r} has no weights of a language-model head ({missing}): "
        "they would be random. It was saved from an encoder alone; save it from a "
        f"{member.architecture.lm_class}, or use its embeddings (ESMFeaturizer), which need no "
        "head."
    )


def count_masks_by_protein(model, start):
    """Have ESM's token dropout count the masks of each protein, not those of a row.

    ESM sets the embedding of a masked residue to zero and scales the others by the share of
    the row that is not masked. In a row that proteins share, and that is filled up with another,
    that would be the share of all of them. This does the same by protein; without masks, and
    with one protein a row, it gives the model's own numbers, bit for bit.

    Parameters
    ----------
    model : torch.nn.Module
        An encoder; one without token dropout is left as it is.

    start : int
        Token with which each protein begins.
    """
    embeddings = getattr(model, "embeddings", None)
    if embeddings is None or not getattr(embeddings, "token_dropout", False):
        return
    mask, pad = embeddings.mask_token_id, embeddings.padding_idx

    def dropped(module, inputs, output):
        """Return the embeddings, those of masked residues zero and the others scaled."""
        (ids,) = inputs
        protein = (ids == start).flatten().cumsum(0)
        n_proteins = int(protein[-1]) + 1
        is_masked, is_there = (ids == mask).flatten(), (ids != pad).flatten()
        n_masked = is_masked.new_zeros(n_proteins, dtype=protein.dtype)
        n_there = n_masked.clone()
        n_masked.index_add_(0, protein, is_masked.to(protein.dtype))
        n_there.index_add_(0, protein, is_there.to(protein.dtype))
        share = (n_masked.float() / n_there)[protein].view(*ids.shape, 1)
        kept = output.masked_fill((ids == mask).unsqueeze(-1), 0.0)
        return (kept * (1 - MASKED_IN_TRAINING) / (1 - share)).to(output.dtype)

    embeddings.token_dropout = False
    embeddings.word_embeddings.register_forward_hook(dropped)
