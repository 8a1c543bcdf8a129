"""What figures were taken with."""

import platform
import sys
from pathlib import Path

import numpy as np
import sklearn


def versions():
    """Return the versions that figures were taken with, and the command."""
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "command": " ".join(
            [Path(sys.argv[0]).name.replace("__main__.py", "revdist"), *sys.argv[1:]]
        ),
    }
