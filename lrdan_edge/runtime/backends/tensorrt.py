"""TensorRT through PyCUDA: runs an engine on an NVIDIA GPU.

CUDA keeps the current context per thread, so one thread owns the context and everything made in it; callers on any thread
hand it their frames and wait. It also frees everything, in order, before the context goes.
"""

import importlib
import logging
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from lrdan_edge.errors import BackendError, EngineError, LrdanError, MissingExtraError
from lrdan_edge.images import Frame
from lrdan_edge.runtime.backends.base import Backend, BackendSpec, Detections, check_frames
from lrdan_edge.runtime.nvidia import find_tensorrt, logger_for, runtime_for, title

_INPUT, _SCORE, _HEATMAP = "frames", "score", "heatmap"

_Request = tuple["Future[Detections]", Frame, bool]
_Queue = SimpleQueue[_Request | None]


class TensorRTBackend(Backend):
    """Runs an engine built by `lrdan_edge.export.tensorrt` on the first visible GPU (``CUDA_VISIBLE_DEVICES`` chooses)."""

    name = "tensorrt"

    def __init__(self, plan: bytes, precision: str, *, dla_core: int | None = None, version_compatible: bool = False) -> None:
        """Load an engine and allocate its buffers.

        Args:
            plan: The engine file's bytes.
            precision: The graph's precision, for the spec and for messages.
            dla_core: The DLA core that the engine was built for; None: none.
            version_compatible: Whether the engine was built so; it then brings code for the processor, which runs.

        Raises:
            EngineError: The engine was built by another TensorRT version or for another GPU, or is no deploy graph's.
            BackendError: There is no usable GPU, or not enough of its memory is free.
            MissingExtraError: TensorRT or PyCUDA is not installed.
        """
        trt, cuda = find_tensorrt(), _find_pycuda()
        requests: _Queue = SimpleQueue()
        opened: Future[BackendSpec] = Future()
        thread = threading.Thread(
            target=_own,
            args=(trt, _Session(cuda, dla_core, version_compatible), plan, precision, opened, requests),
            name="tensorrt",
            daemon=True,
        )
        self._pid, self._requests, self._lock = os.getpid(), requests, threading.Lock()
        thread.start()
        # Runs once: at close, when nobody holds the backend any more, or at exit, whichever comes first.
        self._release = weakref.finalize(self, _stop, requests, thread, self._lock, self._pid)
        self.spec = opened.result()

    def infer(self, frames: Frame, *, heatmap: bool = True) -> Detections:
        """Score a batch; see `Backend.infer`."""
        if os.getpid() != self._pid:
            raise BackendError(
                f"this TensorRT backend belongs to process {self._pid}, and CUDA does not survive a fork: open the bundle in "
                f"process {os.getpid()} itself, or start processes with multiprocessing's 'spawn'"
            )
        check_frames(frames, self.spec)
        answer: Future[Detections] = Future()
        with self._lock:
            if not self._release.alive:
                raise BackendError("this tensorrt backend is closed: open the inspector again")
            self._requests.put((answer, frames, heatmap))
        return answer.result()

    def close(self) -> None:
        """Answer what was asked before, then free everything; may be called again, from any thread."""
        self._release()


def _find_pycuda() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "pycuda":
            raise MissingExtraError("pycuda", "tensorrt", "the tensorrt backend") from error
        raise BackendError(
            f"PyCUDA does not load ({_first_line(error)}): install the NVIDIA driver, or PyCUDA again"
        ) from error


class _Session:
    """The engine with its context, stream and buffers; made, used and closed on one thread.

    Buffers hold the profile's largest batch, are allocated once, and never leave this object.
    """

    def __init__(self, cuda: Any, dla_core: int | None, host_code: bool) -> None:
        self._cuda, self._messages, self._release = cuda, deque[str](maxlen=3), ExitStack()
        self._dla_core, self._host_code = dla_core, host_code

    def open(self, trt: Any, plan: bytes, precision: str) -> None:
        """Make everything; whether it succeeds or not, `close` frees what was made, last made first."""
        self._cuda.init()
        device = self._cuda.Device(0)
        context = device.retain_primary_context()
        self._release.callback(context.detach)
        context.push()
        self._release.callback(context.pop)
        self._release.callback(self._forget)
        # The sink must not hold this object: a cycle would leave freeing it to the garbage collector, on any thread.
        messages = self._messages
        self._logger = logger_for(trt, lambda severity, text: messages.append(text) if severity <= 1 else None)
        self._load(trt, plan, precision)
        self._read_shapes(trt, precision, device.name())
        self._allocate()
        self._stream: Any = self._cuda.Stream()
        self._release.callback(self._finish)

    def _load(self, trt: Any, plan: bytes, precision: str) -> None:
        self._runtime: Any = runtime_for(trt, self._logger, dla_core=self._dla_core, host_code=self._host_code)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        self._execution: Any = None if self._engine is None else self._engine.create_execution_context()
        if self._execution is None:
            raise EngineError(
                f"{title(trt)} cannot load this engine ({self.said()}): it was built by another version, for another GPU, or "
                f"memory ran out; build it anew with 'lrdan-edge build-engine --{precision} --target tensorrt'"
            )

    def _read_shapes(self, trt: Any, precision: str, device: str) -> None:
        engine = self._engine
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        types = {_INPUT: trt.DataType.UINT8, _SCORE: trt.DataType.FLOAT, _HEATMAP: trt.DataType.FLOAT}
        if names != set(types) or any(engine.get_tensor_dtype(name) != kind for name, kind in types.items()):
            raise EngineError(
                f"this engine is not a deploy graph's (its tensors are {', '.join(sorted(names))}): build it anew"
            )
        smallest, _, largest = (tuple(shape) for shape in engine.get_tensor_profile_shape(_INPUT, 0))
        height, width = tuple(engine.get_tensor_shape(_HEATMAP))[1:]
        self._min_batch: int = smallest[0]
        self.spec = BackendSpec(
            frame_shape=largest[1:],
            heatmap_shape=(height, width),
            max_batch=largest[0],
            device=device,
            precision=precision,
        )

    def _allocate(self) -> None:
        batch = self.spec.max_batch
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            _INPUT: ((batch, *self.spec.frame_shape), np.uint8),
            _SCORE: ((batch,), np.float32),
            _HEATMAP: ((batch, *self.spec.heatmap_shape), np.float32),
        }
        self._host: dict[str, npt.NDArray[Any]] = {}
        self._device: dict[str, Any] = {}
        self._release.callback(self._host.clear)
        for name, (shape, dtype) in shapes.items():
            self._host[name] = self._cuda.pagelocked_empty(shape, dtype)
            self._device[name] = self._cuda.mem_alloc(self._host[name].nbytes)
            self._release.callback(self._device[name].free)
            self._require(self._execution.set_tensor_address(name, int(self._device[name])), f"set_tensor_address({name})")

    def run(self, frames: Frame, heatmap: bool) -> Detections:
        """Score any number of frames, in parts that fit the profile; the arrays returned are the caller's."""
        wanted = (_SCORE, _HEATMAP) if heatmap else (_SCORE,)
        results = {name: np.empty((len(frames), *self._host[name].shape[1:]), np.float32) for name in wanted}
        for start in range(0, len(frames), self.spec.max_batch):
            part = frames[start : start + self.spec.max_batch]
            self._execute(part, wanted)
            for name in wanted:
                results[name][start : start + len(part)] = self._host[name][: len(part)]
        return Detections(results[_SCORE], results.get(_HEATMAP))

    def _execute(self, part: Frame, wanted: tuple[str, ...]) -> None:
        # A profile may start above one frame: what fills the batch up then is whatever the buffer holds.
        batch = max(len(part), self._min_batch)
        np.copyto(self._host[_INPUT][: len(part)], part)
        self._cuda.memcpy_htod_async(self._device[_INPUT], self._host[_INPUT][:batch], self._stream)
        self._require(self._execution.set_input_shape(_INPUT, (batch, *self.spec.frame_shape)), f"set_input_shape({batch})")
        self._require(self._execution.execute_async_v3(self._stream.handle), "execute_async_v3")
        for name in wanted:
            self._cuda.memcpy_dtoh_async(self._host[name][: len(part)], self._device[name], self._stream)
        self._stream.synchronize()

    def _require(self, succeeded: bool, call: str) -> None:
        if not succeeded:
            raise BackendError(
                f"TensorRT's {call} failed on {self.spec.device} ({self.said()}): build the engine anew on this GPU"
            )

    def said(self) -> str:
        """TensorRT's last errors, for messages."""
        return "; ".join(self._messages) or "TensorRT gave no reason"

    def _forget(self) -> None:
        # TensorRT frees an object with its last reference: execution before engine before runtime.
        self._execution = None
        self._engine = None
        self._runtime = None

    def _finish(self) -> None:
        # Before anything else: nothing is freed while the GPU still works on it.
        stream, self._stream = self._stream, None
        stream.synchronize()

    def close(self) -> None:
        """Free everything, last made first; a step that fails is logged and does not keep the others from running."""
        try:
            self._release.close()
        except self._cuda.Error as error:
            logging.getLogger(__name__).warning("the GPU could not be released cleanly: %s", _first_line(error))


def _own(trt: Any, session: _Session, plan: bytes, precision: str, opened: "Future[BackendSpec]", requests: _Queue) -> None:
    """The owning thread: open, answer requests until None comes, close."""
    failure = None
    try:
        session.open(trt, plan, precision)
    except Exception as error:
        failure = _for_caller(error, "cannot use the GPU")
    if failure:  # here, for inside the handler the error's own frames still hold what is to be freed
        session.close()
        opened.set_exception(failure)
        return
    opened.set_result(session.spec)
    while (request := requests.get()) is not None:
        answer, frames, heatmap = request
        try:
            answer.set_result(session.run(frames, heatmap))
        except Exception as error:
            answer.set_exception(_for_caller(error, f"failed on {list(frames.shape)}"))
        del request, answer, frames  # so that waiting for the next one keeps no caller's array alive
    session.close()


def _stop(requests: _Queue, thread: threading.Thread, lock: threading.Lock, pid: int) -> None:
    if os.getpid() != pid:
        return  # a fork has neither the thread nor the context: both stay with the parent
    with lock:
        requests.put(None)
    if thread is not threading.current_thread():
        thread.join()


def _for_caller(error: Exception, what: str) -> LrdanError:
    """The error to raise on the caller's thread; without a traceback, for that would keep the owner's objects alive there."""
    bare = error.with_traceback(None)
    if isinstance(bare, LrdanError):
        return bare
    translated = BackendError(
        f"CUDA {what} ({_first_line(bare)}): check the driver and free GPU memory, or choose another --backend"
    )
    translated.__cause__ = bare
    return translated


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
