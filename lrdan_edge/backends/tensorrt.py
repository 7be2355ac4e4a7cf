"""TensorRT through PyCUDA: runs an engine on an NVIDIA GPU.

CUDA keeps one current context per thread, so the backend starts its own threads. One thread loads and frees the engine. One
thread per stream makes, uses and frees the objects that run calls. Callers on any thread queue their frames and wait. While the
GPU computes for one stream, the other stream copies frames in or results out.
"""

import importlib
import logging
import os
import threading
import weakref
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.base import Backend, BackendSpec, Detections, first_line
from lrdan_edge.backends.cuda_graphs import find_cuda_bindings
from lrdan_edge.backends.nvidia import find_tensorrt
from lrdan_edge.backends.tensorrt_engine import EngineRequest, GpuContext, LoadedEngine
from lrdan_edge.backends.tensorrt_slot import Slot
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import BackendError, LrdanError, MissingExtraError

_STREAMS = 2


class TensorRTBackend(Backend):
    """Runs an engine built by `lrdan_edge.engines.tensorrt.build` on the first visible GPU (``CUDA_VISIBLE_DEVICES`` chooses)."""

    name = "tensorrt"

    def __init__(
        self,
        plan: bytes,
        precision: str,
        *,
        dla_core: int | None = None,
        version_compatible: bool = False,
        streams: int = _STREAMS,
        spin: bool = False,
    ) -> None:
        """Load an engine and allocate its buffers.

        Args:
            plan: The engine file's bytes.
            precision: The graph's precision, for the spec and for messages.
            dla_core: The DLA core that the engine was built for; None: none.
            version_compatible: Whether the engine was built to be version-compatible; it then contains code for the processor.
            streams: How many calls overlap; each has its own buffers and scratch memory.
            spin: Whether threads busy-wait for the GPU: latency is lower, and a core stays busy.

        Raises:
            EngineError: The engine was built by another TensorRT version or for another GPU, or not from a deploy graph.
            BackendError: There is no usable GPU, or not enough of its memory is free.
            MissingExtraError: TensorRT or PyCUDA is not installed.
        """
        trt, cuda = find_tensorrt(), _find_pycuda()
        request = EngineRequest(plan, precision, dla_core, version_compatible, streams, spin)
        self._requests: _Queue = SimpleQueue()
        opened: Future[BackendSpec] = Future()
        owner = threading.Thread(target=_own, args=(trt, cuda, request, self._requests, opened), name="tensorrt", daemon=True)
        owner.start()
        # Runs once: at close, when the backend is garbage-collected, or at exit, whichever comes first.
        self._release = weakref.finalize(self, _stop, self._requests, streams, owner, os.getpid())
        super().__init__(opened.result())

    def _infer(self, frames: Frame, heatmap: bool) -> Detections:
        count, most = len(frames), self.spec.max_batch
        found = Detections(
            np.empty(count, np.float32), np.empty((count, *self.spec.heatmap_shape), np.float32) if heatmap else None
        )
        answers: _Answers = SimpleQueue()
        slices = [slice(start, min(start + most, count)) for start in range(0, count, most)]
        for part in slices:
            heat = None if found.heatmap is None else found.heatmap[part]
            self._requests.put(_Part(frames[part], found.score[part], heat, answers))
        return found._replace(device_ms=_milliseconds(answers, len(slices)))

    def _warm_up(self, frames: Frame) -> None:
        """Run the frames on every stream at once."""
        answers: _Answers = SimpleQueue()
        barrier = threading.Barrier(self.spec.in_flight)
        frames = frames[: self.spec.max_batch]
        for _ in range(self.spec.in_flight):
            self._requests.put(_Part(frames, np.empty(len(frames), np.float32), None, answers, barrier))
        _milliseconds(answers, self.spec.in_flight)

    def _close(self) -> None:
        self._release()


@dataclass(frozen=True, slots=True)
class _Part:
    """The frames of one engine call, and the arrays for its results.

    Attributes:
        frames: uint8 [n, H, W, C], n at most the engine's largest batch.
        score: float32 [n], filled by the call.
        heatmap: float32 [n, h, w], filled by the call; None if not requested.
        answers: Receives the milliseconds that the call took, or the error to raise.
        barrier: If set, the streams wait for each other at it before they run, so that each runs one part.
    """

    frames: Frame
    score: npt.NDArray[np.float32]
    heatmap: npt.NDArray[np.float32] | None
    answers: "_Answers"
    barrier: threading.Barrier | None = None


_Answers = SimpleQueue[float | LrdanError]
_Queue = SimpleQueue[_Part | None]


def _milliseconds(answers: "_Answers", parts: int) -> float:
    """Wait for the answers to all parts. Returns the sum of the GPU's milliseconds."""
    received = [answers.get() for _ in range(parts)]
    for answer in received:
        if isinstance(answer, LrdanError):
            raise answer
    return sum(answer for answer in received if not isinstance(answer, LrdanError))


def _own(trt: Any, cuda: Any, request: EngineRequest, requests: _Queue, opened: "Future[BackendSpec]") -> None:
    """Run the engine's thread: load the engine, start the streams' threads, free the engine when they have ended."""
    gpu, loaded, runners, failure = None, None, [], None
    try:
        gpu = GpuContext(cuda)
        loaded = LoadedEngine(trt, cuda, gpu, request)
        bindings = find_cuda_bindings()
        for number in range(request.streams):
            ready: Future[None] = Future()
            arguments = (cuda, loaded, bindings, requests, ready)
            runners.append(threading.Thread(target=_run, args=arguments, name=f"tensorrt stream {number}", daemon=True))
            runners[-1].start()
            ready.result()
    except Exception as error:
        failure = _for_caller(error, "cannot use the GPU")
        for _ in runners:
            requests.put(None)
    if failure is None and loaded is not None:
        opened.set_result(loaded.spec)
    for runner in runners:
        runner.join()
    if gpu is not None:
        _close(gpu)
    if failure is not None:  # not in the handler above, where the error still refers to objects that must be freed first
        opened.set_exception(failure)


def _run(cuda: Any, loaded: LoadedEngine, bindings: Any, requests: _Queue, ready: "Future[None]") -> None:
    """Run a stream's thread: open the stream, answer requests until None comes, close it."""
    gpu, slot, failure = None, None, None
    try:
        gpu = GpuContext(cuda)
        slot = Slot(cuda, gpu, loaded, bindings)
    except Exception as error:
        failure = _for_caller(error, "cannot use the GPU")
    if failure is None and slot is not None:
        ready.set_result(None)
        while (part := requests.get()) is not None:
            try:
                if part.barrier is not None:
                    part.barrier.wait()
                part.answers.put(slot.run(part.frames, part.score, part.heatmap))
            except Exception as error:
                part.answers.put(_for_caller(error, f"failed on {list(part.frames.shape)}"))
            del part  # do not keep the caller's arrays alive while waiting for the next part
    if gpu is not None:
        _close(gpu)
    if failure is not None:
        ready.set_exception(failure)


def _close(gpu: GpuContext) -> None:
    """Free everything that the thread made. A step that fails is logged; the others still run."""
    try:
        gpu.close()
    except Exception as error:  # PyCUDA's, the bindings' or TensorRT's
        logging.getLogger(__name__).warning("the GPU could not be released cleanly: %s", first_line(error))


def _stop(requests: _Queue, streams: int, owner: threading.Thread, process: int) -> None:
    if os.getpid() != process:
        return  # a forked process has neither the threads nor the context: both stay with the parent
    for _ in range(streams):
        requests.put(None)
    if owner is not threading.current_thread():
        owner.join()


def _find_pycuda() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "pycuda":
            raise MissingExtraError("pycuda", "tensorrt", "the tensorrt backend") from error
        raise BackendError(
            f"PyCUDA does not load ({first_line(error)})", "install the NVIDIA driver, or PyCUDA again"
        ) from error


def _for_caller(error: Exception, what: str) -> LrdanError:
    """The error to raise on the caller's thread, without tracebacks, which would keep the GPU threads' objects alive there."""
    bare = error.with_traceback(None)
    bare.__context__ = None
    if isinstance(bare, LrdanError):
        return bare
    translated = BackendError(
        f"CUDA {what} ({first_line(bare)})", "check the driver and free GPU memory, or choose another {backend}"
    )
    translated.__cause__ = bare
    return translated
