"""The interface of a recipe, which turns good images into a trained network and its scoring constants.

Most recipes are trained by gradient steps (`GradientRecipe`). A recipe that is fitted instead derives from `Recipe`. Its learner
has no optimisers and gathers statistics in the networks' buffers, its schedule is one epoch, and `Recipe.finish` does the rest.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from torch import Tensor, nn

from lrdan_edge.bundle.spec import BitDepth, ModelSpec, Preprocessing, Scoring
from lrdan_edge.model.network import Network
from lrdan_edge.train.learner import OFFSET, SCALE, Learner, LearnerOptions
from lrdan_edge.train.map_statistics import map_statistics
from lrdan_edge.train.schedule import WARM_UP_STEPS, Schedule


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(ABC):
    """All hyperparameters of a recipe. They are recorded in the manifest, and belong to a checkpoint's identity."""

    @abstractmethod
    def describe(self) -> str:
        """The main hyperparameters in one line; the one-class protocol does not mix results with different descriptions."""

    def as_dict(self) -> dict[str, Any]:
        """The hyperparameters as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class GradientHyperparameters(Hyperparameters):
    """The schedule of a recipe that is trained by gradient steps.

    Attributes:
        passes: Number of epochs, within the limits `least_steps` and `most_steps`.
        least_steps: Minimum number of steps; with few images, this means more epochs.
        most_steps: Maximum number of steps.
        batch_size: Images per step, 2 or more.
        learning_rate: Peak learning rate.
        warm_up_steps: Steps over which the learning rate rises.
    """

    passes: int
    least_steps: int
    most_steps: int
    batch_size: int
    learning_rate: float
    warm_up_steps: int = WARM_UP_STEPS

    def epochs(self, steps_per_epoch: int) -> int:
        """The number of epochs of `steps_per_epoch` steps."""
        steps = min(max(self.least_steps, self.passes * steps_per_epoch), self.most_steps)
        return math.ceil(steps / steps_per_epoch)


class Networks(nn.Module):
    """The networks that a recipe trains.

    Attributes:
        network: The deployed network.
    """

    network: Network


N = TypeVar("N", bound=Networks)
H = TypeVar("H", bound=Hyperparameters)


class Recipe(ABC, Generic[N, H]):
    """A way to train a detector.

    Attributes:
        name: Its name, as in `ModelSpec.recipe`.
        defaults: Its hyperparameters.
        unused_options: Names of options of `TrainOptions` that it cannot use and that are refused.
        cross_fits: Whether it is fitted so fast that `lrdan_edge.train.cross_fit` can fit it once more for every fold.
    """

    name: ClassVar[str]
    cross_fits: ClassVar[bool] = False
    unused_options: ClassVar[tuple[str, ...]] = ()
    defaults: H

    @abstractmethod
    def spec_for(self, height: int, width: int, channels: Literal[1, 3], hyperparameters: H) -> ModelSpec:
        """Choose the networks for images of this size.

        Args:
            height: Rows of the networks' images.
            width: Their columns.
            channels: 1 (grey) or 3 (blue, green, red).
            hyperparameters: The hyperparameters.

        Raises:
            DataError: The size is not supported.
        """

    @abstractmethod
    def networks_for(self, spec: ModelSpec) -> N:
        """Make all networks to train, initialised from torch's random generator."""

    def inputs_for(self, hyperparameters: H) -> dict[str, Any]:  # noqa: ARG002
        """What a run reads besides the images, as JSON values; it is recorded, and a checkpoint with other inputs is not used."""
        return {}

    def preprocessing_for(self, spec: ModelSpec, bit_depth: BitDepth = 16) -> Preprocessing:
        """How frames are preprocessed in the deploy graph; `bit_depth` as in `Preprocessing`."""
        colour: Literal["grey", "bgr"] = "grey" if spec.channels == 1 else "bgr"
        return Preprocessing(colour=colour, resize="area", scale=SCALE, offset=OFFSET, bit_depth=bit_depth)

    @abstractmethod
    def scoring_for(self, spec: ModelSpec) -> Scoring:
        """The default scoring of the deployed network's output."""

    @abstractmethod
    def schedule_for(self, hyperparameters: H, images: int, epochs: int | None = None) -> Schedule:
        """The length of a run over `images` images; `epochs` replaces the recipe's default."""

    @abstractmethod
    def learner_for(self, networks: N, spec: ModelSpec, frames: Tensor, hyperparameters: H, options: LearnerOptions) -> Learner:
        """Make the learner.

        Args:
            networks: The networks, which are trained in place on their device.
            spec: The networks' specification.
            frames: The good images, uint8 [N, C, H, W].
            hyperparameters: The hyperparameters.
            options: The learner's options.
        """

    def finish(
        self, networks: N, frames: Tensor, preprocessing: Preprocessing, scoring: Scoring, spec: ModelSpec
    ) -> tuple[Tensor, Tensor]:
        """Compute the scoring constants after the last step.

        Returns:
            Mean and standard deviation of the good images' anomaly maps at every pixel, float32 [H, W] each.
        """
        return map_statistics(networks.network, frames, preprocessing, scoring, spec)


G = TypeVar("G", bound=GradientHyperparameters)


class GradientRecipe(Recipe[N, G]):
    """A recipe that is trained by gradient steps."""

    def schedule_for(self, hyperparameters: G, images: int, epochs: int | None = None) -> Schedule:
        """See `Recipe.schedule_for`."""
        batch_size = min(hyperparameters.batch_size, images)
        steps_per_epoch = images // batch_size
        epochs = epochs or hyperparameters.epochs(steps_per_epoch)
        return Schedule(batch_size, steps_per_epoch, epochs, hyperparameters.warm_up_steps)
