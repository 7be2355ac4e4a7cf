"""Checks a stranger's ONNX graph before a runtime sees it, without the ``onnx`` package.

A graph is a program. It may name other files that hold its values (external data): ONNX Runtime and OpenVINO open them, by an absolute
path too, and so a stranger's graph could show any file of the user. It may loop, branch, call functions of its own or operators
of other libraries. The other formats that the runtimes recognise by their first bytes (ONNX Runtime's own, OpenVINO's XML) can do
the same. Graphs that this toolkit writes use a few dozen operators on constants of known shapes, and nothing else is accepted.

What a graph may contain is an allow-list, for fields too: a field that is not listed here is refused. The wire format is protobuf's
(https://protobuf.dev/programming-guides/encoding), the field numbers are those of onnx.proto.
"""

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from struct import unpack
from typing import NamedTuple

from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.view import LARGEST
from lrdan_edge.errors import BundleError

_ALLOWED = """
Abs Add AveragePool Cast Clip Concat Conv ConvTranspose DepthToSpace DequantizeLinear Div Exp Flatten Floor Gather LeakyRelu Log
MatMul Max MaxPool Min Mul Pad Pow QuantizeLinear ReduceMax ReduceMean ReduceSum Relu Reshape Resize Round Sigmoid Slice Softmax
Softplus Split Sqrt Squeeze Sub Tanh TopK Transpose Unsqueeze
"""
OPERATORS = frozenset(_ALLOWED.split())
"""The operators that a graph may use: those that the exports use or may come to use. With constants for the inputs of `_SHAPES`, no
shape depends on values that the graph computes."""

_SHAPES = {
    "Pad": (1, 3),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
"""Which inputs of an operator determine the shape of its output; they must be constants."""

_GROWING = {("Pad", 1), ("Reshape", 1), ("Resize", 2), ("Resize", 3), ("TopK", 1)}
"""Those that name sizes or factors, which are bounded."""

MOST_ELEMENTS = 1 << 30
"""Most elements of a tensor that has a stated shape, for one frame."""

_MOST_PARTS = 100_000  # nodes, constants and shapes of a graph; an int8 graph of a backbone has about 2000
_OLDEST_OPSET = 13  # before, shapes were attributes

_SIZES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}
"""Bytes per element of the types that a graph may use: float32, uint8, int8, int32, int64, bool, float16, float64."""

_OUTSIDE = (b"location", b"EPContext")
"""Protobuf stores strings as they are: the key ``location`` of external data, and the operator of compiled graphs."""

_FIX = "use a bundle from a source you trust"

_Fields = Iterator[tuple[int, "int | memoryview"]]
_Constants = dict[str, "tuple[int, memoryview]"]  # type and values by name


class Port(NamedTuple):
    """An input or output of a graph.

    Attributes:
        name: Its name.
        shape: Its shape; None for an axis of any size, such as the batch.
    """

    name: str
    shape: tuple[int | None, ...]


Ports = tuple[list[Port], list[Port]]
"""A graph's inputs and outputs."""


class _RefusedError(ValueError):
    """The graph has something that this toolkit does not write."""


def check_graph(graph: bytes, path: Path) -> Ports:
    """Check a graph before a runtime loads it.

    Args:
        graph: The bytes of an ONNX file.
        path: Where they are from, for the message.

    Returns:
        The graph's inputs and outputs.

    Raises:
        BundleError: It is not ONNX, names another file, or has an operator, a field or a size that lrdan-edge does not write.
    """
    if not graph.startswith(b"\x08"):  # the field `ir_version`, which ONNX writers put first
        raise BundleError(f"{path} is not an ONNX graph", _FIX)
    for word in _OUTSIDE:  # any occurrence of the words counts, so that no encoding hides one
        if word in graph:
            problem = f"it contains {word.decode()!r}, so it could read other files of this machine"
            raise BundleError(f"{path} is not self-contained: {problem}", _FIX)
    try:
        return _model(memoryview(graph))
    except _RefusedError as error:
        raise BundleError(f"{path} is not a graph of lrdan-edge: {error}", _FIX) from error
    except (ValueError, IndexError) as error:
        raise BundleError(f"{path} is not a complete ONNX graph ({error})", _FIX) from error


def require_shapes(ports: Ports, path: Path, frame: tuple[int, ...], heatmap: tuple[int, ...]) -> None:
    """Check that a deploy graph takes and gives images of the manifest's sizes; a runtime would make room for others.

    Args:
        ports: The result of `check_graph`.
        path: Where the graph is from, for the message.
        frame: (H, W, C) of one frame.
        heatmap: (h, w) of one heatmap.

    Raises:
        BundleError: The sizes differ.
    """
    inputs, outputs = ports
    maps = [port.shape[1:] for port in outputs if port.name == "heatmap"]
    found = [port.shape[1:] for port in inputs] + maps
    if found != [frame, heatmap]:
        raise BundleError(
            f"{path} has the sizes {found}, the manifest says {[frame, heatmap]} (one frame, one heatmap)",
            "restore the bundle from a copy, or make the graph again with '{export}' (int8: '{calibrate}')",
            export=Command("export"),
            calibrate=Command("calibrate"),
        )


def _model(data: memoryview) -> Ports:
    graphs = []
    for field, value in _fields(data, "model", {1, 2, 3, 4, 5, 6, 7, 8, 14}):
        if field == 7:
            graphs.append(_message(value))
        elif field == 8:
            opset = dict(_fields(_message(value), "opset", {1, 2}))
            _require_domain(_text(opset.get(1, memoryview(b""))))
            if _number(opset.get(2, 0)) < _OLDEST_OPSET:
                raise _RefusedError(f"its opset {opset.get(2, 0)} is older than {_OLDEST_OPSET}")
    if len(graphs) != 1:
        raise _RefusedError(f"it holds {len(graphs)} graphs")
    return _graph(graphs[0])


def _graph(data: memoryview) -> Ports:
    nodes: list[memoryview] = []
    constants: _Constants = {}
    ports: dict[int, list[Port]] = {11: [], 12: [], 13: []}
    for count, (field, value) in enumerate(_fields(data, "graph", {1, 2, 5, 10, 11, 12, 13, 16})):
        if count > _MOST_PARTS:
            raise _RefusedError(f"it has more than {_MOST_PARTS} parts")
        if field == 1:
            nodes.append(_message(value))
        elif field == 5:
            name, kind, values = _tensor(_message(value))
            constants[name] = kind, values
        elif field in ports:
            ports[field].append(_port(_message(value)))
    for node in nodes:
        _check_node(node, constants)
    return ports[11], ports[12]


def _check_node(data: memoryview, constants: _Constants) -> None:
    operator, inputs = "", []
    for field, value in _fields(data, "node", {1, 2, 3, 4, 5, 6, 7, 9}):
        if field == 1:
            inputs.append(_text(value))
        elif field == 2 and _text(value) in constants:
            raise _RefusedError(f"a node replaces the constant {_text(value)!r}")
        elif field == 4:
            operator = _text(value)
        elif field == 5:
            for _ in _fields(_message(value), "attribute", {1, 2, 3, 4, 7, 8, 13, 20}):
                pass  # no graphs, tensors, functions or references
        elif field == 7:
            _require_domain(_text(value))
    if operator not in OPERATORS:
        raise _RefusedError(f"lrdan-edge writes no operator {operator!r}")
    for place in _SHAPES.get(operator, ()):
        if place < len(inputs) and (name := inputs[place]):
            if name not in constants:
                raise _RefusedError(f"{operator} takes a shape that is not constant ({name!r})")
            if (operator, place) in _GROWING:
                _require_bounded(f"{operator} takes", _values(*constants[name]))


def _tensor(data: memoryview) -> tuple[str, int, memoryview]:
    """Name, type and values of a constant; the values are complete."""
    dims: list[int] = []
    name, kind, values = "", 0, memoryview(b"")
    for field, value in _fields(data, "tensor", {1, 2, 4, 5, 7, 8, 9, 10, 12}):
        if field == 1:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif field == 2:
            kind = _number(value)
        elif field == 8:
            name = _text(value)
        elif field == 9:
            values = _message(value)
        elif field != 12:
            raise _RefusedError("a constant is not stored as raw data")
    if kind not in _SIZES:
        raise _RefusedError(f"the constant {name!r} has type {kind}")
    if (needed := math.prod(dims) * _SIZES[kind]) != len(values):
        raise _RefusedError(f"the constant {name!r} of shape {dims} needs {needed} bytes and has {len(values)}")
    return name, kind, values


def _values(kind: int, data: memoryview) -> tuple[float, ...]:
    """The values of a small constant: int64 or float32."""
    if kind not in (1, 7) or len(data) > 64 * _SIZES[kind]:
        raise _RefusedError("a shape is not a short list of integers or factors")
    return unpack(f"<{len(data) // _SIZES[kind]}{'f' if kind == 1 else 'q'}", data)


def _port(data: memoryview) -> Port:
    name, shape = "", None
    for field, value in _fields(data, "port", {1, 2, 3, 4}):
        if field == 1:
            name = _text(value)
        elif field == 2:
            shape = _shape(_message(value))
    fixed = [size for size in shape or () if size is not None]
    if any(size > LARGEST * LARGEST for size in fixed) or math.prod(fixed) > MOST_ELEMENTS:
        raise _RefusedError(f"{name!r} has shape {fixed}, which is too large")
    return Port(name, shape or ())


def _shape(data: memoryview) -> tuple[int | None, ...]:
    """The shape in a type, which must be that of a tensor."""
    sizes: list[int | None] = []
    for _, tensor in _fields(data, "type", {1}):
        for field, value in _fields(_message(tensor), "tensor type", {1, 2}):
            if field == 2:
                for _, axis in _fields(_message(value), "shape", {1}):
                    known = dict(_fields(_message(axis), "axis", {1, 2, 3}))
                    sizes.append(_number(known[1]) if 1 in known else None)
    return tuple(sizes)


def _require_domain(domain: str) -> None:
    if domain not in ("", "ai.onnx"):
        raise _RefusedError(f"it uses operators of {domain!r}")


def _require_bounded(what: str, values: tuple[float, ...]) -> None:
    if not (all(map(math.isfinite, values)) and math.prod(max(1, abs(value)) for value in values) <= MOST_ELEMENTS):
        raise _RefusedError(f"{what} the sizes {list(values)}, which are too large")


def _fields(data: memoryview, what: str, known: Collection[int]) -> _Fields:
    """The fields of a message: number, and integer or bytes. Others than `known` are refused, and floats outside attributes."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        field, wire = key >> 3, key & 7
        if field not in known:
            raise _RefusedError(f"its {what} has the unknown field {field}")
        if wire == 0:
            number, place = _varint(data, place)
            yield field, number
            continue
        size, place = _varint(data, place) if wire == 2 else (4 if wire == 5 and what == "attribute" else end, place)
        if place + size > end:
            raise ValueError(f"its {what} ends early")
        yield field, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    number = shift = 0
    while shift < 70:
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
    raise ValueError("a number has more than 10 bytes")


def _varints(data: memoryview) -> list[int]:
    numbers, place = [], 0
    while place < len(data):
        number, place = _varint(data, place)
        numbers.append(number)
    return numbers


def _message(value: "int | memoryview") -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands for a message")
    return value


def _number(value: "int | memoryview") -> int:
    if not isinstance(value, int):
        raise ValueError("a message stands for a number")
    return value


def _text(value: "int | memoryview") -> str:
    return bytes(_message(value)).decode("utf-8")
