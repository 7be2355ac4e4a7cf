"""Detect a collapse of training at every step, so that training stops within an epoch (or 10 steps) and the error names a fix.

A diverging AE2 (with a large k, it only learns to reconstruct fakes badly) has no separate sign. It ends in constant images of G or
AE2, which are detected; a high L_direc is not a sign, since the dual term maximises it.
"""

import math
from collections.abc import Iterator

from lrdan_edge.errors import CollapseError

AFTER = 100  # steps; before that the networks may be constant
LEAST_PATIENCE, MOST_PATIENCE = 10, 50  # limits of the consecutive steps that prove a collapse; in between, one epoch
COLLAPSED = 0.01  # fraction of the images' spread below which all reconstructions count as equal
LEAST_SPREAD = 0.05  # in a range of 2; below this, the images are too similar to detect a collapse
CERTAIN = 0.05  # discriminator loss at about 95 % certainty; healthy runs stay far above


class CollapseDetector:
    """Detects the collapse of one run from its losses."""

    def __init__(self, steps_per_epoch: int, counts: dict[str, int]) -> None:
        """Start, or continue.

        Args:
            steps_per_epoch: Steps that a sign must last, limited to `LEAST_PATIENCE` and `MOST_PATIENCE`.
            counts: Consecutive steps with each sign; updated in place.
        """
        self.patience = min(MOST_PATIENCE, max(LEAST_PATIENCE, steps_per_epoch))
        self.counts = counts

    def check(self, losses: dict[str, float], epoch: int, step: int) -> None:
        """Check the losses of one step.

        Args:
            losses: The results of `Learner.step`, with ``spread_x``, the images' spread in the units of ``spread_ae2``.
            epoch: The epoch of the step, from 1, for the message.
            step: The step, from 1.

        Raises:
            CollapseError: A loss is not finite; or for `patience` consecutive steps, a network's output was the same for every image
                or the discriminator was nearly certain.
        """
        for name, value in losses.items():
            if not math.isfinite(value):
                raise CollapseError(
                    f"loss {name} became {value} in epoch {epoch}, step {step}; nothing was saved",
                    "train again with another {seed} or a lower {learning_rate}",
                )
        if step < AFTER:
            return
        signs = dict(_signs(losses))
        for name in [name for name in self.counts if name not in signs]:
            del self.counts[name]
        for name, said in signs.items():
            self.counts[name] = self.counts.get(name, 0) + 1
            if self.counts[name] >= self.patience:
                raise CollapseError(f"{said} in epoch {epoch}, for {self.patience} steps; nothing was saved", _FIXES[name])


_FIXES = {
    "spread_g": "train again with another {seed}, a lower {learning_rate} or more images",
    "spread_ae2": "train again with another {seed}, a lower {learning_rate} or more images",
    "discriminator": "train again with a lower {learning_rate}, another {seed} or more images",
}


def _signs(losses: dict[str, float]) -> Iterator[tuple[str, str]]:
    spread = losses.get("spread_x", 0.0)  # a recipe that is fitted cannot collapse
    for name, network in (("spread_g", "AE1 (the generator)"), ("spread_ae2", "AE2")):
        if name in losses and spread > LEAST_SPREAD and losses[name] < COLLAPSED * spread:
            yield (name, f"{network} collapsed to one constant image (spread {losses[name]:.2g}, the images' is {spread:.2g})")
    if losses.get("discriminator", math.inf) < CERTAIN:
        yield "discriminator", f"the discriminator ran away (its loss is {losses['discriminator']:.2g}, below {CERTAIN:g})"
