"""The letters of proteins."""

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
AMBIGUOUS = "XBZUO"  # unknown, D or N, E or Q, selenocysteine, pyrrolysine
RESIDUES = AMINO_ACIDS + AMBIGUOUS
MASKED = "?"  # a residue that a model is to tell; never taken from users
