"""The recipe object of `padim`."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.padim import Padim
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.recipes.backbone import feature_spec
from lrdan_edge.train.recipes.fitted import (
    LEAST_DEVIATION,
    FittedHyperparameters,
    FittedLearner,
    FittedNetworks,
    FittedRecipe,
)

_AT_ONCE = 256  # positions whose covariances are factorised together


@dataclass(frozen=True, kw_only=True)
class PadimHyperparameters(FittedHyperparameters):
    """The hyperparameters of the recipe `padim`.

    Attributes:
        dimensions: Number of features that are used, chosen at random as in the paper; all if there are fewer.
        regularisation: Added to the diagonal of each covariance of standardised features.
    """

    dimensions: int = 100
    regularisation: float = 0.01

    def describe(self) -> str:
        """See `Hyperparameters.describe`."""
        strides = ", ".join(map(str, self.strides))
        return f"{self.dimensions} features of {self.backbone} at strides {strides}, regularisation {self.regularisation:g}"


class PadimNetworks(FittedNetworks):
    """The network, and the features' sums and products at each position, in float64.

    Attributes:
        sums: float64 [P, D]; P positions, D features.
        products: Sums of f fᵀ, float64 [P, D, D].
        count: Number of images, int64 [].
    """

    network: Padim
    sums: Tensor
    products: Tensor
    count: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.network = Padim(spec)
        self.regularisation = PadimHyperparameters.regularisation

    def reserve(self, regularisation: float) -> None:
        """Make empty buffers, on the network's device."""
        self.regularisation = regularisation
        positions, size, _ = self.network.gaussians.whitening.shape
        device = self.network.gaussians.mean.device
        self.register_buffer("sums", torch.zeros(positions, size, dtype=torch.float64, device=device))
        self.register_buffer("products", torch.zeros(positions, size, size, dtype=torch.float64, device=device))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64, device=device))

    def gather(self, features: Tensor, *drawn: Tensor) -> None:  # noqa: ARG002
        """See `FittedNetworks.gather`."""
        chosen = self.network.gaussians.chosen(features).double()
        self.sums += chosen.sum(1)
        self.products.baddbmm_(chosen.transpose(1, 2), chosen)
        self.count += chosen.shape[1]

    def fit(self) -> None:
        """Each Gaussian's mean and inverse Cholesky factor; the features' standardisation is folded into them."""
        count, gaussians = int(self.count), self.network.gaussians
        mean = self.sums / count
        diagonal = self.products.diagonal(dim1=1, dim2=2)
        deviation = (diagonal.mean(0) / count - mean.mean(0).square()).clamp_min(0).sqrt().clamp_min(LEAST_DEVIATION)
        identity = torch.eye(len(deviation), dtype=torch.float64, device=deviation.device)
        for start in range(0, len(mean), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            covariance = self.products[part] - count * mean[part, :, None] * mean[part, None, :]
            covariance /= max(count - 1, 1) * deviation[:, None] * deviation
            factor = torch.linalg.cholesky(covariance + self.regularisation * identity)
            inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
            gaussians.whitening[part] = (inverse / deviation).transpose(1, 2).float()
        gaussians.mean[:, 0] = mean.float()
        del self.sums, self.products, self.count


class PadimRecipe(FittedRecipe[PadimNetworks, PadimHyperparameters]):
    """One Gaussian of the good images' features at each position; the Mahalanobis distance is scored."""

    name = "padim"
    defaults = PadimHyperparameters()

    def spec_for(self, height: int, width: int, channels: Literal[1, 3], hyperparameters: PadimHyperparameters) -> ModelSpec:
        """See `Recipe.spec_for`."""
        return feature_spec(
            self.name,
            (height, width, channels),
            hyperparameters.backbone,
            hyperparameters.strides,
            "padim",
            hyperparameters.dimensions,
        )

    def networks_for(self, spec: ModelSpec) -> PadimNetworks:
        """See `Recipe.networks_for`; the features are chosen here."""
        return PadimNetworks(spec)

    def fitting_for(
        self,
        networks: PadimNetworks,
        spec: ModelSpec,  # noqa: ARG002
        images: int,  # noqa: ARG002
        hyperparameters: PadimHyperparameters,
        options: LearnerOptions,
    ) -> FittedLearner:
        """See `FittedRecipe.fitting_for`."""
        networks.reserve(hyperparameters.regularisation)
        return FittedLearner(networks, options)


RECIPE = PadimRecipe()
