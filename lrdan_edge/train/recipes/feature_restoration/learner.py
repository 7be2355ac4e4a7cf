"""The learner: AE2 restores the features of good images from those of images with synthetic defects; a decoder marks the defects."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lrdan_edge.model.deployed import standardisation
from lrdan_edge.model.feature_restorer import FeatureRestorer
from lrdan_edge.model.networks import doubled
from lrdan_edge.train.frozen_backbone import FrozenBackbone
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.painting.learner import PaintingLearner, adamw
from lrdan_edge.train.recipes.backbone import scaled
from lrdan_edge.train.recipes.feature_restoration.hyperparameters import FeatureRestorationHyperparameters


def restoration(restored: Sequence[Tensor], good: Sequence[Tensor], cosine_weight: float) -> Tensor:
    """Smooth L1 loss plus `cosine_weight` times one minus the cosine of the angle between feature vectors, summed over the strides.

    Args:
        restored: AE2's output, float [N, K, h, w] per stride.
        good: The good images' standardised features, of the same shapes.
        cosine_weight: Weight of the second part.
    """
    total = torch.zeros((), device=good[0].device)
    for one, other in zip(restored, good, strict=True):
        angle = 1 - F.cosine_similarity(one, other, 1)
        total = total + F.smooth_l1_loss(one, other) + cosine_weight * angle.mean()
    return total


class FeatureRestorationLearner(PaintingLearner):
    """Trains a `FeatureRestorer`; its backbone stays as it is."""

    def __init__(
        self,
        network: FeatureRestorer,
        hyperparameters: FeatureRestorationHyperparameters,
        options: LearnerOptions | None = None,
        stretch: float = 1.0,
    ) -> None:
        """Set up the optimiser of the network, which is trained in place; `stretch` as in `variation.vary`."""
        self.network, self.hyperparameters = network, hyperparameters
        optimiser = adamw(network, hyperparameters, hyperparameters.betas)
        self._backbone = FrozenBackbone(network.backbone)
        super().__init__((optimiser,), hyperparameters, options, stretch)

    def step(self, good: Tensor, defective: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Make one step on one batch.

        Args:
            good: Good images, float32 [N, C, H, W] in [-1, 1].
            defective: The same with defects, same shape.
            mask: 1 where defective, float32 [N, 1, H, W].

        Returns:
            Every term (unweighted scalars, detached), ``total``, and ``spread_ae2`` and ``spread_x``, the mean standard
            deviations over the batch of the restored and of the good features at the coarsest stride.
        """
        x, target = to_backbone(defective), to_backbone(good)
        mean, deviation = standardisation(x)
        x, target = (x - mean) / deviation, (target - mean) / deviation  # alike, so that they differ in the defects only
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.options.half):
            with torch.no_grad():
                good_features = self.network.standardised(self._backbone(target))[1:]
                features = self.network.standardised(self._backbone(x))
            restored, logits = self.network(x, features)
        restored, logits = [one.float() for one in restored], doubled(logits)
        good_features = [one.float() for one in good_features]
        loss = restoration(restored, good_features, self.hyperparameters.cosine_weight)
        terms = self.terms(loss, logits, mask)
        self.descend(terms["total"])
        spreads = {"spread_ae2": restored[-1].detach().std(0).mean(), "spread_x": good_features[-1].std(0).mean()}
        return {name: value.detach() for name, value in terms.items()} | spreads


def to_backbone(images: Tensor) -> Tensor:
    """Images in [-1, 1] to the range of the backbone's images: float32 [N, C, H, W], channels last."""
    return scaled((images + 1) * 127.5).contiguous(memory_format=torch.channels_last)
