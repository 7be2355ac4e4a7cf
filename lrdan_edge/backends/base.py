"""What every backend is: the deploy graph, run somewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import BackendError

if TYPE_CHECKING:
    from typing_extensions import Self


class Detections(NamedTuple):
    """What the deploy graph says of a batch.

    Attributes:
        score: Anomaly scores, float32 [N]; higher is more anomalous.
        heatmap: Per-pixel anomaly maps, float32 [N, h, w], or None when not asked for.
        device_ms: Milliseconds that the device itself took, copies to and from it included, by its own clock; None where
            the backend has no other clock than the caller's.
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
        max_batch: Most frames in one call of the device; larger batches are cut.
        device: Where it runs, as the user knows it (``CPU``, ``NVIDIA Orin``).
        precision: The graph's precision.
        in_flight: How many calls, from as many threads, it works on at once; more of them only wait.
    """

    frame_shape: tuple[int, int, int]
    heatmap_shape: tuple[int, int]
    max_batch: int
    device: str
    precision: str
    in_flight: int = 1


class Backend(Protocol):
    """The contract; backends inherit it for ``with``. ``tests/runtime/test_backends.py`` holds every backend to it."""

    name: str
    spec: BackendSpec

    def infer(self, frames: Frame, *, heatmap: bool = True) -> Detections:
        """Score a batch.

        Args:
            frames: uint8 [N, H, W, C], C-contiguous, N ≥ 1, of ``spec.frame_shape``.
            heatmap: Whether the heatmap is wanted too.

        Returns:
            Arrays of the caller's own: later calls do not change them.

        Raises:
            BackendError: Wrong input, a failed execution, or a closed backend.
        """
        ...

    def warm_up(self, batch: int = 1) -> None:
        """Run black frames, so that the first real ones are not the slow ones; as often as calls may overlap."""
        self.infer(np.zeros((batch, *self.spec.frame_shape), np.uint8))

    def close(self) -> None:
        """Free everything; may be called again."""
        ...

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


_MOST_FRAMES, _MOST_PIXELS = 64, 1 << 22


def largest_batch(heatmap_shape: tuple[int, int]) -> int:
    """How many frames a processor is given in one call, so that memory stays bounded: fewer where they are cut into many tiles."""
    return min(_MOST_FRAMES, max(1, _MOST_PIXELS // (heatmap_shape[0] * heatmap_shape[1])))


class Cores(NamedTuple):
    """How a backend may use the processor, where that runs it.

    Attributes:
        threads: Of one call; None: the backend's choice, which is every core that this process may use.
        spin: Whether whoever waits does so in a loop: frames are answered sooner, and cores stay busy meanwhile. None: as the
            backend is used to, which is yes for ONNX Runtime's threads and no for TensorRT, which waits for the GPU. Others ignore it.
    """

    threads: int | None = None
    spin: bool | None = None


ANY_CORES = Cores()

Port = tuple[str, list[int | None]]
"""Type (in NumPy's words) and shape of a graph's input or output; None where a size is open."""


def deploy_shapes(inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """The shapes of a frame (H, W, C) and a heatmap (h, w) of a deploy graph.

    Args:
        inputs: The graph's inputs, by name.
        outputs: Its outputs, by name.

    Raises:
        BackendError: These are not a deploy graph's.
    """
    none: Port = ("missing", [])
    kinds = [ports.get(name, none)[0] for ports, name in ((inputs, "frames"), (outputs, "score"), (outputs, "heatmap"))]
    frame, heatmap = inputs.get("frames", none)[1][1:], outputs.get("heatmap", none)[1][1:]
    sizes = [size for size in (*frame, *heatmap) if size]
    whole = (len(frame), len(heatmap), len(outputs.get("score", none)[1])) == (3, 2, 1) and len(sizes) == 5
    if len(inputs) != 1 or kinds != ["uint8", "float32", "float32"] or not whole:
        seen = ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in [*inputs.items(), *outputs.items()])[:300]
        raise BackendError(
            f"this ONNX file is not a deploy graph, which takes frames (uint8 [N, H, W, C]) and gives score and heatmap; it has "
            f"{seen.replace('None', 'N')}: make the graph anew with 'lrdan-edge export'"
        )
    return (sizes[0], sizes[1], sizes[2]), (sizes[3], sizes[4])


def check_frames(frames: Frame, spec: BackendSpec) -> None:
    """Refuse what the graph cannot take, in words.

    Raises:
        BackendError: Not uint8, not [N, H, W, C] of the spec's shape, or an empty batch.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != spec.frame_shape or len(frames) == 0:
        wanted = "×".join(map(str, spec.frame_shape))
        raise BackendError(
            f"a backend takes uint8 frames [N, H, W, C] of {wanted}; these are {frames.dtype} {list(frames.shape)}: "
            "fit them with lrdan_edge.data.images.fit_frame"
        )
