"""AE2 in the feature space of a frozen backbone, and a decoder that marks defects.

AE2 restores the features of a good image from those of the image it sees, through a narrow code (as in reverse distillation, arXiv
2201.10703). Where it fails, the image differs from good ones. A decoder sees the features and AE2's error, and marks defects (as in
DRAEM, arXiv 2108.07610). The anomaly map is the sum of the marks and of the maps of `lrdan_edge.model.evidence`.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.backbone import EfficientNetLite, feature_channels
from lrdan_edge.model.evidence import DistanceMap, ErrorMap, KnownDefectMap, NearestMap
from lrdan_edge.model.features import first_blocks
from lrdan_edge.model.network import MapSource, Network
from lrdan_edge.model.networks import doubled, initialise
from lrdan_edge.model.precision import Float32Layer, halve_after

STRIDES: tuple[Literal[2, 4, 8, 16], ...] = (2, 4, 8, 16)
"""The strides of the backbone's features; AE2 restores all but the first."""

AE2_WIDTHS = (40, 96, 96, 128)
"""AE2's channels at strides 8 and 16 (encoder), and at 16 and 32 (encoder and decoder)."""

ERROR_WEIGHT = 0.5
"""The log-odds of a defect that one deviation of AE2's error adds."""

DISTANCE_WEIGHT = 0.5
"""The log-odds that one deviation of the good images' largest distances of AE2's difference adds; with the error, AE2 counts 1."""

NEAREST_WEIGHT = 1.0
"""The log-odds that one deviation of the good images' largest distances from the memory adds."""

KNOWN_WEIGHT = 1.0
"""The log-odds that one deviation of the good images' largest resemblances to known defects adds."""

BACKGROUND = 0.5
"""The fraction of each map's mean that is subtracted from it."""


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


class FeatureRestorer(Network):
    """The network of the recipe ``feature-restoration``: backbone, AE2, and the decoder that marks defects.

    Attributes:
        mean_i: The good images' mean features at the i-th stride (4, 8, 16), float [1, K, 1, 1].
        inverse_i: One over their deviations, likewise.
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
        self.nearest = NearestMap(channels[-1], sides[-1], (spec.height, spec.width))
        self.known = KnownDefectMap(channels[-1], sides[-1], (spec.height, spec.width))
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
        """AE2's error and the distances (``error``), or the marks `combined` with them (``defects``); see `Network.anomaly_map`."""
        precision = self.ae2.code.weight.dtype  # the backbone's first blocks may be in another
        found = self.backbone(self.cast(x))
        features = [one.to(precision) for one in self.standardised(found)]
        restored = self.ae2(features[1:])
        cosines = self.nearest.memory.cosines(found[-1])
        maps = [
            ERROR_WEIGHT * self.error(features[1:], restored).unsqueeze(1),
            DISTANCE_WEIGHT * self.distance(features[-1], restored[-1]).unsqueeze(1),
            NEAREST_WEIGHT * self.nearest(cosines).unsqueeze(1),
        ]
        if not self.known.empty:
            maps.append(KNOWN_WEIGHT * self.known(found[-1], cosines).unsqueeze(1))
        if source == "defects":
            maps.append(doubled(self.decoder(x.to(precision), features, restored)))
        return combined(maps)


def combined(maps: Sequence[Tensor]) -> Tensor:
    """The sum of maps, raised as a whole so that its largest value is the sum of their largest values.

    A defect often has its marks at its rim and AE2's error in its middle. Both count for the score, wherever they are. What raises a
    map everywhere, such as another exposure or layout, counts half: `BACKGROUND` times its mean is subtracted.

    Args:
        maps: Float32 [N, 1, H, W] each.

    Returns:
        The same shape.
    """
    centred = [one - BACKGROUND * one.mean((2, 3), keepdim=True) for one in maps]
    total, peaks = centred[0], centred[0].amax((2, 3), keepdim=True)
    for one in centred[1:]:
        total, peaks = total + one, peaks + one.amax((2, 3), keepdim=True)
    return total + (peaks - total.amax((2, 3), keepdim=True))
