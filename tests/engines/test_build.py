import re
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper

from lrdan_edge.backends import openvino as openvino_backend
from lrdan_edge.backends.layers import count_precisions
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.bundle.engine_sidecar import EngineSidecar
from lrdan_edge.bundle.names import engine_stage
from lrdan_edge.bundle.spec import PRECISIONS, Precision
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.golden import GOLDEN_TOLERANCE, golden_frames, golden_scores
from lrdan_edge.engines.open import engines, open_engine
from lrdan_edge.engines.select import choose
from lrdan_edge.errors import BackendError, BundleError, ChangedFileError, EngineError, MissingExtraError
from lrdan_edge.metrics import relative_differences

TARGETS = ["onnxruntime", "openvino"]


def build(bundle: Bundle, precision: Any = "int8", target: Any = "onnxruntime") -> str:
    if target == "openvino":
        pytest.importorskip("openvino")
    return build_engine(bundle, BuildRequest(precision, target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_scores_as_its_graph(own_bundle: Bundle, target: str, precision: Precision) -> None:
    name = build(own_bundle, precision, target)
    (engine,) = engines(own_bundle)
    assert (engine.name, engine.unusable_reason, engine.sidecar.target) == (name, None, target)
    bound = 1e-3 if target == "onnxruntime" else GOLDEN_TOLERANCE[precision]
    assert engine.sidecar.golden_check == pytest.approx(0, abs=bound)
    with open_engine(own_bundle, engine) as backend:
        scores = backend.infer(golden_frames(own_bundle)).score
    expected = np.array(golden_scores(own_bundle).scores[precision], np.float32)
    assert relative_differences(scores, expected).max() <= bound


@pytest.mark.parametrize("target", TARGETS)
def test_the_sidecar_records_request_and_result(own_bundle: Bundle, target: str) -> None:
    build(own_bundle, "int8", target)
    sidecar = engines(own_bundle)[0].sidecar
    assert sidecar.options == {"target": target, "precision": "int8"}
    assert datetime.fromisoformat(sidecar.built) <= datetime.now(timezone.utc)
    assert sidecar.details["precision"] == count_precisions(sidecar.layers)
    assert count_precisions(sidecar.layers)["int8"] > 0
    convolutions = [layer for layer in sidecar.layers if re.search("conv(?!ert)", layer.operator.lower())]
    assert convolutions
    assert all(len(layer.shape) == 4 for layer in convolutions)
    build(own_bundle, "fp32", target)
    assert {engine.sidecar.precision for engine in engines(own_bundle)} == {"int8", "fp32"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_changed_or_truncated_engine_is_refused(own_bundle: Bundle, target: str, damage: Callable[[bytes], bytes]) -> None:
    path = own_bundle.path / "engines" / build(own_bundle, "int8", target)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ChangedFileError, match="lrdan-edge build-engine --int8"):
        open_engine(own_bundle, engines(own_bundle)[0])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["another model", "no model"])
def test_a_foreign_graph_builds_no_engine(own_bundle: Bundle, target: str, kind: str) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data = model.SerializeToString() if kind == "another model" else b"not ONNX at all"
    with own_bundle.stage("export", command="lrdan-edge export") as stage:
        stage.path("model.fp32.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="has the sizes" if kind == "another model" else "not an ONNX graph") as failure:
        build(own_bundle, "fp32", target)
    assert "\n" not in str(failure.value)
    assert not [name for name in own_bundle.manifest.files if name.startswith("engines/")]


def test_openvinos_engine_needs_the_same_version(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build(own_bundle, "int8", "openvino")
    monkeypatch.setattr(openvino_backend, "openvino_version", lambda: "2024.0")
    assert "this is 2024.0" in str(engines(own_bundle)[0].unusable_reason)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "pip install 'lrdan-edge[openvino]'" in str(engines(own_bundle)[0].unusable_reason)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target_version": "1.0.0"}, "built by ONNX Runtime 1.0.0"),
        ({"platform": "linux-aarch64"}, "built on linux-aarch64"),
        ({"device_features": ["avx512_vnni_9"]}, "was built for"),
        ({"graph_sha256": "0" * 64}, "older than model.int8.onnx"),
    ],
)
def test_an_engine_that_is_not_compatible_says_why_and_what_to_do(
    own_bundle: Bundle, change: dict[str, object], said: str
) -> None:
    name = build(own_bundle)
    sidecar = msgspec.structs.replace(engines(own_bundle)[0].sidecar, **change)
    assert isinstance(sidecar, EngineSidecar)
    record = own_bundle.manifest.stages[engine_stage(name)]
    engine_bytes = (own_bundle.path / "engines" / name).read_bytes()
    with own_bundle.stage(engine_stage(name), command=record.command) as stage:
        stage.path(f"engines/{name}").write_bytes(engine_bytes)
        stage.path(f"engines/{name}.json").write_bytes(to_json(sidecar))
    (engine,) = engines(own_bundle)
    assert said in str(engine.unusable_reason)
    with pytest.raises(EngineError, match="lrdan-edge build-engine --int8 --target onnxruntime"):
        open_engine(own_bundle, engine)
    assert said in choose(own_bundle, "auto").describe(), "auto says why it passed the engine over"


def test_without_tensorrt_the_error_says_how_to_install_it(own_bundle: Bundle) -> None:
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        with pytest.raises((MissingExtraError, EngineError), match="install"):
            build_engine(own_bundle, BuildRequest("fp16"))
        assert not [name for name in own_bundle.manifest.files if name.startswith("engines/")]
        with pytest.raises(BackendError, match="no tensorrt runs here"):
            choose(own_bundle, "tensorrt")
    else:
        pytest.skip("TensorRT is installed")


def test_an_engine_older_than_its_graph_is_passed_over(own_bundle: Bundle) -> None:
    from lrdan_edge.calibration.calibrate import calibrate

    build(own_bundle)
    with own_bundle.stage("calibrate", command="x") as stage:
        for name in own_bundle.manifest.stages["calibrate"].outputs:
            data = (own_bundle.path / name).read_bytes()
            stage.path(name).write_bytes(data + (b" " if name.endswith(".onnx") else b""))
    assert "older than model.int8.onnx" in str(engines(own_bundle)[0].unusable_reason)
    calibrate(own_bundle)
    build(own_bundle)
    assert engines(own_bundle)[0].unusable_reason is None
