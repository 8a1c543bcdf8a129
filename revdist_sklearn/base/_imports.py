"""Imports that take seconds: a fork waits for those of other threads.

A module that a thread is importing when another one forks stays half there in the child, and
whoever needs it waits for ever. So what is imported late, and not under another lock that a fork
waits for, is imported under this one::

    with IMPORTS:
        import torch
"""

import os
import threading
from importlib import import_module

IMPORTS = threading.RLock()

# A fork calls what was registered last first; ours may wait for what starts a pool of threads,
# which needs the lock that those of pools take: they are registered before.
import_module("concurrent.futures.thread")
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=IMPORTS.acquire, after_in_parent=IMPORTS.release, after_in_child=IMPORTS.release
    )
