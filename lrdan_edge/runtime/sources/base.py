"""The interface of all sources, and the frames that they deliver."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lrdan_edge.data.form import Form
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import LrdanError

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11


@dataclass(frozen=True, slots=True, eq=False)
class CapturedFrame:
    """One frame, or a record that one is missing.

    Attributes:
        image: uint8, [H, W] (grey) or [H, W, 3] (BGR); None if it is missing: `fault` then says why.
        index: Its number in this source, from 0. It rises by 1 with every frame and fault, also across reconnects.
        capture_ns: ``time.monotonic_ns`` when it arrived; latency is measured from here.
        source: The source's address, without credentials.
        name: The file's name (below its folder), or ``frame 17`` for video and cameras.
        wall_time: When it arrived, in Unix seconds.
        fault: Why there is no image; such a frame must never count as a good part.
        error: The error that caused `fault`, or None; its type identifies the case (of a live source: `SourceTimeoutError`,
            `SourceEndedError`, `SourceSignalError`, …).
        form: How the image was stored, where the source knows more than `image` tells; otherwise None.
    """

    image: Frame | None
    index: int
    capture_ns: int
    source: str
    name: str
    wall_time: float
    fault: str | None = None
    error: LrdanError | None = None
    form: Form | None = None

    @classmethod
    def of(
        cls, image: Frame, index: int, source: str, name: str, capture_ns: int | None = None, form: Form | None = None
    ) -> "CapturedFrame":
        """A frame that arrived at `capture_ns` (None: now)."""
        arrived, wall_time = _clocks(capture_ns)
        return cls(image, index, arrived, source, name, wall_time, form=form)

    @classmethod
    def missing(cls, fault: str, index: int, source: str, name: str, error: LrdanError | None = None) -> "CapturedFrame":
        """The record, made now, that a frame is missing."""
        arrived, wall_time = _clocks(None)
        return cls(None, index, arrived, source, name, wall_time, fault, error)


def _clocks(capture_ns: int | None) -> tuple[int, float]:
    now = time.monotonic_ns()
    arrived = now if capture_ns is None else capture_ns
    return arrived, time.time() - (now - arrived) / 1e9


class Source(Protocol):
    """An iterable of frames; close it after use, or use it in a ``with`` statement.

    Iterating again starts files from the beginning, with index 0. Cameras and streams continue.

    Attributes:
        uri: Its address, without credentials.
        live: Whether frames that are not taken in time are lost (cameras, streams).
        fps: The nominal frame rate, or None if the source announces none.
        frames: The number of frames that it announces, or None.
        unverified: Whether its server's certificate was not checked, because the user asked for that.
    """

    uri: str
    live: bool
    fps: float | None
    frames: int | None
    unverified: bool = False

    def __iter__(self) -> Iterator[CapturedFrame]:
        """Yield frames in the order in which they arrive, until the end or `close`."""
        ...

    def close(self) -> None:
        """Release the camera, stream or file and end the iteration; callable from any thread, and more than once."""
        ...

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
