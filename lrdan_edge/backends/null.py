"""The null backend computes nothing: it serves to measure the cost of everything around inference."""

import numpy as np

from lrdan_edge.backends.base import Backend, BackendSpec, Detections
from lrdan_edge.data.images import Frame


class NullBackend(Backend):
    """Gives every frame the score 0; its device name says that nothing is inspected."""

    name = "null"

    def __init__(self, frame_shape: tuple[int, int, int], heatmap_shape: tuple[int, int] | None = None) -> None:
        """Take frames of `frame_shape` (H, W, C), and return heatmaps of `heatmap_shape` (h, w); None: the frame's (H, W)."""
        shape = heatmap_shape or frame_shape[:2]
        super().__init__(BackendSpec(frame_shape, shape, 1 << 16, "none: nothing is inspected", "fp32"))

    def _infer(self, frames: Frame, heatmap: bool) -> Detections:
        count = len(frames)
        heat = np.zeros((count, *self.spec.heatmap_shape), np.float32) if heatmap else None
        return Detections(np.zeros(count, np.float32), heat)

    def _close(self) -> None:
        """Nothing to free."""
