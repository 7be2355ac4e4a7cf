"""The interface of a sink, and the thread that writes to it, so that a slow sink does not delay inspection."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lrdan_edge.runtime.histogram import LatencyHistogram
from lrdan_edge.runtime.sources.base import CapturedFrame
from lrdan_edge.runtime.verdict import Verdict


@dataclass(frozen=True, slots=True)
class InspectedFrame:
    """A frame with its verdict.

    Attributes:
        frame: The frame as captured.
        verdict: Its verdict.
        latency_ms: Time from capture to verdict.
        source_number: Number of its source in the loop, from 0.
        decided_ns: ``time.monotonic_ns`` at the verdict.
    """

    frame: CapturedFrame
    verdict: Verdict
    latency_ms: float
    source_number: int = 0
    decided_ns: int = 0


class Sink(Protocol):
    """A receiver of frames and their verdicts.

    Attributes:
        name: Its name, for messages.
        pictures: Whether it uses the frame's image and the verdict's heatmap; if not, its queue does not hold them.
    """

    name: str
    pictures: bool

    def write(self, inspected: InspectedFrame) -> None:
        """Write one frame; may raise OSError."""
        ...

    def close(self) -> None:
        """Close the sink; may raise OSError."""
        ...


class SinkWorker:
    """Writes frames to one sink from a separate thread.

    A sink that fails receives no more frames; inspection continues.

    Attributes:
        problems: Why the sink failed; empty while it works.
        lost: Number of frames that it did not receive because it had failed, by the number of their source.
        latency: Time from verdict until the sink has written the frame.
    """

    def __init__(self, sink: Sink, *, size: int | None = None) -> None:
        """Start the thread.

        Args:
            sink: The sink; `close` closes it.
            size: Most frames that wait; None: 16 with images, or 256 without.
        """
        self.name = sink.name
        self.problems: list[str] = []
        self.lost: Counter[int] = Counter()
        self.latency = LatencyHistogram()
        self._sink = sink
        self._size = size or (16 if sink.pictures else 256)
        self._waiting: deque[InspectedFrame] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._deliver, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def put_all(self, frames: Sequence[tuple[InspectedFrame, bool]]) -> list[InspectedFrame]:
        """Queue frames for the sink.

        Args:
            frames: Each frame, and whether to wait for room in a full queue (recorded sources) or to drop the frame (live
                sources).

        Returns:
            The frames that were dropped because the sink is too slow.
        """
        dropped: list[InspectedFrame] = []
        with self._changed:
            for inspected, wait in frames:
                while wait and len(self._waiting) >= self._size and not self.problems:
                    self._changed.wait()
                if self.problems:
                    self.lost[inspected.source_number] += 1
                    continue
                if len(self._waiting) >= self._size:
                    dropped.append(inspected)
                    continue
                if not self._waiting:
                    self._changed.notify_all()
                self._waiting.append(inspected if self._sink.pictures else _without_pictures(inspected))
        return dropped

    def close(self) -> None:
        """Write the waiting frames, then close the sink."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _deliver(self) -> None:
        while frames := self._take():
            for inspected in frames:
                if not self.problems:
                    self._guard(lambda frame=inspected: self._sink.write(frame))  # type: ignore[misc]
                if self.problems:
                    with self._changed:
                        self.lost[inspected.source_number] += 1
                else:
                    self.latency.record(time.monotonic_ns() - inspected.decided_ns)
        self._guard(self._sink.close)

    def _take(self) -> list[InspectedFrame]:
        """The next frames, at most half of the queue's size, so that the queue gets room before all are written; none at the end."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            frames = [self._waiting.popleft() for _ in range(min(len(self._waiting), max(1, self._size // 2)))]
            self._changed.notify_all()
            return frames

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._fail(f"{error.strerror or error} ({error.filename or 'no file'})")
        except Exception as error:  # a bug must not end the thread: the loop would wait for it forever
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, why: str) -> None:
        with self._changed:
            self.problems.append(f"sink {self.name} stopped: {why}")
            self._changed.notify_all()


def without_image(frame: CapturedFrame) -> CapturedFrame:
    """The frame without its image. Lists the fields, because `dataclasses.replace` takes three times as long."""
    if frame.image is None:
        return frame
    return CapturedFrame(
        None, frame.index, frame.capture_ns, frame.source, frame.name, frame.wall_time, frame.fault, frame.error
    )


def _without_pictures(inspected: InspectedFrame) -> InspectedFrame:
    frame, verdict = without_image(inspected.frame), inspected.verdict
    if verdict.heatmap is not None:
        verdict = replace(verdict, heatmap=None)
    return InspectedFrame(frame, verdict, inspected.latency_ms, inspected.source_number, inspected.decided_ns)
