"""Pictures that look like frames and are none: black, frozen, or of another size than before."""

from dataclasses import dataclass

import numpy as np

from lrdan_edge.data.images import Frame

BLACK = 8  # grey levels: a picture without a brighter pixel shows nothing
_STEP = 4  # every fourth row and column is looked at first: 0.1 ms at 1080p, where all of it takes 2 ms


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as lost though pictures arrive; 0 turns a sign off.

    Attributes:
        frozen_s: After how many seconds of the very same picture, to the bit; a sensor's noise makes no two alike.
        black_s: After how many seconds of pictures without a pixel brighter than `BLACK`, two at least.
    """

    frozen_s: float = 10.0
    black_s: float = 2.0


class Signs:
    """Looks at one source's frames, in order."""

    def __init__(self, limits: Limits) -> None:
        """Begin."""
        self._limits = limits
        self._shape: tuple[int, ...] | None = None
        self._last: Frame | None = None
        self._changed_ns = 0
        self._dark_ns: int | None = None

    def look(self, image: Frame, capture_ns: int) -> str | None:
        """What is wrong with a frame, in words; None if it shows something.

        Args:
            image: uint8 [H, W] or [H, W, 3].
            capture_ns: When it arrived.
        """
        if self._shape is None:
            self._shape, self._changed_ns = image.shape, capture_ns
        if image.shape != self._shape:
            was, now = ("x".join(map(str, shape[:2])) for shape in (self._shape, image.shape))
            colours = "" if image.shape[:2] != self._shape[:2] else " and its colours"
            return f"the picture's size{colours} changed from {was} to {now}: set the camera back, or start again"
        some = image[::_STEP, ::_STEP]
        if self._last is None or not (np.array_equal(some, self._last[::_STEP, ::_STEP]) and np.array_equal(image, self._last)):
            self._last, self._changed_ns = image, capture_ns
        if some.max() > BLACK or image.max() > BLACK:
            self._dark_ns = None
        elif self._dark_ns is None:
            self._dark_ns = capture_ns  # a triggered camera may have been bright half a minute ago
        for limit, since, said in (
            (self._limits.frozen_s, self._changed_ns, "the same picture"),
            (self._limits.black_s, self._dark_ns, "a black picture"),
        ):
            if limit and since is not None and capture_ns - since >= limit * 1e9:
                return f"{said} for {(capture_ns - since) / 1e9:.1f} s"
        return None

    def interrupted(self, now_ns: int) -> None:
        """Frames were missing until now: what came before says nothing of how long a picture stands."""
        self._last, self._changed_ns, self._dark_ns = None, now_ns, None
