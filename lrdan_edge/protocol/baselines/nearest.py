"""The simplest baseline: the distance to the nearest good image."""

import math

import torch
from torch import Tensor

from lrdan_edge.protocol.baselines.common import in_chunks, require_frames

_CHUNK_BYTES = 1 << 28


class PixelNearestNeighbour:
    """Euclidean distance in grey levels to the nearest good image.

    Nothing is trained. Squares and products of grey levels are whole numbers below 2⁵³ for every supported size. So their sums in
    float64 are exact, and a score does not depend on the batches.
    """

    recipe = "nothing trained; score: Euclidean distance of grey levels"

    def fit(
        self,
        good: Tensor,
        *,
        steps: int,
        seed: int,  # noqa: ARG002  # nothing is random
        device: torch.device,
        defects: Tensor | None = None,  # noqa: ARG002
    ) -> None:
        """Keep the good images; see `Detector.fit`.

        Raises:
            DataError: There is no image, or its dtype or shape is wrong.
        """
        channels, height, width = require_frames(good, steps, least=1)
        self._good, self._device = good.clone(), device
        self._chunk = max(1, _CHUNK_BYTES // (8 * channels * height * width))

    def score(self, frames: Tensor) -> Tensor:
        """Distance to the nearest good image in grey levels; see `Detector.score`."""
        return in_chunks(lambda part: self._nearest(part).sqrt(), frames, self._chunk)

    def _nearest(self, frames: Tensor) -> Tensor:
        """Squared distance to the nearest good image, float64 [N]."""
        x = _vectors(frames, self._device)
        best = torch.full((len(x),), math.inf, dtype=torch.float64, device=self._device)
        for part in torch.split(self._good, self._chunk):
            y = _vectors(part, self._device)
            squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
            best = torch.minimum(best, squares.amin(1))
        return best


def _vectors(frames: Tensor, device: torch.device) -> Tensor:
    return frames.to(device).flatten(1).double()
