"""Quantise a graph to int8: explicit Q/DQ, symmetric, per-channel weights; for TensorRT, ONNX Runtime and OpenVINO.

Only the network's convolutions are quantised. Preprocessing, distances and scoring stay in float, because the decision needs their
precision. Biases stay in float (TensorRT refuses a dequantised int32 bias; ONNX Runtime fuses float ones by itself). A ReLU6 becomes a
ReLU, since int8 saturates at 6 or below anyway. A residual sum shares the scale of what it adds, so that every kernel gives the same
integers. Layers kept in float are float32: the pinned opset quantises no half precision, and no kernel would be faster with it.
"""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.command import Command
from lrdan_edge.calibration.layout import reshape_instead_of_transpose
from lrdan_edge.calibration.scales import (
    MOST_WEIGHT_STEPS,
    MOST_WEIGHT_STEPS_SIGNED,
    activation_scale,
    round_to_steps,
    weight_scales,
    without_ties,
)
from lrdan_edge.calibration.unsigned import ACTIVATION_ZERO, RELU_ZERO, checked
from lrdan_edge.errors import CalibrationError, MissingExtraError

if TYPE_CHECKING:
    import onnx

_PREFIX = re.compile(r"(?:network|ae2)\.")
"""The prefix of the network's weights; up to version 0.2 it was ``ae2.``."""

_WEIGHT = re.compile(_PREFIX.pattern + r".*weight")
_FIRST = ("backbone.stem.", "backbone.blocks.0.")
_ELEMENTWISE = ("LeakyRelu", "Relu", "Clip", "Add")
_PASS_THROUGH = ("Resize", "Concat", "MaxPool", "DepthToSpace", "Reshape", "Flatten", "Transpose", "Slice")
"""Operators that only move values (resize uses nearest neighbours), so their inputs and outputs share a scale."""


class QuantisableGraph:
    """An fp32 deploy graph, with the parts that can be int8.

    Attributes:
        model: The graph.
        layers: The network's convolutions that can be int8, by name, in order; each can be quantised or kept in float.
        first: The layers of a backbone's stem and first block. Their int8 noise shifts the scores more than that of all other layers
            together, and they have few multiplications, so they stay in float.
    """

    def __init__(self, model: "onnx.ModelProto") -> None:
        """Find the layers.

        Args:
            model: An fp32 deploy graph.

        Raises:
            CalibrationError: The network has no convolution.
        """
        self.model = model
        nodes = model.graph.node
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer if _WEIGHT.fullmatch(tensor.name)}
        places = [index for index, node in enumerate(nodes) if self._weights.keys() & set(node.input)]
        self._inside = list(nodes[places[0] : places[-1] + 1]) if places else []
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                self._readers[name].append(node)
        convolutions = [node for node in self._inside if node.op_type == "Conv"]
        if not convolutions:
            raise CalibrationError(
                "the fp32 graph has no convolution of the network to quantise", "run '{export}' again", export=Command("export")
            )
        self.layers = {layer_name(node): node for node in convolutions}
        self.first = [name for name in self.layers if name.startswith(_FIRST)]
        self._made_by = {output: node for node in nodes for output in node.output}
        self._limits = _relu_limits(model.graph)
        self._heads = self._last_layers()
        self.layers = {name: node for name, node in self.layers.items() if not self._scaled_twice(node)}

    def tensors(self) -> list[str]:
        """Activations whose range is needed. An activation that is only moved shares the range of its source."""
        groups = self._groups(self.layers)
        ordered = dict.fromkeys(name for node in self._inside for name in (*node.input, *node.output))
        return [name for name in ordered if name in groups and not self._is_moved(name)]

    def title(self, tensor: str) -> str:
        """An activation's readable name: ``down.0.3``, ``down.0.3 LeakyRelu``, or ``input``."""
        made_by = self._made_by.get(tensor)
        if made_by is None or not self._is_inside(made_by):
            return "input"
        if made_by.op_type == "Conv":
            return layer_name(made_by)
        source = self._made_by.get(made_by.input[0])
        return f"{self.title(made_by.input[0])} {made_by.op_type}" if source is not None else tensor

    def with_outputs(self, tensors: Iterable[str]) -> bytes:
        """The serialised fp32 graph with inner tensors as additional outputs."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(tensor) for tensor in tensors)
        return bytes(model.SerializeToString())

    def quantise(
        self,
        amplitudes: Mapping[str, float],
        keep_float: Collection[str] = (),
        most_signed_steps: int = MOST_WEIGHT_STEPS_SIGNED,
    ) -> "onnx.ModelProto":
        """Make the int8 graph.

        Args:
            amplitudes: Per tensor of `tensors`, the largest magnitude that int8 represents; larger values saturate.
            keep_float: Names of layers that stay in float.
            most_signed_steps: The largest magnitude of a weight whose activations may be negative; a larger value than the default
                is not exact on every processor (`lrdan_edge.calibration.scales`).

        Returns:
            A new graph with Q/DQ nodes, checked.

        Raises:
            CalibrationError: The result is not a valid graph.
        """
        import onnx

        quantised = [name for name in self.layers if name not in set(keep_float)]
        groups = self._groups(quantised)
        non_negative = self._non_negative()
        scales = self._scales(groups, amplitudes)
        builder = _Builder(self.model, non_negative)
        integer = {id(self.layers[name]) for name in quantised}
        for tensor, group in groups.items():
            if tensor not in self._made_by:
                builder.quantise_activation(tensor, scales[group])
        for node in self.model.graph.node:
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            passed = self._is_inside(node) and node.output[0] in groups and node.op_type in (*_ELEMENTWISE, *_PASS_THROUGH)
            for place, name in enumerate(node.input):
                if name in groups and (id(node) in integer or passed or self._ends_layer(name) or self._is_sum(name)):
                    copied.input[place] = builder.dequantised(name)
            if id(node) in integer:
                most = MOST_WEIGHT_STEPS if node.input[0] in non_negative else most_signed_steps
                result = groups.get(self._end_of_layer(node))
                steps = (scales[groups[node.input[0]]], scales[result] if result else None)
                bias = node.input[2] if len(node.input) > 2 else None
                copied.input[1] = builder.quantise_weight(self._weights[node.input[1]], most, steps, bias)
                if bias is not None:
                    copied.input[2] = builder.round_bias(bias, node.input[1], steps[0])
            if self._saturates(node, groups, scales):
                copied.op_type = "Relu"
                del copied.input[1:]
            builder.nodes.append(copied)
            for output in node.output:
                if output in groups:
                    builder.quantise_activation(output, scales[groups[output]])
        return builder.finish()

    def _scales(self, groups: Mapping[str, str], amplitudes: Mapping[str, float]) -> dict[str, float]:
        """The scale of each group's activations."""
        largest: dict[str, float] = defaultdict(float)
        for tensor, group in groups.items():
            amplitude = 0.0 if self._is_moved(tensor) else amplitudes[tensor]
            largest[group] = max(largest[group], min(amplitude, self._limits.get(tensor, math.inf)))
        scales = {group: activation_scale(amplitude) for group, amplitude in largest.items()}
        slopes: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for node in reversed(self._inside):
            source, result = groups.get(node.input[0]), groups.get(node.output[0])
            if node.op_type == "LeakyRelu" and source and result and source != result:
                slopes[source].append((_slope(node), result))
        for source, readers in slopes.items():  # last one first, so that the scale of its output is final
            scales[source] = without_ties(scales[source], [(slope, scales[result]) for slope, result in readers])
        return scales

    def _saturates(self, node: "onnx.NodeProto", groups: Mapping[str, str], scales: Mapping[str, float]) -> bool:
        """Whether a node is a ReLU6 whose output's int8 range ends at its limit or below: then it equals a ReLU."""
        output = node.output[0]
        if node.op_type != "Clip" or output not in self._limits or output not in groups:
            return False
        return scales[groups[output]] <= activation_scale(self._limits[output])

    def _groups(self, quantised: Iterable[str]) -> dict[str, str]:
        """The tensors to quantise, each with the name of the group whose members share a scale."""
        nodes = [self.layers[name] for name in quantised]
        integer = {id(node) for node in nodes}
        group: dict[str, str] = {}
        for node in nodes:
            group.setdefault(node.input[0], node.input[0])
            if node.output[0] not in self._heads:
                result = self._end_of_layer(node)
                group.setdefault(result, result)
        for node in reversed(self._inside):
            output = node.output[0]
            if output not in group:
                continue
            if node.op_type in _PASS_THROUGH:
                for tensor in _data_inputs(node):
                    _join(group, tensor, output)
            elif node.op_type in _ELEMENTWISE and not self._ends_layer(output):
                for tensor in _data_inputs(node):
                    made_by = self._made_by.get(tensor)
                    if made_by is None or (id(made_by) not in integer and (made_by.op_type == "Conv" or node.op_type != "Add")):
                        continue
                    if node.op_type == "Add":  # with one scale, the sum of two integers is the result: nothing is rounded
                        _join(group, tensor, output)
                    else:
                        group.setdefault(tensor, tensor)
        return group

    def _is_inside(self, node: "onnx.NodeProto") -> bool:
        return any(node is other for other in self._inside)

    def _is_moved(self, tensor: str) -> bool:
        made_by = self._made_by.get(tensor)
        return made_by is not None and made_by.op_type in _PASS_THROUGH and self._is_inside(made_by)

    def _last_layers(self) -> set[str]:
        """The outputs of the heads, which stay in float. A head is a convolution that no other one follows."""
        followed: set[str] = set()
        for node in reversed(self._inside):
            if node.op_type == "Conv" or followed & set(node.output):
                followed |= set(_data_inputs(node))
        return {node.output[0] for node in self.layers.values()} - followed

    def _scaled_twice(self, head: "onnx.NodeProto") -> bool:
        """Whether OpenVINO would multiply an int8 head by its scale once per reader: it does so where the head adds no bias."""
        from onnx import numpy_helper

        biased = any(numpy_helper.to_array(one).any() for one in self.model.graph.initializer if one.name in head.input[2:])
        return not biased and head.output[0] in self._heads and len(self._readers[head.output[0]]) > 1

    def _end_of_layer(self, convolution: "onnx.NodeProto") -> str:
        """The output of a convolution, or of the ReLU after it: integer kernels compute both in one step."""
        output = str(convolution.output[0])
        readers = self._readers[output]
        return str(readers[0].output[0]) if len(readers) == 1 and readers[0].output[0] in self._limits else output

    def _ends_layer(self, tensor: str) -> bool:
        """Whether `tensor` is the output of a layer; all readers then take the quantised output."""
        made_by = self._made_by.get(tensor)
        if made_by is not None and tensor in self._limits:
            made_by = self._made_by.get(made_by.input[0])
        return made_by is not None and made_by.op_type == "Conv" and self._end_of_layer(made_by) == tensor

    def _is_sum(self, tensor: str) -> bool:
        """Whether `tensor` is a residual sum of the network; all readers take the quantised value, since OpenVINO gives them that."""
        made_by = self._made_by.get(tensor)
        return made_by is not None and made_by.op_type == "Add" and self._is_inside(made_by)

    def _non_negative(self) -> set[str]:
        """The tensors whose values all come from a ReLU; others of the same group may be signed: they share only the scale."""
        found = set(self._limits)
        for node in self._inside:
            if node.op_type in _PASS_THROUGH and found.issuperset(_data_inputs(node)):
                found.update(node.output)
        return found


def _relu_limits(graph: "onnx.GraphProto") -> dict[str, float]:
    """The outputs of ReLUs, each with the largest value it lets through: infinity, or 6 for ReLU6 (``Clip`` from 0)."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    limits = {str(node.output[0]): math.inf for node in graph.node if node.op_type == "Relu"}
    for node in graph.node:
        if node.op_type == "Clip" and len(node.input) == 3 and {*node.input[1:]} <= constants.keys():
            low, high = (float(numpy_helper.to_array(constants[name])) for name in node.input[1:])
            if low == 0 < high:
                limits[str(node.output[0])] = high
    return limits


def load_quantisable(graph: bytes | Path) -> QuantisableGraph:
    """Read an fp32 deploy graph for quantisation.

    Args:
        graph: The ONNX file's bytes, or its path.

    Raises:
        CalibrationError: The network has no convolution.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "train", "int8 calibration") from error
    return QuantisableGraph(onnx.load_from_string(graph) if isinstance(graph, bytes) else onnx.load(graph))


def layer_name(node: "onnx.NodeProto") -> str:
    """A layer's readable name, from the name of its weight: ``down.0.3``."""
    return _PREFIX.sub("", str(node.input[1]), count=1).removesuffix(".weight")


def _data_inputs(node: "onnx.NodeProto") -> list[str]:
    return list(node.input) if node.op_type in ("Concat", "Add") else list(node.input[:1])


def _join(group: dict[str, str], tensor: str, other: str) -> None:
    """Merge the group of `tensor`, if it has one, into the group of `other`."""
    old, new = group.get(tensor), group[other]
    group[tensor] = new
    if old is not None and old != new:
        for member, name in group.items():
            if name == old:
                group[member] = new


def _slope(leaky_relu: "onnx.NodeProto") -> float:
    """A leaky ReLU's slope below zero; ONNX's default is 0.01."""
    return next((float(item.f) for item in leaky_relu.attribute if item.name == "alpha"), 0.01)


class _Builder:
    """Builds the int8 graph."""

    def __init__(self, model: "onnx.ModelProto", non_negative: Collection[str]) -> None:
        import onnx

        self._non_negative = non_negative
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        self.nodes: list[onnx.NodeProto] = []
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._weight_scales: dict[str, npt.NDArray[np.float32]] = {}
        for name in (ACTIVATION_ZERO, RELU_ZERO):
            self._add_constant(name, np.array(0, np.int8))

    def _add_constant(self, name: str, value: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._constants[name] = numpy_helper.from_array(value, name)
        return name

    @staticmethod
    def dequantised(tensor: str) -> str:
        return f"{tensor}_dequantised"

    def quantise_activation(self, tensor: str, scale: float) -> None:
        """Add Q and DQ for a tensor; `dequantised` names the result."""
        from onnx import helper

        zero = RELU_ZERO if tensor in self._non_negative else ACTIVATION_ZERO
        inputs = [self._add_constant(f"{tensor}_scale", np.array(scale, np.float32)), zero]
        integer, result = f"{tensor}_quantised", self.dequantised(tensor)
        self.nodes.append(helper.make_node("QuantizeLinear", [tensor, *inputs], [integer], name=f"{tensor}_QuantizeLinear"))
        self.nodes.append(helper.make_node("DequantizeLinear", [integer, *inputs], [result], name=f"{tensor}_DequantizeLinear"))

    def quantise_weight(
        self, tensor: "onnx.TensorProto", most_steps: int, steps: tuple[float, float | None], bias: str | None
    ) -> str:
        """Replace a weight by int8 values with the scales of `weight_scales`; returns the name of the dequantised result.

        Args:
            tensor: The weight.
            most_steps: See `weight_scales`.
            steps: The input's and the output's scale.
            bias: The name of the bias, or None.
        """
        from onnx import helper, numpy_helper

        name = tensor.name
        values = numpy_helper.to_array(tensor)
        added = None if bias is None else np.asarray(numpy_helper.to_array(self._constants[bias]), np.float32)
        scale = weight_scales(values, most_steps, *steps, added)
        self._weight_scales[name] = scale
        integers = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).clip(-most_steps, most_steps).astype(np.int8)
        self._constants.pop(name, None)
        inputs = [
            self._add_constant(f"{name}_quantised", integers),
            self._add_constant(f"{name}_scale", scale),
            self._add_constant(f"{name}_zero_point", np.zeros(len(scale), np.int8)),
        ]
        result = self.dequantised(name)
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [result], name=f"{name}_DequantizeLinear", axis=0))
        return result

    def round_bias(self, name: str, weight: str, input_scale: float) -> str:
        """Add a layer's bias in whole product steps; returns its name. The weight must be quantised already."""
        from onnx import numpy_helper

        bias = numpy_helper.to_array(self._constants[name])
        return self._add_constant(f"{weight}_bias", round_to_steps(bias, np.float32(input_scale) * self._weight_scales[weight]))

    def finish(self) -> "onnx.ModelProto":
        """The checked graph, without the types of inner tensors, which may still change."""
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        self._graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in used)
        reshape_instead_of_transpose(self._graph)
        self._model.producer_name, self._model.producer_version = "lrdan-edge", ""
        return checked(self._model)
