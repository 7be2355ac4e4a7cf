"""The file beside every engine: what it was built from, and which devices it is compatible with (``engines/<engine>.json``)."""

from typing import Any, Literal

import msgspec

from lrdan_edge.bundle.spec import Precision

EngineTarget = Literal["tensorrt", "openvino", "onnxruntime"]
ENGINE_TARGETS: tuple[EngineTarget, ...] = ("tensorrt", "openvino", "onnxruntime")


class EngineLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One layer of an engine, as what runs it describes it.

    Attributes:
        name: Its name; a layer that fuses several graph nodes often carries all their names.
        operator: What it computes, in the words of the runtime.
        precision: The type it computes in: ``int8``, ``fp16``, ``fp32``, ``bf16``, ``other``, or ``unknown``.
        shape: Its first output's shape; -1 for the batch where that is open.
        weights: Bytes of its own weights, or None where the runtime does not tell.
    """

    name: str
    operator: str
    precision: str
    shape: list[int]
    weights: int | None = None


class EngineSidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``engines/<engine>.json``: what an engine was built from and where it fits.

    Attributes:
        target: What runs it.
        target_version: That runtime's version at build time.
        precision: The graph's precision.
        graph_sha256: The graph it was built from.
        engine_sha256: The engine file.
        platform: Operating system and processor architecture, such as ``linux-x86_64``.
        device: The processor or GPU it was built for.
        device_features: What of that device the engine depends on: instruction sets, or the compute capability (``sm8.7``;
            ``sm8.0+`` for that and every later one).
        batch: Smallest, best (of its first profile) and largest batch, or None where any batch runs.
        built: When, in UTC (ISO 8601).
        options: What the builder was asked for.
        layers: The layers it really has, with the precision each really got; empty where that could not be learnt.
        golden_check: Largest relative score difference on the golden frames, or why it was not measured.
        details: What else the builder reported.
    """

    schema_version: int
    target: EngineTarget
    target_version: str
    precision: Precision
    graph_sha256: str
    engine_sha256: str
    platform: str
    device: str
    device_features: list[str]
    batch: tuple[int, int, int] | None
    built: str
    options: dict[str, Any]
    layers: list[EngineLayer]
    golden_check: float | str
    details: dict[str, Any]
