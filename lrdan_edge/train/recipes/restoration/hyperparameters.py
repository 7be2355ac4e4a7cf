"""All hyperparameters of the recipe `restoration`."""

from dataclasses import dataclass

from lrdan_edge.train.painting.hyperparameters import PaintingHyperparameters


@dataclass(frozen=True, kw_only=True)
class RestorationHyperparameters(PaintingHyperparameters):
    """The hyperparameters of the recipe `restoration`.

    Attributes:
        base_channels: Feature maps after the first convolution.
        downsamplings: How often a restorer halves the image.
        largest_vector_image: Largest side in pixels of an image that shows one object. An autoencoder codes it as one vector, since
            a restorer with skip connections would copy a wrong object too.
        vector_length: Length of that vector.
        code_grid: That autoencoder halves the image, at least twice, until its shorter side is about this.
        reconstruction_betas: AdamW's, for an autoencoder.
        known_error_weight: Weight of known defects for an autoencoder; the reconstruction's is 1.
    """

    passes: int = 225
    least_steps: int = 3000
    most_steps: int = 9000
    batch_size: int = 8
    learning_rate: float = 3e-3

    base_channels: int = 16
    downsamplings: int = 5
    largest_vector_image: int = 32
    vector_length: int = 10
    code_grid: int = 8
    reconstruction_betas: tuple[float, float] = (0.9, 0.999)
    known_error_weight: float = 0.05

    def describe(self) -> str:
        """See `Hyperparameters.describe`."""
        return f"batches of {self.batch_size}, learning rate {self.learning_rate:g}, resize decoder"
