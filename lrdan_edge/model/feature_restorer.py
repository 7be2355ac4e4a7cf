"""AE2 in the feature space of a frozen backbone, and a decoder that marks defects.

AE2 restores the features of a good image from those of the image it sees, through a narrow code (as in reverse distillation, arXiv
2201.10703). Where it fails, the image differs from good ones. A decoder sees the features and AE2's error, and marks defects (as in
DRAEM, arXiv 2108.07610). The anomaly map is the sum of both kinds of evidence.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.backbone import EfficientNetLite, feature_channels
from lrdan_edge.model.features import Enlargement, first_blocks, interpolation_matrix, neighbour_matrix
from lrdan_edge.model.network import MapSource, Network
from lrdan_edge.model.networks import doubled, initialise
from lrdan_edge.model.padim import PositionGaussians
from lrdan_edge.model.precision import Float32Layer, Float32Module, halve_after

STRIDES: tuple[Literal[2, 4, 8, 16], ...] = (2, 4, 8, 16)
"""The strides of the backbone's features; AE2 restores all but the first."""

AE2_WIDTHS = (40, 96, 96, 128)
"""AE2's channels at strides 8 and 16 (encoder), and at 16 and 32 (encoder and decoder)."""

LEAST_DEVIATION = 0.25
"""Added to the deviation of an error at each position, as a fraction of its deviation over all positions."""

ERROR_SIGMA = 4.0
"""Deviation in pixels of the Gaussian that smooths AE2's error, as in PaDiM and PatchCore."""

ERROR_WEIGHT = 1.5
"""The log-odds of a defect that one deviation of AE2's error adds."""

DISTANCE_WEIGHT = 1.5
"""The log-odds that one deviation of the good images' largest distances adds."""


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    padding = (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _enlarged(features: Tensor, like: Tensor) -> Tensor:
    """Every value twice along rows and columns, cut to the size of `like`."""
    rows, columns = (int(side) for side in like.shape[2:])
    return F.interpolate(features, scale_factor=2, mode="nearest")[:, :, :rows, :columns]


class FeatureAutoencoder(nn.Module):
    """AE2: features at strides 4, 8 and 16 to a code at stride 32 and back."""

    def __init__(self, channels: Sequence[int], code: int, dropout: float = 0.0) -> None:
        """Make the layers.

        Args:
            channels: Channels of the features at strides 4, 8 and 16.
            code: Channels of the code.
            dropout: The fraction of the code that is dropped in training.
        """
        super().__init__()
        fine, middle, coarse = channels
        at_8, at_16, wide_16, at_32 = AE2_WIDTHS
        self.down_8 = _convolution(fine, at_8, stride=2)
        self.down_16 = _convolution(at_8 + middle, at_16, stride=2)
        self.merge_16 = _convolution(at_16 + coarse, wide_16)
        self.down_32 = _convolution(wide_16, at_32, stride=2)
        self.code = nn.Conv2d(at_32, code, 1)
        self.dropout = nn.Dropout(dropout)
        self.up_32 = _convolution(code, at_32)
        self.up_16 = _convolution(at_32, wide_16)
        self.up_8 = _convolution(wide_16, 64)
        self.coarse = nn.Conv2d(wide_16, coarse, 1)
        self.middle = nn.Conv2d(64, middle, 1)
        self.fine = nn.Conv2d(64, 4 * fine, 1)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Restore features.

        Args:
            features: Standardised features at strides 4, 8 and 16, float [N, K, h, w].

        Returns:
            The restored features, of the same shapes.
        """
        fine, middle, coarse = features
        x = torch.cat([self.down_8(fine), middle], 1)
        at_16 = self.merge_16(torch.cat([self.down_16(x), coarse], 1))
        code = self.dropout(self.code(self.down_32(at_16)))
        up_16 = self.up_16(_enlarged(self.up_32(code), coarse))
        up_8 = self.up_8(_enlarged(up_16, middle))
        rows, columns = (int(side) for side in fine.shape[2:])
        restored_fine = F.pixel_shuffle(self.fine(up_8), 2)[:, :, :rows, :columns]
        return [restored_fine, self.middle(up_8), self.coarse(up_16)]


class DefectDecoder(nn.Module):
    """Marks defects from the backbone's features, AE2's error in them, and the image."""

    def __init__(self, channels: Sequence[int], image_channels: int) -> None:
        """Make the layers.

        Args:
            channels: Channels of the features at strides 2, 4, 8 and 16.
            image_channels: Channels of the image.
        """
        super().__init__()
        finest, fine, middle, coarse = channels
        self.stem = nn.Sequential(nn.Conv2d(image_channels, 12, 4, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.narrow_16 = _convolution(2 * coarse, 48, 1)
        self.at_16 = _convolution(48, 48)
        self.at_8 = _convolution(2 * middle + 48, 40)
        self.at_4 = _convolution(2 * fine + 40, 24)
        self.at_2 = _convolution(finest + 12 + 24, 16)
        self.head: nn.Module = nn.Conv2d(16, 1, 3, 1, 1)

    def forward(self, x: Tensor, features: Sequence[Tensor], restored: Sequence[Tensor]) -> Tensor:
        """Mark.

        Args:
            x: Images, float [N, C, H, W].
            features: Features at strides 2, 4, 8 and 16; all but the first are standardised.
            restored: AE2's output for the last three.

        Returns:
            Log-odds of a defect, float [N, 1, H/2, W/2].
        """
        finest, fine, middle, coarse = features
        errors = [(one - other).abs() for one, other in zip(features[1:], restored, strict=True)]
        y = self.at_16(self.narrow_16(torch.cat([coarse, errors[2]], 1)))
        y = self.at_8(torch.cat([middle, errors[1], _enlarged(y, middle)], 1))
        y = self.at_4(torch.cat([fine, errors[0], _enlarged(y, fine)], 1))
        y = self.at_2(torch.cat([finest, self.stem(x), _enlarged(y, finest)], 1))
        marks: Tensor = self.head(y)
        return marks


class ErrorMap(Float32Module):
    """AE2's error, in deviations of the good images' error at the same position, smoothed.

    Per stride there are two errors: the mean square of the difference, and one minus the cosine of the angle between the vectors. The
    map is the mean of all six.

    Attributes:
        mean_s: The good images' mean errors at stride s, float32 [1, 2, h, w].
        inverse_s: One over their deviations, likewise.
    """

    def __init__(self, sides: Sequence[tuple[int, int]], size: tuple[int, int]) -> None:
        """Make the constants.

        Args:
            sides: (rows, columns) of the features at each stride.
            size: (rows, columns) of the map.
        """
        super().__init__()
        self.count = len(sides)
        for place, (rows, columns) in enumerate(sides):
            self.register_buffer(f"mean_{place}", torch.zeros(1, 2, rows, columns))
            self.register_buffer(f"inverse_{place}", torch.ones(1, 2, rows, columns))
            for name, before, after in (("rows", rows, size[0]), ("columns", columns, size[1])):
                matrix = _smoothing_interpolation(before, after)
                self.register_buffer(
                    f"{name}_{place}", (matrix if name == "rows" else matrix.T).contiguous()[None], persistent=False
                )

    def forward(self, features: Sequence[Tensor], restored: Sequence[Tensor]) -> Tensor:
        """Compute the map.

        Args:
            features: Standardised features, float [N, K, h, w] per stride.
            restored: AE2's output for them.

        Returns:
            float32 [N, H, W]; about 0 for good images.
        """
        found: Tensor | None = None
        for place, errors in enumerate(self.errors(features, restored)):
            deviations = (errors - self.get_buffer(f"mean_{place}")) * self.get_buffer(f"inverse_{place}")
            both = deviations.sum(1)
            enlarged = self.get_buffer(f"rows_{place}") @ both @ self.get_buffer(f"columns_{place}")
            found = enlarged if found is None else found + enlarged
        assert found is not None
        return found / (2 * self.count)

    @staticmethod
    def errors(features: Sequence[Tensor], restored: Sequence[Tensor]) -> list[Tensor]:
        """Both errors of each stride, float32 [N, 2, h, w]."""
        found = []
        for one, other in zip(features, restored, strict=True):
            f, r = one.float(), other.float()
            difference = f - r
            square = (difference * difference).mean(1, keepdim=True)
            norms = (f * f).sum(1, keepdim=True) * (r * r).sum(1, keepdim=True)
            cosine = (f * r).sum(1, keepdim=True) / (norms + 1e-6).sqrt()
            found.append(torch.cat([square, 1 - cosine], 1))
        return found

    @torch.no_grad()
    def fit(self, place: int, mean: Tensor, deviation: Tensor, overall: Tensor) -> None:
        """Set the constants of one stride.

        Args:
            place: The stride's place.
            mean: The good images' mean errors, float32 [1, 2, h, w].
            deviation: Their deviations at each position, the same shape.
            overall: Their deviations over all positions, float32 [1, 2, 1, 1].
        """
        self.get_buffer(f"mean_{place}").copy_(mean)
        self.get_buffer(f"inverse_{place}").copy_(1 / (deviation + LEAST_DEVIATION * overall).clamp_min(1e-6))


class DistanceMap(Float32Module):
    """The Mahalanobis distance of AE2's difference at the coarsest stride from the good images' differences at the same position.

    Where the error's size says little, its direction may: PaDiM (arXiv 2011.08785) measures features in the same way. The distance is in
    deviations of the largest distances of good images that had no part in the Gaussians.

    Attributes:
        offset: The mean of these largest distances, float32 [].
        inverse: One over their deviation, float32 [].
    """

    offset: Tensor
    inverse: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, channels: int, side: tuple[int, int], size: tuple[int, int]) -> None:
        """Make the constants.

        Args:
            channels: Channels of the features.
            side: Their (rows, columns).
            size: (rows, columns) of the map.
        """
        super().__init__()
        self.side = side
        self.gaussians = PositionGaussians(side[0] * side[1], channels, channels)
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("inverse", torch.ones(()))
        self.register_buffer("rows", neighbour_matrix(side[0])[None, None], persistent=False)
        self.register_buffer("columns", neighbour_matrix(side[1]).T.contiguous()[None, None], persistent=False)
        self.enlarge = Enlargement(side, size)

    def averaged(self, features: Tensor, restored: Tensor) -> Tensor:
        """The difference of features and AE2's output, averaged over neighbouring positions: float32 [N, K, h, w]."""
        return self.rows @ (features.float() - restored.float()) @ self.columns

    def forward(self, features: Tensor, restored: Tensor) -> Tensor:
        """Compute the map, float32 [N, H, W], of standardised features float [N, K, h, w] and AE2's output for them."""
        distances = self.gaussians(self.averaged(features, restored)).reshape(-1, *self.side)
        enlarged: Tensor = self.enlarge((distances - self.offset) * self.inverse)
        return enlarged


def _smoothing_interpolation(before: int, after: int) -> Tensor:
    """The matrix that enlarges one side linearly and then smooths it, float32 [after, before]; edges are repeated."""
    enlarge = interpolation_matrix(before, after)
    places = torch.arange(after, dtype=torch.float32)
    radius = int(2.5 * ERROR_SIGMA)
    smoothed = torch.zeros(after, after)
    weights = torch.exp(-torch.arange(-radius, radius + 1).float().square() / (2 * ERROR_SIGMA**2))
    for offset, weight in zip(range(-radius, radius + 1), weights / weights.sum(), strict=True):
        sources = (places + offset).clamp(0, after - 1).long()
        smoothed[torch.arange(after), sources] += weight
    return smoothed @ enlarge


class FeatureRestorer(Network):
    """The network of the recipe ``feature-restoration``: backbone, AE2, and the decoder that marks defects.

    Attributes:
        mean_s: The good images' mean features at stride s, float [1, K, 1, 1].
        inverse_s: One over their deviations, likewise.
    """

    reconstructs: ClassVar[bool] = False
    float32_first: ClassVar[tuple[int, ...]] = (
        3,
        1000,
    )  # one block; the whole backbone, whose rounding causes most of the difference

    def __init__(self, spec: ModelSpec, dropout: float = 0.0) -> None:
        """Make the network.

        Args:
            spec: A specification with a backbone and `STRIDES`.
            dropout: See `FeatureAutoencoder`.
        """
        super().__init__()
        if spec.backbone is None or spec.strides != STRIDES:
            raise ValueError(f"the architecture {spec.architecture} needs a backbone and the strides {list(STRIDES)}")
        self.backbone = EfficientNetLite(spec.backbone, spec.channels, STRIDES)
        channels = feature_channels(spec.backbone, STRIDES)
        sides = [(-(-spec.height // stride), -(-spec.width // stride)) for stride in STRIDES[1:]]
        for place, count in enumerate(channels[1:]):
            self.register_buffer(f"mean_{place}", torch.zeros(1, count, 1, 1))
            self.register_buffer(f"inverse_{place}", torch.ones(1, count, 1, 1))
        self.ae2 = FeatureAutoencoder(channels[1:], spec.latent_channels, dropout)
        self.decoder = DefectDecoder(channels, int(spec.channels))
        self.error = ErrorMap(sides, (spec.height, spec.width))
        self.distance = DistanceMap(channels[-1], sides[-1], (spec.height, spec.width))
        initialise(self.ae2)
        initialise(self.decoder)

    def features(self, x: Tensor) -> list[Tensor]:
        """Features of images float [N, C, H, W] at strides 2, 4, 8 and 16, float [N, K, h, w]; all but the first standardised."""
        return self.standardised(self.backbone(x))

    def standardised(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The backbone's features, all but the first in deviations from the good images' mean."""
        finest, *others = features
        pairs = [(self.get_buffer(f"mean_{place}"), self.get_buffer(f"inverse_{place}")) for place in range(len(others))]
        return [finest, *((one - mean) * inverse for one, (mean, inverse) in zip(others, pairs, strict=True))]

    def halve(self, module: nn.Module, first: int) -> None:
        """Keep the backbone's first blocks and the last convolution in float32; see `Network.halve`."""
        self.decoder.head = Float32Layer(self.decoder.head, halves=False)
        halve_after(module, self, first_blocks(self.backbone, first))

    def forward(self, x: Tensor, features: Sequence[Tensor] | None = None) -> tuple[list[Tensor], Tensor]:
        """Restore features and mark defects.

        Args:
            x: Images, float [N, C, H, W], preprocessed as the backbone expects.
            features: `features` of the images, if they are known.

        Returns:
            AE2's output for the features at strides 4, 8 and 16, and the log-odds of a defect, float [N, 1, H/2, W/2].
        """
        found = self.features(x) if features is None else features
        restored = self.ae2(found[1:])
        # The decoder learns from AE2's error without changing AE2, whose only aim is to restore.
        return restored, self.decoder(x, found, [one.detach() for one in restored])

    def anomaly_map(self, x: Tensor, source: MapSource) -> Tensor:
        """AE2's error and distance (``error``), or the marks `combined` with them (``defects``); see `Network.anomaly_map`."""
        precision = self.ae2.code.weight.dtype  # the backbone's first blocks may be in another
        features = [one.to(precision) for one in self.features(self.cast(x))]
        restored = self.ae2(features[1:])
        maps = [
            ERROR_WEIGHT * self.error(features[1:], restored).unsqueeze(1),
            DISTANCE_WEIGHT * self.distance(features[-1], restored[-1]).unsqueeze(1),
        ]
        if source == "defects":
            maps.append(doubled(self.decoder(x.to(precision), features, restored)))
        return combined(maps)


def combined(maps: Sequence[Tensor]) -> Tensor:
    """The sum of maps, raised as a whole so that its largest value is the sum of their largest values.

    A defect often has its marks at its rim and AE2's error in its middle. Both count for the score, wherever they are.

    Args:
        maps: Float32 [N, 1, H, W] each.

    Returns:
        The same shape.
    """
    total, peaks = maps[0], maps[0].amax((2, 3), keepdim=True)
    for one in maps[1:]:
        total, peaks = total + one, peaks + one.amax((2, 3), keepdim=True)
    return total + (peaks - total.amax((2, 3), keepdim=True))
