"""Int8 graphs on processors: TensorRT wants signed activations, processors' integer kernels unsigned ones."""

import re
import struct

from lrdan_edge.errors import BackendError

ACTIVATION_ZERO = "activation_zero_point"
"""Name of the one zero point, a scalar, that all quantised activations of an int8 deploy graph share but those after a ReLU."""

RELU_ZERO = "relu_zero_point"
"""Name of the one zero point that the activations after a ReLU share."""

RELU_SCALE = "relu_scale_"
"""How the names of their scales begin; a number follows."""

# onnx.TensorProto's fields, as serialised in order
_DATA_TYPE, _NAME, _RAW_DATA = b"\x10", b"\x42", b"\x4a"
_FLOAT, _UINT8, _INT8 = b"\x01", b"\x02", b"\x03"
_SCALE = re.compile(
    re.escape(_DATA_TYPE + _FLOAT + _NAME)
    + b"([\x01-\x7f])("
    + RELU_SCALE.encode()
    + rb"\d+)"
    + re.escape(_RAW_DATA + b"\x04")
    + b"(.{4})",
    re.DOTALL,
)


def with_unsigned_activations(graph: bytes) -> bytes:
    """An int8 deploy graph with uint8 activations in place of int8 ones.

    x86 processors multiply unsigned activations by signed weights (VNNI's ``vpdpbusd``): ONNX Runtime falls back to float where
    both are signed, and OpenVINO loses accuracy. Int8 with zero point 0 and uint8 with zero point 128 are the same steps of the
    same real numbers. What comes out of a ReLU is never negative: there, uint8 with zero point 0 covers the same range in twice
    as many steps, and the ReLU is part of the rounding. Zero points and scales are all that differs, so a few bytes of the file
    do; the onnx package, which an edge device does not have, is not needed.

    Args:
        graph: Any deploy graph's ONNX bytes.

    Returns:
        The graph; the very bytes given where its activations are not int8.

    Raises:
        BackendError: The zero points are there, but not as calibration writes them.
    """
    if ACTIVATION_ZERO.encode() in graph:
        graph = _replaced(graph, ACTIVATION_ZERO, b"\x80")
    if RELU_ZERO.encode() in graph:
        graph = _SCALE.sub(_finer, _replaced(graph, RELU_ZERO, b"\x00"))
    return graph


def _replaced(graph: bytes, zero: str, value: bytes) -> bytes:
    """The graph with an unsigned zero point of that `value`."""
    name = zero.encode()
    declared = _NAME + bytes([len(name)]) + name + _RAW_DATA + b"\x01"
    signed, unsigned = _DATA_TYPE + _INT8 + declared + b"\x00", _DATA_TYPE + _UINT8 + declared + value
    if graph.count(signed) != 1:
        raise BackendError("the int8 graph's zero point is not as calibration writes it: run 'lrdan-edge calibrate' again")
    return graph.replace(signed, unsigned)


def _finer(found: re.Match[bytes]) -> bytes:
    length, name, scale = found.groups()
    if length[0] != len(name):
        return found.group()
    (value,) = struct.unpack("<f", scale)
    return found.group()[:-4] + struct.pack("<f", value * 127 / 255)
