"""From sequences to rows: of proteins, pooled, and of residues.

``_sequences`` checks and batches; ``_pooling``; ``_cache`` rows on disk, ``_cache_place`` those
that wait for it; ``_member_run`` one model over many sequences; ``_plan`` what a featurizer's
parameters come to; ``_workers``; ``_protein_rows`` and ``_residue_rows``; ``_featurizer`` the
transformer, ``_family_estimator`` what it shares with others. May import base and models.
"""
