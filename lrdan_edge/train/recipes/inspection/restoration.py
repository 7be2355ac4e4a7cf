"""The recipe ``inspection``: AE2 alone, taught to restore good images from defective ones and to mark what it restored.

The dual term's idea (AE2 must not reconstruct fakes), with fakes that look like defects in place of G's.
"""

from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrdan_edge.model.deployed import standardisation
from lrdan_edge.model.networks import Restorer
from lrdan_edge.train.known_defects import WEIGHT, KnownDefects, bag, mix, target
from lrdan_edge.train.learner import Batch
from lrdan_edge.train.recipes.inspection.synthetic import CLEAN_SHARE, Image, paint

AREA = 400.0  # pixels: a defect of this size weighs as a fortieth of its image does, by the root of its area
SMALLEST_AREA = 30.0
MARKING, OVERLAP = 4.0, 0.5  # weights beside the restoration's 1
WEIGHT_DECAY, LARGEST_GRADIENT = 1e-4, 1.0
NOISY_SHARE, MOST_NOISE = 0.3, 0.02
MOST_SHIFT, MOST_TURN, MOST_ZOOM = 0.04, 2.0, 1.12  # of the side; degrees; factor
FEW_IMAGES, MOST_STRETCH = 200, 1.3  # fewer images than that are stretched; factor, of rows or of columns
SPREAD_STEP = 4  # pixels: every fourth one each way tells a collapse as well as all do


def restoration(restored: Tensor, good: Tensor, mask: Tensor) -> Tensor:
    """E‖x − D'(x̃)‖₁ over the good pixels, plus the same over the defective ones: x is asked back from the defective x̃.

    In one mean over all pixels the defective ones, a few in a hundred, count so little that AE2 learns to change nothing.

    Args:
        restored: D'(x̃), float [N, C, H, W].
        good: x, the same shape.
        mask: 1 where defective, float [N, 1, H, W].
    """
    error = (restored - good).abs().mean(1, keepdim=True)
    kept, mended = ((error * part).sum() / part.sum().clamp_min(1) for part in (1 - mask, mask))
    return kept + mended


def marking(logits: Tensor, mask: Tensor) -> Tensor:
    """Focal cross entropy (arXiv 1708.02002, γ = 1) in which a defect counts by the root of its area.

    Per pixel, one large stain would outweigh a hundred hairline cracks, which are what inspection is about.

    Args:
        logits: Log-odds of a defect, float [N, 1, H, W].
        mask: 1 where defective, the same shape.
    """
    area = mask.sum((1, 2, 3), keepdim=True).clamp_min(SMALLEST_AREA)
    pixels = mask.shape[-2] * mask.shape[-1]
    weight = (1 - mask) + mask * (0.5 * pixels / AREA) / area.sqrt()
    entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    return (weight * entropy * (1 - torch.exp(-entropy))).mean()


def overlap(logits: Tensor, mask: Tensor) -> Tensor:
    """Soft Dice loss (arXiv 1606.04797) over the images that have a defect; 0 if none has.

    Args:
        logits: As `marking`.
        mask: As `marking`.
    """
    marked = torch.sigmoid(logits)
    common, both = (marked * mask).sum((1, 2, 3)), marked.sum((1, 2, 3)) + mask.sum((1, 2, 3))
    defective = (mask.amax((1, 2, 3)) > 0).to(logits.dtype)
    dice = 1 - (2 * common + 1) / (both + 1)
    return (dice * defective).sum() / defective.sum().clamp_min(1)


class Restoration:
    """Steps a `Restorer` towards less loss; the counterpart of `Optimisation`."""

    def __init__(
        self,
        ae2: Restorer,
        learning_rate: float,
        seed: int,
        *,
        half: bool,
        known: KnownDefects | None = None,
        stretch: float = 1.0,
    ) -> None:
        """Set up.

        Args:
            ae2: What to train, in place.
            learning_rate: AdamW's, at its highest; see `set_rate`.
            seed: Seed of the defects.
            half: Whether convolutions run in bfloat16 (losses and weights stay in float32).
            known: Labelled defects to learn from too.
            stretch: How far good images are stretched; see `stretch_for`.
        """
        self._vary = partial(vary, stretch=stretch)
        self.ae2, self.half, self._rate, self._known = ae2, half, learning_rate, known
        self._seed = seed
        self._optimiser = torch.optim.AdamW(
            ae2.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True
        )
        self.optimisers = (self._optimiser,)
        self.paints, self.shown = True, 1

    def set_rate(self, share: float) -> None:
        """Use `share` (0 to 1) of the learning rate from now on."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * share

    def prepare(self, frames: Tensor, step: int) -> Batch:
        """Vary the good images and paint defects into them; see `Learner.prepare`.

        Returns:
            Good images varied, the same with defects (both float32 [N, C, H, W] in [-1, 1]), and masks [N, 1, H, W]; with known
            defects, all that `Mixed` has.
        """
        images = np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy(), np.float32) / np.float32(255)
        drawn = [self._draw(images, index, step) for index in range(len(images))]
        good, defective, masks = (_tensor(list(part)) for part in zip(*drawn, strict=True))
        good, defective = good * 2 - 1, defective * 2 - 1
        if self._known is None:
            return good, defective, masks
        count = len(images)

        def chance(place: int) -> np.random.Generator:
            return np.random.default_rng((self._seed, step, count + place))  # `_draw` uses those up to `count`

        return mix(self._known, good, defective, masks, chance, self._vary)

    def step(self, good: Tensor, defective: Tensor, mask: Tensor, *known: Tensor) -> dict[str, Tensor]:
        """One step on one batch: ask the good images and the masks back from the defective ones.

        Args:
            good: Good images, float32 [N, C, H, W] in [-1, 1].
            defective: The same with defects, likewise.
            mask: 1 where defective, float32 [N, 1, H, W].
            known: `Mixed.whole` and `Mixed.marked`; or nothing.

        Returns:
            Every term (unweighted scalars, detached), ``total``, and ``spread_ae2`` and ``spread_x``, the mean standard
            deviations over the batch of the restored and of the good images, both standardised.
        """
        mean, deviation = standardisation(defective)
        good, defective = (good - mean) / deviation, (defective - mean) / deviation
        with torch.autocast(good.device.type, torch.bfloat16, enabled=self.half):
            restored, logits = self.ae2(defective.contiguous(memory_format=torch.channels_last))
        restored, logits = restored.float(), logits.float()
        spread_x = _spread(good)
        marked: slice | Tensor = slice(None)
        if known:
            whole, marked = known
            good = target(restored, good, mask, whole)
        terms = {
            "restoration": restoration(restored[marked], good[marked], mask[marked]),
            "marking": marking(logits[marked], mask[marked]),
            "overlap": overlap(logits[marked], mask[marked]),
        }
        terms["total"] = terms["restoration"] + MARKING * terms["marking"] + OVERLAP * terms["overlap"]
        if known:
            terms["known"] = bag(logits[~known[1]])
            terms["total"] = terms["total"] + WEIGHT * terms["known"]
        self._optimiser.zero_grad()
        terms["total"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.ae2.parameters(), LARGEST_GRADIENT)
        self._optimiser.step()
        spreads = {"spread_ae2": _spread(restored.detach()), "spread_x": spread_x}
        return {name: value.detach() for name, value in terms.items()} | spreads

    def _draw(self, images: Image, index: int, step: int) -> tuple[Image, Image, Image]:
        """Image `index` of the batch [N, H, W, C] in [0, 1] varied, the same with defects, and the mask [H, W, 1].

        Chance depends on seed, step and place, so that neither painting ahead nor resuming changes what is drawn.
        """
        rng = np.random.default_rng((self._seed, step, index))
        varied = self._vary(images[index], rng)
        painted, mask = varied, np.zeros(varied.shape[:2], np.float32)
        if rng.random() >= CLEAN_SHARE and len(images) > 1:
            other = images[(index + int(rng.integers(1, len(images)))) % len(images)]
            painted, mask = paint(varied, other, rng)
        if rng.random() < NOISY_SHARE:
            noise = rng.standard_normal(painted.shape, np.float32) * rng.uniform(0, MOST_NOISE)
            painted = painted + noise.astype(np.float32)
        return varied, painted, mask[..., None]


def _spread(images: Tensor) -> Tensor:
    return images[..., ::SPREAD_STEP, ::SPREAD_STEP].std(0).mean()


def stretch_for(images: int) -> float:
    """How far rows or columns of good images may be stretched, a factor: `MOST_STRETCH` where there are few images to learn from.

    Few images do not show all that varies: brick's joints are not all as wide as those of 120 pictures. Many do, and stretching
    them too hides defects: on 340 magnetic tiles it cost 0.03 of the pixel AUROC.
    """
    return MOST_STRETCH if images < FEW_IMAGES else 1.0


def vary(image: Image, rng: np.random.Generator, stretch: float = 1.0) -> Image:
    """A line's natural variation: mirrored, exposed, moved, turned, enlarged and perhaps stretched.

    Args:
        image: float32 [H, W, C] in [0, 1].
        rng: Draws it.
        stretch: The largest factor by which rows or columns are stretched, 1 or more.

    Returns:
        float32 [H, W, C] in [0, 1].
    """
    height, width = image.shape[:2]
    rows, columns = (-1 if rng.random() < 0.5 else 1 for _ in range(2))
    image = np.ascontiguousarray(image[::rows, ::columns])
    if rng.random() < 0.7:
        image = np.clip(image ** rng.uniform(0.8, 1.25) * rng.uniform(0.85, 1.15), 0, 1).astype(np.float32)
    if rng.random() < 0.5:
        degrees, zoom = rng.uniform(-MOST_TURN, MOST_TURN), rng.uniform(1, MOST_ZOOM)
        turn: npt.NDArray[Any] = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, zoom)
        turn[:, 2] += rng.uniform(-MOST_SHIFT, MOST_SHIFT, 2) * (width, height)
        if stretch > 1:
            axis = int(rng.integers(2))
            factor = np.exp(rng.uniform(0, np.log(stretch)))
            turn[axis] *= factor
            turn[axis, 2] -= rng.uniform(0, factor - 1) * (width, height)[axis]  # which part of it is seen
        moved = cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
        image = np.asarray(moved, np.float32).reshape(image.shape)
    return np.asarray(image, np.float32)


def _tensor(images: list[npt.NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
