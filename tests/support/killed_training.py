"""Trains once without a break and once killed (SIGKILL) again and again, in forked processes: torch is imported once.

No curves are drawn, which would take longer than the training.

    python killed_training.py DATA FOLDER RECIPE SEED

Writes the bundles FOLDER/whole and FOLDER/broken, and prints the step after which the last run went on.
"""

import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  # which every optimiser would import again in each process

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import CHECKPOINT
from lrdan_edge.errors import MissingStageError
from lrdan_edge.train import trainer
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress

KILLS = 4


def started(data: Path, bundle: Path, options: TrainOptions) -> int:
    """A process that trains."""
    if process := os.fork():
        return process
    setattr(trainer, "draw_losses", lambda path, _epochs: path.write_bytes(b""))  # noqa: B010
    trainer.train(data, bundle, options, Progress())
    os._exit(0)


def last_change(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def complete(bundle: Path) -> bool:
    try:
        return "train" in Bundle.open(bundle).manifest.stages
    except MissingStageError:
        return False


def main(data: Path, folder: Path, recipe: Any, seed: int) -> None:
    chance = random.Random(seed)
    options = TrainOptions(recipe=recipe, epochs=3, batch_size=8, device="cpu", seed=seed, checkpoint_seconds=0)
    assert os.waitpid(started(data, folder / "whole", options), 0)[1] == 0
    for _ in range(KILLS):
        if complete(folder / "broken"):
            break
        process = started(data, folder / "broken", options)
        for _ in range(chance.randint(1, 3)):
            before = last_change(folder / "broken" / CHECKPOINT)
            while last_change(folder / "broken" / CHECKPOINT) == before and not os.waitpid(process, os.WNOHANG)[0]:
                time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        try:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        except (ProcessLookupError, ChildProcessError):  # it was ready before
            break
    ready = complete(folder / "broken")  # a kill may have come after the commit
    if not ready or (folder / "broken" / CHECKPOINT).exists():
        assert os.waitpid(started(data, folder / "broken", replace(options, overwrite=ready)), 0)[1] == 0
    print(Bundle.open(folder / "broken").manifest.stages["train"].results["resumed_from_step"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
