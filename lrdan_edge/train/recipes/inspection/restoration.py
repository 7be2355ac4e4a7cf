"""The learner for a restorer: it restores good images from images with synthetic defects, and marks the defects.

This is the idea of LRDAN's dual term (AE2 must not reconstruct fakes), with synthetic defects instead of fakes of G.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.model.deployed import standardisation
from lrdan_edge.model.networks import Restorer
from lrdan_edge.train.learner import Batch, Learner, LearnerOptions
from lrdan_edge.train.recipes.inspection.hyperparameters import InspectionHyperparameters
from lrdan_edge.train.recipes.inspection.known import mix_known_defects, most_suspicious_loss, restoration_target
from lrdan_edge.train.recipes.inspection.reconstruction import adamw
from lrdan_edge.train.recipes.inspection.synthetic import paint
from lrdan_edge.train.recipes.inspection.variation import Image, vary

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


def marking(logits: Tensor, mask: Tensor, hyperparameters: InspectionHyperparameters) -> Tensor:
    """Focal cross entropy (arXiv 1708.02002, γ = 1) in which a defect counts by the root of its area.

    If every pixel counted the same, one large stain would outweigh a hundred hairline cracks, which matter most in inspection.

    Args:
        logits: Log-odds of a defect, float [N, 1, H, W].
        mask: 1 where defective, the same shape.
        hyperparameters: The hyperparameters.
    """
    area = mask.sum((1, 2, 3), keepdim=True).clamp_min(hyperparameters.smallest_area)
    pixels = mask.shape[-2] * mask.shape[-1]
    weight = (1 - mask) + mask * (0.5 * pixels / hyperparameters.reference_area) / area.sqrt()
    entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    return (weight * entropy * (1 - torch.exp(-entropy))).mean()


def overlap(logits: Tensor, mask: Tensor) -> Tensor:
    """Soft Dice loss (arXiv 1606.04797) over the images that have a defect; 0 if none has.

    Args:
        logits: See `marking`.
        mask: See `marking`.
    """
    marked = torch.sigmoid(logits)
    common, both = (marked * mask).sum((1, 2, 3)), marked.sum((1, 2, 3)) + mask.sum((1, 2, 3))
    defective = (mask.amax((1, 2, 3)) > 0).to(logits.dtype)
    dice = 1 - (2 * common + 1) / (both + 1)
    return (dice * defective).sum() / defective.sum().clamp_min(1)


class RestorationLearner(Learner):
    """Trains a `Restorer`."""

    paints = True
    shown = 1

    def __init__(
        self,
        network: Restorer,
        hyperparameters: InspectionHyperparameters,
        options: LearnerOptions | None = None,
        stretch: float = 1.0,
    ) -> None:
        """Set up the optimiser of the network, which is trained in place; `stretch` as in `variation.vary`."""
        self.network, self.hyperparameters = network, hyperparameters
        self._vary = partial(vary, hyperparameters=hyperparameters, stretch=stretch)
        self._optimiser = adamw(network, hyperparameters, hyperparameters.betas)
        super().__init__((self._optimiser,), options)

    def prepare(self, frames: Tensor, step: int) -> Batch:
        """Vary the good images and paint defects into them; see `Learner.prepare`.

        Returns:
            Good images varied, the same with defects (both float32 [N, C, H, W] in [-1, 1]), and masks [N, 1, H, W]; with known
            defects, the parts of a `MixedBatch`.
        """
        images = np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy(), np.float32) / np.float32(255)
        drawn = [self._draw(images, index, step) for index in range(len(images))]
        good, defective, masks = (_tensor(list(part)) for part in zip(*drawn, strict=True))
        good, defective = good * 2 - 1, defective * 2 - 1
        if self.options.known is None:
            return good, defective, masks
        count = len(images)

        def generator(place: int) -> np.random.Generator:
            return np.random.default_rng((self.options.seed, step, count + place))  # `_draw` uses the seeds below `count`

        return mix_known_defects(self.options.known, good, defective, masks, generator, self._vary, self.hyperparameters)

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
        terms = {
            "restoration": restoration(restored[has_mask], good[has_mask], mask[has_mask]),
            "marking": marking(logits[has_mask], mask[has_mask], self.hyperparameters),
            "overlap": overlap(logits[has_mask], mask[has_mask]),
        }
        weights = self.hyperparameters
        terms["total"] = (
            terms["restoration"] + weights.marking_weight * terms["marking"] + weights.overlap_weight * terms["overlap"]
        )
        if known:
            terms["known"] = most_suspicious_loss(logits[~known[1]], weights.known_pixels)
            terms["total"] = terms["total"] + weights.known_weight * terms["known"]
        self._optimiser.zero_grad()
        terms["total"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.hyperparameters.largest_gradient)
        self._optimiser.step()
        spreads = {"spread_ae2": _spread(restored.detach()), "spread_x": spread_x}
        return {name: value.detach() for name, value in terms.items()} | spreads

    def _draw(self, images: Image, index: int, step: int) -> tuple[Image, Image, Image]:
        """Image `index` of the batch [N, H, W, C] in [0, 1] varied, the same with defects, and the mask [H, W, 1]."""
        rng = np.random.default_rng((self.options.seed, step, index))
        varied = self._vary(images[index], rng)
        painted, mask = varied, np.zeros(varied.shape[:2], np.float32)
        if rng.random() >= self.hyperparameters.clean_fraction and len(images) > 1:
            other = images[(index + int(rng.integers(1, len(images)))) % len(images)]
            painted, mask = paint(varied, other, rng, self.hyperparameters)
        if rng.random() < self.hyperparameters.noisy_fraction:
            noise = rng.standard_normal(painted.shape, np.float32) * rng.uniform(0, self.hyperparameters.most_noise)
            painted = painted + noise.astype(np.float32)
        return varied, painted, mask[..., None]


def _spread(images: Tensor) -> Tensor:
    return images[..., ::SPREAD_STEP, ::SPREAD_STEP].std(0).mean()


def _tensor(images: list[npt.NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
