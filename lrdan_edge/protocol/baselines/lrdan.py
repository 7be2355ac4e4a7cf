"""The recipes of lrdan-edge as detectors of the protocol: trained as by `trainer.train`, but for a fixed number of steps."""

from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec, Scoring
from lrdan_edge.model.deployed import DeployModule, ScoringHead
from lrdan_edge.model.networks import Autoencoder, Restorer
from lrdan_edge.protocol.baselines.base import Detector, Training
from lrdan_edge.train.known_defects import KnownDefects
from lrdan_edge.train.learner import LearnerOptions
from lrdan_edge.train.map_statistics import map_statistics
from lrdan_edge.train.options import TrainOptions, computes_bfloat16
from lrdan_edge.train.prefetch import batch_of
from lrdan_edge.train.recipes.base import Recipe
from lrdan_edge.train.recipes.lrdan.hyperparameters import DualReading, LossWeights
from lrdan_edge.train.schedule import rate_at

Scorer = Literal["ae1", "ae2"]

BATCH_SIZE = 32  # the protocol has thousands of small images; the recipe's default is for hundreds of large ones


class Lrdan(Detector):
    """LRDAN (arXiv 2002.01607), or another recipe of lrdan-edge, as a `Detector`."""

    def __init__(
        self,
        weights: LossWeights | None = None,
        dual_reading: DualReading | None = None,
        *,
        scorer: Scorer = "ae2",
        options: TrainOptions | None = None,
        labelled_ratio: float = 0.0,
    ) -> None:
        """Choose the recipe.

        Args:
            weights: The weights of LRDAN's losses; the options' by default.
            dual_reading: Which networks minimise LRDAN's dual term; the options' by default.
            scorer: The network whose output is scored: AE2 (deployed), or with LRDAN also AE1, for losses that do not train AE2.
            labelled_ratio: Fraction of labelled anomalies in the training images (see `lrdan_edge.train.known_defects`); 0 for none.
            options: Recipe, hyperparameters and scoring (LRDAN's by default); other options are ignored.
        """
        options = options or TrainOptions(recipe="lrdan", batch_size=BATCH_SIZE)
        given = {"weights": weights, "dual_reading": dual_reading}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.hyperparameters = replace(options.resolved_hyperparameters(), **changes)
        self.options = replace(options, hyperparameters=self.hyperparameters)
        self.scorer, self.labelled_ratio = scorer, labelled_ratio
        labelled = f"semi-supervised: {labelled_ratio:g} of the training images are labelled anomalies of one other class; "
        scoring = options.scoring or "the image size's own"
        self.recipe = (
            f"{labelled if labelled_ratio else ''}recipe {options.resolved_recipe().name}; {self.hyperparameters.describe()}; "
            f"{scorer.upper()} is scored; scoring: {scoring}"
        )

    def _fit(self, training: Training) -> None:
        """Train for exactly the given number of steps and keep the last state."""
        recipe, hyperparameters = self.options.resolved_recipe(), self.hyperparameters
        good, steps, seed, device = training.good, training.steps, training.seed, training.device
        _, channels, height, width = good.shape
        spec = recipe.spec_for(height, width, cast(Literal[1, 3], channels), hyperparameters)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            networks = recipe.networks_for(spec).to(device)
        networks.to(memory_format=torch.channels_last)
        networks.train()
        known = known_of(training.defects) if self.labelled_ratio and training.defects is not None else None
        options = LearnerOptions(seed=seed, half=computes_bfloat16(device), known=known)
        learner = recipe.learner_for(networks, spec, good, hyperparameters, options)
        batch_size = recipe.schedule_for(hyperparameters, len(good)).batch_size
        for step in range(steps):
            learner.set_rate(rate_at(step, steps))
            batch = learner.prepare(good[batch_of(step, seed, len(good), batch_size)], step)
            learner.step(*(part.to(device) for part in batch))
        scoring = self.options.scoring or recipe.scoring_for(spec)
        self._module = deploy_module(networks.network if self.scorer == "ae2" else networks.ae1, good, spec, recipe, scoring)

    def _score(self, frames: Tensor, device: torch.device) -> Tensor:
        """The deploy graph's score."""
        score: Tensor = self._module(frames.permute(0, 2, 3, 1).to(device))[0]
        return score


def restoration() -> Lrdan:
    """The recipe ``restoration`` as a `Detector`."""
    return Lrdan(options=TrainOptions(recipe="restoration", batch_size=BATCH_SIZE))


def restoration_known(labelled_ratio: float) -> Lrdan:
    """The recipe ``restoration`` with the fraction `labelled_ratio` of labelled anomalies as a `Detector`."""
    return Lrdan(options=TrainOptions(recipe="restoration", batch_size=BATCH_SIZE), labelled_ratio=labelled_ratio)


def known_of(defects: Tensor) -> KnownDefects:
    """Convert defects uint8 [K, C, H, W] to `KnownDefects` without masks."""
    return KnownDefects(defects, torch.zeros(len(defects), *defects.shape[-2:]), [])


def deploy_module(
    network: Autoencoder | Restorer, good: Tensor, spec: ModelSpec, recipe: Recipe[Any, Any], scoring: Scoring
) -> DeployModule:
    """The deploy graph of a trained network, on the network's device, with scoring constants from the good images."""
    preprocessing = recipe.preprocessing_for(spec)
    head = ScoringHead(spec, scoring, *map_statistics(network, good, preprocessing, scoring))
    return DeployModule(network, head, preprocessing, scoring.source).to(next(network.parameters()).device)
