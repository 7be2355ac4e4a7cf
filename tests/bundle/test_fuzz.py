"""A few of the cases of ``fuzz_bundles.py``, which CONTRIBUTING.md says how to run for longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz_bundles.py")


@pytest.mark.parametrize(("cases", "seed"), [(200, 20261130), pytest.param(5000, 20261201, marks=pytest.mark.slow)])
def test_mutated_bundles_work_or_are_refused(cases: int, seed: int) -> None:
    for module in ("cryptography", "torch", "openvino", "jinja2"):
        pytest.importorskip(module)
    words = [sys.executable, str(SCRIPT), "--cases", str(cases), "--seed", str(seed)]
    result = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])})
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert f"{cases} cases, seed {seed}, 0 findings" in result.stdout
