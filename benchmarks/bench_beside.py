"""The demo alone and beside two busy loops, alternately, and the ratio of the two.

    python benchmarks/bench_beside.py [rounds]

Run it on a machine that does nothing else. The scores of all runs must be the same.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOOPS = 2


def demo(folder):
    """Return the seconds of one demo in a process of its own, and its scores."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "revdist_sklearn", "demo", "--output", folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    return seconds, json.loads((Path(folder) / "revdist_demo.json").read_text())["scores"]


def beside(folder):
    """Return the same beside busy loops."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(LOOPS)]
    try:
        return demo(folder)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    quiet, busy, scores = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for run, seconds in ((demo, quiet), (beside, busy)):
                took, found = run(folder)
                seconds.append(took)
                scores.append(found)
    ratios = [b / q for b, q in zip(busy, quiet, strict=True)]
    figures = {
        "quiet": round(statistics.median(quiet), 1),
        f"beside {LOOPS} loops": round(statistics.median(busy), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "same scores": all(found == scores[0] for found in scores),
        "cores": os.cpu_count(),
        "load before": os.getloadavg(),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
