"""``revdist cache info | clear``: a look at a cache of embeddings, and an end of it."""

import os
from pathlib import Path

from ..base._units import as_size
from ..embedding._cache import cache_info, clear_cache
from ._messages import say
from ._options import MOMENTS_FILES

HELP = "look after a cache of embeddings"
EXAMPLE = "revdist cache info embeddings"


def add_arguments(parser):
    """Add the two actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    for name, act, text in (
        ("info", lambda arguments: info(arguments.folder), "list what a cache holds"),
        ("clear", _clear, "remove a cache; other files of the folder stay"),
    ):
        example = f"Example: revdist cache {name} embeddings"
        action = actions.add_parser(name, help=text, description=text, epilog=example)
        action.set_defaults(act=act)
        action.add_argument("folder", help="the `cache_dir` of the featurizer (--cache-dir)")


def run(arguments):
    """Do what the action says."""
    arguments.act(arguments)


def info(folder):
    """Print what the cache of a folder holds."""
    spaces, size = cache_info(folder)
    moments = _moments_of(folder)
    if not spaces:
        say(f"No embeddings in {folder}.")
    for space in spaces:
        if "damaged" in space:
            say(f"Not known: {space['n_sequences']:,} sequences; {space['damaged']}")
            continue
        # Of other origin than a featurizer it may tell less.
        facts = [str(space.get("dtype"))]
        facts += [f"{name} {space.get(name)}" for name in ("layer", "pooling")]
        facts += [f"window {space['window']}"] if space.get("window") is not None else []
        say(
            f"{space.get('model')} ({', '.join(facts)}): {space['n_sequences']:,} sequences, "
            f"{as_size(space['n_bytes'])}"
        )
    if moments:
        of_moments = sum(path.stat().st_size for path in moments)
        say(f"Moments of corpora: {len(moments)}, {as_size(of_moments)}")
        size += of_moments
    if size:
        say(f"On disk: {as_size(size)}")


def _clear(arguments):
    size = clear_cache(arguments.folder)
    for path in _moments_of(arguments.folder):
        size += path.stat().st_size
        path.unlink()
    say(f"Freed in {arguments.folder}: {as_size(size)}")


def _moments_of(folder):
    return sorted(Path(os.path.expanduser(folder)).glob(MOMENTS_FILES))
