"""The deploy graph without what its score never needs: no dead channels."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


def drop_unused_channels(graph: "onnx.GraphProto") -> None:
    """Compute only those channels of the last convolution that are scored, in place; the scores stay the same.

    A restorer's head gives the restored image and the log-odds of a defect, a pixel shuffle enlarges both, and a slice takes
    the log-odds. Its channels are taken from the head's weights instead: half of its work, of the shuffle's, and a slice less.

    Args:
        graph: A deploy graph; left alone where it has no convolution, pixel shuffle and slice of channels in a row, or where
            anything else reads what lies between them.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    made_by = {output: node for node in graph.node for output in node.output}
    for cut in [node for node in graph.node if node.op_type == "Slice"]:
        shuffle = made_by.get(cut.input[0])
        head = made_by.get(shuffle.input[0]) if shuffle is not None and shuffle.op_type == "DepthToSpace" else None
        if shuffle is None or head is None or head.op_type != "Conv" or _attribute(shuffle, "mode", b"DCR") != b"CRD":
            continue
        if any(len(readers[node.output[0]]) != 1 for node in (head, shuffle)) or _attribute(head, "group", 1) != 1:
            continue
        _take_channels(graph, head, shuffle, cut)


def _take_channels(graph: "onnx.GraphProto", head: "onnx.NodeProto", shuffle: "onnx.NodeProto", cut: "onnx.NodeProto") -> None:
    """Replace the slice by one of the head's weights, if it is one of channels alone."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    parameters = [name for name in head.input[1:] if name]
    if not all(name in constants for name in (*cut.input[1:], *parameters)):
        return
    starts, ends, axes, *steps = (numpy_helper.to_array(constants[name]) for name in cut.input[1:])
    if axes.tolist() != [1] or any(step.tolist() != [1] for step in steps):
        return
    block = _attribute(shuffle, "blocksize", 1) ** 2
    outputs = constants[head.input[1]].dims[0] // block
    start, end, _ = slice(int(starts[0]), int(ends[0])).indices(outputs)
    for name in parameters:
        kept = numpy_helper.to_array(constants[name])[start * block : end * block]
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(kept), name))
    shuffle.output[0] = cut.output[0]
    graph.node.remove(cut)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    changed = {head.output[0], cut.input[0], *parameters}
    for value in [value for value in graph.value_info if value.name in changed]:
        graph.value_info.remove(value)


def _attribute(node: "onnx.NodeProto", name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)
