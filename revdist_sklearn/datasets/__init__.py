"""Small real data sets that come with the package; nothing is downloaded.

One file a data set, with its description and source; ``_read`` reads ``data/``. May import
nothing of this package.
"""

from ._amyloid import load_amyloid_nucleation
from ._gb1 import load_gb1_stability
from ._uniprot import load_uniprot_sample

__all__ = ["load_amyloid_nucleation", "load_gb1_stability", "load_uniprot_sample"]
