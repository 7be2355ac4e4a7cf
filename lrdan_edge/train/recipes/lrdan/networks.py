"""The networks that are trained: AE1, AE2 and the discriminator. Only AE2 is deployed."""

import torch
from torch import Tensor, nn

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.networks import Autoencoder, code_grid, encoder_layers, feature_maps, initialise
from lrdan_edge.train.recipes.base import Networks


class Discriminator(nn.Module):
    """Distinguishes images from AE1's reconstructions; the adversarial loss compares its features."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.features = nn.Sequential(*encoder_layers(spec))
        self.logit = nn.Conv2d(feature_maps(spec)[-1], 1, 1)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Classify patches.

        Args:
            x: float [N, C, H, W] in [-1, 1].

        Returns:
            Logits per patch, float [N, 1, h, w], high for real images, and the features f(x) that they are computed from,
            float [N, K, h, w].
        """
        features: Tensor = self.features(x)
        return self.logit(features), features


class AdversarialNetworks(Networks):
    """AE1 (G), AE2 (D', the deployed `network`), the discriminator D, and c, the centre of AE1's codes."""

    network: Autoencoder
    center: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.ae1, self.network, self.discriminator = Autoencoder(spec), Autoencoder(spec), Discriminator(spec)
        grid = (1, 1) if spec.code == "vector" else code_grid(spec)
        self.register_buffer("center", torch.zeros(spec.latent_channels, *grid))

    @torch.no_grad()
    def place_center(self, x: Tensor) -> None:
        """Set c to the mean code of some images before training, as Deep SVDD does. It is not trained.

        Args:
            x: Images, float [N, C, H, W] in [-1, 1].
        """
        self.center.copy_(self.ae1(x)[1].mean(0))
