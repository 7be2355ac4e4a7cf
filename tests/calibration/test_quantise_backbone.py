"""A backbone in int8: ReLU6, depthwise convolutions, residual sums and channels that are almost zero; distances stay in float.

In feature-restoration, so does the map of AE2's errors; the decoder sees quantised errors.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from deploy import BACKBONES
from made_once import made_once
from onnx import numpy_helper
from skimage import data as photographs

from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend, optimise
from lrdan_edge.backends.openvino import OpenVinoBackend
from lrdan_edge.calibration.quantise import QuantisableGraph, load_quantisable
from lrdan_edge.calibration.scales import weight_scales
from lrdan_edge.calibration.unsigned import with_unsigned_activations

torch = pytest.importorskip("torch")

SHAPE = (60, 100, 3)


distances = pytest.mark.parametrize("graph", ["padim", "patchcore"], indirect=True)
restoration = pytest.mark.parametrize("graph", ["feature-restoration"], indirect=True)


@pytest.fixture(params=BACKBONES)
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


def heatmap_of_every_kernel(signed: onnx.ModelProto, frames: npt.NDArray[np.uint8], tolerance: float) -> npt.NDArray[Any]:
    """The heatmap that the graph says, after a check that all kernels compute it.

    Kernels sum float32 in different orders. Where AE2's error in features (`feature-restoration`) or an enlarged image (`dn2`) is
    quantised, the last bit may decide between two steps of int8, which has a part in the whole frame's heatmap.

    Args:
        signed: The graph.
        frames: Its frames.
        tolerance: Largest difference.
    """
    expected = run(signed, frames)[1]
    unsigned = with_unsigned_activations(signed).SerializeToString()
    for backend in (OnnxRuntimeBackend(unsigned, "int8"), OpenVinoBackend(unsigned, "int8")):
        with backend:
            heatmap = backend.infer(frames).heatmap
        assert heatmap is not None
        assert np.abs(heatmap - expected).max() <= tolerance, backend.name
    return expected


@pytest.mark.parametrize("narrow", [1.0, 0.6], ids=["no value saturates", "some do"])
def test_every_kernel_computes_what_the_graph_says(
    request: pytest.FixtureRequest, graph: QuantisableGraph, frames: npt.NDArray[Any], narrow: float
) -> None:
    pytest.importorskip("openvino")
    exact = run(graph.model, frames)[1]
    recipe = request.node.callspec.params["graph"]
    tolerance = {"feature-restoration": 0.2 * np.std(exact), "dn2": 2e-3 * exact.max()}.get(recipe, 1e-4 * np.std(exact))
    signed = graph.quantise({name: narrow * value for name, value in amplitudes(graph, frames).items()})
    expected = heatmap_of_every_kernel(signed, frames, float(tolerance))
    if narrow == 1.0:
        assert np.std(expected - exact) < (0.02 * exact.max() if recipe == "dn2" else 0.25 * np.std(exact))


@distances
def test_only_convolutions_of_the_backbone_are_quantised(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    model = graph.quantise(amplitudes(graph, frames))
    weights = [tensor.name for tensor in model.graph.initializer if tensor.name.endswith("weight_quantised")]
    assert len(weights) == len(graph.layers) == 33
    assert all(name.startswith("network.backbone.") for name in weights)


@distances
def test_relu6_becomes_relu_where_int8_saturates_anyway(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    ranges = amplitudes(graph, frames)
    wide = {name: 100.0 if "hardtanh" in name else value for name, value in ranges.items()}  # more than ReLU6 lets through
    counts = {kind: sum(node.op_type == kind for node in graph.model.graph.node) for kind in ("Relu", "Clip")}
    assert (counts["Relu"], counts["Clip"]) in ((0, 22), (0, 24))  # PatchCore clips lengths and distances too
    for model in (graph.quantise(ranges), graph.quantise(wide)):
        assert sum(node.op_type == "Relu" for node in model.graph.node) == 22
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.quantise(wide).graph.initializer}
    scales = [float(value) for name, value in constants.items() if name.startswith("hardtanh") and name.endswith("_scale")]
    assert scales == [pytest.approx(6 / 127)] * 22


def test_the_stem_and_the_first_block_come_first(graph: QuantisableGraph) -> None:
    assert graph.first == [f"backbone.{name}.conv" for name in ("stem", "blocks.0.depthwise", "blocks.0.project")]
    assert list(graph.layers)[:3] == graph.first


@restoration
def test_the_error_map_is_computed_from_float_features(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    model = graph.quantise(amplitudes(graph, frames), graph.first)
    made_by = {output: node for node in model.graph.node for output in node.output}
    waiting = [name for node in model.graph.node if any("error.rows" in name for name in node.input) for name in node.input]
    visited: dict[str, onnx.NodeProto] = {}
    while waiting:
        name = waiting.pop()
        if name in made_by and name not in visited:
            node = visited[name] = made_by[name]
            standardises = any(".inverse_" in one and ".error." not in one for one in node.input)
            waiting += [] if node.op_type == "Conv" or standardises else node.input
    kinds = [node.op_type for node in visited.values()]
    assert kinds.count("Conv") == 3, "AE2's outputs"
    assert kinds.count("Sqrt") == 3
    assert not any("Linear" in kind for kind in kinds)
    assert not any(
        f"{output}_quantised" in made_by for node in visited.values() if node.op_type == "Conv" for output in node.output
    )


@restoration
def test_a_head_without_bias_that_is_read_more_than_once_stays_in_float(
    graph: QuantisableGraph, frames: npt.NDArray[Any]
) -> None:
    pytest.importorskip("openvino")
    heads = ["ae2.coarse", "ae2.middle", "ae2.fine"]  # `fine` is read once, by the step that moves its channels to positions
    biases = {name: graph.layers[name].input[2] for name in heads}
    for tensor in graph.model.graph.initializer:
        if tensor.name in biases.values():
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    del graph.layers["ae2.coarse"].input[2:]
    unbiased = QuantisableGraph(graph.model)
    assert [name for name in graph.layers if name not in unbiased.layers] == ["ae2.middle", "ae2.coarse"]
    tolerance = 1e-4 * float(np.std(run(unbiased.model, frames)[1]))
    heatmap_of_every_kernel(unbiased.quantise(amplitudes(unbiased, frames)), frames, tolerance)


@restoration
def test_onnx_runtime_fuses_the_convolutions(graph: QuantisableGraph, frames: npt.NDArray[Any], tmp_path: Path) -> None:
    unsigned = with_unsigned_activations(graph.quantise(amplitudes(graph, frames), graph.first))
    onnx.save(unsigned, tmp_path / "int8.onnx")
    optimise((tmp_path / "int8.onnx").read_bytes(), "int8", tmp_path / "optimised.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    in_float = len(graph.first) + 4  # AE2's outputs and the marks stay in float
    assert kinds.count("QLinearConv") == len(graph.layers) - in_float
    assert sum(kind.endswith("Conv") for kind in kinds) == len(graph.layers)


def test_layers_in_float_keep_their_relu6(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    model = graph.quantise(amplitudes(graph, frames), list(graph.layers))
    assert not any("Linear" in node.op_type for node in model.graph.node)
    kinds = [[node.op_type for node in one.graph.node] for one in (graph.model, model)]
    assert [kinds[0].count(kind) for kind in ("Relu", "Clip")] == [kinds[1].count(kind) for kind in ("Relu", "Clip")]
    for one, other in zip(run(graph.model, frames), run(model, frames), strict=True):
        assert np.array_equal(one, other)


@distances
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
