"""A slot runs one TensorRT call at a time, with its own CUDA stream and buffers."""

import logging
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.base import first_line
from lrdan_edge.backends.cuda_graphs import CudaGraph, capture
from lrdan_edge.backends.tensorrt_engine import HEATMAP, INPUT, SCORE, GpuContext, LoadedEngine, Profile, profile_for
from lrdan_edge.data.images import Frame

_MOST_GRAPHS = 4
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: do not wait for the default stream, which PyTorch may use in this process


class Slot:
    """A stream with its events, buffers and execution contexts. Only one thread makes, uses and frees them.

    Buffers hold the engine's largest batch, are allocated once, and never leave this object. A GPU that shares its memory with
    the processor works in the host's buffers, so nothing is copied. If NVIDIA's bindings are installed, copying in, computing and
    copying out become one CUDA graph for each of the first few batch sizes.
    """

    def __init__(self, cuda: Any, gpu: GpuContext, loaded: LoadedEngine, bindings: Any) -> None:
        """Allocate everything.

        Args:
            cuda: ``pycuda.driver``.
            gpu: This thread's context; closing it frees the slot.
            loaded: The engine to run.
            bindings: ``cuda.bindings.driver``, or None to run without CUDA graphs.
        """
        self._cuda, self._loaded = cuda, loaded
        self._bindings = None if loaded.own_graphs else bindings
        self._host: dict[str, npt.NDArray[Any]] = {}
        self._device: dict[str, Any] = {}
        self._graphs: dict[int, tuple[Any, CudaGraph]] = {}
        gpu.callback(self._forget)
        self._stream: Any = cuda.Stream(_NON_BLOCKING)
        self._begun: Any = cuda.Event()
        flags = cuda.event_flags  # blocking: a waiting thread sleeps
        self._ended: Any = cuda.Event(flags.DEFAULT if loaded.spin else flags.BLOCKING_SYNC)
        self._allocate(gpu)
        gpu.callback(self._finish)
        self._execution: Any = self._new_execution()
        self._prepared: tuple[int, int] | None = None  # profile and batch of `_execution`; a new context may have no profile

    def _allocate(self, gpu: GpuContext) -> None:
        spec, cuda = self._loaded.spec, self._cuda
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            INPUT: ((spec.max_batch, *spec.frame_shape), np.uint8),
            SCORE: ((spec.max_batch,), np.float32),
            HEATMAP: ((spec.max_batch, *spec.heatmap_shape), np.float32),
        }
        flags = cuda.host_alloc_flags.DEVICEMAP if self._loaded.integrated else 0
        self._addresses: dict[str, int] = {}
        for name, (shape, dtype) in shapes.items():
            self._host[name] = array = cuda.pagelocked_empty(shape, dtype, mem_flags=flags)
            if self._loaded.integrated:
                self._addresses[name] = int(array.base.get_device_pointer())
            else:
                self._device[name] = cuda.mem_alloc(array.nbytes)
                gpu.callback(self._device[name].free)
                self._addresses[name] = int(self._device[name])
        scratch = cuda.mem_alloc(max(1, self._loaded.scratch_bytes))
        gpu.callback(scratch.free)
        self._scratch = int(scratch)

    def run(self, frames: Frame, score: npt.NDArray[np.float32], heatmap: npt.NDArray[np.float32] | None) -> float:
        """Score one part of a batch.

        Args:
            frames: uint8 [n, H, W, C], n at most the engine's largest batch.
            score: float32 [n], filled by this call.
            heatmap: float32 [n, h, w], filled by this call; None if not requested.

        Returns:
            Milliseconds from the start of the GPU's work to its end, including copies.

        Raises:
            BackendError: A TensorRT call failed. PyCUDA's errors are raised as they are.
        """
        count = len(frames)
        profile = profile_for(self._loaded.profiles, count)
        # A profile's smallest batch may exceed `count`: the buffer's old contents then pad the batch.
        batch = max(count, profile.smallest)
        np.copyto(self._host[INPUT][:count], frames)
        self._host[SCORE][:batch] = np.nan  # if the GPU writes nothing, do not return the scores of earlier frames
        try:
            self._begun.record(self._stream)
            if batch in self._graphs:
                self._graphs[batch][1].launch(self._stream.handle)
            else:
                self._prepare(profile, batch)
                self._enqueue(self._execution, batch)
            if heatmap is not None and not self._loaded.integrated:
                self._cuda.memcpy_dtoh_async(self._host[HEATMAP][:count], self._device[HEATMAP], self._stream)
            self._ended.record(self._stream)
            self._ended.synchronize()
        except BaseException:
            self._prepared = None
            self._stream.synchronize()  # the GPU must have stopped reading the buffers before the next frames are written
            raise
        np.copyto(score, self._host[SCORE][:count])
        if heatmap is not None:
            np.copyto(heatmap, self._host[HEATMAP][:count])
        elapsed = float(self._begun.time_till(self._ended))
        if self._bindings is not None and batch not in self._graphs and len(self._graphs) < _MOST_GRAPHS:
            self._capture(profile, batch)
        return elapsed

    def _prepare(self, profile: Profile, batch: int) -> None:
        """Set profile and batch of the context that runs batches without a CUDA graph."""
        wanted = (profile.index, batch)
        if self._prepared == wanted:
            return
        if self._prepared is None or self._prepared[0] != profile.index:
            self._set_profile(self._execution, profile)
        self._set_batch(self._execution, batch)
        self._prepared = wanted

    def _capture(self, profile: Profile, batch: int) -> None:
        """Capture this batch size as a CUDA graph."""
        # TensorRT forbids changing a context that a graph was captured from, so the graph gets a separate one. That context runs
        # once before the capture, because its first run with a new shape does extra work.
        try:
            execution = self._new_execution()
            self._set_profile(execution, profile)
            self._set_batch(execution, batch)
            self._enqueue(execution, batch)
            self._stream.synchronize()
            graph = capture(self._bindings, self._stream.handle, partial(self._enqueue, execution, batch))
        except Exception as error:  # of this package, PyCUDA or the bindings; results do not depend on the graph
            self._bindings = None
            self._stream.synchronize()
            logging.getLogger(__name__).warning("running without CUDA graphs: %s", first_line(error))
        else:
            self._graphs[batch] = execution, graph

    def _new_execution(self) -> Any:
        execution = self._loaded.execution(self._scratch)
        for name, address in self._addresses.items():
            self._loaded.require(execution.set_tensor_address(name, address), f"set_tensor_address({name})")
        return execution

    def _set_profile(self, execution: Any, profile: Profile) -> None:
        done = execution.set_optimization_profile_async(profile.index, self._stream.handle)
        self._loaded.require(done, f"set_optimization_profile_async({profile.index})")

    def _set_batch(self, execution: Any, batch: int) -> None:
        done = execution.set_input_shape(INPUT, (batch, *self._loaded.spec.frame_shape))
        self._loaded.require(done, f"set_input_shape({batch})")

    def _enqueue(self, execution: Any, batch: int) -> None:
        """Queue copying the frames in, running the engine, and copying the scores out."""
        cuda, shared = self._cuda, self._loaded.integrated
        if not shared:
            cuda.memcpy_htod_async(self._device[INPUT], self._host[INPUT][:batch], self._stream)
        self._loaded.require(execution.execute_async_v3(self._stream.handle), "execute_async_v3")
        if not shared:
            cuda.memcpy_dtoh_async(self._host[SCORE][:batch], self._device[SCORE], self._stream)

    def _finish(self) -> None:
        """Wait for the GPU, then free contexts and graphs; runs before memory is freed."""
        self._stream.synchronize()
        self._execution = None
        while self._graphs:
            _, (execution, graph) = self._graphs.popitem()
            graph.free()
            del execution, graph

    def _forget(self) -> None:
        """Free the host's buffers, events and the stream; runs after GPU memory is freed."""
        self._host.clear()
        self._device.clear()
        self._stream = self._begun = self._ended = None
