"""What a sink is, and the thread that keeps a slow one from holding up inspection."""

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
        frame: As the source delivered it.
        verdict: What is said of it.
        latency_ms: From capture to verdict.
        source_number: Which of the loop's sources it came from, from 0.
        decided_ns: ``time.monotonic_ns`` when the verdict stood.
    """

    frame: CapturedFrame
    verdict: Verdict
    latency_ms: float
    source_number: int = 0
    decided_ns: int = 0


class Sink(Protocol):
    """Where verdicts go.

    Attributes:
        name: Its name, for messages.
        pictures: Whether it looks at the frame's image and the verdict's heatmap; where not, they do not wait in its queue.
    """

    name: str
    pictures: bool

    def write(self, inspected: InspectedFrame) -> None:
        """Take one frame; may raise OSError."""
        ...

    def close(self) -> None:
        """Finish; may raise OSError."""
        ...


class Delivery:
    """Hands frames to one sink from a thread of its own.

    A sink that fails is not asked again; inspection goes on, and the problem is kept for the report.

    Attributes:
        problems: Why the sink stopped, if it did.
        lost: Frames that it did not get because it had stopped, by the number of their source.
        latency: From verdict until the sink had it.
    """

    def __init__(self, sink: Sink, *, size: int | None = None) -> None:
        """Start delivering.

        Args:
            sink: The sink; closed with the delivery.
            size: Frames that may wait; None: 16 with their pictures, or 256 without.
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
            frames: Each with whether a full queue makes the caller wait (recorded sources) or drops it (live ones).

        Returns:
            Those that were dropped because the sink is too slow.
        """
        refused: list[InspectedFrame] = []
        with self._changed:
            for inspected, wait in frames:
                while wait and len(self._waiting) >= self._size and not self.problems:
                    self._changed.wait()
                if self.problems:
                    self.lost[inspected.source_number] += 1
                    continue
                if len(self._waiting) >= self._size:
                    refused.append(inspected)
                    continue
                if not self._waiting:
                    self._changed.notify_all()
                self._waiting.append(inspected if self._sink.pictures else _without_pictures(inspected))
        return refused

    def close(self) -> None:
        """Deliver what is queued, then close the sink."""
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
        """Half of what may wait at most, so that there is room again before the sink has written it all; none at the end."""
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
            self._stopped(f"{error.strerror or error} ({error.filename or 'no file'})")
        except Exception as error:  # a broken sink must not end its thread: the loop would wait for it for ever
            self._stopped(f"{type(error).__name__}: {error}")

    def _stopped(self, why: str) -> None:
        with self._changed:
            self.problems.append(f"sink {self.name} stopped: {why}")
            self._changed.notify_all()


def without_image(frame: CapturedFrame) -> CapturedFrame:
    """The frame without its image; spelt out, for `dataclasses.replace` costs three times as much, on every frame."""
    if frame.image is None:
        return frame
    return CapturedFrame(None, frame.index, frame.capture_ns, frame.source, frame.name, frame.wall_time, frame.fault)


def _without_pictures(inspected: InspectedFrame) -> InspectedFrame:
    frame, verdict = without_image(inspected.frame), inspected.verdict
    if verdict.heatmap is not None:
        verdict = replace(verdict, heatmap=None)
    return InspectedFrame(frame, verdict, inspected.latency_ms, inspected.source_number, inspected.decided_ns)
