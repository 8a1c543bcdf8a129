"""The model card of a distiller: what its JSON tells, for people and for the hub."""

import json
import re
from itertools import accumulate

from ._chain import columns_of_stages

BY_VARIANCE = (
    "Its columns come by their variance, those of all models together. The shares are those of "
    "whole stages, also where some of their columns are left out."
)
TAGS = ("protein-language-model", "embeddings", "reverse-distillation", "sklearn")


def model_card(config, stages, repo_id, *, license=None, tags=()):
    """Return the README.md of a repository that holds a distiller.

    Parameters
    ----------
    config : dict
        What the file of the distiller tells.

    stages : sequence of Stage

    repo_id : str

    license : str or None, default=None
        As the hub knows it, such as ``"mit"``; None names none.

    tags : sequence of str, default=()
        Besides those that every card has.

    Returns
    -------
    text : str
    """
    order = config.get("column_order")
    columns = columns_of_stages(stages, order)
    front = {"library_name": "revdist_sklearn", "tags": [*dict.fromkeys([*TAGS, *tags])]}
    if license is not None:
        front["license"] = license
    # What JSON quotes, YAML reads.
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in front.items()), "---"]
    lines += ["", f"# {_cell(repo_id.partition('/')[2])}", ""]
    lines += [
        "A reverse distiller of `revdist_sklearn`: the affine map from the embeddings",
        f"of {len(config['chain_block_sizes'])} models side by side to one nested embedding of "
        f"{sum(columns)} columns, any prefix of which is a usable",
        "embedding (Catrina, Bepler, Sledzieski and Singh, ICLR 2026, "
        "[arXiv:2603.07710](https://arxiv.org/abs/2603.07710)).",
        "",
        "```python",
        "from revdist_sklearn import ReverseDistiller",
        "",
        f"distiller = ReverseDistiller.from_pretrained({repo_id!r})",
        "Z = distiller.transform(X)  # X: the models' embeddings side by side, in this order",
        "```",
        "",
        "## Stages",
        "",
        *_stages(stages, config["chain_block_sizes"], columns),
        *([] if order is None else ["", BY_VARIANCE]),
        "",
        "## Fit",
        "",
        *_fit(config),
        "",
        "## Precision",
        "",
        *_precision(config),
    ]
    return "\n".join(lines) + "\n"


def _stages(stages, sizes, columns):
    rows = [
        [
            *(stage.block, size, width, n),
            *(_share(stage.explained_before), _share(stage.explained_after)),
        ]
        for stage, size, width, n in zip(stages, sizes, accumulate(columns), columns, strict=False)
    ]
    rows[0][4] = "the base"
    names = ["model", "its columns", "width after it", "columns added"]
    return _table([*names, "explained by the smaller", "with this stage"], rows)


def _fit(config):
    settings = {name: value for name, value in config["parameters"].items() if value is not None}
    told = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    lines = [f"Rows: {config['n_samples_seen']:,}. Settings: `{_cell(told)}`.", ""]
    provenance = config["provenance"]
    if provenance is None:
        return [*lines, "Models and corpus are not known to the file."]
    members = [
        [member["block"], member.get("layer", "not known"), f"`{member['weights']}`"]
        for member in provenance["members"]
    ]
    corpora = [
        [f"`{c['digest']}`", f"{c['n_proteins']:,}", f"{c['n_residues']:,}"]
        for c in provenance["corpora"]
    ]
    return [
        *lines,
        *_table(["model", "layer", "digest of its weights"], members),
        "",
        *_table(["digest of the corpus", "proteins", "residues"], corpora),
        "",
        f"Fitted by revdist_sklearn {_cell(provenance['version'])}.",
    ]


def _precision(config):
    record = config.get("rounding")
    if record is None:
        return ["Kept in float64."]
    explained = record["explained"]
    change = "" if explained is None else f", explained shares by at most {explained:.1e}"
    lines = [
        f"Kept in {config.get('dtype', 'float64')}. On {record['rows']:,} rows drawn from what "
        f"the chain knows, rounding to {record['dtype']} moves columns",
        f"by {record['root_mean_square']:.1e} of their spread (root mean square; largest "
        f"{record['largest']:.1e}){change}.",
        "",
    ]
    rows = [
        [stage["block"], f"{stage['root_mean_square']:.1e}", f"{stage['largest']:.1e}"]
        for stage in record["stages"]
    ]
    return lines + _table(["columns of", "root mean square", "largest"], rows)


def _share(value):
    return "not known" if value != value else f"{value:.1%}"


def _table(names, rows):
    cells = [[_cell(value) for value in row] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in [names, ["---"] * len(names), *cells]]


def _cell(value):
    """Return a value as text of one line that ends no cell; names of blocks are users' own."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", str(value))
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
