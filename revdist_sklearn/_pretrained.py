"""A fitted chain as a folder of safetensors and JSON: no pickle, nothing that runs code."""

import json
import uuid
from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ._chain import Chain, Stage
from ._files import replace_file

CONFIG, WEIGHTS = "config.json", "chain.safetensors"
FORMAT = 1
ARRAYS = [f.name for f in fields(Stage) if f.type is np.ndarray]


def write_chain(folder, chain, header):
    """Write a chain and a JSON-ready header to a folder, made where it does not exist."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"mean": chain.mean}
    for name in ("base", "cross_covariance"):
        if (array := getattr(chain, name)) is not None:
            tensors[name] = array
    stages = []
    for i, stage in enumerate(chain.stages):
        tensors.update({f"stage.{i}.{name}": getattr(stage, name) for name in ARRAYS})
        stages.append({f.name: getattr(stage, f.name) for f in fields(Stage)})
        for name in ARRAYS:
            del stages[-1][name]
    config = {
        "format": FORMAT,
        "id": uuid.uuid4().hex,
        **header,
        "n_base": chain.n_base,
        "precision": chain.precision,
        "block_sizes_used": chain.block_sizes,
        "stages": stages,
    }
    text = json.dumps(config, indent=1, default=lambda array: array.tolist()) + "\n"
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    # The id tells files of two distillers apart where a fault came between them.
    metadata = {"id": config["id"]}
    replace_file(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata))
    replace_file(folder / CONFIG, lambda path: path.write_text(text))


def read_chain(folder):
    """Return the chain and the header that ``write_chain`` wrote.

    Raises
    ------
    ValueError
        If a file is damaged, or written by a newer version.
    FileNotFoundError
        If the folder holds no chain.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: it holds no distiller. Give a folder that "
                "ReverseDistiller.save_pretrained or `revdist fit` wrote, or a hub id."
            )
    try:
        config = json.loads((folder / CONFIG).read_text())
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            saved_as = (file.metadata() or {}).get("id")
        if config["format"] > FORMAT:
            raise ValueError(
                f"{folder} was written in format {config['format']}, and this version reads up "
                f"to {FORMAT}; update revdist_sklearn."
            )
        if config["id"] != saved_as:
            raise KeyError("its two files come from different distillers")
        stages = tuple(
            Stage(**{**stage, **{name: tensors[f"stage.{i}.{name}"] for name in ARRAYS}})
            for i, stage in enumerate(config["stages"])
        )
        chain = Chain(
            tuple(config["block_sizes_used"]),
            tensors.get("base"),
            config["n_base"],
            stages,
            tensors["mean"],
            tensors.get("cross_covariance"),
            config["precision"],
        )
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no complete distiller ({error!r}); save it again with "
            "ReverseDistiller.save_pretrained."
        ) from error
    return chain, config


def fetch(name, revision=None):
    """Return the folder of a distiller: a local one, or a hub repository's snapshot."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(
            snapshot_download(str(name), revision=revision, allow_patterns=[CONFIG, WEIGHTS])
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{name!r} is no folder here, and the hub did not give it "
            f"({type(error).__name__}). Check the name, or fetch it beforehand: "
            f"hf download {name}"
        ) from error
