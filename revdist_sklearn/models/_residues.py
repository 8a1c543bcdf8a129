"""The letters of proteins."""

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
AMBIGUOUS = "XBZUO"  # unknown, D or N, E or Q, selenocysteine, pyrrolysine
RESIDUES = AMINO_ACIDS + AMBIGUOUS
