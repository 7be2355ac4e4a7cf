"""What a detector is: the shape of its networks, what happens to frames before them, and how their output becomes a score."""

from typing import Annotated, Literal

import msgspec

from lrdan_edge.bundle.view import Geometry, RegionFractions, Size, tile_starts

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

BitDepth = Literal[8, 10, 12, 14, 16]
BIT_DEPTHS: tuple[BitDepth, ...] = (8, 10, 12, 14, 16)


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The shape of the networks; enough to rebuild AE2 around the weights.

    Attributes:
        recipe: The training recipe the networks belong to.
        height: Rows of the image the networks see, in pixels.
        width: Columns of the image the networks see, in pixels.
        channels: 1 (grey) or 3 (blue, green, red).
        base_channels: Feature maps after the first convolution; doubled at every further downsampling.
        latent_channels: Feature maps of the latent code.
        downsamplings: How often the encoder halves the image.
        decoder: ``resize`` (nearest upsampling, then convolution: quantises everywhere) or ``transposed`` (the paper's).
        architecture: ``autoencoder`` (the paper's AE2), or ``restorer``: AE2 with skip connections, which adds what it restores
            to its input and marks defects in a second output.
        code: Whether the autoencoder's code keeps its place in the image (``spatial``) or is one ``vector`` per image.
        geometry: How the deploy graph makes the networks' images of a camera's frame, or None where a frame is one image.
    """

    recipe: str
    height: Size
    width: Size
    channels: Literal[1, 3]
    base_channels: Size
    latent_channels: Size
    downsamplings: Annotated[int, msgspec.Meta(ge=0, le=16)]
    decoder: Literal["resize", "transposed"]
    architecture: Literal["autoencoder", "restorer"] = "autoencoder"
    code: Literal["spatial", "vector"] = "spatial"
    geometry: Geometry | None = None

    def __post_init__(self) -> None:
        """Refuse tiles that do not fit their canvas."""
        if self.geometry:
            _ = self.tile_rows, self.tile_columns

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of one frame at the deploy graph's input."""
        rows, columns = self.geometry.frame if self.geometry else (self.height, self.width)
        return (rows, columns, self.channels)

    @property
    def heatmap_shape(self) -> tuple[int, int]:
        """Shape (h, w) of the heatmap: the networks' images', or the canvas's that their tiles are stitched to."""
        return self.geometry.canvas if self.geometry else (self.height, self.width)

    @property
    def tile_rows(self) -> list[int]:
        """The canvas's row where each row of tiles begins."""
        return tile_starts(self.heatmap_shape[0], self.height, self.geometry.tiles[0] if self.geometry else 1)

    @property
    def tile_columns(self) -> list[int]:
        """The canvas's column where each column of tiles begins."""
        return tile_starts(self.heatmap_shape[1], self.width, self.geometry.tiles[1] if self.geometry else 1)

    @property
    def region_fractions(self) -> RegionFractions | None:
        """The part of a frame that the heatmap shows, or None for all of it."""
        return self.geometry.region_fractions if self.geometry else None


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a camera's frame becomes the networks' input.

    Frames of another size or colour are first fitted by `lrdan_edge.data.images.fit_frame`, the same code in training and at
    run time; ``x = frame * scale + offset`` happens inside the deploy graph.

    Attributes:
        colour: Order of the input's channels: ``grey`` or ``bgr`` (as cameras and OpenCV deliver them).
        resize: Interpolation of `fit_frame`; ``area`` averages, so that no pixel is skipped.
        scale: Factor from uint8 to the networks' range.
        offset: Added after scaling.
        standardise: Whether each image's own mean is then taken off and its deviation divided by, so that exposure drops out.
        bit_depth: How many bits of a 16-bit image are used (many cameras put 10, 12 or 14 into 16); they are scaled to 8 by
            `lrdan_edge.data.images.to_eight_bits`. 8-bit images are taken as they are.
    """

    colour: Literal["grey", "bgr"]
    resize: Literal["area"]
    scale: float
    offset: float
    standardise: bool = False
    bit_depth: BitDepth = 16


class Scoring(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How AE2's reconstruction error becomes heatmap and score (inside the deploy graph).

    Attributes:
        normalise: Whether the map is normalised per pixel by the good images' mean and deviation.
        smoothing_sigma: Standard deviation of the Gaussian over the map, in pixels; 0 for none.
        pooling: ``max``, ``mean`` or ``rms`` (root of the mean square) of the map.
        source: What the map shows: AE2's reconstruction ``error``, or the ``defects`` a restorer marks (log-odds).
        deviation_floor: Least deviation that the map is divided by; an error's is in the networks' range of 2.
        extent: Whether the log of the share of the image that is marked is added everywhere; for ``defects`` alone.
        nearby: Whether the heatmap, once the score is taken, gains where much around a pixel is marked; for ``defects`` alone.
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
            raise ValueError("extent and nearby are for the map of defects alone: an error is no probability")

    @property
    def score_is_maximum(self) -> bool:
        """Whether the score is the heatmap's largest value, and so its threshold a pixel's too."""
        return self.pooling == "max" and not self.nearby

    @property
    def unit(self) -> float:
        """What a score is counted in: a deviation of good images, or a nat of log-odds; 0 for a raw error, which has no unit."""
        return 1.0 if self.normalise or self.source == "defects" else 0.0
