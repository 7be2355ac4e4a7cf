"""The interface of all detectors of the one-class protocol."""

from typing import Protocol

import torch
from torch import Tensor


class Detector(Protocol):
    """Learns from good images, then scores any image."""

    def fit(self, good: Tensor, *, steps: int, seed: int, device: torch.device, defects: Tensor | None = None) -> None:
        """Learn.

        Args:
            good: Good images, uint8 [N, C, H, W].
            steps: Optimiser steps; ignored by detectors without an optimiser.
            seed: Random seed; the same seed on the same machine gives the same detector.
            device: The device to compute on.
            defects: Defective images, uint8 [M, C, H, W]; ignored by detectors that cannot learn from them.
        """

    def score(self, frames: Tensor) -> Tensor:
        """Score in evaluation mode: an image's score does not depend on other images, batch size or order.

        Args:
            frames: uint8 [N, C, H, W].

        Returns:
            float32 [N] on the CPU, higher for more anomalous images.
        """
