from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from parts import Line

from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.backends.openvino import OpenVinoBackend
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.calibration.layout import reshape_instead_of_transpose
from lrdan_edge.calibration.quantise import QuantisableGraph
from lrdan_edge.calibration.unsigned import with_unsigned_activations
from lrdan_edge.data.images import list_images, load_frames
from lrdan_edge.engines.select import choose
from lrdan_edge.errors import CalibrationError

WIDTH = 8


def unet(side: int = 16, activation: str = "LeakyRelu") -> onnx.ModelProto:
    """A deploy graph with a skip connection, as a restorer's: conv, activation, halve, enlarge, concatenate, conv."""
    rng = np.random.default_rng(5)
    constants, nodes = [], []

    def constant(name: str, value: npt.NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def conv(source: str, name: str, inputs: int, outputs: int, stride: int = 1) -> str:
        weight = constant(f"network.{name}.weight", rng.normal(0, 0.3, (outputs, inputs, 3, 3)).astype(np.float32))
        bias = constant(f"network.{name}.bias", rng.normal(0, 0.1, outputs).astype(np.float32))
        nodes.append(helper.make_node("Conv", [source, weight, bias], [name], pads=[1] * 4, strides=[stride] * 2))
        return name

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def activated(source: str, output: str) -> str:
        return add(activation, [source], output, **({"alpha": 0.1} if activation == "LeakyRelu" else {}))

    image = add("Cast", ["frames"], "cast", to=TensorProto.FLOAT)
    image = add("Transpose", [image], "image", perm=[0, 3, 1, 2])
    image = add("Mul", [image, constant("scale", np.array(1 / 128, np.float32))], "x")
    skip = activated(conv(image, "stem", 1, WIDTH), "skip")
    deep = activated(conv(skip, "down", WIDTH, WIDTH, 2), "deep")
    scales = constant("scales", np.array([1, 1, 2, 2], np.float32))
    large = add("Resize", [deep, "", scales], "large", mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric")  # fmt: skip
    both = add("Concat", [large, skip], "both", axis=1)
    head = conv(activated(conv(both, "up", 2 * WIDTH, WIDTH), "last"), "head", WIDTH, 1)
    add("Squeeze", [head, constant("axis", np.array([1], np.int64))], "heatmap")
    add("ReduceMax", ["heatmap", constant("axes", np.array([1, 2], np.int64))], "score", keepdims=0)
    graph = helper.make_graph(
        nodes,
        "unet",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", side, side, 1])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["batch", side, side]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def frames() -> npt.NDArray[Any]:
    return np.random.default_rng(1).integers(0, 256, (3, 16, 16, 1)).astype(np.uint8)


@pytest.fixture(params=["LeakyRelu", "Relu"])
def graph(request: pytest.FixtureRequest) -> QuantisableGraph:
    return QuantisableGraph(unet(activation=request.param))


@pytest.fixture
def leaky() -> QuantisableGraph:
    return QuantisableGraph(unet())


@pytest.fixture
def rectified() -> QuantisableGraph:
    return QuantisableGraph(unet(activation="Relu"))


def amplitudes(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> dict[str, float]:
    names = graph.tensors()
    session = ort.InferenceSession(graph.with_outputs(names), providers=["CPUExecutionProvider"])
    return {name: float(np.abs(value).max()) for name, value in zip(names, session.run(names, {"frames": frames}), strict=True)}


def run(model: bytes, frames: npt.NDArray[Any], level: ort.GraphOptimizationLevel) -> list[npt.NDArray[Any]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"frames": frames}))


def test_the_int8_graph_is_close_to_fp32(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    none = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    int8 = graph.quantise(amplitudes(graph, frames)).SerializeToString()
    exact, rounded = (run(model, frames, none)[1] for model in (graph.model.SerializeToString(), int8))
    assert 0 < np.std(rounded.astype(np.float64) - exact) < 0.1 * np.std(exact)


@pytest.mark.parametrize("name", ["stem", "down", "up", "head"])
def test_weights_are_within_half_a_step_of_what_they_were(graph: QuantisableGraph, frames: npt.NDArray[Any], name: str) -> None:
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.model.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in graph.quantise(amplitudes(graph, frames)).graph.initializer}
    weight, steps = before[f"network.{name}.weight"].astype(np.float64), after[f"network.{name}.weight_quantised"]
    scale = after[f"network.{name}.weight_scale"].astype(np.float64)[:, None, None, None]
    assert np.abs(weight - steps * scale).max() <= scale.max() / 2 * (1 + 1e-6)
    never_negative = name != "stem" and any(node.op_type == "Relu" for node in graph.model.graph.node)
    most = 127 if never_negative else 64
    used = np.abs(steps).reshape(len(steps), -1).max(axis=1)
    assert used.max() <= most
    assert (used >= most - 1).all(), "every channel uses its whole range"


def test_inputs_of_a_concatenation_share_a_scale(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    model = graph.quantise(amplitudes(graph, frames))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scales = {n.input[0]: float(constants[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert scales["both"] == scales["large"] == scales["deep"] == scales["skip"]
    names = {"x", "last"} | ({"stem", "down", "up"} & scales.keys())
    assert len({scales[name] for name in names}) == len(names)


def test_a_relu_is_part_of_its_layer(rectified: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    model = rectified.quantise(amplitudes(rectified, frames))
    quantised = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert sorted(quantised) == ["both", "deep", "large", "last", "skip", "x"], "no rounding between a convolution and its ReLU"
    readers = [node.op_type for node in model.graph.node for name in node.input if name in ("stem", "down", "up")]
    assert readers == ["Relu"] * 3


@pytest.mark.parametrize("layer", ["stem", "down", "up", "head"])
def test_a_layer_kept_in_float_has_its_weights_and_float_inputs(
    graph: QuantisableGraph, frames: npt.NDArray[Any], layer: str
) -> None:
    rectified = any(node.op_type == "Relu" for node in graph.model.graph.node)
    model = graph.quantise(amplitudes(graph, frames), [layer])
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            quantised = [made_by.get(name) == "DequantizeLinear" for name in node.input[:2]]
            # What a ReLU gives is rounded for everybody: only then can the layer that it belongs to be computed in integers.
            rounded = rectified and node.output[0] in ("down", "head")
            assert quantised == ([rounded, False] if node.output[0] == layer else [True, True])


def test_with_every_layer_in_float_nothing_changes(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    model = graph.quantise(amplitudes(graph, frames), list(graph.layers))
    assert not any("Linear" in node.op_type for node in model.graph.node)
    level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for one, other in zip(*(run(m.SerializeToString(), frames, level) for m in (graph.model, model)), strict=True):
        assert np.array_equal(one, other)


def test_unsigned_activations_give_the_same_numbers_to_the_last_bit(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    ranges = {name: 0.6 * value for name, value in amplitudes(graph, frames).items()}  # so that some values saturate
    signed = graph.quantise(ranges)
    unsigned = with_unsigned_activations(signed)
    level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    graphs = (signed.SerializeToString(), unsigned.SerializeToString())
    for one, other in zip(*(run(data, frames, level) for data in graphs), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("narrow", [1.0, 0.6], ids=["no value saturates", "some do"])
@pytest.mark.parametrize("kept", [(), ("down",)], ids=["all int8", "one layer in float"])
def test_every_kernel_computes_what_the_graph_says(
    graph: QuantisableGraph, frames: npt.NDArray[Any], kept: tuple[str, ...], narrow: float
) -> None:
    """Without VNNI, products of 8 bits saturate; and ONNX Runtime quantised the weights of layers kept in float."""
    pytest.importorskip("openvino")
    signed = graph.quantise({name: narrow * value for name, value in amplitudes(graph, frames).items()}, kept)
    expected = run(signed.SerializeToString(), frames, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)[1]
    unsigned = with_unsigned_activations(signed).SerializeToString()
    backends = (
        OnnxRuntimeBackend(unsigned, "int8"),
        OnnxRuntimeBackend(signed.SerializeToString(), "int8", in_floats=True),
        OpenVinoBackend(unsigned, "int8"),
    )
    for backend in backends:
        with backend:
            heatmap = backend.infer(frames).heatmap
        assert heatmap is not None
        assert np.abs(heatmap - expected).max() <= 1e-5 * np.std(expected), backend.name


def test_no_sum_of_two_products_exceeds_16_bits(graph: QuantisableGraph, frames: npt.NDArray[Any]) -> None:
    model = with_unsigned_activations(graph.quantise(amplitudes(graph, frames)))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    dequantised = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    integers = {n.output[0]: n.input[0] for n in dequantised.values() if n.input[0] not in constants}
    exposed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(integers.values()))
    session = ort.InferenceSession(exposed.SerializeToString(), providers=["CPUExecutionProvider"])
    extreme = np.stack([np.zeros_like(frames[0]), np.full_like(frames[0], 255), frames[0]])
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in dequantised:
            continue
        weight = constants[dequantised[node.input[1]].input[0]].astype(int)
        (activation,) = session.run([integers[node.input[0]]], {"frames": extreme})
        assert activation.dtype == np.uint8
        zero = int(constants[dequantised[node.input[0]].input[2]])
        largest = 255 if zero else 127
        assert activation.max() <= largest
        assert 2 * largest * np.abs(weight).max() < 1 << 15


def test_onnxruntime_computes_every_layer_but_the_last_in_integers(
    graph: QuantisableGraph, frames: npt.NDArray[Any], tmp_path: Path
) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    model = with_unsigned_activations(graph.quantise(amplitudes(graph, frames))).SerializeToString()
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("QLinearConv") == 3
    assert operators.count("QLinearConcat") == 1
    assert sum("Conv" in operator for operator in operators) == 4


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_trained_bundles_scores_are_the_graphs(line: Line, runtime: str) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    bundle = Bundle.open(line.bundle)
    frames = load_frames(
        [*list_images(line.data / "test" / "good"), *list_images(line.data / "test" / "blob")],
        bundle.manifest.model.frame_shape,
    )
    exact = run(bundle.graph("int8").read_bytes(), frames, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)[0]
    with choose(bundle, runtime, "int8").open() as backend:
        theirs = backend.infer(frames).score
    assert np.abs(theirs - exact).max() < 1e-3 * np.std(bundle.decision().graphs["int8"].good_scores)


def test_a_graph_without_layers_is_refused() -> None:
    model = unet()
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("network.", "other.")
    with pytest.raises(CalibrationError, match="lrdan-edge export"):
        QuantisableGraph(model)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_reshaped_image_is_the_transposed_one(channels: int) -> None:
    nodes = [
        helper.make_node("Cast", ["frames"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["image"], perm=[0, 3, 1, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "camera",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", 5, 7, channels])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", channels, 5, 7])],
    )
    reshape_instead_of_transpose(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in graph.node] == ["Cast", *(["Reshape", "Transpose"] if channels > 1 else []), "Reshape"]
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 7, channels)).astype(np.uint8)
    (image,) = run(model.SerializeToString(), frames, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    assert np.array_equal(image, frames.transpose(0, 3, 1, 2))
