"""The entry point: commands, and errors as one message."""

import argparse
import os
import signal
import sys
from contextlib import suppress

from .. import __version__
from ..base._signals import SIGHUP, SIGTERM, Terminated, as_exceptions
from . import _cache, _demo, _embed, _evaluate, _fit
from ._messages import as_options, said_of, warnings_as_notes

COMMANDS = {
    "demo": _demo,
    "fit": _fit,
    "embed": _embed,
    "evaluate": _evaluate,
    "cache": _cache,
}
INTERRUPTED, TERMINATED = ("Interrupted", 130), ("Terminated", 143)


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; None takes the process's own.

    Returns
    -------
    code : int
        0; 2 where the input was at fault, 1 where this package was, 130 where it was
        interrupted and 143 where it was terminated: the message is then on standard error; 141
        where nobody reads the output.
    """
    arguments = _parser().parse_args(argv)
    command = f"revdist {arguments.command}"
    if sys.stdout is None:  # closed
        sys.stdout = open(os.devnull, "w")
    # A table is not lost for a character that the terminal does not have.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings_as_notes(), _terminable():
        try:
            COMMANDS[arguments.command].run(arguments)
            sys.stdout.flush()
        except KeyboardInterrupt as error:
            start = "\n" if sys.stderr.isatty() else ""  # after ^C and the bar
            kept = as_options(" ".join(getattr(error, "__notes__", [])))
            what, code = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
            print(f"{start}{command}: {what}. {kept}".rstrip(), file=sys.stderr)
            return code
        except BrokenPipeError:  # who read the output has gone
            _drop_output()
            return 141
        except (ValueError, TypeError, OSError, MemoryError, RuntimeError, ImportError) as error:
            if os.environ.get("REVDIST_TRACEBACK"):
                raise
            print(f"{command}: {said_of(error)}", file=sys.stderr)
            return 2
        except Exception as error:
            if os.environ.get("REVDIST_TRACEBACK"):
                raise
            print(
                f"{command}: {type(error).__name__}: {said_of(error)} This is a fault of revdist; "
                "with REVDIST_TRACEBACK=1 in the environment it shows where.",
                file=sys.stderr,
            )
            return 1
    return 0


def _terminable():
    """Make of SIGTERM and SIGHUP an exception of the main thread, as Python does of SIGINT."""
    # Of nohup, a hang-up is to be ignored.
    return as_exceptions([SIGTERM, SIGHUP], lambda handler: handler != signal.SIG_IGN)


def _drop_output():
    """Let what is left of the output go nowhere, so that the end of Python does not complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser():
    parser = argparse.ArgumentParser(
        prog="revdist",
        description="Nested protein language model embeddings by reverse distillation.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        command.add_arguments(
            commands.add_parser(name, help=command.HELP, description=command.HELP)
        )
    return parser
