"""The recipe object of `restoration`."""

from typing import Literal

import msgspec
from torch import Tensor

from lrdan_edge.bundle.spec import BitDepth, ModelSpec, Preprocessing, Scoring
from lrdan_edge.model.networks import Autoencoder, Restorer, autoencoder_spec, require_supported_size, restorer_widths
from lrdan_edge.train.learner import Learner, LearnerOptions
from lrdan_edge.train.painting.variation import stretch_for
from lrdan_edge.train.recipes.base import GradientRecipe, Networks
from lrdan_edge.train.recipes.restoration.hyperparameters import RestorationHyperparameters
from lrdan_edge.train.recipes.restoration.reconstruction import ReconstructionLearner
from lrdan_edge.train.recipes.restoration.restoration import RestorationLearner


class OneNetwork(Networks):
    """AE2 only."""

    network: Autoencoder | Restorer

    def __init__(self, network: Autoencoder | Restorer) -> None:
        super().__init__()
        self.network = network


class Restoration(GradientRecipe[OneNetwork, RestorationHyperparameters]):
    """AE2 restores images with synthetic defects and marks the defects; the marks are scored."""

    name = "restoration"
    defaults = RestorationHyperparameters()

    def spec_for(
        self, height: int, width: int, channels: Literal[1, 3], hyperparameters: RestorationHyperparameters
    ) -> ModelSpec:
        """A restorer, or for images of one small object an autoencoder; see `Recipe.spec_for`."""
        if max(height, width) <= hyperparameters.largest_vector_image:
            return autoencoder_spec(
                self.name,
                (height, width, channels),
                base_channels=hyperparameters.base_channels,
                latent_channels=hyperparameters.vector_length,
                smallest_grid=hyperparameters.code_grid,
                code="vector",
            )
        require_supported_size(height, width)
        return ModelSpec(
            recipe=self.name,
            height=height,
            width=width,
            channels=channels,
            base_channels=hyperparameters.base_channels,
            latent_channels=restorer_widths(hyperparameters.base_channels, hyperparameters.downsamplings)[-1],
            downsamplings=hyperparameters.downsamplings,
            decoder="resize",
            architecture="restorer",
        )

    def networks_for(self, spec: ModelSpec) -> OneNetwork:
        """See `Recipe.networks_for`."""
        return OneNetwork(Restorer(spec) if spec.architecture == "restorer" else Autoencoder(spec))

    def preprocessing_for(self, spec: ModelSpec, bit_depth: BitDepth = 16) -> Preprocessing:
        """A restorer's images are standardised; see `Recipe.preprocessing_for`."""
        plain = super().preprocessing_for(spec, bit_depth)
        return msgspec.structs.replace(plain, standardise=spec.architecture == "restorer")

    def scoring_for(self, spec: ModelSpec) -> Scoring:
        """Score a restorer by the defects it marks, and an autoencoder by its error relative to the good images' error."""
        if spec.architecture == "restorer":
            return Scoring(normalise=False, smoothing_sigma=0.0, pooling="max", source="defects", extent=True, nearby=True)
        return Scoring(normalise=True, smoothing_sigma=1.0, pooling="rms", deviation_floor=0.2)

    def learner_for(
        self,
        networks: OneNetwork,
        spec: ModelSpec,
        frames: Tensor,
        hyperparameters: RestorationHyperparameters,
        options: LearnerOptions,
    ) -> Learner:
        """See `Recipe.learner_for`."""
        if isinstance(networks.network, Autoencoder):
            return ReconstructionLearner(networks.network, hyperparameters, options)
        images = len(frames) // (len(spec.tile_rows) * len(spec.tile_columns))
        stretch = stretch_for(images, hyperparameters)
        return RestorationLearner(networks.network, hyperparameters, options, stretch)


RECIPE = Restoration()
