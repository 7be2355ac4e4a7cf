"""Training end to end on tiny images: what is written, what stops it, and what it leaves then."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from specs import spec_for

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import WEIGHTS
from lrdan_edge.cli.main import cli
from lrdan_edge.data.dataset import recorded_images
from lrdan_edge.data.images import load_frames
from lrdan_edge.errors import BundleError, DataError, TrainingError
from lrdan_edge.model.deployed import load_network
from lrdan_edge.model.networks import Autoencoder
from lrdan_edge.train import collapse
from lrdan_edge.train.map_statistics import map_statistics
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes.lrdan.hyperparameters import DualReading, LossWeights, LrdanHyperparameters
from lrdan_edge.train.recipes.restoration.hyperparameters import RestorationHyperparameters
from lrdan_edge.train.schedule import rate_at
from lrdan_edge.train.trainer import train

TINY = TrainOptions(recipe="lrdan", epochs=2, batch_size=8, device="cpu")
WriteStripes = Callable[..., None]


class Recorder(Progress):
    def __init__(self, interrupt_at: tuple[int, ...] = ()) -> None:
        self.steps: list[tuple[int, int, int, int]] = []
        self.notes: list[str] = []
        self.left: list[float] = []
        self.interrupt_at = interrupt_at

    def step(self, epoch: int, epochs: int, step: int, steps: int, losses: dict[str, float], seconds_left: float) -> None:
        assert all(math.isfinite(value) for value in losses.values())
        self.steps.append((epoch, epochs, step, steps))
        self.left.append(seconds_left)
        for _ in range(self.interrupt_at.count(step)):
            signal.raise_signal(signal.SIGINT)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("size", ["2", "16"])
def test_several_processes_are_refused_in_one_line(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)  # what torchrun sets
    result = CliRunner().invoke(cli, ["train", str(stripes), "--bundle", str(tmp_path / "bundle")])
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1
    assert f"Error: train runs in one process, but WORLD_SIZE is {size}: start it without torchrun" in result.output
    assert not (tmp_path / "bundle").exists()


def test_torchrun_with_one_process_trains(stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    train(stripes, tmp_path / "bundle", replace(TINY, epochs=1), Progress())
    assert (tmp_path / "bundle" / WEIGHTS).exists()


def test_a_run_writes_everything_a_later_stage_needs(stripes: Path, tmp_path: Path) -> None:
    progress = Recorder()
    train(stripes, tmp_path / "bundle", TINY, progress)
    bundle = Bundle.open(tmp_path / "bundle")
    assert set(bundle.manifest.files) == {WEIGHTS, "reports/training.json", "reports/training.png"}
    assert bundle.manifest.model.frame_shape == (32, 32, 1)
    stage = bundle.manifest.stages["train"]
    assert stage.options["seed"] == 0
    hyperparameters = stage.options["hyperparameters"]
    assert hyperparameters["weights"] == {"irec": 1.0, "adv": 5.0, "zrec": 1.0, "c": 0.05, "dual": 1.0, "k": 0.4}
    assert (hyperparameters["batch_size"], hyperparameters["learning_rate"]) == (8, 0.001)
    assert (stage.results["images"], stage.results["held_out_images"], stage.results["epochs"]) == (30, 6, 2)
    assert stage.results["interrupted"] is False
    assert stage.results["images_per_s"] > 0
    assert 0 < stage.results["steps_seconds"] < stage.seconds
    assert all(path.is_file() for part in ("training", "held_out") for path in recorded_images(bundle, part))
    epochs = json.loads((tmp_path / "bundle" / "reports" / "training.json").read_text())["epochs"]
    assert len(epochs) == 2
    assert {"irec", "adv", "zrec", "c", "girec", "direc", "dual", "total", "discriminator"} <= set(epochs[0])
    assert progress.steps == [(1, 2, 1, 6), (1, 2, 2, 6), (1, 2, 3, 6), (2, 2, 4, 6), (2, 2, 5, 6), (2, 2, 6, 6)]
    assert progress.left[-1] == 0


def test_the_bundle_scores_as_the_trained_network_does(stripes: Path, tmp_path: Path) -> None:
    bundle = train(stripes, tmp_path / "bundle", TINY, Progress())
    module = load_network(bundle)
    assert isinstance(module.network, Autoencoder)
    frames = torch.from_numpy(load_frames(recorded_images(bundle, "training"), (32, 32, 1)))
    with torch.inference_mode():
        score, heatmap = module(frames)
    assert score.shape == (30,)
    assert heatmap.shape == (30, 32, 32)
    mean, deviation = map_statistics(
        module.network, frames.permute(0, 3, 1, 2), bundle.manifest.preprocessing, bundle.manifest.scoring
    )
    torch.testing.assert_close(mean, module.head.error_mean[0, 0])
    torch.testing.assert_close(deviation.clamp_min(bundle.manifest.scoring.deviation_floor), module.head.error_deviation[0, 0])


def test_same_seed_same_weights(stripes: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    weights = [(train(stripes, tmp_path / name, TINY, Progress()).path / WEIGHTS).read_bytes() for name in "ab"]
    other = (train(stripes, tmp_path / "c", replace(TINY, seed=1), Progress()).path / WEIGHTS).read_bytes()
    assert weights[0] == weights[1] != other
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("reading", ["began", "joint"])
@pytest.mark.parametrize("decoder", ["resize", "transposed"])
def test_every_reading_and_decoder_trains(
    stripes: Path, tmp_path: Path, reading: DualReading, decoder: Literal["resize", "transposed"]
) -> None:
    hyperparameters = LrdanHyperparameters(dual_reading=reading, decoder=decoder)
    options = replace(TINY, epochs=1, hyperparameters=hyperparameters)
    bundle = train(stripes, tmp_path / "bundle", options, Progress())
    assert bundle.manifest.model.decoder == decoder


def test_interrupt_leaves_a_usable_bundle(stripes: Path, tmp_path: Path) -> None:
    progress = Recorder(interrupt_at=(2,))
    before = signal.getsignal(signal.SIGINT)
    bundle = train(stripes, tmp_path / "bundle", TINY, progress)
    assert len(progress.steps) == 2
    assert bundle.manifest.stages["train"].results["interrupted"] is True
    score, _ = load_network(Bundle.open(tmp_path / "bundle"))(torch.zeros(1, 32, 32, 1, dtype=torch.uint8))
    assert torch.isfinite(score).all()
    assert signal.getsignal(signal.SIGINT) is before


def test_second_interrupt_leaves_the_old_bundle(stripes: Path, tmp_path: Path) -> None:
    train(stripes, tmp_path / "bundle", TINY, Progress())
    old = (tmp_path / "bundle" / WEIGHTS).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        train(stripes, tmp_path / "bundle", replace(TINY, seed=1, overwrite=True), Recorder(interrupt_at=(2, 2)))
    assert Bundle.open(tmp_path / "bundle").file(WEIGHTS, "").read_bytes() == old


def test_killed_run_leaves_the_old_bundle(stripes: Path, tmp_path: Path) -> None:
    bundle = train(stripes, tmp_path / "bundle", TINY, Progress())
    old = (bundle.path / WEIGHTS).read_bytes()
    code = (
        "import sys; from pathlib import Path; from lrdan_edge.train.trainer import *\n"
        "train(Path(sys.argv[1]), Path(sys.argv[2]), TrainOptions(recipe='lrdan', epochs=100000, batch_size=8, overwrite=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(stripes), str(bundle.path)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (bundle.path / ".staging").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert Bundle.open(bundle.path).file(WEIGHTS, "").read_bytes() == old
    train(
        stripes, bundle.path, replace(TINY, overwrite=True), Progress()
    )  # and the next run takes over where the killed one lay


def test_nan_ends_training_and_saves_nothing(stripes: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss total became nan in epoch 1, step 1; nothing was saved"):
        train(
            stripes,
            tmp_path / "bundle",
            replace(TINY, hyperparameters=LrdanHyperparameters(weights=LossWeights(irec=math.nan))),
            Progress(),
        )
    assert not (tmp_path / "bundle" / "manifest.json").exists()


def test_collapse_ends_training(stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "AFTER", 1)
    monkeypatch.setattr(collapse, "LEAST_PATIENCE", 3)
    forward = Autoencoder.forward

    def constant(self: Autoencoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        reconstruction, latent = forward(self, x)
        return reconstruction * 0 + reconstruction.mean(), latent

    monkeypatch.setattr(Autoencoder, "forward", constant)
    with pytest.raises(
        TrainingError, match=r"AE1 .* collapsed to one constant image .* in epoch 1, for 3 steps; nothing was saved"
    ):
        train(stripes, tmp_path / "bundle", TINY, Progress())
    assert not (tmp_path / "bundle" / "manifest.json").exists()


def test_identical_images_are_not_a_collapse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "AFTER", 0)
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(20):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((32, 32), 100 + index % 2, np.uint8))
    assert train(folder, tmp_path / "bundle", TINY, Progress()).manifest.stages["train"].results["epochs"] == 2


def test_mixed_sizes_are_named_and_the_fix_works(stripes: Path, tmp_path: Path, write_stripes: WriteStripes) -> None:
    write_stripes(stripes / "train" / "good" / "more", 1, (40, 36))
    with pytest.raises(DataError, match=r"differ in size \(32x32 000.png, 40x36 000.png\): give image_size"):
        train(stripes, tmp_path / "bundle", TINY, Progress())
    options = replace(TINY, epochs=1, image_size=(36, 28))
    assert train(stripes, tmp_path / "bundle", options, Progress()).manifest.model.frame_shape == (36, 28, 1)


@pytest.mark.parametrize("part", ["train", "calibration"])
def test_corrupt_image_is_named_before_training(stripes: Path, tmp_path: Path, part: str) -> None:
    broken = stripes / part / "good" / "005.png"
    broken.write_bytes(broken.read_bytes()[:100])
    progress = Recorder()
    with pytest.raises(DataError, match=r"005\.png"):
        train(stripes, tmp_path / "bundle", TINY, progress)
    assert not progress.steps
    assert not (tmp_path / "bundle").exists()


def test_colour_comes_from_the_images(tmp_path: Path, write_stripes: WriteStripes) -> None:
    write_stripes(tmp_path / "data", 8, channels=3)
    options = replace(TINY, epochs=1)
    bundle = train(tmp_path / "data", tmp_path / "bundle", options, Progress())
    assert (bundle.manifest.model.channels, bundle.manifest.preprocessing.colour) == (3, "bgr")
    grey = train(tmp_path / "data", tmp_path / "grey", replace(options, channels=1), Progress())
    assert (grey.manifest.model.channels, grey.manifest.preprocessing.colour) == (1, "grey")


def test_automatic_size_is_reported(tmp_path: Path, write_stripes: WriteStripes) -> None:
    write_stripes(tmp_path / "data", 8, (33, 47))
    progress = Recorder()
    bundle = train(tmp_path / "data", tmp_path / "bundle", replace(TINY, epochs=1), progress)
    assert bundle.manifest.model.frame_shape == (32, 48, 1)
    assert progress.notes[-1:] == ["images of 33x47 are scaled to 32x48 (you can set the image size)"]


def test_weights_of_another_model_are_refused(stripes: Path, tmp_path: Path) -> None:
    bundle = train(stripes, tmp_path / "bundle", replace(TINY, epochs=1), Progress())
    bundle.manifest.model = spec_for(64, 64, 3)
    with pytest.raises(BundleError, match="does not match the model in the manifest"):
        load_network(bundle)


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"batch_size": 1}, "at least 2"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"recipe": "nonsense"}, "there is no recipe 'nonsense': give one of feature-restoration, .* as recipe"),
        ({"hyperparameters": LrdanHyperparameters()}, "give FeatureRestorationHyperparameters as hyperparameters"),
    ],
)
def test_invalid_training_options_are_refused(wrong: dict[str, Any], fix: str) -> None:
    with pytest.raises(TrainingError, match=fix):
        TrainOptions(**wrong)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [rate_at(step, 800) for step in range(801)]
    assert rates[0] < 0.1
    assert max(rates) > 0.98
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(0 <= rate <= 1 for rate in rates)


@given(st.integers(1, 20_000))
def test_the_length_of_a_recipe_depends_on_the_number_of_images(steps_per_epoch: int) -> None:
    hyperparameters = RestorationHyperparameters()
    epochs = hyperparameters.epochs(steps_per_epoch)
    steps = epochs * steps_per_epoch
    assert hyperparameters.least_steps <= steps
    assert steps - steps_per_epoch < hyperparameters.most_steps
    if hyperparameters.least_steps < steps - steps_per_epoch and steps < hyperparameters.most_steps:
        assert epochs == hyperparameters.passes
