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
    """Have signals handled by a function, as far as this thread may, and they are not ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDS:
        # Of nohup, a hang-up is to be ignored, and Ctrl-C of what runs in the background.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
