"""Which images each step sees, and making them ready ahead of it; both depend on the seed and the step alone."""

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

MOST_PAINTERS = 8

T = TypeVar("T")


def batch_of(step: int, seed: int, count: int, size: int) -> Tensor:
    """The images of a step: every image once an epoch, in random order, in whole batches.

    A rest that fills no batch is left out of the epoch: it would unsettle batch normalisation.

    Args:
        step: The step, from 0.
        seed: Decides the order, with the epoch.
        count: How many images there are.
        size: Images per batch.

    Returns:
        Indices, int64 [min(size, count)].
    """
    epoch, place = divmod(step, max(1, count // size))
    return _permutation(seed, epoch, count)[place * size : (place + 1) * size]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))


def ahead(make: Callable[[int], T], steps: range, painters: int) -> Generator[T, None, None]:
    """What `make` gives for each step, in order, computed by `painters` threads some steps ahead; by this one if there are none.

    OpenCV, NumPy and PyTorch let go of the interpreter while they compute, so threads help, and nothing need be copied
    between processes.
    """
    if painters == 0:
        yield from map(make, steps)
        return
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(painters, "paint") as pool:
        try:
            for step in steps:
                pending.append(pool.submit(make, step))
                if len(pending) > painters:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def painters_for(device: torch.device) -> int:
    """How many threads make batches ready: those that a GPU leaves idle, or one where training leaves a processor idle."""
    processors = len(os.sched_getaffinity(0))
    if device.type == "cuda":
        return min(MOST_PAINTERS, processors)
    return int(processors > torch.get_num_threads())
