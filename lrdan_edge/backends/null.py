"""The null backend: answers at once, so that the cost of everything around inference can be measured."""

import numpy as np

from lrdan_edge.backends.base import Backend, BackendSpec, Detections, check_frames
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import BackendError


class NullBackend(Backend):
    """Scores every frame 0; says so in its name and device, so that nobody takes it for an inspection."""

    name = "null"

    def __init__(self, frame_shape: tuple[int, int, int], heatmap_shape: tuple[int, int] | None = None) -> None:
        """Take frames of `frame_shape` (H, W, C), and give heatmaps of `heatmap_shape` (the frame's if None)."""
        self.spec = BackendSpec(frame_shape, heatmap_shape or frame_shape[:2], 1 << 16, "none: nothing is inspected", "fp32")
        self._open = True

    def infer(self, frames: Frame, *, heatmap: bool = True) -> Detections:
        """Zeros; see `Backend.infer`."""
        if not self._open:
            raise BackendError("this null backend is closed: open the inspector again")
        check_frames(frames, self.spec)
        count = len(frames)
        heat = np.zeros((count, *self.spec.heatmap_shape), np.float32) if heatmap else None
        return Detections(np.zeros(count, np.float32), heat)

    def close(self) -> None:
        """Nothing to free; may be called again."""
        self._open = False
