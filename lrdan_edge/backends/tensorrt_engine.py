"""A TensorRT engine in GPU memory: its shapes, its profiles, and the execution contexts that run it."""

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lrdan_edge.backends.base import BackendSpec
from lrdan_edge.backends.nvidia import describe_tensorrt, logger_for, runtime_for
from lrdan_edge.backends.tensorrt_rtx import captures_by_itself, capturing_context
from lrdan_edge.bundle.command import Command
from lrdan_edge.errors import BackendError, EngineError

INPUT, SCORE, HEATMAP = "frames", "score", "heatmap"


@dataclass(frozen=True)
class Profile:
    """An optimisation profile: a range of batch sizes for which TensorRT chose kernels.

    Attributes:
        index: Its number in the engine.
        smallest: Fewest frames in a call.
        best: The batch size that its kernels were chosen for.
        largest: Most frames in a call.
    """

    index: int
    smallest: int
    best: int
    largest: int


def profile_for(profiles: Sequence[Profile], frames: int) -> Profile:
    """The profile for a number of frames: the one with the least padding, then the one with the nearest best batch size.

    Args:
        profiles: An engine's profiles; at least one accepts `frames`.
        frames: Number of frames, at least 1.
    """
    large_enough = [profile for profile in profiles if frames <= profile.largest]
    return min(large_enough, key=lambda profile: (max(0, profile.smallest - frames), abs(profile.best - frames)))


def read_profiles(engine: Any) -> list[Profile]:
    """The optimisation profiles of TensorRT's `engine`, which was built from a deploy graph."""
    indices = range(engine.num_optimization_profiles)
    return [Profile(index, *(tuple(shape)[0] for shape in engine.get_tensor_profile_shape(INPUT, index))) for index in indices]  # noqa: RUF015


@dataclass(frozen=True)
class EngineRequest:
    """An engine, and how to load it.

    Attributes:
        plan: The engine file's bytes.
        precision: The graph's precision, for the spec and for messages.
        dla_core: The DLA core that the engine was built for; None: none.
        host_code: Whether it contains code for the processor, as version-compatible engines do.
        streams: How many calls may overlap.
        spin: Whether threads busy-wait for the GPU.
    """

    plan: bytes
    precision: str
    dla_core: int | None
    host_code: bool
    streams: int
    spin: bool = False


class GpuContext(ExitStack):
    """The first visible GPU's primary context, current on this thread until this thread closes it.

    Every thread that uses CUDA has one: PyCUDA keeps a stack of contexts per thread. Objects made in the context register a
    callback that frees them; closing calls the callbacks in reverse order, then releases the context.
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
    """A loaded engine. One thread loads it and frees it last; other threads run it, each with separate execution contexts.

    Attributes:
        spec: Its input, output and device.
        profiles: Its optimisation profiles.
        integrated: Whether this GPU shares its memory with the processor, as on a Jetson.
        own_graphs: Whether its contexts capture CUDA graphs themselves, as in TensorRT for RTX.
        scratch_bytes: Bytes of GPU memory that a context needs while it runs.
        spin: See `EngineRequest`.
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
            request: The engine to load.

        Raises:
            EngineError: The engine was built by another TensorRT version or for another GPU, or not from a deploy graph.
        """
        self.trt = trt
        self._making = threading.Lock()
        self._messages = messages = deque[str](maxlen=3)
        gpu.callback(self._forget)
        # The sink must not refer to this object: the garbage collector would free the cycle, on any thread.
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
                f"this engine was not built from a deploy graph (its tensors are {', '.join(sorted(names))})", "build it again"
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
            on_gpu=True,
        )

    def execution(self, scratch: int) -> Any:
        """A context that runs this engine. Only the calling thread may use and free it.

        Args:
            scratch: Address of `scratch_bytes` bytes of GPU memory, which nothing else uses while the context runs.

        Raises:
            EngineError: TensorRT cannot make one.
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
        """Raise an error with TensorRT's messages if one of its calls failed.

        Raises:
            BackendError: The call failed.
        """
        if not succeeded:
            raise BackendError(
                f"TensorRT's {call} failed on {self.spec.device} ({self._reason()})", "build the engine again on this GPU"
            )

    def _refused(self, precision: str) -> EngineError:
        return EngineError(
            f"{describe_tensorrt(self.trt)} cannot load this engine ({self._reason()}): it was built by another version or for another "
            "GPU, or memory ran out",
            "build it again with '{command}'",
            command=Command("build-engine", **{precision: True}, target="tensorrt"),
        )

    def _reason(self) -> str:
        return "; ".join(self._messages) or "TensorRT gave no reason"

    def _forget(self) -> None:
        self._engine = None  # dropping the last reference frees the object; the engine must be freed before the runtime
        self._runtime = None
