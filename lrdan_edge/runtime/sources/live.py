"""Cameras and streams: frames as they arrive; a lost signal is a fault, and the connection is made again."""

import random
import threading
import time
from collections.abc import Iterator

from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.sources.capture import Job
from lrdan_edge.runtime.sources.reader import Arrived, Lost, Message, Opened, Reader
from lrdan_edge.runtime.sources.signal_monitor import Limits, Signs

# Opening an RTSP stream takes about 1.2 s; with pauses of at most 0.6 s it is back within 2 s of its return.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 0.6
# How much later than the capture's own time-out a reader counts as hanging.
_GRACE_S = 0.5
# While a picture is black, frozen or of another size: how often connecting anew is tried; it is read on in between.
_RETRY_S = 10.0


class LiveSource(Source):
    """A camera or stream. A loss is delivered once as a fault; frames go on when the connection stands again.

    It is read in a process of its own, killed when it hangs. Frames are handed over one by one and none is dropped here: take
    them as fast as they come, or they age in the camera's and the network's buffers.
    """

    live = True

    def __init__(
        self,
        uri: str,
        job: Job,
        *,
        open_timeout_s: float = 10,
        fps: float | None = None,
        limits: Limits | None = None,
        wait: bool = False,
    ) -> None:
        """Connect.

        Args:
            uri: The address, for display.
            job: What the process reads.
            open_timeout_s: How long connecting may take.
            fps: The nominal rate, where it is known better than the capture knows it; 0 for unknown.
            limits: When pictures that arrive count as lost.
            wait: Whether the first connection is repeated too, as later ones are, until `close`.

        Raises:
            SourceError: The first connection failed, and is not waited for.
        """
        self.uri = uri
        self._open_timeout_s, self._silence_s = open_timeout_s, job.read_timeout_s + _GRACE_S
        self._closed = threading.Event()
        self._signs = Signs(limits or Limits())
        self._index = 0
        self._pause_s = _FIRST_PAUSE_S
        self._absent: str | None = None
        self._reader = Reader(job)
        try:
            opened = self._opened(self._reader.take(open_timeout_s + _GRACE_S))
        except SourceError as error:
            if not wait:
                self.close()
                raise
            self._absent, opened = str(error), Opened(fps=None, frames=None)
        except BaseException:
            self.close()
            raise
        self.fps = opened.fps if fps is None else (fps or None)
        self.frames = opened.frames

    @property
    def pid(self) -> int | None:
        """The number of the process that reads, or None while there is none."""
        return self._reader.pid

    def _opened(self, message: Message | None) -> Opened:
        """The first message, or the SourceError that it stands for."""
        if isinstance(message, Opened):
            return message
        if isinstance(message, Lost):
            raise message.error
        raise SourceError(f"{self.uri} does not answer within {self._open_timeout_s:g} s: check the address and the network")

    def __iter__(self) -> Iterator[CapturedFrame]:
        """The frames; see `Source`."""
        delivering, retry = True, 0.0
        if self._absent is not None:
            fault, self._absent = f"{self.uri}: no signal yet ({self._absent}); connecting again", None
            yield CapturedFrame.missing(fault, self._number(), self.uri, self._name())
            self._reader.kill()
            self._reconnect(fresh=True)
        while not self._closed.is_set():
            message = self._reader.take(self._silence_s)
            if self._closed.is_set():
                return
            if isinstance(message, Opened):
                continue
            wrong = self._signs.look(message.image, message.capture_ns) if isinstance(message, Arrived) else None
            if isinstance(message, Arrived) and wrong is None:
                delivering, retry, self._pause_s = True, 0.0, _FIRST_PAUSE_S
                yield CapturedFrame.of(message.image, self._number(), self.uri, self._name(), message.capture_ns)
                continue
            if delivering:
                delivering = False
                fault = f"{self.uri}: signal lost ({wrong or self._why(message)}); connecting again"
                yield CapturedFrame.missing(fault, self._number(), self.uri, self._name())
            if wrong and time.monotonic() < retry:
                continue  # until the pictures are right again, or it is time for another connection
            retry = time.monotonic() + _RETRY_S
            if not isinstance(message, Lost):  # it hangs, or gives what is of no use
                self._reader.kill()
            self._reconnect(fresh=wrong is None)

    def _number(self) -> int:
        self._index += 1
        return self._index - 1

    def _name(self) -> str:
        return f"frame {self._index - 1}"

    def _why(self, message: Message | None) -> str:
        if not isinstance(message, Lost):
            return f"no frame for {self._silence_s:g} s"
        if not isinstance(message.error, SourceError):
            raise message.error
        return str(message.error)

    def _reconnect(self, *, fresh: bool) -> None:
        """Connect again and again, with growing pauses, until it succeeds or the source is closed.

        Args:
            fresh: Whether what comes then is looked at as if nothing had come before; a frozen picture must change first.
        """
        while not self._closed.wait(self._pause_s * random.uniform(0.5, 1)):
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            try:
                self._reader.open()
            except SourceError:  # no process can be had now
                continue
            message = self._reader.take(self._open_timeout_s + _GRACE_S)
            if isinstance(message, Opened):
                if fresh:
                    self._signs.interrupted(time.monotonic_ns())
                return
            if message is None:
                self._reader.kill()

    def close(self) -> None:
        """See `Source.close`; returns at once, and the process ends by itself."""
        self._closed.set()
        self._reader.stop()
