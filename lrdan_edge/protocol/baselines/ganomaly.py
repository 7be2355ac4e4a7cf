"""GANomaly (arXiv 1805.06725)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.protocol.baselines.base import Detector, Training
from lrdan_edge.protocol.baselines.common import index_batches, require_finite, seeded
from lrdan_edge.train.learner import to_input
from lrdan_edge.train.options import computes_bfloat16

BATCH_SIZE, LEARNING_RATE, BETAS = 32, 2e-4, (0.5, 0.999)
CONTEXTUAL, ADVERSARIAL, ENCODING = 50.0, 1.0, 1.0  # the paper's weights
CODE = 100
BASE_CHANNELS, MOST_CHANNELS = 32, 256
GRID = 4  # the encoder halves the image until its shorter side is about this


class Shape:
    """The number of downsamplings, the feature maps after each, and the padding that makes each one exact."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        """Choose for images [channels, height, width]."""
        halvings = max(2, round(math.log2(min(height, width) / GRID)))
        self.channels, self.height, self.width = channels, height, width
        self.widths = [min(BASE_CHANNELS << level, MOST_CHANNELS) for level in range(halvings)]
        block = 1 << halvings
        self.grid = (-(-height // block), -(-width // block))
        self.padding = (0, -width % block, 0, -height % block)


class Encoder(nn.Module):
    """DCGAN's discriminator: image [N, C, H, W] to outputs [N, outputs], and the features before the last layer."""

    def __init__(self, shape: Shape, outputs: int) -> None:
        super().__init__()
        self.padding = shape.padding
        layers: list[nn.Module] = [nn.Conv2d(shape.channels, shape.widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for before, after in zip(shape.widths, shape.widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.top = nn.Conv2d(shape.widths[-1], outputs, shape.grid, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode."""
        features: Tensor = self.features(F.pad(x, self.padding, mode="replicate"))
        return self.top(features).flatten(1), features


class Decoder(nn.Module):
    """DCGAN's generator: code [N, CODE] to image [N, C, H, W] in [-1, 1]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.height, self.width = shape.height, shape.width
        widths = shape.widths[::-1]
        layers: list[nn.Module] = [nn.ConvTranspose2d(CODE, widths[0], shape.grid, bias=False)]
        for before, after in zip(widths, [*widths[1:], shape.channels], strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """Decode."""
        image: Tensor = self.layers(z[:, :, None, None])
        return image[:, :, : self.height, : self.width]


class Generator(nn.Module):
    """Encoder, decoder, encoder: x, z, x̂, ẑ."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.encoder, self.decoder, self.second = Encoder(shape, CODE), Decoder(shape), Encoder(shape, CODE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return x̂, z and ẑ."""
        z, _ = self.encoder(x)
        fake = self.decoder(z)
        return fake, z, self.second(fake)[0]


class Ganomaly(Detector):
    """GANomaly; the score is mean |z − ẑ|, the difference of the image's and reconstruction's codes (the paper's A(x) / length).

    The generator minimises 50·L_con (mean absolute error) + L_adv (mean squared difference of the discriminator's features) +
    L_enc (mean squared difference of the codes). The discriminator minimises binary cross-entropy. Batches have 32 images, as for
    LRDAN. Layers and initialisation are DCGAN's, with half the width of the authors' code and at most 256 channels, to suit two
    processor cores. Images are padded if they cannot be halved. The paper's scaling of all test scores to [0, 1] is left out: it
    does not change the ranking, and a score would depend on other images.
    """

    recipe = f"weights {CONTEXTUAL:g}, {ADVERSARIAL:g}, {ENCODING:g}; code of {CODE}; batches of {BATCH_SIZE}; Adam {LEARNING_RATE:g}"

    images_at_once = 64

    def _fit(self, training: Training) -> None:
        good, device = training.good, training.device
        shape, half = Shape(*good.shape[1:]), computes_bfloat16(device)
        with seeded(training.seed) as rng:
            networks = nn.ModuleList([Generator(shape), Encoder(shape, 1)]).apply(_initialise).to(device)
            networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimisers = [torch.optim.Adam(network.parameters(), LEARNING_RATE, betas=BETAS) for network in networks]
            networks.train()
            for indices in index_batches(rng, len(good), BATCH_SIZE, training.steps):
                loss = _step(networks, optimisers, to_input(good[indices], device), half=half)
        require_finite(loss, "GANomaly")
        self._generator = networks[0].eval()

    def _score(self, frames: Tensor, device: torch.device) -> Tensor:
        """Mean |z − ẑ|."""
        _, z, z2 = self._generator(to_input(frames, device))
        apart: Tensor = (z.double() - z2.double()).abs().mean(1)
        return apart


def _step(networks: nn.ModuleList, optimisers: list[torch.optim.Adam], x: Tensor, *, half: bool) -> Tensor:
    """Make a step of the generator, then one of the discriminator on the same fakes; returns the sum of both losses."""
    (generator, discriminator), (generator_optimiser, discriminator_optimiser) = networks, optimisers
    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        fake, z, z2 = generator(x)
        with torch.no_grad():
            real_features = discriminator(x)[1]
        fake_features = discriminator(fake)[1]
    generation = (
        CONTEXTUAL * F.l1_loss(fake.float(), x)
        + ADVERSARIAL * F.mse_loss(fake_features.float(), real_features.float())
        + ENCODING * F.mse_loss(z2.float(), z.float())
    )
    generator_optimiser.zero_grad()
    generation.backward(inputs=list(generator.parameters()))  # type: ignore[no-untyped-call]
    generator_optimiser.step()

    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        real, unreal = discriminator(x)[0].float(), discriminator(fake.detach())[0].float()
    discrimination = (
        F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        + F.binary_cross_entropy_with_logits(unreal, torch.zeros_like(unreal))
    ) / 2
    discriminator_optimiser.zero_grad()
    discrimination.backward()  # type: ignore[no-untyped-call]
    discriminator_optimiser.step()
    return (generation + discrimination).detach()


@torch.no_grad()
def _initialise(layer: nn.Module) -> None:
    """DCGAN's initialisation: convolutions N(0, 0.02), scales of batch normalisation N(1, 0.02)."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
