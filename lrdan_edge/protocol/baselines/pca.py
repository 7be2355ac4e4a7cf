"""Reconstruction from principal components."""

import torch
from torch import Tensor

from lrdan_edge.protocol.baselines.common import in_chunks, require_frames

COMPONENTS = 20
_IMAGES_AT_ONCE = 256
_LEAST_VARIANCE = 1e-12  # fraction of the largest variance; smaller ones are rounding errors, as from repeated images


class PrincipalComponents:
    """Reconstruction by at most 20 principal components of the good images; the score is the mean squared residual.

    The components are computed exactly from the smaller of the pixels' covariance and the images' Gram matrix. All sums are float64,
    so that a small residual of a large image is not lost in rounding.
    """

    recipe = f"{COMPONENTS} components; score: mean squared error of grey levels"

    def fit(
        self,
        good: Tensor,
        *,
        steps: int,
        seed: int,  # noqa: ARG002  # nothing is random
        device: torch.device,
        defects: Tensor | None = None,  # noqa: ARG002
    ) -> None:
        """Find the components; see `Detector.fit`.

        Raises:
            DataError: There are fewer than two images, or their dtype or shape is wrong.
        """
        require_frames(good, steps)
        x = good.to(device).flatten(1).double()
        self._mean = x.mean(0)
        x = x - self._mean
        wide = x.shape[1] > len(x)
        variances, directions = torch.linalg.eigh(x @ x.T if wide else x.T @ x)  # ascending
        kept = slice(max(1, len(variances) - COMPONENTS), None)  # n centred images span n - 1 dimensions at most
        variances, directions = variances[kept], directions[:, kept]
        real = variances > _LEAST_VARIANCE * variances[-1]
        directions, variances = directions[:, real], variances[real]
        self._components = (directions / variances.sqrt()).T @ x if wide else directions.T
        self._device = device

    def score(self, frames: Tensor) -> Tensor:
        """Mean squared residual in squared grey levels; see `Detector.score`."""
        return in_chunks(lambda part: self._rest(part).square().mean(1), frames, _IMAGES_AT_ONCE)

    def _rest(self, frames: Tensor) -> Tensor:
        """The image minus its reconstruction, float64 [N, C*H*W]."""
        x = frames.to(self._device).flatten(1).double() - self._mean
        rest: Tensor = x - (x @ self._components.T) @ self._components
        return rest
