"""What the training images looked like as files, so that frames that look otherwise are noticed."""

from typing import Any

import msgspec

KEY = "image_kinds"
"""Its name in the results of the stage ``train``; bundles of earlier versions have none."""

_MOST = 1e9  # far above any number of pixels


class ImageKinds(msgspec.Struct, frozen=True, kw_only=True):
    """What the good images of a training looked like, held-out ones included, turned upright and before they were resized.

    Attributes:
        images: Number of images.
        heights: Fewest and most rows, in pixels.
        widths: Fewest and most columns, in pixels.
        aspects: Least and greatest ratio of width to height.
        colour: Number of images with colours: stored with three channels that differ.
        sixteen_bit: Number of images with 16 bits per channel.
        turned: Number of images that their EXIF orientation turned or mirrored.
        depth_known: Whether it is known how many of 16 bits are used: from 16-bit images, or given by the user.
    """

    images: int
    heights: tuple[int, int]
    widths: tuple[int, int]
    aspects: tuple[float, float]
    colour: int
    sixteen_bit: int
    turned: int
    depth_known: bool


def recorded_kinds(results: dict[str, Any]) -> ImageKinds | None:
    """What the results of the stage ``train`` record; None in bundles of earlier versions, or where it is not valid."""
    try:
        found = msgspec.convert(results.get(KEY), ImageKinds)
    except msgspec.ValidationError:
        return None
    pairs = (found.heights, found.widths, found.aspects)
    return found if all(0 < least <= most < _MOST for least, most in pairs) else None
