"""The entry point: commands, and errors as one message."""

import argparse
import sys

from .. import __version__
from . import _cache, _demo, _embed, _evaluate, _fit

COMMANDS = {
    "demo": _demo,
    "fit": _fit,
    "embed": _embed,
    "evaluate": _evaluate,
    "cache": _cache,
}


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; None takes the process's own.

    Returns
    -------
    code : int
        0, or 2 where the input was at fault: the message is then on standard error.
    """
    arguments = _parser().parse_args(argv)
    try:
        COMMANDS[arguments.command].run(arguments)
    except (ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
        print(f"revdist {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


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
