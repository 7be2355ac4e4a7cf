"""The networks' training images, kept in memory while a data folder is scanned.

Whether all images are grey, and how many bits they use, is known only at the end of the scan. So a grey image is kept in one
channel, and a 16-bit image once for each bit depth that is still possible. No image is decoded twice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from lrdan_edge.backends.processor import available_memory
from lrdan_edge.bundle.spec import BIT_DEPTHS, BitDepth, ModelSpec
from lrdan_edge.data.images import Frame, Pixels, bits_used, cut_frame, fit_frame, to_eight_bits
from lrdan_edge.data.scan import is_grey
from lrdan_edge.errors import DataError
from lrdan_edge.model.networks import LARGEST, MULTIPLE, SMALLEST
from lrdan_edge.train.options import TrainOptions

LARGEST_AUTOMATIC, COARSE_MULTIPLE = 256, 16


class NetworkImages:
    """Images that are resized, and tiled if the options say so."""

    def __init__(self, paths: Sequence[Path], options: TrainOptions) -> None:
        """Begin with no images.

        Args:
            paths: The images to keep; others are ignored.
            options: The options with sizes, channels, bit depth and view.
        """
        self._wanted, self._options = frozenset(paths), options
        self._spec: ModelSpec | None = None
        self._least = BIT_DEPTHS[0]  # the final bit depth is at least this
        self._kept: dict[Path, dict[BitDepth, Frame]] = {}

    def add(self, path: Path, pixels: Pixels) -> None:
        """Keep an image. The first image sets the networks' size; the others may be added from several threads.

        Raises:
            DataError: The networks do not support the size, or all images need more memory than is available.
        """
        if path not in self._wanted:
            return
        channels = self._options.channels or (1 if is_grey(pixels) else 3)
        if self._spec is None:
            self._spec = spec_of((pixels.shape[0], pixels.shape[1]), channels, self._options)
            tiles = len(self._spec.tile_rows) * len(self._spec.tile_columns)
            require_memory(len(self._wanted) * tiles * self._spec.height * self._spec.width * channels)
        spec = msgspec.structs.replace(self._spec, channels=channels)
        depths: list[BitDepth] = [self._options.bit_depth or BIT_DEPTHS[-1]]
        if pixels.dtype == np.uint16 and self._options.bit_depth is None:
            self._least = max(self._least, bits_used(pixels))
            depths = [depth for depth in BIT_DEPTHS if depth >= self._least]
        self._kept[path] = {
            depth: cut_frame(fit_frame(to_eight_bits(pixels, depth), spec.frame_shape), spec) for depth in depths
        }

    def take(self, paths: Sequence[Path], channels: int, bit_depth: BitDepth) -> Tensor:
        """Return the images of `paths`, uint8 [N, C, H, W], each file's tiles together; all other images are dropped.

        Args:
            paths: Images that were added.
            channels: C; 3 if any image has colour.
            bit_depth: Number of bits used in 16-bit images; at least what the images need, or the option.
        """
        kept, self._kept = self._kept, {}
        tiles, height, width, _ = next(iter(kept[paths[0]].values())).shape
        images = torch.empty(len(paths) * tiles, channels, height, width, dtype=torch.uint8)
        for place, path in enumerate(paths):
            image = next(image for depth, image in kept.pop(path).items() if depth >= bit_depth)
            images[place * tiles : (place + 1) * tiles] = torch.from_numpy(image).permute(0, 3, 1, 2)  # grey to all channels
        return images


def spec_of(size: tuple[int, int], channels: Literal[1, 3], options: TrainOptions) -> ModelSpec:
    """The networks' specification for images of `size` (height, width).

    Raises:
        DataError: The size is not supported, or the view is not possible in it.
    """
    view = options.view
    size = view.frame_size or size
    wanted = options.image_size or view.image_size(size) or automatic_size(*view.region_size(size))
    spec = options.spec_for(*wanted, channels)
    return msgspec.structs.replace(spec, geometry=view.geometry(size, wanted))


def require_memory(needed: int) -> None:
    """Raise DataError if the system has less available memory than `needed` bytes."""
    available = available_memory()
    if available is not None and needed > available:
        raise DataError(
            f"the images take {needed / 2**30:.1f} GiB of memory at the networks' size, and {available / 2**30:.1f} GiB are "
            "available",
            "give a smaller {image_size}, fewer {tiles} or fewer images",
        )


def automatic_size(height: int, width: int) -> tuple[int, int]:
    """The default (height, width) of the networks for images of this size.

    Up to 256 pixels the size is kept, rounded to a multiple of 4. Larger images are resized to a longer side of 256, and the
    other side is rounded to a multiple of 16.

    Raises:
        DataError: A side would be smaller than the networks support.
    """
    longest = max(height, width)
    multiple = MULTIPLE if longest <= LARGEST_AUTOMATIC else COARSE_MULTIPLE
    factor = min(1.0, LARGEST_AUTOMATIC / longest)
    rows, columns = (round(side * factor / multiple) * multiple for side in (height, width))
    if min(rows, columns) < SMALLEST:
        raise DataError(
            f"images of {height}x{width} are too small or too narrow to be resized automatically",
            "give {image_size} with both sides from {smallest} to {largest}",
            smallest=SMALLEST,
            largest=LARGEST,
        )
    return rows, columns
