"""Training of a restorer on known defects (`lrdan_edge.train.known_defects`)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lrdan_edge.train.known_defects import KnownDefects
from lrdan_edge.train.painting.hyperparameters import PaintingHyperparameters
from lrdan_edge.train.painting.variation import Image


class MixedBatch(NamedTuple):
    """A batch of a restorer with known defects in it.

    Attributes:
        good: The images to restore, float32 [N, C, H, W].
        defective: The input, the same shape.
        mask: Float32 [N, 1, H, W], 1 where defective.
        known: Bool [N]: the image shows a known defect, so there is no restoration target inside the defect.
        has_mask: Bool [N]: the position of the defect is known.
    """

    good: Tensor
    defective: Tensor
    mask: Tensor
    known: Tensor
    has_mask: Tensor


def restoration_target(restored: Tensor, good: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """The target of restoration: `good`, but `restored` where the true target is unknown, so that the loss there is 0.

    Args:
        restored: The restorer's output for a batch, float [N, C, H, W].
        good: `MixedBatch.good`, standardised, the same shape.
        mask: `MixedBatch.mask`.
        known: `MixedBatch.known`.
    """
    return torch.where(known[:, None, None, None] & (mask > 0), restored.detach(), good)


def mix_known_defects(
    known: KnownDefects,
    good: Tensor,
    defective: Tensor,
    mask: Tensor,
    generator: Callable[[int], np.random.Generator],
    vary: Callable[[Image, np.random.Generator], Image],
    hyperparameters: PaintingHyperparameters,
) -> MixedBatch:
    """Replace some images of a batch, but never the first, by known defects.

    Args:
        known: The defects.
        good: Good images, float32 [N, C, H, W] in [-1, 1]; overwritten.
        defective: The same with synthetic defects; overwritten.
        mask: Float32 [N, 1, H, W]; overwritten.
        generator: Returns the random generator of a batch index.
        vary: Applies natural variation to an image float32 [H, W, C] in [0, 1].
        hyperparameters: The hyperparameters.
    """
    count = len(good)
    is_known, has_mask = torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    for place in range(count):
        rng = generator(place)
        if place == 0 or rng.random() >= hyperparameters.known_fraction:
            continue
        chosen = int(rng.integers(len(known.frames)))
        has_mask[place] = bool(known.masks[chosen].any())
        image, where = _varied(known.frames[chosen], known.masks[chosen], rng, vary, hyperparameters.known_mask_level)
        good[place], defective[place], mask[place], is_known[place] = image, image, where, True
    return MixedBatch(good, defective, mask, is_known, has_mask)


def _varied(
    frame: Tensor, mask: Tensor, rng: np.random.Generator, vary: Callable[[Image, np.random.Generator], Image], level: float
) -> tuple[Tensor, Tensor]:
    """Vary a frame uint8 [C, H, W] and its mask [H, W] in the same way: [C, H, W] in [-1, 1] and [1, H, W]."""
    state = rng.bit_generator.state
    image = vary(np.ascontiguousarray(frame.permute(1, 2, 0).numpy() / np.float32(255)), rng)
    rng.bit_generator.state = state  # the same draws again
    moved = vary(mask.numpy()[..., None].astype(np.float32), rng) > level
    return torch.from_numpy(image.transpose(2, 0, 1).copy()) * 2 - 1, torch.from_numpy(
        moved.transpose(2, 0, 1).astype(np.float32)
    )


def most_suspicious_loss(logits: Tensor, pixels: int) -> Tensor:
    """Multiple-instance loss of defects without a mask: −log σ of the mean log-odds of an image's most suspicious pixels.

    Args:
        logits: Log-odds of a defect, float [N, 1, H, W].
        pixels: Number of pixels of each image that count.

    Returns:
        The mean over the images, a scalar; 0 if there are none.
    """
    if len(logits) == 0:
        return logits.sum()
    flat = logits.flatten(1)
    highest = flat.topk(min(pixels, flat.shape[1])).values.mean(1)
    return F.softplus(-highest).mean()
