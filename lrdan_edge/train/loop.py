"""The training loop: steps, epochs, checkpoints."""

import time
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from lrdan_edge.train.checkpoint import Checkpoint, State
from lrdan_edge.train.collapse import CollapseDetector
from lrdan_edge.train.interrupt import Interrupt
from lrdan_edge.train.learner import Batch, Learner
from lrdan_edge.train.prefetch import batch_of, batches, workers_for
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes.base import Networks
from lrdan_edge.train.schedule import Schedule
from lrdan_edge.train.tensorboard_log import TrainingLog


@dataclass
class Loop:
    """One run of the training loop.

    Attributes:
        networks: The networks to train; see `Networks`.
        learner: The networks with their optimisers.
        frames: The good images, uint8 [N, C, H, W].
        schedule: The length of the run.
        seed: Random seed of the order of the images.
        progress: Receives progress and notes.
        log: Receives losses and images.
        interrupt: Whether the user asked to stop.
        checkpoint: Saves the state.
    """

    networks: Networks
    learner: Learner
    frames: Tensor
    schedule: Schedule
    seed: int
    progress: Progress
    log: TrainingLog
    interrupt: Interrupt
    checkpoint: Checkpoint

    def run(self, state: State) -> float:
        """Train from `state` (updated in place) to the end or until interrupted.

        Returns:
            Images per second.

        Raises:
            CollapseError: A loss is no longer finite, or a network has collapsed.
        """
        device = next(self.networks.parameters()).device
        schedule, first, before, started = self.schedule, state.step, state.seconds, time.monotonic()
        detector = CollapseDetector(schedule.steps_per_epoch, state.counts)
        steps = range(first, schedule.steps)
        workers = workers_for(self.learner, device)
        with closing(batches(self._prepare, steps, workers, self.progress.note)) as prepared:
            for batch in prepared:
                self.learner.set_rate(schedule.rate_at(state.step))
                on_device = tuple(part.to(device, non_blocking=True) for part in batch)
                terms = self.learner.step(*on_device)
                values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))  # one transfer
                state.step += 1
                state.seconds = before + time.monotonic() - started
                epoch = (state.step - 1) // schedule.steps_per_epoch + 1
                detector.check(values, epoch, state.step)
                state.sums = {name: state.sums.get(name, 0.0) + value for name, value in values.items()}
                self.log.step(state.step, values, self.learner.learning_rate)
                left = (time.monotonic() - started) / (state.step - first) * (schedule.steps - state.step)
                self.progress.step(epoch, schedule.epochs, state.step, schedule.steps, values, left)
                stop = self.interrupt.asked
                if state.step % schedule.steps_per_epoch == 0:
                    self._end_epoch(state, schedule.steps_per_epoch)
                    self.log.epoch(state.step, self.networks.network, on_device[self.learner.shown])
                if state.step < schedule.steps and (stop or self.checkpoint.due):
                    self.checkpoint.write(self.networks, self.learner.optimisers, state)
                if stop:
                    break
        if rest := state.step % schedule.steps_per_epoch:
            self._end_epoch(state, rest)
        return (state.step - first) * schedule.batch_size / max(time.monotonic() - started, 1e-9)

    def _prepare(self, step: int) -> Batch:
        """The batch of a step."""
        schedule = self.schedule
        frames = self.frames[batch_of(step, self.seed, len(self.frames), schedule.batch_size, whole=schedule.whole)]
        return self.learner.prepare(frames, step)

    def _end_epoch(self, state: State, steps: int) -> None:
        state.history.append({name: value / steps for name, value in state.sums.items()})
        state.sums = {}
