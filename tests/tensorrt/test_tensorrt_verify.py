"""TensorRT engines on a device that has TensorRT and a GPU, played by the doubles: verified, refitted, run on a DLA core."""

import gc
import hashlib
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest
from cuda_bindings_double import cuda_bindings
from cuda_double import Machine, cuda_driver
from tensorrt_double import PLAN, VERSION, tensorrt_module

from lrdan_edge.backends import tensorrt_engine as engine_module
from lrdan_edge.backends.layers import tensorrt_layer
from lrdan_edge.backends.nvidia import Gpu, runtime_for
from lrdan_edge.backends.processor import processor
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import SCHEMA_VERSION, to_json
from lrdan_edge.bundle.engine_sidecar import EngineSidecar
from lrdan_edge.bundle.names import engine_stage, graph_name
from lrdan_edge.engines import build as build_module
from lrdan_edge.engines import compatibility
from lrdan_edge.engines import open as engines_module
from lrdan_edge.engines.build import BuildRequest, build_engine, refit_engine
from lrdan_edge.engines.open import engine, engines, open_engine
from lrdan_edge.engines.tensorrt import build as builder
from lrdan_edge.engines.tensorrt import refit
from lrdan_edge.engines.tensorrt.options import BuildOptions
from lrdan_edge.engines.trust import accept
from lrdan_edge.engines.verify import verify_engine
from lrdan_edge.errors import EngineError

ORIN = Gpu(name="Orin", compute_capability="8.7", cuda="12.6", integrated=True)
NAME = "tensorrt-fp32-orin-sm8-7.plan"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine()
    pycuda = ModuleType("pycuda")
    pycuda.__spec__ = ModuleSpec("pycuda", None)
    for name, module in (
        ("tensorrt", tensorrt_module(machine)),
        ("pycuda", pycuda),
        ("pycuda.driver", cuda_driver(machine)),
        ("cuda.bindings.driver", cuda_bindings(machine)),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(compatibility, "find_gpu", lambda: ORIN)
    yield machine
    gc.collect()
    assert machine.violations == []
    assert machine.idle()


def put(bundle: Bundle, plan: bytes, **changes: Any) -> None:
    """An engine as the builder leaves it on an Orin."""
    graph = graph_name("fp32")
    sidecar = EngineSidecar(
        schema_version=SCHEMA_VERSION,
        target="tensorrt",
        target_version=VERSION,
        precision="fp32",
        graph_sha256=bundle.manifest.files[graph].sha256,
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        platform=processor().platform,
        device="Orin",
        device_features=["sm8.7"],
        batch=(1, 1, 8),
        built="2026-01-01T00:00:00+00:00",
        options={},
        layers=[],
        golden_check="not measured",
        details={"module": "tensorrt", "compute_capability": "8.7"},
    )
    written = to_json(msgspec.structs.replace(sidecar, **changes))
    inputs = {graph: bundle.path / graph}
    with bundle.stage(engine_stage(NAME), command="lrdan-edge build-engine --fp32", inputs=inputs) as stage:
        stage.path(f"engines/{NAME}").write_bytes(plan)
        stage.path(f"engines/{NAME}.json").write_bytes(written)
    accept(bundle, NAME, written)


def plan_of(bundle: Bundle) -> bytes:
    return PLAN + bundle.graph("fp32").read_bytes()


def scores_check(bundle: Bundle) -> tuple[bool | None, str]:
    check = verify_engine(bundle, NAME)[-1]
    assert check.name == "scores"
    return check.passed, check.said


def test_an_engine_that_scores_as_its_graph_is_valid(own_bundle: Bundle) -> None:
    put(own_bundle, plan_of(own_bundle))
    assert [check.passed for check in verify_engine(own_bundle, NAME)] == [True, True, True, True]


def test_an_engine_that_tensorrt_refuses_fails(own_bundle: Bundle) -> None:
    put(own_bundle, b"of another version")
    passed, said = scores_check(own_bundle)
    assert passed is False
    assert "Version tag does not match" in said


def test_an_engine_that_drifts_fails(own_bundle: Bundle) -> None:
    put(own_bundle, PLAN + own_bundle.graph("int8").read_bytes())
    passed, said = scores_check(own_bundle)
    assert passed is False
    assert "differ from the graph's" in said


def test_a_build_keeps_no_engine_that_drifts(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    details = {"tensorrt": VERSION, "module": "tensorrt", "device": "Orin", "compute_capability": "8.7"}
    layer = tensorrt_layer('{"Name": "conv", "LayerType": "CaskConvolution", "Outputs": [{"Format/Datatype": "FP32"}]}')

    def build_with(precision: Any) -> None:
        plan = PLAN + own_bundle.graph(precision).read_bytes()
        monkeypatch.setattr(builder, "build_plan", lambda *_: builder.BuiltPlan(plan, [layer], details))
        build_engine(own_bundle, BuildRequest("fp32", options=BuildOptions(hardware_compatible="ampere-plus")))

    with pytest.raises(EngineError, match="differ from the graph's"):
        build_with("int8")
    assert engines(own_bundle) == []
    build_with("fp32")
    (built,) = engines(own_bundle)
    assert built.unusable_reason is None
    assert (built.sidecar.device_features, built.sidecar.layers) == (["sm8.0+"], [layer])
    assert built.sidecar.golden_check == pytest.approx(0, abs=1e-3)
    assert built.sidecar.options["hardware_compatible"] == "ampere-plus"


def test_dla_core_and_host_code_reach_the_runtime(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    make = runtime_for

    def spy(trt: Any, logger: Any, **options: Any) -> Any:
        asked.append(options)
        return make(trt, logger, **options)

    monkeypatch.setattr(engine_module, "runtime_for", spy)
    put(own_bundle, plan_of(own_bundle), options={"dla_core": 1, "version_compatible": True})
    open_engine(own_bundle, engine(own_bundle, NAME)).close()
    assert asked == [{"dla_core": 1, "host_code": True}]


def test_a_stripped_engine_takes_its_weights_from_the_graph(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "with_weights", lambda plan, graph, **_: plan.removesuffix(b"stripped") + graph)
    put(own_bundle, PLAN + b"stripped", options={"strip_weights": True})
    assert scores_check(own_bundle)[0] is True


def test_new_weights_are_put_into_a_refittable_engine(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "with_weights", lambda _, graph, **__: PLAN + graph)
    put(own_bundle, plan_of(own_bundle))
    with pytest.raises(EngineError, match="built without refit: build it again with refit=True"):
        refit_engine(own_bundle, NAME)
    put(own_bundle, plan_of(own_bundle), options={"refit": True})
    graph = own_bundle.graph("fp32").read_bytes()
    with own_bundle.stage("export", command="lrdan-edge export") as stage:
        stage.path("model.fp32.onnx").write_bytes(graph)
        stage.path("model.fp16.onnx").write_bytes(own_bundle.graph("fp16").read_bytes())
        stage.path("reports/parity.md").write_bytes(b"a new export")
    refit_engine(own_bundle, NAME)
    assert engine(own_bundle, NAME).unusable_reason is None
    assert all(check.passed for check in verify_engine(own_bundle, NAME))
    (own_bundle.path / "engines" / f"{NAME}.sig").unlink()
    monkeypatch.setattr(build_module, "with_weights", lambda *_: pytest.fail("untrusted bytes were loaded"))
    with pytest.raises(EngineError, match="did not build it"):
        refit_engine(own_bundle, NAME)


class FakeEngine:
    """What the refitter and the serialisation are asked of."""

    def __init__(self) -> None:
        self.cleared: list[str] = []
        self.kept: list[str] = []

    def create_serialization_config(self) -> Any:
        return SimpleNamespace(clear_flag=self.cleared.append, set_flag=self.kept.append)

    def serialize_with_config(self, config: Any) -> bytes:
        assert config
        return b"whole plan"


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0"])
@pytest.mark.parametrize(("loads", "takes"), [(True, True), (True, False), (False, True)])
def test_weights_are_put_back_by_tensorrts_refitter(
    monkeypatch: pytest.MonkeyPatch, version: str, loads: bool, takes: bool
) -> None:
    made = FakeEngine()
    given: list[bytes] = []

    def deserialize(plan: bytes) -> FakeEngine | None:
        given.append(plan)
        return made if loads else None

    def refit_from(graph: bytes) -> bool:
        given.append(graph)
        return takes

    runtime = SimpleNamespace(deserialize_cuda_engine=deserialize)
    flags = {"EXCLUDE_WEIGHTS": "weights"} | ({"INCLUDE_REFIT": "refit"} if version > "11" else {})
    trt = SimpleNamespace(
        __name__="tensorrt",
        __version__=version,
        ILogger=type("ILogger", (), {}),
        Runtime=lambda _: runtime,
        Refitter=lambda *_: SimpleNamespace(refit_cuda_engine=lambda: True),
        OnnxParserRefitter=lambda *_: SimpleNamespace(refit_from_bytes=refit_from),
        SerializationFlag=SimpleNamespace(**flags),
    )
    monkeypatch.setattr(refit, "find_tensorrt", lambda: trt)
    if not (loads and takes):
        said = "cannot put this graph's weights" if loads else "cannot load this engine"
        with pytest.raises(EngineError, match=said):
            refit.with_weights(b"plan", b"graph")
        return
    assert refit.with_weights(b"plan", b"graph", dla_core=1, version_compatible=True) == b"whole plan"
    assert given == [b"plan", b"graph"]
    assert (runtime.DLA_core, runtime.engine_host_code_allowed) == (1, True)
    assert made.cleared == ["weights"]
    assert made.kept == (["refit"] if version > "11" else [])


def test_a_runtime_that_does_not_start_is_reported() -> None:
    def null(_: Any) -> Any:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt: Any = SimpleNamespace(__name__="tensorrt", __version__="10.3.0", Runtime=null)
    with pytest.raises(EngineError, match=r"TensorRT 10.3.0 cannot start its runtime: .* driver"):
        runtime_for(trt, None)
