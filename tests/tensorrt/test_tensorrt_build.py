"""Engines built by NVIDIA's real parser and builder, and what building says when it cannot."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deploy_graphs import deploy_graph
from onnx import TensorProto, helper

from lrdan_edge.backends.layers import tensorrt_layer
from lrdan_edge.engines.tensorrt import build as builder
from lrdan_edge.engines.tensorrt.build_log import BuildLog
from lrdan_edge.engines.tensorrt.monitor import Monitor
from lrdan_edge.engines.tensorrt.options import BuildOptions
from lrdan_edge.engines.tensorrt.timing_cache import load_timing_cache, save_timing_cache
from lrdan_edge.errors import EngineError

Build = Callable[..., dict[str, Any]]


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (128, 3), (256, 1), (512, 3)])
def test_every_precision_builds(rtx_build: Build, graph: Callable[..., Path], precision: str, size: int, channels: int) -> None:
    built = rtx_build(graph(deploy_graph(precision, size, channels)), batches=[(1, 2, 4)])

    assert len(built["plan"]) > 10_000
    details = built["details"]
    assert details["module"] == "tensorrt_rtx"
    assert details["batches"] == [[1, 2, 4]]
    assert details["device"] == "none (built ahead of time on the CPU)"
    assert details["precision"] == "not inspected: no GPU"
    assert "compute_capability" not in details
    shares = [share for _, share in built["progress"]]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert built["stderr"] == ""


def test_an_engine_that_does_not_load_after_its_build_is_refused_with_tensorrts_message(
    rtx_build: Build, graph: Callable[..., Path]
) -> None:
    refused = rtx_build(graph(deploy_graph("fp16")), gpu="Some GPU", workspace_mib=64)
    assert refused["error"] == "EngineError"
    assert "cannot load the engine it built on Some GPU (" in refused["message"]
    assert "it gave no reason" not in refused["message"]


def test_the_official_module_builds_by_the_same_path(
    rtx_build: Build, official_env: dict[str, str], graph: Callable[..., Path], tmp_path: Path
) -> None:
    cache, log = tmp_path / "caches/timing.cache", tmp_path / "build.log"
    built = rtx_build(
        graph(deploy_graph("fp16")), environment=official_env, timing_cache=cache, log_path=log, verbose=True, workspace_mib=64
    )

    assert built["details"]["tensorrt"] == "11.4.0.106"
    assert built["details"]["module"] == "tensorrt"
    assert built["details"]["workspace_mib"] == 64
    assert cache.stat().st_size > 0
    assert "\nV " in log.read_text()
    again = rtx_build(graph(deploy_graph("fp16")), environment=official_env, timing_cache=cache, optimization_level=0)
    assert again["details"]["optimization_level"] == 0


def test_a_damaged_timing_cache_is_replaced(
    rtx_build: Build, official_env: dict[str, str], graph: Callable[..., Path], tmp_path: Path
) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"garbage")
    assert rtx_build(graph(deploy_graph("fp32")), environment=official_env, timing_cache=cache)["plan"]
    assert cache.read_bytes() != b"garbage"


@pytest.mark.parametrize("changed", [False, True])
def test_only_a_timing_cache_of_this_machine_reaches_tensorrt(tmp_path: Path, changed: bool) -> None:
    path = tmp_path / "timing.cache"
    given: list[bytes] = []

    def create(data: bytes) -> str:
        given.append(data)
        return "cache"

    save_timing_cache(path, SimpleNamespace(serialize=lambda: b"timings\nof kernels"))
    if changed:
        path.write_bytes(path.read_bytes() + b"!")
    config = SimpleNamespace(create_timing_cache=create, set_timing_cache=lambda *_: bool(given[-1]) ^ changed)
    assert load_timing_cache(SimpleNamespace(__name__="tensorrt"), config, path) == "cache"
    assert given == ([b""] if changed else [b"timings\nof kernels"])
    assert load_timing_cache(SimpleNamespace(__name__="tensorrt_rtx"), config, path) is None


def test_a_refused_graph_names_node_and_operator(rtx_build: Build, graph: Callable[..., Path]) -> None:
    built = rtx_build(graph(deploy_graph("fp16", mixed_types=True)))

    assert built["error"] == "EngineError"
    assert "node 'node_mul_2' (Mul)" in built["message"]
    assert "Half and Float" in built["message"]
    assert "lrdan-edge export" in built["message"]
    assert "\n" not in built["message"]
    assert "cudaError" not in built["message"]


@pytest.mark.parametrize("data", [b"", b"not ONNX at all", deploy_graph("fp32")[:500]], ids=["empty", "garbage", "cut"])
def test_a_file_that_is_not_a_graph_is_refused(rtx_build: Build, graph: Callable[..., Path], data: bytes) -> None:
    built = rtx_build(graph(data))
    assert built["error"] == "EngineError"
    assert "model.onnx" in built["message"]


def test_a_graph_with_other_inputs_or_outputs_is_refused(rtx_build: Build, graph: Callable[..., Path]) -> None:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    other = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", [info], [output])
    model = helper.make_model(other, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    built = rtx_build(graph(model.SerializeToString()))
    assert built["error"] == "EngineError"
    assert "model.onnx is not a deploy graph (its inputs and outputs are x [-1, 4], y" in built["message"]


def test_ctrl_c_stops_the_builder(rtx_build: Build, graph: Callable[..., Path]) -> None:
    built = rtx_build(graph(deploy_graph("fp32", 128)), interrupt=5)
    assert built["error"] == "KeyboardInterrupt"
    assert len(built["progress"]) < 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batches": ((0, 1, 1),)}, "got 0:1:1"),
        ({"batches": ((1, 1, 1), (1, 9, 8))}, "got 1:9:8"),
        ({"workspace_mib": 0}, "got 0"),
        ({"optimization_level": 6}, "got 6"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        BuildOptions(**options)


@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        ({"Outputs": [{"Name": "a", "Format/Datatype": "Row major linear FP32"}]}, "fp32"),
        ({"Outputs": [{"Name": "a", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]}, "fp16"),
        ({"Outputs": [{"Name": "a", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]}, "int8"),
        ({"Outputs": [{"Name": "a", "DataType": "Half", "Format": "Row major linear FP16 format (kLINEAR)"}]}, "fp16"),
        ({"Outputs": [{"Name": "a", "DataType": "Float"}]}, "fp32"),
        ({"Outputs": [{"Name": "a", "DataType": "Int64"}]}, "other"),
        ({"Outputs": []}, "unknown"),
        ("only a name", "unknown"),
    ],
)
def test_a_layers_precision_is_read_from_both_schemas(layer: object, precision: str) -> None:
    assert tensorrt_layer(json.dumps(layer)).precision == precision


@pytest.mark.parametrize("said", ["Could not find any implementation for node conv_3.", "CUDA error: out of memory"])
def test_running_out_of_memory_names_the_options_to_lower(said: str) -> None:
    log = BuildLog(BuildOptions(), ExitStack(), noise=None)
    log.add(1, said)
    error = builder._refusal(SimpleNamespace(__name__="tensorrt", __version__="10.3.0"), log, BuildOptions(), 256)
    assert "TensorRT 10.3.0 ran out of memory" in str(error)
    assert "lower the largest batch in batches (now 8)" in str(error)
    assert "256 MiB" in str(error)


def test_a_failing_progress_report_stops_the_build() -> None:
    def report(_phase: str, _share: float) -> None:
        raise RuntimeError("closed terminal")

    monitor = Monitor(report)
    monitor.start("Building", None, 2)
    assert monitor.step("Building", 0) is False
    assert str(monitor.error) == "closed terminal"
