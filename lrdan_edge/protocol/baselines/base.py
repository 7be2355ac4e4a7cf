"""The base of all detectors of the one-class protocol."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lrdan_edge.errors import DataError, TrainingError


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a detector learns from, and how.

    Attributes:
        good: Good images, uint8 [N, C, H, W] with 1 or 3 channels.
        steps: Optimiser steps, at least 1; ignored by detectors without an optimiser.
        seed: Random seed; the same seed on the same machine gives the same detector.
        device: The device to compute on.
        defects: Defective images, uint8 [M, C, H, W], or None; ignored by detectors that cannot learn from them.
    """

    good: Tensor
    steps: int
    seed: int
    device: torch.device
    defects: Tensor | None = None


class Detector(ABC):
    """Learns from good images, then scores any image.

    Attributes:
        recipe: The hyperparameters in one line; results with another one are not mixed with these.
        labelled_ratio: γ_l, the fraction of labelled anomalies among the training images; 0 for none.
        least_images: Smallest number of good images.
        images_at_once: Number of images that are scored together, to limit memory.
    """

    recipe: str
    labelled_ratio = 0.0
    least_images: ClassVar[int] = 2
    images_at_once = 256
    _device: torch.device | None = None

    def fit(self, training: Training) -> None:
        """Learn.

        Raises:
            DataError: The images have another dtype or shape, or are too few or not supported.
            TrainingError: `Training.steps` is below 1, or the loss became NaN or infinite.
        """
        for images, least in ((training.good, self.least_images), (training.defects, 0)):
            if images is not None:
                _require_images(images, least)
        if training.steps < 1:
            raise TrainingError(f"steps is {training.steps}; at least 1 is needed")
        self._fit(training)
        self._device = training.device

    @torch.inference_mode()
    def score(self, frames: Tensor) -> Tensor:
        """Score in evaluation mode: an image's score does not depend on other images, batch size or order.

        Args:
            frames: uint8 [N, C, H, W].

        Returns:
            float32 [N] on the CPU, higher for more anomalous images.

        Raises:
            TrainingError: `fit` has not run.
        """
        if self._device is None:
            raise TrainingError(f"{type(self).__name__} scores before it was fitted: call fit first")
        parts = torch.split(frames, self.images_at_once)
        return torch.cat([self._score(part, self._device).float().cpu() for part in parts])

    @abstractmethod
    def _fit(self, training: Training) -> None:
        """Learn from checked images."""

    @abstractmethod
    def _score(self, frames: Tensor, device: torch.device) -> Tensor:
        """Score up to `images_at_once` frames on the device of `fit`: float [N]."""


def _require_images(images: Tensor, least: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(f"images are uint8 [N, C, H, W] with 1 or 3 channels; these are {images.dtype} {list(images.shape)}")
    if len(images) < least:
        raise DataError(f"{len(images)} images are given; at least {least} are needed, and some hundreds are better")
