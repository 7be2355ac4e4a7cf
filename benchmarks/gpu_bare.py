"""An engine and nothing else: what the GPU itself takes, by CUDA events around the enqueueing alone, as trtexec measures it."""

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np

from lrdan_edge.errors import BackendError, MissingExtraError
from lrdan_edge.runtime.nvidia import find_tensorrt, logger_for, runtime_for


class BareEngine:
    """One engine on one stream, its buffers on the device; made, used and closed on one thread.

    Attributes:
        batch: Frames per call.
    """

    def __init__(self, plan: bytes, batch: int) -> None:
        """Load an engine and bind black frames to it.

        Args:
            plan: The engine file's bytes.
            batch: Frames per call, within the engine's first profile.

        Raises:
            MissingExtraError: TensorRT or PyCUDA is not installed.
            BackendError: TensorRT refuses the engine or the batch.
        """
        trt = find_tensorrt()
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            raise MissingExtraError("pycuda", "tensorrt", "bare execution") from error
        self.batch, self._cuda, self._release = batch, cuda, ExitStack()
        cuda.init()
        context = cuda.Device(0).retain_primary_context()
        self._release.callback(context.detach)
        context.push()
        self._release.callback(context.pop)
        try:
            self._bind(trt, plan)
        except BaseException:
            self.close()
            raise

    def _bind(self, trt: Any, plan: bytes) -> None:
        self._release.callback(self._forget)
        self._logger = logger_for(trt, lambda _severity, _text: None)
        self._runtime: Any = runtime_for(trt, self._logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError("TensorRT cannot load this engine for bare execution")
        self._execution: Any = self._engine.create_execution_context()
        _, *frame = self._engine.get_tensor_shape("frames")
        if not self._execution.set_input_shape("frames", (self.batch, *frame)):
            raise BackendError(f"the engine's profile has no batch of {self.batch}")
        self._stream: Any = self._cuda.Stream()
        self._graph: Any = None
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
        try:
            from cuda.bindings import runtime as cudart
        except ImportError as error:
            raise BackendError("a CUDA graph needs NVIDIA's bindings: pip install cuda-bindings") from error
        self._cudart = cudart
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _require(cudart.cudaStreamBeginCapture(self._stream.handle, mode), "cudaStreamBeginCapture")
        self._enqueue()
        graph = _require(cudart.cudaStreamEndCapture(self._stream.handle), "cudaStreamEndCapture")
        self._graph = _require(cudart.cudaGraphInstantiate(graph, 0), "cudaGraphInstantiate")
        self._release.callback(lambda: cudart.cudaGraphExecDestroy(self._graph))
        self._replay()
        self._stream.synchronize()

    def milliseconds(self, calls: int) -> float:
        """Device time of one call, the mean over `calls` that are enqueued one after the other."""
        begun, ended = self._cuda.Event(), self._cuda.Event()
        run = self._replay if self._graph is not None else self._enqueue
        begun.record(self._stream)
        for _ in range(calls):
            run()
        ended.record(self._stream)
        ended.synchronize()
        return float(begun.time_till(ended)) / calls

    def _enqueue(self) -> None:
        if not self._execution.execute_async_v3(self._stream.handle):
            raise BackendError("TensorRT's execute_async_v3 failed in bare execution")

    def _replay(self) -> None:
        _require(self._cudart.cudaGraphLaunch(self._graph, self._stream.handle), "cudaGraphLaunch")

    def _forget(self) -> None:
        self._execution = self._engine = self._runtime = None  # in this order

    def close(self) -> None:
        """Free everything, last made first."""
        self._release.close()

    def __enter__(self) -> "BareEngine":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _require(answer: tuple[Any, ...], call: str) -> Any:
    """What a function of cuda-bindings gives besides its error.

    Raises:
        BackendError: There was one.
    """
    error, *values = answer
    if int(error):
        raise BackendError(f"{call} failed: {error}")
    return values[0] if values else None
