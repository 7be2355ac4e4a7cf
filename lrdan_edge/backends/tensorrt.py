"""TensorRT through PyCUDA: runs an engine on an NVIDIA GPU.

CUDA keeps the current context per thread, so whatever is made on the GPU is made, used and freed by one thread of its own;
callers on any thread hand their frames over and wait. One thread owns the engine, and one per stream runs calls of it: while
the GPU computes one, the other copies its frames in, or its results out.
"""

import importlib
import logging
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.base import Backend, BackendSpec, Detections, check_frames
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
            version_compatible: Whether the engine was built so; it then brings code for the processor, which runs.
            streams: How many calls overlap; each takes buffers and scratch memory of its own.
            spin: Whether waiting for the GPU keeps a core busy, which notices its end sooner.

        Raises:
            EngineError: The engine was built by another TensorRT version or for another GPU, or is no deploy graph's.
            BackendError: There is no usable GPU, or not enough of its memory is free.
            MissingExtraError: TensorRT or PyCUDA is not installed.
        """
        trt, cuda = find_tensorrt(), _find_pycuda()
        request = EngineRequest(plan, precision, dla_core, version_compatible, streams, spin)
        requests: _Queue = SimpleQueue()
        opened: Future[BackendSpec] = Future()
        owner = threading.Thread(target=_own, args=(trt, cuda, request, requests, opened), name="tensorrt", daemon=True)
        self._pid, self._requests, self._lock, self._streams = os.getpid(), requests, threading.Lock(), streams
        owner.start()
        # Runs once: at close, when nobody holds the backend any more, or at exit, whichever comes first.
        self._release = weakref.finalize(self, _stop, requests, streams, owner, self._lock, self._pid)
        self.spec = opened.result()

    def infer(self, frames: Frame, *, heatmap: bool = True) -> Detections:
        """Score a batch; see `Backend.infer`."""
        check_frames(frames, self.spec)
        count, most = len(frames), self.spec.max_batch
        found = Detections(
            np.empty(count, np.float32), np.empty((count, *self.spec.heatmap_shape), np.float32) if heatmap else None
        )
        answers: _Answers = SimpleQueue()
        cuts = [slice(start, min(start + most, count)) for start in range(0, count, most)]
        self._ask(
            [
                _Part(frames[cut], found.score[cut], None if found.heatmap is None else found.heatmap[cut], answers)
                for cut in cuts
            ]
        )
        return found._replace(device_ms=_milliseconds(answers, len(cuts)))

    def warm_up(self, batch: int = 1) -> None:
        """Run black frames on every stream; see `Backend.warm_up`."""
        answers: _Answers = SimpleQueue()
        together = threading.Barrier(self._streams)
        size = min(batch, self.spec.max_batch)
        frames = np.zeros((size, *self.spec.frame_shape), np.uint8)
        self._ask([_Part(frames, np.empty(size, np.float32), None, answers, together) for _ in range(self._streams)])
        _milliseconds(answers, self._streams)

    def close(self) -> None:
        """Answer what was asked before, then free everything; may be called again, from any thread."""
        self._release()

    def _ask(self, parts: Sequence["_Part"]) -> None:
        if os.getpid() != self._pid:
            raise BackendError(
                f"this TensorRT backend belongs to process {self._pid}, and CUDA does not survive a fork: open the bundle in "
                f"process {os.getpid()} itself, or start processes with multiprocessing's 'spawn'"
            )
        with self._lock:
            if not self._release.alive:
                raise BackendError("this tensorrt backend is closed: open the inspector again")
            for part in parts:
                self._requests.put(part)


@dataclass(frozen=True, slots=True)
class _Part:
    """Frames that one call of the engine takes, and where its results go.

    Attributes:
        answers: Told the milliseconds it took, or the error to raise.
        together: Where set, parts that are run at once, one per stream.
    """

    frames: Frame
    score: npt.NDArray[np.float32]
    heatmap: npt.NDArray[np.float32] | None
    answers: "_Answers"
    together: threading.Barrier | None = None


_Answers = SimpleQueue[float | LrdanError]
_Queue = SimpleQueue[_Part | None]


def _milliseconds(answers: "_Answers", parts: int) -> float:
    """Wait for all parts' answers; the GPU's time of them all."""
    said = [answers.get() for _ in range(parts)]
    for answer in said:
        if isinstance(answer, LrdanError):
            raise answer
    return sum(answer for answer in said if not isinstance(answer, LrdanError))


def _own(trt: Any, cuda: Any, request: EngineRequest, requests: _Queue, opened: "Future[BackendSpec]") -> None:
    """The engine's thread: load, let the streams' threads run it, free it after they ended."""
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
    if failure is not None:  # here, for inside the handler the error's own frames still hold what is to be freed
        opened.set_exception(failure)


def _run(cuda: Any, loaded: LoadedEngine, bindings: Any, requests: _Queue, ready: "Future[None]") -> None:
    """A stream's thread: open, answer requests until None comes, close."""
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
                if part.together is not None:
                    part.together.wait()
                part.answers.put(slot.run(part.frames, part.score, part.heatmap))
            except Exception as error:
                part.answers.put(_for_caller(error, f"failed on {list(part.frames.shape)}"))
            del part  # so that waiting for the next one keeps no caller's array alive
    if gpu is not None:
        _close(gpu)
    if failure is not None:
        ready.set_exception(failure)


def _close(gpu: GpuContext) -> None:
    """Free all of a thread's own; a step that fails is logged and does not keep the others from running."""
    try:
        gpu.close()
    except Exception as error:  # PyCUDA's, the bindings' or TensorRT's
        logging.getLogger(__name__).warning("the GPU could not be released cleanly: %s", _first_line(error))


def _stop(requests: _Queue, streams: int, owner: threading.Thread, lock: threading.Lock, pid: int) -> None:
    if os.getpid() != pid:
        return  # a fork has neither the threads nor the context: both stay with the parent
    with lock:
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
            f"PyCUDA does not load ({_first_line(error)}): install the NVIDIA driver, or PyCUDA again"
        ) from error


def _for_caller(error: Exception, what: str) -> LrdanError:
    """The error to raise on the caller's thread; without tracebacks, for those would keep the threads' own objects alive there."""
    bare = error.with_traceback(None)
    bare.__context__ = None
    if isinstance(bare, LrdanError):
        return bare
    translated = BackendError(
        f"CUDA {what} ({_first_line(bare)}): check the driver and free GPU memory, or choose another --backend"
    )
    translated.__cause__ = bare
    return translated


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
