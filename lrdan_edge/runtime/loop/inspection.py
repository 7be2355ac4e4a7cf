"""The inspection loop: capture, resize, infer, decide and deliver, with bounded queues in between.

    source ─▶ resize ─▶ queue ┐                ┌─▶ queue ─▶ sink
    source ─▶ resize ─▶ queue ┼─batch─▶ infer ─┤ decide
    source ─▶ resize ─▶ queue ┘                └─▶ queue ─▶ sink

Each source has one or two threads (see `lrdan_edge.runtime.loop.capture_stage`), inference has one or more, each sink has one. The
caller's thread decides. Decoding, resizing and inference release the GIL, so they overlap.
"""

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
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.loop.capture_stage import CaptureStage
from lrdan_edge.runtime.loop.frame_queue import FrameQueue, Policy, ReadyFrame
from lrdan_edge.runtime.loop.progress import Progress, SourceProgress
from lrdan_edge.runtime.loop.reorder_buffer import ReorderBuffer
from lrdan_edge.runtime.rule import Rule
from lrdan_edge.runtime.rule_filter import RuleFilter
from lrdan_edge.runtime.sinks.base import InspectedFrame, Sink, SinkWorker
from lrdan_edge.runtime.sources.base import Source
from lrdan_edge.runtime.verdict import Verdict

_WAITING_FRAMES = 8
_CLOSE_S = 10.0
BACKEND_GONE_S = 30.0  # a backend that only fails for this long ends the run


@dataclass(frozen=True, slots=True)
class _Scored:
    """A batch after inference: the scores of its frames with an image, or why there are no scores."""

    frames: list[ReadyFrame]
    detections: Detections | None
    failure: str | None
    taken_ns: int
    scored_ns: int


class InspectionLoop:
    """Inspects the frames of sources and delivers them with their verdicts to sinks.

    Attributes:
        progress: Counts, latencies and problems; the same object during and after `run`.
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
            inspector: Inspects the frames.
            sources: One source or several; the loop closes them.
            sinks: Receive every inspected frame, those of one source in order; the loop closes them.
            policy: The action when frames arrive faster than they are inspected: ``latest`` drops the oldest, ``every`` makes the
                source wait; None: ``latest`` for live sources, ``every`` for recorded ones.
            batch: Most frames per inference call, over all sources; no frame waits for a full batch.
            heatmaps: Whether a sink uses heatmaps.
            rule: When a part is rejected; None: whenever a frame's score exceeds the threshold.
            in_flight: Number of batches in the backend at the same time; None: as many as it overlaps.

        Raises:
            DataError: There is no source, or the rule cannot be applied to this bundle.
        """
        self._inspector = inspector
        self._sources = list(sources) if isinstance(sources, Sequence) else [sources]
        if not self._sources:
            raise DataError("there is no source to inspect", "give one")
        self._policies: list[Policy] = [policy or ("latest" if source.live else "every") for source in self._sources]
        self._batch = batch
        self._heatmaps = heatmaps or (rule is not None and rule.needs_heatmap)
        self._in_flight = in_flight or inspector.backend.spec.in_flight
        self._frame_queue = FrameQueue([(self._queue_size(one), one) for one in self._policies])
        self._scored: ReorderBuffer[_Scored] = ReorderBuffer(self._in_flight + 1, self._in_flight)
        self._rule_filters = [RuleFilter.of(inspector, rule) for _ in self._sources] if rule else None
        self._sinks = list(sinks)
        self._sink_workers: list[SinkWorker] = []
        self._started = False
        self._bug: Exception | None = None
        self._failing_since_ns: int | None = None
        self._stop_requests: SimpleQueue[None] = SimpleQueue()
        self._stopping = threading.Event()
        self.progress = Progress([SourceProgress(source.uri, source.live) for source in self._sources])
        self._capture_stages = [
            CaptureStage(
                number,
                source,
                inspector,
                self._frame_queue,
                self.progress.sources[number],
                self._stopping,
                policy=self._policies[number],
                keeps_images=any(sink.pictures for sink in self._sinks),
            )
            for number, source in enumerate(self._sources)
        ]

    def _queue_size(self, policy: Policy) -> int:
        """Frames that may wait per source: for one batch of a live source, for two of a recorded one."""
        least, frames = (1, self._batch) if policy == "latest" else (2, max(_WAITING_FRAMES, 2 * self._batch))
        return max(least, -(-frames // len(self._sources)))

    def run(self, report: Callable[[Progress], None] | None = None) -> Progress:
        """Inspect until all sources have ended or `stop` is called. A loop runs only once.

        Args:
            report: Called after every batch, on this thread.

        Raises:
            SourceError: One or more sources failed; all frames that arrived have been inspected and delivered. If only one source
                failed, this is its error, and the type says why.
            BackendError: Every call of the backend has failed for `BACKEND_GONE_S` seconds.
        """
        if self._started:
            raise RuntimeError("this loop has already run: make a new one")
        self._started = True
        self._sink_workers = [SinkWorker(sink) for sink in self._sinks]
        for worker in self._sink_workers:
            self.progress.latency[f"deliver {worker.name}"] = worker.latency
        threads = [threading.Thread(target=self._end_sources, name="stop", daemon=True)]
        threads[0].start()
        threads += [threading.Thread(target=self._infer, name=f"infer {n}", daemon=True) for n in range(self._in_flight)]
        started = time.monotonic()
        try:
            self._inspector.warm_up(self._batch)
            started = time.monotonic()
            for capture in self._capture_stages:
                capture.start()
            for thread in threads[1:]:
                thread.start()
            while (scored := self._scored.get()) is not None:
                self._decide(scored)
                self._require_working_backend(scored)
                self.progress.seconds = time.monotonic() - started
                if report:
                    report(self.progress)
        finally:
            self._finish(threads)
            self.progress.seconds = time.monotonic() - started
        self._raise_failures()
        return self.progress

    def _require_working_backend(self, scored: _Scored) -> None:
        """End the run if the backend keeps failing: only a new process can use a GPU again after it was lost."""
        if scored.detections is not None:
            self._failing_since_ns = None
        elif scored.failure is not None:
            self._failing_since_ns = self._failing_since_ns or scored.taken_ns
            failing_s = (scored.scored_ns - self._failing_since_ns) / 1e9
            if failing_s >= BACKEND_GONE_S:
                problem = f"the backend has failed for {failing_s:.0f} s without a pause ({scored.failure})"
                raise BackendError(problem, "start again")

    def stop(self) -> None:
        """End the run: capture no new frames; inspect and deliver those captured. Callable from any thread or signal handler."""
        self._stop_requests.put(None)  # needs no lock that the signal handler's thread may hold; `_end_sources` does the rest

    def _end_sources(self) -> None:
        """Wait for `stop`, then close the sources."""
        self._stop_requests.get()
        self._stopping.set()
        self._frame_queue.end()
        for source in self._sources:
            source.close()

    def _finish(self, threads: list[threading.Thread]) -> None:
        self._scored.abandon()
        self.stop()
        deadline = time.monotonic() + _CLOSE_S
        for capture in self._capture_stages:
            capture.join(max(0.0, deadline - time.monotonic()))
        for thread in threads:
            if thread.ident is not None:  # None: it was never started
                thread.join(max(0.0, deadline - time.monotonic()))
        for worker in self._sink_workers:
            worker.close()
        self._note_failed_sinks()
        now = time.monotonic_ns()
        for source in self.progress.sources:
            source.finish(now)

    def _note_failed_sinks(self) -> None:
        """Record failed sinks, and how many frames of each source they did not receive."""
        failed = [worker for worker in self._sink_workers if worker.problems]
        for worker in failed:
            self.progress.failed_sinks.add(worker.name)
            for problem in worker.problems:
                self.progress.note(problem, always=True)
        if failed:
            for number, source in enumerate(self.progress.sources):
                source.lost_by_sink = sum(worker.lost[number] for worker in failed)

    def _raise_failures(self) -> None:
        """Raise the first bug, or else one error for all failed sources."""
        if self._bug is not None:
            raise self._bug
        errors = [source.error for source in self.progress.sources if source.error is not None]
        for error in errors:
            if len(errors) == 1 or not isinstance(error, LrdanError):
                raise error
        if errors:
            reasons = "; ".join(map(str, errors))
            raise SourceError(f"{len(errors)} of {len(self._sources)} sources failed: {reasons}")

    def _infer(self) -> None:
        """Run the inference thread: take batches from the frame queue, and pass scores to the caller's thread."""
        buffer = np.empty((self._batch, *self._inspector.backend.spec.frame_shape), np.uint8)
        try:
            while True:
                number, frames = self._frame_queue.take(self._batch)
                if not frames:
                    break
                self._scored.put(number, self._score(frames, buffer))
        except Exception as error:  # a bug: `run` raises it
            self._bug = error
            self._scored.abandon()
        finally:
            self._scored.leave()

    def _score(self, frames: list[ReadyFrame], buffer: Frame) -> _Scored:
        taken = time.monotonic_ns()
        images = [ready.resized for ready in frames if ready.resized is not None]
        detections, failure = None, None
        if images:
            batch = images[0][np.newaxis] if len(images) == 1 else np.stack(images, out=buffer[: len(images)])
            try:
                detections = self._inspector.backend.infer(batch, heatmap=self._heatmaps)
            except LrdanError as error:
                failure = str(error)
        return _Scored(frames, detections, failure, taken, time.monotonic_ns())

    def _decide(self, scored: _Scored) -> None:
        """Make the verdicts of a batch, count and deliver them."""
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
                problem = f"{frame.name}: {verdict.fault}" if frame.name not in verdict.fault else verdict.fault
                progress.note(problem, key=verdict.fault)
            one = InspectedFrame(frame, verdict, total / 1e6, ready.source, now)
            inspected.append((one, self._policies[ready.source] == "every"))
        for worker in self._sink_workers:
            for dropped in worker.put_all(inspected):
                progress.sources[dropped.source_number].undelivered += 1
        self._note_failed_sinks()
        for number in {ready.source for ready in scored.frames}:
            progress.sources[number].dropped = self._frame_queue.dropped(number)
        progress.count_batch(time.monotonic_ns(), len(inspected))

    def _verdicts(self, scored: _Scored) -> list[Verdict]:
        """One verdict per frame, in order. Frames without an image, and all frames of a failed batch, are faults."""
        thresholder, detections = self._inspector.thresholder, scored.detections
        scores = iter(() if detections is None else detections.score.tolist())
        heatmaps = iter(() if detections is None or detections.heatmap is None else detections.heatmap)
        verdicts = []
        for ready in scored.frames:
            if ready.resized is None:
                verdict = thresholder.fault(ready.fault or "the frame is missing")
            elif detections is None:
                verdict = thresholder.fault(scored.failure or "the backend gave no score")
            else:
                verdict = thresholder.verdict(next(scores, math.nan), next(heatmaps, None))
            if self._rule_filters:
                verdict = self._rule_filters[ready.source].apply(verdict, gap=ready.resized is None)
            verdicts.append(verdict)
        return verdicts
