"""The three networks of LRDAN: two autoencoders of one shape (AE1 = G, AE2 = D') and the discriminator D."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.errors import DataError
from lrdan_edge.manifest import ModelSpec

SMALLEST, LARGEST, MULTIPLE = 28, 512, 4
GRID = 8  # the encoder halves the image until its shorter side is near this
MOST_CHANNELS = 128
BASE_CHANNELS = 16
LATENT_CHANNELS = 8


def spec_for(
    height: int,
    width: int,
    channels: Literal[1, 3],
    *,
    decoder: Literal["resize", "transposed"] = "resize",
    recipe: str = "lrdan",
) -> ModelSpec:
    """The networks' shape for images of this size.

    The image is halved until its shorter side is about `GRID`, and at least twice, so that the code is spatial: each of its
    cells describes a patch, which is all that a small network can learn from a few hundred images.

    Args:
        height: Rows, 28 to 512, a multiple of 4.
        width: Columns, likewise.
        channels: 1 (grey) or 3 (blue, green, red).
        decoder: How the decoder enlarges.
        recipe: The training recipe.

    Raises:
        DataError: The size is not supported.
    """
    for name, size in (("height", height), ("width", width)):
        if not SMALLEST <= size <= LARGEST or size % MULTIPLE:
            fit = min(max(round(size / MULTIPLE) * MULTIPLE, SMALLEST), LARGEST)
            raise DataError(
                f"{name} {size} is not supported (multiples of {MULTIPLE} from {SMALLEST} to {LARGEST} are): "
                f"give --image-size with a {name} of {fit}"
            )
    return ModelSpec(
        recipe=recipe,
        height=height,
        width=width,
        channels=channels,
        base_channels=BASE_CHANNELS,
        latent_channels=LATENT_CHANNELS,
        downsamplings=max(2, round(math.log2(min(height, width) / GRID))),
        decoder=decoder,
    )


def _widths(spec: ModelSpec) -> list[int]:
    """Feature maps after each downsampling."""
    return [min(spec.base_channels << level, max(MOST_CHANNELS, spec.base_channels)) for level in range(spec.downsamplings)]


def _encoder_layers(spec: ModelSpec) -> list[nn.Module]:
    layers: list[nn.Module] = []
    before = int(spec.channels)
    for width in _widths(spec):
        layers += [nn.Conv2d(before, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        before = width
    return layers


class Encoder(nn.Sequential):
    """Image [N, C, H, W] to spatial code [N, latent_channels, H/2^d, W/2^d]; the paper's G_e, and φ."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(*_encoder_layers(spec), nn.Conv2d(_widths(spec)[-1], spec.latent_channels, 1))


class Decoder(nn.Sequential):
    """Spatial code to image in [-1, 1]; ``resize`` enlarges by nearest neighbour then convolves, ``transposed`` deconvolves."""

    def __init__(self, spec: ModelSpec) -> None:
        widths = _widths(spec)[::-1]
        layers: list[nn.Module] = [
            nn.Conv2d(spec.latent_channels, widths[0], 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for before, after in zip(widths, [*widths[1:], None], strict=True):
            outputs = int(spec.channels) if after is None else after
            bias = after is None  # batch normalisation has its own
            if spec.decoder == "resize":
                layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(before, outputs, 3, 1, 1, bias=bias)]
            else:
                layers += [nn.ConvTranspose2d(before, outputs, 4, 2, 1, bias=bias)]
            layers += [nn.Tanh()] if after is None else [nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers)


class Autoencoder(nn.Module):
    """Encoder and decoder: AE1 (the paper's generator G) and AE2 (its second autoencoder D') alike."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        self.height, self.width = spec.height, spec.width
        block = 1 << spec.downsamplings
        self.pad_rows, self.pad_columns = -spec.height % block, -spec.width % block
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct.

        Args:
            x: float [N, C, H, W] in [-1, 1].

        Returns:
            The reconstruction, float [N, C, H, W] in [-1, 1], and the code, float [N, latent_channels, h, w].
        """
        if self.pad_rows or self.pad_columns:
            x = F.pad(x, (0, self.pad_columns, 0, self.pad_rows), mode="replicate")
        latent: Tensor = self.encoder(x)
        reconstruction: Tensor = self.decoder(latent)
        if self.pad_rows or self.pad_columns:
            reconstruction = reconstruction[:, :, : self.height, : self.width]
        return reconstruction, latent


class Discriminator(nn.Module):
    """Tells images from AE1's reconstructions; its features are what the adversarial loss compares."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.features = nn.Sequential(*_encoder_layers(spec))
        self.logit = nn.Conv2d(_widths(spec)[-1], 1, 1)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Judge patches.

        Args:
            x: float [N, C, H, W] in [-1, 1].

        Returns:
            Logits per patch, float [N, 1, h, w], high for real ones, and the features f(x) below them, float [N, K, h, w].
        """
        features: Tensor = self.features(x)
        return self.logit(features), features


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Initialise in place, as DCGAN does: convolutions N(0, 0.02) except where variance must be kept, scales N(1, 0.02)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
