"""A run killed at any moment ends, when it is asked for again, with the weights it would have had without the break."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import killed_training
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import CHECKPOINT, WEIGHTS
from lrdan_edge.cli.main import cli
from lrdan_edge.errors import TrainingError
from lrdan_edge.train import resume
from lrdan_edge.train.checkpoint import Checkpoint
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes import recipe_named
from lrdan_edge.train.recipes.lrdan.hyperparameters import LossWeights
from lrdan_edge.train.recipes.restoration.reconstruction import ReconstructionLearner
from lrdan_edge.train.trainer import train

TINY = TrainOptions(recipe="restoration", epochs=3, batch_size=8, device="cpu", checkpoint_seconds=0)
WriteStripes = Callable[..., None]


class Stopped(Exception):  # noqa: N818
    """What a test ends a run with, in place of a kill."""


class StopAfter(Progress):
    def __init__(self, step: int | None = None) -> None:
        self.stop_after, self.first, self.notes = step, 0, list[str]()

    def step(self, epoch: int, epochs: int, step: int, steps: int, losses: dict[str, float], seconds_left: float) -> None:  # noqa: ARG002
        self.first = self.first or step
        if step == self.stop_after:
            raise Stopped

    def note(self, text: str) -> None:
        if "checkpoint" in text or "resuming" in text:
            self.notes.append(text)


@pytest.fixture
def data(tmp_path: Path, write_stripes: WriteStripes) -> Path:
    write_stripes(tmp_path / "data", 36, (28, 28))
    return tmp_path / "data"


def stopped(data: Path, bundle: Path, options: TrainOptions, step: int) -> Path:
    """A run that ends at `step`; its checkpoint is of the step before."""
    with pytest.raises(Stopped):
        train(data, bundle, options, StopAfter(step))
    assert (bundle / CHECKPOINT).exists()
    return bundle / CHECKPOINT


@pytest.mark.parametrize(
    ("recipe", "size", "seed"),
    [
        ("lrdan", (32, 32), 1),
        pytest.param("restoration", (36, 40), 0, marks=pytest.mark.slow),
        pytest.param("feature-restoration", (36, 40), 0, marks=pytest.mark.slow),
    ],
)
def test_sigkill_at_random_moments_changes_no_bit(
    tmp_path: Path, write_stripes: WriteStripes, recipe: str, size: tuple[int, int], seed: int
) -> None:
    write_stripes(tmp_path / "data", 36, size)
    script = [sys.executable, killed_training.__file__, str(tmp_path / "data"), str(tmp_path), recipe, str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "the last run was not resumed at all"
    for name in (WEIGHTS, "reports/training.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "broken" / CHECKPOINT).exists()


def test_checkpoints_are_used_replaced_or_removed(data: Path, tmp_path: Path) -> None:
    whole = train(data, tmp_path / "whole", TINY, Progress())
    stopped(data, tmp_path / "b", TINY, 5)
    progress = StopAfter()
    bundle = train(data, tmp_path / "b", TINY, progress)
    assert progress.first == 5
    assert progress.notes == ["resuming after step 4, where an earlier run stopped"]
    assert (bundle.path / WEIGHTS).read_bytes() == (whole.path / WEIGHTS).read_bytes()
    assert not (bundle.path / CHECKPOINT).exists()
    assert bundle.manifest.stages["train"].results["resumed_from_step"] == 4

    again = replace(TINY, overwrite=True)
    stopped(data, tmp_path / "b", replace(again, seed=5), 2)
    progress = StopAfter()
    train(data, tmp_path / "b", again, progress)
    assert progress.first == 1
    assert "is of another run (" in progress.notes[0]
    assert "seed 5, here 0" in progress.notes[0]
    assert progress.notes[0].endswith("training starts from scratch")

    stopped(data, tmp_path / "b", again, 3)
    progress = StopAfter()
    train(data, tmp_path / "b", replace(again, resume=False), progress)
    assert (progress.first, progress.notes) == (1, [])


@pytest.mark.parametrize(
    ("recipe", "size"), [("feature-restoration", 36), ("restoration", 36), ("restoration", 28), ("lrdan", 32)]
)
def test_resuming_with_known_defects_changes_no_bit(
    tmp_path: Path, write_stripes: WriteStripes, recipe: Any, size: int
) -> None:
    write_stripes(tmp_path / "data", 20, (size, size))
    write_stripes(tmp_path / "known", 3, (size, size), seed=5)
    cv2.imwrite(str(tmp_path / "mask.png"), np.eye(size, dtype=np.uint8) * 255)
    (tmp_path / "known" / "masks").mkdir()
    (tmp_path / "mask.png").rename(tmp_path / "known" / "masks" / "000.png")
    options = replace(TINY, recipe=recipe, epochs=2, known_defects=tmp_path / "known")
    whole = train(tmp_path / "data", tmp_path / "whole", options, Progress())
    stopped(tmp_path / "data", tmp_path / "b", options, 3)
    bundle = train(tmp_path / "data", tmp_path / "b", options, Progress())
    assert bundle.manifest.stages["train"].results["resumed_from_step"] == 2
    assert (bundle.path / WEIGHTS).read_bytes() == (whole.path / WEIGHTS).read_bytes()
    options = replace(options, overwrite=True)
    stopped(tmp_path / "data", tmp_path / "b", options, 3)
    cv2.imwrite(str(tmp_path / "known" / "masks" / "000.png"), np.eye(size, dtype=np.uint8)[::-1] * 255)
    progress = StopAfter(1)
    with pytest.raises(Stopped):
        train(tmp_path / "data", tmp_path / "b", options, progress)
    assert any("is of another run (known defects" in note for note in progress.notes)


@pytest.mark.parametrize(
    ("recipe", "changes", "difference"),
    [
        ("restoration", {"known_weight": 0.2}, "hyperparameter known_weight 0.1, here 0.2"),
        ("restoration", {"batch_size": 4}, "hyperparameter batch_size 8, here 4"),
        ("lrdan", {"dual_reading": "joint"}, "hyperparameter dual_reading began, here joint"),
        ("lrdan", {"weights": LossWeights(k=0.3)}, "hyperparameter weights {"),
    ],
)
def test_a_checkpoint_of_other_hyperparameters_is_refused(
    data: Path, tmp_path: Path, recipe: str, changes: dict[str, Any], difference: str
) -> None:
    hyperparameters = replace(recipe_named(recipe).defaults, batch_size=8)
    options = replace(TINY, recipe=recipe, batch_size=None, hyperparameters=hyperparameters)
    stopped(data, tmp_path / "b", options, 3)
    other = replace(options, hyperparameters=replace(hyperparameters, **changes), resume=True)
    with pytest.raises(TrainingError, match=r"nothing to resume: .* is of another run") as caught:
        train(data, tmp_path / "b", other, Progress())
    assert difference in str(caught.value)
    progress = StopAfter(4)
    with pytest.raises(Stopped):
        train(data, tmp_path / "b", replace(options, resume=True), progress)
    assert progress.first == 3


def test_an_interrupted_run_is_resumed(data: Path, tmp_path: Path) -> None:
    whole = train(data, tmp_path / "whole", TINY, Progress())

    class Interrupt(Progress):
        def step(self, epoch: int, epochs: int, step: int, steps: int, losses: dict[str, float], seconds_left: float) -> None:  # noqa: ARG002
            if step == 4:
                signal.raise_signal(signal.SIGINT)

    bundle = train(data, tmp_path / "b", replace(TINY, checkpoint_seconds=1000), Interrupt())
    results = bundle.manifest.stages["train"].results
    assert (results["interrupted"], results["steps"], results["epochs"]) == (True, 4, 2)
    bundle = train(data, tmp_path / "b", TINY, Progress())
    assert bundle.manifest.stages["train"].results["interrupted"] is False
    assert (bundle.path / WEIGHTS).read_bytes() == (whole.path / WEIGHTS).read_bytes()
    assert (bundle.path / "reports/training.json").read_bytes() == (whole.path / "reports/training.json").read_bytes()


def test_resuming_can_be_required(data: Path, tmp_path: Path) -> None:
    demanding = replace(TINY, resume=True)
    with pytest.raises(TrainingError, match=r"nothing to resume: there is no .*checkpoint.safetensors: train without resume"):
        train(data, tmp_path / "b", demanding, Progress())
    stopped(data, tmp_path / "b", TINY, 3)
    cv2.imwrite(str(data / "000.png"), np.zeros((28, 28), np.uint8))
    with pytest.raises(TrainingError, match=r"nothing to resume: .* is of another run \(images"):
        train(data, tmp_path / "b", demanding, Progress())


def test_the_command_line_resumes_too(data: Path, tmp_path: Path) -> None:
    words = [
        "train",
        str(data),
        "--bundle",
        str(tmp_path / "b"),
        "--epochs",
        "1",
        "--learning-rate",
        "0.002",
        "--bit-depth",
        "12",
    ]
    result = CliRunner().invoke(cli, [*words, "--resume"])
    assert result.exit_code == 1
    assert "Error: nothing to resume" in result.output
    result = CliRunner().invoke(cli, [*words, "--no-resume", "--no-compile", "--checkpoint-seconds", "0"])
    assert result.exit_code == 0, result.output
    options = Bundle.open(tmp_path / "b").manifest.stages["train"].options
    asked = {name: options[name] for name in ("resume", "compile", "checkpoint_seconds", "learning_rate", "bit_depth")}
    assert asked == {"resume": False, "compile": False, "checkpoint_seconds": 0.0, "learning_rate": 0.002, "bit_depth": 12}
    assert "--learning-rate 0.002 --bit-depth 12" in Bundle.open(tmp_path / "b").manifest.stages["train"].command


@pytest.mark.parametrize("place", [3, 40, 400, -5])
def test_a_damaged_checkpoint_is_reported_and_ignored(data: Path, tmp_path: Path, place: int) -> None:
    path = stopped(data, tmp_path / "b", TINY, 3)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    progress = StopAfter(1)
    with pytest.raises(Stopped):
        train(data, tmp_path / "b", TINY, progress)
    assert "is damaged (" in progress.notes[0]
    assert progress.notes[0].endswith("; training starts from scratch")


def test_changed_conditions_are_reported(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(data, tmp_path / "b", TINY, 3)
    threads, progress = torch.get_num_threads(), StopAfter()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    train(data, tmp_path / "b", TINY, progress)
    assert progress.first == 3
    assert f"(threads {threads}, here {threads + 1})" in progress.notes[1]


def test_a_checkpoint_of_several_processes_is_resumed_by_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions trained under torchrun, and wrote down how many processes took part."""

    def of_two(path: Path, identity: dict[str, Any], conditions: dict[str, Any], seconds: float) -> Checkpoint:
        return Checkpoint(path, identity, conditions | {"processes": 2}, seconds)

    with monkeypatch.context() as earlier:
        earlier.setattr(resume, "Checkpoint", of_two)
        stopped(data, tmp_path / "b", TINY, 3)
    progress = StopAfter()
    bundle = train(data, tmp_path / "b", TINY, progress)
    assert progress.first == 3
    assert progress.notes[1].endswith("other conditions (processes 2, here 1)")
    assert bundle.manifest.stages["train"].results["steps"] == 9  # three epochs of 29 images
    assert not (bundle.path / CHECKPOINT).exists()


def test_a_kill_while_a_checkpoint_is_written_leaves_the_older_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    replace_file = os.replace

    def die(source: str, target: str, **folders: int) -> None:
        nonlocal written
        if Path(target).name == CHECKPOINT:
            written += 1
            if written == 3:
                raise Stopped
        replace_file(source, target, **folders)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(Stopped):
        train(data, tmp_path / "b", TINY, Progress())
    monkeypatch.undo()
    progress = StopAfter(3)
    with pytest.raises(Stopped):
        train(data, tmp_path / "b", TINY, progress)
    assert progress.first == 3


def test_a_collapsed_run_leaves_no_checkpoint(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(data, tmp_path / "b", TINY, 3)
    monkeypatch.setattr(ReconstructionLearner, "step", lambda _self, x: {"total": x.mean() * math.nan, "spread_ae2": x.std()})
    with pytest.raises(TrainingError, match="became nan in epoch 1, step 3"):
        train(data, tmp_path / "b", TINY, Progress())
    assert not (tmp_path / "b" / CHECKPOINT).exists()
