"""Shared parts of the baselines: checks, seeding, batches."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lrdan_edge.errors import DataError, TrainingError

SMALL_SIDE = 64


def require_frames(frames: Tensor, steps: int, least: int = 2) -> tuple[Literal[1, 3], int, int]:
    """Check the arguments of `fit`.

    Args:
        frames: Must be uint8 [N, C, H, W].
        steps: Must be at least 1.
        least: Smallest number of images.

    Returns:
        C, H and W.

    Raises:
        DataError: There are too few images, or they have another dtype or shape.
        TrainingError: `steps` is below 1.
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] not in (1, 3):
        raise DataError(f"images are uint8 [N, C, H, W] with 1 or 3 channels; these are {frames.dtype} {list(frames.shape)}")
    if len(frames) < least:
        raise DataError(f"{len(frames)} images are given; at least {least} are needed, and some hundreds are better")
    if steps < 1:
        raise TrainingError(f"steps is {steps}; at least 1 is needed")
    _, channels, height, width = frames.shape
    return cast(Literal[1, 3], channels), height, width


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


@torch.inference_mode()
def in_chunks(function: Callable[[Tensor], Tensor], frames: Tensor, size: int) -> Tensor:
    """Apply `function` to at most `size` frames at a time to limit memory: float32 [N, ...] on the CPU."""
    return torch.cat([function(part).float().cpu() for part in torch.split(frames, size)])


def small_squares(frames: Tensor) -> Tensor:
    """Resize frames for networks for small images: frames above 64 pixels or not square are resized by averaging areas.

    Args:
        frames: uint8 [N, C, H, W].

    Returns:
        float32 [N, C, S, S] in [0, 255], S the longer side, at most 64.
    """
    side = min(SMALL_SIDE, max(frames.shape[-2:]))
    if frames.shape[-2:] == (side, side):
        return frames.float()
    return torch.cat([F.interpolate(part.float(), size=(side, side), mode="area") for part in torch.split(frames, 64)])
