"""Training over a bundle: what is finished is replaced only when that was asked for, and only by what is finished."""

import re
import shlex
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from parts import snapshot
from strangers import GRAPH

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import CHECKPOINT, WEIGHTS
from lrdan_edge.cli.main import cli
from lrdan_edge.errors import BundleError, InterruptedTrainingError
from lrdan_edge.train import trainer
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress, TerminalProgress
from lrdan_edge.train.trainer import train
from lrdan_edge.train.training_data import TrainingData, load_training_data

TINY = TrainOptions(recipe="restoration", image_size=(28, 28), epochs=2, batch_size=8, device="cpu")
OTHER = replace(TINY, seed=5)
WriteStripes = Callable[..., None]


class InterruptAt(Progress):
    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, epoch: int, epochs: int, step: int, steps: int, losses: dict[str, float], seconds_left: float) -> None:  # noqa: ARG002
        if step == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np
    from parts import good_image, write  # after torch, as everywhere

    folder, rng = tmp_path_factory.mktemp("overwrite") / "data", np.random.default_rng(0)
    for index in range(20):  # 16 are trained on: 2 steps an epoch
        write(folder / f"{index:02}.png", good_image(rng))
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bundle with a later stage."""
    bundle = train(data, tmp_path_factory.mktemp("whole") / "bundle", TINY, Progress())
    with bundle.stage("export", command="lrdan-edge export", inputs={WEIGHTS: bundle.path / WEIGHTS}) as stage:
        stage.path("model.fp32.onnx").write_bytes(GRAPH)
    return bundle.path


@pytest.fixture(scope="module")
def others_weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What `OTHER` trains."""
    return train(data, tmp_path_factory.mktemp("other") / "bundle", OTHER, Progress()).read(WEIGHTS, "x")


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "b")
    return tmp_path / "b"


@pytest.fixture(scope="module")
def early(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a first training that Ctrl-C ended after its first step, and its checkpoint."""
    bundle = train(data, tmp_path_factory.mktemp("early") / "bundle", TINY, InterruptAt(1))
    assert bundle.manifest.stages["train"].results["interrupted"] is True
    assert (bundle.path / CHECKPOINT).exists()
    return bundle.path


@pytest.fixture
def interrupted(early: Path, tmp_path: Path) -> Path:
    shutil.copytree(early, tmp_path / "b")
    return tmp_path / "b"


def kept(folder: Path) -> dict[str, object]:
    """What a bundle holds for its user: all but hidden files."""
    return {name: found for name, found in snapshot(folder).items() if not name.startswith(".")}


@pytest.mark.parametrize("options", [TINY, OTHER, replace(TINY, resume=True)])
def test_a_finished_bundle_is_refused_and_unchanged(finished: Path, data: Path, options: TrainOptions) -> None:
    """Typed again by mistake and stopped after some seconds, `train` used to leave one epoch's weights."""
    before = snapshot(finished)
    for folder in (data, data / "nowhere"):  # before a look at the images, which may take minutes
        with pytest.raises(BundleError, match=r"already holds a trained bundle \(.*; then export\): give overwrite .* bundle$"):
            train(folder, finished, options, Progress())
    assert snapshot(finished) == before


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text.replace('version": 1', 'version": 7')])
def test_a_bundle_that_cannot_be_read_counts_as_finished(finished: Path, data: Path, damage: Callable[[str], str]) -> None:
    manifest = finished / "manifest.json"
    manifest.write_text(damage(manifest.read_text()))
    before = snapshot(finished)
    with pytest.raises(BundleError, match=r"already holds a bundle that cannot be read .*: give overwrite"):
        train(data, finished, TINY, Progress())
    assert snapshot(finished) == before
    with pytest.raises(InterruptedTrainingError):
        train(data, finished, replace(TINY, overwrite=True), InterruptAt(1))
    assert manifest.read_bytes() == before["manifest.json"][2]


def test_a_complete_training_replaces_the_bundle(finished: Path, data: Path, others_weights: bytes) -> None:
    assert train(data, finished, replace(OTHER, overwrite=True), Progress()).read(WEIGHTS, "x") == others_weights
    assert Bundle.open(finished).staleness("export") == "weights.safetensors is newer"


def test_an_interrupted_training_leaves_the_bundle_and_resumes(finished: Path, data: Path, others_weights: bytes) -> None:
    before = kept(finished)
    again = replace(OTHER, overwrite=True)
    for step in (1, 3):
        with pytest.raises(
            InterruptedTrainingError, match=rf"after step {step} of 4; .* unchanged: run the same command again"
        ):
            train(data, finished, again, InterruptAt(step))
        assert kept(finished) == before
        assert (finished / CHECKPOINT).exists()
        assert not (finished / ".staging").exists()
        bundle = Bundle.open(finished)
        assert bundle.staleness("export") is None
        assert bundle.read("model.fp32.onnx", "x") == GRAPH
    with pytest.raises(BundleError, match="give overwrite"):
        train(data, finished, OTHER, Progress())
    assert train(data, finished, again, Progress()).read(WEIGHTS, "x") == others_weights
    assert Bundle.open(finished).manifest.stages["train"].results["resumed_from_step"] == 3
    assert not (finished / CHECKPOINT).exists()


def test_an_interrupted_first_training_resumes_with_the_same_command(interrupted: Path, data: Path, whole: Path) -> None:
    results = train(data, interrupted, TINY, InterruptAt(2)).manifest.stages["train"].results
    assert (results["interrupted"], results["steps"], results["resumed_from_step"]) == (True, 2, 1)
    assert train(data, interrupted, TINY, Progress()).read(WEIGHTS, "x") == (whole / WEIGHTS).read_bytes()
    with pytest.raises(BundleError, match="already holds a trained bundle"):
        train(data, interrupted, TINY, Progress())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (OTHER, r"this run cannot be resumed \(the checkpoint .* is of another run \(.*seed 0, here 5"),
        (replace(TINY, resume=False), r"this run cannot be resumed \(resuming is switched off\)"),
        (TINY, r"this run cannot be resumed \(there is no .*checkpoint"),
    ],
)
def test_an_interrupted_bundle_is_replaced_only_by_resuming(
    interrupted: Path, data: Path, options: TrainOptions, why: str
) -> None:
    if options is TINY:
        (interrupted / CHECKPOINT).unlink()
    before = kept(interrupted)
    with pytest.raises(BundleError, match=rf"already holds the bundle of an interrupted training .*{why}.*overwrite"):
        train(data, interrupted, options, Progress())
    assert kept(interrupted) == before
    with pytest.raises(InterruptedTrainingError):
        train(data, interrupted, replace(options, overwrite=True), InterruptAt(1))
    assert kept(interrupted) == before
    if options is OTHER:  # whose checkpoint is there now, and the bundle is not its own
        with pytest.raises(BundleError, match="it belongs to a different run"):
            train(data, interrupted, OTHER, Progress())


def test_a_bundle_finished_during_decoding_is_not_replaced(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_late(folder: Path, options: TrainOptions) -> TrainingData:
        monkeypatch.undo()
        train(data, tmp_path / "b", OTHER, Progress())
        return load_training_data(folder, options)

    monkeypatch.setattr(trainer, "load_training_data", load_late)
    with pytest.raises(BundleError, match="already holds a trained bundle"):
        train(data, tmp_path / "b", TINY, Progress())
    assert Bundle.open(tmp_path / "b").manifest.stages["train"].options["seed"] == 5


def test_overwriting_on_the_command_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "b"

    def call(*words: str) -> Result:
        return CliRunner().invoke(cli, [*words, "--bundle", str(bundle)], env={"COLUMNS": "1000"})

    command = ("train", str(data), "--epochs", "1", "--image-size", "28", "--device", "cpu")
    assert call(*command).exit_code == 0
    weights = (bundle / WEIGHTS).read_bytes()
    refusal = call(*command)
    assert refusal.exit_code == 1
    (line,) = [line for line in refusal.output.splitlines() if line.startswith("Error: ")]
    assert f"{bundle} already holds a trained bundle" in line
    assert "--overwrite" in line

    step = TerminalProgress.step

    def interrupting(*arguments: Any) -> None:
        step(*arguments)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(TerminalProgress, "step", interrupting)
        stopped = call(*command, "--overwrite", "--seed", "3")
    assert stopped.exit_code == 130
    assert f"the bundle at {bundle} is unchanged: run the same command again to resume." in stopped.output
    assert (bundle / WEIGHTS).read_bytes() == weights
    assert call("info").exit_code == 0

    (bundle / WEIGHTS).write_bytes(b"damaged")
    shown = call("info")
    assert shown.exit_code == 1
    (again,) = re.findall(r"run 'lrdan-edge (train .*) --bundle \S+' again", shown.output)
    assert "--overwrite" in again
    assert call(*shlex.split(again)).exit_code == 0, "the command that the message names repeats the stage"
    assert call("info").exit_code == 0
