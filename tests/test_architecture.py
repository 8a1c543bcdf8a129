"""The rooms of the package and what each may import, as CONTRIBUTING.md has it."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import revdist_sklearn

PACKAGE = Path(revdist_sklearn.__file__).parent
# What a room may import beside itself; modules on top of the package join the rooms.
MAY_IMPORT = {
    "base": set(),
    "models": {"base"},
    "embedding": {"base", "models"},
    "method": {"base"},
    "prefix": {"base"},
    "variants": {"base", "models", "embedding"},
    "datasets": set(),
    "top": {"base", "models", "embedding", "method", "prefix", "variants", "datasets"},
    "library": {"base", "models", "embedding", "method", "top"},
    "evaluation": {"base", "models", "embedding", "method", "prefix", "variants", "top"},
    "cli": {
        "base",
        "models",
        "embedding",
        "method",
        "prefix",
        "variants",
        "datasets",
        "library",
        "evaluation",
        "top",
    },
}
# To be read beside the paper: arrays in, arrays out.
KERNELS = {
    "method._chain",
    "method._level",
    "method._products_numpy",
    "method._products_torch",
    "method._sample",
    "method._stage_figures",
    "models._residues",
    "prefix._ridge_path",
    "variants._substitutions",
    "base._blocks",
    "base._threads",
    "base._torch",
    "base._values",
}


def modules():
    """Return the modules by name, rooms' own ``__init__`` among them, the package's left out."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"
    }


def room_of(module):
    if module == "__main__":
        return "cli"
    first, dot, _ = module.partition(".")
    return first if dot else "top"


def imports(path, module):
    """Yield what a file imports, anywhere in it: modules of this package, and other packages."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("revdist_sklearn.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.removeprefix("revdist_sklearn.")
            for alias in node.names:
                yield f"{node.module}.{alias.name}".removeprefix("revdist_sklearn.")
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level]
            source = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = f"{source}.{alias.name}".lstrip(".")
                if inside in MODULES or source in MODULES:
                    yield inside if inside in MODULES else source
                else:  # a public name, which lives where the room's `__init__` has it from
                    room = import_module(f"revdist_sklearn.{source}".rstrip("."))
                    home = getattr(getattr(room, alias.name), "__module__", "__init__")
                    yield home.removeprefix("revdist_sklearn.")


MODULES = modules()
IMPORTS = {name: set(imports(path, name)) for name, path in MODULES.items()}


def test_every_module_is_in_a_room():
    assert {room_of(name) for name in MODULES} == set(MAY_IMPORT)
    for room in set(MAY_IMPORT) - {"top"}:
        text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
        assert text and len(text.splitlines()) <= 12
        assert "May import" in " ".join(text.split())


@pytest.mark.parametrize("name", MODULES)
def test_rooms_import_what_they_may(name):
    room = room_of(name)
    assert "revdist_sklearn" not in IMPORTS[name], "of itself the package imports relatively"
    for found in IMPORTS[name] & set(MODULES):
        other = room_of(found)
        assert other == room or other in MAY_IMPORT[room], f"{name} imports {found}"


def test_there_is_no_cycle_not_even_by_imports_inside_of_functions():
    graph = {name: found & set(MODULES) for name, found in IMPORTS.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' > '.join(error.args[1])}")
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_kernels_import_no_estimator(name):
    for found in IMPORTS[name]:
        assert not found.startswith(("sklearn", "transformers", "joblib", "tqdm")), found
        assert found not in MODULES or found in KERNELS, f"{name} imports {found}"


def test_imports_inside_of_functions_are_of_what_is_slow_or_optional():
    """None hides a cycle: they bring torch, transformers, a hub's client, pictures or formats."""
    slow, optional = "torch|transformers|huggingface_hub", "matplotlib|pandas|h5py|pyarrow"
    allowed = rf"({slow}|{optional})(\.|$)"
    for name, path in MODULES.items():
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for node in ast.walk(function):
                    if isinstance(node, ast.ImportFrom) and node.level:
                        # The packed paths import torch at their top, the shell everything.
                        assert (name, node.module) in {
                            ("models._encoder", "_packed"),
                            ("models._encoder", "_varlen"),
                            ("cli._start", "_main"),
                        }
                    elif isinstance(node, ast.ImportFrom):
                        assert re.match(allowed, node.module), f"{name}: {node.module}"
                    elif isinstance(node, ast.Import):
                        for alias in node.names:
                            assert re.match(allowed, alias.name), f"{name}: {alias.name}"


def test_modules_that_users_may_import_alone_have_names_without_underscore():
    public = {name for name in MODULES if not name.rpartition(".")[2].startswith("_")}
    assert public == {"interop"}
    assert import_module("revdist_sklearn.datasets").__all__


@pytest.mark.parametrize("name", revdist_sklearn.__all__)
def test_public_names_are_documented_with_an_example(name):
    assert ">>>" in getattr(revdist_sklearn, name).__doc__


def test_public_names_are_the_same_to_type_checkers_and_when_asked_for():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    [typed] = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {alias.name: node.module for node in typed.body for alias in node.names}
    assert homes == revdist_sklearn._HOMES
    assert sorted(homes) == sorted(revdist_sklearn.__all__)
    assert set(homes) <= set(dir(revdist_sklearn))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        revdist_sklearn.nothing  # noqa: B018


def docstrings(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            if text := ast.get_docstring(node):
                yield getattr(node, "name", path.stem), text


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_have_one_style(name):
    """One space after a sentence, double backticks, and a blank line between parameters."""
    for owner, text in docstrings(MODULES[name]):
        prose = re.sub(r"(?m)^ *(>>>|\.\.\. ).*$", "", text)
        assert not re.search(r"[.?!]  [A-Z]", prose), owner
        assert not re.search(r"(?<![`:\w])`(?!`)[^`\n]+`(?![`_])", prose), owner
        sections = re.findall(
            r"(?m)^(?:Parameters|Attributes|Raises)\n-+\n((?:.*\n?)*?)(?=\n\n?\w[\w ]*\n-+\n|\Z)",
            text,
        )
        for section in sections:
            entries = [i for i, line in enumerate(section.splitlines()) if re.match(r"\S", line)]
            lines = section.splitlines()
            assert all(lines[i - 1] == "" for i in entries[1:]), f"{owner}: {section}"
