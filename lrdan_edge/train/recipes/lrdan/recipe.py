"""The recipe object of `lrdan`."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec, Scoring
from lrdan_edge.model.networks import autoencoder_spec
from lrdan_edge.train.learner import LearnerOptions, to_input
from lrdan_edge.train.recipes.base import GradientRecipe
from lrdan_edge.train.recipes.lrdan.hyperparameters import LrdanHyperparameters
from lrdan_edge.train.recipes.lrdan.learner import AdversarialLearner
from lrdan_edge.train.recipes.lrdan.networks import AdversarialNetworks


class Lrdan(GradientRecipe[AdversarialNetworks, LrdanHyperparameters]):
    """AE2 learns to reconstruct good images but not AE1's images; its reconstruction error is scored."""

    name = "lrdan"
    defaults = LrdanHyperparameters()

    def spec_for(self, height: int, width: int, channels: Literal[1, 3], hyperparameters: LrdanHyperparameters) -> ModelSpec:
        """An autoencoder; see `Recipe.spec_for`."""
        vector = max(height, width) <= hyperparameters.largest_vector_image
        return autoencoder_spec(
            self.name,
            (height, width, channels),
            base_channels=hyperparameters.base_channels,
            latent_channels=hyperparameters.vector_length if vector else hyperparameters.latent_channels,
            smallest_grid=hyperparameters.code_grid,
            code="vector" if vector else "spatial",
            decoder=hyperparameters.decoder,
        )

    def networks_for(self, spec: ModelSpec) -> AdversarialNetworks:
        """See `Recipe.networks_for`."""
        return AdversarialNetworks(spec)

    def scoring_for(self, spec: ModelSpec) -> Scoring:
        """Score the error relative to the good images' error at the same pixel.

        The score is the largest error in a large image, where defects are small, and the mean square in an image of one object.
        """
        if spec.code == "vector":
            return Scoring(normalise=True, smoothing_sigma=1.0, pooling="rms", deviation_floor=0.2)
        return Scoring(normalise=True, smoothing_sigma=2.0, pooling="max")

    def learner_for(
        self,
        networks: AdversarialNetworks,
        spec: ModelSpec,  # noqa: ARG002
        frames: Tensor,
        hyperparameters: LrdanHyperparameters,
        options: LearnerOptions,
    ) -> AdversarialLearner:
        """Place the centre of the codes, and make the learner; see `Recipe.learner_for`."""
        some = torch.from_numpy(np.random.default_rng(options.seed).permutation(len(frames))[: hyperparameters.center_images])
        networks.place_center(to_input(frames[some], networks.center.device))
        return AdversarialLearner(networks, hyperparameters, options)


RECIPE = Lrdan()
