"""Random changes to the structure of an ONNX graph that leave it a message of the format."""

import importlib
import random
from collections.abc import Callable

import onnx
from onnx import TensorProto, helper

from lrdan_edge.bundle.graph_check import OPERATORS

FOREIGN = [
    "Loop",
    "If",
    "Scan",
    "Constant",
    "EPContext",
    "Where",
    "NonZero",
    "Shape",
    "Range",
    "ConstantOfShape",
    "Expand",
    "Tile",
    "",
]
INTEGERS = [0, -1, 1, 2, 3, 4, 7, 32, 33, 255, -(2**31), 2**31, 2**62, -(2**63), 2**63 - 1]


def changed_graph(data: bytes, rng: random.Random, secret: str) -> tuple[bytes, str] | None:
    """A graph with one to three changes, and their names; None if the bytes are not a graph.

    Args:
        data: The bytes of an ONNX file.
        rng: Makes all choices.
        secret: Path of a file that the graph may name.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except importlib.import_module("google.protobuf.message").DecodeError:
        return None
    if not (model.graph.node and model.graph.initializer):
        return None
    did = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        way = rng.choice(WAYS)
        did.append(way.__name__)
        way(model, rng, secret)
    return model.SerializeToString(), ", ".join(did)


def operator(model: onnx.ModelProto, rng: random.Random, _: str) -> None:
    rng.choice(model.graph.node).op_type = rng.choice([*sorted(OPERATORS), *FOREIGN])


def attribute(model: onnx.ModelProto, rng: random.Random, _: str) -> None:
    found = [(node, one) for node in model.graph.node for one in node.attribute]
    if not found:
        return
    node, one = rng.choice(found)
    value = rng.choice(INTEGERS)
    if rng.random() < 0.3:
        node.attribute.remove(one)
    elif one.ints:
        one.ints[rng.randrange(len(one.ints))] = value
    elif one.type == onnx.AttributeProto.FLOAT:
        one.f = rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf")])
    else:
        one.i = value


def more_attributes(model: onnx.ModelProto, rng: random.Random, secret: str) -> None:
    name = rng.choice(["axis", "perm", "mode", "keepdims", "group", "pads", "body", "value", secret])
    value = rng.choice([1, [1, 2], secret, 0.5, helper.make_tensor("x", TensorProto.FLOAT, [1], [1.0]), model.graph])
    rng.choice(model.graph.node).attribute.append(helper.make_attribute(name, value))


def constant_shape(model: onnx.ModelProto, rng: random.Random, _: str) -> None:
    tensor = rng.choice(model.graph.initializer)
    dims = list(tensor.dims)
    if rng.random() < 0.5 and dims:
        rng.shuffle(dims)
    else:
        dims = [*dims, rng.choice([0, 1, 1, -1, 2, 2**62])]
    del tensor.dims[:]
    tensor.dims.extend(dims)


def constant_type(model: onnx.ModelProto, rng: random.Random, _: str) -> None:
    rng.choice(model.graph.initializer).data_type = rng.randrange(24)


def constant_bytes(model: onnx.ModelProto, rng: random.Random, _: str) -> None:
    small = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) <= 64]
    tensor = rng.choice(small if small and rng.random() < 0.7 else list(model.graph.initializer))
    size = len(tensor.raw_data)
    tensor.raw_data = rng.choice(
        [rng.randbytes(size), bytes(size), b"\xff" * size, tensor.raw_data[:-1], tensor.raw_data[::-1]]
    )


def outside_data(model: onnx.ModelProto, rng: random.Random, secret: str) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    for key in rng.choice([["location"], ["LOCATION"], ["offset", "path"]]):
        tensor.external_data.add(key=key, value=secret)
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")


def nodes(model: onnx.ModelProto, rng: random.Random, _: str) -> None:
    graph = model.graph
    node = rng.choice(graph.node)
    way = rng.randrange(3)
    if way == 0:
        graph.node.remove(node)
    elif way == 1:
        graph.node.add().CopyFrom(node)
    else:
        graph.node.reverse()


def wires(model: onnx.ModelProto, rng: random.Random, _: str) -> None:
    names = [name for node in model.graph.node for name in (*node.input, *node.output)] + ["", "nothing", "frames", "score"]
    node = rng.choice(model.graph.node)
    ends = node.input if node.input and rng.random() < 0.7 else node.output
    if ends:
        ends[rng.randrange(len(ends))] = rng.choice(names)
    else:
        node.output.append(rng.choice(names))


def ports(model: onnx.ModelProto, rng: random.Random, _: str) -> None:
    found = rng.choice([*model.graph.input, *model.graph.output])
    way = rng.randrange(4)
    if way == 0:
        found.name = rng.choice(["score", "heatmap", "frames", ""])
    elif way == 1:
        found.type.tensor_type.elem_type = rng.randrange(24)
    elif way == 2 and found.type.tensor_type.shape.dim:
        rng.choice(found.type.tensor_type.shape.dim).dim_value = rng.choice(INTEGERS)
    else:
        model.graph.output.add().CopyFrom(found)


def frame(model: onnx.ModelProto, rng: random.Random, secret: str) -> None:
    """Change what is around the graph."""
    way = rng.randrange(5)
    if way == 0:
        model.opset_import[0].version = rng.choice([1, 12, 13, 17, 18, 30, 1000, -1])
    elif way == 1:
        model.opset_import.add(domain=rng.choice(["com.microsoft", "ai.onnx.ml", "x", ""]), version=1)
    elif way == 2:
        model.ir_version = rng.choice([0, 1, 3, 8, 100, -1])
    elif way == 3:
        model.metadata_props.add(key=secret, value=secret)
    else:
        rng.choice(model.graph.node).domain = rng.choice(["com.microsoft", "ai.onnx", "x"])


WAYS: list[Callable[[onnx.ModelProto, random.Random, str], None]] = [
    operator,
    attribute,
    more_attributes,
    constant_shape,
    constant_type,
    constant_bytes,
    outside_data,
    nodes,
    wires,
    ports,
    frame,
]
