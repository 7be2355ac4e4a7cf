"""The contract of a backend: it runs the deploy graph by one runtime on one device."""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
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
        heatmap: Per-pixel anomaly maps, float32 [N, h, w], or None when not asked for.
        device_ms: Milliseconds that the device took by its own clock, copies to and from it included; None where the device
            has no clock of its own.
    """

    score: npt.NDArray[np.float32]
    heatmap: npt.NDArray[np.float32] | None
    device_ms: float | None = None


@dataclass(frozen=True)
class BackendSpec:
    """What a backend takes and where it runs.

    Attributes:
        frame_shape: (H, W, C) of a frame.
        heatmap_shape: (h, w) of a heatmap.
        max_batch: Most frames in one call of the device; larger batches are split.
        device: Where it runs, by the name that the user knows (``CPU``, ``NVIDIA Orin``).
        precision: The graph's precision.
        in_flight: How many calls, each from a thread of its own, run at once; further calls wait.
    """

    frame_shape: tuple[int, int, int]
    heatmap_shape: tuple[int, int]
    max_batch: int
    device: str
    precision: str
    in_flight: int = 1


class Backend(ABC):
    """What runs the deploy graph. The public methods check the call; a subclass implements `_infer` and `_close`.

    Any thread may call, several at once. A backend is used in the process that opened it. ``tests/backends/test_backends.py``
    tests the contract for every backend.

    Attributes:
        name: The backend's name, as the user chooses it.
        spec: What it takes and where it runs.
    """

    name: str

    def __init__(self, spec: BackendSpec) -> None:
        """Begin to take calls; subclasses call this when they are ready to answer.

        Args:
            spec: What the backend takes and where it runs.
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
            heatmap: Whether the heatmap is wanted too.

        Returns:
            Arrays of the caller's own: later calls do not change them.

        Raises:
            BackendError: Wrong input, a failed execution, a closed backend, or another process.
        """
        with self._running():
            check_frames(frames, self.spec)
            return self._infer(frames, heatmap)

    def warm_up(self, batch: int = 1) -> None:
        """Run black frames, so that the first real ones are not the slow ones; as often as calls may overlap.

        Args:
            batch: How many frames at once, at least 1.

        Raises:
            BackendError: As `infer`.
        """
        with self._running():
            self._warm_up(np.zeros((batch, *self.spec.frame_shape), np.uint8))

    def close(self) -> None:
        """Wait for the calls that run, then free everything; may be called again, from any thread."""
        if os.getpid() != self._process:
            return  # a fork has neither the threads nor the device: both stay with the parent
        with self._idle:
            closed, self._closed = self._closed, True
            self._idle.wait_for(lambda: self._calls == 0)
        if not closed:
            self._close()

    @abstractmethod
    def _infer(self, frames: Frame, heatmap: bool) -> Detections:
        """As `infer`; the frames are checked, and the backend stays open meanwhile."""

    def _warm_up(self, frames: Frame) -> None:
        self._infer(frames, True)

    @abstractmethod
    def _close(self) -> None:
        """Free everything; called once, while no call runs."""

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Keep the backend open while a call runs.

        Raises:
            BackendError: It is closed, or belongs to another process.
        """
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


_MOST_FRAMES, _MOST_PIXELS = 64, 1 << 22


def largest_batch(heatmap_shape: tuple[int, int]) -> int:
    """Most frames that a processor gets in one call, so that memory stays bounded; fewer where frames have many pixels.

    Args:
        heatmap_shape: (h, w) of a heatmap.
    """
    return min(_MOST_FRAMES, max(1, _MOST_PIXELS // (heatmap_shape[0] * heatmap_shape[1])))


class Cores(NamedTuple):
    """How a backend may use the processor's cores.

    Attributes:
        threads: Threads of one call; None: the backend's default, which is every core that this process may use.
        spin: Whether threads busy-wait instead of sleeping: frames are answered sooner, and cores stay busy meanwhile. None: the
            backend's default, which is to busy-wait for ONNX Runtime and to sleep for TensorRT. Other backends ignore it.
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
        outputs: Its outputs, by name.

    Raises:
        BackendError: They are not those of a deploy graph.
    """
    none: Port = ("missing", [])
    kinds = [ports.get(name, none)[0] for ports, name in ((inputs, "frames"), (outputs, "score"), (outputs, "heatmap"))]
    frame, heatmap = inputs.get("frames", none)[1][1:], outputs.get("heatmap", none)[1][1:]
    sizes = [size for size in (*frame, *heatmap) if size]
    complete = (len(frame), len(heatmap), len(outputs.get("score", none)[1])) == (3, 2, 1) and len(sizes) == 5
    if len(inputs) != 1 or kinds != ["uint8", "float32", "float32"] or not complete:
        seen = ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in [*inputs.items(), *outputs.items()])[:300]
        raise BackendError(
            "this ONNX file is not a deploy graph, which takes frames (uint8 [N, H, W, C]) and gives score and heatmap; it has "
            + seen.replace("None", "N"),
            "make the graph again with '{command}'",
            command=Command("export"),
        )
    return (sizes[0], sizes[1], sizes[2]), (sizes[3], sizes[4])


def check_frames(frames: Frame, spec: BackendSpec) -> None:
    """Refuse frames that the graph cannot take.

    Raises:
        BackendError: Not uint8, not [N, H, W, C] of the spec's shape, or an empty batch.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != spec.frame_shape or len(frames) == 0:
        wanted = "×".join(map(str, spec.frame_shape))
        raise BackendError(
            f"a backend takes uint8 frames [N, H, W, C] of {wanted}; these are {frames.dtype} {list(frames.shape)}",
            "resize them with lrdan_edge.data.images.fit_frame",
        )
