"""Counts, latencies and problems of an inspection, in memory that does not grow with time."""

from collections import Counter, deque
from dataclasses import dataclass, field

from lrdan_edge.runtime.histogram import LatencyHistogram
from lrdan_edge.runtime.verdict import Verdict

MOST_NAMED = 3
"""Most reasons for missing frames that a source keeps, and a summary names."""

_MOST_PROBLEMS = 100


@dataclass
class SourceProgress:
    """Counts of one source.

    Attributes:
        uri: Its address, without credentials.
        live: Whether the source is a camera or stream, which loses frames that are not taken in time.
        outcomes: Number of frames by outcome.
        faults: Frames whose own outcome is a fault, before a rule is applied.
        dropped: Frames dropped because a newer one was waiting (``latest``).
        undelivered: Frames that a sink did not receive because it was too slow (``latest``), counted per sink.
        lost_by_sink: Frames that a sink did not receive because it had failed, counted per sink.
        missing: Frames that the source could not deliver; each is a fault.
        first_missing: Why the first of these could not be delivered, at most 3.
        gaps: Number of signal losses, each with one or more missing frames.
        gap_s: Total length of the gaps in seconds, each from the last frame before it to the first frame after it.
        ended: Whether it has ended.
        error: The error that ended it, or None.
        latency: Time from capture to verdict.
        in_gap: Whether its signal is lost now.
    """

    uri: str
    live: bool
    outcomes: Counter[str] = field(default_factory=lambda: Counter(good=0, reject=0, fault=0))
    faults: int = 0
    dropped: int = 0
    undelivered: int = 0
    lost_by_sink: int = 0
    missing: int = 0
    first_missing: list[str] = field(default_factory=list)
    gaps: int = 0
    gap_s: float = 0.0
    ended: bool = False
    error: Exception | None = None
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    in_gap: bool = False
    _seen_ns: int | None = None

    @property
    def frames(self) -> int:
        """Number of inspected frames, including faults."""
        return self.outcomes.total()

    def saw(self, capture_ns: int, *, missing: bool) -> None:
        """Count a frame that arrived or is missing, and the length of gaps."""
        if missing:
            self.missing += 1
            self.gaps += not self.in_gap
            self.in_gap = True
            self._seen_ns = capture_ns if self._seen_ns is None else self._seen_ns
            return
        if self.in_gap and self._seen_ns is not None:
            self.gap_s += max(0, capture_ns - self._seen_ns) / 1e9
        self.in_gap, self._seen_ns = False, capture_ns

    def as_dict(self) -> dict[str, object]:
        """The counts, ready for JSON."""
        counts = {"dropped": self.dropped, "undelivered": self.undelivered, "lost_by_sink": self.lost_by_sink}
        counts |= {"missing": self.missing, "gaps": self.gaps}
        return {
            "source": self.uri,
            "frames": self.frames,
            "outcomes": dict(self.outcomes),
            **counts,
            "gap_s": round(self.gap_s, 3),
            "error": None if self.error is None else str(self.error),
            "latency_ms": self.latency.percentiles_ms(),
        }

    def finish(self, now_ns: int) -> None:
        """End a gap that is open at the end of the run."""
        if self.in_gap and self._seen_ns is not None:
            self.gap_s += max(0, now_ns - self._seen_ns) / 1e9
        self.in_gap = False


@dataclass
class Progress:
    """Counts of an inspection; updated while it runs, and returned at its end.

    Attributes:
        sources: Counts of each source, in their order.
        latency: Durations by stage: ``wait`` (from capture until taken for a batch), ``infer`` (batching and inference),
            ``device`` (the GPU's part of ``infer``, by its clock), ``decide`` (from scores to verdict), ``total`` (from capture to
            verdict), and ``deliver NAME`` per sink (from verdict until the sink has written it).
        last: Names and verdicts of the last frames, newest last.
        batches: Number of batches inferred.
        problems: Problems in order of time: each only once, at most 100, and every failed sink.
        more_problems: Number of problems that are not among them.
        remarks: What to know about frames that were judged all the same, each only once, at most 100.
        failed_sinks: Names of the sinks that failed.
        seconds: Time since the start.
        identity: The run's name, and what judges its frames, ready for JSON; empty if the run is not recorded.
    """

    sources: list[SourceProgress] = field(default_factory=list)
    latency: dict[str, LatencyHistogram] = field(
        default_factory=lambda: {stage: LatencyHistogram() for stage in ("wait", "infer", "device", "decide", "total")}
    )
    last: deque[tuple[str, Verdict]] = field(default_factory=lambda: deque(maxlen=5))
    batches: int = 0
    problems: list[str] = field(default_factory=list)
    more_problems: int = 0
    remarks: list[str] = field(default_factory=list)
    failed_sinks: set[str] = field(default_factory=set)
    seconds: float = 0.0
    identity: dict[str, object] = field(default_factory=dict)
    _noted: set[str] = field(default_factory=set)
    _counted: int = 0
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))

    @property
    def outcomes(self) -> Counter[str]:
        """Number of frames by outcome, of all sources."""
        return sum((source.outcomes for source in self.sources), Counter[str]())

    @property
    def frames(self) -> int:
        """Number of inspected frames, including faults."""
        return sum(source.frames for source in self.sources)

    @property
    def complete(self) -> bool:
        """Whether nothing has been lost so far: no fault of a recorded source, and no failed sink."""
        return not self.failed_sinks and not any(source.faults for source in self.sources if not source.live)

    @property
    def dropped(self) -> int:
        """Number of frames dropped because a newer one was waiting (``latest``)."""
        return sum(source.dropped for source in self.sources)

    @property
    def undelivered(self) -> int:
        """Number of frames that a sink did not receive because it was too slow."""
        return sum(source.undelivered for source in self.sources)

    @property
    def drops(self) -> dict[str, int]:
        """Number of lost frames by cause: ``queue full``, ``slow sink`` and ``failed sink`` (per sink), ``fault of source``."""
        return {
            "queue full": self.dropped,
            "slow sink": self.undelivered,
            "failed sink": sum(source.lost_by_sink for source in self.sources),
            "fault of source": sum(source.missing for source in self.sources),
        }

    @property
    def frames_per_s(self) -> float:
        """Frames per second over the last 64 batches."""
        if len(self._recent) < 2:
            return self.frames / self.seconds if self.seconds else 0.0
        (first, before), (last, after) = self._recent[0], self._recent[-1]
        return (after - before) / max(last - first, 1e-9)

    def latency_percentiles(self) -> dict[str, float]:
        """p50, p95, p99 and max from capture to verdict, in ms."""
        return self.latency["total"].percentiles_ms()

    def as_dict(self) -> dict[str, object]:
        """The counts, without the last verdicts, ready for JSON: the content of ``run.json``."""
        return {
            **self.identity,
            "seconds": round(self.seconds, 3),
            "frames": self.frames,
            "outcomes": dict(self.outcomes),
            "drops": self.drops,
            "latency_ms": {stage: latency.percentiles_ms() for stage, latency in self.latency.items() if latency.count},
            "problems": self.problems,
            "more_problems": self.more_problems,
            **({"remarks": self.remarks} if self.remarks else {}),
            "sources": [source.as_dict() for source in self.sources],
        }

    def note(self, problem: str, key: str | None = None, *, always: bool = False) -> None:
        """Add a new problem; at most 100, so that memory stays bounded. Those beyond are counted.

        Args:
            problem: The text.
            key: Problems with the same key are the same; None: `problem`.
            always: Add it even beyond 100 problems.
        """
        key = key or problem
        if key in self._noted:
            return
        if not always and len(self.problems) >= _MOST_PROBLEMS:
            self.more_problems += 1
            return
        self._noted.add(key)
        self.problems.append(problem)

    def remark(self, text: str, key: str) -> None:
        """Add a remark; those with the same key are the same. At most 100."""
        if key not in self._noted and len(self.remarks) < _MOST_PROBLEMS:
            self._noted.add(key)
            self.remarks.append(text)

    def count_batch(self, done_ns: int, frames: int) -> None:
        """Record when a batch of `frames` frames was finished, for `frames_per_s`."""
        self.batches += 1
        self._counted += frames
        self._recent.append((done_ns / 1e9, self._counted))
