"""What recipes share whose networks see the features of a frozen, pretrained backbone."""

from typing import Any, Literal, TypeVar

import msgspec
import torch
from torch import Tensor

from lrdan_edge.bundle.spec import BitDepth, ModelSpec, Preprocessing
from lrdan_edge.model.backbone import OFFSET, SCALE, STEM_CHANNELS, feature_channels
from lrdan_edge.model.deployed import standardisation
from lrdan_edge.model.networks import require_supported_size
from lrdan_edge.model.pretrained import load_pretrained, variant_of
from lrdan_edge.train.recipes.base import Networks, Recipe

Stride = Literal[2, 4, 8, 16, 32]


N = TypeVar("N", bound=Networks)
H = TypeVar("H", bound=Any)


class BackboneRecipe(Recipe[N, H]):
    """A recipe with a frozen backbone; its hyperparameters have a ``backbone`` (see `lrdan_edge.model.pretrained.load_pretrained`)."""

    def inputs_for(self, hyperparameters: H) -> dict[str, Any]:
        """The backbone's name and the sha256 of its weights; see `Recipe.inputs_for`."""
        pretrained = load_pretrained(hyperparameters.backbone)
        return {"backbone": {"name": pretrained.name, "sha256": pretrained.sha256}}

    def preprocessing_for(self, spec: ModelSpec, bit_depth: BitDepth = 16) -> Preprocessing:
        """Every image is standardised; see `Recipe.preprocessing_for`."""
        plain = super().preprocessing_for(spec, bit_depth)
        return msgspec.structs.replace(plain, scale=SCALE, offset=OFFSET, standardise=True)


def scaled(frames: Tensor) -> Tensor:
    """Grey levels from 0 to 255, float [N, C, H, W], in the range of the backbone's images; not yet standardised."""
    return frames * SCALE + OFFSET


def backbone_input(frames: Tensor) -> Tensor:
    """Frames uint8 [N, C, H, W] as the backbone sees them: each image minus its mean, over its deviation; channels last."""
    x = scaled(frames.float())
    mean, deviation = standardisation(x)
    return ((x - mean) / deviation).contiguous(memory_format=torch.channels_last)


def feature_spec(
    recipe: str,
    shape: tuple[int, int, Literal[1, 3]],
    backbone: str,
    strides: tuple[Stride, ...],
    architecture: Literal["padim", "patchcore", "dn2", "feature-restorer"],
    dimensions: int | None = None,
) -> ModelSpec:
    """The specification of a network that sees the features of a backbone.

    Args:
        recipe: The recipe that trains it.
        shape: (H, W, C) of its images.
        backbone: See `lrdan_edge.model.pretrained.load_pretrained`.
        strides: The strides of the features, ascending.
        architecture: See `ModelSpec.architecture`.
        dimensions: `ModelSpec.latent_channels`, at most the number of features; None for all of them.

    Raises:
        DataError: The size is not supported.
        TrainingError: The backbone does not exist or cannot be read.
    """
    height, width, channels = shape
    require_supported_size(height, width)
    variant: Any = variant_of(backbone)
    features = sum(feature_channels(variant, strides))
    return ModelSpec(
        recipe=recipe,
        height=height,
        width=width,
        channels=channels,
        base_channels=STEM_CHANNELS,
        latent_channels=min(features, dimensions or features),
        downsamplings=max(strides).bit_length() - 1,
        decoder="resize",
        architecture=architecture,
        backbone=variant,
        strides=strides,
    )
