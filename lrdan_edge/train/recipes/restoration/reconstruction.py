"""The learner for images of one small object: an autoencoder reconstructs good images from a short vector.

A restorer with skip connections would copy a wrong digit too; a code of ten numbers cannot.
"""

import torch
from torch import Tensor

from lrdan_edge.model.networks import Autoencoder
from lrdan_edge.train.known_defects import draw_known, inverse_error
from lrdan_edge.train.learner import Batch, Learner, LearnerOptions, to_input
from lrdan_edge.train.painting.learner import adamw
from lrdan_edge.train.recipes.restoration.hyperparameters import RestorationHyperparameters


def reconstruction(x: Tensor, reconstructed: Tensor) -> Tensor:
    """E‖x − x''‖₂²: summed over an image's pixels, then averaged over the batch.

    Args:
        x: Good images, float [N, C, H, W].
        reconstructed: Their reconstructions, the same shape.
    """
    return (x - reconstructed).square().flatten(1).sum(1).mean()


class ReconstructionLearner(Learner):
    """Trains an `Autoencoder` to reconstruct good images, and known defects badly."""

    def __init__(
        self, network: Autoencoder, hyperparameters: RestorationHyperparameters, options: LearnerOptions | None = None
    ) -> None:
        """Set up the optimiser of the network, which is trained in place."""
        self.network, self.hyperparameters = network, hyperparameters
        self._optimiser = adamw(network, hyperparameters, hyperparameters.reconstruction_betas)
        super().__init__((self._optimiser,), options)

    def prepare(self, frames: Tensor, step: int) -> Batch:
        """Convert the images to float32 in [-1, 1], and draw known defects and their masks, if any; see `Learner.prepare`."""
        known, seed = self.options.known, (self.options.seed, step)
        return to_input(frames), *draw_known(known, len(frames), self.hyperparameters.known_fraction, seed)

    def step(self, x: Tensor, *known: Tensor) -> dict[str, Tensor]:
        """Make one step on one batch.

        Args:
            x: Good images, float32 [N, C, H, W] in [-1, 1].
            known: Known defects, float32 [M, C, H, W] in [-1, 1], and their masks, [M, 1, H, W]; or nothing.

        Returns:
            The terms (detached scalars), ``total``, and ``spread_x`` and ``spread_ae2``, the mean standard deviations over the
            batch of the images and the reconstructions.
        """
        shown = torch.cat([x, known[0]]) if known else x  # one batch: batch normalisation must not reveal the defects
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.options.half):
            reconstructed, _ = self.network(shown)
        reconstructed_x, reconstructed_defects = reconstructed[: len(x)].float(), reconstructed[len(x) :].float()
        loss = reconstruction(x, reconstructed_x)
        terms = {"reconstruction": loss}
        if known:
            defects, where = known
            terms["known"] = inverse_error(loss, defects, reconstructed_defects, where)
            loss = loss + self.hyperparameters.known_error_weight * terms["known"]
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        spread = {"spread_x": x.std(0).mean(), "spread_ae2": reconstructed_x.detach().std(0).mean()}
        return {name: value.detach() for name, value in terms.items()} | {"total": loss.detach()} | spread
