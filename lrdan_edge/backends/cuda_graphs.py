"""CUDA graphs: a fixed sequence of GPU work, launched in one call. They need NVIDIA's ``cuda-bindings``; PyCUDA lacks them."""

import importlib
from collections.abc import Callable
from typing import Any

from lrdan_edge.errors import BackendError


class CudaGraph:
    """Work captured from a stream. Only the thread that owns the stream may make, launch or free it."""

    def __init__(self, driver: Any, executable: Any) -> None:
        """Keep an instantiated graph of `driver`, which is ``cuda.bindings.driver``."""
        self._driver, self._executable = driver, executable

    def launch(self, stream: int) -> None:
        """Queue the work on a stream, given by its handle.

        Raises:
            BackendError: The CUDA call failed.
        """
        _require(self._driver.cuGraphLaunch(self._executable, stream), "cuGraphLaunch")

    def free(self) -> None:
        """Free the graph; it must not be running on any stream."""
        _require(self._driver.cuGraphExecDestroy(self._executable), "cuGraphExecDestroy")


def find_cuda_bindings() -> Any:
    """NVIDIA's ``cuda.bindings.driver``, or None if it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError:
        return None


def capture(driver: Any, stream: int, enqueue: Callable[[], None]) -> CudaGraph:
    """Capture the work that `enqueue` queues on a stream, without running it.

    Args:
        driver: ``cuda.bindings.driver``.
        stream: The stream's handle; nothing may be queued on it, and no other thread may use it.
        enqueue: Queues asynchronous work on that stream, and uses the GPU for nothing else.

    Raises:
        BackendError: The capture failed. The stream can be used as before.
    """
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    _require(driver.cuStreamBeginCapture(stream, mode), "cuStreamBeginCapture")
    try:
        enqueue()
    except BaseException:
        driver.cuStreamEndCapture(stream)  # this call fails too, but it ends the capture
        raise
    graph = _require(driver.cuStreamEndCapture(stream), "cuStreamEndCapture")
    try:
        return CudaGraph(driver, _require(driver.cuGraphInstantiate(graph, 0), "cuGraphInstantiate"))
    finally:
        driver.cuGraphDestroy(graph)


def _require(answer: tuple[Any, ...], call: str) -> Any:
    """The result of a cuda-bindings function, without its error code, which must not be an error."""
    code, *values = answer
    if int(code):
        raise BackendError(f"{call} failed: {getattr(code, 'name', code)}")
    return values[0] if values else None
