"""Synthetic defects for training: shapes, fillings and soft edges, painted into good images.

They imitate defects of a production line: cracks, holes, stains, chipped edges, scratches, and foreign or missing texture. The
method follows CutPaste (arXiv 2104.04015), DRAEM (arXiv 2108.07610) and NSA (arXiv 2109.15222), with additional shapes. Smooth
unevenness is left out, since natural shading looks the same.

Some images get only details, including faint ones. The others also get whole regions with a different surface. There, only changes
that stand out from the surrounding texture are kept and marked, since the rest of a region looks like good texture.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.train.painting.hyperparameters import PaintingHyperparameters, ShapeProbabilities
from lrdan_edge.train.painting.variation import Image

Shape = Callable[[np.random.Generator, int, int], Image]

_SUBPIXEL = 16  # OpenCV draws in fractions of a pixel: 4 bits


def paint(
    image: Image, other: Image, rng: np.random.Generator, hyperparameters: PaintingHyperparameters
) -> tuple[Image, Image]:
    """Paint one to three defects into an image.

    Args:
        image: A good image, float32 [H, W, C] in [0, 1].
        other: Another one, the source of foreign texture; the same shape.
        rng: Draws shapes, places and fillings.
        hyperparameters: The hyperparameters.

    Returns:
        The defective image, float32 [H, W, C] in [0, 1], and its mask, float32 [H, W], 1 where it visibly changed.
    """
    details = rng.random() < hyperparameters.details_fraction
    shapes = hyperparameters.detail_shapes if details else hyperparameters.region_shapes
    texture = None if details else texture_of(image)
    painted, mask = image, np.zeros(image.shape[:2], np.float32)
    for _ in range(1 + int(rng.random() < 0.3) + int(rng.random() < 0.15)):
        for _ in range(hyperparameters.attempts):
            attempt = paint_one(shapes, painted, other, texture, rng, hyperparameters)
            if attempt is not None:
                painted, mask = attempt[0], np.maximum(mask, attempt[1])
                break
    return painted, mask


def paint_one(
    shapes: ShapeProbabilities,
    image: Image,
    other: Image,
    texture: Image | None,
    rng: np.random.Generator,
    hyperparameters: PaintingHyperparameters,
) -> tuple[Image, Image] | None:
    """Paint one defect; return it with its mask, or None if it is empty or does not stand out from `texture` (None: no check)."""
    names, probabilities = zip(*shapes, strict=True)
    shape = _SHAPES[names[rng.choice(len(names), p=probabilities)]]
    drawn = shape(rng, *image.shape[:2])
    if not drawn.any():
        return None
    opacity = cv2.GaussianBlur(drawn, (0, 0), _softness(shape, rng))
    filling = _filling(shape, image, other, drawn > 0, rng)
    blend = image + opacity[..., None] * (np.clip(filling, 0, 1) - image)
    painted = np.clip(blend, 0, 1).astype(np.float32)  # rounding can leave the range
    change, inside = np.abs(painted - image).max(2), opacity > 0.35
    if texture is None:
        return painted, (inside & (cv2.blur(change, (5, 5)) > hyperparameters.least_change)).astype(np.float32)
    if prominence(change / texture, inside) < hyperparameters.least_prominence:
        return None
    visible = True if shape in (_region, _stain) else cv2.blur(change / texture, (5, 5)) > 0.5
    return painted, (inside & visible).astype(np.float32)


def _softness(shape: Shape, rng: np.random.Generator) -> float:
    """The deviation, in pixels, of the Gaussian that softens a shape's edge."""
    if shape in (_blob, _crack, _scratch):
        return float(rng.uniform(0.4, 1.2))
    return _between(rng, 0.5, 6) if shape is _region else float(rng.uniform(0.5, 2.5))


def texture_of(image: Image) -> Image:
    """The strength of the texture around each pixel: the mean deviation from a smoothed image, float32 [H, W], above 0."""
    return np.asarray(cv2.blur(np.abs(image - _blur(image, 3)).mean(2), (31, 31)) + 0.004, np.float32)


def prominence(relative: Image, inside: npt.NDArray[np.bool_]) -> float:
    """How much a defect stands out: its mean change in units of the texture, times the fourth root of its area / 100 pixels."""
    area = int(inside.sum())
    return float(relative[inside].mean()) * (area / 100) ** 0.25 if area else 0.0


def _filling(shape: Shape, image: Image, other: Image, inside: npt.NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """The filling of a defect: another tone (always for cracks, mostly for blobs), foreign texture, or missing or coarser texture."""
    if shape is _region:
        return _different_surface(image, other, inside, rng)
    choice = rng.random()
    if shape is _crack or choice < (0.75 if shape is _blob else 0.4):
        return _tone(image, inside, rng)
    if choice < 0.8:
        return _foreign(image, other, inside, rng)
    smooth = _blur(image, rng.uniform(1.5, 4))
    coarse = 0.0 if rng.random() < 0.5 else rng.uniform(1.8, 3)
    return np.asarray(smooth + coarse * (image - smooth) + rng.normal() * 0.25 * _contrast(image), np.float32)


def _different_surface(image: Image, other: Image, inside: npt.NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """A region with a different surface: another grain (stronger, weaker, smeared, or from another part), and perhaps another tone."""
    level = image[inside].mean(0)
    shift: Any = 0.0
    if rng.random() < 0.5:
        shift = _between(rng, 0.02, 0.4) * np.maximum(0.2, level) * (-1 if rng.random() < 0.4 else 1)
    choice = rng.random()
    if choice < 0.35:
        return np.asarray(_smeared(image, rng) + shift, np.float32)
    source, foreign = image, choice < 0.7
    if foreign:
        source = other if rng.random() < 0.6 else _foreign(image, other, inside, rng)
        if rng.random() < 0.7:
            source = source - source[inside].mean(0) + level
    smooth = _blur(source, rng.uniform(3, 16))
    weaker, unchanged = rng.random() < 0.4, foreign and rng.random() < 0.6
    gain = rng.uniform(0, 0.5) if weaker else 1.0 if unchanged else rng.uniform(1.6, 3.5)
    return np.asarray(smooth + gain * (source - smooth) + shift, np.float32)


def _smeared(image: Image, rng: np.random.Generator) -> Image:
    """The texture smeared along rows or columns, as by grinding, and amplified."""
    smooth, length = _blur(image, rng.uniform(6, 20)), int(_between(rng, 15, 80)) | 1
    grain = cv2.blur(image, (1, length) if rng.random() < 0.5 else (length, 1)).reshape(image.shape) - smooth
    return np.asarray(smooth + rng.uniform(1.5, 4) * grain + rng.uniform(0, 1) * (image - _blur(image, 2)), np.float32)


def _tone(image: Image, inside: npt.NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """A darker or, less often, brighter tone; the original texture may stay visible."""
    height, width = inside.shape
    change = _between(rng, 0.06, 0.6) * (-1 if rng.random() < 0.72 else 1)
    grain = 0.4 * rng.uniform(0, 1) * _noise(rng, height, width, min(height, width) / rng.uniform(2, 12))[..., None]
    level = image[inside].mean(0)
    if rng.random() < 0.5:
        return np.asarray(image + change * (1 + grain) * np.maximum(0.35, level), np.float32)
    return np.asarray((level + change) * (1 + 0.25 * grain) + rng.uniform(0, 1) * (image - _blur(image, 3)), np.float32)


def _foreign(image: Image, other: Image, inside: npt.NDArray[np.bool_], rng: np.random.Generator) -> Image:
    """The texture of another image, shifted and perhaps rotated, at its own brightness or at this image's."""
    height, width = inside.shape
    if rng.random() < 0.5:
        other = np.rot90(other, int(rng.integers(1, 4))) if height == width else other[::-1, ::-1]
    other = np.roll(other, (int(rng.integers(height)), int(rng.integers(width))), (0, 1))
    if rng.random() < 0.6:
        other = other - other[inside].mean(0) + image[inside].mean(0) + rng.normal() * 0.5 * _contrast(image)
    return np.asarray(other, np.float32)


def _blob(rng: np.random.Generator, height: int, width: int, low: float = 0.008, high: float = 0.12) -> Image:
    radius, aspect, turn = _between(rng, low, high) * min(height, width), _between(rng, 1, 4) ** 0.5, rng.uniform(0, np.pi)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radii = radius * (1 + 0.35 * rng.standard_normal(12) * rng.uniform(0, 1))
    x, y = radii * aspect * np.cos(angles), radii / aspect * np.sin(angles)
    turned = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1)
    canvas = np.zeros((height, width), np.float32)
    cv2.fillPoly(canvas, [_fixed_point(turned + rng.uniform(0, (width, height)))], (1.0,), cv2.LINE_8, 4)
    return canvas


def _crack(rng: np.random.Generator, height: int, width: int) -> Image:
    """An irregular line; half of them start at an edge."""
    side = min(height, width)
    step = side / 40
    count = max(3, int(_between(rng, 0.06, 1) * side / step))
    start = rng.uniform(0, (width, height))
    if rng.random() < 0.5:
        axis = int(rng.integers(2))
        start[axis] = rng.choice([0, (width, height)[axis] - 1])
    heading = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    headings = heading + np.cumsum(rng.standard_normal(count) * rng.uniform(0.01, 0.25))
    inwards = np.where(start > np.array([width, height]) * 0.6, -1, 1)
    steps = np.stack([np.cos(headings), np.sin(headings)], 1) * inwards * step
    points = start + np.cumsum(steps, 0) + rng.standard_normal((count, 2)) * 0.25 * step
    canvas = np.zeros((height, width), np.float32)
    thickness = int(rng.integers(1, 4)) if rng.random() < 0.8 else int(rng.integers(3, 7))
    cv2.polylines(canvas, [_fixed_point(points)], False, (1.0,), thickness, cv2.LINE_8, 4)
    return canvas


def _scratch(rng: np.random.Generator, height: int, width: int) -> Image:
    """A thin straight bar."""
    side = min(height, width)
    size = (_between(rng, 0.04, 0.4) * side, _between(rng, 0.01, 0.06) * side)
    corners = cv2.boxPoints(((rng.uniform(0, width), rng.uniform(0, height)), size, rng.uniform(0, 180)))
    canvas = np.zeros((height, width), np.float32)
    cv2.fillPoly(canvas, [_fixed_point(corners)], (1.0,), cv2.LINE_8, 4)
    return canvas


def _cloud(rng: np.random.Generator, height: int, width: int) -> Image:
    """The peaks of smooth noise, within a region."""
    noise = _noise(rng, height, width, rng.uniform(2, 9))
    peaks = (noise > np.quantile(noise, rng.uniform(0.75, 0.97))).astype(np.float32)
    return peaks * _blob(rng, height, width, 0.1, 0.4)


def _region(rng: np.random.Generator, height: int, width: int) -> Image:
    """A large part of the image on one side of a slanted, slightly wavy line, or a strip between two such lines."""
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.3 else rng.integers(4) * np.pi / 2 + rng.normal() * 0.15
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = columns * np.cos(angle) + rows * np.sin(angle)
    distance = distance + rng.uniform(0, 0.02) * min(height, width) * _noise(rng, height, width, rng.uniform(2, 6))
    if rng.random() < 0.65:
        return np.asarray(distance > np.quantile(distance, rng.uniform(0.55, 0.97)), np.float32)
    start = rng.uniform(0.05, 0.8)
    low, high = np.quantile(distance, [start, min(1, start + rng.uniform(0.05, 0.4))])
    return np.asarray((distance > low) & (distance < high), np.float32)


def _stain(rng: np.random.Generator, height: int, width: int) -> Image:
    return _blob(rng, height, width, 0.1, 0.3)


def _edge(rng: np.random.Generator, height: int, width: int) -> Image:
    """A chip in one edge, or a strip along it."""
    turned = int(rng.integers(4))
    rows, columns = (height, width) if turned % 2 == 0 else (width, height)
    along, depth = np.arange(columns), _between(rng, 0.02, 0.25) * min(height, width)
    profile: npt.NDArray[Any]
    if rng.random() < 0.7:
        half, centre = _between(rng, 0.03, 0.5) * columns, rng.uniform(0, columns)
        profile = depth * np.sqrt(np.clip(1 - ((along - centre) / half) ** 2, 0, None))
    else:
        profile = depth + (along - columns / 2) * rng.normal() * 0.1
    profile = profile * (1 + 0.25 * rng.uniform(0, 1) * _noise(rng, 2, columns, 10)[0])
    chip = (np.arange(rows)[:, None] < profile[None, :]).astype(np.float32)
    return np.ascontiguousarray(np.rot90(chip, turned))


_SHAPES: dict[str, Shape] = {
    "blob": _blob,
    "crack": _crack,
    "scratch": _scratch,
    "cloud": _cloud,
    "edge": _edge,
    "region": _region,
    "stain": _stain,
}


def _fixed_point(points: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    return np.round(points * _SUBPIXEL).astype(np.int32)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A log-uniform random number."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _noise(rng: np.random.Generator, height: int, width: int, cells: float) -> Image:
    """Smooth noise of about `cells` bumps each way, of unit deviation."""
    grid = rng.standard_normal((max(2, int(cells)),) * 2).astype(np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _blur(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32).reshape(image.shape)


def _contrast(image: Image) -> float:
    return float(image.std()) + 0.02
