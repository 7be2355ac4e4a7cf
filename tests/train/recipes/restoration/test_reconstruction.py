"""The recipe ``restoration`` for images of one object: its loss against NumPy, and that it learns, the same each time."""

import numpy as np
import pytest
import torch
from specs import spec_for

from lrdan_edge.model.networks import Autoencoder
from lrdan_edge.train.recipes.restoration.hyperparameters import RestorationHyperparameters
from lrdan_edge.train.recipes.restoration.reconstruction import ReconstructionLearner, reconstruction


def test_reconstruction_is_the_squared_error_of_an_image() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 5, 3, 8, 9))
    expected = ((one - other) ** 2).reshape(5, -1).sum(1).mean()
    assert reconstruction(torch.from_numpy(one), torch.from_numpy(other)).item() == pytest.approx(expected, rel=1e-12)


def test_training_lowers_the_loss_and_repeats_bit_for_bit() -> None:
    frames = torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def run() -> list[float]:
        torch.manual_seed(0)
        autoencoder = Autoencoder(spec_for(28, 28, 1, recipe="restoration")).train()
        learner = ReconstructionLearner(autoencoder, RestorationHyperparameters(learning_rate=2e-3))
        return [learner.step(frames)["total"].item() for _ in range(30)]

    first = run()
    assert first == run()
    assert first[-1] < 0.7 * first[0]
