"""Imports that take seconds: a fork waits for those of other threads.

A module that a thread is importing when another one forks stays half there in the child, and
whoever needs it waits for ever. So what is imported late, and not under another lock that a fork
waits for, is imported under this one::

    with IMPORTS:
        import torch

Modules that are imported late may have locks of their own, for which a fork waits too: these are
told to :func:`at_fork`, which a fork that waits already heeds.
"""

import os
import threading
from contextlib import suppress
from importlib import import_module

IMPORTS = threading.RLock()
# What others have for a fork: before it, and after it in the parent and in the child.
_OTHERS: list[tuple] = []
_held = threading.local()


def at_fork(before, after_in_parent, after_in_child):
    """Have functions called around each fork, also of one that waits for imports just now.

    As :func:`os.register_at_fork`, which calls nothing before a fork that was told after it had
    begun to wait, and yet all that comes after it.

    Parameters
    ----------
    before, after_in_parent, after_in_child : callable
    """
    _OTHERS.append((before, after_in_parent, after_in_child))


def _before():
    """Take all locks: those of others first, under which nobody asks for ours."""
    _held.others, _held.imports = (), False
    while True:
        # Noted first: where Ctrl-C ends the wait, what is held is let go.
        others = _held.others = tuple(_OTHERS)
        for before, _, _ in reversed(others):
            before()
        IMPORTS.acquire()
        _held.imports = True
        if len(_OTHERS) == len(others):
            return
        _after_in_parent()  # more have come while it waited


def _let_go():
    if _held.imports:
        _held.imports = False
        IMPORTS.release()


def _after_in_parent():
    _let_go()
    for _, after, _ in _held.others:
        after()


def _after_in_child():
    _let_go()
    for _, _, after in _held.others:
        after()


# A fork calls what was registered last first; ours may wait for what starts a pool of threads or
# imports more of filelock, which need locks that theirs take: they are registered before.
import_module("concurrent.futures.thread")
with suppress(ImportError, AttributeError):  # not of each version
    import_module("filelock").FileLock  # noqa: B018 (imports what registers)
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
