"""The learner for a restorer: it restores good images from images with synthetic defects, and marks the defects.

This is the idea of LRDAN's dual term (AE2 must not reconstruct fakes), with synthetic defects instead of fakes of G.
"""

import torch
from torch import Tensor

from lrdan_edge.model.deployed import standardisation
from lrdan_edge.model.networks import Restorer
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.painting.known import restoration_target
from lrdan_edge.train.painting.learner import PaintingLearner, adamw
from lrdan_edge.train.recipes.restoration.hyperparameters import RestorationHyperparameters

SPREAD_STEP = 4  # every fourth pixel in each direction is enough to detect a collapse


def restoration(restored: Tensor, good: Tensor, mask: Tensor) -> Tensor:
    """E‖x − D'(x̃)‖₁ over the good pixels, plus the same over the defective ones; x̃ is x with defects.

    With one mean over all pixels, the few defective ones would count so little that AE2 would learn the identity.

    Args:
        restored: D'(x̃), float [N, C, H, W].
        good: x, the same shape.
        mask: 1 where defective, float [N, 1, H, W].
    """
    error = (restored - good).abs().mean(1, keepdim=True)
    good_pixels, defective_pixels = ((error * part).sum() / part.sum().clamp_min(1) for part in (1 - mask, mask))
    return good_pixels + defective_pixels


class RestorationLearner(PaintingLearner):
    """Trains a `Restorer`."""

    def __init__(
        self,
        network: Restorer,
        hyperparameters: RestorationHyperparameters,
        options: LearnerOptions | None = None,
        stretch: float = 1.0,
    ) -> None:
        """Set up the optimiser of the network, which is trained in place; `stretch` as in `variation.vary`."""
        self.network, self.hyperparameters = network, hyperparameters
        optimiser = adamw(network, hyperparameters, hyperparameters.betas)
        super().__init__((optimiser,), hyperparameters, options, stretch)

    def step(self, good: Tensor, defective: Tensor, mask: Tensor, *known: Tensor) -> dict[str, Tensor]:
        """Make one step on one batch: predict the good images and the masks from the defective images.

        Args:
            good: Good images, float32 [N, C, H, W] in [-1, 1].
            defective: The same with defects, same shape.
            mask: 1 where defective, float32 [N, 1, H, W].
            known: `MixedBatch.known` and `MixedBatch.has_mask`; or nothing.

        Returns:
            Every term (unweighted scalars, detached), ``total``, and ``spread_ae2`` and ``spread_x``, the mean standard
            deviations over the batch of the restored and of the good images, both standardised.
        """
        mean, deviation = standardisation(defective)
        good, defective = (good - mean) / deviation, (defective - mean) / deviation
        with torch.autocast(good.device.type, torch.bfloat16, enabled=self.options.half):
            restored, logits = self.network(defective.contiguous(memory_format=torch.channels_last))
        restored, logits = restored.float(), logits.float()
        spread_x = _spread(good)
        has_mask: slice | Tensor = slice(None)
        if known:
            is_known, has_mask = known
            good = restoration_target(restored, good, mask, is_known)
        terms = self.terms(restoration(restored[has_mask], good[has_mask], mask[has_mask]), logits, mask, known)
        self.descend(terms["total"])
        spreads = {"spread_ae2": _spread(restored.detach()), "spread_x": spread_x}
        return {name: value.detach() for name, value in terms.items()} | spreads


def _spread(images: Tensor) -> Tensor:
    return images[..., ::SPREAD_STEP, ::SPREAD_STEP].std(0).mean()
