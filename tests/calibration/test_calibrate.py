from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from parts import Line

from lrdan_edge.bundle import Bundle
from lrdan_edge.calibration.calibrate import calibrate
from lrdan_edge.errors import CalibrationError, DataError
from lrdan_edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.runtime.golden import golden_frames, golden_scores


@pytest.fixture(scope="module")
def int8(line: Line) -> onnx.ModelProto:
    return onnx.load(Bundle.open(line.bundle).graph("int8"))


def test_every_quantiser_is_symmetric_int8_and_weights_are_per_channel(int8: onnx.ModelProto) -> None:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    quantisers = [node for node in int8.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert quantisers
    for node in quantisers:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    per_channel = [node for node in quantisers if constants[node.input[1]].ndim == 1 and constants[node.input[1]].size > 1]
    assert per_channel


def test_all_of_ae2_is_quantised_and_nothing_else(int8: onnx.ModelProto) -> None:
    made_by = {output: node for node in int8.graph.node for output in node.output}
    float_convolutions = []
    for node in int8.graph.node:
        if node.op_type == "Conv":
            quantised = [
                made_by.get(name) is not None and made_by[name].op_type == "DequantizeLinear" for name in node.input[:2]
            ]
            assert all(quantised) or not any(quantised)
            if not any(quantised):
                float_convolutions.append(node)
            elif len(node.input) > 2:
                bias = next(tensor for tensor in int8.graph.initializer if tensor.name == node.input[2])
                assert bias.data_type == TensorProto.FLOAT, "TensorRT refuses a dequantised int32 bias"
    assert len(float_convolutions) == 2, "only the smoothing's two convolutions stay in float"


def test_a_threshold_belongs_to_its_own_graph(line: Line) -> None:
    bundle = Bundle.open(line.bundle)
    frames, golden = golden_frames(bundle), golden_scores(bundle)
    for precision, decision in bundle.decision().graphs.items():
        assert decision.graph_sha256 == bundle.manifest.files[f"model.{precision}.onnx"].sha256
        assert decision.n == 60
        assert decision.good_scores == sorted(decision.good_scores)
        assert sum(score > decision.threshold for score in decision.good_scores) <= 0.02 * decision.n
        with OnnxRuntimeBackend(bundle.graph(precision).read_bytes(), precision) as backend:
            assert np.allclose(backend.infer(frames).score, golden.scores[precision], rtol=1e-5)


def test_too_few_held_out_images_leave_the_bundle_alone(own_bundle: Bundle) -> None:
    before = (own_bundle.path / "manifest.json").read_bytes()
    with pytest.raises(CalibrationError, match="takes 999"):
        calibrate(own_bundle, false_reject_rate=0.001)
    assert (own_bundle.path / "manifest.json").read_bytes() == before


def test_images_that_are_gone_are_named(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(own_bundle.manifest.stages["train"].results, "data", "/nowhere")
    with pytest.raises(DataError, match=r"are gone .*--good DIR"):
        calibrate(own_bundle)


def test_other_good_images_set_the_threshold(own_bundle: Bundle, line: Line) -> None:
    decision = calibrate(own_bundle, false_reject_rate=0.05, good=Path(line.data / "test" / "good"))
    assert {graph.n for graph in decision.graphs.values()} == {20}
