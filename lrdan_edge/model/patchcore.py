"""PatchCore (arXiv 2106.08265): the distance of features from the nearest of a memory of good images' features.

The image's score is the largest value of the smoothed map. PatchCore's re-weighting of the score by the neighbours of the nearest
feature is left out: it changes the score only, and the heatmap's largest value would no longer be the score.
"""

from typing import Any

import torch
from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.features import FeatureNetwork, channels_of
from lrdan_edge.model.precision import Float32Module


class Memory(Float32Module):
    """Features of good images, standardised; the distance of f is that to the nearest row m: |f|² − max(2 f·m − |m|²).

    Attributes:
        mean: Each feature's mean over good images, float32 [K, 1].
        factor: One over its standard deviation, float32 [K, 1].
        doubled: 2 m, float32 [M, K].
        squares: |m|², float32 [M, 1].
    """

    mean: Tensor
    factor: Tensor
    doubled: Tensor
    squares: Tensor

    def __init__(self, features: int) -> None:
        """Start with one row of zeros, and a mean of 0 and a deviation of 1 for each of the `features`."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(features, 1))
        self.register_buffer("factor", torch.ones(features, 1))
        self.fill(torch.zeros(1, features))

    @property
    def rows(self) -> Tensor:
        """The rows m, float32 [M, K]."""
        return self.doubled / 2

    def fill(self, rows: Tensor) -> None:
        """Replace all rows by standardised features, float32 [M, K]."""
        self.register_buffer("doubled", 2 * rows)
        self.register_buffer("squares", rows.double().square().sum(1, keepdim=True).float())

    def standardised(self, features: Tensor) -> Tensor:
        """Standardise features float32 [N, K, h, w] to float32 [N, K, P]; P is the number of positions."""
        return (features.flatten(2) - self.mean) * self.factor

    def forward(self, features: Tensor) -> Tensor:
        """The distances of features float32 [N, K, h, w]: float32 [N, P]."""
        f = self.standardised(features)
        nearest = (self.doubled @ f - self.squares).amax(1)
        return ((f * f).sum(1) - nearest).clamp_min(0).sqrt()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Load any number of rows: fewer good images have fewer features."""
        rows = len(state_dict.get(f"{prefix}doubled", self.doubled))
        self.fill(self.doubled.new_zeros(rows, self.doubled.shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *others)


class PatchCore(FeatureNetwork):
    """The network of the recipe ``patchcore``."""

    def __init__(self, spec: ModelSpec) -> None:
        """Make the network, with an empty memory."""
        super().__init__(spec)
        self.memory = Memory(channels_of(spec))

    def distances(self, features: Tensor) -> Tensor:
        """The distances to the nearest row of the memory; see `FeatureNetwork.distances`."""
        found: Tensor = self.memory(features)
        return found.reshape(-1, *self.grid)
