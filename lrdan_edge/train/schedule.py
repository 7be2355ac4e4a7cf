"""The length of a training run, and its learning rate at each step."""

import math
from dataclasses import dataclass

WARM_UP_STEPS = 30


def rate_at(step: int, steps: int, warm_up_steps: int = WARM_UP_STEPS) -> float:
    """The learning rate at `step` of `steps`, as a fraction of its peak: a short linear rise, then half a cosine down to zero."""
    return min(1.0, (step + 1) / warm_up_steps) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class Schedule:
    """The length of a run.

    Attributes:
        batch_size: Images per step.
        steps_per_epoch: Steps of one epoch.
        epochs: Passes over the images.
        warm_up_steps: Steps over which the learning rate rises.
        whole: Whether an epoch ends with an incomplete batch, if the images do not divide, instead of skipping it.
    """

    batch_size: int
    steps_per_epoch: int
    epochs: int
    warm_up_steps: int = WARM_UP_STEPS
    whole: bool = False

    @property
    def steps(self) -> int:
        """Number of steps of all epochs."""
        return self.steps_per_epoch * self.epochs

    def rate_at(self, step: int) -> float:
        """See `rate_at`."""
        return rate_at(step, self.steps, self.warm_up_steps)
