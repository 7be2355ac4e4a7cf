"""The inspection loop: capture, infer, decide, deliver, each with a bounded queue between.

    source ──▶ frame queue ──batch──▶ inspector ──▶ one delivery queue per sink ──▶ sink

Capture and every sink have a thread of their own; inference stays in the caller's.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.sinks.base import Delivery, InspectedFrame, Sink
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.verdict import Verdict

Policy = Literal["latest", "every"]

_WINDOW = 4096


class FrameQueue:
    """Frames on their way from capture to inference, at most `size` of them.

    ``latest`` drops the oldest frame when full, and counts it: a live view never drifts behind. ``every`` makes the source
    wait: nothing is dropped.
    """

    def __init__(self, size: int, policy: Policy) -> None:
        """Make an empty queue."""
        self._frames: deque[CapturedFrame] = deque()
        self._changed = threading.Condition()
        self._size = size
        self._policy = policy
        self._ended = False
        self.dropped = 0

    def put(self, frame: CapturedFrame) -> None:
        """Add a frame; waits for room under ``every``. After `end`, frames are discarded."""
        with self._changed:
            if self._policy == "every":
                self._changed.wait_for(lambda: len(self._frames) < self._size or self._ended)
            if self._ended:
                return
            if len(self._frames) >= self._size:
                self._frames.popleft()
                self.dropped += 1
            self._frames.append(frame)
            self._changed.notify_all()

    def end(self) -> None:
        """No frame will follow; those inside can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def take(self, most: int) -> list[CapturedFrame]:
        """The next frames, 1 to `most`, without waiting for a full batch; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._ended)
            batch = [self._frames.popleft() for _ in range(min(most, len(self._frames)))]
            self._changed.notify_all()
            return batch


@dataclass
class Progress:
    """How the loop is doing; read by the live line and returned at the end.

    Attributes:
        outcomes: Frames by outcome.
        dropped: Frames dropped because a newer one was waiting (``latest``).
        undelivered: Frames a slow sink did not get (``latest``).
        last: The last frames' verdicts, newest last.
        latency_ms: From capture to verdict, the last 4096 frames.
        infer_ms: A batch's inference, the last 4096 batches.
        problems: What went wrong, in the order it happened; the same line once.
        seconds: Since the loop started.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    undelivered: int = 0
    last: deque[tuple[str, Verdict]] = field(default_factory=lambda: deque(maxlen=5))
    latency_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    infer_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))

    @property
    def frames(self) -> int:
        """Frames judged."""
        return self.outcomes.total()

    @property
    def frames_per_s(self) -> float:
        """Over the last 64 batches."""
        if len(self._recent) < 2:
            return self.frames / self.seconds if self.seconds else 0.0
        (first, before), (last, after) = self._recent[0], self._recent[-1]
        return (after - before) / max(last - first, 1e-9)

    def latency_percentiles(self) -> dict[str, float]:
        """p50, p95, p99 and max of `latency_ms`."""
        values = np.array(self.latency_ms or [0.0])
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(values.max())}

    def note(self, problem: str) -> None:
        """Remember a problem once; at most 100, so that months of trouble stay bounded."""
        if problem not in self.problems and len(self.problems) < 100:
            self.problems.append(problem)


class InspectionLoop:
    """Runs one source through one inspector into sinks."""

    def __init__(
        self,
        inspector: Inspector,
        source: Source,
        sinks: list[Sink],
        *,
        policy: Policy | None = None,
        batch: int = 1,
        heatmaps: bool = True,
    ) -> None:
        """Connect the parts.

        Args:
            inspector: Judges the frames.
            source: Delivers them; closed by the loop.
            sinks: Get every judged frame; closed by the loop.
            policy: None: ``latest`` for live sources, ``every`` for recorded ones.
            batch: Most frames judged at once; a live source's frame never waits for others.
            heatmaps: Whether a sink wants them.
        """
        self._inspector = inspector
        self._source = source
        self._policy: Policy = policy or ("latest" if source.live else "every")
        self._batch = batch
        self._heatmaps = heatmaps
        self._queue = FrameQueue(max(batch, 1 if self._policy == "latest" else 8), self._policy)
        self._deliveries = [Delivery(sink, wait=self._policy == "every") for sink in sinks]
        self._capture_error: Exception | None = None
        self._stopping = threading.Event()
        self.progress = Progress()

    def run(self, report: Callable[[Progress], None] | None = None) -> Progress:
        """Inspect until the source ends or `stop` is called, then drain.

        Args:
            report: Called after every batch.

        Raises:
            SourceError: The source could not go on; what it delivered before has been judged and delivered.
        """
        self._inspector.warm_up()
        capture = threading.Thread(target=self._capture, name="capture", daemon=True)
        started = time.monotonic()
        capture.start()
        try:
            while frames := self._queue.take(self._batch):
                self._judge(frames)
                self.progress.seconds = time.monotonic() - started
                if report:
                    report(self.progress)
        finally:
            self._queue.end()
            self._source.close()
            capture.join(timeout=10)
            for delivery in self._deliveries:
                delivery.close()
                for problem in delivery.problems:
                    self.progress.note(problem)
        self.progress.seconds = time.monotonic() - started
        if self._capture_error is not None:
            raise self._capture_error
        return self.progress

    def stop(self) -> None:
        """End soon, from any thread or signal handler: no new frames, those captured are still judged and delivered."""
        self._stopping.set()
        threading.Thread(target=self._end, name="stop", daemon=True).start()  # locks do not belong into signal handlers

    def _end(self) -> None:
        self._queue.end()
        self._source.close()

    def _capture(self) -> None:
        try:
            for frame in self._source:
                self._queue.put(frame)
                if self._stopping.is_set():
                    break
        except Exception as error:  # raised again by `run`: a source that breaks must not look like one that ended
            self._capture_error = error
        finally:
            self._queue.end()

    def _judge(self, frames: list[CapturedFrame]) -> None:
        progress = self.progress
        begun = time.monotonic_ns()
        verdicts = self._inspector.inspect([frame.image for frame in frames], heatmaps=self._heatmaps)
        done = time.monotonic_ns()
        progress.infer_ms.append((done - begun) / 1e6)
        for frame, said in zip(frames, verdicts, strict=True):
            verdict = self._inspector.judge.fault(frame.fault) if frame.fault else said
            latency_ms = (done - frame.capture_ns) / 1e6
            progress.outcomes[verdict.outcome] += 1
            progress.last.append((frame.name, verdict))
            progress.latency_ms.append(latency_ms)
            if verdict.fault:
                progress.note(f"{frame.name}: {verdict.fault}" if frame.name not in verdict.fault else verdict.fault)
            for delivery in self._deliveries:
                delivery.put(InspectedFrame(frame, verdict, latency_ms))
        progress.dropped = self._queue.dropped
        progress.undelivered = sum(delivery.dropped for delivery in self._deliveries)
        progress._recent.append((done / 1e9, progress.frames))
