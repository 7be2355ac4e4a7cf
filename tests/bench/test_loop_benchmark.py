"""The loop's benchmark runs from one command, and what it writes is whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from parts import Line

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "loop.py"


@pytest.mark.slow
def test_one_command_measures_the_loop(line: Line, tmp_path: Path) -> None:
    options = [
        "--rounds",
        "1",
        "--seconds",
        "0.3",
        "--memory-frames",
        "2000",
        "--video-frames",
        "10",
        "--output",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(line.bundle), *options], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "loop.json").read_text())
    assert [(row["batch"], row["run"]) for row in report["against_bare"][::3]] == [(1, "bare"), (4, "bare")]
    assert all(row["of_bare"] > 0 for row in report["against_bare"])
    assert all(row["us_per_frame"] > 0 for row in report["own_cost"])
    assert report["many_sources"]["max/min frames"] >= 1
    assert min(report["python"].values()) > 0
    assert report["memory"]["growth_mib"] < 20
    assert done.stdout.strip() == (tmp_path / "loop.md").read_text().strip()
