"""A plain autoencoder with the network that LRDAN deploys."""

from typing import Literal, cast

import torch
from torch import Tensor

from lrdan_edge.model.networks import Autoencoder
from lrdan_edge.protocol.baselines.base import Detector, Training
from lrdan_edge.protocol.baselines.common import index_batches, minimise, seeded
from lrdan_edge.protocol.baselines.lrdan import deploy_module
from lrdan_edge.train.learner import to_input
from lrdan_edge.train.options import computes_bfloat16
from lrdan_edge.train.recipes.lrdan import losses
from lrdan_edge.train.recipes.lrdan.recipe import RECIPE

BATCH_SIZE = 32


class PlainAutoencoder(Detector):
    """The network that LRDAN deploys, trained with L1 only, to show the effect of the second autoencoder and the discriminator.

    Network, reduction of the loss, optimiser, learning rate and scoring are those of the LRDAN recipe; only the training differs.
    """

    recipe = f"L1 alone; batches of {BATCH_SIZE}, learning rate {RECIPE.defaults.learning_rate:g}; network and scoring as lrdan"

    def _fit(self, training: Training) -> None:
        good, device = training.good, training.device
        _, channels, height, width = good.shape
        spec = RECIPE.spec_for(height, width, cast(Literal[1, 3], channels), RECIPE.defaults)
        with seeded(training.seed) as rng:
            network = Autoencoder(spec).to(device)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimiser = torch.optim.Adam(
                network.parameters(), RECIPE.defaults.learning_rate, betas=RECIPE.defaults.betas, fused=True
            )

            def loss_of(indices: Tensor) -> Tensor:
                x = to_input(good[indices], device)
                with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
                    reconstruction, _ = network(x)
                return losses.irec(x, reconstruction.float())

            network.train()
            batches = index_batches(rng, len(good), BATCH_SIZE, training.steps)
            minimise(loss_of, batches, training.steps, optimiser, "the autoencoder")
        self._module = deploy_module(network, good, spec, RECIPE, RECIPE.scoring_for(spec))

    def _score(self, frames: Tensor, device: torch.device) -> Tensor:
        """The scoring head's score."""
        score: Tensor = self._module(frames.permute(0, 2, 3, 1).to(device))[0]
        return score
