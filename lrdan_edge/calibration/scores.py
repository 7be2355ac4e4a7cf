"""Scores of image files by one backend, and their heatmaps' largest values."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lrdan_edge.backends.base import Backend
from lrdan_edge.calibration.decision import Scores
from lrdan_edge.calibration.images import Intake

_BATCH = 16


def score_images(
    backend: Backend, images: list[Path], intake: Intake, report: Callable[[float], None], *, peaks: bool = False
) -> tuple[Scores, Scores | None]:
    """Score images, some at a time.

    Args:
        backend: Scores them.
        images: At least one.
        intake: How they become frames.
        report: Called with the share done, 0 to 1.
        peaks: Whether the heatmaps' largest values are wanted too.

    Returns:
        Scores, float32 [n], and peaks, float32 [n] or None.
    """
    scores: list[Scores] = []
    highest: list[Scores] = []
    for frames in intake.batches(images, _BATCH):
        score, heatmap, _ = backend.infer(frames, heatmap=peaks)
        scores.append(score)
        if heatmap is not None:
            highest.append(heatmap.max(axis=(1, 2)))
        report(min(1.0, len(scores) * _BATCH / len(images)))
    return np.concatenate(scores), np.concatenate(highest) if peaks else None
