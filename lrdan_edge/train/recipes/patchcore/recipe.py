"""The recipe object of `patchcore`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.features import channels_of
from lrdan_edge.model.patchcore import PatchCore, directions
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.recipes.backbone import Stride, feature_spec
from lrdan_edge.train.recipes.coreset import PROJECTED, greedy_coreset
from lrdan_edge.train.recipes.fitted import (
    FittedHyperparameters,
    FittedLearner,
    FittedNetworks,
    FittedRecipe,
)


@dataclass(frozen=True, kw_only=True)
class PatchCoreHyperparameters(FittedHyperparameters):
    """The hyperparameters of the recipe `patchcore`.

    Attributes:
        memory_size: Rows of the memory; never more than there are features to choose from.
        most_candidates: The memory is chosen from the features at about this many random positions, the same number in each image.
    """

    strides: tuple[Stride, ...] = (16,)
    memory_size: int = 4096
    most_candidates: int = 20_000

    def describe(self) -> str:
        """See `Hyperparameters.describe`."""
        strides = ", ".join(map(str, self.strides))
        return f"{self.memory_size} of {self.most_candidates} features of {self.backbone} at strides {strides}"


class PatchCoreNetworks(FittedNetworks):
    """The network, and the candidates for the memory.

    Attributes:
        makes: The network's class.
        projection: The random projection, float32 [K, 64].
        candidates: Directions of features, float32 [n, K].
        filled: Number of rows of `candidates` that are filled, int64 [].
    """

    makes: ClassVar[type[PatchCore]] = PatchCore
    network: PatchCore
    projection: Tensor
    candidates: Tensor
    filled: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.network = self.makes(spec)
        self.register_buffer("projection", torch.randn(channels_of(spec), PROJECTED))
        self.memory_size = PatchCoreHyperparameters.memory_size

    def reserve(self, candidates: int, memory_size: int) -> None:
        """Make empty buffers, on the network's device."""
        self.memory_size = memory_size
        features, device = len(self.projection), self.projection.device
        self.register_buffer("candidates", torch.zeros(candidates, features, device=device))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64, device=device))

    def gather(self, features: Tensor, *drawn: Tensor) -> None:
        """See `FittedNetworks.gather`; `drawn` are the positions of the candidates, int64 [N, q]."""
        flat = features.flatten(2)
        taken = directions(torch.cat([one[:, places].T for one, places in zip(flat, drawn[0], strict=True)]))
        start = int(self.filled)
        taken = taken[: len(self.candidates) - start]
        self.candidates[start : start + len(taken)] = taken
        self.filled += len(taken)

    def fit(self) -> None:
        """Choose the memory from the candidates."""
        rows = self.candidates[: int(self.filled)]
        chosen = greedy_coreset(rows @ self.projection, min(self.memory_size, len(rows)))
        self.network.memory.fill(rows[chosen])
        del self.projection, self.candidates, self.filled


class PatchCoreLearner(FittedLearner):
    """Also draws the positions of the candidates."""

    def __init__(self, networks: PatchCoreNetworks, options: LearnerOptions, positions: int, per_image: int) -> None:
        """Keep the networks, and the numbers of positions of the grid and of candidates per image."""
        super().__init__(networks, options)
        self.positions, self.per_image = positions, per_image

    def draw(self, images: int, step: int) -> tuple[Tensor, ...]:
        """Different positions for each image, int64 [images, per_image]; see `FittedLearner.draw`."""
        order = np.random.default_rng((self.options.seed, step)).random((images, self.positions)).argsort(1)
        return (torch.from_numpy(order[:, : self.per_image].copy()),)


class PatchCoreRecipe(FittedRecipe[PatchCoreNetworks, PatchCoreHyperparameters]):
    """A memory of the good images' features; the distance to the nearest one is scored."""

    name = "patchcore"
    defaults = PatchCoreHyperparameters()

    def spec_for(
        self, height: int, width: int, channels: Literal[1, 3], hyperparameters: PatchCoreHyperparameters
    ) -> ModelSpec:
        """See `Recipe.spec_for`."""
        return feature_spec(
            self.name, (height, width, channels), hyperparameters.backbone, hyperparameters.strides, "patchcore"
        )

    def networks_for(self, spec: ModelSpec) -> PatchCoreNetworks:
        """See `Recipe.networks_for`."""
        return PatchCoreNetworks(spec)

    def fitting_for(
        self,
        networks: PatchCoreNetworks,
        spec: ModelSpec,  # noqa: ARG002
        images: int,
        hyperparameters: PatchCoreHyperparameters,
        options: LearnerOptions,
    ) -> FittedLearner:
        """See `FittedRecipe.fitting_for`."""
        positions = networks.network.grid[0] * networks.network.grid[1]
        per_image = min(positions, -(-hyperparameters.most_candidates // images))
        networks.reserve(min(images * per_image, hyperparameters.most_candidates), hyperparameters.memory_size)
        return PatchCoreLearner(networks, options, positions, per_image)


RECIPE = PatchCoreRecipe()
