"""The TensorRT backend over the real PyCUDA, built from its source, and a CUDA driver in software."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nvidia_wheels
import pytest
import real_pycuda
from deploy_graphs import deploy_graph

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # building PyCUDA takes two minutes, once a machine


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    driver = tmp_path_factory.mktemp("driver")
    packages = real_pycuda.build(driver)
    return nvidia_wheels.environment([*packages, Path(real_pycuda.HERE)], driver)


def run(environment: dict[str, str], folder: Path, **settings: str) -> dict[str, Any]:
    graph = folder / "graph.onnx"
    graph.write_bytes(deploy_graph("fp32", 16, 3))
    command = [sys.executable, str(real_pycuda.HERE / "with_real_pycuda.py"), str(graph)]
    finished = subprocess.run(command, env=environment | settings, capture_output=True, text=True, timeout=120)
    assert (finished.returncode, finished.stderr) == (0, ""), "PyCUDA complains on stderr alone"
    found: dict[str, Any] = json.loads(finished.stdout)
    assert found["noted"] == ""
    assert found["violations"] == []
    assert found["threads"] == []
    assert set(found["left"].values()) == {0}, found["left"]
    return found


@pytest.mark.parametrize("settings", [{}, {"SOFTWARE_CUDA_INTEGRATED": "1"}], ids=["card", "shared memory"])
def test_scores_are_the_graphs_and_everything_is_freed(
    environment: dict[str, str], tmp_path: Path, settings: dict[str, str]
) -> None:
    found = run(environment, tmp_path, **settings)
    assert found["error"] is None
    assert found["device"] == "Software GPU"
    assert found["worst"] < 1e-5
    assert found["times"] == [0.25, 0.25, 0.25, 0.75, 0.25, 0.25, 0.25]


def test_a_full_gpu_is_an_error_and_leaves_nothing_behind(environment: dict[str, str], tmp_path: Path) -> None:
    assert "out of memory" in run(environment, tmp_path, SOFTWARE_CUDA_MEMORY="20000")["error"]


def test_no_gpu_is_an_error(environment: dict[str, str], tmp_path: Path) -> None:
    assert "no CUDA-capable device" in run(environment, tmp_path, SOFTWARE_CUDA_NONE="1")["error"]


def test_the_driver_finds_a_leak(environment: dict[str, str]) -> None:
    """The search itself works."""
    script = (
        "import ctypes, pycuda.driver as cuda\n"
        "cuda.init()\ncontext = cuda.Device(0).retain_primary_context()\ncontext.push()\n"
        "memory = cuda.mem_alloc(100)\ncontext.pop()\ndriver = ctypes.CDLL('libcuda.so.1')\n"
        "print(driver.software_live(0), driver.software_live(4))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], env=dict(os.environ) | environment, capture_output=True, text=True
    )
    assert finished.stdout.split() == ["1", "1"], finished.stderr
