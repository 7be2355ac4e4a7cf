"""Reconstruction from principal components."""

import torch
from torch import Tensor

from lrdan_edge.protocol.baselines.base import Detector, Training

COMPONENTS = 20
_LEAST_VARIANCE = 1e-12  # fraction of the largest variance; smaller ones are rounding errors, as from repeated images


class PrincipalComponents(Detector):
    """Reconstruction by at most 20 principal components of the good images; the score is the mean squared residual.

    The components are computed exactly from the smaller of the pixels' covariance and the images' Gram matrix. All sums are float64,
    so that a small residual of a large image is not lost in rounding.
    """

    recipe = f"{COMPONENTS} components; score: mean squared error of grey levels"

    def _fit(self, training: Training) -> None:
        x = training.good.to(training.device).flatten(1).double()
        self._mean = x.mean(0)
        x = x - self._mean
        wide = x.shape[1] > len(x)
        variances, directions = torch.linalg.eigh(x @ x.T if wide else x.T @ x)  # ascending
        kept = slice(max(1, len(variances) - COMPONENTS), None)  # n centred images span n - 1 dimensions at most
        variances, directions = variances[kept], directions[:, kept]
        real = variances > _LEAST_VARIANCE * variances[-1]
        directions, variances = directions[:, real], variances[real]
        self._components = (directions / variances.sqrt()).T @ x if wide else directions.T

    def _score(self, frames: Tensor, device: torch.device) -> Tensor:
        """Mean squared residual in squared grey levels."""
        x = frames.to(device).flatten(1).double() - self._mean
        residual: Tensor = x - (x @ self._components.T) @ self._components
        return residual.square().mean(1)
