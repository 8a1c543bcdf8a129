"""A fitted chain as one safetensors file in a folder: no pickle, nothing that runs code.

All of it is in ``chain.safetensors``: header, arrays and their digest, so that the folder holds
the old distiller or the new one, whenever its writer is killed. ``config.json`` is a copy of
the header for people and for the hub, and for older versions of this package, which find there
that they are too old. It is not read, except beside files of formats 1 and 2.
"""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from ..base._aliases import bundled_distiller, known_distillers
from ..base._blocks import Blocks
from ..base._damage import (
    damage_is_told,
    integer,
    integers,
    one_of,
    read_text,
    strings,
)
from ..base._files import make_folder, replace_file
from ..base._formats import (
    DIGEST_SINCE,
    DISTILLER,
    ORDER_SINCE,
    PARAMETERS,
    ROUNDED_SINCE,
    STAGE_FIELDS,
    check_format,
    renamed,
)
from ..base._hub import HubRepository, is_hub_id, no_such_folder
from ..base._provenance import checked_provenance
from ..base._secrets import check_token_name
from ..base._tensor_file import checked, read_tensors, widened, write_tensors
from ._chain import Chain, Stage, principal_directions, with_factor
from ._moments_file import FIXED
from ._rounding import (
    FACTOR,
    KINDS,
    ROUNDED,
    checked_record,
    measured,
    rounded_tensors,
    warn_if_far,
)

CONFIG, WEIGHTS = "config.json", "chain.safetensors"
ARRAYS = [f.name for f in fields(Stage) if f.type is np.ndarray]
# Of these, what is not known is NaN.
MAY_BE_NAN = ("component_shares", "residual_variances")
WAY_OUT = "save it again with ReverseDistiller.save_pretrained, or fetch it again."


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
        written = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(written, dict) and "stages" not in written and "model_type" in written


def write_chain(folder, chain, header, kind="float64"):
    """Write a chain and a JSON-ready header to a folder, made where it does not exist.

    Parameters
    ----------
    folder : path-like

    chain : Chain

    header : dict
        What is told of the estimator; ``rounding`` is the record of an earlier one, or None.

    kind : {"float64", "float32", "float16", "bfloat16"}, default="float64"
        Type of its matrices.

    Returns
    -------
    config : dict
        What the file tells.

    Raises
    ------
    OSError
        As ``check_folder``, or if it cannot be written.

    ValueError
        If a number is beyond the largest of that type.
    """
    folder = Path(folder)
    check_folder(folder)
    tensors = {"mean": chain.mean}
    for name in ("cross_covariance", "noise"):
        if getattr(chain, name) is not None:
            tensors[name] = getattr(chain, name)
    stages = []
    for i, stage in enumerate(chain.stages):
        tensors.update({f"stage.{i}.{name}": getattr(stage, name) for name in ARRAYS})
        stages.append({f.name: getattr(stage, f.name) for f in fields(Stage)})
        for name in ARRAYS:
            del stages[-1][name]
        if np.isnan(stage.condition):  # of a file from before it was kept; no JSON
            del stages[-1]["condition"]
    number, rounding = ROUNDED_SINCE - 1, header.pop("rounding")
    # Older versions read what needs nothing that is new.
    parameters = header["parameters"]
    if not _is_new(header):
        header = {name: value for name, value in header.items() if name != "column_order"}
        header["parameters"] = {k: v for k, v in parameters.items() if k != "order"}
    told = {} if rounding is None else {"rounding": rounding}
    if kind != "float64":
        number = ROUNDED_SINCE
        tensors |= rounded_tensors(chain, kind)
        tensors.pop("cross_covariance", None)
        told = {"dtype": kind, "rounding": measured(chain, _again(chain, tensors), kind)}
        warn_if_far(told["rounding"])
        if rounding is not None:
            told["rounding"]["before"] = rounding
    if _is_new(header):
        number, told = ORDER_SINCE, {"dtype": kind, **told}
    config = {
        "format": number,
        **header,
        **told,
        "rotated": bool(chain.rotated),
        "precision": chain.precision,
        "chain_block_sizes": chain.blocks.sizes,
        "chain_block_names": chain.blocks.names,
        "stages": stages,
    }
    text = json.dumps(config, indent=1) + "\n"
    make_folder(folder)
    write_tensors(folder / WEIGHTS, "distiller", config, tensors)
    # After it: a file of format 2 needs the one that stands there.
    replace_file(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))
    return config


def _is_new(header):
    """Return whether a header tells what versions before format 5 do not know."""
    parameters = header["parameters"]
    return (
        header.get("column_order") is not None
        or parameters.get("order", "stage") != "stage"
        or isinstance(parameters["rotate_base"], str)
        or parameters["residual_level"] not in FIXED
    )


def _again(chain, tensors):
    """Return a chain as it is read again from tensors that are rounded."""
    stages = tuple(
        replace(stage, **{name: widened(tensors[f"stage.{i}.{name}"]) for name in ROUNDED})
        for i, stage in enumerate(chain.stages)
    )
    chain = replace(chain, stages=stages)
    return with_factor(chain, widened(tensors[FACTOR])) if FACTOR in tensors else chain


def read_chain(folder):
    """Return the chain and the header that ``write_chain`` wrote.

    Raises
    ------
    FormatError
        If a newer version has written it.

    DamagedFileError
        If its file is not what was written.

    FileNotFoundError
        If the folder holds no chain.
    """
    folder = Path(folder)
    _check_there(folder, WEIGHTS)
    with damage_is_told(f"{folder} holds no complete distiller", WAY_OUT):
        config, tensors, metadata = read_tensors(folder / WEIGHTS, "distiller", DISTILLER)
        if config is None:
            config = _config_of_old(folder, metadata)
        number = config["format"]
        config["parameters"] = renamed(config["parameters"], PARAMETERS, number)
        config["stages"] = [renamed(stage, STAGE_FIELDS, number) for stage in config["stages"]]
        if number == 1:
            config, tensors = _with_base(config, tensors)
        chain = _chain(config, tensors)
        _check_header(config, chain)
    return chain, config


def plain(value, name):
    """Return a parameter as JSON takes it: what stands for a list as one, numbers as Python's.

    Raises
    ------
    TypeError
        If JSON takes it in no form.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    try:
        return [plain(item, name) for item in value]
    except TypeError as error:
        raise TypeError(
            f"{name}={value!r} ({type(value).__name__}) cannot be written as JSON; give numbers, "
            "texts or a tuple of these."
        ) from error


def damaged(folder):
    """Return the context that makes of what goes wrong in it the error of a damaged distiller."""
    return damage_is_told(f"{folder} holds no complete distiller", WAY_OUT)


def _check_there(folder, name):
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder} has no {name}: it holds no distiller. Give a folder that "
            "ReverseDistiller.save_pretrained or `revdist fit` wrote, or a hub id."
        )


def _config_of_old(folder, metadata):
    """Return the header of formats 1 and 2, a file of its own."""
    _check_there(folder, CONFIG)
    config = json.loads(read_text(folder / CONFIG))
    number = check_format(config["format"], DISTILLER, str(folder))
    if number >= DIGEST_SINCE:
        raise ValueError(f"its {WEIGHTS} lacks the header")
    if config["id"] != metadata.get("id"):
        raise ValueError("its two files come from different distillers")
    return config


def _chain(config, tensors):
    """Return the chain of a header and tensors, each of the shape that the others ask for."""
    blocks = Blocks(integers(config, "chain_block_sizes"), strings(config, "chain_block_names"))
    rotated = one_of(config, "rotated", (False, True))
    kind = "float64"
    if config["format"] >= ROUNDED_SINCE:
        kind = one_of(config, "dtype", KINDS)
    if not isinstance(config["stages"], list) or not 1 <= len(config["stages"]) <= len(blocks):
        raise ValueError(f"its stages are not 1 to {len(blocks)}")
    stages: list[Stage] = []
    width = 0
    for i, values in enumerate(config["stages"]):
        size, n_added = blocks.sizes[i], integer(values, "n_added", 1)
        shapes = {
            "component_shares": (n_added,),
            "residual_variances": (size,),
            "directions": (size, n_added),
            "coef": (width, n_added),
            "mean": (size,),
            "prefix_mean": (width,),
        }
        arrays = {
            name: checked(
                tensors,
                f"stage.{i}.{name}",
                shape,
                allow_nan=name in MAY_BE_NAN,
                kind=kind if name in ROUNDED else "float64",
            )
            for name, shape in shapes.items()
        }
        width += n_added
        one_of(values, "width", (width,))
        integer(values, "n_regression")
        integer({"n_lost": 0, **values}, "n_lost")
        if not isinstance(values["block"], str):
            raise ValueError(f"the block of its stage {i} is no text")
        for name in ("explained_before", "condition"):
            if type(values.get(name, np.nan)) not in (int, float):
                raise ValueError(f"{name} of its stage {i} is no number")
        stages.append(Stage(**values, **arrays))
    base = stages[0].directions
    if not rotated and not np.array_equal(base, np.eye(*base.shape)):
        raise ValueError("its base is turned, and said not to be")
    covariance = None
    if "cross_covariance" in tensors:
        covariance = checked(tensors, "cross_covariance", (blocks.n_columns, width))
    noise = checked(tensors, "noise", (width,)) if "noise" in tensors else None
    mean = checked(tensors, "mean", (blocks.n_columns,))
    precision = one_of(config, "precision", ("float64", "float32"))
    chain = Chain(blocks, tuple(stages), rotated, mean, covariance, precision, noise)
    if kind == "float64" or FACTOR not in tensors:
        return chain
    rank = tensors[FACTOR].shape[-1]
    if not rank <= width:
        raise ValueError(f"its {FACTOR} has {rank} columns, more than its chain")
    shape = (blocks.n_columns, rank)
    return with_factor(chain, checked(tensors, FACTOR, shape, kind=kind))


def _check_header(config, chain):
    """Raise where what the header tells of the estimator does not suit the chain."""
    blocks = Blocks(integers(config, "block_sizes"), strings(config, "block_names"))
    sizes = integers(config, "stage_sizes")
    integer(config, "n_samples_seen")
    names = strings(config, "feature_names_in")
    if blocks.first(len(chain.blocks)).sizes != chain.blocks.sizes:
        raise ValueError(f"its blocks are {blocks}, and those of its chain {chain.blocks}")
    added = tuple(stage.n_added for stage in chain.stages)
    if len(sizes) != len(blocks) or added[:-1] != sizes[: len(added) - 1]:
        raise ValueError(f"its stage_sizes {sizes} are not those of its stages, {added}")
    if added[-1] > sizes[len(added) - 1]:
        raise ValueError(f"its last stage adds {added[-1]} columns, more than stage_sizes tell")
    if names and len(names) != blocks.n_columns:
        raise ValueError(f"it names {len(names)} of {blocks.n_columns} columns")
    config["provenance"] = checked_provenance(config.get("provenance"), len(blocks))
    config["rounding"] = checked_record(config.get("rounding"))
    order, width = None, chain.width
    if config.get("column_order") is not None:
        order = integers(config, "column_order", 0)
        if len(set(order)) < len(order) or not order or not 0 <= min(order) <= max(order) < width:
            raise ValueError(f"its column_order is no choice of the {width} columns of its chain")
    config["column_order"] = order


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
    """Return the folder of a distiller: a local one, a bundled one, or a hub repository's.

    Returns
    -------
    folder : Path

    width : int or None
        Columns that an alias asks for; None for all.

    Raises
    ------
    ModelNotFoundError
        If it is none of these.

    ValueError
        If the family of an alias has no such size, or a bundled one is asked for a revision.
    """
    if Path(name).is_dir():
        return Path(name), None
    if (bundled := bundled_distiller(name)) is not None:
        if revision is not None:
            raise ValueError(
                f"revision={revision!r} has no effect on {name!r}, which is part of this package. "
                "Drop it."
            )
        return bundled
    if not is_hub_id(str(name)):
        missing = no_such_folder("Distiller", name)
        raise type(missing)(f"{missing} {known_distillers()}")
    check_token_name(token)
    repository = HubRepository(str(name), revision, local_files_only, token, "Distiller")
    return repository.snapshot([CONFIG, WEIGHTS], silent=False), None
