"""Refitting: put weights into a TensorRT engine that was built without them, or replace the weights of one built with refit."""

from collections import deque
from typing import TypedDict

from lrdan_edge.backends.nvidia import describe_tensorrt, find_tensorrt, logger_for, runtime_for
from lrdan_edge.bundle.engine_sidecar import EngineSidecar
from lrdan_edge.errors import EngineError


class TensorRTSettings(TypedDict):
    """Settings that TensorRT needs before it loads an engine.

    Attributes:
        dla_core: The DLA core that the engine uses; None: none.
        version_compatible: Whether later TensorRT versions may run it; it then contains code for the processor.
    """

    dla_core: int | None
    version_compatible: bool


def tensorrt_settings(sidecar: EngineSidecar) -> TensorRTSettings:
    """The settings for a TensorRT engine, from its sidecar."""
    return TensorRTSettings(
        dla_core=sidecar.options.get("dla_core"), version_compatible=bool(sidecar.options.get("version_compatible"))
    )


def with_weights(plan: bytes, graph: bytes, *, dla_core: int | None = None, version_compatible: bool = False) -> bytes:
    """Put the weights of a graph into an engine.

    Args:
        plan: The bytes of an engine that was built with `strip_weights` or `refit` for this machine's GPU and TensorRT. Code in
            it is executed, so the caller must have checked that it is trusted.
        graph: The bytes of the ONNX file that the engine was built from or, with `refit`, of one that differs only in weights.
        dla_core: The DLA core that the engine uses; None: none.
        version_compatible: Whether the engine was built to be version-compatible.

    Returns:
        The bytes of the complete engine.

    Raises:
        MissingExtraError: TensorRT is not installed.
        EngineError: The engine cannot be loaded here, or the graph's weights do not match it.
    """
    trt, messages = find_tensorrt(), deque[str](maxlen=3)
    logger = logger_for(trt, lambda severity, text: messages.append(" ".join(text.split())) if severity <= 1 else None)
    runtime = runtime_for(trt, logger, dla_core=dla_core, host_code=version_compatible)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(
            f"{describe_tensorrt(trt)} cannot load this engine ({'; '.join(messages) or 'it gave no reason'})", "build it again"
        )
    refitter = trt.Refitter(engine, logger)
    refit_parser = trt.OnnxParserRefitter(refitter, logger)
    if not refit_parser.refit_from_bytes(graph) or not refitter.refit_cuda_engine():
        raise EngineError(
            f"{describe_tensorrt(trt)} cannot put this graph's weights into the engine ({'; '.join(messages) or 'it gave no reason'}): "
            "it was built from another graph, or without refit",
            "build it again",
        )
    serialization = engine.create_serialization_config()
    serialization.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    # By default, TensorRT 11 writes an engine that cannot be refitted.
    if (refittable := getattr(trt.SerializationFlag, "INCLUDE_REFIT", None)) is not None:
        serialization.set_flag(refittable)
    return bytes(engine.serialize_with_config(serialization))
