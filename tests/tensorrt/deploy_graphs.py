"""Small graphs of the deploy form, made without torch: the same operators, types and names as the exporter's."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOATS = {
    "fp32": (TensorProto.FLOAT, np.float32),
    "fp16": (TensorProto.FLOAT16, np.float16),
    "int8": (TensorProto.FLOAT, np.float32),
}


class _Graph:
    """Nodes and initialisers in the making; every method returns the name of its result."""

    def __init__(self, precision: str) -> None:
        self.quantised = precision == "int8"
        self.element, self.dtype = FLOATS[precision]
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(7)

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def constant(self, value: object, dtype: type | None = None) -> str:
        name = f"constant_{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype or self.dtype), name))
        return name

    def fake_quantise(self, tensor: str, scale: float) -> str:
        parameters = (self.constant(scale, np.float32), self.constant(0, np.int8))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", tensor, *parameters), *parameters)

    def weight(self, values: npt.NDArray[Any]) -> str:
        """The weight; quantised to int8 per output channel, symmetric, where the graph is."""
        if not self.quantised:
            return self.constant(values)
        scale = np.abs(values).max(axis=(1, 2, 3)) / 127
        integers = np.rint(values / scale[:, None, None, None])
        parameters = (self.constant(scale, np.float32), self.constant(np.zeros(len(scale)), np.int8))
        return self.add("DequantizeLinear", self.constant(integers, np.int8), *parameters, axis=0)

    def convolution(self, tensor: str, inputs: int, outputs: int, stride: int = 1) -> str:
        values = self.random.normal(0, 0.3, (outputs, inputs, 3, 3))
        if self.quantised:
            tensor = self.fake_quantise(tensor, 1 / 32)
        bias = self.constant(self.random.normal(0, 0.1, outputs))
        return self.add("Conv", tensor, self.weight(values), bias, pads=[1] * 4, strides=[stride] * 2)


def deploy_graph(precision: str, size: int = 32, channels: int = 1, *, mixed_types: bool = False) -> bytes:
    """An autoencoder with preprocessing and scoring inside: uint8 [N, H, W, C] to score [N] and heatmap [N, H, W].

    Args:
        precision: ``fp32``, ``fp16`` (typed) or ``int8`` (Q/DQ).
        size: H and W, even.
        channels: C.
        mixed_types: Leave one float32 constant beside a half tensor, as careless converters do.
    """
    graph = _Graph(precision)
    image = graph.add("Cast", "frames", to=graph.element)
    image = graph.add("Transpose", image, perm=[0, 3, 1, 2])
    image = graph.add("Mul", image, graph.constant(1 / 127.5, np.float32 if mixed_types else None))
    image = graph.add("Add", image, graph.constant(-1.0))
    code = graph.add("Relu", graph.convolution(image, channels, 8, stride=2))
    code = graph.add("Resize", code, "", graph.constant([1, 1, 2, 2], np.float32), mode="nearest", nearest_mode="floor",
                     coordinate_transformation_mode="asymmetric")  # fmt: skip
    reconstruction = graph.add("Tanh", graph.convolution(code, 8, channels))
    error = graph.add("Abs", graph.add("Sub", image, reconstruction))
    error = graph.add("Cast", error, to=TensorProto.FLOAT)
    error = graph.add("ReduceMean", error, graph.constant([1], np.int64), keepdims=1)
    gaussian = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])[None, None]
    smooth = graph.add("Conv", error, graph.constant(gaussian, np.float32), pads=[1] * 4)
    heatmap = graph.add("Squeeze", smooth, graph.constant([1], np.int64), output="heatmap")
    graph.add("ReduceMax", heatmap, graph.constant([1, 2], np.int64), keepdims=0, output="score")
    proto = helper.make_graph(
        graph.nodes,
        f"deploy_{precision}",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", size, size, channels])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["batch", size, size]),
        ],
        graph.initialisers,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if not mixed_types:
        onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
