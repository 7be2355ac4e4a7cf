"""What the training loop drives, whatever the recipe."""

from typing import Protocol

from torch import Tensor


class Learner(Protocol):
    """Networks with their optimisers."""

    def set_rate(self, share: float) -> None:
        """Use `share` (0 to 1) of the learning rates from now on."""

    def step(self, x: Tensor) -> dict[str, Tensor]:
        """One step on one batch.

        Args:
            x: Good images, float32 [N, C, H, W] in [-1, 1].

        Returns:
            Every term, a detached scalar each; ``total``; ``spread_ae2`` and perhaps ``spread_g``, which a collapse brings to zero.
        """
