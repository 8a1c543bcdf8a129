"""The first step of the shell: a signal ends it with one line, also while it is imported.

Imports nothing before that but ``_signals``.
"""

import os
import sys
from contextlib import suppress

from ._signals import ENDS, handle


def main():
    """Run the command line of this process; see ``main`` of ``_main``."""
    handle(_end)
    from ._main import main

    return main()


def _end(number, frame):
    """End at once: there is nothing yet, or no more, to clear up.

    Not by an exception, which libraries that are being imported catch or turn into others.
    """
    command = sys.argv[1] if sys.argv[1:] and sys.argv[1].isalpha() else ""
    what, code = ENDS[number]
    with suppress(OSError):
        start = "\n" if os.isatty(2) else ""  # after ^C
        os.write(2, f"{start}{f'revdist {command}'.strip()}: {what}.\n".encode())
    os._exit(code)
