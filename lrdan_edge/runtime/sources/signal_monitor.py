"""Detects frames that show nothing: black, frozen, or of another size than before."""

from dataclasses import dataclass

import numpy as np

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import SourceSignalError
from lrdan_edge.runtime.sources.still_detector import StillDetector

BLACK = 8  # grey levels: an image is black if no pixel is brighter
_STEP = 4  # every fourth row and column is compared first: 0.1 ms at 1080p; the whole image takes 2 ms


@dataclass(frozen=True, slots=True)
class Limits:
    """When a signal counts as lost although frames arrive; 0 turns a check off.

    Attributes:
        frozen_s: Seconds of identical images, bit by bit (the noise of a working sensor makes no two images identical), or of
            images that change far less than the stream's live images did (at least 5 s; see `StillDetector`).
        black_s: Seconds of black images, at least two: no pixel is brighter than `BLACK`.
    """

    frozen_s: float = 10.0
    black_s: float = 2.0


class SignalMonitor:
    """Checks one source's frames, in their order."""

    def __init__(self, limits: Limits) -> None:
        """Start before the first frame."""
        self._limits = limits
        self._shape: tuple[int, ...] | None = None
        self._last: Frame | None = None
        self._changed_ns = 0
        self._dark_ns: int | None = None
        self._still = StillDetector(limits.frozen_s) if limits.frozen_s else None

    @property
    def blind(self) -> str | None:
        """Why a frozen image of this stream is noticed only if it is identical bit by bit; None if not so, or not known yet."""
        return self._still.blind if self._still else None

    @property
    def unreliable(self) -> str | None:
        """Why a frozen image of this stream may be noticed late or never; None if not so, or not known yet."""
        return self._still.unreliable if self._still else None

    def check(self, image: Frame, capture_ns: int) -> SourceSignalError | None:
        """The problem of the signal as of this frame; None if there is none.

        Args:
            image: uint8 [H, W] or [H, W, 3].
            capture_ns: When it arrived, in nanoseconds of ``time.monotonic_ns``.
        """
        if self._shape is None:
            self._shape, self._changed_ns = image.shape, capture_ns
        if image.shape != self._shape:
            was, now = ("x".join(map(str, shape[:2])) for shape in (self._shape, image.shape))
            colours = "" if image.shape[:2] != self._shape[:2] else " and its colours"
            problem = f"the image size{colours} changed from {was} to {now}"
            return SourceSignalError(problem, "restore the camera's setting, or start again")
        part = image[::_STEP, ::_STEP]
        if self._last is None or not (np.array_equal(part, self._last[::_STEP, ::_STEP]) and np.array_equal(image, self._last)):
            self._last, self._changed_ns = image, capture_ns
        if self._still:
            self._still.check(image, capture_ns)
        if part.max() > BLACK or image.max() > BLACK:
            self._dark_ns = None
        elif self._dark_ns is None:
            self._dark_ns = capture_ns  # not earlier: a triggered camera's last image may be half a minute old
        for limit, since, problem in (
            (self._limits.frozen_s, self._changed_ns, "frozen image"),
            (self._limits.frozen_s, self._still.since_ns if self._still else None, "frozen image"),
            (self._limits.black_s, self._dark_ns, "black image"),
        ):
            if limit and since is not None and capture_ns - since >= limit * 1e9:
                return SourceSignalError(f"{problem} for {(capture_ns - since) / 1e9:.1f} s")
        return None

    def interrupted(self, now_ns: int) -> None:
        """Restart the times at `now_ns`, after a gap in the frames."""
        self._last, self._changed_ns, self._dark_ns = None, now_ns, None
        if self._still:
            self._still.interrupted(now_ns)

    def reconnected(self) -> None:
        """Go on after a new connection while the images are frozen or black: they must change first."""
        if self._still:
            self._still.interrupted()
