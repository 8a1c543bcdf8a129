"""Files of a checkpoint: which there are, and how to get them from the hub."""

from pathlib import Path

from ..base._damage import damage_is_told, read_json_object
from ..base._hub import ModelNotFoundError, one_of

# From most to least wanted; an index lists the files of weights in several parts.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER_FILES = (
    *("vocab.*", "merges.txt", "*.model"),  # vocabularies; sentencepiece's is a model
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json"),
)
CONFIG_FILES = ("config.json", *TOKENIZER_FILES)
CODE_FILES = ("config.json", "*.py")


def weight_files(folder):
    """Return the paths of a folder's weights: safetensors where there are any.

    Parameters
    ----------
    folder : path
        Folder of a model.

    Returns
    -------
    files : list of Path
        One file, or all the parts that an index names.

    Raises
    ------
    ModelNotFoundError
        If there are none, or a part is missing.

    DamagedFileError
        If an index is none.
    """
    folder = Path(folder)
    name = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if name is None:
        raise ModelNotFoundError(
            f"Folder {str(folder)!r} has no weights. Expected is {one_of(WEIGHT_FILES)}, as "
            "save_pretrained of a transformers model writes it."
        )
    if not name.endswith(".index.json"):
        return [folder / name]
    way_out = "save or fetch the model again."
    index = read_json_object(folder / name, way_out)
    with damage_is_told(f"{folder / name} is damaged", way_out):
        parts = sorted({folder / _inside(part) for part in index["weight_map"].values()})
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelNotFoundError(
            f"Folder {str(folder)!r} lacks {', '.join(missing)}, which its {name} names."
        )
    return parts


def _inside(part):
    """Return the name of a part, which is a file of the folder itself."""
    if not isinstance(part, str) or part in ("", ".", "..") or set(part) & set("/\\"):
        raise ValueError(f"it names {part!r}, which is no file of its folder")
    return part


def fetch_config(repository, with_code=False):
    """Return the path of a repository's config.json, with the Python files beside it if told."""
    if with_code:
        return repository.snapshot(CODE_FILES) / "config.json"
    return repository.file("config.json")


def fetch_files(repository, with_code=False, silent=True):
    """Return the folder of a repository's configuration, vocabulary and weights."""
    wanted = [*CONFIG_FILES, "model*.safetensors", "model.safetensors.index.json"]
    if with_code:
        wanted += CODE_FILES
    # Old repositories have no safetensors; in others both would be fetched at once.
    old = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
    return repository.snapshot(wanted, silent=silent, or_else=(WEIGHT_FILES, old))
