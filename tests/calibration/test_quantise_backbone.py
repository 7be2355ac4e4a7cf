"""A backbone in int8: ReLU6, depthwise convolutions, residual sums and channels that are almost zero; distances stay in float."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from made_once import made_once
from onnx import numpy_helper
from skimage import data as photographs

from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.backends.openvino import OpenVinoBackend
from lrdan_edge.calibration.quantise import QuantisableGraph, load_quantisable
from lrdan_edge.calibration.scales import weight_scales
from lrdan_edge.calibration.unsigned import with_unsigned_activations

torch = pytest.importorskip("torch")

SHAPE = (60, 100, 3)


@pytest.fixture(params=["padim", "patchcore"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> QuantisableGraph:
    def make(folder: Path) -> None:
        from deploy import deploy_module, graph_of

        onnx.save(graph_of(deploy_module(SHAPE, request.param), SHAPE, "fp32"), folder / "model.onnx")

    return load_quantisable(made_once(tmp_path_factory, f"backbone-{request.param}", make) / "model.onnx")


@pytest.fixture
def frames() -> npt.NDArray[np.uint8]:
    astronaut: Any = photographs.astronaut  # has no types
    image = astronaut()
    return np.stack([image[row : row + 60, column : column + 100] for row, column in ((0, 100), (60, 200), (200, 60))])


def amplitudes(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> dict[str, float]:
    names = graph.tensors()
    session = ort.InferenceSession(graph.with_outputs(names), providers=["CPUExecutionProvider"])
    return {name: float(np.abs(value).max()) for name, value in zip(names, session.run(names, {"frames": frames}), strict=True)}


def run(model: onnx.ModelProto, frames: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"frames": frames}))


@pytest.mark.parametrize("narrow", [1.0, 0.6], ids=["no value saturates", "some do"])
def test_every_kernel_computes_what_the_graph_says(graph: QuantisableGraph, frames: npt.NDArray[Any], narrow: float) -> None:
    pytest.importorskip("openvino")
    signed = graph.quantise({name: narrow * value for name, value in amplitudes(graph, frames).items()})
    expected = run(signed, frames)[1]
    unsigned = with_unsigned_activations(signed).SerializeToString()
    for backend in (OnnxRuntimeBackend(unsigned, "int8"), OpenVinoBackend(unsigned, "int8")):
        with backend:
            heatmap = backend.infer(frames).heatmap
        assert heatmap is not None
        assert np.abs(heatmap - expected).max() <= 1e-4 * np.std(expected), backend.name
    if narrow == 1.0:
        exact = run(graph.model, frames)[1]
        assert np.std(expected - exact) < 0.2 * np.std(exact)


def test_only_convolutions_of_the_backbone_are_quantised(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    model = graph.quantise(amplitudes(graph, frames))
    weights = [tensor.name for tensor in model.graph.initializer if tensor.name.endswith("weight_quantised")]
    assert len(weights) == len(graph.layers) == 33
    assert all(name.startswith("network.backbone.") for name in weights)


def test_relu6_becomes_relu_where_int8_saturates_anyway(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    ranges = amplitudes(graph, frames)
    wide = {name: 100.0 if "hardtanh" in name else value for name, value in ranges.items()}  # more than ReLU6 lets through
    counts = {kind: sum(node.op_type == kind for node in graph.model.graph.node) for kind in ("Relu", "Clip")}
    assert (counts["Relu"], counts["Clip"]) in ((0, 22), (0, 23))  # PatchCore clips its distances too
    for model in (graph.quantise(ranges), graph.quantise(wide)):
        assert sum(node.op_type == "Relu" for node in model.graph.node) == 22
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.quantise(wide).graph.initializer}
    scales = [float(value) for name, value in constants.items() if name.startswith("hardtanh") and name.endswith("_scale")]
    assert scales == [pytest.approx(6 / 127)] * 22


def test_layers_in_float_keep_their_relu6(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    model = graph.quantise(amplitudes(graph, frames), list(graph.layers))
    assert not any("Linear" in node.op_type or node.op_type == "Relu" for node in model.graph.node)
    for one, other in zip(run(graph.model, frames), run(model, frames), strict=True):
        assert np.array_equal(one, other)


def test_a_residual_sum_shares_the_scale_of_what_it_adds(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    model = graph.quantise(amplitudes(graph, frames))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scales = {
        n.output[0]: float(constants[n.input[1]])
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and not n.attribute
    }
    sums = [node for node in model.graph.node if node.op_type == "Add" and all(name in scales for name in node.input)]
    assert len(sums) == 5  # of six; the last one has a float input, since nothing quantised follows
    for node in sums:
        assert len({scales[name] for name in (*node.input, f"{node.output[0]}_dequantised")}) == 1


def test_a_bias_beside_negligible_weights_stays_a_small_whole_number() -> None:
    weight = np.array([[1e-12], [0.5], [0.0]], np.float32)
    bias = np.array([0.3, 0.3, 0.3], np.float32)
    scale = weight_scales(weight, 127, 0.05, 0.02, bias)
    assert (np.abs(bias[:2] / (scale[:2] * 0.05)) < 2**25).all()
    assert scale[1] == weight_scales(weight, 127, 0.05, 0.02)[1]
    assert scale[2] == 1
