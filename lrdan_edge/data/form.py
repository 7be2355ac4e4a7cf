"""How an image was stored: what is lost when it becomes a frame of 8 bits."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrdan_edge.data.orientation import UPRIGHT

_SAMPLED = 256  # rows and columns that are enough to see whether an image has colours


@dataclass(frozen=True, slots=True)
class Form:
    """How an image was stored.

    Attributes:
        height: Rows in pixels, upright.
        width: Columns in pixels, upright.
        colour: Whether it has colours: three channels that differ. None for an image of one single value, which says nothing.
        largest: The largest value of 16-bit pixels; None with 8 bits.
        orientation: The EXIF orientation that it was turned by, 1 to 8; 1 is none.
    """

    height: int
    width: int
    colour: bool | None
    largest: int | None
    orientation: int = UPRIGHT

    @classmethod
    def of(cls, image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], orientation: int = UPRIGHT) -> "Form":
        """The form of pixels.

        Args:
            image: uint8 or uint16, [H, W] or [H, W, C], upright.
            orientation: What they were turned by.
        """
        height, width = image.shape[:2]
        largest = int(image.max()) if image.dtype == np.uint16 and image.size else None
        return cls(height, width, _has_colours(image), largest, orientation)


def _has_colours(image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bool | None:
    if not image.size:
        return None
    seen = image[:: max(1, image.shape[0] // _SAMPLED), :: max(1, image.shape[1] // _SAMPLED)]
    if seen.min() == seen.max():
        return None
    return image.ndim == 3 and image.shape[2] >= 3 and bool((seen[..., :3] != seen[..., :1]).any())
