"""The file beside every engine (``engines/<engine>.json``): its source graph and its compatible devices."""

from typing import Any, Literal

import msgspec

from lrdan_edge.bundle.spec import Precision

EngineTarget = Literal["tensorrt", "openvino", "onnxruntime"]


class EngineLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One layer of an engine, as its runtime describes it.

    Attributes:
        name: The layer's name; a layer that fuses several graph nodes often has all their names.
        operator: The operation, in the runtime's terms.
        precision: The type it computes in: ``int8``, ``fp16``, ``fp32``, ``bf16``, ``other``, or ``unknown``.
        shape: Shape of the first output; -1 for a dynamic batch.
        weights: Size of the layer's weights in bytes, or None if the runtime does not report it.
    """

    name: str
    operator: str
    precision: str
    shape: list[int]
    weights: int | None = None


class EngineSidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``engines/<engine>.json``: an engine's source graph and its compatible devices.

    Attributes:
        target: The runtime.
        target_version: The runtime's version at build time.
        precision: The graph's precision.
        graph_sha256: Sha256 of the graph that the engine was built from.
        engine_sha256: Sha256 of the engine file.
        platform: Operating system and processor architecture, such as ``linux-x86_64``.
        device: The processor or GPU that the engine was built for.
        device_features: Features of that device that the engine needs: instruction sets, or the compute capability (``sm8.7``;
            ``sm8.0+`` for 8.0 and all later ones).
        batch: Smallest, optimal (of the first profile) and largest batch, or None if any batch runs.
        built: Time of the build in UTC (ISO 8601).
        options: The builder's options.
        layers: The engine's actual layers with their actual precision; empty if the runtime does not report them.
        golden_check: Largest relative score difference on the golden frames, or why it was not measured.
        details: Further information from the builder; of engines for processors ``source_sha256``, the sha256 of the graph for
            processors, which differs from `graph_sha256` in int8.
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
