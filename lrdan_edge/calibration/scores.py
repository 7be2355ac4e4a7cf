"""Scores of image files by one backend, and their heatmaps' largest values."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lrdan_edge.backends.base import Backend
from lrdan_edge.calibration.decision import Scores
from lrdan_edge.calibration.images import FrameLoader

_BATCH = 16


def score_images(
    backend: Backend, images: list[Path], loader: FrameLoader, report: Callable[[float], None], *, with_peaks: bool = False
) -> tuple[Scores, Scores | None]:
    """Score images in batches.

    Args:
        backend: Scores them.
        images: At least one.
        loader: Loads them.
        report: Called with the fraction done, 0 to 1.
        with_peaks: Whether to return the heatmaps' largest values too.

    Returns:
        Scores, float32 [n], and peaks, float32 [n] or None.
    """
    scores: list[Scores] = []
    highest: list[Scores] = []
    for frames in loader.batches(images, _BATCH):
        score, heatmap, _ = backend.infer(frames, heatmap=with_peaks)
        scores.append(score)
        if heatmap is not None:
            highest.append(heatmap.max(axis=(1, 2)))
        report(min(1.0, len(scores) * _BATCH / len(images)))
    return np.concatenate(scores), np.concatenate(highest) if with_peaks else None
