"""The GPU check without a GPU: it runs to its end and says of each part why it could not be taken."""

import json
import sys
from pathlib import Path

import pytest
from parts import Line

pytest.importorskip("torch")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_each_part_that_cannot_run_says_why(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from lrdan_edge.backends.nvidia import find_gpu

    if find_gpu() or torch.cuda.is_available():
        pytest.skip("this machine has a GPU: run benchmarks/gpu_check.py itself")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    import gpu_check

    rows = gpu_check.main([str(line.bundle), "--rounds", "1", "--calls", "1"], tmp_path)
    assert {row.part for row in rows} == {"machine", "build", "parity", "threads", "closing", "speed", "bare", "loop"}
    refused = [row for row in rows if not row.took]
    assert len(refused) == len(rows) - 1, "only PyTorch's version is known"
    assert all(len(row.figure) > len("not run: ") for row in refused if row.what != "GPU")
    assert "Traceback" not in (tmp_path / "gpu-check.md").read_text()
    assert len(json.loads((tmp_path / "gpu-check.json").read_bytes())["rows"]) == len(rows)
