"""CUDA graphs: a fixed sequence of GPU work, launched in one call. They need NVIDIA's ``cuda-bindings``; PyCUDA has none."""

import importlib
from collections.abc import Callable
from typing import Any

from lrdan_edge.errors import BackendError


class CudaGraph:
    """Work captured from a stream. The thread that owns the stream makes, launches and frees it."""

    def __init__(self, driver: Any, executable: Any) -> None:
        """Keep an instantiated graph of `driver`, which is ``cuda.bindings.driver``."""
        self._driver, self._executable = driver, executable

    def launch(self, stream: int) -> None:
        """Queue the work on a stream, given by its handle.

        Raises:
            BackendError: CUDA refuses.
        """
        _require(self._driver.cuGraphLaunch(self._executable, stream), "cuGraphLaunch")

    def free(self) -> None:
        """Free the graph; no stream may still run it."""
        _require(self._driver.cuGraphExecDestroy(self._executable), "cuGraphExecDestroy")


def find_cuda_bindings() -> Any:
    """NVIDIA's ``cuda.bindings.driver``, or None where it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError:
        return None


def capture(driver: Any, stream: int, enqueue: Callable[[], None]) -> CudaGraph:
    """Capture the work that `enqueue` queues on a stream, without running it.

    Args:
        driver: ``cuda.bindings.driver``.
        stream: The stream's handle; nothing may be queued on it, and no other thread may use it.
        enqueue: Queues asynchronous work on that stream and does nothing else with the GPU.

    Raises:
        BackendError: CUDA refuses. The stream can be used as before.
    """
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    _require(driver.cuStreamBeginCapture(stream, mode), "cuStreamBeginCapture")
    try:
        enqueue()
    except BaseException:
        driver.cuStreamEndCapture(stream)  # this fails too, and ends the capture
        raise
    graph = _require(driver.cuStreamEndCapture(stream), "cuStreamEndCapture")
    try:
        return CudaGraph(driver, _require(driver.cuGraphInstantiate(graph, 0), "cuGraphInstantiate"))
    finally:
        driver.cuGraphDestroy(graph)


def _require(answer: tuple[Any, ...], call: str) -> Any:
    """The result of a cuda-bindings function, without its error code.

    Raises:
        BackendError: The code is an error.
    """
    code, *values = answer
    if int(code):
        raise BackendError(f"{call} failed: {getattr(code, 'name', code)}")
    return values[0] if values else None
