"""The losses of a network that marks synthetic defects."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lrdan_edge.train.painting.hyperparameters import PaintingHyperparameters


def marking(logits: Tensor, mask: Tensor, hyperparameters: PaintingHyperparameters) -> Tensor:
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
