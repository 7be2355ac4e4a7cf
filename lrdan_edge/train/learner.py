"""The interface between the training loop and a recipe."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrdan_edge.train.known_defects import KnownDefects

SCALE, OFFSET = 2 / 255, -1.0  # uint8 to [-1, 1], the range of tanh

Batch = tuple[Tensor, ...]
"""The tensors of one step, on the host."""


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """What every learner is told.

    Attributes:
        seed: Random seed of `Learner.prepare`.
        half: Whether convolutions run in bfloat16; losses, sums and weights stay in float32.
        known: Labelled defects to train on too, or None.
    """

    seed: int = 0
    half: bool = False
    known: KnownDefects | None = None


class Learner(ABC):
    """Networks with their losses and optimisers.

    Attributes:
        options: The options.
        optimisers: All optimisers, always in the same order. With the networks, they are the learner's complete state.
        paints: Whether `prepare` is slow enough to need worker processes when a GPU trains.
        shown: Index of the part of a batch that is the input of AE2.
    """

    paints = False
    shown = 0

    def __init__(self, optimisers: Sequence[torch.optim.Optimizer] = (), options: LearnerOptions | None = None) -> None:
        """Keep the optimisers; their current learning rates are the peak learning rates."""
        self.options = options or LearnerOptions()
        self.optimisers = tuple(optimisers)
        self._peak_rates: list[float] = [optimiser.param_groups[0]["lr"] for optimiser in self.optimisers]

    def set_rate(self, fraction: float) -> None:
        """Use `fraction` (0 to 1) of the peak learning rates from now on."""
        for optimiser, rate in zip(self.optimisers, self._peak_rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * fraction

    @property
    def learning_rate(self) -> float | None:
        """The learning rate of the first optimiser, if there is one."""
        return self.optimisers[0].param_groups[0]["lr"] if self.optimisers else None

    @abstractmethod
    def prepare(self, frames: Tensor, step: int) -> Batch:
        """Prepare a batch on the host, in any process and order: random draws depend only on seed, step and index in the batch.

        Args:
            frames: The good images of the whole batch, uint8 [N, C, H, W].
            step: The step, from 0.

        Returns:
            The arguments of `step`.
        """

    @abstractmethod
    def step(self, *batch: Any, **named: Any) -> dict[str, Tensor]:
        """Make one step on the output of `prepare`, moved to the networks' device.

        Returns:
            The loss terms of the batch as detached scalars; ``total``; ``spread_ae2`` and optionally ``spread_g``, which become
            zero in a collapse; and ``spread_x``, the spread of the images in the same units. A learner without a loss returns any
            measures of the batch.
        """


def to_input(frames: Tensor, device: torch.device | None = None) -> Tensor:
    """Convert frames uint8 [N, C, H, W] to network input: float32 in [-1, 1], channels last."""
    x = frames.to(device).float() * SCALE + OFFSET
    return x.contiguous(memory_format=torch.channels_last)
