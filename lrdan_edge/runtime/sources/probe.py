"""Measures what a source delivers: image size, frame rate, regularity, and the last image."""

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import SourceEndedError
from lrdan_edge.runtime.sources.base import Source
from lrdan_edge.runtime.sources.signal_monitor import BLACK


@dataclass
class ProbeResult:
    """The measurements of a source.

    Attributes:
        announced_fps: The frame rate that the source announces, or None.
        seconds: Time from the first frame to the last.
        frames: Number of frames.
        first_s: Time until the first frame, in seconds.
        sizes: Number of frames by size, such as ``1920x1080, colour``.
        faults: Reasons of missing frames.
        interval_ms: Time between frames: p50, p95 and max; empty with fewer than two frames.
        same: Number of frames identical to the frame before, bit by bit.
        black: Number of frames without a pixel brighter than `BLACK`.
        picture: The last frame, uint8 [H, W] or [H, W, 3], or None.
    """

    announced_fps: float | None
    seconds: float = 0.0
    frames: int = 0
    first_s: float | None = None
    sizes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    interval_ms: dict[str, float] = field(default_factory=dict)
    same: int = 0
    black: int = 0
    picture: Frame | None = None

    @property
    def frames_per_s(self) -> float | None:
        """Frame rate between the first frame and the last; None with fewer than two frames."""
        return (self.frames - 1) / self.seconds if self.frames > 1 and self.seconds > 0 else None


def probe(source: Source, seconds: float) -> ProbeResult:
    """Take frames from a source for some time.

    Args:
        source: A source just opened.
        seconds: How long, counted from the first frame.

    Raises:
        SourceEndedError: The source ended without a frame.
    """
    found, arrivals = ProbeResult(source.fps), list[int]()
    begun = time.monotonic()
    for frame in source:
        now = time.monotonic()
        if frame.image is None:
            found.faults.append(frame.fault or "a frame is missing")
        else:
            _count(found, frame.image)
            arrivals.append(frame.capture_ns)
            if found.first_s is None:
                found.first_s, begun = now - begun, now
        if now - begun >= seconds:
            break
    if not arrivals:
        raise SourceEndedError(f"{source.uri} gives no frame{': ' + found.faults[0] if found.faults else ''}")
    found.seconds = (arrivals[-1] - arrivals[0]) / 1e9
    if len(arrivals) > 1:
        gaps = np.diff(arrivals) / 1e6
        p50, p95 = np.percentile(gaps, [50, 95])
        found.interval_ms = {"p50": float(p50), "p95": float(p95), "max": float(gaps.max())}
    return found


def _count(found: ProbeResult, image: Frame) -> None:
    channels = 1 if image.ndim == 2 else image.shape[2]
    found.frames += 1
    found.sizes[f"{image.shape[1]}x{image.shape[0]}, {'grey' if channels == 1 else 'colour'}"] += 1
    found.black += int(image.max() <= BLACK)
    found.same += int(found.picture is not None and np.array_equal(image, found.picture))
    found.picture = image
