import re
import shlex
from pathlib import Path

import pytest

import revdist_sklearn
from revdist_sklearn.cli._main import main

ROOT = Path(revdist_sklearn.__file__).parents[1]
GUIDE = Path(revdist_sklearn.__file__).parent / "README.md"


def code_of(text):
    """Return the Python blocks, and how many, with a blank line for each of the text's."""
    lines, inside, n = [], False, 0
    for line in text.splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            n += inside
            line = ""
        lines.append(line if inside else "")
    return "\n".join(lines), n


@pytest.mark.slow
def test_python_blocks_and_commands_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("distributed")
    pytest.importorskip("pandas")
    pytest.importorskip("skops")
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text()
    code, n_blocks = code_of(text)
    assert n_blocks >= 14
    found = {}
    exec(compile(code, "revdist_sklearn/README.md", "exec"), found)
    assert "no language model" in capsys.readouterr().out
    assert found["plate"]["mutant"].is_unique and len(found["plate"]) == 96
    assert found["plate"]["position"].nunique() == len(found["one_each"])
    assert found["chain"].stage_dims_.tolist() == [32, 64, 80]
    commands = re.findall(r"^ +(revdist .*)$", text, flags=re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command


def test_contents_are_the_headings():
    text = GUIDE.read_text()
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    listed = re.findall(r"^\d\. \[(.*)\]\(#(.*)\)$", text, flags=re.MULTILINE)
    assert [f"{i}. {name}" for i, (name, _) in enumerate(listed, 1)] == headings
    anchors = [re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings]
    assert [anchor for _, anchor in listed] == anchors


def test_the_readme_links_to_it():
    assert "](revdist_sklearn/README.md)" in (ROOT / "README.md").read_text()
