"""Data sets unpacked into image folders: ROOT/train/<class>/*.png and ROOT/test/<class>/*.png (or .jpg)."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import fit_frame, list_images, read_image
from lrdan_edge.data.listing import subfolders
from lrdan_edge.errors import DataError

Array = npt.NDArray[np.uint8]


def read_part(folder: Path, classes: tuple[str, ...], channels: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Read every class's images.

    Args:
        folder: One folder per class, named by the class or by its number.
        classes: The classes' names, in the order of their labels.
        channels: 1 (grey) or 3 (blue, green, red); images are converted.

    Returns:
        Images uint8 [N, C, H, W] and labels int64 [N].

    Raises:
        DataError: The folders do not match the classes, or an image is broken or has another size than the first.
    """
    paths = [(label, path) for label, name in enumerate(_class_folders(folder, classes)) for path in list_images(name)]
    height, width = read_image(paths[0][1]).shape[:2]
    frames = np.empty((len(paths), height, width, channels), np.uint8)
    for index, (_, path) in enumerate(paths):
        image = read_image(path)
        if image.shape[:2] != (height, width):
            raise DataError(
                f"{path} is {image.shape[0]}x{image.shape[1]}, {paths[0][1]} is {height}x{width}: all images must have the same size"
            )
        frames[index] = fit_frame(image, (height, width, channels))
    labels = np.array([label for label, _ in paths], np.int64)
    return np.ascontiguousarray(frames.transpose(0, 3, 1, 2)), labels


def _class_folders(folder: Path, classes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist", "give image folders train/<class> and test/<class>")
    seen = {path.name for path in subfolders(folder)}
    for names in (classes, tuple(map(str, range(len(classes))))):
        if seen == set(names):
            return [folder / name for name in names]
    raise DataError(
        f"{folder} has the folders {', '.join(sorted(seen)) or '(none)'}",
        "name them {names}, or 0 to {last} in that order",
        names=", ".join(classes),
        last=len(classes) - 1,
    )
