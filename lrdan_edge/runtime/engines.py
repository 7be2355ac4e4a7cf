"""Engines of a bundle: which there are, which fit this machine, and how they are opened."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lrdan_edge.bundle import ENGINES, Bundle, engine_stage, graph_name
from lrdan_edge.errors import EngineError, LrdanError
from lrdan_edge.manifest import EngineSidecar, from_json
from lrdan_edge.runtime.backends.base import Backend
from lrdan_edge.runtime.device import processor
from lrdan_edge.runtime.nvidia import feature, find_gpu, find_tensorrt, product, title


@dataclass(frozen=True)
class Engine:
    """An engine of a bundle.

    Attributes:
        name: File name below ``engines/``.
        sidecar: What it was built from and where it fits.
        obstacle: Why it cannot be used here, or None.
        rebuild: The command that builds it again, without ``--bundle``.
    """

    name: str
    sidecar: EngineSidecar
    obstacle: str | None
    rebuild: str

    @property
    def title(self) -> str:
        """Target and precision, for people: ``tensorrt int8``."""
        return f"{self.sidecar.target} {self.sidecar.precision}"


def engines(bundle: Bundle) -> list[Engine]:
    """All engines of the bundle, by name. Their sidecars are read and checked; the engine files only when opened."""
    found = []
    for stage, record in sorted(bundle.manifest.stages.items()):
        name = stage.removeprefix(engine_stage(""))
        if name != stage:
            path = bundle.file(f"{ENGINES}/{name}.json", record.command)
            sidecar = from_json(path.read_bytes(), EngineSidecar, str(path))
            found.append(Engine(name, sidecar, _obstacle(bundle, stage, sidecar), record.command))
    return found


def open_engine(bundle: Bundle, engine: Engine) -> Backend:
    """Load an engine, its file's sha256 checked first.

    Raises:
        EngineError: It does not fit this machine; the message ends with the command that rebuilds it.
        ChangedFileError: The file is not the one that was built.
    """
    if engine.obstacle:
        raise EngineError(
            f"engine {engine.name} cannot run here: {engine.obstacle}; "
            f"build it anew with '{engine.rebuild} --bundle {bundle.path}'"
        )
    path = bundle.file(f"{ENGINES}/{engine.name}", engine.rebuild)
    return load_engine(path, engine.sidecar)


def load_engine(path: Path, sidecar: EngineSidecar) -> Backend:
    """The backend that runs an engine file."""
    if sidecar.target == "tensorrt":
        from lrdan_edge.runtime.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(path.read_bytes(), sidecar.precision)
    from lrdan_edge.runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path.read_bytes(), sidecar.precision, optimised=True)


def _obstacle(bundle: Bundle, stage: str, sidecar: EngineSidecar) -> str | None:
    graph = bundle.manifest.files.get(graph_name(sidecar.precision))
    here = processor()
    if graph is None or graph.sha256 != sidecar.graph_sha256 or bundle.staleness(stage):
        return f"it is older than {graph_name(sidecar.precision)}"
    if sidecar.platform != here.platform:
        return f"it was built on {sidecar.platform}, this is {here.platform}"
    if sidecar.target == "tensorrt":
        return _tensorrt_obstacle(sidecar)
    import onnxruntime

    if sidecar.target_version != onnxruntime.__version__:
        return f"it was built by ONNX Runtime {sidecar.target_version}, this is {onnxruntime.__version__}"
    if sidecar.device_features != here.features:
        return f"it was built for {sidecar.device} ({' '.join(sidecar.device_features)}), this is {here.name}"
    return None


def _tensorrt_obstacle(sidecar: EngineSidecar) -> str | None:
    """The cheap checks first: this runs at every start, and importing TensorRT takes longest."""
    gpu = find_gpu()
    if gpu is None:
        return "no NVIDIA GPU is found here"
    here = [feature(gpu.compute_capability)]
    if sidecar.device_features and sidecar.device_features != here:  # none: built ahead of time, for more than one GPU
        return f"it was built for {sidecar.device} ({' '.join(sidecar.device_features)}), this is {gpu.name} ({here[0]})"
    if find_spec("pycuda") is None:
        return "PyCUDA is not installed here (pip install pycuda)"
    try:
        trt = find_tensorrt()
    except LrdanError as error:
        return str(error)
    module = str(sidecar.details.get("module", "tensorrt"))
    if (module, sidecar.target_version) != (trt.__name__, str(trt.__version__)):
        return f"it was built by {product(module, sidecar.target_version)}, this is {title(trt)}"
    return None
