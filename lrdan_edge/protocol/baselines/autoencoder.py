"""A plain autoencoder with the network that LRDAN deploys."""

import torch
from torch import Tensor

from lrdan_edge.model.deployed import DeployModule, ScoringHead
from lrdan_edge.model.networks import Autoencoder
from lrdan_edge.protocol.baselines.common import in_chunks, index_batches, require_finite, require_frames, seeded
from lrdan_edge.train.learner import to_input
from lrdan_edge.train.map_statistics import map_statistics
from lrdan_edge.train.options import computes_bfloat16
from lrdan_edge.train.recipes.lrdan import losses
from lrdan_edge.train.recipes.lrdan.recipe import RECIPE
from lrdan_edge.train.schedule import rate_at

BATCH_SIZE = 32
_IMAGES_AT_ONCE = 256


class PlainAutoencoder:
    """The network that LRDAN deploys, trained with L1 only, to show the effect of the second autoencoder and the discriminator.

    Network, reduction of the loss, optimiser, learning rate and scoring are those of the LRDAN recipe; only the training differs.
    """

    recipe = f"L1 alone; batches of {BATCH_SIZE}, learning rate {RECIPE.defaults.learning_rate:g}; network and scoring as lrdan"

    def fit(
        self,
        good: Tensor,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        defects: Tensor | None = None,  # noqa: ARG002
    ) -> None:
        """Train; see `Detector.fit`.

        Raises:
            DataError: The images cannot be used.
            TrainingError: The loss is no longer finite.
        """
        rate, half = RECIPE.defaults.learning_rate, computes_bfloat16(device)
        channels, height, width = require_frames(good, steps)
        spec = RECIPE.spec_for(height, width, channels)
        with seeded(seed) as rng:
            network = Autoencoder(spec).to(device)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimiser = torch.optim.Adam(network.parameters(), rate, betas=RECIPE.defaults.betas, fused=True)
            network.train()
            for step, indices in enumerate(index_batches(rng, len(good), BATCH_SIZE, steps)):
                for group in optimiser.param_groups:
                    group["lr"] = rate * rate_at(step, steps)
                x = to_input(good[indices], device)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    reconstruction, _ = network(x)
                loss = losses.irec(x, reconstruction.float())
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        require_finite(loss.detach(), "the autoencoder")
        preprocessing, scoring = RECIPE.preprocessing_for(spec), RECIPE.scoring_for(spec)
        head = ScoringHead(spec, scoring, *map_statistics(network, good, preprocessing, scoring))
        self._module, self._device = DeployModule(network, head, preprocessing, scoring.source).to(device), device

    def score(self, frames: Tensor) -> Tensor:
        """The scoring head's score; see `Detector.score`."""
        return in_chunks(lambda part: self._module(part.to(self._device))[0], frames.permute(0, 2, 3, 1), _IMAGES_AT_ONCE)
