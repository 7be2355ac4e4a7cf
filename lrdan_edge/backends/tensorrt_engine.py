"""A TensorRT engine in the memory of a GPU: what it takes, and the contexts that run it."""

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lrdan_edge.backends.base import BackendSpec
from lrdan_edge.backends.nvidia import logger_for, runtime_for, title
from lrdan_edge.backends.tensorrt_rtx import captures_by_itself, capturing_context
from lrdan_edge.errors import BackendError, EngineError

INPUT, SCORE, HEATMAP = "frames", "score", "heatmap"


@dataclass(frozen=True)
class Profile:
    """An optimisation profile: the batch sizes that one choice of kernels runs.

    Attributes:
        index: Its number in the engine.
        smallest: Fewest frames in a call.
        best: How many its kernels were chosen for.
        largest: Most frames in a call.
    """

    index: int
    smallest: int
    best: int
    largest: int


def profile_for(profiles: Sequence[Profile], frames: int) -> Profile:
    """The profile that runs so many frames best: filled up least, then chosen for the nearest size.

    Args:
        profiles: An engine's, of which one at least holds `frames`.
        frames: How many, at least 1.
    """
    fitting = [profile for profile in profiles if frames <= profile.largest]
    return min(fitting, key=lambda profile: (max(0, profile.smallest - frames), abs(profile.best - frames)))


def read_profiles(engine: Any) -> list[Profile]:
    """The optimisation profiles of TensorRT's `engine`, a deploy graph's."""
    every = range(engine.num_optimization_profiles)
    return [Profile(index, *(tuple(shape)[0] for shape in engine.get_tensor_profile_shape(INPUT, index))) for index in every]  # noqa: RUF015


@dataclass(frozen=True)
class EngineRequest:
    """Which engine, and how it is to be loaded.

    Attributes:
        plan: The engine file's bytes.
        precision: The graph's precision, for the spec and for messages.
        dla_core: The DLA core that the engine was built for; None: none.
        host_code: Whether it brings code for the processor, as version-compatible engines do.
        streams: How many calls are to overlap.
        spin: Whether waiting for the GPU keeps a core busy.
    """

    plan: bytes
    precision: str
    dla_core: int | None
    host_code: bool
    streams: int
    spin: bool = False


class GpuContext(ExitStack):
    """The first visible GPU's primary context, current on this thread until it is closed, on this thread.

    Every thread that uses CUDA holds one of its own: PyCUDA keeps a stack of contexts per thread. What is made in it registers
    its own freeing here, and goes before the context does, last made first.
    """

    def __init__(self, cuda: Any) -> None:
        """Retain the context and make it current.

        Args:
            cuda: ``pycuda.driver``.
        """
        super().__init__()
        cuda.init()
        self.device = cuda.Device(0)
        primary = self.device.retain_primary_context()
        self.callback(primary.detach)
        primary.push()
        self.callback(primary.pop)


class LoadedEngine:
    """An engine, loaded by the thread that also frees it; other threads run it, each by contexts of its own, and end before.

    Attributes:
        spec: What it takes and gives.
        profiles: Its optimisation profiles.
        integrated: Whether this GPU shares its memory with the processor, as on a Jetson.
        own_graphs: Whether its contexts capture CUDA graphs by themselves, as those of TensorRT for RTX do.
        scratch_bytes: Memory that a context needs while it runs.
        spin: As `EngineRequest`.
    """

    spec: BackendSpec
    profiles: list[Profile]
    scratch_bytes: int

    def __init__(self, trt: Any, cuda: Any, gpu: GpuContext, request: EngineRequest) -> None:
        """Load an engine.

        Args:
            trt: TensorRT's module.
            cuda: ``pycuda.driver``.
            gpu: This thread's context; closing it frees the engine.
            request: What to load.

        Raises:
            EngineError: The engine was built by another TensorRT version or for another GPU, or is no deploy graph's.
        """
        self.trt = trt
        self._making = threading.Lock()
        self._messages = messages = deque[str](maxlen=3)
        gpu.callback(self._forget)
        # The sink must not hold this object: a cycle would leave freeing it to the garbage collector, on any thread.
        self._logger = logger_for(trt, lambda severity, text: messages.append(text) if severity <= 1 else None)
        self._runtime: Any = runtime_for(trt, self._logger, dla_core=request.dla_core, host_code=request.host_code)
        self._engine: Any = self._runtime.deserialize_cuda_engine(request.plan)
        if self._engine is None:
            raise self._refused(request.precision)
        self.spin = request.spin
        self.own_graphs = captures_by_itself(trt)
        self.integrated = bool(gpu.device.get_attribute(cuda.device_attribute.INTEGRATED))
        self._read_shapes(gpu.device.name(), request)

    def _read_shapes(self, device: str, request: EngineRequest) -> None:
        trt = self.trt
        engine = self._engine
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        types = {INPUT: trt.DataType.UINT8, SCORE: trt.DataType.FLOAT, HEATMAP: trt.DataType.FLOAT}
        if names != set(types) or any(engine.get_tensor_dtype(name) != kind for name, kind in types.items()):
            raise EngineError(
                f"this engine is not a deploy graph's (its tensors are {', '.join(sorted(names))}): build it anew"
            )
        self.profiles = read_profiles(engine)
        frame = tuple(engine.get_tensor_shape(INPUT))[1:]
        height, width = tuple(engine.get_tensor_shape(HEATMAP))[1:]
        self.scratch_bytes = int(engine.device_memory_size_v2)
        self.spec = BackendSpec(
            frame_shape=frame,
            heatmap_shape=(height, width),
            max_batch=max(profile.largest for profile in self.profiles),
            device=device,
            precision=request.precision,
            in_flight=request.streams,
        )

    def execution(self, scratch: int) -> Any:
        """A context that runs this engine, to be used and dropped by the calling thread alone.

        Args:
            scratch: Address of `scratch_bytes` of GPU memory, which nothing else uses while the context runs.

        Raises:
            EngineError: TensorRT makes none.
        """
        with self._making:
            if self.own_graphs:
                execution = capturing_context(self.trt, self._engine)
            else:
                execution = self._engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if execution is None:
            raise self._refused(self.spec.precision)
        execution.set_device_memory(scratch, self.scratch_bytes)
        return execution

    def require(self, succeeded: bool, call: str) -> None:
        """Raise what TensorRT said where a call of its failed.

        Raises:
            BackendError: It failed.
        """
        if not succeeded:
            raise BackendError(
                f"TensorRT's {call} failed on {self.spec.device} ({self._said()}): build the engine anew on this GPU"
            )

    def _refused(self, precision: str) -> EngineError:
        return EngineError(
            f"{title(self.trt)} cannot load this engine ({self._said()}): it was built by another version, for another GPU, or "
            f"memory ran out; build it anew with 'lrdan-edge build-engine --{precision} --target tensorrt'"
        )

    def _said(self) -> str:
        return "; ".join(self._messages) or "TensorRT gave no reason"

    def _forget(self) -> None:
        self._engine = None  # TensorRT frees an object with its last reference: the engine before the runtime
        self._runtime = None
