"""The GPU of the doubles, and real TensorRT builders without a GPU, each in a subprocess so that the test process stays clean."""

import gc
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nvidia_wheels
import pytest
from cuda_bindings_double import cuda_bindings
from cuda_double import Machine, cuda_driver
from tensorrt_double import tensorrt_module

HERE = Path(__file__).parent


@pytest.fixture(params=["slow GPU", "fast GPU"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The doubles in place of TensorRT and PyCUDA, and afterwards: nothing misused, and everything given back."""
    machine = Machine()
    machine.eager = request.param == "fast GPU"
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_module(machine))
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", cuda_driver(machine))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    yield machine
    gc.collect()
    assert machine.violations == []
    assert machine.idle(), "something of the GPU was not given back"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tensorrt")]


@pytest.fixture
def bindings(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine, with NVIDIA's bindings too."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", cuda_bindings(machine))
    return machine


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
