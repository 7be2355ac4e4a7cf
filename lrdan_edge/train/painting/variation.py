"""The natural variation of good images: augmentation."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.train.painting.hyperparameters import PaintingHyperparameters

Image = npt.NDArray[np.float32]


def stretch_for(images: int, hyperparameters: PaintingHyperparameters) -> float:
    """The largest factor by which rows or columns of good images are stretched: 1 unless there are few images.

    Few images do not show all natural variation: the joints of a brick wall vary more than 120 images of it show. With many
    images, stretching only hides defects: on 340 images of magnetic tiles it lowered the pixel AUROC by 0.03.
    """
    return hyperparameters.most_stretch if images < hyperparameters.few_images else 1.0


def vary(image: Image, rng: np.random.Generator, hyperparameters: PaintingHyperparameters, stretch: float = 1.0) -> Image:
    """Vary an image at random as parts vary in production: mirror, expose, shift, rotate, enlarge, and perhaps stretch it.

    Args:
        image: float32 [H, W, C] in [0, 1].
        rng: Random generator.
        hyperparameters: The hyperparameters.
        stretch: The largest factor by which rows or columns are stretched, 1 or more.

    Returns:
        float32 [H, W, C] in [0, 1].
    """
    height, width = image.shape[:2]
    rows, columns = (-1 if rng.random() < 0.5 else 1 for _ in range(2))
    image = np.ascontiguousarray(image[::rows, ::columns])
    if rng.random() < 0.7:
        image = np.clip(image ** rng.uniform(0.8, 1.25) * rng.uniform(0.85, 1.15), 0, 1).astype(np.float32)
    if rng.random() < 0.5:
        degrees, zoom = (
            rng.uniform(-hyperparameters.most_turn, hyperparameters.most_turn),
            rng.uniform(1, hyperparameters.most_zoom),
        )
        turn: npt.NDArray[Any] = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, zoom)
        turn[:, 2] += rng.uniform(-hyperparameters.most_shift, hyperparameters.most_shift, 2) * (width, height)
        if stretch > 1:
            axis = int(rng.integers(2))
            factor = np.exp(rng.uniform(0, np.log(stretch)))
            turn[axis] *= factor
            turn[axis, 2] -= rng.uniform(0, factor - 1) * (width, height)[axis]  # random position of the visible part
        moved = cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
        image = np.asarray(moved, np.float32).reshape(image.shape)
    return np.asarray(image, np.float32)
