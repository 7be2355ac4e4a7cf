"""OpenVINO's int8 scores with instruction sets that this machine's processor goes beyond.

Its convolutions keep to the set that oneDNN's own variable names, which only takes away; QEMU takes away the rest of them too.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from machines import HASWELL, NEHALEM, Processor, emulated_with_everything
from shipped import Device, assert_exact_int8, scores_of


@pytest.mark.parametrize("instructions", ["AVX2", pytest.param("SSE41", marks=pytest.mark.slow)])
def test_int8_scores_are_exact_with_fewer_instruction_sets(instructions: str, device: Device, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    command = [sys.executable, "-m", "lrdan_edge", *device.run("int8", tmp_path, backend="openvino")]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    assert_exact_int8(scores_of(tmp_path), device.exact_scores("int8"))


@pytest.mark.slow
@pytest.mark.parametrize("model", [HASWELL, NEHALEM], ids=str)
def test_int8_scores_are_exact_on_older_processors(model: Processor, device: Device, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    finished = emulated_with_everything(model).lrdan_edge(*device.run("int8", tmp_path, backend="openvino"))
    assert finished.returncode == 0, finished.stderr
    assert_exact_int8(scores_of(tmp_path), device.exact_scores("int8"))
