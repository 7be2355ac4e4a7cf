"""What recipes share that are fitted to a frozen backbone's features in one pass over the good images."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.model.backbone import IMAGENET_DEVIATION
from lrdan_edge.model.features import FeatureNetwork
from lrdan_edge.model.pretrained import DEFAULT_BACKBONE, load_pretrained
from lrdan_edge.train.frozen_backbone import FrozenBackbone
from lrdan_edge.train.learner import Batch, Learner, LearnerOptions
from lrdan_edge.train.recipes.backbone import BackboneRecipe, Stride, backbone_input
from lrdan_edge.train.recipes.base import Hyperparameters, Networks
from lrdan_edge.train.schedule import Schedule

LEAST_DEVIATION = 1e-3
"""The smallest standard deviation that a feature is divided by; features are about 1."""

_SHOWN = 8  # images that show that the fitted network's output is finite


@dataclass(frozen=True, kw_only=True)
class FittedHyperparameters(Hyperparameters):
    """The hyperparameters of a recipe that is fitted to a backbone's features.

    Attributes:
        backbone: See `lrdan_edge.model.pretrained.load_pretrained`.
        contrast: The deviation that standardised images have for the backbone.
        strides: The strides of the features, ascending.
        batch: Images per step; the last one may have fewer.
    """

    backbone: str = DEFAULT_BACKBONE
    contrast: float = IMAGENET_DEVIATION
    strides: tuple[Stride, ...] = (8, 16)
    batch: int = 8


class FittedNetworks(Networks):
    """The network to fit, and the statistics gathered so far in buffers, which belong to a checkpoint.

    Attributes:
        network: The network.
        frozen: Its backbone with pretrained weights, for training.
    """

    network: FeatureNetwork
    frozen: FrozenBackbone

    def features(self, frames: Tensor) -> Tensor:
        """The features of uint8 [N, C, H, W] as `FeatureNetwork.features` returns them, by the faster `frozen` backbone."""
        maps = self.frozen(self.network.prepare(backbone_input(frames)))
        features: Tensor = self.network.aggregate(maps)
        return features

    @abstractmethod
    def gather(self, features: Tensor, *drawn: Tensor) -> None:
        """Add the features of good images.

        Args:
            features: float32 [N, K, h, w], as `FeatureNetwork.features` returns them.
            drawn: What the learner's `draw` returned for these images.
        """

    @abstractmethod
    def fit(self) -> None:
        """Fit the network to what was gathered, and remove the buffers, so that they are not saved with the weights."""


class FittedLearner(Learner):
    """Shows each image once to the backbone, and gathers its features; there is nothing to optimise."""

    def __init__(self, networks: FittedNetworks, options: LearnerOptions) -> None:
        """Keep the networks."""
        super().__init__((), options)
        self.networks = networks

    def draw(self, images: int, step: int) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Random numbers for the images of a step, by the seed and the step only; none by default."""
        return ()

    def prepare(self, frames: Tensor, step: int) -> Batch:
        """Images are not varied; see `Learner.prepare`."""
        return (frames, *self.draw(len(frames), step))

    @torch.inference_mode()
    def step(self, frames: Tensor, *drawn: Tensor) -> dict[str, Tensor]:
        """Gather the features of one batch.

        Args:
            frames: uint8 [N, C, H, W].
            drawn: See `draw`.

        Returns:
            The features' root mean square, as ``features``; there is no loss.
        """
        features = self.networks.features(frames)
        self.networks.gather(features, *drawn)
        return {"features": features.square().mean().sqrt()}


N = TypeVar("N", bound=FittedNetworks)
F = TypeVar("F", bound=FittedHyperparameters)


class FittedRecipe(BackboneRecipe[N, F]):
    """A recipe that is fitted to the features of a frozen backbone; every image is used once and unchanged."""

    cross_fits: ClassVar[bool] = True
    unused_options: ClassVar[tuple[str, ...]] = ("epochs", "batch_size", "learning_rate", "known_defects")

    def scoring_for(self, spec: ModelSpec) -> Scoring:  # noqa: ARG002
        """The largest value of the smoothed distances; PaDiM and PatchCore both smooth with a deviation of 4 pixels."""
        return Scoring(normalise=False, smoothing_sigma=4.0, pooling="max", source="error")

    def schedule_for(self, hyperparameters: F, images: int, epochs: int | None = None) -> Schedule:  # noqa: ARG002
        """One pass over all images; see `Recipe.schedule_for`."""
        size = min(hyperparameters.batch, images)
        return Schedule(size, -(-images // size), 1, whole=True)

    def learner_for(self, networks: N, spec: ModelSpec, frames: Tensor, hyperparameters: F, options: LearnerOptions) -> Learner:
        """Load the backbone's weights, and make the learner; see `Recipe.learner_for`."""
        load_pretrained(hyperparameters.backbone).load_into(networks.network.backbone, hyperparameters.contrast)
        networks.frozen = FrozenBackbone(networks.network.backbone)
        return self.fitting_for(networks, spec, len(frames), hyperparameters, options)

    @abstractmethod
    def fitting_for(
        self, networks: N, spec: ModelSpec, images: int, hyperparameters: F, options: LearnerOptions
    ) -> FittedLearner:
        """Make the buffers for the features of `images` images, and the learner; otherwise as `Recipe.learner_for`."""

    def finish(
        self, networks: N, frames: Tensor, preprocessing: Preprocessing, scoring: Scoring, spec: ModelSpec
    ) -> tuple[Tensor, Tensor]:
        """Fit the network, then see `Recipe.finish`. The constants are not used without `Scoring.normalise`: a few images suffice."""
        with torch.no_grad():
            networks.fit()
        shown = frames if scoring.normalise else frames[: _SHOWN * len(spec.tile_rows) * len(spec.tile_columns)]
        return super().finish(networks, shown, preprocessing, scoring, spec)
