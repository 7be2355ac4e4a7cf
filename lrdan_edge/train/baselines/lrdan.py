"""LRDAN itself as a detector of the protocol: trained as `trainer.train` trains, but for a number of steps and without files."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from lrdan_edge.errors import TrainingError
from lrdan_edge.train.adversaries import Adversaries, DualReading, Optimisation
from lrdan_edge.train.losses import LossWeights
from lrdan_edge.train.networks import Autoencoder, spec_for
from lrdan_edge.train.options import TrainOptions, computes_bfloat16
from lrdan_edge.train.scoring import ScoringHead
from lrdan_edge.train.trainer import CENTER_IMAGES, error_statistics, rate_at, to_input

Scorer = Literal["ae1", "ae2"]

_SCORED_AT_ONCE = 256


class Lrdan:
    """LRDAN (arXiv 2002.01607) with the toolkit's recipe, as a `Detector`."""

    def __init__(
        self,
        weights: LossWeights | None = None,
        dual_reading: DualReading | None = None,
        *,
        scorer: Scorer = "ae2",
        options: TrainOptions | None = None,
    ) -> None:
        """Choose the recipe.

        Args:
            weights: The losses' weights, instead of `options`'.
            dual_reading: Who minimises the dual term, instead of `options`'.
            scorer: Whose reconstruction error is the score: AE2's, which is deployed, or AE1's for losses that leave AE2 untrained.
            options: Batch size, learning rate, decoder and scoring (the recipe's by default); the rest is not used.
        """
        options = options or TrainOptions()
        self.options = replace(options, weights=weights or options.weights, dual_reading=dual_reading or options.dual_reading)
        self.scorer = scorer
        self._fitted: tuple[Autoencoder, ScoringHead, torch.device] | None = None

    @property
    def recipe(self) -> str:
        """What was chosen, in one line; results measured with another recipe are not mixed with these."""
        options = self.options
        weights = ", ".join(f"{name} {value:g}" for name, value in asdict(options.weights).items())
        scoring, pooling = options.scoring, options.scoring.pooling
        error = "normalised error" if scoring.normalise else "error"
        return (
            f"weights {weights}; dual term read as {options.dual_reading}; batches of {options.batch_size}, learning rate "
            f"{options.learning_rate:g}, {options.decoder} decoder; score: {pooling} of {self.scorer.upper()}'s {error}, "
            f"smoothed over {scoring.smoothing_sigma:g} pixels"
        )

    def fit(
        self,
        good: Tensor,
        *,
        steps: int,
        seed: int,
        device: torch.device,
        defects: Tensor | None = None,  # noqa: ARG002  # LRDAN learns from good images alone
    ) -> None:
        """Train for exactly `steps` steps and keep the last state; see `Detector.fit`.

        Raises:
            DataError: The images' size is not supported.
        """
        options = self.options
        _, channels, height, width = good.shape
        spec = spec_for(height, width, cast(Literal[1, 3], channels), decoder=options.decoder, recipe=options.recipe)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            networks = Adversaries(spec).to(device)
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimisation = Optimisation(
            networks, options.weights, options.dual_reading, options.learning_rate, half=computes_bfloat16(device)
        )
        rng = np.random.default_rng(seed)
        networks.train()
        networks.place_center(to_input(good[torch.from_numpy(rng.permutation(len(good))[:CENTER_IMAGES])], device))
        for step, indices in zip(range(steps), endless_batches(rng, len(good), options.batch_size), strict=False):
            optimisation.set_rate(rate_at(step, steps))
            optimisation.step(to_input(good[indices], device))
        network = networks.ae2 if self.scorer == "ae2" else networks.ae1
        mean, deviation = error_statistics(network, good)  # leaves it in evaluation mode
        self._fitted = network, ScoringHead(spec, options.scoring, mean, deviation).to(device), device

    @torch.inference_mode()
    def score(self, frames: Tensor) -> Tensor:
        """The deploy graph's score; see `Detector.score`.

        Raises:
            TrainingError: `fit` has not run.
        """
        if self._fitted is None:
            raise TrainingError("LRDAN scores before it was fitted: call fit first")
        network, head, device = self._fitted
        scores = []
        for part in torch.split(frames, _SCORED_AT_ONCE):
            x = to_input(part, device)
            scores.append(head(x, network(x)[0])[0].cpu())
        return torch.cat(scores)


def endless_batches(rng: np.random.Generator, count: int, size: int) -> Iterator[Tensor]:
    """Indices in whole batches, epoch after epoch, each in a new random order (a rest would unsettle batch normalisation)."""
    while True:
        order = torch.from_numpy(rng.permutation(count))
        for start in range(0, max(1, count // size) * size, size):
            yield order[start : start + size]
