"""What is wrong with the masks of defects: inverted, empty, only in the alpha channel, of another shape, missing or left over."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2

from lrdan_edge.data.images import read_bytes, read_pixels
from lrdan_edge.data.native_noise import native_noise
from lrdan_edge.errors import DataError

_MOST_MARKED = 0.5  # fraction of an image; more is taken for a mask with black defects
_ASPECTS_APART = 1.02  # largest ratio of two aspect ratios without a note: sizes are rounded


def mask_notes(
    masks: Mapping[Path, Path], defects: Sequence[Path], sizes: Mapping[Path, tuple[int, int]], unmatched: Sequence[Path] = ()
) -> list[str]:
    """Notes about masks that are probably not meant as they are, one sentence each.

    Args:
        masks: The mask of each defective image that has one.
        defects: All defective images.
        sizes: (height, width) in pixels of the images, as far as they are known.
        unmatched: Masks that belong to no image.
    """
    wrong: dict[str, list[Path]] = {}
    for image, mask in masks.items():
        if problem := _problem(mask, sizes.get(image)):
            wrong.setdefault(problem, []).append(mask)
    lines = [f"{len(paths)} of {len(masks)} masks {problem}, such as {paths[0]}" for problem, paths in wrong.items()]
    if masks and (missing := [path for path in defects if path not in masks]):
        lines.append(
            f"{len(missing)} of {len(defects)} images of defects have no mask, such as {missing[0]}: pixel metrics leave them out"
        )
    if unmatched:
        lines.append(f"{len(unmatched)} masks belong to no image by their names, such as {unmatched[0]}")
    return lines


def _problem(path: Path, size: tuple[int, int] | None) -> str | None:
    """What is wrong with a mask, as the end of a sentence about several; None if nothing is."""
    try:
        pixels = read_pixels(path)
    except DataError:
        return "cannot be read"
    marked = float((pixels.any(axis=2) if pixels.ndim == 3 else pixels > 0).mean())
    if marked in (0.0, 1.0) and _marks_alpha(path):
        return "mark the defect only in their alpha channel, which is not read (save them as black and white)"
    if marked == 0:
        return "mark nothing"
    if marked > _MOST_MARKED:
        return "mark most of the image, and may be inverted (the defect must be white)"
    if size and not 1 / _ASPECTS_APART < pixels.shape[0] * size[1] / (pixels.shape[1] * size[0]) < _ASPECTS_APART:
        return "have another aspect ratio than their images"
    return None


def _marks_alpha(path: Path) -> bool:
    """Whether the image has an alpha channel that is not the same everywhere."""
    with native_noise:
        image = cv2.imdecode(read_bytes(path), cv2.IMREAD_UNCHANGED)  # it was decoded before, so it can be
    return image is not None and image.ndim == 3 and image.shape[2] == 4 and bool(image[..., 3].min() < image[..., 3].max())
