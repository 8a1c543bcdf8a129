"""The signals that end the shell. Imports nothing that takes time."""

import signal
import threading

# What is said and returned, by the signal; those that a system does not have are left out.
ENDS = {
    getattr(signal, name): end
    for name, end in (
        ("SIGINT", ("Interrupted", 130)),
        ("SIGTERM", ("Terminated", 143)),
        ("SIGHUP", ("Terminated", 143)),
    )
    if hasattr(signal, name)
}


def handle(handler):
    """Have signals handled by a function in place of what does so now, and return that.

    Parameters
    ----------
    handler : callable or dict
        One for all signals, or each one's own.

    Returns
    -------
    before : dict
        Empty in a thread that may not do it.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    # Of nohup, a hang-up is to be ignored, and Ctrl-C of what runs in the background.
    before = {n: signal.getsignal(n) for n in ENDS if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler[number] if isinstance(handler, dict) else handler)
    return before
