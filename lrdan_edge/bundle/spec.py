"""A detector's specification: the shape of its networks, the preprocessing of frames, and the scoring."""

from typing import Annotated, Literal

import msgspec

from lrdan_edge.bundle.view import LARGEST, Geometry, RegionFractions, Size, tile_starts

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

Backbone = Literal["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]
BitDepth = Literal[8, 10, 12, 14, 16]
BIT_DEPTHS: tuple[BitDepth, ...] = (8, 10, 12, 14, 16)

WIDEST = 1 << 13
"""Most feature maps of a layer."""

MOST_WEIGHTS = 1 << 30
"""Most weights of a layer."""


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The shape of the networks: all that is needed, with the weights, to rebuild AE2.

    Attributes:
        recipe: The training recipe.
        height: Rows of the networks' input image, in pixels.
        width: Columns of the networks' input image, in pixels.
        channels: 1 (grey) or 3 (blue, green, red).
        base_channels: Feature maps after the first convolution; in an autoencoder doubled at every further downsampling.
        latent_channels: Feature maps of the latent code; with a backbone, the number of features that describe one position.
        downsamplings: How often the encoder, or the backbone, halves the image.
        decoder: ``resize`` (nearest upsampling, then convolution: every backend can quantise it) or ``transposed`` (the paper's).
            Networks that compare features have no decoder, and the value is ``resize``.
        architecture: ``autoencoder`` (the paper's AE2), or ``restorer``: AE2 with skip connections. It adds a correction to its
            input and marks defects in a second output. ``padim``, ``patchcore`` and ``dn2`` compare a backbone's features with those
            of good images. ``feature-restorer``: AE2 restores a backbone's features, and a decoder marks defects.
        code: ``spatial`` (the autoencoder's code is a grid over the image) or ``vector`` (one per image).
        backbone: The frozen, pretrained network whose features are used, or None.
        strides: The strides of these features, ascending; empty without a backbone.
        geometry: How the deploy graph makes the networks' images from a camera's frame, or None if a frame is one image.
    """

    recipe: str
    height: Size
    width: Size
    channels: Literal[1, 3]
    base_channels: Size
    latent_channels: Size
    downsamplings: Annotated[int, msgspec.Meta(ge=0, le=16)]
    decoder: Literal["resize", "transposed"]
    architecture: Literal["autoencoder", "restorer", "padim", "patchcore", "dn2", "feature-restorer"] = "autoencoder"
    code: Literal["spatial", "vector"] = "spatial"
    backbone: Backbone | None = None
    strides: tuple[Literal[2, 4, 8, 16, 32], ...] = ()
    geometry: Geometry | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that no memory holds, tiles that do not cover their canvas exactly, and a backbone without its strides."""
        compares = self.architecture in ("padim", "patchcore", "dn2", "feature-restorer")
        if (self.backbone is None) == bool(self.strides) or (compares and self.backbone is None):
            raise ValueError(f"architecture {self.architecture} with backbone {self.backbone} and strides {list(self.strides)}")
        if list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"strides {list(self.strides)} are not ascending")
        if max(self.height, self.width) > LARGEST:
            raise ValueError(f"images of {self.height}x{self.width} have a side above {LARGEST} pixels")
        widest = self.base_channels << self.downsamplings
        code = (self.height * self.width >> 2 * self.downsamplings) * widest * self.latent_channels
        if widest > WIDEST or self.latent_channels > WIDEST or (self.code == "vector" and code > MOST_WEIGHTS):
            raise ValueError(
                f"base_channels {self.base_channels}, downsamplings {self.downsamplings} and latent_channels "
                f"{self.latent_channels} make a network that is too large"
            )
        if self.geometry:
            _ = self.tile_rows, self.tile_columns

    @property
    def localises(self) -> bool:
        """Whether the heatmap says where a defect is. `dn2` judges whole images, so small painted defects say nothing about it."""
        return self.architecture != "dn2"

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of one input frame of the deploy graph."""
        rows, columns = self.geometry.frame if self.geometry else (self.height, self.width)
        return (rows, columns, self.channels)

    @property
    def heatmap_shape(self) -> tuple[int, int]:
        """Shape (h, w) of the heatmap: that of the networks' image, or of the canvas for tiles."""
        return self.geometry.canvas if self.geometry else (self.height, self.width)

    @property
    def tile_rows(self) -> list[int]:
        """First canvas row of each row of tiles."""
        return tile_starts(self.heatmap_shape[0], self.height, self.geometry.tiles[0] if self.geometry else 1)

    @property
    def tile_columns(self) -> list[int]:
        """First canvas column of each column of tiles."""
        return tile_starts(self.heatmap_shape[1], self.width, self.geometry.tiles[1] if self.geometry else 1)

    @property
    def region_fractions(self) -> RegionFractions | None:
        """The part of a frame that the heatmap covers, or None for all of it."""
        return self.geometry.region_fractions if self.geometry else None


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a camera's frame becomes the networks' input.

    `lrdan_edge.data.images.fit_frame` first converts frames of another size or colour, with the same code in training and at run
    time. The deploy graph then computes ``x = frame * scale + offset``.

    Attributes:
        colour: Channel order of the input: ``grey`` or ``bgr`` (as cameras and OpenCV deliver it).
        resize: Interpolation of `fit_frame`; ``area`` averages, so that no pixel is skipped.
        scale: Factor from uint8 to the networks' range.
        offset: Added after scaling.
        standardise: Whether each image is then standardised (minus its mean, over its deviation) to remove exposure differences.
        bit_depth: Number of bits used in a 16-bit image (many cameras put 10, 12 or 14 into 16).
            `lrdan_edge.data.images.to_eight_bits` scales them to 8. 8-bit images are not changed.
    """

    colour: Literal["grey", "bgr"]
    resize: Literal["area"]
    scale: float
    offset: float
    standardise: bool = False
    bit_depth: BitDepth = 16


class Scoring(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the network's anomaly map becomes heatmap and score (inside the deploy graph).

    Attributes:
        normalise: Whether the map is normalised per pixel by the mean and deviation of good images.
        smoothing_sigma: Standard deviation of the Gaussian filter on the map, in pixels; 0 for none.
        pooling: ``max``, ``mean`` or ``rms`` (root of the mean square) of the map.
        source: The map's content: the ``error`` (AE2's reconstruction error, or the distance of features), or the ``defects`` that a
            restorer marks (log-odds).
        deviation_floor: Smallest deviation that the map is divided by; for an error, in the networks' range of 2.
        extent: Whether to add the area term, the log of the image's defective fraction, to every pixel; only for ``defects``.
        nearby: Whether to add the context gain to the heatmap after the score is taken; only for ``defects``.
    """

    normalise: bool
    smoothing_sigma: float
    pooling: Literal["max", "mean", "rms"]
    source: Literal["error", "defects"] = "error"
    deviation_floor: float = 0.005
    extent: bool = False
    nearby: bool = False

    def __post_init__(self) -> None:
        if (self.extent or self.nearby) and self.source != "defects":
            raise ValueError("extent and nearby apply only to source 'defects': an error is not a probability")

    @property
    def score_is_maximum(self) -> bool:
        """Whether the score is the heatmap's largest value, so that its threshold applies to pixels too."""
        return self.pooling == "max" and not self.nearby

    @property
    def unit(self) -> float:
        """The size of one unit of the score: 1 deviation of good images or 1 nat of log-odds; 0 for a raw error (no unit)."""
        return 1.0 if self.normalise or self.source == "defects" else 0.0
