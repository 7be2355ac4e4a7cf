"""Real TensorRT builders without a GPU, each used in a subprocess so that the test process stays clean."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nvidia_wheels
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tensorrt_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables with which a subprocess finds a real TensorRT builder (TensorRT for RTX) that needs no GPU."""
    return nvidia_wheels.rtx_environment(tmp_path_factory.mktemp("tensorrt_rtx"))


@pytest.fixture(scope="session")
def official_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same under the module name ``tensorrt``: the official bindings of TensorRT 11."""
    return nvidia_wheels.tensorrt_environment(tmp_path_factory.mktemp("tensorrt"))


@pytest.fixture
def rtx_build(tensorrt_env: dict[str, str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Builds an ONNX file with NVIDIA's real parser and builder: ``rtx_build(graph_path, **build_options)``.

    Returns a dictionary: ``plan`` (bytes), ``details`` and ``progress`` (list of [phase, share]) on success, ``error`` (the
    exception's name) and ``message`` otherwise. ``environment=`` chooses another builder, ``interrupt=N`` presses Ctrl-C at
    the Nth progress report, ``gpu=NAME`` has it believe in a GPU.
    """

    def build(
        graph: Path, *, environment: dict[str, str] | None = None, interrupt: int = 0, gpu: str | None = None, **options: Any
    ) -> dict[str, Any]:
        plan = tmp_path / "engine.plan"
        request = {"graph": str(graph), "plan": str(plan), "interrupt": interrupt, "gpu": gpu, "options": options}
        command = [
            sys.executable,
            "-W",
            "error:::lrdan_edge.engines.tensorrt.build",
            str(HERE / "build_in_subprocess.py"),
            json.dumps(request, default=str),
        ]
        finished = subprocess.run(command, env=environment or tensorrt_env, capture_output=True, text=True, timeout=120)
        assert finished.returncode == 0, finished.stderr
        answer: dict[str, Any] = json.loads(finished.stdout)
        answer["stderr"] = finished.stderr
        if "details" in answer:
            answer["plan"] = plan.read_bytes()
        return answer

    return build
