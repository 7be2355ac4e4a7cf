"""An engine's layers and their actual precisions, as the runtime reports them."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from lrdan_edge.bundle.engine_sidecar import EngineLayer

_PRECISIONS = {
    "int8": "int8",
    "uint8": "int8",
    "i8": "int8",
    "u8": "int8",
    "half": "fp16",
    "fp16": "fp16",
    "float16": "fp16",
    "f16": "fp16",
    "float": "fp32",
    "fp32": "fp32",
    "f32": "fp32",
    "bfloat16": "bf16",
    "bf16": "bf16",
}
_BYTES = {"int8": 1, "fp16": 2, "bf16": 2, "fp32": 4}


def count_precisions(layers: Iterable[EngineLayer]) -> dict[str, int]:
    """The number of layers per precision, the most frequent first."""
    return dict(Counter(layer.precision for layer in layers).most_common())


def tensorrt_layer(text: str) -> EngineLayer:
    """Parse one layer of TensorRT's engine inspector.

    Args:
        text: JSON with the keys of TensorRT 10 (``Format/Datatype``) or 11 (``DataType``); only the layer's name if the
            engine was built without details.

    Returns:
        The layer. Its precision is that of its first output, or ``unknown`` if the inspector does not report it.
    """
    try:
        fields: Any = json.loads(text)
    except ValueError:
        fields = text
    if not isinstance(fields, dict):
        return EngineLayer(name=str(fields), operator="unknown", precision="unknown", shape=[])
    outputs = fields.get("Outputs")
    output = outputs[0] if isinstance(outputs, list) and outputs and isinstance(outputs[0], dict) else {}
    words = {key.lower(): str(value) for key, value in output.items()}
    kind = words.get("datatype") or words.get("format/datatype") or words.get("format")
    shape = output.get("Dimensions")
    return EngineLayer(
        name=str(fields.get("Name", "")),
        operator=str(fields.get("ParameterType") or fields.get("LayerType") or "unknown"),
        precision=precision_of(kind) if kind else "unknown",
        shape=[int(size) for size in shape] if isinstance(shape, list) else [],
        weights=_weight_bytes(fields),
    )


def openvino_layers(compiled: Any) -> list[EngineLayer]:
    """The layers of a compiled OpenVINO model, without constants, inputs and outputs."""
    layers = []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        operator = _text(facts, "layerType")
        if operator in {"Const", "Input", "Output"}:
            continue
        dimensions = operation.get_output_partial_shape(0) if operation.get_output_size() else []
        layers.append(
            EngineLayer(
                name=operation.get_friendly_name(),
                operator=operator,
                precision=precision_of(_text(facts, "runtimePrecision")),
                shape=[-1 if size.is_dynamic else size.get_length() for size in dimensions],
            )
        )
    return layers


def onnxruntime_layers(events: list[dict[str, Any]]) -> list[EngineLayer]:
    """The kernels that ONNX Runtime ran, read from the profile of one run.

    Args:
        events: The events in the file that ``end_profiling`` wrote.
    """
    layers = []
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        facts = event["args"]
        (kind, shape) = next(iter(facts["output_type_shape"][0].items())) if facts["output_type_shape"] else ("unknown", [])
        layers.append(
            EngineLayer(
                name=name.removesuffix("_kernel_time"),
                operator=str(facts["op_name"]),
                precision=precision_of(kind),
                shape=[int(size) for size in shape],
                weights=int(facts["parameter_size"]),
            )
        )
    return layers


def precision_of(description: str) -> str:
    """The precision in a runtime's description of a type; ``other`` if none is known."""
    return next((_PRECISIONS[word] for word in re.findall(r"[a-z0-9]+", description.lower()) if word in _PRECISIONS), "other")


def _weight_bytes(fields: dict[str, Any]) -> int | None:
    parts = [part for key in ("Weights", "Bias") if isinstance(part := fields.get(key), dict) and "Count" in part]
    if not parts:
        return None
    return sum(int(part["Count"]) * _BYTES.get(precision_of(str(part.get("Type", ""))), 4) for part in parts)


def _text(facts: Any, key: str) -> str:
    """One value of OpenVINO's run-time information, which wraps strings in its own type."""
    try:
        value = facts[key]
    except KeyError:
        return ""
    return str(value.value if hasattr(value, "value") else value)
