"""Synthetic defects that a person sees at a glance: scratch, stain, hole and missing piece."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.float32]
Painter = Callable[[Grey, np.random.Generator], float]
"""A function that draws the opacity of a defect (0 to 255) into an empty canvas, and returns its grey value."""

OPACITY = 0.92
EDGE = 3  # width of the border without defects, in pixels


def paint(kind: str, ground: Grey, rng: np.random.Generator) -> tuple[Grey, Grey]:
    """Paint one defect at a random position on `ground`.

    Args:
        kind: One of `KINDS`.
        ground: float32 [H, W], grey levels 0 to 255; at least 80 pixels each way.
        rng: Source of its position, shape and grey value.

    Returns:
        The ground with the defect, and the opacity of the defect (0 to 1), both float32 [H, W].
    """
    while True:
        canvas = np.zeros_like(ground)
        shade = _PAINTERS[kind](canvas, rng)
        frame = canvas.copy()
        frame[EDGE:-EDGE, EDGE:-EDGE] = 0
        if canvas.any() and not frame.any():
            break
    opacity = (canvas * (OPACITY / 255)).astype(np.float32)
    material = shade + rng.normal(0, 4, ground.shape).astype(np.float32)
    painted = (ground * (1 - opacity) + opacity * material).astype(np.float32)
    return painted, opacity


def _centre(canvas: Grey, rng: np.random.Generator) -> tuple[int, int]:
    height, width = canvas.shape
    return int(rng.integers(width // 5, width - width // 5)), int(rng.integers(height // 5, height - height // 5))


def _scratch(canvas: Grey, rng: np.random.Generator) -> float:
    angle, length = rng.uniform(0, np.pi), rng.uniform(34, 56)
    along = np.linspace(-length / 2, length / 2, 12)
    points = np.stack([along * np.cos(angle), along * np.sin(angle)], 1) + _centre(canvas, rng) + rng.normal(0, 1.2, (12, 2))
    _fill(
        canvas, lambda image: cv2.polylines(image, [points.astype(np.int32)], False, 255, int(rng.integers(2, 4)), cv2.LINE_AA)
    )
    return float(rng.choice([15, 240]))


def _stain(canvas: Grey, rng: np.random.Generator) -> float:
    centre, axes = _centre(canvas, rng), (int(rng.integers(9, 16)), int(rng.integers(7, 12)))
    angle = float(rng.uniform(0, 180))
    _fill(canvas, lambda image: cv2.ellipse(image, centre, axes, angle, 0, 360, 255, -1, cv2.LINE_AA))
    soft = cv2.GaussianBlur(canvas, (0, 0), 2.5)
    canvas[:] = np.where(soft < 5, 0, soft)
    return float(rng.choice([18, 215]))


def _hole(canvas: Grey, rng: np.random.Generator) -> float:
    centre, radius = _centre(canvas, rng), int(rng.integers(6, 10))
    _fill(canvas, lambda image: cv2.circle(image, centre, radius, 255, -1, cv2.LINE_AA))
    return 8.0


def _missing(canvas: Grey, rng: np.random.Generator) -> float:
    corners = int(rng.integers(5, 8))
    angle, radius = np.sort(rng.uniform(0, 2 * np.pi, corners)), rng.uniform(9, 17, corners)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) + _centre(canvas, rng)
    _fill(canvas, lambda image: cv2.fillPoly(image, [points.astype(np.int32)], 255, cv2.LINE_AA))
    if (canvas > 0).sum() < 150:  # corners on one side give too small a piece: draw again
        canvas[:] = 0
    return 228.0


def _fill(canvas: Grey, draw: Callable[[npt.NDArray[np.uint8]], object]) -> None:
    image = np.zeros(canvas.shape, np.uint8)
    draw(image)
    canvas[:] = image


_PAINTERS: dict[str, Painter] = {"scratch": _scratch, "stain": _stain, "hole": _hole, "missing_piece": _missing}
KINDS = tuple(_PAINTERS)
