"""ONNX Runtime: runs the deploy graph, or an optimised copy of it, on any CPU."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort

from lrdan_edge.errors import BackendError
from lrdan_edge.images import Frame
from lrdan_edge.manifest import EngineLayer
from lrdan_edge.runtime.backends.base import Backend, BackendSpec, Detections, Port, check_frames, deploy_shapes, largest_batch
from lrdan_edge.runtime.layers import onnxruntime_layers
from lrdan_edge.runtime.quantised import with_unsigned_activations


class OnnxRuntimeBackend(Backend):
    """Runs an ONNX deploy graph on the CPU."""

    name = "onnxruntime"

    def __init__(
        self, graph: bytes, precision: str, *, optimised: bool = False, threads: int | None = None, to_the_letter: bool = False
    ) -> None:
        """Load a graph.

        Args:
            graph: The ONNX file's bytes.
            precision: The graph's precision, for the spec.
            optimised: Whether ONNX Runtime wrote it after optimising; it is then taken as it is.
            threads: Threads of one operator; None for one per core this process may use.
            to_the_letter: Whether an int8 graph is run with its own rounding, slowly, and not in the form processors multiply.

        Raises:
            BackendError: ONNX Runtime refuses the graph, or it is no deploy graph.
        """
        options = session_options(threads)
        if optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        elif to_the_letter:  # the next level replaces roundings and convolutions by integer kernels
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        else:
            graph = with_unsigned_activations(graph)
        try:
            self._session: Any = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        # ONNX Runtime's exceptions share no base class of their own.
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} cannot load the {precision} graph: {_first_line(error)}"
            ) from error
        frame, heatmap = deploy_shapes(
            *(_ports(values) for values in (self._session.get_inputs(), self._session.get_outputs()))
        )
        self.spec = BackendSpec(frame, heatmap, largest_batch(heatmap), "CPU", precision)

    def infer(self, frames: Frame, *, heatmap: bool = True) -> Detections:
        """Score a batch; see `Backend.infer`."""
        if self._session is None:
            raise BackendError("this onnxruntime backend is closed: open the inspector again")
        check_frames(frames, self.spec)
        wanted = ["score", "heatmap"] if heatmap else ["score"]
        try:
            parts = [self._session.run(wanted, {"frames": part}) for part in _split(frames, self.spec.max_batch)]
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed on {list(frames.shape)}: {_first_line(error)}") from error
        columns = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        return Detections(columns[0], columns[1] if heatmap else None)

    def close(self) -> None:
        """Free the session; may be called again."""
        self._session = None


def session_options(threads: int | None = None) -> "ort.SessionOptions":
    """Options of every session: threads bounded by the cores this process may use, errors only on stderr."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def optimise(graph: Path, target: Path) -> None:
    """Save `graph` as ONNX Runtime optimises it for this machine's processor.

    Raises:
        BackendError: ONNX Runtime refuses the graph.
    """
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(target)
    # ONNX Runtime warns that such a file fits this kind of processor only; the engine's sidecar holds users to that.
    options.log_severity_level = 4
    try:
        ort.InferenceSession(with_unsigned_activations(graph.read_bytes()), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(f"ONNX Runtime {ort.__version__} cannot optimise {graph}: {_first_line(error)}") from error


def run_layers(graph: bytes) -> list[EngineLayer]:
    """The kernels that ONNX Runtime runs for an optimised graph, from its own profile of one black frame.

    Raises:
        BackendError: ONNX Runtime refuses the graph, or it is no deploy graph.
    """
    with OnnxRuntimeBackend(graph, "optimised", optimised=True) as backend:
        shape = backend.spec.frame_shape
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            session.run(None, {"frames": np.zeros((1, *shape), np.uint8)})
            events = json.loads(Path(session.end_profiling()).read_bytes())
        except Exception as error:
            raise BackendError(f"ONNX Runtime {ort.__version__} cannot run the graph: {_first_line(error)}") from error
    return onnxruntime_layers(events)


def _ports(values: list[Any]) -> dict[str, Port]:
    """Names, types and shapes as `deploy_shapes` takes them."""
    names = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    return {
        value.name: (names.get(value.type, value.type), [size if isinstance(size, int) else None for size in value.shape])
        for value in values
    }


def _split(frames: Frame, size: int) -> list[Frame]:
    return [frames[start : start + size] for start in range(0, len(frames), size)]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
