"""Draws the heatmap and the verdict on a frame."""

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.view import RegionFractions, fractions_to_pixels
from lrdan_edge.data.images import Frame, crop_region
from lrdan_edge.runtime.verdict import Verdict

COLOURS = {"good": (80, 175, 76), "reject": (60, 60, 220), "fault": (0, 165, 255)}
"""Border by outcome, BGR."""

_SMALLEST, _LARGEST = 320, 2048
"""Least and most pixels of a drawn frame's sides; a side that the other one keeps small is filled up with border."""

_REGION_LINE = (220, 220, 220)


def overlay(frame: Frame, heatmap: npt.NDArray[np.float32], maximum: float, region: RegionFractions | None = None) -> Frame:
    """Draw a heatmap over its frame: transparent where its values are low, opaque where they are high.

    Args:
        frame: uint8 [H, W], [H, W, 1] or [H, W, 3] (BGR).
        heatmap: float32 [h, w], of any range: log-odds may be below zero everywhere.
        maximum: The heatmap value that is drawn brightest; values below the midpoint of it and the median are not drawn.
        region: The part of the frame that the heatmap shows (`Verdict.region`); a thin line is drawn around it.

    Returns:
        uint8 [H, W, 3] (BGR).
    """
    image = as_bgr(frame)
    if region is not None:
        whole = image.copy()
        inside = crop_region(whole, region)
        inside[:] = overlay(inside, heatmap, maximum)
        left, top, width, height = fractions_to_pixels(region, *whole.shape[:2])
        if (height, width) != whole.shape[:2]:
            cv2.rectangle(whole, (left, top), (left + width - 1, top + height - 1), _REGION_LINE, 1)
        return whole
    height, width = image.shape[:2]
    level = cv2.resize(_level(heatmap, maximum), (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = (0.75 * np.clip(2 * level - 0.5, 0, 1))[..., None]
    return np.asarray(image * (1 - opacity) + colours * opacity, dtype=np.uint8)


def _level(heatmap: npt.NDArray[np.float32], maximum: float) -> npt.NDArray[np.float32]:
    """The brightness of each pixel, float32 [h, w] in [0, 1]; if the median exceeds `maximum`, 1 for all values above it."""
    finite = heatmap[np.isfinite(heatmap)]
    median = float(np.median(finite)) if finite.size else -np.inf
    values = np.where(np.isnan(heatmap), -np.inf, heatmap.astype(np.float64))
    if not -np.inf < median < maximum:
        return (values >= maximum).astype(np.float32)
    start = (median + maximum) / 2
    return np.clip((values - start) / (maximum - start), 0, 1).astype(np.float32)


def annotate(frame: Frame, verdict: Verdict) -> Frame:
    """Draw heatmap, outcome, score and threshold on a frame; a small frame is enlarged first, a large one reduced.

    The time and the memory that it takes are bounded, whatever the frame's size.

    Args:
        frame: uint8 [H, W], [H, W, 1] or [H, W, 3] (BGR).
        verdict: The frame's verdict.

    Returns:
        uint8 [H', W', 3] (BGR): the frame with its proportions, at most 2048 pixels high and wide, and a border.
    """
    image = _in_drawing_size(frame)
    if verdict.heatmap is not None:
        image = overlay(np.asarray(image, np.uint8), verdict.heatmap, overlay_maximum(verdict), verdict.region)
    colour = COLOURS[verdict.outcome]
    words = verdict.outcome.upper()
    if verdict.own_outcome != verdict.outcome:
        words += f" (this frame {verdict.own_outcome})"
    if verdict.score is not None:
        score, limit = as_figure(verdict.score), as_figure(verdict.threshold)
        words += (
            f"  score {score}  limit {limit}"
            if verdict.multiple is None
            else f"  {verdict.multiple:.2f} x limit ({score}, {limit})"
        )
    width = max(_SMALLEST, image.shape[1])
    size = width / 700
    thickness = max(1, round(2 * size))
    taken = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, thickness)[0][0]
    size *= min(1.0, (width - 8) / taken)
    band = round(40 * size) + 8
    canvas = cv2.copyMakeBorder(image, band, 6, 6, 6 + width - image.shape[1], cv2.BORDER_CONSTANT, value=colour)
    cv2.putText(canvas, words, (10, band - 8), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), thickness, cv2.LINE_AA)
    return np.asarray(canvas, np.uint8)


def as_figure(value: float) -> str:
    """A value for people: three digits, without an exponent if a person can read it without."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def _in_drawing_size(frame: Frame) -> Frame:
    """The frame, uint8 [H', W', 3]: enlarged by a whole factor if it is small, reduced if a side is longer than `_LARGEST`."""
    short, long = sorted(frame.shape[:2])
    if long > _LARGEST:
        height, width = (max(1, round(side * _LARGEST / long)) for side in frame.shape[:2])
        return as_bgr(np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8))
    factor = min(max(1, -(-_SMALLEST // short)), _LARGEST // long)
    return np.asarray(cv2.resize(as_bgr(frame), None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST), np.uint8)


def overlay_maximum(verdict: Verdict) -> float:
    """The heatmap value that an overlay draws brightest.

    With a pixel threshold, it is that threshold; in a rejected frame at most the heatmap's largest value, so that something is
    drawn. Without one, it is the score's threshold, scaled by the ratio of the heatmap's largest value to the score.
    """
    if verdict.pixel_threshold is not None:
        if verdict.heatmap is None or verdict.own_outcome != "reject":
            return verdict.pixel_threshold
        return min(verdict.pixel_threshold, float(verdict.heatmap.max()))
    if verdict.heatmap is None or verdict.score is None or verdict.score <= 0:
        return verdict.threshold
    return max(verdict.threshold, float(verdict.heatmap.max()) * verdict.threshold / verdict.score)


def as_bgr(frame: Frame) -> Frame:
    """Convert uint8 [H, W], [H, W, 1] or [H, W, 3] to uint8 [H, W, 3]."""
    grey = frame.ndim == 2 or frame.shape[2] == 1
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if grey else frame, np.uint8)
