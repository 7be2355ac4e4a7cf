"""PatchCore (arXiv 2106.08265): the distance of features from the nearest of a memory of good images' features.

What differs from the paper: features of one stride only are used, are compared by direction, and are not averaged over neighbours
(docs/experiments/evidence.md says what that changes). The image's score is the largest value of the smoothed map. PatchCore's
re-weighting of the score by the neighbours of the nearest feature is left out: it changes the score only, and the
heatmap's largest value would no longer be the score.
"""

from typing import Any

import torch
from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.features import FeatureNetwork, channels_of
from lrdan_edge.model.precision import Float32Module

SMALLEST_SQUARE = 1e-6
"""The smallest squared length that a feature is divided by; squared lengths of features are above 1."""


class Memory(Float32Module):
    """Directions of features; the distance of f is that of f / |f| from the nearest row m: √(2 − 2 max f·m / |f|).

    A feature's length changes with exposure and contrast, its direction with what is seen.

    Attributes:
        rows: The directions m, of length 1, float32 [M, K].
    """

    rows: Tensor

    def __init__(self, features: int) -> None:
        """Start with one row of zeros, for features with as many channels as `features` says."""
        super().__init__()
        self.register_buffer("rows", torch.zeros(1, features))

    def fill(self, rows: Tensor) -> None:
        """Replace all rows by the `directions` of features, float32 [M, K]."""
        self.register_buffer("rows", rows)

    def cosines(self, features: Tensor) -> Tensor:
        """The cosine of the angle to the nearest row, for features float [N, K, h, w]: float32 [N, P], P positions."""
        f = features.float().flatten(2)
        cosines: Tensor = (self.rows @ f).amax(1) / (f * f).sum(1).clamp_min(SMALLEST_SQUARE).sqrt()
        return cosines

    def forward(self, features: Tensor) -> Tensor:
        """The distances of features float [N, K, h, w]: float32 [N, P], from 0 to 2."""
        return distances_of(self.cosines(features))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Load any number of rows: fewer good images have fewer features."""
        rows = len(state_dict.get(f"{prefix}rows", self.rows))
        self.fill(self.rows.new_zeros(rows, self.rows.shape[1]))
        super()._load_from_state_dict(state_dict, prefix, *others)


def distances_of(cosines: Tensor) -> Tensor:
    """The distances between directions whose cosines are given, both float32."""
    return (2 - 2 * cosines).clamp_min(0).sqrt()


def directions(features: Tensor) -> Tensor:
    """Vectors float32 [..., K] divided by their lengths."""
    return features / features.square().sum(-1, keepdim=True).clamp_min(SMALLEST_SQUARE).sqrt()


class PatchCore(FeatureNetwork):
    """The network of the recipe ``patchcore``."""

    pooled = 1

    def __init__(self, spec: ModelSpec) -> None:
        """Make the network, with an empty memory."""
        super().__init__(spec)
        self.memory = Memory(channels_of(spec))

    def distances(self, features: Tensor) -> Tensor:
        """The distances to the nearest row of the memory; see `FeatureNetwork.distances`."""
        found: Tensor = self.memory(features)
        return found.reshape(-1, *self.grid)
