"""LRDAN as a detector is what `train` trains and the deploy graph scores."""

from functools import cache
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrdan_edge.errors import TrainingError
from lrdan_edge.model.deployed import load_network
from lrdan_edge.protocol.baselines.base import Training
from lrdan_edge.protocol.baselines.lrdan import Lrdan
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.recipes.lrdan.hyperparameters import LossWeights
from lrdan_edge.train.trainer import TrainOptions, train
from lrdan_edge.train.training_data import load_training_data

CPU = torch.device("cpu")
FRAMES = torch.randint(0, 256, (24, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def fitted(scorer: str = "ae2", seed: int = 0) -> Lrdan:
    detector = Lrdan(scorer=scorer)  # type: ignore[arg-type]
    detector.fit(Training(good=FRAMES[:16], steps=3, seed=seed, device=CPU))
    return detector


@cache
def fitted_once() -> Lrdan:
    return fitted()


@cache
def alone() -> torch.Tensor:
    """The score of every image, asked for by itself."""
    return torch.cat([fitted_once().score(frame[None]) for frame in FRAMES])


@pytest.mark.parametrize("recipe", ["lrdan", "restoration"])
def test_the_detector_scores_as_the_deploy_graph_does(
    good_images: Path, tmp_path: Path, recipe: Literal["lrdan", "restoration"]
) -> None:
    options = TrainOptions(recipe=recipe, epochs=3, batch_size=8, device="cpu", seed=4)
    bundle = train(good_images, tmp_path / "bundle", options, Progress())
    frames = load_training_data(good_images, options).frames[:]
    detector = Lrdan(options=options)
    detector.fit(Training(good=frames, steps=3 * (len(frames) // 8), seed=4, device=CPU))
    with torch.inference_mode():
        expected, _ = load_network(bundle)(frames.permute(0, 2, 3, 1))
    torch.testing.assert_close(detector.score(frames), expected, rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(0, 23), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None)
def test_a_score_depends_only_on_its_own_image(indices: list[int]) -> None:
    scores = fitted_once().score(FRAMES[indices])
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, alone()[indices], rtol=1e-5, atol=1e-5)


def test_the_seed_determines_the_result_and_the_callers_generator_is_unchanged() -> None:
    before = torch.get_rng_state()
    assert torch.equal(fitted().score(FRAMES), fitted_once().score(FRAMES))
    assert not torch.equal(fitted(seed=1).score(FRAMES), fitted_once().score(FRAMES))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_scoring_is_selectable() -> None:
    assert not torch.equal(fitted("ae1").score(FRAMES), fitted_once().score(FRAMES))
    assert "AE1 is scored" in Lrdan(scorer="ae1").recipe
    assert "dual 0," in Lrdan(LossWeights(dual=0), "joint").recipe
    assert "joint" in Lrdan(LossWeights(dual=0), "joint").recipe


def test_fewer_images_than_a_batch_train_too() -> None:
    detector = Lrdan()
    detector.fit(Training(good=FRAMES[:3], steps=2, seed=0, device=CPU))
    assert torch.isfinite(detector.score(FRAMES)).all()


def test_scoring_before_fitting_is_refused() -> None:
    with pytest.raises(TrainingError, match="call fit first"):
        Lrdan().score(FRAMES)
