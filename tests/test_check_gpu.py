"""The script for machines with a GPU runs here as well, and fails where something is wrong."""

import importlib.util
from pathlib import Path

import pytest
import transformers

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "check_gpu.py"
# Two that start workers, which takes longest, have tests of their own.
SLOW = {"workers_have_a_gpu_each", "workers_compute_the_same"}


@pytest.fixture
def script(monkeypatch):
    # It silences the bars of its process.
    monkeypatch.setattr(transformers.utils.logging, "disable_progress_bar", lambda: None)
    spec = importlib.util.spec_from_file_location("check_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_cpu_passes_what_it_can_show(script, capsys):
    script.CHECKS[:] = [check for check in script.CHECKS if check.__name__ not in SLOW]
    names = [check.__name__ for check in script.CHECKS]
    assert script.main(["--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[1].rstrip(":") for line in lines] == names
    assert {line.split()[0] for line in lines} <= {"PASS", "SKIP"}
    assert sum(line.startswith("PASS") for line in lines) >= 4


def test_a_failure_ends_with_a_status(script, capsys):
    def wrong(machine):
        return script.demand(1 > 2, "off by 1")

    def broken(machine):
        raise RuntimeError("CUDA error")

    def absent(machine):
        machine.need(99)

    script.CHECKS[:] = [wrong, broken, absent]
    assert script.main(["--quick"]) == 1
    out = capsys.readouterr().out
    assert "FAIL wrong: off by 1" in out and "FAIL broken: RuntimeError: CUDA error" in out
    assert "SKIP absent: needs 99 GPU(s)" in out


def test_a_shape_of_esm2_is_made_on_the_spot(script, tmp_path):
    X = script.ESMFeaturizer(script.Machine(tmp_path, True).shape("8M")).transform(["MKTAY"])
    assert X.shape == (1, 320)
