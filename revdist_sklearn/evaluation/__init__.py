"""Tables of measured variants: what is in them, how they are split, and how predictions score.

``_cells`` the file as columns of text; ``_mutations`` names of mutations and what follows from
them; ``_targets`` what was measured; ``_table`` the reader, which gives ``Variants`` or
``Residues``; ``_splits`` training and test rows; ``_metrics``. May import base, models,
embedding, method, prefix, variants and the modules on top.
"""
