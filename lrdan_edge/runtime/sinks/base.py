"""What a sink is, and the thread that keeps a slow one from holding up inspection."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lrdan_edge.runtime.sources.base import CapturedFrame
from lrdan_edge.runtime.verdict import Verdict


@dataclass(frozen=True, slots=True)
class InspectedFrame:
    """A frame with its verdict, and the time from capture to verdict in milliseconds."""

    frame: CapturedFrame
    verdict: Verdict
    latency_ms: float


class Sink(Protocol):
    """Where verdicts go."""

    name: str

    def write(self, inspected: InspectedFrame) -> None:
        """Take one frame; may raise OSError."""
        ...

    def close(self) -> None:
        """Finish; may raise OSError."""
        ...


class Delivery:
    """Hands frames to one sink from a thread of its own.

    A sink that fails is not asked again; inspection goes on, and the problem is kept for the report.
    """

    def __init__(self, sink: Sink, *, wait: bool, size: int = 64) -> None:
        """Start delivering.

        Args:
            sink: The sink; closed with the delivery.
            wait: Whether a full queue makes the loop wait (recorded sources) or drops the frame and counts it (live).
            size: Frames that may wait.
        """
        self._sink = sink
        self._wait = wait
        self._queue: queue.Queue[InspectedFrame | None] = queue.Queue(size)
        self.dropped = 0
        self.problems: list[str] = []
        self._thread = threading.Thread(target=self._deliver, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def put(self, inspected: InspectedFrame) -> None:
        """Queue a frame for the sink."""
        if self.problems:
            self.dropped += 1
            return
        try:
            self._queue.put(inspected, block=self._wait)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Deliver what is queued, then close the sink."""
        self._queue.put(None)
        self._thread.join()

    def _deliver(self) -> None:
        while (inspected := self._queue.get()) is not None:
            if not self.problems:
                self._guard(lambda frame=inspected: self._sink.write(frame))  # type: ignore[misc]
        self._guard(self._sink.close)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self.problems.append(f"sink {self._sink.name} stopped: {error.strerror or error} ({error.filename or 'no file'})")
        except Exception as error:  # a broken sink must not end its thread: the loop would wait for it for ever
            self.problems.append(f"sink {self._sink.name} stopped: {type(error).__name__}: {error}")
