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
from collections import Counter
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from lrdan_edge.errors import BackendError, DataError, HungBackendError, LrdanError, SinkError, SourceError
from lrdan_edge.runtime.inspector import Inspector
from lrdan_edge.runtime.loop.capture_stage import CaptureStage
from lrdan_edge.runtime.loop.frame_queue import FrameQueue, Policy
from lrdan_edge.runtime.loop.inference import InferenceStage, Scored
from lrdan_edge.runtime.loop.progress import MOST_NAMED, Progress, SourceProgress
from lrdan_edge.runtime.loop.watchdog import DEADLINE_S, SINKS_S, STOP_S, WARM_UP_S, Stopwatches
from lrdan_edge.runtime.rule import Rule
from lrdan_edge.runtime.rule_filter import RuleFilter
from lrdan_edge.runtime.sinks.base import InspectedFrame, Sink
from lrdan_edge.runtime.sinks.worker import SINK_TIMEOUT_S, SinkWorker
from lrdan_edge.runtime.sources.base import Source
from lrdan_edge.runtime.verdict import Verdict

_WAITING_FRAMES = 8
_CLOSE_S = 10.0
_SLACK_S = 1.5  # after a request to stop, for sources and threads to end once sinks have
_TICK_S = 0.25
BACKEND_GONE_S = 30.0  # a backend that only fails for this long ends the run


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
        deadline_s: float = DEADLINE_S,
        sink_timeout_s: float = SINK_TIMEOUT_S,
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
            deadline_s: Seconds after which a batch is a fault and the run ends, because the backend hangs.
            sink_timeout_s: Seconds after which a recording sink that keeps failing ends the run.

        Raises:
            DataError: There is no source, or the rule cannot be applied to this bundle.
        """
        self._inspector = inspector
        self._sources = list(sources) if isinstance(sources, Sequence) else [sources]
        if not self._sources:
            raise DataError("there is no source to inspect", "give one")
        self._policies: list[Policy] = [policy or ("latest" if source.live else "every") for source in self._sources]
        self._batch = batch
        self._deadline_s, self._sink_timeout_s = deadline_s, sink_timeout_s
        self._frame_queue = FrameQueue([(self._queue_size(one), one) for one in self._policies])
        self._inference = InferenceStage(
            inspector,
            self._frame_queue,
            self._end,
            batch=batch,
            heatmaps=heatmaps or (rule is not None and rule.needs_heatmap),
            in_flight=in_flight or inspector.backend.spec.in_flight,
        )
        self._rule_filters = [RuleFilter.of(inspector, rule) for _ in self._sources] if rule else None
        self._sinks = list(sinks)
        self._sink_workers: list[SinkWorker] = []
        self._counted_problems: Counter[int] = Counter()
        self._started = False
        self._error: Exception | None = None
        self._failing_since_ns: int | None = None
        self._stop_requests: SimpleQueue[bool] = SimpleQueue()
        self._stopping, self._over = threading.Event(), threading.Event()
        self._asked_at: float | None = None
        self.progress = Progress([SourceProgress(source.uri, source.live) for source in self._sources])
        self._capture_stages = [self._capture_stage(number) for number in range(len(self._sources))]

    def _capture_stage(self, number: int) -> CaptureStage:
        return CaptureStage(
            number,
            self._sources[number],
            self._inspector,
            self._frame_queue,
            self.progress.sources[number],
            self._stopping,
            policy=self._policies[number],
            keeps_images=any(sink.pictures for sink in self._sinks),
        )

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
            HungBackendError: A call of the backend has not returned in time. Its thread cannot be ended, and closing the backend
                would wait for it: end the process with ``os._exit``.
            SinkError: A recording sink has failed for too long.
        """
        if self._started:
            raise RuntimeError("this loop has already run: make a new one")
        self._started = True
        self._sink_workers = [
            SinkWorker(sink, timeout_s=self._sink_timeout_s, on_timeout=lambda why: self._end(SinkError(why)))
            for sink in self._sinks
        ]
        for worker in self._sink_workers:
            self.progress.latency[f"deliver {worker.name}"] = worker.latency
        threads = [threading.Thread(target=self._end_sources, name="stop", daemon=True)]
        threads.append(threading.Thread(target=self._watch, name="watchdog", daemon=True))
        for thread in threads:
            thread.start()
        started = time.monotonic()
        try:
            self._inference.warm_up()
            started = time.monotonic()
            for capture in self._capture_stages:
                capture.start()
            self._inference.start()
            while (scored := self._inference.scored.get()) is not None:
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

    def _require_working_backend(self, scored: Scored) -> None:
        """End the run if the backend keeps failing: only a new process can use a GPU again after it was lost."""
        if scored.detections is not None:
            self._failing_since_ns = None
        elif scored.failure is not None:
            self._failing_since_ns = self._failing_since_ns or scored.taken_ns
            failing_s = (scored.scored_ns - self._failing_since_ns) / 1e9
            if failing_s >= BACKEND_GONE_S and self._inference.ending is None:
                problem = f"the backend has failed for {failing_s:.0f} s without a pause ({scored.failure})"
                self._end(BackendError(problem, "start again"))

    def stop(self) -> None:
        """End the run: capture no new frames; inspect and deliver those captured. Callable from any thread or signal handler.

        What has not been inspected and delivered a few seconds later is recorded as faults and gaps: the run ends within ten seconds.
        """
        self._stop_requests.put(True)  # needs no lock that the signal handler's thread may hold; `_end_sources` does the rest

    def _end(self, error: Exception) -> None:
        """End the run because of an error, which `run` raises; frames that are not yet inspected become faults."""
        self._error = self._error or error
        self._inference.ending = self._inference.ending or f"not inspected, because the run ended: {error}"
        self.stop()

    def _end_sources(self) -> None:
        """Wait for `stop`, or for the end of the run, then close the sources."""
        if self._stop_requests.get():
            self._asked_at = time.monotonic()
        self._stopping.set()
        self._frame_queue.end()
        for source in self._sources:
            source.close()

    def _watch(self) -> None:
        """Look for what hangs, until the run is over."""
        tick_s = min(_TICK_S, self._deadline_s / 4, self._sink_timeout_s / 4)
        watches = Stopwatches(tick_s)
        while not self._over.wait(tick_s):
            watches.tick()
            asked_s = 0.0 if self._asked_at is None else time.monotonic() - self._asked_at
            if asked_s > STOP_S:
                self._inference.ending = self._inference.ending or "not inspected, because the run was stopped"
                for worker in self._sink_workers:
                    worker.hurry(time.monotonic() - asked_s + STOP_S + 1 + SINKS_S)
            for worker in self._sink_workers:
                if watches.overdue(worker.name, [worker.attempt] if worker.attempt else [], self._sink_timeout_s):
                    worker.stop(f"it has not answered for {self._sink_timeout_s:g} s")
            self._watch_backend(watches, asked_s)

    def _watch_backend(self, watches: Stopwatches, asked_s: float) -> None:
        inference, stopped = self._inference, asked_s > STOP_S + 1
        waited = f"the backend has not answered {'since the run was stopped' if stopped else f'for {self._deadline_s:g} s'}"
        if watches.overdue(
            "warm-up", [True] if inference.warming_up else [], 0 if stopped else max(WARM_UP_S, self._deadline_s)
        ):
            inference.abort_warm_up(HungBackendError(waited, "start again"))
        if hung := watches.overdue("backend", inference.going, 0 if stopped else self._deadline_s):
            inference.ending = inference.ending or waited
            self._stopping.set()
            self._frame_queue.end()
            if inference.give_up(hung, waited):
                self._error = self._error or HungBackendError(waited, "start again")
                self.stop()

    def _finish(self, threads: list[threading.Thread]) -> None:
        self._inference.scored.abandon()
        self._stop_requests.put(False)
        for worker in self._sink_workers:
            worker.close(lambda one=worker: (one.stopped and one.attempt is not None) or self._late_s() > 0.5)  # type: ignore[misc]
        self._over.set()
        deadline = time.monotonic() + (_CLOSE_S if self._asked_at is None else max(0.0, _SLACK_S - self._late_s()))
        for capture in self._capture_stages:
            capture.join(max(0.0, deadline - time.monotonic()))
        self._inference.join(max(0.0, deadline - time.monotonic()))
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._note_failed_sinks()
        now = time.monotonic_ns()
        for source in self.progress.sources:
            source.finish(now)

    def _late_s(self) -> float:
        """Seconds since sinks should have written everything after a request to stop; negative before."""
        return -math.inf if self._asked_at is None else time.monotonic() - self._asked_at - STOP_S - 1 - SINKS_S

    def _note_failed_sinks(self) -> None:
        """Record failures of sinks, and how many frames of each source they did not receive."""
        for place, worker in enumerate(self._sink_workers):
            if worker.stopped or worker.lost:
                self.progress.failed_sinks.add(worker.name)
            for problem in worker.problems:
                self.progress.note(problem, always=True)
            more = worker.more_problems
            self.progress.more_problems += more - self._counted_problems[place]
            self._counted_problems[place] = more
        for number, source in enumerate(self.progress.sources):
            source.lost_by_sink = sum(worker.lost[number] for worker in self._sink_workers)

    def _raise_failures(self) -> None:
        """Raise what ended the run, or else one error for all failed sources."""
        if self._error is not None:
            raise self._error
        errors = [source.error for source in self.progress.sources if source.error is not None]
        for error in errors:
            if len(errors) == 1 or not isinstance(error, LrdanError):
                raise error
        if errors:
            reasons = "; ".join(map(str, errors))
            raise SourceError(f"{len(errors)} of {len(self._sources)} sources failed: {reasons}")

    def _decide(self, scored: Scored) -> None:
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
            if ready.fault and len(source.first_missing) < MOST_NAMED and ready.fault not in source.first_missing:
                source.first_missing.append(ready.fault)
            progress.last.append((frame.name, verdict))
            if verdict.own_outcome == "fault" and verdict.fault:
                source.faults += 1
                if not any(one.fault for one in ready.unlike):
                    problem = f"{frame.name}: {verdict.fault}" if frame.name not in verdict.fault else verdict.fault
                    progress.note(problem, key=verdict.fault)
            for unlike in ready.unlike:
                add = progress.note if unlike.fault else progress.remark
                add(f"{source.uri}: {unlike.sentence}", key=f"{ready.source} {unlike.kind} {unlike.fault}")
            one = InspectedFrame(frame, verdict, total / 1e6, ready.source, now)
            inspected.append((one, self._policies[ready.source] == "every"))
        for worker in self._sink_workers:
            for dropped in worker.put_all(inspected):
                progress.sources[dropped.source_number].undelivered += 1
        self._note_failed_sinks()
        for number in {ready.source for ready in scored.frames}:
            progress.sources[number].dropped = self._frame_queue.dropped(number)
        progress.count_batch(time.monotonic_ns(), len(inspected))

    def _verdicts(self, scored: Scored) -> list[Verdict]:
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
