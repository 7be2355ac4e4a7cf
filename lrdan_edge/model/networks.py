"""The networks for AE2: the paper's autoencoder (also used for AE1), and a U-Net that restores images."""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.errors import DataError
from lrdan_edge.model.network import MapSource, Network, no_such_map, reconstruction_error

SMALLEST, LARGEST, MULTIPLE = 28, 512, 4
MOST_CHANNELS = 128


def require_supported_size(height: int, width: int) -> None:
    """Check a size of the networks' images.

    Args:
        height: Rows: 28 to 512, a multiple of 4.
        width: Columns, likewise.

    Raises:
        DataError: The size is not supported.
    """
    for name, size in (("height", height), ("width", width)):
        if not SMALLEST <= size <= LARGEST or size % MULTIPLE:
            raise DataError(
                f"{name} {size} is not supported (multiples of {MULTIPLE} from {SMALLEST} to {LARGEST} are)",
                "give {image_size} with a {name} of {nearest}",
                name=name,
                nearest=min(max(round(size / MULTIPLE) * MULTIPLE, SMALLEST), LARGEST),
            )


def autoencoder_spec(
    recipe: str,
    shape: tuple[int, int, Literal[1, 3]],
    *,
    base_channels: int,
    latent_channels: int,
    smallest_grid: int,
    code: Literal["spatial", "vector"],
    decoder: Literal["resize", "transposed"] = "resize",
) -> ModelSpec:
    """The specification of an autoencoder.

    Args:
        recipe: The recipe that trains it.
        shape: (H, W, C) of its images.
        base_channels: Feature maps after the first convolution.
        latent_channels: Feature maps of a spatial code, or the length of a vector.
        smallest_grid: The image is halved, at least twice, until its shorter side is about this.
        code: See `ModelSpec.code`.
        decoder: How the decoder upsamples.

    Raises:
        DataError: The size is not supported.
    """
    height, width, channels = shape
    require_supported_size(height, width)
    return ModelSpec(
        recipe=recipe,
        height=height,
        width=width,
        channels=channels,
        base_channels=base_channels,
        latent_channels=latent_channels,
        downsamplings=max(2, round(math.log2(min(height, width) / smallest_grid))),
        decoder=decoder,
        code=code,
    )


def feature_maps(spec: ModelSpec) -> list[int]:
    """The number of feature maps after each downsampling of an autoencoder."""
    return [min(spec.base_channels << level, max(MOST_CHANNELS, spec.base_channels)) for level in range(spec.downsamplings)]


def encoder_layers(spec: ModelSpec) -> list[nn.Module]:
    """The downsampling convolutions of an autoencoder, with batch normalisation and activation."""
    layers: list[nn.Module] = []
    before = int(spec.channels)
    for width in feature_maps(spec):
        layers += [nn.Conv2d(before, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        before = width
    return layers


def code_grid(spec: ModelSpec) -> tuple[int, int]:
    """Rows and columns of the smallest feature maps; the image is padded to a whole number of cells."""
    block = 1 << spec.downsamplings
    return -(-spec.height // block), -(-spec.width // block)


class Encoder(nn.Sequential):
    """Image to code, the paper's G_e, and φ: [N, C, H, W] to [N, latent_channels, H/2^d, W/2^d], or [N, latent_channels, 1, 1]."""

    def __init__(self, spec: ModelSpec) -> None:
        kernel = code_grid(spec) if spec.code == "vector" else (1, 1)
        super().__init__(*encoder_layers(spec), nn.Conv2d(feature_maps(spec)[-1], spec.latent_channels, kernel))


class Decoder(nn.Sequential):
    """Code to image in [-1, 1]; ``resize`` enlarges by nearest neighbour then convolves, ``transposed`` deconvolves."""

    def __init__(self, spec: ModelSpec) -> None:
        widths = feature_maps(spec)[::-1]
        grid = code_grid(spec) if spec.code == "vector" else (1, 1)
        first = widths[0] * math.prod(grid)
        layers: list[nn.Module] = [nn.Conv2d(spec.latent_channels, first, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
        if spec.code == "vector":
            layers += [nn.Flatten(), nn.Unflatten(1, (widths[0], *grid))]
        for before, after in zip(widths, [*widths[1:], None], strict=True):
            outputs = int(spec.channels) if after is None else after
            bias = after is None  # batch normalisation has its own
            if spec.decoder == "resize":
                layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(before, outputs, 3, 1, 1, bias=bias)]
            else:
                layers += [nn.ConvTranspose2d(before, outputs, 4, 2, 1, bias=bias)]
            layers += [nn.Tanh()] if after is None else [nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers)


class Autoencoder(Network):
    """Encoder and decoder, for both AE1 (the paper's generator G) and AE2 (its second autoencoder D')."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        self.height, self.width = spec.height, spec.width
        self.pad = padding(spec)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct.

        Args:
            x: float [N, C, H, W] in [-1, 1].

        Returns:
            The reconstruction, float [N, C, H, W] in [-1, 1], and the code, float [N, latent_channels, h, w].
        """
        latent: Tensor = self.encoder(F.pad(x, self.pad, mode="replicate") if any(self.pad) else x)
        reconstruction: Tensor = self.decoder(latent)
        if any(self.pad):
            reconstruction = reconstruction[:, :, : self.height, : self.width]
        return reconstruction, latent

    def anomaly_map(self, x: Tensor, source: MapSource) -> Tensor:
        """The reconstruction error; see `Network.anomaly_map`."""
        if source == "defects":
            raise no_such_map(source, "an autoencoder marks none")
        reconstruction: Tensor = self(self.cast(x))[0]
        return reconstruction_error(x, reconstruction)


def restorer_widths(base: int, downsamplings: int) -> list[int]:
    """Feature maps of a restorer after each downsampling; they grow slowly so that a training step stays short on a processor."""
    return [base * factor for factor in (1, 2, 3, 4, 6, 8, 8)][:downsamplings]


class _Block(nn.Sequential):
    """Two convolutions; the first one may downsample."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        layers: list[nn.Module] = []
        for before, step in ((inputs, stride), (outputs, 1)):
            layers += [nn.Conv2d(before, outputs, 3, step, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)]
        super().__init__(*layers)


class UNet(Network):
    """An encoder and a decoder with skip connections (U-Net, arXiv 1505.04597); the first convolution downsamples."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        widths = restorer_widths(spec.base_channels, spec.downsamplings)
        self.stem = nn.Sequential(
            nn.Conv2d(int(spec.channels), widths[0], 4, 2, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.LeakyReLU(0.1),
            nn.Conv2d(widths[0], widths[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.LeakyReLU(0.1),
        )
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList([_Block(before, after, stride=2) for before, after in pairs])
        self.up = nn.ModuleList([_Block(after + before, before) for before, after in reversed(pairs)])
        self.spec, self.height, self.width, self.pad = spec, spec.height, spec.width, padding(spec)

    def features(self, x: Tensor) -> Tensor:
        """The last feature maps, float [N, K, h/2, w/2], of images float [N, C, H, W]; h and w are H and W after padding."""
        features: Tensor = self.stem(F.pad(x, self.pad, mode="replicate") if any(self.pad) else x)
        passed = [features]
        for down in self.down:
            features = down(features)
            passed.append(features)
        for up, skipped in zip(self.up, reversed(passed[:-1]), strict=True):
            features = up(torch.cat([F.interpolate(features, scale_factor=2, mode="nearest"), skipped], 1))
        return features


class Restorer(UNet):
    """AE2 of the recipe ``restoration``: it restores the good image from a defective one and marks the defects.

    Its head has two outputs per pixel: a correction that is added to the input, and the log-odds of a defect.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.channels = int(spec.channels)
        self.head = nn.Conv2d(spec.base_channels, 4 * (self.channels + 1), 3, 1, 1)
        initialise(self)
        nn.init.zeros_(self.head.weight)  # training starts from the identity

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Restore.

        Args:
            x: float [N, C, H, W], standardised (see `Preprocessing`).

        Returns:
            The restored image, float [N, C, H, W], and the log-odds of a defect, float [N, 1, H, W].
        """
        outputs = F.pixel_shuffle(self.head(self.features(x)), 2)[:, :, : self.height, : self.width]
        return x + outputs[:, : self.channels], outputs[:, self.channels :]

    def marks(self, x: Tensor) -> Tensor:
        """The log-odds for scoring: the mean of each block of 2 by 2 pixels; more smoothing would make scores worse.

        Args:
            x: As for `forward`.

        Returns:
            float32 [N, 1, H, W].
        """
        _, log_odds = self(x)
        return doubled(F.avg_pool2d(log_odds, 2))

    def anomaly_map(self, x: Tensor, source: MapSource) -> Tensor:
        """The log-odds of `marks`, or the reconstruction error; see `Network.anomaly_map`."""
        if source == "defects":
            return self.marks(self.cast(x))
        restored: Tensor = self(self.cast(x))[0]
        return reconstruction_error(x, restored)

    def for_scoring(self, source: MapSource) -> Network:
        """A `Marker`, if the marks are scored."""
        return Marker(self) if source == "defects" else self


class Marker(UNet):
    """A restorer reduced to `Restorer.marks` for the deploy graph: the same numbers with less computation.

    The head is linear, so the mean of the four pixels at each position is one output with the mean weights. No restored image, pixel
    shuffle or pooling is needed.
    """

    reconstructs = False

    def __init__(self, restorer: Restorer) -> None:
        """Copy a restorer's weights."""
        super().__init__(restorer.spec)
        self.head = nn.Conv2d(restorer.head.in_channels, 1, 3, 1, 1)
        weights = restorer.state_dict()
        for name in ("head.weight", "head.bias"):
            weights[name] = weights[name][-4:].mean(0, keepdim=True)
        self.load_state_dict(weights)
        self.train(restorer.training)

    def marks(self, x: Tensor) -> Tensor:
        """See `Restorer.marks`."""
        return doubled(self.head(self.features(x))[:, :, : self.height // 2, : self.width // 2])

    def anomaly_map(self, x: Tensor, source: MapSource) -> Tensor:
        """The log-odds of `marks`; see `Network.anomaly_map`."""
        if source != "defects":
            raise no_such_map(source, "this network only marks defects")
        return self.marks(self.cast(x))


def doubled(maps: Tensor) -> Tensor:
    """Maps [N, 1, h, w] with every value twice along rows and columns: float32 [N, 1, 2h, 2w]."""
    return F.interpolate(maps.float(), scale_factor=2, mode="nearest")


def padding(spec: ModelSpec) -> tuple[int, int, int, int]:
    """Padding for `torch.nn.functional.pad` that makes every downsampling exact: (left, right, top, bottom)."""
    rows, columns = code_grid(spec)
    return (0, (columns << spec.downsamplings) - spec.width, 0, (rows << spec.downsamplings) - spec.height)


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Initialise in place: convolutions as He et al. (arXiv 1502.01852) for leaky ReLU, batch normalisation as the identity."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
