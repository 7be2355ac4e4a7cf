"""Features of a frozen backbone on one grid, for networks that compare them with those of good images."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.backbone import EfficientNetLite, feature_channels
from lrdan_edge.model.network import MapSource, Network, no_such_map
from lrdan_edge.model.precision import Float32Module, halve_after

POOLED = 3
"""Side of the neighbourhood that features are averaged over, if they are (PatchCore's local aggregation, arXiv 2106.08265)."""


class FeatureNetwork(Network):
    """A frozen backbone, and the distance of its features from those of good images; the distance is float32 in every precision.

    Subclasses define `distances`.

    Attributes:
        pooled: Side of the neighbourhood that features are averaged over; 1 for none.
    """

    reconstructs: ClassVar[bool] = False
    pooled: ClassVar[int] = POOLED
    float32_first: ClassVar[tuple[int, ...]] = (3, 15, 1000)  # one block; up to stride 8; all, for covariances of few images

    def __init__(self, spec: ModelSpec) -> None:
        """Make the parts.

        Args:
            spec: A specification with a backbone and strides.
        """
        super().__init__()
        if spec.backbone is None:
            raise ValueError(f"the architecture {spec.architecture} needs a backbone")
        self.backbone = EfficientNetLite(spec.backbone, spec.channels, spec.strides)
        sides = [(-(-spec.height // stride), -(-spec.width // stride)) for stride in spec.strides]
        self.aggregate: Float32Module = FeatureGrid(sides, self.pooled)
        self.grid = sides[0]
        self.enlarge = Enlargement(self.grid, (spec.height, spec.width))

    def features(self, x: Tensor) -> Tensor:
        """The features of all strides on the finest grid.

        Args:
            x: Images, float [N, C, H, W] in the network's precision.

        Returns:
            float32 [N, K, h, w], K as `channels_of`; h and w are H and W over the smallest stride, rounded up.
        """
        found: Tensor = self.aggregate(self.backbone(self.prepare(x)))
        return found

    def prepare(self, x: Tensor) -> Tensor:
        """Images float [N, C, H, W] as the backbone gets them; here unchanged."""
        return x

    def halve(self, module: nn.Module, first: int) -> None:
        """Keep whole blocks in float32, until they have `first` convolutions; see `Network.halve`."""
        halve_after(module, self, first_blocks(self.backbone, first))

    @abstractmethod
    def distances(self, features: Tensor) -> Tensor:
        """The distances of features float32 [N, K, h, w], as `features` returns them: float32 [N, h, w], 0 or more."""

    def anomaly_map(self, x: Tensor, source: MapSource) -> Tensor:
        """The distances, enlarged to the image; see `Network.anomaly_map`."""
        if source != "error":
            raise no_such_map(source, "this network marks none")
        return self.map_of(self.features(self.cast(x)))

    def map_of(self, features: Tensor) -> Tensor:
        """The anomaly map float32 [N, 1, H, W] of features float32 [N, K, h, w]."""
        enlarged: Tensor = self.enlarge(self.distances(features))
        return enlarged.unsqueeze(1)


def channels_of(spec: ModelSpec) -> int:
    """The number of features per position of the grid.

    Args:
        spec: A specification with a backbone and strides.
    """
    return sum(feature_channels(str(spec.backbone), spec.strides))


def first_blocks(backbone: EfficientNetLite, convolutions: int) -> list[str]:
    """The names of a network's first blocks of its ``backbone`` that together have at least `convolutions` convolutions."""
    kept: list[str] = []
    count = 0
    for name in ("stem", *(f"blocks.{place}" for place in range(len(backbone.blocks)))):
        if count < convolutions:
            kept.append(f"backbone.{name}")
            count += sum(isinstance(layer, nn.Conv2d) for layer in backbone.get_submodule(name).modules())
    return kept


class FeatureGrid(Float32Module):
    """Averages features over neighbouring positions, and brings all strides to the finest grid by bilinear interpolation.

    Both are linear in rows and in columns, so they are two products with constant matrices, as in `lrdan_edge.model.tiling.AreaResize`.
    An average pooling would not do: after int8 features, OpenVINO rounds its result to int8 too.
    """

    def __init__(self, sides: Sequence[tuple[int, int]], pooled: int = POOLED) -> None:
        """Make the matrices.

        Args:
            sides: (rows, columns) of each stride's features, the finest first.
            pooled: Side of the neighbourhood that features are averaged over; 1 for none.
        """
        super().__init__()
        self.pooled = pooled
        for place, (rows, columns) in enumerate(sides):
            left = interpolation_matrix(rows, sides[0][0]) @ neighbour_matrix(rows, pooled)
            right = (interpolation_matrix(columns, sides[0][1]) @ neighbour_matrix(columns, pooled)).T.contiguous()
            self.register_buffer(f"rows_{place}", left[None, None], persistent=False)
            self.register_buffer(f"columns_{place}", right[None, None], persistent=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Combine maps float [N, K_i, h_i, w_i], the finest first: float32 [N, sum of K_i, h, w]."""
        combined = []
        for place, one in enumerate(features):
            rows, columns = self.get_buffer(f"rows_{place}"), self.get_buffer(f"columns_{place}")
            as_it_is = place == 0 and self.pooled == 1
            combined.append(one.float() if as_it_is else rows @ one.float() @ columns)
        return torch.cat(combined, 1)


class Enlargement(Float32Module):
    """Enlarges maps by bilinear interpolation, as two products with constant matrices."""

    rows: Tensor
    columns: Tensor

    def __init__(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Make the matrices, from (rows, columns) `before` to `after`."""
        super().__init__()
        self.register_buffer("rows", interpolation_matrix(before[0], after[0])[None], persistent=False)
        self.register_buffer("columns", interpolation_matrix(before[1], after[1]).T.contiguous()[None], persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Enlarge float32 [..., h, w] to float32 [..., H, W]."""
        return self.rows @ maps @ self.columns


def neighbour_matrix(side: int, pooled: int = POOLED) -> Tensor:
    """The matrix of averages over the `pooled` nearest positions along one side, as far as they exist: float32 [side, side]."""
    places = torch.arange(side)
    near = ((places[:, None] - places).abs() <= pooled // 2).float()
    return near / near.sum(1, keepdim=True)


def interpolation_matrix(before: int, after: int) -> Tensor:
    """The matrix of linear interpolation along one side, float32 [after, before]; pixel centres are aligned."""
    unit = F.interpolate(torch.eye(before)[None], size=after, mode="linear", align_corners=False)
    return unit[0].T.contiguous()
