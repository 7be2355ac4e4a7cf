"""The int8 graph for processors: the same numbers, with the unsigned activations that their integer kernels need."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrdan_edge.errors import CalibrationError

if TYPE_CHECKING:
    import onnx

ACTIVATION_ZERO = "activation_zero_point"
"""Name of the zero point of all quantised activations of an int8 deploy graph, except those after a ReLU."""

RELU_ZERO = "relu_zero_point"
"""Name of the zero point of the activations after a ReLU."""


def with_unsigned_activations(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Replace int8 activations by uint8 ones that give the same numbers, to the last bit.

    TensorRT takes only signed activations and float biases. ONNX Runtime's integer kernels for processors multiply unsigned
    activations by signed weights. Int8 with zero point 0 and uint8 with zero point 128 represent the same real numbers. The output
    of a ReLU is never negative: it keeps zero point 0, so that rounding includes the ReLU, and is limited to 127, the largest int8
    value. Biases are whole numbers of product steps and become int32.

    Args:
        model: An int8 deploy graph from `lrdan_edge.calibration.quantise`.

    Returns:
        A new graph, checked.

    Raises:
        CalibrationError: The result is not a valid graph.
    """
    import onnx

    unsigned = onnx.ModelProto()
    unsigned.CopyFrom(model)
    graph = unsigned.graph
    made_by = {output: node for node in graph.node for output in node.output}
    constants = _Constants(graph)
    for name, zero in ((ACTIVATION_ZERO, 128), (RELU_ZERO, 0)):
        if name in constants:
            constants.put(name, np.array(zero, np.uint8))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            nodes += _with_whole_bias(node, made_by, constants)
        elif node.op_type == "QuantizeLinear" and node.input[2] == RELU_ZERO and _made_by_relu(node.input[0], made_by):
            nodes += _bounded(node, constants)
        else:
            nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    return checked(unsigned)


class _Constants:
    """A graph's initialisers by name."""

    def __init__(self, graph: "onnx.GraphProto") -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def value(self, name: str) -> npt.NDArray[Any]:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._tensors[name])

    def put(self, name: str, value: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        if name not in self._tensors:
            self._tensors[name] = self._graph.initializer.add()
        self._tensors[name].CopyFrom(numpy_helper.from_array(value, name))
        return name


def _made_by_relu(tensor: str, made_by: Mapping[str, "onnx.NodeProto"]) -> bool:
    return tensor in made_by and made_by[tensor].op_type == "Relu"


def _with_whole_bias(
    convolution: "onnx.NodeProto", made_by: Mapping[str, "onnx.NodeProto"], constants: _Constants
) -> list["onnx.NodeProto"]:
    """Convert an integer convolution's bias to int32, as integer kernels add it; a float convolution is not changed."""
    from onnx import helper

    activation, weight = (made_by.get(name) for name in convolution.input[:2])
    if activation is None or weight is None or {activation.op_type, weight.op_type} != {"DequantizeLinear"}:
        return [convolution]
    name = convolution.input[2]
    steps = np.asarray(constants.value(activation.input[1]) * constants.value(weight.input[1]), np.float32)
    zero = constants.put(f"{name}_zero_point", np.zeros(len(steps), np.int32))
    whole = np.rint(constants.value(name).astype(np.float64) / steps).astype(np.int32)
    inputs = [constants.put(f"{name}_quantised", whole), constants.put(f"{name}_scale", steps), zero]
    convolution.input[2] = f"{name}_dequantised"
    bias = helper.make_node("DequantizeLinear", inputs, [convolution.input[2]], name=f"{name}_DequantizeLinear", axis=0)
    return [bias, convolution]


def _bounded(quantiser: "onnx.NodeProto", constants: _Constants) -> list["onnx.NodeProto"]:
    """Limit the output of a quantiser after a ReLU to 127."""
    from onnx import helper

    result, largest = quantiser.output[0], constants.put(f"{quantiser.output[0]}_largest", np.array(127, np.uint8))
    quantiser.output[0] = f"{result}_unbounded"
    return [quantiser, helper.make_node("Clip", [quantiser.output[0], "", largest], [result], name=f"{result}_Clip")]


def checked(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Check the graph against the ONNX specification and return it.

    Raises:
        CalibrationError: The graph is not valid.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CalibrationError(f"the quantised graph is not valid ONNX: {error}") from error
    return model
