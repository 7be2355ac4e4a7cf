"""PaDiM (arXiv 2011.08785): the Mahalanobis distance of features from those of good images, with one Gaussian per position."""

import torch
from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.features import FeatureNetwork, channels_of
from lrdan_edge.model.precision import Float32Module


class PositionGaussians(Float32Module):
    """The Gaussians of all positions: the distance of f at position p is |W_p (f − m_p)|.

    Attributes:
        dimensions: The features that are used, int64 [D], ascending.
        mean: m, float32 [P, 1, D]; P is the number of positions.
        whitening: The transposed W, float32 [P, D, D].
    """

    dimensions: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(self, positions: int, features: int, dimensions: int) -> None:
        """Choose `dimensions` of the `features` with torch's random generator, if not all; the Gaussians are standard normal."""
        super().__init__()
        chosen = torch.randperm(features)[:dimensions].sort().values if dimensions < features else torch.arange(features)
        self.register_buffer("dimensions", chosen)
        self.register_buffer("mean", torch.zeros(positions, 1, dimensions))
        self.register_buffer("whitening", torch.eye(dimensions).repeat(positions, 1, 1))

    def chosen(self, features: Tensor) -> Tensor:
        """The used features, position first: float32 [P, N, D] of float32 [N, K, h, w]."""
        return features.index_select(1, self.dimensions).flatten(2).permute(2, 0, 1)

    def forward(self, features: Tensor) -> Tensor:
        """The distances of features float32 [N, K, h, w]: float32 [N, P]."""
        whitened = (self.chosen(features) - self.mean) @ self.whitening
        return (whitened * whitened).sum(2).sqrt().T


class Padim(FeatureNetwork):
    """The network of the recipe ``padim``."""

    def __init__(self, spec: ModelSpec) -> None:
        """Make the network; `ModelSpec.latent_channels` is the number of features that are used."""
        super().__init__(spec)
        self.gaussians = PositionGaussians(self.grid[0] * self.grid[1], channels_of(spec), spec.latent_channels)

    def distances(self, features: Tensor) -> Tensor:
        """The Mahalanobis distances; see `FeatureNetwork.distances`."""
        found: Tensor = self.gaussians(features)
        return found.reshape(-1, *self.grid)
