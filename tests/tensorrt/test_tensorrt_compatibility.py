"""Which TensorRT engines a machine is said to run, and why not the others."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import msgspec
import pytest
from cuda_double import Machine
from tensorrt_double import VERSION, tensorrt_module

from lrdan_edge.backends import nvidia
from lrdan_edge.backends.nvidia import Gpu
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import SCHEMA_VERSION, to_json
from lrdan_edge.bundle.engine_sidecar import EngineSidecar
from lrdan_edge.bundle.names import engine_stage, graph_name
from lrdan_edge.engines import compatibility
from lrdan_edge.engines.open import engines
from lrdan_edge.engines.trust import accept

ORIN = Gpu(name="Orin", compute_capability="8.7", cuda="12.6", integrated=True)


@pytest.fixture
def jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Orin with TensorRT and PyCUDA."""
    pycuda = ModuleType("pycuda")
    pycuda.__spec__ = ModuleSpec("pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda", pycuda)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_module(Machine()))
    monkeypatch.setattr(compatibility, "find_gpu", lambda: ORIN)


def unusable_reason(bundle: Bundle, **changes: Any) -> str | None:
    """What is said of an engine built on `ORIN` with these changes to its sidecar."""
    graph = graph_name("fp16")
    sidecar = EngineSidecar(
        schema_version=SCHEMA_VERSION,
        target="tensorrt",
        target_version=VERSION,
        precision="fp16",
        graph_sha256=bundle.manifest.files[graph].sha256,
        engine_sha256="0" * 64,
        platform=processor().platform,
        device="Orin",
        device_features=["sm8.7"],
        batch=(1, 1, 8),
        built="2026-01-01T00:00:00+00:00",
        options={},
        layers=[],
        golden_check=0.0,
        details={"module": "tensorrt"},
    )
    inputs = {graph: bundle.path / graph}
    with bundle.stage(engine_stage("e.plan"), command="lrdan-edge build-engine --fp16", inputs=inputs) as stage:
        stage.path("engines/e.plan").write_bytes(b"plan")
        written = to_json(msgspec.structs.replace(sidecar, **changes))
        stage.path("engines/e.plan.json").write_bytes(written)
    accept(bundle, "e.plan", written)
    (engine,) = engines(bundle)
    return engine.unusable_reason


@pytest.mark.usefixtures("jetson")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"device_features": []}, None),
        ({"device_features": ["sm8.0+"], "device": "A100", "options": {"hardware_compatible": "ampere-plus"}}, None),
        ({"device": "A2", "options": {"hardware_compatible": "same-compute-capability"}}, None),
        ({"device_features": ["sm9.0+"], "device": "H100"}, "it was built for H100 (sm9.0+), this is Orin (sm8.7)"),
        ({"device": "Orin NX"}, "it was built for Orin NX, this is Orin"),
        ({"target_version": "10.0.1", "options": {"version_compatible": True}}, None),
        (
            {"target_version": "10.13.3.9", "options": {"version_compatible": True}},
            "it was built by TensorRT 10.13.3.9, this is TensorRT 10.3.0",
        ),
        ({"platform": "linux-riscv64"}, f"it was built on linux-riscv64, this is {processor().platform}"),
        ({"device": "RTX 4070", "device_features": ["sm8.9"]}, "it was built for RTX 4070 (sm8.9), this is Orin (sm8.7)"),
        ({"target_version": "10.13.3.9"}, "it was built by TensorRT 10.13.3.9, this is TensorRT 10.3.0"),
        ({"details": {"module": "tensorrt_rtx"}}, "it was built by TensorRT for RTX 10.3.0, this is TensorRT 10.3.0"),
    ],
)
def test_an_engine_is_compatible_with_the_gpu_and_the_tensorrt_it_was_built_with(
    own_bundle: Bundle, changes: dict[str, Any], said: str | None
) -> None:
    assert unusable_reason(own_bundle, **changes) == said


@pytest.mark.usefixtures("jetson")
def test_what_is_missing_is_named(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in nvidia.MODULES:
        monkeypatch.setitem(sys.modules, name, None)  # imports of it fail
    assert "install" in str(unusable_reason(own_bundle))
    monkeypatch.delitem(sys.modules, "pycuda")
    monkeypatch.setattr(sys, "path", [])
    assert "PyCUDA is not installed here" in str(unusable_reason(own_bundle))


def test_without_a_gpu_tensorrt_is_not_even_imported(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "find_gpu", lambda: None)
    monkeypatch.setattr(compatibility, "find_tensorrt", lambda: pytest.fail("imported"))
    assert unusable_reason(own_bundle) == "no NVIDIA GPU is found here"
