"""``python -m revdist_sklearn``: the command line."""

import sys

from .cli._main import main

sys.exit(main())
