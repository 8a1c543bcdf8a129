import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import revdist_sklearn
from revdist_sklearn.base import _signals
from revdist_sklearn.base._signals import Terminated, as_exceptions, ending_in_order, held_back

ROOT = Path(revdist_sklearn.__file__).parents[1]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def run(script):
    script = "import os, signal\nfrom revdist_sklearn.base._signals import *\n" + script
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_block_ends_by_an_exception_and_then_the_process_by_the_signal():
    ended = run(
        """
with ending_in_order():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        print("goes on", flush=True)
    finally:
        print("cleared up", flush=True)
"""
    )
    assert ended.returncode == -signal.SIGTERM
    assert (ended.stdout, ended.stderr) == ("cleared up\n", "")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_handlers_of_others_stay(handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with ending_in_order():
            assert signal.getsignal(signal.SIGTERM) is handler
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_was_there_comes_back_and_other_threads_change_nothing():
    with ending_in_order():
        assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    found = []

    def work():
        with ending_in_order():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def test_one_exception_for_several_signals_is_told_by_number():
    numbers = [signal.SIGTERM, signal.SIGHUP]
    for number in numbers:
        with as_exceptions(numbers, lambda handler: True) as received, pytest.raises(Terminated):
            os.kill(os.getpid(), number)
        assert received == [number]
    assert issubclass(Terminated, KeyboardInterrupt)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_ends_by_the_signal_at_once():
    ended = run(
        """
with ending_in_order():
    child = os.fork()
    if child == 0:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            print("cleared up", flush=True)
            os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert (ended.returncode, ended.stdout) == (0, f"{-signal.SIGTERM}\n")


def test_signals_wait_for_the_end_of_a_block_and_all_come(monkeypatch):
    came = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: came.append(number))
        handlers = [signal.getsignal(number) for number in before]
        with held_back():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                signal.raise_signal(number)
            assert came == []
        assert came == [signal.SIGTERM, signal.SIGINT]
        assert [signal.getsignal(number) for number in before] == handlers
        with pytest.raises(OSError, match="full"), held_back():
            raise OSError("full")
        assert [signal.getsignal(number) for number in before] == handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_between_two_handlers_leaves_all_as_they_were(monkeypatch):
    """One that raises comes after the first handler has given way."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    put, calls = signal.signal, []

    def interrupted(number, handler):
        found = put(number, handler)
        calls.append(number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(_signals.signal, "signal", interrupted)
    with pytest.raises(KeyboardInterrupt), held_back():
        pass
    monkeypatch.undo()
    assert {number: signal.getsignal(number) for number in before} == before
