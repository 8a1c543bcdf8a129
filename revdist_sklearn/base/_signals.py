"""SIGTERM and SIGHUP as exceptions, as Python makes one of SIGINT: what clears up does so."""

import os
import signal
import threading
from contextlib import ExitStack, contextmanager

# Those that a system has: Windows has no hang-up.
SIGTERM, SIGHUP = signal.SIGTERM, getattr(signal, "SIGHUP", None)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: what Ctrl-C leaves behind, it leaves too."""


@contextmanager
def as_exceptions(numbers, replaced):
    """Make exceptions of signals in the main thread, until the block ends.

    Parameters
    ----------
    numbers : iterable of (int or None)
        Of the signals.

    replaced : callable
        Tells of the handler that a signal has whether it gives way.

    Yields
    ------
    received : list of int
        Numbers of the signals that have come.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    process = os.getpid()

    def terminate(number, frame):
        if os.getpid() != process:  # a fork, which has nothing to clear up
            _end_by(number)
        received.append(number)
        raise Terminated

    before = {
        number: handler
        for number in numbers
        if number is not None
        # None is one that was not set by Python, and cannot be put back.
        and (handler := signal.getsignal(number)) is not None
        and replaced(handler)
    }
    for number in before:
        signal.signal(number, terminate)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back():
    """Let signals that end the process wait until the block ends, in the main thread.

    For what is quick and must not be left half done. Where a signal is ignored it stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: dict[int, None] = {}

    def send_again():
        for number in came:
            signal.raise_signal(number)

    with ExitStack() as stack:  # which ends in reverse order, whatever is raised meanwhile
        stack.callback(send_again)
        for number in (signal.SIGINT, SIGTERM, SIGHUP):
            if number is None:
                continue
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):
                stack.callback(signal.signal, number, handler)
                signal.signal(number, lambda number, frame: came.setdefault(number))
        yield


@contextmanager
def ending_in_order():
    """Have SIGTERM end the block by an exception first, and then the process, as it would have.

    Where somebody else handles it, or it is ignored, nothing changes.
    """
    with as_exceptions([SIGTERM], lambda handler: handler == signal.SIG_DFL) as received:
        try:
            yield
        finally:
            if received:
                _end_by(received[0])


def _end_by(number):
    """End this process by a signal's default action."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
