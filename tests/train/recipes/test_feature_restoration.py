"""The recipe ``feature-restoration``: its loss against NumPy, known defects, and whole runs with a frozen backbone."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from specs import spec_for

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.names import WEIGHTS
from lrdan_edge.model.deployed import load_network
from lrdan_edge.model.feature_restorer import FeatureRestorer
from lrdan_edge.model.pretrained import PUBLISHED, load_pretrained
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes.feature_restoration.hyperparameters import FeatureRestorationHyperparameters
from lrdan_edge.train.recipes.feature_restoration.learner import FeatureRestorationLearner, restoration
from lrdan_edge.train.recipes.feature_restoration.recipe import RECIPE
from lrdan_edge.train.trainer import train
from lrdan_edge.train.view import View

OPTIONS = TrainOptions(recipe="feature-restoration", epochs=2, batch_size=8, device="cpu", checkpoint_seconds=1000)


class Losses(Progress):
    """Keeps the losses of every step, and can look at the learner's network in between."""

    def __init__(self) -> None:
        self.losses = list[dict[str, float]]()

    def step(self, epoch: int, epochs: int, step: int, steps: int, losses: dict[str, float], seconds_left: float) -> None:  # noqa: ARG002
        self.losses.append(losses)


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def learner(channels: Literal[1, 3] = 1, side: int = 36, **changes: Any) -> FeatureRestorationLearner:
    torch.manual_seed(0)
    hyperparameters = FeatureRestorationHyperparameters(**changes)
    spec = spec_for(side, side, channels, recipe="feature-restoration")
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, channels, side, side), np.uint8))
    found = RECIPE.learner_for(RECIPE.networks_for(spec).train(), spec, frames, hyperparameters, LearnerOptions())
    assert isinstance(found, FeatureRestorationLearner)
    return found


def test_restoration_is_smooth_l1_plus_the_weighted_angle_summed_over_the_strides() -> None:
    shapes = [(2, 5, 9, 7), (2, 4, 5, 4), (2, 3, 3, 2)]
    pairs = [(2 * noise(*shape, seed=2 * place), noise(*shape, seed=2 * place + 1)) for place, shape in enumerate(shapes)]
    expected = 0.0
    for restored, good in ((one.numpy(), other.numpy()) for one, other in pairs):
        size = np.abs(restored - good)
        expected += np.where(size < 1, size**2 / 2, size - 0.5).mean()
        cosine = (restored * good).sum(1) / np.linalg.norm(restored, axis=1) / np.linalg.norm(good, axis=1)
        expected += 0.3 * (1 - cosine).mean()
    restored_features, good_features = zip(*pairs, strict=True)
    assert float(restoration(restored_features, good_features, 0.3)) == pytest.approx(expected)
    assert float(restoration(good_features, good_features, 0.3)) == pytest.approx(0, abs=1e-12)


def test_a_step_changes_ae2_and_the_decoder_but_not_the_backbone() -> None:
    one = learner()
    before = {name: tensor.clone() for name, tensor in one.network.state_dict().items()}
    frames = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 1, 36, 36), np.uint8))
    terms = one.step(*one.prepare(frames, 0))
    assert terms.keys() == {"restoration", "marking", "overlap", "total", "spread_ae2", "spread_x"}
    total = terms["restoration"] + 4 * terms["marking"] + 0.5 * terms["overlap"]
    assert float(terms["total"]) == pytest.approx(float(total), rel=1e-6)
    after = one.network.state_dict()
    changed = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"ae2", "decoder"}
    assert one.network.training
    assert not any(module.training for module in one.network.backbone.modules())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path, list[dict[str, float]]]:
    """A short run on stripes, its images and the losses of every step."""
    folder = tmp_path_factory.mktemp("feature-restoration")
    (folder / "data").mkdir()
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for index in range(40):
        wave = np.sin(columns * 0.8 + rows * rng.uniform(-0.2, 0.2) + rng.uniform(0, 6.28))
        image = np.clip(128 + 80 * wave + rng.normal(0, 3, (64, 64)), 0, 255).astype(np.uint8)
        assert cv2.imwrite(str(folder / "data" / f"{index:02d}.png"), image)
    seen = Losses()
    bundle = train(folder / "data", folder / "bundle", replace(OPTIONS, epochs=12), seen)
    return bundle, folder / "data", seen.losses


def test_a_short_training_lowers_the_losses(run: tuple[Bundle, Path, list[dict[str, float]]]) -> None:
    _, _, losses = run
    assert len(losses) > 30
    for name in ("restoration", "marking", "total"):
        first, last = (np.mean([one[name] for one in part]) for part in (losses[:8], losses[-8:]))
        assert last < 0.8 * first, name


def test_a_defect_scores_higher_than_the_good_images(run: tuple[Bundle, Path, list[dict[str, float]]]) -> None:
    bundle, data, _ = run
    module = load_network(Bundle.open(bundle.path))
    good = [np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))[..., None] for path in sorted(data.iterdir())]
    bad = [image.copy() for image in good[:6]]
    for image in bad:
        image[22:40, 30:48] = 250
        image[28:34, 34:42] = 0
    with torch.inference_mode():
        score, heatmap = module(torch.from_numpy(np.stack([*good, *bad])))
    assert score[-6:].min() > score[:-6].max()
    torch.testing.assert_close(heatmap.amax((1, 2)), score)
    assert heatmap[-6:, 22:40, 30:48].mean() > heatmap[-6:].mean() > heatmap[:-6].mean()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_bundles_backbone_is_the_published_one(tmp_path: Path, write_stripes: Any, channels: int) -> None:
    write_stripes(tmp_path / "data", 12, (36, 44), channels=channels)
    bundle = train(tmp_path / "data", tmp_path / "bundle", replace(OPTIONS, epochs=1), Progress())
    results, spec = bundle.manifest.stages["train"].results, bundle.manifest.model
    assert (spec.architecture, spec.backbone, spec.strides) == ("feature-restorer", "efficientnet-lite0", (2, 4, 8, 16))
    assert results["backbone"] == {"name": "efficientnet-lite0", "sha256": PUBLISHED["efficientnet-lite0"][2]}
    published = load_pretrained("efficientnet-lite0").weights
    prefix = "network.backbone."
    stored = {name.removeprefix(prefix): tensor for name, tensor in load_file(bundle.path / WEIGHTS).items()}
    for name, tensor in FeatureRestorer(spec).backbone.state_dict().items():
        expected = published.get(name, tensor)  # `num_batches_tracked` is not published
        if name == "stem.conv.weight":
            expected = 0.45 * (
                expected.sum(1, keepdim=True) if channels == 1 else expected[:, [2, 1, 0]]
            )  # ImageNet's contrast
        assert torch.equal(stored[name], expected), name
    score, _ = load_network(bundle)(torch.zeros(2, 36, 44, channels, dtype=torch.uint8))
    assert torch.isfinite(score).all()


def test_the_seed_decides_the_weights(tmp_path: Path, write_stripes: Any) -> None:
    write_stripes(tmp_path / "data", 12, (36, 36))
    options = replace(OPTIONS, epochs=1)
    runs = [
        train(tmp_path / "data", tmp_path / str(place), replace(options, seed=seed), Progress())
        for place, seed in enumerate((3, 3, 4))
    ]
    weights = [(one.path / WEIGHTS).read_bytes() for one in runs]
    assert weights[0] == weights[1] != weights[2]


def test_tiles_share_one_network(tmp_path: Path, write_stripes: Any) -> None:
    write_stripes(tmp_path / "data", 12, (64, 96))
    options = replace(OPTIONS, epochs=1, view=View(tiles=(2, 2)), image_size=(48, 64))
    bundle = train(tmp_path / "data", tmp_path / "bundle", options, Progress())
    score, heatmap = load_network(bundle)(torch.zeros(2, 64, 96, 1, dtype=torch.uint8))
    assert torch.isfinite(score).all()
    assert heatmap.shape[1:] == bundle.manifest.model.heatmap_shape
