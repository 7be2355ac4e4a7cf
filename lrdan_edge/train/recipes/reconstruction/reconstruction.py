"""The recipe ``inspection`` for images of one object each: AE2 alone, taught to draw good images from a short code.

A restorer with skip connections copies a digit of another kind as well as its own; ten numbers cannot.
"""

import torch
from torch import Tensor

from lrdan_edge.model.networks import Autoencoder
from lrdan_edge.train.known_defects import KnownDefects, inverse_error
from lrdan_edge.train.learner import Batch, to_input

WEIGHT_DECAY = 1e-4
KNOWN = 0.05  # weight of known defects beside the reconstruction's 1


def reconstruction(x: Tensor, drawn: Tensor) -> Tensor:
    """E‖x − x''‖₂²: summed over an image's pixels, then averaged over the batch.

    Args:
        x: Good images, float [N, C, H, W].
        drawn: Their reconstructions, the same shape.
    """
    return (x - drawn).square().flatten(1).sum(1).mean()


class Reconstruction:
    """Steps an `Autoencoder` towards less error; the counterpart of `Optimisation`."""

    def __init__(
        self, ae2: Autoencoder, learning_rate: float, *, half: bool, known: KnownDefects | None = None, seed: int = 0
    ) -> None:
        """Set up.

        Args:
            ae2: What to train, in place.
            learning_rate: AdamW's, at its highest; see `set_rate`.
            half: Whether convolutions run in bfloat16 (losses and weights stay in float32).
            known: Labelled defects to learn from too.
            seed: Draws these.
        """
        self.ae2, self.half, self._rate, self._known, self._seed = ae2, half, learning_rate, known, seed
        self._optimiser = torch.optim.AdamW(ae2.parameters(), learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
        self.optimisers = (self._optimiser,)
        self.paints, self.shown = False, 0

    def set_rate(self, share: float) -> None:
        """Use `share` (0 to 1) of the learning rate from now on."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * share

    def prepare(self, frames: Tensor, step: int) -> Batch:
        """See `Learner.prepare`: the images, float32 in [-1, 1]; and with known defects, some of them and where to look."""
        known = self._known.draw(len(frames), (self._seed, step, len(frames))) if self._known else ()
        return (to_input(frames), *known)

    def step(self, x: Tensor, *known: Tensor) -> dict[str, Tensor]:
        """One step on one batch.

        Args:
            x: Good images, float32 [N, C, H, W] in [-1, 1].
            known: Known defects, float32 [M, C, H, W] in [-1, 1], and where they are defective, [M, 1, H, W]; or nothing.

        Returns:
            The terms (detached scalars), ``total``, and ``spread_x`` and ``spread_ae2``, the mean standard deviations over the
            batch of the images and the reconstructions.
        """
        shown = torch.cat([x, known[0]]) if known else x  # one batch: batch normalisation must not give the defects away
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            everything, _ = self.ae2(shown)
        drawn, drawn_defects = everything[: len(x)].float(), everything[len(x) :].float()
        loss = reconstruction(x, drawn)
        terms = {"reconstruction": loss}
        if known:
            defects, where = known
            terms["known"] = inverse_error(loss, defects, drawn_defects, where)
            loss = loss + KNOWN * terms["known"]
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        spread = {"spread_x": x.std(0).mean(), "spread_ae2": drawn.detach().std(0).mean()}
        return {name: value.detach() for name, value in terms.items()} | {"total": loss.detach()} | spread
