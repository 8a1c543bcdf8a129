"""``revdist cache info | clear``: a look at a cache of embeddings, and an end of it."""

from ..embedding._cache import cache_info, clear_cache

HELP = "look after a cache of embeddings"


def add_arguments(parser):
    """Add the two actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    for name, act, text in (
        ("info", _info, "list what a cache holds"),
        ("clear", _clear, "remove a cache; other files of the folder stay"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(act=act)
        action.add_argument("folder", help="the `cache_dir` of the featurizer (--cache-dir)")


def run(arguments):
    """Do what the action says."""
    arguments.act(arguments)


def _info(arguments):
    spaces, size = cache_info(arguments.folder)
    if not spaces:
        print(f"No embeddings in {arguments.folder}.")
        return
    for space in spaces:
        # Of other origin than a featurizer it may tell less.
        facts = [str(space.get("dtype"))]
        facts += [f"{name} {space.get(name)}" for name in ("layer", "pooling")]
        facts += [f"window {space['window']}"] if space.get("window") is not None else []
        print(
            f"{space.get('model')} ({', '.join(facts)}): {space['n_sequences']:,} sequences, "
            f"{_megabytes(space['n_bytes'])}"
        )
    print(f"On disk: {_megabytes(size)}")


def _clear(arguments):
    print(f"Freed: {_megabytes(clear_cache(arguments.folder))}")


def _megabytes(size):
    return f"{size / 1e6:,.1f} MB"
