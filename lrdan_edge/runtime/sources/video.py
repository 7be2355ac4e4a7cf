"""Video files, and recorded videos over HTTP: every frame in order, and a fault for each missing frame."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from lrdan_edge.errors import SourceAddressError, SourceFormatError, SourceRefusedError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.sources.connect import tunnel_to
from lrdan_edge.runtime.sources.containers import Kind, kind_of, matroska_is_truncated, mp4_has_index
from lrdan_edge.runtime.sources.native import VideoCapture, announced_fps, announced_frames, open_ffmpeg, quiet, read_frame
from lrdan_edge.runtime.sources.rate_limiter import RateLimiter
from lrdan_edge.runtime.sources.tls import Trust

# A packet that cannot be decoded fails one read; the next read continues after it. This many failures in a row mean the end.
_FAILED_READS = 8


class VideoSource(Source):
    """A recorded video. Frames that cannot be decoded, and an early end, are delivered as faults."""

    live = False

    def __init__(
        self,
        uri: str,
        target: str,
        *,
        path: Path | None = None,
        realtime: bool = False,
        rate: float | None = None,
        loop: bool = False,
        open_timeout_s: float = 10,
        read_timeout_s: float = 10,
        trust: Trust | None = None,
    ) -> None:
        """Open the video.

        Args:
            uri: The address, for display.
            target: The path or address for FFmpeg.
            path: The file; None for a video on a web server.
            realtime: Deliver frames at the video's frame rate instead of as fast as they are taken.
            rate: Deliver this many frames per second instead.
            loop: Start again at the end, until closed.
            open_timeout_s: Longest time for opening a video on a network.
            read_timeout_s: Longest time for one frame of a video on a network.
            trust: Which certificates of ``https://`` servers are accepted.

        Raises:
            SourceFormatError: The file is not a video, or cannot be decoded.
            SourceRefusedError: The file cannot be read.
            SourceCertificateError: The server's certificate is not valid.
        """
        self.uri = uri
        self._target, self._path = target, path
        self._realtime, self._rate, self._loop = realtime, rate, loop
        self._timeouts = (open_timeout_s, read_timeout_s)
        self._closed = threading.Event()
        self._using = threading.Lock()
        self._tunnel = None if path else tunnel_to(target, trust or Trust(), open_timeout_s)
        self.unverified = self._tunnel is not None and trust is not None and trust.insecure
        self._kind: Kind = _kind(path) if path else "other"
        try:
            self._capture: VideoCapture | None = self._open()
        except BaseException:
            if self._tunnel is not None:
                self._tunnel.close()
            raise
        self.fps = announced_fps(self._capture)
        self._announced = announced_frames(self._capture)
        self.frames = None if loop else self._announced

    def _open(self) -> VideoCapture:
        try:
            with quiet:
                target, options = (self._tunnel.address, self._tunnel.options) if self._tunnel else (self._target, "")
                capture = open_ffmpeg(target, *self._timeouts, options)
        except UnicodeError as error:
            raise SourceAddressError(f"{self.uri!r} is not valid text", "rename the file") from error
        if capture is None:
            if self._tunnel is not None and self._tunnel.problem is not None:
                raise self._tunnel.problem
            raise (
                _format_error(self._path) if self._path else SourceFormatError(f"{self.uri} is not a video that can be decoded")
            )
        return capture

    def __iter__(self) -> Iterator[CapturedFrame]:
        """Yield the frames; see `Source`."""
        index = 0
        while not self._closed.is_set():
            decoded = 0
            with quiet:
                for frame in self._once(index):
                    decoded += frame.image is not None
                    index += 1
                    yield frame
            if not self._loop or not decoded:
                return

    def _once(self, start: int) -> Iterator[CapturedFrame]:
        """Yield the frames once, numbered from `start`."""
        with self._using:
            capture, self._capture = self._capture, None
        capture = capture or self._open()
        limiter = RateLimiter(self._rate or (self.fps if self._realtime else None), self._closed)
        index, failed, decoded = start, 0, 0
        try:
            while failed < _FAILED_READS and not self._closed.is_set():
                asked = time.monotonic()
                image = read_frame(capture)
                if image is None and getattr(capture, "incomplete", None) is not None:  # a packet came, so this is not the end
                    for _ in range(failed + 1):
                        yield self._damaged(index, start)
                        index += 1
                    failed = 0
                    continue
                if image is None:
                    stalled = time.monotonic() - asked > self._timeouts[1] / 2
                    failed = _FAILED_READS if stalled else failed + 1
                    continue
                for _ in range(failed):
                    yield self._damaged(index, start)
                    index += 1
                failed = 0
                decoded += 1
                if not limiter.wait():
                    return
                yield CapturedFrame.of(image, index, self.uri, f"frame {index - start}")
                index += 1
        finally:
            capture.release()
        if not self._closed.is_set() and (fault := self._shortfall(decoded, index - start)):
            yield CapturedFrame.missing(fault, index, self.uri, f"frame {index - start}")

    def _damaged(self, index: int, start: int) -> CapturedFrame:
        damaged = f"{self.uri}: frame {index - start} cannot be decoded: record or copy the video again"
        return CapturedFrame.missing(damaged, index, self.uri, f"frame {index - start}")

    def _shortfall(self, decoded: int, delivered: int) -> str | None:
        """The fault for frames missing at the end, or None; frames already delivered as faults do not count again."""
        announced = self._announced or 0
        if decoded == 0:
            of = f" of {announced}" if announced else ""
            return f"{self.uri}: video ends early: 0{of} frames decoded: record or copy it again"
        # MP4 and AVI count their frames. Others announce a duration, which may be that of a longer audio track.
        exact = self._kind in ("mp4", "avi") or (self._kind == "matroska" and self._path and matroska_is_truncated(self._path))
        if announced - delivered <= (0 if exact else max(2, announced // 50)):
            return None
        return f"{self.uri}: video ends early: {decoded} of {announced} frames decoded: record or copy it again"

    def close(self) -> None:
        """See `Source.close`; the iterator releases the file after its current read."""
        self._closed.set()
        with self._using:
            capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()
        if self._tunnel is not None:
            self._tunnel.close()


def _kind(path: Path) -> Kind:
    try:
        return kind_of(path)
    except OSError as error:
        raise SourceRefusedError(f"{path} cannot be read ({error.strerror})", "check its permissions") from error


def _format_error(path: Path) -> SourceFormatError:
    """Why FFmpeg cannot open a file that exists."""
    size = path.stat().st_size
    if size == 0:
        return SourceFormatError(f"{path} is empty (0 bytes)", "record or copy it again")
    if kind_of(path) == "mp4" and not mp4_has_index(path):
        return SourceFormatError(f"{path} has no index (moov): it is truncated ({size} bytes)", "record or copy it again")
    fix = "check that it plays elsewhere, or convert it to MP4 or AVI"
    return SourceFormatError(f"{path} is not a video that can be decoded ({size} bytes)", fix)
