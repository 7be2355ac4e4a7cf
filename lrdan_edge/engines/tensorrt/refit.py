"""Weights back into a TensorRT engine that was built without them, or new ones into one that was built to take them."""

from collections import deque

from lrdan_edge.backends.nvidia import describe_tensorrt, find_tensorrt, logger_for, runtime_for
from lrdan_edge.errors import EngineError


def with_weights(plan: bytes, graph: bytes, *, dla_core: int | None = None, host_code: bool = False) -> bytes:
    """The engine with the graph's weights in it.

    Args:
        plan: An engine built with ``--strip-weights`` or ``--refit``, on this machine's GPU and TensorRT. It is executed:
            whoever calls has checked where it comes from.
        graph: The ONNX file's bytes: the graph the engine was built from or, for ``--refit``, one that differs in weights alone.
        dla_core: The DLA core the engine uses, or None.
        host_code: Whether the engine is version-compatible.

    Returns:
        An engine file's bytes, complete.

    Raises:
        MissingExtraError: TensorRT is not installed.
        EngineError: The engine cannot be loaded here, or the graph's weights do not fit it.
    """
    trt, messages = find_tensorrt(), deque[str](maxlen=3)
    logger = logger_for(trt, lambda severity, text: messages.append(" ".join(text.split())) if severity <= 1 else None)
    runtime = runtime_for(trt, logger, dla_core=dla_core, host_code=host_code)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(
            f"{describe_tensorrt(trt)} cannot load this engine ({'; '.join(messages) or 'it gave no reason'}): build it anew"
        )
    refitter = trt.Refitter(engine, logger)
    refit_parser = trt.OnnxParserRefitter(refitter, logger)
    if not refit_parser.refit_from_bytes(graph) or not refitter.refit_cuda_engine():
        raise EngineError(
            f"{describe_tensorrt(trt)} cannot put this graph's weights into the engine ({'; '.join(messages) or 'it gave no reason'}): "
            "it was built from another graph, or not to be refitted; build it anew"
        )
    serialization = engine.create_serialization_config()
    serialization.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    if (refittable := getattr(trt.SerializationFlag, "INCLUDE_REFIT", None)) is not None:  # TensorRT 11 drops it unasked
        serialization.set_flag(refittable)
    return bytes(engine.serialize_with_config(serialization))
