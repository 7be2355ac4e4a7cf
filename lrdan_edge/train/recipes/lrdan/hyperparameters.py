"""All hyperparameters of the recipe `lrdan`."""

from dataclasses import asdict, dataclass, field
from typing import Literal

from lrdan_edge.train.recipes.base import GradientHyperparameters

DualReading = Literal["began", "joint"]
"""Which networks minimise the dual term L_girec − k·L_direc. The paper's summary leaves this open.

``joint``: G and AE2 both minimise it, with a fixed k, so that G searches for images that AE2 cannot reconstruct. ``began``: AE2
minimises it, and G minimises L_direc; k is controlled as in BEGAN (`learner.balanced_k`), an addition to the paper, up to its k.
"""


@dataclass(frozen=True)
class LossWeights:
    """The weights of the losses; the defaults are the published ones."""

    irec: float = 1.0
    adv: float = 5.0
    zrec: float = 1.0
    c: float = 0.05
    dual: float = 1.0
    k: float = 0.4


@dataclass(frozen=True, kw_only=True)
class LrdanHyperparameters(GradientHyperparameters):
    """The hyperparameters of the recipe `lrdan`.

    Attributes:
        weights: The weights of the losses.
        dual_reading: Which networks minimise the dual term.
        discriminator_rate: The discriminator's learning rate, as a fraction of the autoencoders'.
        betas: Adam's.
        center_images: Images whose mean code is the centre c.
        decoder: ``resize`` (can be quantised everywhere) or ``transposed`` (the paper's).
        base_channels: Feature maps after the first convolution.
        code_grid: The encoder halves the image, at least twice, until its shorter side is about this.
        latent_channels: Feature maps of a spatial code. Each of its cells describes a patch.
        largest_vector_image: Largest side in pixels of an image that shows one object. Its code is one vector, since a spatial code
            of 7x7 cells could represent any other object too.
        vector_length: Length of that vector.
        known_weight: Weight of known defects.
        known_fraction: Known defects per good image of a batch.
    """

    passes: int = 1
    least_steps: int = 500
    most_steps: int = 500
    batch_size: int = 16
    learning_rate: float = 1e-3
    weights: LossWeights = field(default_factory=LossWeights)
    dual_reading: DualReading = "began"
    discriminator_rate: float = 0.25
    betas: tuple[float, float] = (0.5, 0.999)
    center_images: int = 256
    decoder: Literal["resize", "transposed"] = "resize"
    base_channels: int = 16
    code_grid: int = 8
    latent_channels: int = 8
    largest_vector_image: int = 32
    vector_length: int = 10
    known_weight: float = 1.0
    known_fraction: float = 0.12

    def describe(self) -> str:
        """See `Hyperparameters.describe`."""
        weights = ", ".join(f"{name} {value:g}" for name, value in asdict(self.weights).items())
        return (
            f"weights {weights}; dual term read as {self.dual_reading}; batches of {self.batch_size}, learning rate "
            f"{self.learning_rate:g}, {self.decoder} decoder"
        )
