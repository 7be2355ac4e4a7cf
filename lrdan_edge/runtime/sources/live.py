"""Cameras and streams: frames as they arrive; a lost signal is a fault, and the connection is made again."""

import random
import threading
from collections.abc import Callable, Iterator

from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.sources.native import Capture, quiet
from lrdan_edge.runtime.sources.reader import Arrived, Lost, Message, Opened, Reader

# Opening an RTSP stream takes about 1.2 s; with pauses of at most 0.6 s it is back within 2 s of its return.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 0.6
# How much later than the capture's own time-out a reader counts as hanging.
_GRACE_S = 0.5


class LiveSource(Source):
    """A camera or stream. A loss is delivered once as a fault; frames go on when the connection stands again.

    Frames are handed over one by one and none is dropped here: take them as fast as they come, or they age in the
    camera's and the network's buffers.
    """

    live = True

    def __init__(
        self,
        uri: str,
        opener: Callable[[], Capture],
        *,
        open_timeout_s: float = 10,
        read_timeout_s: float = 10,
        fps: float | None = None,
    ) -> None:
        """Connect.

        Args:
            uri: The address, for display.
            opener: Opens the capture, and raises SourceError when it cannot; called in another thread, again at every loss.
            open_timeout_s: How long connecting may take.
            read_timeout_s: After how long without a frame the signal counts as lost.
            fps: The nominal rate, where it is known better than the capture knows it; 0 for unknown.

        Raises:
            SourceError: The first connection failed; later ones are repeated until `close`.
        """
        self.uri = uri
        self._opener = opener
        self._open_timeout_s, self._read_timeout_s = open_timeout_s, read_timeout_s
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._index = 0
        self._pause_s = _FIRST_PAUSE_S
        quiet.__enter__()
        try:
            self._reader = Reader(opener, read_timeout_s)
            opened = self._opened(self._reader.take(open_timeout_s + _GRACE_S))
        except BaseException:
            self.close()
            raise
        self.fps = opened.fps if fps is None else (fps or None)
        self.frames = opened.frames

    def _opened(self, message: Message | None) -> Opened:
        """The first message, or the SourceError that it stands for."""
        if isinstance(message, Opened):
            return message
        if isinstance(message, Lost):
            raise message.error
        raise SourceError(f"{self.uri} does not answer within {self._open_timeout_s:g} s: check the address and the network")

    def __iter__(self) -> Iterator[CapturedFrame]:
        """The frames; see `Source`."""
        delivering = True
        while not self._closed.is_set():
            message = self._reader.take(self._read_timeout_s + _GRACE_S)
            if self._closed.is_set():
                return
            if isinstance(message, Opened):
                continue
            if isinstance(message, Arrived):
                delivering, self._pause_s = True, _FIRST_PAUSE_S
                yield CapturedFrame.of(message.image, self._number(), self.uri, self._name(), message.capture_ns)
                continue
            self._reader.stop()
            if delivering:
                delivering = False
                fault = f"{self.uri}: signal lost ({self._why(message)}); connecting again"
                yield CapturedFrame.missing(fault, self._number(), self.uri, self._name())
            self._reconnect()

    def _number(self) -> int:
        self._index += 1
        return self._index - 1

    def _name(self) -> str:
        return f"frame {self._index - 1}"

    def _why(self, message: Message | None) -> str:
        if not isinstance(message, Lost):
            return f"no frame for {self._read_timeout_s + _GRACE_S:g} s"
        if not isinstance(message.error, SourceError):
            raise message.error
        return str(message.error)

    def _reconnect(self) -> None:
        """Connect again and again, with growing pauses, until it succeeds or the source is closed."""
        while not self._closed.wait(self._pause_s * random.uniform(0.5, 1)):
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            with self._lock:
                if self._closed.is_set():
                    return
                self._reader = Reader(self._opener, self._read_timeout_s)
            message = self._reader.take(self._open_timeout_s + _GRACE_S)
            if isinstance(message, Opened):
                return
            self._reader.stop()

    def close(self) -> None:
        """See `Source.close`; returns at once, a native call under way ends by its own time-out."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            if hasattr(self, "_reader"):
                self._reader.stop()
        quiet.__exit__(None, None, None)
