"""OpenVINO: the fastest way to run the deploy graph on Intel (and most x86) processors."""

import threading
from functools import cache
from typing import Any

import numpy as np

from lrdan_edge.errors import BackendError, MissingExtraError
from lrdan_edge.images import Frame
from lrdan_edge.manifest import EngineLayer
from lrdan_edge.runtime.backends.base import (
    ANY_CORES,
    Backend,
    BackendSpec,
    Cores,
    Detections,
    Port,
    check_frames,
    deploy_shapes,
    largest_batch,
)
from lrdan_edge.runtime.layers import openvino_layers
from lrdan_edge.runtime.quantised import with_unsigned_activations


class OpenVinoBackend(Backend):
    """Runs an ONNX deploy graph with OpenVINO on the CPU."""

    name = "openvino"

    def __init__(self, graph: bytes, precision: str, *, compiled: bool = False, cores: Cores = ANY_CORES) -> None:
        """Compile a graph for this processor.

        Args:
            graph: The ONNX file's bytes.
            precision: The graph's precision. fp32 and int8 keep float32 where they are not quantised.
            compiled: Whether `graph` is what `compile_graph` made of one instead.
            cores: Threads, where not OpenVINO's choice.

        Raises:
            BackendError: OpenVINO refuses the graph.
            MissingExtraError: OpenVINO is not installed.
        """
        version = openvino_version()
        config = _config(precision)
        if cores.threads:
            config["INFERENCE_NUM_THREADS"] = cores.threads
        try:
            core = _core()
            self._compiled: Any = (
                core.import_model(graph, "CPU", config)
                if compiled
                else core.compile_model(core.read_model(with_unsigned_activations(graph)), "CPU", config)
            )
            self._request: Any = self._compiled.create_infer_request()
            inputs, outputs = (_ports(ports) for ports in (self._compiled.inputs, self._compiled.outputs))
        except RuntimeError as error:
            raise BackendError(f"OpenVINO {version} cannot load the {precision} graph: {_last_line(error)}") from error
        self._lock = threading.Lock()  # one request, one caller at a time
        frame, heatmap = deploy_shapes(inputs, outputs)
        self.spec = BackendSpec(frame, heatmap, largest_batch(heatmap), "CPU", precision)

    def infer(self, frames: Frame, *, heatmap: bool = True) -> Detections:
        """Score a batch; see `Backend.infer`."""
        if self._request is None:
            raise BackendError("this openvino backend is closed: open the inspector again")
        check_frames(frames, self.spec)
        scores, heatmaps = [], []
        try:
            for start in range(0, len(frames), self.spec.max_batch):
                part = np.ascontiguousarray(frames[start : start + self.spec.max_batch])
                with self._lock:
                    self._request.infer({"frames": part}, share_inputs=True)
                    scores.append(self._request.get_tensor("score").data.copy())
                    if heatmap:
                        heatmaps.append(self._request.get_tensor("heatmap").data.copy())
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed on {list(frames.shape)}: {_last_line(error)}") from error
        return Detections(np.concatenate(scores), np.concatenate(heatmaps) if heatmap else None)

    def close(self) -> None:
        """Free the model; may be called again."""
        self._request = self._compiled = None


def compile_graph(graph: bytes, precision: str) -> tuple[bytes, list[EngineLayer]]:
    """Compile a graph for this processor into bytes that load without the graph, and faster.

    Args:
        graph: The ONNX file's bytes.
        precision: The graph's precision.

    Returns:
        The compiled model, and the layers it has.

    Raises:
        BackendError: OpenVINO refuses the graph.
        MissingExtraError: OpenVINO is not installed.
    """
    version = openvino_version()
    try:
        core = _core()
        compiled = core.compile_model(core.read_model(with_unsigned_activations(graph)), "CPU", _config(precision))
        exported = compiled.export_model()
        data = bytes(exported) if isinstance(exported, bytes) else exported.getvalue()
        return data, openvino_layers(compiled)
    except RuntimeError as error:
        raise BackendError(f"OpenVINO {version} cannot compile the {precision} graph: {_last_line(error)}") from error


def openvino_version() -> str:
    """OpenVINO's version and build.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino", "the openvino backend") from error
    return str(openvino.__version__)


def _ports(ports: Any) -> dict[str, Port]:
    """Names, types and shapes as `deploy_shapes` takes them."""
    names = {"u8": "uint8", "f32": "float32"}
    found = {}
    for port in ports:
        kind = port.element_type.get_type_name()
        sizes = [None if size.is_dynamic else int(size.get_length()) for size in port.partial_shape]
        name = next((ours for ours in ("frames", "score", "heatmap") if ours in port.names), port.any_name)
        found[name] = (names.get(kind, kind), sizes)
    return found


def _config(precision: str) -> dict[str, Any]:
    """Compute in float32, or for an fp16 graph in float16 where the processor can.

    Unasked, OpenVINO takes bfloat16 on many a processor, whose 8 bits move scores of the fp16 graph by a tenth.
    """
    half = precision == "fp16" and "FP16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16" if half else "f32"}


@cache
def _core() -> Any:
    """The process's one OpenVINO core, never freed.

    Each core's CPU plugin gives its thread another stack for signal handlers and puts the former one back when it goes.
    With several cores that ends on a freed stack, and the next Ctrl-C is a segmentation fault.
    """
    import openvino

    return openvino.Core()


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
