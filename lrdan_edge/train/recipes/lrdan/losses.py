"""LRDAN's five losses (arXiv 2002.01607), each a function named by its term.

L = w_irec·L_irec + w_adv·L_adv + w_zrec·L_zrec + w_c·L_c + w_dual·(L_girec − k·L_direc)

The balance of the published weights depends on the reductions. Here the equations are used literally: a norm sums over all elements
of one image, feature map or code, and E and "mean" are the mean over the batch. With means over pixels and features instead,
w_adv·L_adv is far larger than L_irec, and G follows the discriminator more than its image. The drawback is that L1 sums grow with
the number of pixels and L2 norms with its root, so reconstruction weighs more in larger images.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def irec(x: Tensor, gx: Tensor) -> Tensor:
    """Image reconstruction of AE1: L_irec = E‖x − G(x)‖₁, the sum of absolute differences per image.

    Args:
        x: Images, float [N, C, H, W].
        gx: G(x), the same shape.
    """
    return (x - gx).abs().flatten(1).sum(1).mean()


def adv(features_x: Tensor, features_gx: Tensor) -> Tensor:
    """Adversarial loss of AE1 as feature matching: L_adv = E‖f(x) − f(G(x))‖₂, f the discriminator's features.

    This is GANomaly's form. The logarithmic form (−log D(G(x))) rewards any image that D accepts, even a constant one. Feature
    matching pulls G(x) towards its own x, so G cannot collapse.

    Args:
        features_x: f(x), float [N, K, h, w]; no gradient flows through it (detached).
        features_gx: f(G(x)), the same shape.
    """
    return _norms(features_x.detach() - features_gx).mean()


def zrec(z: Tensor, z2: Tensor) -> Tensor:
    """Code reconstruction: L_zrec = E‖G_e(x) − G_e'(G(x))‖₂, AE1's code of x against AE2's code of x' = G(x).

    Args:
        z: G_e(x), float [N, ...].
        z2: G_e'(x'), the same shape.
    """
    return _norms(z - z2).mean()


def c(z: Tensor, center: Tensor) -> Tensor:
    """Compactness of the codes: L_c = mean‖φ(x) − c‖², φ AE1's encoder.

    Args:
        z: φ(x), float [N, ...].
        center: c, float, one image's code.
    """
    return (z - center).square().flatten(1).sum(1).mean()


def girec(x: Tensor, ae2_x: Tensor) -> Tensor:
    """First half of the dual term, AE2's reconstruction of images: L_girec = E‖x − D'(x)‖₁.

    Args:
        x: Images, float [N, C, H, W].
        ae2_x: D'(x), the same shape.
    """
    return (x - ae2_x).abs().flatten(1).sum(1).mean()


def direc(gx: Tensor, ae2_gx: Tensor) -> Tensor:
    """Second half of the dual term, AE2's reconstruction of fakes: L_direc = E‖G(x) − D'(G(x))‖₁.

    Args:
        gx: G(x), float [N, C, H, W].
        ae2_gx: D'(G(x)), the same shape.
    """
    return (gx - ae2_gx).abs().flatten(1).sum(1).mean()


def dual(girec_value: Tensor, direc_value: Tensor, k: Tensor | float) -> Tensor:
    """The dual term: L_dual = L_girec − k·L_direc.

    Args:
        girec_value: `girec`, scalar.
        direc_value: `direc`, scalar.
        k: Weight of the fakes.
    """
    return girec_value - k * direc_value


def discrimination(logits_x: Tensor, logits_gx: Tensor) -> Tensor:
    """The discriminator's loss: −E log D(x) − E log(1 − D(G(x))), the mean over patches, halved.

    Args:
        logits_x: D's logits for images, float [N, 1, h, w].
        logits_gx: D's logits for G(x), the same shape.
    """
    real = F.binary_cross_entropy_with_logits(logits_x, torch.ones_like(logits_x))
    fake = F.binary_cross_entropy_with_logits(logits_gx, torch.zeros_like(logits_gx))
    return (real + fake) / 2


def _norms(difference: Tensor) -> Tensor:
    """Euclidean norm per image, [N]; its gradient stays finite at zero."""
    return difference.flatten(1).square().sum(1).add(1e-12).sqrt()
