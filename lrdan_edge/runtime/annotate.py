"""A frame with its verdict drawn on it, as an inspector wants to see it."""

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.view import RegionFractions, fractions_to_pixels
from lrdan_edge.data.images import Frame, crop_region
from lrdan_edge.runtime.verdict import Verdict

COLOURS = {"good": (80, 175, 76), "reject": (60, 60, 220), "fault": (0, 165, 255)}
"""Border by outcome, BGR."""

_SMALLEST = 320
_REGION_LINE = (220, 220, 220)


def overlay(frame: Frame, heatmap: npt.NDArray[np.float32], full: float, region: RegionFractions | None = None) -> Frame:
    """A heatmap over its frame: nothing where the map is as it mostly is, glowing where it is high.

    Args:
        frame: uint8 [H, W], [H, W, 1] or [H, W, 3] (BGR).
        heatmap: float32 [h, w], of any level: log-odds may well be below zero everywhere.
        full: The heatmap's value that glows fully; halfway from its median to there the glow begins.
        region: The part of the frame that the heatmap shows (`Verdict.region`); a thin line is drawn around it.

    Returns:
        uint8 [H, W, 3] (BGR).
    """
    image = as_bgr(frame)
    if region is not None:
        whole = image.copy()
        inside = crop_region(whole, region)
        inside[:] = overlay(inside, heatmap, full)
        left, top, width, height = fractions_to_pixels(region, *whole.shape[:2])
        if (height, width) != whole.shape[:2]:
            cv2.rectangle(whole, (left, top), (left + width - 1, top + height - 1), _REGION_LINE, 1)
        return whole
    height, width = image.shape[:2]
    level = cv2.resize(_level(heatmap, full), (width, height), interpolation=cv2.INTER_LINEAR)
    glow = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = (0.75 * np.clip(2 * level - 0.5, 0, 1))[..., None]
    return np.asarray(image * (1 - share) + glow * share, dtype=np.uint8)


def _level(heatmap: npt.NDArray[np.float32], full: float) -> npt.NDArray[np.float32]:
    """How much each place glows, float32 [h, w] in [0, 1]; a map that is mostly above `full` glows where it is."""
    finite = heatmap[np.isfinite(heatmap)]
    typical = float(np.median(finite)) if finite.size else -np.inf
    heights = np.where(np.isnan(heatmap), -np.inf, heatmap.astype(np.float64))
    if not -np.inf < typical < full:
        return (heights >= full).astype(np.float32)
    start = (typical + full) / 2
    return np.clip((heights - start) / (full - start), 0, 1).astype(np.float32)


def annotate(frame: Frame, verdict: Verdict) -> Frame:
    """The frame with heatmap, outcome, score and threshold; enlarged if it is too small to write on.

    Args:
        frame: uint8 [H, W], [H, W, 1] or [H, W, 3] (BGR).
        verdict: Its verdict.

    Returns:
        uint8 [H', W', 3] (BGR).
    """
    scale = max(1, -(-_SMALLEST // min(frame.shape[:2])))
    image = cv2.resize(as_bgr(frame), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    if verdict.heatmap is not None:
        image = overlay(np.asarray(image, np.uint8), verdict.heatmap, glow_level(verdict), verdict.region)
    colour = COLOURS[verdict.outcome]
    words = verdict.outcome.upper()
    if verdict.own_outcome != verdict.outcome:
        words += f" (this frame {verdict.own_outcome})"
    if verdict.score is not None:
        words += f"  score {verdict.score:.3g}  limit {verdict.threshold:.3g}"
    size = image.shape[1] / 700
    thickness = max(1, round(2 * size))
    band = round(40 * size) + 8
    canvas = cv2.copyMakeBorder(image, band, 6, 6, 6, cv2.BORDER_CONSTANT, value=colour)
    cv2.putText(canvas, words, (10, band - 8), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), thickness, cv2.LINE_AA)
    return np.asarray(canvas, np.uint8)


def glow_level(verdict: Verdict) -> float:
    """The heatmap value at which an overlay glows fully.

    A pixel's threshold, where it has one of its own (and a frame rejected by its score glows at its top even below that); else the
    score's, or the map's own top where scores are means of errors.
    """
    if verdict.pixel_threshold is not None:
        if verdict.heatmap is None or verdict.own_outcome != "reject":
            return verdict.pixel_threshold
        return min(verdict.pixel_threshold, float(verdict.heatmap.max()))
    if verdict.heatmap is None or verdict.score is None or verdict.score <= 0:
        return verdict.threshold
    return max(verdict.threshold, float(verdict.heatmap.max()) * verdict.threshold / verdict.score)


def as_bgr(frame: Frame) -> Frame:
    """uint8 [H, W], [H, W, 1] or [H, W, 3] as uint8 [H, W, 3]."""
    grey = frame.ndim == 2 or frame.shape[2] == 1
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) if grey else frame, np.uint8)
