"""``revdist info``: what a file or folder of this package is, and from which models."""

import os
from pathlib import Path

from .. import Moments, ReverseDistiller, load_embeddings
from ..base._text import counted
from ..base._units import as_size
from ..embedding._cache import FILE as CACHE
from ..interop import load_published_scalers, regression_inputs
from ..library._block import digest_of_distiller
from ..library._formats import ENDINGS
from ..library._shards import MANIFEST, ShardFolder
from ..method._distiller_file import WEIGHTS
from . import _cache
from ._messages import say
from ._stages import describe_stages, format_stages

HELP = "tell what a distiller, embeddings, a cache or moments are, and from which models"
EXAMPLE = "revdist info distiller"


def add_arguments(parser):
    """Add the argument of this command."""
    parser.add_argument(
        "path",
        help="a distiller (folder, alias or hub id), a folder of shards or a file of embeddings, "
        "a cache, moments, a checkpoint, or published scalers (.npz)",
    )


def run(arguments):
    """Print what it is."""
    path = Path(os.path.expanduser(arguments.path))
    if path.is_dir():
        kinds = (
            (MANIFEST, _shards),
            (WEIGHTS, _distiller),
            (CACHE, lambda path: _cache.info(path)),
        )
        for name, tell in kinds:
            if (path / name).exists():
                tell(path)
                return
        if any(path.glob("*scaler-*.npz")):
            _published(path)
            return
    elif not path.exists() and path.suffix in (*ENDINGS, ".safetensors"):
        raise FileNotFoundError(f"{path} does not exist.")
    elif not path.exists():
        _distiller(arguments.path)  # an alias or a hub id, or the error that it is none
        return
    elif path.suffix == ".npz" and "scaler-" in path.name:
        _published(path)
        return
    elif path.suffix in ENDINGS:
        _embeddings(path)
        return
    elif path.suffix == ".safetensors":
        _moments(path)
        return
    raise ValueError(
        f"{path} is nothing that this package writes: a distiller, a folder of shards, a cache, "
        f"moments (.safetensors), or embeddings ({', '.join(ENDINGS)})."
    )


# In words, by what :func:`regression_inputs` finds.
TRAINED_ON = {
    "prefix": "the nested embedding",
    "model": "the smaller model's own embedding",
    "unknown": "what the files do not tell",
}


def _distiller(source):
    distiller = ReverseDistiller.from_pretrained(source)
    say(f"A distiller, {distiller.regressor}{_how(distiller)}: {source}")
    say(format_stages(describe_stages(distiller)))
    say(f"Rows of the fit: {distiller.n_samples_seen_:,}")
    say(f"In what is embedded by it: distiller {digest_of_distiller(distiller)[:16]}")
    _print_provenance(getattr(distiller, "provenance_", None))
    rounding = getattr(distiller, "rounding_", None)
    if rounding is None:
        say("Kept as: float64")
        return
    say(f"Kept as: {rounding['dtype']}")
    error = rounding.get("root_mean_square")
    if error is not None:
        say(f"Error of its columns by rounding: {error:.2g} of their spread (root mean square)")


def _how(distiller):
    """Return what a distiller does otherwise than by default."""
    told = []
    if distiller.residual_level != "residue":
        told.append(f"directions by {distiller.residual_level}s")
    if distiller.rotate_base:
        level = "residue" if distiller.rotate_base is True else distiller.rotate_base
        told.append(f"base turned by {level}s")
    if distiller.order != "stage":
        told.append(f"columns by {distiller.order}")
    return "".join(f", {each}" for each in told)


def _print_provenance(provenance):
    if provenance is None:
        say("Models and corpus: not known (fitted on rows).")
        return
    for member in provenance["members"]:
        layer = f", layer {member['layer']}" if "layer" in member else ""
        say(f"Model: {member['block']}, tensors {member['weights'][:16]}{layer}")
    for corpus in provenance["corpora"]:
        say(
            f"Corpus: {corpus['n_proteins']:,} proteins, {corpus['n_residues']:,} residues "
            f"({corpus['digest'][:16]})"
        )
        if mutants := corpus.get("mutants"):
            n = f"{mutants['n_proteins']:,} proteins"
            say(f"Mutants: {mutants['n_per_protein']} of each of {n}")
    say(f"Written by revdist_sklearn {provenance['version']}")


def _shards(path):
    folder = ShardFolder.load(path)
    files = list(path.glob("shard-*"))
    size = as_size(sum(file.stat().st_size for file in files))
    if folder.entries is None:
        say(
            f"Embeddings, not complete: {counted(len(files), 'shard')} ({size}) in {path}. The "
            "call that began them goes on from there."
        )
    else:
        proteins = counted(folder.n_proteins, "protein")
        say(f"Embeddings of {proteins}, {counted(folder.n_residues, 'residue')}.")
        say(f"{counted(len(folder.entries), 'shard')}, {size}: {path}")
    _print_facts(folder.facts)


def _embeddings(path):
    with load_embeddings(path) as found:
        say(f"Embeddings, {found.shape[0]:,} x {found.shape[1]:,} {found.dtype}: {path}")
        say(f"On disk: {as_size(path.stat().st_size)}")
        if found.facts is None:
            say("Models: not known (written by another program).")
        else:
            _print_facts(found.facts)


def _print_facts(facts):
    columns = counted(len(facts["columns"]), "column")
    say(f"Rows of {facts['level']}s, {columns}, {facts['dtype']}")
    reached = 0
    for block, width in facts["stages"]:
        # Of columns by variance, a model more may not make a longer prefix.
        if width > reached:
            say(f"Up to column {width:,}: {block}")
        reached = width
    for member in facts["settings"]["rows"]["members"]:
        say(f"Model: files {member['weights'][:16]}, {member['dtype']}, layer {member['layer']}")
    limit = facts["limit"]
    if limit is not None:
        how = {"error": "an error", "truncate": "cut", "window": "in windows"}[facts["too_long"]]
        say(f"Sequences above {counted(limit, 'residue')}: {how}")
    nested = facts["settings"]["distiller"]
    say("Models side by side" if nested is None else f"Nested, by distiller {nested[:16]}")
    say(f"Written by revdist_sklearn {facts['version']}")


def _moments(path):
    moments, extra = Moments.load(path, return_metadata=True)
    what = "A checkpoint of a pass over a corpus" if "pieces" in extra else "Moments"
    say(f"{what}: {path}, {as_size(path.stat().st_size)}")
    say(f"Blocks: {moments.blocks}")
    say(f"{counted(moments.n_rows, 'row')}, {counted(moments.n_proteins, 'protein')}")
    if "pieces" in extra:
        say(f"Pieces done: {extra['pieces']:,}")
        if moments.provenance is None:
            say(f"Models and corpus: as the call that began it ({extra['fingerprint'][:16]})")
            return
    _print_provenance(moments.provenance)


def _published(path):
    distiller = load_published_scalers(path)
    say(f"Published scalers of reverse distillation: {path}")
    say(f"Widths: {', '.join(str(stage.width) for stage in distiller.stages_)}")
    _, *inputs = regression_inputs(distiller)
    if inputs:
        say(f"Regressions trained on: {', '.join(TRAINED_ON[name] for name in inputs)}")
    if set(inputs[1:]) - {"prefix"}:
        say(
            "The script that published such files fits each regression on the smaller model's own "
            "embedding, and they are applied to the nested one: from the third model on the "
            "predictions may be far off. interop.regression_scores(distiller, rows) shows it."
        )
