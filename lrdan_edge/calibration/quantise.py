"""The int8 graph: explicit Q/DQ, symmetric, per-channel weights; one graph for TensorRT, ONNX Runtime and OpenVINO.

Only AE2 is quantised: preprocessing and scoring stay in float, where the decision needs every digit. Biases stay in float
(TensorRT refuses a dequantised int32 bias; ONNX Runtime fuses float ones by itself).
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrdan_edge.errors import CalibrationError, MissingExtraError
from lrdan_edge.images import batches

if TYPE_CHECKING:
    import onnx

_AE2_WEIGHT = re.compile(r"ae2\..*weight")
_QUANTISED = ("Conv", "LeakyRelu", "Relu", "Resize")
_BATCH = 16


def quantise(graph: Path, target: Path, images: list[Path], shape: tuple[int, int, int], bit_depth: int = 16) -> dict[str, Any]:
    """Write the int8 twin of an fp32 deploy graph.

    Activation ranges are the smallest and largest values seen (min-max) over `images`, made symmetric.

    Args:
        graph: The fp32 deploy graph.
        target: Where the int8 graph goes.
        images: Good images that show what activations look like; not the ones the threshold is fitted on.
        shape: (H, W, C) of a frame.
        bit_depth: How many bits of 16-bit images are used.

    Returns:
        What was done: method, number of images, number of convolutions quantised.

    Raises:
        CalibrationError: The graph has no AE2 convolutions, or quantisation fails.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "train", "int8 calibration") from error
    model = onnx.load(graph)
    nodes = _ae2_nodes(model)
    convolutions = [name for name, kind in nodes.items() if kind == "Conv"]
    if not convolutions:
        raise CalibrationError(f"{graph} has no AE2 convolution to quantise: export it again with 'lrdan-edge export'")
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # the quantiser advises a pre-processing that the exporter has already done
    try:
        quantize_static(
            model,
            str(target),
            _Reader(images, shape, bit_depth),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_quantize=list(nodes),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
            },
        )
    finally:
        logger.setLevel(level)
    quantised = onnx.load(target)
    quantised.producer_name, quantised.producer_version = "lrdan-edge", ""
    onnx.checker.check_model(quantised, full_check=True)
    onnx.save_model(quantised, target)
    return {"method": "min-max", "images": len(images), "quantised_convolutions": len(convolutions)}


def _ae2_nodes(model: "onnx.ModelProto") -> dict[str, str]:
    """Names and operators of the nodes to quantise: AE2's, from its first convolution to its last."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer if _AE2_WEIGHT.fullmatch(tensor.name)}
    places = [index for index, node in enumerate(graph.node) if weights.intersection(node.input)]
    if not places:
        return {}
    inside = graph.node[places[0] : places[-1] + 1]
    return {node.name: node.op_type for node in inside if node.op_type in _QUANTISED}


class _Reader:
    """Feeds images to ONNX Runtime's calibrator batch by batch, so that memory stays bounded."""

    def __init__(self, images: list[Path], shape: tuple[int, int, int], bit_depth: int) -> None:
        self._batches: Iterator[Any] = batches(images, shape, _BATCH, bit_depth)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by input name, or None at the end (ONNX Runtime's protocol)."""
        frames = next(self._batches, None)
        return None if frames is None else {"frames": frames}
