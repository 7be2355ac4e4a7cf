"""DN2 (arXiv 2002.10445): the distance of an image's mean features from the nearest of a memory of good images' mean features.

It tells whether an image shows something else, not where: the heatmap has the score everywhere. What differs from the paper: one nearest
image counts instead of two, and features are compared by direction, as in `lrdan_edge.model.patchcore`.
"""

import torch
from torch import Tensor, nn

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.features import Enlargement
from lrdan_edge.model.patchcore import PatchCore
from lrdan_edge.model.precision import Float32Module

LEAST_SIDE = 160
"""Smaller images are enlarged inside the graph until their shorter side has so many pixels: the backbone was pretrained on 224."""


class DN2(PatchCore):
    """The network of the recipe ``dn2``."""

    def __init__(self, spec: ModelSpec) -> None:
        """Make the network, with an empty memory, for a specification with one stride."""
        super().__init__(spec)
        size = spec.height, spec.width
        enlarged = [max(side, round(side * LEAST_SIDE / min(size))) for side in size]
        rows, columns = (-(-side // spec.strides[0]) for side in enlarged)
        self.magnify = Enlargement(size, (enlarged[0], enlarged[1])) if min(size) < LEAST_SIDE else nn.Identity()
        self.aggregate = _Mean(rows * columns)
        self.grid = (1, 1)
        self.enlarge = Enlargement(self.grid, size)

    def prepare(self, x: Tensor) -> Tensor:
        """Small images enlarged; see `FeatureNetwork.prepare`."""
        enlarged: Tensor = self.magnify(x)
        return enlarged


class _Mean(Float32Module):
    """The mean of features over all positions, as a product: after int8 features, OpenVINO would round a pooling's result to int8."""

    weights: Tensor

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((positions, 1), 1 / positions), persistent=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        """The mean of features float [N, K, h, w], of one stride: float32 [N, K, 1, 1]."""
        (one,) = features
        return (one.float().flatten(2) @ self.weights).unsqueeze(3)
