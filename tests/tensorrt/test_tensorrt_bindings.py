"""Whatever the code uses of TensorRT and PyCUDA exists: in three generations of bindings, and in PyCUDA's own source."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nvidia_wheels
import pytest
from cuda_bindings_double import bindings_surface
from cuda_double import cuda_surface
from tensorrt_double import surface, tensorrt_surface

from lrdan_edge.backends import nvidia, tensorrt_engine, tensorrt_rtx, tensorrt_slot
from lrdan_edge.backends import tensorrt as backend
from lrdan_edge.engines.tensorrt import build as builder
from lrdan_edge.engines.tensorrt import configure, monitor, refit
from lrdan_edge.engines.tensorrt import timing_cache as timingcache

HERE = Path(__file__).parent
MODULES = (builder, configure, monitor, timingcache, nvidia, refit, backend, tensorrt_engine, tensorrt_slot)
SOURCES = [str(module.__file__) for module in MODULES]


@pytest.mark.parametrize("version", nvidia_wheels.GENERATIONS)
def test_every_api_used_exists_in_this_generation(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE.parents[1] / "benchmarks"))
    import gpu_standin as ours

    stand_in = surface(ours.DataType, ours.ExecutionContextAllocationStrategy, ours.IExecutionContext, ours.ICudaEngine)
    environment = nvidia_wheels.generation_environment(version, tmp_path)
    command = [sys.executable, str(HERE / "api_uses.py"), *SOURCES, *tensorrt_surface(), *stand_in]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)

    assert found["version"] == version
    assert found["missing"] == []
    # The search itself works: it followed every object through to its last use.
    assert {
        "Builder(_)",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "ParserError.node_operator()",
        "IProgressMonitor.step_complete overridden",
        "ILogger.log overridden",
        "IBuilderConfig.set_memory_pool_limit(_, _)",
        "IBuilderConfig.hardware_compatibility_level",
        "IBuilderConfig.can_run_on_DLA(_)",
        "IBuilderConfig.DLA_core",
        "Builder.num_DLA_cores",
        "BuilderFlag.VERSION_COMPATIBLE",
        "BuilderFlag.STRIP_PLAN",
        "ILayer.type",
        "Runtime.engine_host_code_allowed",
        "Runtime.deserialize_cuda_engine(_)",
        "OnnxParserRefitter.refit_from_bytes(_)",
        "ISerializationConfig.clear_flag(_)",
        "ICudaEngine.serialize_with_config(_)",
        "ITensor.shape",
        "EngineInspector.get_layer_information(_, _)",
        "IExecutionContext.execute_async_v3(_)",
        "IExecutionContext.set_optimization_profile_async(_, _)",
        "IExecutionContext.set_device_memory(_, _)",
        "IExecutionContext.set_input_shape(_, _)",
        "ICudaEngine.create_execution_context(_)",
        "ICudaEngine.get_tensor_profile_shape(_, _)",
        "ICudaEngine.num_optimization_profiles",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
    } <= set(found["seen"])


def test_every_api_used_exists_in_tensorrt_for_rtx(tensorrt_env: dict[str, str]) -> None:
    named = ["CudaGraphStrategy.WHOLE_GRAPH_CAPTURE", "IRuntimeConfig.cuda_graph_strategy"]
    command = [sys.executable, str(HERE / "api_uses.py"), *SOURCES, str(tensorrt_rtx.__file__), *named]
    finished = subprocess.run(command, env=tensorrt_env, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert found["missing"] == []
    assert {"ICudaEngine.create_runtime_config()", "IRuntimeConfig.set_execution_context_allocation_strategy(_)"} <= {
        *found["seen"]
    }


OPTIONAL = {
    "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY": {"10.13.3.9", "11.4.0.106"},
    "OnnxParserFlag.ADJUST_FOR_DLA": {"11.4.0.106"},
    "SerializationFlag.INCLUDE_REFIT": {"11.4.0.106"},
}
"""What the code uses only where it is, and the generations that have it."""


@pytest.mark.parametrize("version", nvidia_wheels.GENERATIONS)
def test_every_optional_api_exists_in_some_generation(version: str, tmp_path: Path) -> None:
    environment = nvidia_wheels.generation_environment(version, tmp_path)
    finished = subprocess.run(
        [sys.executable, str(HERE / "api_uses.py"), *OPTIONAL],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert set(json.loads(finished.stdout)["missing"]) == {name for name, owners in OPTIONAL.items() if version not in owners}
    sources = "".join(Path(source).read_text() for source in SOURCES)
    asked = set(re.findall(r'getattr\(trt\.\w+, "(\w+)"', sources)) | {"SAME_COMPUTE_CAPABILITY"}
    assert asked == {name.split(".")[1] for name in OPTIONAL}, "every such use is listed here"


def test_the_search_finds_apis_missing_from_a_generation(tmp_path: Path) -> None:
    environment = nvidia_wheels.generation_environment("11.4.0.106", tmp_path)
    old = tmp_path / "old.py"
    old.write_text(
        "def build(trt, logger):\n    builder = trt.Builder(logger)\n    network = builder.create_network(1, 2)\n"
        "    config = builder.create_builder_config()\n    config.set_flag(trt.BuilderFlag.FP16)\n"
        "    config.max_workspace_size = 1\n    return builder.build_engine(network, config)\n"
    )
    finished = subprocess.run(
        [sys.executable, str(HERE / "api_uses.py"), str(old)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(finished.stdout)["missing"] == [
        "Builder.build_engine",
        "Builder.create_network(_, _)",
        "BuilderFlag.FP16",
        "IBuilderConfig.max_workspace_size",
    ]


def test_the_test_double_has_no_api_that_pycuda_lacks() -> None:
    source = nvidia_wheels.fetch_or_skip(nvidia_wheels.PYCUDA, source=True)
    (wrapper,) = source.glob("*/src/wrapper/wrap_cudadrv.cpp")
    named = r'(?:def|add_property|class_<cl[^>]*>*>?|\.value|enum_<\w+>|cls\.attr|>\s*cls)\s*\(\s*"(\w+)"'
    pattern = named + r"|DEF_SIMPLE_(?:METHOD|FUNCTION)(?:_WITH_ARGS)?\((\w+)"
    text = wrapper.read_text()
    defined = {name for pair in re.findall(pattern, text) for name in pair if name} | set(re.findall(r'\(?"(\w+)", py::', text))
    assert "retain_primary_context" in defined
    errors = {"Error"}  # made by a macro: DECLARE_EXC(Error, …)
    assert "DECLARE_EXC(Error" in text
    assert cuda_surface() - errors - defined == set()


@pytest.mark.parametrize("version", nvidia_wheels.CUDA_BINDINGS)
def test_cuda_bindings_have_what_cuda_graphs_need(version: str) -> None:
    """Their module imports without a GPU; no function is called."""
    folders = [str(nvidia_wheels.fetch_or_skip(name)) for name in (version, nvidia_wheels.CUDA_PATHFINDER)]
    script = (
        "import json, sys\nfrom functools import reduce\nsys.path[:0] = json.loads(sys.argv[1])\n"
        "from cuda.bindings import driver\n"
        "has = lambda name: reduce(lambda owner, part: getattr(owner, part, None), name.split('.'), driver) is not None\n"
        "lacking = [name for name in json.loads(sys.argv[2]) if not has(name)]\n"
        "signatures = {name: getattr(driver, name).__doc__.split('\\n')[0] for name in json.loads(sys.argv[3])}\n"
        "print(json.dumps([lacking, signatures]))"
    )
    takes = {
        "cuStreamBeginCapture": 2,
        "cuStreamEndCapture": 1,
        "cuGraphInstantiate": 2,
        "cuGraphLaunch": 2,
        "cuGraphDestroy": 1,
    }
    arguments = [json.dumps(each) for each in (folders, sorted(bindings_surface()), list(takes))]
    command = [sys.executable, "-c", script, *arguments]
    lacking, signatures = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert lacking == []
    assert {name: text.count(",") + 1 for name, text in signatures.items()} == takes
