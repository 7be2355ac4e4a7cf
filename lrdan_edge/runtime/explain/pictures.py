"""The images of an explanation as PNG data URIs, and the good scores as SVG."""

import base64

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import Frame

_BINS = 28
_CONTOUR = (255, 255, 0)  # BGR: cyan does not occur in the colour map
_WIDTH, _HEIGHT, _BASE = 320, 60, 46

Map = npt.NDArray[np.float32]


def data_uri(image: Frame) -> str:
    """Encode an image, uint8 [H, W], [H, W, 1] or [H, W, 3] (BGR), as a PNG data URI."""
    encoded = cv2.imencode(".png", image)[1]
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def shown(reconstruction: Map) -> Frame:
    """Round a reconstruction in grey levels, float32 [H, W, C], to an image, uint8 [H, W, C]."""
    return np.clip(np.round(reconstruction), 0, 255).astype(np.uint8)


def difference(frame: Frame, reconstruction: Map) -> Map:
    """The absolute difference in grey levels, averaged over channels: float32 [H, W]."""
    return np.asarray(np.abs(frame.astype(np.float32) - reconstruction).mean(2), np.float32)


def coloured(values: Map, low: float, high: float) -> Frame:
    """Colour a map, float32 [H, W], from `low` to `high` with the colours of `scale`: uint8 [H, W, 3] (BGR)."""
    level = np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-12), 0, 1)
    return np.asarray(cv2.applyColorMap(np.round(255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO), np.uint8)


def heat_picture(heatmap: Map, low: float, high: float, contour: float | None, width: int) -> Frame:
    """Draw a heatmap, enlarged without smoothing, with a line around values above `contour`.

    Args:
        heatmap: float32 [h, w].
        low: The value that is drawn darkest.
        high: The value that is drawn brightest.
        contour: The level of the line, or None for no line.
        width: Least number of columns of the image.
    """
    factor = max(1, -(-width // heatmap.shape[1]))
    size = (heatmap.shape[1] * factor, heatmap.shape[0] * factor)
    picture = coloured(np.asarray(cv2.resize(heatmap, size, interpolation=cv2.INTER_NEAREST), np.float32), low, high)
    if contour is not None:
        above = cv2.resize((heatmap > contour).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        lines, _ = cv2.findContours(above, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, lines, -1, _CONTOUR, max(1, round(size[0] / 200)))
    return picture


def scale() -> Frame:
    """The colours from lowest to highest, uint8 [1, 256, 3]."""
    return np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO), np.uint8)


def strip(good: list[float], threshold: float, score: float) -> str:
    """Draw a histogram of the good scores as SVG, with the threshold and one score marked.

    Args:
        good: Scores of the held-out good images.
        threshold: The score above which a part is rejected.
        score: The score of the image.
    """
    low, high = min(*good, threshold, score), max(*good, threshold, score)
    margin = 0.04 * (high - low or 1.0)
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return (value - low) / (high - low) * _WIDTH

    counts, edges = np.histogram(good, _BINS, (low, high))
    bars = "".join(
        f'<rect class="bar" x="{place(left) + 0.5:.1f}" y="{_BASE - 34 * count / counts.max():.1f}" '
        f'width="{_WIDTH / _BINS - 1:.1f}" height="{34 * count / counts.max():.1f}"/>'
        for count, left in zip(counts.tolist(), edges[:-1].tolist(), strict=True)
        if count
    )
    verdict = "over" if score > threshold else "under"
    x, limit = place(score), place(threshold)
    side, anchor = (-1, "end") if limit > _WIDTH / 2 else (1, "start")
    label = (
        f"{len(good)} good scores from {min(good):.4g} to {max(good):.4g}, threshold {threshold:.4g}, this image {score:.4g}"
    )
    return (
        f'<svg class="strip" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f'{bars}<line class="axis" x1="0" x2="{_WIDTH}" y1="{_BASE}" y2="{_BASE}"/>'
        f'<line class="limit" x1="{limit:.1f}" x2="{limit:.1f}" y1="4" y2="{_BASE}"/>'
        f'<path class="mark {verdict}" d="M{x:.1f} {_BASE - 1} l-6 11 h12 z"/>'
        f'<text x="{limit + side * 5:.1f}" y="11" class="limit-label" text-anchor="{anchor}">threshold</text>'
        f"</svg>"
    )
