"""OpenVINO: the fastest way to run the deploy graph on Intel (and most x86) processors."""

import threading
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.base import ANY_CORES, Backend, BackendSpec, Cores, Detections, Port, deploy_shapes, largest_batch
from lrdan_edge.backends.layers import openvino_layers
from lrdan_edge.bundle.engine_sidecar import EngineLayer
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import BackendError, MissingExtraError


class OpenVinoBackend(Backend):
    """Runs an ONNX deploy graph with OpenVINO on the processor."""

    name = "openvino"

    def __init__(self, graph: bytes, precision: str, *, compiled: bool = False, cores: Cores = ANY_CORES) -> None:
        """Compile a graph for this processor.

        Args:
            graph: The ONNX file's bytes.
            precision: The graph's precision. In fp32 and int8 graphs, layers that are not quantised run in float32.
            compiled: Whether `graph` is a model that `compile_graph` compiled, instead of an ONNX file.
            cores: How it may use the processor.

        Raises:
            BackendError: OpenVINO cannot load the graph, or it is not a deploy graph.
            MissingExtraError: OpenVINO is not installed.
        """
        version = openvino_version()
        config = _config(precision)
        if cores.threads:
            config["INFERENCE_NUM_THREADS"] = cores.threads
        try:
            compile_ = partial(_compile, graph, compiled=compiled)
            self._model: Any = compile_(config)
            inputs, outputs = (_ports(ports) for ports in (self._model.inputs, self._model.outputs))
        except RuntimeError as error:
            raise BackendError(f"OpenVINO {version} cannot load the {precision} graph: {_last_line(error)}") from error
        self._streams = int(self._model.get_property("INFERENCE_NUM_THREADS"))
        many = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": self._streams, "INFERENCE_NUM_THREADS": self._streams}
        self._compile_many: Any = partial(compile_, config | many)
        self._requests: dict[int, list[Any]] = {1: [self._model.create_infer_request()]}
        self._lock = threading.Lock()  # only one caller at a time uses the requests
        frame, heatmap = deploy_shapes(inputs, outputs)
        super().__init__(BackendSpec(frame, heatmap, largest_batch(heatmap), "CPU", precision))

    def _infer(self, frames: Frame, heatmap: bool) -> Detections:
        """Run small batches on all cores together; cores share larger batches, so that none waits for others after every layer."""
        count = len(frames)
        score = np.empty(count, np.float32)
        heat = np.empty((count, *self.spec.heatmap_shape), np.float32) if heatmap else None
        try:
            with self._lock:
                for start in range(0, count, self.spec.max_batch):
                    part = slice(start, min(start + self.spec.max_batch, count))
                    self._run(np.ascontiguousarray(frames[part]), score[part], None if heat is None else heat[part])
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed on {list(frames.shape)}: {_last_line(error)}") from error
        return Detections(score, heat)

    def _run(self, frames: Frame, score: npt.NDArray[np.float32], heatmap: npt.NDArray[np.float32] | None) -> None:
        streams = self._streams if len(frames) >= self._streams else 1
        if streams not in self._requests:
            many = self._compile_many()
            self._requests[streams] = [many.create_infer_request() for _ in range(streams)]
        cuts = np.linspace(0, len(frames), streams + 1).astype(int)
        running = list(zip(self._requests[streams], map(slice, cuts[:-1], cuts[1:]), strict=True))
        for request, cut in running:
            request.start_async({"frames": frames[cut]}, share_inputs=True)
        failed = [error for request, _ in running if (error := _wait(request)) is not None]
        if failed:
            raise failed[0]
        for request, cut in running:
            np.copyto(score[cut], request.get_tensor("score").data)
            if heatmap is not None:
                np.copyto(heatmap[cut], request.get_tensor("heatmap").data)

    def _close(self) -> None:
        self._requests = {}
        self._model = self._compile_many = None


def compile_graph(graph: bytes, precision: str) -> tuple[bytes, list[EngineLayer]]:
    """Compile a graph for this processor. The compiled model loads faster, and does not need the graph.

    Args:
        graph: The ONNX file's bytes.
        precision: The graph's precision.

    Returns:
        The compiled model's bytes, and its layers.

    Raises:
        BackendError: OpenVINO cannot compile the graph.
        MissingExtraError: OpenVINO is not installed.
    """
    version = openvino_version()
    try:
        compiled = _compile(graph, _config(precision), compiled=False)
        exported = compiled.export_model()
        data = bytes(exported) if isinstance(exported, bytes) else exported.getvalue()
        return data, openvino_layers(compiled)
    except RuntimeError as error:
        raise BackendError(f"OpenVINO {version} cannot compile the {precision} graph: {_last_line(error)}") from error


def _wait(request: Any) -> RuntimeError | None:
    """Wait until a request is done. Returns its error instead of raising it, so that the caller waits for the others too."""
    try:
        request.wait()
    except RuntimeError as error:
        return error
    return None


def _compile(graph: bytes, config: dict[str, Any], *, compiled: bool) -> Any:
    core = _core()
    if compiled:
        return core.import_model(graph, "CPU", config)
    return core.compile_model(core.read_model(graph), "CPU", config)


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
    """Types and shapes by name, for `deploy_shapes`."""
    numpy_names = {"u8": "uint8", "f32": "float32"}
    found = {}
    for port in ports:
        kind = port.element_type.get_type_name()
        sizes = [None if size.is_dynamic else int(size.get_length()) for size in port.partial_shape]
        name = next((ours for ours in ("frames", "score", "heatmap") if ours in port.names), port.any_name)
        found[name] = (numpy_names.get(kind, kind), sizes)
    return found


def _config(precision: str) -> dict[str, Any]:
    """OpenVINO's settings: compute in float32; an fp16 graph in float16 if the processor supports it."""
    # By default OpenVINO uses bfloat16 on many processors. Its 8 bits change the scores of the fp16 graph by a tenth.
    half = precision == "fp16" and "FP16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16" if half else "f32"}


@cache
def _core() -> Any:
    """The process's only OpenVINO ``Core``, never freed."""
    # The CPU plugin of each Core gives its thread another stack for signal handlers, and restores the previous one when it is freed.
    # With several Core objects the thread ends up on a freed stack, and the next Ctrl-C is a segmentation fault.
    import openvino

    return openvino.Core()


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
