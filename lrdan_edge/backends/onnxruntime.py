"""ONNX Runtime: runs the deploy graph on any processor, or on a GPU if ONNX Runtime's build for GPUs is installed.

It is called without I/O binding. On a processor it reads the caller's frames in place anyway, and binding the outputs takes more time
in Python than the copy that it saves (docs/reference/backends.md).
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort

from lrdan_edge.backends.base import (
    ANY_CORES,
    Backend,
    BackendSpec,
    Cores,
    Detections,
    Port,
    deploy_shapes,
    first_line,
    largest_batch,
    slices,
)
from lrdan_edge.backends.layers import onnxruntime_layers
from lrdan_edge.backends.nvidia import find_gpu
from lrdan_edge.bundle.engine_sidecar import EngineLayer
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import BackendError

_CPU = "CPUExecutionProvider"
_GPU_PROVIDERS = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}


class OnnxRuntimeBackend(Backend):
    """Runs an ONNX deploy graph on the processor, or on a GPU with one of ONNX Runtime's execution providers."""

    name = "onnxruntime"

    def __init__(
        self,
        graph: bytes,
        precision: str,
        *,
        optimised: bool = False,
        cores: Cores = ANY_CORES,
        in_floats: bool = False,
        name: str = "onnxruntime",
    ) -> None:
        """Load a graph.

        Args:
            graph: The ONNX file's bytes.
            precision: The graph's precision, for the spec.
            optimised: Whether ONNX Runtime wrote the graph after optimising it; it is then not optimised again.
            cores: How it may use the processor.
            in_floats: Whether an int8 graph is computed in float32 between its Q/DQ nodes, without integer kernels. The results
                are then the same on every processor, and serve as the reference for the integer kernels.
            name: ``onnxruntime`` for the processor, ``onnxruntime-cuda`` or ``onnxruntime-tensorrt`` for a GPU.

        Raises:
            BackendError: ONNX Runtime cannot load the graph, it is not a deploy graph, or the GPU provider does not work here.
        """
        self.name, provider = name, _GPU_PROVIDERS.get(name, _CPU)
        options = session_options(cores)
        if optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        elif in_floats:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            wanted = _providers(provider, precision)
            self._session: Any = ort.InferenceSession(
                graph,
                options,
                providers=wanted,
                disabled_optimizers=None if in_floats else _disabled_optimizers(precision),
                enable_fallback=0,
            )
        # ONNX Runtime's exceptions have no common base class.
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} cannot load the {precision} graph: {first_line(error)}"
            ) from error
        if provider not in self._session.get_providers():  # ONNX Runtime would silently use the processor
            raise BackendError(
                f"ONNX Runtime {ort.__version__} has no working {provider} here",
                "install onnxruntime-gpu with the CUDA libraries it needs, or choose another {backend}",
            )
        frame, heatmap = deploy_shapes(
            *(_ports(values) for values in (self._session.get_inputs(), self._session.get_outputs()))
        )
        gpu = find_gpu() if provider != _CPU else None
        device = gpu.name if gpu else "CPU"
        most = largest_batch(heatmap)
        super().__init__(BackendSpec(frame, heatmap, most, device, precision, on_gpu=gpu is not None))

    def _infer(self, frames: Frame, heatmap: bool) -> Detections:
        wanted = ["score", "heatmap"] if heatmap else ["score"]
        try:
            parts = [self._session.run(wanted, {"frames": part}) for part in slices(frames, self.spec.max_batch)]
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed on {list(frames.shape)}: {first_line(error)}") from error
        columns = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        return Detections(columns[0], columns[1] if heatmap else None)

    def _close(self) -> None:
        self._session = None


def gpu_backends() -> list[str]:
    """Backends for the GPU providers of this ONNX Runtime build; they may not work on this machine."""
    return [name for name, provider in _GPU_PROVIDERS.items() if provider in ort.get_available_providers()]


def session_options(cores: Cores = ANY_CORES) -> "ort.SessionOptions":
    """Session options: at most one thread per core that this process may use, and only errors on stderr."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores.threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(cores.spin is not False)))
    options.log_severity_level = 3
    return options


def _disabled_optimizers(precision: str) -> list[str] | None:
    """Optimisers to switch off, because they harm int8 graphs."""
    # The first lays out channels in blocks of 16, which slows down float layers with 1 to 4 channels. The second quantises weights
    # that calibration kept in float.
    return ["NchwcTransformer", "WeightBiasQuantization"] if precision == "int8" else None


def _providers(provider: str, precision: str) -> list[Any]:
    """Execution providers, the preferred first; the processor comes last, for nodes that a GPU provider lacks."""
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})  # TF32 would round float32 inputs to ten bits of fraction
    if provider == _CPU:
        return [_CPU]
    if provider == cuda[0]:
        return [cuda, _CPU]
    precisions = {f"trt_{name}_enable": str(precision == name) for name in ("fp16", "int8")}
    return [(provider, precisions), cuda, _CPU]


def optimise(graph: bytes, precision: str, target: Path) -> None:
    """Optimise a graph for this machine's processor, and save it.

    Args:
        graph: The ONNX file's bytes.
        precision: The graph's precision.
        target: The file to write.

    Raises:
        BackendError: ONNX Runtime cannot load the graph.
    """
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(target)
    # Hides the warning that such a file runs only on this kind of processor: the engine's sidecar records that.
    options.log_severity_level = 4
    try:
        ort.InferenceSession(graph, options, providers=[_CPU], disabled_optimizers=_disabled_optimizers(precision))
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime {ort.__version__} cannot optimise the {precision} graph: {first_line(error)}"
        ) from error


def run_layers(graph: bytes) -> list[EngineLayer]:
    """The kernels that ONNX Runtime runs for an optimised graph, from its profile of one black frame.

    Raises:
        BackendError: ONNX Runtime cannot run the graph, or it is not a deploy graph.
    """
    with OnnxRuntimeBackend(graph, "optimised", optimised=True) as backend:
        shape = backend.spec.frame_shape
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(graph, options, providers=[_CPU])
            session.run(None, {"frames": np.zeros((1, *shape), np.uint8)})
            events = json.loads(Path(session.end_profiling()).read_bytes())
        except Exception as error:
            raise BackendError(f"ONNX Runtime {ort.__version__} cannot run the graph: {first_line(error)}") from error
    return onnxruntime_layers(events)


def _ports(values: list[Any]) -> dict[str, Port]:
    """Types and shapes by name, for `deploy_shapes`."""
    names = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    return {
        value.name: (names.get(value.type, value.type), [size if isinstance(size, int) else None for size in value.shape])
        for value in values
    }
