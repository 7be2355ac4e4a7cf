"""A scan of image files that reads and decodes each file only once."""

import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrdan_edge.bundle.image_kinds import ImageKinds
from lrdan_edge.data.images import Pixels, bits_used, decode_pixels, read_bytes, to_eight_bits
from lrdan_edge.data.orientation import UPRIGHT, orientation_of
from lrdan_edge.data.similarity import Features, NearCopies, find_near_copies, thumbnail
from lrdan_edge.errors import DataError

MOST_THREADS = 8  # each holds one decoded image


@dataclass(frozen=True)
class ScannedImage:
    """The properties of an image file.

    Attributes:
        sha256: Of the file's bytes, in hex.
        size: (height, width) in pixels, upright.
        colour: Whether it is stored with three channels.
        grey: Whether it is stored as grey, or has three equal channels.
        bytes_per_channel: 1 or 2.
        largest: Its largest value.
        thumbnail: See `lrdan_edge.data.similarity.thumbnail`.
        orientation: The EXIF orientation that it was turned by, 1 to 8; 1 is none.
    """

    sha256: str
    size: tuple[int, int]
    colour: bool
    grey: bool
    bytes_per_channel: int
    largest: int
    thumbnail: Features
    orientation: int = UPRIGHT

    @property
    def form(self) -> str:
        """Bit depth and colour in words: ``8-bit grey``, ``16-bit colour``, ``8-bit grey stored as colour``."""
        colour = "colour" if not self.grey else "grey stored as colour" if self.colour else "grey"
        return f"{8 * self.bytes_per_channel}-bit {colour}"


class Scan:
    """The images scanned so far.

    Attributes:
        images: The properties of each image, in the order in which they were added.
        broken: Files that cannot be decoded, with the error.
    """

    def __init__(self, use: Callable[[Path, Pixels], None] | None = None) -> None:
        """Begin with no images.

        Args:
            use: Called with every decoded image, from several threads; the first image of each `add` comes before the others.
        """
        self.images: dict[Path, ScannedImage] = {}
        self.broken: dict[Path, DataError] = {}
        self._use = use
        self._near_copies: dict[frozenset[Path], NearCopies] = {}

    def add(self, paths: Sequence[Path]) -> None:
        """Read and decode the files that were not scanned before."""
        new = [path for path in dict.fromkeys(paths) if path not in self.images and path not in self.broken]
        with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "decode") as pool:
            for part in (new[:1], new[1:]):
                for path, found in zip(part, pool.map(self._scan, part), strict=True):
                    if isinstance(found, DataError):
                        self.broken[path] = found
                    else:
                        self.images[path] = found

    def require(self, paths: Sequence[Path]) -> None:
        """Scan the files, and raise DataError for the first that cannot be decoded."""
        self.add(paths)
        for path in paths:
            if path in self.broken:
                raise self.broken[path]

    def near_copies(self, paths: Collection[Path]) -> tuple[list[Path], NearCopies]:
        """Find near-copies among scanned images; a repeated search of the same images uses the first result.

        Returns:
            The decodable images of `paths`, in the order in which they were added, and the near-copies among them.
        """
        wanted = frozenset(paths)
        chosen = [path for path in self.images if path in wanted]
        if wanted not in self._near_copies:
            thumbnails = [self.images[path].thumbnail for path in chosen]
            self._near_copies[wanted] = find_near_copies(np.stack(thumbnails)) if thumbnails else NearCopies.none()
        return chosen, self._near_copies[wanted]

    def _scan(self, path: Path) -> ScannedImage | DataError:
        try:
            data = read_bytes(path)
            pixels = decode_pixels(data, str(path))
        except DataError as error:
            return error
        if self._use:
            self._use(path, pixels)
        return ScannedImage(
            sha256=hashlib.sha256(data.data).hexdigest(),
            size=(pixels.shape[0], pixels.shape[1]),
            colour=pixels.ndim == 3,
            grey=is_grey(pixels),
            bytes_per_channel=pixels.dtype.itemsize,
            largest=int(pixels.max()),
            thumbnail=thumbnail(to_eight_bits(pixels, bits_used(pixels))),
            orientation=orientation_of(data.data),
        )


def kinds_of(images: Sequence[ScannedImage], *, depth_known: bool) -> ImageKinds:
    """What some images, at least one, look like as files.

    Args:
        images: The images.
        depth_known: Whether the user gave the bit depth; it is known from 16-bit images too.
    """
    heights, widths = zip(*(image.size for image in images), strict=True)
    aspects = [width / height for height, width in zip(heights, widths, strict=True)]
    sixteen_bit = sum(image.bytes_per_channel == 2 for image in images)
    return ImageKinds(
        images=len(images),
        heights=(min(heights), max(heights)),
        widths=(min(widths), max(widths)),
        aspects=(min(aspects), max(aspects)),
        colour=sum(not image.grey for image in images),
        sixteen_bit=sixteen_bit,
        turned=sum(image.orientation != UPRIGHT for image in images),
        depth_known=depth_known or sixteen_bit > 0,
    )


def is_grey(image: Pixels) -> bool:
    """Whether an image has one channel, or three equal channels."""
    return image.ndim == 2 or bool((image == image[:, :, :1]).all())
