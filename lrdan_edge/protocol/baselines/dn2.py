"""The recipe `dn2` of lrdan-edge as a detector of the protocol. It has seen ImageNet, which the other detectors have not."""

from typing import Literal, cast

import torch
from torch import Tensor

from lrdan_edge.model.deployed import DeployModule, ScoringHead
from lrdan_edge.protocol.baselines.base import Detector, Training
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.recipes.dn2.recipe import RECIPE


class DN2Detector(Detector):
    """DN2 (arXiv 2002.10445): the distance of an image's mean features from the nearest of the good images'."""

    least_images = 1
    images_at_once = 32

    def __init__(self) -> None:
        """Choose the hyperparameters: those of the recipe."""
        self.hyperparameters = RECIPE.defaults
        self.recipe = f"recipe dn2, pretrained on ImageNet; {self.hyperparameters.describe()}"

    def _fit(self, training: Training) -> None:
        """Show every image once to the backbone; `Training.steps` is not used."""
        good = training.good
        _, channels, height, width = good.shape
        spec = RECIPE.spec_for(height, width, cast(Literal[1, 3], channels), self.hyperparameters)
        with torch.random.fork_rng():
            torch.manual_seed(training.seed)
            networks = RECIPE.networks_for(spec).to(training.device)
        learner = RECIPE.learner_for(networks, spec, good, self.hyperparameters, LearnerOptions(seed=training.seed))
        size = self.hyperparameters.batch
        for step, part in enumerate(torch.split(good, size)):
            learner.step(*(one.to(training.device) for one in learner.prepare(part, step)))
        scoring = RECIPE.scoring_for(spec)
        mean, deviation = RECIPE.finish(networks, good[:size], RECIPE.preprocessing_for(spec), scoring, spec)
        head = ScoringHead(spec, scoring, mean, deviation)
        self._module = DeployModule(networks.network, head, RECIPE.preprocessing_for(spec), scoring.source).to(training.device)

    def _score(self, frames: Tensor, device: torch.device) -> Tensor:
        """The deploy graph's score."""
        score: Tensor = self._module(frames.permute(0, 2, 3, 1).to(device))[0]
        return score
