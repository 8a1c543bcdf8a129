"""Models of transformers as encoders of proteins: from a name to hidden states.

``_residues`` letters; ``_architectures`` what each model class needs; ``_checkpoint`` files;
``_family`` members of a family; ``_alphabet`` letters to tokens; ``_device`` where models run;
``_fingerprint`` what weights are; ``_layers`` several hidden states of one pass; ``_encoder``
the forward pass; ``_batch``, ``_packed`` and, on a GPU, ``_varlen`` how proteins share it;
``_loading`` the registry of loaded models. May import base.
"""
