"""How the loop is doing, in memory that does not grow with time."""

from collections import Counter, deque
from dataclasses import dataclass, field

from lrdan_edge.runtime.histogram import LatencyHistogram
from lrdan_edge.runtime.verdict import Verdict

_MOST_PROBLEMS = 100


@dataclass
class SourceProgress:
    """How one source is doing.

    Attributes:
        uri: Its address.
        live: Whether frames are lost when nobody takes them.
        outcomes: Its frames by outcome.
        faults: Its frames that are faults themselves, whatever a rule makes of them.
        dropped: Frames dropped because a newer one was waiting (``latest``).
        undelivered: Frames that a sink did not get because it was too slow (``latest``), counted per sink.
        lost_by_sink: Frames that a sink did not get because it had failed, counted per sink.
        missing: Frames that the source itself could not deliver, each noted by a fault.
        gaps: How often its signal was lost, however many frames are missing each time.
        gap_s: Seconds without a frame in those gaps, from the last frame before to the first one after.
        ended: Whether no frame will follow.
        error: Why it could not go on, or None.
        latency: From capture to verdict.
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
    gaps: int = 0
    gap_s: float = 0.0
    ended: bool = False
    error: Exception | None = None
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    in_gap: bool = False
    _seen_ns: int | None = None

    @property
    def frames(self) -> int:
        """Frames judged, faults among them."""
        return self.outcomes.total()

    def saw(self, capture_ns: int, *, missing: bool) -> None:
        """Count a frame, or a missing one, towards the gaps."""
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
        """All of it, ready for JSON."""
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
        """Close a gap that nothing ended."""
        if self.in_gap and self._seen_ns is not None:
            self.gap_s += max(0, now_ns - self._seen_ns) / 1e9
        self.in_gap = False


@dataclass
class Progress:
    """How the loop is doing; read by the live line and returned at the end.

    Attributes:
        sources: How each source is doing, in their order.
        latency: Durations by stage: ``wait`` (from capture until taken for a batch), ``infer`` (batching and inference),
            ``device`` (what of it the GPU took, by its own clock), ``decide`` (from scores to verdict), ``total`` (from capture
            to verdict), and ``deliver NAME`` per sink (from verdict until the sink has it).
        last: The last frames' verdicts, newest last.
        batches: Batches inferred.
        problems: What went wrong, in the order it happened; the same once, at most 100 and the sinks' ends.
        seconds: Since the loop started.
    """

    sources: list[SourceProgress] = field(default_factory=list)
    latency: dict[str, LatencyHistogram] = field(
        default_factory=lambda: {stage: LatencyHistogram() for stage in ("wait", "infer", "device", "decide", "total")}
    )
    last: deque[tuple[str, Verdict]] = field(default_factory=lambda: deque(maxlen=5))
    batches: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    _noted: set[str] = field(default_factory=set)
    _judged: int = 0
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))

    @property
    def outcomes(self) -> Counter[str]:
        """Frames by outcome, of all sources."""
        return sum((source.outcomes for source in self.sources), Counter[str]())

    @property
    def frames(self) -> int:
        """Frames judged."""
        return sum(source.frames for source in self.sources)

    @property
    def dropped(self) -> int:
        """Frames dropped because a newer one was waiting (``latest``)."""
        return sum(source.dropped for source in self.sources)

    @property
    def undelivered(self) -> int:
        """Frames that a sink did not get because it was too slow."""
        return sum(source.undelivered for source in self.sources)

    @property
    def drops(self) -> dict[str, int]:
        """Frames lost, by cause: ``queue full``, ``slow sink`` and ``failed sink`` (counted per sink), ``fault of source``."""
        failed = sum(source.lost_by_sink for source in self.sources)
        missing = sum(source.missing for source in self.sources)
        return {
            "queue full": self.dropped,
            "slow sink": self.undelivered,
            "failed sink": failed,
            "fault of source": missing,
        }

    @property
    def frames_per_s(self) -> float:
        """Over the last 64 batches."""
        if len(self._recent) < 2:
            return self.frames / self.seconds if self.seconds else 0.0
        (first, before), (last, after) = self._recent[0], self._recent[-1]
        return (after - before) / max(last - first, 1e-9)

    def latency_percentiles(self) -> dict[str, float]:
        """p50, p95, p99 and max from capture to verdict, in ms."""
        return self.latency["total"].percentiles_ms()

    def as_dict(self) -> dict[str, object]:
        """All of it but the last verdicts, ready for JSON."""
        return {
            "seconds": round(self.seconds, 3),
            "frames": self.frames,
            "outcomes": dict(self.outcomes),
            "drops": self.drops,
            "latency_ms": {stage: latency.percentiles_ms() for stage, latency in self.latency.items() if latency.count},
            "problems": self.problems,
            "sources": [source.as_dict() for source in self.sources],
        }

    def note(self, problem: str, about: str | None = None, *, grave: bool = False) -> None:
        """Remember a problem once; at most 100, so that months of trouble stay bounded.

        Args:
            problem: What is said.
            about: What makes it the same problem as another; None: `problem` itself.
            grave: Whether it is remembered whatever came before.
        """
        about = about or problem
        if about not in self._noted and (grave or len(self.problems) < _MOST_PROBLEMS):
            self._noted.add(about)
            self.problems.append(problem)

    def count_batch(self, done_ns: int, frames: int) -> None:
        """Remember when a batch of so many frames was finished, for `frames_per_s`."""
        self.batches += 1
        self._judged += frames
        self._recent.append((done_ns / 1e9, self._judged))
