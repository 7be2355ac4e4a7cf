"""The recipes of lrdan-edge as detectors of the protocol: trained as by `trainer.train`, but for a fixed number of steps."""

from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from lrdan_edge.errors import TrainingError
from lrdan_edge.model.deployed import DeployModule, ScoringHead
from lrdan_edge.train.known_defects import KnownDefects
from lrdan_edge.train.map_statistics import map_statistics
from lrdan_edge.train.options import TrainOptions, computes_bfloat16
from lrdan_edge.train.prefetch import batch_of
from lrdan_edge.train.recipes import recipe_named
from lrdan_edge.train.recipes.lrdan.hyperparameters import DualReading, LossWeights
from lrdan_edge.train.schedule import rate_at

Scorer = Literal["ae1", "ae2"]

BATCH_SIZE = 32  # the protocol has thousands of small images; the recipe's default is for hundreds of large ones
_SCORED_AT_ONCE = 256


class Lrdan:
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
        self._fitted: tuple[DeployModule, torch.device] | None = None

    @property
    def recipe(self) -> str:
        """The configuration in one line; results with another one are not mixed with these."""
        scoring = "the image size's own" if self.options.scoring is None else str(self.options.scoring)
        labelled = self.labelled_ratio and (
            f"semi-supervised: {self.labelled_ratio:g} of the training images are labelled anomalies of one other class; "
        )
        return (
            f"{labelled or ''}recipe {self.options.recipe}; {self.hyperparameters.describe()}; {self.scorer.upper()} is scored; "
            f"scoring: {scoring}"
        )

    def fit(
        self,
        good: Tensor,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        defects: Tensor | None = None,
    ) -> None:
        """Train for exactly `steps` steps and keep the last state; see `Detector.fit`.

        Raises:
            DataError: The images' size is not supported.
        """
        recipe, hyperparameters = recipe_named(self.options.recipe), self.hyperparameters
        _, channels, height, width = good.shape
        spec = recipe.spec_for(height, width, cast(Literal[1, 3], channels), hyperparameters)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            networks = recipe.networks_for(spec).to(device)
        networks.to(memory_format=torch.channels_last)
        networks.train()
        known = known_of(defects) if self.labelled_ratio and defects is not None else None
        half = computes_bfloat16(device)
        learner = recipe.learner_for(networks, spec, good, hyperparameters, seed=seed, half=half, known=known)
        batch_size = recipe.schedule_for(hyperparameters, len(good)).batch_size
        for step in range(steps):
            learner.set_rate(rate_at(step, steps))
            batch = learner.prepare(good[batch_of(step, seed, len(good), batch_size)], step)
            learner.step(*(part.to(device) for part in batch))
        network = getattr(networks, self.scorer)
        preprocessing, scoring = recipe.preprocessing_for(spec), self.options.scoring or recipe.scoring_for(spec)
        mean, deviation = map_statistics(network, good, preprocessing, scoring)
        head = ScoringHead(spec, scoring, mean, deviation)
        self._fitted = DeployModule(network, head, preprocessing, scoring.source).to(device), device

    @torch.inference_mode()
    def score(self, frames: Tensor) -> Tensor:
        """The deploy graph's score; see `Detector.score`.

        Raises:
            TrainingError: `fit` has not run.
        """
        if self._fitted is None:
            raise TrainingError("LRDAN scores before it was fitted: call fit first")
        module, device = self._fitted
        parts = torch.split(frames.permute(0, 2, 3, 1), _SCORED_AT_ONCE)
        return torch.cat([module(part.to(device))[0].cpu() for part in parts])


def inspection() -> Lrdan:
    """The recipe ``inspection`` as a `Detector`."""
    return Lrdan(options=TrainOptions(recipe="inspection", batch_size=BATCH_SIZE))


def inspection_known(labelled_ratio: float) -> Lrdan:
    """The recipe ``inspection`` with the fraction `labelled_ratio` of labelled anomalies as a `Detector`."""
    return Lrdan(options=TrainOptions(recipe="inspection", batch_size=BATCH_SIZE), labelled_ratio=labelled_ratio)


def known_of(defects: Tensor) -> KnownDefects:
    """Convert defects uint8 [K, C, H, W] to `KnownDefects` without masks."""
    return KnownDefects(defects, torch.zeros(len(defects), *defects.shape[-2:]), [])
