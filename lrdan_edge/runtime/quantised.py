"""Int8 graphs on processors: TensorRT wants signed activations, processors' integer kernels unsigned ones."""

from lrdan_edge.errors import BackendError

ACTIVATION_ZERO = "activation_zero_point"
"""Name of the one zero point, a scalar, that all quantised activations of an int8 deploy graph share."""

_RAW_DATA, _NAME, _DATA_TYPE, _UINT8, _INT8 = b"\x4a\x01", b"\x42", b"\x10", b"\x02", b"\x03"  # onnx.TensorProto's fields


def with_unsigned_activations(graph: bytes) -> bytes:
    """An int8 deploy graph with uint8 activations in place of int8 ones: the same values, exactly.

    Int8 with zero point 0 and uint8 with zero point 128 are the same steps of the same real numbers. x86 processors multiply
    unsigned activations by signed weights (VNNI's ``vpdpbusd``): ONNX Runtime falls back to float where both are signed, and
    OpenVINO loses accuracy. The shared zero point is all that differs, so two bytes of the file do; the onnx package, which an
    edge device does not have, is not needed.

    Args:
        graph: Any deploy graph's ONNX bytes.

    Returns:
        The graph; the very bytes given where its activations are not int8.

    Raises:
        BackendError: The zero point is there, but not as calibration writes it.
    """
    name = ACTIVATION_ZERO.encode()
    if name not in graph:
        return graph
    declared = _NAME + bytes([len(name)]) + name + _RAW_DATA
    signed, unsigned = _DATA_TYPE + _INT8 + declared + b"\x00", _DATA_TYPE + _UINT8 + declared + b"\x80"
    if graph.count(signed) != 1:
        raise BackendError("the int8 graph's zero point is not as calibration writes it: run 'lrdan-edge calibrate' again")
    return graph.replace(signed, unsigned)
