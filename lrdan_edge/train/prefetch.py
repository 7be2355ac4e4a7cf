"""Which images each step sees, and making them ready ahead of it; both depend on the seed and the step alone."""

import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import current_process
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lrdan_edge.errors import TrainingError
from lrdan_edge.train.learner import Batch, Learner

MOST_PAINTERS = 16
AHEAD = 2  # batches that each process makes before they are asked for
SHARED_MEMORY = "/dev/shm"  # where PyTorch puts what one process hands to another; containers often have 64 MiB

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


def batches_for(
    learner: Learner, make: Callable[[int], Batch], steps: range, device: torch.device, note: Callable[[str], None]
) -> Generator[Batch, None, None]:
    """The batch of each step, in order, made ready ahead as it suits the learner and the device; see `ahead`."""
    painters = painters_for(device)
    if device.type == "cuda" and learner.paints:
        return ahead_apart(make, steps, painters - 1, note)
    return ahead(make, steps, painters)


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


def ahead_apart(
    make: Callable[[int], Batch], steps: range, painters: int, note: Callable[[str], None]
) -> Generator[Batch, None, None]:
    """As `ahead`, by processes: painting holds the interpreter too much for threads to keep a GPU busy.

    They are forked, so that `make` need not be copied; none of them touches the GPU. As many work as shared memory has room for;
    where it has for none, and where no process may be forked, threads do.

    Raises:
        TrainingError: A process ended, or memory did.
    """
    if not steps:
        return
    first = make(steps[0])  # here, so that what is wrong with the data is said as ever
    each = (AHEAD + 1) * sum(part.nbytes for part in first)
    processes = min(painters, _shared_memory() // max(each, 1))
    if processes < painters:
        note(
            f"{SHARED_MEMORY} has room for {processes} of {painters} processes that paint, which is slower: give it "
            f"{painters * each >> 20} MiB (a container: --shm-size)"
        )
    processes = min(processes, len(steps) - 1)
    if processes < 1 or current_process().daemon:
        yield first
        yield from ahead(make, steps[1:], max(1, painters))
        return
    loader = DataLoader(
        _Batches(make),
        batch_size=None,
        sampler=steps[1:],
        num_workers=processes,
        prefetch_factor=AHEAD,
        generator=torch.Generator(),  # its own: PyTorch's is the networks'
        multiprocessing_context="fork",
        pin_memory=torch.cuda.is_available(),
    )
    with _one_opencv_thread():
        batches: Iterator[Batch] = iter(loader)
    yield first
    for _ in steps[1:]:
        try:
            batch = next(batches)
        except RuntimeError as error:  # PyTorch's, for a process that was killed and for memory that it cannot have
            reason = str(error).strip().splitlines()[-1]
            raise TrainingError(
                f"a process that paints failed ({reason}): free memory (a container: raise --memory and --shm-size), or give a "
                "smaller --batch-size"
            ) from error
        yield tuple(batch)


class _Batches(Dataset[Batch]):
    """The batch of every step."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> Batch:
        batch = self._make(step)
        for part in batch:
            part.share_memory_()  # type: ignore[no-untyped-call]  # here, where a failure is told; later it would not be
        return batch


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """OpenCV without threads of its own, so that a process forked here has none that it would wait for in vain."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _shared_memory() -> int:
    """The free bytes of it."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return 0


def painters_for(device: torch.device) -> int:
    """How many threads make batches ready: all processors where a GPU trains, or one where a processor is left."""
    processors = len(os.sched_getaffinity(0))
    if device.type == "cuda":
        return min(MOST_PAINTERS, processors)
    return int(processors > torch.get_num_threads())
