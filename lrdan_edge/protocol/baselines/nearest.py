"""The simplest baseline: the distance to the nearest good image."""

import math

import torch
from torch import Tensor

from lrdan_edge.protocol.baselines.base import Detector, Training

_CHUNK_BYTES = 1 << 28


class PixelNearestNeighbour(Detector):
    """Euclidean distance in grey levels to the nearest good image.

    Nothing is trained. Squares and products of grey levels are whole numbers below 2⁵³ for every supported size. So their sums in
    float64 are exact, and a score does not depend on the batches.
    """

    recipe = "nothing trained; score: Euclidean distance of grey levels"
    least_images = 1

    def _fit(self, training: Training) -> None:
        self._good = training.good.clone()
        self.images_at_once = max(1, _CHUNK_BYTES // (8 * self._good[0].numel()))

    def _score(self, frames: Tensor, device: torch.device) -> Tensor:
        """Distance to the nearest good image in grey levels."""
        x = frames.to(device).flatten(1).double()
        best = torch.full((len(x),), math.inf, dtype=torch.float64, device=device)
        for part in torch.split(self._good, self.images_at_once):
            y = part.to(device).flatten(1).double()
            squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
            best = torch.minimum(best, squares.amin(1))
        return best.sqrt()
