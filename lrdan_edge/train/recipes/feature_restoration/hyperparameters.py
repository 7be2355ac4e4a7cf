"""All hyperparameters of the recipe `feature-restoration`."""

from dataclasses import dataclass

from lrdan_edge.model.backbone import IMAGENET_DEVIATION
from lrdan_edge.model.pretrained import DEFAULT_BACKBONE
from lrdan_edge.train.painting.hyperparameters import PaintingHyperparameters


@dataclass(frozen=True, kw_only=True)
class FeatureRestorationHyperparameters(PaintingHyperparameters):
    """The hyperparameters of the recipe `feature-restoration`.

    Attributes:
        backbone: See `lrdan_edge.model.pretrained.load_pretrained`.
        contrast: The deviation that standardised images have for the backbone.
        code_channels: Channels of AE2's code.
        dropout: The fraction of the code that is dropped in training.
        cosine_weight: Weight of the angle between restored and good features; the smooth L1 loss of their difference counts 1.
        statistics_images: Number of good images that the features are standardised by.
    """

    passes: int = 12
    least_steps: int = 300
    most_steps: int = 300
    batch_size: int = 16
    learning_rate: float = 2e-3

    backbone: str = DEFAULT_BACKBONE
    contrast: float = IMAGENET_DEVIATION
    code_channels: int = 48
    dropout: float = 0.1
    cosine_weight: float = 0.5
    statistics_images: int = 200

    def describe(self) -> str:
        """See `Hyperparameters.describe`."""
        return (
            f"{self.backbone}, code of {self.code_channels}, batches of {self.batch_size}, learning rate {self.learning_rate:g}"
        )
