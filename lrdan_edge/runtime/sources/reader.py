"""One connection to a camera or stream, opened and read in a thread of its own.

A native read can hang where no thread can be stopped. The consumer therefore never waits on it, only on a slot with a
time-out; a reader that hangs is abandoned, and releases its capture when (if ever) the native call returns.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lrdan_edge.errors import SourceError
from lrdan_edge.images import Frame
from lrdan_edge.runtime.sources.native import Capture, announced_fps, announced_frames, read_frame

# A picture that cannot be decoded fails one read of a live stream; a stream that is lost fails them all, at once.
_FAILED_READS = 3


@dataclass(frozen=True, slots=True)
class Opened:
    """The connection stands; what it announces."""

    fps: float | None
    frames: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """A frame and when it came (``time.monotonic_ns``)."""

    image: Frame
    capture_ns: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection failed or ended, and why; nothing follows."""

    error: Exception


Message = Opened | Arrived | Lost


class Reader:
    """Reads one capture until it ends or is stopped; messages are handed over one at a time, none is dropped."""

    def __init__(self, opener: Callable[[], Capture], read_timeout_s: float) -> None:
        """Start opening.

        Args:
            opener: Opens the capture; raises SourceError when it cannot.
            read_timeout_s: How long the capture waits for one frame before it gives up.
        """
        self._opener = opener
        self._read_timeout_s = read_timeout_s
        self._slot: Message | None = None
        self._stopped = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="lrdan-capture", daemon=True).start()

    def take(self, timeout_s: float) -> Message | None:
        """The next message; None when none came in time, or the reader was stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._slot is not None or self._stopped, timeout_s)
            message, self._slot = self._slot, None
            self._changed.notify_all()
            return None if self._stopped else message

    def stop(self) -> None:
        """Wake whoever waits, and let the thread end; never waits for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _put(self, message: Message) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._slot is None or self._stopped)
            self._slot = message
            self._changed.notify_all()
            return not self._stopped

    def _run(self) -> None:
        try:
            capture = self._opener()
        except Exception as error:  # whatever it is, the consumer must hear of it: it raises what is no SourceError
            self._put(Lost(error))
            return
        try:
            going = self._put(Opened(announced_fps(capture), announced_frames(capture)))
            while going:
                message = self._next(capture)
                going = self._put(message) and isinstance(message, Arrived)
        finally:
            capture.release()

    def _next(self, capture: Capture) -> Message:
        for _ in range(_FAILED_READS):
            asked = time.monotonic()
            image = read_frame(capture)
            if image is not None:
                return Arrived(image, time.monotonic_ns())
            if self._stopped:
                break
            if (waited := time.monotonic() - asked) > self._read_timeout_s / 2:
                return Lost(SourceError(f"no frame for {waited:.1f} s"))
        return Lost(SourceError("the connection ended"))
