"""The same weights and images give the same int8 graph, whatever processor calibrates."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from machines import NEHALEM, emulated_with_everything
from onnx import numpy_helper
from parts import Line

from lrdan_edge import Bundle

SCALE_BOUND = 1e-4  # relative


def constants(graph: Path) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(graph).graph.initializer}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_older_processor_makes_the_same_int8_graph(line: Line, tmp_path: Path) -> None:
    """Without VNNI, seven layers of nineteen used to go back to float, and other ranges were chosen."""
    here = Bundle.open(line.bundle)
    elsewhere = shutil.copytree(line.bundle, tmp_path / "bundle")
    finished = emulated_with_everything(NEHALEM).python("-m", "lrdan_edge", "calibrate", "--bundle", elsewhere, timeout=3600)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    there = Bundle.open(elsewhere)
    ours, theirs = (bundle.manifest.stages["calibrate"].results for bundle in (here, there))
    for fact in ("method", "kept_in_float"):
        assert theirs["int8"][fact] == ours["int8"][fact]
    assert theirs["thresholds"] == pytest.approx(ours["thresholds"], rel=SCALE_BOUND)
    for name in ("model.int8.onnx", "model.int8.cpu.onnx"):
        one, other = (constants(bundle.path / name) for bundle in (here, there))
        assert one.keys() == other.keys()
        for tensor, value in one.items():
            assert value.dtype == other[tensor].dtype
            if value.dtype == np.float32:
                assert other[tensor] == pytest.approx(value, rel=SCALE_BOUND, abs=1e-7), tensor
            else:
                assert np.array_equal(value, other[tensor]), tensor
