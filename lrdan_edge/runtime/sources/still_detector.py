"""Detects a still behind an encoder: it changes far less than the noise of the stream's own live images."""

from collections import deque
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import Frame

_BLOCK = 4  # samples; with every fourth pixel, a block is 16x16 pixels
_LARGE = 3_000_000  # pixels: above, every eighth row and column is enough
_SAMPLE_NS, _LAG_NS = 450_000_000, 900_000_000  # images are sampled about every 0.5 s, and compared about 1 s apart
_SHORTEST_S = 5.0  # an encoder may repeat an image for about half of this
_QUIET = 0.1  # quantile over blocks: the static parts, while parts move and while the belt rests
_MOVED = 0.9  # quantile over blocks: above a clock's fraction, below that of moving parts
_MOTION = 12.0  # grey levels: an encoder's drift is less
_NEW_SCENE = 8.0  # grey levels: even the static parts have changed (light, camera), so their noise has too
_STATIC = 0.5  # of a block's own contrast: where the whole image moves, blocks change by more
_RATIO = 0.6  # of the live noise; measured: live images stay above 0.8, stills below 0.6 where they can be told at all
_LEAST = 0.25  # grey levels of noise below which live images and stills cannot be told apart
_AGAIN_NS = 1_500_000_000  # a still is live again after changes this far apart: one jump of the encoder is not a live image
_LEAST_LESSONS = 10
_UNCHANGED = 0.95  # of a block's samples in successive images: the encoder repeats the block, and its noise is gone
_SLOWLY = 0.995  # per lesson, two a second: daylight changes the noise in minutes, a still within seconds

_Samples = npt.NDArray[np.uint8]


class _Change(NamedTuple):
    """How much an image differs from one about 1 s earlier, in grey levels."""

    at_ns: int
    quiet: float
    moved: bool
    static: bool


class StillDetector:
    """Learns from a stream how much its static parts change at least within half of `frozen_s`, and finds when they no longer do.

    The noise is learnt from blocks that do not move, so it is the same while parts move and while the belt rests.
    """

    def __init__(self, frozen_s: float) -> None:
        """Learn from the first 1.5 times `frozen_s` seconds, and at least 7.5 s."""
        self._frozen_ns = int(max(frozen_s, _SHORTEST_S) * 1e9)
        self._samples: deque[tuple[int, _Samples]] = deque()
        self._changes: deque[_Change] = deque()
        self._begun_ns: int | None = None
        self._lessons, self._level = 0, float("inf")
        self._live_ns: int | None = None
        self._sign_ns: int | None = None
        self._pairs: list[float] = []
        self._paired, self._doubted = True, False
        self.since_ns: int | None = None
        """Since when the image is a still, or None."""
        self.blind: str | None = None
        """Why stills of this stream cannot be told from live images, or None (also while it learns)."""
        self.unreliable: str | None = None
        """Why a still of this stream may be found late or never, or None (also while it learns)."""

    def check(self, image: Frame, capture_ns: int) -> None:
        """Update `since_ns`, `blind` and `unreliable`; two images a second are compared, and while it learns, each with the next.

        Args:
            image: uint8 [H, W] or [H, W, 3], always of one size.
            capture_ns: When it arrived, in nanoseconds.
        """
        early = bool(self._samples) and capture_ns - self._samples[-1][0] < _SAMPLE_NS
        if early and self._paired:
            return
        step = 8 if image.shape[0] * image.shape[1] > _LARGE else 4
        samples = (image if image.ndim == 2 else image[..., 1])[::step, ::step]
        height, width = (side // _BLOCK * _BLOCK for side in samples.shape)
        if not height or not width:
            return
        samples = samples[:height, :width]
        if early:
            self._pairs.append(_unchanged(samples, self._samples[-1][1]))
            self._paired = True
            return
        self._samples.append((capture_ns, samples.copy()))
        self._paired = self._doubted
        while len(self._samples) > 2 and capture_ns - self._samples[1][0] >= _LAG_NS:
            self._samples.popleft()
        if capture_ns - self._samples[0][0] >= _LAG_NS:
            self._take(_compare(capture_ns, self._samples[-1][1], self._samples[0][1]))

    def _take(self, change: _Change) -> None:
        if self._begun_ns is None or change.quiet > _NEW_SCENE:
            self._begun_ns, self._lessons, self._level = change.at_ns, 0, float("inf")
            self._doubted, self.unreliable = False, None
            self._pairs.clear()
            self._changes.clear()
        self._changes.append(change)
        while change.at_ns - self._changes[0].at_ns > self._frozen_ns // 2:
            self._changes.popleft()
        learnt_ns = change.at_ns - self._begun_ns
        armed = 2 * learnt_ns >= 3 * self._frozen_ns and self._lessons >= _LEAST_LESSONS and self._level >= _LEAST
        enough = not armed or change.moved or change.quiet >= _RATIO * self._level
        self._see(change, enough=enough)
        if self._live_ns is not None and armed and change.at_ns - self._live_ns >= self._frozen_ns:
            self.since_ns = self._live_ns
        if self.since_ns is None and 2 * learnt_ns >= self._frozen_ns:
            self._learn(certain=not armed or change.moved)
        if 2 * learnt_ns >= 3 * self._frozen_ns:
            self.blind = self._blindness()
            if not self._doubted:
                self._doubted, self.unreliable = True, self._doubt()

    def _see(self, change: _Change, *, enough: bool) -> None:
        """Note signs of life: one is enough, but after a still it takes motion or two."""
        if not enough:
            return
        if self.since_ns is not None and not change.moved:
            if self._sign_ns is None or change.at_ns - self._sign_ns > self._frozen_ns:
                self._sign_ns = change.at_ns
            if change.at_ns - self._sign_ns < _AGAIN_NS:
                return
        self._live_ns, self._sign_ns, self.since_ns = change.at_ns, None, None

    def _learn(self, *, certain: bool) -> None:
        """Lower the level to the largest change of the last half of `frozen_s`, unless that may be a still."""
        static = [change.quiet for change in self._changes if change.static]
        if len(static) < 3 or 2 * len(static) < len(self._changes):
            return
        self._lessons += 1
        peak = max(static)
        if certain or peak >= _RATIO * self._level:
            self._level = min(self._level, peak if certain else max(peak, _SLOWLY * self._level))

    def _blindness(self) -> str | None:
        if self._lessons < _LEAST_LESSONS:
            return "no part of the image is static"
        if self._level < _LEAST:
            return f"its live images show no noise ({self._level:.2f} grey levels)"
        return None

    def _doubt(self) -> str | None:
        if len(self._pairs) < _LEAST_LESSONS or float(np.median(self._pairs)) < _UNCHANGED:
            return None
        return "this stream's compression hides the noise by which a frozen image is noticed"

    def interrupted(self, now_ns: int | None = None) -> None:
        """Compare no image with one before a gap; with `now_ns`, the time of a still starts there too."""
        self._samples.clear()
        self._changes.clear()
        self._paired = True
        if now_ns is not None:
            self._live_ns, self._sign_ns, self.since_ns = now_ns, None, None


def _unchanged(image: _Samples, before: _Samples) -> float:
    """The fraction of unchanged samples in the median block of two successive images: the static parts, unless half of it moves."""
    same = (image == before).reshape(image.shape[0] // _BLOCK, _BLOCK, -1, _BLOCK)
    return float(np.median(same.mean(axis=(1, 3))))


def _compare(at_ns: int, image: _Samples, before: _Samples) -> _Change:
    size = image.shape[1] // _BLOCK, image.shape[0] // _BLOCK

    def means(values: _Samples | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32)

    change = means(cv2.absdiff(image, before).astype(np.float32))
    wide = image.astype(np.float32)
    contrast = np.sqrt(np.maximum(means(wide * wide) - means(wide) ** 2, 0))
    quiet, most = np.quantile(change, [_QUIET, _MOVED])
    static = np.quantile(change / (contrast + 1e-3), _QUIET) < _STATIC
    return _Change(at_ns, float(quiet), bool(most >= _MOTION), bool(static))
