"""Order, painting ahead, and the promise that nothing but seed, step and place decides what is drawn."""

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import defective_image, write
from specs import spec_for

from lrdan_edge.bundle.names import WEIGHTS
from lrdan_edge.errors import TrainingError
from lrdan_edge.model.networks import Restorer
from lrdan_edge.train import loop, prefetch
from lrdan_edge.train.learner import Batch, Learner, LearnerOptions
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.prefetch import batch_of, batches, workers_for
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes import recipe_named
from lrdan_edge.train.recipes.restoration.hyperparameters import RestorationHyperparameters
from lrdan_edge.train.recipes.restoration.restoration import RestorationLearner
from lrdan_edge.train.trainer import train

FORKING = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning",  # from Python 3.12 on
    "ignore:This DataLoader will create:UserWarning",  # more processes than processors
)


def squared(step: int) -> Batch:
    return (torch.tensor(step * step),)


def failing_at_three(step: int) -> Batch:
    if step == 3:
        raise ValueError("three")
    return (torch.tensor(step),)


class Unsharable(torch.Tensor):
    """Shared memory is full."""

    def share_memory_(self) -> "Unsharable":
        raise RuntimeError("unable to write to file </torch_1>: No space left on device (28)")


def unsharable_from_three(step: int) -> Batch:
    return (torch.tensor(step).as_subclass(Unsharable),) if step >= 3 else (torch.tensor(step),)


def silent(_note: str) -> None:
    pass


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31))
def test_an_epoch_uses_every_image_at_most_once_in_full_batches(count: int, size: int, seed: int) -> None:
    steps = max(1, count // size)
    for epoch in range(2):
        drawn = [batch_of(epoch * steps + step, seed, count, size) for step in range(steps)]
        assert all(len(batch) == min(size, count) for batch in drawn)
        seen = torch.cat(drawn).tolist()
        assert len(set(seen)) == len(seen) == steps * min(size, count)
        assert set(seen) <= set(range(count))


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = [batch_of(step, seed, 50, 50).tolist() for seed in range(2) for step in range(2)]
    assert len({tuple(order) for order in orders}) == 4


@FORKING
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_in_order_with_any_number_of_workers(workers: int) -> None:
    before = torch.get_rng_state()
    for steps in (range(5, 40), range(3, 3), range(3, 4), range(3, 5)):
        assert [int(batch[0]) for batch in batches(squared, steps, workers, silent)] == [step * step for step in steps]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("device", "paints", "workers"), [("cuda", True, 2), ("cuda", False, 0), ("cpu", True, 0)])
def test_workers_prepare_batches_if_a_gpu_trains(
    device: str, paints: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    learner = cast(Learner, SimpleNamespace(paints=paints))
    assert workers_for(learner, torch.device(device)) == workers


@FORKING
@pytest.mark.timeout(60)
def test_workers_can_use_opencv_after_the_parent_has() -> None:
    """OpenCV's threads do not come along, and a process that ends them waits for ever, or crashes."""
    image, here = np.zeros((512, 512), np.float32), os.getpid()

    def blurred(step: int) -> Batch:
        if os.getpid() != here:
            cv2.setNumThreads(1)  # which ends the threads that it thinks it has
        return (torch.from_numpy(cv2.blur(image + step, (3, 3))),)

    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        cv2.warpAffine(np.zeros((2000, 2000), np.float32), np.eye(2, 3), (2000, 2000))  # its threads run from here on
        assert [int(batch[0].mean()) for batch in batches(blurred, range(9), 2, silent)] == list(range(9))
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(before)


def dying_at_three(step: int) -> Batch:
    if step == 3:
        os._exit(9)
    return (torch.tensor(step),)


@FORKING
@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (failing_at_three, ValueError, "three"),
        (dying_at_three, TrainingError, "exited unexpectedly.*shared memory"),
        (unsharable_from_three, TrainingError, "No space left.*shared memory"),
    ],
)
def test_a_failure_in_a_worker_is_raised_in_the_parent(
    make: Callable[[int], Batch], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # how long to wait for each process to end
    prepared = batches(make, range(1, 10), 2, silent)
    with pytest.raises(error, match=f"(?s){said}"):
        for _ in prepared:
            pass
    del prepared
    gc.collect()  # what was raised holds on to the processes
    assert not multiprocessing.active_children()


@FORKING
def test_leaving_early_ends_the_workers() -> None:
    prepared = batches(squared, range(1000), 2, silent)
    next(prepared)
    next(prepared)
    assert len(multiprocessing.active_children()) == 2
    prepared.close()
    assert not multiprocessing.active_children()


@FORKING
@pytest.mark.parametrize(("free", "processes"), [(8, 0), (24 * 2, 2), (24 * 4, 4)])
def test_the_number_of_workers_is_limited_by_shared_memory(free: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "_free_shared_memory", lambda: free)
    notes: list[str] = []
    with closing(batches(squared, range(20), 4, notes.append)) as prepared:
        assert [int(next(prepared)[0]) for _ in range(9)] == [step * step for step in range(9)]
        assert len(multiprocessing.active_children()) == processes
    assert len(notes) == (processes < 4)
    assert all(f"room for {processes} of 4 worker processes" in note for note in notes)


@FORKING
def test_workers_end_with_a_training_that_is_killed(tmp_path: Path) -> None:
    """They hold the bundle's lock as well, and training could not be started again until they end."""
    if not (training := os.fork()):
        prepared = batches(squared, range(1000), 2, silent)
        next(prepared)
        next(prepared)
        pids = [str(process.pid) for process in multiprocessing.active_children()]
        (tmp_path / "pids").write_text(" ".join(pids))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(training, 0)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    while any(alive(pid) for pid in pids):
        time.sleep(0.01)  # the test's time limit ends it


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


FRAMES = torch.randint(0, 256, (6, 1, 36, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 5000), st.integers(0, 3))
def test_a_batch_depends_on_seed_and_step(step: int, seed: int) -> None:
    restorer = Restorer(spec_for(36, 40, 1, recipe="restoration"))
    learner = RestorationLearner(restorer, RestorationHyperparameters(), LearnerOptions(seed=seed))
    whole = learner.prepare(FRAMES, step)
    again = learner.prepare(FRAMES, step)
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))
    assert not torch.equal(whole[1], learner.prepare(FRAMES, step + 1)[1])


@FORKING
def test_the_number_of_workers_changes_no_bit(stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        image, mask = defective_image(rng)
        write(tmp_path / "known" / f"{index}.png", image)
        if index < 2:
            write(tmp_path / "known" / "masks" / f"{index}.png", mask)
    options = TrainOptions(
        recipe="restoration", image_size=(36, 40), epochs=2, batch_size=8, device="cpu", known_defects=tmp_path / "known"
    )
    weights: list[bytes] = []
    for workers in (0, 1, 3):
        monkeypatch.setattr(loop, "workers_for", lambda *_, workers=workers: workers)
        weights.append((train(stripes, tmp_path / str(len(weights)), options, Progress()).path / WEIGHTS).read_bytes())
    assert weights[0] == weights[1] == weights[2]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks at it
@pytest.mark.parametrize("recipe", ["lrdan", "restoration"])
def test_compiled_networks_keep_their_names_and_losses(recipe: str) -> None:
    """`Module.compile`, as training does it on a GPU; here with the backend that needs no C compiler."""
    chosen, spec = recipe_named(recipe), spec_for(36, 40, 1, recipe=recipe)
    losses, names = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        networks = chosen.networks_for(spec)
        learner = chosen.learner_for(networks, spec, FRAMES, chosen.defaults, LearnerOptions())
        if compiled:
            for network in networks.children():
                network.compile(backend="eager")
        networks.train()
        losses.append([learner.step(*learner.prepare(FRAMES, step))["total"].item() for step in range(3)])
        names.append(list(networks.state_dict()))
    assert names[0] == names[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
