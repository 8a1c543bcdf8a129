"""A fitted chain as a folder of safetensors and JSON: no pickle, nothing that runs code."""

import json
import uuid
from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..base._blocks import Blocks
from ..base._files import replace_file
from ..base._formats import (
    DISTILLER,
    PARAMETERS,
    STAGE_FIELDS,
    FormatError,
    check_format,
    renamed,
)
from ..base._hub import HubRepository, check_token_name, is_hub_id, no_such_folder
from ._chain import Chain, Stage, principal_directions

CONFIG, WEIGHTS = "config.json", "chain.safetensors"
ARRAYS = [f.name for f in fields(Stage) if f.type is np.ndarray]


def check_folder(folder):
    """Raise unless a distiller may be written to a folder: a new or empty one, or a distiller's.

    Hidden files do not count. A distiller is known by its weights; files that are damaged, or
    the half of one, are there to be replaced, but never the configuration of a model.

    Parameters
    ----------
    folder : path-like

    Raises
    ------
    OSError
        If it is a file, or holds something else.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a distiller is a folder. Name another.")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if names and (WEIGHTS not in names or _is_of_a_model(folder / CONFIG)):
        shown = ", ".join(names[:10]) + (", .." if len(names) > 10 else "")
        raise FileExistsError(
            f"The folder {folder} holds something else than a distiller ({shown}), of which "
            f"{CONFIG} would be overwritten or mixed up. Name a new or an empty folder."
        )


def _is_of_a_model(path):
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(written, dict) and "stages" not in written and "model_type" in written


def write_chain(folder, chain, header):
    """Write a chain and a JSON-ready header to a folder, made where it does not exist.

    Raises
    ------
    OSError
        As ``check_folder``, or if it cannot be written.
    """
    folder = Path(folder)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"mean": chain.mean}
    if chain.cross_covariance is not None:
        tensors["cross_covariance"] = chain.cross_covariance
    stages = []
    for i, stage in enumerate(chain.stages):
        tensors.update({f"stage.{i}.{name}": getattr(stage, name) for name in ARRAYS})
        stages.append({f.name: getattr(stage, f.name) for f in fields(Stage)})
        for name in ARRAYS:
            del stages[-1][name]
    config = {
        "format": DISTILLER,
        "id": uuid.uuid4().hex,
        **header,
        "rotated": bool(chain.rotated),
        "precision": chain.precision,
        "chain_block_sizes": chain.blocks.sizes,
        "chain_block_names": chain.blocks.names,
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
    FormatError
        If a newer version has written it.

    ValueError
        If a file is damaged.

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
        number = check_format(config["format"], DISTILLER, str(folder))
        if config["id"] != saved_as:
            raise KeyError("its two files come from different distillers")
        config["parameters"] = renamed(config["parameters"], PARAMETERS, number)
        config["stages"] = [renamed(stage, STAGE_FIELDS, number) for stage in config["stages"]]
        if number == 1:
            config, tensors = _with_base(config, tensors)
        stages = tuple(
            Stage(**{**stage, **{name: tensors[f"stage.{i}.{name}"] for name in ARRAYS}})
            for i, stage in enumerate(config["stages"])
        )
        chain = Chain(
            Blocks(config["chain_block_sizes"], config["chain_block_names"]),
            stages,
            config["rotated"],
            tensors["mean"],
            tensors.get("cross_covariance"),
            config["precision"],
        )
    except FormatError:
        raise
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(folder, error) from error
    return chain, config


def damaged(folder, error):
    """Return the error that the files of a folder are not whole, for what was found wrong."""
    return ValueError(
        f"{folder} holds no complete distiller ({error!r}); save it again with "
        "ReverseDistiller.save_pretrained."
    )


def _with_base(config, tensors):
    """Return configuration and tensors of format 1 with the base as the first of the stages.

    That format kept the axes of a turned base alone. What else is told of a base follows from
    the covariance of its block, which is part of cov(x, z) unless that was cut or is missing.
    """
    sizes, n_base = config["block_sizes_used"], config["n_base"]
    names = config["block_names"] and config["block_names"][: len(sizes)]
    k1, rotated = sizes[0], "base" in tensors
    K = tensors.get("cross_covariance")
    V = tensors["base"] if rotated else np.eye(k1, n_base)
    variances, shares = np.full(k1, np.nan), np.full(n_base, np.nan)
    if K is not None and n_base == k1:
        H = K[:k1, :k1] @ V.T if rotated else K[:k1, :k1]
        variances = principal_directions((H + H.T) / 2)[0]
        shares = np.sum(V * (H @ V), axis=0)
        shares = shares / variances.sum() if variances.sum() > 0 else shares
    base = {
        "component_shares": shares,
        "residual_variances": variances,
        "directions": V,
        "coef": np.zeros((0, n_base)),
        "mean": tensors["mean"][:k1],
        "prefix_mean": np.zeros(0),
    }
    after = {}
    for name, array in tensors.items():
        if name.startswith("stage."):
            _, i, field = name.split(".")
            name = f"stage.{int(i) + 1}.{field}"
        after[name] = array
    first = {
        "block": names[0] if names else "1",
        "width": n_base,
        "n_added": n_base,
        "n_regression": 0,
        "explained_before": 0.0,
    }
    config = {
        **config,
        "rotated": rotated,
        "chain_block_sizes": sizes,
        "chain_block_names": names,
        "stages": [first, *config["stages"]],
    }
    return config, {**after, **{f"stage.0.{name}": array for name, array in base.items()}}


def fetch(name, revision=None, local_files_only=False, token=None):
    """Return the folder of a distiller: a local one, or a hub repository's snapshot.

    Raises
    ------
    ModelNotFoundError
        If it is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(str(name)):
        raise no_such_folder("Distiller", name)
    check_token_name(token)
    repository = HubRepository(str(name), revision, local_files_only, token, "Distiller")
    return repository.snapshot([CONFIG, WEIGHTS], silent=False)
