"""Shared parts of the baselines: seeding, batches, gradient steps."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lrdan_edge.errors import TrainingError
from lrdan_edge.train.schedule import rate_at

SMALL_SIDE = 64


def require_finite(loss: Tensor, detector: str) -> None:
    """Refuse a training that ended in NaN or infinity.

    Args:
        loss: The last step's loss, a scalar; a NaN of an earlier step reaches it through the weights.
        detector: The detector's name for the message.

    Raises:
        TrainingError: It is not finite.
    """
    value = float(loss)
    if not math.isfinite(value):
        raise TrainingError(f"{detector}'s loss became {value}", "train again with another {seed}")


@contextmanager
def seeded(seed: int) -> Iterator[np.random.Generator]:
    """Seed torch inside the block and restore its global state afterwards; yields a NumPy generator with the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield np.random.default_rng(seed)


def index_batches(rng: np.random.Generator, count: int, size: int, steps: int) -> Iterator[Tensor]:
    """`steps` batches of indices below `count`, int64 [min(size, count)].

    Every epoch is a new random order cut into full batches, since a smaller last batch would disturb batch normalisation.
    """
    size = min(size, count)
    order, start = rng.permutation(count), 0
    for _ in range(steps):
        if start + size > count:
            order, start = rng.permutation(count), 0
        yield torch.from_numpy(order[start : start + size])
        start += size


def minimise(
    loss_of: Callable[[Tensor], Tensor], batches: Iterator[Tensor], steps: int, optimiser: torch.optim.Optimizer, detector: str
) -> None:
    """Make a gradient step per batch, with the learning rate of `rate_at`.

    Args:
        loss_of: The loss of a batch, a scalar.
        batches: The batches.
        steps: Their number.
        optimiser: Has the peak learning rate.
        detector: The detector's name for the message.

    Raises:
        TrainingError: The last loss is not finite.
    """
    rate = optimiser.param_groups[0]["lr"]
    loss = torch.zeros(())
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_at(step, steps)
        loss = loss_of(batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    require_finite(loss.detach(), detector)


def small_squares(frames: Tensor) -> Tensor:
    """Resize frames for networks for small images: frames above 64 pixels or not square are resized by averaging areas.

    Args:
        frames: uint8 [N, C, H, W].

    Returns:
        float32 [N, C, S, S] in [-1, 1], S the longer side, at most 64.
    """
    side = min(SMALL_SIDE, max(frames.shape[-2:]))
    if frames.shape[-2:] == (side, side):
        levels = frames.float()
    else:
        levels = torch.cat([F.interpolate(part.float(), size=(side, side), mode="area") for part in torch.split(frames, 64)])
    return levels / 127.5 - 1
