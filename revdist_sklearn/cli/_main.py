"""The entry point: commands, and errors as one message."""

import argparse
import os
import signal
import sys
from contextlib import suppress

from .. import __version__
from ..base._signals import as_exceptions
from ..base._text import visible
from . import _cache, _demo, _embed, _evaluate, _fit, _info, _predict
from ._messages import as_options, said_of, say, warnings_as_notes
from ._signals import ENDS

COMMANDS = {
    "demo": _demo,
    "fit": _fit,
    "embed": _embed,
    "evaluate": _evaluate,
    "predict": _predict,
    "info": _info,
    "cache": _cache,
}
# Errors of the input and of the machine; others are those of this package.
AT_FAULT = (ValueError, TypeError, OSError, MemoryError, RuntimeError, ImportError)


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
    arguments = _arguments(argv)
    command = f"revdist {arguments.command}"
    if sys.stdout is None:  # closed
        sys.stdout = open(os.devnull, "w")
    # A table is not lost for a character that the terminal does not have.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Of nohup, a hang-up is to be ignored, and Ctrl-C of what runs in the background.
    signals = as_exceptions(ENDS, lambda handler: handler != signal.SIG_IGN)
    with warnings_as_notes(), signals as struck:
        try:
            COMMANDS[arguments.command].run(arguments)
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            # Of an interrupt in the midst of an import, libraries make errors of their own.
            if struck or isinstance(error, KeyboardInterrupt):
                start = "\n" if sys.stderr.isatty() else ""  # after ^C and the bar
                kept = as_options(" ".join(getattr(error, "__notes__", [])))
                what, code = ENDS[struck[0] if struck else signal.SIGINT]
                say(f"{start}{command}: {what}. {kept}".rstrip(), file=sys.stderr)
                return code
            return _fault(command, error)
    return 0


def _fault(command, error):
    """Say what went wrong, and return the code."""
    if isinstance(error, BrokenPipeError):  # who read the output has gone
        _drop_output()
        return 141
    if os.environ.get("REVDIST_TRACEBACK"):
        raise error
    if isinstance(error, AT_FAULT):
        say(f"{command}: {said_of(error)}", file=sys.stderr)
        return 2
    say(
        f"{command}: {type(error).__name__}: {said_of(error)} This is a fault of revdist; "
        "with REVDIST_TRACEBACK=1 in the environment it shows where.",
        file=sys.stderr,
    )
    return 1


def _drop_output():
    """Let what is left of the output go nowhere, so that the end of Python does not complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """One whose errors show arguments as a terminal can."""

    def error(self, message):
        super().error(visible(message, keep="\n"))


def _arguments(argv):
    """Return the arguments; an option that a command does not know is told with its usage."""
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _parser():
    parser = _Parser(
        prog="revdist",
        description="Nested protein language model embeddings by reverse distillation.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        of_command = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            epilog=f"Example: {command.EXAMPLE}",
        )
        of_command.set_defaults(parser=of_command)
        command.add_arguments(of_command)
    return parser
