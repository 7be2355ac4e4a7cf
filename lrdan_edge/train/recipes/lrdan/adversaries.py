"""The three networks at work: one optimisation step of LRDAN."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.model.networks import Autoencoder, Discriminator, code_grid
from lrdan_edge.train.known_defects import KnownDefects, inverse_error
from lrdan_edge.train.learner import Batch, to_input
from lrdan_edge.train.recipes.lrdan import losses
from lrdan_edge.train.recipes.lrdan.losses import LossWeights

DualReading = Literal["began", "joint"]
"""Who minimises the dual term L_girec − k·L_direc, which the paper's summary leaves open.

``joint``: G and AE2 both do, with a fixed k, so that G seeks what AE2 cannot reconstruct. ``began``: AE2 does, and G
minimises L_direc; k is held in BEGAN's balance (`balanced_k`), which is our addition: the published k is its upper limit.
"""

BETAS = (0.5, 0.999)


class Adversaries(nn.Module):
    """AE1 (G), AE2 (D'), the discriminator D, and c, the centre of AE1's codes."""

    center: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.ae1, self.ae2, self.discriminator = Autoencoder(spec), Autoencoder(spec), Discriminator(spec)
        grid = (1, 1) if spec.code == "vector" else code_grid(spec)
        self.register_buffer("center", torch.zeros(spec.latent_channels, *grid))

    @torch.no_grad()
    def place_center(self, x: Tensor) -> None:
        """Set c to the mean code of some images before training, as Deep SVDD does; it stays there.

        Args:
            x: Images, float [N, C, H, W] in [-1, 1].
        """
        self.center.copy_(self.ae1(x)[1].mean(0))


@contextmanager
def without_statistics(network: nn.Module) -> Iterator[None]:
    """Leave batch normalisation's running statistics alone: AE2 is deployed on images, so only images may form them."""
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
    """`k` while fakes are reconstructed no worse than images (L_direc ≤ L_girec), else 0.

    Not in the paper's loss: BEGAN's control of k (arXiv 1703.10717, γ = 1) driven to its two limits. A fixed k lets AE2 run
    away: reconstructing fakes ever worse pays without end, and its images suffer with them.

    Args:
        girec: L_girec, scalar.
        direc: L_direc, scalar.
        k: The published k, the most it can be.
    """
    return k * (direc.detach() <= girec.detach()).to(direc.dtype)


class Optimisation:
    """Steps `Adversaries` towards less loss; all three networks move at once, each by its own term's gradient."""

    def __init__(
        self,
        networks: Adversaries,
        weights: LossWeights,
        dual_reading: DualReading,
        learning_rate: float,
        *,
        half: bool,
        known: KnownDefects | None = None,
        seed: int = 0,
    ) -> None:
        """Set up.

        Args:
            networks: What to train, in place.
            weights: The losses' weights.
            dual_reading: Who minimises the dual term.
            learning_rate: Adam's, at its highest; see `set_rate`.
            half: Whether convolutions run in bfloat16 (losses, sums and weights stay in float32).
            known: Labelled defects that AE2 must not reconstruct.
            seed: Draws these.
        """
        self._known, self._seed = known, seed
        self.networks, self.weights, self.dual_reading, self.half = networks, weights, dual_reading, half
        self.device = networks.center.device.type
        self._ae1, self._ae2 = list(networks.ae1.parameters()), list(networks.ae2.parameters())
        self._d = list(networks.discriminator.parameters())
        self._autoencoders = torch.optim.Adam([*self._ae1, *self._ae2], learning_rate, betas=BETAS, fused=True)
        self._discriminator = torch.optim.Adam(self._d, learning_rate / 4, betas=BETAS, fused=True)
        self._rates = (learning_rate, learning_rate / 4)
        self.optimisers = (self._autoencoders, self._discriminator)
        self.paints, self.shown = False, 0

    def set_rate(self, share: float) -> None:
        """Use `share` (0 to 1) of the learning rates from now on."""
        for optimiser, rate in zip((self._autoencoders, self._discriminator), self._rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * share

    def prepare(self, frames: Tensor, step: int) -> Batch:
        """See `Learner.prepare`: the images, float32 in [-1, 1]; and with known defects, some of them and where to look."""
        known = self._known.draw(len(frames), (self._seed, step, len(frames))) if self._known else ()
        return (to_input(frames), *known)

    def step(self, x: Tensor, *known: Tensor) -> dict[str, Tensor]:
        """One step on one batch.

        Args:
            x: Images, float32 [N, C, H, W] in [-1, 1].
            known: Known defects, float32 [M, C, H, W] in [-1, 1], and where they are defective, [M, 1, H, W]; or nothing.

        Returns:
            Every term (unweighted scalars, detached), ``total`` and ``discriminator``; and ``spread_x``, ``spread_g`` and
            ``spread_ae2``, the mean standard deviation over the batch of x, G(x) and D'(x), of which a collapse brings the last
            two to zero.
        """
        net, w = self.networks, self.weights
        shown = torch.cat([x, known[0]]) if known else x  # one batch: batch normalisation must not give the defects away
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            gx, z = net.ae1(x)
            logits_x, features_x = net.discriminator(x)
            logits_gx, features_gx = net.discriminator(gx)
            ae2_shown, _ = net.ae2(shown)
            with without_statistics(net.ae2):
                ae2_gx, z2 = net.ae2(gx)
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
        k = balanced_k(terms["girec"], terms["direc"], w.k) if self.dual_reading == "began" else w.k
        dual = losses.dual(terms["girec"], terms["direc"], k)
        generation = w.irec * terms["irec"] + w.adv * terms["adv"] + w.zrec * terms["zrec"] + w.c * terms["c"]
        total = generation + w.dual * dual
        if known:
            defects, where = known
            squares = (x - ae2_x).square().flatten(1).sum(1).mean()
            terms["known"] = inverse_error(squares, defects, ae2_defects, where)
            total = total + terms["known"]

        self._autoencoders.zero_grad()
        self._discriminator.zero_grad()
        terms["discriminator"].backward(inputs=self._d, retain_graph=True)  # type: ignore[no-untyped-call]
        if self.dual_reading == "joint":
            total.backward(inputs=[*self._ae1, *self._ae2])  # type: ignore[no-untyped-call]
        else:
            total.backward(inputs=self._ae2, retain_graph=True)  # type: ignore[no-untyped-call]
            (generation + w.dual * terms["direc"]).backward(inputs=self._ae1)  # type: ignore[no-untyped-call]
        self._autoencoders.step()
        self._discriminator.step()
        images = {"spread_x": x, "spread_g": gx.detach(), "spread_ae2": ae2_x.detach()}
        spread = {name: value.std(0).mean() for name, value in images.items()}
        return {name: value.detach() for name, value in (terms | {"dual": dual, "total": total}).items()} | spread
