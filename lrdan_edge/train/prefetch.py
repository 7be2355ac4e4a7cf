"""Which images each step sees, and making their batches ready ahead of it; both depend only on the seed and the step."""

import ctypes
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import current_process

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lrdan_edge.errors import TrainingError
from lrdan_edge.train.learner import Batch, Learner

MOST_WORKERS = 15
AHEAD = 2  # batches that each worker process makes before they are asked for
SHARED_MEMORY = "/dev/shm"  # where PyTorch puts what one process hands to another; containers often have 64 MiB
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def batch_of(step: int, seed: int, count: int, size: int) -> Tensor:
    """The images of a step: every image once an epoch, in random order, in whole batches.

    Images that do not fill a last batch are left out of the epoch: a smaller batch would disturb batch normalisation.

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


def workers_for(learner: Learner, device: torch.device) -> int:
    """How many worker processes should make batches ready: one for each processor but one, where a GPU would wait for painting.

    On a CPU the steps take so much longer than painting that a worker gains nothing that can be measured.
    """
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) - 1) if learner.paints and device.type == "cuda" else 0


def batches(
    make: Callable[[int], Batch], steps: range, workers: int, note: Callable[[str], None]
) -> Generator[Batch, None, None]:
    """The batch of each step, in order, the same with any number of workers.

    Workers are forked, so `make` need not be copied; none of them touches the GPU. There are fewer where shared memory has no room
    for what they hand over. Without workers, this process makes each batch when it is asked for.

    Args:
        make: Makes the batch of a step; depends only on the step.
        steps: The steps.
        workers: How many worker processes, at most.
        note: Is told where there are fewer for lack of shared memory.

    Raises:
        TrainingError: A worker process ended, or ran out of memory.
    """
    if not steps:
        return
    first = make(steps[0])  # in this process, so that errors in the data keep their type
    yield first
    workers = 0 if current_process().daemon else min(workers, len(steps) - 1)
    loader = DataLoader(
        _Batches(make),
        batch_size=None,
        sampler=steps[1:],
        num_workers=(workers := _with_room(workers, first, note)),
        prefetch_factor=AHEAD if workers else None,
        generator=torch.Generator(),  # its own: PyTorch's global one belongs to the networks
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_end_with_parent if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    with _one_opencv_thread():
        made: Iterator[Batch] = iter(loader)
    for _ in steps[1:]:
        try:
            batch = next(made)
        except RuntimeError as error:  # PyTorch's, for a process that was killed and for memory that it cannot have
            if not workers:
                raise
            reason = str(error).strip().splitlines()[-1]
            raise TrainingError(
                f"a process that makes batches failed ({reason})",
                "free memory (a container: raise its limits of memory and of shared memory), or give a smaller {batch_size}",
            ) from error
        yield tuple(batch)


class _Batches(Dataset[Batch]):
    """The batch of every step."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> Batch:
        batch = self._make(step)
        if torch.utils.data.get_worker_info() is not None:
            for part in batch:
                part.share_memory_()  # type: ignore[no-untyped-call]  # here, where a failure is reported; later it is lost
        return batch


def _with_room(workers: int, batch: Batch, note: Callable[[str], None]) -> int:
    """How many of the workers shared memory has room for."""
    each = max(1, (AHEAD + 1) * sum(part.nbytes for part in batch))
    room = min(workers, _free_shared_memory() // each)
    if room < workers:
        note(
            f"{SHARED_MEMORY} has room for {room} of {workers} processes that make batches, so training is slower: give it "
            f"{workers * each >> 20} MiB (a container: raise its limit of shared memory)"
        )
    return room


def _free_shared_memory() -> int:
    """Bytes."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return 0


def _end_with_parent(_worker: int) -> None:
    """Have the kernel end this worker as soon as training is killed: it holds the bundle's lock too, as all that is inherited."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from having threads while processes are forked: a fork lacks them, and would wait for them for ever."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
