"""Cameras and streams, which deliver frames as they arrive. A lost signal is a fault, and the source reconnects."""

import logging
import random
import threading
import time
from collections.abc import Iterator

from lrdan_edge.errors import SourceError, SourceFormatError, SourceLoginError, SourceTimeoutError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.sources.capture_process import CaptureJob
from lrdan_edge.runtime.sources.reader import FrameMessage, IncompleteMessage, LostMessage, Message, OpenedMessage, Reader
from lrdan_edge.runtime.sources.signal_monitor import Limits, SignalMonitor

# Opening an RTSP stream takes about 1.2 s. With pauses of at most 0.6 s, frames resume within 2 s after the stream is back.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 0.6
# The process counts as hung if it is silent this much longer than the capture's time-out (the lesser).
_GRACE_S, _GRACE = 0.5, 0.1
_log = logging.getLogger(__name__)
_REFUSED_S = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # waits after refused logins: cameras may lock the account
_RETRY_S = 10.0  # time between reconnects while images are black, frozen or of another size; reading goes on in between


class LiveSource(Source):
    """A camera or stream. It delivers a lost signal as one fault, and frames again after it has reconnected.

    A separate process reads it, and is killed if it hangs. No frame is dropped here: take frames as fast as they arrive, or they
    age in the buffers of camera and network.
    """

    live = True

    def __init__(
        self,
        uri: str,
        job: CaptureJob,
        *,
        open_timeout_s: float = 10,
        fps: float | None = None,
        limits: Limits | None = None,
        wait: bool = False,
    ) -> None:
        """Connect.

        Args:
            uri: The address, for display.
            job: The source that the process reads.
            open_timeout_s: Longest time for connecting.
            fps: The nominal frame rate instead of the announced one; 0 for unknown.
            limits: When arriving frames count as a lost signal.
            wait: Repeat the first connection too, until it succeeds or the source is closed.

        Raises:
            SourceError: The first connection failed and `wait` is False. The type says why.
        """
        self.uri = uri
        self._open_timeout_s, self._silence_s = open_timeout_s, job.read_timeout_s + min(_GRACE_S, _GRACE * job.read_timeout_s)
        self._closed = threading.Event()
        self._monitor = SignalMonitor(limits or Limits())
        self._said_blind = False
        self._index = 0
        self._pause_s = _FIRST_PAUSE_S
        self._refused, self._not_before_s = 0, 0.0
        self._not_yet: SourceError | None = None
        self._reader = Reader(job)
        try:
            opened = self._opened(self._reader.take(open_timeout_s + _GRACE_S))
        except SourceError as error:
            if not wait:
                self.close()
                raise
            self._not_yet, opened = error, OpenedMessage(fps=None, frames=None)
            self._note_login(error)
        except BaseException:
            self.close()
            raise
        self.fps = opened.fps if fps is None else (fps or None)
        self.frames = opened.frames

    @property
    def pid(self) -> int | None:
        """The ID of the process that reads, or None while there is no process."""
        return self._reader.pid

    def _opened(self, message: Message | None) -> OpenedMessage:
        """The first message; raises the error if connecting failed."""
        if isinstance(message, OpenedMessage):
            return message
        if isinstance(message, LostMessage):
            raise message.error
        problem = f"{self.uri} does not answer within {self._open_timeout_s:g} s"
        raise SourceTimeoutError(problem, "check the address and the network")

    def __iter__(self) -> Iterator[CapturedFrame]:
        """Yield the frames; see `Source`."""
        delivering, retry = True, 0.0
        if self._not_yet is not None:
            error, self._not_yet = self._not_yet, None
            yield self._fault("no signal yet", error)
            self._reader.kill()
            self._reconnect(fresh=True)
        while not self._closed.is_set():
            message = self._reader.take(self._silence_s)
            if self._closed.is_set():
                return
            if isinstance(message, OpenedMessage):
                continue
            if isinstance(message, IncompleteMessage):
                yield self._incomplete(message.problem)
                continue
            useless = self._monitor.check(message.image, message.capture_ns) if isinstance(message, FrameMessage) else None
            if isinstance(message, FrameMessage) and useless is None:
                delivering, retry, self._pause_s, self._refused = True, 0.0, _FIRST_PAUSE_S, 0
                self._say_if_blind()
                index = self._next_index()
                yield CapturedFrame.of(message.image, index, self.uri, f"frame {index}", message.capture_ns)
                continue
            if delivering:
                delivering = False
                yield self._fault("signal lost", useless or self._loss(message))
            if useless and time.monotonic() < retry:
                continue  # until the images are valid again, or the next reconnect is due
            retry = time.monotonic() + _RETRY_S
            if isinstance(message, LostMessage):
                self._note_login(message.error)  # the process may have connected again by itself
            else:  # it hangs, or delivers useless images
                self._reader.kill()
            self._reconnect(fresh=useless is None)

    def _say_if_blind(self) -> None:
        if self._said_blind:
            return
        if why := self._monitor.blind:
            _log.warning("%s: a frozen image is noticed only if it is identical bit by bit: %s", self.uri, why)
        elif why := self._monitor.unreliable:
            _log.warning("%s: a frozen image may be noticed late or not at all: %s (raise its bit rate)", self.uri, why)
        self._said_blind = why is not None

    def _next_index(self) -> int:
        self._index += 1
        return self._index - 1

    def _fault(self, what: str, error: SourceError) -> CapturedFrame:
        index = self._next_index()
        # With its time, every loss is another text: a list of distinct problems shows each.
        fault = f"{self.uri}: {what} ({error}); connecting again since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        _log.info("%s", fault)
        return CapturedFrame.missing(fault, index, self.uri, f"frame {index}", error)

    def _incomplete(self, problem: str) -> CapturedFrame:
        index = self._next_index()
        error = SourceFormatError(problem, "check cable, network and camera")
        return CapturedFrame.missing(f"{self.uri}: {error}", index, self.uri, f"frame {index}", error)

    def _loss(self, message: Message | None) -> SourceError:
        """The error that explains a lost signal; raises the error if it is a bug."""
        if not isinstance(message, LostMessage):
            return SourceTimeoutError(f"no frame for {self._silence_s:g} s")
        if not isinstance(message.error, SourceError):
            raise message.error
        return message.error

    def _reconnect(self, *, fresh: bool) -> None:
        """Reconnect, with growing pauses; `fresh` restarts the signal monitor (not after a frozen image, which must change first)."""
        while not self._closed.wait(self._pause()):
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            try:
                self._reader.open()
            except SourceError:  # the process cannot be started at the moment
                continue
            message = self._reader.take(self._open_timeout_s + _GRACE_S)
            if isinstance(message, OpenedMessage):
                if fresh:
                    self._monitor.interrupted(time.monotonic_ns())
                else:
                    self._monitor.reconnected()
                return
            if message is None:
                self._reader.kill()
            elif isinstance(message, LostMessage):
                self._note_login(message.error)

    def _pause(self) -> float:
        return max(self._pause_s * random.uniform(0.5, 1), self._not_before_s - time.monotonic())

    def _note_login(self, error: Exception) -> None:
        """Wait longer after each refused login, and say so."""
        if not isinstance(error, SourceLoginError):
            return
        wait_s = _REFUSED_S[min(self._refused, len(_REFUSED_S) - 1)]
        self._refused, self._not_before_s = self._refused + 1, time.monotonic() + wait_s
        at = time.strftime("%H:%M:%S", time.localtime(time.time() + wait_s))
        _log.warning("%s; next try at %s, in %g s", error, at, wait_s)

    def close(self) -> None:
        """See `Source.close`; returns at once, and the process ends by itself."""
        self._closed.set()
        self._reader.stop()
