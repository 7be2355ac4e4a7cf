"""Every way to fail is noticed within an epoch, and the message says what to change."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import spec_for

from lrdan_edge.errors import TrainingError
from lrdan_edge.model.networks import Restorer
from lrdan_edge.train import collapse
from lrdan_edge.train.collapse import AFTER, LEAST_PATIENCE, MOST_PATIENCE, CollapseDetector
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes.lrdan.hyperparameters import LrdanHyperparameters
from lrdan_edge.train.recipes.lrdan.learner import AdversarialLearner
from lrdan_edge.train.recipes.restoration.hyperparameters import RestorationHyperparameters
from lrdan_edge.train.recipes.restoration.restoration import RestorationLearner
from lrdan_edge.train.trainer import train

HEALTHY = {
    "total": 1.0,
    "discriminator": 0.5,
    "girec": 3.0,
    "direc": 2.0,
    "spread_g": 0.3,
    "spread_ae2": 0.3,
    "spread_x": 0.4,
}
SIGNS = [
    ({"spread_g": 0.003}, "AE1 .* collapsed to one constant image .*seed"),
    ({"spread_ae2": 0.003}, "AE2 collapsed to one constant image .*seed"),
    ({"discriminator": 0.04}, "the discriminator ran away .*lower learning_rate"),
]


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 400), st.sampled_from(SIGNS))
def test_each_sign_of_collapse_ends_training_within_one_epoch(
    steps_per_epoch: int, healthy: int, sign: tuple[dict[str, float], str]
) -> None:
    detector = CollapseDetector(steps_per_epoch, {})
    for step in range(1, healthy + 1):
        detector.check(HEALTHY, 1, step)
    last = max(healthy + 1, AFTER) + min(max(steps_per_epoch, LEAST_PATIENCE), MOST_PATIENCE) - 1
    for step in range(healthy + 1, last):
        detector.check(HEALTHY | sign[0], 1, step)
    with pytest.raises(TrainingError, match=sign[1]):
        detector.check(HEALTHY | sign[0], 1, last)


@settings(deadline=None)
@given(st.sampled_from(SIGNS), st.integers(1, 49))
def test_a_temporary_sign_is_not_a_collapse(sign: tuple[dict[str, float], str], sick: int) -> None:
    detector = CollapseDetector(1000, {})
    for step in range(AFTER, AFTER + 400):
        detector.check(HEALTHY | sign[0] if step % (sick + 1) else HEALTHY, 1, step)


def test_identical_images_are_not_evidence_of_collapse() -> None:
    detector = CollapseDetector(10, {})
    for step in range(AFTER, AFTER + 100):
        detector.check(HEALTHY | {"spread_x": 0.01, "spread_g": 0.0, "spread_ae2": 0.0}, 1, step)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_nan_loss_ends_training_at_once(value: float) -> None:
    with pytest.raises(TrainingError, match=r"loss direc became -?(nan|inf) in epoch 3, step 7; nothing was saved"):
        CollapseDetector(10, {}).check(HEALTHY | {"direc": value}, 3, 7)


def test_counting_continues_after_resuming() -> None:
    counts: dict[str, int] = {}
    sick = HEALTHY | {"spread_g": 0.0}
    first = CollapseDetector(10, counts)
    for step in range(AFTER, AFTER + 6):
        first.check(sick, 1, step)
    second = CollapseDetector(10, dict(counts))
    for step in range(AFTER + 6, AFTER + 9):
        second.check(sick, 1, step)
    with pytest.raises(TrainingError, match="for 10 steps"):
        second.check(sick, 1, AFTER + 9)


def provoked(monkeypatch: pytest.MonkeyPatch, change: Callable[[AdversarialLearner], None]) -> None:
    """Every learner is changed by `change` before it makes its first step."""
    original = AdversarialLearner.__init__

    def init(self: AdversarialLearner, *words: Any, **named: Any) -> None:
        original(self, *words, **named)
        change(self)

    monkeypatch.setattr(AdversarialLearner, "__init__", init)
    monkeypatch.setattr(collapse, "AFTER", 6)


def certain(self: AdversarialLearner) -> None:
    """A discriminator far too fast, against a generator that stands still."""
    self._peak_rates = [0.0, 0.03]


def spoiling(self: AdversarialLearner) -> None:
    """AE2 is paid more for spoiling fakes than for its images: both autoencoders end in constant images."""
    weights = replace(self.hyperparameters.weights, k=50.0)
    self.hyperparameters = replace(self.hyperparameters, weights=weights)


@pytest.mark.parametrize(
    ("change", "said"),
    [(certain, "the discriminator ran away"), (spoiling, "collapsed to one constant image")],
    ids=["discriminator", "AE2"],
)
def test_a_runaway_discriminator_ends_training(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[AdversarialLearner], None], said: str
) -> None:
    provoked(monkeypatch, change)
    hyperparameters = LrdanHyperparameters(dual_reading="joint", batch_size=8, learning_rate=3e-3)
    options = TrainOptions(recipe="lrdan", hyperparameters=hyperparameters, epochs=100, device="cpu")
    with pytest.raises(TrainingError, match=rf"{said} .* in epoch \d+, for 10 steps; nothing was saved"):
        train(stripes, tmp_path / "bundle", options, Progress())
    assert not (tmp_path / "bundle" / "manifest.json").exists()


def test_weights_that_the_last_step_broke_are_not_saved(stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = AdversarialLearner.step

    def breaking(self: AdversarialLearner, x: torch.Tensor) -> dict[str, torch.Tensor]:
        terms = step(self, x)
        with torch.no_grad():
            next(self.networks.network.parameters()).fill_(math.nan)
        return terms

    monkeypatch.setattr(AdversarialLearner, "step", breaking)
    with pytest.raises(TrainingError, match="the network's output is not finite after training; nothing was saved"):
        train(stripes, tmp_path / "bundle", TrainOptions(recipe="lrdan", epochs=1, batch_size=30, device="cpu"), Progress())
    assert not (tmp_path / "bundle" / "manifest.json").exists()


def test_a_restorers_spread_is_compared_in_its_own_units() -> None:
    """It used to be held to 1 % of the spread before standardising, which on faint images is nothing."""
    frames = (128 + np.random.default_rng(0).normal(0, 6, (8, 1, 36, 36))).round().clip(0, 255).astype(np.uint8)
    learner = RestorationLearner(Restorer(spec_for(36, 36, 1, recipe="restoration")), RestorationHyperparameters())
    terms = learner.step(*learner.prepare(torch.from_numpy(frames), 0))
    assert terms["spread_x"].item() > 0.2, "of the images themselves, from -1 to 1, it is 0.045"
