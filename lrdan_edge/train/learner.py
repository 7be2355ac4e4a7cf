"""What the training loop drives, whatever the recipe."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

SCALE, OFFSET = 2 / 255, -1.0  # uint8 to [-1, 1], what tanh gives

Batch = tuple[Tensor, ...]
"""What one step needs, on the host."""


class Learner(Protocol):
    """Networks with their optimisers."""

    @property
    def optimisers(self) -> Sequence[torch.optim.Optimizer]:
        """All optimisers, always in the same order; with the networks, they are all of a learner's state."""

    @property
    def paints(self) -> bool:
        """Whether `prepare` is long enough a work to be worth processes of its own, where a GPU trains."""

    @property
    def shown(self) -> int:
        """Which part of a batch is what AE2 sees."""

    def set_rate(self, share: float) -> None:
        """Use `share` (0 to 1) of the learning rates from now on."""

    def prepare(self, frames: Tensor, step: int) -> Batch:
        """Make a batch ready on the host, in whichever thread and order: chance depends on seed, step and place alone.

        Args:
            frames: The good images of the whole batch, uint8 [N, C, H, W].
            step: Which step it is for, from 0.

        Returns:
            What `step` takes.
        """

    @property
    def step(self) -> Callable[..., dict[str, Tensor]]:
        """One step on one batch: takes what `prepare` gives, on the networks' device.

        Returns every term over the batch, a detached scalar each; ``total``; ``spread_ae2`` and perhaps
        ``spread_g``, which a collapse brings to zero; and ``spread_x``, the images' own in the same units.
        """


def to_input(frames: Tensor, device: torch.device | None = None) -> Tensor:
    """Frames uint8 [N, C, H, W] as the networks see them: float32 in [-1, 1], channels last."""
    x = frames.to(device).float() * SCALE + OFFSET
    return x.contiguous(memory_format=torch.channels_last)
