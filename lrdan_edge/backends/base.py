"""The interface of a backend, which runs the deploy graph with one runtime on one device."""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.command import Command
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import BackendError

if TYPE_CHECKING:
    from typing_extensions import Self


class Detections(NamedTuple):
    """The deploy graph's outputs for a batch.

    Attributes:
        score: Anomaly scores, float32 [N]; higher is more anomalous.
        heatmap: Per-pixel anomaly maps, float32 [N, h, w], or None if not requested.
        device_ms: Milliseconds that the device took by its own clock, including copies to and from it; None if the device has no
            clock.
    """

    score: npt.NDArray[np.float32]
    heatmap: npt.NDArray[np.float32] | None
    device_ms: float | None = None


@dataclass(frozen=True)
class BackendSpec:
    """The input, the output and the device of a backend.

    Attributes:
        frame_shape: (H, W, C) of a frame.
        heatmap_shape: (h, w) of a heatmap.
        max_batch: Most frames in one call of the device; `Backend.infer` splits larger batches.
        device: The device's name for users (``CPU``, ``NVIDIA Orin``).
        precision: The graph's precision.
        in_flight: How many calls, each from a separate thread, run at the same time; further calls wait.
        on_gpu: Whether the device is a GPU.
    """

    frame_shape: tuple[int, int, int]
    heatmap_shape: tuple[int, int]
    max_batch: int
    device: str
    precision: str
    in_flight: int = 1
    on_gpu: bool = False


class Backend(ABC):
    """Runs the deploy graph. The public methods check their arguments; a subclass implements `_infer` and `_close`.

    Several threads may call it at the same time. Only the process that opened a backend may use it.
    ``tests/backends/test_backends.py`` tests the interface for every backend.

    Attributes:
        name: The backend's name, by which users choose it.
        spec: Its input, output and device.
    """

    name: str

    def __init__(self, spec: BackendSpec) -> None:
        """Accept calls from now on; a subclass calls this when it is ready.

        Args:
            spec: The backend's input, output and device.
        """
        self.spec = spec
        self._process = os.getpid()
        self._calls = 0
        self._closed = False
        self._idle = threading.Condition()

    def infer(self, frames: Frame, *, heatmap: bool = True) -> Detections:
        """Score a batch.

        Args:
            frames: uint8 [N, H, W, C], C-contiguous, N ≥ 1, of ``spec.frame_shape``.
            heatmap: Whether to return the heatmap too.

        Returns:
            New arrays, which later calls do not change.

        Raises:
            BackendError: The input is wrong, the execution failed, the backend is closed, or another process opened it.
        """
        with self._running():
            check_frames(frames, self.spec)
            return self._infer(frames, heatmap)

    def warm_up(self, batch: int = 1) -> None:
        """Run black frames, so that the first real frames are not slow; one batch for each call that may overlap.

        Args:
            batch: Frames per call, at least 1.

        Raises:
            BackendError: As `infer`.
        """
        with self._running():
            self._warm_up(np.zeros((batch, *self.spec.frame_shape), np.uint8))

    def close(self) -> None:
        """Wait for running calls, then free everything; callable from any thread, and more than once."""
        if os.getpid() != self._process:
            return  # a forked process has neither the threads nor the device: both stay with the parent
        with self._idle:
            closed, self._closed = self._closed, True
            self._idle.wait_for(lambda: self._calls == 0)
        if not closed:
            self._close()

    @abstractmethod
    def _infer(self, frames: Frame, heatmap: bool) -> Detections:
        """Score a batch as `infer` does; the frames have been checked, and the backend stays open during the call."""

    def _warm_up(self, frames: Frame) -> None:
        self._infer(frames, True)

    @abstractmethod
    def _close(self) -> None:
        """Free everything; called once, while no call runs."""

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Keep the backend open while a call runs."""
        if os.getpid() != self._process:
            raise BackendError(
                f"this {self.name} backend belongs to process {self._process}, and neither threads nor CUDA survive a fork",
                "open the bundle in process {here} itself, or start processes with multiprocessing's 'spawn'",
                here=os.getpid(),
            )
        with self._idle:
            if self._closed:
                raise BackendError(f"this {self.name} backend is closed", "open the bundle again")
            self._calls += 1
        try:
            yield
        finally:
            with self._idle:
                self._calls -= 1
                self._idle.notify_all()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def slices(frames: Frame, size: int) -> list[Frame]:
    """Frames [N, ...] cut into views of at most `size` frames."""
    return [frames[start : start + size] for start in range(0, len(frames), size)]


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_MOST_FRAMES, _MOST_PIXELS = 64, 1 << 22


def largest_batch(heatmap_shape: tuple[int, int]) -> int:
    """Most frames in one call on a processor, to bound memory; fewer if frames have many pixels.

    Args:
        heatmap_shape: (h, w) of a heatmap.
    """
    return min(_MOST_FRAMES, max(1, _MOST_PIXELS // (heatmap_shape[0] * heatmap_shape[1])))


class Cores(NamedTuple):
    """How a backend may use the processor's cores.

    Attributes:
        threads: Threads per call; None: one for each core that this process may use.
        spin: Whether waiting threads busy-wait instead of sleeping: latency is lower, and the cores stay busy. None: ONNX Runtime
            busy-waits, TensorRT sleeps. Other backends ignore it.
    """

    threads: int | None = None
    spin: bool | None = None


ANY_CORES = Cores()

Port = tuple[str, list[int | None]]
"""Type (NumPy's name for it) and shape of a graph's input or output; None for a dynamic size."""


def deploy_shapes(inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """The shapes of a frame (H, W, C) and a heatmap (h, w) of a deploy graph.

    Args:
        inputs: The graph's inputs, by name.
        outputs: The graph's outputs, by name.

    Raises:
        BackendError: The graph is not a deploy graph.
    """
    none: Port = ("missing", [])
    kinds = [ports.get(name, none)[0] for ports, name in ((inputs, "frames"), (outputs, "score"), (outputs, "heatmap"))]
    frame, heatmap = inputs.get("frames", none)[1][1:], outputs.get("heatmap", none)[1][1:]
    sizes = [size for size in (*frame, *heatmap) if size]
    complete = (len(frame), len(heatmap), len(outputs.get("score", none)[1])) == (3, 2, 1) and len(sizes) == 5
    if len(inputs) != 1 or kinds != ["uint8", "float32", "float32"] or not complete:
        seen = ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in [*inputs.items(), *outputs.items()])[:300]
        raise BackendError(
            "this ONNX file is not a deploy graph, which takes frames (uint8 [N, H, W, C]) and returns score and heatmap; it has "
            + seen.replace("None", "N"),
            "make the graph again with '{command}'",
            command=Command("export"),
        )
    return (sizes[0], sizes[1], sizes[2]), (sizes[3], sizes[4])


def check_frames(frames: Frame, spec: BackendSpec) -> None:
    """Check that the graph can take these frames.

    Raises:
        BackendError: Not uint8, not [N, H, W, C] of the spec's shape, or an empty batch.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != spec.frame_shape or len(frames) == 0:
        wanted = "×".join(map(str, spec.frame_shape))
        raise BackendError(
            f"frames must be uint8 [N, H, W, C] of {wanted}, got {frames.dtype} {list(frames.shape)}",
            "resize them with lrdan_edge.data.images.fit_frame",
        )
