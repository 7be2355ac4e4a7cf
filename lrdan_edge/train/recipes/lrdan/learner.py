"""The optimisation step of the recipe `lrdan`, which updates all three networks at once."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lrdan_edge.train.known_defects import draw_known, inverse_error
from lrdan_edge.train.learner import Batch, Learner, LearnerOptions, to_input
from lrdan_edge.train.recipes.lrdan import losses
from lrdan_edge.train.recipes.lrdan.hyperparameters import LrdanHyperparameters
from lrdan_edge.train.recipes.lrdan.networks import AdversarialNetworks


@contextmanager
def without_statistics(network: nn.Module) -> Iterator[None]:
    """Freeze the running statistics of batch normalisation: AE2 is deployed on images, so fakes must not change them."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def balanced_k(girec: Tensor, direc: Tensor, k: float) -> Tensor:
    """`k` while AE2 reconstructs fakes no worse than images (L_direc ≤ L_girec), else 0.

    This is not part of the paper's loss. It is BEGAN's control of k (arXiv 1703.10717, γ = 1), reduced to its two extremes. With a
    fixed k, AE2 diverges: the loss falls without limit as fakes are reconstructed worse, and reconstructions of images suffer too.

    Args:
        girec: L_girec, scalar.
        direc: L_direc, scalar.
        k: The published k, the upper limit.
    """
    return k * (direc.detach() <= girec.detach()).to(direc.dtype)


class AdversarialLearner(Learner):
    """Trains all three networks at once, each by the gradient of its own terms."""

    def __init__(
        self, networks: AdversarialNetworks, hyperparameters: LrdanHyperparameters, options: LearnerOptions | None = None
    ) -> None:
        """Set up the optimisers of the networks, which are trained in place."""
        self.networks, self.hyperparameters = networks, hyperparameters
        self._ae1, self._ae2 = list(networks.ae1.parameters()), list(networks.network.parameters())
        self._d = list(networks.discriminator.parameters())
        rate, betas = hyperparameters.learning_rate, hyperparameters.betas
        self._autoencoders = torch.optim.Adam([*self._ae1, *self._ae2], rate, betas=betas, fused=True)
        self._discriminator = torch.optim.Adam(self._d, rate * hyperparameters.discriminator_rate, betas=betas, fused=True)
        super().__init__((self._autoencoders, self._discriminator), options)

    def prepare(self, frames: Tensor, step: int) -> Batch:
        """Convert the images to float32 in [-1, 1], and draw known defects and their masks, if any; see `Learner.prepare`."""
        known, seed = self.options.known, (self.options.seed, step)
        return to_input(frames), *draw_known(known, len(frames), self.hyperparameters.known_fraction, seed)

    def step(self, x: Tensor, *known: Tensor) -> dict[str, Tensor]:
        """Make one step on one batch.

        Args:
            x: Images, float32 [N, C, H, W] in [-1, 1].
            known: Known defects, float32 [M, C, H, W] in [-1, 1], and their masks, [M, 1, H, W]; or nothing.

        Returns:
            Every term (unweighted scalars, detached), ``total`` and ``discriminator``; and ``spread_x``, ``spread_g`` and
            ``spread_ae2``, the mean standard deviation over the batch of x, G(x) and D'(x); the last two become zero in a
            collapse.
        """
        net, w, reading = self.networks, self.hyperparameters.weights, self.hyperparameters.dual_reading
        shown = torch.cat([x, known[0]]) if known else x  # one batch: batch normalisation must not reveal the defects
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.options.half):
            gx, z = net.ae1(x)
            logits_x, features_x = net.discriminator(x)
            logits_gx, features_gx = net.discriminator(gx)
            ae2_shown, _ = net.network(shown)
            with without_statistics(net.network):
                ae2_gx, z2 = net.network(gx)
        outputs = (gx, ae2_shown, ae2_gx, z, z2, features_x, features_gx, logits_x, logits_gx)
        gx, ae2_shown, ae2_gx, z, z2, features_x, features_gx, logits_x, logits_gx = (value.float() for value in outputs)
        ae2_x, ae2_defects = ae2_shown[: len(x)], ae2_shown[len(x) :]
        terms = {
            "irec": losses.irec(x, gx),
            "adv": losses.adv(features_x, features_gx),
            "zrec": losses.zrec(z, z2),
            "c": losses.c(z, net.center),
            "girec": losses.girec(x, ae2_x),
            "direc": losses.direc(gx, ae2_gx),
            "discriminator": losses.discrimination(logits_x, logits_gx),
        }
        k = balanced_k(terms["girec"], terms["direc"], w.k) if reading == "began" else w.k
        dual = losses.dual(terms["girec"], terms["direc"], k)
        generation = w.irec * terms["irec"] + w.adv * terms["adv"] + w.zrec * terms["zrec"] + w.c * terms["c"]
        total = generation + w.dual * dual
        if known:
            defects, where = known
            squares = (x - ae2_x).square().flatten(1).sum(1).mean()
            terms["known"] = inverse_error(squares, defects, ae2_defects, where)
            total = total + self.hyperparameters.known_weight * terms["known"]

        self._autoencoders.zero_grad()
        self._discriminator.zero_grad()
        terms["discriminator"].backward(inputs=self._d, retain_graph=True)  # type: ignore[no-untyped-call]
        if reading == "joint":
            total.backward(inputs=[*self._ae1, *self._ae2])  # type: ignore[no-untyped-call]
        else:
            total.backward(inputs=self._ae2, retain_graph=True)  # type: ignore[no-untyped-call]
            (generation + w.dual * terms["direc"]).backward(inputs=self._ae1)  # type: ignore[no-untyped-call]
        self._autoencoders.step()
        self._discriminator.step()
        images = {"spread_x": x, "spread_g": gx.detach(), "spread_ae2": ae2_x.detach()}
        spread = {name: value.std(0).mean() for name, value in images.items()}
        return {name: value.detach() for name, value in (terms | {"dual": dual, "total": total}).items()} | spread
