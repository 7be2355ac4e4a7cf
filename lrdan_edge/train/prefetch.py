"""Selection of each step's images, and preparation of batches in advance; both depend only on the seed and the step."""

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
AHEAD = 2  # batches that each worker process prepares in advance
SHARED_MEMORY = "/dev/shm"  # used by PyTorch to pass batches between processes; containers often have 64 MiB
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def batch_of(step: int, seed: int, count: int, size: int, *, whole: bool = False) -> Tensor:
    """The image indices of a step: each epoch is a new random order of all images, cut into full batches.

    An incomplete last batch is skipped, since a smaller batch would disturb batch normalisation.

    Args:
        step: The step, from 0.
        seed: Random seed; with the epoch, it sets the order.
        count: Number of images.
        size: Images per batch.
        whole: Whether the incomplete last batch is used too.

    Returns:
        Indices, int64 [min(size, count)], or fewer in an incomplete batch.
    """
    epoch, place = divmod(step, -(-count // size) if whole else max(1, count // size))
    return _permutation(seed, epoch, count)[place * size : (place + 1) * size]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))


def workers_for(learner: Learner, device: torch.device) -> int:
    """The number of worker processes: all processors but one, up to `MOST_WORKERS`, if a GPU would wait for batches; else 0.

    On a processor, steps take so much longer than preparing batches that workers bring no measurable gain.
    """
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) - 1) if learner.paints and device.type == "cuda" else 0


def batches(
    make: Callable[[int], Batch], steps: range, workers: int, note: Callable[[str], None]
) -> Generator[Batch, None, None]:
    """Yield the batch of each step, in order; the number of workers does not change the batches.

    Workers are forked, so `make` is not copied, and they do not use the GPU. Fewer workers are started if shared memory is too
    small for their batches. Without workers, this process makes each batch when it is needed.

    Args:
        make: Makes the batch of a step; depends only on the step.
        steps: The steps.
        workers: Largest number of worker processes.
        note: Receives a message if shared memory limits the workers.

    Raises:
        TrainingError: A worker process died or ran out of memory.
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
        generator=torch.Generator(),  # separate: PyTorch's global generator is for the networks
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_end_with_parent if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    with _one_opencv_thread():
        made: Iterator[Batch] = iter(loader)
    for _ in steps[1:]:
        try:
            batch = next(made)
        except RuntimeError as error:  # raised by PyTorch for a killed process and for lack of memory
            if not workers:
                raise
            reason = str(error).strip().splitlines()[-1]
            raise TrainingError(
                f"a worker process failed ({reason})",
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
                part.share_memory_()  # type: ignore[no-untyped-call]  # done here, since a later failure is not reported
        return batch


def _with_room(workers: int, batch: Batch, note: Callable[[str], None]) -> int:
    """The number of workers whose batches fit in shared memory, at most `workers`."""
    each = max(1, (AHEAD + 1) * sum(part.nbytes for part in batch))
    room = min(workers, _free_shared_memory() // each)
    if room < workers:
        note(
            f"{SHARED_MEMORY} has room for {room} of {workers} worker processes, so training is slower: give it "
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
    """Make the kernel kill this worker when training is killed, since the worker has inherited the bundle's lock."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Run OpenCV without threads while processes are forked: a fork does not have the threads and would deadlock."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
