"""``python -m revdist_sklearn``: the command line."""

import sys

from .cli._start import main

if __name__ == "__main__":
    sys.exit(main())
