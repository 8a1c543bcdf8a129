import ast
import re
import warnings
from pathlib import Path

import pytest

import revdist_sklearn.cli
from revdist_sklearn.base._notes import add_note
from revdist_sklearn.base._text import visible
from revdist_sklearn.cli._main import main
from revdist_sklearn.cli._messages import PHRASES, as_options, note, said_of, warnings_as_notes

EVIL = "\x1b]0;evil\x07a\rb\u202ec\x85d\x9b31m"
HARMLESS = r"\x1b]0;evil\x07a\rb\u202ec\x85d\x9b31m"
PACKAGE = Path(revdist_sklearn.__file__).parent


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Raise or drop `max_length`, or", "Raise or drop --max-length, or"),
        ("`max_length`=700 is more", "--max-length 700 is more"),
        ("use too_long='window' to", "use --too-long window to"),
        ("try dtype='bfloat16' or", "try --dtype bfloat16 or"),
        ("an alias, models='esm2'; a", "an alias, --models esm2; a"),
        ("`models` is empty", "--models is empty"),
        ("a smaller n_jobs, or", "a smaller --n-jobs, or"),
        ("a smaller `n_jobs`.", "a smaller --n-jobs."),
        ("n_components=700 is", "--n-components 700 is"),
        ("with checkpoint= the same", "with --cache-dir the same"),
        ("Name another `cache_dir`.", "Name another --cache-dir."),
        ("integer in [1, 64] or None.", "integer in [1, 64] or leave it out."),
        ("the models of the fit, device", "the models of the fit, device"),
    ],
)
def test_parameters_become_options(message, expected):
    assert as_options(message) == expected


def test_ranges_are_those_of_options():
    message = (
        "The 'max_length' parameter of ESMFeaturizer must be an int in the range [1, inf) or "
    )
    expected = "--max-length must be an integer of 1 or more or leave it out. Got 0 instead."
    assert as_options(message + "None. Got 0 instead.") == expected


NAMES = "fit_on_corpus|load_uniprot|Moments|save_pretrained|ReverseDistiller"


def test_phrases_are_those_that_messages_have():
    """Each is in the package as it stands, and nothing of Python is left of it."""
    sources = [path.read_text() for path in PACKAGE.rglob("*.py") if path.parent.name != "cli"]
    package = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    for python in [*PHRASES][2:]:
        [first, *_] = re.findall(python, package)
        assert not re.search(NAMES, as_options(first)), python


def test_what_has_no_option_is_told():
    message = "Say so with model_kwargs={'trust_remote_code': True}."
    assert as_options(message).startswith(message + " (Parameters of Python alone")
    assert as_options(message).endswith("here: model_kwargs.)")


def test_errors_are_told_with_their_notes():
    error = MemoryError()
    add_note(error, "Kept: `cache_dir`.")
    assert said_of(error) == "MemoryError Kept: --cache-dir."


def test_no_message_moves_a_terminal(capsys):
    note(f"{EVIL}\nand more")
    assert capsys.readouterr().err == f"revdist: {HARMLESS}\nand more\n"
    error = ValueError(EVIL)
    add_note(error, EVIL)
    assert said_of(error) == f"{HARMLESS} {HARMLESS}"
    with warnings_as_notes():
        assert warnings.formatwarning(EVIL, UserWarning, "f", 1) == (
            f"revdist: warning: {HARMLESS}\n"
        )


@pytest.mark.parametrize("name", [EVIL.replace("\r", ""), "..", "a/b", "\u2066x"])
@pytest.mark.parametrize(
    "text", [">{0}\nMK-\n>b\nM\n", ">{0}\n>b\nM\n", ">{0}\nMK\n>{0}\nMK-\n", "{0}\n>a\nM\n"]
)
def test_identifiers_of_a_file_never_reach_a_terminal_raw(tmp_path, capsys, name, text):
    path = tmp_path / "\x1b[31mred.fasta"
    path.write_text(text.format(name), encoding="utf-8")
    output = str(tmp_path / "z.csv")
    assert main(["embed", "--fasta", str(path), "--output", output]) == 2
    said = capsys.readouterr()
    assert said.out == "" and visible(name) in said.err
    assert visible(said.err, keep="\n") == said.err


def test_arguments_never_reach_a_terminal_raw(capsys):
    with pytest.raises(SystemExit):
        main(["embed", "--fasta", "x", "--output", "z.csv", EVIL])
    said = capsys.readouterr().err
    assert HARMLESS in said and visible(said, keep="\n") == said


def test_the_shell_prints_in_one_place():
    for path in Path(revdist_sklearn.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print" or path.name == "_messages.py", path
