"""The inspection loop: capture, batch, infer, decide, deliver, each with a bounded queue between.

    source ─▶ fit ─▶ lane ┐                ┌─▶ delivery queue ─▶ sink
    source ─▶ fit ─▶ lane ┼─batch─▶ infer ─┤ decide
    source ─▶ fit ─▶ lane ┘                └─▶ delivery queue ─▶ sink

Capture has a thread per source (and fitting another, see `lrdan_edge.runtime.loop.capture`), inference has one or more, every
sink has one; deciding stays in the caller's. Decoding, fitting and inference release the GIL, so they overlap.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from lrdan_edge.backends.base import Detections
from lrdan_edge.data.images import Frame
from lrdan_edge.errors import BackendError, DataError, LrdanError, SourceError
from lrdan_edge.runtime.decider import Decider
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.loop.capture import Capture
from lrdan_edge.runtime.loop.frame_queue import Intake, Policy, ReadyFrame
from lrdan_edge.runtime.loop.progress import Progress, SourceProgress
from lrdan_edge.runtime.loop.reorder_buffer import Handoff
from lrdan_edge.runtime.rule import Rule
from lrdan_edge.runtime.sinks.base import Delivery, InspectedFrame, Sink
from lrdan_edge.runtime.sources.base import Source
from lrdan_edge.runtime.verdict import Verdict

_WAITING_FRAMES = 8
_CLOSE_S = 10.0
BACKEND_GONE_S = 30.0  # so long of nothing but failures ends the run


@dataclass(frozen=True, slots=True)
class _Scored:
    """A batch after inference: scores of its frames that have an image, or why there are none."""

    frames: list[ReadyFrame]
    detections: Detections | None
    failure: str | None
    taken_ns: int
    scored_ns: int


class InspectionLoop:
    """Runs sources through one inspector into sinks.

    Attributes:
        progress: How it is doing; the same object during and after `run`.
    """

    def __init__(
        self,
        inspector: Inspector,
        sources: Source | Sequence[Source],
        sinks: Sequence[Sink] = (),
        *,
        policy: Policy | None = None,
        batch: int = 1,
        heatmaps: bool = True,
        rule: Rule | None = None,
        in_flight: int | None = None,
    ) -> None:
        """Connect the parts.

        Args:
            inspector: Judges the frames.
            sources: Deliver them, one source or several; closed by the loop.
            sinks: Get every judged frame, each source's in order; closed by the loop.
            policy: None: ``latest`` for live sources, ``every`` for recorded ones.
            batch: Most frames judged at once, over all sources; no frame waits for others.
            heatmaps: Whether a sink wants them.
            rule: When a part is rejected; None: whenever a frame's score exceeds the threshold.
            in_flight: How many batches are given to the backend at once; None: as many as it overlaps.

        Raises:
            DataError: No source, or the rule does not fit this bundle.
        """
        self._inspector = inspector
        self._sources = list(sources) if isinstance(sources, Sequence) else [sources]
        if not self._sources:
            raise DataError("there is no source to inspect: give one")
        self._policies: list[Policy] = [policy or ("latest" if source.live else "every") for source in self._sources]
        self._batch = batch
        self._heatmaps = heatmaps or (rule is not None and rule.needs_heatmap)
        self._in_flight = in_flight or inspector.backend.spec.in_flight
        self._intake = Intake([(self._lane_size(one), one) for one in self._policies])
        self._handoff: Handoff[_Scored] = Handoff(self._in_flight + 1, self._in_flight)
        self._deciders = [Decider.of(inspector, rule) for _ in self._sources] if rule else None
        self._sinks = list(sinks)
        self._deliveries: list[Delivery] = []
        self._started = False
        self._broken: Exception | None = None
        self._failing_since_ns: int | None = None
        self._stops: SimpleQueue[None] = SimpleQueue()
        self._stopping = threading.Event()
        self.progress = Progress([SourceProgress(source.uri, source.live) for source in self._sources])
        self._captures = [
            Capture(
                number,
                source,
                inspector,
                self._intake,
                self.progress.sources[number],
                self._stopping,
                policy=self._policies[number],
                keeps_images=any(sink.pictures for sink in self._sinks),
            )
            for number, source in enumerate(self._sources)
        ]

    def _lane_size(self, policy: Policy) -> int:
        """Live lanes hold their share of a batch; recorded ones enough to fill the next while one is inferred."""
        least, frames = (1, self._batch) if policy == "latest" else (2, max(_WAITING_FRAMES, 2 * self._batch))
        return max(least, -(-frames // len(self._sources)))

    def run(self, report: Callable[[Progress], None] | None = None) -> Progress:
        """Inspect until all sources end or `stop` is called, then drain. A loop runs once.

        Args:
            report: Called after every batch, on this thread.

        Raises:
            SourceError: Sources could not go on; what they and the others delivered has been judged and delivered.
            BackendError: The backend has failed for `BACKEND_GONE_S` without a pause.
        """
        if self._started:
            raise RuntimeError("this loop has run: make another")
        self._started = True
        self._deliveries = [Delivery(sink) for sink in self._sinks]
        for delivery in self._deliveries:
            self.progress.latency[f"deliver {delivery.name}"] = delivery.latency
        workers = [threading.Thread(target=self._end_sources, name="stop", daemon=True)]
        workers[0].start()
        workers += [threading.Thread(target=self._infer, name=f"infer {n}", daemon=True) for n in range(self._in_flight)]
        started = time.monotonic()
        try:
            self._inspector.warm_up(self._batch)
            started = time.monotonic()
            for capture in self._captures:
                capture.start()
            for worker in workers[1:]:
                worker.start()
            while (scored := self._handoff.get()) is not None:
                self._decide(scored)
                self._require_working_backend(scored)
                self.progress.seconds = time.monotonic() - started
                if report:
                    report(self.progress)
        finally:
            self._finish(workers)
            self.progress.seconds = time.monotonic() - started
        self._raise_failures()
        return self.progress

    def _require_working_backend(self, scored: _Scored) -> None:
        """Give up a backend that has failed for long: a GPU that is lost comes back to another process alone.

        Raises:
            BackendError: It has.
        """
        if scored.detections is not None:
            self._failing_since_ns = None
        elif scored.failure is not None:
            self._failing_since_ns = self._failing_since_ns or scored.taken_ns
            failing_s = (scored.scored_ns - self._failing_since_ns) / 1e9
            if failing_s >= BACKEND_GONE_S:
                raise BackendError(
                    f"the backend has failed for {failing_s:.0f} s without a pause ({scored.failure}): start again"
                )

    def stop(self) -> None:
        """End soon, from any thread or signal handler: no new frames, those captured are still judged and delivered."""
        self._stops.put(None)  # which takes no lock that a signal handler's own thread may hold; `_end_sources` does the rest

    def _end_sources(self) -> None:
        """The stop's thread."""
        self._stops.get()
        self._stopping.set()
        self._intake.end()
        for source in self._sources:
            source.close()

    def _finish(self, workers: list[threading.Thread]) -> None:
        self._handoff.abandon()
        self.stop()
        deadline = time.monotonic() + _CLOSE_S
        for capture in self._captures:
            capture.join(max(0.0, deadline - time.monotonic()))
        for worker in workers:
            if worker.ident is not None:  # else it was never started
                worker.join(max(0.0, deadline - time.monotonic()))
        for delivery in self._deliveries:
            delivery.close()
        self._note_lost()
        now = time.monotonic_ns()
        for source in self.progress.sources:
            source.finish(now)

    def _note_lost(self) -> None:
        """Sinks that stopped, and what each source lost by that."""
        stopped = [delivery for delivery in self._deliveries if delivery.problems]
        if not stopped:
            return
        for problem in itertools.chain.from_iterable(delivery.problems for delivery in stopped):
            self.progress.note(problem, grave=True)
        for number, source in enumerate(self.progress.sources):
            source.lost_by_sink = sum(delivery.lost[number] for delivery in stopped)

    def _raise_failures(self) -> None:
        """The first bug; else the sources that failed, in one error."""
        if self._broken is not None:
            raise self._broken
        errors = [source.error for source in self.progress.sources if source.error is not None]
        for error in errors:
            if len(errors) == 1 or not isinstance(error, LrdanError):
                raise error
        if errors:
            reasons = "; ".join(map(str, errors))
            raise SourceError(f"{len(errors)} of {len(self._sources)} sources failed: {reasons}")

    def _infer(self) -> None:
        """Inference's thread: batches from the lanes, scores to the caller's thread."""
        buffer = np.empty((self._batch, *self._inspector.backend.spec.frame_shape), np.uint8)
        try:
            while True:
                number, frames = self._intake.take(self._batch)
                if not frames:
                    break
                self._handoff.put(number, self._score(frames, buffer))
        except Exception as error:  # a bug: `run` raises it
            self._broken = error
            self._handoff.abandon()
        finally:
            self._handoff.leave()

    def _score(self, frames: list[ReadyFrame], buffer: Frame) -> _Scored:
        taken = time.monotonic_ns()
        images = [ready.fitted for ready in frames if ready.fitted is not None]
        detections, failure = None, None
        if images:
            batch = images[0][np.newaxis] if len(images) == 1 else np.stack(images, out=buffer[: len(images)])
            try:
                detections = self._inspector.backend.infer(batch, heatmap=self._heatmaps)
            except LrdanError as error:
                failure = str(error)
        return _Scored(frames, detections, failure, taken, time.monotonic_ns())

    def _decide(self, scored: _Scored) -> None:
        """Verdicts of a batch, counted and delivered."""
        progress, latency = self.progress, self.progress.latency
        verdicts = self._verdicts(scored)
        inspected: list[tuple[InspectedFrame, bool]] = []
        for ready, verdict in zip(scored.frames, verdicts, strict=True):
            frame, source = ready.frame, progress.sources[ready.source]
            now = time.monotonic_ns()
            total = now - frame.capture_ns
            latency["wait"].record(scored.taken_ns - frame.capture_ns)
            latency["infer"].record(scored.scored_ns - scored.taken_ns)
            if scored.detections is not None and scored.detections.device_ms is not None:
                latency["device"].record(round(scored.detections.device_ms * 1e6))
            latency["decide"].record(now - scored.scored_ns)
            latency["total"].record(total)
            source.latency.record(total)
            source.outcomes[verdict.outcome] += 1
            source.saw(frame.capture_ns, missing=ready.fault is not None)
            progress.last.append((frame.name, verdict))
            if verdict.own_outcome == "fault" and verdict.fault:
                source.faults += 1
                said = f"{frame.name}: {verdict.fault}" if frame.name not in verdict.fault else verdict.fault
                progress.note(said, about=verdict.fault)
            one = InspectedFrame(frame, verdict, total / 1e6, ready.source, now)
            inspected.append((one, self._policies[ready.source] == "every"))
        for delivery in self._deliveries:
            for refused in delivery.put_all(inspected):
                progress.sources[refused.source_number].undelivered += 1
        self._note_lost()
        for number in {ready.source for ready in scored.frames}:
            progress.sources[number].dropped = self._intake.dropped(number)
        progress.count_batch(time.monotonic_ns(), len(inspected))

    def _verdicts(self, scored: _Scored) -> list[Verdict]:
        """One verdict per frame, in order; a frame without an image, or a batch that failed, is a fault."""
        judge, detections = self._inspector.judge, scored.detections
        scores = iter(() if detections is None else detections.score.tolist())
        heatmaps = iter(() if detections is None or detections.heatmap is None else detections.heatmap)
        verdicts = []
        for ready in scored.frames:
            if ready.fitted is None:
                said = judge.fault(ready.fault or "the frame is missing")
            elif detections is None:
                said = judge.fault(scored.failure or "the backend gave no score")
            else:
                said = judge.judge(next(scores, math.nan), next(heatmaps, None))
            if self._deciders:
                said = self._deciders[ready.source].decide(said, gap=ready.fitted is None)
            verdicts.append(said)
        return verdicts
