import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 8
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    assert "prefixselector__n_components" in capsys.readouterr().out
    assert (tmp_path / "nano" / "config.json").exists()


def test_commands_are_those_of_the_first_screen():
    first = README.read_text().splitlines()[:12]
    commands = [line.strip() for line in first if line.startswith("    ")]
    setup = 'python3 -m venv .venv && .venv/bin/pip install "torch==2.13.0" -e '
    assert commands == [
        f'{setup}".[plot]" && .venv/bin/revdist demo',
        f'{setup}".[test]" && .venv/bin/pytest',
    ]
