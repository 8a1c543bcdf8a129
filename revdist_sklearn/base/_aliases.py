"""Aliases of families: which models they stand for, and how wide these are.

A table and nothing else: neither disk nor network is asked. To add an alias, add an entry to
``FAMILIES``; what a model's architecture needs is in ``models/_architectures.py``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ._blocks import Blocks


@dataclass(frozen=True)
class Family:
    """An alias: its members by size, in ascending width.

    Models whose widths do not ascend (ProtT5, ProtBert) have none: they go by hub id.

    Parameters
    ----------
    model_type : str
        Key of ``ARCHITECTURES`` in ``models/_architectures.py``.

    members : mapping of str to (str, int, int)
        Size to model (hub id, or name of a bundled folder), width and number of layers.

    default : str
        Last member where the alias names no size.

    bundled : bool, default=False
        Whether the weights are part of this package.

    distiller : str or None, default=None
        Folder of a distiller of all members that is part of this package.
    """

    model_type: str
    members: Mapping[str, tuple[str, int, int]]
    default: str
    bundled: bool = False
    distiller: str | None = None

    def up_to(self, size):
        """Return the members up to a size, smallest first, as (source, width, depth)."""
        sizes = [key.lower() for key in self.members]
        return list(self.members.values())[: sizes.index(size.lower()) + 1]


BUNDLED = Path(__file__).parents[1] / "weights"

FAMILIES = {
    "esm2-nano": Family(
        "esm",
        {
            "32": ("esm2_nano_032", 32, 2),
            "64": ("esm2_nano_064", 64, 3),
            "96": ("esm2_nano_096", 96, 4),
        },
        default="96",
        bundled=True,
        distiller="esm2_nano_distiller",
    ),
    "esm2": Family(
        "esm",
        {
            "8M": ("facebook/esm2_t6_8M_UR50D", 320, 6),
            "35M": ("facebook/esm2_t12_35M_UR50D", 480, 12),
            "150M": ("facebook/esm2_t30_150M_UR50D", 640, 30),
            "650M": ("facebook/esm2_t33_650M_UR50D", 1280, 33),
            "3B": ("facebook/esm2_t36_3B_UR50D", 2560, 36),
            "15B": ("facebook/esm2_t48_15B_UR50D", 5120, 48),
        },
        default="650M",  # 3B and 15B are downloads of 11 and 61 GB: ask for them by name
    ),
    "esmc": Family(
        "esmc",
        {
            "300M": ("biohub/ESMC-300M", 960, 30),
            "600M": ("biohub/ESMC-600M", 1152, 36),
            "6B": ("biohub/ESMC-6B", 2560, 80),
        },
        default="600M",
    ),
    "ankh": Family(
        "t5",
        {
            "base": ("ElnaggarLab/ankh-base", 768, 48),
            "large": ("ElnaggarLab/ankh-large", 1536, 48),
        },
        default="large",
    ),
}


def find_alias(models):
    """Return the family and the last size that an alias names, or None for what is no alias.

    Raises
    ------
    ValueError
        If the family has no such size.

    Examples
    --------
    >>> from revdist_sklearn.base._aliases import find_alias
    >>> find_alias("esm2:150M")[1], find_alias("acme/model")
    ('150M', None)
    """
    if not isinstance(models, str):
        return None
    name, colon, size = models.partition(":")
    family = FAMILIES.get(name.lower())
    if family is None:
        return None
    size = size if colon else family.default
    if size.lower() not in map(str.lower, family.members):
        raise ValueError(f"Unknown size {size!r} of family {name!r}. {known_aliases()}")
    return family, size


def alias_blocks(alias):
    """Return the blocks of an alias.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> from revdist_sklearn.base._aliases import alias_blocks
    >>> print(alias_blocks("esm2-nano:64"))
    esm2_nano_032 (32), esm2_nano_064 (64)
    """
    found = find_alias(alias)
    if found is None:
        raise ValueError(f"{alias!r} is no alias of a family. {known_aliases()}")
    family, size = found
    sources, widths, _ = zip(*family.up_to(size), strict=True)
    return Blocks(widths, [block_name(source) for source in sources])


def bundled_model(name):
    """Return the folder of a model that is part of this package, None for another name.

    Examples
    --------
    >>> from revdist_sklearn.base._aliases import bundled_model
    >>> bundled_model("esm2_nano_064").is_dir(), bundled_model("acme")
    (True, None)
    """
    names = {m for f in FAMILIES.values() if f.bundled for m, _, _ in f.members.values()}
    return BUNDLED / name if name in names else None


def public_name(source):
    """Return what to write for a member so that it is found elsewhere too.

    Parameters
    ----------
    source : str
        Folder or hub id.

    Returns
    -------
    name : str
        The name of a model that is part of this package; others as they are.

    Examples
    --------
    >>> from revdist_sklearn.base._aliases import bundled_model, public_name
    >>> public_name(str(bundled_model("esm2_nano_064"))), public_name("acme/model")
    ('esm2_nano_064', 'acme/model')
    """
    name = Path(source).name
    return name if str(bundled_model(name)) == source else source


def bundled_distiller(name):
    """Return the folder of the distiller of an alias, and the columns that it asks for.

    Parameters
    ----------
    name : str

    Returns
    -------
    found : (Path, int) or None
        None for what is no alias, or for one whose distiller is no part of this package.

    Raises
    ------
    ValueError
        If the family has no such size.

    Examples
    --------
    >>> from revdist_sklearn.base._aliases import bundled_distiller
    >>> folder, width = bundled_distiller("esm2-nano:64")
    >>> folder.name, width
    ('esm2_nano_distiller', 64)
    """
    found = find_alias(name)
    if found is None or found[0].distiller is None:
        return None
    family, size = found
    return BUNDLED / family.distiller, family.up_to(size)[-1][1]


def known_distillers():
    """Return a sentence that lists the aliases whose distillers are part of this package."""
    aliases = "; ".join(
        f"'{name}' ({', '.join(f'{name}:{size}' for size in family.members)})"
        for name, family in FAMILIES.items()
        if family.distiller is not None
    )
    return f"Distillers that are part of this package: {aliases}."


def alias_of(models, n_members):
    """Return the alias of the first members of an alias, None if ``models`` is none.

    Examples
    --------
    >>> from revdist_sklearn.base._aliases import alias_of
    >>> alias_of("esm2:650M", 2)
    'esm2:35M'
    """
    found = find_alias(models)
    if found is None:
        return None
    family, _ = found
    return f"{models.partition(':')[0].lower()}:{list(family.members)[n_members - 1]}"


def known_aliases():
    """Return a sentence that lists all aliases with their sizes."""
    aliases = "; ".join(
        f"'{name}' ({', '.join(f'{name}:{size}' for size in family.members)})"
        for name, family in FAMILIES.items()
    )
    return f"Known aliases, each with the sizes it can end at: {aliases}."


def block_name(source, taken=()):
    """Return the last component, free of double underscores and not among ``taken``."""
    last = re.sub(r"[^\w.-]", "_", source.rpartition("/")[2])
    name = re.sub("__+", "_", last).strip("_") or "model"
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique
