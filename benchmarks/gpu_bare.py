"""An engine and nothing else: what the GPU itself takes, by CUDA events around the enqueueing alone, as trtexec measures it."""

from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from lrdan_edge.backends.cuda_graphs import capture, find_cuda_bindings
from lrdan_edge.backends.nvidia import find_tensorrt, logger_for, runtime_for
from lrdan_edge.backends.tensorrt_engine import GpuContext, profile_for, read_profiles
from lrdan_edge.errors import BackendError, MissingExtraError


class BareEngine:
    """One engine on one stream, its buffers on the device; made, used and closed on one thread.

    Attributes:
        batch: Frames per call.
    """

    def __init__(self, plan: bytes, batch: int) -> None:
        """Load an engine and bind black frames to it.

        Args:
            plan: The engine file's bytes.
            batch: Frames per call, within one of the engine's profiles.

        Raises:
            MissingExtraError: TensorRT or PyCUDA is not installed.
            BackendError: TensorRT refuses the engine or the batch.
        """
        trt = find_tensorrt()
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            raise MissingExtraError("pycuda", "tensorrt", "bare execution") from error
        self.batch, self._cuda, self._release = batch, cuda, GpuContext(cuda)
        try:
            self._bind(trt, plan)
        except BaseException:
            self.close()
            raise

    def _bind(self, trt: Any, plan: bytes) -> None:
        self._stream: Any = None
        self._graph: Any = None
        self._release.callback(self._forget)
        self._logger = logger_for(trt, lambda _severity, _text: None)
        self._runtime: Any = runtime_for(trt, self._logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError("TensorRT cannot load this engine for bare execution")
        self._execution: Any = self._engine.create_execution_context()
        _, *frame = self._engine.get_tensor_shape("frames")
        self._stream = self._cuda.Stream()
        fitting = [profile for profile in read_profiles(self._engine) if profile.smallest <= self.batch <= profile.largest]
        if not fitting or not self._execution.set_optimization_profile_async(
            profile_for(fitting, self.batch).index, self._stream.handle
        ):
            raise BackendError(f"the engine has no profile for a batch of {self.batch}")
        if not self._execution.set_input_shape("frames", (self.batch, *frame)):
            raise BackendError(f"the engine's profile has no batch of {self.batch}")
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(self._execution.get_tensor_shape(name))
            array = np.zeros(shape, trt.nptype(self._engine.get_tensor_dtype(name)))
            memory = self._cuda.mem_alloc(array.nbytes)
            self._release.callback(memory.free)
            self._cuda.memcpy_htod(memory, array)
            self._execution.set_tensor_address(name, int(memory))
        self._enqueue()
        self._stream.synchronize()

    def capture(self) -> None:
        """Replay a CUDA graph from now on.

        Raises:
            BackendError: NVIDIA's cuda-bindings are not installed, or the capture failed.
        """
        bindings = find_cuda_bindings()
        if bindings is None:
            raise BackendError("a CUDA graph needs NVIDIA's bindings: pip install cuda-bindings")
        self._graph = capture(bindings, self._stream.handle, self._enqueue)
        self._release.callback(self._graph.free)
        self._graph.launch(self._stream.handle)
        self._stream.synchronize()

    def milliseconds(self, calls: int) -> float:
        """Device time of one call, the mean over `calls` that are enqueued one after the other."""
        begun, ended = self._cuda.Event(), self._cuda.Event(self._cuda.event_flags.BLOCKING_SYNC)
        run = partial(self._graph.launch, self._stream.handle) if self._graph is not None else self._enqueue
        begun.record(self._stream)
        for _ in range(calls):
            run()
        ended.record(self._stream)
        ended.synchronize()
        return float(begun.time_till(ended)) / calls

    def _enqueue(self) -> None:
        if not self._execution.execute_async_v3(self._stream.handle):
            raise BackendError("TensorRT's execute_async_v3 failed in bare execution")

    def _forget(self) -> None:
        self._stream = self._graph = self._execution = self._engine = self._runtime = None  # in this order

    def close(self) -> None:
        """Free everything, last made first."""
        self._release.close()

    def __enter__(self) -> "BareEngine":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
