"""Good images for benchmarks that need some and whose figures depend on their size alone."""

from pathlib import Path

import cv2
import numpy as np


def surfaces(folder: Path, count: int = 120, side: int = 256) -> Path:
    """Brushed surfaces, painted: good ones to train on."""
    rng = np.random.default_rng(0)
    good = folder / "train" / "good"
    good.mkdir(parents=True)
    for index in range(count):
        grain = cv2.blur(rng.normal(0, 40, (side, side)).astype(np.float32), (1, 31))
        light = cv2.resize(rng.normal(128, 12, (3, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(good / f"{index:03}.png"), np.clip(light + grain, 0, 255).astype(np.uint8))
    return folder
